"""IRP_MJ_DIRECTORY_CONTROL: enumerating a directory. Change notification is in `notify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kemu.io.file_constants import (
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_QUERY_DIRECTORY,
    SL_RESTART_SCAN,
    SL_RETURN_SINGLE_ENTRY,
    FileBothDirectoryInformation,
    FileDirectoryInformation,
    FileFullDirectoryInformation,
    FileIdBothDirectoryInformation,
    FileIdFullDirectoryInformation,
    FileNamesInformation,
)
from kemu.io.filesystem.information import attributes_of
from kemu.io.filesystem.names import fold, matches
from kemu.io.filesystem.nodes import Node, Open
from kemu.io.filesystem.notify import notify_change
from kemu.io.structures import (
    FILE_BOTH_DIR_INFORMATION,
    FILE_DIRECTORY_INFORMATION,
    FILE_FULL_DIR_INFORMATION,
    FILE_ID_BOTH_DIR_INFORMATION,
    FILE_ID_FULL_DIR_INFORMATION,
    FILE_NAMES_INFORMATION,
)
from kemu.nt.status import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_FILE_CLOSED,
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_INFO_CLASS,
    STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_FILES,
    STATUS_NO_SUCH_FILE,
    STATUS_SUCCESS,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request

CLASSES: dict[int, type[FILE_DIRECTORY_INFORMATION]] = {
    FileDirectoryInformation: FILE_DIRECTORY_INFORMATION,
    FileFullDirectoryInformation: FILE_FULL_DIR_INFORMATION,
    FileBothDirectoryInformation: FILE_BOTH_DIR_INFORMATION,
    FileIdBothDirectoryInformation: FILE_ID_BOTH_DIR_INFORMATION,
    FileIdFullDirectoryInformation: FILE_ID_FULL_DIR_INFORMATION,
    FileNamesInformation: FILE_NAMES_INFORMATION,
}


def control(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_DIRECTORY_CONTROL."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    if opened.dismounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    if request.minor == IRP_MN_QUERY_DIRECTORY:
        return _enumerate(thread, request, opened)
    if request.minor == IRP_MN_NOTIFY_CHANGE_DIRECTORY:
        return notify_change(fs, thread, request)
    return STATUS_INVALID_DEVICE_REQUEST, 0


def _enumerate(thread: Thread, request: Request, opened: Open) -> Result:
    """Continue the enumeration of a directory: by name, from where the last query of the handle stopped.

    The first query fixes the expression. What is created behind that place is seen, what is before it is not.
    """
    node = opened.node
    parameters = request.parameters
    if not node.is_directory:
        return STATUS_INVALID_PARAMETER, 0
    if opened.cleaned:
        return STATUS_FILE_CLOSED, 0
    kind = CLASSES.get(parameters.FileInformationClass)
    if kind is None:
        return STATUS_INVALID_INFO_CLASS, 0
    if parameters.Length < kind.SIZE:
        return STATUS_INFO_LENGTH_MISMATCH, 0
    flags = parameters.OperationFlags
    thread.write(opened)
    first = opened.pattern is None
    if opened.pattern is None:
        opened.pattern = parameters.FileName or "*"
    if first or flags & SL_RESTART_SCAN:
        opened.enumerated = ""
    thread.read(node.listing)
    buffer: Any = parameters.DirectoryBuffer
    if not isinstance(buffer, list):
        # Memory, which gets the bytes of what is found.
        buffer = list[Any]()
    entries = cast("list[Any]", buffer)
    request.buffer = entries
    total = 0
    for name, found in _candidates(node, opened):
        if not matches(opened.pattern, name):
            opened.enumerated = _key(name)
            continue
        entry = _entry(thread, kind, name, found)
        start = -(-total // 8) * 8
        if start + entry.size > parameters.Length:
            if total:
                break
            # One that does not fit even alone is told in part, and not again.
            opened.enumerated = _key(name)
            entries.append(entry)
            return STATUS_BUFFER_OVERFLOW, parameters.Length
        entries.append(entry)
        opened.enumerated = _key(name)
        total = start + entry.size
        if flags & SL_RETURN_SINGLE_ENTRY:
            break
    if total:
        return STATUS_SUCCESS, total
    return (STATUS_NO_SUCH_FILE if first else STATUS_NO_MORE_FILES), 0


def _key(name: str) -> str:
    """What orders names: the two dots first, then by folded name."""
    return f" {name}" if name in {".", ".."} else f"!{fold(name)}"


def _candidates(node: Node, opened: Open) -> list[tuple[str, Node]]:
    """What comes behind the place that the enumeration has reached."""
    names: list[tuple[str, Node]] = []
    parent = opened.link.directory
    if parent is not None:
        names += [(".", node), ("..", parent)]
    names += [(link.name, link.node) for link in node.children()]
    return [(name, found) for name, found in names if _key(name) > opened.enumerated]


def _entry(thread: Thread, kind: type[FILE_DIRECTORY_INFORMATION], name: str, node: Node) -> FILE_DIRECTORY_INFORMATION:
    if kind is FILE_NAMES_INFORMATION:
        return kind(name)
    thread.read(node.basic)
    thread.read(node.stream.size)
    is_data = not node.is_directory
    return kind(
        name,
        CreationTime=node.creation_time,
        LastAccessTime=node.last_access_time,
        LastWriteTime=node.last_write_time,
        ChangeTime=node.change_time,
        EndOfFile=len(node.data) if is_data else 0,
        AllocationSize=node.stream.allocation if is_data else 0,
        FileAttributes=attributes_of(node),
        FileId=node.number,
    )
