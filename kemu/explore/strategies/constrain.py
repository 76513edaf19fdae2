"""Constrain: another oracle's run, in which certain events come before certain others.

A thread whose next event has to come after one that has not happened yet is put off. Where everybody who could
go on is put off the run is ended: the orders asked for lead nowhere from there. After the ordering constraints
of Wen et al., "Controlled concurrency testing via periodical scheduling" (ICSE 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from kemu.explore.strategies.base import CLOCK, Path
from kemu.explore.where import where
from kemu.runtime import current_thread, party

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Oracle, Runtime, Thread

CLOCKS: Final = "let time pass"
"""What the clock does, in words."""


class Moment(NamedTuple):
    """What an event is recognised by in other runs: who does what, where, for the how many-th time.

    Not the number of its thread's step: in another run the thread may have taken more or fewer before it.
    """

    path: Path
    what: str
    place: str
    nth: int
    """From 1."""


class Before(NamedTuple):
    """That *second* does not happen unless *first* has."""

    first: Moment
    second: Moment


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a run was ended before it came to anything."""

    code: str
    summary: str

    @property
    def signature(self) -> tuple[str, ...]:
        return (self.code,)


DEAD_END: Final = GivenUp("dead-end", "whoever could go on would break an order that was to be kept")
TOO_LONG: Final = GivenUp("too-long", "the run took far longer than the one that it is compared with")

Answers = Mapping[tuple[Path, str], tuple[int, ...]]
"""The answers to open questions by who asks what, in order."""


class Constrain:
    """Decides as *base* does as long as *orders* are kept.

    To be given to the run as oracle and as observer: not every step is decided, and the others count as well. Who
    is put off is passed over for the next in the ring. Open questions get their *answers*, and where there are
    none the plain one.
    """

    def __init__(
        self,
        base: Oracle,
        orders: Iterable[Before],
        *,
        answers: Answers | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.base = base
        self.max_steps = max_steps
        self._answers = {key: list(reversed(values)) for key, values in (answers or {}).items()}
        self._needs: dict[Moment, list[Moment]] = {}
        self._paths: set[Path] = set()
        for first, second in orders:
            self._needs.setdefault(second, []).append(first)
            self._paths |= {first.path, second.path}
        self._constrained = {moment.path for moment in self._needs}
        self._counts: dict[tuple[Path, str, str], int] = {}
        self._happened: set[Moment] = set()
        self._steps = 0
        self._runtime: Runtime | None = None
        self.blocking: set[Before] = set()
        """The orders because of which the run was given up."""

    def begin(self) -> bool:
        return self.base.begin()

    def pick(self, n: int, point: DecisionPoint) -> int:
        value = self.base.pick(n, point)
        if not self._constrained:
            return value
        for _ in range(n):
            thread = party(point, value)
            path = CLOCK if thread is None else thread.path
            if path not in self._constrained or not self._is_put_off(self._next(thread)):
                break
            value = (value + 1) % n
        else:
            for alternative in range(n):
                self._blame(self._next(party(point, alternative)))
            point.ready[0].runtime.stop(DEAD_END)
        return value

    def choose(self, n: int, label: str) -> int:
        answers = self._answers.get((current_thread().path, label))
        return min(answers.pop(), n - 1) if answers else 0

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        if thread is not None:
            self._runtime = thread.runtime
        assert self._runtime is not None, "the clock never takes the first step"
        self._steps += 1
        if self.max_steps is not None and self._steps > self.max_steps:
            self._runtime.stop(TOO_LONG)
        path = CLOCK if thread is None else thread.path
        if path not in self._paths:
            return
        moment = self._next(thread)
        if self._is_put_off(moment):
            # Nobody else could go on, so nobody was asked.
            self._blame(moment)
            self._runtime.stop(DEAD_END)
        self._counts[moment[:3]] = moment.nth
        self._happened.add(moment)

    def chose(self, value: int, alternatives: int, label: str) -> None:
        """Nothing: `choose` gave the answer."""

    def after_step(self, thread: Thread | None) -> None:
        if thread is not None and thread.footprint is not None:
            thread.footprint.clear()

    def _next(self, thread: Thread | None) -> Moment:
        """The event that *thread*, or the clock if it is None, is about to bring about."""
        path, what, place = CLOCK, CLOCKS, ""
        if thread is not None:
            path, what, place = thread.path, thread.op.describe(), str(where(thread) or "")
        return Moment(path, what, place, self._counts.get((path, what, place), 0) + 1)

    def _is_put_off(self, moment: Moment) -> bool:
        return any(first not in self._happened for first in self._needs.get(moment, ()))

    def _blame(self, moment: Moment) -> None:
        self.blocking |= {Before(first, moment) for first in self._needs[moment] if first not in self._happened}
