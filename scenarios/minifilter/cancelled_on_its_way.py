"""MF-18: FltCancelIo comes before the I/O has got to who could cancel it.

The filter sends a read of its own when a program reads. A filter below it holds such reads, and makes them cancellable;
that it should look first whether they are cancelled it has forgotten. When the instance is detached while the read is
still on its way, FltCancelIo finds nobody to tell, and returns FALSE: the read will be held, and the teardown waits for
it. FALSE means not yet: the filter has to try again when its read has been taken up below.
"""

from typing import Any

from _plain_filter import PlainFilter

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_GENERATED_IO,
    FltAllocateCallbackData,
    FltCancelIo,
    FltCompletePendedPreOperation,
    FltFreeCallbackData,
    FltPerformAsynchronousIo,
    FltSetCancelCompletion,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_READ,
    KEVENT,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    Executive,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
)


class Holder(PlainFilter):
    """Below: holds the reads that filters send, until they are cancelled."""

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead)]

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if not Data.Flags & FLTFL_CALLBACK_DATA_GENERATED_IO:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        _ = await FltSetCancelCompletion(Data, self.Canceled)
        return FLT_PREOP_PENDING

    async def Canceled(self, Data: FLT_CALLBACK_DATA) -> None:
        Data.IoStatus.Status = STATUS_CANCELLED
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)


class Watcher(PlainFilter):
    """Has one read of its own outstanding, from a program's first read to the teardown."""

    def __init__(self) -> None:
        super().__init__()
        self.Lock = FAST_MUTEX("Lock")
        self.Sent = KEVENT("Sent")
        self.Own: FLT_CALLBACK_DATA | None = None
        self.Closing = False

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        ExInitializeFastMutex(self.Lock)
        KeInitializeEvent(self.Sent, NotificationEvent, False)
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead)]

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        status, Own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
        if not NT_SUCCESS(status) or Own is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        Own.Iopb.MajorFunction = IRP_MJ_READ
        Own.Iopb.Parameters.Read.Length = 1
        await ExAcquireFastMutex(self.Lock)
        sends = self.Own is None and not self.Closing
        if sends:
            self.Own = Own
        await ExReleaseFastMutex(self.Lock)
        if sends:
            _ = await FltPerformAsynchronousIo(Own, self.Completed, None)
            await KeSetEvent(self.Sent, 0, False)
        else:
            await FltFreeCallbackData(Own)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def Completed(self, Own: FLT_CALLBACK_DATA, Context: Any) -> None:
        """InstanceTeardownComplete, which comes after this, frees the callback data."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await ExAcquireFastMutex(self.Lock)
        self.Closing = True
        Own = self.Own
        await ExReleaseFastMutex(self.Lock)
        if Own is not None:
            await self.abort(Own)

    async def InstanceTeardownComplete(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        if self.Own is not None:
            assert self.Own.IoStatus.Status == STATUS_CANCELLED
            await FltFreeCallbackData(self.Own)

    async def abort(self, Own: FLT_CALLBACK_DATA) -> None:
        """Have the read end."""
        raise NotImplementedError


class CancelsOnce(Watcher):
    """Takes FALSE for an answer."""

    async def abort(self, Own: FLT_CALLBACK_DATA) -> None:
        _ = await FltCancelIo(Own)


class CancelsAgain(Watcher):
    """Tries again when the read has been taken up below."""

    async def abort(self, Own: FLT_CALLBACK_DATA) -> None:
        if not await FltCancelIo(Own):
            _ = await KeWaitForSingleObject(self.Sent, Executive, KernelMode, False, None)
            _ = await FltCancelIo(Own)


@scenario(
    variants={"buggy": CancelsOnce, "fixed": CancelsAgain}, expects={"buggy": "teardown-hang"}, completion="inline"
)
async def cancelled_on_its_way(world: World, driver: type[Driver]) -> None:
    """A program reads while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(Holder, altitude="200000")
    watcher = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def reader() -> None:
        file = await app.open(r"\data.bin")
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_detach() -> None:
        await watcher.detach()

    await world.together(reader(), fltmc_detach(), process=app)
