"""MF-34: a list of contexts leads to one whose last reference is gone.

The driver lists its contexts, without a reference, and takes each off the list in its cleanup callback. Between the
last release and that, a thread that walks the list finds the context and references it: the count goes from zero to
one, and the memory is freed all the same.
"""

from typing import Any

from _stream_contexts import STREAM_CONTEXT, StreamContexts

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltGetStreamContext,
    FltReferenceContext,
    FltReleaseContext,
)
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InterlockedExchangeAdd,
)


class Listing(StreamContexts):
    """Lists the contexts of all streams; the list holds a reference on each."""

    def __init__(self) -> None:
        super().__init__()
        self.ListLock = FAST_MUTEX("ListLock")
        self.Listed: list[STREAM_CONTEXT] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.ListLock)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        context = await self.find_or_create(FltObjects)
        if context is not None:
            await self.insert(context)
            await FltReleaseContext(context)

    async def insert(self, context: STREAM_CONTEXT) -> None:
        await FltReferenceContext(context)
        await ExAcquireFastMutex(self.ListLock)
        self.Listed.append(context)
        await ExReleaseFastMutex(self.ListLock)

    async def remove(self, context: STREAM_CONTEXT) -> bool:
        """Take *context* off the list; whether it was there."""
        await ExAcquireFastMutex(self.ListLock)
        found = context in self.Listed
        if found:
            self.Listed.remove(context)
        await ExReleaseFastMutex(self.ListLock)
        return found

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            if await self.remove(context):
                await FltReleaseContext(context)
            await FltReleaseContext(context)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def report(self) -> int:
        """Walk the list: how often all streams are open."""
        await ExAcquireFastMutex(self.ListLock)
        found = list(self.Listed)
        for context in found:
            await FltReferenceContext(context)
        await ExReleaseFastMutex(self.ListLock)
        total = 0
        for context in found:
            total += await InterlockedExchangeAdd(context.Opens, 0)
            await FltReleaseContext(context)
        return total


class ListsWithoutReference(Listing):
    """Takes a context off the list when it is cleaned up, which is when nobody may reference it any more."""

    async def insert(self, context: STREAM_CONTEXT) -> None:
        await ExAcquireFastMutex(self.ListLock)
        self.Listed.append(context)
        await ExReleaseFastMutex(self.ListLock)

    async def ContextCleanup(self, Context: Any, ContextType: int) -> None:
        await self.remove(Context)

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_NO_CALLBACK


@scenario(
    variants={"buggy": ListsWithoutReference, "fixed": Listing},
    expects={"buggy": "ctx-ref-after-free"},
    completion="inline",
)
async def context_revived(world: World, driver: type[Driver]) -> None:
    """A program closes a file while a thread of the driver's walks the list."""
    filter_ = await world.load(driver, altitude="328024")
    app = world.process("app")
    file = await app.open(r"\report.docx")

    async def closer() -> None:
        await file.close()

    async def walker() -> None:
        assert isinstance(filter_.driver, Listing)
        await filter_.driver.report()

    await world.together(closer(), walker(), process=app)
