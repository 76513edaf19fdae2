"""Replay: a run is made again from its choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kemu.errors import KemuError, ReplayDiverged, UsageError
from kemu.explore.token import trim
from kemu.runtime import current_thread

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.runtime import DecisionPoint, Observer, Outcome, Thread


class Replay:
    """Decides what a list of choices says, once.

    Strictly: a choice that is not possible, a run that ends before the choices do and, if the list is
    *complete*, a run that goes on after them are divergences. The first one is kept in `diverged`, and `end`
    raises it: an exception raised in the middle of a run might be swallowed by the very driver that is
    running. A list that is not complete, such as one from a token, had its trailing zeros dropped, and the
    run goes on with 0.

    Not strictly: what is not possible is replaced by the nearest that is, and nothing is a divergence.
    """

    name = "replay"
    seed: None = None
    completed: None = None

    def __init__(self, choices: Sequence[int], *, strict: bool = True, complete: bool = False) -> None:
        for at, value in enumerate(choices):
            if value < 0:
                raise UsageError(f"choice {at} is {value}", remedy="choices are counted from 0")
        self.choices = choices
        self.strict = strict
        self.complete = complete
        self.diverged: ReplayDiverged | None = None
        self._at = 0
        self._begun = False

    def begin(self) -> bool:
        if self._begun:
            return False
        self._begun = True
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        at = self._at
        if at < len(self.choices) and self.choices[at] < n:
            self._at = at + 1
            return self.choices[at]
        return self._depart(n, point.running or point.ready[0], f"{n} parties can go on")

    def choose(self, n: int, label: str) -> int:
        at = self._at
        if at < len(self.choices) and self.choices[at] < n:
            self._at = at + 1
            return self.choices[at]
        return self._depart(n, current_thread(), f"{label!r} has {n} answers")

    def _depart(self, n: int, thread: Thread, what: str) -> int:
        at = self._at
        self._at = at + 1
        if at < len(self.choices):
            self._note(thread, f"decision {at} was recorded as {self.choices[at]}, but {what}")
            return n - 1
        if self.complete:
            self._note(thread, f"the recording ends after {len(self.choices)} decisions, but {what}")
        return 0

    def _note(self, thread: Thread, message: str) -> None:
        if self.strict and self.diverged is None:
            self.diverged = ReplayDiverged(message, thread.runtime.fingerprint()[1])

    def key(self) -> tuple[int, ...]:
        """A value that is equal for lists that lead to the same run."""
        return trim(self.choices)

    def end(self, outcome: Outcome) -> None:
        """Raise `ReplayDiverged` if the run that ended with *outcome* was not the recorded one."""
        if self.strict and self.diverged is None and self._at < len(self.choices):
            left = len(self.choices) - self._at
            self.diverged = ReplayDiverged(f"the run is over, but {left} recorded choices are left", outcome.steps)
        if self.diverged is not None:
            raise self.diverged


def replay(
    program: Program, choices: Sequence[int], *, complete: bool = False, observer: Observer | None = None
) -> Outcome:
    """Run *program* with *choices*, strictly. Raises `ReplayDiverged` where they do not fit."""
    oracle = Replay(choices, complete=complete)
    oracle.begin()
    try:
        outcome = program.run(oracle, observer)
    except KemuError as error:
        # After a divergence anything can happen; the divergence is what the user has to know.
        if oracle.diverged is not None:
            raise oracle.diverged from error
        raise
    oracle.end(outcome)
    return outcome
