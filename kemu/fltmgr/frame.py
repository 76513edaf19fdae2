"""The filter manager's record of an operation in progress.

An operation holds one *frame* for each instance that takes part in it, highest altitude first, fixed when it
starts. It is no single object to the explorer but several cells: each frame is the cell of its own state, the
completion is another. So a completion of one operation is independent of everything that happens to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kemu.fltmgr.constants import FLTFL_CALLBACK_DATA_DIRTY
from kemu.fltmgr.remarks import Remarks
from kemu.fltmgr.structures import (
    FLT_CALLBACK_DATA,
    FLT_IO_PARAMETER_BLOCK,
    FLT_PARAMETERS,
    FLT_RELATED_OBJECTS,
    IO_STATUS_BLOCK,
    FilterContext,
    ReleasedCallbackData,
    ReleasedParameterBlock,
    ReleasedParameters,
    ReleasedRelatedObjects,
    ReleasedStatusBlock,
)
from kemu.fltmgr.swap import Swap, take_swap
from kemu.fltmgr.watched import watch
from kemu.io.constants import IRP_MJ_CREATE
from kemu.io.request import FileObject, IoTarget, Parameters, Request
from kemu.nt.lists import LIST_ENTRY
from kemu.nt.status import NTSTATUS
from kemu.nt.system import report
from kemu.runtime import Cell, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.objects import Instance, Node
    from kemu.nt.transaction import KTRANSACTION

NOT_CALLED: Final = 0
IN_PREOP: Final = 1
PENDED: Final = 2
RESUMED_EARLY: Final = 3
"""FltCompletePendedPreOperation came before the callback returned PENDING; the operation is elsewhere by now."""
PASSED: Final = 4
AWAIT_POST: Final = 5
IN_POST: Final = 6
POST_PENDED: Final = 7
POST_RESUMED_EARLY: Final = 8
COMPLETED_HERE: Final = 9
DISALLOWED: Final = 10
DRAINING_POST: Final = 11
DONE: Final = 12

STATE_NAMES: Final = (
    "not called",
    "in pre-operation",
    "pended",
    "resumed early",
    "passed",
    "awaiting post-operation",
    "in post-operation",
    "post-operation pended",
    "post-operation resumed early",
    "completed here",
    "disallowed",
    "draining",
    "done",
)


class Input(NamedTuple):
    """What an instance may change of an operation, and what it sees of it."""

    minor: int
    flags: int
    file: FileObject
    parameters: Parameters

    @classmethod
    def of(cls, request: Request) -> Input:
        """What everybody sees who is still to come."""
        return cls(request.minor, request.flags, request.file, request.parameters)

    @classmethod
    def seen(cls, iopb: FLT_IO_PARAMETER_BLOCK) -> Input:
        """What a driver left in its view, which may be released."""
        get = object.__getattribute__
        parameters: FLT_PARAMETERS = get(iopb, "_parameters")
        return cls(get(iopb, "MinorFunction"), get(iopb, "IrpFlags"), get(iopb, "TargetFileObject"), parameters.plain())


def changed_members(before: Input, after: Input) -> frozenset[str]:
    """The names of the scalar members that differ. A buffer that was swapped the post-operation callback may look for:
    the original is what it copies back to.
    """
    names = {"MinorFunction"} if before.minor != after.minor else set[str]()
    if before.flags != after.flags:
        names.add("IrpFlags")
    old, new = before.parameters, after.parameters
    members = (*(name for name in Parameters.__slots__ if name != "more"), *old.more, *new.more)
    names.update(name for name in members if is_scalar(name) and getattr(old, name) != getattr(new, name))
    return frozenset(names)


def is_scalar(name: str) -> bool:
    """Whether a member of the parameters is no buffer or list of pages."""
    return "Buffer" not in name and "Mdl" not in name


class Frame(Cell):
    """One instance's part in one operation; the cell of its state.

    Exactly one party has control of the operation at any time: the filter manager, a callback, or whoever the
    driver handed it to.
    """

    __slots__ = (
        "cancel_armed",
        "cancel_taken",
        "canceller",
        "cbdq",
        "context",
        "data",
        "file",
        "flags",
        "handed",
        "index",
        "inside",
        "instance",
        "iopb",
        "late",
        "left",
        "links",
        "node",
        "objects",
        "operation",
        "queue_context",
        "queue_failed",
        "released_by",
        "remarks",
        "result",
        "state",
        "swap",
        "waiter",
        "was_resumed",
    )

    def __init__(self, operation: IrpCtrl, node: Node, index: int) -> None:
        # Written out, not inherited: one frame is made for each instance and operation.
        thread = operation.creator
        self.creator = thread
        self.ordinal = thread.ordinals
        thread.ordinals += 1
        self.label = node.filter.driver.label
        self.version = self.written = 0
        self.operation = operation
        self.node = node
        self.instance: Instance = node.instance
        self.index = index
        self.state = NOT_CALLED
        self.flags: int = operation.request.kind
        self.file: FileObject | None = operation.request.file
        self.context: Any = None
        self.data: FLT_CALLBACK_DATA | None = None
        self.objects: FLT_RELATED_OBJECTS | None = None
        self.iopb: FLT_IO_PARAMETER_BLOCK | None = None
        self.result: IO_STATUS_BLOCK | None = None
        self.links: LIST_ENTRY | None = None
        self.queue_context: Any = None
        self.waiter: object = None
        """The drive (see pipeline.py) whose thread must run this frame's post-operation callback."""
        self.inside: list[Thread] = []
        """The threads inside the driver's callbacks for this operation; two if it was resumed early."""
        self.left = False
        """Whether the instance has done its part while a callback of it is still running."""
        self.handed = False
        """Whether the driver has put the operation on a queue of the filter manager's."""
        self.queue_failed: str | None = None
        """The queueing routine that refused the operation, if the last one did."""
        self.cancel_armed = False
        """Whether the driver has set a cancel routine for the operation."""
        self.cbdq: object = None
        """The cancel-safe queue that holds the operation."""
        self.cancel_taken = False
        """Whether the cancellation has got hold of the operation."""
        self.canceller: Thread | None = None
        """The thread inside the driver's cancel callback."""
        self.swap: Swap | None = None
        """The buffer that the driver has put in the place of the one it was given, as long as it is there."""
        self.was_resumed = False
        """Whether FltCompletePendedPreOperation was called for it."""
        self.late = False
        """Whether the callback was called after InstanceTeardownStart had returned."""
        self.released_by = ""
        self.remarks: Remarks | None = None
        """What few operations have; `remember` makes it."""

    def remember(self) -> Remarks:
        """What is to be known of the frame besides."""
        if self.remarks is None:
            self.remarks = Remarks()
        return self.remarks

    @property
    def state_name(self) -> str:
        """The state in words."""
        return STATE_NAMES[self.state]

    @property
    def transaction(self) -> KTRANSACTION | None:
        """The transaction that the file was opened in."""
        return None if self.file is None else self.file.transaction

    @property
    def input(self) -> Input:
        """What this instance sees in its pre- and in its post-operation callback, whatever is changed below it."""
        operation = self.operation
        return operation.inputs[self.index] if self.index in operation.inputs else Input.of(operation.request)

    def open(self) -> FLT_CALLBACK_DATA:
        """Give the driver control: make the views valid."""
        data = self.data
        if data is None:
            self.data = data = FLT_CALLBACK_DATA(self)
            self.objects = FLT_RELATED_OBJECTS(self)
        else:
            data.__class__ = FLT_CALLBACK_DATA
            self.objects.__class__ = FLT_RELATED_OBJECTS  # type: ignore[union-attr]
            if self.iopb is not None:
                self.iopb.__class__ = FLT_IO_PARAMETER_BLOCK
                object.__getattribute__(self.iopb, "_parameters").__class__ = FLT_PARAMETERS
        if self.creator.runtime.races is not None:
            watch(data, self.objects)
        return data

    def release(self, thread: Thread) -> None:
        """Take control back: from here on the driver's views are invalid."""
        thread.end(self)
        self.released_by = thread.label
        assert self.data is not None
        assert self.objects is not None
        self.data.__class__ = ReleasedCallbackData
        self.objects.__class__ = ReleasedRelatedObjects
        if self.iopb is not None:
            object.__getattribute__(self.iopb, "_parameters").__class__ = ReleasedParameters
            self.iopb.__class__ = ReleasedParameterBlock
        if self.result is not None:
            self.result.__class__ = ReleasedStatusBlock
        self.links = None
        self.queue_context = None
        if self.remarks is not None:
            self.remarks.filter_context = None

    def status_block(self) -> IO_STATUS_BLOCK:
        """The driver's view of the result."""
        if self.result is None:
            request = self.operation.request
            self.result = IO_STATUS_BLOCK(request.status, request.information, self)
        return self.result

    def queue_links(self, data: FLT_CALLBACK_DATA) -> LIST_ENTRY:
        """The list entry of the callback data, whose record is the callback data."""
        if self.links is None:
            self._check_context("QueueLinks")
            self.links = LIST_ENTRY(data, part_of=self)
        return self.links

    def set_queue_context(self, value: Any) -> None:
        """The driver writes Data->QueueContext."""
        self._check_context("QueueContext")
        self.queue_context = value

    def filter_context(self) -> FilterContext:
        """Data->FilterContext, which is in the place of the list entry and the queue context."""
        remarks = self.remember()
        if self.links is not None or self.queue_context is not None:
            self._misused("FilterContext", "QueueLinks or QueueContext")
        if remarks.filter_context is None:
            remarks.filter_context = FilterContext(self)
        return remarks.filter_context

    def _check_context(self, member: str) -> None:
        if self.remarks is not None and self.remarks.filter_context is not None:
            self._misused(member, "FilterContext")

    def _misused(self, member: str, other: str) -> None:
        report(
            "filtercontext-misuse",
            f"{current_thread().label} uses Data->{member} of {self.operation.label}, where {other} is in use already",
        )

    def log_fields(self) -> dict[str, object]:
        """What a log says of this operation and of the instance's part in it."""
        request = self.operation.request
        return {
            "irp": request,
            "op": request.label,
            "flt": self.label,
            "inst": self.instance.instance_name,
            "alt": self.instance.altitude,
            "path": request.file.FileName,
        }

    def leave(self, thread: Thread) -> None:
        """The instance has nothing more to do with the operation: drop its rundown reference.

        A callback that is still running holds it: nothing of a driver may run after it was unloaded (FLT-ORD-07).
        """
        if self.inside:
            self.left = True
            return
        instance = self.instance
        if self.state != NOT_CALLED:
            thread.release_to_waiter(instance.operations)
        instance.outstanding.remove(self)
        if instance.deleting:
            thread.write(instance)
            instance.changed()
        else:
            # Whether a teardown still sees the operation depends on who comes first.
            thread.read(instance)

    def may_be_drained(self, thread: Thread) -> None:
        """The frame has begun to await its post-operation callback: a teardown that waits for it drains it."""
        instance = self.instance
        if instance.deleting:
            thread.write(instance)
            instance.changed()

    def returned(self, thread: Thread) -> None:
        """*thread* has come out of a callback of the driver."""
        self.inside.remove(thread)
        thread.release_to_waiter(self.instance.operations)
        if self.left and not self.inside:
            self.left = False
            self.leave(thread)

    @property
    def written_status(self) -> NTSTATUS | None:
        """The status that the driver wrote to IoStatus, or None. Looking at it here is no use by the driver."""
        result = self.result
        if result is None or not object.__getattribute__(result, "written"):
            return None
        status: NTSTATUS = object.__getattribute__(result, "Status")
        return status

    def take_result(self) -> None:
        """Make what the driver wrote to IoStatus the operation's result; IoStatus needs no DIRTY (FLT-CBD-07)."""
        result = self.result
        if result is not None:
            request = self.operation.request
            request.status = object.__getattribute__(result, "Status")
            request.information = object.__getattribute__(result, "Information")
            self.result = None

    def changed_parameters(self) -> bool:
        """Whether the driver changed anything in its view of the parameters."""
        iopb = self.iopb
        if iopb is None:
            return False
        instance = object.__getattribute__(iopb, "TargetInstance")
        return Input.seen(iopb) != self.input or instance is not self.instance

    def take_parameters(self, thread: Thread) -> None:
        """Make declared changes of the parameters effective for everybody below (FLT-CBD-09)."""
        iopb = self.iopb
        if iopb is None or not self.flags & FLTFL_CALLBACK_DATA_DIRTY:
            return
        self.flags &= ~FLTFL_CALLBACK_DATA_DIRTY
        self.iopb = None
        operation = self.operation
        request = operation.request
        before, changed = Input.of(request), Input.seen(iopb)
        take_swap(self, before.parameters, changed.parameters)
        for index in range(self.index + 1):
            operation.inputs.setdefault(index, before)
        self.remember().changed |= changed_members(self.input, changed)
        target = object.__getattribute__(iopb, "TargetInstance")
        if changed.file is not before.file or target is not self.instance:
            # Few operations are redirected: how that is done is needed by nobody else.
            from kemu.fltmgr.redirect import redirect

            redirect(thread, self, changed, target)
            return
        request.minor, request.flags, request.parameters = changed.minor, changed.flags, changed.parameters


class IrpCtrl(Waitable):
    """One operation on its way through the filter manager (IRP_CTRL).

    `down` is the next frame that has not been called, `up` the number of frames whose post phase is not over.
    `handoff` is the name of the drive that has to go on, when completion has reached a frame that only its thread may
    finish.
    """

    __slots__ = ("detour", "down", "frames", "handoff", "inputs", "is_create", "origin", "request", "tag_data", "up")

    guards = ("handoff",)

    def __init__(self, request: Request) -> None:
        super().__init__(request.creator, request.label)
        self.request = request
        self.inputs: dict[int, Input] = {}
        """What the instances down to the lowest one that changed something were given."""
        self.frames: list[Frame] = []
        self.down = 0
        self.up = 0
        self.handoff: tuple[int, ...] | None = None
        self.is_create = request.major == IRP_MJ_CREATE
        self.origin: object = None
        """The drive of the originator, which runs all post-create callbacks."""
        self.detour: IoTarget | None = None
        """Where it goes from here, if a filter has redirected it."""
        self.tag_data: Any = None
        """The reparse data that comes with STATUS_REPARSE, in pool; whoever replaces it frees it (FLT-CBD-21)."""

    def holders(self) -> tuple[Thread, ...]:
        return tuple(thread for frame in self.frames for thread in frame.inside)
