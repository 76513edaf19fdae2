"""MF-01: a pre-create callback looks at the callback data after it has queued the operation.

The scanner pends creates and lets a work item decide. It counts what it has posted by reading the callback data,
after the queueing call: by then the worker may have completed the operation, and the callback data is gone.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltAllocateDeferredIoWorkItem,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltQueueDeferredIoWorkItem,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import DRIVER_OBJECT, IRP_MJ_CREATE, NT_SUCCESS, DelayedWorkQueue, Driver


class Scanner(Driver):
    """Pends every create and resumes it from a work item."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Posted: list[int] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
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
        return STATUS_SUCCESS

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        raise NotImplementedError

    async def ScanWorker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


class TouchesAfterHandOff(Scanner):
    """Reads ``Data->Iopb`` after the operation has become the worker's."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueDeferredIoWorkItem(item, Data, self.ScanWorker, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeDeferredIoWorkItem(item)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        self.Posted.append(Data.Iopb.MajorFunction)
        return FLT_PREOP_PENDING


class CopiesBefore(Scanner):
    """Notes what it needs before it gives the operation away."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        major = Data.Iopb.MajorFunction
        status = await FltQueueDeferredIoWorkItem(item, Data, self.ScanWorker, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeDeferredIoWorkItem(item)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        self.Posted.append(major)
        return FLT_PREOP_PENDING


@scenario(
    variants={"buggy": TouchesAfterHandOff, "fixed": CopiesBefore},
    expects={"buggy": "cbd-use-after-release"},
)
async def touch_after_hand_off(world: World, driver: type[Driver]) -> None:
    """One program opens a file while a scanner pends the create."""
    scanner = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def open_and_close() -> None:
        file = await app.open(r"\report.docx")
        await file.close()

    await world.together(open_and_close(), process=app)
    status = await scanner.unload()
    world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")
