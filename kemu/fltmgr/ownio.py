"""I/O by callback data of a driver's own: allocate, fill in, perform, cancel, send again, free (FLT-IO-13 to 21)."""

from __future__ import annotations

from typing import Any, Final, TypeGuard

from kemu.fltmgr.constants import (
    FLTFL_CALLBACK_DATA_DIRTY,
    FLTFL_CALLBACK_DATA_GENERATED_IO,
    FLTFL_CALLBACK_DATA_REISSUED_IO,
)
from kemu.fltmgr.frame import IN_POST, POST_PENDED, Frame
from kemu.fltmgr.generated import (
    AsynchronousRequest,
    CompletedAsyncIo,
    GeneratedIo,
    GeneratedRequest,
    issue,
    perform,
)
from kemu.fltmgr.issuing import check_locks, check_request
from kemu.fltmgr.objects import Instance
from kemu.fltmgr.ownframe import FREED, IDLE, OwnFrame
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, frame_of
from kemu.io.constants import IRP_MJ_CREATE, IRP_PAGING_IO
from kemu.io.file_constants import FO_FILE_OPEN_CANCELLED
from kemu.io.manager import IoManager
from kemu.io.request import IRP_OPERATION, FileObject
from kemu.nt.driver import IRP_MJ_MAXIMUM_FUNCTION, current_driver
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_CANCELLED,
    STATUS_FLT_INVALID_ASYNCHRONOUS_REQUEST,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report, resources_fail
from kemu.runtime import Cell, Operation, Point, Thread, current_thread

FLT_ALLOCATE_CALLBACK_DATA_PREALLOCATE_ALL_MEMORY: Final = 0x1


def allocate(name: str, instance: Instance, file: FileObject | None) -> tuple[NTSTATUS, FLT_CALLBACK_DATA | None]:
    """Callback data for *instance*, unless memory is short."""
    if resources_fail(name):
        return STATUS_INSUFFICIENT_RESOURCES, None
    frame = OwnFrame(instance, file, by_driver=True)
    current_system().get(GeneratedIo).allocated[frame] = None
    return STATUS_SUCCESS, frame.data


@routine(
    "fltkernel",
    """NTSTATUS FltAllocateCallbackData(_In_ PFLT_INSTANCE Instance, _In_opt_ PFILE_OBJECT FileObject,
       _Outptr_ PFLT_CALLBACK_DATA *RetNewCallbackData)""",
    max_irql=APC_LEVEL,
)
async def FltAllocateCallbackData(
    Instance: Instance, FileObject: FileObject | None
) -> tuple[NTSTATUS, FLT_CALLBACK_DATA | None]:
    """Allocate callback data for I/O that begins below *Instance*: status and callback data (FLT-IO-13).

    The driver fills ``Iopb`` in, performs the I/O, and frees it with FltFreeCallbackData: finding ``cbd-leak``
    at unload otherwise. STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: <= APC_LEVEL.
    """
    return allocate("FltAllocateCallbackData", Instance, FileObject)


@routine(
    "fltkernel",
    """NTSTATUS FltAllocateCallbackDataEx(_In_ PFLT_INSTANCE Instance, _In_opt_ PFILE_OBJECT FileObject,
       _In_ FLT_ALLOCATE_CALLBACK_DATA_FLAGS Flags, _Outptr_ PFLT_CALLBACK_DATA *RetNewCallbackData)""",
    max_irql=APC_LEVEL,
)
async def FltAllocateCallbackDataEx(
    Instance: Instance, FileObject: FileObject | None, Flags: int
) -> tuple[NTSTATUS, FLT_CALLBACK_DATA | None]:
    """FltAllocateCallbackData with *Flags*, which say whether all memory is set aside now: kemu always does.

    STATUS_INVALID_PARAMETER for flags that do not exist. IRQL: <= APC_LEVEL.
    """
    if Flags & ~FLT_ALLOCATE_CALLBACK_DATA_PREALLOCATE_ALL_MEMORY:
        return STATUS_INVALID_PARAMETER, None
    return allocate("FltAllocateCallbackDataEx", Instance, FileObject)


class GiveUp(Operation[OwnFrame]):
    """A driver frees callback data, or makes it as new."""

    __slots__ = ("data", "frees", "name")
    kind = "give up"

    def __init__(self, name: str, data: FLT_CALLBACK_DATA, *, frees: bool) -> None:
        self.name = name
        self.data = data
        self.frees = frees

    def perform(self, thread: Thread) -> OwnFrame:
        frame = own_frame(self.name, self.data)
        frame.check(current_kthread(), f"calls {self.name} of {frame.label}")
        frame.check_result(self.name)
        thread.write(frame)
        if self.frees:
            thread.end(frame)
            frame.phase = FREED
            frame.where = thread.label
            frame.forget()
        else:
            frame.blank()
        return frame

    def target(self) -> Cell:
        return frame_of(self.data)

    def describe(self) -> str:
        return f"{self.name} of {frame_of(self.data).label}"


def is_own(frame: Frame) -> TypeGuard[OwnFrame]:
    """Whether the running driver has allocated the callback data of *frame*."""
    return isinstance(frame, OwnFrame) and frame.by_driver and current_driver() in {frame.node.filter.driver, None}


def own_frame(name: str, data: FLT_CALLBACK_DATA) -> OwnFrame:
    """The record behind callback data that the calling driver has allocated; finding ``cbd-foreign-free`` for any
    other.
    """
    frame = frame_of(data)
    if not is_own(frame):
        report("cbd-foreign-free", f"{name} of {frame.label}: {current_thread().label} has not allocated that")
    assert isinstance(frame, OwnFrame)
    return frame


@routine("fltkernel", "VOID FltFreeCallbackData(_In_ PFLT_CALLBACK_DATA CallbackData)", max_irql=DISPATCH_LEVEL)
async def FltFreeCallbackData(CallbackData: FLT_CALLBACK_DATA) -> None:
    """Free callback data of the driver's own, after its I/O is over. IRQL: <= DISPATCH_LEVEL.

    Findings: ``asyncio-cbd-race`` as long as a callback is due (FLT-IO-17), ``cbd-foreign-free`` (FLT-IO-13),
    ``asyncio-status-misread`` for a failure that nobody has looked at (FLT-IO-16), ``ke.use-after-free``.
    """
    await GiveUp("FltFreeCallbackData", CallbackData, frees=True)


@routine("fltkernel", "VOID FltReuseCallbackData(_Inout_ PFLT_CALLBACK_DATA CallbackData)", max_irql=APC_LEVEL)
async def FltReuseCallbackData(CallbackData: FLT_CALLBACK_DATA) -> None:
    """Make callback data of the driver's own as new: the targets stay (FLT-IO-14). IRQL: <= APC_LEVEL.

    Findings as FltFreeCallbackData.
    """
    await GiveUp("FltReuseCallbackData", CallbackData, frees=False)


class HandOver(Operation[None]):
    """Hand callback data of a driver's own to the filter manager."""

    __slots__ = ("frame", "name", "request")
    kind = "send"

    def __init__(self, name: str, frame: OwnFrame, request: GeneratedRequest) -> None:
        self.name = name
        self.frame = frame
        self.request = request

    def perform(self, thread: Thread) -> None:
        self.frame.check(current_kthread(), f"calls {self.name} of {self.frame.label}")
        self.frame.send(thread, self.request)

    def target(self) -> Cell:
        return self.frame

    def describe(self) -> str:
        return f"{self.name} of {self.request.label}"


def _refusal(request: GeneratedRequest) -> NTSTATUS | None:
    """The status of what cannot be initiated: only IRP operations can (FLT-IO-03)."""
    return None if 0 <= request.major <= IRP_MJ_MAXIMUM_FUNCTION else STATUS_INVALID_PARAMETER


@routine("fltkernel", "VOID FltPerformSynchronousIo(_Inout_ PFLT_CALLBACK_DATA CallbackData)", max_irql=APC_LEVEL)
async def FltPerformSynchronousIo(CallbackData: FLT_CALLBACK_DATA) -> None:
    """Perform the I/O that the driver has filled in, and wait; the result is in ``CallbackData->IoStatus``.

    IRQL: <= APC_LEVEL (FLT-IO-18). Findings: ``cbd-foreign-free``, ``lock-across-io``, ``io-on-unopened-file``,
    ``io-bad-params``, ``noncached-misaligned``, ``placeholder-io``.
    """
    frame = own_frame("FltPerformSynchronousIo", CallbackData)
    request = frame.request_to_send(asynchronous=False)
    refused = _refusal(request)
    if refused is None:
        check_request("FltPerformSynchronousIo", frame.instance, request)
    await HandOver("FltPerformSynchronousIo", frame, request)
    if refused is None:
        await perform(request)
    else:
        request.status = refused
    frame.back(current_thread(), request)


def _async_ceiling(CallbackData: FLT_CALLBACK_DATA, CallbackRoutine: CompletedAsyncIo, CallbackContext: Any) -> int:
    """PASSIVE_LEVEL; <= APC_LEVEL for paging I/O."""
    iopb = frame_of(CallbackData).iopb
    paging = iopb is not None and object.__getattribute__(iopb, "IrpFlags") & IRP_PAGING_IO
    return APC_LEVEL if paging else PASSIVE_LEVEL


@routine(
    "fltkernel",
    """NTSTATUS FltPerformAsynchronousIo(_Inout_ PFLT_CALLBACK_DATA CallbackData,
       _In_ PFLT_COMPLETED_ASYNC_IO_CALLBACK CallbackRoutine, _In_opt_ PVOID CallbackContext)""",
    max_irql=_async_ceiling,
)
async def FltPerformAsynchronousIo(
    CallbackData: FLT_CALLBACK_DATA, CallbackRoutine: CompletedAsyncIo, CallbackContext: Any
) -> NTSTATUS:
    """Perform the I/O that the driver has filled in; ``CallbackRoutine(CallbackData, CallbackContext)`` is told.

    It is called in every case, in whichever thread completes the I/O, at DISPATCH_LEVEL or below, perhaps before this
    returns (FLT-IO-15). STATUS_SUCCESS or STATUS_FLT_IO_COMPLETE: it was called, in the second case because a lower
    instance has completed the operation; STATUS_PENDING: it will be; STATUS_FLT_INVALID_ASYNCHRONOUS_REQUEST for
    a create. IRQL: PASSIVE_LEVEL, <= APC_LEVEL for paging I/O. Findings as FltPerformSynchronousIo.
    """
    frame = own_frame("FltPerformAsynchronousIo", CallbackData)
    request = frame.request_to_send(asynchronous=True)
    assert isinstance(request, AsynchronousRequest)
    refused = STATUS_FLT_INVALID_ASYNCHRONOUS_REQUEST if request.major == IRP_MJ_CREATE else _refusal(request)
    if refused is None:
        check_request("FltPerformAsynchronousIo", frame.instance, request)
    await HandOver("FltPerformAsynchronousIo", frame, request)
    if refused is None:
        return await issue(request, CallbackRoutine, CallbackContext, "FltPerformAsynchronousIo")
    request.status = refused
    await refuse_later(request, CallbackRoutine, CallbackContext)
    return refused


async def refuse_later(request: AsynchronousRequest, callback: CompletedAsyncIo, context: Any) -> None:
    """Call back for a request that was refused before it was sent."""
    thread = current_thread()
    request.callback, request.context = callback, context
    request.inside, request.ended_inside = thread, False
    request.initiator.initiated.append(request)
    current_system().get(GeneratedIo).outstanding.append(request)
    await request.go_on()


@routine("fltkernel", "BOOLEAN FltCancelIo(_In_ PFLT_CALLBACK_DATA CallbackData)", max_irql=DISPATCH_LEVEL)
async def FltCancelIo(CallbackData: FLT_CALLBACK_DATA) -> bool:
    """Cancel I/O that the driver has initiated: whether somebody below was told (FLT-CANCEL-10).

    FALSE leaves the cancel bit set for whoever looks at it next (FLT-CANCEL-13), and says that trying again may help:
    somebody may have become cancellable since. The I/O completes as ever (FLT-CANCEL-12). IRQL: <= DISPATCH_LEVEL.
    Findings: ``cancel-foreign-io``, ``cancel-completed-io`` (FLT-CANCEL-11), ``asyncio-cbd-race``.
    """
    frame = frame_of(CallbackData)
    thread = current_kthread()
    if not is_own(frame):
        report("cancel-foreign-io", f"{thread.label} cancels {frame.operation.label} of {frame.label}, not its own I/O")
    assert isinstance(frame, OwnFrame)
    await Point(f"FltCancelIo of {frame.label}", frame)
    if frame.phase == FREED:
        frame.check(thread, f"calls FltCancelIo of {frame.label}")
    if frame.completed:
        report("cancel-completed-io", f"{thread.label} cancels {frame.operation.request.label}, which is over")
    return await current_system().get(IoManager).cancel(frame.operation.request, again=True)


def _reissue_ceiling(InitiatingInstance: Instance, CallbackData: FLT_CALLBACK_DATA) -> int:
    """PASSIVE_LEVEL; <= APC_LEVEL for paging I/O."""
    return APC_LEVEL if frame_of(CallbackData).operation.request.flags & IRP_PAGING_IO else PASSIVE_LEVEL


@routine(
    "fltkernel",
    """VOID FltReissueSynchronousIo(_In_ PFLT_INSTANCE InitiatingInstance,
       _In_ PFLT_CALLBACK_DATA CallbackData)""",
    max_irql=_reissue_ceiling,
)
async def FltReissueSynchronousIo(InitiatingInstance: Instance, CallbackData: FLT_CALLBACK_DATA) -> None:
    """Send an operation again below *InitiatingInstance*, from its post-operation callback, and wait (FLT-IO-19).

    The instances below see it with GENERATED_IO and REISSUED_IO; its result replaces the former one. Changed parameters
    have to be declared with FltSetCallbackDataDirty. A create whose open was cancelled comes to STATUS_CANCELLED
    (FLT-IO-21). IRQL: PASSIVE_LEVEL, <= APC_LEVEL for paging I/O. Findings: ``reissue-not-synchronized`` (FLT-IO-20),
    ``params-not-dirty``, ``lock-across-io``.
    """
    frame = frame_of(CallbackData)
    name = "FltReissueSynchronousIo"
    check_locks(name)
    _check_reissue(frame, InitiatingInstance)
    if not frame.flags & FLTFL_CALLBACK_DATA_DIRTY and frame.changed_parameters() and not isinstance(frame, OwnFrame):
        report("params-not-dirty", f"{name} of {frame.operation.label} with changed parameters")
    request = frame.request_to_send(asynchronous=False) if isinstance(frame, OwnFrame) else _again(frame)
    request.marks = FLTFL_CALLBACK_DATA_GENERATED_IO | FLTFL_CALLBACK_DATA_REISSUED_IO
    frame.flags |= request.marks
    thread = current_thread()
    thread.read(request.file)
    if request.major == IRP_MJ_CREATE and request.file.Flags & FO_FILE_OPEN_CANCELLED:
        request.status = STATUS_CANCELLED
    elif isinstance(frame, OwnFrame):
        await HandOver(name, frame, request)
        await perform(request)
    else:
        await perform(request)
    if isinstance(frame, OwnFrame):
        frame.back(current_thread(), request)
        return
    original = frame.operation.request
    thread = current_thread()
    thread.write(frame)
    original.status, original.information, original.buffer = request.status, request.information, request.buffer
    frame.result = None


def _again(frame: Frame) -> GeneratedRequest:
    """A request of what the frame's instance was given, with the changes that it has declared."""
    original = frame.operation.request
    given = frame.input
    if frame.iopb is not None and frame.flags & FLTFL_CALLBACK_DATA_DIRTY:
        given = given.seen(frame.iopb)
        frame.flags &= ~FLTFL_CALLBACK_DATA_DIRTY
    request = GeneratedRequest(
        frame.instance, given.file, original.major, given.parameters, flags=given.flags, minor=given.minor
    )
    request.thread, request.mode = original.thread, original.mode
    request._cancel = original.cancel  # pyright: ignore[reportPrivateUsage]
    return request


def _check_reissue(frame: Frame, instance: Instance) -> None:
    """Finding ``reissue-not-synchronized`` (FLT-IO-19, FLT-IO-20)."""
    what = f"{current_thread().label} sends {frame.operation.label} of {frame.label} again"
    if frame.instance is not instance:
        report("reissue-not-synchronized", f"{what} below {instance.label}, which is not its instance")
    if isinstance(frame, OwnFrame):
        if frame.phase != IDLE or not frame.completed or frame.sent_asynchronously:
            report("reissue-not-synchronized", f"{what}, which FltPerformSynchronousIo has not performed")
        return
    request = frame.operation.request
    synchronised = frame.operation.is_create or frame.waiter is not None
    if request.kind != IRP_OPERATION or frame.state not in {IN_POST, POST_PENDED} or not synchronised:
        report("reissue-not-synchronized", f"{what}, which is {frame.state_name} and was not synchronised")
