"""Follow: a run is made by naming, piece by piece, who is to run, not by counting decisions.

A list of choices loses its meaning from the first one that is changed: a 2 that meant the worker means the
user after a thread less is ready. A plan keeps it. So a shrinker edits plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.base import CLOCK, Path
from kemu.runtime import current_thread

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Outcome, Thread

WITHOUT_END: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a plan: *path* is to run until it has taken *upto* steps in all."""

    path: Path
    upto: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is to run, in order, and how each thread's open questions are to be answered, in its own order."""

    slices: tuple[Slice, ...]
    answers: dict[Path, tuple[int, ...]] = field(default_factory=dict[Path, tuple[int, ...]])

    def key(self) -> tuple[object, ...]:
        """A value that is equal for equal plans, and hashable."""
        return (self.slices, tuple(sorted(self.answers.items())))


class Follow:
    """Decides as a plan says, as far as that is possible.

    A slice goes on while its thread can; then the first slice of the plan that can goes on, so one that could
    not when its turn came is made up for at the next occasion. When no slice can go on, the choice is 0.
    """

    name = "follow"
    seed: None = None
    completed: None = None

    def __init__(self, plan: Plan) -> None:
        self._slices: Sequence[Slice] = plan.slices
        self._answers = {path: list(reversed(values)) for path, values in plan.answers.items()}
        self._at = 0
        self._begun = False

    def begin(self) -> bool:
        if self._begun:
            return False
        self._begun = True
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        steps = {thread.path: thread.steps for thread in point.ready}
        if point.clock_is_enabled:
            ticker = point.ready[0].runtime.clock.ticker
            steps[CLOCK] = ticker.steps if ticker is not None else 0
        self._catch_up(point.running)
        slices = self._slices
        if self._at < len(slices) and steps.get(slices[self._at].path, WITHOUT_END) < slices[self._at].upto:
            return self._number(slices[self._at].path, n, point)
        for at, piece in enumerate(slices):
            if steps.get(piece.path, WITHOUT_END) < piece.upto:
                self._at = at
                return self._number(piece.path, n, point)
        return 0

    def _catch_up(self, running: Thread | None) -> None:
        """Find the slice of the step that was taken last: forced steps are taken without asking."""
        slices = self._slices
        if running is None or (self._at < len(slices) and slices[self._at].path in (running.path, CLOCK)):
            return
        for at, piece in enumerate(slices):
            if piece.path == running.path and piece.upto >= running.steps:
                self._at = at
                return

    def _number(self, path: Path, n: int, point: DecisionPoint) -> int:
        for place, thread in enumerate(point.ready):
            if thread.path == path:
                return (place - point.index) % len(point.ready)
        return n - 1

    def choose(self, n: int, label: str) -> int:
        answers = self._answers.get(current_thread().path)
        return min(answers.pop(), n - 1) if answers else 0

    def end(self, outcome: Outcome) -> None:
        """Nothing: a plan need not be possible."""
