"""MF-37: a transaction takes the place of another one in a stream's context, and no reference is taken for that.

A scanner keeps for each stream which transaction writes it, and for each transaction its stream: either pointer has a
reference. The notification of the outcome takes both out. It may come so late that the file has been opened in the next
transaction: then that one is swapped in, and the driver takes a reference for the pointer only where there was no other
transaction before. The notification of the second transaction drops it nevertheless.
"""

from typing import Any

from _transactions import TRANSACTION_CONTEXT, Transactions

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CONTEXT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FltAllocateContext,
    FltEnlistInTransaction,
    FltGetStreamContext,
    FltReferenceContext,
    FltReleaseContext,
    FltSetStreamContext,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    NT_SUCCESS,
    PVOID,
    TRANSACTION_NOTIFY_COMMIT,
    Driver,
    InterlockedCompareExchangePointer,
    InterlockedExchangePointer,
    NonPagedPool,
    Structure,
)

PATH = r"\report.docx"


class WRITER(TRANSACTION_CONTEXT):
    """A transaction, and the stream that it writes."""

    Stream: PVOID


class STREAM(Structure):
    """A stream, and the transaction that writes it."""

    Writer: PVOID


class KnowsWriters(Transactions):
    """Keeps which transaction writes which stream."""

    structure = WRITER
    notifications = TRANSACTION_NOTIFY_COMMIT

    def contexts(self) -> list[FLT_CONTEXT_REGISTRATION]:
        return [*super().contexts(), FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, STREAM, "Strm")]

    def initialise(self, created: Any) -> None:
        super().initialise(created)
        created.Stream.value = None

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        writer = await self.find_or_create(FltObjects)
        if writer is None:
            return
        assert FltObjects.Transaction is not None
        status = await FltEnlistInTransaction(FltObjects.Instance, FltObjects.Transaction, writer, self.notifications)
        stream = await self.stream(FltObjects) if NT_SUCCESS(status) else None
        if stream is not None:
            # Each of the two points to the other.
            await FltReferenceContext(stream)
            writer.Stream.value = stream
            replaced = await InterlockedExchangePointer(stream.Writer, writer)
            await self.swapped_in(writer, replaced)
            if replaced is not None:
                await FltReleaseContext(replaced)
            await FltReleaseContext(stream)
        await FltReleaseContext(writer)

    async def stream(self, FltObjects: FLT_RELATED_OBJECTS) -> STREAM | None:
        """The stream's context with a reference."""
        assert FltObjects.FileObject is not None
        status, stream = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            return stream
        status, stream = await FltAllocateContext(FltObjects.Filter, FLT_STREAM_CONTEXT, STREAM, NonPagedPool)
        if not NT_SUCCESS(status) or stream is None:
            return None
        stream.Writer.value = None
        status, _ = await FltSetStreamContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, stream, None
        )
        if NT_SUCCESS(status):
            return stream
        await FltReleaseContext(stream)
        return None

    async def swapped_in(self, writer: WRITER, replaced: WRITER | None) -> None:
        """The stream points to *writer* from now on."""
        raise NotImplementedError

    async def TransactionNotification(
        self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: WRITER, NotificationMask: int
    ) -> int:
        stream = await InterlockedExchangePointer(TransactionContext.Stream, None)
        if stream is not None:
            if await InterlockedCompareExchangePointer(stream.Writer, None, TransactionContext) is TransactionContext:
                await FltReleaseContext(TransactionContext)
            await FltReleaseContext(stream)
        return STATUS_SUCCESS


class ReferencesTheFirst(KnowsWriters):
    """Takes a reference only where the stream had no transaction before."""

    async def swapped_in(self, writer: WRITER, replaced: WRITER | None) -> None:
        if replaced is None:
            await FltReferenceContext(writer)


class ReferencesEach(KnowsWriters):
    """Takes a reference for whatever the stream points to."""

    async def swapped_in(self, writer: WRITER, replaced: WRITER | None) -> None:
        await FltReferenceContext(writer)


@scenario(
    variants={"buggy": ReferencesTheFirst, "fixed": ReferencesEach},
    expects={"buggy": "ctx-over-release"},
    completion="inline",
)
async def second_writer_unreferenced(world: World, driver: type[Driver]) -> None:
    """A program opens a file in two transactions, one after the other, while the file stays open."""
    world.file(PATH)
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def program() -> None:
        for number in range(2):
            transaction = app.transaction(f"transaction {number}")
            await app.create(PATH, transaction=transaction)
            await transaction.commit()

    await world.together(program(), process=app)
