"""What concerns a volume as a whole: querying it, dismounting it, flushing; and the control codes of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.file_constants import (
    FILE_ATTRIBUTE_SPARSE_FILE,
    FSCTL_DISMOUNT_VOLUME,
    FSCTL_IS_VOLUME_MOUNTED,
    FSCTL_SET_SPARSE,
    FSCTL_SET_ZERO_DATA,
    IRP_MN_USER_FS_REQUEST,
    FileFsAttributeInformation,
    FileFsDeviceInformation,
    FileFsFullSizeInformation,
    FileFsLabelInformation,
    FileFsSizeInformation,
    FileFsVolumeInformation,
)
from kemu.io.filesystem.data import zero
from kemu.io.filesystem.nodes import CLUSTER, SECTOR, Open
from kemu.io.filesystem.oplocks import CODES, oplock_control
from kemu.io.structures import (
    FILE_FS_ATTRIBUTE_INFORMATION,
    FILE_FS_DEVICE_INFORMATION,
    FILE_FS_FULL_SIZE_INFORMATION,
    FILE_FS_LABEL_INFORMATION,
    FILE_FS_SIZE_INFORMATION,
    FILE_FS_VOLUME_INFORMATION,
    FILE_ZERO_DATA_INFORMATION,
    Information,
)
from kemu.nt.status import (
    NTSTATUS,
    STATUS_BUFFER_OVERFLOW,
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_INFO_CLASS,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request

FILE_DEVICE_DISK = 0x7
FILE_SYSTEM_ATTRIBUTES = 0x0000_0001 | 0x0000_0002 | 0x0000_0004 | 0x0000_0040 | 0x0004_0000 | 0x0040_0000
"""Case is kept, names are Unicode, sparse files, named streams, links, opening by number."""
BOUNDLESS = 1 << 28
"""How many clusters a volume without a limit says that it has."""

KINDS: dict[int, type[Information]] = {
    FileFsVolumeInformation: FILE_FS_VOLUME_INFORMATION,
    FileFsSizeInformation: FILE_FS_SIZE_INFORMATION,
    FileFsFullSizeInformation: FILE_FS_FULL_SIZE_INFORMATION,
    FileFsDeviceInformation: FILE_FS_DEVICE_INFORMATION,
    FileFsAttributeInformation: FILE_FS_ATTRIBUTE_INFORMATION,
}


def query(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_QUERY_VOLUME_INFORMATION: the structure of the class, in the request's VolumeBuffer."""
    thread.read(fs.presence)
    if not fs.is_mounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    parameters = request.parameters
    kind = KINDS.get(parameters.FsInformationClass)
    if kind is None:
        return STATUS_INVALID_INFO_CLASS, 0
    if parameters.Length < kind.SIZE:
        return STATUS_INFO_LENGTH_MISMATCH, 0
    buffer = parameters.VolumeBuffer
    if buffer is None:
        buffer = kind()
    request.buffer = buffer
    _fill(fs, thread, buffer)
    if buffer.size > parameters.Length:
        return STATUS_BUFFER_OVERFLOW, parameters.Length
    return STATUS_SUCCESS, buffer.size


def _fill(fs: FileSystem, thread: Thread, into: Information) -> None:
    thread.read(fs.space_cell)
    total = fs.limit if fs.limit is not None else BOUNDLESS
    free = total - fs.used // CLUSTER if fs.limit is not None else BOUNDLESS
    if isinstance(into, FILE_FS_VOLUME_INFORMATION):
        into.VolumeSerialNumber = fs.root.number & 0xFFFF_FFFF
        into.VolumeLabel = fs.volume_label
    elif isinstance(into, FILE_FS_SIZE_INFORMATION):
        into.TotalAllocationUnits, into.AvailableAllocationUnits = total, free
        into.SectorsPerAllocationUnit, into.BytesPerSector = CLUSTER // SECTOR, SECTOR
    elif isinstance(into, FILE_FS_FULL_SIZE_INFORMATION):
        into.TotalAllocationUnits = total
        into.CallerAvailableAllocationUnits = into.ActualAvailableAllocationUnits = free
        into.SectorsPerAllocationUnit, into.BytesPerSector = CLUSTER // SECTOR, SECTOR
    elif isinstance(into, FILE_FS_DEVICE_INFORMATION):
        into.DeviceType = FILE_DEVICE_DISK
    elif isinstance(into, FILE_FS_ATTRIBUTE_INFORMATION):
        into.FileSystemAttributes = FILE_SYSTEM_ATTRIBUTES
        into.MaximumComponentNameLength = 255
        into.FileSystemName = "NTFS"


def change(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_SET_VOLUME_INFORMATION: a new label."""
    thread.read(fs.presence)
    if not fs.is_mounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    given = request.parameters.VolumeBuffer
    if request.parameters.FsInformationClass != FileFsLabelInformation or not isinstance(
        given, FILE_FS_LABEL_INFORMATION
    ):
        return STATUS_INVALID_INFO_CLASS, 0
    if len(given.VolumeLabel) > 32:
        return STATUS_INVALID_PARAMETER, 0
    thread.write(fs.space_cell)
    fs.volume_label = given.VolumeLabel
    return STATUS_SUCCESS, 0


def flush(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_FLUSH_BUFFERS: dirty pages were written before the request came here (see `cache`)."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    if opened.dismounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    return STATUS_SUCCESS, 0


def control(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_FILE_SYSTEM_CONTROL, IRP_MN_USER_FS_REQUEST."""
    opened = request.file.fs_context
    if request.minor != IRP_MN_USER_FS_REQUEST or not isinstance(opened, Open):
        return STATUS_INVALID_DEVICE_REQUEST, 0
    thread.read(opened)
    code = request.parameters.FsControlCode
    if opened.dismounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    if code in CODES:
        return oplock_control(fs, thread, request)
    if code == FSCTL_IS_VOLUME_MOUNTED:
        thread.read(fs.presence)
        return STATUS_SUCCESS if fs.is_mounted else STATUS_VOLUME_DISMOUNTED, 0
    if code == FSCTL_DISMOUNT_VOLUME:
        return dismount(fs, thread), 0
    if code == FSCTL_SET_SPARSE:
        if opened.node.is_directory:
            return STATUS_INVALID_PARAMETER, 0
        thread.write(opened.node.basic)
        opened.node.attributes |= FILE_ATTRIBUTE_SPARSE_FILE
        return STATUS_SUCCESS, 0
    if code == FSCTL_SET_ZERO_DATA:
        given = request.parameters.InputBuffer
        if not isinstance(given, FILE_ZERO_DATA_INFORMATION):
            return STATUS_INVALID_PARAMETER, 0
        return zero(fs, thread, opened, given.FileOffset, given.BeyondFinalZero), 0
    return STATUS_INVALID_DEVICE_REQUEST, 0


def dismount(fs: FileSystem, thread: Thread) -> NTSTATUS:
    """FSCTL_DISMOUNT_VOLUME: every open of the volume becomes good for nothing but being closed."""
    thread.write(fs.presence)
    if not fs.is_mounted:
        return STATUS_VOLUME_DISMOUNTED
    fs.is_mounted = False
    for node in fs.nodes:
        # Who is not open any more has been seen too.
        thread.read(node)
        for opened in node.all_opened():
            thread.write(opened)
            opened.dismounted = True
    return STATUS_SUCCESS
