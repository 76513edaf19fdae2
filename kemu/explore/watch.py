"""Watching a run closely: every step with its words, its line of source and what it touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kemu.explore.recording import Recorder, Recording
from kemu.explore.strategies.base import CLOCK, Path
from kemu.explore.where import Place, where
from kemu.runtime import READ, BlockingOperation, Cell, Clock

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.runtime import Oracle, Thread


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a run, or, of a thread that is stuck at the end, the step it cannot take."""

    step: int
    """Its number in the run, from 0, the clock's steps included; of a step that was not taken, the number of
    all steps."""
    thread: str
    path: Path
    ordinal: int
    """Its number among the steps of its thread, from 1."""
    what: str
    """The operation in words, such as ``acquire ScanLock``."""
    place: Place | None
    footprint: tuple[tuple[Cell, int], ...]
    """What it touched, and how. Cells are compared by identity, within one run."""
    then: str = ""
    """What the thread was going to do next, if it got to that."""
    then_place: Place | None = None
    taken: bool = True
    """False for a step that a thread was stuck before."""

    @property
    def key(self) -> tuple[object, ...]:
        """What the same step is recognised by in another run."""
        return (self.path, self.ordinal, self.what)

    def __str__(self) -> str:
        at = f" at {self.place}" if self.place is not None else ""
        return f"{self.thread}: {self.what}{at}"


class Watcher(Recorder):
    """Records one run and all its events. To be given to the run as oracle and as observer."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(oracle)
        self.events: list[Event] = []
        self._open: Event | None = None
        self._clock: Clock | None = None
        self._footprint: list[tuple[Cell, int]] | None = None
        self._waiting: dict[Path, Event] = {}

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        super().before_step(thread, pick, alternatives)
        step = len(self.events)
        if thread is None:
            ticker = self._clock.ticker if self._clock is not None else None
            self._footprint = ticker.footprint if ticker is not None else None
            self._open = Event(step, "clock", CLOCK, self.parties.count(CLOCK), "let time pass", None, ())
        else:
            self._clock = thread.runtime.clock
            self._footprint = thread.footprint
            self._waiting.pop(thread.path, None)
            what = thread.op.describe()
            self._open = Event(step, thread.label, thread.path, thread.steps, what, where(thread), ())

    def after_step(self, thread: Thread | None) -> None:
        if thread is None or not thread.alive:
            self._close("", None)
        else:
            op, place = thread.op, where(thread)
            self._close(op.describe(), place)
            if isinstance(op, BlockingOperation):
                touched = tuple((source, READ) for source in op.sources)
                self._waiting[thread.path] = Event(
                    0, thread.label, thread.path, thread.steps + 1, op.describe(), place, touched, taken=False
                )

    def _close(self, then: str, then_place: Place | None) -> None:
        if self._open is not None:
            footprint = tuple(self._footprint or ())
            if self._footprint is not None:
                self._footprint.clear()
            self.events.append(replace(self._open, footprint=footprint, then=then, then_place=then_place))
            self._open = None

    def finish(self, stuck: tuple[str, ...]) -> None:
        """The run is over: close the step in which it failed, and add what the *stuck* threads wait for."""
        self._close("", None)
        steps = len(self.events)
        for path in sorted(self._waiting):
            event = self._waiting[path]
            if event.thread in stuck:
                self.events.append(replace(event, step=steps))


def watch(program: Program, oracle: Oracle) -> tuple[Recording, list[Event]]:
    """Run *program* once under *oracle* and return its recording and all its events."""
    watcher = Watcher(oracle)
    watcher.begin()
    outcome = program.run(watcher, watcher)
    stuck = outcome.stuck.blocked if outcome.stuck is not None else ()
    watcher.finish(tuple(blocked.thread for blocked in stuck))
    return watcher.recording(outcome), watcher.events
