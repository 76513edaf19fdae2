"""KE-01: the worker and the cancel routine both complete a read.

The driver takes its cancel routine back before it completes a read; one that does not look at what that returned may
complete a read that the cancel routine is completing.
"""

from _held_reads import HeldReads

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    IRP,
    Driver,
    InitializeListHead,
    IoSetCancelRoutine,
    IsListEmpty,
    KeAcquireSpinLock,
    KeReleaseSpinLock,
    RemoveHeadList,
)


class ClearsBlindly(HeldReads):
    """Clears the cancel routine and does not look whether it was there."""

    async def next_read(self) -> IRP | None:
        irql = await KeAcquireSpinLock(self.Lock)
        Irp: IRP | None = None
        if not IsListEmpty(self.Queue):
            Irp = CONTAINING_RECORD(RemoveHeadList(self.Queue))
            assert Irp is not None
            InitializeListHead(Irp.Tail.Overlay.ListEntry)
            await IoSetCancelRoutine(Irp, None)
        await KeReleaseSpinLock(self.Lock, irql)
        return Irp


@scenario(
    variants={"buggy": ClearsBlindly, "fixed": HeldReads},
    expects={"buggy": "ke.irp-double-complete"},
)
async def worker_and_cancel_complete(world: World, driver: type[Driver]) -> None:
    """A program starts a read and cancels it at once."""
    await world.load(driver)
    app = world.process("app")

    async def read_and_cancel() -> None:
        file = await app.open(r"\\.\Held", overlapped=True)
        read = await file.begin_read(4)

        async def cancel() -> None:
            await read.cancel()

        canceller = world.start("canceller", cancel(), app)
        status = await read.wait()
        await canceller.join()
        world.check(
            status in {STATUS_SUCCESS, STATUS_CANCELLED},
            f"the read must end or be cancelled, but returned {status}",
        )

    await world.together(read_and_cancel(), process=app)
