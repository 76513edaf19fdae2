"""System worker threads and their queues (KE-WORK).

Workers are created when work finds none of them idle, up to a limit for each queue, and an item goes straight to
an idle worker if there is one. Which of several idle workers that is cannot be observed, so it is not a choice:
otherwise every schedule would be explored once for each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kemu.nt.bugcheck import WORKER_INVALID, BugCheck
from kemu.nt.driver import DRIVER_OBJECT, DriverActor, current_driver, in_driver, routine_name
from kemu.nt.kthread import DISPATCH_LEVEL, KThread
from kemu.nt.routine import routine
from kemu.nt.system import System, refuse, report, resources_fail
from kemu.runtime import (
    Actor,
    BlockingOperation,
    Cell,
    Operation,
    Point,
    Runtime,
    Thread,
    Waitable,
    current_thread,
)

CriticalWorkQueue: Final = 0
DelayedWorkQueue: Final = 1
HyperCriticalWorkQueue: Final = 2

QUEUE_NAMES: Final = ("critical", "delayed", "hypercritical")


class WorkItem(Cell):
    """A work item: queued, running or idle. Frameworks derive their own kinds."""

    __slots__ = ("driver", "freed", "queued", "run")

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.driver: DriverActor | None = current_driver()
        self.queued = False
        self.freed = False
        self.run: Callable[[], Awaitable[None]] | None = None


class Inbox(Waitable):
    """Where an idle worker is handed an item that no other is to take."""

    __slots__ = ("item",)

    guards = ("item",)

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.item: WorkItem | None = None


class Worker(Actor):
    """One system worker thread."""

    kind = "worker"

    def __init__(self, runtime: Runtime, queue: WorkQueue, number: int) -> None:
        super().__init__(runtime, f"wk:{queue.queue_name}#{number}")
        self.queue = queue
        self.idle = False
        self.inbox = Inbox(current_thread(), self.label)
        self.thread = runtime.spawn(self.label, self._serve(), service=True)

    async def _serve(self) -> None:
        thread = current_thread()
        assert isinstance(thread, KThread)
        thread.actors.append(self)
        thread.process = self.queue.system_process
        while True:
            item = await TakeWork(self)
            run = item.run
            assert run is not None
            await run()
            # Being idle again is something that whoever queues next can observe.
            thread.write(self.queue)


class WorkQueue(Waitable):
    """One queue of the pool: items that no worker has taken yet, first in, first out."""

    __slots__ = ("items", "limit", "queue_name", "system_process", "workers")

    guards = ("items",)

    def __init__(self, name: str, limit: int, system_process: Any) -> None:
        super().__init__(current_thread(), f"{name} work queue")
        self.queue_name = name
        self.limit = limit
        self.system_process = system_process
        self.items: deque[WorkItem] = deque()
        self.workers: list[Worker] = []


class TakeWork(BlockingOperation[WorkItem]):
    """Take the next item; an idle worker rests here."""

    __slots__ = ("worker",)
    kind = "take work from"
    idle = True

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.queue, worker.inbox)
        self.worker = worker
        worker.idle = True

    def available(self, thread: Thread) -> bool:
        return self.worker.inbox.item is not None or bool(self.worker.queue.items)

    def take(self, thread: Thread) -> WorkItem:
        worker = self.worker
        thread.write(worker.queue)
        thread.write(worker.inbox)
        item = worker.inbox.item
        if item is None:
            item = worker.queue.items.popleft()
            worker.queue.changed()
        worker.inbox.item = None
        worker.idle = False
        # The item leaves the queue before its routine runs: from now on it may be queued again or freed.
        thread.write(item)
        thread.begin(item)
        thread.use(item)
        item.queued = False
        log = thread.runtime.log
        if log is not None:
            log("work.run", obj=item)
        return item


class WorkerPool:
    """The system worker threads."""

    def __init__(self, system: System, system_process: Any) -> None:
        limit = system.options.worker_threads
        self.queues = [WorkQueue(name, limit, system_process) for name in QUEUE_NAMES]

    def insert(self, thread: Thread, item: WorkItem, queue_type: int, run: Callable[[], Awaitable[None]]) -> None:
        """Put *item* on its queue, inside the caller's step; a worker will call *run*."""
        if item.freed:
            report("ke.use-after-free", f"{thread.label} queues {item.label}, which is free")
        if item.queued:
            report(
                "ke.work-requeued",
                f"{thread.label} queues {item.label}, which is on a queue already",
                BugCheck(WORKER_INVALID, (1,)),
            )
        queue = self.queues[queue_type]
        thread.write(queue)
        thread.write(item)
        thread.release(item)
        item.queued = True
        item.run = run
        log = thread.runtime.log
        if log is not None:
            log("work.queue", obj=item, mbox=queue.label)
        if not queue.items:
            # Otherwise an idle worker is about to take an older item, and the new one must not overtake it.
            for worker in queue.workers:
                if worker.idle and worker.inbox.item is None:
                    thread.write(worker.inbox)
                    worker.inbox.item = item
                    worker.inbox.changed()
                    return
        if len(queue.workers) < queue.limit:
            worker = Worker(thread.runtime, queue, len(queue.workers))
            worker.inbox.item = item
            queue.workers.append(worker)
            return
        queue.items.append(item)
        queue.changed()


class QueueItem(Operation[None]):
    """Put a work item on a queue."""

    __slots__ = ("item", "queue_type", "run")
    kind = "queue"

    def __init__(self, item: WorkItem, queue_type: int, run: Callable[[], Awaitable[None]]) -> None:
        self.item = item
        self.queue_type = queue_type
        self.run = run

    def perform(self, thread: Thread) -> None:
        thread.runtime.system.get(WorkerPool).insert(thread, self.item, self.queue_type, self.run)

    def target(self) -> Cell:
        return self.item


async def queue_item(item: WorkItem, queue_type: int, run: Callable[[], Awaitable[None]]) -> None:
    """Queue *item*. *run* may start, and end, before this returns (KE-WORK-15, FLT-WORK-05)."""
    await QueueItem(item, queue_type, run)
    await Point(f"return from queueing {item.label}", item)


def check_queue_type(queue_type: int, name: str) -> None:
    """What is wrong with the work queue that a driver names in a call of *name* (KE-WORK-02, FLT-WORK-12)."""
    if queue_type == HyperCriticalWorkQueue:
        report("queue-type-reserved", f"{current_thread().label} queues to HyperCriticalWorkQueue with {name}")
    if queue_type not in {CriticalWorkQueue, DelayedWorkQueue, HyperCriticalWorkQueue}:
        refuse(f"{name} with queue type {queue_type!r}", remedy="use DelayedWorkQueue or CriticalWorkQueue")


def free_item(item: WorkItem, name: str) -> None:
    """The findings of freeing *item*, and its end."""
    thread = current_thread()
    thread.write(item)
    if item.freed:
        report("workitem-double-free", f"{name} of {item.label}, which is free already")
    if item.queued:
        report(
            "ke.work-freed-queued",
            f"{name} of {item.label}, which is still on a queue",
            BugCheck(WORKER_INVALID, (2,)),
        )
    thread.end(item)
    item.freed = True


class IO_WORKITEM(WorkItem):
    """A work item of IoAllocateWorkItem."""

    __slots__ = ("driver_object",)

    def __init__(self, driver_object: DRIVER_OBJECT) -> None:
        super().__init__(f"work item of {driver_object.name}")
        self.driver_object = driver_object
        self.driver = driver_object.actor


@routine("wdm", "PIO_WORKITEM IoAllocateWorkItem(_In_ PVOID IoObject)", max_irql=DISPATCH_LEVEL)
async def IoAllocateWorkItem(IoObject: DRIVER_OBJECT) -> IO_WORKITEM | None:
    """Allocate a work item for a driver object, or None where low resources are explored (KE-WORK-09).

    IRQL: <= DISPATCH_LEVEL.
    """
    if resources_fail("IoAllocateWorkItem"):
        return None
    return IO_WORKITEM(IoObject)


@routine(
    "wdm",
    """VOID IoQueueWorkItemEx(_Inout_ PIO_WORKITEM IoWorkItem, _In_ PIO_WORKITEM_ROUTINE_EX WorkerRoutine,
       _In_ WORK_QUEUE_TYPE QueueType, _In_opt_ PVOID Context)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoQueueWorkItemEx(
    IoWorkItem: IO_WORKITEM, WorkerRoutine: Callable[..., Awaitable[None]], QueueType: int, Context: Any
) -> None:
    """Have a system worker run ``WorkerRoutine(IoObject, Context, IoWorkItem)`` at PASSIVE_LEVEL.

    IRQL: <= DISPATCH_LEVEL. Queueing an item that is queued: finding ``ke.work-requeued``, bug check 0xE4 (KE-WORK-04).
    The filter manager does not know the item and unloads the driver without it: a routine that is not over by then is
    finding ``unload-foreign-callback`` (FLT-UNLOAD-17).
    """
    check_queue_type(QueueType, "IoQueueWorkItemEx")
    driver_object = IoWorkItem.driver_object
    name = routine_name(WorkerRoutine)

    async def run() -> None:
        if not driver_object.loaded:
            report("unload-foreign-callback", f"{name} of {driver_object.name} is called, which was unloaded")
        await in_driver(driver_object.actor, name, WorkerRoutine, driver_object, Context, IoWorkItem)
        if not driver_object.loaded:
            report("unload-foreign-callback", f"{name} of {driver_object.name} was running when it was unloaded")

    await queue_item(IoWorkItem, QueueType, run)


@routine("wdm", "VOID IoFreeWorkItem(_In_ PIO_WORKITEM IoWorkItem)", max_irql=DISPATCH_LEVEL)
async def IoFreeWorkItem(IoWorkItem: IO_WORKITEM) -> None:
    """Free a work item that is not queued (KE-WORK-05). IRQL: <= DISPATCH_LEVEL."""
    free_item(IoWorkItem, "IoFreeWorkItem")
