"""Requests that wait in the file system: for a byte-range lock, a change in a directory, the break of an oplock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kemu.io.buffers import delivered
from kemu.nt.status import NTSTATUS, STATUS_CANCELLED, STATUS_PENDING
from kemu.runtime import Cell, Operation, Thread

if TYPE_CHECKING:
    from kemu.io.request import Request


class Host(Protocol):
    """Who requests wait with: the file system, or a filter that has oplocks of its own."""

    due: list[tuple[Request, bool]]

    @property
    def label(self) -> str: ...

    async def complete(self, request: Request) -> None: ...

    def cancelled(self, thread: Thread, waiting: Waiting) -> None: ...


class Waiting:
    """One request that waits, and the list that it waits in.

    Whoever takes it off its list owns it: the one who lets it go on, or the one who cancels it.
    """

    __slots__ = ("cell", "filesystem", "queue", "request")

    def __init__(self, filesystem: Host, request: Request, queue: list[Waiting], cell: Cell) -> None:
        self.filesystem = filesystem
        self.request = request
        self.queue = queue
        self.cell = cell

    async def cancel(self) -> None:
        """The cancel routine: take the request off its list, if it still is there, and complete it."""
        if await CancelWaiting(self):
            await self.filesystem.complete(self.request)

    def end(self, thread: Thread, status: NTSTATUS, information: int = 0) -> None:
        """Take the request off its list inside the calling step. It is completed right after that."""
        self._take(thread)
        self.request.status = status
        self.request.information = information
        if self.request.memory is not None:
            delivered(thread, self.request)
        self.filesystem.due.append((self.request, False))

    def again(self, thread: Thread) -> None:
        """Take the request off its list inside the calling step, and have it carried out anew right after that."""
        self._take(thread)
        self.filesystem.due.append((self.request, True))

    def _take(self, thread: Thread) -> None:
        thread.write(self.cell)
        thread.exchange(self.cell)
        self.queue.remove(self)
        cancel = self.request.cancel
        thread.write(cancel)
        cancel.routine = None


def wait(
    fs: Host, thread: Thread, request: Request, queue: list[Waiting], cell: Cell, *, front: bool = False
) -> tuple[NTSTATUS, int]:
    """Have *request* wait in *queue*, whose cell is *cell*: STATUS_PENDING, or STATUS_CANCELLED if it was cancelled."""
    cancel = request.cancel
    thread.write(cancel)
    thread.write(cell)
    thread.exchange(cell)
    if cancel.requested:
        return STATUS_CANCELLED, 0
    waiting = Waiting(fs, request, queue, cell)
    queue.insert(0 if front else len(queue), waiting)
    cancel.routine = waiting.cancel
    return STATUS_PENDING, 0


class CancelWaiting(Operation[bool]):
    """Take a cancelled request off the list that it waits in; false if somebody else did."""

    __slots__ = ("waiting",)
    kind = "stop the waiting of"

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting

    def perform(self, thread: Thread) -> bool:
        waiting = self.waiting
        thread.write(waiting.cell)
        thread.exchange(waiting.cell)
        if waiting not in waiting.queue:
            return False
        waiting.queue.remove(waiting)
        waiting.request.status = STATUS_CANCELLED
        waiting.request.information = 0
        waiting.filesystem.cancelled(thread, waiting)
        return True

    def target(self) -> Cell:
        return self.waiting.cell

    def describe(self) -> str:
        return f"{self.waiting.filesystem.label} stops the waiting of {self.waiting.request.label}"
