"""MF-06: InstanceTeardownStart does not complete the operations that the filter has pended.

The filter parks reads until its user-mode part allows them. A detach waits for parked operations, so that
InstanceTeardownStart has to complete them; otherwise neither the detach nor the reader ever ends.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltCompletePendedPreOperation,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_READ,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)


class ReadGate(Driver):
    """Parks reads on a list of its own; `allow` lets them go."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Lock = FAST_MUTEX("GateLock")
        self.Parked: list[FLT_CALLBACK_DATA] = []
        self.Closing = False

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
            InstanceTeardownStartCallback=self.InstanceTeardownStart,
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

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        raise NotImplementedError

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await ExAcquireFastMutex(self.Lock)
        parks = not self.Closing
        if parks:
            self.Parked.append(Data)
        await ExReleaseFastMutex(self.Lock)
        return FLT_PREOP_PENDING if parks else FLT_PREOP_SUCCESS_NO_CALLBACK

    async def allow(self) -> None:
        """What the user-mode part asks for: everything that is parked may go on."""
        await ExAcquireFastMutex(self.Lock)
        parked, self.Parked = self.Parked, []
        await ExReleaseFastMutex(self.Lock)
        for Data in parked:
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


class ForgetsTheParked(ReadGate):
    """Accepts no more reads, but leaves the parked ones where they are."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await ExAcquireFastMutex(self.Lock)
        self.Closing = True
        await ExReleaseFastMutex(self.Lock)


class DrainsTheParked(ReadGate):
    """Accepts no more reads, then completes the parked ones."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await ExAcquireFastMutex(self.Lock)
        self.Closing = True
        await ExReleaseFastMutex(self.Lock)
        await self.allow()


@scenario(variants={"buggy": ForgetsTheParked, "fixed": DrainsTheParked}, expects={"buggy": "teardown-pended-pre"})
async def teardown_without_drain(world: World, driver: type[Driver]) -> None:
    """A program reads while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    gate = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def reader() -> None:
        file = await app.open(r"\data.bin")
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_detach() -> None:
        status = await gate.detach()
        world.check(status == STATUS_SUCCESS, f"the detach must succeed, but returned {status}")

    await world.together(reader(), fltmc_detach(), process=app)
