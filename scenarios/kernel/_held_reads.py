"""A driver whose device holds reads in a list under a spin lock; the drivers of several scenarios derive from it.

Programs open it as ``\\\\.\\Held``. What is done with the reads, and how they can be cancelled, is up to each.
"""

from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_INSUFFICIENT_RESOURCES, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DEVICE_OBJECT,
    DRIVER_OBJECT,
    FILE_DEVICE_UNKNOWN,
    IO_NO_INCREMENT,
    IO_WORKITEM,
    IRP,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    KSPIN_LOCK,
    LIST_ENTRY,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    InitializeListHead,
    InsertTailList,
    IoAllocateWorkItem,
    IoCompleteRequest,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoDeleteDevice,
    IoDeleteSymbolicLink,
    IoFreeWorkItem,
    IoMarkIrpPending,
    IoQueueWorkItemEx,
    IoReleaseCancelSpinLock,
    IoSetCancelRoutine,
    IsListEmpty,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    RemoveEntryList,
    RemoveHeadList,
)

DEVICE = r"\Device\Held"
LINK = r"\DosDevices\Held"


class HeldReads(Driver):
    """Holds reads until `next_read` gives them out, or their cancellation completes them."""

    def __init__(self) -> None:
        self.Lock = KSPIN_LOCK("QueueLock")
        self.Queue = LIST_ENTRY()
        self.Device: DEVICE_OBJECT | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        InitializeListHead(self.Queue)
        for major in (IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE):
            DriverObject.MajorFunction[major] = self.Succeed
        DriverObject.MajorFunction[IRP_MJ_READ] = self.Read
        DriverObject.DriverUnload = self.Unload
        status, self.Device = await IoCreateDevice(DriverObject, 0, DEVICE, FILE_DEVICE_UNKNOWN, 0, False)
        if not NT_SUCCESS(status) or self.Device is None:
            return status
        status = await IoCreateSymbolicLink(LINK, DEVICE)
        if not NT_SUCCESS(status):
            await IoDeleteDevice(self.Device)
        return status

    async def Unload(self, DriverObject: DRIVER_OBJECT) -> None:
        _ = await IoDeleteSymbolicLink(LINK)
        assert self.Device is not None
        await IoDeleteDevice(self.Device)

    async def Succeed(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        return await self.complete(Irp, STATUS_SUCCESS)

    async def complete(self, Irp: IRP, status: int) -> int:
        """Complete *Irp* with *status*, which is also what a dispatch routine returns."""
        Irp.IoStatus.Status = status
        Irp.IoStatus.Information = 0
        await IoCompleteRequest(Irp, IO_NO_INCREMENT)
        return status

    async def Read(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        """Hold the read, cancellable, and have a work item look after it."""
        item = await IoAllocateWorkItem(DeviceObject.DriverObject)
        if item is None:
            return await self.complete(Irp, STATUS_INSUFFICIENT_RESOURCES)
        irql = await KeAcquireSpinLock(self.Lock)
        await IoMarkIrpPending(Irp)
        InsertTailList(self.Queue, Irp.Tail.Overlay.ListEntry)
        await IoSetCancelRoutine(Irp, self.CancelRead)
        # A read that was cancelled before will not be cancelled again: it is taken back, unless its cancellation
        # came after the routine was set, and has it.
        mine = Irp.Cancel and await IoSetCancelRoutine(Irp, None) is not None
        if mine:
            RemoveEntryList(Irp.Tail.Overlay.ListEntry)
        await KeReleaseSpinLock(self.Lock, irql)
        if mine:
            await self.complete(Irp, STATUS_CANCELLED)
        await IoQueueWorkItemEx(item, self.Worker, DelayedWorkQueue, None)
        return STATUS_PENDING

    async def CancelRead(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> None:
        """Called with the cancel spin lock held."""
        await IoReleaseCancelSpinLock(Irp.CancelIrql)
        irql = await KeAcquireSpinLock(self.Lock)
        RemoveEntryList(Irp.Tail.Overlay.ListEntry)
        await KeReleaseSpinLock(self.Lock, irql)
        await self.complete(Irp, STATUS_CANCELLED)

    async def next_read(self) -> IRP | None:
        """Take the next read off the list, if there is one that is not being cancelled."""
        irql = await KeAcquireSpinLock(self.Lock)
        Irp: IRP | None = None
        while Irp is None and not IsListEmpty(self.Queue):
            Irp = CONTAINING_RECORD(RemoveHeadList(self.Queue))
            assert Irp is not None
            if await IoSetCancelRoutine(Irp, None) is None:
                # Its cancellation will look for it in a list: in one of its own.
                InitializeListHead(Irp.Tail.Overlay.ListEntry)
                Irp = None
        await KeReleaseSpinLock(self.Lock, irql)
        return Irp

    async def Worker(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        await IoFreeWorkItem(WorkItem)
        Irp = await self.next_read()
        if Irp is not None:
            await self.complete(Irp, STATUS_SUCCESS)
