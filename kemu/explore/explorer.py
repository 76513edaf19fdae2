"""The explorer: runs a program again and again under a strategy and keeps what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kemu.errors import KemuError, UsageError
from kemu.explore.collection import BatchedCollection
from kemu.explore.distinct import DistinctCounter
from kemu.explore.estimate import Estimate, SampleCounter
from kemu.explore.program import Failure, Trackable, failure_of, tracked
from kemu.explore.strategies.base import Reducing, Reduction

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.explore.strategies import Strategy
    from kemu.runtime import Outcome

WHOLE: Final = frozenset({"finished", "stuck"})
"""How a run ends that was not cut short."""

PROGRESS_INTERVAL: Final = 0.1
"""Seconds between two calls for progress."""


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop looking: after so many runs, seconds, or steps of all runs together. None means no limit.

    Seconds are counted by the wall clock, between runs; the other two give the same exploration on every
    machine.
    """

    schedules: int | None = None
    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("schedules", self.schedules), ("seconds", self.seconds), ("steps", self.steps)):
            if value is not None and not value > 0:
                raise UsageError(f"the budget of {name} is {value!r}", remedy="give a number above 0, or none")


@dataclass(frozen=True, slots=True)
class Finding:
    """One bug, told from others by its signature."""

    failure: Failure
    """As the first run that showed it reported it."""
    choices: tuple[int, ...]
    """The first run that showed it."""
    run: int
    """The number of that run in the exploration, from 0."""
    count: int
    """How many runs showed it."""
    second: tuple[int, ...] | None = None
    """Another run that showed it, if there was one with other choices: a second start for the shrinker."""

    @property
    def signature(self) -> tuple[str, ...]:
        return self.failure.signature


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an exploration has come."""

    schedules: int
    distinct: int
    findings: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Exploration:
    """What came of an exploration."""

    program: str
    strategy: str
    seed: int | None
    schedules: int
    """Runs that were made."""
    distinct: int
    """How many of them differ by more than the order of independent events. A run that a failure cut short
    counts as what it got to."""
    distinct_is_exact: bool
    """False if there were too many to remember them all; `distinct` is an estimate then."""
    steps: int
    """Steps of all runs."""
    shortest: int
    """Steps of the shortest run."""
    longest: int
    """Steps of the longest run."""
    findings: tuple[Finding, ...]
    """In the order in which they came up."""
    exhausted: bool
    """Whether the strategy had nothing left to explore."""
    bound: int | None
    """The largest bound within which every run was made; None if the strategy has no bound, or none was
    completed."""
    seconds: float
    interrupted: bool
    """Whether the user, or the caller's flag, stopped it."""
    error: KemuError | None = None
    """Misuse of kemu, or a bug of it, that ended the exploration after something had been found. To be
    reported."""
    reduction: Reduction | None = None
    """What came of leaving out equivalent runs, if the strategy does."""
    shard: str = ""
    """Which part of the exploration this is, such as ``1/4``; empty if it is all of it."""
    samples: Mapping[str, SampleCounter] = field(default_factory=dict[str, SampleCounter])
    """How often what came up, by sampler: for those that can make every run. Two explorations' can be merged."""

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """What each of those samplers is likely not to have seen, the one with the most runs first."""
        made = (counter.estimate(name) for name, counter in self.samples.items())
        return tuple(sorted(made, key=lambda one: -one.runs))

    @property
    def mean_steps(self) -> float:
        """Steps of a run, on average."""
        return self.steps / self.schedules if self.schedules else 0.0


class Collector:
    """Takes the outcomes of runs, the first of which has the number *first*.

    Apart from `add` nothing here is called for every run.
    """

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.schedules = 0
        self.steps = 0
        self.shortest = 0
        self.longest = 0
        self.drawn = DistinctCounter()
        self.classes = DistinctCounter()
        self.found: dict[tuple[str, ...], Finding] = {}
        self.samples: dict[str, SampleCounter] = {}

    def add(self, outcome: Outcome, *, watched: bool = False) -> None:
        steps = outcome.steps
        self.steps += steps
        if outcome.end == "abandoned":
            # Only the beginning of a run: it counts as work and as nothing else.
            self.schedules += 1
            return
        if steps > self.longest:
            self.longest = steps
        if steps < self.shortest or not self.shortest:
            self.shortest = steps
        # Runs that are watched see more, so that their fingerprints cannot be compared with those of others.
        (self.classes if watched else self.drawn).add(outcome.fingerprint)
        if outcome.failure is not None:
            self._find(outcome)
        self.schedules += 1

    @property
    def distinct(self) -> DistinctCounter:
        """The runs that differ: those that nobody watched, if there were any, and else those that were watched."""
        return self.drawn if self.drawn.count else self.classes

    def sample(self, sampler: str, fingerprint: int) -> None:
        """Count a run that was made in full by a sampler that can make every run."""
        counter = self.samples.get(sampler)
        if counter is None:
            self.samples[sampler] = counter = SampleCounter()
        counter.add(fingerprint)

    def _find(self, outcome: Outcome) -> None:
        failure = failure_of(outcome)
        assert failure is not None
        choices = tuple(outcome.choices)
        known = self.found.get(failure.signature)
        if known is None:
            self.found[failure.signature] = Finding(failure, choices, self.first + self.schedules, 1)
            return
        second = known.second if known.second is not None or choices == known.choices else choices
        self.found[failure.signature] = Finding(known.failure, known.choices, known.run, known.count + 1, second)


def explore(
    program: Program,
    strategy: Strategy,
    budget: Budget,
    *,
    keep_going: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    collected: Collector | None = None,
) -> Exploration:
    """Run *program* under *strategy* until something is found, nothing is left, or the *budget* is spent.

    With *keep_going*, a failure does not end the exploration. *progress* is called ten times a second or
    less, and once at the end. *stop* is asked between runs; when it returns True, the exploration ends as it
    does on a `KeyboardInterrupt`: with what it has. An exception of `kemu.errors` that a run raises is
    raised, unless something has been found before; it is in the result then. *collected*, if given, takes the
    outcomes, for a caller who wants to know more than the result says.
    """
    collected = Collector() if collected is None else collected
    add = collected.add
    begin = strategy.begin
    end = strategy.end
    run = program.run
    reducing = strategy if isinstance(strategy, Reducing) else None
    watched_run = run
    if reducing is not None and isinstance(program, Trackable):
        if program.can_track:
            watched_run = tracked(program).run
        else:
            reducing.distrust("what the code does to its own state was not seen")
    samples = hasattr(strategy, "sampler")
    clock = time.perf_counter
    schedules = budget.schedules
    most_steps = budget.steps
    started = clock()
    deadline = None if budget.seconds is None else started + budget.seconds
    tick = started + PROGRESS_INTERVAL
    exhausted = interrupted = False
    error: KemuError | None = None

    def now() -> Progress:
        return Progress(collected.schedules, collected.distinct.count, len(collected.found), clock() - started)

    try:
        with BatchedCollection() as collection:
            while collected.schedules != schedules:
                if not begin():
                    exhausted = True
                    break
                observer = None if reducing is None else reducing.observer
                outcome = run(strategy) if observer is None else watched_run(strategy, observer)
                add(outcome, watched=observer is not None)
                if samples and outcome.end in WHOLE:
                    sampler: str | None = getattr(strategy, "sampler", None)
                    if sampler is not None:
                        collected.sample(sampler, outcome.fingerprint)
                end(outcome)
                if outcome.failure is not None and not keep_going:
                    break
                collection.after_run(outcome.steps)
                if most_steps is not None and collected.steps >= most_steps:
                    break
                if stop is not None and stop():
                    interrupted = True
                    break
                time_now = clock()
                if time_now >= tick:
                    if progress is not None:
                        progress(now())
                    tick = time_now + PROGRESS_INTERVAL
                if deadline is not None and time_now >= deadline:
                    break
    except KeyboardInterrupt:
        interrupted = True
    except KemuError as raised:
        raised.add_note(
            f"in run {collected.first + collected.schedules} of the strategy {strategy.name}, seed {strategy.seed}"
        )
        if not collected.found:
            raise
        error = raised
    if progress is not None:
        progress(now())
    return Exploration(
        program=program.name,
        strategy=strategy.name,
        seed=strategy.seed,
        schedules=collected.schedules,
        distinct=collected.distinct.count,
        distinct_is_exact=collected.distinct.exact,
        steps=collected.steps,
        shortest=collected.shortest,
        longest=collected.longest,
        findings=tuple(collected.found.values()),
        exhausted=exhausted,
        bound=strategy.completed,
        seconds=clock() - started,
        interrupted=interrupted,
        error=error,
        reduction=reducing.reduction if reducing is not None else None,
        samples=collected.samples,
    )
