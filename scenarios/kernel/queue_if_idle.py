"""KE-07: a driver decides outside of its lock whether its worker is still busy.

The worker finds the list empty, gives the lock up, and only then notes that it is idle. A request that is appended in
between sees a busy worker and does not start it: it stays in the list until another one comes.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DRIVER_OBJECT,
    IO_WORKITEM,
    KEVENT,
    KSPIN_LOCK,
    LIST_ENTRY,
    DelayedWorkQueue,
    Driver,
    InitializeListHead,
    InsertTailList,
    IoAllocateWorkItem,
    IoQueueWorkItemEx,
    IsListEmpty,
    KeAcquireSpinLock,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    RemoveHeadList,
)


class REQUEST:
    """What a caller waits for."""

    def __init__(self) -> None:
        self.Entry = LIST_ENTRY(self)
        self.Done = KEVENT("Done")
        KeInitializeEvent(self.Done, NotificationEvent, False)


class Scanner(Driver):
    """Carries requests out in a work item, one after the other."""

    def __init__(self) -> None:
        self.Lock = KSPIN_LOCK("Lock")
        self.Requests = LIST_ENTRY()
        self.Item: IO_WORKITEM | None = None
        self.Busy = False

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        InitializeListHead(self.Requests)
        self.Item = await IoAllocateWorkItem(DriverObject)
        return STATUS_SUCCESS

    async def Scan(self) -> None:
        """Have a request carried out, and wait for it."""
        assert self.Item is not None
        request = REQUEST()
        irql = await KeAcquireSpinLock(self.Lock)
        InsertTailList(self.Requests, request.Entry)
        starts, self.Busy = not self.Busy, True
        await KeReleaseSpinLock(self.Lock, irql)
        if starts:
            await IoQueueWorkItemEx(self.Item, self.Work, DelayedWorkQueue, None)
        await KeWaitForSingleObject(request.Done)

    async def Work(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        """Carry out what is in the list, until it is empty."""
        raise NotImplementedError


class ClearsOutsideTheLock(Scanner):
    """Sees the empty list under the lock, and clears Busy under it another time."""

    async def Work(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        while True:
            irql = await KeAcquireSpinLock(self.Lock)
            if IsListEmpty(self.Requests):
                await KeReleaseSpinLock(self.Lock, irql)
                break
            entry = RemoveHeadList(self.Requests)
            await KeReleaseSpinLock(self.Lock, irql)
            await KeSetEvent(CONTAINING_RECORD(entry).Done)
        irql = await KeAcquireSpinLock(self.Lock)
        self.Busy = False
        await KeReleaseSpinLock(self.Lock, irql)


class ClearsInsideTheLock(Scanner):
    """Clears Busy in the critical section that has seen the empty list: they are one state."""

    async def Work(self, IoObject: DRIVER_OBJECT, Context: object, WorkItem: IO_WORKITEM) -> None:
        while True:
            irql = await KeAcquireSpinLock(self.Lock)
            if IsListEmpty(self.Requests):
                self.Busy = False
                await KeReleaseSpinLock(self.Lock, irql)
                return
            entry = RemoveHeadList(self.Requests)
            await KeReleaseSpinLock(self.Lock, irql)
            await KeSetEvent(CONTAINING_RECORD(entry).Done)


@scenario(variants={"buggy": ClearsOutsideTheLock, "fixed": ClearsInsideTheLock}, expects={"buggy": "ke.hang"})
async def queue_if_idle(world: World, driver: type[Driver]) -> None:
    """Two programs each have something scanned."""
    loaded = await world.load(driver, altitude="328010")
    scanner = loaded.driver
    assert isinstance(scanner, Scanner)

    async def scan() -> None:
        await scanner.Scan()

    await world.together(scan(), scan())
