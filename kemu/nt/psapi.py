"""The process manager's routines: who am I, who is that, and the life of a process (OB-OBJ-06, OB-HT-08)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from kemu.nt.dispatcher import TERMINATING
from kemu.nt.handle import (
    check_attributes,
    close_all,
    inherit,
    let_go,
    open_handle,
    system_process,
)
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.object import PROCESS_TYPE, close_if_unheld, header_of
from kemu.nt.process import ClientIds, KernelMode, Process
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_INVALID_CID,
    STATUS_INVALID_PARAMETER_MIX,
    STATUS_SUCCESS,
)
from kemu.runtime import Cell, Operation, Thread, current_thread

B = TypeVar("B", bound=Cell)


@dataclass(frozen=True, slots=True)
class CLIENT_ID:
    """Which process or thread is meant; 0 is not given."""

    UniqueProcess: int = 0
    UniqueThread: int = 0


@dataclass(frozen=True, slots=True)
class OBJECT_ATTRIBUTES:
    """How a handle is to be opened."""

    ObjectName: str | None = None
    Attributes: int = 0
    RootDirectory: int = 0
    SecurityDescriptor: object = None


def InitializeObjectAttributes(n: str | None, a: int, r: int = 0, s: object = None) -> OBJECT_ATTRIBUTES:
    """The attributes for name *n*, flags *a* and root directory *r*. A security descriptor *s* has an effect on a
    communication port only.
    """
    return OBJECT_ATTRIBUTES(n, a, r, s)


def client_ids() -> ClientIds:
    """The system's table of identifiers."""
    return current_thread().runtime.system.get(ClientIds)


def process_id(process: Process) -> int:
    """The identifier of *process*, as the running thread observes it."""
    if not process.pid:
        process.pid = client_ids().give(current_thread(), process)
    return process.pid


def thread_id(thread: KThread) -> int:
    """The identifier of *thread*, which it gets when it is first asked for."""
    return client_ids().give(current_thread(), thread)


def process_of(thread: KThread) -> Process:
    """The process of *thread*."""
    return thread.process if thread.process is not None else system_process()


class Lookup(Operation[Cell | None]):
    """Find who has an identifier, and take a reference."""

    __slots__ = ("ids", "kind_of", "number")
    kind = "look up an id in"

    def __init__(self, ids: ClientIds, number: int, kind_of: type[Cell]) -> None:
        self.ids = ids
        self.number = number
        self.kind_of = kind_of

    def perform(self, thread: Thread) -> Cell | None:
        found = self.ids.find(thread, self.number)
        if not isinstance(found, self.kind_of):
            return None
        header_of(found).refer(thread)
        return found

    def target(self) -> Cell:
        return self.ids


@routine("wdm", "PEPROCESS PsGetCurrentProcess(VOID)")
def PsGetCurrentProcess() -> Process:
    """The process of the calling thread, without a reference. IRQL: any."""
    return process_of(current_kthread())


@routine("wdm", "PETHREAD PsGetCurrentThread(VOID)")
def PsGetCurrentThread() -> KThread:
    """The calling thread, without a reference. IRQL: any."""
    return current_kthread()


@routine("ntddk", "HANDLE PsGetCurrentProcessId(VOID)")
def PsGetCurrentProcessId() -> int:
    """The identifier of the calling thread's process. IRQL: any."""
    return process_id(process_of(current_kthread()))


@routine("ntddk", "HANDLE PsGetCurrentThreadId(VOID)")
def PsGetCurrentThreadId() -> int:
    """The identifier of the calling thread. IRQL: any."""
    return thread_id(current_kthread())


@routine("ntddk", "HANDLE PsGetProcessId(_In_ PEPROCESS Process)")
def PsGetProcessId(Process: Process) -> int:
    """The identifier of *Process*. IRQL: any."""
    return process_id(Process)


@routine("ntddk", "HANDLE PsGetThreadId(_In_ PETHREAD Thread)", max_irql=DISPATCH_LEVEL)
def PsGetThreadId(Thread: KThread) -> int:
    """The identifier of *Thread*. IRQL: <= DISPATCH_LEVEL."""
    return thread_id(Thread)


@routine("ntifs", "HANDLE PsGetThreadProcessId(_In_ PETHREAD Thread)")
def PsGetThreadProcessId(Thread: KThread) -> int:
    """The identifier of the process of *Thread*. IRQL: any."""
    return process_id(process_of(Thread))


@routine("ntifs", "NTSTATUS PsGetProcessExitStatus(_In_ PEPROCESS Process)", max_irql=APC_LEVEL)
def PsGetProcessExitStatus(Process: Process) -> NTSTATUS:
    """The exit status of *Process*; STATUS_PENDING while it runs (OB-OBJ-06). IRQL: <= APC_LEVEL."""
    current_thread().read(Process)
    return Process.exit_status


@routine("ntifs", "LONGLONG PsGetProcessCreateTimeQuadPart(_In_ PEPROCESS Process)")
def PsGetProcessCreateTimeQuadPart(Process: Process) -> int:
    """When *Process* was created, in units of 100 ns. With the object it is an identity, an identifier alone is not.

    IRQL: any.
    """
    return Process.create_time


@routine("ntifs", "BOOLEAN PsIsThreadTerminating(_In_ PETHREAD Thread)", max_irql=DISPATCH_LEVEL)
def PsIsThreadTerminating(Thread: KThread) -> bool:
    """Whether *Thread* has ended, or was asked to. IRQL: <= DISPATCH_LEVEL."""
    current_thread().read(Thread)
    return not Thread.alive or bool(Thread.alerts & TERMINATING)


@routine(
    "ntifs",
    "NTSTATUS PsLookupProcessByProcessId(_In_ HANDLE ProcessId, _Outptr_ PEPROCESS *Process)",
    max_irql=APC_LEVEL,
)
async def PsLookupProcessByProcessId(ProcessId: int) -> tuple[NTSTATUS, Process | None]:
    """The process that has *ProcessId*, referenced: STATUS_INVALID_CID if there is none. IRQL: <= APC_LEVEL."""
    return await _looked_up(ProcessId, Process)


@routine(
    "ntifs",
    "NTSTATUS PsLookupThreadByThreadId(_In_ HANDLE ThreadId, _Outptr_ PETHREAD *Thread)",
    max_irql=APC_LEVEL,
)
async def PsLookupThreadByThreadId(ThreadId: int) -> tuple[NTSTATUS, KThread | None]:
    """The thread that has *ThreadId*, referenced: STATUS_INVALID_CID if there is none. IRQL: <= APC_LEVEL."""
    return await _looked_up(ThreadId, KThread)


async def _looked_up(number: int, kind: type[B]) -> tuple[NTSTATUS, B | None]:
    found = await Lookup(client_ids(), number, kind)
    if isinstance(found, kind):
        return STATUS_SUCCESS, found
    return STATUS_INVALID_CID, None


@routine(
    "ntddk",
    """NTSTATUS ZwOpenProcess(_Out_ PHANDLE ProcessHandle, _In_ ACCESS_MASK DesiredAccess,
       _In_ POBJECT_ATTRIBUTES ObjectAttributes, _In_opt_ PCLIENT_ID ClientId)""",
    max_irql=PASSIVE_LEVEL,
)
async def ZwOpenProcess(
    DesiredAccess: int, ObjectAttributes: OBJECT_ATTRIBUTES, ClientId: CLIENT_ID | None
) -> tuple[NTSTATUS, int]:
    """Open the process of *ClientId*: status and handle (OB-HT-08). IRQL: PASSIVE_LEVEL.

    STATUS_INVALID_PARAMETER_MIX with a name or without a client id, STATUS_INVALID_CID for an id that nobody has,
    STATUS_INVALID_PARAMETER for rights that a process does not have.
    """
    if ObjectAttributes.ObjectName is not None or ClientId is None:
        return STATUS_INVALID_PARAMETER_MIX, 0
    check_attributes("ZwOpenProcess", ObjectAttributes.Attributes, KernelMode)
    if ClientId.UniqueThread:
        thread_status, thread = await _looked_up(ClientId.UniqueThread, KThread)
        if thread is None:
            return thread_status, 0
        await let_go(thread)
    return await open_by_id(ClientId.UniqueProcess, Process, DesiredAccess, ObjectAttributes.Attributes)


async def open_by_id(
    number: int,
    kind: type[Cell],
    access: int,
    attributes: int = 0,
    *,
    mode: int = KernelMode,
    process: Process | None = None,
) -> tuple[NTSTATUS, int]:
    """Open the process or the thread that has an identifier, for a caller in *mode*: status and handle.

    The handle is one of *process*, the calling thread's unless given.
    """
    status, body = await _looked_up(number, kind)
    if body is None:
        return status, 0
    result = await open_handle(body, access, attributes, mode=mode, process=process)
    await let_go(body)
    return result


class BeginExit(Operation[bool]):
    """A process begins to end: nothing is opened in it any more. False if it has begun before."""

    __slots__ = ("process",)
    kind = "begin the exit of"

    def __init__(self, process: Process) -> None:
        self.process = process

    def perform(self, thread: Thread) -> bool:
        thread.write(self.process)
        if self.process.is_exiting:
            return False
        self.process.is_exiting = True
        return True

    def target(self) -> Cell:
        return self.process


class Exit(Operation[None]):
    """A process has ended."""

    __slots__ = ("process", "status")
    kind = "exit"

    def __init__(self, process: Process, status: int) -> None:
        self.process = process
        self.status = status

    def perform(self, thread: Thread) -> None:
        process = self.process
        process.exit(thread, self.status)
        header = header_of(process)
        thread.write(header)
        if close_if_unheld(header, thread):
            client_ids().take_back(thread, process)

    def target(self) -> Cell:
        return self.process


async def exit_process(process: Process, status: int = STATUS_SUCCESS) -> None:
    """End *process* on the calling thread: its handles are closed, then whoever waits for it is told.

    Once nobody references it its identifier is free for another process.
    """
    await BeginExit(process)
    await finish_exit(process, status)


async def finish_exit(process: Process, status: int) -> None:
    """What `exit_process` does once the exit has begun."""
    await close_all(process)
    await Exit(process, status)


def create_process(name: str, parent: Process | None = None, *, inherits: bool = False) -> Process:
    """A new process, inside the calling step; with copies of *parent*'s inheritable handles if it *inherits*."""
    process = Process(name, parent=parent)
    process.pid = client_ids().give(current_thread(), process)
    if parent is not None and inherits:
        inherit(current_thread(), parent, process)
    return process


async def forget_process(process: Process) -> None:
    """The delete procedure of a process: its identifier may be given to another one (OB-OBJ-06)."""
    await Forget(process)


PROCESS_TYPE.delete = forget_process


class Forget(Operation[None]):
    """Take a process's identifier back."""

    __slots__ = ("process",)
    kind = "delete"

    def __init__(self, process: Process) -> None:
        self.process = process

    def perform(self, thread: Thread) -> None:
        client_ids().take_back(thread, self.process)

    def target(self) -> Cell:
        return self.process
