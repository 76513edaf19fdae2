"""The rules about what a minifilter does with an operation beside passing, pending and completing it."""

from __future__ import annotations

from typing import Final

from kemu.fltmgr.constants import (
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLTFL_POST_OPERATION_DRAINING,
    POSTOP_NAMES,
)
from kemu.fltmgr.frame import IN_POST, IN_PREOP, Frame, Input
from kemu.fltmgr.observer import FltObserver
from kemu.fltmgr.workitem import FLT_DEFERRED_IO_WORKITEM
from kemu.io.constants import (
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_VOLUME_DISMOUNT,
    IRP_MJ_VOLUME_MOUNT,
    IRP_PAGING_IO,
)
from kemu.io.file_constants import (
    FSCTL_REQUEST_BATCH_OPLOCK,
    FSCTL_REQUEST_FILTER_OPLOCK,
    FSCTL_REQUEST_OPLOCK,
    FSCTL_REQUEST_OPLOCK_LEVEL_1,
    FSCTL_REQUEST_OPLOCK_LEVEL_2,
    IRP_MN_LOCK,
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_USER_FS_REQUEST,
)
from kemu.io.request import CLASS_NAMES, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.nt.system import System
from kemu.nt.work import Worker, WorkerPool, WorkItem
from kemu.runtime import TICKS_PER_SECOND

UNBOUNDED_CONTROLS: Final = frozenset(
    {
        FSCTL_REQUEST_BATCH_OPLOCK,
        FSCTL_REQUEST_FILTER_OPLOCK,
        FSCTL_REQUEST_OPLOCK,
        FSCTL_REQUEST_OPLOCK_LEVEL_1,
        FSCTL_REQUEST_OPLOCK_LEVEL_2,
    }
)
"""What stays below until an oplock is broken."""
NEVER_DISALLOWED: Final = frozenset({IRP_MJ_SHUTDOWN, IRP_MJ_VOLUME_DISMOUNT, IRP_MJ_VOLUME_MOUNT})
FLOOD: Final = 16
"""More operations of one driver than that in a work queue, where no worker has taken them, are too many."""


class OperationChecks(FltObserver):
    """Checks those rules."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.report = system.report

    def who(self, frame: Frame, *, post: bool = False) -> str:
        """The callback, in words."""
        phase = "post" if post else "pre"
        return f"the {phase}-operation callback of {frame.label} for {frame.operation.label}"

    # Completion processing at a safe IRQL.

    def processing_safely(self, frame: Frame, flags: int) -> None:
        what = f"{current_kthread().label} calls FltDoCompletionProcessingWhenSafe for {frame.operation.label}"
        if flags & FLTFL_POST_OPERATION_DRAINING:
            self.report("whensafe-draining", f"{what}, whose post-operation callback is draining")
        if frame.state != IN_POST or current_kthread() not in frame.inside:
            self.report("whensafe-misuse", f"{what}, which is {frame.state_name}")
        kind = frame.operation.request.kind
        if kind != IRP_OPERATION:
            self.report("whensafe-misuse", f"{what}, which is {CLASS_NAMES[kind]}")

    def safe_returned(self, frame: Frame, status: object) -> None:
        what = f"the safe post-operation callback of {frame.label} for {frame.operation.label}"
        if not isinstance(status, int) or isinstance(status, bool) or int(status) not in POSTOP_NAMES:
            self.report("postop-unknown-status", f"{what} returned {status!r}")
        elif status == FLT_POSTOP_DISALLOW_FSFILTER_IO:
            self.report("disallow-fsfilter-wrong-major", f"{what} disallowed it")

    def safe_ignored(self, frame: Frame, status: int) -> int:
        """What FltDoCompletionProcessingWhenSafe has returned and the callback that returns *status* does not heed; the
        status to go on with.
        """
        remarks = frame.remarks
        assert remarks is not None
        if remarks.safe_status is not None and status != remarks.safe_status:
            given = POSTOP_NAMES.get(remarks.safe_status, str(remarks.safe_status))
            self.report(
                "whensafe-status-ignored",
                f"{self.who(frame, post=True)} returned {POSTOP_NAMES[status]} where "
                f"FltDoCompletionProcessingWhenSafe gave it {given}",
            )
            return remarks.safe_status
        if remarks.refused_safe and not frame.handed and status == FLT_POSTOP_MORE_PROCESSING_REQUIRED:
            self.report(
                "whensafe-false-ignored",
                f"{self.who(frame, post=True)} returned FLT_POSTOP_MORE_PROCESSING_REQUIRED although "
                "FltDoCompletionProcessingWhenSafe returned FALSE: nobody will resume it",
            )
            return FLT_POSTOP_FINISHED_PROCESSING
        return status

    # Waits that can be cancelled.

    def waiting_cancellably(self, name: str) -> None:
        thread = current_kthread()
        if thread.special_apc_disable:
            self.report(
                "ke.irql",
                f"{name} was called in a guarded region: {thread.label} would not see that it is to end",
            )

    # What may not be returned, or not for that.

    def check_synchronised(self, frame: Frame) -> None:
        """FLT_PREOP_SYNCHRONIZE was returned for an IRP."""
        request = frame.operation.request
        parameters, minor = request.parameters, request.minor
        if request.major == IRP_MJ_FILE_SYSTEM_CONTROL:
            unbounded = minor == IRP_MN_USER_FS_REQUEST and parameters.FsControlCode in UNBOUNDED_CONTROLS
        elif request.major == IRP_MJ_DIRECTORY_CONTROL:
            unbounded = minor == IRP_MN_NOTIFY_CHANGE_DIRECTORY
        else:
            unbounded = request.major == IRP_MJ_LOCK_CONTROL and minor == IRP_MN_LOCK
        if unbounded:
            self.report(
                "sync-unsyncable",
                f"{self.who(frame)} returned FLT_PREOP_SYNCHRONIZE: its thread would wait until somebody else does "
                "something",
            )

    def check_disallowed(self, frame: Frame) -> bool:
        """FLT_PREOP_DISALLOW_FASTIO was returned; whether it may be."""
        if frame.operation.request.major not in NEVER_DISALLOWED:
            return True
        self.report("disallow-fastio-forbidden-major", f"{self.who(frame)} returned FLT_PREOP_DISALLOW_FASTIO")
        return False

    def check_paging(self, frame: Frame, what: str) -> None:
        """A pended operation is given back."""
        thread = current_kthread()
        if frame.operation.request.flags & IRP_PAGING_IO and any(isinstance(one, Worker) for one in thread.actors):
            self.report("pend-paging", f"{what}, which is paging I/O, in a system worker")

    def check_responsive(self, frame: Frame, what: str) -> None:
        """A pended operation is passed on, which the driver may have had out of a cancel-safe queue for long."""
        remarks = frame.remarks
        if remarks is None or remarks.dequeued is None:
            return
        thread = current_kthread()
        cancel = frame.operation.request.cancel
        thread.read(cancel)
        passed = thread.runtime.clock.read(thread) - remarks.dequeued
        if cancel.requested and passed > 0:
            self.report(
                "cancel-unresponsive",
                f"{what}, which was cancelled after it had been removed from its queue {passed / TICKS_PER_SECOND:g} s "
                "before: the queue cannot cancel it any more",
            )

    def check_snapshot(self, frame: Frame, what: str) -> None:
        """An operation goes on downward."""
        remarks, iopb = frame.remarks, frame.iopb
        if remarks is None or iopb is None or not remarks.status_requests:
            return
        if Input.seen(iopb) != remarks.status_requests[-1].snapshot:
            self.report(
                "status-snapshot-stale",
                f"{what} changed the parameters after FltRequestOperationStatusCallback: its callback will see the old "
                "ones",
            )

    # Work items.

    def queued(self, frame: Frame, item: WorkItem, queue_type: int) -> None:
        if frame.state != IN_PREOP:
            return
        waiting = [
            one
            for one in self.system.get(WorkerPool).queue(queue_type).items
            if isinstance(one, FLT_DEFERRED_IO_WORKITEM) and one.driver is frame.node.filter.driver
        ]
        if len(waiting) == FLOOD + 1:
            self.report(
                "workqueue-flood",
                f"{frame.label} has more than {FLOOD} operations in the work queue that no worker has taken: pend them "
                "in a cancel-safe queue, which one worker empties",
            )
