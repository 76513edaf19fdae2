"""The reduced search in pieces comes to what it comes to in one process: every class once, whoever makes the runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from explore import classics
from explore.campaign import kit
from explore.campaign.test_conductor import ORDERS, Breaking
from explore.campaign.test_journal import Dying, go, lines, manifest
from explore.catalogue import CLASSICS
from explore.generated import EVERYTHING, GeneratedProgram, generate
from explore.programs import Store, TestProgram, Variable, abba, mixed, questions, spawn, timed_wait
from explore.searching import Runs, reduced
from explore.strategies.test_dpor import FAMILIES

from kemu.errors import ScenarioNotDeterministic, UsageError, WorkerDied
from kemu.explore import Budget, Exploration, Portfolio, explore
from kemu.explore.campaign import Alone, Processes, Recipe, explore_in_batches, read_campaign
from kemu.explore.campaign import batch as batches
from kemu.explore.campaign.batch import failed, result_of
from kemu.explore.campaign.frontier import Asleep, Branch, Frontier, Node
from kemu.explore.campaign.merge import merged, part_of
from kemu.explore.campaign.tree import PART, Tree
from kemu.explore.explorer import Collector
from kemu.explore.program import Program
from kemu.explore.strategies import STRATEGIES, DivisibleDPOR, pieces
from kemu.explore.strategies.base import Remainder
from kemu.runtime import Observer, Oracle, Outcome

DPOR = Recipe("dpor", {}, 1)
PORTFOLIO = Recipe("portfolio", {}, 1)


def in_pieces(
    program: TestProgram | GeneratedProgram,
    size: int,
    crew: Any,
    *,
    recipe: Recipe = DPOR,
    budget: Budget | None = None,
    keep_going: bool = True,
) -> tuple[Exploration, Runs]:
    """Explore *program* with batches of so many runs, and say what its complete runs were."""
    batches._programs.clear()
    search = recipe.make()
    seen: list[int] = []
    states: set[object] = set()
    real = program.run

    def run(oracle: Oracle, observer: Observer | None = None) -> Outcome:
        outcome = real(oracle, observer)
        if observer is not None and outcome.end != "abandoned":
            seen.append(outcome.fingerprint)
            if isinstance(program, GeneratedProgram):
                states.add(program.state)
        return outcome

    program.run = run  # type: ignore[method-assign]
    try:
        result = explore_in_batches(
            program,
            lambda: program,
            recipe,
            search,
            budget or Budget(),
            crew,
            size=size * PART,
            keep_going=keep_going,
        )
    finally:
        program.run = real  # type: ignore[method-assign]
    assert getattr(search, "exhausted", False) == result.exhausted
    blocked = result.reduction.blocked if result.reduction is not None else 0
    return replace(result, seconds=0), Runs(len(seen), frozenset(seen), frozenset(states), 0, blocked)


def check(program: TestProgram | GeneratedProgram, one: Runs, size: int, crew: Any) -> None:
    """What comes of pieces is what the search in one process has come to."""
    result, runs = in_pieces(program, size, crew)
    assert result.exhausted
    assert result.reduction is not None
    assert result.reduction.exhausted
    assert result.reduction.traces == runs.made == len(runs.distinct) == result.distinct == one.made
    assert runs.distinct == one.distinct
    assert runs.states == one.states
    assert result.schedules == runs.made + runs.blocked
    assert result.reduction.doubt == one.doubt


SIZES = [1, 2, 7, 1_000]


@pytest.mark.parametrize(("size", "order"), [*((size, "last first") for size in SIZES), (1, "alone"), (2, "in order")])
def test_every_class_of_the_classic_programs_once(size: int, order: str) -> None:
    for name in [name for name, one in CLASSICS.items() if one.traces is not None]:
        program = CLASSICS[name].make()
        program.stops = False
        check(program, reduced(program), size, ORDERS[order]())


@pytest.mark.parametrize("size", [2, 50])
def test_larger_programs(size: int) -> None:
    for program, classes in ((classics.reorder(4), 1_248), (classics.wronglock(3), 360)):
        program.stops = False
        one = reduced(program)
        assert one.made == classes
        check(program, one, size, kit.Disorderly(40))


@pytest.mark.parametrize("main", [abba, timed_wait, questions, mixed], ids=lambda main: main.__name__)
@pytest.mark.parametrize("size", SIZES)
def test_small_programs(main: Callable[[], Any], size: int) -> None:
    program = TestProgram(main, stops=False)
    check(program, reduced(program), size, kit.Disorderly(3))


@pytest.mark.parametrize("families", [*FAMILIES, EVERYTHING], ids="+".join)
def test_generated_programs(families: tuple[str, ...]) -> None:
    compared = 0
    for seed in range(20):
        program = GeneratedProgram(generate(random.Random(seed).randrange, families))
        one = reduced(program)
        if one.made > 60:
            continue
        compared += one.made > 1
        check(program, one, 1 + seed % 5, kit.Disorderly(1 + seed % 7, lambda n: n // 2))
    assert compared >= 3


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("families", [*FAMILIES, EVERYTHING], ids="+".join)
def test_many_generated_programs(families: tuple[str, ...]) -> None:
    for seed in range(1_000):
        program = GeneratedProgram(generate(random.Random(seed).randrange, families))
        one = reduced(program)
        if one.made < 3_000:
            for size in (1, 3, 16):
                check(program, one, size, kit.Disorderly(5, lambda n: n // 2))


# What goes wrong without each part.


class AsksForNothing(DivisibleDPOR):
    """Reversals that belong to the prefix are forgotten."""

    def split(self) -> Remainder:
        left = super().split()
        return replace(left, now=tuple(pieces.report_of(report)._replace(asked=()) for report in left.now))


class KnowsNobodyAsleep(DivisibleDPOR):
    """A piece does not know what was explored from the state that it begins at."""

    def _unpacked(self, item: pieces.Item) -> dict[int, Any]:
        return {}


class OneVector(DivisibleDPOR):
    """The other answers in a step at which the search is cut are forgotten."""

    def split(self) -> Remainder:
        left = super().split()
        return replace(left, now=tuple(self._without(pieces.report_of(report)) for report in left.now))

    def _without(self, report: pieces.Report) -> pieces.Report:
        states = [state._replace(open=()) for state in report.states]
        if states:
            states[-1] = states[-1]._replace(open=report.states[-1].open[:1])
        return report._replace(open=(), states=tuple(states))


@pytest.mark.parametrize(
    ("make", "program"),
    [
        (AsksForNothing, kit.increments(3, 2)),
        (KnowsNobodyAsleep, kit.increments(3, 2)),
        (OneVector, TestProgram(questions)),
    ],
)
def test_every_part_is_needed(monkeypatch: pytest.MonkeyPatch, make: type[DivisibleDPOR], program: TestProgram) -> None:
    one = reduced(program)
    check(program, one, 1, Alone())
    monkeypatch.setitem(cast("dict[str, Any]", STRATEGIES), "dpor", make)
    with pytest.raises(AssertionError):
        check(program, one, 1, Alone())


# Budgets, findings, errors, interrupts.


@pytest.mark.parametrize("most", [1, 9, 100, 1_247])
def test_a_budget_of_schedules_is_kept(most: int) -> None:
    program = classics.reorder(4)
    program.stops = False
    results = [
        in_pieces(program, 10, ORDERS[order](), budget=Budget(schedules=most))[0] for order in ("alone", "last first")
    ]
    assert results[0] == results[1]
    assert results[0].schedules == most
    assert not results[0].exhausted
    assert results[0].reduction is not None
    assert not results[0].reduction.exhausted


@pytest.mark.parametrize("recipe", [DPOR, PORTFOLIO], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("keep_going", [True, False])
def test_what_is_found_does_not_depend_on_who_was_quick(recipe: Recipe, keep_going: bool) -> None:
    results = [
        in_pieces(classics.wronglock(3), 5, ORDERS[order](), recipe=recipe, budget=Budget(200), keep_going=keep_going)[
            0
        ]
        for order in ORDERS
    ]
    assert results[0].findings
    assert all(result == results[0] for result in results)
    assert not results[0].exhausted


def test_the_explorer_ends_with_the_first_finding() -> None:
    result, _ = in_pieces(TestProgram(abba), 1, kit.Disorderly(4), keep_going=False)
    assert len(result.findings) == 1
    assert not result.exhausted
    found, _ = in_pieces(TestProgram(abba), 1, kit.Disorderly(4))
    assert found.exhausted
    assert len(found.findings) == 1


@pytest.mark.parametrize("at", range(12))
def test_a_search_that_was_broken_off_in_a_run_makes_it_again(at: int) -> None:
    program = kit.Load("many_bugs")()
    whole = reduced(program)
    search = DivisibleDPOR()
    collected = Collector()
    explore(program, search, Budget(schedules=at), keep_going=True, collected=collected) if at else None
    assert search.begin()
    with pytest.raises(ZeroDivisionError):
        program.run(Breaking(search, after=at % 4), search.observer)
    left = search.split()
    # Whoever has broken off may also go on.
    rest = Collector()
    first = search.traces
    explore(program, search, Budget(), keep_going=True, collected=rest)
    assert first + rest.classes.count == whole.made == search.traces
    tree = Tree(_Given(left, at), 3)
    traces = first
    while (batch := tree.take(before=None, most=None)) is not None:
        result = batches.run_batch(program, DPOR, batch, keep_going=True)
        assert result.reduction is not None
        traces += result.reduction.traces
        tree.give(batch, result)
    assert tree.finished
    assert traces == whole.made


class _Given(DivisibleDPOR):
    """Has that left."""

    def __init__(self, left: Remainder, runs: int) -> None:
        super().__init__()
        self._left_over = left
        self.traces = runs

    def split(self) -> Remainder:
        return self._left_over


def test_a_search_goes_on_in_pieces_where_it_was_in_one_process() -> None:
    program = classics.wronglock(3)
    program.stops = False
    for first in (1, 37, 369, 370):
        search, collected = DivisibleDPOR(), Collector()
        search.prepare()
        begun = explore(program, search, Budget(first), keep_going=True, collected=collected)
        assert not begun.exhausted
        result = explore_in_batches(
            program,
            lambda: program,
            DPOR,
            search,
            Budget(),
            kit.Disorderly(3),
            size=32,
            begun=result_of(collected, seconds=1.0, reduction=begun.reduction),
            keep_going=True,
        )
        batches._programs.clear()
        assert (result.exhausted, search.exhausted) == (True, True)
        assert result.reduction is not None
        assert (result.reduction.traces, result.reduction.blocked) == (360, 10)
        assert (result.schedules, result.distinct) == (370, 360)


def test_a_piece_that_came_to_nothing_is_still_to_be_made() -> None:
    class Deadly(kit.Disorderly):
        def wait(self, stop: Any) -> Any:
            ((task, result),) = super().wait(stop)
            return [(task, failed(WorkerDied(task.describe())) if len(self.done) == 6 else result)]

    load = kit.Load("steps_program", (2, 2, 1))
    with pytest.raises(WorkerDied, match=r"made piece \d+\.0 of the search, of \d+ prefixes \(dpor, seed 1\)"):
        explore_in_batches(load(), load, DPOR, DPOR.make(), Budget(), Deadly(2), size=2 * PART, keep_going=True)


def test_the_piece_of_a_worker_that_died_is_made_again(tmp_path: Path) -> None:
    load = kit.Load("dies", (), str(tmp_path / "died"))
    program = load()
    one = explore(program, DivisibleDPOR(), Budget(), keep_going=True)
    crew = Processes(2)
    try:
        result = explore_in_batches(program, load, DPOR, DPOR.make(), Budget(), crew, size=PART, keep_going=True)
    finally:
        crew.close()
    assert (tmp_path / "died").exists()
    assert result.exhausted
    assert (result.reduction, result.schedules) == (one.reduction, one.schedules)
    assert [found.signature for found in result.findings] == [found.signature for found in one.findings]


def test_a_program_that_differs_in_another_process() -> None:
    bodies: list[int] = []

    async def main() -> None:
        bodies.append(0)
        x = Variable("x")

        async def writer() -> None:
            await Store(x, 1)

        for number in range(3 if len(bodies) < 4 else 2):
            spawn(f"{number}", writer())

    with pytest.raises(ScenarioNotDeterministic, match="there are 2 alternatives; in an earlier run there were 3"):
        in_pieces(TestProgram(main), 1, Alone())


# The portfolio: the search, and samplers besides.


@pytest.mark.parametrize(("size", "order"), [(2, "alone"), (16, "alone"), (16, "last first"), (16, "middle first")])
def test_a_portfolio_proves_what_it_proves_in_one_process(size: int, order: str) -> None:
    program = classics.wronglock(3)
    program.stops = False
    one = explore(program, Portfolio(1), Budget(), keep_going=True)
    result, _ = in_pieces(program, size, ORDERS[order](), recipe=PORTFOLIO)
    assert result.exhausted
    assert result.reduction == one.reduction
    assert result.reduction is not None
    assert result.reduction.traces == 360
    # About as many runs are drawn as the search makes.
    drawn = result.schedules - 370
    assert 200 < drawn < 1_000
    assert sum(counter.runs for counter in result.samples.values()) <= drawn
    assert result == in_pieces(program, size, kit.Disorderly(7, lambda n: 0), recipe=PORTFOLIO)[0]
    # Runs that are watched see more: they do not count as other ones than those that are drawn.
    assert result.distinct <= 360


def test_samplers_have_what_the_search_leaves() -> None:
    program = kit.Load("steps_program", (9, 9, 9))()
    for most, search in ((90, 45), (1_000, 40)):
        recipe = Recipe("portfolio", {"reduced": 40} if search == 40 else {}, 1)
        results = [in_pieces(program, 4, ORDERS[order](), recipe=recipe, budget=Budget(most))[0] for order in ORDERS]
        assert all(result == results[0] for result in results)
        assert results[0].schedules == most
        assert results[0].reduction is not None
        assert results[0].reduction.traces + results[0].reduction.blocked == search
        assert not results[0].exhausted


def test_a_search_that_cannot_prove_anything_is_left_out() -> None:
    load = kit.Load("many_bugs")
    result, _ = in_pieces(load(), 4, kit.Disorderly(3), recipe=PORTFOLIO, budget=Budget(400))
    assert result.schedules == 400
    assert result.reduction is not None
    assert result.reduction.doubt == "a run was cut short"
    assert not result.exhausted
    # Those batches that were handed out when it became clear.
    assert result.reduction.traces < 40 * 4
    alone, _ = in_pieces(load(), 4, kit.Disorderly(3), budget=Budget(400))
    assert alone.reduction is not None
    assert alone.exhausted


def test_runs_are_numbered_in_the_order_of_batches() -> None:
    result, _ = in_pieces(kit.Load("many_bugs")(), 4, kit.Disorderly(3), recipe=PORTFOLIO, budget=Budget(60))
    assert result.findings
    assert all(found.run < 60 for found in result.findings)
    assert [found.run for found in result.findings] == sorted(found.run for found in result.findings)


def test_time_is_a_budget_of_both() -> None:
    program = kit.Load("steps_program", (9, 9, 9))()
    result, _ = in_pieces(program, 50, Alone(), recipe=PORTFOLIO, budget=Budget(seconds=0.2))
    assert not result.exhausted
    assert not result.interrupted
    assert result.reduction is not None
    assert 0 < result.reduction.traces < result.schedules


# Campaigns.

LOAD = kit.Load("increments", (3, 2))


@pytest.mark.parametrize("name", ["dpor", "portfolio"])
@pytest.mark.parametrize("after", [1, 4, 9])
def test_going_on_comes_to_the_same_as_never_stopping(tmp_path: Path, after: int, name: str) -> None:
    meant = manifest(LOAD, name, schedules=None)
    whole, strategy = go(tmp_path / "whole", LOAD, meant, Alone(), None)
    assert whole.exhausted
    assert whole.reduction is not None
    first, _ = go(tmp_path / "parts", LOAD, meant, Dying(after), None)
    assert first.interrupted
    assert not first.exhausted
    second, then = go(tmp_path / "parts", LOAD, meant, kit.Disorderly(2), None)
    assert second == whole
    assert getattr(then, "exhausted", False) == getattr(strategy, "exhausted", False) is True
    crew = kit.Disorderly(2)
    assert go(tmp_path / "parts", LOAD, meant, crew, None)[0] == whole
    assert crew.given == 0
    # Whoever only looks sees the same.
    campaign = read_campaign(tmp_path / "parts")
    part = part_of(campaign, 0)
    assert (part.done, part.ended, part.total.reduction) == (True, False, replace(whole.reduction, exhausted=False))
    looked = merged([campaign], 0, LOAD(), meant.recipe.make())
    assert replace(looked, seconds=0) == whole


def test_a_batch_that_was_cut_short_counts(tmp_path: Path) -> None:
    meant = manifest(LOAD, "dpor", schedules=None)
    whole, _ = go(tmp_path / "whole", LOAD, meant, Alone(), None)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(0)
        return len(asked) > 14

    first, _ = go(tmp_path / "parts", LOAD, meant, Alone(), None, stop=stop)
    assert first.interrupted
    assert sum(line["schedules"] for line in lines(tmp_path / "parts")) == first.schedules
    assert not all(line["whole"] for line in lines(tmp_path / "parts"))
    second, _ = go(tmp_path / "parts", LOAD, meant, Alone(), None)
    assert second.exhausted
    assert second.reduction == whole.reduction


@pytest.mark.parametrize("name", ["dpor", "portfolio"])
def test_more_schedules_go_on_from_fewer(tmp_path: Path, name: str) -> None:
    meant = manifest(LOAD, name)
    one = reduced(LOAD())
    for schedules in (7, 30, 55, 90, None):
        result, _ = go(tmp_path, LOAD, meant, kit.Disorderly(3), schedules)
        if not result.exhausted:
            assert result.schedules == schedules
        assert result.reduction is not None
        if name == "dpor":
            assert result.distinct == result.reduction.traces
    assert result.exhausted
    assert result.reduction.traces == one.made


def test_a_batch_of_other_pieces_is_made_again(tmp_path: Path) -> None:
    """The key of a batch of the search does not say what its pieces are."""
    meant = manifest(LOAD, "dpor", schedules=None)
    whole, _ = go(tmp_path, LOAD, meant, Alone(), None)
    path = tmp_path / "batches.jsonl"
    digest = lines(tmp_path)[5]["digest"]
    path.write_text(path.read_text().replace(digest, "0" * len(digest)))
    crew = kit.Disorderly(2)
    again, _ = go(tmp_path, LOAD, meant, crew, None)
    assert again == whole
    assert crew.given == 1


def test_pieces_come_back_from_a_file_as_they_were() -> None:
    import json

    program = LOAD()
    search = DivisibleDPOR()
    explore(program, search, Budget(5), keep_going=True)
    (report,) = search.split().now
    back = pieces.report_of(json.loads(json.dumps(report)))
    assert back == report
    frontier = Frontier()
    (piece,) = frontier.take(1)
    frontier.apply(piece, back)
    items = [one.item() for one in frontier.open]
    assert items
    assert [pieces.item_of(json.loads(json.dumps(item))) for item in items] == items


def test_a_program_that_cannot_be_watched_is_not_proved() -> None:
    class Opaque(TestProgram):
        can_track = False

        def instrumented(self, tracked: bool = True) -> Program:
            raise NotImplementedError

    result, _ = in_pieces(Opaque(mixed), 2, Alone())
    assert result.reduction is not None
    assert result.reduction.doubt == "what the code does to its own state was not seen"
    with pytest.raises(UsageError, match="budget of steps"):
        in_pieces(Opaque(mixed), 2, Alone(), budget=Budget(steps=3))


def test_what_a_state_is_asked_for() -> None:
    """One of some parties, of which none is to be explored yet; or all that are not, if it is not known which."""
    a, b, c, d = (0, 0), (0, 1), (0, 2), (0, 3)
    sleep = {b: Asleep(False, {(): ()}), d: Asleep(True, {(): ()})}

    def node() -> Node:
        return Node(None, None, 0, (a, b, c, d), sleep, [Branch(a)], {a})

    def wanted(*places: int) -> list[tuple[int, ...]]:
        one = node()
        one.want(places)
        return [branch.party for branch in one.branches[1:]]

    assert wanted(2, 3) == [c]
    assert wanted(3, 2) == [d]
    # One goes on already, and one has been through all there is.
    assert wanted(2, 0) == wanted(2, 1) == []
    assert wanted() == [c, d]
    one = node()
    one.want((2,))
    one.want(())
    assert [branch.party for branch in one.branches] == [a, c, d]
    # Who comes later sleeps on what those before it have done.
    one.branches[0].vectors[1,] = (((0, 7), 1),)
    before = one.asleep_before(one.branches[1])
    assert before == {**sleep, a: Asleep(False, {(1,): (((0, 7), 1),)})}
