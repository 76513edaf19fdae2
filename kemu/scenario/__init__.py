"""Declaring, loading and checking scenarios, and the World that a script talks to.

A scenario file imports `World` and `scenario` from here, and `benign` for fields that are raced on purpose. This
package puts the layers together; only the command line stands above it.
"""

from kemu.runtime import benign
from kemu.scenario.declare import Scenario, scenario
from kemu.scenario.world import File, LoadedDriver, Pending, UserProcess, World

__all__ = ["File", "LoadedDriver", "Pending", "Scenario", "UserProcess", "World", "benign", "scenario"]
