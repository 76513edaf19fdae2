"""Partial order sampling: a random priority for every pending operation.

After Yuan, Yang and Gu, "Partial order aware concurrency sampling" (CAV 2018).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.base import CLOCK, Path, Sampler, check_number

if TYPE_CHECKING:
    from kemu.runtime import Cell, DecisionPoint

Drawn = tuple[int, int, "Cell | None"]
"""After how many steps of its thread the operation comes, its priority, and what it is declared on."""


NOTHING: Final[Drawn] = (0, -1, None)


class POS(Sampler):
    """Always takes the pending operation of the highest priority, drawn when the operation becomes possible.

    A priority lasts until its thread has taken the step, the operation has become impossible for a time, or
    another thread has taken an operation on the same cell: the order of dependent operations is then drawn
    anew, and that of independent ones, which makes no difference, is left alone. Every run can come up.

    What depends on what is known from the declared operations alone (`Operation.target`). They do not tell a
    read from a write, so two reads of one cell count as dependent, and what a step touches besides does not count.
    An operation that is declared on nothing depends on nothing: like the start of a thread it is taken at once, but
    in one run of eight. The clock is a party like another. Whom a firing concerns is not known, so all priorities are
    drawn anew after it, and a timer that sets itself again starves nobody. A thread that spins could: after
    *fair_after* decisions the rest of the run is a uniform random walk. Answers follow `Sampler.answer`.
    """

    name = "pos"
    full_support = True

    def __init__(self, seed: int, *, fair_after: int = 2_000, start: int = 0) -> None:
        super().__init__(seed, start=start)
        check_number("fair_after", fair_after, least=1)
        self.fair_after = fair_after
        self._count = 0
        self._priorities: dict[Path, Drawn] = {}

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self._count = 0
        self._priorities = {}

    def pick(self, n: int, point: DecisionPoint) -> int:
        self._count = count = self._count + 1
        if count > self.fair_after:
            return self.below(n)
        before = self._priorities
        # Who could not go on is left out, and so draws again when it can.
        now: dict[Path, Drawn] = {}
        highest = -1
        first = place = 0
        chosen = NOTHING
        eager = self._eager
        ready = point.ready
        for thread in ready:
            path = thread.path
            drawn = before.get(path)
            if drawn is None or drawn[0] != thread.steps:
                target = thread.op.target()
                if target is None and eager:
                    # Of the others those that are new draw next time.
                    return (place - point.index) % len(ready)
                drawn = (thread.steps, self.priority(), target)
            now[path] = drawn
            priority = drawn[1]
            if priority > highest:
                highest = priority
                first = place
                chosen = drawn
            place += 1
        self._priorities = now
        if n > place:
            ticker = ready[0].runtime.clock.ticker
            steps = 0 if ticker is None else ticker.steps
            drawn = before.get(CLOCK)
            if drawn is None or drawn[0] != steps:
                drawn = (steps, self.priority(), None)
            now[CLOCK] = drawn
            if drawn[1] > highest:
                now.clear()
                return place
        target = chosen[2]
        if target is not None:
            # The chosen one, too: it is going to have another operation.
            self._priorities = {path: drawn for path, drawn in now.items() if drawn[2] is not target}
        return (first - point.index) % place

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
