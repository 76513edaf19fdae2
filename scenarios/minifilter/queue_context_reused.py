"""MF-11: a pre-read writes to the queue entry's context after it has inserted the operation.

The cancellation may come while FltCbdqInsertIo is still running. It completes the operation and frees the context,
and the pre-read then writes a time stamp into freed memory.
"""

from _queued_reads import QueuedReads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CALLBACK_DATA_QUEUE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCbdqInsertIo,
    FltCbdqRemoveNextIo,
    FltCompletePendedPreOperation,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    Structure,
    sizeof,
)

QUEUE_TAG = "qRdQ"


class QUEUE_CONTEXT(Structure):
    """What the filter remembers about each read in its queue."""

    Length: int
    Waiting: int


class ContextPerRead(QueuedReads):
    """Allocates a context for each queued read; whoever takes a read out of the queue frees it."""

    async def NewContext(self) -> QUEUE_CONTEXT | None:
        return await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(QUEUE_CONTEXT), QUEUE_TAG)

    async def release(self) -> None:
        while (Data := await FltCbdqRemoveNextIo(self.Cbdq, None)) is not None:
            await ExFreePoolWithTag(Data.QueueContext, QUEUE_TAG)
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

    async def CompleteCanceledIo(self, Cbdq: FLT_CALLBACK_DATA_QUEUE, Data: FLT_CALLBACK_DATA) -> None:
        await ExFreePoolWithTag(Data.QueueContext, QUEUE_TAG)
        await super().CompleteCanceledIo(Cbdq, Data)


class WritesAfterInsert(ContextPerRead):
    """Marks the context as waiting after the insert."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        context = await self.NewContext()
        if context is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        context.Length = Data.Iopb.Parameters.Length
        Data.QueueContext = context
        status = await FltCbdqInsertIo(self.Cbdq, Data, None, None)
        if not NT_SUCCESS(status):
            await ExFreePoolWithTag(context, QUEUE_TAG)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        context.Waiting = 1
        return FLT_PREOP_PENDING


class WritesBeforeInsert(ContextPerRead):
    """Fills the context completely, then inserts and leaves it alone."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        context = await self.NewContext()
        if context is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        context.Length = Data.Iopb.Parameters.Length
        context.Waiting = 1
        Data.QueueContext = context
        status = await FltCbdqInsertIo(self.Cbdq, Data, None, None)
        if not NT_SUCCESS(status):
            await ExFreePoolWithTag(context, QUEUE_TAG)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return FLT_PREOP_PENDING


@scenario(
    variants={"buggy": WritesAfterInsert, "fixed": WritesBeforeInsert},
    expects={"buggy": "ke.use-after-free"},
)
async def queue_context_reused(world: World, driver: type[Driver]) -> None:
    """A program starts a read and cancels it at once; the filter is detached at the end."""
    world.file(r"\data.bin", b"0123456789")
    queued = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def read_and_cancel() -> None:
        file = await app.open(r"\data.bin", overlapped=True)
        canceller = world.start("canceller", file.cancel_all(), app)
        read = await file.begin_read(4)
        await canceller.join()
        await read.cancel()
        status = await read.wait()
        world.check(status == STATUS_CANCELLED, f"the read must be cancelled, but returned {status}")

    await world.together(read_and_cancel(), process=app)
    status = await queued.detach()
    world.check(status == STATUS_SUCCESS, f"the detach must succeed, but returned {status}")
