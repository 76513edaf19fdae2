"""Processes: the owner of threads and of handles, and the identifiers of both (OB-OBJ-06)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.nt.dispatcher import DispatcherObject, signalled
from kemu.nt.status import NTSTATUS, STATUS_PENDING
from kemu.runtime import Cell, Thread, current_thread

if TYPE_CHECKING:
    from kemu.nt.handle import HandleTable

UserMode: Final = 1
KernelMode: Final = 0

SYSTEM_PROCESS_ID: Final = 4


class Process(DispatcherObject):
    """EPROCESS: a user process, or the System process; as a dispatcher object it is signalled when it has exited."""

    __slots__ = (
        "create_time",
        "exit_status",
        "handle_table",
        "handles",
        "has_exited",
        "is_exiting",
        "is_system",
        "parent",
        "pid",
    )

    guards = ("has_exited",)

    def __init__(self, label: str, *, is_system: bool = False, parent: Process | None = None) -> None:
        thread = current_thread()
        super().__init__(thread, label)
        self.is_system = is_system
        self.parent = parent
        self.handles: list[object] = []
        """Open files, oldest first."""
        self.handle_table: HandleTable | None = None
        self.pid = 0
        """0 until the process has joined the system's table of identifiers."""
        self.create_time = thread.runtime.clock.now
        self.is_exiting = False
        """Whether its end has begun: no handle is made in it any more."""
        self.has_exited = False
        self.exit_status: NTSTATUS = STATUS_PENDING

    def is_signalled(self, thread: Thread) -> bool:
        return self.has_exited

    def satisfy(self, thread: Thread) -> NTSTATUS:
        return signalled(self, thread)

    def exit(self, thread: Thread, status: int) -> None:
        """The process has ended, inside the calling step; whoever waits for it may go on."""
        thread.write(self)
        thread.release(self)
        self.has_exited = True
        self.exit_status = NTSTATUS(status)
        self.changed()


class ClientIds(Cell):
    """The table of process and thread identifiers: one space, of which the lowest free multiple of 4 is given out."""

    __slots__ = ("_ids", "_objects")

    def __init__(self) -> None:
        super().__init__(current_thread(), "client ids")
        self._objects: dict[int, Cell] = {}
        self._ids: dict[Cell, int] = {}

    def give(self, thread: Thread, owner: Cell, at_least: int = SYSTEM_PROCESS_ID + 4) -> int:
        """The identifier of *owner*, a new one if it has none yet."""
        given = self._ids.get(owner)
        if given is not None:
            thread.read(self)
            return given
        thread.write(self)
        number = at_least
        while number in self._objects:
            number += 4
        self._objects[number] = owner
        self._ids[owner] = number
        return number

    def take_back(self, thread: Thread, owner: Cell) -> None:
        """*owner* is gone: its identifier may be given to another."""
        number = self._ids.pop(owner, None)
        if number is not None:
            thread.write(self)
            del self._objects[number]

    def find(self, thread: Thread, number: int) -> Cell | None:
        """Who has identifier *number*."""
        thread.read(self)
        return self._objects.get(number)
