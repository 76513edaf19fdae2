"""The I/O manager's side of fast I/O: what it tries first, and what it does where that is refused (FLT-FAST).

A filter may see one request of a program twice: as fast I/O, which it or somebody below refuses, and then as an IRP
(FLT-FAST-05).
"""

from __future__ import annotations

from typing import Any, Final

from kemu.io.constants import (
    FILE_OPEN,
    FO_SYNCHRONOUS_IO,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_MDL_READ,
    IRP_MJ_MDL_READ_COMPLETE,
    IRP_MJ_MDL_WRITE_COMPLETE,
    IRP_MJ_NETWORK_QUERY_OPEN,
    IRP_MJ_PREPARE_MDL_WRITE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_VOLUME_MOUNT,
    IRP_MJ_WRITE,
)
from kemu.io.file_constants import (
    FILE_OPEN_FOR_BACKUP_INTENT,
    FILE_READ_ATTRIBUTES,
    FO_NO_INTERMEDIATE_BUFFERING,
    IRP_MN_COMPLETE_MDL,
    IRP_MN_MDL,
    FileNetworkOpenInformation,
)
from kemu.io.filesystem.fastio import QUERIES, is_cached
from kemu.io.filesystem.information import STAT_KINDS
from kemu.io.filesystem.nodes import Open
from kemu.io.manager import IoManager
from kemu.io.parameters import Parameters
from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, FileObject, Request
from kemu.io.stackfile import StackFileObject
from kemu.io.volume import Volume
from kemu.nt.process import KernelMode
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_FLT_DISALLOW_FAST_IO
from kemu.runtime import current_thread

DISK_FILE_SYSTEM: Final = 0x08
ALMOST_ALL: Final = 4096
"""A length that any structure fits into."""


def tries_first(file: FileObject, major: int, parameters: Parameters) -> bool:
    """Whether the I/O manager tries *major* as fast I/O first.

    Reads, writes and queries of synchronous handles, transfers only once the file is cached; locks and device controls
    always. Inside the calling step.
    """
    if major in {IRP_MJ_LOCK_CONTROL, IRP_MJ_DEVICE_CONTROL}:
        return True
    if not file.Flags & FO_SYNCHRONOUS_IO:
        return False
    if major == IRP_MJ_QUERY_INFORMATION:
        return parameters.FileInformationClass in QUERIES
    opened = file.fs_context
    if major not in {IRP_MJ_READ, IRP_MJ_WRITE} or not isinstance(opened, Open):
        return False
    if parameters.ByteOffset < 0 or file.Flags & FO_NO_INTERMEDIATE_BUFFERING:
        return False
    current_thread().read(file)
    return is_cached(opened.stream)


async def try_fast(
    manager: IoManager, file: FileObject, major: int, parameters: Parameters, *, minor: int = 0, mode: int = 1
) -> Request | None:
    """Carry a request out as fast I/O; None if it was refused, and nothing has happened."""
    request = Request(file.volume, file, major, parameters, kind=FAST_IO_OPERATION, minor=minor, mode=mode)
    await manager.call(request)
    return None if request.status == STATUS_FLT_DISALLOW_FAST_IO else request


# Queries by name.


async def query_attributes(manager: IoManager, volume: Volume, path: str) -> tuple[NTSTATUS, Any]:
    """Times, sizes and attributes of the file *path*, which nobody has to open (NtQueryFullAttributesFile).

    Tried as IRP_MJ_NETWORK_QUERY_OPEN, on a file object that lies on the stack; if a filter refuses that, the file is
    opened, queried and closed.
    """
    file = StackFileObject(volume, path)
    parameters = Parameters(FileInformationClass=FileNetworkOpenInformation, Length=ALMOST_ALL)
    request = await try_fast(manager, file, IRP_MJ_NETWORK_QUERY_OPEN, parameters)
    file.gone()
    if request is not None:
        return request.status, request.buffer if NT_SUCCESS(request.status) and request.buffer else None
    return await _open_and_query(manager, volume, path, FileNetworkOpenInformation)


async def query_by_name(manager: IoManager, volume: Volume, path: str, which: int) -> tuple[NTSTATUS, Any]:
    """Information about the file *path*, which nobody has to open (NtQueryInformationByName).

    The few classes of IRP_MJ_QUERY_OPEN are tried as that (FLT-FAST-14); any other, and what a filter refuses, opens
    the file.
    """
    if which in STAT_KINDS:
        file = FileObject(volume, path, 0)
        parameters = Parameters(FileInformationClass=which, Length=ALMOST_ALL)
        request = Request(volume, file, IRP_MJ_QUERY_OPEN, parameters, kind=FS_FILTER_OPERATION)
        status = await manager.call(request)
        if status != STATUS_FLT_DISALLOW_FAST_IO:
            return status, request.buffer if NT_SUCCESS(status) and request.buffer else None
    return await _open_and_query(manager, volume, path, which)


async def _open_and_query(manager: IoManager, volume: Volume, path: str, which: int) -> tuple[NTSTATUS, Any]:
    status, file = await manager.create(
        volume, path, FILE_OPEN, DesiredAccess=FILE_READ_ATTRIBUTES, CreateOptions=FILE_OPEN_FOR_BACKUP_INTENT
    )
    if file is None:
        return status, None
    parameters = Parameters(FileInformationClass=which, Length=ALMOST_ALL)
    request = Request(volume, file, IRP_MJ_QUERY_INFORMATION, parameters)
    status = await manager.call(request)
    await manager.close(file)
    return status, request.buffer if NT_SUCCESS(status) else None


# The cache's pages, without a copy: what a file server in the kernel uses.


async def mdl_read(manager: IoManager, file: FileObject, offset: int, length: int) -> tuple[NTSTATUS, Any]:
    """Get the pages of a range, as an MDL; the caller gives it back with `mdl_read_complete`.

    As fast I/O, which works only on a cached file (FLT-FAST-17); otherwise as a read with IRP_MN_MDL.
    """
    parameters = Parameters(ByteOffset=offset, Length=length)
    return await _mdl(manager, file, IRP_MJ_MDL_READ, IRP_MJ_READ, IRP_MN_MDL, parameters)


async def mdl_read_complete(manager: IoManager, file: FileObject, mdl: Any) -> NTSTATUS:
    """Give the pages of `mdl_read` back."""
    parameters = Parameters(MdlChain=mdl)
    return (await _mdl(manager, file, IRP_MJ_MDL_READ_COMPLETE, IRP_MJ_READ, IRP_MN_COMPLETE_MDL, parameters))[0]


async def prepare_mdl_write(manager: IoManager, file: FileObject, offset: int, length: int) -> tuple[NTSTATUS, Any]:
    """Get pages to be filled, as an MDL; `mdl_write_complete` writes what the caller has put there."""
    parameters = Parameters(ByteOffset=offset, Length=length)
    return await _mdl(manager, file, IRP_MJ_PREPARE_MDL_WRITE, IRP_MJ_WRITE, IRP_MN_MDL, parameters)


async def mdl_write_complete(manager: IoManager, file: FileObject, offset: int, mdl: Any) -> NTSTATUS:
    """Write the pages of `prepare_mdl_write`."""
    parameters = Parameters(ByteOffset=offset, MdlChain=mdl)
    return (await _mdl(manager, file, IRP_MJ_MDL_WRITE_COMPLETE, IRP_MJ_WRITE, IRP_MN_COMPLETE_MDL, parameters))[0]


async def _mdl(
    manager: IoManager, file: FileObject, fast: int, slow: int, minor: int, parameters: Parameters
) -> tuple[NTSTATUS, Any]:
    with manager.attempts.of_one_request(current_thread()) as attempt:
        request = await try_fast(manager, file, fast, parameters, mode=KernelMode)
        if request is None:
            attempt.again()
            request = Request(file.volume, file, slow, parameters, minor=minor, mode=KernelMode)
            await manager.call(request)
    return request.status, request.buffer if NT_SUCCESS(request.status) and request.buffer else None


async def tell_mounted(manager: IoManager, volume: Volume) -> NTSTATUS:
    """Tell the filters of a volume that it was mounted (IRP_MJ_VOLUME_MOUNT)."""
    file = FileObject(volume, "\\", 0)
    parameters = Parameters(DeviceType=DISK_FILE_SYSTEM)
    request = Request(volume, file, IRP_MJ_VOLUME_MOUNT, parameters, kind=FAST_IO_OPERATION, mode=KernelMode)
    return await manager.call(request)
