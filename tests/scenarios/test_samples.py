"""Scenarios with other variants than a buggy and a fixed one: what Microsoft's samples do, waiting in InstanceSetup."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import Budget, collect_outcomes, explore
from kemu.explore.strategies import DEFAULT_STRATEGY, strategy_from_name
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios" / "minifilter"


def program(name: str, variant: str, ignored: str | None = None, *, races: bool = False) -> ScenarioProgram:
    for one in select(str(FOLDER), variant=variant):
        if one.scenario.name == name:
            return ScenarioProgram(
                one.loaded, one.scenario, one.variant, races=races, verifier=f"{ignored}=ignore" if ignored else None
            )
    raise AssertionError(name)


def test_whatever_goes_through_a_filter_is_seen_on_both_ways() -> None:
    one = program("pass_through", "default")
    found = collect_outcomes(one, strategy_from_name(DEFAULT_STRATEGY, 1), Budget(schedules=150))
    assert [reached.value for reached in found.reached] == [("kinds=FSFilter, IRP, fast I/O",)]


@pytest.mark.parametrize(("variant", "most"), [("pass_through", 400), ("null", 60)])
def test_a_filter_may_come_and_go_while_a_program_reads(variant: str, most: int) -> None:
    found = explore(program("come_and_go", variant), strategy_from_name("dpor", 0), Budget())
    assert found.exhausted
    assert found.findings == ()
    assert 1 < found.distinct < most


@pytest.mark.parametrize("variant", ["waits", "lazy"])
def test_waiting_in_setup_is_found_at_once_and_ends_in_a_deadlock(variant: str) -> None:
    expected = ["setup-blocking"] if variant == "waits" else []
    found = explore(program("setup_waits", variant), strategy_from_name(DEFAULT_STRATEGY, 0), Budget(schedules=300))
    assert [finding.failure.code for finding in found.findings] == expected
    if variant == "lazy":
        return
    # What the rule is there for: the service waits for the volume, which waits for the service.
    blind = program("setup_waits", variant, ignored="setup-blocking")
    stuck = explore(blind, strategy_from_name(DEFAULT_STRATEGY, 0), Budget(schedules=300))
    (finding,) = stuck.findings
    assert finding.failure.code == "ke.hang"
    detail = str(getattr(finding.failure, "detail", ""))
    assert "policy_service" in detail
    assert "see the instances set up on D:" in detail


def test_what_a_spy_records_is_fetched_once_or_freed() -> None:
    found = explore(program("spy", "sample"), strategy_from_name("dpor", 0), Budget())
    assert found.exhausted
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.parametrize("name", ["spy", "antivirus"])
@pytest.mark.parametrize("races", [False, True])
def test_the_samples_are_clean(name: str, races: bool) -> None:
    one = program(name, "sample", races=races)
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 3), Budget(schedules=150))
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.parametrize("seed", [0, 1])
def test_a_verdict_on_what_was_there_before_the_write_is_found(seed: int) -> None:
    found = explore(program("antivirus", "hasty"), strategy_from_name(DEFAULT_STRATEGY, seed), Budget(schedules=2000))
    assert [finding.failure.code for finding in found.findings] == ["expectation"]
