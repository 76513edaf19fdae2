"""A filter that records what goes on, and a service that fetches the records, as the sample minispy does.

A record is made before the operation, if there is room for one more, and goes to the list when the operation has come
up: that may be at DISPATCH_LEVEL, so that the list has a spin lock and the records are not paged. What a transaction
comes to is recorded as well. The service asks for records through a port; those that nobody has asked for are freed at
the unload.
"""

from typing import Any

from _transactions import TRANSACTION_CONTEXT, Transactions

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PORT,
    FLT_PORT_ALL_ACCESS,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    PFLT_PORT,
    FltBuildDefaultSecurityDescriptor,
    FltCloseClientPort,
    FltCloseCommunicationPort,
    FltCreateCommunicationPort,
    FltEnlistInTransaction,
    FltFreeSecurityDescriptor,
    FltReleaseContext,
)
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_NO_MORE_ENTRIES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DRIVER_OBJECT,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    KSPIN_LOCK,
    LIST_ENTRY,
    LONG,
    NT_SUCCESS,
    OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE,
    POOL_FLAG_NON_PAGED,
    TRANSACTION_NOTIFY_COMMIT,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    InitializeListHead,
    InitializeObjectAttributes,
    InsertTailList,
    InterlockedDecrement,
    InterlockedIncrement,
    IoAllocateMdl,
    IoFreeMdl,
    IoWriteAccess,
    IsListEmpty,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    MmGetSystemAddressForMdlSafe,
    MmProbeAndLockPages,
    MmUnlockPages,
    NormalPagePriority,
    RemoveHeadList,
    Structure,
    UserMode,
    sizeof,
)

PORT = r"\SpyPort"
TAG = "Spyr"
PATH = r"\report.docx"
MOST_RECORDS = 3
COMMITTED = 0xFF
"""What stands for the end of a transaction where others have a major function code."""


class RECORD(Structure):
    """One thing that has happened."""

    List: LIST_ENTRY
    Number: int
    Kind: int


class Spy(Transactions):
    """Records creates, cleanups and commits."""

    notifications = TRANSACTION_NOTIFY_COMMIT
    ServerPort: FLT_PORT

    def __init__(self) -> None:
        super().__init__()
        self.Lock = KSPIN_LOCK("RecordLock")
        self.Records = LIST_ENTRY("Records")
        self.Made = LONG(0, "RecordsMade")
        self.There = LONG(0, "RecordsThere")
        self.Lost = LONG(0, "RecordsLost")
        self.ClientPort = PFLT_PORT(None, "ClientPort")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        InitializeListHead(self.Records)
        return await super().DriverEntry(DriverObject, RegistryPath)

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [
            FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreRecord, self.PostRecord),
            FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreRecord, self.PostRecord),
        ]

    async def registered(self) -> int:
        status, security = await FltBuildDefaultSecurityDescriptor(FLT_PORT_ALL_ACCESS)
        if not NT_SUCCESS(status) or security is None:
            return status
        attributes = InitializeObjectAttributes(PORT, OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE, 0, security)
        assert self.Filter is not None
        status, port = await FltCreateCommunicationPort(
            self.Filter, attributes, None, self.Connect, self.Disconnect, self.Message, 1
        )
        if port is not None:
            self.ServerPort = port
        await FltFreeSecurityDescriptor(security)
        return status

    async def Unload(self, Flags: int) -> int:
        await FltCloseCommunicationPort(self.ServerPort)
        status = await super().Unload(Flags)
        record = await self.take()
        while record is not None:
            await self.free(record)
            record = await self.take()
        return status

    # Making records.

    async def new(self, kind: int) -> RECORD | None:
        """A record, if there are not too many that nobody has fetched."""
        number = await InterlockedIncrement(self.Made)
        if await InterlockedIncrement(self.There) <= MOST_RECORDS:
            record: RECORD | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(RECORD), TAG)
            if record is not None:
                record.Number = number
                record.Kind = kind
                return record
        await InterlockedDecrement(self.There)
        await InterlockedIncrement(self.Lost)
        return None

    async def free(self, record: RECORD) -> None:
        await ExFreePoolWithTag(record, TAG)
        await InterlockedDecrement(self.There)

    async def append(self, record: RECORD) -> None:
        """The record is complete."""
        old = await KeAcquireSpinLock(self.Lock)
        InsertTailList(self.Records, record.List)
        await KeReleaseSpinLock(self.Lock, old)

    async def PreRecord(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        record = await self.new(Data.Iopb.MajorFunction)
        if record is None and Data.Iopb.MajorFunction != IRP_MJ_CREATE:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return FLT_PREOP_SUCCESS_WITH_CALLBACK, record

    async def PostRecord(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if CompletionContext is not None:
            await self.append(CompletionContext)
        if Data.Iopb.MajorFunction == IRP_MJ_CREATE and not Flags & FLTFL_POST_OPERATION_DRAINING:
            return await self.PostCreate(Data, FltObjects, None, Flags)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        context = await self.find_or_create(FltObjects)
        if context is not None:
            assert FltObjects.Transaction is not None
            # If that fails, nobody will be told of the transaction, and the context goes with it.
            _ = await FltEnlistInTransaction(FltObjects.Instance, FltObjects.Transaction, context, self.notifications)
            await FltReleaseContext(context)

    async def TransactionNotification(
        self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: TRANSACTION_CONTEXT, NotificationMask: int
    ) -> int:
        record = await self.new(COMMITTED)
        if record is not None:
            await self.append(record)
        return STATUS_SUCCESS

    # Handing them out.

    async def Connect(self, ClientPort: FLT_PORT, ServerPortCookie: Any, Context: Any, SizeOfContext: int) -> int:
        self.ClientPort.value = ClientPort
        return STATUS_SUCCESS

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        assert self.Filter is not None
        await FltCloseClientPort(self.Filter, self.ClientPort)

    async def take(self) -> RECORD | None:
        """Take the oldest record off the list."""
        old = await KeAcquireSpinLock(self.Lock)
        entry = None if IsListEmpty(self.Records) else RemoveHeadList(self.Records)
        await KeReleaseSpinLock(self.Lock, old)
        return None if entry is None else CONTAINING_RECORD(entry)

    async def Message(
        self, PortCookie: Any, InputBuffer: Any, InputBufferLength: int, OutputBuffer: Any, OutputBufferLength: int
    ) -> Any:
        # The memory is locked before a record is taken, which then has somewhere to go.
        mdl = await IoAllocateMdl(OutputBuffer, OutputBufferLength, False, False, None)
        if mdl is None:
            return STATUS_NO_MORE_ENTRIES, 0
        try:
            await MmProbeAndLockPages(mdl, UserMode, IoWriteAccess)
        except StructuredException as error:
            await IoFreeMdl(mdl)
            return error.ExceptionCode, 0
        target = MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority)
        produced = 0
        while produced + 2 <= OutputBufferLength:
            record = await self.take()
            if record is None:
                break
            target[produced], target[produced + 1] = record.Number, record.Kind
            produced += 2
            await self.free(record)
        MmUnlockPages(mdl)
        await IoFreeMdl(mdl)
        return (STATUS_SUCCESS, produced) if produced else (STATUS_NO_MORE_ENTRIES, 0)


@scenario(variants={"sample": Spy}, completion="inline")
async def spy(world: World, driver: type[Driver]) -> None:
    """A program opens a file in a transaction while a service fetches records; then the filter is unloaded."""
    world.file(PATH)
    loaded = await world.load(driver, altitude="385100")
    filter_ = loaded.driver
    assert isinstance(filter_, Spy)
    app, service = world.process("app"), world.process("service")
    fetched: list[int] = []

    async def program() -> None:
        transaction = app.transaction()
        _, file = await app.create(PATH, transaction=transaction)
        if file is not None:
            await file.close()
        await transaction.commit()

    async def log() -> None:
        win32 = service.win32
        _, port = await win32.FilterConnectCommunicationPort(PORT)
        memory = service.memory(bytes(4))
        _, length = await win32.FilterSendMessage(port, None, 0, memory, 4)
        fetched.extend(bytes(memory.content[:length])[::2])
        await win32.CloseHandle(port)

    threads = [world.start("program", program(), app), world.start("log", log(), service)]
    for thread in threads:
        await thread.join()
    status = await loaded.unload()
    world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")
    world.check(len(set(fetched)) == len(fetched), f"each record is fetched once, and not {fetched}")
    world.check(filter_.There.value == 0, "all records are freed")
