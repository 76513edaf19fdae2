"""MF-15: callback data of a filter's own is freed while its I/O is still under way.

The filter reads the head of a file by FltPerformAsynchronousIo before it lets a program's read pass, and waits for
that no longer than five seconds. Then it frees the callback data, which is the filter manager's until the callback: the
read completes into memory that is gone. Who gives up leaves the callback data to the callback, which comes in any case.
"""

from typing import Any

from _plain_filter import PlainFilter

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAllocateCallbackData,
    FltFreeCallbackData,
    FltPerformAsynchronousIo,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    IRP_MJ_READ,
    KEVENT,
    NT_SUCCESS,
    Driver,
    Executive,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
)

FIVE_SECONDS = -50_000_000


class Sniffer(PlainFilter):
    """Looks at the head of a file before it lets a read pass."""

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead)]

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        status, Own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
        if not NT_SUCCESS(status) or Own is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        Own.Iopb.MajorFunction = IRP_MJ_READ
        Own.Iopb.Parameters.Read.Length = 2
        Done = KEVENT("Done")
        KeInitializeEvent(Done, NotificationEvent, False)
        _ = await FltPerformAsynchronousIo(Own, self.Sniffed, Done)
        status = await KeWaitForSingleObject(Done, Executive, KernelMode, False, FIVE_SECONDS)
        await self.finish(Own, status)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def Sniffed(self, Own: FLT_CALLBACK_DATA, Context: Any) -> None:
        raise NotImplementedError

    async def finish(self, Own: FLT_CALLBACK_DATA, status: int) -> None:
        """The wait has ended with *status*."""
        raise NotImplementedError


class FreesWhenItGivesUp(Sniffer):
    """The issuer frees the callback data, whether or not the callback has come."""

    async def Sniffed(self, Own: FLT_CALLBACK_DATA, Context: Any) -> None:
        await KeSetEvent(Context, 0, False)

    async def finish(self, Own: FLT_CALLBACK_DATA, status: int) -> None:
        if status == STATUS_TIMEOUT or NT_SUCCESS(Own.IoStatus.Status):
            await FltFreeCallbackData(Own)


class FreesInTheCallback(Sniffer):
    """The callback frees the callback data, and signals after it has; the issuer has nothing to do with it any more."""

    async def Sniffed(self, Own: FLT_CALLBACK_DATA, Context: Any) -> None:
        if NT_SUCCESS(Own.IoStatus.Status):
            await FltFreeCallbackData(Own)
        await KeSetEvent(Context, 0, False)

    async def finish(self, Own: FLT_CALLBACK_DATA, status: int) -> None:
        pass


@scenario(
    variants={"buggy": FreesWhenItGivesUp, "fixed": FreesInTheCallback},
    expects={"buggy": "asyncio-cbd-race"},
    completion="later",
)
async def sub_request_freed(world: World, driver: type[Driver]) -> None:
    """A program reads a file; the disk takes its time."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def reader() -> None:
        file = await app.open(r"\data.bin")
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    await world.together(reader(), process=app)
