"""In-stack queued spin locks (KE-SPIN-11): a spin lock whose waiters are served in the order in which they asked."""

from __future__ import annotations

from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.lock import ReleaseLock, check_acquire, check_lowered, not_owned
from kemu.nt.lockorder import LockOrder
from kemu.nt.routine import routine, stops_with
from kemu.nt.spinlock import KSPIN_LOCK, QUEUED, QUEUED_AT_DPC_LEVEL, check_how, check_way
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, current_thread


class KLOCK_QUEUE_HANDLE(Cell, Storage):
    """Storage for the place of one acquisition in the queue of a lock; usually on the stack."""

    __slots__ = ("OldIrql", "lock", "ticket")

    storage_size = 24

    def __init__(self, label: str = "lock queue handle") -> None:
        super().__init__(current_thread(), label)
        self.lock: KSPIN_LOCK | None = None
        """The lock that is acquired with it, or waited for."""
        self.ticket = 0
        self.OldIrql = 0

    def still_active(self) -> Leftover | None:
        """What is wrong with its memory being freed now (KE-SPIN-11): whoever releases the lock looks there."""
        current_thread().read(self)
        if self.lock is None:
            return None
        return Leftover("ke.lock-freed", f"{self.label}, which {self.lock.label} is acquired with")


class Enqueue(Operation[bool]):
    """Draw a ticket of a lock; whether it is served at once."""

    __slots__ = ("handle", "lock", "name")
    kind = "acquire"

    def __init__(self, lock: KSPIN_LOCK, handle: KLOCK_QUEUE_HANDLE, name: str) -> None:
        self.lock = lock
        self.handle = handle
        self.name = name

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock, handle = self.lock, self.handle
        thread.write(lock)
        thread.write(handle)
        if handle.lock is not None:
            report(
                "ke.lockhandle-reuse",
                f"{self.name} on {lock.label} with {handle.label}, which {handle.lock.label} is acquired with",
            )
        check_way(lock, True, self.name)
        handle.lock = lock
        handle.ticket = lock.next_ticket
        lock.next_ticket += 1
        if handle.ticket != lock.serving or lock.owner is not None:
            return False
        _serve(thread, lock)
        return True

    def target(self) -> Cell:
        return self.lock


class AwaitTurn(BlockingOperation[None]):
    """Wait until a ticket is served."""

    __slots__ = ("lock", "ticket")
    kind = "acquire"

    def __init__(self, handle: KLOCK_QUEUE_HANDLE) -> None:
        lock = handle.lock
        assert lock is not None
        super().__init__(lock)
        self.lock = lock
        self.ticket = handle.ticket

    def available(self, thread: Thread) -> bool:
        return self.lock.serving == self.ticket and self.lock.owner is None

    def take(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        thread.write(self.lock)
        _serve(thread, self.lock)


class LeaveQueue(ReleaseLock):
    """Give the lock up, and have the next ticket served."""

    __slots__ = ("handle",)

    def __init__(self, lock: KSPIN_LOCK, handle: KLOCK_QUEUE_HANDLE) -> None:
        super().__init__(lock)
        self.handle = handle

    def perform(self, thread: Thread) -> None:
        lock = self.lock
        assert isinstance(lock, KSPIN_LOCK)
        lock.serving += 1
        thread.write(self.handle)
        self.handle.lock = None
        super().perform(thread)


def _serve(thread: KThread, lock: KSPIN_LOCK) -> None:
    """Make *thread* the owner, inside its step."""
    if thread.locks or thread.inside:
        thread.runtime.system.get(LockOrder).note(thread, lock)
    lock.hold(thread)


async def acquire(lock: KSPIN_LOCK, handle: KLOCK_QUEUE_HANDLE, how: int, name: str) -> KThread:
    """Acquire *lock* with *handle* for the calling thread, which is returned."""
    thread = current_kthread()
    check_acquire(lock, thread, name)
    if not await Enqueue(lock, handle, name):
        await AwaitTurn(handle)
    lock.how = how
    return thread


async def release(handle: KLOCK_QUEUE_HANDLE, how: int, name: str) -> KThread:
    """Release what the calling thread, which is returned, has acquired with *handle*."""
    thread = current_kthread()
    lock = handle.lock
    if lock is None or lock.owner is not thread:
        owners = () if lock is None else lock.holders()
        not_owned(lock or handle, thread, name, owners, None if owners else KSPIN_LOCK.released_unowned)
    else:
        check_how(lock, how, name)
        if how == QUEUED:
            check_lowered(thread, handle.OldIrql, name, lock)
        await LeaveQueue(lock, handle)
    return thread


@routine(
    "wdm",
    "VOID KeAcquireInStackQueuedSpinLock(_Inout_ PKSPIN_LOCK SpinLock, _Inout_ PKLOCK_QUEUE_HANDLE LockHandle)",
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x42),
)
async def KeAcquireInStackQueuedSpinLock(SpinLock: KSPIN_LOCK, LockHandle: KLOCK_QUEUE_HANDLE) -> None:
    """Spin for *SpinLock* behind those who asked before, and raise to DISPATCH_LEVEL (KE-SPIN-11).

    IRQL: <= DISPATCH_LEVEL. *LockHandle* keeps the old IRQL and belongs to this acquisition until it is released:
    finding ``ke.lockhandle-reuse``. A lock that is also acquired without a handle: ``ke.spin-mixed`` (KE-SPIN-12).
    """
    thread = await acquire(SpinLock, LockHandle, QUEUED, "KeAcquireInStackQueuedSpinLock")
    LockHandle.OldIrql = thread.irql
    thread.irql = DISPATCH_LEVEL


@routine(
    "wdm",
    "VOID KeReleaseInStackQueuedSpinLock(_Inout_ PKLOCK_QUEUE_HANDLE LockHandle)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x36),
)
async def KeReleaseInStackQueuedSpinLock(LockHandle: KLOCK_QUEUE_HANDLE) -> None:
    """Give up the lock that was acquired with *LockHandle* and go back to the IRQL that it keeps.

    IRQL: DISPATCH_LEVEL, by the owner.
    """
    thread = await release(LockHandle, QUEUED, "KeReleaseInStackQueuedSpinLock")
    thread.irql = LockHandle.OldIrql


@routine(
    "wdm",
    """VOID KeAcquireInStackQueuedSpinLockAtDpcLevel(_Inout_ PKSPIN_LOCK SpinLock,
       _Inout_ PKLOCK_QUEUE_HANDLE LockHandle)""",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x40),
)
async def KeAcquireInStackQueuedSpinLockAtDpcLevel(SpinLock: KSPIN_LOCK, LockHandle: KLOCK_QUEUE_HANDLE) -> None:
    """As KeAcquireInStackQueuedSpinLock, but leave the IRQL. IRQL: DISPATCH_LEVEL (KE-SPIN-03)."""
    await acquire(SpinLock, LockHandle, QUEUED_AT_DPC_LEVEL, "KeAcquireInStackQueuedSpinLockAtDpcLevel")


@routine(
    "wdm",
    "VOID KeReleaseInStackQueuedSpinLockFromDpcLevel(_Inout_ PKLOCK_QUEUE_HANDLE LockHandle)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x41),
)
async def KeReleaseInStackQueuedSpinLockFromDpcLevel(LockHandle: KLOCK_QUEUE_HANDLE) -> None:
    """Give up the lock that was acquired with *LockHandle* at DISPATCH_LEVEL, and leave the IRQL.

    IRQL: DISPATCH_LEVEL, by the owner. Of one acquired with raising: ``ke.spin-release-mismatch`` (KE-SPIN-04).
    """
    await release(LockHandle, QUEUED_AT_DPC_LEVEL, "KeReleaseInStackQueuedSpinLockFromDpcLevel")


@routine(
    "wdm",
    """VOID KeAcquireInStackQueuedSpinLockForDpc(_Inout_ PKSPIN_LOCK SpinLock,
       _Inout_ PKLOCK_QUEUE_HANDLE LockHandle)""",
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x42),
)
async def KeAcquireInStackQueuedSpinLockForDpc(SpinLock: KSPIN_LOCK, LockHandle: KLOCK_QUEUE_HANDLE) -> None:
    """As KeAcquireInStackQueuedSpinLock, in the routine of a DPC that may be a threaded one.

    IRQL: <= DISPATCH_LEVEL.
    """
    await KeAcquireInStackQueuedSpinLock(SpinLock, LockHandle)


@routine(
    "wdm",
    "VOID KeReleaseInStackQueuedSpinLockForDpc(_Inout_ PKLOCK_QUEUE_HANDLE LockHandle)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x36),
)
async def KeReleaseInStackQueuedSpinLockForDpc(LockHandle: KLOCK_QUEUE_HANDLE) -> None:
    """Give up what KeAcquireInStackQueuedSpinLockForDpc has acquired. IRQL: DISPATCH_LEVEL, by the owner."""
    await KeReleaseInStackQueuedSpinLock(LockHandle)
