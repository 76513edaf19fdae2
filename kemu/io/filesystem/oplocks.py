"""Oplocks: granting, breaking and acknowledging them.

An oplock is a request that stays pending while its owner may cache. Another open's create or I/O breaks it: the request
completes and, where the owner may have something to write back, whoever broke it waits, without limit, until the owner
acknowledges the break or closes its handle (FLT-OPL-06). The legacy levels are kept as what they allow to cache: level
1 reading and writing, batch handles too, level 2 reading, filter reading and handles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from kemu.io.constants import FO_SYNCHRONOUS_IO
from kemu.io.file_constants import (
    FILE_APPEND_DATA,
    FILE_COMPLETE_IF_OPLOCKED,
    FILE_EXECUTE,
    FILE_READ_ATTRIBUTES,
    FILE_READ_DATA,
    FILE_READ_EA,
    FILE_WRITE_ATTRIBUTES,
    FSCTL_OPBATCH_ACK_CLOSE_PENDING,
    FSCTL_OPLOCK_BREAK_ACK_NO_2,
    FSCTL_OPLOCK_BREAK_ACKNOWLEDGE,
    FSCTL_OPLOCK_BREAK_NOTIFY,
    FSCTL_REQUEST_BATCH_OPLOCK,
    FSCTL_REQUEST_FILTER_OPLOCK,
    FSCTL_REQUEST_OPLOCK,
    FSCTL_REQUEST_OPLOCK_LEVEL_1,
    FSCTL_REQUEST_OPLOCK_LEVEL_2,
    OPLOCK_LEVEL_CACHE_HANDLE,
    OPLOCK_LEVEL_CACHE_READ,
    OPLOCK_LEVEL_CACHE_WRITE,
    REQUEST_OPLOCK_INPUT_FLAG_ACK,
    REQUEST_OPLOCK_OUTPUT_FLAG_ACK_REQUIRED,
)
from kemu.io.filesystem.nodes import Open
from kemu.io.filesystem.waiting import Host, Waiting, wait
from kemu.io.structures import REQUEST_OPLOCK_INPUT_BUFFER, REQUEST_OPLOCK_OUTPUT_BUFFER
from kemu.nt.access import READ_CONTROL, SYNCHRONIZE
from kemu.nt.status import (
    STATUS_FILE_CLOSED,
    STATUS_INVALID_OPLOCK_PROTOCOL,
    STATUS_INVALID_PARAMETER,
    STATUS_OPLOCK_BREAK_IN_PROGRESS,
    STATUS_OPLOCK_HANDLE_CLOSED,
    STATUS_OPLOCK_NOT_GRANTED,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.runtime import Cell, Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import Result
    from kemu.io.request import Request

R: Final = OPLOCK_LEVEL_CACHE_READ
H: Final = OPLOCK_LEVEL_CACHE_HANDLE
W: Final = OPLOCK_LEVEL_CACHE_WRITE

FILE_OPLOCK_BROKEN_TO_LEVEL_2: Final = 7
FILE_OPLOCK_BROKEN_TO_NONE: Final = 8

LEGACY: Final = {
    FSCTL_REQUEST_OPLOCK_LEVEL_1: R | W,
    FSCTL_REQUEST_BATCH_OPLOCK: R | W | H,
    FSCTL_REQUEST_FILTER_OPLOCK: R | W | H,
    FSCTL_REQUEST_OPLOCK_LEVEL_2: R,
}
ACKNOWLEDGEMENTS: Final = frozenset(
    {FSCTL_OPLOCK_BREAK_ACKNOWLEDGE, FSCTL_OPLOCK_BREAK_ACK_NO_2, FSCTL_OPBATCH_ACK_CLOSE_PENDING}
)
CODES: Final = frozenset({*LEGACY, *ACKNOWLEDGEMENTS, FSCTL_OPLOCK_BREAK_NOTIFY, FSCTL_REQUEST_OPLOCK})

HARMLESS: Final = FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES | SYNCHRONIZE | READ_CONTROL
"""An open that asks for no more than this breaks nothing."""
READS_ONLY: Final = HARMLESS | FILE_READ_DATA | FILE_READ_EA | FILE_EXECUTE
"""An open that asks for no more than this leaves a filter oplock alone."""


class Holder:
    """One oplock that is held."""

    __slots__ = ("breaking_to", "code", "level", "open", "waiting")

    def __init__(self, opened: Open, code: int, level: int) -> None:
        self.open = opened
        self.code = code
        self.level = level
        self.waiting: list[Waiting] = []
        """The request that is pending while the oplock is held."""
        self.breaking_to: int | None = None
        """The level that a break leaves, until it is acknowledged."""

    @property
    def is_legacy(self) -> bool:
        """Whether it was requested by one of the older control codes."""
        return self.code != FSCTL_REQUEST_OPLOCK


class Oplock:
    """The oplocks of a stream, and who waits for their break."""

    __slots__ = ("breakers", "holders")

    def __init__(self) -> None:
        self.holders: list[Holder] = []
        self.breakers: list[Waiting] = []


class Guarded(Protocol):
    """What has oplocks: a stream, or an object that a filter keeps for one."""

    oplock: Oplock | None

    @property
    def guard(self) -> Cell:
        """The cell of locks and oplocks."""
        ...

    @property
    def opened(self) -> Sequence[object]:
        """The opens of it."""
        ...

    @property
    def locks(self) -> Sequence[object]:
        """The byte-range locks."""
        ...


def oplock_control(fs: Host, thread: Thread, request: Request, stream: Guarded | None = None) -> Result:
    """An FSCTL about the oplocks of *stream*, the one that is open unless it is given."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    if opened.cleaned:
        return STATUS_FILE_CLOSED, 0
    stream = stream or opened.stream
    thread.write(stream.guard)
    code = request.parameters.FsControlCode
    oplock = stream.oplock
    if code == FSCTL_OPLOCK_BREAK_NOTIFY:
        if oplock is None or not any(holder.breaking_to is not None for holder in oplock.holders):
            return STATUS_SUCCESS, 0
        return wait(fs, thread, request, oplock.breakers, stream.guard)
    if code in ACKNOWLEDGEMENTS:
        return _acknowledge(fs, thread, request, opened, stream, _legacy_answer(code, opened, stream))
    if code == FSCTL_REQUEST_OPLOCK:
        wanted = request.parameters.InputBuffer
        if not isinstance(wanted, REQUEST_OPLOCK_INPUT_BUFFER):
            return STATUS_INVALID_PARAMETER, 0
        if wanted.Flags & REQUEST_OPLOCK_INPUT_FLAG_ACK:
            return _acknowledge(fs, thread, request, opened, stream, wanted.RequestedOplockLevel)
        level = wanted.RequestedOplockLevel
        if level not in {R, R | H, R | W, R | W | H}:
            return STATUS_INVALID_PARAMETER, 0
    else:
        level = LEGACY[code]
        if opened.node.is_directory:
            return STATUS_INVALID_PARAMETER, 0
    return _request(fs, thread, request, opened, stream, code, level)


def _request(
    fs: Host, thread: Thread, request: Request, opened: Open, stream: Guarded, code: int, level: int
) -> Result:
    thread.read(opened.node)
    oplock = stream.oplock
    if request.file.Flags & FO_SYNCHRONOUS_IO:
        return STATUS_OPLOCK_NOT_GRANTED, 0
    others = oplock.holders if oplock is not None else []
    if any(holder.level & W or holder.breaking_to is not None for holder in others):
        return STATUS_OPLOCK_NOT_GRANTED, 0
    if level & W:
        if len(stream.opened) > 1 or any(holder.open is not opened for holder in others):
            return STATUS_OPLOCK_NOT_GRANTED, 0
    elif stream.locks:
        return STATUS_OPLOCK_NOT_GRANTED, 0
    if oplock is None:
        oplock = stream.oplock = Oplock()
    for holder in [one for one in oplock.holders if one.open is opened]:
        # A new request of the same open takes the place of the old one.
        _end(thread, oplock, holder, 0, R if holder.is_legacy else holder.level)
    return _hold(fs, thread, request, stream, oplock, Holder(opened, code, level))


def _hold(fs: Host, thread: Thread, request: Request, stream: Guarded, oplock: Oplock, holder: Holder) -> Result:
    result = wait(fs, thread, request, holder.waiting, stream.guard)
    if result[0] == STATUS_PENDING and holder not in oplock.holders:
        oplock.holders.append(holder)
    return result


def _legacy_answer(code: int, opened: Open, stream: Guarded) -> int:
    """What level an acknowledgement of an older kind accepts."""
    oplock = stream.oplock
    if code != FSCTL_OPLOCK_BREAK_ACKNOWLEDGE or oplock is None:
        return 0
    for holder in oplock.holders:
        if holder.open is opened and holder.breaking_to is not None:
            return holder.breaking_to
    return 0


def _acknowledge(fs: Host, thread: Thread, request: Request, opened: Open, stream: Guarded, level: int) -> Result:
    oplock = stream.oplock
    holders = oplock.holders if oplock is not None else []
    holder = next((one for one in holders if one.open is opened and one.breaking_to is not None), None)
    if oplock is None or holder is None or holder.breaking_to is None or level & ~holder.breaking_to:
        return STATUS_INVALID_OPLOCK_PROTOCOL, 0
    if request.parameters.FsControlCode == FSCTL_OPBATCH_ACK_CLOSE_PENDING:
        # The owner is about to close: whoever waits goes on when it has.
        return STATUS_SUCCESS, 0
    holder.breaking_to = None
    holder.level = level
    result: Result = (STATUS_SUCCESS, 0)
    if level:
        result = _hold(fs, thread, request, stream, oplock, holder)
    if not level or result[0] != STATUS_PENDING:
        oplock.holders.remove(holder)
    _resume(thread, oplock)
    return result


def _resume(thread: Thread, oplock: Oplock) -> None:
    """Let those go on who waited for a break; they look again."""
    if any(holder.breaking_to is not None for holder in oplock.holders):
        return
    for waiting in list(oplock.breakers):
        waiting.again(thread)


def _end(thread: Thread, oplock: Oplock, holder: Holder, to: int, before: int, *, acknowledge: bool = False) -> None:
    """Complete the request of *holder*: its oplock is broken to level *to*."""
    for waiting in list(holder.waiting):
        information = 0
        if holder.is_legacy:
            information = FILE_OPLOCK_BROKEN_TO_LEVEL_2 if to else FILE_OPLOCK_BROKEN_TO_NONE
        else:
            flags = REQUEST_OPLOCK_OUTPUT_FLAG_ACK_REQUIRED if acknowledge else 0
            waiting.request.buffer = REQUEST_OPLOCK_OUTPUT_BUFFER(before, to, flags)  # type: ignore[assignment]
            information = REQUEST_OPLOCK_OUTPUT_BUFFER.SIZE
        waiting.end(thread, STATUS_SUCCESS, information)
    if acknowledge:
        holder.breaking_to = to
    else:
        oplock.holders.remove(holder)


def _break(
    fs: Host, thread: Thread, request: Request, stream: Guarded, breaks: list[tuple[Holder, int]]
) -> Result | None:
    """Break oplocks to the given levels; what *request* comes to for now, or None if it may go on."""
    oplock = stream.oplock
    assert oplock is not None
    waits = False
    for holder, to in breaks:
        # Where only handles are cached, a write goes on without the acknowledgement: there is nothing to write back.
        waits = waits or bool(holder.level & W) or bool(holder.level & H and to)
        if holder.breaking_to is None:
            thread.write(stream.guard)
            _end(thread, oplock, holder, to, holder.level, acknowledge=bool(holder.level & (W | H)))
    if not waits:
        return None
    return wait(fs, thread, request, oplock.breakers, stream.guard)


def break_for_io(fs: Host, thread: Thread, request: Request, stream: Guarded, *, writes: bool) -> Result | None:
    """A read or write, or what amounts to one, is about to happen. The caller has read the guard."""
    oplock = stream.oplock
    if oplock is None or not oplock.holders:
        return None
    opened = request.file.fs_context
    breaks: list[tuple[Holder, int]] = []
    for holder in oplock.holders:
        if holder.open is opened and not (writes and holder.code == FSCTL_REQUEST_OPLOCK_LEVEL_2):
            continue
        if writes:
            breaks.append((holder, 0))
        elif holder.level & W and holder.code != FSCTL_REQUEST_FILTER_OPLOCK:
            breaks.append((holder, R if holder.is_legacy else holder.level & ~W))
    return _break(fs, thread, request, stream, breaks) if breaks else None


def break_for_create(
    fs: Host, thread: Thread, request: Request, stream: Guarded, access: int, *, refused: bool, replaces: bool
) -> Result | None:
    """Another open is about to be made, or about to be *refused* because of the sharing modes. The caller has read the
    guard.
    """
    oplock = stream.oplock
    if oplock is None or not oplock.holders or not access & ~HARMLESS:
        return None
    breaks: list[tuple[Holder, int]] = []
    for holder in oplock.holders:
        level = holder.level
        if refused:
            # Caching handles may mean that the file is open without need: a break may make the sharing modes agree.
            if level & H:
                to = (0 if holder.code == FSCTL_REQUEST_FILTER_OPLOCK else R) if holder.is_legacy else level & ~H
                breaks.append((holder, to))
        elif replaces:
            breaks.append((holder, 0))
        elif holder.code == FSCTL_REQUEST_FILTER_OPLOCK:
            if access & ~READS_ONLY or access & FILE_APPEND_DATA:
                breaks.append((holder, 0))
        elif level & W:
            breaks.append((holder, R if holder.is_legacy else level & ~W))
    if not breaks:
        return None
    if request.parameters.CreateOptions & FILE_COMPLETE_IF_OPLOCKED and not refused:
        for holder, to in breaks:
            if holder.breaking_to is None:
                thread.write(stream.guard)
                _end(thread, oplock, holder, to, holder.level, acknowledge=bool(holder.level & (W | H)))
        return STATUS_OPLOCK_BREAK_IN_PROGRESS, 0
    return _break(fs, thread, request, stream, breaks)


def lets_fast_io_pass(stream: Guarded, *, writes: bool) -> bool:
    """Whether the oplocks of *stream* are no obstacle to fast I/O (FsRtlOplockIsFastIoPossible). The caller has read
    the guard.
    """
    oplock = stream.oplock
    if oplock is None:
        return True
    return not any(writes or holder.level & W or holder.breaking_to is not None for holder in oplock.holders)


def close_oplocks(fs: Host, thread: Thread, opened: Open, stream: Guarded | None = None) -> None:
    """A handle is closed: its oplocks go, and who waits for their break goes on."""
    stream = stream or opened.stream
    oplock = stream.oplock
    if oplock is None:
        return
    mine = [holder for holder in oplock.holders if holder.open is opened]
    if not mine:
        return
    thread.write(stream.guard)
    for holder in mine:
        for waiting in list(holder.waiting):
            if holder.is_legacy:
                waiting.end(thread, STATUS_SUCCESS, FILE_OPLOCK_BROKEN_TO_NONE)
            else:
                waiting.end(thread, STATUS_OPLOCK_HANDLE_CLOSED)
        oplock.holders.remove(holder)
    _resume(thread, oplock)


def forget_oplock(thread: Thread, waiting: Waiting, stream: Guarded) -> None:
    """The pending request of an owner was cancelled: its oplock goes."""
    oplock = stream.oplock
    if oplock is None:
        return
    for holder in list(oplock.holders):
        if holder.waiting is waiting.queue and holder.breaking_to is None:
            oplock.holders.remove(holder)
    _resume(thread, oplock)
