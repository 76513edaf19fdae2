"""Replay: a run is made again from its choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kemu.errors import ReplayDiverged, UsageError
from kemu.explore.strategies.base import steps_before
from kemu.explore.token import trim

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.runtime import DecisionPoint, Observer, Outcome


class Replay:
    """Decides what a list of choices says, once.

    Strictly: `ReplayDiverged` is raised at a choice that is not possible, at the end of a run that is over before
    the choices are and, if the list is *complete*, at the first decision after them. A list that is not complete,
    such as one from a token, had its trailing zeros dropped, and the run goes on with 0.

    Not strictly: what is not possible is replaced by the nearest that is, and nothing is raised.
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
        self._at = 0
        self._begun = False

    def begin(self) -> bool:
        if self._begun:
            return False
        self._begun = True
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        at = self._at
        self._at = at + 1
        if at < len(self.choices) and self.choices[at] < n:
            return self.choices[at]
        return self._depart(at, n, steps_before(point), f"{n} parties can go on")

    def choose(self, n: int, label: str) -> int:
        at = self._at
        self._at = at + 1
        if at < len(self.choices) and self.choices[at] < n:
            return self.choices[at]
        return self._depart(at, n, steps_before(), f"{label!r} has {n} answers")

    def _depart(self, at: int, n: int, step: int, what: str) -> int:
        message = ""
        if at < len(self.choices):
            message = f"decision {at} was recorded as {self.choices[at]}, but {what}"
        elif self.complete:
            message = f"the recording ends after {len(self.choices)} decisions, but {what}"
        if message and self.strict:
            raise ReplayDiverged(message, step)
        return n - 1 if at < len(self.choices) else 0

    def key(self) -> tuple[int, ...]:
        """A value that is equal for lists that lead to the same run."""
        return trim(self.choices)

    def end(self, outcome: Outcome) -> None:
        left = len(self.choices) - self._at
        if self.strict and left > 0:
            raise ReplayDiverged(f"the run is over, but {left} recorded choices are left", outcome.steps)


def replay(
    program: Program, choices: Sequence[int], *, complete: bool = False, observer: Observer | None = None
) -> Outcome:
    """Run *program* with *choices*, strictly. Raises `ReplayDiverged` where they do not fit."""
    oracle = Replay(choices, complete=complete)
    oracle.begin()
    outcome = program.run(oracle, observer)
    oracle.end(outcome)
    return outcome
