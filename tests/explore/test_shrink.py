"""Shrinking keeps the failure, ends at the minimum derived by hand, and needs few replays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from explore.classics import bluetooth_driver, reorder, stack, twostage
from explore.programs import (
    TestProgram,
    abba,
    answered_badly,
    early_timeout,
    fail,
    forever,
    lost_update,
    questions,
    steps_program,
    three_in_a_row,
    use_after_free,
)

from kemu.errors import ScenarioNotDeterministic, UsageError
from kemu.explore import (
    MAX_REPLAYS,
    Alternating,
    Budget,
    RandomWalk,
    Shrunk,
    StickyRandomWalk,
    Strategy,
    explore,
    shrink,
)
from kemu.runtime import current_thread

MINIMA: list[tuple[TestProgram, int, int, int]] = [
    # The program, and the fewest preemptions, answers and switches of a run of it that fails.
    # The user is preempted after its check, the cleaner frees, the user goes on: main, user, cleaner, user.
    (use_after_free(5, 5), 1, 0, 3),
    (use_after_free(60, 60), 1, 0, 3),
    # a is preempted between its stores, then b is, and c looks: main, a, b, c.
    (three_in_a_row(), 2, 0, 3),
    (three_in_a_row(noise=12), 2, 0, 3),
    # t0 is preempted after its first lock, t1 takes the other: main, t0, t1.
    (TestProgram(abba), 1, 0, 2),
    # t0 is preempted after its load; main, t0, t1, t0, then main's joins, the first of which can come early.
    (TestProgram(lost_update), 1, 0, 4),
    # Main goes on alone until it asks for the second time.
    (TestProgram(answered_badly), 0, 1, 0),
    # The waiter waits, the clock fires, the waiter goes on: main, waiter, clock, waiter.
    (TestProgram(early_timeout), 0, 0, 3),
]

STRATEGIES: list[Callable[[int], Strategy]] = [RandomWalk, StickyRandomWalk, Alternating]


def failing_runs(program: TestProgram, make: Callable[[int], Strategy], count: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for seed in range(200):
        exploration = explore(program, make(seed), Budget(schedules=300))
        found += [finding.choices for finding in exploration.findings]
        if len(found) >= count:
            break
    return found


@pytest.mark.parametrize("make", STRATEGIES)
@pytest.mark.parametrize(("program", "preemptions", "answers", "switches"), MINIMA)
def test_minimum(
    program: TestProgram, preemptions: int, answers: int, switches: int, make: Callable[[int], Strategy]
) -> None:
    runs = failing_runs(program, make, 5)
    assert len(runs) >= 5
    for run in runs:
        before = program.runs
        shrunk = shrink(program, run)
        assert shrunk.replays == program.runs - before <= MAX_REPLAYS == 70
        assert shrunk.settled
        cost = shrunk.recording.cost
        assert (cost.preemptions, cost.answers, cost.switches) == (preemptions, answers, switches)
        assert cost <= shrunk.original.cost
        original, failure = shrunk.original.failure, shrunk.recording.failure
        assert original is not None
        assert failure is not None
        assert failure.signature == original.signature


def test_a_run_that_fails_in_every_way_becomes_empty() -> None:
    shrunk = shrink(TestProgram(forever, max_steps=50), [0, 0, 0])
    assert (shrunk.recording.cost.choices, shrunk.replays) == ((), 1)


def test_the_failure_is_kept() -> None:
    # Two bugs: the simpler run has the other one.
    async def main() -> None:
        runtime = current_thread().runtime
        first = runtime.choose(3, "first")
        second = runtime.choose(2, "second")
        if first and second:
            fail("both")
        if first:
            fail("first alone")

    program = TestProgram(main)
    shrunk = shrink(program, [2, 1])
    assert shrunk.recording.choices == (1, 1)
    assert shrink(program, [2, 0]).recording.cost.choices == (1,)


def test_answers_are_made_plain_one_by_one() -> None:
    async def main() -> None:
        runtime = current_thread().runtime
        answers = [runtime.choose(3, f"q{number}") for number in range(12)]
        if answers[3] and answers[8]:
            fail("two of twelve")

    shrunk = shrink(TestProgram(main), [2] * 12)
    assert shrunk.recording.choices == (0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0)
    assert shrunk.settled


def test_replays_are_capped() -> None:
    program = three_in_a_row(noise=12)
    (run, *_) = failing_runs(program, RandomWalk, 1)
    for allowed in (1, 2, 5, 20):
        before = program.runs
        shrunk = shrink(program, run, max_replays=allowed)
        assert shrunk.replays == program.runs - before <= allowed
        assert shrunk.recording.failure is not None
    assert not shrink(program, run, max_replays=5).settled


def test_a_second_start_shares_the_replays_and_can_only_help() -> None:
    program = three_in_a_row(noise=12)
    runs = failing_runs(program, RandomWalk, 4)
    for run, second in zip(runs, [*runs[1:], runs[0]], strict=True):
        before = program.runs
        shrunk = shrink(program, run, second=second)
        assert shrunk.replays == program.runs - before <= MAX_REPLAYS
        assert shrunk.recording.cost <= shrink(program, run, max_replays=42).recording.cost


def test_a_second_start_can_be_the_better_one() -> None:
    # The first question decides which of two ways to fail is taken, and nothing leads from one to the other at once.
    async def main() -> None:
        runtime = current_thread().runtime
        if runtime.choose(3, "way") == 1:
            answers = [runtime.choose(2, "a"), runtime.choose(2, "b"), runtime.choose(2, "c")]
            if all(answers):
                fail("found")
        elif runtime.choose(3, "one") == 2 and runtime.choose(4, "two") == 3:
            fail("found")

    program = TestProgram(main)
    # With so few replays the search at the end does not get that far.
    assert shrink(program, [1, 1, 1, 1], max_replays=20).recording.cost.answers == 4
    assert shrink(program, [1, 1, 1, 1], second=[0, 2, 3], max_replays=20).recording.choices == (0, 2, 3)
    # It does with more.
    shrunk = shrink(program, [1, 1, 1, 1])
    assert (shrunk.recording.choices, shrunk.settled, shrunk.fewest) == ((0, 2, 3), True, True)


def test_a_second_start_that_does_not_fail_is_passed_over() -> None:
    program = TestProgram(abba)
    shrunk = shrink(program, [0, 0, 1], second=[])
    assert shrunk.recording.cost.choices == (0, 0, 1)


def deviations(shrunk: Shrunk) -> int:
    """How many decisions are not plain."""
    return sum(value > 0 for value in shrunk.recording.choices)


@pytest.mark.parametrize(
    ("program", "most", "preemptions"),
    [
        # The bars of the literature's benchmark, in decisions other than the plain one, and by hand: each of these
        # fails if one thread is interrupted once, and none does if nobody is.
        (bluetooth_driver(), 2, 1),
        (twostage(), 2, 1),
        (stack(), 2, 1),
        (reorder(20), 3, 1),
    ],
    ids=lambda value: value.name if isinstance(value, TestProgram) else None,
)
def test_the_classics(program: TestProgram, most: int, preemptions: int) -> None:
    runs: list[tuple[int, ...]] = []
    for seed in range(100):
        exploration = explore(program, (RandomWalk, Alternating)[seed % 2](seed), Budget(schedules=3_000))
        runs += [finding.choices for finding in exploration.findings]
        if len(runs) == 6:
            break
    for run, second in zip(runs, [*runs[1:], runs[0]], strict=True):
        before = program.runs
        shrunk = shrink(program, run, second=second)
        assert shrunk.replays == program.runs - before <= MAX_REPLAYS == 70
        assert deviations(shrunk) <= most
        assert shrunk.recording.cost.preemptions == preemptions
        original, failure = shrunk.original.failure, shrunk.recording.failure
        assert original is not None
        assert failure is not None
        assert failure.signature == original.signature


def test_that_fewer_will_not_do_is_shown_where_there_are_few_runs() -> None:
    # Without a preemption one of the two has both locks before the other begins.
    assert shrink(TestProgram(abba), [0, 0, 1]).fewest
    assert shrink(TestProgram(forever, max_steps=50), [0, 0, 0]).fewest
    # Of five threads there are more orders without a preemption than the search may make runs.
    program = reorder(5)
    (run, *_) = failing_runs(program, Alternating, 1)
    shrunk = shrink(program, run)
    assert not shrunk.fewest
    assert shrink(program, run, max_replays=1_000).fewest
    # Nothing was shown where no replays are left.
    assert not shrink(TestProgram(abba), [0, 0, 1], max_replays=1).fewest


def test_the_search_finds_what_no_step_leads_to() -> None:
    # Two ways to fail: with three answers of which each alone is in vain, and with another one; and no half of the
    # first is a half of the second.
    async def main() -> None:
        runtime = current_thread().runtime
        answers = [runtime.choose(3, f"q{number}") for number in range(4)]
        if answers in ([1, 1, 1, 0], [1, 1, 2, 0], [0, 0, 0, 2]):
            fail("found")

    shrunk = shrink(TestProgram(main), [1, 1, 2, 0])
    assert shrunk.recording.choices == (0, 0, 0, 2)
    assert (shrunk.settled, shrunk.fewest) == (True, True)


def test_a_search_that_runs_into_a_misuse_keeps_what_there_is() -> None:
    async def main() -> None:
        runtime = current_thread().runtime
        answers = [runtime.choose(2, f"q{number}") for number in range(4)]
        if answers == [0, 0, 0, 1]:
            runtime.abort(UsageError("misused", remedy="do not"))
        if answers[0] and answers[1]:
            fail("found")

    shrunk = shrink(TestProgram(main), [1, 1])
    assert (shrunk.recording.choices, shrunk.fewest) == ((1, 1, 0, 0), False)


def test_many_answers_are_made_plain_at_once_and_the_rest_lowered() -> None:
    # Answers that a plan does not reach: which question is asked depends on the answers before it.
    async def main() -> None:
        runtime = current_thread().runtime
        total = 0
        for number in range(8):
            total += runtime.choose(9, f"q{number} after {total}")
        if total >= 3:
            fail("too much")

    shrunk = shrink(TestProgram(main), [8] * 8)
    assert shrunk.recording.cost.choices == (3,)


def test_a_run_that_passes() -> None:
    with pytest.raises(UsageError, match="the run to shrink does not fail; give the token of a failing run"):
        shrink(steps_program(1, 1), [1])


def test_a_failure_that_changed() -> None:
    with pytest.raises(ScenarioNotDeterministic, match="the run that failed with X Y now fails with DEADLOCK"):
        shrink(TestProgram(abba), [0, 0, 1], signature=("X", "Y"))
    with pytest.raises(ScenarioNotDeterministic, match="step 4: the run that failed with X now passes"):
        shrink(TestProgram(questions), [], signature=("X",))


def test_bad_limit() -> None:
    with pytest.raises(UsageError, match="shrinking may use 0 replays; allow at least 1"):
        shrink(TestProgram(abba), [0, 0, 1], max_replays=0)
