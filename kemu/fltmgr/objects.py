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
from kemu.io.device import DEVICE_OBJECT
from kemu.io.file_constants import FO_VOLUME_OPEN
from kemu.io.request import FAST_IO_OPERATION, Request
from kemu.nt.driver import DRIVER_OBJECT, DriverActor, current_driver
from kemu.nt.system import System, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.cbdq import FLT_CALLBACK_DATA_QUEUE
    from kemu.fltmgr.context_record import Context
    from kemu.fltmgr.context_types import Definitions
    from kemu.fltmgr.frame import Frame
    from kemu.fltmgr.service import InstanceDefinition
    from kemu.fltmgr.structures import (
        FLT_OPERATION_REGISTRATION,
        FLT_REGISTRATION,
        PostOperationCallback,
        PreOperationCallback,
    )
    from kemu.fltmgr.transaction import Notifier
    from kemu.fltmgr.volumes import VolumeKind
    from kemu.io.volume import Volume

ATTACHED: Final = 0
TEARING_DOWN: Final = 1
"""InstanceTeardownStart is running or about to."""
DRAINING: Final = 2
"""InstanceTeardownStart has returned."""
GONE: Final = 3
"""InstanceTeardownComplete has returned."""

UNASKED: Final = 0
"""The first operation on a new volume has not come."""
ASKING: Final = 1
"""The thread of the first operation calls the InstanceSetup callbacks."""
ASKED: Final = 2


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
        if flags & FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO and not request.file.Flags & FO_VOLUME_OPEN:
            return True
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

    __slots__ = ("deleting", "drivers", "holds", "references", "refused")

    guards = ("holds", "references")

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.references: list[str] = []
        """Who took each reference that is not dropped yet, oldest first."""
        self.drivers: list[DriverActor | None] = []
        """In which driver's code each of them was taken."""
        self.refused: list[DriverActor | None] = []
        """The drivers that asked for a reference when the deletion had begun, and got none."""
        self.holds: list[str] = []
        """What of the driver's is running, or queued to run, and must end first (FLT-ORD-07, FLT-WORK-10)."""
        self.deleting = False

    def add_reference(self, thread: Thread, who: str) -> bool:
        """Take a rundown reference inside the step of *thread*; false if the deletion has begun."""
        thread.write(self)
        driver = current_driver()
        if self.deleting:
            self.refused.append(driver)
            return False
        self.references.append(who)
        self.drivers.append(driver)
        return True

    def drop_reference(self, thread: Thread) -> bool:
        """Drop one, that of the driver which is running if it has any; false if there is none."""
        thread.write(self)
        if not self.references:
            return False
        thread.release_to_waiter(self)
        driver = current_driver()
        last = len(self.drivers) - 1
        index = next((place for place in range(last, -1, -1) if self.drivers[place] is driver), last)
        del self.references[index], self.drivers[index]
        self.changed()
        return True

    def check_alive(self, thread: Thread, name: str) -> None:
        """A step of *thread* in the routine *name* uses the object, which may have gone since the call."""
        thread.read(self)
        system: System = thread.runtime.system
        if self in system.freed:
            self.report_freed(name, system.freed[self])

    def free(self, thread: Thread, how: str) -> None:
        """The object is gone, inside the step of *thread*: whoever has a pointer to it must not use it any more."""
        system: System = thread.runtime.system
        system.freed[self] = how

    def report_freed(self, name: str, words: str) -> None:
        """Report that the routine *name* was given the object after it was freed (FLT-REF-04, FLT-REF-06)."""
        detail = f"{name} on {self.label}, {words}, without a reference that would have kept it"
        if current_driver() in self.refused:
            report("ref-unchecked", f"{detail}: FltObjectReference had failed")
        report("ref-missing", detail)


class Filter(RundownObject):
    """A registered minifilter (PFLT_FILTER)."""

    __slots__ = (
        "altitude",
        "context_definitions",
        "contexts",
        "definitions",
        "driver",
        "driver_object",
        "entered",
        "instances",
        "registered",
        "registration",
        "start_failed",
        "started",
        "starter",
        "tearing",
        "unload_flags",
        "unloader",
    )

    guards = ("contexts", "holds", "references")

    def __init__(self, driver_object: DRIVER_OBJECT, registration: FLT_REGISTRATION) -> None:
        super().__init__(current_thread(), f"filter {driver_object.name}")
        self.driver_object = driver_object
        self.driver: DriverActor = driver_object.actor
        self.registration = registration
        self.altitude = driver_object.altitude
        self.instances: list[Instance] = []
        self.definitions: tuple[InstanceDefinition, ...] = ()
        """The instances of the service key, the default one first."""
        self.registered = True
        self.started = False
        self.start_failed = False
        """Whether FltStartFiltering has failed."""
        self.starter = ""
        """The thread that is in FltStartFiltering, or was."""
        self.tearing: list[str] = []
        """The threads that have been in InstanceTeardownStart."""
        self.entered = False
        """Whether DriverEntry has returned."""
        self.unload_flags: int | None = None
        """The flags of the unload that is going on."""
        self.contexts: list[Context] = []
        """Those that are not freed, oldest first."""
        self.context_definitions: Definitions | None = None
        """What was declared of contexts; None if nothing was."""
        self.unloader = ""
        """The thread that carries it out."""

    @property
    def filter_name(self) -> str:
        """The name that the filter is known by: that of its service."""
        return self.driver_object.name

    def report_freed(self, name: str, words: str) -> None:
        """Report that the routine *name* was given the filter after it was unregistered (FLT-UNLOAD-15)."""
        report("use-after-unregister", f"{name} on {self.label}, {words}")


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
        "enlisted",
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
        self.enlisted: list[Notifier] = []
        """Its enlistments in transactions, those that are over as well."""
        self.nodes: dict[int, Node] = {}
        for registration in filter_.registration.OperationRegistration:
            if registration.MajorFunction == IRP_MJ_OPERATION_END:
                break
            if registration.PreOperation is not None or registration.PostOperation is not None:
                self.nodes.setdefault(registration.MajorFunction, Node(self, registration))

    def holders(self) -> tuple[Thread, ...]:
        issuers = [request.thread for request in self.initiated if not request.is_inner and request.thread is not None]
        return tuple(thread for frame in self.outstanding for thread in frame.inside) + tuple(issuers)


def volume_device(volume: FltVolume, what: str, name: str) -> DEVICE_OBJECT:
    """A device object that belongs to *volume*, and takes none of the names of its thread's objects."""
    thread = volume.creator
    ordinals = thread.ordinals
    device = DEVICE_OBJECT(name, None, name)
    thread.ordinals = ordinals
    # Names of parts are below zero.
    device.ordinal = -2 * volume.ordinal - (2 if what == "device" else 3)
    device._flags = 0  # pyright: ignore[reportPrivateUsage]
    return device


class FltVolume(RundownObject):
    """A volume as the filter manager sees it (PFLT_VOLUME): its instances, highest altitude first."""

    __slots__ = (
        "arriving",
        "device",
        "disk",
        "instances",
        "is_late",
        "kind",
        "newcomers",
        "number",
        "setting_up",
        "stack_size",
        "stage",
        "volume",
    )

    guards = ("holds", "references", "stage")

    def __init__(self, volume: Volume, kind: VolumeKind, number: int = 1) -> None:
        super().__init__(current_thread(), volume.dos_name)
        self.volume = volume
        self.kind = kind
        self.number = number
        """Which volume of the system it is, from 1 on."""
        self.device = volume_device(self, "device", self.device_name)
        """The filter manager's own device object for it."""
        self.disk = volume_device(self, "disk", rf"\Device\Harddisk{number - 1}\DR0") if kind.has_disk else None
        """That of the disk below."""
        self.instances: list[Instance] = []
        self.arriving: list[Instance] = []
        """Instances that are being set up; their altitudes are taken."""
        self.newcomers: tuple[Filter, ...] = ()
        """The filters that there were at the mount, until the first operation has had them asked (FLT-INST-02)."""
        self.is_late = False
        """Whether it was mounted while filters were there."""
        self.stage = ASKED
        """How far asking those has come."""
        self.setting_up: Thread | None = None
        """The thread whose operation was the first, while it asks them."""
        self.stack_size = 8
        """For how many devices requests that begin here have room."""

    @property
    def device_name(self) -> str:
        """The name of the volume's device."""
        return self.kind.device_name.format(self.number)

    @property
    def guid_name(self) -> str:
        """The name by which the mount manager knows it."""
        return rf"\??\Volume{{00000000-0000-0000-0000-{self.number:012x}}}"

    def is_detached(self, thread: Thread) -> bool:
        """Whether the volume was dismounted."""
        thread.read(self.volume.filesystem.presence)
        return not self.volume.filesystem.is_mounted

    def holders(self) -> tuple[Thread, ...]:
        return (self.setting_up,) if self.setting_up is not None else ()


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
        self.object.check_alive(thread, "FltObjectReference")
        return self.object.add_reference(thread, self.who)

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
        return self.object.drop_reference(thread)

    def target(self) -> Cell:
        return self.object
