"""Blame finds the decision after which a run is likely to fail, and says how sure it is."""

from __future__ import annotations

from itertools import count

import pytest
from explore.classics import bluetooth_driver
from explore.programs import (
    Load,
    Store,
    TestProgram,
    Variable,
    abba,
    fail,
    forever,
    spawn,
    steps_program,
    three_in_a_row,
)

from kemu.errors import ReplayDiverged, UsageError
from kemu.explore import Blame, Budget, RandomWalk, Replay, blame, explore, watch
from kemu.explore.blame import Point, stands_out
from kemu.runtime import Join, Observer, Oracle, Outcome, current_thread


def of(program: TestProgram, choices: list[int], **options: int | bool) -> Blame:
    found = blame(program, choices, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def one_in(n: int, question: int, questions: int) -> TestProgram:
    """Asks so many questions of n parties; fails if in that one, from 0, the last of n threads is let go first."""

    async def choosing() -> None:
        async def party(number: int) -> None:
            await Load(x)
            order.append(number)

        rounds: list[list[int]] = []
        x = Variable("x")
        for _ in range(questions):
            order: list[int] = []
            rounds.append(order)
            threads = [spawn(f"t{number}", party(number)) for number in range(n)]
            for thread in threads:
                await Join(thread)
        if rounds[question][0] == n - 1:
            fail("the last was the first")

    return TestProgram(choosing)


def run_of(program: TestProgram) -> list[int]:
    """The first failing run of a random walk."""
    return list(explore(program, RandomWalk(3), Budget(schedules=2_000)).findings[0].choices)


def test_the_curve_rises_where_it_was_decided() -> None:
    # Whether the last of three comes first in the second of three rounds is decided in that round alone.
    program = one_in(3, 1, 3)
    choices = run_of(program)
    found = of(program, choices, runs=100)
    rise = found.rise
    assert rise is not None
    assert rise.stands_out
    assert rise.event is not None
    # The third thread of the second round is the sixth that main creates.
    assert rise.event.path == (0, 5)
    assert rise.event.thread == "t2"
    assert (rise.number, rise.decision.label) == (rise.after.decisions, "t2")
    # Before the round begins one of three runs fails; at its end all of them do.
    by_number = {point.decisions: point for point in found.curve}
    assert by_number[0].share == pytest.approx(1 / 3, abs=0.15)
    assert all(point.share == 1 for number, point in by_number.items() if number >= rise.number)


def test_bisecting_finds_what_a_full_scan_finds_in_fewer_runs() -> None:
    program = one_in(3, 2, 12)
    choices = run_of(program)
    quick, full = of(program, choices), of(program, choices, full=True)
    decisions = len(watch(program, Replay(choices))[0].decisions)
    assert quick.decisions == full.decisions == decisions > 40
    assert [point.decisions for point in full.curve] == list(range(decisions + 1))
    assert full.runs == 32 * decisions + 1
    # About 2 log n points of 32 runs each.
    assert quick.runs <= 32 * 2 * decisions.bit_length() + 1 < full.runs / 3
    assert quick.rise is not None
    assert full.rise is not None
    # The same thread of the same round: of its few decisions either may bring the larger part.
    assert quick.rise.event is not None
    assert full.rise.event is not None
    assert quick.rise.event.path == full.rise.event.path == (0, 8)
    # What both have measured is the same: runs follow from the seed and the number of decisions alone.
    measured = {point.decisions: point for point in full.curve}
    assert all(measured[point.decisions] == point for point in quick.curve)


def test_the_seed_decides_the_runs() -> None:
    program = bluetooth_driver()
    choices = run_of(program)
    first = [of(program, choices, seed=seed).curve for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_the_last_point_is_the_run_itself() -> None:
    program = TestProgram(abba)
    found = of(program, [0, 0, 1], runs=7)
    assert found.curve[-1] == Point(found.decisions, 1, 1, certain=True)
    assert all(point.runs == 7 for point in found.curve[:-1])
    assert found.runs == sum(point.runs for point in found.curve)
    assert found.failure.code == "DEADLOCK"
    assert not found.interrupted


def test_other_failures_do_not_count() -> None:
    async def two() -> None:
        runtime = current_thread().runtime
        await Load(Variable("x"))
        if runtime.choose(2, "one way"):
            fail("one")
        if runtime.choose(2, "the other way"):
            fail("other")

    program = TestProgram(two)
    found = of(program, [0, 1], runs=200, full=True)
    assert found.rise is not None
    assert (found.rise.number, found.rise.decision.label) == (2, "the other way")
    # One answer of a few is not plain; and of those runs some fail in the first way and are none of these.
    assert found.curve[0].share < found.curve[1].share + 0.1 < 0.5
    assert found.rise.event is not None
    assert found.rise.event.what == "load x"


def test_a_run_without_decisions() -> None:
    async def always() -> None:
        await Store(Variable("x"), 1)
        fail("always")

    found = of(TestProgram(always), [])
    assert (found.decisions, found.rise) == (0, None)
    assert found.curve == (Point(0, 1, 1, certain=True),)


def test_what_always_fails_is_nobodys_fault() -> None:
    async def always() -> None:
        x = Variable("x")

        async def store() -> None:
            await Store(x, 1)
            await Load(x)

        for number in range(2):
            spawn(f"t{number}", store())
        for thread in current_thread().runtime.threads[1:]:
            await Join(thread)
        fail("always")

    found = of(TestProgram(always), [0, 1])
    assert {point.share for point in found.curve} == {1.0}
    assert found.rise is None


def test_a_run_that_passes() -> None:
    assert blame(steps_program(1, 1), [1]) is None


def test_choices_that_do_not_fit() -> None:
    with pytest.raises(ReplayDiverged):
        blame(TestProgram(abba), [9])


def test_a_bad_number_of_runs() -> None:
    with pytest.raises(UsageError, match="the number of runs is 0; give an integer of at least 1"):
        blame(TestProgram(abba), [0, 0, 1], runs=0)


@pytest.mark.parametrize("full", [False, True])
def test_who_has_had_enough_gets_what_there_is(full: bool) -> None:
    program = three_in_a_row(3)
    choices = run_of(program)
    asked = count()
    done: list[tuple[int, int]] = []
    found = blame(
        program,
        choices,
        full=full,
        stop=lambda: next(asked) >= 70,
        progress=lambda number, total: done.append((number, total)),
    )
    assert found is not None
    assert found.interrupted
    assert found.runs == 71
    # Two points whole, one as far as it got, and the run itself.
    assert sorted(point.runs for point in found.curve) == [1, 6, 32, 32]
    total = len(watch(program, Replay(choices))[0].decisions) if full else done[0][1]
    assert done == [(number, total) for number in ((0, 1, 2) if full else (1, 2))]


class Impatient(TestProgram):
    """A program whose user presses Ctrl-C in a certain run."""

    def __init__(self, last: int) -> None:
        super().__init__(abba)
        self.last = last

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        if self.runs >= self.last:
            raise KeyboardInterrupt
        return super().run(oracle, observer)


def test_an_interrupt_keeps_what_there_is() -> None:
    found = of(Impatient(33), [0, 0, 1])
    assert found.interrupted
    assert [point.runs for point in found.curve] == [32, 1]
    # Several decisions lie between the two: none is to blame.
    assert found.rise is None


def test_what_stands_out() -> None:
    # Of 32 runs each: one standard error of the difference of two shares around a half is an eighth.
    assert not stands_out(Point(0, 14, 32), Point(1, 18, 32))
    assert stands_out(Point(0, 8, 32), Point(1, 24, 32))
    assert not stands_out(Point(0, 24, 32), Point(1, 8, 32))
    assert not stands_out(Point(0, 0, 32), Point(1, 0, 32))
    # Against a certainty, a single run that did not fail is enough to see that there is a difference only if there
    # are many.
    assert stands_out(Point(0, 0, 1), Point(1, 1, 1, certain=True))
    assert not stands_out(Point(0, 31, 32), Point(1, 1, 1, certain=True))
    assert stands_out(Point(0, 25, 32), Point(1, 1, 1, certain=True))


def test_a_run_that_never_ends() -> None:
    found = of(TestProgram(forever, max_steps=50), [], runs=4)
    assert found.failure.code == "STEPS"
    assert found.decisions >= 40
