"""Operations that a minifilter begins itself: they enter the stack below one of its instances (FLT-IO-01).

What is sent is a request as any other, and goes the way of any other. Only where it begins is different: at the
instances below the one that initiated it, which neither sees it nor is told of its completion, but cannot be torn down
before (FLT-INST-27, FLT-UNLOAD-12). Asynchronous I/O ends with a callback into the driver, and counts until that has
returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

from kemu.fltmgr.constants import FLTFL_CALLBACK_DATA_GENERATED_IO
from kemu.fltmgr.frame import COMPLETED_HERE, Frame, IrpCtrl
from kemu.fltmgr.initiated import GeneratedIo
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.messages import IoCompleted
from kemu.io.request import CLASS_NAMES, FileObject, Parameters, Request, WaitDone
from kemu.nt.driver import in_driver, routine_name
from kemu.nt.kthread import current_kthread
from kemu.nt.status import NTSTATUS, STATUS_FLT_IO_COMPLETE, STATUS_PENDING, STATUS_SUCCESS
from kemu.nt.system import current_system, label_of, report
from kemu.runtime import Deliver, Operation, Point, Thread, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.objects import FltVolume, Instance
    from kemu.fltmgr.ownframe import OwnFrame

CompletedAsyncIo = Callable[[Any, Any], Awaitable[None]]
"""``async def callback(CallbackData, Context)``: PFLT_COMPLETED_ASYNC_IO_CALLBACK."""


class GeneratedRequest(Request):
    """A request that a minifilter has initiated, and waits for."""

    __slots__ = ("initiator", "marks", "moves", "own")

    is_generated: ClassVar[bool] = True

    def __init__(
        self,
        initiator: Instance,
        file: FileObject,
        major: int,
        parameters: Parameters,
        *,
        flags: int = 0,
        minor: int = 0,
        marks: int = FLTFL_CALLBACK_DATA_GENERATED_IO,
    ) -> None:
        super().__init__(initiator.volume.volume, file, major, parameters, flags=flags, minor=minor, mode=0)
        self.initiator = initiator
        self.marks = marks
        """Flags of the callback data that the instances below see."""
        self.moves = False
        """Whether it is a transfer at the position of the file object."""
        self.own: OwnFrame | None = None
        """The driver's callback data that it was made from."""


class AsynchronousRequest(GeneratedRequest):
    """One whose completion calls back into the driver."""

    __slots__ = ("callback", "context", "ended_inside", "inside", "restores")

    is_inner: ClassVar[bool] = True

    callback: CompletedAsyncIo
    context: Any
    inside: Thread | None
    """The thread that sends it, as long as it has not come back."""
    ended_inside: bool
    restores: int | None
    """What the position of the file object is set back to before the callback."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.restores = None

    async def go_on(self) -> None:
        """Call the driver back, in the thread that has completed the request (FLT-IO-15)."""
        thread = current_kthread()
        if self.inside is thread:
            self.ended_inside = True
        own = self.own
        assert own is not None
        actor = self.initiator.filter.driver
        await Deliver(actor, IoCompleted, own)
        own.back(thread, self)
        if self.restores is not None:
            restore(self.file, self.restores)
        log = thread.runtime.log
        if log is not None:
            log("flt.io.completed", about=self, flt=actor.label, status=self.status)
        await in_driver(actor, routine_name(self.callback), self.callback, own.data, self.context)
        thread = current_kthread()
        own.called_back(thread)
        conclude(thread, self)


def restore(file: FileObject, position: int) -> None:
    """Put the position back to where it was for the caller and those above it (FLT-IO-08)."""
    current_thread().write(file.fs_context)
    file.CurrentByteOffset = position


class BeginBelow(Operation[IrpCtrl]):
    """An operation enters the filter manager below the instance that has initiated it."""

    __slots__ = ("request",)
    kind = "initiate"

    def __init__(self, request: GeneratedRequest) -> None:
        self.request = request

    def perform(self, thread: Thread) -> IrpCtrl:
        request = self.request
        instance = request.initiator
        initiated(thread, instance)
        if instance.deleting:
            current_system().get(FilterManager).observer.late_work(instance, request.label)
        instance.initiated.append(request)
        if request.moves:
            begin_at_position(thread, request)
        current_system().get(GeneratedIo).outstanding.append(request)
        thread.update(request.file)
        request.file.pending += 1
        log = thread.runtime.log
        if log is not None:
            log("irp.create", about=request, path=request.file.FileName, kind=CLASS_NAMES[request.kind])
        operation = IrpCtrl(request)
        request.filter_context = operation
        join_below(thread, operation, instance, request, request.marks)
        return operation

    def target(self) -> FltVolume:
        return self.request.initiator.volume

    def describe(self) -> str:
        return f"initiate {self.request.label} below {self.request.initiator.label}"


def begin_at_position(thread: Thread, request: GeneratedRequest) -> None:
    """Have *request* go to where the position of the file object is now, which it moves when it is carried out.

    Finding ``byteoffset-race``: another request is between these two (FLT-RACE-67).
    """
    file = request.file
    thread.write(file.fs_context)
    for other in current_system().get(GeneratedIo).outstanding:
        if other.file is file and other.moves:
            report(
                "byteoffset-race",
                f"{thread.label} begins a transfer without an offset while {other.label} of {label_of(other.thread)} "
                f"is under way: both begin at, and move, the position of {file.label}",
            )
    request.parameters.ByteOffset = file.CurrentByteOffset


def join_below(thread: Thread, operation: IrpCtrl, instance: Instance, request: Request, marks: int) -> None:
    """Give *operation* a frame for each instance below *instance* that takes part, inside the calling step."""
    volume = instance.volume
    thread.read(volume)
    frames = operation.frames
    for lower in volume.instances:
        if lower.key >= instance.key:
            continue
        node = lower.nodes.get(request.major)
        if node is not None and not lower.deleting and not (node.flags and node.skips(request)):
            frame = Frame(operation, node, len(frames))
            frame.flags |= marks
            frames.append(frame)
            lower.outstanding.append(frame)


def initiated(thread: Thread, instance: Instance) -> None:
    """Record a change of what *instance* has under way. Nobody sees it before a teardown has begun."""
    if instance.deleting:
        thread.write(instance)
    else:
        thread.read(instance)


def conclude(thread: Thread, request: GeneratedRequest) -> None:
    """The initiator has seen the end of *request*: it may be torn down, as far as that is concerned."""
    instance = request.initiator
    initiated(thread, instance)
    thread.release_to_waiter(instance.operations)
    instance.initiated.remove(request)
    if instance.deleting:
        instance.changed()
    current_system().get(GeneratedIo).outstanding.remove(request)
    if request.moves:
        thread.write(request.file.fs_context)


async def perform(request: GeneratedRequest) -> NTSTATUS:
    """Send *request* and wait until it is complete; its status."""
    operation = await BeginBelow(request)
    await current_system().get(FilterManager).pipeline.start(operation)
    status = await WaitDone(request)
    conclude(current_thread(), request)
    return status


async def issue(request: AsynchronousRequest, callback: CompletedAsyncIo, context: Any, name: str) -> NTSTATUS:
    """Send *request*, whose completion calls *callback*; what FltPerformAsynchronousIo returns (FLT-IO-15)."""
    thread = current_thread()
    request.callback, request.context = callback, context
    request.inside, request.ended_inside = thread, False
    operation = await BeginBelow(request)
    await current_system().get(FilterManager).pipeline.start(operation)
    request.inside = None
    await Point(f"return from {name}", request)
    if not request.ended_inside:
        return STATUS_PENDING
    if any(frame.state == COMPLETED_HERE for frame in operation.frames):
        return STATUS_FLT_IO_COMPLETE
    return STATUS_SUCCESS
