"""IRPs and their stack locations (KE-IRP): what a driver sees of a request.

An IRP is not the request itself. `kemu.io.request.Request` is what an issuer waits for and what the filter manager
works on; an IRP carries one through a stack of device objects, or is made by a driver and carries none. Of an IRP
exactly one driver has control at any time: the one it was passed to, until that passes it on or completes it. Every
look at it by another driver, or by any driver after it is complete, is a finding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, overload

from kemu.io.constants import major_name
from kemu.io.request import CancelState
from kemu.nt.bugcheck import (
    MULTIPLE_IRP_COMPLETE_REQUESTS,
    NO_MORE_IRP_STACK_LOCATIONS,
    PAGE_FAULT_IN_NONPAGED_AREA,
    BugCheck,
)
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.lists import LIST_ENTRY
from kemu.nt.mdl import MDL
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import report
from kemu.runtime import Cell, Thread, current_thread

if TYPE_CHECKING:
    from kemu.io.device import DEVICE_OBJECT
    from kemu.io.request import FileObject, Parameters, Request
    from kemu.nt.event import KEVENT

T = TypeVar("T")

SL_PENDING_RETURNED: Final = 0x01
SL_INVOKE_ON_CANCEL: Final = 0x20
SL_INVOKE_ON_SUCCESS: Final = 0x40
SL_INVOKE_ON_ERROR: Final = 0x80

IRP_BUFFERED_IO: Final = 0x10
IRP_DEALLOCATE_BUFFER: Final = 0x20
IRP_INPUT_OPERATION: Final = 0x40

CompletionRoutine = Callable[[Any, Any, Any], Awaitable[int]]
"""``async def Routine(self, DeviceObject, Irp, Context)``, which returns a status."""
CancelRoutineOf = Callable[[Any, Any], Awaitable[None]]
"""``async def Cancel(self, DeviceObject, Irp)``."""


class Guarded(Generic[T]):
    """A member of an IRP that only the driver with control of it may look at or change."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.slot = "_" + name

    @overload
    def __get__(self, irp: None, owner: type) -> Guarded[T]: ...
    @overload
    def __get__(self, irp: IRP, owner: type) -> T: ...
    def __get__(self, irp: IRP | None, owner: type) -> Guarded[T] | T:
        if irp is None:
            return self
        irp.used(f"reads {self.name}")
        return getattr(irp, self.slot)

    def __set__(self, irp: IRP, value: T) -> None:
        irp.used(f"writes {self.name}", writes=True)
        setattr(irp, self.slot, value)


class IrpStatusBlock:
    """The IoStatus of an IRP."""

    __slots__ = ("_Information", "_Status", "_irp")

    def __init__(self, irp: IRP) -> None:
        self._irp = irp
        self._Status: NTSTATUS = STATUS_SUCCESS
        self._Information = 0

    @property
    def Status(self) -> NTSTATUS:
        """The completion status."""
        self._irp.used("reads IoStatus.Status")
        return self._Status

    @Status.setter
    def Status(self, value: int) -> None:
        self._irp.used("writes IoStatus.Status", writes=True, completes=True)
        self._Status = NTSTATUS(value)

    @property
    def Information(self) -> int:
        """How many bytes were transferred, or whatever the request returns."""
        self._irp.used("reads IoStatus.Information")
        return self._Information

    @Information.setter
    def Information(self, value: int) -> None:
        self._irp.used("writes IoStatus.Information", writes=True, completes=True)
        self._Information = value


class StackParameters:
    """The Parameters of a stack location: one flat structure for all of C's union.

    ``Parameters.Read.Length`` and ``Parameters.DeviceIoControl.IoControlCode`` may be written as in C: each member of
    the union is the structure itself.
    """

    __slots__ = (
        "Argument1",
        "Argument2",
        "Argument3",
        "Argument4",
        "ByteOffset",
        "FileInformationClass",
        "InputBufferLength",
        "IoControlCode",
        "Key",
        "Length",
        "Options",
        "OutputBufferLength",
        "Type3InputBuffer",
        "origin",
    )

    def __init__(self) -> None:
        self.Length = 0
        self.Key = 0
        self.ByteOffset = 0
        self.IoControlCode = 0
        self.InputBufferLength = 0
        self.OutputBufferLength = 0
        self.Type3InputBuffer: Any = None
        self.FileInformationClass = 0
        self.Options = 0
        self.origin: Parameters | None = None
        """The parameters of the request that the IRP carries."""
        self.Argument1: Any = None
        self.Argument2: Any = None
        self.Argument3: Any = None
        self.Argument4: Any = None

    @property
    def Read(self) -> StackParameters:
        """The parameters, as those of a read."""
        return self

    Write = DeviceIoControl = FileSystemControl = QueryFile = SetFile = Create = Others = Read

    def copy(self) -> StackParameters:
        """A copy that can be changed without changing this one."""
        twin = StackParameters.__new__(StackParameters)
        for name in StackParameters.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin


class Call:
    """What is known of one call of a dispatch routine, to be held against what it returns."""

    __slots__ = ("completed", "deferred", "forwarded", "marked", "returned", "returned_below", "thread")

    def __init__(self, thread: Thread) -> None:
        self.thread: Thread | None = thread
        """The thread inside the dispatch routine; None after it has returned."""
        self.marked = False
        self.deferred = False
        """Whether its completion was put off, to show the driver above a STATUS_PENDING."""
        self.completed: NTSTATUS | None = None
        """The status with which the driver completed the IRP."""
        self.forwarded = False
        self.returned_below: NTSTATUS | None = None
        """What the driver below returned."""
        self.returned: NTSTATUS | None = None


class IO_STACK_LOCATION:
    """A driver's parameters of an IRP."""

    __slots__ = (
        "CompletionRoutine",
        "Context",
        "Control",
        "DeviceObject",
        "FileObject",
        "Flags",
        "MajorFunction",
        "MinorFunction",
        "Parameters",
        "call",
        "forced",
        "irp",
        "keeps_loaded",
        "prepared",
        "routine_driver",
        "routine_index",
    )

    def __init__(self, irp: IRP) -> None:
        self.irp = irp
        self.clear()

    def clear(self) -> None:
        """Make it what a location is that nobody has used."""
        self.MajorFunction = 0
        self.MinorFunction = 0
        self.Flags = 0
        self.Control = 0
        self.Parameters = StackParameters()
        self.DeviceObject: DEVICE_OBJECT | None = None
        self.FileObject: FileObject | None = None
        self.CompletionRoutine: CompletionRoutine | None = None
        self.Context: Any = None
        self.call: Call | None = None
        self.prepared = False
        """Whether somebody filled it in for the driver below."""
        self.routine_driver: DriverActor | None = None
        """Whose the completion routine is."""
        self.routine_index = 0
        """The location for which the completion routine was set; another one if the whole structure was copied."""
        self.keeps_loaded: Any = None
        """The device object that IoSetCompletionRoutineEx has referenced."""
        self.forced = False
        """Whether a completion inside the dispatch routine is put off, to show the driver above a STATUS_PENDING."""

    def parameters_from(self, other: IO_STACK_LOCATION) -> None:
        """Take over what IoCopyCurrentIrpStackLocationToNext copies: all but the completion routine."""
        self.MajorFunction = other.MajorFunction
        self.MinorFunction = other.MinorFunction
        self.Flags = other.Flags
        self.Parameters = other.Parameters.copy()
        self.FileObject = other.FileObject
        self.Control = 0
        self.CompletionRoutine = None
        self.Context = None
        self.prepared = True

    def assign(self, other: IO_STACK_LOCATION) -> None:
        """C's ``*this = *other``: also the completion routine, which must not be called a second time (KE-IRP-09)."""
        self.parameters_from(other)
        self.Control = other.Control
        self.CompletionRoutine, self.Context = other.CompletionRoutine, other.Context
        self.routine_driver, self.routine_index = other.routine_driver, other.routine_index


class Overlay:
    """``Irp->Tail.Overlay``: what the driver with control of an IRP may use for its queues."""

    __slots__ = ("_context", "_irp", "_links")

    def __init__(self, irp: IRP) -> None:
        self._irp = irp
        self._context: list[Any] = [None, None, None, None]
        self._links: LIST_ENTRY | None = None

    @property
    def DriverContext(self) -> list[Any]:
        """Four pointers of the driver's; the last belongs to a cancel-safe queue that holds the IRP (KE-CSQ-04)."""
        self._irp.used("uses Tail.Overlay.DriverContext", writes=True)
        return self._context

    @property
    def ListEntry(self) -> LIST_ENTRY:
        """The list entry, whose record is the IRP."""
        self._irp.used("uses Tail.Overlay.ListEntry")
        if self._links is None:
            self._links = LIST_ENTRY(self._irp, part_of=self._irp)
        return self._links

    @property
    def Thread(self) -> Thread | None:
        """The thread that issued the request."""
        self._irp.used("reads Tail.Overlay.Thread")
        return self._irp.issuer

    @property
    def CurrentStackLocation(self) -> IO_STACK_LOCATION:
        """The current stack location."""
        return self._irp.current("reads Tail.Overlay.CurrentStackLocation")


class Tail:
    """``Irp->Tail``."""

    __slots__ = ("Overlay",)

    def __init__(self, irp: IRP) -> None:
        self.Overlay = Overlay(irp)


class AssociatedIrp:
    """``Irp->AssociatedIrp``."""

    __slots__ = ("_buffer", "_irp")

    def __init__(self, irp: IRP) -> None:
        self._irp = irp
        self._buffer: bytearray | None = None

    @property
    def SystemBuffer(self) -> Any:
        """The buffer of buffered I/O, a bytearray; None (NULL) for another kind."""
        self._irp.used("reads AssociatedIrp.SystemBuffer")
        return self._buffer

    @SystemBuffer.setter
    def SystemBuffer(self, value: bytearray | None) -> None:
        self._irp.used("writes AssociatedIrp.SystemBuffer", writes=True)
        self._buffer = value


class IrpCancel(CancelState):
    """The cancel bit and the cancel routine of an IRP.

    Both are changed by interlocked operations, and may be asked for by whoever issued the IRP at any time.
    """

    __slots__ = ("irp", "looked", "taken", "taken_back")

    def __init__(self, creator: Thread, irp: IRP) -> None:
        super().__init__(creator, f"cancel of {irp.label}")
        self.irp = irp
        self.taken = False
        """Whether a cancellation has taken the cancel routine, and called it."""
        self.taken_back = False
        """Whether the driver has taken its routine back after the cancel bit was set."""
        self.looked = False
        """Whether the driver has looked at ``Irp->Cancel`` and seen TRUE."""


class IRP(Cell):
    """An I/O request packet.

    `location` counts down from StackCount + 1, where no driver has the IRP yet, as C's CurrentLocation does.
    """

    __slots__ = (
        "AssociatedIrp",
        "IoStatus",
        "Tail",
        "_CancelIrql",
        "_Flags",
        "_MdlAddress",
        "_PendingReturned",
        "_RequestorMode",
        "_UserBuffer",
        "_UserEvent",
        "_UserIosb",
        "cancel",
        "completer",
        "csq",
        "ended",
        "ex_failed",
        "holder",
        "issuer",
        "kept_by",
        "kind",
        "last_call",
        "location",
        "owner",
        "request",
        "skipped",
        "stack",
        "up",
        "who_ended",
    )

    free_routine: ClassVar[str] = "IoFreeIrp"

    PendingReturned = Guarded[bool]()
    """In a completion routine: whether the driver below has returned STATUS_PENDING (KE-IRP-05)."""
    CancelIrql = Guarded[int]()
    """In a cancel routine: what to give to IoReleaseCancelSpinLock (KE-CANCEL-02)."""
    Flags = Guarded[int]()
    RequestorMode = Guarded[int]()
    UserBuffer = Guarded[Any]()
    MdlAddress = Guarded["MDL | None"]()
    UserEvent = Guarded["KEVENT | None"]()
    UserIosb = Guarded[Any]()

    def __init__(
        self,
        size: int,
        label: str,
        *,
        kind: str,
        request: Request | None = None,
        owner: DriverActor | None = None,
    ) -> None:
        thread = current_thread()
        super().__init__(thread, label)
        self.kind = kind
        """``request`` of an issuer, ``allocated`` by a driver, ``synchronous`` or ``asynchronous`` by IoBuild..."""
        self.request = request
        self.owner = owner
        """The driver that made it."""
        self.issuer: Thread | None = thread if request is None else request.thread
        self.cancel = IrpCancel(thread, self)
        self.up: Callable[[IRP], Awaitable[None]] | None = None
        """Who takes the IRP when it has come out of the top of its stack; without it the I/O manager."""
        self.initialise(size)

    def initialise(self, size: int) -> None:
        """Make it a fresh IRP with *size* stack locations."""
        self.stack = [IO_STACK_LOCATION(self) for _ in range(size + 1)]
        """Locations by their number from 1; that with number 0 is never used."""
        self.location = size + 1
        self.holder: DriverActor | None = self.owner
        """The driver that has control of it."""
        self.ended = ""
        """What happened to it, once no driver may look at it any more."""
        self.who_ended: Thread | None = None
        self.completer: Thread | None = None
        """The thread that has completed it and is on its way up."""
        self.kept_by = ""
        """The completion routine that has stopped the completion."""
        self.skipped = False
        self.csq: Any = None
        """The cancel-safe queue that holds it."""
        self.ex_failed = False
        self.last_call: dict[Thread, str] = {}
        """For each thread that gave control away by a call, the finding that a later look at the IRP is."""
        self.IoStatus = IrpStatusBlock(self)
        self._PendingReturned = False
        self._CancelIrql = 0
        self._Flags = 0
        self._RequestorMode = 0
        self._UserBuffer: Any = None
        self._MdlAddress: MDL | None = None
        self.AssociatedIrp = AssociatedIrp(self)
        self._UserEvent: KEVENT | None = None
        self._UserIosb: Any = None
        self.Tail = Tail(self)

    @property
    def StackCount(self) -> int:
        """How many stack locations it has."""
        return len(self.stack) - 1

    @property
    def CurrentLocation(self) -> int:
        """The number of the current stack location; StackCount + 1 if no driver has got the IRP."""
        self.used("reads CurrentLocation")
        return self.location

    @property
    def Cancel(self) -> bool:
        """Whether cancellation was asked for. The driver that may look at it has control of the IRP."""
        self.used("reads Cancel")
        cancel = self.cancel
        current_thread().read(cancel)
        cancel.looked = cancel.looked or cancel.requested
        return cancel.requested

    def log_fields(self) -> dict[str, object]:
        """What a log says of it."""
        return {"irp": self.request or self, "op": self.label}

    # Who may use it.

    def used(self, how: str, *, writes: bool = False, completes: bool = False, by_system: bool = False) -> None:
        """The running thread uses the IRP, or means to complete it: record that, and check that it may."""
        thread = current_kthread()
        if writes:
            thread.write(self)
        else:
            thread.read(self)
        if self.ended:
            self.used_after_end(thread, how, completes=completes)
            return
        thread.use(self)
        driver = None if by_system else current_driver()
        if driver is not None and driver is not self.holder:
            self.used_out_of_turn(thread, how)

    def used_after_end(self, thread: KThread, how: str, *, completes: bool = False) -> None:
        """Report a use of an IRP that is complete or free."""
        what = f"{thread.label} {how} of {self.label}, which {self.ended}"
        if self.ended.startswith("was freed"):
            report("ke.use-after-free", what)
        # Two that believe the IRP to be theirs are two that complete it, whichever comes first (KE-CANCEL-06).
        second = (completes or self.cancel.taken) and thread not in self.last_call
        if second and thread is not self.who_ended:
            report("ke.irp-double-complete", what, BugCheck(MULTIPLE_IRP_COMPLETE_REQUESTS, (address(self),)))
        report(self._code(thread), what, BugCheck(PAGE_FAULT_IN_NONPAGED_AREA, (address(self),)))

    def used_out_of_turn(self, thread: KThread, how: str) -> None:
        """Report a use by a driver that has given the IRP away."""
        holder = "nobody" if self.holder is None else str(self.holder.driver)
        code = self._code(thread)
        report(code, f"{thread.label} {how} of {self.label}, of which {holder} has control")

    def _code(self, thread: Thread) -> str:
        code = "ke.irp-after-completion"
        return self.last_call.get(thread, code)

    def current(self, how: str) -> IO_STACK_LOCATION:
        """The current stack location, for the driver with control."""
        self.used(how)
        if self.location > self.StackCount:
            self.no_location(f"{how} of {self.label}, which has no current stack location: nobody has passed it on yet")
        return self.stack[self.location]

    def next(self, how: str) -> IO_STACK_LOCATION:
        """The next lower stack location, for the driver with control."""
        self.used(how)
        if self.location <= 1:
            self.no_location(f"{how} of {self.label}, all {self.StackCount} of whose stack locations are in use")
        return self.stack[self.location - 1]

    def no_location(self, what: str) -> None:
        """Report that there is no stack location (KE-IRP-09)."""
        report(
            "ke.irp-no-location",
            f"{current_thread().label} {what}",
            BugCheck(NO_MORE_IRP_STACK_LOCATIONS, (address(self),)),
        )

    def end(self, thread: Thread, what: str) -> None:
        """From here on no driver may look at it."""
        thread.end(self)
        self.ended = what
        self.who_ended = thread
        self.holder = None


def address(cell: Cell) -> int:
    """An address for *cell* in a bug check's parameters: made of its name, so that it is the same in every run."""
    value = 0xFFFFA000_00000000
    shift = 1
    for part in cell.name:
        value += (part + 1) * 0x40 * shift
        shift *= 0x100
    return value & 0xFFFFFFFF_FFFFFFFF


def operation_label(major: int, suffix: str = "") -> str:
    """What reports call an IRP."""
    return f"{major_name(major)}{suffix}"
