"""Completion processing at a safe IRQL: FltDoCompletionProcessingWhenSafe (FLT-POST-15 to FLT-POST-22, FLT-POST-32)."""

from __future__ import annotations

from typing import Any

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.constants import FLT_POSTOP_FINISHED_PROCESSING, FLT_POSTOP_MORE_PROCESSING_REQUIRED
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import let_go
from kemu.fltmgr.pipeline import resume_post
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS, PostOperationCallback
from kemu.fltmgr.workitem import QueueDeferred
from kemu.nt.driver import in_driver, routine_name
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import NT_SUCCESS
from kemu.nt.system import current_system, resources_fail
from kemu.nt.work import DelayedWorkQueue, WorkItem
from kemu.runtime import Point, current_thread


class PostSafely(QueueDeferred):
    """Hand the completion of an operation over to a system worker, unless it cannot be posted."""

    __slots__ = ()
    kind = "FltDoCompletionProcessingWhenSafe"


@routine(
    "fltkernel",
    """BOOLEAN FltDoCompletionProcessingWhenSafe(_In_ PFLT_CALLBACK_DATA Data, _In_ PCFLT_RELATED_OBJECTS FltObjects,
       _In_opt_ PVOID CompletionContext, _In_ FLT_POST_OPERATION_FLAGS Flags,
       _In_ PFLT_POST_OPERATION_CALLBACK SafePostCallback,
       _Out_ PFLT_POSTOP_CALLBACK_STATUS RetPostOperationStatus)""",
)
async def FltDoCompletionProcessingWhenSafe(
    Data: FLT_CALLBACK_DATA,
    FltObjects: FLT_RELATED_OBJECTS,
    CompletionContext: Any,
    Flags: int,
    SafePostCallback: PostOperationCallback,
) -> tuple[bool, int]:
    """Have *SafePostCallback* do the completion processing at APC_LEVEL or below: now, or in a system worker.

    Below DISPATCH_LEVEL it is called at once; the result is (TRUE, what it returned). At DISPATCH_LEVEL the operation
    is posted, and the result (TRUE, FLT_POSTOP_MORE_PROCESSING_REQUIRED): the worker may be done with the operation
    before this returns, and completion goes on by itself unless *SafePostCallback* returned
    FLT_POSTOP_MORE_PROCESSING_REQUIRED (FLT-POST-19). In both cases the post-operation callback must return the second
    value. What cannot be posted - paging I/O, operations completed under a top-level IRP or while the instance is torn
    down, or where low resources are explored - is (FALSE, FLT_POSTOP_FINISHED_PROCESSING), and *SafePostCallback* is
    not called. IRQL: any.

    Findings: ``whensafe-draining``, ``whensafe-misuse``; ``whensafe-status-ignored`` and ``whensafe-false-ignored`` as
    the post-operation callback returns.
    """
    frame = owned_frame(Data)
    manager = current_system().get(FilterManager)
    thread = current_kthread()
    observer = manager.observer
    observer.processing_safely(frame, Flags)
    remarks = frame.remember()
    remarks.refused_safe = False
    if thread.irql < DISPATCH_LEVEL:
        status = await SafePostCallback(Data, FltObjects, CompletionContext, Flags)
        remarks.safe_status = status
        return True, status
    actor = frame.node.filter.driver
    instance = frame.instance
    item = WorkItem(f"completion of {frame.operation.label}")
    name = routine_name(SafePostCallback)

    async def run() -> None:
        returned = await in_driver(actor, name, SafePostCallback, Data, FltObjects, CompletionContext, Flags)
        observer.safe_returned(frame, returned)
        if returned != FLT_POSTOP_MORE_PROCESSING_REQUIRED:
            await resume_post(manager.pipeline, frame)
        let_go(current_thread(), instance, item.label)

    if resources_fail("FltDoCompletionProcessingWhenSafe") or not NT_SUCCESS(
        await PostSafely(item, frame, DelayedWorkQueue, run)
    ):
        remarks.refused_safe = True
        return False, FLT_POSTOP_FINISHED_PROCESSING
    remarks.safe_status = int(FLT_POSTOP_MORE_PROCESSING_REQUIRED)
    await Point(f"return from posting the completion of {frame.operation.label}", item)
    return True, FLT_POSTOP_MORE_PROCESSING_REQUIRED
