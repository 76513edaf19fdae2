"""Redirecting an operation to the same filter's instance on another volume, or to another file (FLT-CBD-12 to 14).

What is below the instance on its own volume sees nothing more of the operation. Below the target instance it goes on as
a request of its own, whose end is that of the operation: those above see the file object and the parameters that they
were given.
"""

from __future__ import annotations

from typing import ClassVar

from kemu.fltmgr.frame import NOT_CALLED, Frame, Input, IrpCtrl
from kemu.fltmgr.generated import join_below
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import FltVolume, Instance
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, frame_of
from kemu.io.request import FileObject, Request
from kemu.nt.kthread import DISPATCH_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.nt.system import current_system, report
from kemu.runtime import Operation, Thread, current_thread


class Redirections:
    """What drivers have asked about redirection, in one run."""

    def __init__(self) -> None:
        self.vetted: dict[tuple[Instance, Instance], None] = {}
        """From which instance to which one the filter has asked whether that is allowed."""
        self.small: dict[Request, int] = {}
        """The requests that were on their way when their volume's stack size was adjusted, with what it was before."""


class RedirectedRequest(Request):
    """What an operation is below the instance that it was redirected to."""

    __slots__ = ("ended_inside", "inside", "operation")

    is_inner: ClassVar[bool] = True

    operation: IrpCtrl
    inside: Thread | None
    ended_inside: bool

    async def go_on(self) -> None:
        """It is complete: so is the part of the operation that is below the redirecting instance."""
        thread = current_thread()
        original = self.operation.request
        thread.write(original)
        original.status, original.information, original.buffer = self.status, self.information, self.buffer
        if self.inside is thread:
            self.ended_inside = True
        else:
            await current_system().get(FilterManager).pipeline.complete_up(self.operation, None)


class Detour:
    """What an operation reaches instead of what is below its own volume's filters: the way to the target."""

    def __init__(self, request: RedirectedRequest, target: Instance) -> None:
        self.request = request
        self.target = target

    async def dispatch(self, request: Request) -> bool:
        """Send it below the target instance; whether it is complete."""
        redirected = self.request
        redirected.inside = current_thread()
        operation = await EnterTarget(redirected, self.target)
        await current_system().get(FilterManager).pipeline.start(operation)
        redirected.inside = None
        return redirected.ended_inside


class EnterTarget(Operation[IrpCtrl]):
    """A redirected operation enters the other volume's stack."""

    __slots__ = ("request", "target_instance")
    kind = "redirect"

    def __init__(self, request: RedirectedRequest, target: Instance) -> None:
        self.request = request
        self.target_instance = target

    def perform(self, thread: Thread) -> IrpCtrl:
        request = self.request
        operation = IrpCtrl(request)
        request.filter_context = operation
        thread.update(request.file)
        request.file.pending += 1
        join_below(thread, operation, self.target_instance, request, 0)
        return operation

    def target(self) -> FltVolume:
        return self.target_instance.volume

    def describe(self) -> str:
        return f"redirect {self.request.label} to {self.target_instance.label}"


def redirect(thread: Thread, frame: Frame, changed: Input, target: Instance) -> None:
    """Have the operation of *frame* go on below *target*, inside the calling step: the filter has said so, with DIRTY.

    Findings: ``bad-redirect`` (FLT-CBD-12), ``redirect-unchecked`` (FLT-CBD-13).
    """
    operation = frame.operation
    original = operation.request
    if not isinstance(target, Instance):  # pyright: ignore[reportUnnecessaryIsInstance]
        report("bad-redirect", f"{frame.label} redirects {operation.label} to {target!r}")
    check(thread, frame, changed.file, target)
    request = RedirectedRequest(
        target.volume.volume,
        changed.file,
        original.major,
        changed.parameters,
        kind=original.kind,
        flags=changed.flags,
        minor=changed.minor,
        mode=original.mode,
    )
    request.thread = original.thread
    request._cancel = original.cancel  # pyright: ignore[reportPrivateUsage]
    request.operation, request.inside, request.ended_inside = operation, None, False
    for lower in operation.frames[frame.index + 1 :]:
        if lower.state == NOT_CALLED:
            lower.leave(thread)
    del operation.frames[frame.index + 1 :]
    operation.detour = Detour(request, target)


def stack_size(thread: Thread, request: Request, volume: FltVolume) -> int:
    """For how many devices *request*, which began on *volume*, has room."""
    thread.read(volume)
    small = current_system().get(Redirections).small
    return small.get(request, volume.stack_size)


def check(thread: Thread, frame: Frame, file: FileObject, target: Instance) -> None:
    """The findings of a redirection to *target* and *file*."""
    source = frame.instance
    what = f"{frame.label} redirects {frame.operation.label} from {source.label} to {target.label}"
    thread.read(file)
    if file.fs_context is None:
        report("bad-redirect", f"{what}: {file.label} is not open")
    if target is source:
        if file.volume is not source.volume.volume:
            report("bad-redirect", f"{what}: {file.label} is on another volume")
        return
    if target.filter is not source.filter or target.key != source.key or target.volume is source.volume:
        report("bad-redirect", f"{what}: that is not the same filter at the same altitude on another volume")
    if file.volume is not target.volume.volume:
        report("bad-redirect", f"{what}: {file.label} is not on its volume")
    thread.read(target.volume)
    if target.volume.stack_size > stack_size(thread, frame.operation.request, source.volume):
        report("bad-redirect", f"{what}: the request has too few stack locations for the devices there")
    thread.read(target)
    if (source, target) not in current_system().get(Redirections).vetted:
        report("redirect-unchecked", f"{what} and has not asked whether that is allowed")


class AskRedirection(Operation[bool]):
    """See whether operations of one instance may be redirected to another, or one of them may."""

    __slots__ = ("request", "source", "target_instance")
    kind = "FltIsIoRedirectionAllowed"

    def __init__(self, source: Instance, target: Instance, request: Request | None) -> None:
        self.source = source
        self.target_instance = target
        self.request = request

    def perform(self, thread: Thread) -> bool:
        source, target = self.source, self.target_instance
        thread.read(source.volume)
        thread.read(target.volume)
        thread.update(target)
        current_system().get(Redirections).vetted[source, target] = None
        room = source.volume.stack_size
        if self.request is not None:
            room = stack_size(thread, self.request, source.volume)
        return target.volume.stack_size <= room

    def target(self) -> Instance:
        return self.target_instance


class AdjustStackSize(Operation[bool]):
    """Make the requests of one volume from now on large enough for another; whether they were not."""

    __slots__ = ("source", "target_instance")
    kind = "FltAdjustDeviceStackSizeForIoRedirection"

    def __init__(self, source: Instance, target: Instance) -> None:
        self.source = source
        self.target_instance = target

    def perform(self, thread: Thread) -> bool:
        source, target = self.source.volume, self.target_instance.volume
        thread.write(source)
        thread.read(target)
        if target.stack_size <= source.stack_size:
            return False
        small = current_system().get(Redirections).small
        for instance in source.instances:
            for frame in instance.outstanding:
                small.setdefault(frame.operation.request, source.stack_size)
        source.stack_size = target.stack_size
        return True

    def target(self) -> FltVolume:
        return self.source.volume


def _pair(source: Instance, target: Instance) -> NTSTATUS:
    """STATUS_INVALID_PARAMETER for instances that nothing can be redirected between."""
    if target.filter is not source.filter or target.key != source.key or target.volume is source.volume:
        return STATUS_INVALID_PARAMETER
    return STATUS_SUCCESS


@routine(
    "fltkernel",
    """NTSTATUS FltIsIoRedirectionAllowed(_In_ PFLT_INSTANCE SourceInstance, _In_ PFLT_INSTANCE TargetInstance,
       _Out_ PBOOLEAN RedirectionAllowed)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltIsIoRedirectionAllowed(SourceInstance: Instance, TargetInstance: Instance) -> tuple[NTSTATUS, bool]:
    """Whether all operations of one instance may be redirected to another: status and RedirectionAllowed (FLT-CBD-13).

    STATUS_INVALID_PARAMETER unless both are of one filter, at one altitude, on two volumes. IRQL: <= DISPATCH_LEVEL.
    """
    status = _pair(SourceInstance, TargetInstance)
    return status, status == STATUS_SUCCESS and await AskRedirection(SourceInstance, TargetInstance, None)


@routine(
    "fltkernel",
    """NTSTATUS FltIsIoRedirectionAllowedForOperation(_In_ PFLT_CALLBACK_DATA Data,
       _In_ PFLT_INSTANCE TargetInstance, _Out_ PBOOLEAN RedirectionAllowedThisIo,
       _Out_opt_ PBOOLEAN RedirectionAllowedAllIo)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltIsIoRedirectionAllowedForOperation(
    Data: FLT_CALLBACK_DATA, TargetInstance: Instance
) -> tuple[NTSTATUS, bool, bool]:
    """Whether *Data* may be redirected to *TargetInstance*: status, this operation, all operations (FLT-CBD-13).

    A request that was on its way before FltAdjustDeviceStackSizeForIoRedirection has no more room than it had.
    STATUS_INVALID_PARAMETER as FltIsIoRedirectionAllowed. IRQL: <= DISPATCH_LEVEL.
    """
    frame = frame_of(Data)
    _ = Data.Flags
    status = _pair(frame.instance, TargetInstance)
    if status != STATUS_SUCCESS:
        return status, False, False
    this = await AskRedirection(frame.instance, TargetInstance, frame.operation.request)
    return status, this, TargetInstance.volume.stack_size <= frame.instance.volume.stack_size


@routine(
    "fltkernel",
    """NTSTATUS FltAdjustDeviceStackSizeForIoRedirection(_In_ PFLT_INSTANCE SourceInstance,
       _In_ PFLT_INSTANCE TargetInstance, _Out_opt_ PBOOLEAN SourceDeviceStackSizeModified)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltAdjustDeviceStackSizeForIoRedirection(
    SourceInstance: Instance, TargetInstance: Instance
) -> tuple[NTSTATUS, bool]:
    """Give requests of one volume, from now on, room for the device stack of another: status, whether it was needed.

    Those that are on their way stay as they are (FLT-CBD-13). IRQL: <= DISPATCH_LEVEL.
    """
    status = _pair(SourceInstance, TargetInstance)
    return status, status == STATUS_SUCCESS and await AdjustStackSize(SourceInstance, TargetInstance)
