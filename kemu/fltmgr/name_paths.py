"""What a file is called: the answers that the file system gives to a query of the filter manager's.

In Windows such a query is I/O of its own below the asking instance: it opens directories, and takes the file system's
locks. Here it is one step that looks at the cells which decide the answer, and lower filters do not see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.fltmgr.name_options import FLT_FILE_NAME_NORMALIZED, FLT_FILE_NAME_OPENED
from kemu.io.file_constants import FILE_OPEN_BY_FILE_ID, SL_OPEN_TARGET_DIRECTORY
from kemu.io.filesystem.information import path_of
from kemu.io.filesystem.names import Path, join, parse, split
from kemu.io.filesystem.nodes import Link, Node, Open
from kemu.io.filesystem.short_names import is_short
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FILE_DELETED,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.fltmgr.objects import FltVolume
    from kemu.io.filesystem.filesystem import FileSystem
    from kemu.io.parameters import Parameters
    from kemu.io.request import FileObject
    from kemu.io.structures import FILE_RENAME_INFORMATION


def open_name(thread: Thread, opened: Open, format_: int) -> str | NTSTATUS:
    """The name of what *opened* has open, without the volume's."""
    thread.read(opened)
    thread.read(opened.node)
    link = opened.link
    if link.removed or opened.node.posix_deleted:
        return STATUS_FILE_DELETED
    if format_ in {FLT_FILE_NAME_NORMALIZED, FLT_FILE_NAME_OPENED}:
        path = path_of(thread, opened)
        if format_ == FLT_FILE_NAME_NORMALIZED:
            return path
        if opened.by_alias and link.short is not None:
            stream = opened.stream.name
            path = join(split(path)[0], link.short) + (f":{stream}" if stream else "")
        return path + _stream_type(opened.file.FileName)
    if opened.stream is not opened.node.stream:
        return STATUS_OBJECT_NAME_NOT_FOUND
    short = link.short if link.short is not None else link.name
    return short if is_short(short) else STATUS_OBJECT_NAME_NOT_FOUND


def _stream_type(text: str) -> str:
    """What a path says behind the stream: ``:$DATA``, also without one."""
    path = parse(text)
    if isinstance(path, NTSTATUS) or not path.has_stream_type:
        return ""
    return text[-6:] if path.stream else f":{text[-6:]}"


def create_name(
    thread: Thread, fs: FileSystem, file: FileObject, parameters: Parameters, format_: int
) -> str | NTSTATUS:
    """The name of a file that is about to be opened, without the volume's (FLT-NAME-05, FLT-NAME-06)."""
    more = parameters.more
    text = file.FileName
    if more.get("CreateOptions", 0) & FILE_OPEN_BY_FILE_ID:
        return join("\\", text) if format_ == FLT_FILE_NAME_OPENED else _name_of_number(thread, fs, text)
    path = parse(text)
    if isinstance(path, NTSTATUS):
        return path
    if more.get("OperationFlags", 0) & SL_OPEN_TARGET_DIRECTORY:
        path, text = Path(path.components[:-1], "", False, False), split(text.removesuffix("\\"))[0]
    if format_ == FLT_FILE_NAME_OPENED:
        return text
    found = normalise(thread, fs, fs.root, path.components)
    if isinstance(found, NTSTATUS):
        return found
    return f"{found}:{path.stream}" if path.stream else found


def _name_of_number(thread: Thread, fs: FileSystem, number: str) -> str | NTSTATUS:
    node = next((one for one in fs.nodes if str(one.number) == number), None)
    if node is None:
        return STATUS_INVALID_PARAMETER
    thread.read(node)
    return link_path(thread, node.links[0]) if node.links else STATUS_INVALID_PARAMETER


def link_path(thread: Thread, link: Link) -> str:
    """The path of *link*, as the calling step sees it: a rename writes the cell of what is renamed."""
    if link.directory is None:
        return "\\"
    thread.read(link.node)
    above = link.directory.links
    return join(link_path(thread, above[0]) if above else "\\", link.name)


def normalise(thread: Thread, fs: FileSystem, start: Node, components: tuple[str, ...]) -> str | NTSTATUS:
    """The path of *components* from *start* on, each with its long name; the last one need not exist."""
    path = link_path(thread, start.links[0]) if start.links else "\\"
    node = start
    for place, name in enumerate(components):
        entry = node.entry(name)
        thread.read(entry)
        link = entry.found
        last = place == len(components) - 1
        if link is None:
            return join(path, name) if last else STATUS_OBJECT_PATH_NOT_FOUND
        path = join(path, link.name)
        if not link.node.is_directory and not last:
            return STATUS_OBJECT_PATH_NOT_FOUND
        node = link.node
    return path


def destination_name(thread: Thread, opened: Open, given: FILE_RENAME_INFORMATION, format_: int) -> str | NTSTATUS:
    """What the file behind *opened* would be called after that rename, or by that link (FLT-NAME-14)."""
    fs: FileSystem = opened.file.volume.filesystem
    name = given.FileName
    start = fs.root
    if given.RootDirectory is not None:
        base = getattr(given.RootDirectory, "fs_context", None)
        if not isinstance(base, Open) or name.startswith("\\"):
            return STATUS_INVALID_PARAMETER
        start = base.node
    elif "\\" not in name:
        if opened.link.directory is None:
            return STATUS_INVALID_PARAMETER
        thread.read(opened.node)
        start = opened.link.directory
    path = parse(name if name.startswith("\\") else f"\\{name}")
    if isinstance(path, NTSTATUS) or not path.components:
        return STATUS_OBJECT_NAME_INVALID
    if format_ == FLT_FILE_NAME_NORMALIZED:
        return normalise(thread, fs, start, path.components)
    return join(link_path(thread, start.links[0]) if start.links else "\\", name.removeprefix("\\"))


def names_now(
    thread: Thread, volume: FltVolume, file: FileObject, format_: int, *, every_link: bool
) -> tuple[str, ...]:
    """What the file behind *file* is called now, in full; nothing if it is not open, or has no name any more."""
    opened = file.fs_context
    if not isinstance(opened, Open):
        return ()
    device = volume.device_name
    if every_link:
        thread.read(opened.node)
        return tuple(device + link_path(thread, link) for link in opened.node.links)
    name = open_name(thread, opened, format_)
    if isinstance(name, NTSTATUS):
        return ()
    return (device + name if format_ in {FLT_FILE_NAME_NORMALIZED, FLT_FILE_NAME_OPENED} else name,)
