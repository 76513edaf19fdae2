"""MF-31: a filter releases a context as soon as it has found it, and goes on to use it.

As long as the context is linked nobody notices. A write takes it off the stream, because what it says is stale then:
the link's reference was the last one, the context is freed, and the read looks at what is gone.
"""

from typing import Any

from _stream_contexts import StreamContexts

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltDeleteStreamContext,
    FltGetStreamContext,
    FltReleaseContext,
)
from kemu.wdk.wdm import IRP_MJ_READ, IRP_MJ_WRITE, NT_SUCCESS, Driver


class LooksAtContext(StreamContexts):
    """Looks at the stream's context in reads, and takes it away in writes."""

    def __init__(self) -> None:
        super().__init__()
        self.Clean = 0

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [
            *super().operations(),
            FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead),
            FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite),
        ]

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            await self.use(context)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def use(self, context: Any) -> None:
        self.Clean += context.Clean
        await FltReleaseContext(context)

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        _ = await FltDeleteStreamContext(FltObjects.Instance, FltObjects.FileObject, None)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class ReleasesFirst(LooksAtContext):
    """Releases the context before it looks at it."""

    async def use(self, context: Any) -> None:
        await FltReleaseContext(context)
        self.Clean += context.Clean


@scenario(
    variants={"buggy": ReleasesFirst, "fixed": LooksAtContext},
    expects={"buggy": "ctx-use-after-release"},
    completion="inline",
)
async def context_used_after_release(world: World, driver: type[Driver]) -> None:
    """A program reads a file while another one writes to it."""
    await world.load(driver, altitude="328022")
    app = world.process("app")
    file = await app.open(r"\report.docx")

    async def reader() -> None:
        await file.read(4)

    async def writer() -> None:
        await file.write(b"news")

    await world.together(reader(), writer(), process=app)
    await file.close()
