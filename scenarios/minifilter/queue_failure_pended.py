"""MF-05: queueing fails because a teardown has begun, and the callback returns FLT_PREOP_PENDING all the same.

FltQueueDeferredIoWorkItem refuses operations of an instance that is being torn down. Pending may be returned only
if somebody will complete the operation.
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


class CreatePender(Driver):
    """Pends every create and resumes it from a work item; can be detached."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate),
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

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        raise NotImplementedError

    async def ScanWorker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


class PendsAnyway(CreatePender):
    """Does not look at what FltQueueDeferredIoWorkItem returned."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        _ = await FltQueueDeferredIoWorkItem(item, Data, self.ScanWorker, DelayedWorkQueue, None)
        return FLT_PREOP_PENDING


class PassesOnFailure(CreatePender):
    """Frees the work item and lets the operation pass if it cannot be queued."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueDeferredIoWorkItem(item, Data, self.ScanWorker, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeDeferredIoWorkItem(item)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return FLT_PREOP_PENDING


@scenario(variants={"buggy": PendsAnyway, "fixed": PassesOnFailure}, expects={"buggy": "pend-orphan"})
async def queue_failure_pended(world: World, driver: type[Driver]) -> None:
    """A program opens a file while an administrator detaches the filter."""
    pender = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def open_and_close() -> None:
        file = await app.open(r"\report.docx")
        await file.close()

    async def fltmc_detach() -> None:
        status = await pender.detach()
        world.check(status == STATUS_SUCCESS, f"the detach must succeed, but returned {status}")

    await world.together(open_and_close(), fltmc_detach(), process=app)
