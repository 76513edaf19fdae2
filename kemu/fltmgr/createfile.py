"""Opening files from a minifilter, closing them, and undoing an open that was granted (FLT-IO-02, 10, 11, 22 to 25)."""

from __future__ import annotations

from typing import Any, Final

from kemu.fltmgr.constants import FLTFL_CALLBACK_DATA_GENERATED_IO
from kemu.fltmgr.frame import IN_POST, POST_PENDED, Frame, IrpCtrl
from kemu.fltmgr.generated import GeneratedRequest, join_below, perform
from kemu.fltmgr.initiated import GeneratedIo, OpenedFile
from kemu.fltmgr.issuing import check_locks, check_top_level
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import Filter, FltVolume, Instance
from kemu.fltmgr.structures import IO_STATUS_BLOCK
from kemu.io.constants import FILE_OPEN, FO_SYNCHRONOUS_IO, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE
from kemu.io.ecp import ECP_LIST, Ecps
from kemu.io.file_constants import (
    FILE_GENERIC_READ,
    FILE_SHARE_VALID_FLAGS,
    FILE_SYNCHRONOUS_IO_ALERT,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FO_FILE_OPEN_CANCELLED,
    FO_HANDLE_CREATED,
    map_generic,
)
from kemu.io.filesystem.names import dos_path, join
from kemu.io.manager import IoManager
from kemu.io.parameters import Members
from kemu.io.request import FileObject, Parameters, Request
from kemu.io.volume import Volume
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM, BugCheck
from kemu.nt.driver import current_driver
from kemu.nt.handle import OBJ_KERNEL_HANDLE, check_attributes, close_handle, open_handle, table_for
from kemu.nt.kthread import PASSIVE_LEVEL, current_kthread
from kemu.nt.object import Reference, header_of
from kemu.nt.process import KernelMode
from kemu.nt.psapi import OBJECT_ATTRIBUTES
from kemu.nt.routine import routine
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INVALID_PARAMETER,
    STATUS_MOUNT_POINT_NOT_RESOLVED,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report
from kemu.runtime import Operation, Thread, current_thread

IO_IGNORE_SHARE_ACCESS_CHECK: Final = 0x0800
_SYNCHRONOUS: Final = FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT


class IO_DRIVER_CREATE_CONTEXT:
    """What goes with a create beside its parameters. IoInitializeDriverCreateContext fills it in first."""

    __slots__ = ("DeviceObjectHint", "ExtraCreateParameter", "Size", "TxnParameters")

    def __init__(self) -> None:
        self.Size = 0
        self.ExtraCreateParameter: ECP_LIST | None = None
        self.DeviceObjectHint: object = None
        self.TxnParameters: object = None


@routine("ntifs", "VOID IoInitializeDriverCreateContext(_Inout_ PIO_DRIVER_CREATE_CONTEXT DriverContext)")
def IoInitializeDriverCreateContext(DriverContext: IO_DRIVER_CREATE_CONTEXT) -> None:
    """Make *DriverContext* as new. IRQL: any."""
    DriverContext.Size = 40
    DriverContext.ExtraCreateParameter = DriverContext.DeviceObjectHint = DriverContext.TxnParameters = None


class EnterBelow(Operation[IrpCtrl]):
    """A request on a file that was opened below an instance enters the filter manager there."""

    __slots__ = ("instance", "request")
    kind = "begin"

    def __init__(self, request: Request, instance: Instance) -> None:
        self.request = request
        self.instance = instance

    def perform(self, thread: Thread) -> IrpCtrl:
        request = self.request
        operation = IrpCtrl(request)
        request.filter_context = operation
        join_below(thread, operation, self.instance, request, FLTFL_CALLBACK_DATA_GENERATED_IO)
        return operation

    def target(self) -> FltVolume:
        return self.instance.volume

    def describe(self) -> str:
        return f"begin {self.request.label} below {self.instance.label}"


class BelowInstance:
    """Where the requests of a file enter that was opened below an instance: none above sees them (FLT-IO-01)."""

    __slots__ = ("instance",)

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    async def dispatch(self, request: Request) -> bool:
        operation = await EnterBelow(request, self.instance)
        return await current_system().get(FilterManager).pipeline.start(operation)


Created = tuple[NTSTATUS, int, FileObject | None, IO_STATUS_BLOCK]


async def create(
    name: str,
    filter_: Filter,
    instance: Instance | None,
    access: int,
    attributes: OBJECT_ATTRIBUTES,
    allocation: int | None,
    file_attributes: int,
    share: int,
    disposition: int,
    options: int,
    flags: int = 0,
    *,
    ecps: ECP_LIST | None = None,
    references: bool = False,
) -> Created:
    """Open a file below *instance*, or from the top of the stack; status, handle, file object and its result."""
    check_top_level(name, apcs=True)
    check_locks(name)
    check_attributes(name, attributes.Attributes, KernelMode)
    manager = current_system().get(IoManager)
    path = (attributes.ObjectName or "").removeprefix("\\??\\")
    volume = instance.volume.volume if instance is not None else _volume_of(manager, path)
    path = dos_path(path) if not path.isdigit() else path
    if attributes.RootDirectory:
        table = table_for(attributes.RootDirectory)
        entry = table.find(current_thread(), attributes.RootDirectory) if table is not None else None
        if entry is None or not isinstance(entry.body, FileObject):
            return STATUS_OBJECT_PATH_NOT_FOUND, 0, None, IO_STATUS_BLOCK(STATUS_OBJECT_PATH_NOT_FOUND)
        volume, path = entry.body.volume, join(entry.body.FileName, path.lstrip("\\"))
    members: Members = {
        "DesiredAccess": map_generic(access),
        "FileAttributes": file_attributes,
        "ShareAccess": share,
        "CreateOptions": options,
        "AllocationSize": allocation or 0,
    }
    if flags & IO_IGNORE_SHARE_ACCESS_CHECK:
        members["IgnoreShareAccess"] = True

    async def send(file: FileObject) -> Request:
        parameters = Parameters(Disposition=disposition, **members)
        if instance is None:
            plain = Request(file.volume, file, IRP_MJ_CREATE, parameters, mode=KernelMode)
            await manager.call(plain)
            return plain
        request = GeneratedRequest(instance, file, IRP_MJ_CREATE, parameters)
        if file.volume is volume:
            await perform(request)
        else:
            # Below the instance there is no other volume.
            request.status = STATUS_MOUNT_POINT_NOT_RESOLVED
        return request

    file = FileObject(volume, path, FO_SYNCHRONOUS_IO if options & _SYNCHRONOUS else 0)
    # The handle that is made below is the first.
    file.handles = 0
    file.below = BelowInstance(instance) if instance is not None else None
    if ecps is not None:
        current_system().get(Ecps).of[file] = ecps
    request = await manager.open(send, file)
    status, file = request.status, request.file
    if not NT_SUCCESS(status):
        return status, 0, None, IO_STATUS_BLOCK(status, request.information)
    status, handle = await open_handle(file, access, attributes.Attributes)
    if not NT_SUCCESS(status):
        file.handles = 1
        await manager.close(file)
        return status, 0, None, IO_STATUS_BLOCK(status)
    opened = OpenedFile(handle, file, current_driver() or filter_.driver, instance)
    current_system().get(GeneratedIo).opened[file] = opened
    if references:
        await Reference(file)
    return STATUS_SUCCESS, handle, file if references else None, IO_STATUS_BLOCK(STATUS_SUCCESS, request.information)


def _volume_of(manager: IoManager, path: str) -> Volume:
    """The volume that *path* is on: by its drive, or the first one."""
    drive = path[:2].upper()
    return next((one for one in manager.volumes if one.dos_name.upper() == drive), manager.volumes[0])


@routine(
    "fltkernel",
    """NTSTATUS FltCreateFile(_In_ PFLT_FILTER Filter, _In_opt_ PFLT_INSTANCE Instance, _Out_ PHANDLE FileHandle,
       _In_ ACCESS_MASK DesiredAccess, _In_ POBJECT_ATTRIBUTES ObjectAttributes,
       _Out_ PIO_STATUS_BLOCK IoStatusBlock, _In_opt_ PLARGE_INTEGER AllocationSize, _In_ ULONG FileAttributes,
       _In_ ULONG ShareAccess, _In_ ULONG CreateDisposition, _In_ ULONG CreateOptions, _In_opt_ PVOID EaBuffer,
       _In_ ULONG EaLength, _In_ ULONG Flags)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltCreateFile(
    Filter: Filter,
    Instance: Instance | None,
    DesiredAccess: int,
    ObjectAttributes: OBJECT_ATTRIBUTES,
    AllocationSize: int | None,
    FileAttributes: int,
    ShareAccess: int,
    CreateDisposition: int,
    CreateOptions: int,
    EaBuffer: object,
    EaLength: int,
    Flags: int,
) -> tuple[NTSTATUS, int, IO_STATUS_BLOCK]:
    r"""Open a file below *Instance*, or from the top of the stack if that is NULL: status, FileHandle, IoStatusBlock.

    From the top, the driver's own callbacks see it, too (FLT-IO-02).
    The name is a path with or without a drive. The handle needs FltClose: findings ``handle-leak``,
    ``teardown-file-leak``. Never STATUS_REPARSE (FLT-IO-25). Extended attributes have no effect. IRQL: PASSIVE_LEVEL.
    Findings: ``io-with-toplevel-irp``, ``io-apcs-disabled`` (FLT-IO-10), ``lock-across-io``, ``ob.user-visible-handle``
    without OBJ_KERNEL_HANDLE outside the System process (FLT-IO-11).
    """
    status, handle, _, block = await create(
        "FltCreateFile", Filter, Instance, DesiredAccess, ObjectAttributes, AllocationSize, FileAttributes,
        ShareAccess, CreateDisposition, CreateOptions, Flags,
    )  # fmt: skip
    return status, handle, block


@routine(
    "fltkernel",
    """NTSTATUS FltCreateFileEx(_In_ PFLT_FILTER Filter, _In_opt_ PFLT_INSTANCE Instance, _Out_ PHANDLE FileHandle,
       _Outptr_opt_ PFILE_OBJECT *FileObject, _In_ ACCESS_MASK DesiredAccess,
       _In_ POBJECT_ATTRIBUTES ObjectAttributes, _Out_ PIO_STATUS_BLOCK IoStatusBlock,
       _In_opt_ PLARGE_INTEGER AllocationSize, _In_ ULONG FileAttributes, _In_ ULONG ShareAccess,
       _In_ ULONG CreateDisposition, _In_ ULONG CreateOptions, _In_opt_ PVOID EaBuffer, _In_ ULONG EaLength,
       _In_ ULONG Flags)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltCreateFileEx(
    Filter: Filter,
    Instance: Instance | None,
    DesiredAccess: int,
    ObjectAttributes: OBJECT_ATTRIBUTES,
    AllocationSize: int | None,
    FileAttributes: int,
    ShareAccess: int,
    CreateDisposition: int,
    CreateOptions: int,
    EaBuffer: object,
    EaLength: int,
    Flags: int,
) -> Created:
    """FltCreateFile that also returns the file object, referenced: status, FileHandle, FileObject and IoStatusBlock.

    ObDereferenceObject drops that reference. IRQL: PASSIVE_LEVEL. Findings as FltCreateFile, and ``ob.ref-leak``.
    """
    return await create(
        "FltCreateFileEx", Filter, Instance, DesiredAccess, ObjectAttributes, AllocationSize, FileAttributes,
        ShareAccess, CreateDisposition, CreateOptions, Flags, references=True,
    )  # fmt: skip


@routine(
    "fltkernel",
    """NTSTATUS FltCreateFileEx2(_In_ PFLT_FILTER Filter, _In_opt_ PFLT_INSTANCE Instance, _Out_ PHANDLE FileHandle,
       _Outptr_opt_ PFILE_OBJECT *FileObject, _In_ ACCESS_MASK DesiredAccess,
       _In_ POBJECT_ATTRIBUTES ObjectAttributes, _Out_ PIO_STATUS_BLOCK IoStatusBlock,
       _In_opt_ PLARGE_INTEGER AllocationSize, _In_ ULONG FileAttributes, _In_ ULONG ShareAccess,
       _In_ ULONG CreateDisposition, _In_ ULONG CreateOptions, _In_opt_ PVOID EaBuffer, _In_ ULONG EaLength,
       _In_ ULONG Flags, _In_opt_ PIO_DRIVER_CREATE_CONTEXT DriverContext)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltCreateFileEx2(
    Filter: Filter,
    Instance: Instance | None,
    DesiredAccess: int,
    ObjectAttributes: OBJECT_ATTRIBUTES,
    AllocationSize: int | None,
    FileAttributes: int,
    ShareAccess: int,
    CreateDisposition: int,
    CreateOptions: int,
    EaBuffer: object,
    EaLength: int,
    Flags: int,
    DriverContext: IO_DRIVER_CREATE_CONTEXT | None,
) -> Created:
    """FltCreateFileEx with what *DriverContext* brings: a list of extra create parameters, which stays the caller's.

    STATUS_INVALID_PARAMETER if IoInitializeDriverCreateContext was not called for *DriverContext*. IRQL: PASSIVE_LEVEL.
    Findings as FltCreateFileEx, and ``ecp-leak``, ``ecp-double-free`` (FLT-IO-26).
    """
    ecps = None
    if DriverContext is not None:
        if not DriverContext.Size:
            return STATUS_INVALID_PARAMETER, 0, None, IO_STATUS_BLOCK(STATUS_INVALID_PARAMETER)
        ecps = DriverContext.ExtraCreateParameter
    return await create(
        "FltCreateFileEx2", Filter, Instance, DesiredAccess, ObjectAttributes, AllocationSize, FileAttributes,
        ShareAccess, CreateDisposition, CreateOptions, Flags, ecps=ecps, references=True,
    )  # fmt: skip


@routine(
    "fltkernel",
    """NTSTATUS FltOpenVolume(_In_ PFLT_INSTANCE Instance, _Out_ PHANDLE VolumeHandle,
       _Outptr_opt_ PFILE_OBJECT *VolumeFileObject)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltOpenVolume(Instance: Instance) -> tuple[NTSTATUS, int, FileObject | None]:
    """Open the volume of *Instance*, below it: status, handle and referenced file object.

    kemu has no handle of a volume itself yet: this one is of its root directory. STATUS_FLT_DELETING_OBJECT during the
    teardown. IRQL: PASSIVE_LEVEL. Findings: ``io-with-toplevel-irp``, ``lock-across-io``.
    """
    check_top_level("FltOpenVolume", apcs=False)
    current_thread().read(Instance)
    if Instance.deleting:
        return STATUS_FLT_DELETING_OBJECT, 0, None
    status, handle, file, _ = await create(
        "FltOpenVolume", Instance.filter, Instance, FILE_GENERIC_READ, OBJECT_ATTRIBUTES("\\", OBJ_KERNEL_HANDLE),
        None, 0, FILE_SHARE_VALID_FLAGS, FILE_OPEN, FILE_SYNCHRONOUS_IO_NONALERT, references=True,
    )  # fmt: skip
    return status, handle, file


@routine("fltkernel", "NTSTATUS FltClose(_In_ HANDLE FileHandle)", max_irql=PASSIVE_LEVEL)
async def FltClose(FileHandle: int) -> NTSTATUS:
    """Close a handle that FltCreateFile has returned: the cleanup goes where the create went. IRQL: PASSIVE_LEVEL.

    A kernel handle that is not open: finding ``ob.kernel-handle-closed-twice``, bug check 0x93.
    """
    check_locks("FltClose")
    return await close_handle(FileHandle, KernelMode, "FltClose")


@routine(
    "fltkernel",
    "VOID FltCancelFileOpen(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject)",
    max_irql=PASSIVE_LEVEL,
)
async def FltCancelFileOpen(Instance: Instance, FileObject: FileObject) -> None:
    """Undo an open that was granted, from the post-create callback of *Instance* that fails it (FLT-IO-23).

    Those below see a cleanup and a close; what the create has done to the file stays. IRQL: PASSIVE_LEVEL. Finding
    ``cancelfileopen-misuse`` anywhere else, and, with bug check 0xF5, once a handle exists (FLT-IO-22).
    """
    _check_cancel(Instance, FileObject)
    thread = current_thread()
    thread.write(FileObject)
    FileObject.Flags |= FO_FILE_OPEN_CANCELLED
    FileObject.handles = 0
    await perform(GeneratedRequest(Instance, FileObject, IRP_MJ_CLEANUP, Parameters()))
    thread.write(FileObject)
    FileObject.left = True
    FileObject.below = BelowInstance(Instance)
    header = header_of(FileObject)
    thread.read(header)
    if header.pointers or header.handles or FileObject.ended:
        # Who refers to it sends the close, or has done so.
        return
    FileObject.ended = True
    await perform(GeneratedRequest(Instance, FileObject, IRP_MJ_CLOSE, Parameters()))


def _check_cancel(instance: Instance, file: FileObject) -> None:
    """Finding ``cancelfileopen-misuse`` (FLT-IO-22)."""
    thread = current_kthread()
    what = f"{thread.label} cancels the open of {file.label}"
    header = header_of(file)
    thread.read(header)
    thread.read(file)
    if header.handles or file.Flags & FO_HANDLE_CREATED:
        report(
            "cancelfileopen-misuse",
            f"{what}, for which there is a handle already",
            BugCheck(FLTMGR_FILE_SYSTEM, (0x6A, 0, 0, 0)),
        )
    frame = _post_create(instance, file)
    if frame is None:
        report("cancelfileopen-misuse", f"{what} outside the post-create callback of {instance.label}")
        return
    status = frame.operation.request.status
    if not NT_SUCCESS(status) or status == STATUS_REPARSE:
        report("cancelfileopen-misuse", f"{what}, whose create came to {status}")


def _post_create(instance: Instance, file: FileObject) -> Frame | None:
    """The part of *instance* in the create of *file*, if that is in its post phase."""
    for frame in instance.outstanding:
        if frame.operation.is_create and frame.operation.request.file is file and frame.state in {IN_POST, POST_PENDED}:
            return frame
    return None


def check_failed_create(frame: Frame, what: str, status: Any) -> None:
    """Finding ``create-failed-not-cancelled``: a create that was granted is failed, and the file stays open
    (FLT-POST-24).
    """
    request = frame.operation.request
    granted = NT_SUCCESS(request.status) and request.status != STATUS_REPARSE
    if granted and not NT_SUCCESS(NTSTATUS(status)) and not request.file.Flags & FO_FILE_OPEN_CANCELLED:
        report("create-failed-not-cancelled", f"{what} failed the create with {NTSTATUS(status)}")
