"""Outcome sets: everything that a program can come to, with one run for each.

The program says what counts, by putting it into `Outcome.named`; a finding is an outcome as well. Equivalent runs come
to the same, so the reduced search knows all outcomes when it is through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kemu.explore.explorer import Budget, Collector, Exploration, Progress, explore
from kemu.explore.program import failure_of

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.explore.strategies import Strategy
    from kemu.runtime import Outcome

Value = tuple[str, ...]
"""An outcome: ``name=value`` for everything that has a name, in the order of names, or ``finding CODE`` alone."""


@dataclass(frozen=True, slots=True)
class Reached:
    """One outcome, and how it was come to."""

    value: Value
    choices: tuple[int, ...]
    """The first run that came to it."""
    run: int
    """The number of that run, from 0."""
    count: int
    """How many runs came to it. They are not drawn alike, so this is no probability."""

    def __str__(self) -> str:
        return ", ".join(self.value) or "(nothing named)"


@dataclass(frozen=True, slots=True)
class OutcomeSet:
    """What a program came to in an exploration."""

    reached: tuple[Reached, ...]
    """In the order of their values."""
    exploration: Exploration
    is_complete: bool
    """Whether it is proved that there are no others."""

    def beyond(self, other: OutcomeSet) -> tuple[Reached, ...]:
        """The outcomes that *other* does not have."""
        known = {one.value for one in other.reached}
        return tuple(one for one in self.reached if one.value not in known)


class _OutcomeCollector(Collector):
    """Also keeps the first run of each outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: dict[Value, Reached] = {}

    def add(self, outcome: Outcome, *, watched: bool = False) -> None:
        if outcome.end != "abandoned":
            self._reach(value_of(outcome), outcome)
        super().add(outcome, watched=watched)

    def _reach(self, value: Value, outcome: Outcome) -> None:
        known = self.reached.get(value)
        if known is None:
            self.reached[value] = Reached(value, tuple(outcome.choices), self.schedules, 1)
        else:
            self.reached[value] = Reached(value, known.choices, known.run, known.count + 1)


def value_of(outcome: Outcome) -> Value:
    """What the run that ended with *outcome* came to."""
    failure = failure_of(outcome)
    if failure is not None:
        return (f"finding {failure.code}",)
    return tuple(f"{name}={outcome.named[name]}" for name in sorted(outcome.named))


def collect_outcomes(
    program: Program,
    strategy: Strategy,
    budget: Budget,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> OutcomeSet:
    """Explore *program* past every failure and collect what it comes to."""
    collected = _OutcomeCollector()
    exploration = explore(program, strategy, budget, keep_going=True, progress=progress, stop=stop, collected=collected)
    reduction = exploration.reduction
    doubt: Any = reduction is not None and reduction.doubt
    complete = exploration.exhausted and bool(getattr(strategy, "exhausted", False)) and not doubt
    reached = tuple(collected.reached[value] for value in sorted(collected.reached))
    return OutcomeSet(reached, exploration, complete)
