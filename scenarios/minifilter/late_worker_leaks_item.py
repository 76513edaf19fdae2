"""MF-10: a work item starts after its instance's state is gone, returns early, and is never freed.

A generic work item keeps the instance, but neither what the driver has for it nor the end of its teardown. The worker
has to expect that there is nothing left to do, and frees its work item on that path as well.
"""

from typing import Any

from _queued_reads import QueuedReads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_GENERIC_WORKITEM,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltCbdqInsertIo,
    FltFreeGenericWorkItem,
    FltQueueGenericWorkItem,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    LONG,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    InterlockedCompareExchange,
    InterlockedExchange,
)


class WorkerReleases(QueuedReads):
    """Holds reads in a cancel-safe queue that a worker empties."""

    def __init__(self) -> None:
        super().__init__()
        self.Alive = LONG(1, "Alive")

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await super().InstanceTeardownStart(FltObjects, Reason)
        await InterlockedExchange(self.Alive, 0)

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        # The operation may be complete, and FltObjects gone, when the insertion returns.
        instance = FltObjects.Instance
        item = await FltAllocateGenericWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltCbdqInsertIo(self.Cbdq, Data, None, None)
        if not NT_SUCCESS(status):
            await FltFreeGenericWorkItem(item)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueGenericWorkItem(item, instance, self.Worker, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeGenericWorkItem(item)
            await self.release()
        return FLT_PREOP_PENDING

    async def is_alive(self) -> bool:
        """Whether there is still something to do."""
        return bool(await InterlockedCompareExchange(self.Alive, 1, 1))

    async def Worker(self, WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
        raise NotImplementedError


class ReturnsEarly(WorkerReleases):
    """Has nothing to do after the teardown, and forgets the work item."""

    async def Worker(self, WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
        if not await self.is_alive():
            return
        await self.release()
        await FltFreeGenericWorkItem(WorkItem)


class FreesAlways(WorkerReleases):
    """Frees the work item first."""

    async def Worker(self, WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
        await FltFreeGenericWorkItem(WorkItem)
        if await self.is_alive():
            await self.release()


@scenario(
    variants={"buggy": ReturnsEarly, "fixed": FreesAlways}, expects={"buggy": "workitem-leak"}, completion="inline"
)
async def late_worker_leaks_item(world: World, driver: type[Driver]) -> None:
    """A program reads while an administrator unloads the filter."""
    world.file(r"\data.bin", b"0123456789")
    queued = await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_unload() -> None:
        status = await queued.unload()
        world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")

    await world.together(reader(), fltmc_unload(), process=app)
