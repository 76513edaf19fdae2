"""Watching a run closely: every step with its words, its line of source and what it touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kemu.explore.recording import Recorder, Recording
from kemu.explore.strategies.base import CLOCK, Path
from kemu.explore.strategies.constrain import CLOCKS, Moment
from kemu.explore.where import Place, where
from kemu.runtime import READ, BlockingOperation, Cell, Clock, Waitable

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.runtime import Observer, Oracle, Thread


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
    nth: int = 1
    """The how many-th time its thread did this there, from 1."""
    holds: tuple[Cell, ...] = ()
    """What it touched that says afterwards that it is held by the thread."""
    spawns: tuple[Path, ...] = ()
    """The threads that it created."""

    @property
    def moment(self) -> Moment:
        """What the same event is recognised by in any other run."""
        return Moment(self.path, self.what, str(self.place or ""), self.nth)

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
        self._counts: dict[tuple[Path, str, Place | None], int] = {}
        self._thread: Thread | None = None
        self._threads = 1

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        super().before_step(thread, pick, alternatives)
        step = len(self.events)
        self._thread = thread
        if thread is None:
            ticker = self._clock.ticker if self._clock is not None else None
            self._footprint = ticker.footprint if ticker is not None else None
            number = self.parties.count(CLOCK)
            self._open = Event(step, "clock", CLOCK, number, CLOCKS, None, (), nth=number)
        else:
            self._clock = thread.runtime.clock
            self._footprint = thread.footprint
            self._waiting.pop(thread.path, None)
            what, place = thread.op.describe(), where(thread)
            key = (thread.path, what, place)
            self._counts[key] = nth = self._counts.get(key, 0) + 1
            self._open = Event(step, thread.label, thread.path, thread.steps, what, place, (), nth=nth)

    def after_step(self, thread: Thread | None) -> None:
        if thread is None or not thread.alive:
            self._close("", None)
        else:
            op, place = thread.op, where(thread)
            self._close(op.describe(), place)
            if isinstance(op, BlockingOperation):
                what = op.describe()
                self._waiting[thread.path] = Event(
                    step=0,
                    thread=thread.label,
                    path=thread.path,
                    ordinal=thread.steps + 1,
                    what=what,
                    place=place,
                    footprint=tuple((source, READ) for source in op.sources),
                    taken=False,
                    nth=self._counts.get((thread.path, what, place), 0) + 1,
                )

    def _close(self, then: str, then_place: Place | None) -> None:
        if self._open is not None:
            footprint = tuple(self._footprint or ())
            if self._footprint is not None:
                self._footprint.clear()
            self.events.append(
                replace(
                    self._open,
                    footprint=footprint,
                    then=then,
                    then_place=then_place,
                    holds=self._held(footprint),
                    spawns=self._spawned(),
                )
            )
            self._open = None

    def _held(self, footprint: tuple[tuple[Cell, int], ...]) -> tuple[Cell, ...]:
        """What of *footprint* the thread of the step that is over holds, alone."""
        cells = {cell: None for cell, _ in footprint if isinstance(cell, Waitable)}
        # Threads are their own holders as long as they live; that is no lock that anybody could take.
        return tuple(cell for cell in cells if cell is not self._thread and cell.holders() == (self._thread,))

    def _spawned(self) -> tuple[Path, ...]:
        if self._thread is None:
            return ()
        threads = self._thread.runtime.threads
        known, self._threads = self._threads, len(threads)
        return tuple(thread.path for thread in threads[known:])

    def finish(self, stuck: tuple[str, ...]) -> None:
        """The run is over: close the step in which it failed, and add what the *stuck* threads wait for."""
        self._close("", None)
        steps = len(self.events)
        for path in sorted(self._waiting):
            event = self._waiting[path]
            if event.thread in stuck:
                self.events.append(replace(event, step=steps))


class _Both:
    """Two observers; the first is told first of what is about to happen, and last of what has."""

    def __init__(self, one: Observer, other: Observer) -> None:
        self.one = one
        self.other = other

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        self.one.before_step(thread, pick, alternatives)
        self.other.before_step(thread, pick, alternatives)

    def chose(self, value: int, alternatives: int, label: str) -> None:
        self.one.chose(value, alternatives, label)
        self.other.chose(value, alternatives, label)

    def after_step(self, thread: Thread | None) -> None:
        self.other.after_step(thread)
        self.one.after_step(thread)


def watch(program: Program, oracle: Oracle, observer: Observer | None = None) -> tuple[Recording, list[Event]]:
    """Run *program* once under *oracle* and return its recording and all its events.

    *observer* watches as well; a step before which it stops the run is none.
    """
    watcher = Watcher(oracle)
    watcher.begin()
    outcome = program.run(watcher, watcher if observer is None else _Both(observer, watcher))
    stuck = outcome.stuck.blocked if outcome.stuck is not None else ()
    watcher.finish(tuple(blocked.thread for blocked in stuck))
    return watcher.recording(outcome), watcher.events
