"""Blame: which decision of a failing run made it fail.

The run is followed for some of its decisions and goes on at random, a number of times. The share of these that fail,
by how far the run was followed, begins with what the bug's chances are anyway and ends at 100 %; where it jumps, the
bug was decided, often long before it shows. The largest jumps are looked for by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from kemu.explore.program import failure_of
from kemu.explore.strategies.base import check_number
from kemu.explore.strategies.random_walk import RandomWalk
from kemu.explore.strategies.replay import Replay
from kemu.explore.watch import watch

if TYPE_CHECKING:
    from kemu.explore.program import Failure, Program
    from kemu.explore.recording import Decision, Recording
    from kemu.explore.watch import Event
    from kemu.runtime import DecisionPoint, Outcome

RUNS: Final = 32

STANDARD_ERRORS: Final = 2
"""A rise of fewer is not told from chance."""


@dataclass(frozen=True, slots=True)
class Point:
    """How runs end that follow the first decisions of the failing one and then go on at random."""

    decisions: int
    """How many of its decisions they follow."""
    failed: int
    """How many fail in the same way."""
    runs: int
    certain: bool = False
    """Whether nothing was left to chance, so that one run says all."""

    @property
    def share(self) -> float:
        """The share that fails."""
        return self.failed / self.runs


@dataclass(frozen=True, slots=True)
class Rise:
    """One decision, and what it does to the chances of the bug."""

    number: int
    """Which decision of the run, from 1."""
    before: Point
    after: Point
    decision: Decision
    event: Event | None
    """The step that it led to, or in which the question was asked; None for one that was never taken."""

    @property
    def stands_out(self) -> bool:
        """Whether the rise is more than chance makes of so few runs."""
        return stands_out(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Blame:
    """What the decisions of a failing run do to the chances of its bug."""

    failure: Failure
    decisions: int
    """How many decisions the run has."""
    curve: tuple[Point, ...]
    """What was measured, in the order of decisions. The last point is the run itself, made once."""
    rise: Rise | None
    """The largest rise between two points that one decision lies between; None if nothing rises."""
    runs: int
    """How many runs were made."""
    interrupted: bool


def stands_out(before: Point, after: Point) -> bool:
    """Whether the share rises from *before* to *after* by more than chance makes of it."""
    if after.certain:
        variance = before.share * (1 - before.share) / before.runs
    else:
        share = (before.failed + after.failed) / (before.runs + after.runs)
        variance = share * (1 - share) * (1 / before.runs + 1 / after.runs)
    rise = after.share - before.share
    return rise > 0 and rise * rise >= STANDARD_ERRORS**2 * variance


class _Onwards:
    """Follows the first choices of a run and goes on at random."""

    def __init__(self, choices: Sequence[int], walk: RandomWalk) -> None:
        self._choices = choices
        self._walk = walk
        self._replay = Replay(choices)
        self._left = 0

    def begin(self) -> bool:
        self._replay = Replay(self._choices)
        self._left = len(self._choices)
        return self._walk.begin()

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._left:
            self._left -= 1
            return self._replay.pick(n, point)
        return self._walk.pick(n, point)

    def choose(self, n: int, label: str) -> int:
        if self._left:
            self._left -= 1
            return self._replay.choose(n, label)
        # Mostly plain: a walk that made every second allocation fail would be about something else.
        return self._walk.answer(n)

    def end(self, outcome: Outcome) -> None:
        """Nothing: the run goes where it goes."""


def blame(
    program: Program,
    choices: Sequence[int],
    *,
    runs: int = RUNS,
    seed: int = 0,
    full: bool = False,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Blame | None:
    """Find the decision to blame for the failure of the run of *choices*. None if that does not fail.

    For each number of decisions that is tried, *runs* runs are made, which follow from *seed*: for about 2 log n
    numbers, or with *full* for all. *stop* is asked before each run; if it says so, or with an interrupt, the search
    ends with what it has. *progress* is told how many numbers of about how many are done.

    Raises `UsageError` for a number of runs below 1, `ReplayDiverged` if the choices do not fit.
    """
    check_number("the number of runs", runs, least=1)
    recording, events = watch(program, Replay(choices))
    if recording.failure is None:
        return None
    search = _Search(program, recording, runs, seed, stop)
    try:
        search.measure_all(progress) if full else search.bisect(progress)
    except (_Stop, KeyboardInterrupt):
        search.interrupted = True
    curve = tuple(search.points[number] for number in sorted(search.points))
    return Blame(
        failure=recording.failure,
        decisions=len(recording.decisions),
        curve=curve,
        rise=_largest(curve, recording, events),
        runs=sum(point.runs for point in curve),
        interrupted=search.interrupted,
    )


class _Stop(Exception):
    """The user has had enough. Never leaves this module."""


class _Search:
    """The points that were measured."""

    def __init__(
        self, program: Program, recording: Recording, runs: int, seed: int, stop: Callable[[], bool] | None
    ) -> None:
        failure = recording.failure
        assert failure is not None
        self.program = program
        self.signature = failure.signature
        self.choices = recording.choices
        self.runs = runs
        self.seed = seed
        self.stop = stop
        self.interrupted = False
        # Nothing is left to chance at the end of the run, and it was made already.
        self.points = {len(self.choices): Point(len(self.choices), 1, 1, certain=True)}

    def measure(self, number: int) -> None:
        """Follow so many decisions, and go on at random."""
        failed = made = 0
        oracle = _Onwards(self.choices[:number], RandomWalk(self.seed, start=number * self.runs))
        try:
            while made < self.runs:
                if self.stop is not None and self.stop():
                    raise _Stop
                oracle.begin()
                failure = failure_of(self.program.run(oracle))
                made += 1
                failed += failure is not None and failure.signature == self.signature
        finally:
            if made:
                self.points[number] = Point(number, failed, made)

    def measure_all(self, progress: Callable[[int, int], None] | None) -> None:
        """Measure after every decision."""
        total = len(self.choices)
        for number in range(total):
            if progress is not None:
                progress(number, total)
            self.measure(number)

    def bisect(self, progress: Callable[[int, int], None] | None) -> None:
        """Measure where the share rises most, until that is between two decisions, and go on with what is left."""
        total = 2 * len(self.choices).bit_length()
        if self.choices:
            self.measure(0)
        for done in range(1, total):
            if progress is not None:
                progress(done, total)
            middle = self._middle()
            if middle is None:
                break
            self.measure(middle)

    def _middle(self) -> int | None:
        """The middle of the stretch of several decisions in which the share rises most."""
        numbers = sorted(self.points)
        stretches = [(low, high) for low, high in pairwise(numbers) if high - low > 1]

        def rise(stretch: tuple[int, int]) -> tuple[float, int]:
            low, high = stretch
            return (self.points[high].share - self.points[low].share, high - low)

        if not stretches:
            return None
        low, high = max(stretches, key=rise)
        return (low + high) // 2


def _largest(curve: Sequence[Point], recording: Recording, events: Sequence[Event]) -> Rise | None:
    rises = [
        (after.share - before.share, before, after)
        for before, after in pairwise(curve)
        if after.decisions == before.decisions + 1 and after.share > before.share
    ]
    if not rises:
        return None
    _, before, after = max(rises, key=lambda rise: rise[0])
    decision = recording.decisions[before.decisions]
    event = events[decision.step] if decision.step < len(events) else None
    return Rise(after.decisions, before, after, decision, event)
