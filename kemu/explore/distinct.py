"""Counting distinct fingerprints in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

CAPACITY: Final = 1 << 16


class DistinctCounter:
    """Counts distinct 64-bit numbers: exactly up to *capacity* of them, then by estimate.

    When there are too many, only those below a threshold are kept on, which is halved each time: a fair
    sample, since fingerprints are spread evenly. The estimate is the size of the sample times the number of
    halvings' power of two; its relative error is about 1 / sqrt(capacity / 2), half a percent.
    """

    __slots__ = ("_capacity", "_limit", "_seen", "_shift")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._limit = 1 << 64
        self._shift = 0
        self._seen: set[int] = set()

    def add(self, fingerprint: int) -> None:
        """Take note of *fingerprint*."""
        if fingerprint < self._limit:
            self._seen.add(fingerprint)
            if len(self._seen) > self._capacity:
                self._halve()

    def merge(self, other: DistinctCounter) -> None:
        """Take note of what *other* has seen. The result is the same as if one counter had seen everything."""
        while self._shift < other._shift:
            self._halve()
        self._seen.update(one for one in other._seen if one < self._limit)
        while len(self._seen) > self._capacity:
            self._halve()

    @property
    def shift(self) -> int:
        """The number of halvings: what is kept is below 2 ** (64 - shift)."""
        return self._shift

    @property
    def sample(self) -> Set[int]:
        """What is kept."""
        return self._seen

    @classmethod
    def restored(cls, shift: int, values: Iterable[int], capacity: int = CAPACITY) -> DistinctCounter:
        """The counter with that `shift` and `sample`."""
        counter = cls(capacity)
        counter._shift = shift
        counter._limit = 1 << (64 - shift)
        counter._seen = set(values)
        return counter

    def _halve(self) -> None:
        self._limit >>= 1
        self._shift += 1
        self._seen = {one for one in self._seen if one < self._limit}

    @property
    def count(self) -> int:
        """How many different ones there were."""
        return len(self._seen) << self._shift

    @property
    def exact(self) -> bool:
        """Whether `count` is exact."""
        return self._shift == 0
