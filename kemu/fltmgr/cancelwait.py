"""Waits that the cancellation of an operation ends, or the end of the thread (FLT-CANCEL-14 to FLT-CANCEL-18)."""

from __future__ import annotations

from collections.abc import Sequence

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, frame_of
from kemu.io.request import IRP_OPERATION
from kemu.nt.apc import takes
from kemu.nt.bugcheck import BugCheck
from kemu.nt.dispatcher import TAKES_NONE, TERMINATING, DispatcherObject, Interruptions, WaitForObjects
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.mutex import check_recursion, note_status
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_CANCELLED, STATUS_THREAD_IS_TERMINATING
from kemu.nt.system import current_system, refuse, report
from kemu.nt.wait import (
    KWAIT_BLOCK,
    WaitAll,
    WaitAny,
    arbitrary_wait,
    checked_object,
    checked_objects,
    checked_timeout,
    relative_timeout,
    wait_stops,
)
from kemu.nt.waitstatus import returned
from kemu.runtime import Cell, Operation, Thread, Waitable, current_thread

Stops = tuple[BugCheck | None, BugCheck | None]


class Cancellation(Waitable):
    """What a cancellable wait sees of the operation's cancellation."""

    __slots__ = ("requested",)

    guards = ("requested",)

    def __init__(self, frame: Frame) -> None:
        super().__init__(current_thread(), f"the cancellation of {frame.operation.label}")
        self.requested = False

    async def fire(self) -> None:
        """The operation is being cancelled: it is the cancel routine of the operation, called by the canceller."""
        thread = current_thread()
        thread.write(self)
        self.requested = True
        self.changed()


class Ends(Interruptions):
    """What but its objects ends a cancellable wait."""

    __slots__ = ("cancellation",)

    def __init__(self, thread: KThread, cancellation: Cancellation | None) -> None:
        super().__init__(thread, takes(thread), user_mode=False, alertable=False)
        self.cancellation = cancellation

    def status(self) -> NTSTATUS | None:
        if self.cancellation is not None and self.cancellation.requested:
            return STATUS_CANCELLED
        if self.thread.alerts & TERMINATING and self.ends != TAKES_NONE:
            return STATUS_THREAD_IS_TERMINATING
        return None


class BeginCancellableWait(Operation[bool]):
    """Have the cancellation of the operation end the wait that follows; false if it was cancelled before."""

    __slots__ = ("cancellation", "frame")
    kind = "begin a cancellable wait for"

    def __init__(self, frame: Frame, cancellation: Cancellation) -> None:
        self.frame = frame
        self.cancellation = cancellation

    def perform(self, thread: Thread) -> bool:
        frame = self.frame
        cancel = frame.operation.request.cancel
        thread.write(cancel)
        thread.exchange(cancel)
        if cancel.routine is not None:
            report(
                "cancelwait-with-cancel-routine",
                f"{thread.label} begins a cancellable wait with {frame.operation.label}, which has a cancel routine",
            )
        if cancel.requested:
            return False
        cancel.routine = self.cancellation.fire
        frame.remember().cancellable_wait = True
        return True

    def target(self) -> Cell:
        return self.frame.operation.request.cancel


class CancellableWait(WaitForObjects):
    """Wait until objects are signalled, the operation is cancelled, or the thread is to end."""

    __slots__ = ()

    def __init__(
        self, objects: Sequence[DispatcherObject], *, all_of_them: bool, timeout: int | None, ends: Ends
    ) -> None:
        super().__init__(objects, all_of_them=all_of_them, timeout=timeout, interruptions=ends)
        if ends.cancellation is not None:
            self.sources = (*self.sources, ends.cancellation)


def _limit(data: FLT_CALLBACK_DATA | None) -> int:
    is_irp = isinstance(data, FLT_CALLBACK_DATA) and frame_of(data).operation.request.kind == IRP_OPERATION
    return PASSIVE_LEVEL if is_irp else APC_LEVEL


def _single_ceiling(
    Object: DispatcherObject, Timeout: int | None = None, CallbackData: FLT_CALLBACK_DATA | None = None
) -> int:
    """PASSIVE_LEVEL for an IRP, else <= APC_LEVEL."""
    return _limit(CallbackData)


def _multiple_ceiling(
    Count: int,
    ObjectArray: Sequence[DispatcherObject],
    WaitType: int,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
    CallbackData: FLT_CALLBACK_DATA | None = None,
) -> int:
    """PASSIVE_LEVEL for an IRP, else <= APC_LEVEL."""
    return _limit(CallbackData)


def _single_stops(
    irql: int, Object: DispatcherObject, Timeout: int | None = None, CallbackData: FLT_CALLBACK_DATA | None = None
) -> Stops:
    return wait_stops(irql, Timeout)


def _multiple_stops(
    irql: int,
    Count: int,
    ObjectArray: Sequence[DispatcherObject],
    WaitType: int,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
    CallbackData: FLT_CALLBACK_DATA | None = None,
) -> Stops:
    return wait_stops(irql, Timeout)


@routine(
    "fltkernel",
    """NTSTATUS FltCancellableWaitForSingleObject(_In_ PVOID Object, _In_opt_ PLARGE_INTEGER Timeout,
       _In_opt_ PFLT_CALLBACK_DATA CallbackData)""",
    max_irql=_single_ceiling,
    under_spin_lock=False,
    stops=_single_stops,
    waits=True,
)
async def FltCancellableWaitForSingleObject(
    Object: DispatcherObject, Timeout: int | None = None, CallbackData: FLT_CALLBACK_DATA | None = None
) -> NTSTATUS:
    """Wait until *Object* is signalled, as KeWaitForSingleObject does, or *CallbackData*'s IRP is cancelled.

    STATUS_SUCCESS, STATUS_TIMEOUT or STATUS_ABANDONED_WAIT_0, which are all success codes; STATUS_CANCELLED for the
    cancellation, STATUS_THREAD_IS_TERMINATING if the thread is to end (FLT-CANCEL-14). What is waited for goes on in
    both cases (FLT-CANCEL-17). The operation must be the caller's and have no cancel routine (FLT-CANCEL-15).
    IRQL: PASSIVE_LEVEL if *CallbackData* is an IRP, else <= APC_LEVEL, with special kernel APCs enabled
    (FLT-CANCEL-16). Findings: ``cancelwait-with-cancel-routine``, ``cbd-use-after-release``.
    """
    name = "FltCancellableWaitForSingleObject"
    checked_object(Object, name)
    return await _wait(name, (Object,), False, Timeout, CallbackData)


@routine(
    "fltkernel",
    """NTSTATUS FltCancellableWaitForMultipleObjects(_In_ ULONG Count, _In_reads_(Count) PVOID ObjectArray[],
       _In_ WAIT_TYPE WaitType, _In_opt_ PLARGE_INTEGER Timeout, _In_opt_ PKWAIT_BLOCK WaitBlockArray,
       _In_opt_ PFLT_CALLBACK_DATA CallbackData)""",
    max_irql=_multiple_ceiling,
    under_spin_lock=False,
    stops=_multiple_stops,
    waits=True,
)
async def FltCancellableWaitForMultipleObjects(
    Count: int,
    ObjectArray: Sequence[DispatcherObject],
    WaitType: int,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
    CallbackData: FLT_CALLBACK_DATA | None = None,
) -> NTSTATUS:
    """Wait for one of several objects, or all, as KeWaitForMultipleObjects does, or until the IRP is cancelled.

    The results are those of both. More than THREAD_WAIT_OBJECTS need a *WaitBlockArray*: finding ``ke.wait-objects``,
    bug check 0xC (FLT-CANCEL-18). IRQL: as FltCancellableWaitForSingleObject, whose findings it has, too.
    """
    name = "FltCancellableWaitForMultipleObjects"
    objects = checked_objects(Count, ObjectArray, WaitBlockArray, name)
    if WaitType not in {WaitAll, WaitAny}:
        refuse(f"{name} with wait type {WaitType!r}", remedy="use WaitAll or WaitAny")
    return await _wait(name, objects, WaitType == WaitAll, Timeout, CallbackData)


async def _wait(
    name: str,
    objects: tuple[DispatcherObject, ...],
    all_of_them: bool,
    timeout: int | None,
    data: FLT_CALLBACK_DATA | None,
) -> NTSTATUS:
    checked_timeout(timeout, name)
    thread = current_kthread()
    if thread.arbitrary and timeout != 0:
        arbitrary_wait(thread, name)
    current_system().get(FilterManager).observer.waiting_cancellably(name)
    check_recursion(objects, thread, name)
    frame = None
    cancellation = None
    if data is not None:
        frame = owned_frame(data)
        if frame.operation.request.kind == IRP_OPERATION:
            cancellation = Cancellation(frame)
            if not await BeginCancellableWait(frame, cancellation):
                return STATUS_CANCELLED
    status: NTSTATUS | None = None
    ticks = relative_timeout(timeout)
    while status is None:
        wait = CancellableWait(objects, all_of_them=all_of_them, timeout=ticks, ends=Ends(thread, cancellation))
        status = await wait
        if thread.apcs is not None:
            await thread.apcs.deliver()
        if ticks and status is None:
            # What an APC takes belongs to the time that the thread has to wait.
            ticks = max(wait.deadline - thread.runtime.clock.read(thread), 0)
    if frame is not None and cancellation is not None:
        cancel = frame.operation.request.cancel
        thread.write(cancel)
        # Behind whoever has cancelled the operation.
        thread.exchange(cancel)
        if cancel.routine == cancellation.fire:
            cancel.routine = None
        frame.remember().cancellable_wait = False
    return note_status(objects, returned(status))
