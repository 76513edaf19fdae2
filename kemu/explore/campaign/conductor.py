"""Conducting: batches are handed out, and what comes back is put in order and added up.

The result is that of the same exploration made run by run: results are added in the order of their batches, and what
comes after the end, such as the first failure, is not added at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING

from kemu.errors import KemuError, UsageError
from kemu.explore.campaign.batch import Batch, BatchResult, Key, Loader, Recipe, Task
from kemu.explore.campaign.crew import Crew
from kemu.explore.campaign.journal import Journal
from kemu.explore.campaign.source import WHOLE, Numbers, Pieces, Shard, Source, runs_a_batch
from kemu.explore.campaign.total import Total
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


def source_of(recipe: Recipe, strategy: Strategy, size: int, schedules: int | None, shard: Shard = WHOLE) -> Source:
    """Where the batches of that strategy come from. Raises `UsageError` if it cannot be done in batches."""
    if isinstance(strategy, Divisible):
        return Pieces(strategy, size, shard)
    if "start" not in parameters_of(recipe.name):
        raise UsageError(
            f"the strategy {recipe.name!r} cannot be divided among workers or shards",
            remedy="leave out -j, --shard, --cluster and --campaign, or choose another strategy",
        )
    return Numbers(size, schedules, shard)


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
    keep_going: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Exploration:
    """Explore *program* as `kemu.explore.explore` does, in batches that *crew* makes.

    *load* gives the program in other processes. *recipe* makes the strategy there; *strategy*, made by it as well,
    tells afterwards what was completed. The schedules of the *budget* are those of all shards together. With a
    *journal*, batches that it has are not made again, and new ones are written into it.
    """
    if budget.steps is not None:
        raise UsageError("a budget of steps is for one process", remedy="give schedules or seconds")
    if size is None:
        size = batch_size(program, budget.schedules)
    source = source_of(recipe, strategy, size, budget.schedules, shard)
    conductor = Conductor(program, load, recipe, source, crew, keep_going=keep_going)
    conductor.journal = journal
    if isinstance(source, Pieces) and budget.schedules is not None:
        conductor.credit = max(1, budget.schedules // shard.count)
    conductor.conduct(budget.seconds, progress or (lambda _: None), stop or (lambda: False))
    return conductor.exploration(strategy)


def parameters_of(name: str) -> set[str]:
    """What the strategy of that name takes."""
    return set(signature(STRATEGIES[name]).parameters)


def _is_worth_keeping(batch: Batch, result: BatchResult) -> bool:
    """Whether the campaign can go on from *result*: a part of a range of numbers is made again as a whole."""
    return result.whole or (batch.piece is not None and result.remainder is not None and result.schedules > 0)


class Conductor:
    """One exploration in batches."""

    def __init__(
        self, program: Program, load: Loader, recipe: Recipe, source: Source, crew: Crew, *, keep_going: bool
    ) -> None:
        self.journal: Journal | None = None
        self.credit: int | None = None
        """How many runs may still be made, if the source does not know."""
        self._program = program
        self._load = load
        self._recipe = recipe
        self._source = source
        self._crew = crew
        self._keep_going = keep_going
        self._total = Total()
        self._arrived: dict[Key, tuple[Batch, BatchResult]] = {}
        self._end: Key | None = None
        """The first batch known to end the exploration. What comes before it is still made."""
        self._over = False
        """Whether that batch has been added."""
        self._errors: list[tuple[Key, KemuError]] = []
        self._interrupted = False
        self._started = time.perf_counter()
        self._seconds = 0.0

    def conduct(self, seconds: float | None, progress: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
        """Hand out batches until it is over."""
        deadline = None if seconds is None else self._started + seconds
        crew = self._crew
        at_once = True
        try:
            while True:
                late = deadline is not None and time.perf_counter() >= deadline
                if stop() and not self._interrupted:
                    self._interrupted = True
                if late or self._interrupted:
                    crew.stop_all()
                else:
                    self._hand_out(deadline)
                if self._over or not crew.busy:
                    break
                for task, result in crew.wait(stop):
                    self._accept(task.batch, result)
                progress(self._progress())
            # What comes after a finding is of no use; but nobody may go on with it.
            crew.stop_all()
            while crew.busy:
                for task, result in crew.wait(stop):
                    self._accept(task.batch, result)
            at_once = False
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            if at_once:
                crew.close(at_once=True)
        self._add_rest()
        self._seconds = time.perf_counter() - self._started
        progress(self._progress())

    def _add_rest(self) -> None:
        """Add what is left out of order when it did not end with a finding: nothing that was made is lost."""
        if not self._over or self._total.error is not None:
            for key in sorted(self._arrived):
                self._add(key)

    def recount(self) -> Total:
        """What the journal alone comes to."""
        assert self.journal is not None
        keys = self.journal.keys()
        beyond = (keys[-1][0] + 1,) if keys else ()
        while (batch := self._source.take(before=min(self._end or beyond, beyond), most=None)) is not None:
            known = self.journal.known(batch)
            if known is not None:
                self._accept(batch, known, is_known=True)
        self._add_rest()
        return self._total

    def _hand_out(self, deadline: float | None) -> None:
        while self._crew.idle and not self._over:
            batch = self._source.take(before=self._end, most=self.credit)
            if batch is None:
                return
            known = self.journal.known(batch) if self.journal is not None else None
            if self.credit is not None:
                self.credit -= batch.runs
            if known is not None:
                self._accept(batch, known, is_known=True)
                continue
            seconds = None if deadline is None else max(1e-3, deadline - time.perf_counter())
            self._crew.submit(
                Task(
                    self._load,
                    self._program.name,
                    self._program.identity,
                    self._recipe,
                    batch,
                    self._keep_going,
                    seconds,
                )
            )

    def _accept(self, batch: Batch, result: BatchResult, *, is_known: bool = False) -> None:
        key = batch.key
        if self.journal is not None and not is_known and _is_worth_keeping(batch, result):
            self.journal.write(batch, result)
        if result.interrupted and self._end is None:
            # The crew is this process, and the interrupt came in the middle of a run.
            self._interrupted = True
        if self.credit is not None:
            self.credit += batch.runs - result.schedules
        self._arrived[key] = (batch, self._source.give(batch, result))
        ends = result.error is not None or (bool(result.sightings) and not self._keep_going)
        if ends and (self._end is None or key < self._end):
            self._end = key
            self._crew.stop_all(after=key)
        self._add_up()

    def _add_up(self) -> None:
        """Add what has arrived, as far as nothing before it is missing."""
        while self._arrived and not self._over:
            key = min(self._arrived)
            lowest = self._source.lowest()
            if lowest is not None and lowest < key:
                return
            self._add(key)
            self._over = key == self._end

    def _add(self, key: Key) -> None:
        batch, result = self._arrived.pop(key)
        first = 0 if batch.piece is None else self._total.schedules
        self._total.add(result, first=first)

    def _progress(self) -> Progress:
        waiting = sum(result.schedules for _, result in self._arrived.values())
        total = self._total
        return Progress(
            schedules=total.schedules + waiting + self._crew.made(),
            distinct=total.distinct.count,
            findings=len(total.sightings),
            seconds=time.perf_counter() - self._started,
        )

    def exploration(self, strategy: Strategy) -> Exploration:
        """What came of it. Raises the error that ended it, if nothing was found."""
        total = self._total
        self._source.conclude(strategy, self._end if self._over else None)
        findings = total.findings(self._program)
        if total.error is not None and not findings:
            raise total.error
        return Exploration(
            program=self._program.name,
            strategy=strategy.name,
            seed=strategy.seed,
            schedules=total.schedules,
            distinct=total.distinct.count,
            distinct_is_exact=total.distinct.exact,
            steps=total.steps,
            shortest=total.shortest,
            longest=total.longest,
            findings=findings,
            exhausted=self._source.finished and not self._over,
            bound=strategy.completed,
            seconds=self._seconds,
            interrupted=self._interrupted,
            error=total.error,
        )
