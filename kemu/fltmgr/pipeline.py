"""The walk of an operation down and up the instances of a volume.

The filter manager has no thread of its own: an operation goes on in whichever thread pushes it. A *drive* is one
thread's turn at that: the originator's, that of a caller of FltCompletePendedPreOperation, that of the thread in
which the file system completes a request later. Pending needs no special state: the drive ends there, and whoever
completes the pended operation begins another from the operation's position, also before the callback has
returned.

Some callbacks must run in a certain thread: all post-create callbacks in the originator's, and the postoperation
callback of a synchronised frame in the thread of its preoperation callback. A completion that reaches such a
frame in another drive hands the operation over and ends; the drive that owns the frame waits for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.constants import (
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_DISALLOW_FSFILTER_IO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLTFL_CALLBACK_DATA_DRAINING_IO,
    FLTFL_CALLBACK_DATA_POST_OPERATION,
    FLTFL_POST_OPERATION_DRAINING,
)
from kemu.fltmgr.datascan import DataScans
from kemu.fltmgr.frame import (
    AWAIT_POST,
    COMPLETED_HERE,
    DISALLOWED,
    DONE,
    DRAINING_POST,
    NOT_CALLED,
    PASSED,
    Frame,
    IrpCtrl,
)
from kemu.fltmgr.remarks import StatusRequest
from kemu.fltmgr.statusrequest import forget_requests, tell_status
from kemu.fltmgr.steps import (
    AwaitCompletion,
    DeliverPost,
    DeliverPre,
    ResumePost,
    ResumePre,
    ReturnMoreProcessing,
    ReturnPending,
)
from kemu.fltmgr.structures import DrainedStatusBlock
from kemu.fltmgr.swap import restore, swap_forgotten
from kemu.fltmgr.tagdata import take_tag_data
from kemu.io.request import IRP_OPERATION, Request
from kemu.nt.driver import crashed, dirty_exit
from kemu.nt.kthread import HeldLock, current_kthread
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_FLT_POST_OPERATION_CLEANUP,
    STATUS_PENDING,
)
from kemu.nt.system import report
from kemu.nt.usermemory import CALLS
from kemu.runtime import Thread, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.manager import FilterManager


CUTS_OFF: Final = frozenset((FLT_PREOP_COMPLETE, FLT_PREOP_DISALLOW_FASTIO, FLT_PREOP_DISALLOW_FSFILTER_IO))
"""The results of a preoperation callback after which the operation does not go down."""


class Drive:
    """One thread's turn at moving an operation. Its identity is what a frame's `waiter` remembers."""

    __slots__ = ("name", "synchronised", "told")

    def __init__(self) -> None:
        thread = current_thread()
        self.name = (*thread.path, thread.ordinals)
        """The same in every run that has it."""
        thread.ordinals += 1
        self.synchronised = 0
        """How many frames wait for this drive's thread to run their post-operation callback."""
        self.told: list[StatusRequest] | None = None
        """Who wants to be told what the layer below has returned to this thread, the highest instance first."""

    async def tell(self, status: NTSTATUS) -> None:
        """The lower layer has returned *status*: tell who wanted to know, the lowest instance first."""
        assert self.told is not None
        told, self.told = self.told, None
        for one in reversed(told):
            await tell_status(one, status)


class Pipeline:
    """The part of the filter manager that moves operations."""

    def __init__(self, manager: FilterManager) -> None:
        self.manager = manager
        self.observer = manager.observer
        self.scans = manager.system.get(DataScans)

    async def start(self, operation: IrpCtrl) -> bool:
        """Drive a new operation in the originator's thread; return whether it is complete."""
        drive = Drive()
        operation.origin = drive
        await self.drive(operation, drive)
        if operation.is_create:
            # The originator stays until the create is complete: it runs the post-create callbacks (FLT-ORD-04).
            thread = current_thread()
            thread.read(operation.request)
            while not operation.request.done and await AwaitCompletion(operation, drive):
                await self.complete_up(operation, drive)
                thread.read(operation.request)
        return operation.request.done

    async def drive(self, operation: IrpCtrl, drive: Drive) -> None:
        """Push the operation down from where it is, and up again as far as this thread may."""
        complete = await self.push_down(operation, drive)
        status: NTSTATUS = STATUS_PENDING
        if drive.told and (not complete or operation.is_create or drive.synchronised):
            await drive.tell(operation.request.status if complete else status)
        if complete:
            status = operation.request.status
            await self.complete_up(operation, drive)
            if drive.told:
                # What completes inline does so inside the call of the lower layer.
                await drive.tell(status)
        while drive.synchronised and await AwaitCompletion(operation, drive):
            await self.complete_up(operation, drive)

    async def push_down(self, operation: IrpCtrl, drive: Drive) -> bool:
        """Call preoperation callbacks, then the file system; return whether completion may start here."""
        thread = current_kthread()
        frames = operation.frames
        while operation.down < len(frames):
            frame = frames[operation.down]
            operation.down += 1
            pre = frame.node.pre
            if pre is None:
                thread.write(frame)
                if frame.state == NOT_CALLED:
                    thread.acquire(frame.instance)
                    thread.release(frame)
                    frame.state = AWAIT_POST
                    frame.may_be_drained(thread)
                continue
            if not await DeliverPre(frame):
                continue
            data = frame.open()
            actor = frame.node.filter.driver
            irql, locks = thread.irql, len(thread.locks)
            apc, guarded = thread.kernel_apc_disable, thread.special_apc_disable
            thread.actors.append(actor)
            try:
                returned: Any = await pre(data, frame.objects)  # type: ignore[arg-type]
            except Exception as error:
                self.observer.crashing(frame, error)
                crashed(actor, f"the pre-operation callback for {operation.label}", error)
                raise
            if (
                thread.irql != irql
                or len(thread.locks) != locks
                or thread.kernel_apc_disable != apc
                or thread.special_apc_disable != guarded
            ):
                if returned == FLT_PREOP_SYNCHRONIZE and len(thread.locks) > locks:
                    held_across(frame, thread.locks[locks:])
                dirty_exit(actor, f"the pre-operation callback for {operation.label}", irql, locks, (apc, guarded))
            thread.actors.pop()
            if returned.__class__ is tuple and len(returned) == 2:
                status, context = returned
            else:
                status, context = returned, None
            status = self.observer.pre_returned(frame, status, context)
            if status == FLT_PREOP_PENDING:
                await ReturnPending(frame)
                return False
            thread.write(frame)
            frame.returned(thread)
            log = thread.runtime.log
            if log is not None:
                log("flt.pre.return", frame=frame, ret=status)
            if not self.after_pre(thread, frame, status, context, drive):
                operation.up = frame.index
                return True
        operation.up = len(frames)
        if operation.detour is not None:
            return await operation.detour.dispatch(operation.request)
        if operation.request.volume.has_cache:
            # Only what is cached can be mapped, and only sections are in the way of anything.
            await self.scans.make_room(operation)
        return await operation.request.volume.bottom.dispatch(operation.request)

    def after_pre(self, thread: Thread, frame: Frame, status: int, context: Any, drive: Drive) -> bool:
        """Act on the result of a preoperation callback; return whether the operation goes on downward."""
        operation = frame.operation
        frame.release(thread)
        remarks = frame.remarks
        if remarks is not None and remarks.status_requests:
            if status in CUTS_OFF:
                forget_requests(thread, remarks)
            else:
                drive.told = [*(drive.told or ()), *remarks.status_requests]
        if status in CUTS_OFF:
            if status == FLT_PREOP_COMPLETE:
                frame.take_result()
                self.cut_off(thread, frame, COMPLETED_HERE)
            else:
                disallow(operation.request)
                self.cut_off(thread, frame, DISALLOWED)
            return False
        frame.take_parameters(thread)
        frame.result = None
        if status == FLT_PREOP_SUCCESS_NO_CALLBACK:
            if frame.swap is not None:
                swap_forgotten(frame)
            frame.state = PASSED
            frame.leave(thread)
            return True
        thread.release(frame)
        frame.state = AWAIT_POST
        frame.context = context
        frame.may_be_drained(thread)
        if status == FLT_PREOP_SYNCHRONIZE and operation.request.kind == IRP_OPERATION and not operation.is_create:
            frame.waiter = drive
            drive.synchronised += 1
        return True

    def cut_off(self, thread: Thread, frame: Frame, state: int) -> None:
        """The operation ends at *frame*: it and all lower ones have nothing more to do with it."""
        frame.state = state
        frame.leave(thread)
        for lower in frame.operation.frames[frame.index + 1 :]:
            if lower.state == NOT_CALLED:
                lower.leave(thread)

    async def complete_up(self, operation: IrpCtrl, drive: Drive | None) -> None:
        """Call postoperation callbacks from where completion stands, as far up as this drive may."""
        thread = current_kthread()
        frames = operation.frames
        while operation.up > 0:
            frame = frames[operation.up - 1]
            owner = operation.origin if operation.is_create and frame.state == AWAIT_POST else frame.waiter
            if owner is not None and owner is not drive:
                # Only the owner's thread may go on from here.
                thread.write(operation)
                thread.release(operation)
                assert isinstance(owner, Drive)
                operation.handoff = owner.name
                operation.changed()
                return
            if frame.waiter is not None:
                assert drive is not None
                drive.synchronised -= 1
            if frame.state == AWAIT_POST:
                if await DeliverPost(frame) and not await self.call_post(thread, frame, draining=False):
                    return
            elif frame.state in {DRAINING_POST, DONE}:
                # A teardown was faster.
                thread.read(frame)
            operation.up -= 1
        request = operation.request
        if operation.tag_data is not None:
            take_tag_data(thread, operation)
        request.finish(thread)
        operation.changed()
        if request.is_inner:
            await request.go_on()

    async def call_post(self, thread: Thread, frame: Frame, *, draining: bool) -> bool:
        """Run one postoperation callback; return whether the frame is done."""
        kthread = current_kthread()
        operation = frame.operation
        actor = frame.node.filter.driver
        post = frame.node.post
        context, frame.context = frame.context, None
        flags = 0
        if draining:
            flags = FLTFL_POST_OPERATION_DRAINING
            frame.flags |= FLTFL_CALLBACK_DATA_DRAINING_IO
            frame.result = None
            result = frame.status_block()
            result.Status = STATUS_FLT_POST_OPERATION_CLEANUP
            result.__class__ = DrainedStatusBlock
        frame.flags |= FLTFL_CALLBACK_DATA_POST_OPERATION
        data = frame.open()
        status: Any = 0
        if post is not None:
            irql, locks = kthread.irql, len(kthread.locks)
            apc, guarded = kthread.kernel_apc_disable, kthread.special_apc_disable
            kthread.actors.append(actor)
            try:
                status = await post(data, frame.objects, context, flags)  # type: ignore[arg-type]
            except Exception as error:
                self.observer.crashing(frame, error)
                crashed(actor, f"the post-operation callback for {operation.label}", error)
                raise
            if (
                kthread.irql != irql
                or len(kthread.locks) != locks
                or kthread.kernel_apc_disable != apc
                or kthread.special_apc_disable != guarded
            ):
                dirty_exit(actor, f"the post-operation callback for {operation.label}", irql, locks, (apc, guarded))
            kthread.actors.pop()
        status = self.observer.post_returned(frame, status, draining)
        if status == FLT_POSTOP_MORE_PROCESSING_REQUIRED and not draining:
            await ReturnMoreProcessing(frame)
            # Whether it is pended now or was resumed early, the operation goes on elsewhere.
            return False
        frame.returned(thread)
        log = thread.runtime.log
        if log is not None:
            log("flt.post.return", frame=frame, ret=status)
        self.end_post(thread, frame, draining=draining)
        if status == FLT_POSTOP_DISALLOW_FSFILTER_IO:
            disallow(operation.request)
        return True

    def end_post(self, thread: Thread, frame: Frame, *, draining: bool = False) -> None:
        """A frame's post phase is over."""
        thread.write(frame)
        frame.release(thread)
        if draining:
            # The drained callback saw a copy: what it wrote is not the operation's result (FLT-INST-24).
            frame.result = None
        else:
            frame.take_result()
        if frame.swap is not None:
            restore(thread, frame)
        frame.state = DONE
        frame.leave(thread)


def disallow(request: Request) -> None:
    """Have the issuer try another way, as for disallowed fast I/O (FLT-PRE-22)."""
    request.status = STATUS_FLT_DISALLOW_FAST_IO
    request.information = 0


def held_across(frame: Frame, locks: list[HeldLock]) -> None:
    """Report locks that a callback meant to hold until its post-operation callback (FLT-PRE-18)."""
    held = " and ".join(lock.label for lock in locks)
    report(
        "lock-across-io",
        f"the pre-operation callback of {frame.label} for {frame.operation.label} returned FLT_PREOP_SYNCHRONIZE "
        f"holding {held}",
    )


async def resume_pre(pipeline: Pipeline, frame: Frame, status: int, context: Any) -> None:
    """Give a pended operation back to the filter manager and drive it on, in the calling thread (FLT-PEND-07)."""
    thread = current_thread()
    await ResumePre(pipeline.observer, frame, status, context)
    operation = frame.operation
    drive = Drive()
    if pipeline.after_pre(thread, frame, status, context, drive):
        await pipeline.drive(operation, drive)
    else:
        operation.up = frame.index
        await pipeline.complete_up(operation, drive)


async def resume_post(pipeline: Pipeline, frame: Frame) -> None:
    """Let the completion of an operation go on, in the calling thread (FLT-POST-31)."""
    thread = current_thread()
    await ResumePost(pipeline.observer, frame)
    pipeline.end_post(thread, frame)
    operation = frame.operation
    operation.up -= 1
    await pipeline.complete_up(operation, None)


async def drain(pipeline: Pipeline, frame: Frame) -> None:
    """Give a frame that awaits its post-operation callback that callback now, as drained (FLT-INST-24)."""
    if await DeliverPost(frame, draining=True):
        await pipeline.call_post(current_thread(), frame, draining=True)


# Whatever drivers do with the memory of a program on behalf of one operation is one call, as far as it is concerned.
CALLS.add(Pipeline.start.__code__)
