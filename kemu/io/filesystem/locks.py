"""Byte-range locks: IRP_MJ_LOCK_CONTROL, and what they forbid to reads and writes.

A range belongs to a file object, a process and a key. Locks are mandatory: a shared lock forbids everybody to write,
its owner too, an exclusive one forbids everything to everybody but its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kemu.io.file_constants import IRP_MN_LOCK, IRP_MN_UNLOCK_ALL, IRP_MN_UNLOCK_ALL_BY_KEY, IRP_MN_UNLOCK_SINGLE
from kemu.io.filesystem.nodes import Open, Stream
from kemu.io.filesystem.waiting import Waiting, wait
from kemu.nt.status import (
    STATUS_CANCELLED,
    STATUS_FILE_CLOSED,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_LOCK_RANGE,
    STATUS_INVALID_PARAMETER,
    STATUS_LOCK_NOT_GRANTED,
    STATUS_RANGE_NOT_LOCKED,
    STATUS_SUCCESS,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Result
    from kemu.io.request import Request

LARGEST = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class ByteRangeLock:
    """One locked range; *last* is its last byte, and smaller than *start* if it is empty."""

    start: int
    last: int
    exclusive: bool
    open: Open
    process: Any
    key: int

    def overlaps(self, start: int, last: int) -> bool:
        """Whether the range has a byte in common with the one from *start* to *last*."""
        return self.start <= last and start <= self.last


def _process_of(request: Request) -> Any:
    """Who locks: the process of the request, which a redirector may set."""
    process = request.parameters.ProcessId
    return process if process is not None else getattr(request.thread, "process", None)


def conflicts(stream: Stream, opened: Open, request: Request, start: int, length: int, *, writes: bool) -> bool:
    """Whether a lock forbids a transfer (FsRtlFastCheckLockForRead and ForWrite). The caller has read the guard."""
    if not length:
        return False
    last, key, process = start + length - 1, request.parameters.Key, _process_of(request)
    return any(
        lock.overlaps(start, last)
        and (
            (writes and not lock.exclusive)
            or (lock.exclusive and not (lock.open is opened and lock.key == key and lock.process is process))
        )
        for lock in stream.locks
    )


def lock_control(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_LOCK_CONTROL."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    cancel = request.cancel
    thread.read(cancel)
    if cancel.requested:
        return STATUS_CANCELLED, 0
    thread.read(opened)
    if opened.cleaned:
        return STATUS_FILE_CLOSED, 0
    stream = opened.stream
    if stream.node.is_directory and stream is stream.node.stream:
        return STATUS_INVALID_PARAMETER, 0
    minor = request.minor
    if minor == IRP_MN_LOCK:
        return _lock(fs, thread, request, opened)
    if minor == IRP_MN_UNLOCK_SINGLE:
        return _unlock_single(fs, thread, request, opened)
    if minor in {IRP_MN_UNLOCK_ALL, IRP_MN_UNLOCK_ALL_BY_KEY}:
        thread.write(stream.guard)
        process, key = _process_of(request), request.parameters.Key
        stream.locks = [
            lock
            for lock in stream.locks
            if not (lock.open is opened and lock.process is process and (minor == IRP_MN_UNLOCK_ALL or lock.key == key))
        ]
        grant(fs, thread, stream)
        return STATUS_SUCCESS, 0
    return STATUS_INVALID_DEVICE_REQUEST, 0


def _range(request: Request) -> tuple[int, int]:
    start = request.parameters.ByteOffset
    return start, start + request.parameters.Length - 1


def _wanted(request: Request, opened: Open) -> ByteRangeLock:
    parameters = request.parameters
    start, last = _range(request)
    return ByteRangeLock(start, last, parameters.ExclusiveLock, opened, _process_of(request), parameters.Key)


def _free(stream: Stream, wanted: ByteRangeLock) -> bool:
    """Whether *wanted* can be had. Locks of one owner conflict with each other as anybody's do."""
    return not any(
        lock.overlaps(wanted.start, wanted.last) and (wanted.exclusive or lock.exclusive) for lock in stream.locks
    )


def is_free(request: Request, opened: Open) -> bool:
    """Whether the lock that *request* asks for can be had at once. The caller has read the guard."""
    return _free(opened.stream, _wanted(request, opened))


def _lock(fs: FileSystem, thread: Thread, request: Request, opened: Open) -> Result:
    stream = opened.stream
    start, last = _range(request)
    if start < 0 or request.parameters.Length < 0 or last > LARGEST:
        return STATUS_INVALID_LOCK_RANGE, 0
    wanted = _wanted(request, opened)
    if _free(stream, wanted):
        thread.write(stream.guard)
        thread.acquire(stream.guard)
        stream.locks = [*stream.locks, wanted]
        return STATUS_SUCCESS, 0
    if request.parameters.FailImmediately:
        thread.read(stream.guard)
        return STATUS_LOCK_NOT_GRANTED, 0
    return wait(fs, thread, request, fs.waiters_of(stream), stream.guard)


def _unlock_single(fs: FileSystem, thread: Thread, request: Request, opened: Open) -> Result:
    stream = opened.stream
    wanted = _wanted(request, opened)
    for lock in stream.locks:
        if (
            lock.open is opened
            and (lock.start, lock.last) == (wanted.start, wanted.last)
            and lock.key == wanted.key
            and lock.process is wanted.process
        ):
            thread.write(stream.guard)
            thread.release(stream.guard)
            stream.locks = [one for one in stream.locks if one is not lock]
            grant(fs, thread, stream)
            return STATUS_SUCCESS, 0
    thread.read(stream.guard)
    return STATUS_RANGE_NOT_LOCKED, 0


def grant(fs: FileSystem, thread: Thread, stream: Stream) -> None:
    """Give the locks that are waited for and can be had now, in the order in which they were asked for."""
    for waiting in list(fs.waiters_of(stream)):
        opened = waiting.request.file.fs_context
        wanted = _wanted(waiting.request, opened)
        if _free(stream, wanted):
            stream.locks = [*stream.locks, wanted]
            waiting.end(thread, STATUS_SUCCESS)


def release_all(fs: FileSystem, thread: Thread, opened: Open) -> None:
    """A handle is closed: its locks go, and what waits for one on it ends. The caller has read the guard."""
    stream = opened.stream
    waiters: list[Waiting] = [one for one in fs.waiters_of(stream) if one.request.file is opened.file]
    mine = [lock for lock in stream.locks if lock.open is opened]
    if not mine and not waiters:
        return
    thread.write(stream.guard)
    thread.release(stream.guard)
    for waiting in waiters:
        waiting.end(thread, STATUS_RANGE_NOT_LOCKED)
    for lock in mine:
        stream.locks = [one for one in stream.locks if one is not lock]
    grant(fs, thread, stream)
