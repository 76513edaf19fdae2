"""Spin locks (KE-SPIN): exclusive, not recursive, held at DISPATCH_LEVEL.

kemu gives every thread a processor of its own (KE-IRQL-02). A lock that is taken below DISPATCH_LEVEL, where on Windows
a DPC on the same processor could spin for it for ever, is therefore found by its level alone (KE-SPIN-19).
"""

from __future__ import annotations

from typing import Final

from kemu.nt.bugcheck import SPIN_LOCK_ALREADY_OWNED, SPIN_LOCK_NOT_OWNED, BugCheck
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.lock import (
    AcquireLock,
    OwnedLock,
    ReleaseLock,
    TryAcquireLock,
    check_acquire,
    check_lowered,
    check_old_irql,
    check_release,
    violation,
)
from kemu.nt.routine import routine, stops_with
from kemu.nt.storage import Storage
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread

RAISED: Final = 1
"""Acquired by a routine that raised the IRQL."""
AT_DPC_LEVEL: Final = 2
"""Acquired at DISPATCH_LEVEL, by a routine that leaves it."""
QUEUED: Final = 3
QUEUED_AT_DPC_LEVEL: Final = 4

WAYS: Final = {
    RAISED: "by a routine that raises the IRQL",
    AT_DPC_LEVEL: "by a routine that leaves the IRQL",
    QUEUED: "with a queue handle, by a routine that raises the IRQL",
    QUEUED_AT_DPC_LEVEL: "with a queue handle, by a routine that leaves the IRQL",
}

ORDINARY_AFTER_QUEUED: Final = 0x1008
QUEUED_AFTER_ORDINARY: Final = 0x1009


class OldIrql(int):
    """The IRQL that an acquisition has saved. A number like any other, which remembers what it was saved for."""

    lock: Cell


class KSPIN_LOCK(OwnedLock, Storage):
    """Storage for a spin lock."""

    __slots__ = ("how", "next_ticket", "queued", "saved", "serving")

    guards = ("owner", "serving")
    spins = True
    acquired_again = (BugCheck(SPIN_LOCK_ALREADY_OWNED), None)
    released_unowned = BugCheck(SPIN_LOCK_NOT_OWNED)

    def __init__(self, label: str = "spin lock") -> None:
        super().__init__(label)
        self.queued: bool | None = None
        """Whether it is acquired with queue handles; None before its first acquisition."""
        self.how = 0
        """How the owner has acquired it."""
        self.saved: OldIrql | None = None
        self.next_ticket = self.serving = 0
        """Who acquires it with a handle draws a ticket and waits until that is served, in order (KE-SPIN-11)."""

    def saves(self, irql: int) -> int:
        """What an acquisition at *irql* returns."""
        saved = self.saved
        if saved != irql or saved is None:
            saved = self.saved = OldIrql(irql)
            saved.lock = self
        return saved


def check_way(lock: KSPIN_LOCK, queued: bool, name: str) -> None:
    """Finding of a lock that is acquired now with a queue handle and now without (KE-SPIN-12)."""
    if lock.queued is None:
        lock.queued = queued
    elif lock.queued is not queued:
        before = "with a queue handle" if lock.queued else "without a queue handle"
        report(
            "ke.spin-mixed",
            f"{name} on {lock.label}, which was acquired {before} before",
            verifier=violation(QUEUED_AFTER_ORDINARY if queued else ORDINARY_AFTER_QUEUED),
        )


def check_how(lock: KSPIN_LOCK, how: int, name: str) -> None:
    """Finding of a release that does not go with the acquisition (KE-SPIN-04, KE-SPIN-12)."""
    if lock.how != how and lock.owner is not None:
        if (lock.how >= QUEUED) is not (how >= QUEUED):
            check_way(lock, how >= QUEUED, name)
        report(
            "ke.spin-release-mismatch",
            f"{name} on {lock.label}, which was acquired {WAYS[lock.how]}",
        )


def check_level(lock: OwnedLock, irql: int, name: str) -> None:
    """Findings of a release that goes back to *irql*: it has to be what this acquisition has saved (KE-SPIN-02)."""
    if isinstance(irql, OldIrql) and irql.lock is not lock:
        report(
            "ke.oldirql-shared",
            f"{name} on {lock.label} restores the IRQL that the acquisition of {irql.lock.label} has saved",
        )
    check_old_irql(lock, irql, name)


class TestLock(Operation[bool]):
    """Look whether a lock is free."""

    __slots__ = ("lock",)
    kind = "test"

    def __init__(self, lock: OwnedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> bool:
        thread.read(self.lock)
        return self.lock.owner is None

    def target(self) -> Cell:
        return self.lock


@routine("wdm", "VOID KeInitializeSpinLock(_Inout_ PKSPIN_LOCK SpinLock)")
def KeInitializeSpinLock(SpinLock: KSPIN_LOCK) -> None:
    """Make *SpinLock* free. IRQL: any. Once for each lock: finding ``ke.lock-reinitialised`` (KE-SPIN-10)."""
    SpinLock.initialise("KeInitializeSpinLock")


@routine(
    "wdm",
    "VOID KeAcquireSpinLock(_Inout_ PKSPIN_LOCK SpinLock, _Out_ PKIRQL OldIrql)",
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x42),
)
async def KeAcquireSpinLock(SpinLock: KSPIN_LOCK) -> int:
    """Spin for *SpinLock*, raise to DISPATCH_LEVEL and return the old IRQL (KE-SPIN-01).

    IRQL: <= DISPATCH_LEVEL. The owner that asks again spins for ever: finding ``ke.self-deadlock``, bug check 0xF
    (KE-SPIN-05).
    """
    thread = current_kthread()
    check_acquire(SpinLock, thread, "KeAcquireSpinLock")
    await AcquireLock(SpinLock)
    if SpinLock.queued is not False:
        check_way(SpinLock, False, "KeAcquireSpinLock")
    # The old level is stored after the lock is held; storing it before would overwrite the owner's.
    SpinLock.how = RAISED
    SpinLock.old_irql = old_irql = thread.irql
    thread.irql = DISPATCH_LEVEL
    return SpinLock.saves(old_irql)


@routine(
    "wdm",
    "KIRQL KeAcquireSpinLockRaiseToDpc(_Inout_ PKSPIN_LOCK SpinLock)",
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x42),
)
async def KeAcquireSpinLockRaiseToDpc(SpinLock: KSPIN_LOCK) -> int:
    """What KeAcquireSpinLock is a macro for. IRQL: <= DISPATCH_LEVEL."""
    return await KeAcquireSpinLock(SpinLock)


@routine(
    "wdm",
    "VOID KeReleaseSpinLock(_Inout_ PKSPIN_LOCK SpinLock, _In_ KIRQL NewIrql)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x32),
)
async def KeReleaseSpinLock(SpinLock: KSPIN_LOCK, NewIrql: int) -> None:
    """Give *SpinLock* up and go back to *NewIrql*, the value that the acquisition returned.

    IRQL: DISPATCH_LEVEL, by the owner (KE-SPIN-06). Another value than the acquisition's leaves the thread at a
    wrong level: finding ``ke.irql-nesting``, or ``ke.oldirql-shared`` for what another lock's acquisition returned
    (KE-SPIN-02).
    """
    thread = current_kthread()
    check_release(SpinLock, thread, "KeReleaseSpinLock")
    if SpinLock.how != RAISED:
        check_how(SpinLock, RAISED, "KeReleaseSpinLock")
    if NewIrql is not SpinLock.saved or NewIrql != SpinLock.old_irql:
        check_level(SpinLock, NewIrql, "KeReleaseSpinLock")
    if len(thread.locks) > 1:
        check_lowered(thread, NewIrql, "KeReleaseSpinLock", SpinLock)
    await ReleaseLock(SpinLock)
    thread.irql = NewIrql


async def acquire_at_dpc_level(lock: KSPIN_LOCK, thread: KThread, name: str) -> None:
    """Acquire *lock* for *thread*, which is at DISPATCH_LEVEL already."""
    check_acquire(lock, thread, name)
    await AcquireLock(lock)
    check_way(lock, False, name)
    lock.how = AT_DPC_LEVEL


@routine(
    "wdm",
    "VOID KeAcquireSpinLockAtDpcLevel(_Inout_ PKSPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x40),
)
async def KeAcquireSpinLockAtDpcLevel(SpinLock: KSPIN_LOCK) -> None:
    """Spin for *SpinLock* and leave the IRQL (KE-SPIN-03).

    IRQL: DISPATCH_LEVEL (KE-DOC-01). Below it a DPC on the same processor could spin for the lock and keep its owner
    from ever releasing it (KE-SPIN-19).
    """
    await acquire_at_dpc_level(SpinLock, current_kthread(), "KeAcquireSpinLockAtDpcLevel")


@routine(
    "wdm",
    "VOID KeReleaseSpinLockFromDpcLevel(_Inout_ PKSPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x41),
)
async def KeReleaseSpinLockFromDpcLevel(SpinLock: KSPIN_LOCK) -> None:
    """Give *SpinLock* up and leave the IRQL.

    IRQL: DISPATCH_LEVEL, by the owner, which has acquired it at DISPATCH_LEVEL; of one acquired with
    KeAcquireSpinLock the IRQL would stay raised: finding ``ke.spin-release-mismatch`` (KE-SPIN-04).
    """
    thread = current_kthread()
    check_release(SpinLock, thread, "KeReleaseSpinLockFromDpcLevel")
    check_how(SpinLock, AT_DPC_LEVEL, "KeReleaseSpinLockFromDpcLevel")
    await ReleaseLock(SpinLock)


@routine(
    "wdm",
    "BOOLEAN KeTryToAcquireSpinLockAtDpcLevel(_Inout_ PKSPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x40),
)
async def KeTryToAcquireSpinLockAtDpcLevel(SpinLock: KSPIN_LOCK) -> bool:
    """Acquire *SpinLock* if it is free, and return whether it was (KE-SPIN-16).

    IRQL: DISPATCH_LEVEL. To be released with KeReleaseSpinLockFromDpcLevel.
    """
    name = "KeTryToAcquireSpinLockAtDpcLevel"
    # Also by the owner: that is no deadlock, because it does not wait.
    if not SpinLock.initialised:
        check_acquire(SpinLock, current_kthread(), name)
    if not await TryAcquireLock(SpinLock):
        return False
    check_way(SpinLock, False, name)
    SpinLock.how = AT_DPC_LEVEL
    return True


@routine("wdm", "BOOLEAN KeTestSpinLock(_In_ PKSPIN_LOCK SpinLock)")
async def KeTestSpinLock(SpinLock: KSPIN_LOCK) -> bool:
    """Whether *SpinLock* is free at the moment, which is no promise: warning ``ke.test-spin`` (KE-SPIN-16).

    IRQL: any.
    """
    report("ke.test-spin", f"KeTestSpinLock of {SpinLock.label}: its answer may be wrong as soon as it is given")
    return await TestLock(SpinLock)


@routine(
    "wdm",
    "KIRQL KeAcquireSpinLockForDpc(_Inout_ PKSPIN_LOCK SpinLock)",
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x42),
)
async def KeAcquireSpinLockForDpc(SpinLock: KSPIN_LOCK) -> int:
    """Acquire *SpinLock* in a DPC routine, whether the DPC is a threaded one or not, and return the old IRQL.

    IRQL: <= DISPATCH_LEVEL. To be released with KeReleaseSpinLockForDpc.
    """
    return await KeAcquireSpinLock(SpinLock)


@routine(
    "wdm",
    "VOID KeReleaseSpinLockForDpc(_Inout_ PKSPIN_LOCK SpinLock, _In_ KIRQL OldIrql)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x32),
)
async def KeReleaseSpinLockForDpc(SpinLock: KSPIN_LOCK, OldIrql: int) -> None:
    """Give up what KeAcquireSpinLockForDpc has acquired. IRQL: DISPATCH_LEVEL, by the owner."""
    await KeReleaseSpinLock(SpinLock, OldIrql)
