"""Deferred I/O and generic work items (FLT-WORK)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import Filter, Instance, RundownObject, hold, let_go
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.io.constants import IRP_PAGING_IO
from kemu.io.request import IRP_OPERATION
from kemu.nt.driver import DriverActor, in_driver, routine_name
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_NOT_SAFE_TO_POST_OPERATION,
    STATUS_SUCCESS,
)
from kemu.nt.system import Leftover, current_system, refuse, report, resources_fail
from kemu.nt.work import WorkerPool, WorkItem, check_queue_type, free_item
from kemu.runtime import Cell, Operation, Point, Thread, current_thread


class FltWorkItem(WorkItem):
    """A work item of the filter manager's."""

    __slots__ = ()

    def __init__(self, label: str) -> None:
        super().__init__(label)
        current_system().get(WorkItems).alive[self] = None


class FLT_DEFERRED_IO_WORKITEM(FltWorkItem):
    """For one callback data."""

    __slots__ = ()


class FLT_GENERIC_WORKITEM(FltWorkItem):
    """For anything, under a reference on a filter or instance."""

    __slots__ = ()


class WorkItems:
    """The filter manager's work items that are not freed, oldest first."""

    def __init__(self) -> None:
        self.alive: dict[FltWorkItem, None] = {}

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """Those that *driver* has allocated and not freed."""
        for item in self.alive:
            if item.driver is driver:
                yield Leftover("workitem-leak", f"a {item.label}")


def _allocate(kind: type[FltWorkItem], label: str, name: str) -> Any:
    if resources_fail(name):
        return None
    return kind(label)


def _free(item: FltWorkItem, kind: type[FltWorkItem], name: str) -> None:
    if type(item) is not kind:
        report("workitem-kind-mismatch", f"{name} of a {type(item).__name__}")
    free_item(item, name)
    current_system().get(WorkItems).alive.pop(item, None)


@routine(
    "fltkernel",
    "PFLT_DEFERRED_IO_WORKITEM FltAllocateDeferredIoWorkItem(VOID)",
    max_irql=DISPATCH_LEVEL,
)
async def FltAllocateDeferredIoWorkItem() -> FLT_DEFERRED_IO_WORKITEM | None:
    """Allocate a work item for one operation, or None where low resources are explored. IRQL: <= DISPATCH_LEVEL."""
    return _allocate(FLT_DEFERRED_IO_WORKITEM, "deferred work item", "FltAllocateDeferredIoWorkItem")


@routine(
    "fltkernel",
    "VOID FltFreeDeferredIoWorkItem(_In_ PFLT_DEFERRED_IO_WORKITEM FltWorkItem)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("FltWorkItem",),
)
async def FltFreeDeferredIoWorkItem(FltWorkItem: FLT_DEFERRED_IO_WORKITEM) -> None:
    """Free a work item, usually in its own routine. IRQL: <= DISPATCH_LEVEL.

    Findings: ``workitem-double-free``, ``workitem-kind-mismatch``, ``ke.work-freed-queued`` (FLT-WORK-08).
    """
    _free(FltWorkItem, FLT_DEFERRED_IO_WORKITEM, "FltFreeDeferredIoWorkItem")


@routine("fltkernel", "PFLT_GENERIC_WORKITEM FltAllocateGenericWorkItem(VOID)", max_irql=DISPATCH_LEVEL)
async def FltAllocateGenericWorkItem() -> FLT_GENERIC_WORKITEM | None:
    """Allocate a generic work item, or None where low resources are explored. IRQL: <= DISPATCH_LEVEL."""
    return _allocate(FLT_GENERIC_WORKITEM, "generic work item", "FltAllocateGenericWorkItem")


@routine(
    "fltkernel",
    "VOID FltFreeGenericWorkItem(_In_ PFLT_GENERIC_WORKITEM FltWorkItem)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("FltWorkItem",),
)
async def FltFreeGenericWorkItem(FltWorkItem: FLT_GENERIC_WORKITEM) -> None:
    """Free a generic work item. IRQL: <= DISPATCH_LEVEL. Findings as FltFreeDeferredIoWorkItem."""
    _free(FltWorkItem, FLT_GENERIC_WORKITEM, "FltFreeGenericWorkItem")


class QueueDeferred(Operation[NTSTATUS]):
    """Hand an operation over to a work item, unless its instance is going away."""

    __slots__ = ("frame", "item", "queue_type", "run")
    kind = "FltQueueDeferredIoWorkItem"

    def __init__(self, item: WorkItem, frame: Frame, queue_type: int, run: Callable[[], Awaitable[None]]) -> None:
        self.item = item
        self.frame = frame
        self.queue_type = queue_type
        self.run = run

    def perform(self, thread: Thread) -> NTSTATUS:
        frame = self.frame
        thread.read(frame.instance)
        thread.write(frame)
        request = frame.operation.request
        status = STATUS_SUCCESS
        if (
            request.kind != IRP_OPERATION
            or request.flags & IRP_PAGING_IO
            or current_kthread().top_level_irp is not None
        ):
            status = STATUS_FLT_NOT_SAFE_TO_POST_OPERATION
        elif frame.instance.deleting:
            status = STATUS_FLT_DELETING_OBJECT
        log = thread.runtime.log
        if log is not None:
            log("flt.queue", frame=frame, status=status)
        if status != STATUS_SUCCESS:
            frame.queue_failed = self.kind
            return status
        frame.queue_failed = None
        frame.handed = True
        system = current_system()
        system.get(WorkerPool).insert(thread, self.item, self.queue_type, self.run)
        hold(thread, frame.instance, self.item.label)
        system.get(FilterManager).observer.queued(frame, self.item, self.queue_type)
        return status

    def target(self) -> Cell:
        return self.frame


@routine(
    "fltkernel",
    """NTSTATUS FltQueueDeferredIoWorkItem(_In_ PFLT_DEFERRED_IO_WORKITEM FltWorkItem, _In_ PFLT_CALLBACK_DATA Data,
       _In_ PFLT_DEFERRED_IO_WORKITEM_ROUTINE WorkerRoutine, _In_ WORK_QUEUE_TYPE QueueType, _In_opt_ PVOID Context)""",
    max_irql=DISPATCH_LEVEL,
    unchecked=("FltWorkItem",),
)
async def FltQueueDeferredIoWorkItem(
    FltWorkItem: FLT_DEFERRED_IO_WORKITEM,
    Data: FLT_CALLBACK_DATA,
    WorkerRoutine: Callable[..., Awaitable[None]],
    QueueType: int,
    Context: Any,
) -> NTSTATUS:
    """Have a system worker run ``WorkerRoutine(FltWorkItem, Data, Context)`` at PASSIVE_LEVEL.

    After STATUS_SUCCESS the operation is the worker's, which may even have completed it before this returns
    (FLT-WORK-05); the callback must return FLT_PREOP_PENDING and leave *Data* alone (FLT-WORK-06). It fails with
    STATUS_FLT_NOT_SAFE_TO_POST_OPERATION for operations that are no IRPs (FLT-WORK-02), for paging I/O and under a
    top-level IRP, and with STATUS_FLT_DELETING_OBJECT while the instance is torn down (FLT-WORK-03); then nothing
    was queued. IRQL: <= DISPATCH_LEVEL. Findings: ``queue-type-reserved``, ``workitem-kind-mismatch``,
    ``ke.work-requeued``, ``cbd-use-after-release``.
    """
    frame = owned_frame(Data)
    actor = frame.node.filter.driver
    instance = frame.instance
    name = routine_name(WorkerRoutine)
    label = FltWorkItem.label
    current_system().get(FilterManager).observer.queueing(frame, FltWorkItem, QueueType)
    check_queue_type(QueueType, "FltQueueDeferredIoWorkItem")

    async def run() -> None:
        await in_driver(actor, name, WorkerRoutine, FltWorkItem, Data, Context)
        # The operation may be over long before: the routine itself keeps the instance until it has returned.
        let_go(current_thread(), instance, label)

    status = await QueueDeferred(FltWorkItem, frame, QueueType, run)
    if status == STATUS_SUCCESS:
        await Point(f"return from queueing {frame.operation.label}", FltWorkItem)
    return status


@routine(
    "fltkernel",
    """NTSTATUS FltQueueGenericWorkItem(_In_ PFLT_GENERIC_WORKITEM FltWorkItem, _In_ PVOID FltObject,
       _In_ PFLT_GENERIC_WORKITEM_ROUTINE WorkerRoutine, _In_ WORK_QUEUE_TYPE QueueType, _In_opt_ PVOID Context)""",
    max_irql=DISPATCH_LEVEL,
    unchecked=("FltWorkItem",),
)
async def FltQueueGenericWorkItem(
    FltWorkItem: FLT_GENERIC_WORKITEM,
    FltObject: RundownObject,
    WorkerRoutine: Callable[..., Awaitable[None]],
    QueueType: int,
    Context: Any,
) -> NTSTATUS:
    """Have a system worker run ``WorkerRoutine(FltWorkItem, FltObject, Context)`` at PASSIVE_LEVEL.

    A reference on *FltObject* (filter or instance) is held until the routine has returned (FLT-WORK-10), so that
    the unload waits for it. STATUS_FLT_DELETING_OBJECT while the driver is being unloaded (FLT-WORK-11).
    IRQL: <= DISPATCH_LEVEL. Findings: ``queue-type-reserved``, ``workitem-kind-mismatch``, ``ke.work-requeued``.
    """
    filter_: object = FltObject.filter if isinstance(FltObject, Instance) else FltObject
    if not isinstance(filter_, Filter):
        refuse(
            f"FltQueueGenericWorkItem for {FltObject!r}, which is a {type(FltObject).__name__}",
            remedy="give it a filter or an instance",
        )
    if type(FltWorkItem) is not FLT_GENERIC_WORKITEM:
        report("workitem-kind-mismatch", f"FltQueueGenericWorkItem of a {type(FltWorkItem).__name__}")
    check_queue_type(QueueType, "FltQueueGenericWorkItem")
    actor = filter_.driver
    name = routine_name(WorkerRoutine)
    who = f"{FltWorkItem.label} of {actor.driver}"

    async def run() -> None:
        await in_driver(actor, name, WorkerRoutine, FltWorkItem, FltObject, Context)
        let_go(current_thread(), FltObject, who)

    if isinstance(FltObject, Instance):
        current_system().get(FilterManager).observer.late_work(FltObject, "a work item")
    if not await QueueGeneric(FltWorkItem, FltObject, filter_, QueueType, run, who):
        return STATUS_FLT_DELETING_OBJECT
    await Point(f"return from queueing {FltWorkItem.label}", FltWorkItem)
    return STATUS_SUCCESS


class QueueGeneric(Operation[bool]):
    """Queue a generic work item and keep its object for it, unless the driver is being unloaded."""

    __slots__ = ("filter", "item", "object", "queue_type", "run", "who")
    kind = "FltQueueGenericWorkItem"

    def __init__(
        self,
        item: FLT_GENERIC_WORKITEM,
        object_: RundownObject,
        filter_: Filter,
        queue_type: int,
        run: Callable[[], Awaitable[None]],
        who: str,
    ) -> None:
        self.item = item
        self.object = object_
        self.filter = filter_
        self.queue_type = queue_type
        self.run = run
        self.who = who

    def perform(self, thread: Thread) -> bool:
        self.object.check_alive(thread, "FltQueueGenericWorkItem")
        thread.read(self.filter)
        if self.filter.deleting:
            return False
        current_system().get(WorkerPool).insert(thread, self.item, self.queue_type, self.run)
        hold(thread, self.object, self.who)
        return True

    def target(self) -> Cell:
        return self.item
