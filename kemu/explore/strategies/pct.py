"""Probabilistic concurrency testing: random priorities and a few random moments at which one is lowered.

After Burckhardt, Kothari, Musuvathi and Nagarakatte, "A randomized scheduler with probabilistic guarantees of
finding bugs" (ASPLOS 2010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.base import CLOCK, Path, Sampler, check_number

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Thread

FIRED: Final = -1
"""The priority of a clock that has just fired: below that of every thread."""

BASE: Final = 1 << 32
"""The priority of the first change point; those who are put last for spinning come below."""


class PCT(Sampler):
    """Always runs the thread of the highest priority; *depth* - 1 times a run, that thread is put last first.

    With n threads and k decisions a run, a bug that depends on *depth* ordering constraints is found with a
    probability of at least 1 / (n k^(depth - 1)) in each run. What the guarantee needs and how it is had:

    * Only decisions between two or more parties count, not steps, and none at which a thread starts.
    * k is the largest number of decisions of a run so far; give *horizon* to start from a known k. A single long run
      would put most change points behind the end of all others, so every other run takes the length of the one
      before it instead. So a run depends on the number of decisions of those before it.
    * Priorities would starve everyone when the first thread spins: one that was picked *patience* times in a row is
      put last. And after *fair_after* decisions the rest of the run is a uniform random walk; such a tail does not
      count for k.
    * The clock is a party with a priority, drawn anew each time it fires: every deadline is an event of its own.
      It never fires twice in a row while a thread can go on, or a periodic timer would starve a thread put last.

    Not every run can come up: a small depth keeps most of them out. Answers follow `Sampler.answer`.
    """

    def __init__(
        self,
        seed: int,
        depth: int = 3,
        *,
        horizon: int | None = None,
        patience: int = 500,
        fair_after: int = 2_000,
        start: int = 0,
    ) -> None:
        super().__init__(seed, start=start)
        check_number("depth", depth, least=1)
        if horizon is not None:
            check_number("horizon", horizon, least=1)
        check_number("patience", patience, least=1)
        check_number("fair_after", fair_after, least=1)
        self.depth = depth
        self.horizon = horizon or 1
        """The largest number of decisions so far, which change points are drawn from."""
        self.patience = patience
        self.fair_after = fair_after
        self.name = f"pct(depth={depth})"
        self._count = 0
        self._priorities: dict[Path, int] = {}
        self._changes: dict[int, int] = {}
        self._fired = False
        self._last: Thread | None = None
        self._streak = 0
        self._lowest = BASE

    def begin(self) -> bool:
        last = min(self._count, self.fair_after)
        self.horizon = max(self.horizon, last)
        self.begin_run(self.run + 1)
        self.plan(last if self.run % 2 and last else self.horizon)
        return True

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self._count = 0
        self._priorities.clear()
        self._changes.clear()
        self._fired = False
        self._last = None
        self._lowest = BASE

    def plan(self, horizon: int) -> None:
        """Draw the change points of the run that was begun, among its first *horizon* decisions."""
        # A change point's rank is independent of its place: the later of two may leave its thread the higher.
        for rank in range(min(self.depth - 1, horizon)):
            at = self.below(horizon)
            while at in self._changes:
                at = self.below(horizon)
            self._changes[at] = BASE + rank

    def pick(self, n: int, point: DecisionPoint) -> int:
        ready = point.ready
        if self._eager:
            start = self.starting(point)
            if start >= 0:
                return start
        count = self._count
        if count >= self.fair_after:
            return self.below(n)
        first = self._first(n, point)
        if first == len(ready):
            self._count = count + 1
            if count in self._changes:
                self._priorities[CLOCK] = self._changes[count]
                first = self._first(n, point)
        elif ready[first].steps:
            self._count = count + 1
            if count in self._changes:
                self._priorities[ready[first].path] = self._changes[count]
                first = self._first(n, point)
        if first == len(ready):
            self._priorities[CLOCK] = FIRED
            self._fired = True
            self._last = None
            return n - 1
        if self._fired:
            self._fired = False
            del self._priorities[CLOCK]
        thread = ready[first]
        if thread is not self._last:
            self._last = thread
            self._streak = 1
        else:
            self._streak += 1
            if self._streak == self.patience:
                self._lowest -= 1
                self._priorities[thread.path] = self._lowest
                self._last = None
        return (first - point.index) % len(ready)

    def _first(self, n: int, point: DecisionPoint) -> int:
        """The place in `ready` of the thread with the highest priority; for the clock, the length of `ready`."""
        priorities = self._priorities
        highest = FIRED
        first = place = 0
        for thread in point.ready:
            path = thread.path
            priority = priorities.get(path)
            if priority is None:
                priority = self._draw(path)
            if priority > highest:
                highest = priority
                first = place
            place += 1
        if n > place:
            priority = priorities.get(CLOCK)
            if priority is None:
                priority = self._draw(CLOCK)
            if priority > highest:
                first = place
        return first

    def _draw(self, path: Path) -> int:
        # Above all ranks of change points; the chance of a tie is negligible, and the ring decides it.
        priority = BASE + self.depth + self.priority()
        self._priorities[path] = priority
        return priority

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
