"""Conducting: batches are handed out, and what comes back is put in order and added up.

The result is that of the same exploration made run by run: results are added in the order of their batches, and what
comes after the end, such as the first failure, is not added at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING

from kemu.errors import UsageError
from kemu.explore.campaign.batch import Batch, BatchResult, Key, Loader, Recipe, Task
from kemu.explore.campaign.crew import Crew
from kemu.explore.campaign.journal import Journal
from kemu.explore.campaign.source import WHOLE, Numbers, Pieces, Shard, Source, runs_a_batch
from kemu.explore.campaign.total import Total
from kemu.explore.campaign.tree import PART, DivisibleSearch, Mixed, Tree
from kemu.explore.explorer import Budget, Exploration, Progress
from kemu.explore.strategies import STRATEGIES
from kemu.explore.strategies.base import Divisible, Strategy
from kemu.explore.strategies.replay import Replay

if TYPE_CHECKING:
    from kemu.explore.program import Program


def batch_size(program: Program, schedules: int | None) -> int:
    """How many runs a batch of *program* has: it follows from the length of its plain run."""
    oracle = Replay(())
    oracle.begin()
    return runs_a_batch(program.run(oracle).steps, schedules)


def source_of(
    recipe: Recipe, strategy: Strategy, size: int, schedules: int | None, shard: Shard = WHOLE, start: int = 0
) -> Source:
    """Where the batches of that strategy come from; numbers of runs begin with *start*.

    Raises `UsageError` if it cannot be done in batches.
    """
    is_numbered = "start" in parameters_of(recipe.name)
    left = None if schedules is None else max(0, schedules - start)
    if isinstance(strategy, DivisibleSearch):
        if shard.count == 1:
            return tree_of(strategy, size, start, left, is_numbered=is_numbered)
        if not is_numbered:
            raise UsageError(
                f"the strategy {recipe.name!r} cannot be divided among shards: its pieces have to do with each other",
                remedy="leave out --shard, or choose another strategy; -j and --cluster divide this one, too",
            )
    elif isinstance(strategy, Divisible):
        return Pieces(strategy, size, shard)
    if not is_numbered:
        raise UsageError(
            f"the strategy {recipe.name!r} cannot be divided among workers or shards",
            remedy="leave out -j, --shard, --cluster and --campaign, or choose another strategy",
        )
    return Numbers(size, schedules, shard, start)


def tree_of(
    search: DivisibleSearch, size: int, start: int, schedules: int | None, *, is_numbered: bool
) -> Tree | Mixed:
    """The batches of a reduced search; with those of samplers, whose runs have numbers, if it is part of a strategy."""
    runs = max(1, size // PART)
    if not is_numbered:
        return Tree(search, runs, schedules)
    limits = [limit for limit in (search.left, None if schedules is None else schedules // 2) if limit is not None]
    share = min(limits, default=None)
    return Mixed(Tree(search, runs, share, only_proof=True), size, start, schedules, share or 0)


def explore_in_batches(
    program: Program,
    load: Loader,
    recipe: Recipe,
    strategy: Strategy,
    budget: Budget,
    crew: Crew,
    *,
    size: int | None = None,
    shard: Shard = WHOLE,
    journal: Journal | None = None,
    begun: BatchResult | None = None,
    keep_going: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Exploration:
    """Explore *program* as `kemu.explore.explore` does, in batches that *crew* makes.

    *load* gives the program in other processes. *recipe* makes the strategy there; *strategy*, made by it as well,
    tells afterwards what was completed. The schedules of the *budget* are those of all shards together. With a
    *journal*, batches that it has are not made again, and new ones are written into it. *begun* is what the first runs
    came to, if they were made already: the numbers of the others come after theirs.
    """
    if budget.steps is not None:
        raise UsageError("a budget of steps is for one process", remedy="give schedules or seconds")
    if size is None:
        size = batch_size(program, budget.schedules)
    start = 0 if begun is None else begun.schedules
    source = source_of(recipe, strategy, size, budget.schedules, shard, start)
    conductor = Conductor(program, load, recipe, source, crew, journal, keep_going=keep_going)
    if begun is not None:
        conductor.total.add(begun)
    if isinstance(source, Pieces) and budget.schedules is not None:
        conductor.credit = max(1, budget.schedules // shard.count)
    conductor.conduct(budget.seconds, progress or (lambda _: None), stop or (lambda: False))
    if shard.count == 1:
        conductor.conclude(strategy)
    return exploration_of(
        conductor.total,
        program,
        strategy,
        seconds=conductor.seconds,
        exhausted=source.finished and not conductor.ended and shard.count == 1,
        interrupted=conductor.interrupted,
        shard=str(shard) if shard.count > 1 else "",
    )


def exploration_of(
    total: Total,
    program: Program,
    strategy: Strategy,
    *,
    seconds: float,
    exhausted: bool,
    interrupted: bool,
    shard: str,
) -> Exploration:
    """*total* as a result. Raises the error that ended it, if nothing was found."""
    findings = total.findings(program)
    if total.error is not None and not findings:
        raise total.error
    return Exploration(
        program=program.name,
        strategy=strategy.name,
        seed=strategy.seed,
        schedules=total.schedules,
        distinct=total.distinct.count,
        distinct_is_exact=total.distinct.exact,
        steps=total.steps,
        shortest=total.shortest,
        longest=total.longest,
        findings=findings,
        exhausted=exhausted,
        bound=strategy.completed,
        seconds=seconds,
        interrupted=interrupted,
        error=total.error,
        shard=shard,
        samples=total.samples,
        reduction=None if total.reduction is None else replace(total.reduction, exhausted=exhausted),
    )


def parameters_of(name: str) -> set[str]:
    """What the strategy of that name takes."""
    return set(signature(STRATEGIES[name]).parameters)


def _is_worth_keeping(batch: Batch, result: BatchResult) -> bool:
    """Whether the campaign can go on from *result*: a part of a range of numbers is made again as a whole."""
    return result.whole or (batch.piece is not None and result.schedules > 0)


class Adding:
    """Results put in order and added up."""

    def __init__(self, source: Source, *, keep_going: bool) -> None:
        self.total = Total()
        self.over = False
        """Whether the batch that ends the exploration has been added."""
        self.ended = False
        """Whether it was ended by a finding or an error, and not by a proof."""
        self._source = source
        self._keep_going = keep_going
        self._arrived: dict[Key, tuple[Batch, BatchResult]] = {}
        self._end: Key | None = None
        """The first batch known to end the exploration. What comes before it is still made."""

    def accept(self, batch: Batch, result: BatchResult) -> bool:
        """Take in what counts of *batch*. Returns whether it tells of an end of the exploration, or an earlier one."""
        key = batch.key
        self._arrived[key] = (batch, result)
        is_new = self._ends(result) and (self._end is None or key < self._end)
        if is_new:
            self._end = key
        proved = self._source.end
        if proved is not None and (self._end is None or proved < self._end):
            self._end = proved
            is_new = True
        while self._arrived and not self.over:
            key = min(self._arrived)
            lowest = self._source.lowest()
            if lowest is not None and lowest < key:
                break
            self.over = key == self._end
            self.ended = self.over and self._ends(self._arrived[key][1])
            self._add(key)
        return is_new

    def _ends(self, result: BatchResult) -> bool:
        return result.error is not None or (bool(result.sightings) and not self._keep_going)

    def add_rest(self) -> None:
        """Add what is left out of order when it did not end with a finding: nothing that was made is lost."""
        if not self.over or self.total.error is not None:
            for key in sorted(self._arrived):
                self._add(key)

    def _add(self, key: Key) -> None:
        batch, result = self._arrived.pop(key)
        first = 0
        if batch.piece is not None or batch.is_among_others:
            first = self.total.schedules - batch.first
        self.total.add(result, first=first)

    def conclude(self, strategy: Strategy) -> None:
        """Tell *strategy* what was completed."""
        self._source.conclude(strategy, self._end if self.over else None)


class Recount(Adding):
    """What a journal alone comes to."""

    def __init__(self, source: Source, journal: Journal, *, keep_going: bool) -> None:
        super().__init__(source, keep_going=keep_going)
        self._journal = journal

    def conduct(self) -> None:
        """Add up what is there."""
        keys = self._journal.keys()
        beyond: Key = (keys[-1][0] + 1,) if keys else ()
        while (batch := self._source.take(before=min(self._end or beyond, beyond), most=None)) is not None:
            known = self._journal.known(batch)
            if known is not None:
                self.accept(batch, self._source.give(batch, known))
        self.add_rest()


class Conductor(Adding):
    """One exploration in batches."""

    def __init__(
        self,
        program: Program,
        load: Loader,
        recipe: Recipe,
        source: Source,
        crew: Crew,
        journal: Journal | None,
        *,
        keep_going: bool,
    ) -> None:
        super().__init__(source, keep_going=keep_going)
        self.credit: int | None = None
        """How many runs may still be made, if the source does not know."""
        self.interrupted = False
        self.seconds = 0.0
        self._is_ending = False
        """Whether everybody was told to stop, so that a batch which did was not interrupted by the user."""
        self._program = program
        self._load = load
        self._recipe = recipe
        self._crew = crew
        self._journal = journal
        self._started = time.perf_counter()

    def conduct(self, seconds: float | None, progress: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
        """Hand out batches until it is over."""
        deadline = None if seconds is None else self._started + seconds
        crew = self._crew
        is_orderly = False
        try:
            while True:
                self.interrupted = self.interrupted or stop()
                if self.interrupted or (deadline is not None and time.perf_counter() >= deadline):
                    self._is_ending = True
                    crew.stop_all()
                else:
                    self._hand_out(deadline)
                if self.over or not crew.busy:
                    break
                self._wait(stop)
                progress(self._progress())
            # What comes after a finding is of no use; but nobody may go on with it.
            crew.stop_all()
            while crew.busy:
                self._wait(stop)
            is_orderly = True
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            if not is_orderly:
                crew.close(at_once=True)
        self.add_rest()
        self.seconds = time.perf_counter() - self._started
        progress(self._progress())

    def _hand_out(self, deadline: float | None) -> None:
        while self._crew.idle and not self.over:
            batch = self._source.take(before=self._end, most=self.credit)
            if batch is None:
                return
            if self.credit is not None:
                self.credit -= batch.runs
            known = self._journal.known(batch) if self._journal is not None else None
            if known is not None:
                self._returned(batch, known, is_new=False)
            else:
                self._crew.submit(self._task(batch, deadline))

    def _task(self, batch: Batch, deadline: float | None) -> Task:
        seconds = None if deadline is None else max(1e-3, deadline - time.perf_counter())
        program = self._program
        return Task(self._load, program.name, program.identity, self._recipe, batch, self._keep_going, seconds)

    def _wait(self, stop: Callable[[], bool]) -> None:
        for task, result in self._crew.wait(stop):
            if result.interrupted and self._end is None and not self._is_ending:
                # Where the crew is this process, the interrupt may have come in the middle of a run.
                self.interrupted = True
            self._returned(task.batch, result, is_new=True)

    def _returned(self, batch: Batch, result: BatchResult, *, is_new: bool) -> None:
        counted = self._source.give(batch, result)
        if self.credit is not None:
            # Runs that count for another shard are not charged to this one.
            self.credit += batch.runs - counted.schedules
        if self._journal is not None and is_new and _is_worth_keeping(batch, counted):
            self._journal.write(batch, counted)
        if self.accept(batch, counted):
            self._crew.stop_all(after=self._end)

    def _progress(self) -> Progress:
        waiting = sum(result.schedules for _, result in self._arrived.values())
        return Progress(
            schedules=self.total.schedules + waiting + self._crew.made(),
            distinct=self.total.distinct.count,
            findings=len(self.total.sightings),
            seconds=time.perf_counter() - self._started,
        )
