"""MF-29: of two threads that set a context the loser forgets that it was handed the winner's with a reference.

The loser releases the context that it has made, and uses the other one once. That reference is never dropped: the
context is not freed when the file is closed, and the unload waits for it. It takes one lost race in all the time that
the system runs.
"""

from _stream_contexts import STREAM_CONTEXT, StreamContexts

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FltReleaseContext,
    FltSetStreamContext,
)
from kemu.wdk.ntstatus import STATUS_FLT_CONTEXT_ALREADY_DEFINED
from kemu.wdk.wdm import NT_SUCCESS, Driver, InterlockedIncrement


class LoserForgets(StreamContexts):
    """Counts in the winner's context, and keeps the reference that came with it."""

    async def set(self, FltObjects: FLT_RELATED_OBJECTS, created: STREAM_CONTEXT) -> STREAM_CONTEXT | None:
        assert FltObjects.FileObject is not None
        status, winner = await FltSetStreamContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, created, True
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        if status == STATUS_FLT_CONTEXT_ALREADY_DEFINED:
            await InterlockedIncrement(winner.Opens)
        return None


@scenario(
    variants={"buggy": LoserForgets, "fixed": StreamContexts},
    expects={"buggy": "ctx-leak"},
    completion="inline",
)
async def context_leaked_by_loser(world: World, driver: type[Driver]) -> None:
    """Two programs open one file and close it again; then the filter is unloaded."""
    filter_ = await world.load(driver, altitude="328021")
    app = world.process("app")

    async def open_and_close() -> None:
        file = await app.open(r"\report.docx")
        await file.close()

    await world.together(open_and_close(), open_and_close(), process=app)
    await filter_.unload()
