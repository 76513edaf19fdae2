"""Batches of a reduced search, alone or with those of samplers in between.

Which pieces a batch has follows from what came of the batches before it, but for the last `WINDOW` of them: so many
may be in the making. Whoever makes them and however long they take, they are the same ones.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from math import ceil
from typing import Final, Protocol, runtime_checkable

from kemu.explore.campaign.batch import Batch, BatchResult, Key
from kemu.explore.campaign.frontier import Frontier, Open
from kemu.explore.campaign.source import FIRST_PIECE
from kemu.explore.strategies.base import Divisible, Reducing, Remainder, Strategy
from kemu.explore.strategies.pieces import report_of

WINDOW: Final = 32
"""How many batches may be in the making, and so how many workers have something to do."""

PART: Final = 4
"""A batch of the search has so many times fewer runs than one of a sampler: the more batches, the sooner everybody has
something to do, and the shorter the wait for the last one."""


@runtime_checkable
class DivisibleSearch(Divisible, Reducing, Protocol):
    """A reduced search that can be cut in pieces."""

    @property
    def left(self) -> int | None:
        """How many runs it may still make; None if there is no limit."""
        ...

    def prepare(self) -> None:
        """To be called before the first run, if it is going to be cut in pieces later."""
        ...


class Tree:
    """Batches of a reduced search, of *size* runs each; of *most* runs in all, if that is given.

    If *only_proof*, the search ends when it has become clear that it is not going to be one.
    """

    def __init__(
        self, search: DivisibleSearch, size: int, most: int | None = None, *, only_proof: bool = False
    ) -> None:
        self.finished = False
        self.made = 0
        """Runs in the batches that count so far."""
        self._size = size
        self._credit = most
        self._only_proof = only_proof
        self._doubt = search.reduction.doubt
        self._frontier = Frontier()
        self._last: Key | None = None
        self._next = 0
        """The number of the batch that is next."""
        self._position = -1
        """The place of the one before it."""
        self._numbers: dict[Key, int] = {}
        """Of the batches that are being made."""
        self._noted = 0
        """How many batches what is left follows from."""
        self._pieces: deque[list[Open]] = deque()
        """Of the other batches."""
        self._runs: deque[int] = deque()
        """And how many runs they were to make."""
        self._results: dict[int, BatchResult] = {}
        self._apply(self._frontier.take(1), search.split())
        self._settle()

    # What there is.

    @property
    def end(self) -> Key | None:
        """The batch with which everything was explored."""
        return self._last if self.finished else None

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more batches."""
        return self.finished or (self._noted == self._next and not self._may_go_on)

    @property
    def _may_go_on(self) -> bool:
        given_up = self._only_proof and self._doubt
        return not given_up and (self._credit is None or self._credit > 0)

    @property
    def next_key(self) -> Key:
        """The place of the batch that is next, or a smaller one."""
        return (self._position + 1, 0)

    def _key(self) -> Key:
        """The place of the batch that is next: about as many runs are made before it."""
        open_ = self._next - self._noted
        place = self.made + open_ * (self.made // self._noted if self._noted else self._size)
        return (max(self._position + 1, place), 0)

    # Batches out, results in.

    def take(self, *, before: Key | None, most: int | None) -> Batch | None:
        if self._next - self._noted >= WINDOW:
            if self._noted not in self._results:
                return None
            self._note()
        self._settle()
        key = self._key()
        if not (self._frontier.open and self._may_go_on) or (before is not None and key >= before):
            return None
        taken = self._frontier.take(ceil(len(self._frontier.open) / WINDOW))
        runs = self._size if self._next else min(self._size, FIRST_PIECE)
        if self._credit is not None:
            runs = min(runs, self._credit)
            self._credit -= runs
        self._numbers[key] = self._next
        self._position = key[0]
        self._next += 1
        self._pieces.append(taken)
        self._runs.append(runs)
        self._last = key
        items = tuple(one.item() for one in taken)
        digest = blake2b(repr(items).encode(), digest_size=8).hexdigest()
        return Batch(key, runs, piece=Remainder(0, items, (), pruned=False), digest=digest)

    def give(self, batch: Batch, result: BatchResult) -> BatchResult:
        self._results[self._numbers.pop(batch.key)] = result
        self._settle()
        return result

    def _settle(self) -> None:
        """As long as nothing can be handed out, wait for what comes of the batches that are being made."""
        while not (self._frontier.open and self._may_go_on):
            if self._noted == self._next:
                self.finished = not self._frontier.open and not (self._only_proof and self._doubt)
                return
            if self._noted not in self._results:
                return
            self._note()

    def _note(self) -> None:
        """Take note of what came of the first batch that nobody has."""
        result = self._results.pop(self._noted)
        pieces, runs = self._pieces.popleft(), self._runs.popleft()
        self._noted += 1
        self.made += result.schedules
        if self._credit is not None:
            self._credit += runs - result.schedules
        if result.reduction is not None:
            self._doubt = self._doubt or result.reduction.doubt
        self._apply(pieces, result.remainder)

    def _apply(self, pieces: list[Open], left: Remainder | None) -> None:
        reports = () if left is None else left.now
        self._frontier.put_back(pieces[len(reports) :])
        for piece, report in reversed(list(zip(pieces, reports, strict=False))):
            self._frontier.apply(piece, report_of(report))

    def lowest(self) -> Key | None:
        if self._numbers:
            return min(self._numbers)
        return None if self.is_closed else self.next_key

    def conclude(self, strategy: Strategy, last: Key | None) -> None:
        assert isinstance(strategy, Divisible)
        if self.finished and (last is None or last == self.end):
            strategy.conclude(None, exhausted=True)


class Mixed:
    """A reduced search and samplers, which get as many runs as the search, and what it leaves of *most*.

    Of those, *share* are for the search. The samplers' runs have numbers from *start* on, in batches of *size*. Each
    goes its own way: what the samplers do does not depend on how far the search has come, but they end with it, if it
    has explored everything.
    """

    def __init__(self, tree: Tree, size: int, start: int, most: int | None, share: int) -> None:
        self._tree = tree
        self._size = size
        self._start = start
        self._most = most
        self._share = share
        self._next = 0
        self._open: set[Key] = set()

    @property
    def finished(self) -> bool:
        """Whether the search has explored everything."""
        return self._tree.finished

    @property
    def end(self) -> Key | None:
        """The batch with which it had."""
        return self._tree.end

    @property
    def _key(self) -> Key:
        return (self._next * self._size, 1)

    def take(self, *, before: Key | None, most: int | None) -> Batch | None:
        if self._key < self._tree.next_key:
            return self._sampled(before) or self._tree.take(before=before, most=most)
        return self._tree.take(before=before, most=most) or self._sampled(before)

    def _sampled(self, before: Key | None) -> Batch | None:
        key, runs = self._key, self._runs
        if not runs or (before is not None and key >= before):
            return None
        slowest = self._tree.lowest()
        if slowest is not None and key[0] > slowest[0] + WINDOW * self._size:
            # It would count only when the search has come as far.
            return None
        first = self._start + self._next * self._size
        self._next += 1
        self._open.add(key)
        return Batch(key, runs, first, is_among_others=True)

    @property
    def _runs(self) -> int:
        """How many runs the next batch of samplers has; 0 if there is none, or it is not known yet."""
        if self.finished and (self.end is None or self._key >= self.end):
            return 0
        if self._most is None:
            return self._size
        if self._tree.is_closed:
            return max(0, min(self._size, self._most - self._tree.made - self._next * self._size))
        # As many as the search leaves in any case. A batch that is cut short is the last one.
        left = self._most - self._share - self._next * self._size
        return self._size if left >= self._size else 0

    def give(self, batch: Batch, result: BatchResult) -> BatchResult:
        if batch.piece is not None:
            return self._tree.give(batch, result)
        self._open.discard(batch.key)
        return result

    def lowest(self) -> Key | None:
        keys = [*self._open]
        in_tree = self._tree.lowest()
        if in_tree is not None:
            keys.append(in_tree)
        if self._runs or not self._tree.is_closed:
            keys.append(self._key)
        return min(keys, default=None)

    def conclude(self, strategy: Strategy, last: Key | None) -> None:
        self._tree.conclude(strategy, last)
