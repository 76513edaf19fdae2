"""The default: a sticky random walk and PCT in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.base import check_number
from kemu.explore.strategies.pct import PCT
from kemu.explore.strategies.sticky import StickyRandomWalk

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Outcome

LEAST_HORIZON: Final = 8

SWITCHES: Final = (1 / 8, 1 / 4, 1 / 2, 1 / 16)


class Alternating:
    """Even runs are sticky walks, which can make every run there is; odd ones are PCT of depth 3, which aims.

    No stickiness is best everywhere: of two threads that each have a long way to go a restless walk never lets one
    arrive, and a bug that takes several switches is out of reach for a lazy one. So the walks take the
    probabilities of a switch in `SWITCHES` in turn.

    Every run follows from the program, the seed and the run's number. PCT has to know how long runs are, and
    what it has seen so far would make a run depend on those before it; so the length is measured in run 0
    alone, whose own decisions need no such knowledge. Run 0 may have been short, having failed early, say:
    each PCT run doubles the length at random, once with probability 1/4, twice with 1/8 and so on, which
    costs little where the measure was right. With *start* above 0, run 0 is made first all the same.
    """

    name = "alternating"
    completed: None = None

    def __init__(self, seed: int, *, start: int = 0) -> None:
        check_number("start", start, least=0)
        self._walks = [StickyRandomWalk(seed, switch) for switch in SWITCHES]
        self._pct = PCT(seed)
        self.seed = seed
        self.run = -1
        """The number of the current run."""
        self.preliminary = int(start > 0)
        self._start = start
        self._horizon = LEAST_HORIZON
        self._decisions = 0
        self._current: StickyRandomWalk | PCT = self._walks[0]

    @property
    def sampler(self) -> str | None:
        """The walk that made the last run; None for PCT, which cannot make every run, and a run 0 made once more."""
        return None if 0 <= self.run < self._start else self._current.sampler

    def begin(self) -> bool:
        if self.run == 0:
            self._horizon = max(LEAST_HORIZON, self._decisions)
            self.run = max(1, self._start)
        else:
            self.run += 1
        if self.run % 2:
            self._current = pct = self._pct
            pct.begin_run(self.run)
            horizon = self._horizon
            while horizon < pct.fair_after and pct.byte() >= 128:
                horizon *= 2
            pct.plan(min(horizon, pct.fair_after))
        else:
            self._current = walk = self._walks[self.run // 2 % len(self._walks)]
            walk.begin_run(self.run)
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self.run == 0:
            self._decisions += 1
        return self._current.pick(n, point)

    def choose(self, n: int, label: str) -> int:
        return self._current.choose(n, label)

    def end(self, outcome: Outcome) -> None:
        """Nothing: what is measured, `pick` measures."""
