"""Change notification: IRP_MN_NOTIFY_CHANGE_DIRECTORY.

From the first request on a handle on, the directory is watched for it. Changes that come while no request waits are
kept, up to the size of the handle's buffer; when that is too small, the next request is told to enumerate the directory
anew (STATUS_NOTIFY_ENUM_DIR).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kemu.io.file_constants import FILE_NOTIFY_VALID_MASK, SL_WATCH_TREE
from kemu.io.filesystem.names import join
from kemu.io.filesystem.nodes import Link, Node, Open, Stream
from kemu.io.filesystem.waiting import Waiting, wait
from kemu.io.structures import FILE_NOTIFY_INFORMATION
from kemu.nt.status import (
    NTSTATUS,
    STATUS_CANCELLED,
    STATUS_DELETE_PENDING,
    STATUS_INVALID_PARAMETER,
    STATUS_NOTIFY_CLEANUP,
    STATUS_NOTIFY_ENUM_DIR,
    STATUS_SUCCESS,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request


class Watch:
    """What one handle of a directory wants to be told."""

    __slots__ = ("changes", "filter", "limit", "node", "open", "overflowed", "tree", "waiting")

    def __init__(self, opened: Open, filter_: int, limit: int, *, tree: bool) -> None:
        self.open = opened
        self.node: Node = opened.node
        self.filter = filter_
        self.tree = tree
        self.limit = limit
        """The size of the buffer, fixed by the first request."""
        self.changes: list[FILE_NOTIFY_INFORMATION] = []
        self.overflowed = False
        self.waiting: list[Waiting] = []

    def add(self, action: int, name: str) -> None:
        """Keep a change for the next request."""
        change = FILE_NOTIFY_INFORMATION(action, name)
        if change in self.changes[-1:]:
            return
        self.changes.append(change)
        if sum(-(-one.size // 4) * 4 for one in self.changes) > self.limit:
            self.changes.clear()
            self.overflowed = True

    def answer(self, request: Request) -> Result | None:
        """What *request* is told now; None if there is nothing to tell."""
        if self.overflowed:
            self.overflowed = False
            self.changes.clear()
            return STATUS_NOTIFY_ENUM_DIR, 0
        if not self.changes:
            return None
        changes, self.changes = self.changes, []
        size = sum(-(-one.size // 4) * 4 for one in changes[:-1]) + changes[-1].size
        if size > request.parameters.Length:
            return STATUS_NOTIFY_ENUM_DIR, 0
        buffer: Any = request.parameters.DirectoryBuffer
        if isinstance(buffer, list):
            cast("list[Any]", buffer).extend(changes)
        request.buffer = changes  # type: ignore[assignment]
        return STATUS_SUCCESS, size


def notify_change(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MN_NOTIFY_CHANGE_DIRECTORY."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    if opened.cleaned:
        return STATUS_NOTIFY_CLEANUP, 0
    node = opened.node
    parameters = request.parameters
    filter_ = parameters.CompletionFilter
    if not node.is_directory or not filter_ or filter_ & ~FILE_NOTIFY_VALID_MASK:
        return STATUS_INVALID_PARAMETER, 0
    thread.read(node)
    if opened.link.deleted or node.posix_deleted:
        return STATUS_DELETE_PENDING, 0
    thread.write(fs.watched)
    watch = next((one for one in fs.watches if one.open is opened), None)
    if watch is None:
        tree = bool(parameters.OperationFlags & SL_WATCH_TREE)
        watch = Watch(opened, filter_, parameters.Length, tree=tree)
        fs.watches.append(watch)
    if not watch.waiting:
        answer = watch.answer(request)
        if answer is not None:
            cancel = request.cancel
            thread.read(cancel)
            return (STATUS_CANCELLED, 0) if cancel.requested else answer
    return wait(fs, thread, request, watch.waiting, fs.watched)


def report(fs: FileSystem, thread: Thread, link: Link, kind: int, action: int, stream: Stream | None = None) -> None:
    """Something of *kind* (FILE_NOTIFY_CHANGE_) happened to *link*: tell those who watch."""
    name = link.name if stream is None or not stream.name else f"{link.name}:{stream.name}:$DATA"
    directory = link.directory
    direct = True
    while directory is not None:
        for watch in fs.watches:
            if watch.node is directory and watch.filter & kind and (direct or watch.tree):
                thread.write(fs.watched)
                watch.add(action, name)
                if watch.waiting:
                    first = watch.waiting[0]
                    answer = watch.answer(first.request)
                    if answer is not None:
                        first.end(thread, *answer)
        parent = directory.links[0] if directory.links else None
        if parent is None or parent.directory is None:
            return
        direct = False
        name = join(parent.name, name)
        directory = parent.directory


def end_watches(fs: FileSystem, thread: Thread, opened: Open) -> None:
    """A handle of a directory is closed: what it waits for ends."""
    thread.read(fs.watched)
    for watch in list(fs.watches):
        if watch.open is opened:
            thread.write(fs.watched)
            fs.watches.remove(watch)
            _end(thread, watch, STATUS_NOTIFY_CLEANUP)


def watches_deleted(fs: FileSystem, thread: Thread, node: Node) -> None:
    """A directory is going to be deleted: what waits for changes in it ends."""
    thread.read(fs.watched)
    for watch in fs.watches:
        if watch.node is node:
            thread.write(fs.watched)
            _end(thread, watch, STATUS_DELETE_PENDING)


def _end(thread: Thread, watch: Watch, status: NTSTATUS) -> None:
    for waiting in list(watch.waiting):
        waiting.end(thread, status)
