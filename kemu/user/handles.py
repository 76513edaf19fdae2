"""Handles of a user process: what they refer to, and what they may be used for.

A handle is an object and not a number, so that two threads that open handles at the same time are independent. The
number of a handle that was closed can therefore not come back as another's.
"""

from __future__ import annotations

from typing import Any, Final

from kemu.fltmgr.connection import handle_closed
from kemu.fltmgr.ports import ClientPort
from kemu.io.manager import IoManager
from kemu.io.request import FileObject
from kemu.io.section import CloseSection, Section
from kemu.nt.process import Process
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_HANDLE,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
)
from kemu.runtime import Cell, Operation, Thread, current_thread


class Handle(Cell):
    """An entry of a process's handle table."""

    __slots__ = ("access", "closed", "object", "options", "process")

    def __init__(self, process: Process, object_: Any, access: int, options: int = 0) -> None:
        super().__init__(current_thread(), f"handle to {object_.label}")
        self.process = process
        self.object = object_
        self.access = access
        self.options = options
        """Of a file: the create options that the system services look at."""
        self.closed = False
        process.handles.append(self)


INVALID_HANDLE_VALUE: Final = None
"""What a failed CreateFileW returns."""


class ReferenceHandle(Operation[Any]):
    """Look a handle up: the object, or the status that refuses the call (ObReferenceObjectByHandle)."""

    __slots__ = ("access", "handle", "kind_of", "process")
    kind = "look up"

    def __init__(self, process: Process, handle: Any, kind_of: type[Any], access: int = 0) -> None:
        self.process = process
        self.handle = handle
        self.kind_of = kind_of
        self.access = access

    def perform(self, thread: Thread) -> Any:
        handle = self.handle
        if not isinstance(handle, Handle) or handle.process is not self.process:
            return STATUS_INVALID_HANDLE
        thread.read(handle)
        if handle.closed:
            return STATUS_INVALID_HANDLE
        if not isinstance(handle.object, self.kind_of):
            return STATUS_OBJECT_TYPE_MISMATCH
        if self.access and not handle.access & self.access:
            return STATUS_ACCESS_DENIED
        return handle.object

    def target(self) -> Cell | None:
        return self.handle if isinstance(self.handle, Handle) else None


class RemoveHandle(Operation[Any]):
    """Take a handle out of its table: the object, or STATUS_INVALID_HANDLE."""

    __slots__ = ("handle", "process")
    kind = "close"

    def __init__(self, process: Process, handle: Any) -> None:
        self.process = process
        self.handle = handle

    def perform(self, thread: Thread) -> Any:
        handle = self.handle
        if not isinstance(handle, Handle) or handle.process is not self.process:
            return STATUS_INVALID_HANDLE
        if handle.closed:
            thread.read(handle)
            return STATUS_INVALID_HANDLE
        thread.write(handle)
        handle.closed = True
        handle.process.handles.remove(handle)
        return handle.object

    def target(self) -> Cell | None:
        return self.handle if isinstance(self.handle, Handle) else None


async def close_handle(manager: IoManager, process: Process, handle: Any) -> NTSTATUS:
    """Close *handle* of *process*: STATUS_SUCCESS, or STATUS_INVALID_HANDLE."""
    found = await RemoveHandle(process, handle)
    if isinstance(found, NTSTATUS):
        return found
    if isinstance(found, FileObject):
        await manager.close(found)
    elif isinstance(found, Section):
        found.handles -= 1
        if not found.handles:
            await CloseSection(found)
    elif isinstance(found, ClientPort):
        await handle_closed(found)
    return STATUS_SUCCESS
