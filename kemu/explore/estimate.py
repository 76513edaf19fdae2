"""What the runs of one sampler say about those that it has not made yet.

After Good, "The population frequencies of species and the estimation of population parameters" (Biometrika 1953), and
Chao, "Nonparametric estimation of the number of classes in a population" (Scandinavian Journal of Statistics 1984).
Both take the runs for independent draws from one law. So the runs of each sampler are counted by themselves, and only
of samplers that can make every run there is: one that cannot, such as PCT, soon sees nothing new, however much there
is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kemu.explore.distinct import CAPACITY

MANY: Final = 3
"""Counted no further: only what was seen once or twice is asked for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much a sampler is likely not to have seen. It is no bound on bugs."""

    sampler: str
    """The sampler's name."""
    runs: int
    """Runs that count: those that a failure or the limit of steps cut short do not, being parts of several others."""
    distinct: int
    """How many of these differ by more than the order of independent events."""
    once: int
    """How many of those came up once."""
    twice: int
    """How many came up twice."""
    exact: bool = True
    """False if there were too many to remember them all; the three numbers above are estimates then."""

    @property
    def unseen(self) -> float:
        """The probability that this sampler's next run differs from all before (Good and Turing's estimate)."""
        return min(1.0, self.once / self.runs) if self.runs else 1.0

    @property
    def least(self) -> int:
        """How many different runs there are at least, likely (Chao's estimate)."""
        if self.twice:
            return round(self.distinct + self.once * self.once / (2 * self.twice))
        return self.distinct + self.once * (self.once - 1) // 2

    @property
    def failing_below(self) -> float:
        """With 95 % confidence, more of this sampler's runs than that do not fail if none of `runs` did."""
        return min(1.0, 3 / self.runs) if self.runs else 1.0


class SampleCounter:
    """Counts how many fingerprints came up once, twice and more often, in bounded memory.

    When there are too many, only those below a threshold are kept on, as `DistinctCounter` does: a fair sample of the
    fingerprints, each of which is still counted in full.
    """

    __slots__ = ("_capacity", "_limit", "_seen", "_shift", "runs")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._limit = 1 << 64
        self._shift = 0
        self._seen: dict[int, int] = {}
        self.runs = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleCounter):
            return NotImplemented
        return (self.runs, self._shift, self._seen) == (other.runs, other._shift, other._seen)

    __hash__ = None  # type: ignore[assignment]

    @property
    def shift(self) -> int:
        """The number of times that the threshold was halved."""
        return self._shift

    @property
    def counts(self) -> Mapping[int, int]:
        """What is kept: how often each fingerprint came up, counted to three."""
        return self._seen

    @classmethod
    def restored(cls, runs: int, shift: int, counts: Mapping[int, int], capacity: int = CAPACITY) -> SampleCounter:
        """The counter with these `runs`, `shift` and `counts`."""
        counter = cls(capacity)
        counter.runs = runs
        counter._seen = dict(counts)
        counter._thin(shift)
        return counter

    def add(self, fingerprint: int) -> None:
        """Take note of a run."""
        self.runs += 1
        if fingerprint < self._limit:
            seen = self._seen
            count = seen.get(fingerprint, 0)
            if count < MANY:
                seen[fingerprint] = count + 1
                if len(seen) > self._capacity:
                    self._thin(self._shift + 1)

    def merge(self, other: SampleCounter) -> None:
        """Take over what *other* has counted: other runs of the same sampler."""
        self.runs += other.runs
        if other._shift > self._shift:
            self._thin(other._shift)
        for fingerprint, count in other._seen.items():
            if fingerprint < self._limit:
                self._seen[fingerprint] = min(MANY, self._seen.get(fingerprint, 0) + count)
        while len(self._seen) > self._capacity:
            self._thin(self._shift + 1)

    def _thin(self, shift: int) -> None:
        self._shift = shift
        self._limit = 1 << (64 - shift)
        self._seen = {one: count for one, count in self._seen.items() if one < self._limit}

    def estimate(self, sampler: str) -> Estimate:
        """What was counted, under the name of the sampler whose runs they were."""
        counts = list(self._seen.values())
        shift = self._shift
        return Estimate(
            sampler, self.runs, len(counts) << shift, counts.count(1) << shift, counts.count(2) << shift, shift == 0
        )
