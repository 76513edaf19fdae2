"""KE-06: a driver has one work item for all of its notifications, and uses it while it is on the queue.

From the queueing until the worker has taken it a work item belongs to the system. Who queues it again, or frees it,
damages the worker's queue; from the moment at which its routine runs, both are allowed.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IO_WORKITEM,
    KEVENT,
    KSPIN_LOCK,
    DelayedWorkQueue,
    Driver,
    IoAllocateWorkItem,
    IoFreeWorkItem,
    IoQueueWorkItemEx,
    KeAcquireSpinLock,
    KeClearEvent,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
)


class Notifier(Driver):
    """Counts what happens, and tells a service about it from a work item."""

    def __init__(self) -> None:
        self.Item: IO_WORKITEM | None = None
        self.Lock = KSPIN_LOCK("Lock")
        self.Idle = KEVENT("Idle")
        self.Queued = False
        self.Pending = 0

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        KeInitializeEvent(self.Idle, NotificationEvent, True)
        self.Item = await IoAllocateWorkItem(DriverObject)
        return STATUS_SUCCESS

    async def Notify(self) -> None:
        """Something has happened."""
        raise NotImplementedError

    async def Work(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        """Tell the service everything that has happened."""
        irql = await KeAcquireSpinLock(self.Lock)
        self.Pending = 0
        await KeReleaseSpinLock(self.Lock, irql)

    async def Cleanup(self) -> None:
        """The last handle is closed: nothing is notified any more."""
        raise NotImplementedError


class QueuesAlways(Notifier):
    """Queues the item for each event: the second may come before the worker has taken it for the first."""

    async def Notify(self) -> None:
        assert self.Item is not None
        irql = await KeAcquireSpinLock(self.Lock)
        self.Pending += 1
        await KeReleaseSpinLock(self.Lock, irql)
        await IoQueueWorkItemEx(self.Item, self.Work, DelayedWorkQueue, None)

    async def Cleanup(self) -> None:
        await KeWaitForSingleObject(self.Idle)


class QueuesOnce(Notifier):
    """Knows whether the item is on the queue: says so before it queues, and no more once the routine runs."""

    async def Notify(self) -> None:
        assert self.Item is not None
        irql = await KeAcquireSpinLock(self.Lock)
        self.Pending += 1
        queues, self.Queued = not self.Queued, True
        if queues:
            await KeClearEvent(self.Idle)
        await KeReleaseSpinLock(self.Lock, irql)
        if queues:
            await IoQueueWorkItemEx(self.Item, self.Work, DelayedWorkQueue, None)

    async def Work(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        irql = await KeAcquireSpinLock(self.Lock)
        self.Queued = False
        self.Pending = 0
        await KeSetEvent(self.Idle)
        await KeReleaseSpinLock(self.Lock, irql)


class FreesAtOnce(QueuesOnce):
    """Does not wait for the worker before it frees the item."""

    async def Cleanup(self) -> None:
        assert self.Item is not None
        await IoFreeWorkItem(self.Item)


class FreesWhenIdle(QueuesOnce):
    """Frees the item when its routine has said that it runs for the last time."""

    async def Cleanup(self) -> None:
        assert self.Item is not None
        await KeWaitForSingleObject(self.Idle)
        await IoFreeWorkItem(self.Item)


@scenario(
    variants={"buggy": QueuesAlways, "early_free": FreesAtOnce, "fixed": FreesWhenIdle},
    expects={"buggy": "ke.work-requeued", "early_free": "ke.work-freed-queued"},
    worker_threads=1,
)
async def work_item_requeued(world: World, driver: type[Driver]) -> None:
    """Two programs each bring an event about; then the device is closed."""
    loaded = await world.load(driver, altitude="328010")
    notifier = loaded.driver
    assert isinstance(notifier, Notifier)

    async def notify() -> None:
        await notifier.Notify()

    await world.together(notify(), notify())
    await notifier.Cleanup()
