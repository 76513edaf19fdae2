"""A run that is stopped after one of its steps, to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kemu.runtime import ControlledRuntime, Observer, Oracle, Outcome, Runtime, Thread

T = TypeVar("T")


class Steppable(Protocol):
    """A program whose runs can be watched."""

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        """Run it once under *oracle*."""
        ...


class Counter:
    """Counts the steps that a run has completed."""

    def __init__(self) -> None:
        self.steps = 0

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        """Nothing: what counts is that a step was completed."""

    def chose(self, value: int, alternatives: int, label: str) -> None:
        """Nothing."""

    def after_step(self, thread: Thread | None) -> None:
        """One more step is complete."""
        self.steps += 1


class Moment(Counter, Generic[T]):
    """Looks at a run after the step of a number, and ends it there."""

    def __init__(self, step: int, look: Callable[[Runtime], T]) -> None:
        super().__init__()
        self.step = step
        self.look = look
        self.seen: T | None = None

    def after_step(self, thread: Thread | None) -> None:
        """Look, if this is the step."""
        step, self.steps = self.steps, self.steps + 1
        if step >= self.step and thread is not None and self.seen is None:
            runtime = thread.runtime
            assert isinstance(runtime, ControlledRuntime)
            self.seen = self.look(runtime)
            runtime.abandon()


def count_steps(program: Steppable, oracle: Oracle) -> int:
    """How many steps a run of *program* completes; one that a finding ends is not complete."""
    counter = Counter()
    program.run(oracle, counter)
    return counter.steps


def look_at(program: Steppable, oracle: Oracle, step: int, look: Callable[[Runtime], T]) -> T | None:
    """What *look* makes of a run of *program* after *step*, counted from 0; None if it ends before that.

    A step of the clock has no thread: the next one of a thread is looked at instead.
    """
    moment = Moment(step, look)
    program.run(oracle, moment)
    return moment.seen
