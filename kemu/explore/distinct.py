"""Counting distinct fingerprints in bounded memory."""

from __future__ import annotations

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
                self._limit >>= 1
                self._shift += 1
                self._seen = {one for one in self._seen if one < self._limit}

    def merge(self, other: DistinctCounter) -> None:
        """Take note of all that *other* has taken note of."""
        if other._shift > self._shift:
            self._limit, self._shift = other._limit, other._shift
            self._seen = {one for one in self._seen if one < self._limit}
        for fingerprint in other._seen:
            self.add(fingerprint)

    @property
    def count(self) -> int:
        """How many different ones there were."""
        return len(self._seen) << self._shift

    @property
    def exact(self) -> bool:
        """Whether `count` is exact."""
        return self._shift == 0
