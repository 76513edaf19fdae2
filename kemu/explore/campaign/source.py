"""Where batches come from: the numbers of runs, or the pieces of a search.

Which runs a batch has depends on neither time nor the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import ceil
from typing import Final, Protocol

from kemu.errors import UsageError
from kemu.explore.campaign.batch import NOTHING, Batch, BatchResult, Key
from kemu.explore.strategies.base import Divisible, Remainder, Strategy, WorkItem

STEPS_A_BATCH: Final = 40_000
"""About a second, on a machine of today and with minifilters."""
STEPS_A_WORLD: Final = 8
"""What making a world and taking it apart costs, in steps."""
FEWEST_RUNS: Final = 16
MOST_RUNS: Final = 4_096
BATCHES: Final = 64
"""Into at least so many batches a number of schedules is divided, so that many workers end at about the same time."""

FIRST_PIECE: Final = 8
"""Runs of the first piece of a search, during which there is nothing for other workers to do."""
PARTS: Final = 8
"""Into at most so many pieces what is left of a piece is divided."""
PIECES: Final = 16
"""Into at least so many pieces a level is divided, if it has prefixes for it."""
FEWEST_PREFIXES: Final = 8
"""A piece of a level has at least so many: each may be a single run."""


def runs_a_batch(steps: int, schedules: int | None) -> int:
    """How many runs a batch has, for runs of so many *steps*, *schedules* in all."""
    runs = max(FEWEST_RUNS, min(MOST_RUNS, STEPS_A_BATCH // (steps + STEPS_A_WORLD)))
    return runs if schedules is None else max(FEWEST_RUNS, min(runs, ceil(schedules / BATCHES)))


@dataclass(frozen=True, slots=True)
class Shard:
    """One of *count* parts of an exploration; *index* counts from 1."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"there is no shard {self.index} of {self.count}", remedy="give i/n with i from 1 to n, such as 1/4"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE: Final = Shard()


class Source(Protocol):
    """Gives out batches in the order of their keys, as far as they are known."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to be made."""
        ...

    @property
    def end(self) -> Key | None:
        """The batch that proved that there is nothing left to be found, if there was one: no later one counts."""
        ...

    def take(self, *, before: Key | None, most: int | None) -> Batch | None:
        """The next batch, of at most *most* runs; None if there is none now, or none *before* that key."""
        ...

    def give(self, batch: Batch, result: BatchResult) -> BatchResult:
        """Take note of what came of *batch*. Returns what of it counts."""
        ...

    def lowest(self) -> Key | None:
        """The smallest key of what is still to be made, or being made; None if there is nothing."""
        ...

    def conclude(self, strategy: Strategy, last: Key | None) -> None:
        """Tell *strategy* what was done, all of it or what comes before the end of the batch *last*."""
        ...


class Numbers:
    """Batches of consecutive run numbers from *start* on, in turn to each shard."""

    end: None = None

    def __init__(self, size: int, schedules: int | None, shard: Shard = WHOLE, start: int = 0) -> None:
        self._start = start
        self._size = size
        self._schedules = schedules
        self._shard = shard
        self._next = shard.index - 1
        self._open: set[Key] = set()
        self.finished = False

    def take(self, *, before: Key | None, most: int | None) -> Batch | None:
        first = self._start + self._next * self._size
        if self._is_over() or (before is not None and (self._next,) >= before):
            return None
        runs = self._size if self._schedules is None else min(self._size, self._schedules - first)
        batch = Batch((self._next,), runs, first)
        self._next += self._shard.count
        self._open.add(batch.key)
        return batch

    def _is_over(self) -> bool:
        return self._schedules is not None and self._start + self._next * self._size >= self._schedules

    def give(self, batch: Batch, result: BatchResult) -> BatchResult:
        self._open.discard(batch.key)
        return result

    def lowest(self) -> Key | None:
        if self._open:
            return min(self._open)
        return None if self._is_over() else (self._next,)

    def conclude(self, strategy: Strategy, last: Key | None) -> None:
        """Nothing: a sampler proves nothing."""


class Pieces:
    """The pieces of a search, level by level: one begins when the one before is done.

    The first piece is the beginning of the search. What it leaves is dealt to the shards, item by item; its own runs
    count for the first shard alone.
    """

    end: None = None

    def __init__(self, search: Divisible, size: int, shard: Shard = WHOLE) -> None:
        start = search.split()
        self._size = size
        self._shard = shard
        self._level = start.level
        self._pruned = start.pruned
        self._waiting: list[tuple[Key, tuple[WorkItem, ...]]] = [((start.level, 0), start.now)]
        self._open: set[Key] = {(start.level, 0)}
        self._root: Key = (start.level, 0)
        self._later: dict[Key, tuple[WorkItem, ...]] = {}
        self.finished = False

    def take(self, *, before: Key | None, most: int | None) -> Batch | None:
        if (
            not self._waiting
            or (most is not None and most <= 0)
            or (before is not None and self._waiting[0][0] >= before)
        ):
            return None
        key, items = heappop(self._waiting)
        runs = self._size
        if key == self._root:
            # The more prefixes there are to be dealt, the more even the shards are.
            runs = FIRST_PIECE if self._shard.count == 1 else FIRST_PIECE * self._shard.count * 2
        piece = Remainder(self._level, items, (), pruned=False)
        return Batch(key, runs if most is None else min(runs, most), piece=piece)

    def give(self, batch: Batch, result: BatchResult) -> BatchResult:
        left = result.remainder
        if left is None:
            # It came to nothing: all of it is still to be made.
            assert batch.piece is not None
            left = batch.piece
        self._open.discard(batch.key)
        self._pruned = self._pruned or left.pruned
        if batch.key == self._root and self._shard.count > 1:
            if self._shard.index > 1:
                result = replace(NOTHING, whole=result.whole, remainder=left, error=result.error)
            left = self._dealt(left)
        self._later[batch.key] = left.later
        self._divide(batch.key, left.now, PARTS)
        while not self._open and not self.finished:
            self._ascend()
        return result

    def _dealt(self, left: Remainder) -> Remainder:
        mine = slice(self._shard.index - 1, None, self._shard.count)
        return replace(left, now=left.now[mine], later=left.later[mine])

    def _divide(self, key: Key, items: Sequence[WorkItem], parts: int) -> None:
        size = ceil(len(items) / max(parts, ceil(len(items) / self._size), 1)) if items else 1
        for number, at in enumerate(range(0, len(items), size)):
            self._open.add((*key, number))
            heappush(self._waiting, ((*key, number), tuple(items[at : at + size])))

    def _ascend(self) -> None:
        items = [item for key in sorted(self._later) for item in self._later[key]]
        self._later.clear()
        if not items:
            self.finished = True
            return
        self._level += 1
        self._divide((self._level,), items, min(PIECES, len(items) // FEWEST_PREFIXES))

    def lowest(self) -> Key | None:
        return min(self._open, default=None)

    def conclude(self, strategy: Strategy, last: Key | None) -> None:
        assert isinstance(strategy, Divisible)
        level = self._level if last is None else last[0]
        if self.finished and last is None:
            strategy.conclude(level, exhausted=not self._pruned)
        else:
            strategy.conclude(level - 1 if level else None, exhausted=False)
