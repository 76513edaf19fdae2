"""The portfolio: a reduced search and the samplers in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.alternate import Alternating
from kemu.explore.strategies.base import Reduction, Remainder, Strategy, check_number
from kemu.explore.strategies.pieces import DivisibleDPOR
from kemu.explore.strategies.pos import POS
from kemu.explore.strategies.surw import SURW
from kemu.explore.strategies.urw import URW

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Outcome

WINDOW: Final = 16
"""Over how many of its last runs a sampler's share of new ones is measured."""

REMEMBERED: Final = 1 << 16
"""How many fingerprints are remembered to tell new runs from old ones."""


FIRST: Final = 2
"""So many of the first runs are the reduced search's."""

WARM: Final = 16
"""From this run on the reduced search has a turn again: what it finds early, it finds in its first runs."""

PROVING: Final = 1_024
"""From this run on the reduced search gets as many turns as all samplers together: what is small has been proved by
then, and a bug that samplers find at all has mostly shown."""


SHARES: Final = ((POS, 2, 0.5), (SURW, 8, 0.0), (Alternating, 1, 1.5), (URW, 1, 1.5))
"""The samplers, how much of the runs each has relative to the others, and for how many of its own it has to wait at the
beginning, in turns of a sampler with a share of 1. What was published and what is measured here say that SURW is the
best single one by far where few runs are made; the others are there for what it misses."""


class Member:
    """A sampler, and how well it does."""

    def __init__(self, strategy: Strategy, share: int = 1, turns: float = 0.0) -> None:
        self.strategy = strategy
        self.share = share
        self.turns = turns
        """How much of its due it has had: each run counts the more, the fewer of its runs were new."""
        self._new: list[bool] = [True] * WINDOW
        self._at = 0

    def note(self, *, new: bool) -> None:
        """Take note of whether its run was unlike all before."""
        self._new[self._at] = new
        self._at = (self._at + 1) % WINDOW
        self.turns += WINDOW / (self.share * (1 + sum(self._new)))


class Portfolio:
    """Takes the runs of several strategies in turn, so that it does nearly as well as the best of them.

    The first two runs, from run `WARM` on every fourth and from run `PROVING` on two of four belong to the reduced
    search (`DPOR`), until that has made *reduced* runs, or cannot prove anything any more, or has explored everything,
    which proves that there is nothing more to find. The rest goes to samplers: SURW first and most, then POS, then
    sticky walks and PCT, and URW (`SHARES`). Those that come upon more runs that were not seen before get more turns,
    but none goes without. SURW, which has to know what threads share, also learns from the first runs of the search.

    All follows from the program and the seed. *start* is the number of the first run; a portfolio that does not begin
    with run 0 leaves the reduced search out, and its samplers learn anew. With a piece of the reduced search, it leaves
    the samplers out.
    """

    name = "portfolio"
    completed: None = None

    def __init__(self, seed: int, *, reduced: int = 5_000, start: int = 0) -> None:
        check_number("seed", seed, least=0)
        check_number("reduced", reduced, least=0)
        self.seed = seed
        self._left = 0 if start else reduced
        self._search = DivisibleDPOR()
        # With one seed for all they would draw from the same streams, and answer questions alike.
        self._members = [
            Member(make(seed * len(SHARES) + number, start=start), share, turns)
            for number, (make, share, turns) in enumerate(SHARES)
        ]
        self._learner = next(one.strategy for one in self._members if isinstance(one.strategy, SURW))
        self._is_heard = False
        """Whether the learner listens to the current run."""
        self._seen: set[int] = set()
        self._run = -1
        self._member: Member | None = None
        self._current: Strategy = self._search
        self._is_piece = False
        """Whether all runs are the search's, which has a piece."""

    @property
    def exhausted(self) -> bool:
        """Whether the reduced search has explored everything."""
        return self._search.exhausted

    @property
    def left(self) -> int:
        """How many runs the reduced search may still make."""
        return 0 if self._search.doubt else self._left

    @property
    def observer(self) -> DivisibleDPOR | None:
        """The reduced search watches its own runs and no others."""
        return self._search if self._member is None else None

    @property
    def reduction(self) -> Reduction:
        """How far the reduced search has come."""
        return self._search.reduction

    def distrust(self, why: str) -> None:
        """Leave the reduced search out, because it would be no proof."""
        self._search.distrust(why)

    @property
    def sampler(self) -> str | None:
        """Who made the last run, for estimates: none but samplers that can make every run there is."""
        return None if self._member is None else getattr(self._current, "sampler", None)

    def begin(self) -> bool:
        self._run += 1
        if self._is_piece or (self._search.exhausted and not self._search.doubt):
            return self._search.begin()
        self._is_heard = False
        if self._left and not self._search.doubt and self._is_for_the_search(self._run):
            self._left -= 1
            self._member = None
            self._current = self._search
            if self._run < FIRST:
                self._is_heard = True
                self._learner.listen()
            return self._search.begin()
        self._member = min(self._members, key=lambda member: member.turns)
        self._current = self._member.strategy
        return self._current.begin()

    def _is_for_the_search(self, run: int) -> bool:
        if run < WARM:
            return run < FIRST
        return run % 4 < (2 if run >= PROVING else 1)

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._is_heard:
            self._learner.hear(point)
        return self._current.pick(n, point)

    def choose(self, n: int, label: str) -> int:
        return self._current.choose(n, label)

    def end(self, outcome: Outcome) -> None:
        self._current.end(outcome)
        if self._is_heard:
            self._learner.end(outcome)
        if self._member is None:
            # Nobody else need have a turn if that was all.
            self._search.move_on()
        else:
            new = outcome.fingerprint not in self._seen
            if new and len(self._seen) < REMEMBERED:
                self._seen.add(outcome.fingerprint)
            self._member.note(new=new)

    # The search in pieces. Samplers have numbers instead.

    def prepare(self) -> None:
        """It is going to be cut in pieces."""
        self._search.prepare()

    def split(self) -> Remainder:
        return self._search.split()

    def resume(self, remainder: Remainder, *, one_level: bool = False) -> None:
        self._is_piece = True
        self._search.resume(remainder, one_level=one_level)

    def conclude(self, completed: int | None, *, exhausted: bool) -> None:
        self._search.conclude(completed, exhausted=exhausted)
