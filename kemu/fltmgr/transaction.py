"""Minifilters in transactions: enlisting, notifications, completing them later (FLT-TXN)."""

from __future__ import annotations

from typing import Any, Final

from kemu.fltmgr.context_end import destroy, unlinked
from kemu.fltmgr.context_record import Context
from kemu.fltmgr.context_rules import the_context, used_after_release
from kemu.fltmgr.context_types import FLT_TRANSACTION_CONTEXT
from kemu.fltmgr.messages import TransactionNotification
from kemu.fltmgr.objects import Instance, hold, let_go
from kemu.fltmgr.related import related_objects
from kemu.io.request import FileObject
from kemu.nt.driver import in_driver, status_of
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_ALREADY_ENLISTED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_4,
    STATUS_NOT_FOUND,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_TRANSACTION_NOT_ACTIVE,
)
from kemu.nt.system import report, resources_fail
from kemu.nt.transaction import (
    ACTIVE,
    KTRANSACTION,
    PHASE_NAMES,
    TRANSACTION_NOTIFY_COMMIT,
    TRANSACTION_NOTIFY_COMMIT_FINALIZE,
    TRANSACTION_NOTIFY_PREPARE,
    TRANSACTION_NOTIFY_PREPREPARE,
    TRANSACTION_NOTIFY_ROLLBACK,
    Answer,
    Enlist,
    Enlistment,
    RequestRollback,
    roll_back,
)
from kemu.runtime import Cell, Deliver, Operation, Thread, current_thread

FLT_MAX_TRANSACTION_NOTIFICATIONS: Final = (
    TRANSACTION_NOTIFY_PREPREPARE
    | TRANSACTION_NOTIFY_PREPARE
    | TRANSACTION_NOTIFY_COMMIT
    | TRANSACTION_NOTIFY_ROLLBACK
    | TRANSACTION_NOTIFY_COMMIT_FINALIZE
)


class TXN_PARAMETER_BLOCK:
    """The transaction that a file was opened in."""

    __slots__ = ("TransactionObject",)

    def __init__(self, transaction: KTRANSACTION) -> None:
        self.TransactionObject = transaction


class BeginNotification(Operation[bool]):
    """A transaction notification is about to be delivered; false if the instance is going away."""

    __slots__ = ("instance",)
    kind = "begin a notification of"

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def perform(self, thread: Thread) -> bool:
        thread.read(self.instance)
        if self.instance.deleting:
            return False
        hold(thread, self.instance, thread.label)
        thread.acquire(self.instance)
        return True

    def target(self) -> Cell:
        return self.instance


class Notifier(Cell):
    """Tells one instance, which is enlisted in a transaction, of its phases.

    It keeps the context that it was given until the last notification has returned, or the instance goes away.
    """

    __slots__ = ("context", "enlistment", "instance", "over", "transaction")

    def __init__(self, instance: Instance, transaction: KTRANSACTION, context: Context, mask: int) -> None:
        super().__init__(current_thread(), f"enlistment of {instance.label} in {transaction.label}")
        self.instance = instance
        self.transaction = transaction
        self.context = context
        self.enlistment = Enlistment(instance, instance.label, mask, self.notify)
        self.over = False

    async def end(self) -> None:
        """There is nothing to tell any more: the context is let go of."""
        last = await EndEnlistment(self)
        if last is not None:
            await destroy(last)

    async def notify(self, phase: int) -> NTSTATUS:
        """Call the driver's TransactionNotificationCallback on the calling thread; what it answers."""
        instance, enlistment = self.instance, self.enlistment
        filter_ = instance.filter
        if not await BeginNotification(instance):
            return STATUS_SUCCESS
        callback = filter_.registration.TransactionNotificationCallback
        assert callback is not None
        await Deliver(filter_.driver, TransactionNotification, instance)
        name = "TransactionNotification"
        objects = related_objects(instance, self.transaction)
        returned = await in_driver(filter_.driver, name, callback, objects, self.context.block, phase)
        status = status_of(filter_.driver, name, callback, returned)
        thread = current_thread()
        thread.read(self.transaction)
        if status != STATUS_PENDING and enlistment.early:
            report(
                "txn-double-complete",
                f"{name} of {instance.label} answered {PHASE_NAMES[phase]} with {status} after it was completed",
            )
        let_go(thread, instance, thread.label)
        return status


class LookAtTransaction(Operation[NTSTATUS]):
    """Find out whether an instance may enlist in a transaction."""

    __slots__ = ("instance", "transaction")
    kind = "FltEnlistInTransaction for"

    def __init__(self, instance: Instance, transaction: KTRANSACTION) -> None:
        self.instance = instance
        self.transaction = transaction

    def perform(self, thread: Thread) -> NTSTATUS:
        thread.read(self.instance)
        if self.instance.deleting:
            return STATUS_FLT_DELETING_OBJECT
        thread.read(self.transaction)
        if self.transaction.enlistment_of(self.instance) is not None:
            return STATUS_FLT_ALREADY_ENLISTED
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.transaction


class EnlistInstance(Operation[NTSTATUS]):
    """Enlist an instance in a transaction, with a reference on the context that it is to be told with."""

    __slots__ = ("notifier",)
    kind = "enlist in"

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier

    def perform(self, thread: Thread) -> NTSTATUS:
        notifier = self.notifier
        instance, transaction, context = notifier.instance, notifier.transaction, notifier.context
        thread.read(context)
        if not context.keeps(thread):
            thread.write(context.counts)
        if context.is_over:
            used_after_release(thread, context, "FltEnlistInTransaction")
            return STATUS_INVALID_PARAMETER
        thread.read(instance)
        if instance.deleting:
            return STATUS_FLT_DELETING_OBJECT
        if not Enlist(transaction, notifier.enlistment).perform(thread):
            again = transaction.enlistment_of(instance) is not None
            return STATUS_FLT_ALREADY_ENLISTED if again else STATUS_TRANSACTION_NOT_ACTIVE
        context.bind(thread, notifier)
        instance.enlisted.append(notifier)
        transaction.at_end.append(notifier.end)
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.notifier.transaction


class EndEnlistment(Operation["Context | None"]):
    """An enlistment is over; evaluates to its context if nobody else holds that."""

    __slots__ = ("notifier",)
    kind = "end the"

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier

    def perform(self, thread: Thread) -> Context | None:
        notifier = self.notifier
        context = notifier.context
        thread.write(notifier)
        if notifier.over:
            return None
        notifier.over = True
        context.bound.remove(notifier)
        return unlinked(thread, context)

    def target(self) -> Cell:
        return self.notifier


@routine(
    "fltkernel",
    """NTSTATUS FltEnlistInTransaction(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_ PFLT_CONTEXT TransactionContext, _In_ NOTIFICATION_MASK NotificationMask)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltEnlistInTransaction(
    Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any, NotificationMask: int
) -> NTSTATUS:
    """Have the instance told of the phases of *NotificationMask* (FLT-TXN-01).

    The enlistment has a reference of its own on *TransactionContext* until the last notification has returned, and each
    notification is given that context, whatever is linked to the transaction then. STATUS_INVALID_PARAMETER without a
    TransactionNotificationCallback, or if the context is of another kind or another filter's (as for setting one: what
    Windows returns then is not documented), STATUS_INVALID_PARAMETER_4 for another mask, STATUS_FLT_DELETING_OBJECT if
    the instance is going away, STATUS_FLT_ALREADY_ENLISTED the second time, STATUS_TRANSACTION_NOT_ACTIVE if the end of
    the transaction has begun, STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: <= APC_LEVEL.
    Findings: ``ctx-use-after-release``.
    """
    context = the_context(TransactionContext, "FltEnlistInTransaction", "TransactionContext")
    if Instance.filter.registration.TransactionNotificationCallback is None:
        return STATUS_INVALID_PARAMETER
    if context.kind != FLT_TRANSACTION_CONTEXT or context.filter is not Instance.filter:
        return STATUS_INVALID_PARAMETER
    if not NotificationMask or NotificationMask & ~FLT_MAX_TRANSACTION_NOTIFICATIONS:
        return STATUS_INVALID_PARAMETER_4
    status = await LookAtTransaction(Instance, Transaction)
    if status != STATUS_SUCCESS:
        return status
    if resources_fail("FltEnlistInTransaction"):
        return STATUS_INSUFFICIENT_RESOURCES
    return await EnlistInstance(Notifier(Instance, Transaction, context, NotificationMask))


@routine(
    "fltkernel",
    """NTSTATUS FltRollbackEnlistment(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_opt_ PFLT_CONTEXT TransactionContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltRollbackEnlistment(Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any) -> NTSTATUS:
    """Roll the transaction back that the instance is enlisted in; STATUS_NOT_FOUND if it is in none.

    If a commit has begun, that ends in a rollback. IRQL: <= APC_LEVEL.
    """
    thread = current_thread()
    thread.read(Transaction)
    if Transaction.enlistment_of(Instance) is None:
        return STATUS_NOT_FOUND
    if Transaction.state == ACTIVE:
        status = await roll_back(Transaction)
        return STATUS_SUCCESS if status == STATUS_PENDING else status
    await RequestRollback(Transaction)
    return STATUS_SUCCESS


async def complete(instance: Instance, transaction: KTRANSACTION, phase: int, name: str) -> NTSTATUS:
    """One of the routines that complete a notification (FLT-TXN-02)."""
    thread = current_kthread()
    thread.read(transaction)
    enlistment = transaction.enlistment_of(instance)
    if enlistment is None:
        return STATUS_NOT_FOUND
    if await Answer(transaction, enlistment, phase) is None:
        asked = PHASE_NAMES[enlistment.awaited] if enlistment.awaited else "nothing"
        report(
            "txn-double-complete",
            f"{thread.label} calls {name} for {instance.label}, of which {transaction.label} awaits {asked}",
        )
    return STATUS_SUCCESS


@routine(
    "fltkernel",
    """NTSTATUS FltPrePrepareComplete(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_opt_ PFLT_CONTEXT TransactionContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltPrePrepareComplete(Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any) -> NTSTATUS:
    """Complete a PREPREPARE notification that was answered STATUS_PENDING (FLT-TXN-02). IRQL: <= APC_LEVEL.

    STATUS_NOT_FOUND if the instance is not enlisted. None is open: finding ``txn-double-complete``.
    """
    return await complete(Instance, Transaction, TRANSACTION_NOTIFY_PREPREPARE, "FltPrePrepareComplete")


@routine(
    "fltkernel",
    """NTSTATUS FltPrepareComplete(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_opt_ PFLT_CONTEXT TransactionContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltPrepareComplete(Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any) -> NTSTATUS:
    """Complete a PREPARE notification that was answered STATUS_PENDING (FLT-TXN-02). IRQL: <= APC_LEVEL.

    STATUS_NOT_FOUND if the instance is not enlisted. None is open: finding ``txn-double-complete``.
    """
    return await complete(Instance, Transaction, TRANSACTION_NOTIFY_PREPARE, "FltPrepareComplete")


@routine(
    "fltkernel",
    """NTSTATUS FltCommitComplete(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_opt_ PFLT_CONTEXT TransactionContext)""",
    max_irql=PASSIVE_LEVEL,
    under_spin_lock=False,
)
async def FltCommitComplete(Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any) -> NTSTATUS:
    """Complete a COMMIT notification that was answered STATUS_PENDING (FLT-TXN-02). IRQL: PASSIVE_LEVEL.

    STATUS_NOT_FOUND if the instance is not enlisted. None is open: finding ``txn-double-complete``.
    """
    return await complete(Instance, Transaction, TRANSACTION_NOTIFY_COMMIT, "FltCommitComplete")


@routine(
    "fltkernel",
    """NTSTATUS FltCommitFinalizeComplete(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_opt_ PFLT_CONTEXT TransactionContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltCommitFinalizeComplete(Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any) -> NTSTATUS:
    """Complete a COMMIT_FINALIZE notification that was answered STATUS_PENDING (FLT-TXN-02). IRQL: <= APC_LEVEL.

    STATUS_NOT_FOUND if the instance is not enlisted. None is open: finding ``txn-double-complete``.
    """
    return await complete(Instance, Transaction, TRANSACTION_NOTIFY_COMMIT_FINALIZE, "FltCommitFinalizeComplete")


@routine(
    "fltkernel",
    """NTSTATUS FltRollbackComplete(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_opt_ PFLT_CONTEXT TransactionContext)""",
    max_irql=PASSIVE_LEVEL,
    under_spin_lock=False,
)
async def FltRollbackComplete(Instance: Instance, Transaction: KTRANSACTION, TransactionContext: Any) -> NTSTATUS:
    """Complete a ROLLBACK notification that was answered STATUS_PENDING (FLT-TXN-02). IRQL: PASSIVE_LEVEL.

    STATUS_NOT_FOUND if the instance is not enlisted. None is open: finding ``txn-double-complete``.
    """
    return await complete(Instance, Transaction, TRANSACTION_NOTIFY_ROLLBACK, "FltRollbackComplete")


@routine(
    "ntifs",
    "PTXN_PARAMETER_BLOCK IoGetTransactionParameterBlock(_In_ PFILE_OBJECT FileObject)",
    max_irql=DISPATCH_LEVEL,
)
def IoGetTransactionParameterBlock(FileObject: FileObject) -> TXN_PARAMETER_BLOCK | None:
    """The transaction that a file was opened in, or None. IRQL: <= DISPATCH_LEVEL."""
    transaction = FileObject.transaction
    return None if transaction is None else TXN_PARAMETER_BLOCK(transaction)
