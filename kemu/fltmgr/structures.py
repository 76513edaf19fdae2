"""The structures of fltkernel.h that a driver fills in or is handed.

Callback data, parameter block and related objects are handed out as views of the filter manager's own record of
the operation (`kemu.fltmgr.frame`). A view is valid while the driver has control of the operation; when control
goes back its class changes, and every later access is finding ``cbd-use-after-release`` (FLT-CBD-17, FLT-CBD-18).
While it is valid that costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kemu.fltmgr.constants import FLT_REGISTRATION_VERSION
from kemu.io.constants import IRP_MJ_LOCK_CONTROL, IRP_MJ_OPERATION_END
from kemu.io.parameters import _Member  # pyright: ignore[reportPrivateUsage]
from kemu.io.request import IRP_OPERATION, Parameters
from kemu.nt.kthread import current_kthread
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import report

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame
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


class _View:
    __slots__ = ("_frame",)

    def __init__(self, frame: Frame) -> None:
        self._frame = frame


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


class FLT_PARAMETERS(Parameters):
    """The parameters of a parameter block: a copy that belongs to one instance."""

    __slots__ = ("_frame",)

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

    def __init__(self, frame: Frame) -> None:
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


class FLT_CALLBACK_DATA(_View):
    """The operation, as one instance sees it."""

    __slots__ = ()

    @property
    def Flags(self) -> int:
        """Class of the operation and its state (FLT-CBD-01, FLT-CBD-02)."""
        return self._frame.flags

    @Flags.setter
    def Flags(self, value: int) -> None:
        report("cbd-flag-write", f"{current_kthread().label} writes Data->Flags: use FltSetCallbackDataDirty")

    @property
    def Thread(self) -> Thread:
        """The thread that issued the operation."""
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
        self._frame.queue_context = value


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
