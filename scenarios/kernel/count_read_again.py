"""WFP-07: a reference is dropped, and the count is read again to see whether it was the last.

A create and a work item share a record, each with a reference to it. Both decrements are interlocked, but the decision
to free is made from a second look at the count: by then the other owner may have freed the record.
"""

from _creates import WatchesCreates

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_GENERIC_WORKITEM,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    PFLT_INSTANCE,
    FltAllocateGenericWorkItem,
    FltFreeGenericWorkItem,
    FltQueueGenericWorkItem,
)
from kemu.wdk.wdm import (
    LONG,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    DelayedWorkQueue,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    InterlockedDecrement,
    Structure,
    sizeof,
)

RECORD_TAG = "Rord"


class RECORD(Structure):
    """What a create tells the worker."""

    References: LONG
    Options: int


class SharesRecords(WatchesCreates):
    """Hands a record of each create to a work item."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        record: RECORD | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(RECORD), RECORD_TAG)
        if record is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        record.References.value = 2
        item = await FltAllocateGenericWorkItem()
        if item is None:
            await ExFreePoolWithTag(record, RECORD_TAG)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueGenericWorkItem(item, FltObjects.Instance, self.LogWorker, DelayedWorkQueue, record)
        if not NT_SUCCESS(status):
            await FltFreeGenericWorkItem(item)
            await self.dereference(record)
        await self.dereference(record)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def LogWorker(self, WorkItem: FLT_GENERIC_WORKITEM, Instance: PFLT_INSTANCE, Context: RECORD) -> None:
        await FltFreeGenericWorkItem(WorkItem)
        await self.dereference(Context)

    async def dereference(self, record: RECORD) -> None:
        raise NotImplementedError


class ReadsAgain(SharesRecords):
    """Looks at the count once more after it has decremented it."""

    async def dereference(self, record: RECORD) -> None:
        await InterlockedDecrement(record.References)
        if record.References.value == 0:
            await ExFreePoolWithTag(record, RECORD_TAG)


class UsesTheResult(SharesRecords):
    """Frees the record if its own decrement was the last."""

    async def dereference(self, record: RECORD) -> None:
        if await InterlockedDecrement(record.References) == 0:
            await ExFreePoolWithTag(record, RECORD_TAG)


@scenario(
    variants={"buggy": ReadsAgain, "fixed": UsesTheResult},
    expects={"buggy": "ke.use-after-free"},
    completion="inline",
    preempt="access",
)
async def count_read_again(world: World, driver: type[Driver]) -> None:
    """A program opens a file; then the driver is unloaded, which waits for the worker."""
    loaded = await world.load(driver, altitude="328010")
    file = await world.process("app").open(r"\one.txt")
    await file.close()
    await loaded.unload()
