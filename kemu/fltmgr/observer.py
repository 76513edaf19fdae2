"""What the filter manager tells whoever checks the rules.

The mechanism calls these at the points where a rule may be broken; it does not know the rules. A method that
finds one broken reports it, which usually ends the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kemu.fltmgr.cbdq import FLT_CALLBACK_DATA_QUEUE
    from kemu.fltmgr.frame import Frame
    from kemu.fltmgr.objects import Filter, Instance, RundownObject
    from kemu.fltmgr.structures import FLT_REGISTRATION
    from kemu.fltmgr.workitem import FltWorkItem
    from kemu.io.request import Request
    from kemu.nt.driver import DRIVER_OBJECT
    from kemu.nt.kthread import KThread
    from kemu.nt.work import WorkItem


class FltObserver:
    """Watches the filter manager. The methods of this class do nothing."""

    def registering(self, driver_object: DRIVER_OBJECT, registration: FLT_REGISTRATION) -> None:
        """A driver registers."""

    def driver_entered(self, driver_object: DRIVER_OBJECT, filter_: Filter | None, status: int) -> None:
        """DriverEntry has returned *status*."""

    def pre_returned(self, frame: Frame, status: Any, context: object) -> int:
        """A preoperation callback has returned; the filter manager will act on what this returns."""
        return status

    def post_returned(self, frame: Frame, status: Any, draining: bool) -> int:
        """A postoperation callback has returned; the filter manager will act on what this returns."""
        return status

    def crashing(self, frame: Frame, error: Exception) -> None:
        """*error* has left a callback of the driver's."""

    def resuming_pre(self, frame: Frame, status: object, context: object) -> None:
        """FltCompletePendedPreOperation was called; the operation has not moved yet."""

    def resuming_post(self, frame: Frame) -> None:
        """FltCompletePendedPostOperation was called; the operation has not moved yet."""

    def processing_safely(self, frame: Frame, flags: int) -> None:
        """FltDoCompletionProcessingWhenSafe was called."""

    def safe_returned(self, frame: Frame, status: object) -> None:
        """A SafePostCallback has returned in a system worker."""

    def waiting_cancellably(self, name: str) -> None:
        """A routine called *name* was called to wait until an operation is cancelled, or something else happens."""

    def setting_cancel(self, frame: Frame) -> None:
        """FltSetCancelCompletion was called."""

    def queueing(self, frame: Frame, item: FltWorkItem, queue_type: int) -> None:
        """FltQueueDeferredIoWorkItem was called."""

    def queued(self, frame: Frame, item: WorkItem, queue_type: int) -> None:
        """An operation was handed over to a work item, in this step."""

    def inserting(self, frame: Frame, queue: FLT_CALLBACK_DATA_QUEUE) -> None:
        """FltCbdqInsertIo was called."""

    def inserted(self, frame: Frame, queue: FLT_CALLBACK_DATA_QUEUE) -> None:
        """FltCbdqInsertIo has put the operation into the queue."""

    def teardown_start_returned(self, instance: Instance) -> None:
        """InstanceTeardownStart of *instance* has returned."""

    def dereferencing(self, object_: RundownObject, had_reference: bool) -> None:
        """FltObjectDereference was called."""

    def unregistering(self, filter_: Filter) -> None:
        """FltUnregisterFilter was called."""

    def sent_by_unload(self, request: Request, thread: KThread) -> None:
        """A thread that is in FilterUnload, or in what that has called, issues *request*."""

    def late_work(self, instance: Instance, what: str) -> None:
        """The driver begins something for *instance*: a work item, or I/O of its own; *what* in words."""

    def teardown_started(self, instance: Instance) -> None:
        """InstanceTeardownStart of *instance* is about to be called."""

    def teardown_complete_returned(self, instance: Instance) -> None:
        """InstanceTeardownComplete of *instance* has returned."""

    def unload_returned(self, filter_: Filter, status: int, mandatory: bool) -> None:
        """FilterUnloadCallback has returned."""
