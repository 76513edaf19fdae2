"""Processes as programs see them: making, opening, ending and waiting for them (processthreadsapi.h).

Handles to processes and threads are numbers, from the process's handle table: the lowest that is free, so that the
number of one that was closed soon is another's. Handles to files are objects (`kemu.user.handles`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from kemu.errors import UsageError
from kemu.io.manager import IoManager
from kemu.nt.access import (
    PROCESS_ALL_ACCESS,
    PROCESS_QUERY_INFORMATION,
    PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_TERMINATE,
    SYNCHRONIZE,
    THREAD_ALL_ACCESS,
)
from kemu.nt.apc import terminate_thread
from kemu.nt.dispatcher import DispatcherObject
from kemu.nt.handle import (
    CURRENT_PROCESS,
    CURRENT_THREAD,
    OBJ_INHERIT,
    Close,
    HandleEntry,
    Look,
    duplicate,
    let_go,
    table_of,
)
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.object import Reference, delete
from kemu.nt.process import Process, UserMode
from kemu.nt.psapi import BeginExit, create_process, finish_exit, open_by_id, process_id, thread_id
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_HANDLE,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_PROCESS_IS_TERMINATING,
    STATUS_SUCCESS,
)
from kemu.runtime import Cell, Operation, Thread, current_thread
from kemu.user.handles import Handle, close_handle
from kemu.user.mapping import MappingApi
from kemu.user.threads import DUPLICATE_SAME_ACCESS, INFINITE, WAIT_FAILED

STILL_ACTIVE: Final = 259
"""The exit code of a process that has not ended."""

QUERY: Final = PROCESS_QUERY_INFORMATION | PROCESS_QUERY_LIMITED_INFORMATION

B = TypeVar("B", bound=Cell)


@dataclass(frozen=True, slots=True)
class PROCESS_INFORMATION:
    """A process that was made and its first thread: their handles and identifiers."""

    hProcess: int
    hThread: int
    dwProcessId: int
    dwThreadId: int


class CreateProcess(Operation[tuple[Process, KThread, int, int]]):
    """Make a process with its first thread, and a handle to each."""

    __slots__ = ("inherits", "name", "parent", "program", "start")
    kind = "create a process from"

    def __init__(
        self,
        parent: Process,
        name: str,
        program: Callable[[Process], Coroutine[Any, Any, Any]],
        *,
        inherits: bool,
    ) -> None:
        self.parent = parent
        self.name = name
        self.program = program
        self.inherits = inherits

    def perform(self, thread: Thread) -> tuple[Process, KThread, int, int]:
        process = create_process(self.name, self.parent, inherits=self.inherits)
        first = thread.runtime.spawn(self.name, self.program(process))
        assert isinstance(first, KThread)
        first.process = process
        first.exits = True
        table = table_of(self.parent)
        made = (
            table.insert(thread, HandleEntry(process, PROCESS_ALL_ACCESS, 0, True)),
            table.insert(thread, HandleEntry(first, THREAD_ALL_ACCESS, 0, True)),
        )
        return process, first, *made

    def target(self) -> Cell:
        return self.parent


async def end_process(manager: IoManager, process: Process, status: int) -> NTSTATUS:
    """End *process* on the calling thread; STATUS_PROCESS_IS_TERMINATING if its end has begun already.

    Nothing is opened in it any more, its threads are asked to end, what they have issued is cancelled (KE-CANCEL-10),
    and its handles are closed. Then whoever waits for it is told.
    """
    if not await BeginExit(process):
        return STATUS_PROCESS_IS_TERMINATING
    caller = current_thread()
    for thread in list(caller.runtime.threads):
        if isinstance(thread, KThread) and thread.process is process and thread is not caller:
            await terminate_thread(thread)
    await manager.cancel_process(process)
    for handle in [one for one in process.handles if isinstance(one, Handle)]:
        await close_handle(manager, process, handle)
    await finish_exit(process, status)
    return STATUS_SUCCESS


class ProcessApi(MappingApi):
    """The calls about processes, and those that take handles of any kind."""

    async def CreateProcessW(
        self,
        lpApplicationName: Callable[[Self], Coroutine[Any, Any, Any]],
        lpCommandLine: str | None = None,
        lpProcessAttributes: object = None,
        lpThreadAttributes: object = None,
        bInheritHandles: bool = False,
    ) -> tuple[bool, PROCESS_INFORMATION | None]:
        """Start a program: a coroutine function, which is given the calls of the new process.

        The process is named after *lpCommandLine*, or after the function. With *bInheritHandles* it gets the handles to
        processes and threads that were opened to be inherited. It ends when the function returns. Attributes have no
        effect.
        """
        name = lpCommandLine or getattr(lpApplicationName, "__name__", "program")

        async def run(process: Process) -> None:
            await lpApplicationName(type(self)(process, self.native.manager, self.native.default))
            await end_process(self.native.manager, process, 0)

        process, thread, *handles = await CreateProcess(self.process, name, run, inherits=bInheritHandles)
        return True, PROCESS_INFORMATION(handles[0], handles[1], process_id(process), thread_id(thread))

    def GetCurrentProcess(self) -> int:
        """The pseudo-handle of the process, with all rights."""
        return CURRENT_PROCESS

    def GetCurrentThread(self) -> int:
        """The pseudo-handle of the calling thread."""
        return CURRENT_THREAD

    def GetCurrentProcessId(self) -> int:
        """The identifier of the process."""
        return process_id(self.process)

    def GetCurrentThreadId(self) -> int:
        """The identifier of the calling thread."""
        return thread_id(current_kthread())

    async def OpenProcess(self, dwDesiredAccess: int, bInheritHandle: bool, dwProcessId: int) -> int:
        """A handle to the process with an identifier; 0 with ERROR_INVALID_PARAMETER if nobody has it."""
        return await self._open(Process, dwDesiredAccess, bInheritHandle, dwProcessId)

    async def OpenThread(self, dwDesiredAccess: int, bInheritHandle: bool, dwThreadId: int) -> int:
        """A handle to the thread with an identifier; 0 with ERROR_INVALID_PARAMETER if nobody has it."""
        return await self._open(KThread, dwDesiredAccess, bInheritHandle, dwThreadId)

    async def _open(self, kind: type[Cell], access: int, inherits: bool, number: int) -> int:
        attributes = OBJ_INHERIT if inherits else 0
        status, handle = await open_by_id(number, kind, access, attributes, mode=UserMode, process=self.process)
        return handle if self.succeeded(status) else 0

    async def TerminateProcess(self, hProcess: int, uExitCode: int) -> bool:
        """End a process, which takes PROCESS_TERMINATE. Its threads are asked to end; see `World.terminate`."""
        process = await self._behind(hProcess, Process, PROCESS_TERMINATE)
        if isinstance(process, NTSTATUS):
            return self.succeeded(process)
        status = await end_process(self.native.manager, process, uExitCode)
        await let_go(process)
        return self.succeeded(status)

    async def GetExitCodeProcess(self, hProcess: int) -> tuple[bool, int]:
        """What a process has ended with, or STILL_ACTIVE."""
        process = await self._behind(hProcess, Process, QUERY)
        if isinstance(process, NTSTATUS):
            return self.succeeded(process), 0
        current_thread().read(process)
        code = process.exit_status if process.has_exited else STILL_ACTIVE
        await let_go(process)
        return True, int(code)

    async def GetProcessId(self, hProcess: int) -> int:
        """The identifier of a process; 0 on failure."""
        process = await self._behind(hProcess, Process, QUERY)
        if isinstance(process, NTSTATUS):
            self.fail(process)
            return 0
        number = process_id(process)
        await let_go(process)
        return number

    async def CloseHandle(self, hObject: Any) -> bool:
        """Close a handle of any kind."""
        if not isinstance(hObject, int):
            return await super().CloseHandle(hObject)
        if hObject in {CURRENT_PROCESS, CURRENT_THREAD}:
            return True
        status, last = await Close(table_of(self.process), hObject)
        if last is not None:
            await delete(last)
        return self.succeeded(status)

    async def WaitForSingleObject(self, hHandle: Any, dwMilliseconds: int = INFINITE) -> int:
        """Wait for an event, or for the end of a thread or a process: WAIT_OBJECT_0, WAIT_TIMEOUT or WAIT_FAILED."""
        if not isinstance(hHandle, int):
            return await super().WaitForSingleObject(hHandle, dwMilliseconds)
        waited = await self._behind(hHandle, DispatcherObject, SYNCHRONIZE)
        if isinstance(waited, NTSTATUS):
            self.fail(waited)
            return WAIT_FAILED
        result = await self.wait_milliseconds(waited, dwMilliseconds)
        await let_go(waited)
        return result

    async def DuplicateHandle(
        self,
        hSourceProcessHandle: Any,
        hSourceHandle: Any,
        hTargetProcessHandle: Any,
        dwDesiredAccess: int = 0,
        bInheritHandle: bool = False,
        dwOptions: int = DUPLICATE_SAME_ACCESS,
    ) -> tuple[bool, Any]:
        """Make a handle in one process to what a handle in another, or in the same, refers to.

        Processes are given by handles with PROCESS_DUP_HANDLE, for handles to files by themselves. With
        DUPLICATE_CLOSE_SOURCE the source is closed in any case.
        """
        if not isinstance(hSourceHandle, int):
            return await super().DuplicateHandle(
                hSourceProcessHandle, hSourceHandle, hTargetProcessHandle, dwDesiredAccess, bInheritHandle, dwOptions
            )
        attributes = OBJ_INHERIT if bInheritHandle else 0
        source, target, access = hSourceProcessHandle, hTargetProcessHandle, dwDesiredAccess
        if current_kthread().process is not self.process:
            raise UsageError(
                f"DuplicateHandle of {self.process} was called by a thread of another process",
                remedy="call it in a thread that was started in that process",
            )
        status, handle = await duplicate(source, hSourceHandle, target, access, attributes, dwOptions, mode=UserMode)
        return self.succeeded(status), handle

    async def _behind(self, handle: Any, kind: type[B], access: int) -> B | NTSTATUS:
        """The object that *handle* stands for, referenced, if it grants one of the rights of *access*; or why not."""
        if handle in {CURRENT_PROCESS, CURRENT_THREAD}:
            body: Cell | None = self.process if handle == CURRENT_PROCESS else current_kthread()
            assert body is not None
            if not isinstance(body, kind):
                return STATUS_OBJECT_TYPE_MISMATCH
            await Reference(body)
            return body
        entry = await Look(table_of(self.process), handle) if isinstance(handle, int) else None
        if entry is None:
            return STATUS_INVALID_HANDLE
        status = STATUS_SUCCESS
        if not isinstance(entry.body, kind):
            status = STATUS_OBJECT_TYPE_MISMATCH
        elif not entry.granted & access:
            status = STATUS_ACCESS_DENIED
        else:
            return entry.body
        await let_go(entry.body)
        return status
