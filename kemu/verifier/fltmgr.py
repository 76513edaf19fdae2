"""The rules about minifilters, checked where the filter manager says something happened."""

from __future__ import annotations

from typing import Any, Final

from kemu.fltmgr.buffers import raw_buffer
from kemu.fltmgr.cbdq import FLT_CALLBACK_DATA_QUEUE
from kemu.fltmgr.constants import (
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_DISALLOW_FSFILTER_IO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_REGISTRATION_VERSION,
    FLTFL_CALLBACK_DATA_DIRTY,
    POSTOP_NAMES,
    PREOP_NAMES,
)
from kemu.fltmgr.context_end import Contexts
from kemu.fltmgr.context_rules import assumed_present, hand_over
from kemu.fltmgr.createfile import check_failed_create
from kemu.fltmgr.fastio import check_result
from kemu.fltmgr.frame import DRAINING_POST, IN_POST, IN_PREOP, PENDED, POST_PENDED, Frame
from kemu.fltmgr.objects import DRAINING, Filter, Instance
from kemu.fltmgr.oplock import Oplocks
from kemu.fltmgr.structures import FLT_REGISTRATION
from kemu.fltmgr.workitem import FLT_DEFERRED_IO_WORKITEM, FltWorkItem
from kemu.io.constants import (
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_DEVICE_CHANGE,
    IRP_MJ_OPERATION_END,
    IRP_MJ_POWER,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_WRITE,
    IRP_PAGING_IO,
    major_name,
)
from kemu.io.request import CLASS_NAMES, FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.driver import DRIVER_OBJECT, current_driver
from kemu.nt.kthread import current_kthread
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
    is_known,
)
from kemu.nt.system import System, label_of
from kemu.nt.work import HyperCriticalWorkQueue
from kemu.verifier.flt_instances import InstanceChecks
from kemu.verifier.flt_operations import OperationChecks
from kemu.verifier.names import NameChecks

WITH_CALLBACK: Final = frozenset({int(FLT_PREOP_SUCCESS_WITH_CALLBACK), int(FLT_PREOP_SYNCHRONIZE)})


class FltChecks(InstanceChecks, OperationChecks):
    """Checks the rules about minifilters where the filter manager says that something happened."""

    def __init__(self, system: System) -> None:
        InstanceChecks.__init__(self, system)
        OperationChecks.__init__(self, system)
        self.names = NameChecks(system)
        self.oplocks = system.get(Oplocks)

    # Registration and unload.

    def registering(self, driver_object: DRIVER_OBJECT, registration: FLT_REGISTRATION) -> None:
        name = driver_object.name
        if current_driver() is not driver_object.actor:
            self.report("reg-foreign", f"{current_kthread().label} registers {name}, which is another driver")
        if registration.Version != FLT_REGISTRATION_VERSION and not 0x200 <= registration.Version <= 0x203:
            self.report("reg-version", f"{name} registers with version 0x{registration.Version:X}")
        operations = registration.OperationRegistration
        if operations and all(one.MajorFunction != IRP_MJ_OPERATION_END for one in operations):
            last = major_name(operations[-1].MajorFunction)
            self.report("reg-unterminated", f"the operation array of {name} ends with {last}")
        seen: set[int] = set()
        for operation in operations:
            major = operation.MajorFunction
            if major == IRP_MJ_OPERATION_END:
                break
            if major in {IRP_MJ_POWER, IRP_MJ_DEVICE_CHANGE}:
                self.report("reg-illegal-major", f"{name} registers callbacks for {major_name(major)}")
            if major == IRP_MJ_SHUTDOWN and operation.PostOperation is not None:
                self.report("reg-shutdown-postop", f"{name} registers a post-operation callback for shutdown")
            if major in seen:
                self.report("reg-duplicate-major", f"{name} registers {major_name(major)} twice")
            seen.add(major)

    def driver_entered(self, driver_object: DRIVER_OBJECT, filter_: Filter | None, status: int) -> None:
        name = driver_object.name
        if filter_ is not None and self.never_started(filter_, status):
            return
        if NT_SUCCESS(NTSTATUS(status)):
            if filter_ is not None and not filter_.started:
                self.report("reg-order", f"DriverEntry of {name} succeeded, but never called FltStartFiltering")
            return
        left = self.system.left_by(driver_object.actor)
        if filter_ is not None and filter_.registered:
            self.report(
                "driverentry-fail-leak",
                f"DriverEntry of {name} failed with {NTSTATUS(status)} and left its filter registered",
            )
        elif left:
            self.report(
                "driverentry-fail-leak",
                f"DriverEntry of {name} failed with {NTSTATUS(status)} and left {left[0].what}",
            )

    def unregistering(self, filter_: Filter) -> None:
        if current_driver() is not filter_.driver:
            self.report("reg-foreign", f"{current_kthread().label} unregisters {filter_.label}, another driver's")
        if filter_.deleting:
            self.report("double-unregister", f"{filter_.label} is unregistered already")

    def unload_returned(self, filter_: Filter, status: int, mandatory: bool) -> None:
        name = filter_.driver_object.name
        unloads = mandatory or NT_SUCCESS(NTSTATUS(status))
        if unloads and filter_.registered:
            self.report("unload-no-unregister", f"FilterUnload of {name} returned without FltUnregisterFilter")
        if not unloads and not filter_.registered:
            self.report("unload-refused-after-teardown", f"FilterUnload of {name} refused with {NTSTATUS(status)}")
        if not unloads:
            return
        self.system.report_leftovers(name, filter_.driver)

    # Pre-operation callbacks.

    def crashing(self, frame: Frame, error: Exception) -> None:
        thread = current_kthread()
        what = f"a callback of {frame.label} for {frame.operation.label}"
        assumed_present(error, self.system.get(Contexts).missed.get(thread), what)

    # Where a run goes on after an illegal result, the filter manager acts on one that does the least harm.

    def pre_returned(self, frame: Frame, status: Any, context: object) -> int:
        if not isinstance(status, int) or isinstance(status, bool) or int(status) not in PREOP_NAMES:
            self.report("preop-unknown-status", f"{self.who(frame)} returned {status!r}")
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        if context is not None:
            hand_over(context, frame.operation.label)
        oplocks = self.oplocks
        if oplocks.known or frame in oplocks.told:
            oplocks.pre_returned(frame, status, self.who(frame))
        if status == FLT_PREOP_PENDING:
            self._pending(frame, context)
            return status if frame.operation.request.kind == IRP_OPERATION else FLT_PREOP_SUCCESS_NO_CALLBACK
        if frame.handed or frame.state != IN_PREOP:
            self.report(
                "pend-not-returned",
                f"{self.who(frame)} returned {PREOP_NAMES[int(status)]} after it had handed the operation over",
            )
            return FLT_PREOP_PENDING
        if int(status) in WITH_CALLBACK:
            if frame.node.post is None:
                self.report("preop-callback-without-postop", f"{self.who(frame)} returned {PREOP_NAMES[int(status)]}")
                status = FLT_PREOP_SUCCESS_NO_CALLBACK
        elif context is not None:
            self.report(
                "preop-context-leak",
                f"{self.who(frame)} returned {PREOP_NAMES[int(status)]} with a completion context",
            )
        request = frame.operation.request
        if status == FLT_PREOP_COMPLETE:
            self._completing(frame, f"{self.who(frame)} returned FLT_PREOP_COMPLETE")
        elif status == FLT_PREOP_SYNCHRONIZE:
            self._synchronising(frame)
        elif status == FLT_PREOP_DISALLOW_FASTIO:
            legal = request.kind == FAST_IO_OPERATION
            if not legal:
                self.report(
                    "disallow-fastio-non-fastio",
                    f"{self.who(frame)} returned FLT_PREOP_DISALLOW_FASTIO for an {CLASS_NAMES[request.kind]}",
                )
            legal &= self.check_disallowed(frame)
            if frame.written_status is not None:
                self.report("disallow-fastio-status", f"{self.who(frame)} wrote IoStatus.Status as well")
            return status if legal else FLT_PREOP_SUCCESS_NO_CALLBACK
        elif status == FLT_PREOP_DISALLOW_FSFILTER_IO and request.major != IRP_MJ_QUERY_OPEN:
            self.report("disallow-fsfilter-wrong-major", f"{self.who(frame)} returned FLT_PREOP_DISALLOW_FSFILTER_IO")
            status = FLT_PREOP_SUCCESS_NO_CALLBACK
        if status != FLT_PREOP_COMPLETE and (frame.iopb is not None or frame.written_status is not None):
            self._passing(frame, self.who(frame))
        return status

    def _pending(self, frame: Frame, context: object) -> None:
        if frame.operation.request.kind != IRP_OPERATION:
            self.report("pend-non-irp", f"{self.who(frame)} returned FLT_PREOP_PENDING")
        if context is not None:
            self.report(
                "preop-context-leak",
                f"{self.who(frame)} returned FLT_PREOP_PENDING with a completion context",
            )
        if frame.state == IN_PREOP and frame.queue_failed is not None and not frame.handed:
            self.report(
                "pend-orphan",
                f"{self.who(frame)} returned FLT_PREOP_PENDING although {frame.queue_failed} failed",
            )

    def _completing(self, frame: Frame, what: str) -> None:
        """The rules for the final status of an operation that the driver completes."""
        request = frame.operation.request
        status = frame.written_status
        if status is None:
            self.report("complete-without-status", f"{what} without having set IoStatus.Status")
            frame.status_block().Status = STATUS_UNSUCCESSFUL
            return
        if status in {STATUS_PENDING, STATUS_FLT_DISALLOW_FAST_IO} or not is_known(status):
            self.report("complete-bad-status", f"{what} with {NTSTATUS(status)}")
            frame.status_block().Status = STATUS_UNSUCCESSFUL
        if request.major in {IRP_MJ_CLEANUP, IRP_MJ_CLOSE} and status != STATUS_SUCCESS:
            self.report("cleanup-close-failed", f"{what} with {NTSTATUS(status)}")
            frame.status_block().Status = STATUS_SUCCESS
        if request.kind == FS_FILTER_OPERATION:
            check_result(frame, what, NTSTATUS(status))

    def _synchronising(self, frame: Frame) -> None:
        request = frame.operation.request
        if request.kind != IRP_OPERATION:
            return
        if frame.operation.is_create:
            self.report("sync-on-create", f"{self.who(frame)} returned FLT_PREOP_SYNCHRONIZE")
        elif request.major in {IRP_MJ_READ, IRP_MJ_WRITE} and not request.is_synchronous:
            self.report("sync-async-rw", f"{self.who(frame)} returned FLT_PREOP_SYNCHRONIZE")
        else:
            self.check_synchronised(frame)

    def _passing(self, frame: Frame, what: str) -> None:
        """The rules for an operation that goes on downward."""
        if frame.written_status is not None:
            self.report("iostatus-wrong-place", f"{what} wrote IoStatus and passed the operation on")
        iopb = frame.iopb
        if iopb is None:
            return
        if object.__getattribute__(iopb, "MajorFunction") != frame.operation.request.major:
            self.report("major-changed", f"{what} changed Iopb->MajorFunction")
        if not frame.flags & FLTFL_CALLBACK_DATA_DIRTY and frame.changed_parameters():
            self.report("params-not-dirty", f"{what} changed the parameters without FltSetCallbackDataDirty")
        if frame.remarks is not None:
            self.check_snapshot(frame, what)

    def resuming_pre(self, frame: Frame, status: object, context: object) -> None:
        thread = current_kthread()
        what = f"{thread.label} completes the pended {frame.operation.label} of {frame.label}"
        if context is not None:
            hand_over(context, frame.operation.label)
        if frame.state in {IN_POST, POST_PENDED} and (frame.handed or not frame.was_resumed):
            # It was not pended before, or was handed over in the post-operation phase.
            self.report("wrong-resume-routine", f"{what}, which is {frame.state_name}")
        if frame.state not in {IN_PREOP, PENDED}:
            if not frame.handed and not frame.was_resumed:
                self.report("pend-complete-not-pended", f"{what}, which is {frame.state_name}")
            code = "cancel-double-complete" if frame.cancel_taken else "pend-double-complete"
            self.report(code, f"{what}, which {frame.released_by} has completed before")
        if frame.canceller not in {None, thread} and status != FLT_PREOP_COMPLETE:
            # A cancel callback may leave the completion to somebody else, but nobody then passes the operation on.
            self.report(
                "cancel-double-complete",
                f"{what} while its cancel callback, which owns the operation, runs in {label_of(frame.canceller)}",
            )
        if isinstance(frame.cbdq, FLT_CALLBACK_DATA_QUEUE):
            self.report(
                "cbdq-direct-access",
                f"{what} while {frame.cbdq.label} still holds it: it was not removed with FltCbdqRemoveIo",
            )
        if not isinstance(status, int) or int(status) not in {
            int(FLT_PREOP_COMPLETE),
            int(FLT_PREOP_SUCCESS_NO_CALLBACK),
            int(FLT_PREOP_SUCCESS_WITH_CALLBACK),
        }:
            name = PREOP_NAMES.get(int(status), repr(status)) if isinstance(status, int) else repr(status)
            self.report("pend-bad-status", f"{what} with {name}")
        self.check_paging(frame, what)
        if thread.locks:
            held = ", ".join(lock.label for lock in thread.locks)
            self.report("lock-across-io", f"{what} while it holds {held}")
        if status == FLT_PREOP_SUCCESS_WITH_CALLBACK:
            if frame.node.post is None:
                self.report("preop-callback-without-postop", f"{what} with FLT_PREOP_SUCCESS_WITH_CALLBACK")
        elif context is not None:
            self.report("preop-context-leak", f"{what} with a completion context nobody will receive")
        if status == FLT_PREOP_COMPLETE:
            self._completing(frame, what)
        else:
            self._passing(frame, what)
            raw = raw_buffer(frame)
            if raw is not None and thread.process is not raw.process:
                where = "no process" if thread.process is None else thread.process.label
                self.report(
                    "pend-unlocked-user-buffer",
                    f"{what}, in {where}, with {raw.label}, whose pages are not locked",
                )
            self.check_responsive(frame, what)

    # Post-operation callbacks.

    def post_returned(self, frame: Frame, status: Any, draining: bool) -> int:
        if not isinstance(status, int) or isinstance(status, bool) or int(status) not in POSTOP_NAMES:
            self.report("postop-unknown-status", f"{self.who(frame, post=True)} returned {status!r}")
            return FLT_POSTOP_FINISHED_PROCESSING
        request = frame.operation.request
        if frame.remarks is not None:
            status = self.safe_ignored(frame, int(status))
        if status != FLT_POSTOP_MORE_PROCESSING_REQUIRED and (
            frame.handed or frame.state not in {IN_POST, DRAINING_POST}
        ):
            self.report(
                "pend-not-returned",
                f"{self.who(frame, post=True)} returned {POSTOP_NAMES[int(status)]} after it had handed the operation "
                "over",
            )
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED
        legal = True
        if status == FLT_POSTOP_MORE_PROCESSING_REQUIRED:
            if draining:
                legal = False
                self.report("drain-more-processing", f"{self.who(frame, post=True)} is draining")
            if request.kind != IRP_OPERATION:
                legal = False
                self.report("postpend-non-irp", f"{self.who(frame, post=True)} pended a {CLASS_NAMES[request.kind]}")
            if frame.state == IN_POST and frame.queue_failed is not None:
                legal = False
                self.report(
                    "postpend-orphan",
                    f"{self.who(frame, post=True)} returned FLT_POSTOP_MORE_PROCESSING_REQUIRED although "
                    f"{frame.queue_failed} failed",
                )
        elif status == FLT_POSTOP_DISALLOW_FSFILTER_IO and request.major != IRP_MJ_QUERY_OPEN:
            legal = False
            self.report("disallow-fsfilter-wrong-major", f"{self.who(frame, post=True)} disallowed it")
        if not draining and frame.state == IN_POST:
            if frame.written_status is not None:
                self._finishing(frame, self.who(frame, post=True))
            if status != FLT_POSTOP_MORE_PROCESSING_REQUIRED:
                self.names.post_ended(frame)
        return status if legal else FLT_POSTOP_FINISHED_PROCESSING

    def _finishing(self, frame: Frame, what: str) -> None:
        """The rules for a status that the driver sets in the post-operation phase."""
        status = frame.written_status
        if status is None:
            return
        if status in {STATUS_PENDING, STATUS_FLT_DISALLOW_FAST_IO} or not is_known(status):
            self.report("postop-bad-status", f"{what} set {NTSTATUS(status)}")
        if frame.operation.request.major in {IRP_MJ_CLEANUP, IRP_MJ_CLOSE} and status != STATUS_SUCCESS:
            self.report("cleanup-close-failed", f"{what} set {NTSTATUS(status)}")
        if frame.operation.request.kind == FS_FILTER_OPERATION:
            check_result(frame, f"{what} came", NTSTATUS(status))
        if frame.operation.is_create:
            check_failed_create(frame, what, status)

    def resuming_post(self, frame: Frame) -> None:
        what = f"{current_kthread().label} completes the pended post-operation of {frame.operation.label}"
        if frame.state in {IN_POST, POST_PENDED}:
            self._finishing(frame, what)
            self.names.post_ended(frame)
        if frame.state in {IN_PREOP, PENDED}:
            self.report("wrong-resume-routine", f"{what}, which is {frame.state_name}")
        if frame.state not in {IN_POST, POST_PENDED}:
            self.report("postpend-double-complete", f"{what}, which is {frame.state_name}")

    # Work items, cancellation, queues, teardown.

    def queueing(self, frame: Frame, item: FltWorkItem, queue_type: int) -> None:
        if queue_type == HyperCriticalWorkQueue:
            self.report("queue-type-reserved", f"{self.who(frame)} queues to HyperCriticalWorkQueue")
        if not isinstance(item, FLT_DEFERRED_IO_WORKITEM):
            self.report("workitem-kind-mismatch", f"{self.who(frame)} queues a {type(item).__name__}")

    def setting_cancel(self, frame: Frame) -> None:
        request = frame.operation.request
        if request.kind != IRP_OPERATION or request.flags & IRP_PAGING_IO:
            self.report("cancel-set-illegal", f"{self.who(frame)} makes {request.label} cancellable")
        if frame.cbdq is not None:
            self.report("cancel-set-with-cbdq", f"{self.who(frame)} sets a cancel callback for a queued operation")

    def inserting(self, frame: Frame, queue: FLT_CALLBACK_DATA_QUEUE) -> None:
        if frame.operation.request.kind != IRP_OPERATION:
            self.report("cbdq-non-irp", f"{self.who(frame)} inserts a {CLASS_NAMES[frame.operation.request.kind]}")
        if queue.instance is not None and queue.instance is not frame.instance:
            self.report("cbdq-wrong-instance", f"{self.who(frame)} inserts into the queue of {queue.instance.label}")
        if frame.cancel_armed:
            self.report(
                "cancel-set-with-cbdq", f"{self.who(frame)} queues an operation for which it has set a cancel callback"
            )

    def inserted(self, frame: Frame, queue: FLT_CALLBACK_DATA_QUEUE) -> None:
        if frame.instance.state == DRAINING:
            self.report(
                "pend-after-teardown-start",
                f"{self.who(frame)} inserts into {queue.label} after InstanceTeardownStart has returned",
            )

    def teardown_start_returned(self, instance: Instance) -> None:
        for queue in instance.queues:
            if not queue.disabled:
                self.report("teardown-cbdq-enabled", f"{queue.label} of {instance.label} still accepts operations")
