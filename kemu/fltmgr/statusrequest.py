"""Telling a minifilter what the layer below it has returned for an operation (FLT-POST-29)."""

from __future__ import annotations

from typing import Final

from kemu.fltmgr.messages import OperationStatus
from kemu.fltmgr.objects import hold, let_go
from kemu.fltmgr.remarks import Remarks, StatusRequest
from kemu.fltmgr.structures import FLT_IO_PARAMETER_BLOCK, FLT_RELATED_OBJECTS
from kemu.nt.driver import in_driver, routine_name
from kemu.nt.status import NTSTATUS
from kemu.runtime import Deliver, Thread, current_thread

HOLDER: Final = "status callback"


def note_request(thread: Thread, request: StatusRequest) -> None:
    """The driver wants to be told. The callback may come after its instance has done its part in the operation."""
    request.frame.remember().status_requests.append(request)
    hold(thread, request.frame.instance, HOLDER)


def forget_requests(thread: Thread, remarks: Remarks) -> None:
    """The operation does not go down: there is nothing to tell."""
    for one in remarks.status_requests:
        let_go(thread, one.frame.instance, HOLDER)


async def tell_status(request: StatusRequest, status: NTSTATUS) -> None:
    """The lower layer has returned *status*: call the driver."""
    frame = request.frame
    actor = frame.node.filter.driver
    await Deliver(actor, OperationStatus, frame)
    objects = FLT_RELATED_OBJECTS(frame)
    snapshot = FLT_IO_PARAMETER_BLOCK(frame, request.snapshot)
    callback = request.callback
    await in_driver(actor, routine_name(callback), callback, objects, snapshot, status, request.context)
    let_go(current_thread(), frame.instance, HOLDER)
