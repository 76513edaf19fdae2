"""The reduced search against brute force: the same final states, no class twice, none left out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
from explore import classics
from explore.catalogue import CLASSICS
from explore.generated import EVERYTHING, Blindly, Code, GeneratedProgram, Several, generate
from explore.programs import (
    Flag,
    Load,
    Set,
    Store,
    TestProgram,
    Variable,
    abba,
    answered_badly,
    early_timeout,
    fail,
    forever,
    lost_update,
    mixed,
    questions,
    spawn,
    timed_wait,
)
from explore.searching import brute_force, reduced
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime import kit

from kemu.errors import ScenarioNotDeterministic, UsageError
from kemu.explore import Budget, explore
from kemu.explore.dependence import Footprint
from kemu.explore.frames import Frame
from kemu.explore.guards import Wait
from kemu.explore.strategies import DPOR
from kemu.runtime import Cell, ControlledRuntime, Outcome, Point, Thread, current_thread

CLASSES: dict[str, int] = {name: one.traces for name, one in CLASSICS.items() if one.traces is not None}
"""How many classes of runs a program has, failures not cutting them short."""


@pytest.mark.parametrize("wakeup", [0, 0.1], ids=["wakeup trees", "source sets"])
@pytest.mark.parametrize("name", [*CLASSES, "reorder_3"])
def test_one_run_for_each_class_of_the_classic_programs(name: str, wakeup: float) -> None:
    program = CLASSICS[name].make()
    program.stops = False
    runs = reduced(program, lambda: DPOR(wakeup=wakeup))
    assert runs.made == len(runs.distinct) == CLASSES.get(name, 56)
    assert not runs.doubt
    everything = brute_force(program, limit=5_000)
    if everything is not None:
        assert runs.distinct == everything.distinct
        assert (runs.failing > 0) == (everything.failing > 0)


def test_the_larger_classic_programs() -> None:
    for program, classes in ((classics.reorder(4), 1_248), (classics.wronglock(3), 360)):
        program.stops = False
        runs = reduced(program)
        assert runs.made == len(runs.distinct) == classes


@pytest.mark.parametrize("main", [abba, timed_wait, questions, mixed], ids=lambda main: main.__name__)
def test_small_programs(main: Callable[[], Any]) -> None:
    program = TestProgram(main)
    everything = brute_force(program)
    assert everything is not None
    runs = reduced(program)
    assert runs.distinct == everything.distinct
    assert runs.made == len(everything.distinct)
    assert not runs.blocked


def three_threads(operation: Callable[[kit.Variable], Any]) -> TestProgram:
    async def main() -> None:
        counter = kit.Variable("counter")

        async def thrice() -> None:
            for _ in range(3):
                await operation(counter)

        for number in range(3):
            spawn(f"t{number}", thrice())

    return TestProgram(main)


def test_read_modify_write_makes_every_order_a_class_of_its_own() -> None:
    assert reduced(three_threads(kit.Increment)).made == 1_680  # 9! / (3!)^3


def test_updates_whose_result_nobody_uses_commute() -> None:
    assert reduced(three_threads(kit.Bump)).made == 1


# Wakeup trees.


def trees() -> DPOR:
    return DPOR(wakeup=0)


BOTH = (DPOR, trees)


def dead_ends(others: int = 0) -> TestProgram:
    """Where source sets give up nearly every other run, after the paper: r and s look before they write."""

    async def main() -> None:
        x, y, z, counter = Variable("x"), Variable("y"), Variable("z"), kit.Variable("counter")

        async def p() -> None:
            await Store(x, 1)

        async def q() -> None:
            await Store(y, 1)

        async def r() -> None:
            if await Load(y) == 0:
                await Store(z, 1)

        async def s() -> None:
            before, now = await Load(z), await Load(y)
            if before == 1 and now == 0:
                await Store(x, 2)

        async def other() -> None:
            await kit.Increment(counter)

        for _ in range(others):
            spawn("other", other())
        for body in (p, q, r, s):
            spawn(body.__name__, body())

    return TestProgram(main)


def test_wakeup_trees_give_up_no_run() -> None:
    assert (reduced(dead_ends()).made, reduced(dead_ends()).blocked) == (7, 6)
    for program, classes in ((dead_ends(), 7), (classics.wronglock(3), 360), (classics.reorder(4), 1_248)):
        program.stops = False
        runs = reduced(program, trees)
        assert runs.made == len(runs.distinct) == classes
        assert not runs.blocked


def test_the_search_changes_over_when_a_tenth_is_given_up() -> None:
    never, later = (reduced(dead_ends(4), make) for make in (lambda: DPOR(wakeup=None), DPOR))
    assert later.distinct == never.distinct
    assert later.made == never.made == 24 * 7
    assert never.blocked == 24 * 6
    assert later.blocked < 50


def after(runs: int) -> Callable[[], DPOR]:
    """A search that changes over after so many runs."""

    class Sooner(DPOR):
        def _watch_share(self) -> None:
            self._has_trees = self.traces + self.blocked >= runs

    return Sooner


@pytest.mark.parametrize("families", [("cells", "local"), ("tries", "locks", "local")], ids="+".join)
def test_it_does_not_matter_when_it_changes_over(families: tuple[str, ...]) -> None:
    makes = tuple(after(runs) for runs in (1, 2, 4, 8))
    for seed in range(15):
        check(generate(random.Random(seed).randrange, families), limit=400, makes=makes)


def test_a_share_that_is_none() -> None:
    with pytest.raises(UsageError, match="wakeup is 2"):
        DPOR(wakeup=2)


# Generated programs.


def check(code: Code, *, limit: int = 1_500, makes: tuple[Callable[[], DPOR], ...] = (DPOR,)) -> bool:
    """Compare searches with brute force; False if there are too many runs for that."""
    program = GeneratedProgram(code)
    everything = brute_force(program, limit=limit)
    if everything is None:
        return False
    for make in makes:
        runs = reduced(program, make)
        assert runs.states == everything.states, str(program)
        assert runs.distinct == everything.distinct, str(program)
        assert runs.made == len(runs.distinct), str(program)
    return True


SEVERAL = [
    (every, was, puts, order)
    for every in (True, False)
    for was in product((False, True), repeat=2)
    for puts in product(((0, False), (0, True)), ((1, False), (1, True)))
    for order in permutations(range(3))
]
"""Whether all of two flags are waited for, what they are in the beginning, what is put into them, and who is first."""


def test_a_wait_for_several_objects_is_raced_with_every_set_of_changes() -> None:
    # Two threads that each put something into a flag, beside one that waits. Either may prevent what the other allows.
    for every, was, puts, order in SEVERAL:

        async def main(
            every: bool = every,
            was: tuple[bool, ...] = was,
            puts: tuple[tuple[int, bool], ...] = puts,
            order: tuple[int, ...] = order,
        ) -> None:
            flags = [kit.Flag(f"E{number}") for number in range(2)]
            for flag, value in zip(flags, was, strict=True):
                flag.is_set = value

            async def wait() -> None:
                await Several(flags, every=every)

            async def put(number: int, value: bool) -> None:
                await kit.Put(flags[number], value)

            for which in order:
                spawn(f"t{which}", put(*puts[which]) if which < 2 else wait())

        program = TestProgram(main)
        everything = brute_force(program)
        assert everything is not None
        runs = reduced(program)
        assert runs.distinct == everything.distinct, (every, was, puts, order)
        assert runs.made == len(runs.distinct)
        assert not runs.doubt


def test_what_an_operation_does_not_say_is_seen_in_the_run() -> None:
    # That nobody could acquire the lock before it was given back shows in the runs, where the thread was there by then.
    async def main() -> None:
        lock, x = kit.Mutex("lock"), Variable("x")

        async def locked() -> None:
            await Blindly(lock)
            await Load(x)
            await kit.Release(lock)

        async def other() -> None:
            await Store(x, 1)

        for body in (locked, locked, locked, other):
            spawn(body.__name__, body())

    runs = reduced(TestProgram(main))
    # Who comes in which turn, and between which of them x is written.
    assert runs.made == len(runs.distinct) == 6 * 4
    assert runs.blocked == 10  # 16 if what it does not say is always taken to be possible


class Partial(Several):
    """Looks no further than the first flag that is set."""

    __slots__ = ()
    kind = "wait and look away"

    def take(self, thread: Thread) -> tuple[int, ...]:
        thread.read(self.flags[0])
        return (0,)


def test_a_wait_for_several_objects_has_to_touch_them_all() -> None:
    async def main() -> None:
        flags = [kit.Flag(f"E{number}") for number in range(2)]
        flags[0].is_set = True
        await Partial(flags, every=False)

    assert reduced(TestProgram(main)).doubt == "'wait and look away' does not touch all that it waits for"


def test_too_many_changes_for_a_wait_for_several_objects() -> None:
    async def main() -> None:
        flags = [kit.Flag(f"E{number}") for number in range(11)]

        async def put(flag: kit.Flag) -> None:
            await kit.Put(flag)

        for number, flag in enumerate(flags):
            spawn(f"t{number}", put(flag))
        await Several(flags, every=True)

    search = DPOR()
    explore(TestProgram(main), search, Budget(schedules=2))
    assert search.doubt == "a thread waits for several objects, of which 9 steps change some at a time"


@st.composite
def codes(draw: st.DrawFn) -> Code:
    return generate(lambda n: draw(st.integers(0, n - 1)))


@given(codes())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_generated_programs_of_everything(code: Code) -> None:
    check(code, makes=BOTH)


FAMILIES = [
    ("cells", "local"),
    ("locks", "cells", "local"),
    ("tries", "locks", "local"),
    ("events", "local"),
    ("events", "timed", "local"),
    ("boxes", "joins", "local"),
    ("choices", "cells", "local"),
    ("spawns", "joins", "cells"),
    ("timed", "clock", "local"),
    ("several", "events", "local"),
    ("several", "timed", "events"),
    ("blind", "events", "locks"),
]


@pytest.mark.parametrize("families", FAMILIES, ids="+".join)
def test_generated_programs_of_a_family(families: tuple[str, ...]) -> None:
    assert (
        sum(check(generate(random.Random(seed).randrange, families), limit=400, makes=BOTH) for seed in range(20)) >= 7
    )


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("families", [*FAMILIES, EVERYTHING], ids="+".join)
def test_many_generated_programs(families: tuple[str, ...]) -> None:
    for seed in range(2_000):
        check(generate(random.Random(seed).randrange, families), limit=5_000, makes=BOTH)


# What goes wrong without each part of the algorithm. A search that leaves it out must be caught by the comparison.


class ImmediatePredecessorsOnly(DPOR):
    """A step that had to wait is not raced with what let it wait."""

    def _race_for_turn(self, party: int, wait: Wait | None, guards: set[int], at: int, past: int) -> None:
        if at == len(self._events):
            super()._race_for_turn(party, wait, guards, at, past)


class NothingAtTheEnd(DPOR):
    """What threads still wait for when the run is over is not raced."""

    def _race_with_those_who_wait(self) -> None:
        pass


class NothingAtTheEndOfBlockedRuns(DPOR):
    """The same, but only where the run was given up."""

    def end(self, outcome: Outcome) -> None:
        self._given_up = outcome.end == "abandoned"
        super().end(outcome)

    def _race_with_those_who_wait(self) -> None:
        if not self._given_up:
            super()._race_with_those_who_wait()


class DeclaredOperationOnly(DPOR):
    """A footprint is what the operation said in advance, and not what the code after it touched."""

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        super().before_step(thread, pick, alternatives)
        self._target = None if thread is None else thread.op.target()

    def _footprint(self, party: int, touched: list[tuple[Cell, int]], runtime: ControlledRuntime) -> Footprint:
        return super()._footprint(party, [one for one in touched if one[0] is self._target], runtime)


class PlannedOnce(DPOR):
    """With wakeup trees, a race is planned as the first run that shows it goes on, and not as later ones do."""

    def __init__(self) -> None:
        super().__init__(wakeup=0)

    def _plan(self) -> None:
        super()._plan()
        self._reversals.clear()


class DroppedOnTheWay(DPOR):
    """With wakeup trees, what begins with the step that is made is not handed on to the next state."""

    def __init__(self) -> None:
        super().__init__(wakeup=0)

    def _new_frame(self, enabled: tuple[int, ...]) -> Frame:
        frames, self._frames = self._frames, [*self._frames]
        if frames and frames[-1].sequences:
            self._frames[-1] = replace(frames[-1], sequences={})
        frame = super()._new_frame(enabled)
        self._frames = [*frames, frame]
        return frame


class WaitersComeFirst(DPOR):
    """What a thread waits for at the end is taken for something that could come before everything else."""

    def _reverse(self, event: int, reversal: int, party: int) -> None:
        frame = self._frames[event]
        waits = self._last_of(party) < event or not self._events.initials(reversal)
        if waits and party in frame.enabled and (party in frame.backtrack or frame.sleeps(party)):
            return
        super()._reverse(event, reversal, party)


@pytest.mark.parametrize(
    ("make", "families", "seeds"),
    [
        (ImmediatePredecessorsOnly, ("locks",), [11]),
        (ImmediatePredecessorsOnly, ("events",), [47]),
        (NothingAtTheEnd, ("locks",), [0]),
        (NothingAtTheEnd, ("events",), [0]),
        (NothingAtTheEndOfBlockedRuns, ("tries", "locks", "local"), [1_198]),
        (DeclaredOperationOnly, ("cells", "local"), [4]),
        (WaitersComeFirst, ("tries", "locks", "local"), [11]),
        (PlannedOnce, ("tries", "locks", "local"), [96]),
        (DroppedOnTheWay, ("locks", "cells", "local"), [48]),
    ],
)
def test_every_part_of_the_algorithm_is_needed(make: type[DPOR], families: tuple[str, ...], seeds: list[int]) -> None:
    for seed in seeds:
        code = generate(random.Random(seed).randrange, families)
        assert check(code)
        with pytest.raises(AssertionError):
            check(code, makes=(make,))


# What equivalent runs do not share, and what has to be said.


def test_an_invariant_sees_the_states_in_between() -> None:
    async def main() -> None:
        x, y = Variable("x"), Variable("y")

        def invariant() -> None:
            if x.value and y.value:
                fail("both")

        current_thread().runtime.invariants.append(invariant)

        async def pulse(variable: Variable) -> None:
            await Store(variable, 1)
            await Store(variable, 0)

        spawn("a", pulse(x))
        spawn("b", pulse(y))

    found = explore(TestProgram(main), DPOR(), Budget(schedules=100))
    assert [finding.failure.code for finding in found.findings] == ["WRONG"]
    program = TestProgram(main, stops=False)
    runs = reduced(program)
    assert runs.made == 6  # 4! / (2! 2!): every order counts
    assert runs.failing == 4


def test_a_failure_that_cuts_a_run_short_leaves_a_doubt() -> None:
    search = DPOR()
    found = explore(TestProgram(answered_badly), search, Budget(), keep_going=True)
    assert found.exhausted
    assert found.findings
    assert found.reduction is not None
    assert found.reduction.doubt == "a run was cut short"


def test_a_run_without_end_leaves_a_doubt() -> None:
    search = DPOR(depth=40)
    found = explore(TestProgram(forever), search, Budget(schedules=30), keep_going=True)
    assert search.doubt == "a run has more than 40 steps"
    assert not found.findings
    search = DPOR()
    found = explore(TestProgram(forever, max_steps=40), search, Budget(schedules=30), keep_going=True)
    assert [finding.failure.code for finding in found.findings] == ["STEPS"]
    assert search.doubt == "a run was cut short"
    with pytest.raises(UsageError, match="depth is 0"):
        DPOR(depth=0)


def test_set_up_takes_no_part() -> None:
    async def main() -> None:
        x = Variable("x")
        runtime = current_thread().runtime
        assert isinstance(runtime, ControlledRuntime)

        async def writer() -> None:
            await Store(x, 1)

        spawn("early", writer())
        runtime.without_decisions()
        await Load(x)
        await Store(x, 2)
        runtime.without_decisions(True)
        await Load(x)

    runs = reduced(TestProgram(main))
    everything = brute_force(TestProgram(main))
    assert everything is not None
    assert runs.made == len(everything.distinct) == 2
    assert runs.distinct == everything.distinct
    assert not runs.doubt


def test_set_up_after_the_first_decision_leaves_a_doubt() -> None:
    async def main() -> None:
        x = Variable("x")
        runtime = current_thread().runtime
        assert isinstance(runtime, ControlledRuntime)

        async def writer() -> None:
            await Store(x, 1)

        spawn("early", writer())
        await Load(x)
        runtime.without_decisions()
        await Point("in set-up")
        runtime.without_decisions(True)

    assert reduced(TestProgram(main)).doubt


@pytest.mark.parametrize("main", [early_timeout, lost_update], ids=lambda main: main.__name__)
def test_the_explorer_stops_at_the_finding(main: Callable[[], Any]) -> None:
    found = explore(TestProgram(main), DPOR(), Budget())
    assert len(found.findings) == 1
    assert not found.exhausted


def test_the_explorer_says_how_many_classes_there_are() -> None:
    program = classics.wronglock(3)
    program.stops = False
    found = explore(program, DPOR(), Budget(), keep_going=True)
    assert found.exhausted
    assert found.reduction is not None
    assert (found.reduction.traces, found.distinct) == (360, 360)
    assert found.schedules == found.reduction.traces + found.reduction.blocked
    assert found.reduction.blocked > 0
    assert found.shortest > 5


def test_it_has_to_see_the_steps() -> None:
    with pytest.raises(UsageError, match="does not see the steps"):
        TestProgram(abba).run(started(DPOR()))
    with pytest.raises(UsageError, match="does not see the steps"):
        TestProgram(questions).run(started(DPOR()))


def started(search: DPOR) -> DPOR:
    assert search.begin()
    return search


def test_nothing_is_begun_after_the_end() -> None:
    search = DPOR()
    explore(TestProgram(abba), search, Budget(), keep_going=True)
    assert not search.begin()


class Restless(TestProgram):
    """A program whose runs differ although the decisions are the same."""

    def __init__(self, bodies: list[Callable[[], Any]]) -> None:
        async def restless() -> None:
            await bodies[min(self.runs, len(bodies)) - 1]()

        super().__init__(restless)


async def two_writers(flags: int = 0, questions: int = 0, steps: int = 1) -> None:
    x = Variable("x")

    async def writer() -> None:
        for _ in range(questions):
            current_thread().runtime.choose(2 + flags, "question")
        for number in range(steps):
            await Store(x, number)

    spawn("a", writer())
    spawn("b", writer())


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({}, {"questions": 1}, ""),
        ({"questions": 1}, {"questions": 1, "flags": 1}, "has 3 answers; in an earlier run it had 2"),
        ({"questions": 1}, {}, "asks 0 questions; in an earlier run it asked 1"),
    ],
)
def test_a_program_that_is_not_deterministic(first: dict[str, int], then: dict[str, int], message: str) -> None:
    program = Restless([lambda: two_writers(**first), lambda: two_writers(**then)])
    if not message:
        explore(program, DPOR(), Budget(schedules=2))
        return
    with pytest.raises(ScenarioNotDeterministic, match=message):
        explore(program, DPOR(), Budget())


def test_a_run_that_loses_a_thread() -> None:
    async def alone() -> None:
        spawn("a", write())

    async def write() -> None:
        await Store(Variable("x"), 1)

    async def three() -> None:
        for number in range(3):
            spawn(f"{number}", write())

    async def flagged() -> None:
        await Set(Flag("f"))

    with pytest.raises(ScenarioNotDeterministic, match="alternatives; in an earlier run"):
        explore(Restless([lambda: two_writers(steps=2), three]), DPOR(), Budget())
    with pytest.raises(ScenarioNotDeterministic, match="the run is over"):
        explore(Restless([lambda: two_writers(steps=2), alone]), DPOR(), Budget())
    with pytest.raises(ScenarioNotDeterministic, match="another thread"):
        explore(Restless([lambda: two_writers(steps=2), flagged]), DPOR(), Budget())
