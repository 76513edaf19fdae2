"""The steps of an operation's way through the filter manager: what a thread says it is about to do to it.

Each is atomic and names the cells it touches; `pipeline` decides which of them follows which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.fltmgr.constants import (
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_PENDING,
)
from kemu.fltmgr.frame import (
    AWAIT_POST,
    DRAINING_POST,
    IN_POST,
    IN_PREOP,
    NOT_CALLED,
    PENDED,
    POST_PENDED,
    POST_RESUMED_EARLY,
    RESUMED_EARLY,
    Frame,
    IrpCtrl,
)
from kemu.fltmgr.messages import PostOperation, PreOperation
from kemu.fltmgr.objects import DRAINING
from kemu.runtime import BlockingOperation, Cell, Operation, Thread

if TYPE_CHECKING:
    from kemu.fltmgr.observer import FltObserver
    from kemu.fltmgr.pipeline import Drive


class DeliverPre(Operation[bool]):
    """A preoperation callback is about to be called; false if the instance has gone meanwhile."""

    __slots__ = ("frame",)
    kind = "deliver"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def perform(self, thread: Thread) -> bool:
        frame = self.frame
        thread.read(frame.instance)
        thread.write(frame)
        if frame.state != NOT_CALLED:
            return False
        thread.acquire(frame.instance)
        frame.state = IN_PREOP
        frame.late = frame.instance.state == DRAINING
        frame.inside.append(thread)
        log = thread.runtime.log
        if log is not None:
            log("flt.pre.enter", frame=frame, message=PreOperation(frame.operation.label))
        return True

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        return f"deliver pre-operation of {self.frame.operation.label} to {self.frame.label}"


class ReturnPending(Operation[None]):
    """A preoperation callback returns FLT_PREOP_PENDING, which may race with the completion of the operation."""

    __slots__ = ("frame",)
    kind = "return FLT_PREOP_PENDING to"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def perform(self, thread: Thread) -> None:
        frame = self.frame
        thread.write(frame)
        if frame.state == IN_PREOP:
            frame.state = PENDED
        frame.returned(thread)
        log = thread.runtime.log
        if log is not None:
            log("flt.pre.return", frame=frame, ret=FLT_PREOP_PENDING)

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        return f"{self.frame.label} returns FLT_PREOP_PENDING for {self.frame.operation.label}"


class DeliverPost(Operation[bool]):
    """A postoperation callback is about to be called; false if a teardown has drained the frame meanwhile."""

    __slots__ = ("draining", "frame")
    kind = "deliver"

    def __init__(self, frame: Frame, draining: bool = False) -> None:
        self.frame = frame
        self.draining = draining

    def perform(self, thread: Thread) -> bool:
        frame = self.frame
        thread.write(frame)
        if frame.state != AWAIT_POST:
            return False
        thread.acquire(frame)
        frame.state = DRAINING_POST if self.draining else IN_POST
        # What the driver did with the operation in its pre-operation phase says nothing about this one.
        frame.handed = False
        frame.queue_failed = None
        frame.inside.append(thread)
        log = thread.runtime.log
        if log is not None:
            log("flt.post.enter", frame=frame, message=PostOperation(frame.operation.label, self.draining))
        return True

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        how = "draining " if self.draining else ""
        return f"deliver {how}post-operation of {self.frame.operation.label} to {self.frame.label}"


class ReturnMoreProcessing(Operation[bool]):
    """A postoperation callback returns FLT_POSTOP_MORE_PROCESSING_REQUIRED, which may race with the resumption."""

    __slots__ = ("frame",)
    kind = "return FLT_POSTOP_MORE_PROCESSING_REQUIRED to"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def perform(self, thread: Thread) -> bool:
        frame = self.frame
        thread.write(frame)
        if frame.state == IN_POST:
            frame.state = POST_PENDED
        frame.returned(thread)
        log = thread.runtime.log
        if log is not None:
            log("flt.post.return", frame=frame, ret=FLT_POSTOP_MORE_PROCESSING_REQUIRED)
        return frame.state == POST_PENDED

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        return f"{self.frame.label} returns FLT_POSTOP_MORE_PROCESSING_REQUIRED for {self.frame.operation.label}"


class AwaitCompletion(BlockingOperation[bool]):
    """Wait until completion has reached a frame that this drive must finish; false if the operation is complete."""

    __slots__ = ("drive", "operation")
    kind = "see the completion of"

    def __init__(self, operation: IrpCtrl, drive: Drive) -> None:
        super().__init__(operation, operation.request)
        self.operation = operation
        self.drive = drive

    def available(self, thread: Thread) -> bool:
        return self.operation.handoff == self.drive.name or self.operation.request.done

    def take(self, thread: Thread) -> bool:
        operation = self.operation
        thread.read(operation.request)
        thread.write(operation)
        if operation.handoff != self.drive.name:
            return False
        thread.acquire(operation)
        operation.handoff = None
        return True


class ResumePre(Operation[None]):
    """FltCompletePendedPreOperation takes effect: control goes back to the filter manager."""

    __slots__ = ("context", "frame", "observer", "status")
    kind = "FltCompletePendedPreOperation"

    def __init__(self, observer: FltObserver, frame: Frame, status: int, context: Any) -> None:
        self.observer = observer
        self.frame = frame
        self.status = status
        self.context = context

    def perform(self, thread: Thread) -> None:
        frame = self.frame
        thread.write(frame)
        self.observer.resuming_pre(frame, self.status, self.context)
        log = thread.runtime.log
        if log is not None:
            log("flt.complete_pended", frame=frame, ret=self.status)
        frame.state = RESUMED_EARLY if frame.state == IN_PREOP else PENDED
        frame.handed = frame.was_resumed = True
        if frame.cancel_armed:
            frame.cancel_armed = False
            cancel = frame.operation.request.cancel
            thread.write(cancel)
            cancel.routine = None

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        return f"complete the pended {self.frame.operation.label} of {self.frame.label}"


class ResumePost(Operation[None]):
    """FltCompletePendedPostOperation takes effect."""

    __slots__ = ("frame", "observer")
    kind = "FltCompletePendedPostOperation"

    def __init__(self, observer: FltObserver, frame: Frame) -> None:
        self.observer = observer
        self.frame = frame

    def perform(self, thread: Thread) -> None:
        frame = self.frame
        thread.write(frame)
        self.observer.resuming_post(frame)
        log = thread.runtime.log
        if log is not None:
            log("flt.complete_pended", frame=frame, ret=0)
        frame.state = POST_RESUMED_EARLY if frame.state == IN_POST else POST_PENDED

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        return f"complete the pended post-operation of {self.frame.operation.label} of {self.frame.label}"
