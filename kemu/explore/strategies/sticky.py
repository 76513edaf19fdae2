"""The sticky random walk: the running thread mostly goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import UsageError
from kemu.explore.strategies.base import Sampler
from kemu.runtime import continues

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint


class StickyRandomWalk(Sampler):
    """A random walk that takes the processor away from a thread with probability *switch* at each decision.

    Where no thread can go on by itself, every party is equally likely. It can make every run there is, and,
    other than the uniform walk, also gets a thread through a long routine before the next one moves. Answers
    follow `Sampler.answer`.
    """

    full_support = True

    def __init__(self, seed: int, switch: float = 1 / 8, *, start: int = 0) -> None:
        super().__init__(seed, start=start)
        if not 1 / 256 <= switch < 1:
            raise UsageError(f"the probability of a switch is {switch!r}", remedy="give one from 1/256 to less than 1")
        self.switch = switch
        self.name = "sticky" if switch == 1 / 8 else f"sticky(switch={switch:g})"
        self._stay = min(256 - round(256 * switch), 255)

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._eager:
            start = self.starting(point)
            if start >= 0:
                return start
            running = point.running
            if running is not None and running.steps == 1:
                # It was this thread that started last, but not by its turn.
                return self.below(n)
        if not continues(point):
            return self.below(n)
        try:
            stays = self._byte() < self._stay
        except StopIteration:
            stays = self.byte() < self._stay
        if stays:
            return 0
        return 1 + self.below(n - 1)

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
