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
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.kthread import KThread
from kemu.nt.system import Leftover, System, refuse, report
from kemu.runtime import (
    TICKS_PER_SECOND,
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

NormalWorkQueue: Final = 3
BackgroundWorkQueue: Final = 4
RealTimeWorkQueue: Final = 5
SuperCriticalWorkQueue: Final = 6
MaximumWorkQueue: Final = 7
CustomPriorityWorkQueue: Final = 32
"""Plus a priority."""
PRIORITIES: Final = 32
REAL_TIME_PRIORITY: Final = 17
"""The lowest priority that is advised against for work items."""

QUEUE_NAMES: Final = (
    "critical",
    "delayed",
    "hypercritical",
    "normal",
    "background",
    "real-time",
    "supercritical",
    "custom-priority",
)
"""The queues by their types; the last has the items of all custom priorities."""
QUEUE_PRIORITIES: Final = (13, 12, 15, 8, 7, 18, 14, 8)
"""The priorities of their threads (KE-WORK-01), which have no effect."""
FIRST_ORDINAL: Final = -(2**40)
"""What the names of the queues end with, counted down."""


class WorkItem(Cell):
    """A work item: queued, running or idle. Frameworks derive their own kinds."""

    __slots__ = ("driver", "freed", "queued", "run")

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.driver: DriverActor | None = current_driver()
        self.queued = False
        self.freed = False
        self.run: Callable[[], Awaitable[None]] | None = None

    def still_active(self) -> Leftover | None:
        """What is wrong if the memory of the item is freed now (KE-WORK-05)."""
        current_thread().read(self)
        if not self.queued:
            return None
        return Leftover("ke.work-freed-queued", f"{self.label}, which is queued", BugCheck(WORKER_INVALID, (0,)))


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
        thread.priority = self.queue.priority
        budget = self.runtime.system.options.work_budget * TICKS_PER_SECOND
        while True:
            item = await TakeWork(self)
            run = item.run
            assert run is not None
            began = self.runtime.clock.read(thread) if budget else 0
            await run()
            if budget and self.runtime.clock.read(thread) - began > budget:
                took = (self.runtime.clock.now - began) / TICKS_PER_SECOND
                report("ke.work-long", f"{item.label} kept {self.label} for {took:g} s")
            # Being idle again is something that whoever queues next can observe.
            thread.write(self.queue)


class WorkQueue(Waitable):
    """One queue of the pool: items that no worker has taken yet, first in, first out."""

    __slots__ = ("items", "limit", "priority", "queue_name", "system_process", "workers")

    guards = ("items",)

    def __init__(self, creator: Thread, kind: int, limit: int, system_process: Any) -> None:
        # Not the base class's constructor, which takes an ordinal of the creator: a queue comes into being when it is
        # first used, and who did that has no part in its name. Nobody else's ordinals are that low.
        self.creator = creator
        self.ordinal = FIRST_ORDINAL - kind
        self.version = self.written = 0
        self.watchers = []
        if creator.runtime.born is not None:
            creator.runtime.born.append(self)
        self.queue_name = name = QUEUE_NAMES[kind]
        self.label = f"{name} work queue"
        self.priority = QUEUE_PRIORITIES[kind]
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
        freed = thread.runtime.system.freed.get(item)
        if freed is not None:
            report("ke.work-freed-queued", f"{item.label} is to run, {freed}", BugCheck(WORKER_INVALID, (0,)))
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
        self._creator = current_thread()
        self._limit = system.options.worker_threads
        self._system_process = system_process
        self._queues: dict[int, WorkQueue] = {}

    @property
    def queues(self) -> list[WorkQueue]:
        """The queues that were used, by their types."""
        return [self._queues[kind] for kind in sorted(self._queues)]

    def queue(self, queue_type: int) -> WorkQueue:
        """The queue of *queue_type*; all custom priorities have one."""
        kind = min(queue_type, len(QUEUE_NAMES) - 1)
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = WorkQueue(self._creator, kind, self._limit, self._system_process)
        return queue

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
        queue = self.queue(queue_type)
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
    """What is wrong with the work queue that a driver names in a call of *name*, a routine of the filter manager's
    (FLT-WORK-12).
    """
    if queue_type == HyperCriticalWorkQueue:
        report("queue-type-reserved", f"{current_thread().label} queues to HyperCriticalWorkQueue with {name}")
    if queue_type not in {CriticalWorkQueue, DelayedWorkQueue, HyperCriticalWorkQueue}:
        refuse(f"{name} with queue type {queue_type!r}", remedy="use DelayedWorkQueue or CriticalWorkQueue")


def check_kernel_queue_type(queue_type: int, advised: tuple[int, ...], name: str) -> None:
    """What is wrong with the work queue that a driver names in a call of *name*, a kernel routine (KE-WORK-02).

    Findings: ``ke.work-queue-invalid``, bug check 0xE4; ``ke.work-queue-type`` for one that is not for drivers.
    """
    custom = CustomPriorityWorkQueue <= queue_type < CustomPriorityWorkQueue + PRIORITIES
    if not custom and not CriticalWorkQueue <= queue_type < MaximumWorkQueue:
        report("ke.work-queue-invalid", f"{current_thread().label} queues to queue type {queue_type!r} with {name}")
    if queue_type not in advised and not (custom and queue_type < CustomPriorityWorkQueue + REAL_TIME_PRIORITY):
        which = f"priority {queue_type - CustomPriorityWorkQueue}" if custom else f"the {QUEUE_NAMES[queue_type]} queue"
        report("ke.work-queue-type", f"{current_thread().label} queues to {which} with {name}")


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
