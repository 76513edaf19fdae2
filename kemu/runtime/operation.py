"""Operations: what a thread says it is about to do.

A thread's coroutine yields an operation. The runtime performs it when the schedule says so and runs the
thread up to its next one; that is one *step*. Code between two operations is atomic.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from kemu.runtime.clock import Timer
    from kemu.runtime.footprint import Cell, Waitable
    from kemu.runtime.thread import Thread

R = TypeVar("R")


class Operation(Generic[R]):
    """Something a thread is about to do that another thread can observe or influence.

    Subclasses give `kind` and `perform`. An operation that is always possible keeps `blocks` False, which
    spares the runtime every further question.
    """

    __slots__ = ()

    kind: ClassVar[str] = "op"
    blocks: ClassVar[bool] = False

    def perform(self, thread: Thread) -> R:
        """Do it, on behalf of *thread*, and return what the thread's `await` evaluates to."""
        raise NotImplementedError

    def target(self) -> Cell | None:
        """The cell this operation is declared on, for strategies that look at pending operations."""
        return None

    def describe(self) -> str:
        """Words for a trace or a deadlock report, such as ``acquire ScanLock``."""
        target = self.target()
        return self.kind if target is None else f"{self.kind} {target.label}"

    def __await__(self) -> Generator[Operation[R], R, R]:
        return (yield self)


class BlockingOperation(Operation[R]):
    """An operation that may have to wait until an object allows it, optionally with a timeout.

    *timeout* is in ticks of virtual time: None waits for ever, 0 polls. It counts from when the thread
    declares the operation, and runs only while the thread has to wait: one that may go on cannot time out any
    more.

    Subclasses give `available` and `take`. The runtime asks `available` when the operation is declared and
    whenever a source reports a change; `perform` runs only while the answer is yes, or when the time is up.

    What makes an operation available writes one of its sources. One that waits for several touches all of them when it
    goes on, whichever let it.
    """

    __slots__ = ("deadline", "expired", "sources", "timeout", "timer")

    blocks: ClassVar[bool] = True
    opaque: ClassVar[bool] = False
    """Whether `available` depends on more than the `Waitable.guards` of the sources. A reduced search then does not
    know when the operation could have gone on, and makes more runs."""
    idle: ClassVar[bool] = False
    """Whether a service thread that waits here is at rest, so that the run may end."""

    def __init__(self, *sources: Waitable, timeout: int | None = None) -> None:
        self.sources: tuple[Waitable, ...] = sources
        self.timeout = timeout
        self.deadline = 0
        self.expired = False
        self.timer: Timer | None = None

    def available(self, thread: Thread) -> bool:
        """Whether the sources allow the operation now."""
        raise NotImplementedError

    def take(self, thread: Thread) -> R:
        """Perform the operation, which is available."""
        raise NotImplementedError

    def timed_out(self, thread: Thread) -> R:
        """Perform the operation whose time is up and which is not available."""
        raise NotImplementedError

    def ready(self, thread: Thread) -> bool:
        """Whether the thread may be scheduled."""
        return self.expired or self.timeout == 0 or self.available(thread)

    def perform(self, thread: Thread) -> R:
        for source in self.sources:
            source.watchers.remove(thread)
        if self.timeout is None:
            return self.take(thread)
        timer = self.timer
        if timer is not None:
            thread.read(timer)
            self.timer = None
        # An expired wait stays expired even if the object became free before the thread ran again.
        return self.timed_out(thread) if self.expired or not self.available(thread) else self.take(thread)

    def target(self) -> Cell | None:
        return self.sources[0] if self.sources else None

    def holders(self) -> tuple[Thread, ...]:
        """The threads whose progress this one needs, for the wait-for graph."""
        return tuple(holder for source in self.sources for holder in source.holders())


class Point(Operation[None]):
    """A scheduling point without an effect of its own: something another thread may precede.

    Used where control leaves the current code in a way that races, such as the return of a routine that has
    handed an object over.
    """

    __slots__ = ("cell", "what")

    kind = "point"

    def __init__(self, what: str, cell: Cell | None = None) -> None:
        self.what = what
        self.cell = cell

    def perform(self, thread: Thread) -> None:
        if self.cell is not None:
            thread.read(self.cell)

    def target(self) -> Cell | None:
        return self.cell

    def describe(self) -> str:
        return self.what
