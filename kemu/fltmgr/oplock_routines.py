"""The routines for oplocks that a minifilter keeps for a file itself (FLT-OPL)."""

from __future__ import annotations

from typing import Any, Final

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.constants import (
    FLT_PREOP_CALLBACK_STATUS,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
)
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.oplock import (
    OPLOCK,
    BeginCheck,
    BeginControl,
    Check,
    CompletionRoutine,
    Control,
    Oplocks,
    Posted,
    call_completion,
    usable,
)
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.io.constants import IRP_MJ_FILE_SYSTEM_CONTROL
from kemu.io.file_constants import (
    OPLOCK_LEVEL_CACHE_HANDLE,
    OPLOCK_LEVEL_CACHE_WRITE,
)
from kemu.io.filesystem.nodes import Open
from kemu.io.filesystem.oplocks import (
    ACKNOWLEDGEMENTS,
    CODES,
    Oplock,
    lets_fast_io_pass,
)
from kemu.io.request import IRP_OPERATION, Request
from kemu.nt.dispatcher import WaitForObject
from kemu.nt.driver import current_driver, in_driver, routine_name
from kemu.nt.event import KEVENT, KeInitializeEvent, NotificationEvent
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    STATUS_INVALID_PARAMETER,
    STATUS_OPLOCK_BREAK_IN_PROGRESS,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report
from kemu.runtime import Cell, Operation, Point, Thread, current_thread

OPLOCK_FLAG_COMPLETE_IF_OPLOCKED: Final = 0x1


@routine("fltkernel", "VOID FltInitializeOplock(_Inout_ POPLOCK Oplock)", max_irql=APC_LEVEL)
def FltInitializeOplock(Oplock: OPLOCK) -> None:
    """Make *Oplock* one that nobody holds. IRQL: <= APC_LEVEL."""
    thread = current_thread()
    thread.write(Oplock)
    Oplock.initialised = True
    Oplock.driver = current_driver()
    known = current_system().get(Oplocks).known
    if Oplock not in known:
        known.append(Oplock)


class EndAll(Operation[None]):
    """An oplock is given up by the driver that keeps it: who holds it and who waits for it goes on."""

    __slots__ = ("oplock",)
    kind = "uninitialise"

    def __init__(self, oplock: OPLOCK) -> None:
        self.oplock = oplock

    def perform(self, thread: Thread) -> None:
        oplock = self.oplock
        thread.write(oplock)
        oplock.initialised = False
        kept = oplock.oplock
        oplock.oplock = None
        if kept is None:
            return
        for holder in kept.holders:
            for waiting in list(holder.waiting):
                waiting.end(thread, STATUS_SUCCESS)
        for waiting in list(kept.breakers):
            waiting.again(thread)

    def target(self) -> Cell:
        return self.oplock


@routine("fltkernel", "VOID FltUninitializeOplock(_In_ POPLOCK Oplock)", max_irql=APC_LEVEL, under_spin_lock=False)
async def FltUninitializeOplock(Oplock: OPLOCK) -> None:
    """Have done with *Oplock*: requests that hold it are completed, operations that wait for a break go on.

    IRQL: <= APC_LEVEL.
    """
    usable(Oplock, "FltUninitializeOplock")
    await EndAll(Oplock)
    current_system().get(Oplocks).known.remove(Oplock)
    await Oplock.settle()


@routine(
    "fltkernel",
    """FLT_PREOP_CALLBACK_STATUS FltOplockFsctrl(_In_ POPLOCK Oplock, _In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ ULONG OpenCount)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltOplockFsctrl(Oplock: OPLOCK, CallbackData: FLT_CALLBACK_DATA, OpenCount: int) -> int:
    """Carry out a file system control about oplocks; *OpenCount* is how many opens of the file there are.

    FLT_PREOP_PENDING if the oplock is granted: the operation stays pending until it is broken (FLT-OPL-06).
    FLT_PREOP_COMPLETE if it is not, after an acknowledgement, or with STATUS_INVALID_PARAMETER for an operation that is
    not about oplocks; the result is in IoStatus then. The callback has to
    return the same (FLT-OPL-07). Nobody may check or break the oplock meanwhile, but for acknowledgements
    (FLT-OPL-05): finding ``oplock-unsynchronized``. IRQL: <= APC_LEVEL.
    """
    return await control(Oplock, CallbackData, OpenCount, "FltOplockFsctrl")


@routine(
    "fltkernel",
    """FLT_PREOP_CALLBACK_STATUS FltOplockFsctrlEx(_In_ POPLOCK Oplock, _In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ ULONG OpenCount, _In_ ULONG Flags)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltOplockFsctrlEx(Oplock: OPLOCK, CallbackData: FLT_CALLBACK_DATA, OpenCount: int, Flags: int) -> int:
    """As FltOplockFsctrl; *Flags* say which kinds of keys are compared, of which kemu has none. IRQL: <= APC_LEVEL."""
    return await control(Oplock, CallbackData, OpenCount, "FltOplockFsctrlEx")


async def control(oplock: OPLOCK, data: FLT_CALLBACK_DATA, opens: int, name: str) -> int:
    """FltOplockFsctrl."""
    usable(oplock, name)
    frame = owned_frame(data)
    request = frame.operation.request
    code = request.parameters.FsControlCode
    if (
        request.major != IRP_MJ_FILE_SYSTEM_CONTROL
        or code not in CODES
        or not isinstance(request.file.fs_context, Open)
    ):
        # It is about something else, or about a file that is not open.
        data.IoStatus.Status, data.IoStatus.Information = STATUS_INVALID_PARAMETER, 0
        return told(frame, FLT_PREOP_COMPLETE)
    if code not in ACKNOWLEDGEMENTS:
        await BeginControl(oplock)
    status, information = await Control(oplock, frame, opens)
    await oplock.settle()
    if status == STATUS_PENDING:
        # The break, and the completion with it, may come before the callback has returned.
        await Point(f"return from {name}", oplock)
        return told(frame, FLT_PREOP_PENDING)
    data.IoStatus.Status, data.IoStatus.Information = status, information
    return told(frame, FLT_PREOP_COMPLETE)


def told(frame: Frame, status: FLT_PREOP_CALLBACK_STATUS) -> int:
    """Note what a callback was told to return, and return that."""
    current_system().get(Oplocks).told[frame] = int(status)
    return status


@routine(
    "fltkernel",
    """FLT_PREOP_CALLBACK_STATUS FltCheckOplock(_In_ POPLOCK Oplock, _In_ PFLT_CALLBACK_DATA CallbackData,
       _In_opt_ PVOID Context, _In_opt_ PFLTOPLOCK_WAIT_COMPLETE_ROUTINE WaitCompletionRoutine,
       _In_opt_ PFLTOPLOCK_PREPOST_CALLBACKDATA_ROUTINE PrePostCallbackDataRoutine)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltCheckOplock(
    Oplock: OPLOCK,
    CallbackData: FLT_CALLBACK_DATA,
    Context: Any,
    WaitCompletionRoutine: CompletionRoutine | None,
    PrePostCallbackDataRoutine: CompletionRoutine | None,
) -> int:
    """Break the oplocks that the operation conflicts with, and wait for their acknowledgement if that is necessary.

    FLT_PREOP_SUCCESS_WITH_CALLBACK if the operation may go on. Otherwise without a *WaitCompletionRoutine* the caller
    waits here (FLT-OPL-02). With one, FLT_PREOP_PENDING: *PrePostCallbackDataRoutine* was called, and the completion
    routine is called when the break is over, by whoever acknowledges it and perhaps before this routine returns; the
    operation is then the driver's to resume. FLT_PREOP_COMPLETE if it was cancelled meanwhile, with the result in
    IoStatus (FLT-OPL-01). The callback has to return the same (FLT-OPL-07). Only IRPs break oplocks.

    IRQL: <= APC_LEVEL. Findings: ``oplock-recheck-deadlock`` (FLT-OPL-03), ``oplock-unsynchronized`` (FLT-OPL-05).
    """
    return await check(Oplock, CallbackData, Context, WaitCompletionRoutine, PrePostCallbackDataRoutine, 0)


@routine(
    "fltkernel",
    """FLT_PREOP_CALLBACK_STATUS FltCheckOplockEx(_In_ POPLOCK Oplock, _In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ ULONG Flags, _In_opt_ PVOID Context, _In_opt_ PFLTOPLOCK_WAIT_COMPLETE_ROUTINE WaitCompletionRoutine,
       _In_opt_ PFLTOPLOCK_PREPOST_CALLBACKDATA_ROUTINE PrePostCallbackDataRoutine)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltCheckOplockEx(
    Oplock: OPLOCK,
    CallbackData: FLT_CALLBACK_DATA,
    Flags: int,
    Context: Any,
    WaitCompletionRoutine: CompletionRoutine | None,
    PrePostCallbackDataRoutine: CompletionRoutine | None,
) -> int:
    """As FltCheckOplock; with OPLOCK_FLAG_COMPLETE_IF_OPLOCKED the operation goes on while a break is under way.

    IoStatus.Status is STATUS_OPLOCK_BREAK_IN_PROGRESS then. IRQL: <= APC_LEVEL.
    """
    return await check(Oplock, CallbackData, Context, WaitCompletionRoutine, PrePostCallbackDataRoutine, Flags)


async def check(
    oplock: OPLOCK,
    data: FLT_CALLBACK_DATA,
    context: Any,
    done: CompletionRoutine | None,
    before: CompletionRoutine | None,
    flags: int,
) -> int:
    """FltCheckOplockEx."""
    usable(oplock, "FltCheckOplock")
    frame = owned_frame(data)
    thread = current_kthread()
    registry = current_system().get(Oplocks)
    if oplock in registry.completing.get(thread, ()):
        report(
            "oplock-recheck-deadlock",
            f"{thread.label} calls FltCheckOplock on {oplock.label} from the completion routine of a check of it",
        )
    if frame.operation.request.kind != IRP_OPERATION:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK
    posted = Posted(frame, context, done)
    goes_on = bool(flags & OPLOCK_FLAG_COMPLETE_IF_OPLOCKED)
    if done is None or goes_on:
        posted.routine = None
        posted.event = KEVENT(f"break of {oplock.label}")
        KeInitializeEvent(posted.event, NotificationEvent, False)
    await BeginCheck(oplock)
    result = await Check(oplock, posted)
    await oplock.settle()
    if result is None:
        return told(frame, FLT_PREOP_SUCCESS_WITH_CALLBACK)
    status, information = result
    block = frame.status_block()
    if status == STATUS_PENDING and goes_on:
        # It does not wait: nobody is to be woken.
        await LeaveBreak(oplock, frame.operation.request)
        await LeaveBreak(oplock, frame.operation.request)
        status = STATUS_OPLOCK_BREAK_IN_PROGRESS
    if status == STATUS_OPLOCK_BREAK_IN_PROGRESS:
        object.__setattr__(block, "Status", status)
        return told(frame, FLT_PREOP_SUCCESS_WITH_CALLBACK)
    if status == STATUS_PENDING and posted.event is not None:
        await WaitForObject(posted.event)
        status = frame.operation.request.status
        if status == STATUS_SUCCESS:
            return told(frame, FLT_PREOP_SUCCESS_WITH_CALLBACK)
    if status != STATUS_PENDING:
        data.IoStatus.Status, data.IoStatus.Information = status, information
        return told(frame, FLT_PREOP_COMPLETE)
    if before is not None:
        await in_driver(frame.node.filter.driver, routine_name(before), before, data, context)
    await PostIt(oplock, posted)
    if posted.is_over:
        await call_completion(oplock, posted)
    # The break may be over, and the operation on its way, before the callback has returned.
    await Point("return from FltCheckOplock", oplock)
    return told(frame, FLT_PREOP_PENDING)


class PostIt(Operation[None]):
    """An operation begins to wait for a break: from now on its completion routine may be called."""

    __slots__ = ("oplock", "posted")
    kind = "post to"

    def __init__(self, oplock: OPLOCK, posted: Posted) -> None:
        self.oplock = oplock
        self.posted = posted

    def perform(self, thread: Thread) -> None:
        thread.write(self.oplock)
        thread.exchange(self.oplock)
        self.posted.is_posted = True

    def target(self) -> Cell:
        return self.oplock


class LeaveBreak(Operation[None]):
    """An operation that need not wait for a break is taken off the list of those who do."""

    __slots__ = ("oplock", "request")
    kind = "stop waiting for"

    def __init__(self, oplock: OPLOCK, request: Request) -> None:
        self.oplock = oplock
        self.request = request

    def perform(self, thread: Thread) -> None:
        oplock = self.oplock
        thread.write(oplock)
        thread.write(self.request.cancel)
        kept = oplock.oplock
        if kept is not None and self.request in oplock.posted:
            kept.breakers[:] = [one for one in kept.breakers if one.request is not self.request]
            self.request.cancel.routine = None
        oplock.posted.pop(self.request, None)

    def target(self) -> Cell:
        return self.oplock


class LookAtOplock(Operation[Oplock]):
    """See who holds an oplock."""

    __slots__ = ("oplock",)
    kind = "look at"

    def __init__(self, oplock: OPLOCK) -> None:
        self.oplock = oplock

    def perform(self, thread: Thread) -> Oplock:
        thread.read(self.oplock)
        kept = self.oplock.oplock or Oplock()
        thread.runtime.system.get(Oplocks).asked(thread, self.oplock, bool(kept.holders))
        return kept

    def target(self) -> Cell:
        return self.oplock


@routine("fltkernel", "BOOLEAN FltCurrentOplock(_In_ POPLOCK Oplock)", max_irql=DISPATCH_LEVEL)
async def FltCurrentOplock(Oplock: OPLOCK) -> bool:
    """Whether somebody holds *Oplock*; it may change before the caller acts on it. IRQL: <= DISPATCH_LEVEL."""
    usable(Oplock, "FltCurrentOplock")
    return bool((await LookAtOplock(Oplock)).holders)


@routine("fltkernel", "BOOLEAN FltCurrentOplockH(_In_ POPLOCK Oplock)", max_irql=DISPATCH_LEVEL)
async def FltCurrentOplockH(Oplock: OPLOCK) -> bool:
    """Whether somebody holds *Oplock* who may cache handles. IRQL: <= DISPATCH_LEVEL."""
    usable(Oplock, "FltCurrentOplockH")
    return any(holder.level & OPLOCK_LEVEL_CACHE_HANDLE for holder in (await LookAtOplock(Oplock)).holders)


@routine("fltkernel", "BOOLEAN FltCurrentBatchOplock(_In_ POPLOCK Oplock)", max_irql=DISPATCH_LEVEL)
async def FltCurrentBatchOplock(Oplock: OPLOCK) -> bool:
    """Whether a batch or a filter oplock is held. IRQL: <= DISPATCH_LEVEL."""
    usable(Oplock, "FltCurrentBatchOplock")
    everything = OPLOCK_LEVEL_CACHE_HANDLE | OPLOCK_LEVEL_CACHE_WRITE
    return any(
        holder.is_legacy and holder.level & everything == everything for holder in (await LookAtOplock(Oplock)).holders
    )


@routine("fltkernel", "BOOLEAN FltOplockIsFastIoPossible(_In_ POPLOCK Oplock)", max_irql=APC_LEVEL)
async def FltOplockIsFastIoPossible(Oplock: OPLOCK) -> bool:
    """Whether *Oplock* is no obstacle to fast I/O. IRQL: <= APC_LEVEL."""
    usable(Oplock, "FltOplockIsFastIoPossible")
    await LookAtOplock(Oplock)
    return lets_fast_io_pass(Oplock, writes=False)
