"""MF-25: a post-read callback takes a fast mutex, and whether it may depends on who completes the read.

A read that the file system completes at once comes back in the thread that sent it, at its level. A read that the disk
completes comes back at DISPATCH_LEVEL, where nobody may wait for a mutex.
"""

from typing import Any

from _reads import Reads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    FltDoCompletionProcessingWhenSafe,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)


class Counter(Reads):
    """Counts the bytes that were read, under a fast mutex."""

    def __init__(self) -> None:
        super().__init__()
        self.Lock = FAST_MUTEX("CountLock")
        self.Total = 0

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def count(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        """Add what was read."""
        await ExAcquireFastMutex(self.Lock)
        self.Total += Data.IoStatus.Information
        await ExReleaseFastMutex(self.Lock)
        return FLT_POSTOP_FINISHED_PROCESSING


class CountsAtAnyLevel(Counter):
    """Takes the mutex wherever it is called."""

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if Flags & FLTFL_POST_OPERATION_DRAINING:
            return FLT_POSTOP_FINISHED_PROCESSING
        return await self.count(Data, FltObjects, CompletionContext, Flags)


class CountsWhenSafe(Counter):
    """Has the filter manager post the completion if the level is too high, and does not count what cannot be posted."""

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if Flags & FLTFL_POST_OPERATION_DRAINING:
            return FLT_POSTOP_FINISHED_PROCESSING
        _, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, CompletionContext, Flags, self.count)
        return status


@scenario(variants={"buggy": CountsAtAnyLevel, "fixed": CountsWhenSafe}, expects={"buggy": "ke.irql"})
async def post_read_takes_mutex(world: World, driver: type[Driver]) -> None:
    """A program reads twice; the file system completes each read when and where it likes."""
    world.file(r"\data.bin", b"0123456789")
    counter = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def reader() -> None:
        file = await app.open(r"\data.bin")
        for _ in range(2):
            status, data = await file.read(4)
            world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")
        await file.close()

    await world.together(reader(), process=app)
    world.check(await counter.unload() == STATUS_SUCCESS, "the unload must succeed")
