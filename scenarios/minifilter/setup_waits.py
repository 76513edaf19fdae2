"""MF-55: InstanceSetup waits for a service that needs the volume.

The filter has a service read the policy file of every volume that it is attached to, and InstanceSetup waits for the
answer. On a new volume InstanceSetup is called for its first operation, and whatever else comes to the volume waits
until it has returned: the service's open as well. The policy is asked for with the first ordinary create instead, which
pends nothing and waits for nobody.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CREATE,
    KEVENT,
    NT_SUCCESS,
    Driver,
    KeInitializeEvent,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
)


class PolicyFilter(Driver):
    """Asks a service for the policy of a volume: it sets `Wanted`, and the service sets `Read`."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Wanted = KEVENT("Wanted")
        self.Read = KEVENT("Read")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeEvent(self.Wanted, NotificationEvent, False)
        KeInitializeEvent(self.Read, NotificationEvent, False)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceSetupCallback=self.InstanceSetup,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        return STATUS_SUCCESS

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class WaitsInSetup(PolicyFilter):
    """Has the policy read before the instance is attached."""

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        if FltObjects.Volume.label == "D:":
            await KeSetEvent(self.Wanted)
            await KeWaitForSingleObject(self.Read)
        return STATUS_SUCCESS


class AsksLater(PolicyFilter):
    """Has the policy read when a file is opened, and goes on without it until it is there."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if FltObjects.Volume.label == "D:":
            await KeSetEvent(self.Wanted)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


@scenario(variants={"waits": WaitsInSetup, "lazy": AsksLater}, expects={"waits": "setup-blocking"})
async def setup_waits(world: World, driver: type[PolicyFilter]) -> None:
    """A program opens the first file on a disk that was plugged in."""
    one = driver()
    await world.load(one, altitude="328010")
    volume = world.add_volume("D:")
    world.file(r"\policy.ini", b"scan=all", volume)
    app, service = world.process("app"), world.process("service")

    async def policy_service() -> None:
        await KeWaitForSingleObject(one.Wanted)
        file = await service.open(r"D:\policy.ini")
        await file.close()
        await KeSetEvent(one.Read)

    async def opener() -> None:
        file = await app.open(r"D:\letter.doc")
        await file.close()

    await world.together(policy_service(), opener())
