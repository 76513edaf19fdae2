"""KE-03: a read is cancelled before its cancel routine is set.

The cancellation sets ``Irp->Cancel`` and finds no routine to call. A driver that sets one and does not look at the flag
then holds the read for ever: the program cannot even exit.
"""

from _held_reads import HeldReads

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_PENDING
from kemu.wdk.wdm import (
    DEVICE_OBJECT,
    DRIVER_OBJECT,
    IRP,
    KEVENT,
    InsertTailList,
    IoMarkIrpPending,
    IoSetCancelRoutine,
    KeAcquireSpinLock,
    KeInitializeEvent,
    KeReleaseSpinLock,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    RemoveEntryList,
    UserRequest,
)


class Notifier(HeldReads):
    """Holds reads until they are cancelled: a program that waits for news."""

    def __init__(self) -> None:
        super().__init__()
        self.Arrived = KEVENT("Arrived")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeEvent(self.Arrived, NotificationEvent, False)
        return await super().DriverEntry(DriverObject, RegistryPath)


class DoesNotLook(Notifier):
    """Sets the cancel routine, and that is that."""

    async def Read(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        await KeSetEvent(self.Arrived, 0, False)
        irql = await KeAcquireSpinLock(self.Lock)
        await IoMarkIrpPending(Irp)
        InsertTailList(self.Queue, Irp.Tail.Overlay.ListEntry)
        await IoSetCancelRoutine(Irp, self.CancelRead)
        await KeReleaseSpinLock(self.Lock, irql)
        return STATUS_PENDING


class LooksAgain(Notifier):
    """Takes a read back that was cancelled already, unless the cancel routine has it."""

    async def Read(self, DeviceObject: DEVICE_OBJECT, Irp: IRP) -> int:
        await KeSetEvent(self.Arrived, 0, False)
        irql = await KeAcquireSpinLock(self.Lock)
        await IoMarkIrpPending(Irp)
        InsertTailList(self.Queue, Irp.Tail.Overlay.ListEntry)
        await IoSetCancelRoutine(Irp, self.CancelRead)
        mine = Irp.Cancel and await IoSetCancelRoutine(Irp, None) is not None
        if mine:
            RemoveEntryList(Irp.Tail.Overlay.ListEntry)
        await KeReleaseSpinLock(self.Lock, irql)
        if mine:
            await self.complete(Irp, STATUS_CANCELLED)
        return STATUS_PENDING


@scenario(
    variants={"buggy": DoesNotLook, "fixed": LooksAgain},
    expects={"buggy": "ke.cancel-lost"},
)
async def cancelled_before_routine(world: World, driver: type[Notifier]) -> None:
    """A thread of a program waits for news; another one ends that when it hears that the driver knows."""
    notifier = driver()
    await world.load(notifier)
    app = world.process("app")
    file = await app.open(r"\\.\Held", overlapped=True)

    async def reader() -> None:
        read = await file.begin_read(4)
        status = await read.wait()
        world.check(status == STATUS_CANCELLED, f"the read must be cancelled, but returned {status}")

    async def canceller() -> None:
        _ = await KeWaitForSingleObject(notifier.Arrived, UserRequest, KernelMode, False, None)
        await file.cancel_all()

    await world.together(reader(), canceller(), process=app)
