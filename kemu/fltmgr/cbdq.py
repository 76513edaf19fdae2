"""Cancel-safe callback data queues (FLT-CBDQ).

The driver supplies list and lock; the filter manager brackets the list routines with the lock and sees to it that
exactly one party gets an entry: a remover, or the cancellation (FLT-CBDQ-12).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.messages import QueueCallback
from kemu.fltmgr.objects import Instance, hold, let_go
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, frame_of
from kemu.nt.driver import DriverActor, crashed, routine_name, status_of
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import KernelObject, routine
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_FLT_CBDQ_DISABLED, STATUS_SUCCESS
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, current_system, report
from kemu.runtime import Cell, Operation, Point, Thread, current_thread

InsertIo = Callable[["FLT_CALLBACK_DATA_QUEUE", FLT_CALLBACK_DATA, Any], Awaitable[int]]
RemoveIo = Callable[["FLT_CALLBACK_DATA_QUEUE", FLT_CALLBACK_DATA], Awaitable[None]]
PeekNextIo = Callable[
    ["FLT_CALLBACK_DATA_QUEUE", "FLT_CALLBACK_DATA | None", Any], Awaitable["FLT_CALLBACK_DATA | None"]
]
Acquire = Callable[["FLT_CALLBACK_DATA_QUEUE"], Awaitable[Any]]
Release = Callable[["FLT_CALLBACK_DATA_QUEUE", Any], Awaitable[None]]
CompleteCanceledIo = Callable[["FLT_CALLBACK_DATA_QUEUE", FLT_CALLBACK_DATA], Awaitable[None]]


class FLT_CALLBACK_DATA_IO_CONTEXT(KernelObject, Storage):
    """Identifies one entry, also after it has left the queue (FLT-CBDQ-13). May lie in a structure of the driver's."""

    __slots__ = ("frame", "label", "words")

    storage_size: ClassVar[int] = 40

    def __init__(self, label: str = "I/O context") -> None:
        self.label = label
        self.frame: Frame | None = None
        self.words = ""
        """What has happened to its memory."""

    def still_active(self) -> Leftover | None:
        frame = self.frame
        queue = frame.cbdq if frame is not None else None
        if frame is None or not isinstance(queue, FLT_CALLBACK_DATA_QUEUE) or queue.entries.get(frame) is not self:
            return None
        current_thread().read(queue)
        return Leftover(
            "cbdq-context-lifetime", f"{self.label}, with which {frame.operation.label} is in {queue.label}"
        )

    def storage_freed(self, words: str) -> None:
        self.words = words


class FLT_CALLBACK_DATA_QUEUE(Cell, Storage):
    """Storage for a queue; `FltCbdqInitialize` makes one of it."""

    storage_size: ClassVar[int] = 136

    __slots__ = (
        "acquire",
        "actor",
        "complete_canceled",
        "disabled",
        "entries",
        "insert",
        "instance",
        "peek",
        "release",
        "remove",
    )

    def __init__(self, label: str = "callback data queue") -> None:
        super().__init__(current_thread(), label)
        self.instance: Instance | None = None
        self.actor: DriverActor | None = None
        self.disabled = False
        self.entries: dict[Frame, FLT_CALLBACK_DATA_IO_CONTEXT | None] = {}
        """What is in the queue and still armed for cancellation, oldest first."""
        self.insert: InsertIo | None = None
        self.remove: RemoveIo | None = None
        self.peek: PeekNextIo | None = None
        self.acquire: Acquire | None = None
        self.release: Release | None = None
        self.complete_canceled: CompleteCanceledIo | None = None

    def still_active(self) -> Leftover | None:
        current_thread().read(self)
        if not self.entries:
            return None
        return Leftover("cbdq-context-lifetime", f"{self.label}, which holds {len(self.entries)} operations")


@routine(
    "fltkernel",
    """NTSTATUS FltCbdqInitialize(_In_ PFLT_INSTANCE Instance, _Inout_ PFLT_CALLBACK_DATA_QUEUE Cbdq,
       _In_ PFLT_CALLBACK_DATA_QUEUE_INSERT_IO CbdqInsertIo, _In_ PFLT_CALLBACK_DATA_QUEUE_REMOVE_IO CbdqRemoveIo,
       _In_ PFLT_CALLBACK_DATA_QUEUE_PEEK_NEXT_IO CbdqPeekNextIo, _In_ PFLT_CALLBACK_DATA_QUEUE_ACQUIRE CbdqAcquire,
       _In_ PFLT_CALLBACK_DATA_QUEUE_RELEASE CbdqRelease,
       _In_ PFLT_CALLBACK_DATA_QUEUE_COMPLETE_CANCELED_IO CbdqCompleteCanceledIo)""",
)
async def FltCbdqInitialize(
    Instance: Instance,
    Cbdq: FLT_CALLBACK_DATA_QUEUE,
    CbdqInsertIo: InsertIo,
    CbdqRemoveIo: RemoveIo,
    CbdqPeekNextIo: PeekNextIo,
    CbdqAcquire: Acquire,
    CbdqRelease: Release,
    CbdqCompleteCanceledIo: CompleteCanceledIo,
) -> NTSTATUS:
    """Bind the driver's six routines to a queue for *Instance*; the queue is enabled (FLT-CBDQ-01). IRQL: any.

    *CbdqAcquire* returns the old IRQL (or anything), which *CbdqRelease* gets back (FLT-CBDQ-23).
    """
    current_thread().write(Cbdq)
    Cbdq.instance = Instance
    Cbdq.actor = Instance.filter.driver
    Cbdq.insert, Cbdq.remove, Cbdq.peek = CbdqInsertIo, CbdqRemoveIo, CbdqPeekNextIo
    Cbdq.acquire, Cbdq.release, Cbdq.complete_canceled = CbdqAcquire, CbdqRelease, CbdqCompleteCanceledIo
    Cbdq.disabled = False
    Instance.queues.append(Cbdq)
    return STATUS_SUCCESS


async def _call(queue: FLT_CALLBACK_DATA_QUEUE, callback: Callable[..., Awaitable[Any]] | None, *arguments: Any) -> Any:
    """Call one of the driver's routines. Acquire and Release change the lock state on purpose: no exit check."""
    if callback is None or queue.actor is None:
        report("cbdq-uninitialised", f"{queue.label} is used before FltCbdqInitialize")
        return None
    thread = current_kthread()
    thread.actors.append(queue.actor)
    try:
        result = await callback(queue, *arguments)
    except Exception as error:
        crashed(queue.actor, routine_name(callback), error)
        raise
    thread.actors.pop()
    log = thread.runtime.log
    if log is not None:
        log("msg.send", to=queue.actor.label, message=QueueCallback(routine_name(callback), ()))
    return result


class Arm(Operation[bool]):
    """Make a new entry cancellable; false if the operation was cancelled before."""

    __slots__ = ("context", "frame", "queue")
    kind = "FltCbdqInsertIo"

    def __init__(
        self, queue: FLT_CALLBACK_DATA_QUEUE, frame: Frame, context: FLT_CALLBACK_DATA_IO_CONTEXT | None
    ) -> None:
        self.queue = queue
        self.frame = frame
        self.context = context

    def perform(self, thread: Thread) -> bool:
        queue, frame, context = self.queue, self.frame, self.context
        cancel = frame.operation.request.cancel
        thread.write(cancel)
        thread.write(queue)
        thread.exchange(cancel)
        frame.handed = True
        frame.queue_failed = None
        if context is not None:
            context.frame = frame
        log = thread.runtime.log
        if log is not None:
            log("flt.queue", frame=frame, status=STATUS_SUCCESS)
        if cancel.requested:
            return False
        frame.cbdq = queue
        queue.entries[frame] = context

        async def cancelled() -> None:
            await _cancel(queue, frame)

        cancel.routine = cancelled
        return True

    def target(self) -> Cell:
        return self.queue


class Disarm(Operation[bool]):
    """Take an entry out of reach of its cancellation; false if the cancellation has it."""

    __slots__ = ("frame", "queue")
    kind = "FltCbdqRemoveIo"

    def __init__(self, queue: FLT_CALLBACK_DATA_QUEUE, frame: Frame) -> None:
        self.queue = queue
        self.frame = frame

    def perform(self, thread: Thread) -> bool:
        queue, frame = self.queue, self.frame
        cancel = frame.operation.request.cancel
        thread.write(cancel)
        thread.write(queue)
        thread.exchange(cancel)
        if frame.cbdq is not queue or cancel.routine is None:
            return False
        cancel.routine = None
        frame.cbdq = None
        del queue.entries[frame]
        frame.remember().dequeued = thread.runtime.clock.read(thread)
        if thread in frame.inside:
            # The callback that inserted the operation has taken it back itself.
            frame.handed = False
        log = thread.runtime.log
        if log is not None:
            log("flt.dequeue", frame=frame)
        return True

    def target(self) -> Cell:
        return self.queue


async def _cancel(queue: FLT_CALLBACK_DATA_QUEUE, frame: Frame) -> None:
    """The cancellation has an entry: unlink it under the lock, then let the driver complete it (FLT-CBDQ-09)."""
    data = frame.data
    assert data is not None
    thread = current_thread()
    instance = frame.instance
    frame.cancel_taken = True
    frame.canceller = thread
    # The driver's routine may go on after it has completed the operation: it keeps the instance itself.
    hold(thread, instance, thread.label)
    frame.cbdq = None
    queue.entries.pop(frame, None)
    irql = await _call(queue, queue.acquire)
    await _call(queue, queue.remove, data)
    await _call(queue, queue.release, irql)
    await _call(queue, queue.complete_canceled, data)
    frame.canceller = None
    let_go(thread, instance, thread.label)


@routine(
    "fltkernel",
    """NTSTATUS FltCbdqInsertIo(_Inout_ PFLT_CALLBACK_DATA_QUEUE Cbdq, _In_ PFLT_CALLBACK_DATA Cbd,
       _In_opt_ PFLT_CALLBACK_DATA_IO_CONTEXT Context, _In_opt_ PVOID InsertContext)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltCbdqInsertIo(
    Cbdq: FLT_CALLBACK_DATA_QUEUE,
    Cbd: FLT_CALLBACK_DATA,
    Context: FLT_CALLBACK_DATA_IO_CONTEXT | None = None,
    InsertContext: Any = None,
) -> NTSTATUS:
    """Put an operation into the queue.

    Returns InsertIo's status, or STATUS_FLT_CBDQ_DISABLED (FLT-CBDQ-05). After a success the operation may be
    removed, completed or cancelled at any moment, even before this returns; an operation that was cancelled before
    is cancelled inside the call (FLT-CBDQ-08). The callback must return FLT_PREOP_PENDING after a success and must
    not after a failure (FLT-CBDQ-07). IRQL: <= DISPATCH_LEVEL with a spin lock, else <= APC_LEVEL.
    Findings: ``cbdq-non-irp``, ``cbdq-wrong-instance``.
    """
    frame = owned_frame(Cbd)
    current_system().get(FilterManager).observer.inserting(frame, Cbdq)
    irql = await _call(Cbdq, Cbdq.acquire)
    current_thread().read(Cbdq)
    if Cbdq.disabled:
        frame.queue_failed = "FltCbdqInsertIo"
        await _call(Cbdq, Cbdq.release, irql)
        return STATUS_FLT_CBDQ_DISABLED
    returned = await _call(Cbdq, Cbdq.insert, Cbd, InsertContext)
    assert Cbdq.actor is not None
    assert Cbdq.insert is not None
    status = status_of(Cbdq.actor, "InsertIo", Cbdq.insert, returned)
    if not NT_SUCCESS(status):
        frame.queue_failed = "FltCbdqInsertIo"
        await _call(Cbdq, Cbdq.release, irql)
        return status
    armed = await Arm(Cbdq, frame, Context)
    current_system().get(FilterManager).observer.inserted(frame, Cbdq)
    if not armed:
        frame.cancel_taken = True
        await _call(Cbdq, Cbdq.remove, Cbd)
    await _call(Cbdq, Cbdq.release, irql)
    if not armed:
        await _call(Cbdq, Cbdq.complete_canceled, Cbd)
    # From here on nothing of the operation may be touched, by kemu either: the driver may have freed it all.
    await Point(f"return from inserting into {Cbdq.label}", Cbdq)
    return status


@routine(
    "fltkernel",
    """PFLT_CALLBACK_DATA FltCbdqRemoveNextIo(_Inout_ PFLT_CALLBACK_DATA_QUEUE Cbdq, _In_opt_ PVOID PeekContext)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltCbdqRemoveNextIo(Cbdq: FLT_CALLBACK_DATA_QUEUE, PeekContext: Any = None) -> FLT_CALLBACK_DATA | None:
    """Remove the first matching operation that is not cancelled, or return None (FLT-CBDQ-11, FLT-CBDQ-22).

    The caller owns what it gets and must complete it. IRQL: as FltCbdqInsertIo.
    """
    irql = await _call(Cbdq, Cbdq.acquire)
    found: FLT_CALLBACK_DATA | None = None
    while True:
        found = await _call(Cbdq, Cbdq.peek, found, PeekContext)
        if found is None:
            break
        if await Disarm(Cbdq, frame_of(found)):
            await _call(Cbdq, Cbdq.remove, found)
            break
    await _call(Cbdq, Cbdq.release, irql)
    return found


@routine(
    "fltkernel",
    """PFLT_CALLBACK_DATA FltCbdqRemoveIo(_Inout_ PFLT_CALLBACK_DATA_QUEUE Cbdq,
       _In_ PFLT_CALLBACK_DATA_IO_CONTEXT Context)""",
    max_irql=DISPATCH_LEVEL,
)
async def FltCbdqRemoveIo(
    Cbdq: FLT_CALLBACK_DATA_QUEUE, Context: FLT_CALLBACK_DATA_IO_CONTEXT
) -> FLT_CALLBACK_DATA | None:
    """Remove the operation that was inserted with *Context*, or return None if it is gone (FLT-CBDQ-11).

    IRQL: as FltCbdqInsertIo.
    """
    irql = await _call(Cbdq, Cbdq.acquire)
    if Context.words:
        current_thread().read(Cbdq)
        report("ke.use-after-free", f"FltCbdqRemoveIo with {Context.label}, {Context.words}")
    frame = Context.frame
    found: FLT_CALLBACK_DATA | None = None
    if frame is not None and await Disarm(Cbdq, frame):
        found = frame.data
        await _call(Cbdq, Cbdq.remove, found)
    await _call(Cbdq, Cbdq.release, irql)
    return found


@routine("fltkernel", "VOID FltCbdqDisable(_Inout_ PFLT_CALLBACK_DATA_QUEUE Cbdq)", max_irql=DISPATCH_LEVEL)
async def FltCbdqDisable(Cbdq: FLT_CALLBACK_DATA_QUEUE) -> None:
    """Make later inserts fail; what is in the queue stays there (FLT-CBDQ-16, FLT-ORD-13).

    IRQL: as FltCbdqInsertIo.
    """
    irql = await _call(Cbdq, Cbdq.acquire)
    current_thread().write(Cbdq)
    Cbdq.disabled = True
    await _call(Cbdq, Cbdq.release, irql)


@routine("fltkernel", "VOID FltCbdqEnable(_Inout_ PFLT_CALLBACK_DATA_QUEUE Cbdq)", max_irql=DISPATCH_LEVEL)
async def FltCbdqEnable(Cbdq: FLT_CALLBACK_DATA_QUEUE) -> None:
    """Allow inserts again (FLT-CBDQ-16). IRQL: as FltCbdqInsertIo."""
    irql = await _call(Cbdq, Cbdq.acquire)
    current_thread().write(Cbdq)
    Cbdq.disabled = False
    await _call(Cbdq, Cbdq.release, irql)
