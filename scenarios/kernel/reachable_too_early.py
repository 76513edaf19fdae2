"""KE-17: programs reach the device before DriverEntry has made ready what its requests use.

The driver clears DO_DEVICE_INITIALIZING itself and makes its symbolic link; then it goes on with its lock and its list.
A program that has just started the service opens the device and sends the first request.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_NO_MORE_ENTRIES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CTL_CODE,
    DEVICE_OBJECT,
    DO_DEVICE_INITIALIZING,
    DRIVER_OBJECT,
    FILE_ANY_ACCESS,
    FILE_DEVICE_UNKNOWN,
    IO_NO_INCREMENT,
    IRP,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    KSPIN_LOCK,
    LIST_ENTRY,
    METHOD_BUFFERED,
    NT_SUCCESS,
    Driver,
    InitializeListHead,
    IoCompleteRequest,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoDeleteDevice,
    IsListEmpty,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    RemoveHeadList,
)

DEVICE = r"\Device\Events"
IOCTL_NEXT_EVENT = CTL_CODE(FILE_DEVICE_UNKNOWN, 0x800, METHOD_BUFFERED, FILE_ANY_ACCESS)


class Events(Driver):
    """Gives out events by a device control."""

    def __init__(self) -> None:
        self.Lock = KSPIN_LOCK("EventLock")
        self.List = LIST_ENTRY()

    def prepare(self) -> None:
        """Make ready what requests use."""
        KeInitializeSpinLock(self.Lock)
        InitializeListHead(self.List)

    async def publish(self, DriverObject: DRIVER_OBJECT) -> int:
        """Let programs open the device."""
        for major in (IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE):
            DriverObject.MajorFunction[major] = self.Succeed
        DriverObject.MajorFunction[IRP_MJ_DEVICE_CONTROL] = self.Control
        status, device = await IoCreateDevice(DriverObject, 0, DEVICE, FILE_DEVICE_UNKNOWN, 0, False)
        if not NT_SUCCESS(status) or device is None:
            return status
        device.Flags &= ~DO_DEVICE_INITIALIZING
        status = await IoCreateSymbolicLink(r"\DosDevices\Events", DEVICE)
        if not NT_SUCCESS(status):
            await IoDeleteDevice(device)
        return status

    async def complete(self, Irp: IRP, status: int) -> int:
        """Complete *Irp* with *status*, which is also what a dispatch routine returns."""
        Irp.IoStatus.Status = status
        Irp.IoStatus.Information = 0
        await IoCompleteRequest(Irp, IO_NO_INCREMENT)
        return status

    async def Succeed(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        return await self.complete(Irp, STATUS_SUCCESS)

    async def Control(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        irql = await KeAcquireSpinLock(self.Lock)
        found = None if IsListEmpty(self.List) else RemoveHeadList(self.List)
        await KeReleaseSpinLock(self.Lock, irql)
        return await self.complete(Irp, STATUS_NO_MORE_ENTRIES if found is None else STATUS_SUCCESS)


class PublishesFirst(Events):
    """Lets programs in, then sets its house in order."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        status = await self.publish(DriverObject)
        self.prepare()
        return status


class PublishesLast(Events):
    """Sets its house in order, then lets programs in."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.prepare()
        return await self.publish(DriverObject)


@scenario(
    variants={"buggy": PublishesFirst, "fixed": PublishesLast},
    expects={"buggy": "ke.uninitialised"},
    explore_setup=True,
)
async def reachable_too_early(world: World, driver: type[Driver]) -> None:
    """A program opens the device while the driver is loaded."""
    app = world.process("app")

    async def load() -> None:
        await world.load(driver)

    async def ask() -> None:
        status, file = await app.create(r"\\.\Events")
        if not NT_SUCCESS(status) or file is None:
            return
        status, _ = await file.control(IOCTL_NEXT_EVENT, b"", 16)
        world.check(status == STATUS_NO_MORE_ENTRIES, f"there is no event, but the request returned {status}")

    await world.together(load(), ask(), process=app)
