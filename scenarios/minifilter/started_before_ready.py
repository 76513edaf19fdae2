"""MF-56: callbacks arrive before DriverEntry has made what they use.

The driver starts to filter and creates its table of opened files then. FltStartFiltering does not wait for DriverEntry:
programs that open files meanwhile come into the pre-create callback, which has no table yet.
"""

from typing import Any

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
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CREATE,
    LONG,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    InterlockedIncrement,
    Structure,
    sizeof,
)

TAG = "Opns"


class TABLE(Structure):
    """What the driver counts."""

    Opened: LONG


class OpenCounter(Driver):
    """Counts creates."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Table: TABLE | None = None

    async def Register(self, DriverObject: DRIVER_OBJECT) -> int:
        """Register and start to filter."""
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
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
        await ExFreePoolWithTag(self.Table, TAG)
        return STATUS_SUCCESS

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        # A crash where there is no table yet, as in C.
        table: Any = self.Table
        await InterlockedIncrement(table.Opened)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class StartsFirst(OpenCounter):
    """Starts, and makes the table then."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        status = await self.Register(DriverObject)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        self.Table = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(TABLE), TAG)
        if self.Table is None:
            await FltUnregisterFilter(self.Filter)
            return STATUS_INSUFFICIENT_RESOURCES
        return status


class StartsLast(OpenCounter):
    """Makes the table, and starts last of all."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.Table = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(TABLE), TAG)
        if self.Table is None:
            return STATUS_INSUFFICIENT_RESOURCES
        status = await self.Register(DriverObject)
        if not NT_SUCCESS(status):
            await ExFreePoolWithTag(self.Table, TAG)
        return status


@scenario(
    variants={"buggy": StartsFirst, "fixed": StartsLast},
    expects={"buggy": "start-before-init"},
    explore_setup=True,
)
async def started_before_ready(world: World, driver: type[Driver]) -> None:
    """A program opens a file while the driver is loaded."""
    app = world.process("app")

    async def load() -> None:
        await world.load(driver, altitude="328010")

    async def opener() -> None:
        await app.open(r"\letter.doc")

    await world.together(load(), opener(), process=app)
