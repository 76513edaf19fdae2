"""MF-33: the context of a handle points to that of the stream, and holds no reference on it.

The two have nothing to do with each other's life. A write takes the stream's context away; when the handle is closed,
the handle's context still points there.
"""

from typing import Any

from _stream_contexts import STREAM_CONTEXT, StreamContexts

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_STREAMHANDLE_CONTEXT,
    FltAllocateContext,
    FltDeleteStreamContext,
    FltGetStreamHandleContext,
    FltReferenceContext,
    FltReleaseContext,
    FltSetStreamHandleContext,
)
from kemu.wdk.wdm import (
    IRP_MJ_WRITE,
    NT_SUCCESS,
    Driver,
    InterlockedIncrement,
    NonPagedPool,
    Structure,
)


class HANDLE_CONTEXT(Structure):
    """What is known of one file object."""

    Stream: Any


class PointsToStream(StreamContexts):
    """Remembers the stream's context in each handle's, without a reference."""

    def __init__(self) -> None:
        super().__init__()
        self.Clean = 0

    def contexts(self) -> list[FLT_CONTEXT_REGISTRATION]:
        handle = FLT_CONTEXT_REGISTRATION(FLT_STREAMHANDLE_CONTEXT, 0, self.HandleCleanup, HANDLE_CONTEXT, "Hndl")
        return [*super().contexts(), handle]

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [*super().operations(), FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite)]

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        assert FltObjects.FileObject is not None
        stream = await self.find_or_create(FltObjects)
        if stream is None:
            return
        await InterlockedIncrement(stream.Opens)
        status, handle = await FltAllocateContext(
            FltObjects.Filter, FLT_STREAMHANDLE_CONTEXT, HANDLE_CONTEXT, NonPagedPool
        )
        if NT_SUCCESS(status) and handle is not None:
            await self.remember(handle, stream)
            _ = await FltSetStreamHandleContext(
                FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, handle, None
            )
            await FltReleaseContext(handle)
        await FltReleaseContext(stream)

    async def remember(self, handle: HANDLE_CONTEXT, stream: STREAM_CONTEXT) -> None:
        handle.Stream = stream

    async def forget(self, handle: HANDLE_CONTEXT) -> None:
        handle.Stream = None

    async def HandleCleanup(self, Context: HANDLE_CONTEXT, ContextType: int) -> None:
        """Nobody holds the handle's context any more."""

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, handle = await FltGetStreamHandleContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            self.Clean += handle.Stream.Clean
            await self.forget(handle)
            await FltReleaseContext(handle)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        _ = await FltDeleteStreamContext(FltObjects.Instance, FltObjects.FileObject, None)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class ReferencesStream(PointsToStream):
    """Holds a reference for the pointer, and drops it with that or when the handle's context goes."""

    async def remember(self, handle: HANDLE_CONTEXT, stream: STREAM_CONTEXT) -> None:
        await FltReferenceContext(stream)
        handle.Stream = stream

    async def forget(self, handle: HANDLE_CONTEXT) -> None:
        stream, handle.Stream = handle.Stream, None
        await FltReleaseContext(stream)

    async def HandleCleanup(self, Context: HANDLE_CONTEXT, ContextType: int) -> None:
        if Context.Stream is not None:
            await FltReleaseContext(Context.Stream)


@scenario(
    variants={"buggy": PointsToStream, "fixed": ReferencesStream},
    expects={"buggy": "ctx-unreferenced-pointer"},
    completion="inline",
)
async def context_pointer_unreferenced(world: World, driver: type[Driver]) -> None:
    """A program closes a file while another one, which has it open as well, writes to it."""
    await world.load(driver, altitude="328023")
    app = world.process("app")
    first, second = await app.open(r"\report.docx"), await app.open(r"\report.docx")

    async def closer() -> None:
        await first.close()

    async def writer() -> None:
        await second.write(b"news")

    await world.together(closer(), writer(), process=app)
