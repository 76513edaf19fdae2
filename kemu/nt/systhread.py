"""Threads that a driver makes (KE-THREAD): creating and ending them, priorities, and what an unload must wait for.

A thread that has ended is signalled; the last thing that happens on it is that, so that only a wait for the thread
itself says that none of the driver's code runs on it any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from kemu.nt.access import PROCESS_CREATE_THREAD, THREAD_RIGHTS
from kemu.nt.bugcheck import DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, WORKER_INVALID, BugCheck
from kemu.nt.deferred import still_loaded
from kemu.nt.driver import DRIVER_OBJECT, DriverActor, crashed, current_driver, routine_name
from kemu.nt.handle import (
    CURRENT_PROCESS,
    OBJ_EXCLUSIVE,
    OBJ_KERNEL_HANDLE,
    OBJ_OPENIF,
    OBJ_PERMANENT,
    HandleEntry,
    Look,
    system_process,
    table_for,
    table_of,
)
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.object import header_of
from kemu.nt.process import Process
from kemu.nt.psapi import CLIENT_ID, OBJECT_ATTRIBUTES, let_go, process_id, thread_id
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
)
from kemu.nt.system import Leftover, System, current_system, refuse, report
from kemu.nt.work import Worker
from kemu.nt.workitem import Device
from kemu.runtime import Cell, Operation, Point, Thread, current_thread

LOW_PRIORITY: Final = 0
LOW_REALTIME_PRIORITY: Final = 16
HIGH_PRIORITY: Final = 31

StartRoutine = Callable[[Any], Awaitable[None]]


@runtime_checkable
class Keeper(Protocol):
    """A device or driver object that can be kept loaded."""

    def reference(self, thread: Thread) -> None:
        """Keep it, inside the step of *thread*."""
        ...

    def dereference(self, thread: Thread) -> None:
        """The reverse."""
        ...


class ThreadExit(BaseException):
    """Ends the routine of a thread that calls PsTerminateSystemThread. Private to kemu."""


@dataclass(slots=True)
class Made:
    """What is known of a thread that a driver has made."""

    driver: DriverActor | None
    keeper: Keeper | None
    """What the thread keeps loaded until it has ended."""


class SystemThreads(Cell):
    """The threads that drivers have made."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        super().__init__(current_thread(), "the system threads")
        self.made: dict[Thread, Made] = {}

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The threads that run in *driver*'s code, and that nothing keeps it for (KE-THREAD-03, KE-THREAD-04)."""
        observer = current_thread()
        observer.read(self)
        for thread, made in sorted(self.made.items(), key=lambda item: item[0].path):
            if made.driver is not driver or made.keeper is not None or not isinstance(thread, KThread):
                continue
            observer.read(thread)
            if not thread.alive:
                continue
            header = header_of(thread)
            observer.read(header)
            if not header.pointer_count:
                yield Leftover("ke.thread-stop", f"thread {thread.label} running, whose handle it has closed,")
            stop = BugCheck(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS)
            if isinstance(thread.op, EndThread | LastInstructions):
                yield Leftover("ke.thread-unload-race", f"thread {thread.label} at its last instructions", stop)
            else:
                yield Leftover("ke.thread-left", f"thread {thread.label} running", stop)


class LastInstructions(Point):
    """A thread's routine returns, and whoever was told before that it would may have unloaded its code."""

    __slots__ = ()


class EndThread(Operation[None]):
    """A thread ends itself."""

    __slots__ = ("thread",)
    kind = "terminate"

    def __init__(self, thread: KThread) -> None:
        self.thread = thread

    def perform(self, thread: Thread) -> None:
        return None

    def target(self) -> Cell:
        return self.thread


class CreateThread(Operation[tuple[KThread, int]]):
    """Start a thread, and make a handle for it in the same step: it may have ended in the next."""

    __slots__ = ("access", "attributes", "context", "made", "process", "routine")
    kind = "create a thread for"

    def __init__(
        self, made: Made, process: Process, access: int, attributes: int, routine_: StartRoutine, context: Any
    ) -> None:
        self.made = made
        self.process = process
        self.access = access
        self.attributes = attributes
        self.routine = routine_
        self.context = context

    def perform(self, thread: Thread) -> tuple[KThread, int]:
        made = self.made
        system: System = thread.runtime.system
        name = routine_name(self.routine)
        started = thread.runtime.spawn(f"sys:{name}", _run(made, name, self.routine, self.context))
        assert isinstance(started, KThread)
        started.process = self.process
        started.exits = True
        # A system thread starts inside a critical region (KE-APC-15).
        started.kernel_apc_disable = 1
        threads = system.get(SystemThreads)
        thread.update(threads)
        threads.made[started] = made
        if made.keeper is not None:
            made.keeper.reference(thread)
        entry = HandleEntry(started, THREAD_RIGHTS.granted(self.access), self.attributes | OBJ_KERNEL_HANDLE, False)
        return started, table_of(system_process()).insert(thread, entry)

    def target(self) -> Cell:
        return self.process


async def _run(made: Made, name: str, routine_: StartRoutine, context: Any) -> None:
    """What a driver's thread does."""
    thread = current_kthread()
    driver = made.driver
    try:
        if driver is None:
            await routine_(context)
        else:
            still_loaded(driver, f"{name} of {driver.driver} starts in a thread of a driver that was unloaded")
            thread.actors.append(driver)
            try:
                await routine_(context)
            except Exception as error:
                crashed(driver, name, error)
                raise
        await LastInstructions(f"return from {name}", thread)
    except ThreadExit:
        pass
    if driver is not None:
        still_loaded(driver, f"{name} of {driver.driver} was running when it was unloaded")
    if made.keeper is not None:
        made.keeper.dereference(thread)
    header = header_of(thread)
    if not header.pointer_count:
        # Nobody holds the object of a thread that ends: whoever has a pointer to it has none any more.
        thread.write(header)
        current_system().freed[thread] = "which has ended and was not referenced"
    else:
        thread.read(header)


def check_thread_attributes(name: str, attributes: OBJECT_ATTRIBUTES | None) -> int:
    """The flags of *attributes*; finding ``ke.thread-handle`` for those that a thread cannot have (KE-THREAD-02)."""
    flags = 0 if attributes is None else attributes.Attributes
    wrong = flags & (OBJ_PERMANENT | OBJ_EXCLUSIVE | OBJ_OPENIF)
    if wrong:
        report("ke.thread-handle", f"{name} with attributes 0x{wrong:X}: OBJ_PERMANENT, OBJ_EXCLUSIVE or OBJ_OPENIF")
    return flags


async def _process_for(handle: int | None) -> tuple[NTSTATUS, Process | None]:
    """The process that a thread is to be made in; the System process unless *handle* says otherwise."""
    if not handle:
        return STATUS_SUCCESS, system_process()
    if handle == CURRENT_PROCESS:
        return STATUS_SUCCESS, current_kthread().process
    table = table_for(handle)
    entry = None if table is None else await Look(table, handle)
    if entry is None:
        return STATUS_INVALID_HANDLE, None
    await let_go(entry.body)
    if not isinstance(entry.body, Process):
        return STATUS_OBJECT_TYPE_MISMATCH, None
    if not entry.granted & PROCESS_CREATE_THREAD:
        return STATUS_ACCESS_DENIED, None
    return STATUS_SUCCESS, entry.body


async def create_thread(
    name: str,
    keeper: Keeper | None,
    access: int,
    attributes: OBJECT_ATTRIBUTES | None,
    process_handle: int | None,
    routine_: StartRoutine,
    context: Any,
) -> tuple[NTSTATUS, int, CLIENT_ID | None]:
    """What the two routines below come to."""
    flags = check_thread_attributes(name, attributes)
    if not callable(routine_):
        report("ke.bad-pointer", f"{name} was given a {type(routine_).__name__} as StartRoutine")
    if not THREAD_RIGHTS.is_valid(access):
        return STATUS_INVALID_PARAMETER, 0, None
    status, process = await _process_for(process_handle)
    if process is None:
        return status, 0, None
    made = Made(current_driver(), keeper)
    started, handle = await CreateThread(made, process, access, flags, routine_, context)
    client_id = CLIENT_ID(process_id(process), thread_id(started))
    await Point(f"return from creating {started.label}", started)
    return STATUS_SUCCESS, handle, client_id


@routine(
    "wdm",
    """NTSTATUS PsCreateSystemThread(_Out_ PHANDLE ThreadHandle, _In_ ULONG DesiredAccess,
       _In_opt_ POBJECT_ATTRIBUTES ObjectAttributes, _In_opt_ HANDLE ProcessHandle, _Out_opt_ PCLIENT_ID ClientId,
       _In_ PKSTART_ROUTINE StartRoutine, _In_opt_ PVOID StartContext)""",
    max_irql=PASSIVE_LEVEL,
)
async def PsCreateSystemThread(
    DesiredAccess: int,
    ObjectAttributes: OBJECT_ATTRIBUTES | None,
    ProcessHandle: int | None,
    StartRoutine: StartRoutine,
    StartContext: Any,
) -> tuple[NTSTATUS, int, CLIENT_ID | None]:
    """Start a thread that runs ``StartRoutine(StartContext)``: status, kernel handle and client id (KE-THREAD-01).

    The thread starts at PASSIVE_LEVEL inside a critical region, in the System process unless *ProcessHandle* is another
    one's; it may run, and end, before this returns. It ends with PsTerminateSystemThread, or when its routine returns.
    Nothing keeps the driver loaded for it. IRQL: PASSIVE_LEVEL. Findings: ``ke.thread-handle``; at the unload
    ``ke.thread-left``, ``ke.thread-unload-race``, ``ke.thread-stop``.
    """
    return await create_thread(
        "PsCreateSystemThread", None, DesiredAccess, ObjectAttributes, ProcessHandle, StartRoutine, StartContext
    )


@routine(
    "wdm",
    """NTSTATUS IoCreateSystemThread(_Inout_ PVOID IoObject, _Out_ PHANDLE ThreadHandle, _In_ ULONG DesiredAccess,
       _In_opt_ POBJECT_ATTRIBUTES ObjectAttributes, _In_opt_ HANDLE ProcessHandle, _Out_opt_ PCLIENT_ID ClientId,
       _In_ PKSTART_ROUTINE StartRoutine, _In_opt_ PVOID StartContext)""",
    max_irql=PASSIVE_LEVEL,
)
async def IoCreateSystemThread(
    IoObject: Any,
    DesiredAccess: int,
    ObjectAttributes: OBJECT_ATTRIBUTES | None,
    ProcessHandle: int | None,
    StartRoutine: StartRoutine,
    StartContext: Any,
) -> tuple[NTSTATUS, int, CLIENT_ID | None]:
    """As PsCreateSystemThread; *IoObject*, a device or driver object, is referenced until the thread has ended.

    Its routine just returns (KE-THREAD-05). IRQL: PASSIVE_LEVEL.
    """
    if not isinstance(IoObject, DRIVER_OBJECT | Device):
        what = "NULL" if IoObject is None else f"a {type(IoObject).__name__}"
        report(
            "ke.bad-pointer",
            f"IoCreateSystemThread was given {what} as IoObject, which takes a device or driver object",
            BugCheck(WORKER_INVALID, (3,)),
        )
    keeper: Any = IoObject if isinstance(IoObject, Keeper) else None
    return await create_thread(
        "IoCreateSystemThread", keeper, DesiredAccess, ObjectAttributes, ProcessHandle, StartRoutine, StartContext
    )


@routine("wdm", "NTSTATUS PsTerminateSystemThread(_In_ NTSTATUS ExitStatus)", max_irql=PASSIVE_LEVEL)
async def PsTerminateSystemThread(ExitStatus: int) -> NTSTATUS:
    """End the calling thread, which a driver has made; does not return then (KE-THREAD-03).

    On any other thread: STATUS_INVALID_PARAMETER; on a system worker: finding ``ke.worker-terminated``, bug check 0xE9.
    Python's ``finally`` blocks of the thread's routine run, which C does not have. IRQL: PASSIVE_LEVEL.
    """
    thread = current_kthread()
    if any(isinstance(actor, Worker) for actor in thread.actors):
        report("ke.worker-terminated", f"{thread.label} is a system worker, and its routine ends the thread")
    if thread not in current_system().get(SystemThreads).made:
        return STATUS_INVALID_PARAMETER
    await EndThread(thread)
    raise ThreadExit


@routine(
    "wdm", "KPRIORITY KeSetPriorityThread(_Inout_ PKTHREAD Thread, _In_ KPRIORITY Priority)", max_irql=DISPATCH_LEVEL
)
def KeSetPriorityThread(Thread: KThread, Priority: int) -> int:
    """Set the priority of *Thread*, 1 to 31, and return the one before.

    It is kept and has no other effect: kemu schedules any thread that is ready (KE-THREAD-07). IRQL: <= DISPATCH_LEVEL.
    """
    if not LOW_PRIORITY < Priority <= HIGH_PRIORITY:
        refuse(f"KeSetPriorityThread with priority {Priority!r}", remedy=f"use 1 to {HIGH_PRIORITY}")
    current_thread().write(Thread)
    before, Thread.priority = Thread.priority, Priority
    return before


@routine("wdm", "KPRIORITY KeQueryPriorityThread(_In_ PKTHREAD Thread)", max_irql=DISPATCH_LEVEL)
def KeQueryPriorityThread(Thread: KThread) -> int:
    """The priority of *Thread*: 8 unless KeSetPriorityThread has set another one. IRQL: <= DISPATCH_LEVEL."""
    current_thread().read(Thread)
    return Thread.priority
