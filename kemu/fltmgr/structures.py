"""The structures of fltkernel.h that a driver fills in or is handed.

Callback data, parameter block and related objects are handed out as views of the filter manager's own record of
the operation (`kemu.fltmgr.frame`). A view is valid while the driver has control of the operation; when control
goes back its class changes, and every later access is finding ``cbd-use-after-release`` (FLT-CBD-17, FLT-CBD-18).
While it is valid that costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from kemu.fltmgr import tagdata
from kemu.fltmgr.constants import FLT_REGISTRATION_VERSION, FLTFL_CALLBACK_DATA_SYSTEM_BUFFER
from kemu.fltmgr.context_types import FLT_CONTEXT_REGISTRATION
from kemu.fltmgr.members import BufferMembers
from kemu.io.buffers import has_system_buffer
from kemu.io.constants import IRP_MJ_LOCK_CONTROL, IRP_MJ_OPERATION_END
from kemu.io.parameters import _Member  # pyright: ignore[reportPrivateUsage]
from kemu.io.request import IRP_OPERATION, Parameters
from kemu.nt.kthread import current_kthread
from kemu.nt.routine import KernelObject
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import report

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame, Input
    from kemu.fltmgr.objects import Filter, FltVolume, Instance
    from kemu.io.request import FileObject
    from kemu.nt.lists import LIST_ENTRY
    from kemu.nt.transaction import KTRANSACTION
    from kemu.runtime import Thread

PreOperationCallback = Callable[["FLT_CALLBACK_DATA", "FLT_RELATED_OBJECTS"], Awaitable[Any]]
"""Returns a FLT_PREOP_CALLBACK_STATUS, or a tuple of it and the completion context."""
PostOperationCallback = Callable[["FLT_CALLBACK_DATA", "FLT_RELATED_OBJECTS", Any, int], Awaitable[int]]
InstanceSetupCallback = Callable[["FLT_RELATED_OBJECTS", int, int, int], Awaitable[int]]
InstanceQueryTeardownCallback = Callable[["FLT_RELATED_OBJECTS", int], Awaitable[int]]
InstanceTeardownCallback = Callable[["FLT_RELATED_OBJECTS", int], Awaitable[None]]
FilterUnloadCallback = Callable[[int], Awaitable[int]]
NameCallback = Callable[..., Awaitable[Any]]
"""Returns a status, or a tuple of it and what C has as an out parameter: whether to cache the name, or the context."""
TransactionNotificationCallback = Callable[["FLT_RELATED_OBJECTS", Any, int], Awaitable[int]]
"""``(FltObjects, TransactionContext, NotificationMask)``, returns a status; STATUS_PENDING to answer later."""
SectionNotificationCallback = Callable[["Instance", Any, "FLT_CALLBACK_DATA"], Awaitable[int]]
"""``(Instance, SectionContext, Data)``."""


@dataclass(slots=True)
class FLT_OPERATION_REGISTRATION:
    """Callbacks for one major function code; the last entry is ``FLT_OPERATION_REGISTRATION()``."""

    MajorFunction: int = IRP_MJ_OPERATION_END
    Flags: int = 0
    PreOperation: PreOperationCallback | None = None
    PostOperation: PostOperationCallback | None = None


@dataclass(slots=True)
class FLT_REGISTRATION:
    """What FltRegisterFilter takes. Size needs no value in Python; the version has the current one."""

    OperationRegistration: Sequence[FLT_OPERATION_REGISTRATION] = ()
    FilterUnloadCallback: FilterUnloadCallback | None = None
    InstanceSetupCallback: InstanceSetupCallback | None = None
    InstanceQueryTeardownCallback: InstanceQueryTeardownCallback | None = None
    InstanceTeardownStartCallback: InstanceTeardownCallback | None = None
    InstanceTeardownCompleteCallback: InstanceTeardownCallback | None = None
    TransactionNotificationCallback: TransactionNotificationCallback | None = None
    SectionNotificationCallback: SectionNotificationCallback | None = None
    Flags: int = 0
    Version: int = field(default=FLT_REGISTRATION_VERSION)
    ContextRegistration: Sequence[FLT_CONTEXT_REGISTRATION] = ()
    GenerateFileNameCallback: NameCallback | None = None
    NormalizeNameComponentCallback: NameCallback | None = None
    NormalizeContextCleanupCallback: Callable[[Any], Awaitable[None]] | None = None
    NormalizeNameComponentExCallback: NameCallback | None = None


class IO_STATUS_BLOCK:
    """Status and Information of an operation. Remembers whether the driver wrote the status."""

    __slots__ = ("Information", "Status", "_frame", "written")

    def __init__(self, status: NTSTATUS = STATUS_SUCCESS, information: int = 0, frame: Frame | None = None) -> None:
        object.__setattr__(self, "_frame", frame)
        object.__setattr__(self, "Status", status)
        object.__setattr__(self, "Information", information)
        object.__setattr__(self, "written", False)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name == "Status":
            object.__setattr__(self, "written", True)


class DrainedStatusBlock(IO_STATUS_BLOCK):
    """The result of an operation that is not complete. Its status says so; how much was transferred nobody knows."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "Information":
            frame: Frame = object.__getattribute__(self, "_frame")
            report(
                "drain-used-as-completion",
                f"{current_kthread().label} reads Data->IoStatus.Information of {frame.operation.label}, whose "
                "post-operation callback is draining",
            )
        return object.__getattribute__(self, name)


RELATED_OBJECTS_SIZE: Final = 48
GARBAGE: Final = 0xBAAD
"""What is in a member that is undefined."""


class FilterContext:
    """``Data->FilterContext``: four pointers in the place of QueueLinks and QueueContext (FLT-CBD-15)."""

    __slots__ = ("_frame", "_values")

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._values: list[Any] = [None] * 4

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self._checked("reads")[index]

    def __setitem__(self, index: int, value: Any) -> None:
        self._checked("writes")[index] = value

    def _checked(self, does: str) -> list[Any]:
        remarks = self._frame.remarks
        if remarks is None or remarks.filter_context is not self:
            current_kthread().read(self._frame)
            report(
                "filtercontext-misuse",
                f"{current_kthread().label} {does} Data->FilterContext of {self._frame.operation.label}, which is used "
                "for something else by now",
            )
        return self._values


class _View(KernelObject):
    __slots__ = ("_frame",)

    _frame: Frame

    def __init__(self, frame: Frame) -> None:
        # Past the checks of what a driver may write, which cost more than all the rest.
        object.__setattr__(self, "_frame", frame)


class FLT_RELATED_OBJECTS(_View):
    """The opaque pointers of an operation or of an instance callback; read-only (FLT-STACK-10, FLT-STACK-11)."""

    __slots__ = ()

    @property
    def Filter(self) -> Filter:
        """The filter whose callback this is."""
        return self._frame.instance.filter

    @property
    def Volume(self) -> FltVolume:
        """The volume of the instance."""
        return self._frame.instance.volume

    @property
    def Instance(self) -> Instance:
        """The instance whose callback this is."""
        return self._frame.instance

    @property
    def FileObject(self) -> FileObject | None:
        """The operation's file object; None in instance callbacks."""
        return self._frame.file

    @property
    def Size(self) -> int:
        """The size of the structure in bytes."""
        return RELATED_OBJECTS_SIZE

    @property
    def TransactionContext(self) -> int:
        """The transaction's mini-version of the file; without a transaction it means nothing (FLT-CBD-25)."""
        return GARBAGE if self.Transaction is None else 0

    @property
    def Transaction(self) -> KTRANSACTION | None:
        """The transaction that the file was opened in, or that a notification is about."""
        return self._frame.transaction

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"_frame", "__class__"}:
            object.__setattr__(self, name, value)
        else:
            report("relobj-write", f"{current_kthread().label} writes FltObjects->{name}")


V = TypeVar("V")


class _OfFastLocks(_Member[V]):
    """A member of LockControl that means something for fast I/O only (FLT-FAST-13)."""

    def __get__(self, parameters: Parameters | None, owner: type) -> Any:
        if isinstance(parameters, FLT_PARAMETERS):
            parameters.ask_of_fast_lock(self.name)
        return super().__get__(cast("Parameters", parameters), owner)


class FLT_PARAMETERS(BufferMembers):
    """The parameters of a parameter block: a copy that belongs to one instance."""

    __slots__ = ("_frame",)  # pyright: ignore[reportIncompatibleUnannotatedOverride]

    ProcessId = _OfFastLocks[Any](None)
    FailImmediately = _OfFastLocks(False)
    ExclusiveLock = _OfFastLocks(False)

    def ask_of_fast_lock(self, name: str) -> None:
        """The driver reads *name*, which only fast I/O for locks fills in."""
        request = self._frame.operation.request
        if request.major == IRP_MJ_LOCK_CONTROL and request.kind == IRP_OPERATION:
            report(
                "lock-fastio-fields",
                f"{current_kthread().label} reads Parameters.LockControl.{name} of {request.label}, which is an IRP",
            )

    def __init__(self, frame: Frame, parameters: Parameters) -> None:
        self._frame = frame
        self.assign(parameters)

    def assign(self, other: Parameters) -> None:
        """Take over all members of *other*."""
        for name in Parameters.__slots__:
            setattr(self, name, getattr(other, name))

    def plain(self) -> Parameters:
        """A copy that is no view, also of a view that is released."""
        twin = Parameters.__new__(Parameters)
        for name in Parameters.__slots__:
            setattr(twin, name, object.__getattribute__(self, name))
        return twin


class FLT_IO_PARAMETER_BLOCK:
    """The parameters of an operation as one instance sees them.

    Changes take effect below that instance, and only after FltSetCallbackDataDirty (FLT-CBD-05, FLT-CBD-09).
    """

    __slots__ = (
        "IrpFlags",
        "MajorFunction",
        "MinorFunction",
        "TargetFileObject",
        "TargetInstance",
        "_frame",
        "_parameters",
    )

    def __init__(self, frame: Frame, given: Input | None = None) -> None:
        if given is None:
            given = frame.input
        self._frame = frame
        self.MajorFunction = frame.operation.request.major
        self.MinorFunction = given.minor
        self.IrpFlags = given.flags
        self.TargetFileObject = given.file
        self.TargetInstance = frame.instance
        self._parameters = FLT_PARAMETERS(frame, given.parameters)

    @property
    def Parameters(self) -> FLT_PARAMETERS:
        """The parameters proper. Assigning copies, as assigning a structure does."""
        return self._parameters

    @Parameters.setter
    def Parameters(self, value: Parameters) -> None:
        self._parameters.assign(value)

    @property
    def OperationFlags(self) -> int:
        """The SL_ flags of an IRP (FLT-CBD-20)."""
        return self._parameters.OperationFlags

    @OperationFlags.setter
    def OperationFlags(self, value: int) -> None:
        self._parameters.OperationFlags = value


class FLT_CALLBACK_DATA(_View):
    """The operation, as one instance sees it."""

    __slots__ = ()

    @property
    def Flags(self) -> int:
        """Class of the operation and its state (FLT-CBD-01, FLT-CBD-02)."""
        frame = self._frame
        if has_system_buffer(frame.operation.request):
            return frame.flags | FLTFL_CALLBACK_DATA_SYSTEM_BUFFER
        return frame.flags

    @Flags.setter
    def Flags(self, value: int) -> None:
        report("cbd-flag-write", f"{current_kthread().label} writes Data->Flags: use FltSetCallbackDataDirty")

    @property
    def Thread(self) -> Thread | None:
        """The thread that issued the operation; None if none has (FLT-CBD-23)."""
        return self._frame.operation.request.thread

    @Thread.setter
    def Thread(self, value: object) -> None:
        report("cbd-readonly-write", f"{current_kthread().label} writes Data->Thread")

    @property
    def RequestorMode(self) -> int:
        """UserMode or KernelMode."""
        return self._frame.operation.request.mode

    @RequestorMode.setter
    def RequestorMode(self, value: object) -> None:
        report("cbd-readonly-write", f"{current_kthread().label} writes Data->RequestorMode")

    @property
    def Iopb(self) -> FLT_IO_PARAMETER_BLOCK:
        """The parameters, a copy that belongs to this instance."""
        frame = self._frame
        if frame.iopb is None:
            frame.iopb = FLT_IO_PARAMETER_BLOCK(frame)
            if frame.remarks is not None and frame.remarks.changed:
                frame.iopb.__class__ = OriginalParameterBlock
                object.__getattribute__(frame.iopb, "_parameters").__class__ = OriginalParameters
        return frame.iopb

    @property
    def IoStatus(self) -> IO_STATUS_BLOCK:
        """The result: to be set before completing, to be read in a postoperation callback. Assigning copies."""
        return self._frame.status_block()

    @IoStatus.setter
    def IoStatus(self, value: IO_STATUS_BLOCK) -> None:
        block = self._frame.status_block()
        block.Status, block.Information = value.Status, value.Information

    @property
    def QueueLinks(self) -> LIST_ENTRY:
        """A list entry for the driver while it has control of the operation (FLT-CBD-15)."""
        return self._frame.queue_links(self)

    @property
    def QueueContext(self) -> Any:
        """Storage for the driver while it has control of the operation (FLT-CBD-15)."""
        return self._frame.queue_context

    @QueueContext.setter
    def QueueContext(self, value: Any) -> None:
        self._frame.set_queue_context(value)

    @property
    def FilterContext(self) -> FilterContext:
        """Storage for the driver while it has control of the operation: in the place of QueueLinks and QueueContext,
        so that only one of both can be used (FLT-CBD-15). Finding ``filtercontext-misuse``.
        """
        return self._frame.filter_context()

    @property
    def TagData(self) -> Any:
        """The reparse data of a create, in pool: for post-create callbacks (FLT-CBD-21). Finding ``tagdata-misuse``."""
        tagdata.check_access(self._frame, "reads")
        return self._frame.operation.tag_data

    @TagData.setter
    def TagData(self, value: Any) -> None:
        tagdata.check_access(self._frame, "writes")
        tagdata.replace(self._frame, value)


def _looked_back(view: object, name: str) -> None:
    """A post-operation callback looks at *name*, which its own pre-operation callback may have changed."""
    frame: Frame = object.__getattribute__(view, "_frame")
    if frame.remarks is not None and name in frame.remarks.changed:
        report(
            "postop-reads-own-change",
            f"{current_kthread().label} reads {name} of {frame.operation.label} in {frame.label}, which changed it: a "
            "post-operation callback sees what its pre-operation callback was given",
        )


class OriginalParameterBlock(FLT_IO_PARAMETER_BLOCK):
    """A parameter block for an instance that has changed something in it: as it was before (FLT-CBD-09)."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            _looked_back(self, name)
        return object.__getattribute__(self, name)


class OriginalParameters(FLT_PARAMETERS):
    """The parameters of such a block."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            _looked_back(self, name)
        return object.__getattribute__(self, name)


def _released(view: object, what: str) -> None:
    report_released(object.__getattribute__(view, "_frame"), what)


def report_released(frame: Frame, what: str) -> None:
    """Finding ``cbd-use-after-release``: the calling thread *what* of an operation that it has no control of."""
    current_kthread().read(frame)
    report(
        "cbd-use-after-release",
        f"{current_kthread().label} {what} of {frame.operation.request.label} after {frame.released_by} gave the "
        f"operation back to the filter manager",
    )


class ReleasedCallbackData(FLT_CALLBACK_DATA):
    """Callback data that the driver no longer has control of."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        return _released(self, f"reads Data->{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            _released(self, f"writes Data->{name}")


class ReleasedRelatedObjects(FLT_RELATED_OBJECTS):
    """FltObjects of an operation that the driver no longer has control of."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        return _released(self, f"reads FltObjects->{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            _released(self, f"writes FltObjects->{name}")


class ReleasedParameterBlock(FLT_IO_PARAMETER_BLOCK):
    """A parameter block that the driver no longer has control of."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        return _released(self, f"reads Data->Iopb->{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            _released(self, f"writes Data->Iopb->{name}")


class ReleasedParameters(FLT_PARAMETERS):
    """Parameters that the driver no longer has control of."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "plain"}:
            return object.__getattribute__(self, name)
        return _released(self, f"reads Data->Iopb->Parameters.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            _released(self, f"writes Data->Iopb->Parameters.{name}")


class ReleasedStatusBlock(IO_STATUS_BLOCK):
    """A result that the driver no longer has control of."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        return _released(self, f"reads Data->IoStatus.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            _released(self, f"writes Data->IoStatus.{name}")


def frame_of(data: FLT_CALLBACK_DATA) -> Frame:
    """The filter manager's record behind *data*, released or not."""
    return object.__getattribute__(data, "_frame")
