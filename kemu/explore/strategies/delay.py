"""Random delays: the plain schedule, but for a few moments at which somebody's turn is put off.

After Emmi, Qadeer and Rakamaric, "Delay-bounded scheduling" (POPL 2011), whose bound is the number of delays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.explore.strategies.base import Sampler, check_number

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint


class RandomDelay(Sampler):
    """Does what is plain, and skips who is next, to the next in the ring, 1 to *delays* times a run.

    Of n parties at a decision the first is 0: the running thread, or where it cannot go on the one behind it; the
    clock is the last. So the clock can only come up before every thread is stuck where a decision gets as many
    delays as there are threads. Finds what is close to the plain run, however many threads there are; it does not
    make every run.

    Delays fall on the first k decisions, k being the largest number of decisions of a run so far: a run depends on
    the number of decisions of those before it; give *horizon* to start from a known k. The plain schedule starves
    everyone while a thread spins, so after *fair_after* decisions the rest of the run is a uniform random walk, which
    does not count for k. Answers follow `Sampler.answer`.
    """

    def __init__(
        self, seed: int, delays: int = 3, *, horizon: int = 16, fair_after: int = 2_000, start: int = 0
    ) -> None:
        super().__init__(seed, start=start)
        check_number("delays", delays, least=1)
        check_number("horizon", horizon, least=1)
        check_number("fair_after", fair_after, least=1)
        self.delays = delays
        self.horizon = horizon
        self.fair_after = fair_after
        self.name = f"delay(delays={delays})"
        self._count = 0
        self._at: dict[int, int] = {}

    def begin(self) -> bool:
        self.horizon = max(self.horizon, min(self._count, self.fair_after))
        return super().begin()

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self._count = 0
        self._at.clear()
        for _ in range(1 + self.below(self.delays)):
            at = self.below(self.horizon)
            self._at[at] = self._at.get(at, 0) + 1

    def pick(self, n: int, point: DecisionPoint) -> int:
        count = self._count
        self._count = count + 1
        if count >= self.fair_after:
            return self.below(n)
        return self._at.get(count, 0) % n

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
