"""Batches that follow runs made before, and strategies of which only a part can be done in batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from explore.campaign import kit

from kemu.explore import Budget, Exploration, Portfolio, explore
from kemu.explore.campaign import Alone, BatchResult, Recipe, Task, conductor, explore_in_batches
from kemu.explore.campaign.batch import Batch, perform, result_of, run_batch
from kemu.explore.campaign.crew import Stop
from kemu.explore.campaign.source import Numbers, Shard
from kemu.explore.explorer import Collector

LOAD = kit.Load("many_bugs")


def divided(budget: Budget, begun: BatchResult | None, *, keep_going: bool = True) -> Exploration:
    recipe = Recipe("random", {}, 5)
    return explore_in_batches(
        LOAD(), LOAD, recipe, recipe.make(), budget, kit.Disorderly(3), size=16, begun=begun, keep_going=keep_going
    )


@pytest.mark.parametrize("first", [1, 20, 99])
def test_what_was_begun_counts_and_is_not_made_again(first: int) -> None:
    collected = Collector()
    begun = explore(LOAD(), Recipe("random", {}, 5).make(), Budget(first), keep_going=True, collected=collected)
    whole = divided(Budget(100), None)
    both = divided(Budget(100), result_of(collected, seconds=begun.seconds))
    assert both.schedules == whole.schedules == 100
    assert (both.steps, both.shortest, both.longest) == (whole.steps, whole.shortest, whole.longest)
    assert both.distinct == whole.distinct
    assert both.findings == whole.findings
    assert both.estimates == whole.estimates


def test_numbers_begin_where_they_are_told_to() -> None:
    source = Numbers(10, 45, Shard(2, 2), 5)
    made: list[tuple[int, int]] = []
    while (batch := source.take(before=None, most=None)) is not None:
        made.append((batch.first, batch.runs))
    assert made == [(15, 10), (35, 10)]
    assert Numbers(10, 5, start=5).take(before=None, most=None) is None


def test_the_search_of_a_portfolio_is_no_part_of_a_batch() -> None:
    load = kit.Load("abba")
    program = load()
    # By itself it has explored everything long before.
    program.stops = False
    assert explore(program, Portfolio(3), Budget(30), keep_going=True).schedules < 30
    result = run_batch(program, Recipe("portfolio", {}, 3), Batch((0,), 30), keep_going=True)
    assert (result.schedules, result.whole) == (30, True)
    assert result.distinct.count > 1


class Late:
    """Has one task, which it goes on with until it is told to stop."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.stopped = False

    @property
    def idle(self) -> int:
        return int(self.task is None)

    @property
    def busy(self) -> int:
        return int(self.task is not None)

    def submit(self, task: Task) -> None:
        self.task = task

    def wait(self, stop: Stop) -> list[tuple[Task, BatchResult]]:
        if not self.stopped or self.task is None:
            return []
        task, self.task = self.task, None
        return [(task, perform(task, lambda: True))]

    def made(self) -> int:
        return 0

    def stop_all(self, after: object = None) -> None:
        self.stopped = True

    def close(self, *, at_once: bool = False) -> None:
        """Nothing: nobody was hired."""


@pytest.mark.parametrize("asked", [False, True])
def test_a_batch_that_ends_with_the_time_is_no_interrupt(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(conductor, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    recipe = Recipe("random", {}, 5)
    crew = Late()
    result = explore_in_batches(
        LOAD(), LOAD, recipe, recipe.make(), Budget(seconds=20), crew, size=16, keep_going=True, stop=lambda: asked
    )
    assert crew.stopped
    assert result.interrupted is asked
    assert result.schedules == int(not asked)


def test_a_batch_of_this_process_that_is_interrupted_is_one() -> None:
    recipe = Recipe("random", {}, 5)
    answers = iter([False, False, True])
    result = explore_in_batches(
        LOAD(),
        LOAD,
        recipe,
        recipe.make(),
        Budget(seconds=20),
        Alone(),
        size=16,
        keep_going=True,
        stop=lambda: next(answers, False),
    )
    assert result.interrupted
    assert result.schedules == 2
