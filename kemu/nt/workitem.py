"""The kernel's work items: those of the I/O manager, which are bound to a device or driver, and bare ones (KE-WORK)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol, cast, runtime_checkable

from kemu.nt.bugcheck import (
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    WORKER_INVALID,
    BugCheck,
)
from kemu.nt.callout import WORKER_ROUTINE
from kemu.nt.deferred import Deferred, run_deferred
from kemu.nt.driver import DRIVER_OBJECT, DriverActor, current_driver, routine_name
from kemu.nt.kthread import DISPATCH_LEVEL
from kemu.nt.routine import routine
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, current_system, report, resources_fail
from kemu.nt.work import (
    CriticalWorkQueue,
    DelayedWorkQueue,
    WorkerPool,
    WorkItem,
    check_kernel_queue_type,
    free_item,
    queue_item,
)
from kemu.runtime import Operation, Point, Thread, current_thread

WorkerRoutine = Callable[..., Awaitable[None]]

SIZE: Final = 0x58
"""What IoSizeofWorkItem returns, as on x64."""


@runtime_checkable
class Device(Protocol):
    """A device object, as far as work items are concerned."""

    DriverObject: DRIVER_OBJECT

    def reference(self, thread: Thread) -> None:
        """Keep the device and its driver, inside the step of *thread*."""
        ...

    def dereference(self, thread: Thread) -> None:
        """The reverse."""
        ...


class KernelWorkItems:
    """The kernel's work items of each driver that are in use, oldest first."""

    def __init__(self) -> None:
        self.allocated: dict[IO_WORKITEM, None] = {}
        self.bare: dict[WORK_QUEUE_ITEM, None] = {}

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """Items that *driver* has queued and that are not over, and those that it has not freed (KE-WORK-07)."""
        thread = current_thread()
        for item in sorted(self.bare, key=lambda item: item.name):
            if item.driver is driver:
                thread.read(item)
                if item.queued or item.running:
                    state = "queued" if item.queued else "running"
                    stop = BugCheck(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS)
                    yield Leftover("ke.work-left", f"{item.label} {state}", stop)
        for item in sorted(self.allocated, key=lambda item: item.name):
            if item.driver is driver:
                yield Leftover("ke.work-leak", f"a {item.label}")


class IO_WORKITEM(WorkItem, Storage):
    """A work item of IoAllocateWorkItem, or storage for one that IoInitializeWorkItem makes."""

    __slots__ = ("allocated", "io_object")

    storage_size = SIZE

    def __init__(self, label: str = "work item") -> None:
        super().__init__(label)
        self.io_object: DRIVER_OBJECT | Device | None = None
        """What the item belongs to; None for storage that is not initialised."""
        self.allocated = False

    @property
    def driver_object(self) -> DRIVER_OBJECT:
        """The driver that the item belongs to."""
        io_object = self.io_object
        assert io_object is not None
        return io_object if isinstance(io_object, DRIVER_OBJECT) else io_object.DriverObject


class WORK_QUEUE_ITEM(WorkItem, Storage):
    """Storage for a bare work item; `ExInitializeWorkItem` makes one of it. Nothing keeps the driver for it."""

    __slots__ = ("Parameter", "WorkerRoutine", "running")

    storage_size = 32

    def __init__(self, label: str = "work queue item") -> None:
        super().__init__(label)
        self.WorkerRoutine: WorkerRoutine | None = None
        self.Parameter: Any = None
        self.running = 0
        """How many runs of its routine have begun and not ended."""


def work_of(item: WorkItem, context: object) -> Deferred:
    """What a worker carries out that runs *item* with *context*."""
    code = "ke.work-lifetime"
    return Deferred("work item", item, context, code)


def initialise_io_item(item: IO_WORKITEM, io_object: Any, name: str) -> None:
    """Bind *item* to *io_object*; bug check 0xE4 if that is neither a device nor a driver object (KE-WORK-08)."""
    if not isinstance(io_object, DRIVER_OBJECT | Device):
        what = "NULL" if io_object is None else f"a {type(io_object).__name__}"
        report(
            "ke.bad-pointer",
            f"{name} was given {what} as IoObject, which takes a device or driver object",
            BugCheck(WORKER_INVALID, (3,)),
        )
    current_thread().write(item)
    item.io_object = io_object
    item.driver = item.driver_object.actor
    item.label = f"work item of {item.driver_object.name}"


def checked_routine(given: object, name: str) -> None:
    """Bug check 0xE4 for a worker routine that is none."""
    if not callable(given):
        what = "NULL" if given is None else f"a {type(given).__name__}"
        stop = BugCheck(WORKER_INVALID, (7,))
        report("ke.bad-pointer", f"{name} was given {what} as WorkerRoutine, which takes a function", stop)


def checked_io_item(item: IO_WORKITEM, where: str) -> IO_WORKITEM:
    """Return *item* if it was initialised; finding ``ke.uninitialised`` otherwise."""
    if item.io_object is None and not item.freed:
        report("ke.uninitialised", f"{where} on {item.label}, which IoInitializeWorkItem has not initialised")
    return item


@routine("wdm", "PIO_WORKITEM IoAllocateWorkItem(_In_ PVOID IoObject)", max_irql=DISPATCH_LEVEL)
async def IoAllocateWorkItem(IoObject: Any) -> IO_WORKITEM | None:
    """Allocate a work item for a device or driver object, or None where low resources are explored (KE-WORK-09).

    IRQL: <= DISPATCH_LEVEL. Another object: bug check 0xE4 (KE-WORK-08). One that is not freed before the driver is
    unloaded is finding ``ke.work-leak``.
    """
    if resources_fail("IoAllocateWorkItem"):
        return None
    item = IO_WORKITEM()
    initialise_io_item(item, IoObject, "IoAllocateWorkItem")
    item.allocated = True
    current_system().get(KernelWorkItems).allocated[item] = None
    return item


@routine("wdm", "ULONG IoSizeofWorkItem(VOID)", max_irql=DISPATCH_LEVEL)
def IoSizeofWorkItem() -> int:
    """The size of a work item's storage, for arithmetic; the storage itself is an `IO_WORKITEM`.

    IRQL: <= DISPATCH_LEVEL.
    """
    return SIZE


@routine("wdm", "VOID IoInitializeWorkItem(_In_ PVOID IoObject, _In_ PIO_WORKITEM IoWorkItem)")
def IoInitializeWorkItem(IoObject: Any, IoWorkItem: IO_WORKITEM) -> None:
    """Make a work item of storage of the driver's own (KE-WORK-09). IRQL: any."""
    if IoWorkItem.queued:
        report("ke.work-requeued", f"{IoWorkItem.label} was initialised again while it is queued")
    initialise_io_item(IoWorkItem, IoObject, "IoInitializeWorkItem")
    IoWorkItem.freed = False


@routine("wdm", "VOID IoUninitializeWorkItem(_In_ PIO_WORKITEM IoWorkItem)")
async def IoUninitializeWorkItem(IoWorkItem: IO_WORKITEM) -> None:
    """Undo IoInitializeWorkItem; the item must not be queued (KE-WORK-05). IRQL: any."""
    checked_io_item(IoWorkItem, "IoUninitializeWorkItem")
    if IoWorkItem.allocated:
        report("workitem-kind-mismatch", f"IoUninitializeWorkItem of {IoWorkItem.label}, which was allocated")
    free_item(IoWorkItem, "IoUninitializeWorkItem")
    IoWorkItem.io_object = None


@routine("wdm", "VOID IoFreeWorkItem(_In_ PIO_WORKITEM IoWorkItem)", max_irql=DISPATCH_LEVEL)
async def IoFreeWorkItem(IoWorkItem: IO_WORKITEM) -> None:
    """Free a work item that is not queued; its own routine may do so (KE-WORK-04). IRQL: <= DISPATCH_LEVEL.

    Findings: ``ke.work-freed-queued``, ``workitem-double-free``, ``workitem-kind-mismatch``.
    """
    checked_io_item(IoWorkItem, "IoFreeWorkItem")
    if not IoWorkItem.allocated:
        report("workitem-kind-mismatch", f"IoFreeWorkItem of {IoWorkItem.label}, which was not allocated")
    free_item(IoWorkItem, "IoFreeWorkItem")
    current_system().get(KernelWorkItems).allocated.pop(IoWorkItem, None)


@routine(
    "wdm",
    """VOID IoQueueWorkItem(_In_ PIO_WORKITEM IoWorkItem, _In_ PIO_WORKITEM_ROUTINE WorkerRoutine,
       _In_ WORK_QUEUE_TYPE QueueType, _In_opt_ PVOID Context)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoQueueWorkItem(IoWorkItem: IO_WORKITEM, WorkerRoutine: WorkerRoutine, QueueType: int, Context: Any) -> None:
    """Have a system worker run ``WorkerRoutine(DeviceObject, Context)`` at PASSIVE_LEVEL.

    The device is referenced until the routine has returned, so that its driver stays loaded (KE-WORK-07). The routine
    may run, and end, before this returns (KE-WORK-15). IRQL: <= DISPATCH_LEVEL. Findings: ``ke.work-requeued``,
    ``ke.work-object`` for an item that belongs to no device, ``ke.work-queue-type``, ``ke.work-queue-invalid``.
    """
    item = checked_io_item(IoWorkItem, "IoQueueWorkItem")
    if item.io_object is not None and isinstance(item.io_object, DRIVER_OBJECT):
        report("ke.work-object", f"IoQueueWorkItem of {item.label}, which was allocated with a driver object")
    await queue_io_item(item, WorkerRoutine, QueueType, Context, "IoQueueWorkItem", (item.io_object, Context))


@routine(
    "wdm",
    """VOID IoQueueWorkItemEx(_Inout_ PIO_WORKITEM IoWorkItem, _In_ PIO_WORKITEM_ROUTINE_EX WorkerRoutine,
       _In_ WORK_QUEUE_TYPE QueueType, _In_opt_ PVOID Context)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoQueueWorkItemEx(
    IoWorkItem: IO_WORKITEM, WorkerRoutine: WorkerRoutine, QueueType: int, Context: Any
) -> None:
    """Have a system worker run ``WorkerRoutine(IoObject, Context, IoWorkItem)`` at PASSIVE_LEVEL.

    IRQL: <= DISPATCH_LEVEL. Queueing an item that is queued: finding ``ke.work-requeued``, bug check 0xE4 (KE-WORK-04).
    The filter manager does not know the item and unloads the driver without it: a routine that is not over by then is
    finding ``unload-foreign-callback`` (FLT-UNLOAD-17).
    """
    item = checked_io_item(IoWorkItem, "IoQueueWorkItemEx")
    arguments = (item.io_object, Context, item)
    await queue_io_item(item, WorkerRoutine, QueueType, Context, "IoQueueWorkItemEx", arguments)


async def queue_io_item(
    item: IO_WORKITEM, work: WorkerRoutine, queue_type: int, context: Any, name: str, arguments: tuple[Any, ...]
) -> None:
    """What the two routines above come to."""
    checked_routine(work, name)
    check_kernel_queue_type(queue_type, (DelayedWorkQueue,), name)
    io_object = item.io_object
    driver = item.driver
    assert driver is not None
    # A filter's unload has a finding of its own for items that the filter manager does not know.
    code = "unload-foreign-callback" if driver.is_minifilter else "ke.unload-running"

    async def run() -> None:
        await run_deferred(driver, routine_name(work), work, arguments, work_of(item, context), WORKER_ROUTINE, code)
        if not isinstance(io_object, DRIVER_OBJECT) and io_object is not None:
            io_object.dereference(current_thread())

    await QueueIoItem(item, queue_type, run)
    await Point(f"return from queueing {item.label}", item)


class QueueIoItem(Operation[None]):
    """Put a work item on a queue, and keep its device for it."""

    __slots__ = ("item", "queue_type", "run")
    kind = "queue"

    def __init__(self, item: IO_WORKITEM, queue_type: int, run: Callable[[], Awaitable[None]]) -> None:
        self.item = item
        self.queue_type = queue_type
        self.run = run

    def perform(self, thread: Thread) -> None:
        io_object = self.item.io_object
        current_system().get(WorkerPool).insert(thread, self.item, self.queue_type, self.run)
        if isinstance(io_object, Device):
            io_object.reference(thread)

    def target(self) -> IO_WORKITEM:
        return self.item


@routine(
    "wdm",
    """VOID ExInitializeWorkItem(_Inout_ PWORK_QUEUE_ITEM Item, _In_ PWORKER_THREAD_ROUTINE Routine,
       _In_opt_ PVOID Context)""",
)
def ExInitializeWorkItem(Item: WORK_QUEUE_ITEM, Routine: WorkerRoutine, Context: Any) -> None:
    """Make a bare work item, whose ``Routine(Context)`` a system worker will run. IRQL: any."""
    checked_routine(Routine, "ExInitializeWorkItem")
    if Item.queued:
        report("ke.work-requeued", f"{Item.label} was initialised again while it is queued")
    current_thread().write(Item)
    Item.WorkerRoutine, Item.Parameter = Routine, Context
    Item.driver = current_driver()
    current_system().get(KernelWorkItems).bare[Item] = None


@routine(
    "wdm",
    "VOID ExQueueWorkItem(_Inout_ PWORK_QUEUE_ITEM WorkItem, _In_ WORK_QUEUE_TYPE QueueType)",
    max_irql=DISPATCH_LEVEL,
)
async def ExQueueWorkItem(WorkItem: WORK_QUEUE_ITEM, QueueType: int) -> None:
    """Have a system worker run the routine of *WorkItem* at PASSIVE_LEVEL; CriticalWorkQueue or DelayedWorkQueue.

    Nothing is referenced (KE-WORK-07): a driver that is unloaded before the routine is over leaves ``ke.work-left``,
    bug check 0xCE. Queueing an item that is queued: ``ke.work-requeued``. IRQL: <= DISPATCH_LEVEL.
    """
    work = WorkItem.WorkerRoutine
    if work is None:
        report(
            "ke.uninitialised",
            f"ExQueueWorkItem of {WorkItem.label}, which ExInitializeWorkItem has not initialised",
            BugCheck(WORKER_INVALID, (7,)),
        )
    check_kernel_queue_type(QueueType, (CriticalWorkQueue, DelayedWorkQueue), "ExQueueWorkItem")
    given, context, driver = cast("WorkerRoutine", work), WorkItem.Parameter, WorkItem.driver

    async def run() -> None:
        WorkItem.running += 1
        deferred = work_of(WorkItem, context)
        await run_deferred(driver, routine_name(given), given, (context,), deferred, WORKER_ROUTINE)
        current_thread().write(WorkItem)
        WorkItem.running -= 1

    await queue_item(WorkItem, QueueType, run)
