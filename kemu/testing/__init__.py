"""Tests with pytest: explored ones, which run under many schedules, and scripted ones, which run under one.

- ``declare``   the decorators `explore` and `replay`
- ``settings``  what decorator, command line and profile say, and who wins
- ``program``   a test as a program, and what it raises as a finding
- ``explored``  one call of a test that is explored
- ``scripted``  one call of a test that takes ``kemu_world``
- ``session``   what pytest knows of the running test, and what its reports are told
- ``failure``   how a test fails

The decorators are here and not in `kemu`, where ``explore`` is the package with the strategies. pytest itself
imports none of this: its plugin is the module ``_kemu_pytest``, which comes here when a test of kemu's runs.
Stands on top of the command line, whose reports it prints; nobody imports it but tests.
"""

from kemu.testing.declare import explore, replay
from kemu.testing.failure import FindingError, KemuWarning

__all__ = ["FindingError", "KemuWarning", "explore", "replay"]
