"""Oplocks that a minifilter keeps for a file itself (FLT-OPL): granting, checking and breaking them.

The rules of granting and breaking are those of the file system's own oplocks (`kemu.io.filesystem.oplocks`); here they
work on an object of the driver's, and what waits are operations that the driver pends. Whoever acknowledges a break
lets those go on, in its own thread: there the completion routines of FltCheckOplock are called, which may be before
that routine has returned to the callback that it was called from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from kemu.fltmgr.constants import (
    FLT_PREOP_CALLBACK_STATUS,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
)
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.observer import FltObserver
from kemu.fltmgr.pipeline import Drive
from kemu.fltmgr.steps import ResumePre
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.io.constants import (
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
    FILE_SUPERSEDE,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
    IRP_PAGING_IO,
)
from kemu.io.file_constants import (
    FSCTL_SET_ZERO_DATA,
    FileAllocationInformation,
    FileEndOfFileInformation,
    map_generic,
)
from kemu.io.filesystem.nodes import Open
from kemu.io.filesystem.oplocks import (
    Guarded,
    Oplock,
    break_for_create,
    break_for_io,
    close_oplocks,
    forget_oplock,
    oplock_control,
)
from kemu.io.filesystem.waiting import Waiting
from kemu.io.request import IRP_OPERATION, Request
from kemu.nt.driver import DriverActor, in_driver, routine_name
from kemu.nt.event import KEVENT, SetEvent
from kemu.nt.status import (
    NTSTATUS,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report
from kemu.runtime import Cell, Operation, Thread, current_thread

CompletionRoutine = Callable[[FLT_CALLBACK_DATA, Any], Awaitable[None]]
"""``WaitCompletionRoutine(CallbackData, Context)`` and ``PrePostCallbackDataRoutine(CallbackData, Context)``."""

CHECKED: Final = frozenset(
    {
        IRP_MJ_CLEANUP,
        IRP_MJ_CREATE,
        IRP_MJ_FILE_SYSTEM_CONTROL,
        IRP_MJ_FLUSH_BUFFERS,
        IRP_MJ_LOCK_CONTROL,
        IRP_MJ_READ,
        IRP_MJ_SET_INFORMATION,
        IRP_MJ_WRITE,
    }
)
"""The operations that may break an oplock (FLT-OPL-04)."""
REPLACES: Final = frozenset({FILE_SUPERSEDE, FILE_OVERWRITE, FILE_OVERWRITE_IF})
MUST_BE_RETURNED: Final = frozenset({int(FLT_PREOP_COMPLETE), int(FLT_PREOP_PENDING)})


class Posted:
    """An operation that waits for the break of an oplock."""

    __slots__ = ("context", "event", "frame", "is_over", "is_posted", "routine")

    def __init__(self, frame: Frame, context: Any, routine_: CompletionRoutine | None) -> None:
        self.frame = frame
        self.context = context
        self.routine = routine_
        self.event: KEVENT | None = None
        """What the caller waits for that gave no completion routine."""
        self.is_posted = False
        """Whether PrePostCallbackDataRoutine has returned."""
        self.is_over = False
        """Whether the wait was over before that."""


class OPLOCK(Cell):
    """An oplock of a minifilter's (PFLT OPLOCK); the cell of who holds it and who waits."""

    __slots__ = ("checking", "controlling", "driver", "due", "initialised", "opens", "oplock", "posted", "stream")

    locks: Sequence[object] = ()

    def __init__(self, label: str = "oplock") -> None:
        super().__init__(current_thread(), label)
        self.initialised = False
        self.driver: DriverActor | None = None
        self.oplock: Oplock | None = None
        self.opens = 0
        self.stream: Guarded | None = None
        """The stream that it is for, known from the first request of an oplock."""
        self.due: list[tuple[Request, bool]] = []
        self.posted: dict[Request, Posted] = {}
        """What waits, or holds the oplock, by its request."""
        self.controlling: Thread | None = None
        """Who requests an oplock at the moment."""
        self.checking: list[Thread] = []
        """Who checks it at the moment."""

    # What the rules of the file system's oplocks look at.

    @property
    def guard(self) -> Cell:
        """Itself: there is nothing else to guard."""
        return self

    @property
    def opened(self) -> Sequence[object]:
        """As many as the driver says that there are."""
        return range(self.opens)

    def cancelled(self, thread: Thread, waiting: Waiting) -> None:
        """The operation that *waiting* is about was cancelled, and is off its list."""
        forget_oplock(thread, waiting, self)

    async def complete(self, request: Request) -> None:
        """The wait of *request* is over: it was cancelled, or the oplock is broken that it stands for."""
        await self.settle()
        await self._finish(request, again=False)

    # Going on.

    async def settle(self) -> None:
        """Let those go on whose wait the last step has ended."""
        due, self.due = self.due, []
        for request, again in due:
            await self._finish(request, again=again)

    async def _finish(self, request: Request, *, again: bool) -> None:
        """Give *request* back: the owner's is complete, one that has waited goes on."""
        posted = self.posted.pop(request)
        frame = posted.frame
        if again:
            request.status = STATUS_SUCCESS
        if posted.event is not None:
            await SetEvent(posted.event)
        elif posted.routine is None:
            await complete_pended(frame, request)
        elif posted.is_posted:
            await call_completion(self, posted)
        else:
            thread = current_thread()
            thread.write(self)
            thread.exchange(self)
            posted.is_over = True


async def complete_pended(frame: Frame, request: Request) -> None:
    """Complete an operation that was pended for the driver: the oplock that it stands for is broken."""
    pipeline = current_system().get(FilterManager).pipeline
    status, information = request.status, request.information
    frame.result = None
    # No call of the driver's: what it holds at the moment is no business of this operation.
    await ResumePre(FltObserver(), frame, FLT_PREOP_COMPLETE, None)
    pipeline.after_pre(current_thread(), frame, FLT_PREOP_COMPLETE, None, Drive())
    request.status, request.information = status, information
    frame.operation.up = frame.index
    await pipeline.complete_up(frame.operation, None)


async def call_completion(oplock: OPLOCK, posted: Posted) -> None:
    """Call the completion routine of FltCheckOplock: the break is over."""
    frame, done = posted.frame, posted.routine
    assert done is not None
    block = frame.status_block()
    object.__setattr__(block, "Status", frame.operation.request.status)
    registry = current_system().get(Oplocks)
    thread = current_thread()
    inside = registry.completing.setdefault(thread, [])
    inside.append(oplock)
    data = frame.data
    assert data is not None
    driver = frame.node.filter.driver
    await in_driver(driver, routine_name(done), done, data, posted.context)
    inside.pop()


class Oplocks:
    """The oplocks of all minifilters of a run, and what their callbacks were told to return."""

    def __init__(self) -> None:
        self.known: list[OPLOCK] = []
        self.told: dict[Frame, int] = {}
        """What the last check of an operation has returned to its callback."""
        self.completing: dict[Thread, list[OPLOCK]] = {}
        """The oplocks whose completion routines a thread is in."""
        self.seen_free: dict[Thread, list[OPLOCK]] = {}
        """The oplocks that a thread has asked for in its callback, and that nobody held then."""

    def asked(self, thread: Thread, oplock: OPLOCK, is_held: bool) -> None:
        """*thread* has looked at *oplock*, inside the calling step."""
        seen = self.seen_free.setdefault(thread, [])
        if is_held:
            if oplock in seen:
                seen.remove(oplock)
        elif oplock not in seen:
            seen.append(oplock)

    def pre_returned(self, frame: Frame, status: object, who: str) -> None:
        """A callback has returned *status*: is that what it was told to return, and has it looked at its oplocks?"""
        told = self.told.get(frame)
        seen = self.seen_free.pop(current_thread(), [])
        if told is None and status != FLT_PREOP_COMPLETE:
            self._outdated(seen, who)
        if told is not None and told in MUST_BE_RETURNED and status != told:
            wanted = FLT_PREOP_CALLBACK_STATUS(told)
            report("oplock-status-dropped", f"{who} returned {status}, where the oplock's answer was {wanted}")
        elif told is None and frame.operation.request.major in CHECKED:
            self._unchecked(frame, who)

    def _outdated(self, seen: list[OPLOCK], who: str) -> None:
        """A callback goes on after it has seen that nobody holds the oplocks *seen* (FLT-RACE-70)."""
        for oplock in seen:
            current_thread().read(oplock)
            if oplock.oplock is not None and oplock.oplock.holders:
                report(
                    "toctou-state",
                    f"{who} went on because nobody held {oplock.label}, which was granted after it had asked",
                )

    def _unchecked(self, frame: Frame, who: str) -> None:
        request = frame.operation.request
        if request.kind != IRP_OPERATION or request.flags & IRP_PAGING_IO:
            return
        for oplock in self.known:
            if oplock.driver is not frame.node.filter.driver or oplock.stream is None:
                continue
            current_thread().read(oplock)
            holders = oplock.oplock.holders if oplock.oplock is not None else []
            opened = request.file.fs_context
            if all(holder.open is opened for holder in holders):
                continue
            if isinstance(opened, Open):
                concerned = opened.stream is oplock.stream
            else:
                node = request.volume.filesystem.find(request.file.FileName)
                concerned = node is not None and node.stream is oplock.stream
            if concerned and not _is_oplock_control(request):
                report("oplock-unchecked", f"{who} passed it on without FltCheckOplock, and {oplock.label} is held")


def _is_oplock_control(request: Request) -> bool:
    return request.major == IRP_MJ_FILE_SYSTEM_CONTROL and request.parameters.FsControlCode != FSCTL_SET_ZERO_DATA


class BeginControl(Operation[None]):
    """A request of an oplock begins: nobody may check the oplock until it is done (FLT-OPL-05)."""

    __slots__ = ("oplock",)
    kind = "begin a request of"

    def __init__(self, oplock: OPLOCK) -> None:
        self.oplock = oplock

    def perform(self, thread: Thread) -> None:
        thread.write(self.oplock)
        others = [one.label for one in self.oplock.checking if one is not thread]
        if others:
            _unsynchronised(self.oplock, thread.label, others[0])
        self.oplock.controlling = thread

    def target(self) -> Cell:
        return self.oplock


class Control(Operation[tuple[NTSTATUS, int]]):
    """An oplock is requested, or its break acknowledged."""

    __slots__ = ("frame", "opens", "oplock")
    kind = "request or acknowledge"

    def __init__(self, oplock: OPLOCK, frame: Frame, opens: int) -> None:
        self.oplock = oplock
        self.frame = frame
        self.opens = opens

    def perform(self, thread: Thread) -> tuple[NTSTATUS, int]:
        oplock, frame = self.oplock, self.frame
        request = frame.operation.request
        opened = request.file.fs_context
        assert isinstance(opened, Open)
        thread.write(oplock)
        oplock.controlling = None
        oplock.opens = self.opens
        oplock.stream = opened.stream
        posted = Posted(frame, None, None)
        result = oplock_control(oplock, thread, request, oplock)
        if result[0] == STATUS_PENDING:
            oplock.posted[request] = posted
            frame.handed = True
        return result

    def target(self) -> Cell:
        return self.oplock


class BeginCheck(Operation[None]):
    """A check of an oplock begins; it takes a moment."""

    __slots__ = ("oplock",)
    kind = "begin a check of"

    def __init__(self, oplock: OPLOCK) -> None:
        self.oplock = oplock

    def perform(self, thread: Thread) -> None:
        thread.write(self.oplock)
        if self.oplock.controlling is not None:
            _unsynchronised(self.oplock, self.oplock.controlling.label, thread.label)
        self.oplock.checking.append(thread)

    def target(self) -> Cell:
        return self.oplock


class Check(Operation["tuple[NTSTATUS, int] | None"]):
    """An operation breaks the oplocks that it conflicts with: what it comes to for now; None if it may go on."""

    __slots__ = ("oplock", "posted")
    kind = "check"

    def __init__(self, oplock: OPLOCK, posted: Posted) -> None:
        self.oplock = oplock
        self.posted = posted

    def perform(self, thread: Thread) -> tuple[NTSTATUS, int] | None:
        oplock, posted = self.oplock, self.posted
        frame = posted.frame
        request = frame.operation.request
        thread.write(oplock)
        oplock.checking.remove(thread)
        result = self._break(thread, request)
        if result is not None and result[0] == STATUS_PENDING:
            oplock.posted[request] = posted
            if posted.routine is not None:
                frame.handed = True
        return result

    def _break(self, thread: Thread, request: Request) -> tuple[NTSTATUS, int] | None:
        oplock = self.oplock
        major, parameters = request.major, request.parameters
        if major == IRP_MJ_CREATE:
            access = map_generic(parameters.DesiredAccess)
            replaces = parameters.Disposition in REPLACES
            return break_for_create(oplock, thread, request, oplock, access, refused=False, replaces=replaces)
        if major == IRP_MJ_CLEANUP:
            opened = request.file.fs_context
            if isinstance(opened, Open):
                close_oplocks(oplock, thread, opened, oplock)
            return None
        if major == IRP_MJ_READ:
            return break_for_io(oplock, thread, request, oplock, writes=False)
        if (
            major in {IRP_MJ_WRITE, IRP_MJ_LOCK_CONTROL}
            or (major == IRP_MJ_FILE_SYSTEM_CONTROL and not _is_oplock_control(request))
            or (
                major == IRP_MJ_SET_INFORMATION
                and parameters.FileInformationClass in {FileEndOfFileInformation, FileAllocationInformation}
            )
        ):
            return break_for_io(oplock, thread, request, oplock, writes=True)
        return None

    def target(self) -> Cell:
        return self.oplock


def _unsynchronised(oplock: OPLOCK, requester: str, checker: str) -> None:
    report(
        "oplock-unsynchronized",
        f"{requester} requests {oplock.label} while {checker} checks it: requests have to be exclusive",
    )


def usable(oplock: OPLOCK, name: str) -> None:
    """Finding of a routine on an oplock that is not initialised."""
    if not oplock.initialised:
        report(
            "ke.uninitialised", f"{name} on {oplock.label}, before FltInitializeOplock or after FltUninitializeOplock"
        )
