"""IRP_MJ_READ and IRP_MJ_WRITE, and the sizes of a stream: end of file, allocation, valid data length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.buffers import fetch
from kemu.io.constants import FO_SYNCHRONOUS_IO, IRP_PAGING_IO
from kemu.io.file_constants import (
    FILE_ACTION_MODIFIED,
    FILE_APPEND_DATA,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_USE_FILE_POINTER_POSITION,
    FILE_WRITE_TO_END_OF_FILE,
    FO_FILE_MODIFIED,
    FO_FILE_SIZE_CHANGED,
    FO_NO_INTERMEDIATE_BUFFERING,
)
from kemu.io.filesystem.locks import conflicts
from kemu.io.filesystem.nodes import SECTOR, WRITING, Open, Stream
from kemu.io.filesystem.notify import report
from kemu.io.filesystem.oplocks import break_for_io
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_VIOLATION,
    STATUS_CANCELLED,
    STATUS_DISK_FULL,
    STATUS_END_OF_FILE,
    STATUS_FILE_CLOSED,
    STATUS_FILE_LOCK_CONFLICT,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_USER_MAPPED_FILE,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request


def read(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_READ."""
    opened, refused = _enter(fs, thread, request)
    if refused is not None:
        return refused, 0
    stream = opened.stream
    parameters = request.parameters
    length = parameters.Length
    paging = request.flags & IRP_PAGING_IO
    start = parameters.ByteOffset
    if start == FILE_USE_FILE_POINTER_POSITION and request.file.Flags & FO_SYNCHRONOUS_IO:
        # It moves the position as well.
        thread.write(opened)
        start = request.file.CurrentByteOffset
    if start < 0 or length < 0:
        return STATUS_INVALID_PARAMETER, 0
    if request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING and (start % SECTOR or length % SECTOR) and not paging:
        return STATUS_INVALID_PARAMETER, 0
    if not paging:
        if stream.oplock is not None:
            waits = break_for_io(fs, thread, request, stream, writes=False)
            if waits is not None:
                return waits
        if stream.locks and conflicts(stream, opened, request, start, length, writes=False):
            return STATUS_FILE_LOCK_CONFLICT, 0
    thread.read(stream.size)
    if length and start >= len(stream.bytes):
        return STATUS_END_OF_FILE, 0
    if fs.cache is not None and fs.cache.is_cached(request):
        cached = fs.cache.read(thread, opened, start, min(start + length, len(stream.bytes)))
        if cached is None:
            return STATUS_PENDING, 0
        data = cached
    else:
        thread.read(stream.data)
        data = bytes(stream.bytes[start : start + length])
    request.buffer = data
    if request.file.Flags & FO_SYNCHRONOUS_IO and not paging:
        if request.is_generated:
            # Those of programs come one after another; these move the position beside each other (FLT-STACK-09).
            thread.write(opened)
        request.file.CurrentByteOffset = start + len(data)
    return STATUS_SUCCESS, len(data)


def write(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_WRITE."""
    opened, refused = _enter(fs, thread, request)
    if refused is not None:
        return refused, 0
    stream = opened.stream
    parameters = request.parameters
    data = fetch(thread, request)
    if data is None:
        return STATUS_ACCESS_VIOLATION, 0
    paging = request.flags & IRP_PAGING_IO
    start = parameters.ByteOffset
    thread.read(stream.size)
    if start == FILE_WRITE_TO_END_OF_FILE or opened.access & WRITING == FILE_APPEND_DATA:
        start = len(stream.bytes)
    if start < 0:
        if start != FILE_USE_FILE_POINTER_POSITION or not request.file.Flags & FO_SYNCHRONOUS_IO:
            return STATUS_INVALID_PARAMETER, 0
        thread.write(opened)
        start = request.file.CurrentByteOffset
    if request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING and (start % SECTOR or len(data) % SECTOR) and not paging:
        return STATUS_INVALID_PARAMETER, 0
    if not paging:
        if stream.oplock is not None:
            waits = break_for_io(fs, thread, request, stream, writes=True)
            if waits is not None:
                return waits
        if stream.locks and conflicts(stream, opened, request, start, len(data), writes=True):
            return STATUS_FILE_LOCK_CONFLICT, 0
    if not data:
        return STATUS_SUCCESS, 0
    end = start + len(data)
    size = len(stream.bytes)
    if paging:
        # Paging I/O never changes the size of a file.
        if start >= size:
            return STATUS_SUCCESS, 0
        data, end = data[: size - start], min(end, size)
    cache = fs.cache if fs.cache is not None and fs.cache.is_cached(request) else None
    if cache is not None and cache.lacks(thread, opened, start, end):
        return STATUS_PENDING, 0
    extends = end > size
    if extends or end > stream.valid:
        thread.write(stream.size)
    if extends:
        if end > stream.allocation and not fs.reserve(thread, stream, end):
            return STATUS_DISK_FULL, 0
        stream.bytes.extend(bytes(end - size))
    if cache is not None:
        # The valid data length follows when the pages are written.
        cache.write(thread, opened, start, data)
    else:
        thread.write(stream.data)
        stream.valid = max(stream.valid, end)
        stream.bytes[start:end] = data
        if fs.cache is not None and not paging:
            fs.purge(thread, stream)
    if not paging:
        _note_write(fs, thread, request, opened, end, extends=extends)
    return STATUS_SUCCESS, len(data)


def _note_write(fs: FileSystem, thread: Thread, request: Request, opened: Open, end: int, *, extends: bool) -> None:
    file = request.file
    if file.Flags & FO_SYNCHRONOUS_IO:
        if request.is_generated:
            thread.write(opened)
        file.CurrentByteOffset = end
    file.Flags |= FO_FILE_MODIFIED | FO_FILE_SIZE_CHANGED if extends else FO_FILE_MODIFIED
    if fs.times:
        fs.stamp(thread, opened.node)
    thread.read(fs.watched)
    if fs.watches:
        changes = FILE_NOTIFY_CHANGE_LAST_WRITE | FILE_NOTIFY_CHANGE_SIZE if extends else FILE_NOTIFY_CHANGE_LAST_WRITE
        report(fs, thread, opened.link, changes, FILE_ACTION_MODIFIED, opened.stream)


def _enter(fs: FileSystem, thread: Thread, request: Request) -> tuple[Open, NTSTATUS | None]:
    """The open that a transfer is for, and why it is refused, if it is."""
    opened = request.file.fs_context
    assert isinstance(opened, Open), "the I/O manager lets no request through on a file that is not open"
    cancel = request.cancel
    thread.read(cancel)
    if cancel.requested:
        return opened, STATUS_CANCELLED
    stream = opened.stream
    thread.read(opened)
    thread.read(stream.guard)
    if opened.dismounted:
        return opened, STATUS_VOLUME_DISMOUNTED
    if opened.cleaned and not request.flags & IRP_PAGING_IO:
        return opened, STATUS_FILE_CLOSED
    if opened.node.is_directory and stream is opened.node.stream:
        return opened, STATUS_INVALID_DEVICE_REQUEST
    return opened, None


def set_end_of_file(fs: FileSystem, thread: Thread, opened: Open, end: int) -> NTSTATUS:
    """FileEndOfFileInformation."""
    stream = opened.stream
    if end < 0:
        return STATUS_INVALID_PARAMETER
    thread.read(stream.guard)
    thread.write(stream.size)
    size = len(stream.bytes)
    if end < size:
        if stream.mapped:
            return STATUS_USER_MAPPED_FILE
        thread.write(stream.data)
        _cut(fs, thread, stream, end)
        fs.reserve(thread, stream, end, shrink=True)
    elif end > size:
        if not fs.reserve(thread, stream, end):
            return STATUS_DISK_FULL
        thread.write(stream.data)
        stream.bytes.extend(bytes(end - size))
    _size_changed(fs, thread, opened)
    return STATUS_SUCCESS


def set_allocation(fs: FileSystem, thread: Thread, opened: Open, allocation: int) -> NTSTATUS:
    """FileAllocationInformation: reserves space; less than there is data for truncates the file."""
    stream = opened.stream
    if allocation < 0:
        return STATUS_INVALID_PARAMETER
    thread.read(stream.guard)
    thread.write(stream.size)
    if allocation < len(stream.bytes):
        if stream.mapped:
            return STATUS_USER_MAPPED_FILE
        thread.write(stream.data)
        _cut(fs, thread, stream, allocation)
    if not fs.reserve(thread, stream, allocation, shrink=True):
        return STATUS_DISK_FULL
    _size_changed(fs, thread, opened)
    return STATUS_SUCCESS


def set_valid_data_length(fs: FileSystem, thread: Thread, opened: Open, length: int) -> NTSTATUS:
    """FileValidDataLengthInformation: may only grow, and not beyond the end of file."""
    stream = opened.stream
    thread.write(stream.size)
    if not stream.valid <= length <= len(stream.bytes):
        return STATUS_INVALID_PARAMETER
    stream.valid = length
    return STATUS_SUCCESS


def zero(fs: FileSystem, thread: Thread, opened: Open, start: int, beyond: int) -> NTSTATUS:
    """FSCTL_SET_ZERO_DATA."""
    stream = opened.stream
    if start < 0 or beyond < start:
        return STATUS_INVALID_PARAMETER
    thread.read(stream.size)
    thread.write(stream.data)
    end = min(beyond, len(stream.bytes))
    if start < end:
        stream.bytes[start:end] = bytes(end - start)
    return STATUS_SUCCESS


def _cut(fs: FileSystem, thread: Thread, stream: Stream, end: int) -> None:
    del stream.bytes[end:]
    stream.valid = min(stream.valid, end)
    fs.purge(thread, stream, end)


def _size_changed(fs: FileSystem, thread: Thread, opened: Open) -> None:
    opened.file.Flags |= FO_FILE_SIZE_CHANGED
    if fs.times:
        fs.stamp(thread, opened.node)
    changes = FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE
    fs.notify(thread, opened.link, changes, FILE_ACTION_MODIFIED, opened.stream)
