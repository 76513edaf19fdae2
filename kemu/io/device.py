"""Device objects, their names, and the stacks they form (KE-REF-05, KE-UNLOAD-05).

What keeps a driver loaded are references to its device objects: a file that is open on one, a device that is attached
above it, a pointer that somebody has got by its name. All names of the machine are one cell: whether an open comes
before or after a link is made is something that it observes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from kemu.io.request import FileObject
from kemu.nt.allocation import Allocation
from kemu.nt.buffer import allocation_of
from kemu.nt.bugcheck import DRIVER_VERIFIER_IOMANAGER_VIOLATION, BugCheck
from kemu.nt.driver import DRIVER_OBJECT, DriverActor, current_driver
from kemu.nt.freeing import release
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL
from kemu.nt.object import ObjectType, header_of, register_type
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_NO_SUCH_DEVICE,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.nt.structure import Size, Structure, furnish
from kemu.nt.system import Leftover, System, current_system, report, resources_fail
from kemu.runtime import Cell, Operation, Point, Thread, current_thread
from kemu.runtime.site import here

if TYPE_CHECKING:
    from kemu.io.irp import IRP

DO_BUFFERED_IO: Final = 0x4
DO_EXCLUSIVE: Final = 0x8
DO_DIRECT_IO: Final = 0x10
DO_DEVICE_INITIALIZING: Final = 0x80
DO_SHUTDOWN_REGISTERED: Final = 0x800
DO_POWER_PAGABLE: Final = 0x2000

FILE_DEVICE_DISK: Final = 0x07
FILE_DEVICE_UNKNOWN: Final = 0x22
FILE_DEVICE_SECURE_OPEN: Final = 0x100

_LINK_ROOTS: Final = ("\\DOSDEVICES\\", "\\??\\", "\\GLOBAL??\\", "\\\\.\\", "\\\\?\\")


class NativeDevice:
    """The dispatch routines of a device of the emulated machine's own: a disk, or the filter manager's device."""

    async def dispatch_irp(self, device: DEVICE_OBJECT, irp: IRP) -> NTSTATUS:
        """Take *irp*, whose current stack location is the device's, and return what a dispatch routine returns."""
        raise NotImplementedError


class DEVICE_OBJECT(Cell):
    """A device object. Its extension is an instance of the structure whose size was given, zeroed."""

    __slots__ = (
        "AttachedDevice",
        "Characteristics",
        "DeviceExtension",
        "DeviceType",
        "DriverObject",
        "NextDevice",
        "StackSize",
        "_flags",
        "delete_pending",
        "device_name",
        "exclusive",
        "gone",
        "lower",
        "native",
        "opens",
        "outstanding",
        "references",
    )

    def __init__(self, label: str, driver: DRIVER_OBJECT | None, name: str | None) -> None:
        super().__init__(current_thread(), label)
        self.DriverObject: DRIVER_OBJECT = driver  # type: ignore[assignment]
        """The driver; a device of the machine's own has none that anybody may look at."""
        self.device_name = name
        self.native: NativeDevice | None = None
        self.DeviceExtension: Any = None
        self.DeviceType = FILE_DEVICE_UNKNOWN
        self.Characteristics = 0
        self.StackSize = 1
        self.NextDevice: DEVICE_OBJECT | None = None
        self.AttachedDevice: DEVICE_OBJECT | None = None
        self.lower: DEVICE_OBJECT | None = None
        """The device that it is attached to."""
        self._flags = DO_DEVICE_INITIALIZING
        self.exclusive = False
        self.opens = 0
        """How many files are open on it."""
        self.references = 0
        """How many references there are of any kind."""
        self.outstanding = 0
        self.delete_pending = False
        self.gone = False

    @property
    def Flags(self) -> int:
        """DO_BUFFERED_IO, DO_DEVICE_INITIALIZING and so on."""
        current_thread().read(self)
        return self._flags

    @Flags.setter
    def Flags(self, value: int) -> None:
        current_thread().write(self)
        self._flags = value

    @property
    def ReferenceCount(self) -> int:
        """How many files are open on it."""
        current_thread().read(self)
        return self.opens

    @property
    def actor(self) -> DriverActor | None:
        """The driver as an actor; None for a device of the machine's own."""
        return None if self.native is not None else self.DriverObject.actor

    @property
    def refuses(self) -> NTSTATUS | None:
        """Why nobody can get a new reference to it (KE-UNLOAD-05); None if everybody can."""
        pending = self.native is None and self.DriverObject.image.unload_pending
        if pending or self.delete_pending or self._flags & DO_DEVICE_INITIALIZING:
            return STATUS_NO_SUCH_DEVICE
        return None

    def top(self) -> DEVICE_OBJECT:
        """The highest device of the stack that it is part of."""
        device = self
        while device.AttachedDevice is not None:
            device = device.AttachedDevice
        return device

    # In a step of the thread's.

    def reference(self, thread: Thread) -> None:
        """Keep the device, and its driver."""
        self.references += 1
        if self.native is None:
            self.DriverObject.image.reference(thread)

    def dereference(self, thread: Thread) -> None:
        """The reverse; the last reference to a device that was deleted frees it."""
        self.references -= 1
        if self.native is None:
            self.DriverObject.image.dereference(thread)
        if self.delete_pending and not self.references:
            self.free(thread)

    def free(self, thread: Thread) -> None:
        """Free the device object and its extension."""
        self.gone = True
        thread.end(self)
        system: System = thread.runtime.system
        system.freed[self] = f"which was deleted by {thread.label}"
        free_extension(thread, self.DeviceExtension)


def extension(size: int) -> Any:
    """Zeroed storage of *size* bytes: an instance of the structure that the size is of, or a bytearray."""
    if not size:
        return None
    if not isinstance(size, Size):
        return bytearray(size)
    structure = size.structure
    block: Structure = object.__new__(structure)
    allocation = Allocation(current_thread(), block, size, "Devi", is_paged=False)
    furnish(block, structure, allocation, allocation.parts, zeroed=True)
    return block


def free_extension(thread: Thread, block: object) -> None:
    """What is in freed memory from here on."""
    allocation = allocation_of(block) if isinstance(block, Structure) else None
    if allocation is not None:
        thread.write(allocation)
        thread.end(allocation)
        release(thread, allocation, here(thread))


class Names(Cell):
    """The object manager's directories: device objects and symbolic links by their names."""

    __slots__ = ("devices", "links")

    def __init__(self) -> None:
        super().__init__(current_thread(), "device names")
        self.devices: dict[str, DEVICE_OBJECT] = {}
        self.links: dict[str, tuple[str, DriverActor | None]] = {}

    def find(self, name: str) -> tuple[DEVICE_OBJECT | None, str]:
        """The device that *name* leads to, and what is left of the name."""
        folded = name.upper()
        for root in _LINK_ROOTS:
            if folded.startswith(root):
                rest = name[len(root) :]
                link, _, path = rest.partition("\\")
                target = self.links.get(link.upper())
                if target is None:
                    return None, ""
                return self._device(f"{target[0]}\\{path}" if path else target[0])
        return self._device(name)

    def _device(self, name: str) -> tuple[DEVICE_OBJECT | None, str]:
        folded = name.upper()
        for known, device in self.devices.items():
            if folded == known or folded.startswith(known + "\\"):
                return device, name[len(known) :]
        return None, ""


class Devices:
    """All device objects of one run, and what drivers have registered beside them."""

    def __init__(self) -> None:
        self.names = Names()
        self.devices: list[DEVICE_OBJECT] = []
        self.shutdown: list[DEVICE_OBJECT] = []
        """Devices whose drivers are to be told of a shutdown; the last one first."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The devices, names and registrations of *driver* (KE-UNLOAD-03)."""
        code = "ke.unload-leftover"
        for device in self.devices:
            if device.actor is driver and not device.gone:
                yield Leftover(code, device.label)
        for name, (_, owner) in self.names.links.items():
            if owner is driver:
                yield Leftover(code, f"the symbolic link {name}")

    async def ready(self, driver: DRIVER_OBJECT) -> None:
        """DriverEntry has succeeded: the devices that it has made can be opened from here on."""
        await DevicesReady(self, driver)


def check_name(name: object, routine_name: str, parameter: str) -> None:
    """Finding ``ke.bad-pointer`` for a name that is none."""
    if not isinstance(name, str):
        what = "NULL" if name is None else f"a {type(name).__name__}"
        report("ke.bad-pointer", f"{routine_name} was given {what} as {parameter}, which takes a UNICODE_STRING")


def link_name(name: str) -> str | None:
    """The last part of a symbolic link's name, in capitals; None if it is not one that programs can open."""
    folded = name.upper()
    for root in _LINK_ROOTS[:3]:
        if folded.startswith(root):
            return folded[len(root) :]
    return None


class CreateDevice(Operation[NTSTATUS]):
    """A device object comes into being, with its name."""

    __slots__ = ("device", "devices")
    kind = "create"

    def __init__(self, devices: Devices, device: DEVICE_OBJECT) -> None:
        self.devices = devices
        self.device = device

    def perform(self, thread: Thread) -> NTSTATUS:
        device, names = self.device, self.devices.names
        driver = device.DriverObject
        if device.device_name is not None:
            folded = device.device_name.upper()
            if folded in names.devices:
                thread.read(names)
                return STATUS_OBJECT_NAME_COLLISION
            thread.write(names)
            names.devices[folded] = device
        thread.write(driver.image)
        device.NextDevice, driver.DeviceObject = driver.DeviceObject, device
        self.devices.devices.append(device)
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.devices.names if self.device.device_name is not None else self.device.DriverObject.image

    def describe(self) -> str:
        return f"create {self.device.label}"


class DevicesReady(Operation[None]):
    """The I/O manager clears DO_DEVICE_INITIALIZING after DriverEntry."""

    __slots__ = ("devices", "driver")
    kind = "make the devices ready of"

    def __init__(self, devices: Devices, driver: DRIVER_OBJECT) -> None:
        self.devices = devices
        self.driver = driver

    def perform(self, thread: Thread) -> None:
        for device in self.devices.devices:
            if device.DriverObject is self.driver and not device.gone:
                thread.write(device)
                device._flags &= ~DO_DEVICE_INITIALIZING  # pyright: ignore[reportPrivateUsage]

    def target(self) -> Cell:
        return self.driver.image


class DeleteDevice(Operation[None]):
    """A device object goes away, now or with the last reference to it."""

    __slots__ = ("device", "devices")
    kind = "delete"

    def __init__(self, devices: Devices, device: DEVICE_OBJECT) -> None:
        self.devices = devices
        self.device = device

    def perform(self, thread: Thread) -> None:
        device, names = self.device, self.devices.names
        thread.write(device)
        thread.write(device.DriverObject.image)
        if device.delete_pending:
            report(
                "ke.device-double-delete",
                f"{thread.label} deletes {device.label}, which was deleted already",
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x240,)),
            )
            return
        if device.AttachedDevice is not None or device.lower is not None:
            neighbour = device.AttachedDevice or device.lower
            report(
                "ke.device-attached",
                f"{thread.label} deletes {device.label}, which is attached to {neighbour}",
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x201,)),
            )
        device.delete_pending = True
        if device.device_name is not None:
            thread.write(names)
            names.devices.pop(device.device_name.upper(), None)
        self._unlink(device)
        if device in self.devices.shutdown:
            self.devices.shutdown.remove(device)
        if not device.references:
            device.free(thread)

    def _unlink(self, device: DEVICE_OBJECT) -> None:
        driver = device.DriverObject
        if driver.DeviceObject is device:
            driver.DeviceObject = device.NextDevice
            return
        other = driver.DeviceObject
        while other is not None:
            if other.NextDevice is device:
                other.NextDevice = device.NextDevice
            other = other.NextDevice

    def target(self) -> Cell:
        return self.device


class ChangeLinks(Operation[NTSTATUS]):
    """A symbolic link is made (with a target) or removed."""

    __slots__ = ("devices", "name", "owner", "to")
    kind = "change the symbolic links"

    def __init__(self, devices: Devices, name: str, to: str | None) -> None:
        self.devices = devices
        self.name = name
        self.to = to
        self.owner = current_driver()

    def perform(self, thread: Thread) -> NTSTATUS:
        names = self.devices.names
        thread.write(names)
        if self.to is None:
            if names.links.pop(self.name, None) is None:
                return STATUS_OBJECT_NAME_NOT_FOUND
            return STATUS_SUCCESS
        if self.name in names.links:
            return STATUS_OBJECT_NAME_COLLISION
        # An open through the link sees what was done before it was made: publication is what it is for.
        thread.release(names)
        names.links[self.name] = (self.to, self.owner)
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.devices.names

    def describe(self) -> str:
        return f"{'remove' if self.to is None else 'make'} the symbolic link {self.name}"


class FindDevice(Operation["tuple[NTSTATUS, DEVICE_OBJECT | None, str]"]):
    """Look a device up by its name and reference the stack that it is part of."""

    __slots__ = ("devices", "name", "opens")
    kind = "look up"

    def __init__(self, devices: Devices, name: str, *, opens: bool) -> None:
        self.devices = devices
        self.name = name
        self.opens = opens

    def perform(self, thread: Thread) -> tuple[NTSTATUS, DEVICE_OBJECT | None, str]:
        names = self.devices.names
        thread.read(names)
        thread.acquire(names)
        device, rest = names.find(self.name)
        if device is None:
            return STATUS_OBJECT_NAME_NOT_FOUND, None, ""
        if device.native is None:
            thread.read(device.DriverObject.image)
        status = device.refuses
        if status is None and self.opens and device.exclusive and device.opens:
            status = STATUS_ACCESS_DENIED
        if status is not None:
            thread.read(device)
            return status, None, ""
        thread.write(device)
        device.opens += 1
        device.reference(thread)
        return STATUS_SUCCESS, device, rest

    def target(self) -> Cell:
        return self.devices.names

    def describe(self) -> str:
        return f"look up {self.name}"


class ReleaseDevice(Operation[None]):
    """Give back what `FindDevice` has referenced."""

    __slots__ = ("device",)
    kind = "release"

    def __init__(self, device: DEVICE_OBJECT) -> None:
        self.device = device

    def perform(self, thread: Thread) -> None:
        thread.write(self.device)
        self.device.opens -= 1
        self.device.dereference(thread)

    def target(self) -> Cell:
        return self.device


class AttachDevice(Operation["DEVICE_OBJECT | None"]):
    """A device joins a stack, on top."""

    __slots__ = ("source", "to")
    kind = "attach"

    def __init__(self, source: DEVICE_OBJECT, to: DEVICE_OBJECT) -> None:
        self.source = source
        self.to = to

    def perform(self, thread: Thread) -> DEVICE_OBJECT | None:
        top = self.to.top()
        thread.write(self.source)
        thread.write(self.to)
        thread.write(top)
        if top.native is None:
            thread.read(top.DriverObject.image)
        if top.refuses is not None:
            return None
        source = self.source
        top.AttachedDevice = source
        source.lower = top
        source.StackSize = top.StackSize + 1
        top.reference(thread)
        return top

    def target(self) -> Cell:
        return self.to

    def describe(self) -> str:
        return f"attach {self.source.label} to {self.to.label}"


class DetachDevice(Operation[None]):
    """The device above leaves the stack."""

    __slots__ = ("device",)
    kind = "detach what is above"

    def __init__(self, device: DEVICE_OBJECT) -> None:
        self.device = device

    def perform(self, thread: Thread) -> None:
        device = self.device
        thread.write(device)
        above = device.AttachedDevice
        if above is None:
            report(
                "ke.device-double-detach",
                f"{thread.label} detaches from {device.label}, to which nothing is attached",
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x202,)),
            )
            return
        thread.write(above)
        device.AttachedDevice = None
        above.lower = None
        device.dereference(thread)

    def target(self) -> Cell:
        return self.device


@routine(
    "wdm",
    """NTSTATUS IoCreateDevice(_In_ PDRIVER_OBJECT DriverObject, _In_ ULONG DeviceExtensionSize,
       _In_opt_ PUNICODE_STRING DeviceName, _In_ DEVICE_TYPE DeviceType, _In_ ULONG DeviceCharacteristics,
       _In_ BOOLEAN Exclusive, _Outptr_ PDEVICE_OBJECT *DeviceObject)""",
    max_irql=APC_LEVEL,
)
async def IoCreateDevice(
    DriverObject: DRIVER_OBJECT,
    DeviceExtensionSize: int,
    DeviceName: str | None,
    DeviceType: int,
    DeviceCharacteristics: int,
    Exclusive: bool,
) -> tuple[NTSTATUS, DEVICE_OBJECT | None]:
    r"""Make a device object; returns the status and the device.

    *DeviceExtensionSize* is usually ``sizeof(EXTENSION)``: ``DeviceExtension`` is then a zeroed instance of it.
    *DeviceName* such as ``\Device\Echo``, or None. STATUS_OBJECT_NAME_COLLISION if there is one of that name,
    STATUS_INSUFFICIENT_RESOURCES where low resources are explored. Until DriverEntry has returned, or until the driver
    clears DO_DEVICE_INITIALIZING in ``Flags``, nobody can open it. IRQL: <= APC_LEVEL.
    """
    if DeviceName is not None:
        check_name(DeviceName, "IoCreateDevice", "DeviceName")
    # A negative size is a very large one in C.
    if DeviceExtensionSize < 0 or resources_fail("IoCreateDevice"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    devices = current_system().get(Devices)
    device = DEVICE_OBJECT(DeviceName or f"a device of {DriverObject.name}", DriverObject, DeviceName)
    device.DeviceType = DeviceType
    device.Characteristics = DeviceCharacteristics
    device.exclusive = bool(Exclusive)
    device.DeviceExtension = extension(DeviceExtensionSize)
    status = await CreateDevice(devices, device)
    return status, device if status == STATUS_SUCCESS else None


@routine("wdm", "VOID IoDeleteDevice(_In_ PDEVICE_OBJECT DeviceObject)", max_irql=APC_LEVEL)
async def IoDeleteDevice(DeviceObject: DEVICE_OBJECT) -> None:
    """Delete a device object: no new opens from here on, and it is freed with the last reference (KE-REF-05).

    IRQL: <= APC_LEVEL. Findings: ``ke.device-attached``, ``ke.device-double-delete``.
    """
    await DeleteDevice(current_system().get(Devices), DeviceObject)


@routine(
    "wdm",
    """PDEVICE_OBJECT IoAttachDeviceToDeviceStack(_In_ PDEVICE_OBJECT SourceDevice,
       _In_ PDEVICE_OBJECT TargetDevice)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoAttachDeviceToDeviceStack(SourceDevice: DEVICE_OBJECT, TargetDevice: DEVICE_OBJECT) -> DEVICE_OBJECT | None:
    """Put *SourceDevice* on top of the stack of *TargetDevice* and return the device that it is attached to.

    None if that device or its driver is going away (KE-UNLOAD-05). IRQL: <= DISPATCH_LEVEL.
    """
    return await AttachDevice(SourceDevice, TargetDevice)


@routine("wdm", "VOID IoDetachDevice(_Inout_ PDEVICE_OBJECT TargetDevice)", max_irql=PASSIVE_LEVEL)
async def IoDetachDevice(TargetDevice: DEVICE_OBJECT) -> None:
    """Take the device off that is attached to *TargetDevice*.

    IRQL: PASSIVE_LEVEL. Findings: ``ke.device-double-detach`` if there is none.
    """
    await DetachDevice(TargetDevice)


@routine(
    "wdm",
    """NTSTATUS IoGetDeviceObjectPointer(_In_ PUNICODE_STRING ObjectName, _In_ ACCESS_MASK DesiredAccess,
       _Out_ PFILE_OBJECT *FileObject, _Out_ PDEVICE_OBJECT *DeviceObject)""",
    max_irql=PASSIVE_LEVEL,
)
async def IoGetDeviceObjectPointer(
    ObjectName: str, DesiredAccess: int
) -> tuple[NTSTATUS, DeviceFile | None, DEVICE_OBJECT | None]:
    """Look a device up by its name; returns the status, a file object and the top of the device's stack.

    The file object keeps the driver loaded until `ObDereferenceObject` is called for it. kemu sends no create and
    close requests for it. IRQL: PASSIVE_LEVEL.
    """
    check_name(ObjectName, "IoGetDeviceObjectPointer", "ObjectName")
    devices = current_system().get(Devices)
    status, device, _ = await FindDevice(devices, ObjectName, opens=False)
    if device is None:
        return status, None, None
    file = DeviceFile(device, None, ObjectName)
    header_of(file).refer(current_thread())
    return status, file, device.top()


@routine(
    "wdm",
    "NTSTATUS IoCreateSymbolicLink(_In_ PUNICODE_STRING SymbolicLinkName, _In_ PUNICODE_STRING DeviceName)",
    max_irql=PASSIVE_LEVEL,
)
async def IoCreateSymbolicLink(SymbolicLinkName: str, DeviceName: str) -> NTSTATUS:
    r"""Let programs open *DeviceName* by ``\\.\Name`` if *SymbolicLinkName* is ``\DosDevices\Name``.

    ``\??\Name`` and ``\GLOBAL??\Name`` are the same. STATUS_OBJECT_NAME_COLLISION if the name is taken,
    STATUS_OBJECT_NAME_NOT_FOUND for a name elsewhere. From here on requests may come. IRQL: PASSIVE_LEVEL.
    """
    check_name(SymbolicLinkName, "IoCreateSymbolicLink", "SymbolicLinkName")
    check_name(DeviceName, "IoCreateSymbolicLink", "DeviceName")
    name = link_name(SymbolicLinkName)
    if name is None:
        return STATUS_OBJECT_NAME_NOT_FOUND
    devices = current_system().get(Devices)
    status = await ChangeLinks(devices, name, DeviceName)
    await Point(f"return from making the symbolic link {name}", devices.names)
    return status


@routine("wdm", "NTSTATUS IoDeleteSymbolicLink(_In_ PUNICODE_STRING SymbolicLinkName)", max_irql=PASSIVE_LEVEL)
async def IoDeleteSymbolicLink(SymbolicLinkName: str) -> NTSTATUS:
    """Remove a symbolic link; STATUS_OBJECT_NAME_NOT_FOUND if there is none. IRQL: PASSIVE_LEVEL."""
    check_name(SymbolicLinkName, "IoDeleteSymbolicLink", "SymbolicLinkName")
    name = link_name(SymbolicLinkName)
    if name is None:
        return STATUS_OBJECT_NAME_NOT_FOUND
    return await ChangeLinks(current_system().get(Devices), name, None)


class DeviceFile(FileObject):
    """A file that is open on a device.

    It lives until its handle is closed and no request on it is outstanding; then the driver gets its close request.
    """

    __slots__ = ("DeviceObject", "closing", "requests")

    def __init__(self, device: DEVICE_OBJECT, mount: Any, name: str, flags: int = 0) -> None:
        super().__init__(mount, name, flags)
        self.DeviceObject = device
        self.requests = 0
        """How many requests on it are outstanding."""
        self.closing = False
        """Whether the handle is closed."""


def _is_there(device: DEVICE_OBJECT, observer: Thread) -> bool:
    observer.read(device)
    return not device.gone


def _is_open(file: DeviceFile, observer: Thread) -> bool:
    """Whether the system holds the file: that of a program, until its close request. A driver's it does not."""
    observer.read(file)
    return file.volume is not None  # pyright: ignore[reportUnnecessaryComparison]


async def _release(file: DeviceFile) -> None:
    """Nobody holds the file any more that IoGetDeviceObjectPointer has returned."""
    await ReleaseDevice(file.DeviceObject)


register_type(DEVICE_OBJECT, ObjectType("Device", is_held=_is_there))
register_type(DeviceFile, ObjectType("File", is_held=_is_open, delete=_release))
