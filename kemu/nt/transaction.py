"""Kernel transactions: creating, enlisting, committing, rolling back, and what the enlisted are told (FLT-TXN).

Whoever is enlisted is told of the phases that it has asked for. It answers at once, or later: then it has to be told
to the transaction that the phase is done. Pre-prepare and prepare run in the thread that commits, which waits for all
answers; the outcome is told afterwards by a thread of the transaction manager, so that it may reach a resource manager
long after the program has gone on. Only the protocol is emulated: what a file system isolates in a transaction, others
see here at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_TRANSACTION_ABORTED,
    STATUS_TRANSACTION_ALREADY_ABORTED,
    STATUS_TRANSACTION_ALREADY_COMMITTED,
    STATUS_TRANSACTION_REQUEST_NOT_VALID,
)
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

TRANSACTION_NOTIFY_PREPREPARE: Final = 0x1
TRANSACTION_NOTIFY_PREPARE: Final = 0x2
TRANSACTION_NOTIFY_COMMIT: Final = 0x4
TRANSACTION_NOTIFY_ROLLBACK: Final = 0x8
TRANSACTION_NOTIFY_COMMIT_FINALIZE: Final = 0x40000000

PHASE_NAMES: Final = {
    TRANSACTION_NOTIFY_PREPREPARE: "PREPREPARE",
    TRANSACTION_NOTIFY_PREPARE: "PREPARE",
    TRANSACTION_NOTIFY_COMMIT: "COMMIT",
    TRANSACTION_NOTIFY_ROLLBACK: "ROLLBACK",
    TRANSACTION_NOTIFY_COMMIT_FINALIZE: "COMMIT_FINALIZE",
}

ACTIVE: Final = 0
PREPARING: Final = 1
"""From the begin of a commit to its outcome."""
COMMITTED: Final = 2
ABORTED: Final = 3

Notify = Callable[[int], Awaitable[NTSTATUS]]
"""Tells an enlisted party of a phase; it returns STATUS_PENDING if it answers later."""


class Enlistment:
    """One party's part in a transaction."""

    __slots__ = ("awaited", "early", "label", "mask", "notify", "owner")

    def __init__(self, owner: object, label: str, mask: int, notify: Notify) -> None:
        self.owner = owner
        self.label = label
        self.mask = mask
        self.notify = notify
        self.awaited = 0
        """The phase that it was told of and has not answered."""
        self.early = False
        """Whether it has answered before its callback returned."""


class KTRANSACTION(Waitable):
    """A transaction. The cell of its state and of who is enlisted."""

    __slots__ = ("at_end", "doomed", "enlistments", "state", "unanswered")

    guards = ("unanswered",)

    def __init__(self, label: str = "transaction") -> None:
        super().__init__(current_thread(), label)
        self.state = ACTIVE
        self.enlistments: list[Enlistment] = []
        self.at_end: list[Callable[[], Awaitable[None]]] = []
        """Called after the last notification, by the thread that told it: what belongs to the transaction goes."""
        self.doomed = False
        """Whether somebody who is enlisted has asked for a rollback."""
        self.unanswered: list[Enlistment] = []
        """Who was told of something and has not answered."""

    def enlistment_of(self, owner: object) -> Enlistment | None:
        """The part of *owner*, if it is enlisted."""
        return next((one for one in self.enlistments if one.owner is owner), None)


class BeginOutcome(Operation[NTSTATUS]):
    """Begin to commit or to roll back: STATUS_SUCCESS, or why that is not possible any more."""

    __slots__ = ("transaction", "wanted")
    kind = "begin the end of"

    def __init__(self, transaction: KTRANSACTION, wanted: int) -> None:
        self.transaction = transaction
        self.wanted = wanted

    def perform(self, thread: Thread) -> NTSTATUS:
        transaction = self.transaction
        thread.write(transaction)
        thread.acquire(transaction)
        if transaction.state == COMMITTED:
            return STATUS_TRANSACTION_ALREADY_COMMITTED
        if transaction.state == ABORTED:
            return STATUS_TRANSACTION_ALREADY_ABORTED
        if transaction.state == PREPARING:
            if self.wanted != ABORTED:
                return STATUS_TRANSACTION_REQUEST_NOT_VALID
            # The thread that commits finds it, and rolls back instead.
            transaction.doomed = True
            return STATUS_PENDING
        transaction.state = PREPARING if self.wanted == COMMITTED else ABORTED
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.transaction


class Decide(Operation[bool]):
    """Decide the outcome of a commit: false if it is a rollback."""

    __slots__ = ("transaction",)
    kind = "decide"

    def __init__(self, transaction: KTRANSACTION) -> None:
        self.transaction = transaction

    def perform(self, thread: Thread) -> bool:
        transaction = self.transaction
        thread.write(transaction)
        transaction.state = ABORTED if transaction.doomed else COMMITTED
        return not transaction.doomed

    def target(self) -> Cell:
        return self.transaction


class Tell(Operation["list[Enlistment]"]):
    """A phase begins: who is to be told of it."""

    __slots__ = ("phase", "transaction")
    kind = "tell"

    def __init__(self, transaction: KTRANSACTION, phase: int) -> None:
        self.transaction = transaction
        self.phase = phase

    def perform(self, thread: Thread) -> list[Enlistment]:
        thread.read(self.transaction)
        return [one for one in self.transaction.enlistments if one.mask & self.phase]

    def target(self) -> Cell:
        return self.transaction

    def describe(self) -> str:
        return f"tell those enlisted in {self.transaction.label} of {PHASE_NAMES[self.phase]}"


class AwaitAnswers(BlockingOperation[None]):
    """Wait until all who answer later have answered."""

    __slots__ = ("transaction",)
    kind = "see the answers about"

    def __init__(self, transaction: KTRANSACTION) -> None:
        super().__init__(transaction)
        self.transaction = transaction

    def available(self, thread: Thread) -> bool:
        return not self.transaction.unanswered

    def take(self, thread: Thread) -> None:
        thread.read(self.transaction)
        thread.acquire(self.transaction)

    def describe(self) -> str:
        who = ", ".join(f"{one.label} ({PHASE_NAMES[one.awaited]})" for one in self.transaction.unanswered)
        return f"see the answers about {self.transaction.label}" + (f" of {who}" if who else "")


class Enlist(Operation[bool]):
    """Enlist in a transaction; false if it is not active any more, or the owner is enlisted already."""

    __slots__ = ("enlistment", "transaction")
    kind = "enlist in"

    def __init__(self, transaction: KTRANSACTION, enlistment: Enlistment) -> None:
        self.transaction = transaction
        self.enlistment = enlistment

    def perform(self, thread: Thread) -> bool:
        thread.write(self.transaction)
        if self.transaction.state != ACTIVE or self.transaction.enlistment_of(self.enlistment.owner) is not None:
            return False
        thread.release(self.transaction)
        self.transaction.enlistments.append(self.enlistment)
        return True

    def target(self) -> Cell:
        return self.transaction


class Answer(Operation["int | None"]):
    """Somebody who is enlisted answers later than at once: the phase that it was asked about, or None if none is open.

    With *phase* 0 whatever it was asked about is answered.
    """

    __slots__ = ("enlistment", "phase", "transaction")
    kind = "answer"

    def __init__(self, transaction: KTRANSACTION, enlistment: Enlistment, phase: int) -> None:
        self.transaction = transaction
        self.enlistment = enlistment
        self.phase = phase

    def perform(self, thread: Thread) -> int | None:
        transaction, enlistment = self.transaction, self.enlistment
        thread.write(transaction)
        if enlistment.early or enlistment.awaited != self.phase:
            return None
        thread.release(transaction)
        if enlistment in transaction.unanswered:
            answer(transaction, enlistment)
        else:
            # The callback that was told of it has not returned yet.
            enlistment.early = True
        return self.phase

    def target(self) -> Cell:
        return self.transaction


class RequestRollback(Operation[None]):
    """Somebody who is enlisted does not want the transaction to be committed."""

    __slots__ = ("transaction",)
    kind = "request a rollback of"

    def __init__(self, transaction: KTRANSACTION) -> None:
        self.transaction = transaction

    def perform(self, thread: Thread) -> None:
        thread.write(self.transaction)
        thread.release(self.transaction)
        self.transaction.doomed = True

    def target(self) -> Cell:
        return self.transaction


def answer(transaction: KTRANSACTION, enlistment: Enlistment) -> None:
    """The answer that was due has come, inside the calling step, which has written the transaction."""
    enlistment.awaited = 0
    if enlistment in transaction.unanswered:
        transaction.unanswered.remove(enlistment)
        transaction.changed()


async def tell(transaction: KTRANSACTION, phase: int) -> None:
    """Tell all who want to know that *phase* has come, one after the other, and wait for their answers."""
    for enlistment in await Tell(transaction, phase):
        thread = current_thread()
        thread.write(transaction)
        enlistment.awaited, enlistment.early = phase, False
        status = await enlistment.notify(phase)
        thread.write(transaction)
        if status == STATUS_PENDING and not enlistment.early:
            transaction.unanswered.append(enlistment)
            transaction.changed()
        else:
            enlistment.awaited, enlistment.early = 0, False
        if status != STATUS_PENDING and not NT_SUCCESS(status) and phase in _MAY_FAIL:
            transaction.doomed = True
    await AwaitAnswers(transaction)


_MAY_FAIL: Final = frozenset({TRANSACTION_NOTIFY_PREPREPARE, TRANSACTION_NOTIFY_PREPARE})


async def commit(transaction: KTRANSACTION) -> NTSTATUS:
    """Commit on the calling thread (TmCommitTransaction): STATUS_SUCCESS, or why it could not be.

    STATUS_TRANSACTION_ABORTED if somebody who is enlisted wanted a rollback instead.
    """
    status = await BeginOutcome(transaction, COMMITTED)
    if status != STATUS_SUCCESS:
        return status
    for phase in (TRANSACTION_NOTIFY_PREPREPARE, TRANSACTION_NOTIFY_PREPARE):
        await tell(transaction, phase)
        if transaction.doomed:
            break
    if not await Decide(transaction):
        _tell_later(transaction, TRANSACTION_NOTIFY_ROLLBACK)
        return STATUS_TRANSACTION_ABORTED
    _tell_later(transaction, TRANSACTION_NOTIFY_COMMIT, TRANSACTION_NOTIFY_COMMIT_FINALIZE)
    return STATUS_SUCCESS


async def roll_back(transaction: KTRANSACTION) -> NTSTATUS:
    """Roll back on the calling thread (TmRollbackTransaction); STATUS_PENDING if a commit that has begun will do it."""
    status = await BeginOutcome(transaction, ABORTED)
    if status == STATUS_SUCCESS:
        _tell_later(transaction, TRANSACTION_NOTIFY_ROLLBACK)
    return STATUS_SUCCESS if status == STATUS_TRANSACTION_ALREADY_ABORTED else status


def _tell_later(transaction: KTRANSACTION, *phases: int) -> None:
    """Have a thread of the transaction manager tell the outcome."""

    async def outcome() -> None:
        for phase in phases:
            await tell(transaction, phase)
        for ended in transaction.at_end:
            await ended()
            # More may have been added meanwhile.
            current_thread().read(transaction)

    if transaction.at_end or any(one.mask & sum(phases) for one in transaction.enlistments):
        current_thread().runtime.spawn(f"ktm:{transaction.label}", outcome())
