"""MF-26: a post-read callback hands the completion to a worker, then takes an error path and finishes it itself.

Whatever can fail must come before the queueing: after it the operation is the worker's, and the callback has one thing
left to do, to return FLT_POSTOP_MORE_PROCESSING_REQUIRED.
"""

from typing import Any

from _reads import Reads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    FltAllocateDeferredIoWorkItem,
    FltCompletePendedPostOperation,
    FltFreeDeferredIoWorkItem,
    FltQueueDeferredIoWorkItem,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    LONG,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    InterlockedDecrement,
    InterlockedIncrement,
)


class Inspector(Reads):
    """Looks at what was read in a worker, and has room for two results."""

    Room = 1

    def __init__(self) -> None:
        super().__init__()
        self.Waiting = LONG(0, "Waiting")

    async def post(self, Data: FLT_CALLBACK_DATA) -> bool:
        """Hand the completion to a worker; whether that was possible."""
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return False
        status = await FltQueueDeferredIoWorkItem(item, Data, self.Inspect, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeDeferredIoWorkItem(item)
        return NT_SUCCESS(status)

    async def Inspect(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        await InterlockedDecrement(self.Waiting)
        await FltCompletePendedPostOperation(Data)


class LooksForRoomAfterwards(Inspector):
    """Queues first; with two reads waiting it lets the second one pass, although its worker is on the way."""

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if Flags & FLTFL_POST_OPERATION_DRAINING or not await self.post(Data):
            return FLT_POSTOP_FINISHED_PROCESSING
        if await InterlockedIncrement(self.Waiting) > self.Room:
            return FLT_POSTOP_FINISHED_PROCESSING
        return FLT_POSTOP_MORE_PROCESSING_REQUIRED


class LooksForRoomBefore(Inspector):
    """Makes the queueing the last thing that may fail."""

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if Flags & FLTFL_POST_OPERATION_DRAINING:
            return FLT_POSTOP_FINISHED_PROCESSING
        if await InterlockedIncrement(self.Waiting) > self.Room or not await self.post(Data):
            await InterlockedDecrement(self.Waiting)
            return FLT_POSTOP_FINISHED_PROCESSING
        return FLT_POSTOP_MORE_PROCESSING_REQUIRED


@scenario(
    variants={"buggy": LooksForRoomAfterwards, "fixed": LooksForRoomBefore},
    expects={"buggy": "pend-not-returned"},
    completion="inline",
)
async def post_read_finished_after_queueing(world: World, driver: type[Driver]) -> None:
    """Two threads read an open file."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    await world.together(reader(), reader(), process=app)
