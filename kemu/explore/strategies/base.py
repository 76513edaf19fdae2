"""What a strategy is, and what the samplers among them share.

A strategy is an oracle with a name: it decides one run after another. To add one, write it in a file of its
own in this folder and give it a line in the table of `kemu.explore.strategies`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from struct import unpack
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable

from kemu.errors import UsageError
from kemu.runtime import Oracle, current_thread

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Observer, Outcome


class Strategy(Oracle, Protocol):
    """An oracle that reports can name and that is told how each run came out.

    For every run, `begin` is called, then the run asks `pick` and `choose`, then `end` is called, unless the
    run raised. `begin` returns False when there is nothing left to explore.

    A strategy may also have a property `sampler`: the name of the sampler that made the last run, if that sampler can
    make every run there is, and None otherwise. The explorer estimates what each such sampler has not seen.
    """

    @property
    def name(self) -> str:
        """What reports call it, with the parameters that matter, such as ``pct(depth=3)``."""
        ...

    @property
    def seed(self) -> int | None:
        """The seed that its runs follow from, or None if they follow from the program alone."""
        ...

    @property
    def completed(self) -> int | None:
        """The largest bound within which every run has been made; None if the strategy proves nothing."""
        ...

    def end(self, outcome: Outcome) -> None:
        """Take note of how the run that was begun last came out. May raise `NonDeterminism`."""
        ...


@dataclass(frozen=True, slots=True)
class Reduction:
    """How far a search has come that makes one run of each class of equivalent runs."""

    traces: int
    """Classes that were explored, each by one complete run (Mazurkiewicz traces)."""
    blocked: int
    """Runs that were given up on the way, because they were going to repeat a class."""
    exhausted: bool
    """Whether these are all classes."""
    doubt: str
    """Why that would be no proof; "" if it is one."""


@runtime_checkable
class Reducing(Strategy, Protocol):
    """A strategy that leaves out runs which are equivalent to others, for which it has to watch what they touch."""

    @property
    def observer(self) -> Observer | None:
        """Who watches the run that was begun last, if anybody has to."""
        ...

    @property
    def reduction(self) -> Reduction:
        """How far it has come."""
        ...

    def distrust(self, why: str) -> None:
        """Take note of *why* exhaustion will be no proof."""
        ...


def observer_of(strategy: Strategy) -> Observer | None:
    """Who has to watch the run that *strategy* has begun."""
    return strategy.observer if isinstance(strategy, Reducing) else None


WorkItem = tuple[Any, ...]
"""A part of a search that can be done by itself: a prefix of a run, and whatever else the search has to know there.

Only the search looks inside. Others hand it to another process or write it to a file, so it is made of numbers, texts
and sequences of them (bytes, too, for numbers below 256), and it may come back with lists in place of all of them.
"""


@dataclass(frozen=True, slots=True)
class Remainder:
    """What a search has left to do, in the order in which it would do it."""

    level: int
    """The cost of the runs that come next."""
    now: tuple[WorkItem, ...]
    """Work on this level. No item needs to know what comes of another."""
    later: tuple[WorkItem, ...]
    """Work for the next level."""
    pruned: bool
    """Whether runs were left out that cost more than the bound."""


@runtime_checkable
class Divisible(Strategy, Protocol):
    """A search that can be cut in pieces, which are then done in any order and in several processes.

    Where the pieces are put together again, work keeps its order: the items that a piece leaves come in its place,
    those for the next level in the order of the pieces that they come from. So the whole is the same search.
    """

    def split(self) -> Remainder:
        """What is left to do. Asked between runs, or after one that was broken off, which is to be made again."""
        ...

    def resume(self, remainder: Remainder, *, one_level: bool = False) -> None:
        """Do *remainder* instead of what was to be done; with *one_level*, only what is on its level."""
        ...

    def conclude(self, completed: int | None, *, exhausted: bool) -> None:
        """Take note of what was done elsewhere: the largest bound completed, and whether that was all there is."""
        ...


Path = tuple[int, ...]
"""The name of a thread: its parent's, and its number among the children."""

CLOCK: Final[Path] = (1,)
"""The path that stands for the clock: the runtime gives it to the thread in whose name time passes."""

EMPTY: Final[Callable[[], int]] = iter(b"").__next__
"""A stream that has nothing left."""

EAGER: Final = 32
"""Of 256, how many runs are not made with threads starting first."""

RATES: Final = (16, 64, 128)
"""Of 256, how often a question is answered with something else than the plain answer: drawn for each run."""


class Sampler:
    """A strategy that draws its decisions at random, each run from a stream of its own.

    The stream follows from the seed and the number of the run and from nothing else, so a run can be had
    again without those before it: ``start`` is the number of the first run. The generator is a hash that gives
    64 bytes at a time, the same on every platform and cheap to start: seeding `random.Random` would cost a
    tenth of a small run.

    In seven runs of eight a thread that was created starts at once (`starting`). The start of a thread is a step, but
    one that hardly ever races: it takes the thread to its first operation. Left to chance it only makes the others'
    odds worse, and a strategy that looks at operations sees nothing of a thread before it. In the eighth starts
    are steps like others, so that those which do race are found as well.
    """

    completed: None = None
    name: str
    full_support: ClassVar[bool] = False
    """Whether it can make every run there is. Only then its runs say something about those that it has not made."""
    preliminary = 0
    """How many runs come before the one with the number that was given as the first."""

    def __init__(self, seed: int, *, start: int = 0) -> None:
        check_number("seed", seed, least=0)
        check_number("start", start, least=0)
        self.seed = seed
        self.run = start - 1
        """The number of the current run."""
        self._block = 0
        self._rate = -1
        self._eager = False
        self._byte: Callable[[], int] = EMPTY
        self._priority: Callable[[], int] = EMPTY
        self._priorities_drawn = 0

    @property
    def sampler(self) -> str | None:
        """Under which name the explorer counts the last run for its estimates; None: it does not."""
        return self.name if self.full_support else None

    def begin(self) -> bool:
        self.begin_run(self.run + 1)
        return True

    def begin_run(self, run: int) -> None:
        """Get ready for the run of that number."""
        # `_refill`, written out: this is called for every run, and a run may be short.
        self.run = run
        self._rate = -1
        self._byte = byte = iter(blake2b(b"%d/%d/0" % (self.seed, run)).digest()).__next__
        self._block = 1
        self._eager = byte() >= EAGER
        self._priority = EMPTY
        self._priorities_drawn = 0

    def end(self, outcome: Outcome) -> None:
        """Nothing: a run does not depend on those before it."""

    def _refill(self) -> None:
        name = b"%d/%d/%d" % (self.seed, self.run, self._block)
        self._byte = iter(blake2b(name).digest()).__next__
        self._block += 1

    def byte(self) -> int:
        """Draw a number from 0 to 255."""
        try:
            return self._byte()
        except StopIteration:
            self._refill()
            return self._byte()

    def below(self, n: int) -> int:
        """Draw a number from 0 to n - 1. Every one can come up; the odds of two differ by at most n / 256."""
        try:
            if n <= 64:
                return self._byte() * n >> 8
            value = 0
            for _ in range(8):
                value = value << 8 | self._byte()
            return value * n >> 64
        except StopIteration:
            self._refill()
            return self.below(n)

    def priority(self) -> int:
        """Draw a number from 0 to 65535, from a stream of its own: most runs get along with one block of 32."""
        try:
            return self._priority()
        except StopIteration:
            name = b"%d/%d/priority/%d" % (self.seed, self.run, self._priorities_drawn)
            self._priorities_drawn += 1
            self._priority = iter(unpack("<32H", blake2b(name).digest())).__next__
            return self._priority()

    def starting(self, point: DecisionPoint) -> int:
        """The alternative by which a thread starts, if there is one and this run is one of those; -1 otherwise."""
        if self._eager:
            ready = point.ready
            for thread in ready:
                if not thread.steps:
                    return (ready.index(thread) - point.index) % len(ready)
        return -1

    def answer(self, n: int) -> int:
        """Answer an open question: mostly plainly, otherwise uniformly among the other answers.

        How often the answer is not plain is drawn for each run, as one in sixteen, four or two. A program
        that asks at every allocation needs runs in which a single one fails; one that asks once, runs in
        which it does.
        """
        if self._rate < 0:
            self._rate = RATES[self.below(len(RATES))]
        return 1 + self.below(n - 1) if self.byte() < self._rate else 0


def steps_before(point: DecisionPoint | None = None) -> int:
    """The number, from 0, of the step that a decision belongs to, for messages: it is slow.

    At a *point* that is the step which the picked party is going to take. A question, for which there is none, is
    asked in the middle of a step.
    """
    if point is not None:
        return point.ready[0].runtime.fingerprint()[1]
    return current_thread().runtime.fingerprint()[1] - 1


def check_number(what: str, value: object, *, least: int) -> None:
    """Refuse a *value* of the parameter *what* that is not an integer of at least *least*."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{what} is {value!r}", remedy=f"give an integer of at least {least}")
