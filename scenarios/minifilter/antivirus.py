"""A scanner that looks at what is opened and what is closed, as the sample avscan does.

Each stream has a verdict, in its context. What has changed since is scanned by whoever opens the stream, or closes it,
through a section that the filter manager keeps out of the way of others; who comes meanwhile waits for the verdict. A
verdict is stored only if no write has come between. Whatever becomes of a transaction, it changes the file at a stroke:
its streams are looked at anew.
"""

from typing import Any

from _transactions import TRANSACTION_CONTEXT, Transactions

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SECTION_CONTEXT,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO,
    FLTFL_POST_OPERATION_DRAINING,
    PFLT_INSTANCE,
    FltAllocateContext,
    FltCancelFileOpen,
    FltCloseSectionForDataScan,
    FltCreateSectionForDataScan,
    FltEnlistInTransaction,
    FltGetStreamContext,
    FltReferenceContext,
    FltRegisterForDataScan,
    FltReleaseContext,
    FltSetStreamContext,
)
from kemu.wdk.ntifs import MmMapViewInSystemSpace, MmUnmapViewInSystemSpace
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_END_OF_FILE,
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_WRITE,
    KEVENT,
    LONG,
    NT_SUCCESS,
    PVOID,
    TRANSACTION_NOTIFY_COMMIT,
    TRANSACTION_NOTIFY_ROLLBACK,
    Driver,
    InterlockedCompareExchange,
    InterlockedExchange,
    InterlockedExchangePointer,
    KeInitializeEvent,
    KeSetEvent,
    KeWaitForSingleObject,
    NonPagedPool,
    ReadAcquire,
    Structure,
    SynchronizationEvent,
)

PATH = r"\payload.exe"
VIRUS = b"virus"
PAGE_READONLY = 0x02
SECTION_MAP_READ = 0x04

MODIFIED = 0
SCANNING = 1
CLEAN = 2
INFECTED = 3


class STREAM(Structure):
    """A stream: what is known of it, and whose turn it is to find out."""

    State: LONG
    Turn: KEVENT


class SECTION(Structure):
    """A scan that goes on."""

    Abort: LONG


class WRITER(TRANSACTION_CONTEXT):
    """A transaction, and the stream that was opened in it."""

    Stream: PVOID


class Antivirus(Transactions):
    """Lets nobody open what is infected."""

    structure = WRITER
    notifications = TRANSACTION_NOTIFY_COMMIT | TRANSACTION_NOTIFY_ROLLBACK

    def contexts(self) -> list[FLT_CONTEXT_REGISTRATION]:
        return [
            *super().contexts(),
            FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, STREAM, "Strm"),
            FLT_CONTEXT_REGISTRATION(FLT_SECTION_CONTEXT, 0, None, SECTION, "Sect"),
        ]

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [
            FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate),
            # What the cache writes back was there before, for whoever maps the file.
            FLT_OPERATION_REGISTRATION(
                IRP_MJ_WRITE, FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO, self.PreWrite, self.PostWrite
            ),
            FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup),
        ]

    def registration(self) -> FLT_REGISTRATION:
        registration = super().registration()
        registration.InstanceSetupCallback = self.InstanceSetup
        registration.SectionNotificationCallback = self.SectionNotification
        return registration

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        return await FltRegisterForDataScan(FltObjects.Instance)

    async def SectionNotification(
        self, Instance: PFLT_INSTANCE, SectionContext: SECTION, Data: FLT_CALLBACK_DATA
    ) -> int:
        # The operation waits until the scan has closed its section.
        await InterlockedExchange(SectionContext.Abort, 1)
        return STATUS_SUCCESS

    # The operations.

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if Flags & FLTFL_POST_OPERATION_DRAINING or not NT_SUCCESS(Data.IoStatus.Status):
            return FLT_POSTOP_FINISHED_PROCESSING
        file = FltObjects.FileObject
        stream = await self.stream(FltObjects)
        if stream is None or file is None:
            return FLT_POSTOP_FINISHED_PROCESSING
        if FltObjects.Transaction is not None:
            await self.enlist(FltObjects, stream)
        if await self.verdict(FltObjects, stream) == INFECTED:
            await FltCancelFileOpen(FltObjects.Instance, file)
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            Data.IoStatus.Information = 0
        await FltReleaseContext(stream)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        assert FltObjects.FileObject is not None
        status, stream = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if not NT_SUCCESS(status):
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        await InterlockedExchange(stream.State, MODIFIED)
        return FLT_PREOP_SUCCESS_WITH_CALLBACK, stream

    async def PostWrite(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: STREAM, Flags: int
    ) -> int:
        # A scan that has begun meanwhile may have seen what was there before.
        await InterlockedExchange(CompletionContext.State, MODIFIED)
        await FltReleaseContext(CompletionContext)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, stream = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            await self.verdict(FltObjects, stream)
            await FltReleaseContext(stream)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    # Verdicts.

    async def stream(self, FltObjects: FLT_RELATED_OBJECTS) -> STREAM | None:
        """The stream's context with a reference."""
        assert FltObjects.FileObject is not None
        status, found = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            return found
        status, created = await FltAllocateContext(FltObjects.Filter, FLT_STREAM_CONTEXT, STREAM, NonPagedPool)
        if not NT_SUCCESS(status) or created is None:
            return None
        created.State.value = MODIFIED
        KeInitializeEvent(created.Turn, SynchronizationEvent, True)
        status, winner = await FltSetStreamContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, created, True
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        return winner if status == STATUS_FLT_CONTEXT_ALREADY_DEFINED else None

    async def verdict(self, FltObjects: FLT_RELATED_OBJECTS, stream: STREAM) -> int:
        """What the stream is; one thread at a time finds out."""
        await KeWaitForSingleObject(stream.Turn)
        found = await InterlockedCompareExchange(stream.State, SCANNING, MODIFIED)
        if found == MODIFIED:
            found = await self.scan(FltObjects)
            # Others go by it if nothing has changed meanwhile; who has scanned does in any case.
            await InterlockedCompareExchange(stream.State, found, SCANNING)
        await KeSetEvent(stream.Turn)
        return found

    async def scan(self, FltObjects: FLT_RELATED_OBJECTS) -> int:
        """Look at the file through a section; MODIFIED if that is not possible, or was in the way."""
        assert FltObjects.FileObject is not None
        status, context = await FltAllocateContext(FltObjects.Filter, FLT_SECTION_CONTEXT, SECTION, NonPagedPool)
        if not NT_SUCCESS(status) or context is None:
            return MODIFIED
        context.Abort.value = 0
        status, _, section, _ = await FltCreateSectionForDataScan(
            FltObjects.Instance, FltObjects.FileObject, context, SECTION_MAP_READ, None, None, PAGE_READONLY, 0, 0
        )
        found = CLEAN if status == STATUS_END_OF_FILE else MODIFIED
        if NT_SUCCESS(status) and section is not None:
            status, view = await MmMapViewInSystemSpace(section, 0)
            if NT_SUCCESS(status) and view is not None:
                if not await ReadAcquire(context.Abort):
                    _, data = await view.read(0, len(VIRUS))
                    found = INFECTED if data == VIRUS else CLEAN
                _ = await MmUnmapViewInSystemSpace(view)
            _ = await FltCloseSectionForDataScan(context)
        await FltReleaseContext(context)
        return found

    # Transactions.

    def initialise(self, created: Any) -> None:
        super().initialise(created)
        created.Stream.value = None

    async def enlist(self, FltObjects: FLT_RELATED_OBJECTS, stream: STREAM) -> None:
        """Have the stream looked at anew when the transaction has ended."""
        assert FltObjects.Transaction is not None
        writer = await self.find_or_create(FltObjects)
        if writer is None:
            return
        status = await FltEnlistInTransaction(FltObjects.Instance, FltObjects.Transaction, writer, self.notifications)
        if NT_SUCCESS(status):
            await FltReferenceContext(stream)
            writer.Stream.value = stream
        await FltReleaseContext(writer)

    async def TransactionNotification(
        self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: WRITER, NotificationMask: int
    ) -> int:
        stream = await InterlockedExchangePointer(TransactionContext.Stream, None)
        if stream is not None:
            await InterlockedExchange(stream.State, MODIFIED)
            await FltReleaseContext(stream)
        return STATUS_SUCCESS


class TrustsThePreWrite(Antivirus):
    """Marks a stream as changed before the write only: a scan may see what was there before, and its verdict stays."""

    async def PostWrite(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: STREAM, Flags: int
    ) -> int:
        await FltReleaseContext(CompletionContext)
        return FLT_POSTOP_FINISHED_PROCESSING


@scenario(
    variants={"sample": Antivirus, "hasty": TrustsThePreWrite},
    expects={"hasty": "expectation"},
    cached_io=True,
    completion="inline",
)
async def antivirus(world: World, driver: type[Driver]) -> None:
    """A program infects a file, in a transaction, while others open it."""
    world.file(PATH, b"clean")
    await world.load(driver, altitude="328010")
    app = world.process("app")
    _, file = await app.create(PATH)
    assert file is not None

    async def writer() -> None:
        await file.write(VIRUS)
        status, _ = await app.create(PATH)
        world.check(not NT_SUCCESS(status), f"the file is infected, but opening it returned {status}")

    async def opener() -> None:
        transaction = app.transaction()
        await app.create(PATH, transaction=transaction)
        await transaction.commit()

    await world.together(writer(), opener(), process=app)
