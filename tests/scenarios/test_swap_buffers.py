"""The scenario in which buffers are swapped: what it does in any schedule, and what a hasty copy comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import Budget, explore
from kemu.explore.strategies import DEFAULT_STRATEGY, strategy_from_name
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FILE = Path(__file__).parents[2] / "scenarios" / "minifilter" / "swap_buffers.py"


def program(variant: str) -> ScenarioProgram:
    (one,) = select(str(FILE), variant=variant)
    return ScenarioProgram(one.loaded, one.scenario, one.variant)


@pytest.mark.rule("FLT-BUF-04")
def test_copying_wherever_the_operation_comes_up_is_found() -> None:
    one = program("hasty")
    for seed in range(3):
        found = explore(one, strategy_from_name(DEFAULT_STRATEGY, seed), Budget(schedules=100), keep_going=True)
        # At DISPATCH_LEVEL the address must not even be probed; in another thread it is none of its process.
        assert {finding.failure.code for finding in found.findings} == {"ke.irql", "ke.user-va-context"}


@pytest.mark.rule("FLT-BUF-07", "FLT-BUF-08", "FLT-BUF-09", "FLT-BUF-11")
def test_what_is_swapped_with_care_arrives_in_any_schedule() -> None:
    found = explore(program("fixed"), strategy_from_name(DEFAULT_STRATEGY, 7), Budget(schedules=400))
    assert [finding.failure.summary for finding in found.findings] == []
