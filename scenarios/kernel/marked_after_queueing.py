"""KE-02: a read is marked pending after it was put on a queue.

As soon as it is there a worker may complete it, and the I/O manager free it.
"""

from _held_reads import HeldReads

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DEVICE_OBJECT,
    IRP,
    DelayedWorkQueue,
    Driver,
    InsertTailList,
    IoAllocateWorkItem,
    IoMarkIrpPending,
    IoQueueWorkItemEx,
    IsListEmpty,
    KeAcquireSpinLock,
    KeReleaseSpinLock,
    RemoveHeadList,
)


class QueuedReads(HeldReads):
    """Completes reads from a work item, soon enough to do without cancelling them."""

    async def next_read(self) -> IRP | None:
        irql = await KeAcquireSpinLock(self.Lock)
        Irp: IRP | None = None
        if not IsListEmpty(self.Queue):
            Irp = CONTAINING_RECORD(RemoveHeadList(self.Queue))
        await KeReleaseSpinLock(self.Lock, irql)
        return Irp

    async def put(self, Irp: IRP) -> None:
        """Put *Irp* at the end of the queue."""
        irql = await KeAcquireSpinLock(self.Lock)
        InsertTailList(self.Queue, Irp.Tail.Overlay.ListEntry)
        await KeReleaseSpinLock(self.Lock, irql)


class MarksAfterwards(QueuedReads):
    """Marks the read when everything else is done."""

    async def Read(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        item = await IoAllocateWorkItem(DeviceObject.DriverObject)
        if item is None:
            return await self.complete(Irp, STATUS_INSUFFICIENT_RESOURCES)
        await self.put(Irp)
        await IoQueueWorkItemEx(item, self.Worker, DelayedWorkQueue, None)
        await IoMarkIrpPending(Irp)
        return STATUS_PENDING


class MarksFirst(QueuedReads):
    """Marks the read before anybody can see it."""

    async def Read(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        item = await IoAllocateWorkItem(DeviceObject.DriverObject)
        if item is None:
            return await self.complete(Irp, STATUS_INSUFFICIENT_RESOURCES)
        await IoMarkIrpPending(Irp)
        await self.put(Irp)
        await IoQueueWorkItemEx(item, self.Worker, DelayedWorkQueue, None)
        return STATUS_PENDING


@scenario(
    variants={"buggy": MarksAfterwards, "fixed": MarksFirst},
    expects={"buggy": "ke.mark-after-queue"},
)
async def marked_after_queueing(world: World, driver: type[Driver]) -> None:
    """A program reads."""
    await world.load(driver)
    app = world.process("app")

    async def reader() -> None:
        file = await app.open(r"\\.\Held")
        status, _ = await file.read(4)
        world.check(status == STATUS_SUCCESS, f"the read must succeed, but returned {status}")

    await world.together(reader(), process=app)
