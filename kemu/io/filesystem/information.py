"""IRP_MJ_QUERY_INFORMATION and IRP_MJ_SET_INFORMATION."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kemu.io.file_constants import (
    FILE_ACTION_MODIFIED,
    FILE_ATTRIBUTE_DIRECTORY,
    FILE_ATTRIBUTE_NORMAL,
    FILE_ATTRIBUTE_SPARSE_FILE,
    FILE_DELETE_ON_CLOSE,
    FILE_DISPOSITION_DELETE,
    FILE_NO_INTERMEDIATE_BUFFERING,
    FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_CREATION,
    FILE_NOTIFY_CHANGE_LAST_ACCESS,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_RENAME_REPLACE_IF_EXISTS,
    FILE_SEQUENTIAL_ONLY,
    FILE_SYNCHRONOUS_IO_ALERT,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FILE_WRITE_THROUGH,
    SETTABLE_ATTRIBUTES,
    FileAccessInformation,
    FileAlignmentInformation,
    FileAllInformation,
    FileAllocationInformation,
    FileAttributeTagInformation,
    FileBasicInformation,
    FileCaseSensitiveInformation,
    FileDispositionInformation,
    FileDispositionInformationEx,
    FileEaInformation,
    FileEndOfFileInformation,
    FileHardLinkInformation,
    FileInternalInformation,
    FileLinkInformation,
    FileLinkInformationEx,
    FileModeInformation,
    FileNameInformation,
    FileNetworkOpenInformation,
    FileNormalizedNameInformation,
    FilePositionInformation,
    FileRenameInformation,
    FileRenameInformationEx,
    FileStandardInformation,
    FileStatBasicInformation,
    FileStatInformation,
    FileStatLxInformation,
    FileStreamInformation,
    FileValidDataLengthInformation,
)
from kemu.io.filesystem.data import set_allocation, set_end_of_file, set_valid_data_length
from kemu.io.filesystem.deletion import set_disposition
from kemu.io.filesystem.names import join
from kemu.io.filesystem.nodes import Node, Open, Stream
from kemu.io.filesystem.oplocks import break_for_io
from kemu.io.filesystem.renaming import add_link, rename
from kemu.io.structures import (
    FILE_ACCESS_INFORMATION,
    FILE_ALIGNMENT_INFORMATION,
    FILE_ALL_INFORMATION,
    FILE_ALLOCATION_INFORMATION,
    FILE_ATTRIBUTE_TAG_INFORMATION,
    FILE_BASIC_INFORMATION,
    FILE_CASE_SENSITIVE_INFORMATION,
    FILE_DISPOSITION_INFORMATION,
    FILE_DISPOSITION_INFORMATION_EX,
    FILE_EA_INFORMATION,
    FILE_END_OF_FILE_INFORMATION,
    FILE_INTERNAL_INFORMATION,
    FILE_LINK_ENTRY_INFORMATION,
    FILE_LINK_INFORMATION,
    FILE_MODE_INFORMATION,
    FILE_NAME_INFORMATION,
    FILE_NETWORK_OPEN_INFORMATION,
    FILE_POSITION_INFORMATION,
    FILE_RENAME_INFORMATION,
    FILE_STANDARD_INFORMATION,
    FILE_STAT_BASIC_INFORMATION,
    FILE_STAT_INFORMATION,
    FILE_STAT_LX_INFORMATION,
    FILE_STREAM_INFORMATION,
    FILE_VALID_DATA_LENGTH_INFORMATION,
    Information,
)
from kemu.nt.status import (
    NTSTATUS,
    STATUS_BUFFER_OVERFLOW,
    STATUS_FILE_CLOSED,
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request

MODE_OPTIONS = (
    FILE_WRITE_THROUGH
    | FILE_SEQUENTIAL_ONLY
    | FILE_NO_INTERMEDIATE_BUFFERING
    | FILE_SYNCHRONOUS_IO_ALERT
    | FILE_SYNCHRONOUS_IO_NONALERT
    | FILE_DELETE_ON_CLOSE
)


def query(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_QUERY_INFORMATION: fill in the structure, or list of structures, that is the request's InfoBuffer."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    if opened.dismounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    parameters = request.parameters
    lister = LISTERS.get(parameters.FileInformationClass)
    if lister is not None:
        return _list(thread, request, lister(thread, opened))
    known = QUERIES.get(parameters.FileInformationClass)
    if known is None:
        return STATUS_INVALID_PARAMETER, 0
    kind, fill = known
    if parameters.Length < kind.SIZE:
        return STATUS_INFO_LENGTH_MISMATCH, 0
    buffer = parameters.InfoBuffer
    if buffer is None:
        buffer = kind()
    fill(thread, opened, buffer)
    request.buffer = buffer
    needed = buffer.size
    if needed > parameters.Length:
        return STATUS_BUFFER_OVERFLOW, parameters.Length
    return STATUS_SUCCESS, needed


def _list(thread: Thread, request: Request, entries: list[Any]) -> Result:
    """Answer a query whose result is a chain of structures, each aligned to eight bytes."""
    buffer = request.parameters.InfoBuffer
    if buffer is None:
        buffer = list[Any]()
    total = 0
    status: NTSTATUS = STATUS_SUCCESS
    for entry in entries:
        start = -(-total // 8) * 8
        if start + entry.size > request.parameters.Length:
            status = STATUS_BUFFER_OVERFLOW
            break
        buffer.append(entry)
        total = start + entry.size
    request.buffer = buffer
    return status, total


def _basic(thread: Thread, opened: Open, into: FILE_BASIC_INFORMATION) -> None:
    node = opened.node
    thread.read(node.basic)
    into.CreationTime, into.LastAccessTime = node.creation_time, node.last_access_time
    into.LastWriteTime, into.ChangeTime = node.last_write_time, node.change_time
    into.FileAttributes = attributes_of(node)


def attributes_of(node: Node) -> int:
    """A file's attributes as they are told: FILE_ATTRIBUTE_NORMAL stands for none."""
    return node.attributes or FILE_ATTRIBUTE_NORMAL


def _standard(thread: Thread, opened: Open, into: FILE_STANDARD_INFORMATION) -> None:
    node, stream = opened.node, opened.stream
    thread.read(stream.size)
    thread.read(node)
    is_data = not node.is_directory or stream is not node.stream
    into.AllocationSize = stream.allocation if is_data else 0
    into.EndOfFile = len(stream.bytes) if is_data else 0
    into.NumberOfLinks = sum(not link.deleted for link in node.links)
    into.DeletePending = opened.link.deleted or stream.deleted or node.posix_deleted
    into.Directory = node.is_directory


def _internal(thread: Thread, opened: Open, into: FILE_INTERNAL_INFORMATION) -> None:
    into.IndexNumber = opened.node.number


def _ea(thread: Thread, opened: Open, into: FILE_EA_INFORMATION) -> None:
    into.EaSize = 0


def _access(thread: Thread, opened: Open, into: FILE_ACCESS_INFORMATION) -> None:
    into.AccessFlags = opened.access


def _position(thread: Thread, opened: Open, into: FILE_POSITION_INFORMATION) -> None:
    into.CurrentByteOffset = opened.file.CurrentByteOffset


def _mode(thread: Thread, opened: Open, into: FILE_MODE_INFORMATION) -> None:
    into.Mode = opened.options & MODE_OPTIONS


def _alignment(thread: Thread, opened: Open, into: FILE_ALIGNMENT_INFORMATION) -> None:
    into.AlignmentRequirement = 0


def _name(thread: Thread, opened: Open, into: FILE_NAME_INFORMATION) -> None:
    into.FileName = path_of(thread, opened)


def path_of(thread: Thread, opened: Open) -> str:
    """The path of what *opened* has open, as the calling step sees it."""
    link = opened.link
    # A rename of the file or of a directory above it changes the path, and each of them writes that node's cell.
    names: list[str] = []
    while link.directory is not None:
        thread.read(link.node)
        names.append(link.name)
        if not link.directory.links:
            break
        link = link.directory.links[0]
    path = "\\"
    for name in reversed(names):
        path = join(path, name)
    return f"{path}:{opened.stream.name}" if opened.stream.name else path


def _all(thread: Thread, opened: Open, into: FILE_ALL_INFORMATION) -> None:
    _basic(thread, opened, into.BasicInformation)
    _standard(thread, opened, into.StandardInformation)
    _internal(thread, opened, into.InternalInformation)
    _ea(thread, opened, into.EaInformation)
    _access(thread, opened, into.AccessInformation)
    _position(thread, opened, into.PositionInformation)
    _mode(thread, opened, into.ModeInformation)
    _alignment(thread, opened, into.AlignmentInformation)
    _name(thread, opened, into.NameInformation)


def _network_open(thread: Thread, opened: Open, into: FILE_NETWORK_OPEN_INFORMATION) -> None:
    _describe(thread, opened.node, opened.stream, into)


def describe_node(thread: Thread, node: Node, into: FILE_NETWORK_OPEN_INFORMATION | FILE_STAT_INFORMATION) -> None:
    """Times, sizes and attributes of a file that may not be open."""
    _describe(thread, node, node.stream, into)


def describe_stat(thread: Thread, node: Node, into: FILE_STAT_INFORMATION) -> None:
    """What stat() wants to know of a file that may not be open."""
    _describe(thread, node, node.stream, into)
    thread.read(node)
    into.FileId = node.number
    into.NumberOfLinks = sum(not link.deleted for link in node.links)


def _stat(thread: Thread, opened: Open, into: FILE_STAT_INFORMATION) -> None:
    describe_stat(thread, opened.node, into)


def _case(thread: Thread, opened: Open, into: FILE_CASE_SENSITIVE_INFORMATION) -> None:
    into.Flags = 0


def _describe(
    thread: Thread, node: Node, stream: Stream, into: FILE_NETWORK_OPEN_INFORMATION | FILE_STAT_INFORMATION
) -> None:
    thread.read(node.basic)
    thread.read(stream.size)
    into.CreationTime, into.LastAccessTime = node.creation_time, node.last_access_time
    into.LastWriteTime, into.ChangeTime = node.last_write_time, node.change_time
    into.FileAttributes = attributes_of(node)
    into.AllocationSize = 0 if node.is_directory else stream.allocation
    into.EndOfFile = 0 if node.is_directory else len(stream.bytes)


def _attribute_tag(thread: Thread, opened: Open, into: FILE_ATTRIBUTE_TAG_INFORMATION) -> None:
    thread.read(opened.node.basic)
    into.FileAttributes, into.ReparseTag = attributes_of(opened.node), 0


def _streams(thread: Thread, opened: Open) -> list[FILE_STREAM_INFORMATION]:
    node = opened.node
    thread.read(node)
    streams = [] if node.is_directory else [node.stream]
    streams += [stream for _, stream in sorted(node.streams.items()) if not stream.deleted]
    for stream in streams:
        thread.read(stream.size)
    return [
        FILE_STREAM_INFORMATION(f":{stream.name}:$DATA", len(stream.bytes), stream.allocation) for stream in streams
    ]


def _links(thread: Thread, opened: Open) -> list[FILE_LINK_ENTRY_INFORMATION]:
    node = opened.node
    thread.read(node)
    return [
        FILE_LINK_ENTRY_INFORMATION(link.directory.number, link.name)
        for link in node.links
        if link.directory is not None
    ]


STAT_KINDS: dict[int, type[Information]] = {
    FileStatInformation: FILE_STAT_INFORMATION,
    FileStatLxInformation: FILE_STAT_LX_INFORMATION,
    FileStatBasicInformation: FILE_STAT_BASIC_INFORMATION,
    FileCaseSensitiveInformation: FILE_CASE_SENSITIVE_INFORMATION,
}
"""What can be queried by name without an open (FLT-FAST-14)."""

Fill = Callable[[Thread, Open, Any], None]
QUERIES: dict[int, tuple[type[Information], Fill]] = {
    FileBasicInformation: (FILE_BASIC_INFORMATION, _basic),
    FileStandardInformation: (FILE_STANDARD_INFORMATION, _standard),
    FileInternalInformation: (FILE_INTERNAL_INFORMATION, _internal),
    FileEaInformation: (FILE_EA_INFORMATION, _ea),
    FileAccessInformation: (FILE_ACCESS_INFORMATION, _access),
    FilePositionInformation: (FILE_POSITION_INFORMATION, _position),
    FileModeInformation: (FILE_MODE_INFORMATION, _mode),
    FileAlignmentInformation: (FILE_ALIGNMENT_INFORMATION, _alignment),
    FileNameInformation: (FILE_NAME_INFORMATION, _name),
    FileNormalizedNameInformation: (FILE_NAME_INFORMATION, _name),
    FileAllInformation: (FILE_ALL_INFORMATION, _all),
    FileNetworkOpenInformation: (FILE_NETWORK_OPEN_INFORMATION, _network_open),
    FileAttributeTagInformation: (FILE_ATTRIBUTE_TAG_INFORMATION, _attribute_tag),
    FileStatInformation: (FILE_STAT_INFORMATION, _stat),
    FileStatLxInformation: (FILE_STAT_LX_INFORMATION, _stat),
    FileStatBasicInformation: (FILE_STAT_BASIC_INFORMATION, _stat),
    FileCaseSensitiveInformation: (FILE_CASE_SENSITIVE_INFORMATION, _case),
}
LISTERS: dict[int, Callable[[Thread, Open], list[Any]]] = {
    FileStreamInformation: _streams,
    FileHardLinkInformation: _links,
}


def change(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_SET_INFORMATION: the InfoBuffer holds the structure of the class."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    if opened.dismounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    parameters = request.parameters
    kind = SETS.get(parameters.FileInformationClass)
    given = parameters.InfoBuffer
    if kind is None or not isinstance(given, kind):
        return STATUS_INVALID_PARAMETER, 0
    if parameters.Length < kind.SIZE:
        return STATUS_INFO_LENGTH_MISMATCH, 0
    if opened.cleaned:
        return STATUS_FILE_CLOSED, 0
    if isinstance(given, (FILE_ALLOCATION_INFORMATION, FILE_END_OF_FILE_INFORMATION)):
        if opened.node.is_directory and opened.stream is opened.node.stream:
            return STATUS_INVALID_DEVICE_REQUEST, 0
        thread.read(opened.stream.guard)
        waits = break_for_io(fs, thread, request, opened.stream, writes=True)
        if waits is not None:
            return waits
    return _set(fs, thread, opened, parameters.FileInformationClass, given), 0


def _set(fs: FileSystem, thread: Thread, opened: Open, which: int, given: Information) -> NTSTATUS:
    if isinstance(given, FILE_BASIC_INFORMATION):
        return _set_basic(fs, thread, opened, given)
    if isinstance(given, (FILE_DISPOSITION_INFORMATION, FILE_DISPOSITION_INFORMATION_EX)):
        if isinstance(given, FILE_DISPOSITION_INFORMATION):
            flags = FILE_DISPOSITION_DELETE if given.DeleteFile else 0
        else:
            flags = given.Flags
        status = set_disposition(fs, thread, opened, flags)
        if status == STATUS_SUCCESS:
            opened.node.last_disposition = given
        return status
    if isinstance(given, FILE_ALLOCATION_INFORMATION):
        return set_allocation(fs, thread, opened, given.AllocationSize)
    if isinstance(given, FILE_END_OF_FILE_INFORMATION):
        return set_end_of_file(fs, thread, opened, given.EndOfFile)
    if isinstance(given, FILE_VALID_DATA_LENGTH_INFORMATION):
        return set_valid_data_length(fs, thread, opened, given.ValidDataLength)
    if isinstance(given, FILE_POSITION_INFORMATION):
        if given.CurrentByteOffset < 0:
            return STATUS_INVALID_PARAMETER
        opened.file.CurrentByteOffset = given.CurrentByteOffset
        return STATUS_SUCCESS
    assert isinstance(given, FILE_RENAME_INFORMATION)
    extended = which in {FileRenameInformationEx, FileLinkInformationEx}
    flags = given.Flags if extended else FILE_RENAME_REPLACE_IF_EXISTS * given.ReplaceIfExists
    if which in {FileLinkInformation, FileLinkInformationEx}:
        return add_link(fs, thread, opened, given, flags)
    return rename(fs, thread, opened, given, flags)


def _set_basic(fs: FileSystem, thread: Thread, opened: Open, given: FILE_BASIC_INFORMATION) -> NTSTATUS:
    node = opened.node
    times = (given.CreationTime, given.LastAccessTime, given.LastWriteTime, given.ChangeTime)
    # -1 and -2 switch the updates of a time off and on for the handle: kemu takes them as "leave it".
    if any(time < -2 for time in times):
        return STATUS_INVALID_PARAMETER
    if given.FileAttributes & FILE_ATTRIBUTE_DIRECTORY and not node.is_directory:
        return STATUS_INVALID_PARAMETER
    thread.write(node.basic)
    changes = 0
    if given.FileAttributes:
        kept = node.attributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_SPARSE_FILE)
        node.attributes = kept | given.FileAttributes & SETTABLE_ATTRIBUTES
        changes |= FILE_NOTIFY_CHANGE_ATTRIBUTES
    if times[0] > 0:
        node.creation_time = times[0]
        changes |= FILE_NOTIFY_CHANGE_CREATION
    if times[1] > 0:
        node.last_access_time = times[1]
        changes |= FILE_NOTIFY_CHANGE_LAST_ACCESS
    if times[2] > 0:
        node.last_write_time = times[2]
        changes |= FILE_NOTIFY_CHANGE_LAST_WRITE
    node.change_time = times[3] if times[3] > 0 else fs.now(thread)
    if changes:
        fs.notify(thread, opened.link, changes, FILE_ACTION_MODIFIED)
    return STATUS_SUCCESS


SETS: dict[int, type[Information]] = {
    FileBasicInformation: FILE_BASIC_INFORMATION,
    FileDispositionInformation: FILE_DISPOSITION_INFORMATION,
    FileDispositionInformationEx: FILE_DISPOSITION_INFORMATION_EX,
    FileAllocationInformation: FILE_ALLOCATION_INFORMATION,
    FileEndOfFileInformation: FILE_END_OF_FILE_INFORMATION,
    FileValidDataLengthInformation: FILE_VALID_DATA_LENGTH_INFORMATION,
    FilePositionInformation: FILE_POSITION_INFORMATION,
    FileRenameInformation: FILE_RENAME_INFORMATION,
    FileRenameInformationEx: FILE_RENAME_INFORMATION,
    FileLinkInformation: FILE_LINK_INFORMATION,
    FileLinkInformationEx: FILE_LINK_INFORMATION,
}
