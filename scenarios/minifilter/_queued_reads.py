"""A minifilter that holds reads in a cancel-safe queue; the drivers of several scenarios derive from it."""

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CALLBACK_DATA_QUEUE,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltCbdqDisable,
    FltCbdqInitialize,
    FltCbdqInsertIo,
    FltCbdqRemoveNextIo,
    FltCompletePendedPreOperation,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_READ,
    KEVENT,
    LIST_ENTRY,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InitializeListHead,
    InsertTailList,
    KeInitializeEvent,
    KeSetEvent,
    NotificationEvent,
    RemoveEntryList,
)


class QueuedReads(Driver):
    """Holds reads in a cancel-safe queue, locked with a fast mutex, until `release` lets them go."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Cbdq = FLT_CALLBACK_DATA_QUEUE("ReadQueue")
        self.Lock = FAST_MUTEX("QueueLock")
        self.ListHead = LIST_ENTRY()
        self.Stopping = KEVENT("Stopping")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        InitializeListHead(self.ListHead)
        KeInitializeEvent(self.Stopping, NotificationEvent, False)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceSetupCallback=self.InstanceSetup,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
            InstanceTeardownStartCallback=self.InstanceTeardownStart,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        return await FltCbdqInitialize(
            FltObjects.Instance,
            self.Cbdq,
            self.InsertIo,
            self.RemoveIo,
            self.PeekNextIo,
            self.Acquire,
            self.Release,
            self.CompleteCanceledIo,
        )

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await FltCbdqDisable(self.Cbdq)
        await self.release()
        await KeSetEvent(self.Stopping, 0, False)

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        status = await FltCbdqInsertIo(self.Cbdq, Data, None, None)
        return FLT_PREOP_PENDING if NT_SUCCESS(status) else FLT_PREOP_SUCCESS_NO_CALLBACK

    async def release(self) -> None:
        """Let everything go that is in the queue."""
        while (Data := await FltCbdqRemoveNextIo(self.Cbdq, None)) is not None:
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

    # The queue's routines. The filter manager holds the lock around the first three.

    async def InsertIo(self, Cbdq: FLT_CALLBACK_DATA_QUEUE, Data: FLT_CALLBACK_DATA, InsertContext: object) -> int:
        InsertTailList(self.ListHead, Data.QueueLinks)
        return STATUS_SUCCESS

    async def RemoveIo(self, Cbdq: FLT_CALLBACK_DATA_QUEUE, Data: FLT_CALLBACK_DATA) -> None:
        RemoveEntryList(Data.QueueLinks)

    async def PeekNextIo(
        self, Cbdq: FLT_CALLBACK_DATA_QUEUE, Data: FLT_CALLBACK_DATA | None, PeekContext: object
    ) -> FLT_CALLBACK_DATA | None:
        following = self.ListHead.Flink if Data is None else Data.QueueLinks.Flink
        return None if following is None or following is self.ListHead else CONTAINING_RECORD(following)

    async def Acquire(self, Cbdq: FLT_CALLBACK_DATA_QUEUE) -> None:
        await ExAcquireFastMutex(self.Lock)

    async def Release(self, Cbdq: FLT_CALLBACK_DATA_QUEUE, Irql: object) -> None:
        await ExReleaseFastMutex(self.Lock)

    async def CompleteCanceledIo(self, Cbdq: FLT_CALLBACK_DATA_QUEUE, Data: FLT_CALLBACK_DATA) -> None:
        Data.IoStatus.Status = STATUS_CANCELLED
        Data.IoStatus.Information = 0
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)
