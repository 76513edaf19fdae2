"""MF-20: a pre-read callback waits until its scan is done or the read is cancelled, and has set a cancel routine, too.

A cancellation is told to one receiver. A read that was made cancellable with FltSetCancelCompletion is not to be waited
with: the routine would complete it under the feet of the thread that waits, or that thread would wait on.
"""

from typing import Any

from _reads import Reads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCancellableWaitForSingleObject,
    FltClearCancelCompletion,
    FltSetCancelCompletion,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KEVENT,
    LONG,
    Driver,
    InterlockedIncrement,
    KeInitializeEvent,
    KeSetEvent,
    NotificationEvent,
)


class Scanner(Reads):
    """Holds reads until `Scanned` is set, and counts cancellations that come before the wait."""

    def __init__(self) -> None:
        super().__init__()
        self.Scanned = KEVENT("Scanned")
        self.Cancelled = LONG(0, "Cancelled")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeEvent(self.Scanned, NotificationEvent, False)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def Canceled(self, Data: FLT_CALLBACK_DATA) -> None:
        """Count it: the wait that follows sees the cancellation by itself."""
        await InterlockedIncrement(self.Cancelled)

    async def wait(self, Data: FLT_CALLBACK_DATA) -> int:
        """Wait for the scan, or for the cancellation, and act on it."""
        status = await FltCancellableWaitForSingleObject(self.Scanned, None, Data)
        if status == STATUS_SUCCESS:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        Data.IoStatus.Status = STATUS_CANCELLED
        Data.IoStatus.Information = 0
        return FLT_PREOP_COMPLETE


class WaitsWithTheRoutineSet(Scanner):
    """Sets the routine, and waits all the same."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        await FltSetCancelCompletion(Data, self.Canceled)
        return await self.wait(Data)


class TakesTheRoutineBack(Scanner):
    """Takes the routine back before the wait, unless the cancellation has come to it."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        await FltSetCancelCompletion(Data, self.Canceled)
        await FltClearCancelCompletion(Data)
        return await self.wait(Data)


@scenario(
    variants={"buggy": WaitsWithTheRoutineSet, "fixed": TakesTheRoutineBack},
    expects={"buggy": "cancelwait-with-cancel-routine"},
    completion="inline",
)
async def wait_with_cancel_routine(world: World, driver: type[Driver]) -> None:
    """A program reads and cancels, while the scan comes to its end."""
    world.file(r"\data.bin", b"0123456789")
    loaded = await world.load(driver, altitude="328010")
    scanner = loaded.driver
    assert isinstance(scanner, Scanner)
    app = world.process("app")
    file = await app.open(r"\data.bin", overlapped=True)

    async def reader() -> None:
        status = await (await file.begin_read(4)).wait()
        world.check(status in {STATUS_SUCCESS, STATUS_CANCELLED}, f"the read must end, but returned {status}")

    async def canceller() -> None:
        await file.cancel_all()

    async def scan() -> None:
        await KeSetEvent(scanner.Scanned, 0, False)

    await world.together(reader(), canceller(), scan(), process=app)
