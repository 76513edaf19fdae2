"""Exhaustive search makes every run within the bound, and none twice. The counts are derived by hand."""

from __future__ import annotations

import json

import pytest
from explore.programs import (
    TestProgram,
    abba,
    lost_update,
    mixed,
    questions,
    steps_program,
    timed_wait,
)

from kemu.errors import ScenarioNotDeterministic, UsageError
from kemu.explore import BoundedDFS, Budget, Exploration, explore
from kemu.explore.strategies.base import Remainder
from kemu.runtime import Outcome, current_thread


def search(program: TestProgram, bound: int | None = None) -> tuple[Exploration, list[tuple[int, ...]]]:
    """Explore exhaustively; also return the choices of all runs."""
    runs: list[tuple[int, ...]] = []
    strategy = BoundedDFS(bound)
    end = strategy.end

    class Noting:
        name, seed = strategy.name, strategy.seed
        begin, pick, choose = strategy.begin, strategy.pick, strategy.choose

        @property
        def completed(self) -> int | None:
            return strategy.completed

        def end(self, outcome: Outcome) -> None:
            runs.append(tuple(outcome.choices))
            end(outcome)

    return explore(program, Noting(), Budget(), keep_going=True), runs


def counts(program: TestProgram, *bounds: int | None) -> list[int]:
    found: list[int] = []
    for bound in bounds:
        exploration, runs = search(program, bound)
        assert exploration.exhausted
        # Equal choices are equal runs: none was made twice.
        assert len(set(runs)) == len(runs) == exploration.schedules
        found.append(exploration.schedules)
    return found


def test_two_threads_of_two_steps() -> None:
    # Start and one operation each, main having ended: (2 + 2)! / (2! 2!) = 6. Without a preemption AABB and BBAA;
    # with one ABBA and BAAB; ABAB and BABA need two.
    assert counts(steps_program(1, 1), 0, 1, 2, None) == [2, 4, 6, 6]


def test_two_threads_of_unequal_length() -> None:
    # Start and three operations beside start and one: (4 + 2)! / (4! 2!) = 15.
    assert counts(steps_program(3, 1), None) == [15]


def test_three_threads_of_two_steps() -> None:
    # 6! / (2! 2! 2!) = 90. By preemptions, which is the number of threads whose two steps are not adjacent:
    # none: 3! = 6 orders of the threads.
    # one, X: 4! / 2 = 12 orders of X1 X2 Y Z, less 3! = 6 with X1 X2 adjacent, for each of three threads: 18.
    # two, X and Y: 5! / (2! 2!) = 30 orders of X1 X2 Y1 Y2 Z, less 12 + 12 - 6 with an adjacent pair, times 3: 36.
    # three: the remaining 90 - 6 - 18 - 36 = 30.
    assert counts(steps_program(1, 1, 1), 0, 1, 2, 3, None) == [6, 24, 60, 90, 90]


def test_abba() -> None:
    # Five steps each: start, acquire, acquire, release, release. With p and q the steps taken by t0 and t1, the
    # states in which both hold a lock are out: (2,3) (3,3) (4,3) (3,2) (3,4). The ways to reach (p, q), row by row:
    #   p=0: 1 1 1 1 1 1    p=1: 1 2 3 4 5 6     p=2: 1 3 6 - 5 11
    #   p=3: 1 4 - - - 11   p=4: 1 5 5 - 0 11    p=5: 1 6 11 11 11 22
    # 22 runs end; 6 are stuck in (2,2).
    # Without preemptions: one thread after the other, 2 runs. With one, t0 is preempted after one to four of its
    # steps, and t1 then runs until it ends or blocks, at which t0 goes on (or, after the second, is stuck), or the
    # other way round: 8 runs.
    assert counts(abba_program(), 0, 1, None) == [2, 10, 28]
    exploration, _ = search(abba_program())
    assert [(finding.failure.code, finding.count) for finding in exploration.findings] == [("DEADLOCK", 6)]
    # t0 first, t1 first, stuck.
    assert exploration.distinct == 3
    within_one, _ = search(abba_program(), 1)
    assert [finding.count for finding in within_one.findings] == [2]


def abba_program() -> TestProgram:
    return TestProgram(abba)


def test_lost_update() -> None:
    # t0 and t1 take three steps each, main's join of t0 comes after t0's; main's join of t1 and its load come last.
    # So a chain of four beside one of three: 7! / (4! 3!) = 35.
    # It passes if t0 stores before t1 loads (t1's start in one of 3 places before that store and 3 places for main's
    # join among t1's other two steps, or after it and 4 places for the join: 13), or if t1 stores before t0 loads
    # (t0's start in one of 3 places before that store, or after it: 4). 35 - 13 - 4 = 18 fail.
    exploration, runs = search(TestProgram(lost_update))
    assert (exploration.schedules, len(set(runs))) == (35, 35)
    assert [finding.count for finding in exploration.findings] == [18]


def test_timed_wait() -> None:
    # The waiter starts (s) and waits (w), the setter starts (z) and sets (Z); the clock (c) can fire after s and
    # before Z, which makes the wait possible and so takes the deadline away. w needs Z or c before it.
    #   Z before s: z Z s w, 1 run.
    #   s before Z, no c: s z Z w and z s Z w, 2 runs.
    #   s before c before Z: after s, orders of z Z and c w but z Z c w: 4! / (2! 2!) - 1 = 5; after z s, orders of
    #   Z and c w but Z c w: 3 - 1 = 2.
    # 10 in all. Of these need one preemption: s z c w Z; s c z Z w; z s Z w and z s c w Z; two: s c z w Z and
    # z s c Z w. (When the clock has woken the waiter that ran last, not to let it go on is a preemption.)
    assert counts(TestProgram(timed_wait), 0, 1, 2, None) == [4, 8, 10, 10]


def test_questions() -> None:
    # One thread, no schedule to choose: 3 answers times 2. Plain: 1. With one answer that is not: 2 + 1. Both: 2.
    assert counts(TestProgram(questions), 0, 1, 2, None) == [1, 4, 6, 6]


def test_question_beside_a_schedule() -> None:
    # Answer 0 leaves the asker one step beside the other's two: 3 runs, one of them (O A O) with a preemption.
    # Answer 1 costs 1 and leaves it two steps: 2 runs without a preemption, 2 with one, 2 with two.
    assert counts(TestProgram(mixed), 0, 1, 2, 3, None) == [2, 5, 7, 9, 9]


def test_cheapest_runs_come_first() -> None:
    program = TestProgram(abba)
    first = explore(program, BoundedDFS(None), Budget())
    # The two runs without a preemption pass; the first that fails has one.
    assert first.schedules > 2
    assert not first.exhausted
    assert first.bound == 0


def test_bound_is_reported() -> None:
    exploration, _ = search(steps_program(1, 1), 1)
    assert (exploration.exhausted, exploration.bound) == (True, 1)
    # Nothing costs more than 2: a larger bound is complete with that.
    strategy = BoundedDFS(5)
    exploration = explore(steps_program(1, 1), strategy, Budget())
    assert (exploration.exhausted, exploration.bound, strategy.exhausted) == (True, 2, True)
    strategy = BoundedDFS(1)
    explore(steps_program(1, 1), strategy, Budget())
    assert not strategy.exhausted


def test_budget_ends_it_within_a_level() -> None:
    exploration = explore(steps_program(1, 1, 1), BoundedDFS(2), Budget(schedules=30))
    assert (exploration.schedules, exploration.exhausted, exploration.bound) == (30, False, 1)


def test_large_fan_out() -> None:
    # A choice that does not fit in a byte.
    async def main() -> None:
        runtime = current_thread().runtime
        runtime.choose(300, "many")
        runtime.choose(2, "few")

    # 300 * 2 runs; 1 + 299 + 1 of them with at most one answer that is not plain.
    assert counts(TestProgram(main), 1, None) == [301, 600]


def test_program_that_remembers_is_noticed() -> None:
    asked: list[int] = []

    async def main() -> None:
        asked.append(0)
        current_thread().runtime.choose(2 + len(asked), "growing")

    with pytest.raises(ScenarioNotDeterministic, match="decision 0 has 4 alternatives"):
        explore(TestProgram(main), BoundedDFS(None), Budget())


def test_program_that_gets_shorter_is_noticed() -> None:
    asked: list[int] = []

    async def main() -> None:
        asked.append(0)
        if len(asked) < 2:
            current_thread().runtime.choose(2, "once")

    with pytest.raises(ScenarioNotDeterministic, match="over before decision 0"):
        explore(TestProgram(main), BoundedDFS(None), Budget())


def test_bad_bound() -> None:
    with pytest.raises(UsageError, match="bound is -1"):
        BoundedDFS(-1)


@pytest.mark.parametrize("bound", [0, 1, 2, None])
@pytest.mark.parametrize("after", [0, 1, 2, 5, 11, 27])
def test_what_is_left_can_be_done_by_another(bound: int | None, after: int) -> None:
    _, whole = search(abba_program(), bound)
    first = BoundedDFS(bound)
    made: list[tuple[int, ...]] = []
    program = abba_program()

    def go_on(strategy: BoundedDFS, most: int) -> None:
        while most and strategy.begin():
            outcome = program.run(strategy)
            strategy.end(outcome)
            made.append(tuple(outcome.choices))
            most -= 1

    go_on(first, after)
    second = BoundedDFS(bound)
    # By way of a file, too: what comes back has lists for tuples and bytes.
    left = first.split()
    now, later = (json.loads(json.dumps(items, default=list)) for items in (left.now, left.later))
    second.resume(Remainder(left.level, tuple(now), tuple(later), left.pruned))
    go_on(second, -1)
    assert made == whole
    done = BoundedDFS(bound)
    go_on(done, -1)
    assert (second.completed, second.exhausted) == (done.completed, done.exhausted)


def test_one_level_alone() -> None:
    search = BoundedDFS(None)
    search.resume(search.split(), one_level=True)
    exploration = explore(abba_program(), search, Budget(), keep_going=True)
    # Two runs without a preemption; the eight with one are left, by their first part.
    assert exploration.schedules == 2
    left = search.split()
    assert (left.level, left.now, left.pruned) == (0, (), False)
    assert len(left.later) == 8
    search.conclude(3, exhausted=True)
    assert (search.completed, search.exhausted) == (3, True)
