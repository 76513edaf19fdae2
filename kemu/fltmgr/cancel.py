"""Cancelling operations that a driver has pended (FLT-CANCEL)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.messages import CancelOperation
from kemu.fltmgr.objects import hold, let_go
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, ReleasedCallbackData, frame_of, report_released
from kemu.io.request import IRP_OPERATION
from kemu.nt.driver import in_driver
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_CANCELLED, STATUS_SUCCESS
from kemu.nt.system import current_system, report
from kemu.runtime import Cell, Deliver, Operation, Thread

CanceledCallback = Callable[[FLT_CALLBACK_DATA], Awaitable[None]]


class SetCancelRoutine(Operation[None]):
    """Make an operation cancellable."""

    __slots__ = ("frame", "routine")
    kind = "FltSetCancelCompletion"

    def __init__(self, frame: Frame, routine: Callable[[], Awaitable[None]]) -> None:
        self.frame = frame
        self.routine = routine

    def perform(self, thread: Thread) -> None:
        # Setting a routine on an operation that was cancelled before does not make it fire (FLT-CANCEL-07).
        cancel = self.frame.operation.request.cancel
        thread.write(cancel)
        thread.exchange(cancel)
        remarks = self.frame.remarks
        if remarks is not None and remarks.cancellable_wait:
            report(
                "cancelwait-with-cancel-routine",
                f"{thread.label} sets a cancel routine for {self.frame.operation.label}, with which a thread waits "
                "until it is cancelled",
            )
        cancel.routine = self.routine
        self.frame.cancel_armed = True

    def target(self) -> Cell:
        return self.frame.operation.request.cancel


class ClearCancelRoutine(Operation[bool]):
    """Take the cancel routine away; false if there is none, because cancellation is in progress or none was set."""

    __slots__ = ("frame",)
    kind = "FltClearCancelCompletion"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def perform(self, thread: Thread) -> bool:
        cancel = self.frame.operation.request.cancel
        thread.write(cancel)
        if type(self.frame.data) is ReleasedCallbackData:
            report_released(self.frame, "calls FltClearCancelCompletion on the callback data")
        thread.use(self.frame)
        thread.exchange(cancel)
        # A routine that a cancel-safe queue has set is not this function's to take.
        if cancel.routine is None or not self.frame.cancel_armed:
            return False
        cancel.routine = None
        self.frame.cancel_armed = False
        return True

    def target(self) -> Cell:
        return self.frame.operation.request.cancel


class IsCanceled(Operation[bool]):
    """Look at the cancel bit."""

    __slots__ = ("frame",)
    kind = "FltIsIoCanceled"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def perform(self, thread: Thread) -> bool:
        request = self.frame.operation.request
        thread.read(request.cancel)
        if self.frame.remarks is not None:
            self.frame.remarks.dequeued = None
        return request.kind == IRP_OPERATION and request.cancel.requested

    def target(self) -> Cell:
        return self.frame.operation.request.cancel


@routine(
    "fltkernel",
    """NTSTATUS FltSetCancelCompletion(_In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ PFLT_COMPLETE_CANCELED_CALLBACK CanceledCallback)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltSetCancelCompletion(CallbackData: FLT_CALLBACK_DATA, CanceledCallback: CanceledCallback) -> NTSTATUS:
    """Have ``CanceledCallback(CallbackData)`` called when the operation is cancelled.

    It is called on the canceller's thread without any synchronisation, at APC_LEVEL or below or at DISPATCH_LEVEL
    (FLT-CANCEL-03), and must complete the operation. An operation that was cancelled before is not noticed: test
    FltIsIoCanceled under the cancel spin lock around this call (FLT-CANCEL-07). IRQL: <= DISPATCH_LEVEL.
    Findings: ``cancel-set-illegal``, ``cancel-set-with-cbdq``.
    """
    frame = owned_frame(CallbackData)
    manager = current_system().get(FilterManager)
    manager.observer.setting_cancel(frame)
    actor = frame.node.filter.driver
    instance = frame.instance

    async def cancelled() -> None:
        thread = current_kthread()
        before = thread.irql
        frame.cancel_taken = True
        frame.canceller = thread
        # The callback may go on after it has completed the operation: it keeps the instance itself.
        hold(thread, instance, thread.label)
        if thread.runtime.choose(2, "the cancel callback runs at DISPATCH_LEVEL"):
            thread.irql = DISPATCH_LEVEL
        await Deliver(actor, CancelOperation, frame)
        await in_driver(actor, "the cancel callback", CanceledCallback, CallbackData)
        frame.canceller = None
        thread.irql = before
        let_go(thread, instance, thread.label)

    await SetCancelRoutine(frame, cancelled)
    return STATUS_SUCCESS


@routine("fltkernel", "NTSTATUS FltClearCancelCompletion(_In_ PFLT_CALLBACK_DATA CallbackData)")
async def FltClearCancelCompletion(CallbackData: FLT_CALLBACK_DATA) -> NTSTATUS:
    """Take the cancel callback back.

    STATUS_SUCCESS: it can no longer run. STATUS_CANCELLED: the operation is being cancelled, and the callback owns
    its completion; or none was set (FLT-CANCEL-04). *CallbackData* must still be the driver's: a cancel callback that
    has completed the operation has given it back. IRQL: any. Findings: ``cbd-use-after-release``.
    """
    if await ClearCancelRoutine(frame_of(CallbackData)):
        return STATUS_SUCCESS
    return STATUS_CANCELLED


@routine("fltkernel", "BOOLEAN FltIsIoCanceled(_In_ PFLT_CALLBACK_DATA CallbackData)")
async def FltIsIoCanceled(CallbackData: FLT_CALLBACK_DATA) -> bool:
    """Whether the operation's cancel bit is set; false for operations that are no IRPs (FLT-CANCEL-09). IRQL: any."""
    return await IsCanceled(owned_frame(CallbackData))
