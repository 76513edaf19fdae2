"""Threads, events and waiting, by handle; duplicating handles."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from kemu.fltmgr.ports import ClientPort
from kemu.io.request import FileObject
from kemu.io.section import Section
from kemu.nt.access import SYNCHRONIZE
from kemu.nt.dispatcher import DispatcherObject
from kemu.nt.event import KEVENT, ClearEvent, NotificationEvent, SetEvent, SynchronizationEvent
from kemu.nt.kthread import KThread
from kemu.nt.process import Process
from kemu.nt.status import NTSTATUS, STATUS_TIMEOUT
from kemu.runtime import Cell, Operation, Thread, current_thread
from kemu.user.errors import RtlNtStatusToDosError
from kemu.user.find import FindApi
from kemu.user.handles import Handle, ReferenceHandle, close_handle

INFINITE: Final = 0xFFFF_FFFF
WAIT_OBJECT_0: Final = 0
WAIT_TIMEOUT: Final = 258
WAIT_FAILED: Final = 0xFFFF_FFFF
TICKS_PER_MILLISECOND: Final = 10_000

DUPLICATE_CLOSE_SOURCE: Final = 0x1
DUPLICATE_SAME_ACCESS: Final = 0x2


class AddHandle(Operation[Any]):
    """Make one more handle to what a handle refers to; the status that refuses it."""

    __slots__ = ("access", "options", "source", "source_process", "target_process")
    kind = "duplicate"

    def __init__(self, source_process: Process, source: Any, target: Process, access: int, options: int) -> None:
        self.source_process = source_process
        self.source = source
        self.target_process = target
        self.access = access
        self.options = options

    def perform(self, thread: Thread) -> Any:
        found = ReferenceHandle(self.source_process, self.source, Cell).perform(thread)
        if isinstance(found, NTSTATUS):
            return found
        source: Handle = self.source
        if isinstance(found, (FileObject, Section, ClientPort)):
            thread.write(found)
            found.handles += 1
        access = source.access if self.options & DUPLICATE_SAME_ACCESS else self.access
        return Handle(self.target_process, found, access, source.options)

    def target(self) -> Cell | None:
        return self.source if isinstance(self.source, Handle) else None


class ThreadApi(FindApi):
    """The calls about threads, events and handles."""

    async def CreateThread(
        self,
        lpThreadAttributes: object,
        dwStackSize: int,
        lpStartAddress: Callable[[Any], Coroutine[Any, Any, Any]],
        lpParameter: Any = None,
    ) -> Handle:
        """Start a thread of the process that runs *lpStartAddress*."""
        creator = current_thread()
        name: str = getattr(lpStartAddress, "__name__", "thread")
        thread = creator.runtime.spawn(name, lpStartAddress(lpParameter))
        assert isinstance(thread, KThread)
        thread.process = self.process
        thread.exits = True
        return Handle(self.process, thread, SYNCHRONIZE)

    async def CreateEventW(
        self, lpEventAttributes: object = None, bManualReset: bool = False, bInitialState: bool = False
    ) -> Handle:
        """Make an event without a name."""
        event = KEVENT("event")
        event.type = NotificationEvent if bManualReset else SynchronizationEvent
        event.signalled = bInitialState
        event.initialised = True
        return Handle(self.process, event, SYNCHRONIZE)

    async def SetEvent(self, hEvent: Any) -> bool:
        """Signal an event."""
        event = await ReferenceHandle(self.process, hEvent, KEVENT)
        if isinstance(event, NTSTATUS):
            return self.succeeded(event)
        await SetEvent(event)
        return True

    async def ResetEvent(self, hEvent: Any) -> bool:
        """Make an event not signalled."""
        event = await ReferenceHandle(self.process, hEvent, KEVENT)
        if isinstance(event, NTSTATUS):
            return self.succeeded(event)
        await ClearEvent(event)
        return True

    async def WaitForSingleObject(self, hHandle: Any, dwMilliseconds: int = INFINITE) -> int:
        """Wait for an event or the end of a thread: WAIT_OBJECT_0, WAIT_TIMEOUT or WAIT_FAILED."""
        waited = await ReferenceHandle(self.process, hHandle, DispatcherObject)
        if isinstance(waited, NTSTATUS):
            self.fail(waited)
            return WAIT_FAILED
        return await self.wait_milliseconds(waited, dwMilliseconds)

    async def wait_milliseconds(self, waited: DispatcherObject, milliseconds: int) -> int:
        """Wait for an object: WAIT_OBJECT_0 or WAIT_TIMEOUT."""
        ticks = None if milliseconds == INFINITE else milliseconds * TICKS_PER_MILLISECOND
        return WAIT_TIMEOUT if await self.wait_for(waited, ticks) == STATUS_TIMEOUT else WAIT_OBJECT_0

    async def DuplicateHandle(
        self,
        hSourceProcessHandle: Process,
        hSourceHandle: Any,
        hTargetProcessHandle: Process,
        dwDesiredAccess: int = 0,
        bInheritHandle: bool = False,
        dwOptions: int = DUPLICATE_SAME_ACCESS,
    ) -> tuple[bool, Handle | None]:
        """Make a handle in one process to what a handle in another, or in the same, refers to.

        Processes are given themselves. With DUPLICATE_CLOSE_SOURCE the source is closed in any case.
        """
        made = await AddHandle(hSourceProcessHandle, hSourceHandle, hTargetProcessHandle, dwDesiredAccess, dwOptions)
        if dwOptions & DUPLICATE_CLOSE_SOURCE:
            await close_handle(self.native.manager, hSourceProcessHandle, hSourceHandle)
        if isinstance(made, NTSTATUS):
            self.set_error(RtlNtStatusToDosError(made))
            return False, None
        return True, made
