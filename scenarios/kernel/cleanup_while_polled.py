"""KE-05: cleanup and close are over while the poller is still busy with a read of that file.

The driver keeps a context for each open file, and a cancel-safe queue of reads. Cleaning up empties the queue, but not
the poller's hands. The I/O manager holds the close back until the poller has completed its read, and no longer: then
the context may go at any time. Whoever holds a request has to hold what keeps its context alive.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_INSUFFICIENT_RESOURCES, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DEVICE_OBJECT,
    DRIVER_OBJECT,
    FILE_DEVICE_UNKNOWN,
    IO_CSQ,
    IO_NO_INCREMENT,
    IO_WORKITEM,
    IRP,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    KEVENT,
    KSPIN_LOCK,
    LIST_ENTRY,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    DelayedWorkQueue,
    Driver,
    ExAllocatePool2,
    Executive,
    ExFreePoolWithTag,
    InitializeListHead,
    InsertTailList,
    IoAllocateWorkItem,
    IoCompleteRequest,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoCsqInitialize,
    IoCsqInsertIrp,
    IoCsqRemoveNextIrp,
    IoDeleteDevice,
    IoFreeWorkItem,
    IoGetCurrentIrpStackLocation,
    IoQueueWorkItemEx,
    KeAcquireSpinLock,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    RemoveEntryList,
    Structure,
    sizeof,
)

DEVICE = r"\Device\Polled"
TAG = "Poll"


class FILE_CONTEXT(Structure):
    References: int
    Served: int
    Idle: KEVENT


class Polled(Driver):
    """Reads wait in a queue until a work item polls the hardware for them."""

    def __init__(self) -> None:
        self.Lock = KSPIN_LOCK("QueueLock")
        self.Reads = LIST_ENTRY()
        self.Csq = IO_CSQ("ReadQueue")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        InitializeListHead(self.Reads)
        status = IoCsqInitialize(
            self.Csq, self.Insert, self.Remove, self.Peek, self.Acquire, self.Release, self.CompleteCanceled
        )
        if not NT_SUCCESS(status):
            return status
        DriverObject.MajorFunction[IRP_MJ_CREATE] = self.Create
        DriverObject.MajorFunction[IRP_MJ_CLEANUP] = self.Cleanup
        DriverObject.MajorFunction[IRP_MJ_CLOSE] = self.Close
        DriverObject.MajorFunction[IRP_MJ_READ] = self.Read
        status, device = await IoCreateDevice(DriverObject, 0, DEVICE, FILE_DEVICE_UNKNOWN, 0, False)
        if not NT_SUCCESS(status) or device is None:
            return status
        status = await IoCreateSymbolicLink(r"\DosDevices\Polled", DEVICE)
        if not NT_SUCCESS(status):
            await IoDeleteDevice(device)
        return status

    async def complete(self, Irp: IRP, status: int) -> int:
        """Complete *Irp* with *status*, which is also what a dispatch routine returns."""
        Irp.IoStatus.Status = status
        Irp.IoStatus.Information = 0
        await IoCompleteRequest(Irp, IO_NO_INCREMENT)
        return status

    # Contexts.

    def context_of(self, Irp: IRP) -> FILE_CONTEXT:
        """The context of the file that *Irp* is for."""
        file = IoGetCurrentIrpStackLocation(Irp).FileObject
        assert file is not None
        return file.FsContext

    async def hold(self, Context: FILE_CONTEXT) -> None:
        """Take a reference."""
        irql = await KeAcquireSpinLock(self.Lock)
        Context.References += 1
        await KeReleaseSpinLock(self.Lock, irql)

    async def drop(self, Context: FILE_CONTEXT) -> None:
        """Give a reference back; the last one lets a close go on."""
        irql = await KeAcquireSpinLock(self.Lock)
        Context.References -= 1
        if Context.References == 0:
            await KeSetEvent(Context.Idle, 0, False)
        await KeReleaseSpinLock(self.Lock, irql)

    async def Create(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        context: FILE_CONTEXT | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(FILE_CONTEXT), TAG)
        file = IoGetCurrentIrpStackLocation(Irp).FileObject
        if context is None or file is None:
            return await self.complete(Irp, STATUS_INSUFFICIENT_RESOURCES)
        context.References = 1
        KeInitializeEvent(context.Idle, NotificationEvent, False)
        file.FsContext = context
        return await self.complete(Irp, STATUS_SUCCESS)

    async def Close(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        context = self.context_of(Irp)
        await self.drop(context)
        _ = await KeWaitForSingleObject(context.Idle, Executive, KernelMode, False, None)
        await ExFreePoolWithTag(context, TAG)
        return await self.complete(Irp, STATUS_SUCCESS)

    async def Cleanup(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        while (read := await IoCsqRemoveNextIrp(self.Csq, None)) is not None:
            await self.give_back(read, STATUS_CANCELLED)
        return await self.complete(Irp, STATUS_SUCCESS)

    # Reads.

    async def Read(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        item = await IoAllocateWorkItem(DeviceObject.DriverObject)
        if item is None:
            return await self.complete(Irp, STATUS_INSUFFICIENT_RESOURCES)
        context = self.context_of(Irp)
        await self.hold(context)
        await IoCsqInsertIrp(self.Csq, Irp, None)
        await self.queued(context)
        await IoQueueWorkItemEx(item, self.Poll, DelayedWorkQueue, None)
        return STATUS_PENDING

    async def Poll(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        await IoFreeWorkItem(WorkItem)
        read = await IoCsqRemoveNextIrp(self.Csq, None)
        if read is not None:
            await self.give_back(read, STATUS_SUCCESS)

    async def queued(self, Context: FILE_CONTEXT) -> None:
        """A read of *Context* is in the queue."""
        raise NotImplementedError

    async def give_back(self, Irp: IRP, status: int) -> None:
        """Complete a read that was taken out of the queue."""
        raise NotImplementedError

    # The queue's routines.

    async def Insert(self, Csq: IO_CSQ, Irp: IRP) -> None:
        InsertTailList(self.Reads, Irp.Tail.Overlay.ListEntry)

    async def Remove(self, Csq: IO_CSQ, Irp: IRP) -> None:
        RemoveEntryList(Irp.Tail.Overlay.ListEntry)

    async def Peek(self, Csq: IO_CSQ, Irp: IRP | None, PeekContext: object) -> IRP | None:
        following = self.Reads.Flink if Irp is None else Irp.Tail.Overlay.ListEntry.Flink
        return None if following is None or following is self.Reads else CONTAINING_RECORD(following)

    async def Acquire(self, Csq: IO_CSQ) -> int:
        return await KeAcquireSpinLock(self.Lock)

    async def Release(self, Csq: IO_CSQ, Irql: int) -> None:
        await KeReleaseSpinLock(self.Lock, Irql)

    async def CompleteCanceled(self, Csq: IO_CSQ, Irp: IRP) -> None:
        await self.give_back(Irp, STATUS_CANCELLED)


class HoldsWhileDispatching(Polled):
    """The reference is for the dispatch routine; reads in the queue have none."""

    async def queued(self, Context: FILE_CONTEXT) -> None:
        await self.drop(Context)

    async def give_back(self, Irp: IRP, status: int) -> None:
        context = self.context_of(Irp)
        await self.complete(Irp, status)
        context.Served += 1


class HoldsForEachRead(Polled):
    """The reference belongs to the read, until whoever has completed it is done with the context."""

    async def queued(self, Context: FILE_CONTEXT) -> None:
        pass

    async def give_back(self, Irp: IRP, status: int) -> None:
        context = self.context_of(Irp)
        await self.complete(Irp, status)
        context.Served += 1
        await self.drop(context)


@scenario(
    variants={"buggy": HoldsWhileDispatching, "fixed": HoldsForEachRead},
    expects={"buggy": "ke.use-after-free"},
)
async def cleanup_while_polled(world: World, driver: type[Driver]) -> None:
    """A program reads and closes the file."""
    await world.load(driver)
    app = world.process("app")

    async def read_and_close() -> None:
        file = await app.open(r"\\.\Polled")
        status, _ = await file.read(4)
        world.check(status == STATUS_SUCCESS, f"the read must succeed, but returned {status}")
        await file.close()

    await world.together(read_and_close(), process=app)
