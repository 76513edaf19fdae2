"""Scenarios with a service that are too large for what is asked of every pair in ``test_corpus``."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import Budget, explore
from kemu.explore.strategies import DEFAULT_STRATEGY, strategy_from_name
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios" / "minifilter"

FINDINGS = {("service_reenters", "buggy"): "reentrant-deadlock", ("scanner", "buggy"): "port-timeout-as-success"}


def program(name: str, variant: str, *, races: bool = False) -> ScenarioProgram:
    """One variant of one of the scenarios."""
    (one,) = select(str(FOLDER / f"{name}.py"), variant=variant)
    return ScenarioProgram(one.loaded, one.scenario, one.variant, races=races)


@pytest.mark.rule("FLT-RACE-51", "FLT-RACE-56")
@pytest.mark.parametrize(("name", "variant"), FINDINGS)
def test_the_default_strategy_finds_it(name: str, variant: str) -> None:
    for seed in range(3):
        found = explore(program(name, variant), strategy_from_name(DEFAULT_STRATEGY, seed), Budget(schedules=2000))
        assert [finding.failure.code for finding in found.findings] == [FINDINGS[name, variant]]


@pytest.mark.parametrize(("name", "variant"), [("service_reenters", "fixed"), ("scanner", "fixed")])
@pytest.mark.parametrize("races", [False, True])
def test_the_other_variant_is_clean(name: str, variant: str, races: bool) -> None:
    budget = Budget(schedules=80)
    found = explore(program(name, variant, races=races), strategy_from_name(DEFAULT_STRATEGY, 1), budget)
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.nightly
def test_a_service_that_is_trusted_is_proved() -> None:
    found = explore(program("service_reenters", "fixed"), strategy_from_name("dpor", 0), Budget())
    assert found.exhausted
    assert found.findings == ()
