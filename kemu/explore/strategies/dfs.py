"""Exhaustive depth-first search, cheapest runs first."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from kemu.errors import ScenarioNotDeterministic
from kemu.explore.strategies.base import Remainder, WorkItem, check_number, steps_before
from kemu.runtime import continues

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Outcome

Deferred = tuple[Sequence[int], Sequence[int], int, range]
"""A run's choices, how many alternatives each decision had, how many of them to repeat, and the alternatives to
take after that, one after another."""

PLAIN: Final[WorkItem] = ((), (), 1)
"""The item of the plain run and of all that follows from it: of everything."""


class BoundedDFS:
    """Makes every run of a cost of at most *bound* exactly once, cheaper ones first; with None, every run.

    A preemption costs 1, and so does a question that is not answered plainly. Letting the clock fire is free,
    and so is choosing who goes on when the running thread cannot.

    Each run repeats a prefix of an earlier one, takes one alternative there and 0 from then on. Alternatives
    that cost nothing are tried depth first, with a stack. One that costs is put off to the next level when
    its decision is first met, as a prefix to start from: so nothing is made twice, at the price of
    remembering these prefixes (none are kept on the last level).
    """

    seed: None = None
    kind: ClassVar[str] = "dfs"
    cost: ClassVar[str] = "preemptions plus answers that are not plain"
    """What the bound counts, for reports."""

    def __init__(self, bound: int | None = 2) -> None:
        if bound is not None:
            check_number("bound", bound, least=0)
        self.bound = bound
        self.name = self.kind if bound is None else f"{self.kind}(bound={bound})"
        self.level = 0
        """The cost of the runs that are being made."""
        self.completed: int | None = None
        """The largest cost of which all runs have been made."""
        self.exhausted = False
        """Whether every run there is has been made, of whatever cost."""
        # The run that is being made, or the beginning that it repeats: the choices and the numbers of alternatives.
        self._path: list[int] = []
        self._ends: list[int] = []
        # Of its last decisions, which are not fixed, the next alternative that costs nothing.
        self._next: list[int] = []
        self._at = 0
        self._started = False
        self._put_off: list[tuple[int, range]] = []
        self._work: deque[Deferred] = deque()
        self._later: deque[Deferred] = deque()
        self._pruned = False
        # How much of the path was there when the run was begun; None between runs.
        self._begun: int | None = None
        self._one_level = False

    # Decisions.

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._at < len(self._path):
            return self._repeat(n, point)
        if continues(point):
            threads = len(point.ready)
            return self._meet(n, costly=range(1, threads), free=range(threads, n))
        return self._meet(n, costly=range(0), free=range(1, n))

    def choose(self, n: int, label: str) -> int:
        if self._at < len(self._path):
            return self._repeat(n)
        return self._meet(n, costly=range(1, n), free=range(n, n))

    def _repeat(self, n: int, point: DecisionPoint | None = None) -> int:
        at = self._at
        self._at = at + 1
        if self._ends[at] != n:
            message = f"decision {at} has {n} alternatives; in an earlier run it had {self._ends[at]}"
            raise ScenarioNotDeterministic(message, steps_before(point))
        return self._path[at]

    def _meet(self, n: int, *, costly: range, free: range) -> int:
        at = self._at
        self._at = at + 1
        self._path.append(0)
        self._next.append(free.start)
        self._ends.append(n)
        if costly:
            if self.level == self.bound:
                self._pruned = True
            else:
                self._put_off.append((at, costly))
        return 0

    # From run to run.

    def begin(self) -> bool:
        if self.exhausted or (self.bound is not None and self.completed == self.bound):
            return False
        if not self._started:
            self._started = True
        else:
            if self._put_off:
                self._keep_put_off()
            self._at = 0
            if not (self._backtrack() or self._take_work()):
                return False
        self._begun = len(self._path)
        return True

    def end(self, outcome: Outcome) -> None:
        self._begun = None
        if self._at < len(self._path):
            message = f"the run is over before decision {self._at}, which it had in an earlier run"
            raise ScenarioNotDeterministic(message, outcome.steps)

    def _keep_put_off(self) -> None:
        # The entries of one run share its choices.
        path, ends = packed(self._path), packed(self._ends)
        self._later.extend((path, ends, at, values) for at, values in self._put_off)
        self._put_off.clear()

    def _backtrack(self) -> bool:
        path, ends, following = self._path, self._ends, self._next
        while following:
            if following[-1] < ends[-1]:
                path[-1] = following[-1]
                following[-1] += 1
                return True
            path.pop()
            ends.pop()
            following.pop()
        return False

    def _take_work(self) -> bool:
        while not self._work:
            if self._one_level:
                return False
            self.completed = self.level
            if not self._later:
                self.exhausted = not self._pruned
                return False
            self._work, self._later = self._later, self._work
            self.level += 1
        path, ends, length, values = self._work[0]
        self._path = [*path[:length], values.start]
        self._ends = list(ends[: length + 1])
        if len(values) > 1:
            self._keep_rest(path, ends, length, values[1:])
        else:
            self._work.popleft()
        return True

    def _keep_rest(self, path: Sequence[int], ends: Sequence[int], length: int, values: range) -> None:
        """Keep the alternatives after the one that is taken now: they cost as much."""
        self._work[0] = (path, ends, length, values)

    # Pieces.

    def split(self) -> Remainder:
        now: list[WorkItem] = [] if self._started else [PLAIN]
        path, ends, following = self._path, self._ends, self._next
        if self._begun is not None:
            # The run was broken off: it has to be made again, and what it met is forgotten.
            now.append(item_of(path, ends, self._begun))
            following = following[: len(following) - (len(path) - self._begun)]
            path, ends = path[: self._begun], ends[: self._begun]
        elif self._put_off:
            self._keep_put_off()
        for back, value in enumerate(reversed(following), 1):
            length = len(path) - back
            if value < ends[length]:
                now += self._items(path, ends, length, range(value, ends[length]))
        for work in self._work:
            now += self._items(*work)
        later = [item for work in self._later for item in self._items(*work)]
        return Remainder(self.level, tuple(now), tuple(later), self._pruned)

    def resume(self, remainder: Remainder, *, one_level: bool = False) -> None:
        now = remainder.now
        self._started = not (now and not now[0][0])
        self._one_level = one_level
        self.level = remainder.level
        self.completed = remainder.level - 1 if remainder.level else None
        self.exhausted = False
        self._pruned = remainder.pruned
        self._path, self._ends, self._next = [], [], []
        self._at = 0
        self._begun = None
        self._put_off.clear()
        self._work = deque(_work(item) for item in (now if self._started else now[1:]))
        self._later = deque(_work(item) for item in remainder.later)

    def conclude(self, completed: int | None, *, exhausted: bool) -> None:
        self.completed = completed
        self.exhausted = exhausted

    def _items(self, path: Sequence[int], ends: Sequence[int], length: int, values: range) -> list[WorkItem]:
        """An item for each of the alternatives: the beginning of its runs."""
        return [item_of([*path[:length], value], ends, length + 1) for value in values]


def item_of(path: Sequence[int], ends: Sequence[int], length: int, alternatives: int = 1) -> WorkItem:
    """The beginning of runs, how many alternatives there are at each of its decisions, and how many of those at the
    last one are meant.
    """
    return (packed(list(path[:length])), packed(list(ends[:length])), alternatives) if length else PLAIN


def _work(item: WorkItem) -> Deferred:
    path, ends, alternatives = item
    return (path, ends, len(path) - 1, range(path[-1], path[-1] + alternatives))


def packed(numbers: list[int]) -> Sequence[int]:
    """The same numbers in little memory: a byte each, if they fit."""
    return bytes(numbers) if max(numbers) < 256 else tuple(numbers)
