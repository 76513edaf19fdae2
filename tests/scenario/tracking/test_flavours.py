"""Flavours of one file: kept apart, made when they are needed, and alike in their decisions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scenario.tracking.kit import BOX, Files, accept_everything, once

from kemu.errors import ScenarioError
from kemu.explore import RandomWalk, explore
from kemu.explore.explorer import Budget
from kemu.explore.strategies import strategy_from_name
from kemu.runtime import Outcome
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[3] / "scenarios"
SHIPPED = select(str(FOLDER), variant="all")


def told(outcome: Outcome) -> tuple[object, ...]:
    """Everything that two runs with the same decisions must have in common."""
    failure = outcome.failure.signature if outcome.failure is not None else None
    return outcome.choices, outcome.steps, outcome.end, failure, str(outcome.stuck)


@pytest.mark.parametrize("program", SHIPPED, ids=lambda program: f"{program.scenario.name}-{program.variant}")
def test_a_tracked_run_takes_the_decisions_of_the_plain_one(program: ScenarioProgram) -> None:
    tracked = program.instrumented()
    assert (tracked.name, tracked.identity, tracked.expected) == (program.name, program.identity, program.expected)
    for name in ("random", "sticky", "pct"):
        one, other = strategy_from_name(name, 3), strategy_from_name(name, 3)
        for _ in range(12):
            assert one.begin()
            assert other.begin()
            plain, recorded = program.run(one), tracked.run(other)
            one.end(plain)
            other.end(recorded)
            assert told(plain) == told(recorded)


@pytest.mark.parametrize("preempt", ["statement", "access"])
@pytest.mark.parametrize("program", select(str(FOLDER), variant="fixed"), ids=lambda program: program.scenario.name)
def test_shipped_scenarios_stay_clean_however_they_are_preempted(program: ScenarioProgram, preempt: str) -> None:
    finer = ScenarioProgram(program.loaded, program.scenario, program.variant, preempt=preempt)  # type: ignore[arg-type]
    found = explore(finer, RandomWalk(1), Budget(schedules=40))
    assert [finding.failure.summary for finding in found.findings] == []
    plain = ScenarioProgram(program.loaded, program.scenario, program.variant, preempt="call")
    coarser = explore(plain, RandomWalk(1), Budget(schedules=40))
    # The callbacks of two drivers touch no state.
    stateless = {"deferred_while_draining", "queue_failure_pended"}
    assert found.mean_steps > coarser.mean_steps or program.scenario.name in stateless


def test_a_flavour_is_executed_once_and_only_when_needed(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(sys, "kemu_test_runs", runs, raising=False)
    program = files.script("return None\n", "import sys\nsys.kemu_test_runs.append(__name__)\n")
    once(program)
    once(program.instrumented())
    once(program.instrumented())
    assert len(runs) == 2
    assert runs[0] != runs[1]
    assert program.loaded.flavoured("tracked") is program.loaded.flavoured("tracked")


def test_flavours_share_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_everything(monkeypatch)
    files.beside("common.py", BOX + "\nKEPT = Box(1)\n")
    program = files.script("common.KEPT.value += 1\nreturn common.KEPT.value\n", "import common")
    # What a file makes on import is the same object in every run of one flavour.
    assert [once(program).result, once(program).result] == [2, 3]
    assert once(program.instrumented()).result == 2


def test_a_changed_file_is_executed_again(files: Files) -> None:
    files.beside("common.py", "N = 1\n")
    program = files.script("return common.N\n", "import common", tracked=True)
    assert once(program).result == 1
    files.beside("common.py", "N = 2\n")
    (again,) = select(program.loaded.path)
    assert once(again.instrumented()).result == 2
    # What was loaded before goes on as it was.
    assert once(program).result in {1, 2}


def test_lines_and_tracebacks_stay(files: Files) -> None:
    for options in ({}, {"tracked": True}, {"preempt": "access"}, {"preempt": "statement"}):
        program = files.script("b = Box()\nb.value = [1]\nb.value.clear()\nb.nothing\n", BOX, **options)
        with pytest.raises(ScenarioError, match=rf"AttributeError: .*nothing.* at .*:{files.line('b.nothing')}"):
            once(program)


def test_a_finding_in_a_driver_names_the_same_line(files: Files) -> None:
    driver = """
    class Fails(Driver):
        def __init__(self):
            self.Items = []
        async def DriverEntry(self, DriverObject, RegistryPath):
            return self.Items.pop()
    """
    found = [
        once(files.script('await world.load(Fails, "1")\n', driver, **options)).failure
        for options in ({}, {"tracked": True})
    ]
    for failure in found:
        assert "IndexError: pop from empty list" in failure.detail
        assert f":{files.line('self.Items.pop()')} in DriverEntry" in failure.detail


def test_a_live_run_is_plain(files: Files) -> None:
    program = files.script("b = Box(1)\nb.value += 1\nreturn b.value, type([]).__module__\n", BOX, preempt="access")
    assert program.run_live().result == (2, "builtins")


def test_expressions_that_are_nested_too_deeply_are_refused(files: Files) -> None:
    program = files.script("return " + "+".join(["1"] * 600) + "\n")
    assert once(program).result == 600
    with pytest.raises(ScenarioError, match="nested too deeply"):
        once(program.instrumented())
