"""Reading, writing, querying, controlling files below an instance (FLT-IO-04 to FLT-IO-09)."""

from __future__ import annotations

from typing import Any, Final, Unpack

from kemu.fltmgr.generated import (
    AsynchronousRequest,
    CompletedAsyncIo,
    GeneratedRequest,
    issue,
    perform,
    restore,
)
from kemu.fltmgr.issuing import check_locks, check_request, check_top_level
from kemu.fltmgr.objects import Instance
from kemu.fltmgr.ownframe import OwnFrame, content, fill
from kemu.fltmgr.structures import IO_STATUS_BLOCK
from kemu.io.constants import (
    FO_SYNCHRONOUS_IO,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_SECURITY,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SET_VOLUME_INFORMATION,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    IRP_SYNCHRONOUS_PAGING_IO,
)
from kemu.io.control import ControlParameters
from kemu.io.file_constants import (
    FILE_USE_FILE_POINTER_POSITION,
    IRP_MN_QUERY_DIRECTORY,
    IRP_MN_USER_FS_REQUEST,
    SL_RESTART_SCAN,
    SL_RETURN_SINGLE_ENTRY,
)
from kemu.io.parameters import Members
from kemu.io.request import FileObject, Parameters
from kemu.nt.kthread import PASSIVE_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_PENDING
from kemu.runtime import current_thread

FLTFL_IO_OPERATION_NON_CACHED: Final = 0x1
FLTFL_IO_OPERATION_PAGING: Final = 0x2
FLTFL_IO_OPERATION_DO_NOT_UPDATE_BYTE_OFFSET: Final = 0x4
FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING: Final = 0x8

FSCTL_SET_REPARSE_POINT: Final = 0x0009_00A4
FSCTL_DELETE_REPARSE_POINT: Final = 0x0009_00AC


def irp_flags(flags: int) -> int:
    """The IRP flags that FLTFL_IO_OPERATION_ flags stand for (FLT-IO-08)."""
    irp = 0
    if flags & FLTFL_IO_OPERATION_NON_CACHED:
        irp |= IRP_NOCACHE
    if flags & FLTFL_IO_OPERATION_PAGING:
        irp |= IRP_PAGING_IO
    if flags & FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING:
        irp |= IRP_SYNCHRONOUS_PAGING_IO
    return irp


async def transfer(
    name: str,
    instance: Instance,
    file: FileObject,
    major: int,
    parameters: Parameters,
    flags: int,
    callback: CompletedAsyncIo | None,
    context: Any,
) -> tuple[NTSTATUS, int]:
    """Read or write: the status, and how many bytes that were (0 if that is not known yet)."""
    kind = GeneratedRequest if callback is None else AsynchronousRequest
    request = kind(instance, file, major, parameters, flags=irp_flags(flags))
    check_request(name, instance, request)
    before = file.CurrentByteOffset
    request.moves = parameters.ByteOffset == FILE_USE_FILE_POINTER_POSITION and bool(file.Flags & FO_SYNCHRONOUS_IO)
    if callback is None:
        status = await perform(request)
        fill(request)
        if flags & FLTFL_IO_OPERATION_DO_NOT_UPDATE_BYTE_OFFSET:
            restore(file, before)
        return status, request.information
    assert isinstance(request, AsynchronousRequest)
    request.own = own = OwnFrame(instance, file, by_driver=False)
    own.send(current_thread(), request)
    if flags & FLTFL_IO_OPERATION_DO_NOT_UPDATE_BYTE_OFFSET:
        request.restores = before
    status = await issue(request, callback, context, name)
    return (status if status == STATUS_PENDING else request.status), 0


@routine(
    "fltkernel",
    """NTSTATUS FltReadFile(_In_ PFLT_INSTANCE InitiatingInstance, _In_ PFILE_OBJECT FileObject,
       _In_opt_ PLARGE_INTEGER ByteOffset, _In_ ULONG Length, _Inout_ PVOID Buffer,
       _In_ FLT_IO_OPERATION_FLAGS Flags, _Out_opt_ PULONG BytesRead,
       _In_opt_ PFLT_COMPLETED_ASYNC_IO_CALLBACK CallbackRoutine, _In_opt_ PVOID CallbackContext)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltReadFile(
    InitiatingInstance: Instance,
    FileObject: FileObject,
    ByteOffset: int | None,
    Length: int,
    Buffer: bytearray,
    Flags: int,
    CallbackRoutine: CompletedAsyncIo | None,
    CallbackContext: Any,
) -> tuple[NTSTATUS, int]:
    """Read below *InitiatingInstance* into *Buffer*: status and BytesRead.

    Without *CallbackRoutine* this waits, also on a file for asynchronous I/O; with one it does not, and BytesRead is 0
    (FLT-IO-06). *ByteOffset* None reads at the position of the file object. IRQL: PASSIVE_LEVEL. Findings:
    ``lock-across-io``, ``io-on-unopened-file``, ``io-bad-params``, ``noncached-misaligned``, ``placeholder-io``,
    ``byteoffset-race``.
    """
    offset = FILE_USE_FILE_POINTER_POSITION if ByteOffset is None else ByteOffset
    parameters = Parameters(Length=Length, ByteOffset=offset, Buffer=Buffer)
    return await transfer(
        "FltReadFile", InitiatingInstance, FileObject, IRP_MJ_READ, parameters, Flags, CallbackRoutine, CallbackContext
    )


@routine(
    "fltkernel",
    """NTSTATUS FltWriteFile(_In_ PFLT_INSTANCE InitiatingInstance, _In_ PFILE_OBJECT FileObject,
       _In_opt_ PLARGE_INTEGER ByteOffset, _In_ ULONG Length, _In_ PVOID Buffer,
       _In_ FLT_IO_OPERATION_FLAGS Flags, _Out_opt_ PULONG BytesWritten,
       _In_opt_ PFLT_COMPLETED_ASYNC_IO_CALLBACK CallbackRoutine, _In_opt_ PVOID CallbackContext)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltWriteFile(
    InitiatingInstance: Instance,
    FileObject: FileObject,
    ByteOffset: int | None,
    Length: int,
    Buffer: bytes | bytearray,
    Flags: int,
    CallbackRoutine: CompletedAsyncIo | None,
    CallbackContext: Any,
) -> tuple[NTSTATUS, int]:
    """Write the first *Length* bytes of *Buffer* below *InitiatingInstance*: status and BytesWritten.

    As FltReadFile in everything else. IRQL: PASSIVE_LEVEL.
    """
    offset = FILE_USE_FILE_POINTER_POSITION if ByteOffset is None else ByteOffset
    parameters = Parameters(Length=Length, ByteOffset=offset, Buffer=content(Buffer, Length))
    return await transfer(
        "FltWriteFile",
        InitiatingInstance,
        FileObject,
        IRP_MJ_WRITE,
        parameters,
        Flags,
        CallbackRoutine,
        CallbackContext,
    )


async def ask(
    name: str,
    instance: Instance,
    file: FileObject,
    major: int,
    *,
    minor: int = 0,
    Length: int = 0,
    FileInformationClass: int = 0,
    **members: Unpack[Members],
) -> GeneratedRequest:
    """Send a request that is no transfer, and wait for it."""
    parameters = Parameters(Length=Length, FileInformationClass=FileInformationClass, **members)
    return await ask_with(name, instance, file, major, parameters, minor=minor)


async def ask_with(
    name: str, instance: Instance, file: FileObject, major: int, parameters: Parameters, *, minor: int = 0
) -> GeneratedRequest:
    """The same with these parameters."""
    request = GeneratedRequest(instance, file, major, parameters, minor=minor)
    check_request(name, instance, request)
    await perform(request)
    return request


@routine(
    "fltkernel",
    """NTSTATUS FltQueryInformationFile(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Out_ PVOID FileInformation, _In_ ULONG Length, _In_ FILE_INFORMATION_CLASS FileInformationClass,
       _Out_opt_ PULONG LengthReturned)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltQueryInformationFile(
    Instance: Instance, FileObject: FileObject, Length: int, FileInformationClass: int
) -> tuple[NTSTATUS, Any, int]:
    """Query information below *Instance*: status, the structure of the class and LengthReturned.

    IRQL: PASSIVE_LEVEL. Findings: ``io-with-toplevel-irp``, ``io-apcs-disabled`` (FLT-IO-10), ``lock-across-io``,
    ``io-on-unopened-file``.
    """
    check_top_level("FltQueryInformationFile", apcs=True)
    request = await ask(
        "FltQueryInformationFile",
        Instance,
        FileObject,
        IRP_MJ_QUERY_INFORMATION,
        Length=Length,
        FileInformationClass=FileInformationClass,
    )
    return request.status, request.buffer or None, request.information


@routine(
    "fltkernel",
    """NTSTATUS FltSetInformationFile(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ PVOID FileInformation, _In_ ULONG Length, _In_ FILE_INFORMATION_CLASS FileInformationClass)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltSetInformationFile(
    Instance: Instance, FileObject: FileObject, FileInformation: Any, Length: int, FileInformationClass: int
) -> NTSTATUS:
    """Set information below *Instance*: *FileInformation* is the structure of the class. IRQL: PASSIVE_LEVEL.

    Findings: ``lock-across-io``, ``io-on-unopened-file``.
    """
    request = await ask(
        "FltSetInformationFile",
        Instance,
        FileObject,
        IRP_MJ_SET_INFORMATION,
        Length=Length,
        FileInformationClass=FileInformationClass,
        InfoBuffer=FileInformation,
    )
    return request.status


@routine(
    "fltkernel",
    """NTSTATUS FltQueryVolumeInformation(_In_ PFLT_INSTANCE Instance, _Out_ PIO_STATUS_BLOCK Iosb,
       _Out_ PVOID FsInformation, _In_ ULONG Length, _In_ FS_INFORMATION_CLASS FsInformationClass)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltQueryVolumeInformation(
    Instance: Instance, Length: int, FsInformationClass: int
) -> tuple[NTSTATUS, IO_STATUS_BLOCK, Any]:
    """Query information about the volume of *Instance*: status, Iosb and the structure.

    IRQL: PASSIVE_LEVEL. Findings: ``lock-across-io``.
    """
    check_locks("FltQueryVolumeInformation")
    file = volume_file(Instance)
    parameters = Parameters(Length=Length, FsInformationClass=FsInformationClass)
    request = GeneratedRequest(Instance, file, IRP_MJ_QUERY_VOLUME_INFORMATION, parameters)
    await perform(request)
    return request.status, IO_STATUS_BLOCK(request.status, request.information), request.buffer or None


def volume_file(instance: Instance) -> FileObject:
    """A file object that stands for the volume in requests that need no open file."""
    return FileObject(instance.volume.volume, "\\", FO_SYNCHRONOUS_IO)


@routine(
    "fltkernel",
    """NTSTATUS FltSetVolumeInformation(_In_ PFLT_INSTANCE Instance, _Out_ PIO_STATUS_BLOCK Iosb,
       _In_ PVOID FsInformation, _In_ ULONG Length, _In_ FS_INFORMATION_CLASS FsInformationClass)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltSetVolumeInformation(
    Instance: Instance, FsInformation: Any, Length: int, FsInformationClass: int
) -> tuple[NTSTATUS, IO_STATUS_BLOCK]:
    """Set information about the volume of *Instance*: status and Iosb. IRQL: PASSIVE_LEVEL."""
    check_locks("FltSetVolumeInformation")
    file = volume_file(Instance)
    parameters = Parameters(Length=Length, FsInformationClass=FsInformationClass, VolumeBuffer=FsInformation)
    request = GeneratedRequest(Instance, file, IRP_MJ_SET_VOLUME_INFORMATION, parameters)
    await perform(request)
    return request.status, IO_STATUS_BLOCK(request.status, request.information)


@routine(
    "fltkernel",
    """NTSTATUS FltQueryVolumeInformationFile(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Out_ PVOID FsInformation, _In_ ULONG Length, _In_ FS_INFORMATION_CLASS FsInformationClass,
       _Out_opt_ PULONG LengthReturned)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltQueryVolumeInformationFile(
    Instance: Instance, FileObject: FileObject, Length: int, FsInformationClass: int
) -> tuple[NTSTATUS, Any, int]:
    """Query information about the volume of a file: status, the structure and LengthReturned. IRQL: PASSIVE_LEVEL."""
    request = await ask(
        "FltQueryVolumeInformationFile",
        Instance,
        FileObject,
        IRP_MJ_QUERY_VOLUME_INFORMATION,
        Length=Length,
        FsInformationClass=FsInformationClass,
    )
    return request.status, request.buffer or None, request.information


@routine(
    "fltkernel",
    """NTSTATUS FltQueryDirectoryFile(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Out_ PVOID FileInformation, _In_ ULONG Length, _In_ FILE_INFORMATION_CLASS FileInformationClass,
       _In_ BOOLEAN ReturnSingleEntry, _In_opt_ PUNICODE_STRING FileName, _In_ BOOLEAN RestartScan,
       _Out_opt_ PULONG LengthReturned)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltQueryDirectoryFile(
    Instance: Instance,
    FileObject: FileObject,
    Length: int,
    FileInformationClass: int,
    ReturnSingleEntry: bool,
    FileName: str | None,
    RestartScan: bool,
) -> tuple[NTSTATUS, Any, int]:
    """Enumerate a directory below *Instance*: status, the list of entries and LengthReturned. IRQL: PASSIVE_LEVEL.

    Findings: ``lock-across-io``, ``io-on-unopened-file``.
    """
    flags = (SL_RETURN_SINGLE_ENTRY if ReturnSingleEntry else 0) | (SL_RESTART_SCAN if RestartScan else 0)
    request = await ask(
        "FltQueryDirectoryFile",
        Instance,
        FileObject,
        IRP_MJ_DIRECTORY_CONTROL,
        minor=IRP_MN_QUERY_DIRECTORY,
        Length=Length,
        FileInformationClass=FileInformationClass,
        OperationFlags=flags,
        FileName=FileName,
    )
    return request.status, request.buffer or None, request.information


@routine(
    "fltkernel",
    """NTSTATUS FltFsControlFile(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ ULONG FsControlCode, _In_opt_ PVOID InputBuffer, _In_ ULONG InputBufferLength,
       _Out_opt_ PVOID OutputBuffer, _In_ ULONG OutputBufferLength, _Out_opt_ PULONG LengthReturned)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltFsControlFile(
    Instance: Instance,
    FileObject: FileObject,
    FsControlCode: int,
    InputBuffer: Any,
    InputBufferLength: int,
    OutputBufferLength: int,
) -> tuple[NTSTATUS, Any, int]:
    """Send a file system control below *Instance*: status, what it returned and LengthReturned. IRQL: PASSIVE_LEVEL.

    Findings: ``lock-across-io``, ``io-on-unopened-file``.
    """
    return await fs_control("FltFsControlFile", Instance, FileObject, FsControlCode, InputBuffer, OutputBufferLength)


async def fs_control(
    name: str, instance: Instance, file: FileObject, code: int, given: Any, length: int
) -> tuple[NTSTATUS, Any, int]:
    """Send a file system control and wait for it."""
    request = await ask(
        name,
        instance,
        file,
        IRP_MJ_FILE_SYSTEM_CONTROL,
        minor=IRP_MN_USER_FS_REQUEST,
        Length=length,
        FsControlCode=code,
        InputBuffer=given,
    )
    return request.status, request.buffer or None, request.information


@routine(
    "fltkernel",
    """NTSTATUS FltDeviceIoControlFile(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ ULONG IoControlCode, _In_opt_ PVOID InputBuffer, _In_ ULONG InputBufferLength,
       _Out_opt_ PVOID OutputBuffer, _In_ ULONG OutputBufferLength, _Out_opt_ PULONG LengthReturned)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltDeviceIoControlFile(
    Instance: Instance,
    FileObject: FileObject,
    IoControlCode: int,
    InputBuffer: bytes | None,
    InputBufferLength: int,
    OutputBufferLength: int,
) -> tuple[NTSTATUS, Any, int]:
    """Send a device control below *Instance*: status, what it returned and LengthReturned. IRQL: PASSIVE_LEVEL.

    Findings: ``lock-across-io``, ``io-on-unopened-file``.
    """
    given = bytes(InputBuffer or b"")[:InputBufferLength]
    parameters = ControlParameters(IoControlCode, given, OutputBufferLength)
    request = await ask_with("FltDeviceIoControlFile", Instance, FileObject, IRP_MJ_DEVICE_CONTROL, parameters)
    return request.status, request.buffer or None, request.information


@routine(
    "fltkernel",
    "NTSTATUS FltFlushBuffers(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject)",
    max_irql=PASSIVE_LEVEL,
)
async def FltFlushBuffers(Instance: Instance, FileObject: FileObject) -> NTSTATUS:
    """Flush a file below *Instance*. IRQL: PASSIVE_LEVEL. Findings: ``lock-across-io``, ``io-on-unopened-file``."""
    return (await ask("FltFlushBuffers", Instance, FileObject, IRP_MJ_FLUSH_BUFFERS)).status


@routine(
    "fltkernel",
    """NTSTATUS FltTagFile(_In_ PFLT_INSTANCE InitiatingInstance, _In_ PFILE_OBJECT FileObject, _In_ ULONG FileTag,
       _In_opt_ GUID *Guid, _In_ PVOID DataBuffer, _In_ USHORT DataBufferLength)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltTagFile(
    InitiatingInstance: Instance,
    FileObject: FileObject,
    FileTag: int,
    Guid: object,
    DataBuffer: bytes,
    DataBufferLength: int,
) -> NTSTATUS:
    """Set a reparse tag: sends FSCTL_SET_REPARSE_POINT below *InitiatingInstance*, with (tag, GUID, data) as input.

    kemu's file system has no reparse points and answers STATUS_INVALID_DEVICE_REQUEST, unless a filter below keeps
    them. IRQL: PASSIVE_LEVEL.
    """
    given = FileTag, Guid, bytes(DataBuffer[:DataBufferLength])
    return (await fs_control("FltTagFile", InitiatingInstance, FileObject, FSCTL_SET_REPARSE_POINT, given, 0))[0]


@routine(
    "fltkernel",
    """NTSTATUS FltUntagFile(_In_ PFLT_INSTANCE InitiatingInstance, _In_ PFILE_OBJECT FileObject, _In_ ULONG FileTag,
       _In_opt_ GUID *Guid)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltUntagFile(InitiatingInstance: Instance, FileObject: FileObject, FileTag: int, Guid: object) -> NTSTATUS:
    """Remove a reparse tag: sends FSCTL_DELETE_REPARSE_POINT. As FltTagFile otherwise. IRQL: PASSIVE_LEVEL."""
    given = FileTag, Guid
    return (await fs_control("FltUntagFile", InitiatingInstance, FileObject, FSCTL_DELETE_REPARSE_POINT, given, 0))[0]


@routine(
    "fltkernel",
    """NTSTATUS FltQuerySecurityObject(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ SECURITY_INFORMATION SecurityInformation, _Out_opt_ PSECURITY_DESCRIPTOR SecurityDescriptor,
       _In_ ULONG Length, _Out_opt_ PULONG LengthNeeded)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltQuerySecurityObject(
    Instance: Instance, FileObject: FileObject, SecurityInformation: int, Length: int
) -> tuple[NTSTATUS, Any, int]:
    """Query the security descriptor below *Instance*: status, descriptor and LengthNeeded.

    kemu's file system keeps none and answers STATUS_INVALID_DEVICE_REQUEST, unless a filter below does.
    IRQL: PASSIVE_LEVEL.
    """
    request = await ask("FltQuerySecurityObject", Instance, FileObject, IRP_MJ_QUERY_SECURITY, Length=Length)
    return request.status, request.buffer or None, request.information
