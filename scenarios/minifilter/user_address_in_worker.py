"""MF-14: a worker uses the address of a program's buffer.

The filter wants to look at what is written, and defers that to a work item. The buffer of a write is an address in the
program's process; the worker runs in the System process, where it leads nowhere, or to something else. Locking the
buffer first gives the operation an MDL, whose pages can be mapped in any process.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltAllocateDeferredIoWorkItem,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltLockUserBuffer,
    FltQueueDeferredIoWorkItem,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    MmGetSystemAddressForMdlSafe,
    NormalPagePriority,
    ProbeForRead,
)


class Inspector(Driver):
    """Looks at the first byte of each write, in a work item if it can."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Texts = 0

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
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

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueDeferredIoWorkItem(item, Data, self.Worker, DelayedWorkQueue, None)
        if NT_SUCCESS(status):
            return FLT_PREOP_PENDING
        # The instance is going away: look here and now.
        await FltFreeDeferredIoWorkItem(item)
        try:
            ProbeForRead(Data.Iopb.Parameters.Write.WriteBuffer, 1, 1)
            await self.Inspect(Data.Iopb.Parameters.Write.WriteBuffer)
        except StructuredException as error:
            Data.IoStatus.Status = error.ExceptionCode
            Data.IoStatus.Information = 0
            return FLT_PREOP_COMPLETE
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def Worker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        status = await self.Look(Data)
        if NT_SUCCESS(status):
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
            return
        Data.IoStatus.Status = status
        Data.IoStatus.Information = 0
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

    async def Look(self, Data: FLT_CALLBACK_DATA) -> int:
        """Inspect what is written, in the worker."""
        raise NotImplementedError

    async def Inspect(self, buffer: bytes | bytearray) -> None:
        """Count what looks like text."""
        if buffer[0] >= ord(" "):
            self.Texts += 1


class UsesTheAddress(Inspector):
    """Takes the address as it is."""

    async def Look(self, Data: FLT_CALLBACK_DATA) -> int:
        try:
            ProbeForRead(Data.Iopb.Parameters.Write.WriteBuffer, 1, 1)
            await self.Inspect(Data.Iopb.Parameters.Write.WriteBuffer)
        except StructuredException as error:
            return error.ExceptionCode
        return STATUS_SUCCESS


class LocksTheBuffer(Inspector):
    """Locks the buffer, and maps its pages."""

    async def Look(self, Data: FLT_CALLBACK_DATA) -> int:
        status = await FltLockUserBuffer(Data)
        if not NT_SUCCESS(status):
            return status
        buffer = MmGetSystemAddressForMdlSafe(Data.Iopb.Parameters.Write.MdlAddress, NormalPagePriority)
        if buffer is None:
            return STATUS_INSUFFICIENT_RESOURCES
        await self.Inspect(buffer)
        return STATUS_SUCCESS


@scenario(
    variants={"buggy": UsesTheAddress, "fixed": LocksTheBuffer},
    expects={"buggy": "ke.user-va-context"},
    completion="inline",
)
async def user_address_in_worker(world: World, driver: type[Driver]) -> None:
    """A program writes while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    app = world.process("app")
    file = await app.open(r"\data.bin")
    inspector = await world.load(driver, altitude="328010")

    async def writer() -> None:
        status, written = await file.write(app.memory(b"abcd"))
        world.check(status == STATUS_SUCCESS and written == 4, f"the write must succeed, but returned {status}")

    async def fltmc_detach() -> None:
        await inspector.detach()

    await world.together(writer(), fltmc_detach(), process=app)
