"""MF-03: the cancel callback and the worker both complete a pended read.

The filter makes pended reads cancellable with FltSetCancelCompletion. Its worker has to take the callback back
before it completes; one that does not may complete an operation that the cancel callback is completing. To ask,
the worker must know that the callback data is still there: a list under a spin lock says so.
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
    FltClearCancelCompletion,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltIsIoCanceled,
    FltQueueDeferredIoWorkItem,
    FltRegisterFilter,
    FltSetCancelCompletion,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_READ,
    KSPIN_LOCK,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    IoAcquireCancelSpinLock,
    IoReleaseCancelSpinLock,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)


class ReadPender(Driver):
    """Pends asynchronous reads, cancellable, and resumes them from a work item."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Lock = KSPIN_LOCK("ParkedLock")
        self.Parked: list[FLT_CALLBACK_DATA] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead),
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

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        irql = await KeAcquireSpinLock(self.Lock)
        self.Parked.append(Data)
        await KeReleaseSpinLock(self.Lock, irql)
        # An operation that is cancelled already would never call the callback: look and set under the cancel lock.
        irql = await IoAcquireCancelSpinLock()
        cancelled = await FltIsIoCanceled(Data)
        if not cancelled:
            _ = await FltSetCancelCompletion(Data, self.ReadCanceled)
        await IoReleaseCancelSpinLock(irql)
        if cancelled:
            await FltFreeDeferredIoWorkItem(item)
            await self.Unpark(Data)
            Data.IoStatus.Status = STATUS_CANCELLED
            return FLT_PREOP_COMPLETE
        status = await FltQueueDeferredIoWorkItem(item, Data, self.ReadWorker, DelayedWorkQueue, None)
        if NT_SUCCESS(status):
            return FLT_PREOP_PENDING
        await FltFreeDeferredIoWorkItem(item)
        return FLT_PREOP_SUCCESS_NO_CALLBACK if await self.Take(Data) else FLT_PREOP_PENDING

    async def Unpark(self, Data: FLT_CALLBACK_DATA) -> None:
        """Forget an operation that is about to be completed."""
        irql = await KeAcquireSpinLock(self.Lock)
        self.Parked = [parked for parked in self.Parked if parked is not Data]
        await KeReleaseSpinLock(self.Lock, irql)

    async def Take(self, Data: FLT_CALLBACK_DATA) -> bool:
        """Take an operation away from its cancellation; false if that has it. Data may be gone unless it is parked."""
        irql = await KeAcquireSpinLock(self.Lock)
        taken = False
        if any(parked is Data for parked in self.Parked):
            taken = await FltClearCancelCompletion(Data) == STATUS_SUCCESS
            if taken:
                self.Parked = [parked for parked in self.Parked if parked is not Data]
        await KeReleaseSpinLock(self.Lock, irql)
        return taken

    async def ReadCanceled(self, Data: FLT_CALLBACK_DATA) -> None:
        await self.Unpark(Data)
        Data.IoStatus.Status = STATUS_CANCELLED
        Data.IoStatus.Information = 0
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

    async def ReadWorker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        raise NotImplementedError


class CompletesUnasked(ReadPender):
    """The worker resumes the read without asking whether it is being cancelled."""

    async def ReadWorker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        await self.Unpark(Data)
        await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


class ClearsFirst(ReadPender):
    """The worker takes the cancel callback back, and walks away if it is too late for that."""

    async def ReadWorker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        if await self.Take(Data):
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


@scenario(
    variants={"buggy": CompletesUnasked, "fixed": ClearsFirst},
    expects={"buggy": "cancel-double-complete"},
)
async def cancel_and_worker_complete(world: World, driver: type[Driver]) -> None:
    """A program starts a read and cancels it at once."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def read_and_cancel() -> None:
        file = await app.open(r"\data.bin", overlapped=True)
        read = await file.begin_read(4)

        async def cancel() -> None:
            await read.cancel()

        canceller = world.start("canceller", cancel(), app)
        status = await read.wait()
        await canceller.join()
        world.check(
            status in {STATUS_SUCCESS, STATUS_CANCELLED},
            f"the read must end or be cancelled, but returned {status}",
        )

    await world.together(read_and_cancel(), process=app)
