"""A batch: some runs of one program, as data that goes to another process, and what comes of them, as data again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from kemu.errors import KemuError, UsageError
from kemu.explore.campaign.version import code_digest
from kemu.explore.distinct import DistinctCounter
from kemu.explore.estimate import SampleCounter
from kemu.explore.explorer import Budget, Collector, Finding, explore
from kemu.explore.strategies import strategy_from_name
from kemu.explore.strategies.base import Divisible, Reducing, Reduction, Remainder, Strategy

if TYPE_CHECKING:
    from kemu.explore.program import Program

Key = tuple[int, ...]
"""The place of a batch: what comes before it in a sequential exploration has a smaller key."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a strategy, in any process."""

    name: str
    options: Mapping[str, Any]
    seed: int

    def make(self, first: int = 0) -> Strategy:
        """A new strategy, whose first run has the number *first* if its runs have numbers."""
        if not first:
            return strategy_from_name(self.name, self.seed, **self.options)
        options = {**self.options, "start": first + self.options.get("start", 0)}
        return strategy_from_name(self.name, self.seed, **options)


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs to be made: those with the numbers from *first* on, or those of a piece of a search."""

    key: Key
    runs: int
    """The most runs to make."""
    first: int = 0
    piece: Remainder | None = None
    digest: str = ""
    """What tells it from another one with the same key; "" if the key alone does."""
    is_among_others: bool = False
    """Whether there are batches of a search besides, so that the numbers of its runs are not those of all runs."""

    def describe(self) -> str:
        """Which runs these are."""
        if self.piece is None:
            return f"runs {self.first} to {self.first + self.runs - 1}"
        return f"piece {'.'.join(str(part) for part in self.key)} of the search, of {len(self.piece.now)} prefixes"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A finding as a batch saw it: without the failure itself, which whoever has the program gets by a replay."""

    code: str
    signature: tuple[str, ...]
    summary: str
    choices: tuple[int, ...]
    run: int
    """The number of the run: in a batch with a piece, counted from 0 in the batch."""
    count: int
    second: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of a batch. Results add up: see `Total`."""

    schedules: int
    steps: int
    shortest: int
    longest: int
    distinct: DistinctCounter
    sightings: tuple[Sighting, ...]
    seconds: float
    whole: bool
    """Whether nothing cut it short: it made all its runs, or ended with a finding as it was to do."""
    remainder: Remainder | None = None
    """What is left of the piece, and what has come up for the next level."""
    error: KemuError | None = None
    """Misuse of kemu, or a bug of it, that ended the batch."""
    interrupted: bool = False
    """Whether it was told to stop."""
    samples: Mapping[str, SampleCounter] = field(default_factory=dict[str, SampleCounter])
    """What came up how often, by sampler."""
    watched: bool = False
    """Whether what is `distinct` was watched, so that it cannot be compared with runs that were not."""
    reduction: Reduction | None = None
    """How far a reduced search came with its piece."""


NOTHING: Final = BatchResult(0, 0, 0, 0, DistinctCounter(), (), 0.0, whole=True)


def run_batch(
    program: Program,
    recipe: Recipe,
    batch: Batch,
    *,
    keep_going: bool = False,
    seconds: float | None = None,
    stop: Callable[[], bool] | None = None,
) -> BatchResult:
    """Make the runs of *batch*, until a failure unless *keep_going*, for at most so many *seconds*."""
    strategy = recipe.make(batch.first)
    if batch.piece is not None:
        assert isinstance(strategy, Divisible)
        strategy.resume(batch.piece, one_level=True)
    elif isinstance(strategy, Reducing):
        # It would begin anew in each batch, and end the first one early where there is little to explore.
        strategy.distrust("a batch is no search")
    collected = Collector(batch.first)
    error: KemuError | None = None
    interrupted = out_of_time = False
    took = 0.0
    try:
        for _ in range(getattr(strategy, "preliminary", 0)):
            strategy.begin()
            strategy.end(program.run(strategy))
        done = explore(
            program,
            strategy,
            Budget(batch.runs, seconds),
            keep_going=keep_going,
            stop=stop,
            collected=collected,
        )
        error, interrupted, took = done.error, done.interrupted, done.seconds
        ended = bool(done.findings) and not keep_going
        out_of_time = done.schedules < batch.runs and not done.exhausted and not ended
    except KemuError as raised:
        error = raised
    return result_of(
        collected,
        seconds=took,
        whole=error is None and not interrupted and not out_of_time,
        **what_is_left(strategy, batch),
        error=error,
        interrupted=interrupted,
    )


def what_is_left(strategy: Strategy, batch: Batch) -> dict[str, Any]:
    """What a result says of the piece in *batch*."""
    if batch.piece is None:
        return {}
    assert isinstance(strategy, Divisible)
    reduction = strategy.reduction if isinstance(strategy, Reducing) else None
    return {"remainder": strategy.split(), "reduction": reduction}


def result_of(collected: Collector, *, seconds: float, whole: bool = True, **rest: Any) -> BatchResult:
    """What was *collected*, as data; *rest* is what else there is to say."""
    return BatchResult(
        schedules=collected.schedules,
        steps=collected.steps,
        shortest=collected.shortest,
        longest=collected.longest,
        distinct=collected.distinct,
        sightings=tuple(sighting(finding) for finding in collected.found.values()),
        seconds=seconds,
        whole=whole,
        samples=collected.samples,
        watched=bool(collected.classes.count and not collected.drawn.count),
        **rest,
    )


def sighting(finding: Finding) -> Sighting:
    """*finding* as data."""
    failure = finding.failure
    return Sighting(
        failure.code,
        finding.signature,
        failure.summary,
        finding.choices,
        finding.run,
        finding.count,
        finding.second,
    )


# In another process.

Loader = Callable[[], "Program"]
"""Gives the program, in any process: has to be picklable and hashable, such as a function of a module."""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch with all that another process has to know."""

    load: Loader
    program: str
    identity: str
    recipe: Recipe
    batch: Batch
    keep_going: bool
    seconds: float | None
    code: str = field(default_factory=code_digest)
    """kemu's own, as it is where the task comes from."""

    def describe(self) -> str:
        """What it is, for messages."""
        drawn = f"{self.recipe.name}, seed {self.recipe.seed}"
        return f"{self.batch.describe()} ({drawn}) of {self.program}"


_programs: dict[tuple[Loader, str], Program] = {}
"""The programs of this process, by loader and identity: the latter does not tell how long a run may be."""
_turn: Final = Lock()
"""One run at a time in a process: who runs is a fact of the whole process, and a worker may have several threads."""


def perform(task: Task, stop: Callable[[], bool] | None = None) -> BatchResult:
    """Do *task* in this process. An error on loading is in the result, too."""
    with _turn:
        try:
            if task.code != code_digest():
                raise UsageError(
                    f"a worker has other source files of kemu: {code_digest()[:8]}, and {task.code[:8]} where the"
                    " exploration was started",
                    remedy="install the same kemu everywhere",
                )
            program = find(task.load, task.identity)
        except KemuError as error:
            return failed(error)
        return run_batch(program, task.recipe, task.batch, keep_going=task.keep_going, seconds=task.seconds, stop=stop)


def find(load: Loader, identity: str) -> Program:
    """The program of that *identity*, loaded once in a process. Raises `UsageError` if it is another one here."""
    program = _programs.get((load, identity))
    if program is None:
        program = load()
        if program.identity != identity:
            raise UsageError(
                f"{program.name} is {program.identity[:8]} in a worker, and {identity[:8]} where the exploration was"
                " started: other code, or other options",
                remedy="leave the files alone while they are explored, and give every machine the same ones",
            )
        _programs[load, identity] = program
    return program


def failed(error: KemuError) -> BatchResult:
    """The result of a batch that came to nothing."""
    return BatchResult(0, 0, 0, 0, DistinctCounter(), (), 0.0, whole=False, error=error)
