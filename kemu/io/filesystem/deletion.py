"""Delete pending, POSIX deletion, delete on close; cleanup, which is when they take effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.file_constants import (
    FILE_ACTION_REMOVED,
    FILE_ATTRIBUTE_READONLY,
    FILE_DELETE_ON_CLOSE,
    FILE_DISPOSITION_DELETE,
    FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    FILE_DISPOSITION_ON_CLOSE,
    FILE_DISPOSITION_POSIX_SEMANTICS,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_NOTIFY_CHANGE_STREAM_NAME,
    FO_CLEANUP_COMPLETE,
)
from kemu.io.filesystem.locks import release_all
from kemu.io.filesystem.nodes import Link, Open
from kemu.io.filesystem.notify import end_watches, watches_deleted
from kemu.io.filesystem.oplocks import close_oplocks
from kemu.io.filesystem.short_names import drop_alias
from kemu.nt.access import DELETE
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_CANNOT_DELETE,
    STATUS_DIRECTORY_NOT_EMPTY,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request


def set_disposition(fs: FileSystem, thread: Thread, opened: Open, flags: int) -> NTSTATUS:
    """FileDispositionInformation and FileDispositionInformationEx, as FILE_DISPOSITION_ flags."""
    if not opened.access & DELETE:
        return STATUS_ACCESS_DENIED
    if flags & FILE_DISPOSITION_ON_CLOSE:
        # Takes back, or gives, what FILE_DELETE_ON_CLOSE said when the file was opened.
        if not opened.options & FILE_DELETE_ON_CLOSE:
            return STATUS_INVALID_PARAMETER
        thread.write(opened)
        opened.delete_on_close = bool(flags & FILE_DISPOSITION_DELETE)
        opened.posix_delete = bool(flags & FILE_DISPOSITION_POSIX_SEMANTICS)
        return STATUS_SUCCESS
    node, link = opened.node, opened.link
    if not flags & FILE_DISPOSITION_DELETE:
        thread.write(node)
        opened.posix_delete = False
        if opened.stream is node.stream:
            link.deleted = False
        else:
            opened.stream.deleted = False
        return STATUS_SUCCESS
    status = may_delete(thread, opened, ignore_readonly=bool(flags & FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE))
    if status != STATUS_SUCCESS:
        return status
    thread.write(node)
    if opened.stream is node.stream:
        link.deleted = True
        if node.is_directory:
            watches_deleted(fs, thread, node)
    else:
        opened.stream.deleted = True
    opened.posix_delete = bool(flags & FILE_DISPOSITION_POSIX_SEMANTICS)
    return STATUS_SUCCESS


def may_delete(thread: Thread, opened: Open, *, ignore_readonly: bool = False) -> NTSTATUS:
    """Whether the file behind *opened* can be deleted."""
    node = opened.node
    thread.read(node.basic)
    if opened.link.directory is None:
        return STATUS_CANNOT_DELETE
    if node.attributes & FILE_ATTRIBUTE_READONLY and not ignore_readonly:
        return STATUS_CANNOT_DELETE
    thread.read(opened.stream.guard)
    if opened.stream.mapped:
        return STATUS_CANNOT_DELETE
    if node.is_directory and opened.stream is node.stream:
        thread.read(node.listing)
        if not node.is_empty:
            return STATUS_DIRECTORY_NOT_EMPTY
    return STATUS_SUCCESS


def cleanup(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_CLEANUP: the last handle is closed."""
    file = request.file
    opened = file.fs_context
    if opened is None:
        return STATUS_SUCCESS, 0
    assert isinstance(opened, Open)
    node, stream, link = opened.node, opened.stream, opened.link
    thread.write(opened)
    if opened.cleaned:
        # Somebody has opened a handle by pointer after the last one was closed.
        return STATUS_SUCCESS, 0
    thread.write(node)
    opened.cleaned = True
    file.Flags |= FO_CLEANUP_COMPLETE
    thread.read(stream.guard)
    if stream.locks or fs.lock_waiters:
        release_all(fs, thread, opened)
    stream.opened.remove(opened)
    if stream.oplock is not None:
        close_oplocks(fs, thread, opened)
    if node.is_directory:
        end_watches(fs, thread, opened)
    if opened.delete_on_close and not link.removed and may_delete(thread, opened) == STATUS_SUCCESS:
        if stream is node.stream:
            link.deleted = True
        else:
            stream.deleted = True
    if stream.deleted and not stream.opened and stream is not node.stream:
        node.streams = {folded: one for folded, one in node.streams.items() if one is not stream}
        fs.notify(thread, link, FILE_NOTIFY_CHANGE_STREAM_NAME, FILE_ACTION_REMOVED, stream)
    if link.deleted and not link.removed and (opened.posix_delete or not link.is_open):
        remove(fs, thread, link, by_alias=opened.by_alias)
        node.posix_deleted = link.is_open and not node.links
    if not node.links and not node.all_opened():
        fs.free(thread, node)
    if fs.cache is not None and not stream.opened:
        fs.cache.let_go(thread, stream)
    return STATUS_SUCCESS, 0


def remove(fs: FileSystem, thread: Thread, link: Link, *, by_alias: bool = False) -> None:
    """Take a name out of its directory. The file itself goes with its last name and its last open."""
    directory, node = link.directory, link.node
    assert directory is not None, "the root has no name that could be removed"
    entry = directory.entry(link.name)
    thread.write(entry)
    thread.update(directory.listing)
    kind = FILE_NOTIFY_CHANGE_DIR_NAME if node.is_directory else FILE_NOTIFY_CHANGE_FILE_NAME
    fs.notify(thread, link, kind, FILE_ACTION_REMOVED)
    entry.link = None
    if fs.short_names:
        drop_alias(fs, thread, link, by_alias=by_alias)
    link.removed = True
    node.links.remove(link)
