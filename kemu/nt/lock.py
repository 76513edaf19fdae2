"""What all locks share: an owner that remembers them, the findings of their misuse, and the lock itself if it has at
most one owner and no recursion (fast mutexes and spin locks).
"""

from __future__ import annotations

from typing import ClassVar, Final

from kemu.nt.apc import reenters
from kemu.nt.bugcheck import (
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    IRQL_NOT_LESS_OR_EQUAL,
    KERNEL_LOCK_ENTRY_LEAKED_ON_THREAD_TERMINATION,
    BugCheck,
)
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread, irql_name
from kemu.nt.lockorder import LockOrder, lock_of
from kemu.nt.system import Leftover, current_system, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

# The first parameters of DRIVER_VERIFIER_DETECTED_VIOLATION that are about locks (KE-DL-03).
SELF_DEADLOCK: Final = 0x1000
UNINITIALISED: Final = 0x1002
OUT_OF_ORDER: Final = 0x1003
WRONG_THREAD: Final = 0x1004
INITIALISED_TWICE: Final = 0x1005
NOT_OWNED: Final = 0x1007
THREAD_ENDED_OWNING: Final = 0x100A
DELETED_WHILE_OWNED: Final = 0x100B
BAD_LOWER_IRQL: Final = 0x31


def violation(what: int, *more: int) -> BugCheck:
    """The stop of Driver Verifier whose first parameter is *what*."""
    return BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (what, *more))


class OwnedLock(Waitable):
    """A lock with at most one owner."""

    __slots__ = ("initialised", "old_irql", "owner")

    guards = ("owner",)

    spins: bool = False
    """Whether waiters spin."""
    acquired_again: ClassVar[tuple[BugCheck | None, BugCheck | None]] = (None, None)
    """What Windows, and Driver Verifier, stop with when the owner asks again; None where it hangs."""
    released_unowned: ClassVar[BugCheck | None] = None
    """What Windows stops with when a thread releases the lock that nobody owns."""

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.owner: KThread | None = None
        self.old_irql = 0
        self.initialised = False

    def initialise(self, name: str) -> None:
        """Make it free, inside the calling step; *name* is the routine that does."""
        if self.initialised:
            # Of one that is held it would forget the owner, of one that threads wait for the waiters.
            report(
                "ke.lock-reinitialised",
                f"{name} on {self.label}, which is initialised already",
                verifier=violation(INITIALISED_TWICE),
            )
        current_thread().write(self)
        self.initialised = True

    def holders(self) -> tuple[Thread, ...]:
        return () if self.owner is None else (self.owner,)

    def still_active(self) -> Leftover | None:
        """What is wrong with its memory being freed now; None if nobody uses it."""
        return active(self, self.holders())

    def hold(self, thread: KThread) -> None:
        """Make *thread* the owner, inside its step."""
        thread.acquire(self)
        self.owner = thread
        thread.locks.append(self)
        log = thread.runtime.log
        if log is not None:
            log("sync.acquire", obj=self)
        self.changed()


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
        if thread.locks or thread.inside:
            thread.runtime.system.get(LockOrder).note(thread, lock)
        thread.acquire(lock)
        lock.owner = thread
        thread.locks.append(lock)
        log = thread.runtime.log
        if log is not None:
            log("sync.acquire", obj=lock)
        lock.changed()


class TryAcquireLock(Operation[bool]):
    """Become the owner if nobody is; whether that was so. It never waits, so that it is no part of the lock order."""

    __slots__ = ("lock",)
    kind = "try to acquire"

    def __init__(self, lock: OwnedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock = self.lock
        if lock.owner is not None:
            thread.read(lock)
            return False
        thread.write(lock)
        lock.hold(thread)
        return True

    def target(self) -> Cell:
        return self.lock


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
        # Not if it was never this thread's, which settings of the verifier may let pass.
        if lock in thread.locks:
            thread.locks.remove(lock)
        log = thread.runtime.log
        if log is not None:
            log("sync.release", obj=lock)
        lock.changed()

    def target(self) -> Cell:
        return self.lock


def uninitialised(lock: Cell, name: str) -> None:
    """Report that *name* was called for a lock that was never initialised (KE-WAIT-02, KE-SPIN-10)."""
    report(
        "ke.uninitialised",
        f"{name} on {lock.label}, which was never initialised",
        verifier=violation(UNINITIALISED),
    )


def owns_already(
    lock: Cell, thread: KThread, name: str, stops: tuple[BugCheck | None, BugCheck | None] = (None, None)
) -> None:
    """Report that the owner of a lock that is not recursive asks for it again; in an APC that has interrupted it,
    perhaps (KE-APC-14).
    """
    interrupts = reenters(thread, lock)
    if interrupts is not None:
        report(
            "modwrite-apc-deadlock" if interrupts.releases_pages else "ke.apc-reentry",
            f"{name}: {interrupts.describe()} asks for {lock.label}, which {thread.label} holds",
        )
    stop, verifier = stops
    inside = current_system().under_locks.get(thread)
    if inside is not None and any(lock_of(held) is lock for held in inside[1]):
        # The driver's own routine could not know who would call it, and with what.
        report("cleanup-lock-inversion", f"{name} asks for {lock.label}, which {thread.label} holds: {inside[0]}")
    report(
        "ke.self-deadlock",
        f"{name}: {thread.label} already owns {lock.label}, which is not recursive",
        stop,
        verifier=verifier,
    )


def check_acquire(lock: OwnedLock, thread: KThread, name: str) -> None:
    """Findings of an acquisition: uninitialised lock, or one that the thread owns already."""
    if not lock.initialised:
        uninitialised(lock, name)
    if lock.owner is thread:
        owns_already(lock, thread, name, lock.acquired_again)


def check_release(lock: OwnedLock, thread: KThread, name: str) -> None:
    """Findings of a release by a thread that is not the owner."""
    if lock.owner is not thread:
        not_owned(lock, thread, name, lock.holders(), lock.released_unowned if lock.owner is None else None)


def not_owned(lock: Cell, thread: KThread, name: str, owners: tuple[Thread, ...], stop: BugCheck | None = None) -> None:
    """Report a release by a thread that is none of the *owners*; *stop* is what Windows stops with."""
    who = " and ".join(owner.label for owner in owners) or "nobody"
    report(
        "ke.lock-not-owned",
        f"{name}: {thread.label} releases {lock.label}, which {who} owns",
        stop,
        verifier=violation(WRONG_THREAD if owners else NOT_OWNED),
    )


def check_old_irql(lock: OwnedLock, irql: object, name: str) -> None:
    """Finding of a release that restores another IRQL than the acquisition saved (KE-SPIN-02)."""
    if irql != lock.old_irql:
        # A level above the current one, which is DISPATCH_LEVEL, is what a processor cannot be lowered to.
        stop = verifier = None
        if isinstance(irql, int) and irql > DISPATCH_LEVEL:
            stop = BugCheck(IRQL_NOT_LESS_OR_EQUAL, (0, irql))
            verifier = violation(BAD_LOWER_IRQL, DISPATCH_LEVEL, irql)
        report(
            "ke.irql-nesting",
            f"{name} restores IRQL {irql}, but {lock.label} was acquired at {lock.old_irql}",
            stop,
            verifier=verifier,
        )


def apcs_are_disabled(thread: KThread) -> bool:
    """Whether *thread* gets no normal kernel APC at the moment (KE-APC-11)."""
    return thread.kernel_apc_disable > 0 or thread.special_apc_disable > 0 or thread.irql >= APC_LEVEL


# What other parts of the kernel ask.


def check_lowered(thread: KThread, irql: int, name: str, released: Cell | None = None) -> None:
    """Finding of *name*, which lowers the level of *thread* to *irql*, below what its spin locks need (KE-SPIN-07).

    If it does so because it releases one, that is *released*.
    """
    if irql < DISPATCH_LEVEL:
        for lock in thread.locks:
            if lock.spins and lock_of(lock) is not released:
                report(
                    "ke.spin-lowered",
                    f"{name} lowers {thread.label} to {irql_name(irql)} while it holds {lock.label}",
                )


def leak_of(thread: KThread) -> Leftover:
    """What is wrong with *thread*, which owns locks, having ended (KE-RES-11, KE-PUSH-05, KE-DL-03)."""
    held = " and ".join(dict.fromkeys(lock.label for lock in thread.locks))
    pushed = any(getattr(lock_of(lock), "boosts", False) for lock in thread.locks)
    return Leftover(
        "ke.lock-leak",
        f"{thread.label} has ended and owns {held}",
        BugCheck(KERNEL_LOCK_ENTRY_LEAKED_ON_THREAD_TERMINATION) if pushed else None,
        violation(THREAD_ENDED_OWNING),
    )


def check_thread_end(thread: KThread) -> None:
    """Finding of a routine of *thread*, the thread's own, that returns with a lock held."""
    if thread.locks:
        leak = leak_of(thread)
        report(leak.code, leak.what, leak.bug_check, verifier=leak.verifier)


def active(lock: Waitable, owners: tuple[Thread, ...], what: int = DELETED_WHILE_OWNED) -> Leftover | None:
    """What is wrong with *lock*, which *owners* own, being deleted or freed now (KE-SPIN-10)."""
    if not owners and not lock.watchers:
        return None
    names = [owner.label for owner in owners]
    who = f"{' and '.join(names)} owns" if names else f"{lock.watchers[0].label} waits for"
    return Leftover("ke.lock-freed", f"{lock.label}, which {who}", verifier=violation(what))


def check_deleted(lock: Waitable, owners: tuple[Thread, ...], name: str) -> None:
    """Finding of *name*, which deletes a lock that somebody uses."""
    left = active(lock, owners)
    if left is not None:
        report("ke.lock-freed", f"{name} of {left.what}", verifier=left.verifier)


def check_interlocked(lock: OwnedLock, name: str) -> None:
    """Finding of an interlocked list routine that is given a spin lock its caller owns: it spins (KE-SPIN-18)."""
    thread = current_thread()
    if isinstance(thread, KThread) and lock.owner is thread:
        owns_already(lock, thread, name, lock.acquired_again)


def lock_order() -> LockOrder:
    """The lock order of the current run."""
    return current_system().get(LockOrder)
