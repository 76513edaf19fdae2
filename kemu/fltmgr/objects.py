"""The filter manager's objects: volumes, filters, instances. A driver sees them as opaque pointers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.fltmgr.altitude import AltitudeKey
from kemu.fltmgr.constants import (
    FLTFL_OPERATION_REGISTRATION_SKIP_CACHED_IO,
    FLTFL_OPERATION_REGISTRATION_SKIP_NON_CACHED_NON_PAGING_IO,
    FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO,
    FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO,
)
from kemu.io.constants import IRP_MJ_OPERATION_END, IRP_MJ_READ, IRP_MJ_WRITE, IRP_NOCACHE, IRP_PAGING_IO
from kemu.io.request import FAST_IO_OPERATION, Request
from kemu.nt.driver import DRIVER_OBJECT, DriverActor
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.cbdq import FLT_CALLBACK_DATA_QUEUE
    from kemu.fltmgr.frame import Frame
    from kemu.fltmgr.structures import (
        FLT_OPERATION_REGISTRATION,
        FLT_REGISTRATION,
        PostOperationCallback,
        PreOperationCallback,
    )
    from kemu.io.volume import Volume

ATTACHED: Final = 0
TEARING_DOWN: Final = 1
"""InstanceTeardownStart is running or about to."""
DRAINING: Final = 2
"""InstanceTeardownStart has returned."""
GONE: Final = 3
"""InstanceTeardownComplete has returned."""


class Node:
    """One instance's callbacks for one major function (the callback node of a real filter manager)."""

    __slots__ = ("filter", "flags", "instance", "major", "post", "pre")

    def __init__(self, instance: Instance, registration: FLT_OPERATION_REGISTRATION) -> None:
        self.instance = instance
        self.filter = instance.filter
        self.major = registration.MajorFunction
        self.flags = registration.Flags
        self.pre: PreOperationCallback | None = registration.PreOperation
        self.post: PostOperationCallback | None = registration.PostOperation

    def skips(self, request: Request) -> bool:
        """Whether a SKIP flag bypasses both callbacks (FLT-REG-10 to FLT-REG-13)."""
        flags = self.flags
        if flags & FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO:
            return True  # kemu has no volume handles yet, so that every operation is a non-DASD one
        if request.major not in {IRP_MJ_READ, IRP_MJ_WRITE}:
            return False
        fast = request.kind == FAST_IO_OPERATION
        paging = bool(request.flags & IRP_PAGING_IO) and not fast
        cached = fast or not request.flags & (IRP_NOCACHE | IRP_PAGING_IO)
        return bool(
            (flags & FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO and paging)
            or (flags & FLTFL_OPERATION_REGISTRATION_SKIP_CACHED_IO and cached)
            or (flags & FLTFL_OPERATION_REGISTRATION_SKIP_NON_CACHED_NON_PAGING_IO and not cached and not paging)
        )


class RundownObject(Waitable):
    """Something that can be deleted while it is referenced: the deletion waits for the references."""

    __slots__ = ("deleting", "holds", "references")

    guards = ("holds", "references")

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.references: list[str] = []
        """Who took each reference that is not dropped yet, oldest first."""
        self.holds: list[str] = []
        """What of the driver's is running, or queued to run, and must end first (FLT-ORD-07, FLT-WORK-10)."""
        self.deleting = False


class Filter(RundownObject):
    """A registered minifilter (PFLT_FILTER)."""

    __slots__ = (
        "altitude",
        "driver",
        "driver_object",
        "instances",
        "registered",
        "registration",
        "started",
        "unload_flags",
    )

    def __init__(self, driver_object: DRIVER_OBJECT, registration: FLT_REGISTRATION) -> None:
        super().__init__(current_thread(), f"filter {driver_object.name}")
        self.driver_object = driver_object
        self.driver: DriverActor = driver_object.actor
        self.registration = registration
        self.altitude = driver_object.altitude
        self.instances: list[Instance] = []
        self.registered = True
        self.started = False
        self.unload_flags: int | None = None
        """The flags of the unload that is going on."""


class Operations:
    """All operations of one instance: a name for what the end of each is told to, and a teardown waits for."""

    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        self.label = label


class Instance(RundownObject):
    """One attachment of one filter to one volume at one altitude (PFLT_INSTANCE).

    `outstanding` are the frames of operations that this instance takes part in and has not finished with, `initiated`
    the requests that it has begun below itself (FLT-INST-27).
    """

    __slots__ = (
        "altitude",
        "filter",
        "initiated",
        "instance_name",
        "key",
        "nodes",
        "operations",
        "outstanding",
        "queues",
        "state",
        "volume",
    )

    guards = ("holds", "references", "state")

    def __init__(self, filter_: Filter, volume: FltVolume, altitude: str, key: AltitudeKey, name: str) -> None:
        super().__init__(current_thread(), f"instance {name} on {volume.label}")
        self.filter = filter_
        self.volume = volume
        self.altitude = altitude
        self.key = key
        self.instance_name = name
        self.state = ATTACHED
        self.outstanding: list[Frame] = []
        self.initiated: list[Request] = []
        """The I/O that the filter has initiated through this instance, and that is not over."""
        self.operations = Operations(f"run-down protection of {self.label}")
        self.queues: list[FLT_CALLBACK_DATA_QUEUE] = []
        """The cancel-safe queues that were initialised for this instance."""
        self.nodes: dict[int, Node] = {}
        for registration in filter_.registration.OperationRegistration:
            if registration.MajorFunction == IRP_MJ_OPERATION_END:
                break
            if registration.PreOperation is not None or registration.PostOperation is not None:
                self.nodes.setdefault(registration.MajorFunction, Node(self, registration))

    def holders(self) -> tuple[Thread, ...]:
        issuers = [request.thread for request in self.initiated if not request.is_inner]
        return tuple(thread for frame in self.outstanding for thread in frame.inside) + tuple(issuers)


class FltVolume(RundownObject):
    """A volume as the filter manager sees it (PFLT_VOLUME): its instances, highest altitude first."""

    __slots__ = ("arriving", "instances", "stack_size", "volume")

    def __init__(self, volume: Volume) -> None:
        super().__init__(current_thread(), volume.dos_name)
        self.volume = volume
        self.instances: list[Instance] = []
        self.arriving: list[Instance] = []
        """Instances that are being set up; their altitudes are taken."""
        self.stack_size = 8
        """For how many devices requests that begin here have room."""


class WaitRundown(BlockingOperation[None]):
    """Wait until nobody holds a reference."""

    __slots__ = ("object",)
    kind = "see the references dropped on"

    def __init__(self, object_: RundownObject) -> None:
        super().__init__(object_)
        self.object = object_

    def available(self, thread: Thread) -> bool:
        return not self.object.references and not self.object.holds

    def take(self, thread: Thread) -> None:
        thread.read(self.object)
        thread.acquire_as_waiter(self.object)

    def describe(self) -> str:
        held = ", ".join(self.object.references + self.object.holds)
        return f"see the references on {self.object.label} dropped ({held})" if held else super().describe()


class WaitGone(BlockingOperation[None]):
    """Wait until an instance that somebody else takes down is gone."""

    __slots__ = ("instance",)
    kind = "see the end of"

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance)
        self.instance = instance

    def available(self, thread: Thread) -> bool:
        return self.instance.state == GONE

    def take(self, thread: Thread) -> None:
        thread.read(self.instance)
        thread.acquire(self.instance)


class TakeReference(Operation[bool]):
    """Take a rundown reference, unless the object is being deleted."""

    __slots__ = ("object", "who")
    kind = "reference"

    def __init__(self, object_: RundownObject, who: str) -> None:
        self.object = object_
        self.who = who

    def perform(self, thread: Thread) -> bool:
        thread.write(self.object)
        if self.object.deleting:
            return False
        self.object.references.append(self.who)
        return True

    def target(self) -> Cell:
        return self.object


def hold(thread: Thread, object_: RundownObject, who: str) -> None:
    """Keep *object_* for *who*, which runs code of the driver, inside the calling step."""
    _touch(thread, object_)
    object_.holds.append(who)


def let_go(thread: Thread, object_: RundownObject, who: str) -> None:
    """*who* has come out of the driver: undo one `hold`, inside the calling step."""
    _touch(thread, object_)
    thread.release_to_waiter(object_)
    object_.holds.remove(who)
    if not object_.holds:
        object_.changed()


def _touch(thread: Thread, object_: RundownObject) -> None:
    """Record a change of the holds. Nobody sees their order, and nobody sees them before the deletion has begun."""
    if object_.deleting:
        thread.write(object_)
    else:
        thread.read(object_)


class DropReference(Operation[bool]):
    """Drop a rundown reference."""

    __slots__ = ("object",)
    kind = "dereference"

    def __init__(self, object_: RundownObject) -> None:
        self.object = object_

    def perform(self, thread: Thread) -> bool:
        thread.write(self.object)
        if not self.object.references:
            return False
        thread.release_to_waiter(self.object)
        self.object.references.pop()
        self.object.changed()
        return True

    def target(self) -> Cell:
        return self.object
