"""An exploration in batches comes to what the same one comes to run by run, in whatever order batches are done."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from explore.campaign import kit
from explore.programs import TestProgram

from kemu.errors import KemuError, ScenarioNotDeterministic, UsageError, WorkerDied
from kemu.explore import STRATEGIES, BoundedDFS, Budget, Exploration, Progress, RandomWalk, explore
from kemu.explore.campaign import Alone, BatchResult, Recipe, Shard, explore_in_batches
from kemu.explore.campaign.batch import Batch, failed, run_batch
from kemu.explore.campaign.conductor import batch_size
from kemu.explore.campaign.source import MOST_RUNS, STEPS_A_BATCH, Numbers, Pieces, runs_a_batch
from kemu.explore.strategies import EXHAUSTIVE
from kemu.runtime import DecisionPoint, Observer, Oracle, Outcome

ORDERS: dict[str, Callable[[], Any]] = {
    "alone": Alone,
    "in order": lambda: kit.Disorderly(3, lambda n: 0),
    "last first": lambda: kit.Disorderly(5),
    "middle first": lambda: kit.Disorderly(4, lambda n: n // 2),
}
STATELESS: list[tuple[str, dict[str, Any]]] = [
    ("alternating", {}),
    ("sticky", {"switch": 0.25}),
    ("random", {}),
    ("pos", {}),
    ("pct", {"horizon": 64}),
    ("delay", {"horizon": 16}),
]
WITHOUT_SHARDS = ("dpor", "portfolio")
"""The pieces of a reduced search have to do with each other; a shard of the portfolio has none."""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize(("name", "options"), STATELESS)
def test_samplers(name: str, options: dict[str, Any], keep_going: bool, order: str) -> None:
    crew = ORDERS[order]()
    load = kit.Load("many_bugs")
    one, other, _, _ = kit.both(load, name, Budget(schedules=100), crew, keep_going=keep_going, **options)
    assert one == other
    assert other.findings
    assert crew.busy == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize(
    ("name", "bound"),
    [("abba", 0), ("abba", 1), ("abba", 2), ("abba", None), ("timed_wait", None), ("many_bugs", 1)],
)
def test_searches(name: str, bound: int | None, keep_going: bool, order: str) -> None:
    load = kit.Load(name)
    one, other, plain, divided = kit.both(load, "dfs", Budget(), ORDERS[order](), keep_going=keep_going, bound=bound)
    assert one == other
    assert isinstance(plain, BoundedDFS)
    assert isinstance(divided, BoundedDFS)
    assert (divided.completed, divided.exhausted) == (plain.completed, plain.exhausted)


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_a_search_in_pieces_of_any_size(size: int) -> None:
    load = kit.Load("steps_program", (2, 2, 1))
    one, other, _, _ = kit.both(load, "dfs", Budget(), kit.Disorderly(6), size=size, bound=None)
    # Steps: 3, 3 and 2, the starts included: 8! / (3! 3! 2!) = 560.
    assert one.schedules == 560
    assert one == other
    assert other.exhausted


def test_the_first_finding_is_that_of_the_smallest_number_whoever_is_first() -> None:
    load = kit.Load("rare")
    plain = explore(load(), RandomWalk(11), Budget(schedules=20_000))
    (finding,) = plain.findings
    # Far enough behind for there to be batches before it.
    assert finding.run > 100
    crew = kit.Disorderly(50)
    one, other, _, _ = kit.both(load, "random", Budget(schedules=20_000), crew, seed=11, keep_going=False)
    assert one == other
    # Where its batch is done first and the others from the last one on, those behind it are called off.
    number = finding.run // 16
    crew = kit.Disorderly(50, lambda n: number if n == 50 else n - 1)
    one, other, _, _ = kit.both(load, "random", Budget(schedules=20_000), crew, seed=11, keep_going=False)
    assert one == other
    assert (crew.given, len(crew.done)) == (50, number + 1)


def test_a_budget_of_schedules_is_kept_by_a_search_too() -> None:
    load = kit.Load("steps_program", (2, 2, 1))
    for most in (1, 9, 100, 559):
        one, other, _, divided = kit.both(load, "dfs", Budget(schedules=most), kit.Disorderly(4), bound=None)
        assert one.schedules == other.schedules == most
        assert not other.exhausted
        assert isinstance(divided, BoundedDFS)
        assert not divided.exhausted


@pytest.mark.parametrize("name", ["alternating", "pos"])
def test_a_batch_that_begins_in_the_middle_makes_the_same_runs(name: str) -> None:
    recipe = Recipe(name, {}, 3)

    def made(batch: Batch) -> tuple[list[list[int]], BatchResult]:
        program = kit.Load("many_bugs")()
        choices: list[list[int]] = []
        real = program.run

        def run(oracle: Oracle, observer: Observer | None = None) -> Outcome:
            outcome = real(oracle, observer)
            choices.append(outcome.choices)
            return outcome

        program.run = run
        return choices, run_batch(program, recipe, batch, keep_going=True)

    whole, _ = made(Batch((0,), 60))
    first, _ = made(Batch((0,), 23))
    rest, result = made(Batch((1,), 37, 23))
    # The default measures in run 0 how long runs are, which is made again then, and not counted.
    again = [whole[0]] if name == "alternating" else []
    assert first + rest == whole[:23] + again + whole[23:]
    assert result.schedules == 37
    assert all(23 <= one.run < 60 and list(one.choices) == whole[one.run] for one in result.sightings)


def test_a_start_that_the_user_gave_is_where_the_numbers_begin() -> None:
    load = kit.Load("many_bugs")
    one, other, _, _ = kit.both(load, "random", Budget(schedules=50), kit.Disorderly(3), start=1_000)
    assert one == other


@pytest.mark.parametrize("name", ["urw", "surw", "portfolio"])
def test_strategies_that_learn_do_so_within_a_batch(name: str) -> None:
    load = kit.Load("many_bugs")
    results = [
        kit.both(load, name, Budget(schedules=90), crew)[1] for crew in (Alone(), kit.Disorderly(4), kit.Disorderly(2))
    ]
    # Whoever makes the batches, they are the same ones.
    assert results[0] == results[1] == results[2]
    assert results[0].schedules == 90


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in WITHOUT_SHARDS])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_add_up_to_the_whole(name: str, count: int) -> None:
    load = kit.Load("many_bugs")
    program = load()
    recipe = Recipe(name, {}, 1)
    # A search makes all of its runs: where a number of schedules ends it, each shard has made others than the whole.
    budget = Budget(schedules=None if name in EXHAUSTIVE else 200)

    def shard(index: int, of: int) -> Exploration:
        strategy, crew = recipe.make(), kit.Disorderly(2)
        part = Shard(index, of)
        return explore_in_batches(program, load, recipe, strategy, budget, crew, size=16, shard=part, keep_going=True)

    whole = shard(1, 1)
    parts = [shard(index, count) for index in range(1, count + 1)]
    assert whole.schedules
    assert sum(part.schedules for part in parts) == whole.schedules
    assert sum(part.steps for part in parts) == whole.steps
    assert {one.signature for part in parts for one in part.findings} == {one.signature for one in whole.findings}
    counts = [sum(one.count for one in part.findings) for part in parts]
    assert sum(counts) == sum(one.count for one in whole.findings)
    if count > 1:
        # No part proves anything.
        assert [(part.shard, part.exhausted, part.bound) for part in parts] == [
            (f"{index}/{count}", False, None) for index in range(1, count + 1)
        ]
    if count == 2:
        assert all(part.schedules for part in parts)


@pytest.mark.parametrize(("count", "schedules"), [(1, 200), (2, 200), (3, 198), (7, 196)])
def test_a_budget_of_schedules_is_that_of_all_shards_of_a_search(count: int, schedules: int) -> None:
    # Every shard makes the first piece, but only one counts it: the others do not pay for it either.
    load = kit.Load("many_bugs")
    recipe = Recipe("dfs", {"bound": None}, 1)
    budget = Budget(schedules=200)
    parts: list[Exploration] = []
    for index in range(1, count + 1):
        strategy, crew, part = recipe.make(), kit.Disorderly(2), Shard(index, count)
        one = explore_in_batches(load(), load, recipe, strategy, budget, crew, size=16, shard=part, keep_going=True)
        parts.append(one)
    assert [part.schedules for part in parts] == [schedules // count] * count


class Written(kit.Disorderly):
    """Also keeps the choices of all runs, by the key of their batch."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.program = kit.Load("many_bugs")()
        self.runs: dict[tuple[int, ...], list[list[int]]] = {}
        self._choices: list[list[int]] = []
        self._real = self.program.run
        self.program.run = self._run

    def load(self) -> TestProgram:
        return self.program

    def _run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        outcome = self._real(oracle, observer)
        self._choices.append(outcome.choices)
        return outcome

    def wait(self, stop: Any) -> Any:
        del self._choices[:]
        ((task, result),) = super().wait(stop)
        self.runs[task.batch.key] = list(self._choices)
        return [(task, result)]


def all_within(delays: int) -> list[list[int]]:
    """All runs of `many_bugs` with so many delays at most, found without any bound."""
    program = kit.Load("many_bugs")()
    search = BoundedDFS(None)
    found: list[list[int]] = []
    while search.begin():
        outcome = program.run(search)
        search.end(outcome)
        if sum(outcome.choices) <= delays:
            found.append(outcome.choices)
    return sorted(found)


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_search_by_delays_in_pieces_makes_every_run_once_and_on_its_level(count: int, size: int) -> None:
    recipe = Recipe("idb", {"bound": 4}, 1)
    made: list[list[int]] = []
    roots: list[list[list[int]]] = []
    for index in range(1, count + 1):
        crew = Written(5)
        strategy, part = recipe.make(), Shard(index, count)
        explore_in_batches(
            crew.program, crew.load, recipe, strategy, Budget(), crew, size=size, shard=part, keep_going=True
        )
        for key, runs in crew.runs.items():
            # A delay is worth 1 for each place that a decision is away from the plain one.
            assert {sum(choices) for choices in runs} <= {key[0]}
            if key == (0, 0):
                roots.append(runs)
            else:
                made += runs
        if count == 1:
            assert strategy.completed == 4
    # All shards make the first piece, which tells them what there is to be dealt.
    assert roots == [roots[0]] * count
    assert sorted(made + roots[0]) == all_within(4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(("name", "bound"), [("abba", None), ("questions", None), ("many_bugs", 3)])
def test_a_search_by_delays_comes_to_the_same(name: str, bound: int | None, size: int, order: str) -> None:
    load = kit.Load(name)
    one, other, plain, divided = kit.both(load, "idb", Budget(), ORDERS[order](), size=size, bound=bound)
    assert one == other
    assert isinstance(plain, BoundedDFS)
    assert isinstance(divided, BoundedDFS)
    assert (divided.completed, divided.exhausted) == (plain.completed, plain.exhausted)


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0)])
def test_shards_that_there_are_not(index: int, count: int) -> None:
    with pytest.raises(UsageError, match=f"there is no shard {index} of {count}"):
        Shard(index, count)


@pytest.mark.parametrize("order", ORDERS)
def test_an_error_comes_where_it_would_have_come(order: str) -> None:
    load = kit.Load("misuses", (3,))
    with pytest.raises(UsageError, match="misused") as plain:
        explore(load(), RandomWalk(1), Budget(schedules=500))
    recipe = Recipe("random", {}, 1)
    errors: list[KemuError | None] = []
    try:
        result = explore_in_batches(load(), load, recipe, recipe.make(), Budget(schedules=500), ORDERS[order](), size=2)
    except UsageError as error:
        errors.append(error)
    else:
        # Somebody was quicker, and found something further on: that is not thrown away.
        errors.append(result.error)
        assert result.findings
        assert order != "alone"
    assert [getattr(error, "__notes__", None) for error in errors] == [plain.value.__notes__]


def test_what_was_found_before_an_error_comes_with_it() -> None:
    load = kit.Load("misuses", (8,))
    one, other, _, _ = kit.both(load, "random", Budget(schedules=3_000), kit.Disorderly(3), keep_going=True)
    assert isinstance(other.error, UsageError)
    assert isinstance(one.error, UsageError)
    assert [found.signature for found in other.findings] == [found.signature for found in one.findings]


@pytest.mark.parametrize("keep_going", [True, False])
def test_a_search_ends_with_an_error_like_a_sampler(keep_going: bool) -> None:
    load = kit.Load("misuses", (1,))
    with pytest.raises(UsageError, match="misused"):
        kit.both(load, "dfs", Budget(), kit.Disorderly(3), keep_going=keep_going)


def test_a_piece_whose_worker_died_is_named_and_leaves_what_was_found() -> None:
    class Deadly(kit.Disorderly):
        def wait(self, stop: Any) -> Any:
            ((task, result),) = super().wait(stop)
            return [(task, failed(WorkerDied(task.describe())) if len(self.done) == 4 else result)]

    load = kit.Load("abba")
    recipe = Recipe("dfs", {"bound": None}, 1)
    strategy = recipe.make()
    result = explore_in_batches(
        load(), load, recipe, strategy, Budget(), Deadly(2, lambda n: 0), size=2, keep_going=True
    )
    assert isinstance(result.error, WorkerDied)
    assert re.search(r"made piece 1\.\d+ of the search, of \d+ prefixes \(dfs, seed 1\) of abba;", str(result.error))
    assert len(result.findings) == 1
    assert 0 < result.schedules < 28
    assert (result.exhausted, result.bound) == (False, 0)


def test_a_run_that_shows_something_else_here_is_said() -> None:
    class Lying(kit.Disorderly):
        def wait(self, stop: Any) -> Any:
            ((task, result),) = super().wait(stop)
            sightings = tuple(replace(one, signature=("WRONG", "made up")) for one in result.sightings)
            return [(task, replace(result, sightings=sightings))]

    load = kit.Load("lost_update")
    recipe = Recipe("random", {}, 1)
    result = explore_in_batches(load(), load, recipe, recipe.make(), Budget(schedules=60), Lying(2), keep_going=True)
    assert isinstance(result.error, ScenarioNotDeterministic)
    assert "shows WRONG in this one" in str(result.error)
    (finding,) = result.findings
    assert finding.signature == finding.failure.signature == ("WRONG", "made up")
    assert finding.failure.summary == "WRONG: an update was lost"


def test_stopping_keeps_what_there_is() -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(0)
        return len(asked) > 100

    load = kit.Load("many_bugs")
    recipe = Recipe("random", {}, 1)
    result = explore_in_batches(
        load(), load, recipe, recipe.make(), Budget(), Alone(), size=16, keep_going=True, stop=stop
    )
    assert result.interrupted
    assert 50 < result.schedules < 100
    assert len(result.findings) == 3


@pytest.mark.parametrize("name", ["random", "dfs"])
def test_an_interrupt_in_the_middle_of_a_run_keeps_what_there_is(name: str) -> None:
    load = kit.Load("many_bugs")
    program = load()
    real = program.run
    pending = [KeyboardInterrupt()]

    def run(oracle: Oracle, observer: Observer | None = None) -> Outcome:
        if program.runs == 40 and pending:
            raise pending.pop()
        return real(oracle, observer)

    program.run = run
    recipe = Recipe(name, {}, 1)
    result = explore_in_batches(
        program, lambda: program, recipe, recipe.make(), Budget(), Alone(), size=16, keep_going=True
    )
    assert result.interrupted
    assert result.schedules == 40
    assert bool(result.findings) == (name == "random")
    assert not result.exhausted


def test_a_search_that_was_broken_off_in_a_run_makes_it_again() -> None:
    program = kit.Load("many_bugs")()
    whole = explore(program, BoundedDFS(1), Budget(), keep_going=True)
    for at in range(whole.schedules):
        search = BoundedDFS(1)
        first = explore(program, search, Budget(schedules=at), keep_going=True) if at else None
        assert search.begin()
        # The run meets some decisions, and is never heard of again.
        with pytest.raises(ZeroDivisionError):
            program.run(Breaking(search, after=at % 4))
        rest = BoundedDFS(1)
        rest.resume(search.split())
        second = explore(program, rest, Budget(), keep_going=True)
        assert (first.schedules if first is not None else 0) + second.schedules == whole.schedules
        assert (rest.completed, rest.exhausted) == (1, False)


class Breaking:
    """An oracle that breaks off after so many decisions."""

    def __init__(self, oracle: Oracle, after: int) -> None:
        self.oracle = oracle
        self.after = after

    def begin(self) -> bool:
        raise NotImplementedError

    def pick(self, n: int, point: DecisionPoint) -> int:
        if not self.after:
            raise ZeroDivisionError
        self.after -= 1
        return self.oracle.pick(n, point)

    def choose(self, n: int, label: str) -> int:
        return self.oracle.choose(n, label)


def test_an_interrupt_here_sends_the_crew_home() -> None:
    class Interrupted(kit.Disorderly):
        def wait(self, stop: Any) -> Any:
            if len(self.done) == 3:
                raise KeyboardInterrupt
            return super().wait(stop)

    crew = Interrupted(2, lambda n: 0)
    load = kit.Load("many_bugs")
    recipe = Recipe("random", {}, 1)
    result = explore_in_batches(load(), load, recipe, recipe.make(), Budget(), crew, size=16, keep_going=True)
    assert (result.interrupted, result.schedules, crew.closed) == (True, 48, 1)


def test_time_is_a_budget() -> None:
    load = kit.Load("many_bugs")
    recipe = Recipe("random", {}, 1)
    crew = Alone()
    result = explore_in_batches(load(), load, recipe, recipe.make(), Budget(seconds=0.02), crew, keep_going=True)
    assert 0.02 <= result.seconds < 20
    assert result.schedules > 0
    assert not result.interrupted


def test_progress_is_told() -> None:
    told: list[Progress] = []
    load = kit.Load("many_bugs")
    recipe = Recipe("random", {}, 1)
    crew = kit.Disorderly(4)
    explore_in_batches(
        load(), load, recipe, recipe.make(), Budget(schedules=80), crew, size=16, keep_going=True, progress=told.append
    )
    # The batches that arrive before the first one are in it as well.
    assert [one.schedules for one in told] == [16, 32, 48, 64, 80, 80]
    assert told[-1].findings == 3
    assert told[-1].distinct > 3


def test_a_budget_of_steps_is_refused() -> None:
    with pytest.raises(UsageError, match="budget of steps"):
        kit.both(kit.Load("abba"), "random", Budget(steps=10), Alone())


def _of_seed(seed: int) -> RandomWalk:
    return RandomWalk(seed)


def test_a_strategy_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast("dict[str, Any]", STRATEGIES), "mine", _of_seed)
    with pytest.raises(UsageError, match="'mine' cannot be divided among workers or shards; leave out -j"):
        kit.both(kit.Load("abba"), "mine", Budget(schedules=3), Alone())
    with pytest.raises(UsageError, match=r"'dpor' cannot be divided among shards: .*; leave out --shard"):
        kit.both(kit.Load("abba"), "dpor", Budget(schedules=3), Alone(), shard=Shard(1, 2))


def test_size_of_batches() -> None:
    # About a second each; many of them where there are few schedules; not too small or large.
    assert runs_a_batch(42, None) == STEPS_A_BATCH // 50 == 800
    assert runs_a_batch(0, None) == MOST_RUNS
    assert runs_a_batch(10**9, None) == 16
    assert runs_a_batch(50, 6_400) == 100
    assert runs_a_batch(50, 10) == 16
    # The plain run of the program: main and three threads of three steps, 10 in all.
    assert batch_size(kit.Load("many_bugs")(), None) == 40_000 // 18


def test_sources_say_what_is_open() -> None:
    numbers = Numbers(10, 25, Shard(2, 2))
    assert numbers.lowest() == (1,)
    batch = numbers.take(before=None, most=None)
    assert batch == Batch((1,), 10, 10)
    assert numbers.take(before=None, most=None) is None
    assert numbers.lowest() == (1,)
    pieces = Pieces(BoundedDFS(), 10)
    assert pieces.lowest() == (0, 0)
    assert pieces.take(before=(0, 0), most=None) is None
    assert pieces.take(before=None, most=0) is None
