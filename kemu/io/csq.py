"""Cancel-safe IRP queues (KE-CSQ).

The driver supplies list and lock; the framework brackets the list routines with the lock, sets and takes back its own
cancel routine, and sees to it that exactly one party gets an IRP: whoever removes it, or the cancellation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kemu.io.cancel import ExchangeCancelRoutine
from kemu.io.completion import MarkPending
from kemu.io.irp import IRP
from kemu.io.irp_made import Irps
from kemu.io.manager import IoManager
from kemu.io.routines import check_loaded
from kemu.nt.driver import DriverActor, crashed, current_driver, routine_name, status_of
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread, irql_name
from kemu.nt.lock import ReleaseLock
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.spinlock import KSPIN_LOCK
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import current_system, report
from kemu.runtime import Cell, Operation, Point, Thread, current_thread

InsertIrp = Callable[["IO_CSQ", IRP], Awaitable[None]]
InsertIrpEx = Callable[["IO_CSQ", IRP, Any], Awaitable[int]]
RemoveIrp = Callable[["IO_CSQ", IRP], Awaitable[None]]
PeekNextIrp = Callable[["IO_CSQ", "IRP | None", Any], Awaitable["IRP | None"]]
AcquireLock = Callable[["IO_CSQ"], Awaitable[Any]]
ReleaseQueueLock = Callable[["IO_CSQ", Any], Awaitable[None]]
CompleteCanceledIrp = Callable[["IO_CSQ", IRP], Awaitable[None]]


class IO_CSQ_IRP_CONTEXT(Cell):
    """Identifies one IRP in a queue, also after it has left it (KE-CSQ-04)."""

    __slots__ = ("csq", "irp")

    def __init__(self, label: str = "queue context") -> None:
        super().__init__(current_thread(), label)
        self.irp: IRP | None = None
        self.csq: IO_CSQ | None = None


class IO_CSQ(Cell):
    """Storage for a queue; `IoCsqInitialize` makes one of it."""

    __slots__ = (
        "acquire",
        "actor",
        "complete_canceled",
        "initialised",
        "insert",
        "insert_ex",
        "peek",
        "release",
        "remove",
        "thread_level",
    )

    def __init__(self, label: str = "cancel-safe queue") -> None:
        super().__init__(current_thread(), label)
        self.actor: DriverActor | None = None
        self.initialised = False
        self.insert: InsertIrp | None = None
        self.insert_ex: InsertIrpEx | None = None
        self.remove: RemoveIrp | None = None
        self.peek: PeekNextIrp | None = None
        self.acquire: AcquireLock | None = None
        self.release: ReleaseQueueLock | None = None
        self.complete_canceled: CompleteCanceledIrp | None = None
        self.thread_level = False
        """Whether its lock is none that can be taken at DISPATCH_LEVEL (KE-CSQ-06)."""


def _initialise(
    csq: IO_CSQ,
    insert: InsertIrp | None,
    insert_ex: InsertIrpEx | None,
    routines: tuple[RemoveIrp, PeekNextIrp, AcquireLock, ReleaseQueueLock, CompleteCanceledIrp],
) -> NTSTATUS:
    current_thread().write(csq)
    csq.actor = current_driver()
    csq.insert, csq.insert_ex = insert, insert_ex
    csq.remove, csq.peek, csq.acquire, csq.release, csq.complete_canceled = routines
    csq.initialised = True
    return STATUS_SUCCESS


@routine(
    "wdm",
    """NTSTATUS IoCsqInitialize(_Inout_ PIO_CSQ Csq, _In_ PIO_CSQ_INSERT_IRP CsqInsertIrp,
       _In_ PIO_CSQ_REMOVE_IRP CsqRemoveIrp, _In_ PIO_CSQ_PEEK_NEXT_IRP CsqPeekNextIrp,
       _In_ PIO_CSQ_ACQUIRE_LOCK CsqAcquireLock, _In_ PIO_CSQ_RELEASE_LOCK CsqReleaseLock,
       _In_ PIO_CSQ_COMPLETE_CANCELED_IRP CsqCompleteCanceledIrp)""",
)
def IoCsqInitialize(
    Csq: IO_CSQ,
    CsqInsertIrp: InsertIrp,
    CsqRemoveIrp: RemoveIrp,
    CsqPeekNextIrp: PeekNextIrp,
    CsqAcquireLock: AcquireLock,
    CsqReleaseLock: ReleaseQueueLock,
    CsqCompleteCanceledIrp: CompleteCanceledIrp,
) -> NTSTATUS:
    """Bind the driver's six routines to a queue. IRQL: any.

    *CsqAcquireLock* returns the old IRQL (or anything), which *CsqReleaseLock* gets back.
    """
    return _initialise(
        Csq,
        CsqInsertIrp,
        None,
        (CsqRemoveIrp, CsqPeekNextIrp, CsqAcquireLock, CsqReleaseLock, CsqCompleteCanceledIrp),
    )


@routine(
    "wdm",
    """NTSTATUS IoCsqInitializeEx(_Inout_ PIO_CSQ Csq, _In_ PIO_CSQ_INSERT_IRP_EX CsqInsertIrp,
       _In_ PIO_CSQ_REMOVE_IRP CsqRemoveIrp, _In_ PIO_CSQ_PEEK_NEXT_IRP CsqPeekNextIrp,
       _In_ PIO_CSQ_ACQUIRE_LOCK CsqAcquireLock, _In_ PIO_CSQ_RELEASE_LOCK CsqReleaseLock,
       _In_ PIO_CSQ_COMPLETE_CANCELED_IRP CsqCompleteCanceledIrp)""",
)
def IoCsqInitializeEx(
    Csq: IO_CSQ,
    CsqInsertIrp: InsertIrpEx,
    CsqRemoveIrp: RemoveIrp,
    CsqPeekNextIrp: PeekNextIrp,
    CsqAcquireLock: AcquireLock,
    CsqReleaseLock: ReleaseQueueLock,
    CsqCompleteCanceledIrp: CompleteCanceledIrp,
) -> NTSTATUS:
    """As IoCsqInitialize, for a *CsqInsertIrp* that takes a context and may refuse with a status. IRQL: any."""
    return _initialise(
        Csq,
        None,
        CsqInsertIrp,
        (CsqRemoveIrp, CsqPeekNextIrp, CsqAcquireLock, CsqReleaseLock, CsqCompleteCanceledIrp),
    )


async def _call(csq: IO_CSQ, callback: Callable[..., Awaitable[Any]] | None, *arguments: Any) -> Any:
    """Call one of the driver's routines. Those for the lock leave with another IRQL: no exit check."""
    if not callable(callback):
        bad_pointer("IoCsqInitialize", "one of its routines", IO_CSQ, callback)
        return None
    if csq.actor is None:
        return await callback(csq, *arguments)
    thread = current_kthread()
    check_loaded(csq.actor, routine_name(callback))
    thread.actors.append(csq.actor)
    try:
        result = await callback(csq, *arguments)
    except Exception as error:
        crashed(csq.actor, routine_name(callback), error)
        raise
    thread.actors.pop()
    thread.read(csq.actor.presence)
    return result


async def _lock(csq: IO_CSQ) -> Any:
    """Take the queue's lock."""
    thread = current_kthread()
    if thread.irql >= DISPATCH_LEVEL and csq.thread_level:
        report(
            "ke.csq-lock-irql",
            f"{thread.label} comes to {csq.label} at {irql_name(thread.irql)}, whose lock cannot be taken there",
        )
    held = len(thread.locks)
    irql = await _call(csq, csq.acquire)
    csq.thread_level = any(not isinstance(lock, KSPIN_LOCK) for lock in thread.locks[held:])
    return irql


async def _unlock(csq: IO_CSQ, irql: Any) -> None:
    await _call(csq, csq.release, irql)


class EnterQueue(Operation[None]):
    """An IRP becomes one that a queue holds."""

    __slots__ = ("context", "csq", "irp")
    kind = "insert into"

    def __init__(self, csq: IO_CSQ, irp: IRP, context: IO_CSQ_IRP_CONTEXT | None) -> None:
        self.csq = csq
        self.irp = irp
        self.context = context

    def perform(self, thread: Thread) -> None:
        irp, context = self.irp, self.context
        irp.used(f"is inserted into {self.csq.label}", writes=True)
        if context is not None:
            thread.write(context)
            if context.irp is not None:
                report(
                    "ke.csq-context",
                    f"{thread.label} uses {context.label} for {irp.label} while it stands for {context.irp.label}",
                )
            context.irp, context.csq = irp, self.csq
        irp.Tail.Overlay._context[3] = context if context is not None else self.csq  # pyright: ignore[reportPrivateUsage]
        irp.csq = self.csq
        code = "ke.csq-after-insert"
        irp.last_call[thread] = code

    def target(self) -> Cell:
        return self.csq


def _leave(csq: IO_CSQ, irp: IRP) -> None:
    """The IRP is nobody's but the caller's from here on: forget what the queue knows of it, under its lock."""
    thread = current_thread()
    thread.write(irp)
    slots = irp.Tail.Overlay._context  # pyright: ignore[reportPrivateUsage]
    context = slots[3]
    if isinstance(context, IO_CSQ_IRP_CONTEXT) and context.irp is irp:
        thread.write(context)
        context.irp = None
    elif context is not csq:
        report(
            "ke.csq-context",
            f"{thread.label} finds something else in DriverContext[3] of {irp.label} than {csq.label} has put there",
        )
    slots[3] = None
    irp.csq = None


async def _cancelled(irp: IRP) -> None:
    """The framework's cancel routine: called with the cancel spin lock held."""
    thread = current_kthread()
    lock = current_system().get(IoManager).cancel_lock
    await ReleaseLock(lock)
    thread.irql = lock.old_irql
    csq = irp.csq
    assert isinstance(csq, IO_CSQ)
    irql = await _lock(csq)
    await _call(csq, csq.remove, irp)
    _leave(csq, irp)
    await _unlock(csq, irql)
    irp.last_call.pop(current_thread(), None)
    await _call(csq, csq.complete_canceled, irp)


async def _cancel_routine(_device: object, irp: IRP) -> None:
    await _cancelled(irp)


async def _insert(csq: IO_CSQ, irp: IRP, context: IO_CSQ_IRP_CONTEXT | None, insert_context: Any) -> NTSTATUS:
    """Insert, mark pending and arm, under the queue's lock."""
    _check(csq, "IoCsqInsertIrp")
    irql = await _lock(csq)
    await EnterQueue(csq, irp, context)
    if csq.insert_ex is not None:
        returned = await _call(csq, csq.insert_ex, irp, insert_context)
        actor = csq.actor
        name = routine_name(csq.insert_ex)
        status = NTSTATUS(returned) if actor is None else status_of(actor, name, csq.insert_ex, returned)
        if not NT_SUCCESS(status):
            _leave(csq, irp)
            irp.last_call.pop(current_thread(), None)
            await _unlock(csq, irql)
            return status
    else:
        await _call(csq, csq.insert, irp)
    await MarkPending(irp)
    await ExchangeCancelRoutine(irp, _cancel_routine)
    if irp.cancel.requested and await _take_back(irp):
        await _call(csq, csq.remove, irp)
        _leave(csq, irp)
        await _unlock(csq, irql)
        irp.last_call.pop(current_thread(), None)
        await _call(csq, csq.complete_canceled, irp)
        code = "ke.csq-after-insert"
        irp.last_call[current_thread()] = code
        return STATUS_SUCCESS
    await _unlock(csq, irql)
    # Whoever removes it may be done with it before the caller hears of the insertion.
    await Point(f"return from inserting into {csq.label}", irp)
    return STATUS_SUCCESS


async def _take_back(irp: IRP) -> bool:
    """Take the framework's cancel routine back; false if a cancellation has it, which then owns the IRP."""
    return await ExchangeCancelRoutine(irp, None) is not None


def _check(csq: IO_CSQ, name: str) -> None:
    if not csq.initialised:
        report("ke.uninitialised", f"{name} on {csq.label}, which IoCsqInitialize has not initialised")


@routine(
    "wdm",
    "VOID IoCsqInsertIrp(_Inout_ PIO_CSQ Csq, _Inout_ PIRP Irp, _Inout_opt_ PIO_CSQ_IRP_CONTEXT Context)",
    max_irql=DISPATCH_LEVEL,
)
async def IoCsqInsertIrp(Csq: IO_CSQ, Irp: IRP, Context: IO_CSQ_IRP_CONTEXT | None) -> None:
    """Insert *Irp*, mark it pending and make it cancellable (KE-CSQ-01).

    One that is cancelled already is completed by *CsqCompleteCanceledIrp*. Return STATUS_PENDING and do not touch the
    IRP any more (KE-CSQ-02). IRQL: <= DISPATCH_LEVEL, if the queue's lock allows that. Findings:
    ``ke.csq-after-insert``, ``ke.csq-context``, ``ke.csq-lock-irql``.
    """
    await _insert(Csq, Irp, Context, None)


@routine(
    "wdm",
    """NTSTATUS IoCsqInsertIrpEx(_Inout_ PIO_CSQ Csq, _Inout_ PIRP Irp, _Inout_opt_ PIO_CSQ_IRP_CONTEXT Context,
       _In_opt_ PVOID InsertContext)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoCsqInsertIrpEx(Csq: IO_CSQ, Irp: IRP, Context: IO_CSQ_IRP_CONTEXT | None, InsertContext: Any) -> NTSTATUS:
    """As IoCsqInsertIrp; returns what *CsqInsertIrp* of IoCsqInitializeEx returns.

    If that is a failure the IRP is neither queued nor marked pending, and still the caller's. IRQL: <= DISPATCH_LEVEL.
    """
    return await _insert(Csq, Irp, Context, InsertContext)


@routine(
    "wdm",
    "PIRP IoCsqRemoveIrp(_Inout_ PIO_CSQ Csq, _Inout_ PIO_CSQ_IRP_CONTEXT Context)",
    max_irql=DISPATCH_LEVEL,
)
async def IoCsqRemoveIrp(Csq: IO_CSQ, Context: IO_CSQ_IRP_CONTEXT) -> IRP | None:
    """Remove the IRP that *Context* stands for and return it.

    None if it was cancelled or removed: somebody else completes it (KE-CSQ-03). IRQL: <= DISPATCH_LEVEL.
    """
    _check(Csq, "IoCsqRemoveIrp")
    irql = await _lock(Csq)
    current_thread().read(Context)
    irp = Context.irp
    if irp is None or not await _take_back(irp):
        await _unlock(Csq, irql)
        current_system().get(Irps).nulls.add(current_thread())
        return None
    await _call(Csq, Csq.remove, irp)
    _leave(Csq, irp)
    irp.last_call.pop(current_thread(), None)
    await _unlock(Csq, irql)
    return irp


@routine(
    "wdm",
    "PIRP IoCsqRemoveNextIrp(_Inout_ PIO_CSQ Csq, _In_opt_ PVOID PeekContext)",
    max_irql=DISPATCH_LEVEL,
)
async def IoCsqRemoveNextIrp(Csq: IO_CSQ, PeekContext: Any) -> IRP | None:
    """Remove the next IRP that matches *PeekContext* and was not cancelled, and return it.

    None if there is none. IRQL: <= DISPATCH_LEVEL.
    """
    _check(Csq, "IoCsqRemoveNextIrp")
    irql = await _lock(Csq)
    irp: IRP | None = await _call(Csq, Csq.peek, None, PeekContext)
    while irp is not None and not await _take_back(irp):
        # Its cancellation waits for the lock, and will remove it.
        irp = await _call(Csq, Csq.peek, irp, PeekContext)
    if irp is not None:
        await _call(Csq, Csq.remove, irp)
        _leave(Csq, irp)
        irp.last_call.pop(current_thread(), None)
    await _unlock(Csq, irql)
    if irp is None:
        current_system().get(Irps).nulls.add(current_thread())
    return irp
