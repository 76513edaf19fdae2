"""The explorer: budgets, what it keeps, how it ends, and what it leaves behind in its host."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from explore.programs import (
    TestProgram,
    abba,
    fail,
    forever,
    lost_update,
    questions,
    steps_program,
    use_after_free,
)

from kemu.errors import InternalError, UsageError
from kemu.explore import (
    Alternating,
    BoundedDFS,
    Budget,
    Progress,
    RandomWalk,
    StickyRandomWalk,
    explore,
    explorer,
    replay,
)
from kemu.explore.collection import INTERPRETERS_OWN, RUNS_A_BATCH
from kemu.runtime import Observer, Oracle, Outcome, current_thread


class Interrupted(TestProgram):
    """Raises what it is told to in its run of that number, from inside a thread."""

    def __init__(self, error: BaseException, at: int) -> None:
        async def interrupted() -> None:
            if self.runs == at:
                raise error
            if current_thread().runtime.choose(2, "fails"):
                fail("chosen")

        super().__init__(interrupted)


def test_stops_at_the_first_failure() -> None:
    exploration = explore(TestProgram(lost_update), RandomWalk(1), Budget(schedules=100))
    (finding,) = exploration.findings
    assert finding.failure.summary == "WRONG: an update was lost"
    assert finding.signature == ("WRONG", "an update was lost")
    assert (finding.count, finding.run, finding.second) == (1, exploration.schedules - 1, None)
    assert exploration.schedules < 100
    assert not exploration.exhausted
    assert not exploration.interrupted


def test_what_is_found_can_be_replayed() -> None:
    program = TestProgram(lost_update)
    (finding,) = explore(program, RandomWalk(1), Budget(schedules=100)).findings
    assert replay(program, finding.choices, complete=True).failure == finding.failure


def test_keeps_going_and_groups_by_signature() -> None:
    async def two_bugs() -> None:
        runtime = current_thread().runtime
        which = runtime.choose(3, "which")
        runtime.choose(2, "does not matter")
        if which:
            fail(f"bug {which}")

    exploration = explore(TestProgram(two_bugs), BoundedDFS(None), Budget(), keep_going=True)
    # 3 * 2 runs; each bug in two of them. Cheapest runs first: 00; 10, 20, 01; 11, 21.
    assert exploration.schedules == 6
    assert [(f.failure.summary, f.choices, f.run, f.count, f.second) for f in exploration.findings] == [
        ("WRONG: bug 1", (1, 0), 1, 2, (1, 1)),
        ("WRONG: bug 2", (2, 0), 2, 2, (2, 1)),
    ]


def test_the_second_run_of_a_finding_is_another_one() -> None:
    # Only one run of two fails: it comes up again and again.
    async def one_way() -> None:
        if current_thread().runtime.choose(2, "fails"):
            fail("always the same")

    (finding,) = explore(TestProgram(one_way), RandomWalk(1), Budget(schedules=50), keep_going=True).findings
    assert finding.count > 10
    assert finding.second is None


def test_budget_of_schedules() -> None:
    program = steps_program(2, 2)
    exploration = explore(program, RandomWalk(1), Budget(schedules=17))
    assert exploration.schedules == program.runs == 17


def test_budget_of_steps() -> None:
    # Main's step and twice start and two loads: 7 steps a run; the fifth run passes 30.
    exploration = explore(steps_program(2, 2), RandomWalk(1), Budget(steps=30))
    assert (exploration.schedules, exploration.steps) == (5, 35)


def test_budget_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that advances a second each time it is looked at: at the start, then once after each run.
    ticks: Iterator[int] = iter(range(1_000))
    monkeypatch.setattr(explorer.time, "perf_counter", lambda: float(next(ticks)))
    exploration = explore(steps_program(2, 2), RandomWalk(1), Budget(seconds=4))
    assert exploration.schedules == 4
    assert exploration.seconds == 5


@pytest.mark.parametrize("budget", [{"schedules": 0}, {"seconds": -1}, {"steps": 0}, {"seconds": float("nan")}])
def test_bad_budget(budget: dict[str, int]) -> None:
    (name,) = budget
    with pytest.raises(UsageError, match=f"the budget of {name} is .*; give a number above 0"):
        Budget(**budget)


def test_steps_and_distinct_runs() -> None:
    # Two threads of one load each: 6 runs, 5 steps, and loads commute.
    exploration = explore(steps_program(1, 1), BoundedDFS(None), Budget())
    assert (exploration.shortest, exploration.longest, exploration.mean_steps) == (5, 5, 5.0)
    assert (exploration.distinct, exploration.distinct_is_exact) == (1, True)
    # Deadlocked runs are shorter: main, then two steps each instead of five.
    exploration = explore(TestProgram(abba), BoundedDFS(None), Budget(), keep_going=True)
    assert (exploration.shortest, exploration.longest) == (5, 11)
    # 22 runs that end and 6 that do not, by hand in the tests of the search.
    assert exploration.mean_steps == (22 * 11 + 6 * 5) / 28


def test_answers_make_runs_distinct() -> None:
    assert explore(TestProgram(questions), BoundedDFS(None), Budget()).distinct == 6


def test_nothing_run() -> None:
    exploration = explore(steps_program(1), RandomWalk(1), Budget(), stop=lambda: True)
    assert exploration.schedules == 1
    strategy = BoundedDFS(0)
    explore(steps_program(1), strategy, Budget())
    exploration = explore(steps_program(1), strategy, Budget())
    assert (exploration.schedules, exploration.mean_steps, exploration.exhausted) == (0, 0.0, True)


def test_stop_flag() -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(0)
        return len(asked) == 9

    exploration = explore(TestProgram(lost_update), RandomWalk(1), Budget(), keep_going=True, stop=stop)
    assert (exploration.schedules, exploration.interrupted) == (9, True)
    assert exploration.findings


def test_interrupt_keeps_what_was_found() -> None:
    program = Interrupted(KeyboardInterrupt(), at=30)
    exploration = explore(program, RandomWalk(1), Budget(schedules=100), keep_going=True)
    assert exploration.interrupted
    assert exploration.schedules == 29
    (finding,) = exploration.findings
    assert finding.count > 5


def test_error_is_raised_and_says_which_run() -> None:
    program = Interrupted(UsageError("no such altitude"), at=1)
    with pytest.raises(UsageError, match="no such altitude") as caught:
        explore(program, StickyRandomWalk(4), Budget(schedules=100), keep_going=True)
    assert caught.value.__notes__ == ["in run 0 of the strategy sticky, seed 4"]


def test_error_does_not_lose_what_was_found() -> None:
    program = Interrupted(InternalError("oops"), at=30)
    exploration = explore(program, RandomWalk(1), Budget(schedules=100), keep_going=True)
    assert isinstance(exploration.error, InternalError)
    assert exploration.findings
    assert exploration.schedules == 29


def test_other_exceptions_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        explore(Interrupted(ZeroDivisionError(), at=1), RandomWalk(1), Budget(schedules=10))


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock advances 30 ms each time it is looked at.
    ticks: Iterator[int] = iter(range(10_000))
    monkeypatch.setattr(explorer.time, "perf_counter", lambda: next(ticks) * 0.03)
    seen: list[Progress] = []
    exploration = explore(steps_program(2, 2), RandomWalk(1), Budget(schedules=20), progress=seen.append)
    counts = [progress.schedules for progress in seen]
    assert counts == sorted(counts)
    # Every fourth run or so, and once at the end.
    assert 4 <= len(counts) <= 8
    assert counts[-1] == 20
    assert seen[-1].distinct == exploration.distinct
    assert seen[-1].findings == 0


def test_result_names_its_origin() -> None:
    exploration = explore(TestProgram(abba), Alternating(3), Budget(schedules=4), keep_going=True)
    assert (exploration.program, exploration.strategy, exploration.seed) == ("abba", "alternating", 3)


def test_step_limit_is_a_finding() -> None:
    (finding,) = explore(TestProgram(forever, max_steps=20), BoundedDFS(0), Budget()).findings
    assert finding.failure.code == "STEPS"


def test_default_strategy_finds_what_a_uniform_walk_misses() -> None:
    # The cleaner has far to go while the user stands still between check and use.
    program = use_after_free(before_check=0, before_free=40)
    for seed in range(10):
        assert explore(program, Alternating(seed), Budget(schedules=500)).findings
    assert not explore(program, RandomWalk(0), Budget(schedules=1_000)).findings


# Garbage collection.


class Collecting(TestProgram):
    """Notes in every run whether collection is on, and in the first three whether objects are frozen."""

    def __init__(self) -> None:
        async def nothing() -> None:
            pass

        super().__init__(nothing)
        self.enabled: list[bool] = []
        self.frozen: list[bool] = []

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        self.enabled.append(gc.isenabled())
        if len(self.frozen) < 3:
            # This counts one by one.
            self.frozen.append(gc.get_freeze_count() > INTERPRETERS_OWN)
        return super().run(oracle, observer)


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_off_in_batches_and_restored(enabled: bool) -> None:
    program = Collecting()
    threshold = gc.get_threshold()
    (gc.enable if enabled else gc.disable)()
    try:
        before = collections()
        frozen = gc.get_freeze_count()
        explore(program, RandomWalk(1), Budget(schedules=3 * RUNS_A_BATCH + 2))
        during = collections() - before
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() <= frozen
        assert gc.get_threshold() == threshold
    finally:
        gc.enable()
    assert set(program.enabled) == {False}
    # Frozen once the first run has loaded what there is to load.
    assert program.frozen == [False, True, True]
    assert during >= 3
    if not enabled:
        assert during == 3


def test_collection_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        explore(Interrupted(ZeroDivisionError(), at=3), RandomWalk(4), Budget(schedules=10), keep_going=True)
    assert gc.isenabled()
    assert gc.get_freeze_count() < INTERPRETERS_OWN


def test_what_the_host_froze_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    try:
        explore(steps_program(1), RandomWalk(1), Budget(schedules=5))
        # But for those few that have been freed since.
        assert gc.get_freeze_count() > 0.9 * frozen
    finally:
        gc.unfreeze()


def test_long_runs_make_short_batches() -> None:
    before = collections()
    gc.disable()
    try:
        # 2 * 5,001 steps and main's: the tenth run completes a batch of 100,000 steps.
        explore(TestProgram(steps_program(5_000, 5_000).main, max_steps=20_000), RandomWalk(1), Budget(schedules=12))
        assert collections() - before == 1
    finally:
        gc.enable()
