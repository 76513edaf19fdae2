"""FltRequestOperationStatusCallback (FLT-POST-29, FLT-POST-30)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.frame import IN_PREOP, Frame, Input
from kemu.fltmgr.remarks import StatusRequest
from kemu.fltmgr.statusrequest import note_request
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, FLT_IO_PARAMETER_BLOCK, FLT_RELATED_OBJECTS
from kemu.io.constants import IRP_MJ_CLOSE
from kemu.io.request import IRP_OPERATION
from kemu.nt.kthread import APC_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.system import resources_fail
from kemu.runtime import Cell, Operation, Thread

StatusCallback = Callable[[FLT_RELATED_OBJECTS, FLT_IO_PARAMETER_BLOCK, int, Any], Awaitable[None]]
"""``Callback(FltObjects, IopbSnapshot, OperationStatus, RequesterContext)``."""


class RequestStatus(Operation[NTSTATUS]):
    """Note that the driver wants to be told, unless its instance is going away."""

    __slots__ = ("callback", "context", "frame")
    kind = "FltRequestOperationStatusCallback"

    def __init__(self, frame: Frame, callback: StatusCallback, context: Any) -> None:
        self.frame = frame
        self.callback = callback
        self.context = context

    def perform(self, thread: Thread) -> NTSTATUS:
        frame = self.frame
        thread.read(frame.instance)
        thread.write(frame)
        if frame.instance.deleting:
            return STATUS_FLT_DELETING_OBJECT
        snapshot = frame.input if frame.iopb is None else Input.seen(frame.iopb)
        note_request(thread, StatusRequest(frame, self.callback, self.context, snapshot))
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.frame


@routine(
    "fltkernel",
    """NTSTATUS FltRequestOperationStatusCallback(_In_ PFLT_CALLBACK_DATA Data,
       _In_ PFLT_GET_OPERATION_STATUS_CALLBACK CallbackRoutine, _In_opt_ PVOID RequesterContext)""",
    max_irql=APC_LEVEL,
)
async def FltRequestOperationStatusCallback(
    Data: FLT_CALLBACK_DATA, CallbackRoutine: StatusCallback, RequesterContext: Any = None
) -> NTSTATUS:
    """Have *CallbackRoutine* called when the layer below has returned, with its status.

    It is ``CallbackRoutine(FltObjects, IopbSnapshot, OperationStatus, RequesterContext)``; the status is STATUS_PENDING
    if the operation is still below. Only from the preoperation callback of an IRP that is no IRP_MJ_CLOSE, else
    STATUS_INVALID_PARAMETER. The parameters that the callback gets are those of the time of this call: change them
    before (finding ``status-snapshot-stale``). STATUS_FLT_DELETING_OBJECT while the instance is torn down,
    STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: <= APC_LEVEL.
    """
    frame = owned_frame(Data)
    request = frame.operation.request
    if frame.state != IN_PREOP or request.kind != IRP_OPERATION or request.major == IRP_MJ_CLOSE:
        return STATUS_INVALID_PARAMETER
    if resources_fail("FltRequestOperationStatusCallback"):
        return STATUS_INSUFFICIENT_RESOURCES
    return await RequestStatus(frame, CallbackRoutine, RequesterContext)
