"""The sum of the results of batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kemu.errors import KemuError, ScenarioNotDeterministic
from kemu.explore.campaign.batch import BatchResult, Sighting
from kemu.explore.distinct import DistinctCounter
from kemu.explore.estimate import SampleCounter
from kemu.explore.explorer import Finding
from kemu.explore.program import Failure
from kemu.explore.strategies.base import Reduction
from kemu.explore.strategies.replay import replay
from kemu.explore.token import trim

if TYPE_CHECKING:
    from kemu.explore.program import Program


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """A failure of which only this is known: its run could not be made again."""

    code: str
    signature: tuple[str, ...]
    summary: str


class Total:
    """Adds results up, in the order of their batches. Findings with one signature become one."""

    def __init__(self) -> None:
        self.schedules = 0
        self.steps = 0
        self.shortest = 0
        self.longest = 0
        self.seconds = 0.0
        """Those of all workers together."""
        self.drawn = DistinctCounter()
        self.classes = DistinctCounter()
        self.reduction: Reduction | None = None
        """How far a reduced search has come, in all its pieces."""
        self.samples: dict[str, SampleCounter] = {}
        self.sightings: dict[tuple[str, ...], Sighting] = {}
        self.error: KemuError | None = None

    @property
    def distinct(self) -> DistinctCounter:
        """The runs that differ: see `Collector.distinct`."""
        return self.drawn if self.drawn.count else self.classes

    def add(self, result: BatchResult, *, first: int = 0) -> None:
        """Add *result*, whose runs are counted from *first* on."""
        self._count(result)
        (self.classes if result.watched else self.drawn).merge(result.distinct)
        for one in result.sightings:
            self._see(replace(one, run=first + one.run))

    def merge(self, other: Total) -> None:
        """Add what *other* has added up."""
        self._count(other)
        self.drawn.merge(other.drawn)
        self.classes.merge(other.classes)
        for one in other.sightings.values():
            self._see(one)

    def _count(self, other: BatchResult | Total) -> None:
        if other.schedules:
            self.shortest = min(self.shortest, other.shortest) if self.schedules else other.shortest
            self.longest = max(self.longest, other.longest)
        self.schedules += other.schedules
        self.steps += other.steps
        self.seconds += other.seconds
        self.reduction = together(self.reduction, other.reduction)
        for sampler, counter in other.samples.items():
            self.samples.setdefault(sampler, SampleCounter()).merge(counter)
        self.error = self.error or other.error

    def _see(self, one: Sighting) -> None:
        known = self.sightings.get(one.signature)
        if known is None:
            self.sightings[one.signature] = one
            return
        second = known.second
        if second is None:
            second = one.choices if trim(one.choices) != trim(known.choices) else one.second
        self.sightings[one.signature] = replace(known, count=known.count + one.count, second=second)

    def findings(self, program: Program) -> tuple[Finding, ...]:
        """What was found, each failure as a replay of its run shows it."""
        ordered = sorted(self.sightings.values(), key=lambda one: one.run)
        found, errors = confirm(program, ordered)
        self.error = self.error or errors
        return found


def together(one: Reduction | None, other: Reduction | None) -> Reduction | None:
    """How far both have come. That they have explored everything is not for them to say."""
    if one is None or other is None:
        return one or other
    return Reduction(one.traces + other.traces, one.blocked + other.blocked, False, one.doubt or other.doubt)


def confirm(program: Program, sightings: Iterable[Sighting]) -> tuple[tuple[Finding, ...], KemuError | None]:
    """The findings of *sightings*, and the error if a run does not show what another process saw in it.

    Choices come back whole: where they come from a file, their trailing zeros are missing.
    """
    found: list[Finding] = []
    wrong: KemuError | None = None
    for one in sightings:
        failure: Failure = RecordedFailure(one.code, one.signature, one.summary)
        choices, second = one.choices, one.second
        try:
            outcome = replay(program, choices)
            seen: Failure | None = outcome.failure
            if seen is None or seen.signature != one.signature:
                shown = "passes" if seen is None else f"shows {seen.code}"
                message = f"a run that showed {one.code} in another process {shown} in this one"
                raise ScenarioNotDeterministic(message, outcome.steps)
            failure = seen
            choices = tuple(outcome.choices)
            if second is not None:
                second = tuple(replay(program, second).choices)
        except KemuError as error:
            wrong = wrong or error
        found.append(Finding(failure, choices, one.run, one.count, second))
    return tuple(found), wrong
