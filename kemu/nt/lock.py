"""What fast mutexes and spin locks share: one owner, no recursion, remembered by the thread that holds it."""

from __future__ import annotations

from kemu.nt.apc import reenters
from kemu.nt.kthread import KThread
from kemu.nt.system import report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread


class OwnedLock(Waitable):
    """A lock with at most one owner."""

    __slots__ = ("initialised", "old_irql", "owner")

    guards = ("owner",)

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.owner: KThread | None = None
        self.old_irql = 0
        self.initialised = False

    def holders(self) -> tuple[Thread, ...]:
        return () if self.owner is None else (self.owner,)


class AcquireLock(BlockingOperation[None]):
    """Become the owner."""

    __slots__ = ("lock",)
    kind = "acquire"

    def __init__(self, lock: OwnedLock) -> None:
        super().__init__(lock)
        self.lock = lock

    def available(self, thread: Thread) -> bool:
        return self.lock.owner is None

    def take(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        lock = self.lock
        thread.write(lock)
        thread.acquire(lock)
        lock.owner = thread
        thread.locks.append(lock)
        log = thread.runtime.log
        if log is not None:
            log("sync.acquire", obj=lock)
        lock.changed()


class ReleaseLock(Operation[None]):
    """Give the lock up."""

    __slots__ = ("lock",)
    kind = "release"

    def __init__(self, lock: OwnedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        lock = self.lock
        thread.write(lock)
        thread.release(lock)
        lock.owner = None
        thread.locks.remove(lock)
        log = thread.runtime.log
        if log is not None:
            log("sync.release", obj=lock)
        lock.changed()

    def target(self) -> Cell:
        return self.lock


def check_acquire(lock: OwnedLock, thread: KThread, name: str) -> None:
    """Findings of an acquisition: uninitialised lock, or one that the thread owns already."""
    if not lock.initialised:
        report("ke.uninitialised", f"{name} on {lock.label}, which was never initialised")
    if lock.owner is thread:
        interrupts = reenters(thread, lock)
        if interrupts is not None:
            report(
                "ke.apc-reentry", f"{name}: {interrupts.describe()} asks for {lock.label}, which {thread.label} holds"
            )
        report("ke.self-deadlock", f"{name}: {thread.label} already owns {lock.label}, which is not recursive")


def check_release(lock: OwnedLock, thread: KThread, name: str) -> None:
    """Findings of a release by a thread that is not the owner."""
    if lock.owner is not thread:
        owner = "nobody" if lock.owner is None else lock.owner.label
        report("ke.lock-not-owned", f"{name}: {thread.label} releases {lock.label}, which {owner} owns")


def check_old_irql(lock: OwnedLock, irql: int, name: str) -> None:
    """Finding of a release that restores another IRQL than the acquisition saved (KE-SPIN-02)."""
    if irql != lock.old_irql:
        report("ke.irql-nesting", f"{name} restores IRQL {irql}, but {lock.label} was acquired at {lock.old_irql}")
