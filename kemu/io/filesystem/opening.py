"""IRP_MJ_CREATE: finding, creating and overwriting; access, sharing, dispositions and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.constants import FILE_CREATE, FILE_OPEN, FILE_OVERWRITE, FILE_OVERWRITE_IF, FILE_SUPERSEDE
from kemu.io.file_constants import (
    FILE_ACTION_ADDED,
    FILE_ACTION_MODIFIED,
    FILE_APPEND_DATA,
    FILE_ATTRIBUTE_ARCHIVE,
    FILE_ATTRIBUTE_HIDDEN,
    FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_SYSTEM,
    FILE_CREATED,
    FILE_DELETE_ON_CLOSE,
    FILE_DIRECTORY_FILE,
    FILE_DOES_NOT_EXIST,
    FILE_EXISTS,
    FILE_NO_INTERMEDIATE_BUFFERING,
    FILE_NON_DIRECTORY_FILE,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_NOTIFY_CHANGE_STREAM_NAME,
    FILE_OPEN_BY_FILE_ID,
    FILE_OPENED,
    FILE_OVERWRITTEN,
    FILE_SHARE_VALID_FLAGS,
    FILE_SUPERSEDED,
    FILE_SYNCHRONOUS_IO_ALERT,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FILE_WRITE_ATTRIBUTES,
    FILE_WRITE_DATA,
    FILE_WRITE_EA,
    FO_DELETE_ON_CLOSE,
    FO_FILE_OPEN,
    FO_NO_INTERMEDIATE_BUFFERING,
    FO_VOLUME_OPEN,
    SETTABLE_ATTRIBUTES,
    SL_OPEN_PAGING_FILE,
    SL_OPEN_TARGET_DIRECTORY,
    map_generic,
)
from kemu.io.filesystem.names import Path, fold, parse
from kemu.io.filesystem.nodes import Link, Node, Open, Stream, VolumeNode
from kemu.io.filesystem.oplocks import break_for_create
from kemu.io.filesystem.short_names import tunnelled
from kemu.io.parameters import USUAL_ACCESS
from kemu.nt.access import DELETE, SYNCHRONIZE
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_CANCELLED,
    STATUS_CANNOT_DELETE,
    STATUS_DELETE_PENDING,
    STATUS_DISK_FULL,
    STATUS_FILE_IS_A_DIRECTORY,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_A_DIRECTORY,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_OPLOCK_BREAK_IN_PROGRESS,
    STATUS_SHARING_VIOLATION,
    STATUS_SUCCESS,
    STATUS_USER_MAPPED_FILE,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.parameters import Parameters
    from kemu.io.request import Request

_REPLACES = frozenset({FILE_OVERWRITE, FILE_OVERWRITE_IF, FILE_SUPERSEDE})
_MUST_EXIST = frozenset({FILE_OPEN, FILE_OVERWRITE})
_SYNCHRONOUS = FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT


def create(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """Open or create a file, a directory or a stream."""
    cancel = request.cancel
    thread.read(cancel)
    if cancel.requested:
        return STATUS_CANCELLED, 0
    thread.read(fs.presence)
    if not fs.is_mounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    parameters = request.parameters
    more = parameters.more
    access = map_generic(more["DesiredAccess"]) if "DesiredAccess" in more else USUAL_ACCESS
    options = more.get("CreateOptions", 0)
    if more or parameters.Disposition > FILE_OVERWRITE_IF:
        wrong = _wrong_request(parameters, access)
        if wrong is not None:
            return wrong, 0
    targets = more.get("OperationFlags", 0) & SL_OPEN_TARGET_DIRECTORY
    if request.file.Flags & FO_VOLUME_OPEN:
        return _open_existing(fs, thread, request, _volume_link(fs), Path((), "", False, False), access)
    if options & FILE_OPEN_BY_FILE_ID:
        return _open_by_id(fs, thread, request, access)
    path = parse(request.file.FileName)
    if isinstance(path, NTSTATUS):
        return path, 0
    if path.trailing and (options & FILE_NON_DIRECTORY_FILE or path.stream):
        return STATUS_OBJECT_NAME_INVALID, 0
    components = path.components
    if targets:
        components = components[:-1]
    if not components:
        return _open_existing(fs, thread, request, fs.root_link, path, access)
    directory = walk(fs, thread, components[:-1])
    if directory is None:
        return STATUS_OBJECT_PATH_NOT_FOUND, 0
    entry = directory.entry(components[-1])
    link = entry.found
    if link is None:
        if targets:
            thread.read(entry)
            return STATUS_OBJECT_PATH_NOT_FOUND, 0
        return _create_new(fs, thread, request, directory, components[-1], path, access)
    thread.read(entry)
    if targets:
        if not link.node.is_directory:
            return STATUS_OBJECT_PATH_NOT_FOUND, 0
        status, information = _open_existing(fs, thread, request, link, path, access)
        if status != STATUS_SUCCESS:
            return status, information
        thread.read(link.node.entry(path.name))
        exists = link.node.entry(path.name).found is not None
        return STATUS_SUCCESS, FILE_EXISTS if exists else FILE_DOES_NOT_EXIST
    result = _open_existing(fs, thread, request, link, path, access)
    if entry.link is None and isinstance(request.file.fs_context, Open):
        request.file.fs_context.by_alias = True
    return result


def _volume_link(fs: FileSystem) -> Link:
    """What a handle of the volume itself is open on."""
    link = fs.volume_link
    if link is None:
        node = VolumeNode(fs.root)
        link = fs.volume_link = Link(None, "", node)
        node.links.append(link)
        fs.nodes.append(node)
    return link


def _wrong_request(parameters: Parameters, access: int) -> NTSTATUS | None:
    """What is wrong with a create, whatever it is for."""
    options, disposition = parameters.CreateOptions, parameters.Disposition
    if not access:
        return STATUS_ACCESS_DENIED
    if not options:
        return STATUS_INVALID_PARAMETER if disposition > FILE_OVERWRITE_IF else None
    if (
        disposition > FILE_OVERWRITE_IF
        or (options & FILE_DIRECTORY_FILE and (options & FILE_NON_DIRECTORY_FILE or disposition in _REPLACES))
        or options & _SYNCHRONOUS == _SYNCHRONOUS
        or (options & _SYNCHRONOUS and not access & SYNCHRONIZE)
        or (options & FILE_DELETE_ON_CLOSE and not access & DELETE)
        or (options & FILE_NO_INTERMEDIATE_BUFFERING and access & FILE_APPEND_DATA and not access & FILE_WRITE_DATA)
    ):
        return STATUS_INVALID_PARAMETER
    return None


def walk(fs: FileSystem, thread: Thread, components: tuple[str, ...]) -> Node | None:
    """The directory that *components* lead to from the root, or None."""
    node = fs.root
    for name in components:
        entry = node.entry(name)
        thread.read(entry)
        link = entry.found
        if link is None or not link.node.is_directory:
            return None
        node = link.node
    return node


def _open_by_id(fs: FileSystem, thread: Thread, request: Request, access: int) -> Result:
    """Open the file whose number the name is."""
    name = request.file.FileName
    # A number is known only after the file was made, so that nobody can ask for one too early.
    number = int(name) if name.isdigit() else 0
    node = next((one for one in fs.nodes if one.number == number), None)
    if node is None:
        return STATUS_INVALID_PARAMETER, 0
    thread.read(node)
    if not node.links:
        return STATUS_INVALID_PARAMETER, 0
    if request.parameters.Disposition not in {FILE_OPEN, FILE_OVERWRITE}:
        return STATUS_INVALID_PARAMETER, 0
    return _open_existing(fs, thread, request, node.links[0], Path((), "", False, False), access)


def _create_new(
    fs: FileSystem, thread: Thread, request: Request, directory: Node, name: str, path: Path, access: int
) -> Result:
    """There is no file of that name."""
    parameters = request.parameters
    entry = directory.entry(name)
    if parameters.Disposition in _MUST_EXIST:
        thread.read(entry)
        return STATUS_OBJECT_NAME_NOT_FOUND, 0
    options = attributes = 0
    if parameters.more:
        thread.read(entry)
        options = parameters.CreateOptions
        attributes = parameters.FileAttributes & SETTABLE_ATTRIBUTES
        if attributes & FILE_ATTRIBUTE_READONLY and options & FILE_DELETE_ON_CLOSE:
            return STATUS_CANNOT_DELETE, 0
    is_directory = bool(options & FILE_DIRECTORY_FILE)
    if path.trailing and not is_directory:
        thread.read(entry)
        return STATUS_OBJECT_NAME_INVALID, 0
    if is_directory and (path.stream or path.has_stream_type):
        return STATUS_NOT_A_DIRECTORY, 0
    if directory is not fs.root:
        thread.read(directory)
        if directory.posix_deleted or any(link.deleted for link in directory.links):
            thread.read(entry)
            return STATUS_DELETE_PENDING, 0
    thread.write(entry)
    thread.update(directory.listing)
    short, request_name = "", name
    if fs.short_names:
        pair = tunnelled(fs, thread, directory, name)
        if pair is not None:
            short = pair.short
            if directory.entry(pair.long).found is None:
                entry, name = directory.entry(pair.long), pair.long
                thread.write(entry)
    node = fs.new_node(thread, name, directory, is_directory=is_directory, short=short)
    node.attributes |= attributes
    stream = node.stream
    if path.stream:
        stream = _add_stream(node, path.stream)
    if parameters.more and parameters.AllocationSize and not fs.reserve(thread, stream, parameters.AllocationSize):
        fs.undo(entry)
        return STATUS_DISK_FULL, 0
    kind = FILE_NOTIFY_CHANGE_DIR_NAME if is_directory else FILE_NOTIFY_CHANGE_FILE_NAME
    fs.notify(thread, node.links[0], kind, FILE_ACTION_ADDED)
    _finish(thread, request, node.links[0], stream, access)
    if short and fold(short) == fold(request_name):
        request.file.fs_context.by_alias = True
    return STATUS_SUCCESS, FILE_CREATED


def _add_stream(node: Node, name: str) -> Stream:
    node.streams_made += 1
    stream = Stream(node, name, number=node.streams_made)
    node.streams = {**node.streams, fold(name): stream}
    return stream


def _open_existing(fs: FileSystem, thread: Thread, request: Request, link: Link, path: Path, access: int) -> Result:
    """There is a file of that name."""
    node = link.node
    parameters = request.parameters
    options, disposition = parameters.CreateOptions, parameters.Disposition
    thread.read(node.basic)
    if node.is_directory and not path.stream:
        if options & FILE_NON_DIRECTORY_FILE or path.has_stream_type:
            return STATUS_FILE_IS_A_DIRECTORY, 0
        if disposition == FILE_CREATE or disposition in _REPLACES:
            return STATUS_OBJECT_NAME_COLLISION, 0
        if options & FILE_DELETE_ON_CLOSE and link.directory is None:
            return STATUS_CANNOT_DELETE, 0
    elif options & FILE_DIRECTORY_FILE or path.trailing:
        return (STATUS_OBJECT_NAME_COLLISION if disposition == FILE_CREATE else STATUS_NOT_A_DIRECTORY), 0
    thread.read(node)
    if link.deleted or node.posix_deleted:
        return STATUS_DELETE_PENDING, 0
    if path.stream:
        stream = node.streams.get(fold(path.stream))
        if stream is None:
            if disposition in _MUST_EXIST:
                return STATUS_OBJECT_NAME_NOT_FOUND, 0
            thread.write(node)
            stream = _add_stream(node, path.stream)
            fs.notify(thread, link, FILE_NOTIFY_CHANGE_STREAM_NAME, FILE_ACTION_ADDED, stream)
            _finish(thread, request, link, stream, access)
            return STATUS_SUCCESS, FILE_CREATED
        if stream.deleted:
            return STATUS_DELETE_PENDING, 0
    else:
        stream = node.stream
    if disposition == FILE_CREATE:
        return STATUS_OBJECT_NAME_COLLISION, 0
    return _open_stream(fs, thread, request, link, stream, access)


def _open_stream(fs: FileSystem, thread: Thread, request: Request, link: Link, stream: Stream, access: int) -> Result:
    node = stream.node
    parameters = request.parameters
    options, disposition = parameters.CreateOptions, parameters.Disposition
    attributes = node.attributes
    replaces = disposition in _REPLACES
    if attributes & FILE_ATTRIBUTE_READONLY and not node.is_directory:
        if access & (FILE_WRITE_DATA | FILE_APPEND_DATA) or replaces:
            return STATUS_ACCESS_DENIED, 0
        if options & FILE_DELETE_ON_CLOSE:
            return STATUS_CANNOT_DELETE, 0
    needed = access
    if replaces:
        # A file is not made visible, or less important, by being overwritten.
        kept = attributes & (FILE_ATTRIBUTE_HIDDEN | FILE_ATTRIBUTE_SYSTEM)
        if kept & ~parameters.FileAttributes:
            return STATUS_ACCESS_DENIED, 0
        needed |= DELETE if disposition == FILE_SUPERSEDE else FILE_WRITE_DATA | FILE_WRITE_EA | FILE_WRITE_ATTRIBUTES
    share = parameters.ShareAccess
    refused = stream.refuses(needed, share) and not parameters.IgnoreShareAccess
    granted: NTSTATUS = STATUS_SUCCESS
    thread.read(stream.guard)
    if stream.oplock is not None:
        oplock = break_for_create(fs, thread, request, stream, needed, refused=refused, replaces=replaces)
        if oplock is not None:
            granted = oplock[0]
            if granted != STATUS_OPLOCK_BREAK_IN_PROGRESS:
                return oplock
    if refused:
        return STATUS_SHARING_VIOLATION, 0
    information = FILE_OPENED
    if replaces:
        if stream.mapped:
            return STATUS_USER_MAPPED_FILE, 0
        thread.write(node.basic)
        thread.write(stream.data)
        thread.write(stream.size)
        _truncate(fs, thread, stream, parameters)
        node.last_write_time = node.change_time = fs.now(thread)
        information = FILE_SUPERSEDED if disposition == FILE_SUPERSEDE else FILE_OVERWRITTEN
        changes = FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE
        fs.notify(thread, link, changes, FILE_ACTION_MODIFIED, stream)
    _finish(thread, request, link, stream, access)
    return granted, information


def _truncate(fs: FileSystem, thread: Thread, stream: Stream, parameters: Parameters) -> None:
    """Empty a stream that is overwritten, and the named ones of its file with it."""
    node = stream.node
    stream.bytes.clear()
    stream.valid = 0
    fs.purge(thread, stream)
    fs.reserve(thread, stream, parameters.AllocationSize, shrink=True)
    if stream is not node.stream:
        return
    if parameters.Disposition == FILE_SUPERSEDE:
        node.attributes = FILE_ATTRIBUTE_ARCHIVE
    node.attributes |= parameters.FileAttributes & SETTABLE_ATTRIBUTES | FILE_ATTRIBUTE_ARCHIVE
    # Those that somebody has open go with their last open.
    node.streams = {folded: other for folded, other in node.streams.items() if other.opened}
    for other in node.streams.values():
        other.deleted = True


def _finish(thread: Thread, request: Request, link: Link, stream: Stream, access: int) -> None:
    """The open is granted: count it."""
    more = request.parameters.more
    options, share = more.get("CreateOptions", 0), more.get("ShareAccess", FILE_SHARE_VALID_FLAGS)
    node = stream.node
    file = request.file
    thread.write(node)
    opened = Open(file, link, stream, access, share, options)
    if options:
        if options & FILE_DELETE_ON_CLOSE:
            opened.delete_on_close = True
            file.Flags |= FO_DELETE_ON_CLOSE
        if options & FILE_NO_INTERMEDIATE_BUFFERING:
            file.Flags |= FO_NO_INTERMEDIATE_BUFFERING
    file.Flags |= FO_FILE_OPEN
    file.fs_context = opened
    request.volume.filesystem.open_files += 1
    stream.opened.append(opened)
    stream.files += 1
    node.files += 1
    if more.get("OperationFlags", 0) & SL_OPEN_PAGING_FILE:
        stream.is_paging_file = True
    if request.volume.filesystem.contexts is not None:
        # Whoever looks for a context meanwhile depends on whether the file is open.
        thread.write(opened)
