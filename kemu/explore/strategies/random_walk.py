"""The uniform random walk: every party and every answer equally likely, at every decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.explore.strategies.base import Sampler

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint


class RandomWalk(Sampler):
    """The baseline that other strategies are measured against. It can make every run there is.

    Poor at finding a race between two threads that have far to go: the walk hardly ever lets one of them get
    ahead of the other by more than a few steps.
    """

    name = "random"
    full_support = True

    def pick(self, n: int, point: DecisionPoint) -> int:
        # `starting` and `below`, written out: this is called for every step.
        if self._eager:
            for thread in point.ready:
                if not thread.steps:
                    return (point.ready.index(thread) - point.index) % len(point.ready)
        try:
            return self._byte() * n >> 8 if n <= 64 else self.below(n)
        except StopIteration:
            return self.below(n)

    def choose(self, n: int, label: str) -> int:
        return self.below(n)
