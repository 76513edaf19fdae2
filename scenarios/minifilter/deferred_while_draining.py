"""MF-21: a post-read callback defers its work without a look at whether it is draining.

A detach calls the post-read callback of a read that is still below early, so that the driver gives back what it keeps
for the read. There is no completion to process then, and nothing to defer.
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
from kemu.wdk.wdm import Driver


class DefersAlways(Reads):
    """Defers whatever comes."""

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        _, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, CompletionContext, Flags, self.SafeRead)
        return status

    async def SafeRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        """What needs a low level."""
        return FLT_POSTOP_FINISHED_PROCESSING


class LooksFirst(DefersAlways):
    """Has nothing to give back, and is done, if the read is drained."""

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if Flags & FLTFL_POST_OPERATION_DRAINING:
            return FLT_POSTOP_FINISHED_PROCESSING
        return await super().PostRead(Data, FltObjects, CompletionContext, Flags)


@scenario(
    variants={"buggy": DefersAlways, "fixed": LooksFirst},
    expects={"buggy": "whensafe-draining"},
    completion="later",
)
async def deferred_while_draining(world: World, driver: type[Driver]) -> None:
    """A program reads while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    reads = await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_detach() -> None:
        status = await reads.detach()
        world.check(status == STATUS_SUCCESS, f"the detach must succeed, but returned {status}")

    await world.together(reader(), fltmc_detach(), process=app)
