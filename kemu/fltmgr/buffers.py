"""What a minifilter asks about the buffer of an operation, and has locked (FLT-BUF)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.constants import FLTFL_CALLBACK_DATA_DIRTY, FLTFL_CALLBACK_DATA_POST_OPERATION
from kemu.fltmgr.frame import Frame, Input
from kemu.fltmgr.members import MDL_ADDRESS, BufferMembers, member_of
from kemu.fltmgr.objects import Instance
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.fltmgr.swap import LOCKER
from kemu.io.buffers import CONTROLS, SYSTEM, buffering, has_system_buffer, memory_of
from kemu.io.constants import (
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_QUERY_EA,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_QUOTA,
    IRP_MJ_QUERY_SECURITY,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_EA,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SET_QUOTA,
    IRP_MJ_SET_VOLUME_INFORMATION,
    IRP_MJ_WRITE,
)
from kemu.io.request import FAST_IO_OPERATION
from kemu.nt.driver import current_driver
from kemu.nt.kthread import APC_LEVEL
from kemu.nt.mdl import MDL, IoReadAccess, IoWriteAccess, Mdls, lockable, region_of
from kemu.nt.memory import pool_type_ceiling
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_VIOLATION,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, resources_fail
from kemu.nt.usermemory import UserBuffer
from kemu.runtime import Cell, Operation, Thread

IRP_MN_MDL: Final = 0x02
"""The bit of the minor function of a read or write whose buffer the cache provides."""

LOCKED_MAJORS: Final = CONTROLS | {
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_QUERY_EA,
    IRP_MJ_SET_EA,
    IRP_MJ_QUERY_QUOTA,
    IRP_MJ_SET_QUOTA,
    IRP_MJ_QUERY_SECURITY,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
}
"""The operations that have an MDL (FLT-BUF-15)."""

MEMBERS: Final[Mapping[int, tuple[str, str, int, bool]]] = {
    IRP_MJ_CREATE: ("EaBuffer", "EaLength", IoReadAccess, False),
    IRP_MJ_READ: ("ReadBuffer", "Length", IoWriteAccess, True),
    IRP_MJ_WRITE: ("WriteBuffer", "Length", IoReadAccess, True),
    IRP_MJ_QUERY_INFORMATION: ("InfoBuffer", "Length", IoWriteAccess, False),
    IRP_MJ_SET_INFORMATION: ("InfoBuffer", "Length", IoReadAccess, False),
    IRP_MJ_QUERY_EA: ("EaBuffer", "Length", IoWriteAccess, True),
    IRP_MJ_SET_EA: ("EaBuffer", "Length", IoReadAccess, True),
    IRP_MJ_QUERY_VOLUME_INFORMATION: ("VolumeBuffer", "Length", IoWriteAccess, False),
    IRP_MJ_SET_VOLUME_INFORMATION: ("VolumeBuffer", "Length", IoReadAccess, False),
    IRP_MJ_DIRECTORY_CONTROL: ("DirectoryBuffer", "Length", IoWriteAccess, True),
    IRP_MJ_QUERY_SECURITY: ("SecurityBuffer", "Length", IoWriteAccess, True),
    IRP_MJ_QUERY_QUOTA: ("QuotaBuffer", "Length", IoWriteAccess, True),
    IRP_MJ_SET_QUOTA: ("QuotaBuffer", "Length", IoReadAccess, True),
    IRP_MJ_FILE_SYSTEM_CONTROL: ("OutputBuffer", "OutputBufferLength", IoWriteAccess, True),
    IRP_MJ_DEVICE_CONTROL: ("OutputBuffer", "OutputBufferLength", IoWriteAccess, True),
    IRP_MJ_INTERNAL_DEVICE_CONTROL: ("OutputBuffer", "OutputBufferLength", IoWriteAccess, True),
}
"""For each operation with a buffer: the members of the buffer and of its length, how it is accessed, and whether there
is one for an MDL."""


class MemberPointer:
    """A pointer to a member of ``Iopb->Parameters``: ``pointer.value`` is the member."""

    __slots__ = ("_name", "_parameters")

    def __init__(self, parameters: BufferMembers, name: str) -> None:
        self._parameters = parameters
        self._name = name

    @property
    def value(self) -> Any:
        """``*Pointer``."""
        return getattr(self._parameters, self._name)

    @value.setter
    def value(self, value: Any) -> None:
        setattr(self._parameters, self._name, value)

    def __repr__(self) -> str:
        return f"&Parameters.{self._name}"


Decoded = tuple[NTSTATUS, MemberPointer | None, MemberPointer | None, MemberPointer | None, int | None]


@routine(
    "fltkernel",
    """NTSTATUS FltDecodeParameters(_In_ PFLT_CALLBACK_DATA CallbackData, _Out_ PMDL **MdlAddressPointer,
       _Out_ PVOID **Buffer, _Out_ PULONG *Length, _Out_opt_ LOCK_OPERATION *DesiredAccess)""",
)
def FltDecodeParameters(CallbackData: FLT_CALLBACK_DATA) -> Decoded:
    """Pointers to the MDL, buffer and length of an operation, and how the buffer is accessed; IRP or fast I/O.

    A pointer is None where the operation has no such member. STATUS_INVALID_PARAMETER for operations without a buffer,
    hence for FSFilter operations (FLT-BUF-13). IRQL: any.
    """
    frame = owned_frame(CallbackData)
    request = frame.operation.request
    found = MEMBERS.get(request.major)
    if found is None:
        return STATUS_INVALID_PARAMETER, None, None, None, None
    buffer, length, access, has_mdl = found
    if request.major in CONTROLS and request.kind != FAST_IO_OPERATION and buffering(request) == SYSTEM:
        buffer, has_mdl = "SystemBuffer", False
    if request.kind == FAST_IO_OPERATION and request.major in CONTROLS:
        has_mdl = False
    parameters = CallbackData.Iopb.Parameters
    mdl = MemberPointer(parameters, MDL_ADDRESS) if has_mdl else None
    return STATUS_SUCCESS, mdl, MemberPointer(parameters, buffer), MemberPointer(parameters, length), access


def FLT_IS_SYSTEM_BUFFER(Data: FLT_CALLBACK_DATA) -> bool:
    """Whether the buffer of the operation is nonpaged memory of the I/O manager's."""
    return has_system_buffer(owned_frame(Data).operation.request)


def raw_buffer(frame: Frame) -> UserBuffer | None:
    """The address in the issuer's process that whoever is below the instance would get for a buffer, if it is that.

    None as long as nobody has looked at the buffer: kemu takes it that the file system can cope with it then.
    """
    request = frame.operation.request
    memory = request.memory
    if memory is None or not memory.is_raw():
        return None
    name = member_of(request.major)
    below = request.parameters
    if frame.flags & FLTFL_CALLBACK_DATA_DIRTY and frame.iopb is not None:
        below = Input.seen(frame.iopb).parameters
    value = getattr(below, name)
    region, _ = region_of(None if value is memory.given else value)
    region = memory.region if region is None else region
    return region if isinstance(region, UserBuffer) else None


class LockBuffer(Operation[NTSTATUS]):
    """Lock the pages of an operation's buffer."""

    __slots__ = ("frame", "parameters")
    kind = "FltLockUserBuffer"

    def __init__(self, frame: Frame, parameters: BufferMembers) -> None:
        self.frame = frame
        self.parameters = parameters

    def perform(self, thread: Thread) -> NTSTATUS:
        frame, parameters = self.frame, self.parameters
        request = frame.operation.request
        thread.use(frame)
        if resources_fail("FltLockUserBuffer"):
            return STATUS_INSUFFICIENT_RESOURCES
        memory = memory_of(request)
        name = member_of(request.major)
        value = parameters.Buffer if name == "Buffer" else parameters.more.get(name)
        region, _ = region_of(None if value is memory.given else value)
        if region is None:
            region = memory.region
        thread.write(request)
        if not lockable(thread, region, writes=MEMBERS[request.major][2] == IoWriteAccess):
            return STATUS_ACCESS_VIOLATION
        mdl = next((one for one in memory.locked if one.region is region and not one.freed), None)
        if mdl is None:
            mdl = memory.describe(region, 10 + len(memory.locked), LOCKER)
            memory.locked.append(mdl)
        parameters.MdlAddress = mdl
        if not frame.flags & FLTFL_CALLBACK_DATA_POST_OPERATION:
            frame.flags |= FLTFL_CALLBACK_DATA_DIRTY
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.frame.operation.request


@routine(
    "fltkernel",
    "NTSTATUS FltLockUserBuffer(_In_ PFLT_CALLBACK_DATA CallbackData)",
    max_irql=APC_LEVEL,
)
async def FltLockUserBuffer(CallbackData: FLT_CALLBACK_DATA) -> NTSTATUS:
    """Lock the buffer of an operation, in the process that it is in, and put the MDL into the parameters.

    Nothing happens if there is one already. In a pre-operation callback the parameters become dirty. The filter
    manager unlocks the pages and frees the MDL when the operation is complete (FLT-BUF-05). STATUS_INVALID_PARAMETER
    for an operation that has no MDL, or is a read or write with IRP_MN_MDL (FLT-BUF-15); STATUS_ACCESS_VIOLATION if
    the memory is not there; STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: <= APC_LEVEL.
    """
    frame = owned_frame(CallbackData)
    request = frame.operation.request
    major = request.major
    if major not in LOCKED_MAJORS or (major in {IRP_MJ_READ, IRP_MJ_WRITE} and request.minor & IRP_MN_MDL):
        return STATUS_INVALID_PARAMETER
    parameters = CallbackData.Iopb.Parameters
    if parameters.MdlAddress is not None:
        return STATUS_SUCCESS
    return await LockBuffer(frame, parameters)


@routine("fltkernel", "PMDL FltGetSwappedBufferMdlAddress(_In_ PFLT_CALLBACK_DATA CallbackData)")
def FltGetSwappedBufferMdlAddress(CallbackData: FLT_CALLBACK_DATA) -> MDL | None:
    """The MDL of the buffer that this instance has swapped in, whoever has made it; in post-operation callbacks.

    None for fast I/O, for a swapped buffer without an MDL, or if nothing was swapped (FLT-BUF-14). IRQL: any.
    """
    frame = owned_frame(CallbackData)
    swap = frame.swap
    if swap is None or not frame.flags & FLTFL_CALLBACK_DATA_POST_OPERATION:
        return None
    return swap.mdl


@routine("fltkernel", "VOID FltRetainSwappedBufferMdlAddress(_In_ PFLT_CALLBACK_DATA CallbackData)")
def FltRetainSwappedBufferMdlAddress(CallbackData: FLT_CALLBACK_DATA) -> None:
    """Keep the filter manager from freeing the MDL of the buffer that this instance has swapped in.

    The driver frees it itself then (FLT-BUF-10); one that it does not is finding ``mdl-leak``. IRQL: any.
    """
    frame = owned_frame(CallbackData)
    swap = frame.swap
    if swap is None or swap.mdl is None or not frame.flags & FLTFL_CALLBACK_DATA_POST_OPERATION:
        return
    swap.retained = True
    mdl = swap.mdl
    mdl.keeper = ""
    mdl.driver = current_driver()
    current_system().get(Mdls).alive[mdl] = None
    memory = memory_of(frame.operation.request)
    memory.locked = [one for one in memory.locked if one is not mdl]


def aligned_ceiling(Instance: Instance, PoolType: int, NumberOfBytes: int, Tag: str | int) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return pool_type_ceiling(PoolType, NumberOfBytes, Tag)
