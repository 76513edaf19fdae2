"""Outcome sets hold what a program can come to, each with a run that does; they say that it is all where that is so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from explore.classics import wronglock
from explore.programs import Acquire, Load, Mutex, Release, Store, TestProgram, Variable, abba, fail, forever, spawn

from kemu.explore import Budget, RandomWalk
from kemu.explore.outcomes import OutcomeSet, Reached, collect_outcomes, value_of
from kemu.explore.strategies import DPOR, BoundedDFS, Portfolio, Replay, Strategy
from kemu.runtime import Join, Observer, Oracle, Outcome, current_thread

EXHAUSTIVE: list[Callable[[], Strategy]] = [DPOR, lambda: BoundedDFS(None)]
NAMES = ["dpor", "dfs"]


def name(**values: object) -> None:
    """Name what the run has come to."""
    current_thread().runtime.outcome.named.update({key: str(value) for key, value in values.items()})


def store_buffering(*, locked: bool = False) -> TestProgram:
    """Each of two threads stores to one variable and loads the other; with *locked*, in one go."""

    async def main() -> None:
        x, y = Variable("x"), Variable("y")
        lock = Mutex("lock")
        seen: list[int] = [0, 0]

        async def worker(number: int, own: Variable, other: Variable) -> None:
            if locked:
                await Acquire(lock)
            await Store(own, 1)
            seen[number] = await Load(other)
            if locked:
                await Release(lock)

        threads = [spawn("a", worker(0, x, y)), spawn("b", worker(1, y, x))]
        for thread in threads:
            await Join(thread)
        # In another order than that of the names.
        name(b=seen[1], a=seen[0])

    return TestProgram(main)


def checked() -> TestProgram:
    """Loses an update in some runs, and says so in one of two ways; names the sum in the others."""

    async def main() -> None:
        counter = Variable("counter")

        async def increment() -> None:
            value = await Load(counter)
            await Store(counter, value + 1)

        threads = [spawn(f"t{number}", increment()) for number in range(2)]
        for thread in threads:
            await Join(thread)
        name(sum=counter.value)
        if counter.value != 2:
            fail("an update was lost")

    return TestProgram(main)


def values(found: OutcomeSet) -> list[tuple[str, ...]]:
    return [one.value for one in found.reached]


def values_of(reached: tuple[Reached, ...]) -> list[tuple[str, ...]]:
    return [one.value for one in reached]


def again(program: TestProgram, one: Reached) -> Outcome:
    """The run that came to *one*, made again."""
    oracle = Replay(one.choices)
    assert oracle.begin()
    return program.run(oracle)


@pytest.mark.parametrize("make", EXHAUSTIVE, ids=NAMES)
def test_all_outcomes_and_no_others(make: Callable[[], Strategy]) -> None:
    # Whoever comes last sees the other's store: not both can see nothing. Locked, exactly one sees something.
    program = store_buffering()
    found = collect_outcomes(program, make(), Budget())
    assert values(found) == [("a=0", "b=1"), ("a=1", "b=0"), ("a=1", "b=1")]
    assert found.is_complete
    assert [str(one) for one in found.reached] == ["a=0, b=1", "a=1, b=0", "a=1, b=1"]
    locked = collect_outcomes(store_buffering(locked=True), make(), Budget())
    assert values(locked) == [("a=0", "b=1"), ("a=1", "b=0")]
    assert locked.is_complete
    assert values_of(found.beyond(locked)) == [("a=1", "b=1")]
    assert locked.beyond(found) == ()


def written(program: TestProgram, strategy: Strategy) -> tuple[OutcomeSet, list[Outcome]]:
    """What *program* comes to, and all outcomes as they came."""
    made: list[Outcome] = []
    real = program.run

    def run(oracle: Oracle, observer: Observer | None = None) -> Outcome:
        outcome = real(oracle, observer)
        made.append(outcome)
        return outcome

    program.run = run
    found = collect_outcomes(program, strategy, Budget())
    del program.run
    return found, made


def whole_lock() -> TestProgram:
    program = wronglock(3)
    program.stops = False
    return program


@pytest.mark.parametrize(
    ("make", "program"),
    [(EXHAUSTIVE[0], store_buffering()), (EXHAUSTIVE[1], store_buffering()), (EXHAUSTIVE[0], whole_lock())],
    ids=["dpor", "dfs", "dpor, with runs that are given up"],
)
def test_each_has_the_first_run_that_came_to_it(make: Callable[[], Strategy], program: TestProgram) -> None:
    found, made = written(program, make())
    whole = [outcome for outcome in made if outcome.end != "abandoned"]
    assert (len(whole) < len(made)) == (program.name == "wronglock_3")
    assert found.exploration.schedules == len(made)
    assert found.is_complete
    for one in found.reached:
        mine = [outcome for outcome in whole if value_of(outcome) == one.value]
        assert one.count == len(mine)
        # Runs that were given up have numbers, too, and come to nothing.
        assert made[one.run] is mine[0]
        assert one.choices == tuple(mine[0].choices)
        assert value_of(again(program, one)) == one.value
    assert sum(one.count for one in found.reached) == len(whole)


def test_a_reduced_search_counts_fewer_runs_for_the_same_outcomes() -> None:
    reduced = collect_outcomes(store_buffering(), DPOR(), Budget())
    everything = collect_outcomes(store_buffering(), BoundedDFS(None), Budget())
    assert values(reduced) == values(everything)
    assert reduced.exploration.schedules < everything.exploration.schedules


def test_a_finding_is_an_outcome_and_ends_nothing() -> None:
    program = checked()
    found = collect_outcomes(program, BoundedDFS(None), Budget())
    # What a run that failed had named by then is of no interest.
    assert values(found) == [("finding WRONG",), ("sum=2",)]
    assert found.is_complete
    failing, passing = found.reached
    failure = again(program, failing).failure
    assert failure is not None
    assert again(program, passing).failure is None
    assert failing.count == sum(finding.count for finding in found.exploration.findings)
    deadlock = collect_outcomes(TestProgram(abba), BoundedDFS(None), Budget())
    assert [str(one) for one in deadlock.reached] == ["(nothing named)", "finding DEADLOCK"]


def test_after_a_run_that_was_cut_short_a_reduced_search_proves_nothing() -> None:
    # What the rest of that run would have touched is not known, and with it what else there may be.
    found = collect_outcomes(checked(), DPOR(), Budget())
    assert values(found) == [("finding WRONG",), ("sum=2",)]
    assert found.exploration.exhausted
    assert found.exploration.reduction is not None
    assert found.exploration.reduction.doubt == "a run was cut short"
    assert not found.is_complete
    # A deadlock cuts nothing short: it is where the run ends.
    assert collect_outcomes(TestProgram(abba), DPOR(), Budget()).is_complete
    # Nor does a failure that is only noted.
    whole = checked()
    whole.stops = False
    assert collect_outcomes(whole, DPOR(), Budget()).is_complete


def test_what_is_not_everything_is_not_called_complete() -> None:
    program = store_buffering()
    # Without a preemption, whoever begins has both of its steps; the bound keeps the third outcome out.
    bounded = collect_outcomes(program, BoundedDFS(0), Budget())
    assert values(bounded) == [("a=0", "b=1"), ("a=1", "b=0")]
    assert bounded.exploration.exhausted
    assert not bounded.is_complete
    everything = collect_outcomes(program, BoundedDFS(None), Budget())
    assert values_of(everything.beyond(bounded)) == [("a=1", "b=1")]
    # The budget ran out.
    for make in EXHAUSTIVE:
        part = collect_outcomes(program, make(), Budget(schedules=2))
        assert part.exploration.schedules == 2
        assert not part.is_complete
    # The user had enough; what there is by then is kept.
    stopped = collect_outcomes(program, DPOR(), Budget(), stop=lambda: True)
    assert stopped.exploration.interrupted
    assert len(stopped.reached) == 1
    assert not stopped.is_complete
    # A sampler never knows, although it comes upon all of them.
    sampled = collect_outcomes(program, RandomWalk(1), Budget(schedules=200))
    assert values(sampled) == values(everything)
    assert not sampled.is_complete


def test_a_bound_that_leaves_nothing_out_is_a_proof() -> None:
    async def one_after_another() -> None:
        name(done=1)

    found = collect_outcomes(TestProgram(one_after_another), BoundedDFS(0), Budget())
    assert (values(found), found.is_complete) == ([("done=1",)], True)


def test_the_portfolio_proves_it_with_its_reduced_search() -> None:
    found = collect_outcomes(store_buffering(), Portfolio(1), Budget())
    assert values(found) == [("a=0", "b=1"), ("a=1", "b=0"), ("a=1", "b=1")]
    assert found.is_complete
    part = collect_outcomes(store_buffering(), Portfolio(1, reduced=0), Budget(schedules=100))
    assert not part.is_complete


def test_a_run_without_end_is_an_outcome_as_well() -> None:
    found = collect_outcomes(TestProgram(forever, max_steps=20), DPOR(), Budget(schedules=40))
    assert ("finding STEPS",) in values(found)
    assert not found.is_complete


def test_progress_is_told() -> None:
    told: list[int] = []
    found = collect_outcomes(
        store_buffering(), DPOR(), Budget(), progress=lambda progress: told.append(progress.schedules)
    )
    assert told[-1] == found.exploration.schedules
