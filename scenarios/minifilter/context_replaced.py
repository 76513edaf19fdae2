"""MF-28: a filter that finds no context sets its own, in place of one that somebody else has set meanwhile.

Two programs open one stream. Both post-create callbacks find no context, and both make one. The second replaces what
the first has set, and with it the count of opens: with FLT_SET_CONTEXT_KEEP_IF_EXISTS it would get the first one's.
"""

from _stream_contexts import STREAM_CONTEXT, StreamContexts

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS,
    FltReleaseContext,
    FltSetStreamContext,
)
from kemu.wdk.wdm import LONG, NT_SUCCESS, InterlockedExchangeAdd, InterlockedIncrement


class Counting(StreamContexts):
    """Also counts the contexts that went while their streams were open, as far as they knew."""

    def __init__(self) -> None:
        super().__init__()
        self.Unbalanced = LONG()

    async def ContextCleanup(self, Context: STREAM_CONTEXT, ContextType: int) -> None:
        if await InterlockedExchangeAdd(Context.Opens, 0):
            await InterlockedIncrement(self.Unbalanced)


class Replaces(Counting):
    """Sets its context whatever is there."""

    async def set(self, FltObjects: FLT_RELATED_OBJECTS, created: STREAM_CONTEXT) -> STREAM_CONTEXT | None:
        assert FltObjects.FileObject is not None
        status, _ = await FltSetStreamContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_REPLACE_IF_EXISTS, created, None
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        return None


@scenario(variants={"buggy": Replaces, "fixed": Counting}, expects={"buggy": "expectation"}, completion="inline")
async def context_replaced(world: World, driver: type[Counting]) -> None:
    """Two programs open one file and close it again."""
    filter_ = await world.load(driver, altitude="328020")
    app = world.process("app")

    async def open_and_close() -> None:
        file = await app.open(r"\report.docx")
        await file.close()

    await world.together(open_and_close(), open_and_close(), process=app)
    assert isinstance(filter_.driver, driver)
    lost = filter_.driver.Unbalanced.value
    world.check(not lost, f"each context must see as many closes as opens, but {lost} did not")
