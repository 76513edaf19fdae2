"""MF-12: a worker takes operations off the list itself, beside the cancel-safe queue.

The list belongs to the queue: removing an entry also takes it out of reach of its cancellation. A worker that
unlinks an entry by hand leaves it armed, so that a cancellation unlinks and completes it a second time. kemu
reports the direct access when the operation is completed, and the corrupted list where the cancellation is first.
"""

from _queued_reads import QueuedReads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_GENERIC_WORKITEM,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    PFLT_INSTANCE,
    FltAllocateGenericWorkItem,
    FltCbdqInsertIo,
    FltCompletePendedPreOperation,
    FltFreeGenericWorkItem,
    FltQueueGenericWorkItem,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    ExAcquireFastMutex,
    ExReleaseFastMutex,
    IsListEmpty,
    RemoveHeadList,
)


class QueueWithWorker(QueuedReads):
    """Queues reads and has a work item release them."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        instance = FltObjects.Instance
        item = await FltAllocateGenericWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltCbdqInsertIo(self.Cbdq, Data, None, None)
        if not NT_SUCCESS(status):
            await FltFreeGenericWorkItem(item)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueGenericWorkItem(item, instance, self.ReleaseWorker, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeGenericWorkItem(item)
            await self.release()
        return FLT_PREOP_PENDING

    async def ReleaseWorker(self, WorkItem: FLT_GENERIC_WORKITEM, Instance: PFLT_INSTANCE, Context: object) -> None:
        await FltFreeGenericWorkItem(WorkItem)
        await self.release()


class UnlinksByHand(QueueWithWorker):
    """Takes the first entry off the list under the queue's lock, but not through the queue."""

    async def release(self) -> None:
        while True:
            await ExAcquireFastMutex(self.Lock)
            entry = None if IsListEmpty(self.ListHead) else RemoveHeadList(self.ListHead)
            await ExReleaseFastMutex(self.Lock)
            if entry is None:
                return
            await FltCompletePendedPreOperation(CONTAINING_RECORD(entry), FLT_PREOP_SUCCESS_NO_CALLBACK, None)


class RemovesThroughTheQueue(QueueWithWorker):
    """Uses FltCbdqRemoveNextIo, and takes NULL for "the cancellation has it"."""


@scenario(
    variants={"buggy": UnlinksByHand, "fixed": RemovesThroughTheQueue},
    expects={"buggy": "cbdq-direct-access"},
)
async def list_beside_queue(world: World, driver: type[Driver]) -> None:
    """A program starts a read and cancels it at once."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def read_and_cancel() -> None:
        file = await app.open(r"\data.bin", overlapped=True)
        read = await file.begin_read(4)
        await read.cancel()
        status = await read.wait()
        world.check(
            status in {STATUS_SUCCESS, STATUS_CANCELLED},
            f"the read must end or be cancelled, but returned {status}",
        )

    await world.together(read_and_cancel(), process=app)
