"""The oracle: whoever decides.

Every decision of a run, whether of the schedule or of the data, is one small integer below a known bound, and
0 is always the plain thing: go on with the same thread, no fault. A strategy is an oracle; recording,
counting and checking are oracles that wrap another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kemu.runtime.thread import Thread


class DecisionPoint(Protocol):
    """What an oracle may look at when it picks the next party.

    The alternatives are ranked: 0 is ``ready[index]``, k is ``ready[(index + k) % len(ready)]``, and the last
    one is the clock if `clock_is_enabled`. `ready` is sorted by thread path and must not be changed.
    """

    @property
    def ready(self) -> list[Thread]:
        """The threads that can go on, in ring order."""
        ...

    @property
    def index(self) -> int:
        """Where in `ready` alternative 0 stands."""
        ...

    @property
    def running(self) -> Thread | None:
        """The thread that took the last step, enabled or not."""
        ...

    @property
    def clock_is_enabled(self) -> bool:
        """Whether the last alternative is the clock."""
        ...


def is_preemption(point: DecisionPoint, pick: int) -> bool:
    """Whether picking *pick* takes the processor away from a thread that could go on.

    Letting the clock fire is none: a deadline that passes is not the scheduler's doing.
    """
    if pick == 0 or (point.clock_is_enabled and pick == len(point.ready)):
        return False
    return continues(point)


def continues(point: DecisionPoint) -> bool:
    """Whether alternative 0 means that the same thread goes on."""
    ready = point.ready
    return bool(ready) and ready[point.index] is point.running


def party(point: DecisionPoint, pick: int) -> Thread | None:
    """The thread that alternative *pick* names, or None for the clock."""
    ready = point.ready
    if pick >= len(ready):
        return None
    return ready[(point.index + pick) % len(ready)]


class Oracle(Protocol):
    """Decides one run after another. `n` is at least 2 in both questions: forced decisions are not asked."""

    def begin(self) -> bool:
        """Get ready for the next run. False means that there is nothing left to explore."""
        ...

    def pick(self, n: int, point: DecisionPoint) -> int:
        """Pick the party that takes the next step: a number from 0 to n - 1."""
        ...

    def choose(self, n: int, label: str) -> int:
        """Pick an answer to the question *label* that the emulated system leaves open: 0 to n - 1."""
        ...


class First:
    """The oracle of the plain run: always 0."""

    def begin(self) -> bool:
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        return 0

    def choose(self, n: int, label: str) -> int:
        return 0
