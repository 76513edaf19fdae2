"""MF-07: InstanceTeardownStart empties a cancel-safe queue first and disables it afterwards.

A pre-read that entered before the teardown may insert in between. Its operation stays in the queue for ever: the
queue is disabled, nobody removes from it any more, and the detach waits for it.
"""

from _queued_reads import QueuedReads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import FLT_RELATED_OBJECTS, FltCbdqDisable
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import Driver, KeSetEvent


class DrainsFirst(QueuedReads):
    """Empties the queue, tells the service, and disables the queue then: an insert fits in between."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await self.release()
        await KeSetEvent(self.Stopping, 0, False)
        await FltCbdqDisable(self.Cbdq)


class DisablesFirst(QueuedReads):
    """Disables the queue, then empties it and tells the service."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await FltCbdqDisable(self.Cbdq)
        await self.release()
        await KeSetEvent(self.Stopping, 0, False)


@scenario(variants={"buggy": DrainsFirst, "fixed": DisablesFirst}, expects={"buggy": "cbdq-not-drained"})
async def drain_then_disable(world: World, driver: type[Driver]) -> None:
    """Two threads read an open file while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    queued = await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_detach() -> None:
        status = await queued.detach()
        world.check(status == STATUS_SUCCESS, f"the detach must succeed, but returned {status}")

    await world.together(reader(), reader(), fltmc_detach(), process=app)
