"""Declaring, loading and checking scenarios, and the World that a script talks to.

A scenario file imports `World` and `scenario` from here, `benign` for fields that are raced on purpose, and
`InstanceDefinition` for minifilters with more than one instance. This package puts the layers together; only the
command line stands above it.
"""

from kemu.fltmgr.service import InstanceDefinition
from kemu.runtime import benign
from kemu.scenario.declare import Scenario, scenario
from kemu.scenario.world import File, LoadedDriver, Pending, UserProcess, World

__all__ = [
    "File",
    "InstanceDefinition",
    "LoadedDriver",
    "Pending",
    "Scenario",
    "UserProcess",
    "World",
    "benign",
    "scenario",
]
