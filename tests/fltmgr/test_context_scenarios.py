"""The shipped scenarios about contexts: the repaired ones are proved, and the one with all kinds is clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import Budget, explore
from kemu.explore.strategies import DEFAULT_STRATEGY, strategy_from_name
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios" / "minifilter"


def program(name: str, variant: str | None = None, *, races: bool = False) -> ScenarioProgram:
    (one,) = select(str(FOLDER / f"{name}.py"), variant=variant)
    return ScenarioProgram(one.loaded, one.scenario, one.variant, races=races)


@pytest.mark.rule("FLT-RACE-40", "FLT-RACE-41", "FLT-RACE-42", "FLT-RACE-43")
@pytest.mark.parametrize(
    "name",
    [
        "context_replaced",
        "context_leaked_by_loser",
        "context_used_after_release",
        "context_pointer_unreferenced",
        "context_revived",
    ],
)
@pytest.mark.parametrize("races", [False, True])
def test_the_repaired_twins_are_proved(name: str, races: bool) -> None:
    found = explore(program(name, "fixed", races=races), strategy_from_name("dpor", 0), Budget(schedules=2000))
    assert found.exhausted
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.parametrize("races", [False, True])
def test_a_filter_with_contexts_of_each_kind_is_clean(races: bool) -> None:
    one = program("contexts_of_each_kind", races=races)
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 0), Budget(schedules=150))
    assert [finding.failure.summary for finding in found.findings] == []
