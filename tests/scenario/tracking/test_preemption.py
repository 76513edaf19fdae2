"""Preemption: where another thread may come in between, and what it then finds."""

from __future__ import annotations

from typing import Any

import pytest
from scenario.tracking.kit import Files, accept_everything, data_of, events_of, once

from kemu.errors import ScenarioError, TokenError
from kemu.explore import (
    STRATEGIES,
    BoundedDFS,
    Budget,
    RandomWalk,
    decode,
    encode,
    explore,
    strategy_from_name,
)
from kemu.runtime import Outcome
from kemu.scenario.declare import PREEMPTIONS, Preemption
from kemu.scenario.program import ScenarioProgram

COUNTER = """
class Counter:
    def __init__(self, start=0):
        self.n = start
    async def bump(self):
        self.n += 1
    def bump_at_once(self):
        self.n += 1
"""
TWICE = """
c = Counter()
await world.together(c.bump(), c.bump())
return c.n
"""


class Results:
    """A strategy that keeps what every run returns."""

    def __init__(self) -> None:
        self.strategy = BoundedDFS(None)
        self.found: set[Any] = set()

    def explore(self, program: ScenarioProgram) -> set[Any]:
        end = self.strategy.end

        def keep(outcome: Outcome) -> None:
            assert outcome.failure is None
            self.found.add(outcome.result)
            end(outcome)

        self.strategy.end = keep  # type: ignore[method-assign]
        assert explore(program, self.strategy, Budget(schedules=20_000)).exhausted
        return self.found


def results(program: ScenarioProgram) -> set[Any]:
    """What all runs of *program* return."""
    return Results().explore(program)


@pytest.mark.parametrize(("preempt", "expected"), [("call", {2}), ("statement", {2}), ("access", {1, 2})])
def test_two_increments(files: Files, preempt: Preemption, expected: set[int]) -> None:
    # Between the load and the store of the one the other may load and store: its update is lost. A statement is not
    # interrupted, whatever it does.
    assert results(files.script(TWICE, COUNTER, preempt=preempt)) == expected


def test_two_statements_can_be_interrupted_in_between(files: Files) -> None:
    before = """
    class Counter:
        def __init__(self):
            self.n = 0
        async def bump(self):
            old = self.n
            self.n = old + 1
    """
    assert results(files.script(TWICE, before, preempt="statement")) == {1, 2}
    assert results(files.script(TWICE, before, preempt="call")) == {2}


def test_what_cannot_await_stays_atomic(files: Files) -> None:
    body = """
    c = Counter()
    async def bump():
        c.bump_at_once()
    await world.together(bump(), bump())
    return c.n
    """
    assert results(files.script(body, COUNTER, preempt="access")) == {2}


LOST = {
    "a variable of the script": ("n = 0\nasync def bump():\n    nonlocal n\n    n += 1", "n"),
    "an item": ("d = {1: 0}\nasync def bump():\n    d[1] += 1", "d[1]"),
    "an item by slice": ("d = [0]\nasync def bump():\n    d[0:1] = [d[0:1][0] + 1]", "d[0]"),
    "a method": ("d = {1: 0}\nasync def bump():\n    d.update({1: d.get(1) + 1})", "d[1]"),
    "a comprehension": ("c = Counter()\nasync def bump():\n    c.n = [c.n + 1 for _ in range(1)][0]", "c.n"),
    "an f-string": ("c = Counter()\nasync def bump():\n    c.n = int(f'{c.n}') + 1", "c.n"),
    "a conditional": ("c = Counter()\nasync def bump():\n    c.n = 1 if c.n == 0 else 2", "c.n"),
    "unpacking": ("c = Counter()\nasync def bump():\n    c.n, x = c.n + 1, 0", "c.n"),
    "a loop": ("c = Counter()\nasync def bump():\n    for c.n in [c.n + 1]: pass", "c.n"),
    "a walrus": ("n = 0\nasync def bump():\n    nonlocal n\n    (n := n + 1)", "n"),
}


@pytest.mark.parametrize("name", LOST)
def test_lost_updates_of(files: Files, name: str) -> None:
    setup, result = LOST[name]
    body = f"{setup}\nawait world.together(bump(), bump())\nreturn {result}\n"
    assert results(files.script(body, COUNTER, preempt="access")) == {1, 2}
    assert results(files.script(body, COUNTER, preempt="statement")) == {2}


def test_lost_updates_of_a_global(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_everything(monkeypatch)
    before = """
    N = 0
    async def bump():
        global N
        N += 1
    """
    body = """
    global N
    N = 0
    await world.together(bump(), bump())
    return N
    """
    assert results(files.script(body, before, preempt="access")) == {1, 2}
    assert results(files.script(body, before, preempt="statement")) == {2}
    assert results(files.script(body, before, preempt="call")) == {2}


def test_an_operation_names_its_cell_before_it_touches_it(files: Files) -> None:
    program = files.script(
        "c = Counter()\nd = [1]\nc.n = c.n + d[0]\nd.append(2)\nd.index(1)\ndel d[0]\n", COUNTER, preempt="access"
    )
    events = events_of(program)
    assert [event.what for event in events] == [
        "start",
        "load Counter.n",
        "load d",
        "store Counter.n",
        "store d",
        "load d",
        "store d",
    ]
    assert [data_of(event) for event in events[1:]] == [
        ["R Counter.n"],
        ["R d"],
        ["W Counter.n"],
        ["W d"],
        ["R d"],
        ["W d"],
    ]


def test_the_target_is_the_cell(files: Files) -> None:
    seen: list[tuple[str, str | None]] = []

    class Watching(RandomWalk):
        def pick(self, n: int, point: Any) -> int:
            for thread in point.ready:
                target = thread.op.target()
                seen.append((thread.op.kind, target and target.label))
            return super().pick(n, point)

    strategy = Watching(1)
    strategy.begin()
    files.script(TWICE, COUNTER, preempt="access").run(strategy)
    assert {("load", "Counter.n"), ("store", "Counter.n")} <= set(seen)


def test_a_statement_says_where_it_is(files: Files) -> None:
    program = files.script("c = Counter()\nif c.n == 0:\n    x = 1\n    c.n = x\n", COUNTER, preempt="statement")
    path = program.loaded.path
    assert [event.what for event in events_of(program)] == [
        "start",
        f"run {path}:{files.line('if c.n == 0')}",
        f"run {path}:{files.line('c.n = x')}",
    ]


def test_a_loop_is_interrupted_before_each_test(files: Files) -> None:
    body = """
    c = Counter(2)
    async def down():
        while c.n:
            c.n = 0
    async def up():
        c.n = 0
        c.n = 1
    await world.together(down(), up())
    return c.n
    """
    assert results(files.script(body, COUNTER, preempt="statement")) == {0, 1}


def test_set_up_is_not_interrupted(files: Files) -> None:
    driver = """
    class Quiet(Driver):
        async def DriverEntry(self, DriverObject, RegistryPath):
            self.Count = 1
            self.Count += 1
            return STATUS_UNSUCCESSFUL
    """
    for preempt in PREEMPTIONS:
        program = files.script('await world.load(Quiet, "1")\n', driver, preempt=preempt)
        assert [event.what for event in events_of(program)] == ["start"]


def test_errors_are_the_same(files: Files) -> None:
    body = """
    d = {}
    try:
        d["missing"]
    except KeyError as error:
        return repr(error)
    """
    assert once(files.script(body, preempt="access")).result == "KeyError('missing')"
    for bad in ("{}['missing']", "[].pop()", "Counter().nothing"):
        program = files.script(f"x = {bad}\n", COUNTER, preempt="access")
        with pytest.raises(ScenarioError, match=rf"at .*:{files.line(f'x = {bad}')}\b"):
            once(program)


# Choosing.


def test_a_scenario_chooses_its_preemption(files: Files) -> None:
    program = files(
        COUNTER
        + """
@scenario(preempt="access")
async def lost(world):
    c = Counter()
    await world.together(c.bump(), c.bump())
    return c.n
"""
    )
    assert program.preempt == "access"
    assert results(program) == {1, 2}
    other = ScenarioProgram(program.loaded, program.scenario, program.variant, preempt="call")
    assert results(other) == {2}


def test_a_wrong_preemption_is_refused(files: Files) -> None:
    with pytest.raises(ScenarioError, match="preempt is 'acess'") as caught:
        files("@scenario(preempt='acess')\nasync def s(world): pass\n")
    assert caught.value.remedy == "did you mean 'access'?"


def test_a_token_of_another_preemption_is_refused(files: Files) -> None:
    programs = [files.script("pass\n")]
    first = programs[0]
    programs += [
        ScenarioProgram(first.loaded, first.scenario, first.variant, preempt=preempt)
        for preempt in ("statement", "access")
    ]
    assert len({program.identity for program in programs}) == 3
    for program in programs:
        for other in programs:
            token = encode([1], program.identity)
            if other is program:
                assert decode(token, other.identity) == (1,)
            else:
                with pytest.raises(TokenError, match="another scenario, variant or parameter"):
                    decode(token, other.identity)
    assert first.instrumented().identity == first.identity


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_copes_with_accesses(files: Files, name: str) -> None:
    program = files.script(TWICE, COUNTER, preempt="access")
    found = explore(program, strategy_from_name(name, 1), Budget(schedules=30))
    assert found.schedules
    assert not found.findings
