"""Handles: one table for each process, what a handle grants, opening, duplicating and closing (OB-HT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kemu.nt.access import PROCESS_DUP_HANDLE
from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, INVALID_KERNEL_HANDLE, BugCheck
from kemu.nt.driver import current_driver
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.object import Dereference, ObjectType, Reference, close_if_unheld, delete, header_of, known_object, type_of
from kemu.nt.process import KernelMode, Process, UserMode
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_HANDLE_NOT_CLOSABLE,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_PROCESS_IS_TERMINATING,
    STATUS_SUCCESS,
)
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread, current_thread

OBJ_INHERIT: Final = 0x02
OBJ_PROTECT_CLOSE: Final = 0x01
OBJ_PERMANENT: Final = 0x10
OBJ_EXCLUSIVE: Final = 0x20
OBJ_CASE_INSENSITIVE: Final = 0x40
OBJ_OPENIF: Final = 0x80
OBJ_KERNEL_HANDLE: Final = 0x200
OBJ_FORCE_ACCESS_CHECK: Final = 0x400

DUPLICATE_CLOSE_SOURCE: Final = 0x1
DUPLICATE_SAME_ACCESS: Final = 0x2
DUPLICATE_SAME_ATTRIBUTES: Final = 0x4

KERNEL_HANDLE_MASK: Final = 0xFFFFFFFF80000000
"""What marks a handle of the System process's table (OB-HT-01)."""
CURRENT_PROCESS: Final = -1
CURRENT_THREAD: Final = -2


def NtCurrentProcess() -> int:
    """The pseudo-handle of the calling thread's process."""
    return CURRENT_PROCESS


def NtCurrentThread() -> int:
    """The pseudo-handle of the calling thread."""
    return CURRENT_THREAD


@dataclass(slots=True)
class HandleEntry:
    """What one handle stands for. `granted` is fixed when it is made (OB-HT-06)."""

    body: Cell
    granted: int
    attributes: int
    by_user: bool
    """Whether it was opened from user mode."""


class HandleTable(Cell):
    """The handles of one process. The lowest free value is given out, so that one may be reused at once."""

    __slots__ = ("entries", "process")

    def __init__(self, process: Process) -> None:
        super().__init__(current_thread(), f"handles of {process.label}")
        self.process = process
        self.entries: dict[int, HandleEntry] = {}

    def insert(self, thread: Thread, entry: HandleEntry) -> int:
        """Make a handle for *entry*, inside the calling step; it counts as a reference."""
        thread.write(self)
        handle = 4
        while handle in self.entries:
            handle += 4
        self.entries[handle] = entry
        header = header_of(entry.body)
        thread.update(header)
        header.handles += 1
        return handle | KERNEL_HANDLE_MASK if self.process.is_system else handle

    def find(self, thread: Thread, handle: int) -> HandleEntry | None:
        """What *handle* stands for, inside the calling step."""
        thread.read(self)
        return self.entries.get(handle & 0x7FFFFFFF)

    def remove(self, thread: Thread, handle: int) -> bool:
        """Take *handle* away, inside the calling step; whether that was the last hold on the object."""
        thread.write(self)
        entry = self.entries.pop(handle & 0x7FFFFFFF)
        header = header_of(entry.body)
        thread.write(header)
        thread.release_to_waiter(header)
        header.handles -= 1
        return close_if_unheld(header, thread)


def table_of(process: Process) -> HandleTable:
    """The handle table of *process*."""
    if process.handle_table is None:
        # As with object headers, the name follows from the owner's: it is nobody's doing that there is one now.
        table = process.handle_table = HandleTable.__new__(HandleTable)
        table.creator, table.ordinal, table.version, table.written = process.creator, -2 - 2**31 - process.ordinal, 0, 0
        table.label, table.process, table.entries = f"handles of {process.label}", process, {}
    return process.handle_table


def table_for(handle: int) -> HandleTable | None:
    """The table that *handle* belongs to, for the calling thread; None if it can be in none."""
    if handle & KERNEL_HANDLE_MASK == KERNEL_HANDLE_MASK:
        return table_of(system_process())
    process = current_kthread().process
    return table_of(process) if process is not None and handle > 0 else None


def system_process() -> Process:
    """The System process."""
    return current_thread().runtime.system.get(Process)


class Open(Operation[tuple[NTSTATUS, int]]):
    """Make a handle for an object."""

    __slots__ = ("entry", "table")
    kind = "open"

    def __init__(self, table: HandleTable, entry: HandleEntry) -> None:
        self.table = table
        self.entry = entry

    def perform(self, thread: Thread) -> tuple[NTSTATUS, int]:
        process = self.table.process
        thread.read(process)
        if process.is_exiting:
            return STATUS_PROCESS_IS_TERMINATING, 0
        header = header_of(self.entry.body)
        if not header.is_alive(thread):
            thread.read(header)
            return STATUS_INVALID_HANDLE, 0
        handle = self.table.insert(thread, self.entry)
        log = thread.runtime.log
        if log is not None:
            log("ob.open", obj=self.entry.body, handle=handle, access=self.entry.granted)
        return STATUS_SUCCESS, handle

    def target(self) -> Cell:
        return self.table


class Look(Operation[HandleEntry | None]):
    """See what a handle stands for."""

    __slots__ = ("handle", "table")
    kind = "look up a handle in"

    def __init__(self, table: HandleTable, handle: int) -> None:
        self.table = table
        self.handle = handle

    def perform(self, thread: Thread) -> HandleEntry | None:
        entry = self.table.find(thread, self.handle)
        if entry is not None:
            # The look-up takes a reference in the same step, so that nobody can close the handle in between.
            header_of(entry.body).refer(thread)
        return entry

    def target(self) -> Cell:
        return self.table


class Close(Operation[tuple[NTSTATUS, Cell | None]]):
    """Close a handle; evaluates to the status, and to the object if nobody holds it any more."""

    __slots__ = ("handle", "table")
    kind = "close a handle in"

    def __init__(self, table: HandleTable, handle: int) -> None:
        self.table = table
        self.handle = handle

    def perform(self, thread: Thread) -> tuple[NTSTATUS, Cell | None]:
        entry = self.table.find(thread, self.handle)
        if entry is None:
            return STATUS_INVALID_HANDLE, None
        if entry.attributes & OBJ_PROTECT_CLOSE:
            return STATUS_HANDLE_NOT_CLOSABLE, None
        log = thread.runtime.log
        if log is not None:
            log("ob.close", obj=entry.body, handle=self.handle)
        last = self.table.remove(thread, self.handle)
        return STATUS_SUCCESS, entry.body if last else None

    def target(self) -> Cell:
        return self.table


class CloseNext(Operation[tuple[bool, Cell | None]]):
    """Close the lowest handle of a process that ends; whether there was one, and the object if nobody holds it."""

    __slots__ = ("table",)
    kind = "close the handles in"

    def __init__(self, table: HandleTable) -> None:
        self.table = table

    def perform(self, thread: Thread) -> tuple[bool, Cell | None]:
        thread.read(self.table)
        if not self.table.entries:
            return False, None
        handle = min(self.table.entries)
        body = self.table.entries[handle].body
        return True, body if self.table.remove(thread, handle) else None

    def target(self) -> Cell:
        return self.table


async def close_all(process: Process) -> None:
    """Close every handle of *process*."""
    table = table_of(process)
    more = True
    while more:
        more, last = await CloseNext(table)
        if last is not None:
            await delete(last)


async def open_handle(
    body: Cell,
    access: int,
    attributes: int = 0,
    *,
    mode: int = KernelMode,
    process: Process | None = None,
    allowed: int | None = None,
) -> tuple[NTSTATUS, int]:
    """Open *body*: the status, and the handle or 0.

    The handle goes into *process* (the calling thread's unless given), or into the System process with
    OBJ_KERNEL_HANDLE. The access check is one of *allowed*, all rights unless given; KernelMode without
    OBJ_FORCE_ACCESS_CHECK bypasses it (OB-HT-09).
    """
    object_type = type_of(body)
    assert object_type is not None
    rights = object_type.rights
    if not rights.is_valid(access):
        return STATUS_INVALID_PARAMETER, 0
    granted = rights.granted(access)
    checked = mode == UserMode or attributes & OBJ_FORCE_ACCESS_CHECK
    if checked and allowed is not None and granted & ~allowed:
        return STATUS_ACCESS_DENIED, 0
    owner = system_process() if attributes & OBJ_KERNEL_HANDLE else process or current_kthread().process
    assert owner is not None
    return await Open(table_of(owner), HandleEntry(body, granted, attributes, mode == UserMode))


@routine(
    "wdm",
    """NTSTATUS ObReferenceObjectByHandle(_In_ HANDLE Handle, _In_ ACCESS_MASK DesiredAccess,
       _In_opt_ POBJECT_TYPE ObjectType, _In_ KPROCESSOR_MODE AccessMode, _Out_ PVOID *Object,
       _Out_opt_ POBJECT_HANDLE_INFORMATION HandleInformation)""",
    max_irql=PASSIVE_LEVEL,
)
async def ObReferenceObjectByHandle(
    Handle: int, DesiredAccess: int, ObjectType: ObjectType | None, AccessMode: int
) -> tuple[NTSTATUS, Any, tuple[int, int] | None]:
    """The object behind *Handle*, referenced: status, object, and (HandleAttributes, GrantedAccess) (OB-HT-03).

    STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH (unless *ObjectType* is None), STATUS_ACCESS_DENIED where the
    handle does not grant *DesiredAccess* and *AccessMode* is UserMode. IRQL: PASSIVE_LEVEL.
    Findings: ``ob.null-handle``, ``ob.bad-handle``, ``ob.user-handle-as-kernel``, ``ob.kernel-handle-as-user``.
    """
    pseudo = _pseudo(Handle)
    if pseudo is not None:
        if ObjectType is not None and type_of(pseudo) is not ObjectType:
            return STATUS_OBJECT_TYPE_MISMATCH, None, None
        await Reference(pseudo)
        rights = type_of(pseudo)
        assert rights is not None
        return STATUS_SUCCESS, pseudo, (0, rights.rights.all)
    if Handle == 0:
        _wrong_handle("ob.null-handle", "ObReferenceObjectByHandle of a NULL handle", 0xF5, Handle)
        return STATUS_INVALID_HANDLE, None, None
    is_kernel = Handle & KERNEL_HANDLE_MASK == KERNEL_HANDLE_MASK
    thread = current_kthread()
    if is_kernel and AccessMode == UserMode:
        if thread.process is system_process():
            what = f"kernel handle 0x{Handle:X} is referenced with AccessMode UserMode in the System process"
            _wrong_handle("ob.kernel-handle-as-user", what, 0xF7, Handle)
        return STATUS_INVALID_HANDLE, None, None
    table = table_for(Handle)
    entry = None if table is None else await Look(table, Handle)
    if entry is None:
        if AccessMode == KernelMode:
            _wrong_handle(
                "ob.bad-handle", f"ObReferenceObjectByHandle of 0x{Handle:X}, which is not open", 0x3C, Handle
            )
        return STATUS_INVALID_HANDLE, None, None
    if entry.by_user and AccessMode == KernelMode:
        what = f"handle 0x{Handle:X}, which a user program has opened, is referenced with AccessMode KernelMode"
        _wrong_handle("ob.user-handle-as-kernel", what, 0xF6, Handle)
    status = STATUS_SUCCESS
    if ObjectType is not None and type_of(entry.body) is not ObjectType:
        status = STATUS_OBJECT_TYPE_MISMATCH
    elif AccessMode == UserMode and DesiredAccess & ~entry.granted:
        status = STATUS_ACCESS_DENIED
    if status != STATUS_SUCCESS:
        await let_go(entry.body)
        return status, None, None
    return STATUS_SUCCESS, entry.body, (entry.attributes, entry.granted)


async def let_go(body: Cell) -> None:
    """Drop the reference that a look-up has taken."""
    if await Dereference(body):
        await delete(body)


def _pseudo(handle: int) -> Process | KThread | None:
    """What a pseudo-handle stands for."""
    thread = current_kthread()
    if handle == CURRENT_PROCESS:
        return thread.process
    return thread if handle == CURRENT_THREAD else None


def _wrong_handle(code: str, what: str, subcode: int, handle: int) -> None:
    report(code, what, verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (subcode, handle)))


@routine(
    "ntifs",
    """NTSTATUS ObOpenObjectByPointer(_In_ PVOID Object, _In_ ULONG HandleAttributes,
       _In_opt_ PACCESS_STATE PassedAccessState, _In_ ACCESS_MASK DesiredAccess, _In_opt_ POBJECT_TYPE ObjectType,
       _In_ KPROCESSOR_MODE AccessMode, _Out_ PHANDLE Handle)""",
    max_irql=APC_LEVEL,
    unchecked=("Object",),
)
async def ObOpenObjectByPointer(
    Object: Cell,
    HandleAttributes: int,
    PassedAccessState: object,
    DesiredAccess: int,
    ObjectType: ObjectType | None,
    AccessMode: int,
) -> tuple[NTSTATUS, int]:
    """Open an object that the caller has a pointer to: status and handle. IRQL: <= APC_LEVEL.

    *PassedAccessState* has no effect. Outside the System process a handle without OBJ_KERNEL_HANDLE can be used by the
    program that happens to run: finding ``ob.user-visible-handle`` (OB-HT-02).
    """
    if ObjectType is not None and type_of(known_object(Object, "ObOpenObjectByPointer")) is not ObjectType:
        return STATUS_OBJECT_TYPE_MISMATCH, 0
    check_attributes("ObOpenObjectByPointer", HandleAttributes, AccessMode)
    return await open_handle(Object, DesiredAccess, HandleAttributes, mode=AccessMode)


def check_attributes(where: str, attributes: int, mode: int) -> None:
    """Finding ``ob.user-visible-handle`` for a driver's own handle in somebody else's table (OB-HT-02)."""
    thread = current_kthread()
    outside = thread.process is not None and not thread.process.is_system
    if outside and mode == KernelMode and current_driver() is not None and not attributes & OBJ_KERNEL_HANDLE:
        report("ob.user-visible-handle", f"{where} without OBJ_KERNEL_HANDLE in process {thread.process}")


async def close_handle(handle: int, mode: int, where: str) -> NTSTATUS:
    """Close *handle* for a caller in *mode*; the object may be deleted by that."""
    is_kernel = handle & KERNEL_HANDLE_MASK == KERNEL_HANDLE_MASK
    if handle < 0 or (is_kernel and mode == UserMode):
        # Closing a pseudo-handle does nothing; a kernel handle is no handle to a user program (OB-HT-04).
        return STATUS_SUCCESS if handle in {CURRENT_PROCESS, CURRENT_THREAD} else STATUS_INVALID_HANDLE
    table = table_for(handle)
    status, last = (STATUS_INVALID_HANDLE, None) if table is None else await Close(table, handle)
    if is_kernel and status != STATUS_SUCCESS:
        why = "is not open" if status == STATUS_INVALID_HANDLE else "is protected"
        reason = int(status == STATUS_INVALID_HANDLE)
        report(
            "ob.kernel-handle-closed-twice",
            f"{where} of kernel handle 0x{handle:X}, which {why}",
            BugCheck(INVALID_KERNEL_HANDLE, (handle, reason)),
        )
    if last is not None:
        await delete(last)
    return status


@routine("wdm", "NTSTATUS ZwClose(_In_ HANDLE Handle)", max_irql=PASSIVE_LEVEL)
async def ZwClose(Handle: int) -> NTSTATUS:
    """Close *Handle*: STATUS_SUCCESS, STATUS_INVALID_HANDLE or STATUS_HANDLE_NOT_CLOSABLE. IRQL: PASSIVE_LEVEL.

    A kernel handle that is not open: finding ``ob.kernel-handle-closed-twice``, bug check 0x93 (OB-HT-04).
    """
    return await close_handle(Handle, KernelMode, "ZwClose")


@routine(
    "ntifs", "NTSTATUS ObCloseHandle(_In_ HANDLE Handle, _In_ KPROCESSOR_MODE PreviousMode)", max_irql=PASSIVE_LEVEL
)
async def ObCloseHandle(Handle: int, PreviousMode: int) -> NTSTATUS:
    """Close *Handle* for a caller in *PreviousMode*. IRQL: PASSIVE_LEVEL. Findings as ZwClose."""
    return await close_handle(Handle, PreviousMode, "ObCloseHandle")


@routine(
    "ntifs",
    """NTSTATUS ZwDuplicateObject(_In_ HANDLE SourceProcessHandle, _In_ HANDLE SourceHandle,
       _In_opt_ HANDLE TargetProcessHandle, _Out_opt_ PHANDLE TargetHandle, _In_ ACCESS_MASK DesiredAccess,
       _In_ ULONG HandleAttributes, _In_ ULONG Options)""",
    max_irql=PASSIVE_LEVEL,
)
async def ZwDuplicateObject(
    SourceProcessHandle: int,
    SourceHandle: int,
    TargetProcessHandle: int,
    DesiredAccess: int,
    HandleAttributes: int,
    Options: int,
) -> tuple[NTSTATUS, int]:
    """Make another handle for what *SourceHandle* stands for: status and the new handle (OB-HT-07).

    Both processes have to be open with PROCESS_DUP_HANDLE. DUPLICATE_CLOSE_SOURCE closes the source handle in any
    case; with 0 as *TargetProcessHandle* it does nothing else. IRQL: PASSIVE_LEVEL.
    """
    return await duplicate(
        SourceProcessHandle, SourceHandle, TargetProcessHandle, DesiredAccess, HandleAttributes, Options
    )


async def duplicate(
    source_process: int,
    source: int,
    target_process: int,
    access: int,
    attributes: int,
    options: int,
    *,
    mode: int = KernelMode,
) -> tuple[NTSTATUS, int]:
    """What duplicating a handle comes to for a caller in *mode*."""
    status, owner = await _process_behind(source_process)
    if owner is None:
        return status, 0
    table = table_of(system_process()) if source & KERNEL_HANDLE_MASK == KERNEL_HANDLE_MASK else table_of(owner)
    handle = 0
    pseudo = _pseudo(source)
    entry = None
    if pseudo is None:
        entry = await Look(table, source)
    if pseudo is None and entry is None:
        status = STATUS_INVALID_HANDLE
    elif target_process:
        status, target = await _process_behind(target_process)
        if target is not None:
            body = pseudo if pseudo is not None else _body(entry)
            object_type = type_of(body)
            assert object_type is not None
            granted = object_type.rights.all if entry is None else entry.granted
            wanted = granted if options & DUPLICATE_SAME_ACCESS else access
            marks = attributes if entry is None or not options & DUPLICATE_SAME_ATTRIBUTES else entry.attributes
            allowed = granted if mode == UserMode else None
            status, handle = await open_handle(body, wanted, marks, mode=mode, process=target, allowed=allowed)
    if entry is not None:
        await let_go(entry.body)
        if options & DUPLICATE_CLOSE_SOURCE:
            _, last = await Close(table, source)
            if last is not None:
                await delete(last)
    return status, handle


def _body(entry: HandleEntry | None) -> Cell:
    assert entry is not None
    return entry.body


async def _process_behind(handle: int) -> tuple[NTSTATUS, Process | None]:
    """The process that *handle* stands for, if it grants PROCESS_DUP_HANDLE."""
    body = _pseudo(handle)
    if body is None:
        table = table_for(handle)
        entry = None if table is None else await Look(table, handle)
        if entry is None:
            return STATUS_INVALID_HANDLE, None
        await let_go(entry.body)
        if not entry.granted & PROCESS_DUP_HANDLE:
            return STATUS_ACCESS_DENIED, None
        body = entry.body
    return (STATUS_SUCCESS, body) if isinstance(body, Process) else (STATUS_OBJECT_TYPE_MISMATCH, None)


def inherit(thread: Thread, parent: Process, child: Process) -> None:
    """Copy what is inheritable of *parent*'s handles to *child*, with value and granted access (OB-HT-05)."""
    source, target = table_of(parent), table_of(child)
    thread.read(source)
    thread.write(target)
    for handle, entry in source.entries.items():
        if entry.attributes & OBJ_INHERIT:
            target.entries[handle] = HandleEntry(entry.body, entry.granted, entry.attributes, entry.by_user)
            header = header_of(entry.body)
            thread.update(header)
            header.handles += 1
