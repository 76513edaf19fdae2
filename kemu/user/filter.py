"""What programs call to talk to minifilters (fltuser.h): ports, messages, unloading.

The calls return an HRESULT, and out parameters follow it in a tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kemu.fltmgr.connection import connect, status_and
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.message_buffer import MessageCall
from kemu.fltmgr.messaging import (
    AwaitGetter,
    BeginMessage,
    CancelGetters,
    FindPort,
    GetMessage,
    ReplyToMessage,
    end_message,
)
from kemu.fltmgr.port_messages import FLT_PORT_FLAG_SYNC_HANDLE
from kemu.fltmgr.ports import ClientPort, Getter, ports
from kemu.fltmgr.teardown import detach
from kemu.fltmgr.unload import unload
from kemu.io.manager import IoManager
from kemu.io.volume import Volume
from kemu.nt.access import SYNCHRONIZE
from kemu.nt.driver import in_driver, status_of
from kemu.nt.event import ClearEvent, SetEvent
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.lockorder import SharedHold
from kemu.nt.process import Process
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_ACCESS_VIOLATION,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_FLT_VOLUME_NOT_FOUND,
    STATUS_PENDING,
)
from kemu.nt.structure import READ, WRITE
from kemu.nt.system import current_system
from kemu.nt.usermemory import UserBuffer
from kemu.runtime import Thread, Waitable, current_thread
from kemu.user.errors import ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, RtlNtStatusToDosError
from kemu.user.files import OVERLAPPED
from kemu.user.handles import INVALID_HANDLE_VALUE, Handle, ReferenceHandle
from kemu.user.native import AcquireFileLock, FileLock
from kemu.user.processes import ProcessApi

S_OK: Final = 0
E_INVALIDARG: Final = 0x80070057
ERROR_FLT_NO_WAITER_FOR_REPLY: Final = 0x801F0020
FACILITY_FILTER_MANAGER: Final = 0x1C


def HRESULT_FROM_WIN32(x: int) -> int:
    """The HRESULT that a Win32 error is."""
    return S_OK if x == 0 else 0x80070000 | x & 0xFFFF


def IS_ERROR(hr: int) -> bool:
    """Whether *hr* is a failure."""
    return bool(hr & 0x80000000)


def hresult(status: NTSTATUS) -> int:
    """What a call of fltuser.h returns for *status*: the filter manager's own have HRESULTs of their own."""
    if NT_SUCCESS(status) and status != STATUS_PENDING:
        return S_OK
    if status >> 16 & 0xFFF == FACILITY_FILTER_MANAGER:
        return 0x801F0000 | status & 0xFFFF
    return HRESULT_FROM_WIN32(RtlNtStatusToDosError(status))


class PortLock(FileLock):
    """What makes the calls on a handle for synchronous I/O come one after another."""

    __slots__ = ()

    def __init__(self, handle: Handle) -> None:
        Waitable.__init__(self, current_thread(), f"I/O lock of {handle.label}")
        self.owner = None


class FilterApi(ProcessApi):
    """The calls about minifilters. `is_administrator` says whether the program runs as one."""

    is_administrator: bool = True

    def __init__(self, process: Process, manager: IoManager, volume: Volume) -> None:
        super().__init__(process, manager, volume)
        self._port_locks: dict[Handle, PortLock] = {}
        """Of handles for synchronous I/O."""
        self._gets: dict[OVERLAPPED, Getter] = {}
        """What waits for a message, or has waited."""

    def _find(self, handle: Any) -> FindPort:
        """Looks *handle* up in the step of the operation that needs it."""

        def find(thread: Thread) -> ClientPort | NTSTATUS:
            found = ReferenceHandle(self.process, handle, ClientPort).perform(thread)
            return found if isinstance(found, ClientPort) else NTSTATUS(found)

        return find

    async def FilterConnectCommunicationPort(
        self,
        lpPortName: str,
        dwOptions: int = 0,
        lpContext: bytes | None = None,
        wSizeOfContext: int | None = None,
        lpSecurityAttributes: object = None,
    ) -> tuple[int, Handle | None]:
        """Connect to a minifilter, which is asked on this thread: an HRESULT and a handle, or INVALID_HANDLE_VALUE."""
        if dwOptions & ~FLT_PORT_FLAG_SYNC_HANDLE:
            return E_INVALIDARG, INVALID_HANDLE_VALUE
        context = lpContext or b""
        handles: list[Handle] = []

        def add_handle(port: ClientPort) -> None:
            handles.append(Handle(self.process, port, SYNCHRONIZE, dwOptions))

        size = len(context) if wSizeOfContext is None else wSizeOfContext
        status = await connect(lpPortName, self.process, self.is_administrator, context[:size], add_handle)
        if not handles:
            return hresult(status), INVALID_HANDLE_VALUE
        if dwOptions & FLT_PORT_FLAG_SYNC_HANDLE:
            self._port_locks[handles[0]] = PortLock(handles[0])
        return S_OK, handles[0]

    async def FilterGetMessage(
        self, hPort: Any, dwMessageBufferSize: int, lpOverlapped: OVERLAPPED | None = None
    ) -> tuple[int, bytes]:
        """Fetch a message: an HRESULT, and the message with its FILTER_MESSAGE_HEADER.

        It waits for one, or with *lpOverlapped* returns HRESULT_FROM_WIN32(ERROR_IO_PENDING) if there is none: the
        event is signalled when one has come, which is then in ``lpOverlapped.buffer`` (FLT-PORT-19). A handle for
        synchronous I/O waits in any case. A buffer that is too small: ERROR_INSUFFICIENT_BUFFER, and the message is
        still there. After either end has closed the connection: ERROR_INVALID_HANDLE.
        """
        if dwMessageBufferSize < 16:
            return E_INVALIDARG, b""
        lock = await self._lock(hPort)
        self._answered(current_kthread(), hPort)
        on_end: Callable[[Getter, Thread], None] | None = None
        if lpOverlapped is not None:
            event = await self.event_of(lpOverlapped)
            if event is not None:
                await ClearEvent(event)
            lpOverlapped.Status = STATUS_PENDING

            def finish(getter: Getter, thread: Thread) -> None:
                lpOverlapped.Status, lpOverlapped.Information = getter.status, len(getter.data)
                lpOverlapped.buffer = getter.data
                if event is not None:
                    SetEvent(event).perform(thread)

            on_end = finish
        getter = await GetMessage(self._find(hPort), dwMessageBufferSize, on_end)
        if isinstance(getter, NTSTATUS):
            self._unlock(lock)
            if lpOverlapped is not None:
                lpOverlapped.Status = getter
            return hresult(getter), b""
        if lpOverlapped is not None:
            self._gets[lpOverlapped] = getter
        if getter.status == STATUS_PENDING:
            if lpOverlapped is not None and lock is None:
                thread = current_kthread()
                thread.issued = True
                ports().background.setdefault(thread, []).append(getter)
                self.set_error(ERROR_IO_PENDING)
                return HRESULT_FROM_WIN32(ERROR_IO_PENDING), b""
            await AwaitGetter(getter)
        self._unlock(lock)
        self._fetched(current_kthread(), getter)
        return hresult(getter.status), getter.data

    async def FilterReplyMessage(self, hPort: Any, lpReplyBuffer: Any, dwReplyBufferSize: int | None = None) -> int:
        """Answer a message: *lpReplyBuffer* are bytes, or a structure, that begin with a FILTER_REPLY_HEADER.

        ERROR_FLT_NO_WAITER_FOR_REPLY if nobody waits for it (FLT-PORT-20). An answer that the sender has no room for is
        the sender's failure. Warning ``port-reply-size`` if that is for padding.
        """
        data = bytes(lpReplyBuffer)
        if dwReplyBufferSize is not None:
            data = data[:dwReplyBufferSize].ljust(dwReplyBufferSize, b"\0")
        lock = await self._lock(hPort)
        status = await ReplyToMessage(self._find(hPort), data)
        self._unlock(lock)
        self._answered(current_kthread(), hPort)
        return hresult(status)

    async def FilterSendMessage(
        self,
        hPort: Any,
        lpInBuffer: UserBuffer | bytes | None = None,
        dwInBufferSize: int | None = None,
        lpOutBuffer: UserBuffer | None = None,
        dwOutBufferSize: int = 0,
    ) -> tuple[int, int]:
        """Send a message to the minifilter, whose message routine runs on this thread (FLT-PORT-12).

        An HRESULT, and how many bytes there are in *lpOutBuffer*, memory of the process (`UserProcess.memory`).
        """
        thread = current_kthread()
        if isinstance(lpInBuffer, bytes):
            lpInBuffer = UserBuffer(self.process, lpInBuffer, creator=thread)
        size = dwInBufferSize
        if size is None:
            size = 0 if lpInBuffer is None else len(lpInBuffer.content)
        lock = await self._lock(hPort)
        port = await BeginMessage(self._find(hPort))
        if isinstance(port, NTSTATUS):
            self._unlock(lock)
            return hresult(port), 0
        status, produced = STATUS_ACCESS_VIOLATION, 0
        call = MessageCall(thread, port.server.driver)
        if _probed(call, lpInBuffer, size, READ) and _probed(call, lpOutBuffer, dwOutBufferSize, WRITE):
            routine = port.server.message
            assert routine is not None
            arguments = (port.cookie, lpInBuffer, size, lpOutBuffer, dwOutBufferSize)
            returned = await in_driver(port.server.driver, "MessageNotify", routine, *arguments)
            returned, produced = status_and(returned, 0)
            status = status_of(port.server.driver, "MessageNotify", routine, returned)
        call.over = True
        end_message(port, thread)
        self._unlock(lock)
        return hresult(status), int(produced) if NT_SUCCESS(status) else 0

    async def FilterUnload(self, lpFilterName: str) -> int:
        """Unload a minifilter, as ``fltmc unload`` does."""
        manager = current_system().get(FilterManager)
        for filter_ in manager.filters:
            if filter_.driver_object.name.upper() == lpFilterName.upper():
                return hresult(await unload(manager, filter_))
        return hresult(STATUS_FLT_FILTER_NOT_FOUND)

    async def FilterDetach(self, lpFilterName: str, lpVolumeName: str, lpInstanceName: str | None = None) -> int:
        """Detach a minifilter from a volume, such as ``C:``, as ``fltmc detach`` does."""
        manager = current_system().get(FilterManager)
        volume = next((one for one in manager.volumes if one.volume.dos_name.upper() == lpVolumeName.upper()), None)
        if volume is None:
            return hresult(STATUS_FLT_VOLUME_NOT_FOUND)
        for filter_ in manager.filters:
            if filter_.driver_object.name.upper() == lpFilterName.upper():
                return hresult(await detach(manager, filter_, volume))
        return hresult(STATUS_FLT_FILTER_NOT_FOUND)

    # What files have, for messages.

    async def GetOverlappedResult(self, hFile: Any, lpOverlapped: OVERLAPPED, bWait: bool) -> tuple[bool, int]:
        getter = self._gets.get(lpOverlapped)
        if getter is None:
            return await super().GetOverlappedResult(hFile, lpOverlapped, bWait)
        current_thread().read(getter)
        if getter.status == STATUS_PENDING:
            if not bWait:
                self.set_error(ERROR_IO_INCOMPLETE)
                return False, 0
            await AwaitGetter(getter)
        self._fetched(current_kthread(), getter)
        if not self.succeeded(getter.status):
            return False, 0
        return True, len(getter.data)

    async def CancelIoEx(self, hFile: Any, lpOverlapped: OVERLAPPED | None = None) -> bool:
        if not isinstance(hFile, Handle) or not isinstance(hFile.object, ClientPort):
            return await super().CancelIoEx(hFile, lpOverlapped)
        getter = None if lpOverlapped is None else self._gets.get(lpOverlapped)
        return self.succeeded(await CancelGetters(self._find(hFile), getter))

    # Calls on a handle for synchronous I/O wait for each other.

    async def _lock(self, handle: Any) -> PortLock | None:
        lock = self._port_locks.get(handle) if isinstance(handle, Handle) else None
        if lock is not None:
            await AcquireFileLock(lock)
        return lock

    def _unlock(self, lock: PortLock | None) -> None:
        if lock is not None:
            thread = current_thread()
            thread.write(lock)
            thread.release(lock)
            lock.owner = None
            lock.changed()

    # What a service does between a message and its answer is a part of the lock order.

    def _fetched(self, thread: KThread, getter: Getter) -> None:
        if getter.expects_reply and NT_SUCCESS(getter.status):
            getter.port.round_trip.enter(thread)

    def _answered(self, thread: KThread, handle: Any) -> None:
        if thread.inside and isinstance(handle, Handle) and isinstance(handle.object, ClientPort):
            done: SharedHold = handle.object.round_trip.shared
            thread.inside = tuple(hold for hold in thread.inside if hold is not done)


def _probed(call: MessageCall, buffer: UserBuffer | None, length: int, access: int) -> bool:
    """Probe a buffer of a message for the driver, which is passed as it is; whether it is one of the program's."""
    if buffer is None or not length:
        return True
    current_thread().read(buffer)
    if length > len(buffer.content) or (access and not (buffer.is_writable and buffer.is_mapped)):
        return False
    call.lend(buffer, length, access)
    return True
