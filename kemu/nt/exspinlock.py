"""Reader/writer spin locks (KE-SPIN-14): several readers or one writer, held at DISPATCH_LEVEL.

Zeroed memory is a free one. A writer that waits keeps later readers out, so that there is no recursion, not even a
reader's: it deadlocks as soon as a writer asks in between.
"""

from __future__ import annotations

from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.lock import check_lowered, not_owned, owns_already, uninitialised
from kemu.nt.routine import routine, stops_with
from kemu.nt.sharedlock import (
    AcquireShared,
    ReleaseExclusive,
    ReleaseShared,
    SharedLock,
    TryExclusive,
    TryShared,
    Upgrade,
    acquire_exclusive,
)
from kemu.nt.spinlock import AT_DPC_LEVEL, KSPIN_LOCK, RAISED, WAYS, OldIrql
from kemu.nt.system import report


class EX_SPIN_LOCK(SharedLock):
    """Storage for a reader/writer spin lock."""

    __slots__ = ("levels", "saved")

    spins = True
    storage_size = 4

    def __init__(self, label: str = "reader/writer spin lock") -> None:
        super().__init__(label)
        self.levels: dict[KThread, tuple[int, int]] = {}
        """How each holder has acquired it, and its IRQL before that. Each looks at its own."""
        self.saved: OldIrql | None = None

    @property
    def admits_readers(self) -> bool:
        return self.owner is None and not self.waiting

    def held(self, thread: KThread, how: int) -> int:
        """Note how *thread* has acquired it, raise its IRQL if it was so, and return what the acquisition returns."""
        before = thread.irql
        self.levels[thread] = how, before
        if how == RAISED:
            thread.irql = DISPATCH_LEVEL
        saved = self.saved
        if saved is None or saved != before:
            saved = self.saved = OldIrql(before)
            saved.lock = self
        return saved


def check_again(lock: EX_SPIN_LOCK, thread: KThread, name: str) -> None:
    """Findings of an acquisition: uninitialised lock, or one that the thread holds in any mode."""
    if not lock.initialised:
        uninitialised(lock, name)
    if lock.owner is thread or thread in lock.sharers:
        owns_already(lock, thread, name, KSPIN_LOCK.acquired_again)


def check_release(lock: EX_SPIN_LOCK, thread: KThread, shared: bool, how: int, name: str) -> int:
    """Findings of a release that does not go with the acquisition; the IRQL to go back to."""
    mine = lock.owner is thread or thread in lock.sharers
    if not mine:
        owners = lock.holders()
        not_owned(lock, thread, name, owners, None if owners else KSPIN_LOCK.released_unowned)
    if shared is (lock.owner is thread):
        mode = "shared" if not shared else "exclusive"
        report("ke.lock-mode", f"{name} of {lock.label}, which {thread.label} holds {mode}")
    acquired, before = lock.levels.pop(thread, (how, thread.irql))
    if how == RAISED:
        check_lowered(thread, before, name, lock)
    if acquired != how:
        report("ke.spin-release-mismatch", f"{name} on {lock.label}, which was acquired {WAYS[acquired]}")
    return before


def check_level(lock: EX_SPIN_LOCK, irql: int, before: int, name: str) -> None:
    """Findings of a release that goes back to another IRQL than the acquisition has saved (KE-SPIN-02)."""
    if isinstance(irql, OldIrql) and irql.lock is not lock:
        report(
            "ke.oldirql-shared",
            f"{name} on {lock.label} restores the IRQL that the acquisition of {irql.lock.label} has saved",
        )
    if irql != before:
        report("ke.irql-nesting", f"{name} restores IRQL {irql}, but {lock.label} was acquired at {before}")


@routine("wdm", "KIRQL ExAcquireSpinLockExclusive(_Inout_ PEX_SPIN_LOCK SpinLock)", max_irql=DISPATCH_LEVEL)
async def ExAcquireSpinLockExclusive(SpinLock: EX_SPIN_LOCK) -> int:
    """Spin until nobody holds *SpinLock*, raise to DISPATCH_LEVEL and return the old IRQL (KE-SPIN-14).

    IRQL: <= DISPATCH_LEVEL. A thread that holds it in any mode: ``ke.self-deadlock``, bug check 0xF (KE-SPIN-05).
    """
    thread = current_kthread()
    check_again(SpinLock, thread, "ExAcquireSpinLockExclusive")
    await acquire_exclusive(SpinLock)
    return SpinLock.held(thread, RAISED)


@routine("wdm", "KIRQL ExAcquireSpinLockShared(_Inout_ PEX_SPIN_LOCK SpinLock)", max_irql=DISPATCH_LEVEL)
async def ExAcquireSpinLockShared(SpinLock: EX_SPIN_LOCK) -> int:
    """Spin until no writer holds *SpinLock* or waits for it, raise to DISPATCH_LEVEL and return the old IRQL.

    IRQL: <= DISPATCH_LEVEL (KE-DOC-24). A thread that holds it in any mode: ``ke.self-deadlock`` (KE-SPIN-14).
    """
    thread = current_kthread()
    check_again(SpinLock, thread, "ExAcquireSpinLockShared")
    await AcquireShared(SpinLock)
    return SpinLock.held(thread, RAISED)


@routine(
    "wdm",
    "VOID ExReleaseSpinLockExclusive(_Inout_ PEX_SPIN_LOCK SpinLock, _In_ KIRQL OldIrql)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def ExReleaseSpinLockExclusive(SpinLock: EX_SPIN_LOCK, OldIrql: int) -> None:
    """Give *SpinLock* up, which the caller owns, and go back to *OldIrql*. IRQL: DISPATCH_LEVEL.

    Findings: ``ke.lock-not-owned``, ``ke.lock-mode``, ``ke.spin-release-mismatch``, ``ke.irql-nesting``.
    """
    thread = current_kthread()
    before = check_release(SpinLock, thread, False, RAISED, "ExReleaseSpinLockExclusive")
    check_level(SpinLock, OldIrql, before, "ExReleaseSpinLockExclusive")
    await ReleaseExclusive(SpinLock)
    thread.irql = OldIrql


@routine(
    "wdm",
    "VOID ExReleaseSpinLockShared(_Inout_ PEX_SPIN_LOCK SpinLock, _In_ KIRQL OldIrql)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def ExReleaseSpinLockShared(SpinLock: EX_SPIN_LOCK, OldIrql: int) -> None:
    """Give *SpinLock* up, which the caller shares, and go back to *OldIrql*. IRQL: DISPATCH_LEVEL.

    Findings: as ExReleaseSpinLockExclusive.
    """
    thread = current_kthread()
    before = check_release(SpinLock, thread, True, RAISED, "ExReleaseSpinLockShared")
    check_level(SpinLock, OldIrql, before, "ExReleaseSpinLockShared")
    await ReleaseShared(SpinLock)
    thread.irql = OldIrql


@routine(
    "wdm",
    "VOID ExAcquireSpinLockExclusiveAtDpcLevel(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x40),
)
async def ExAcquireSpinLockExclusiveAtDpcLevel(SpinLock: EX_SPIN_LOCK) -> None:
    """As ExAcquireSpinLockExclusive, but leave the IRQL. IRQL: DISPATCH_LEVEL (KE-SPIN-03)."""
    thread = current_kthread()
    check_again(SpinLock, thread, "ExAcquireSpinLockExclusiveAtDpcLevel")
    await acquire_exclusive(SpinLock)
    SpinLock.held(thread, AT_DPC_LEVEL)


@routine(
    "wdm",
    "VOID ExAcquireSpinLockSharedAtDpcLevel(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x40),
)
async def ExAcquireSpinLockSharedAtDpcLevel(SpinLock: EX_SPIN_LOCK) -> None:
    """As ExAcquireSpinLockShared, but leave the IRQL. IRQL: DISPATCH_LEVEL (KE-SPIN-03)."""
    thread = current_kthread()
    check_again(SpinLock, thread, "ExAcquireSpinLockSharedAtDpcLevel")
    await AcquireShared(SpinLock)
    SpinLock.held(thread, AT_DPC_LEVEL)


@routine(
    "wdm",
    "VOID ExReleaseSpinLockExclusiveFromDpcLevel(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x41),
)
async def ExReleaseSpinLockExclusiveFromDpcLevel(SpinLock: EX_SPIN_LOCK) -> None:
    """Give *SpinLock* up, which the caller owns, and leave the IRQL (KE-SPIN-04). IRQL: DISPATCH_LEVEL."""
    thread = current_kthread()
    check_release(SpinLock, thread, False, AT_DPC_LEVEL, "ExReleaseSpinLockExclusiveFromDpcLevel")
    await ReleaseExclusive(SpinLock)


@routine(
    "wdm",
    "VOID ExReleaseSpinLockSharedFromDpcLevel(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
    stops=stops_with(verifier=0x41),
)
async def ExReleaseSpinLockSharedFromDpcLevel(SpinLock: EX_SPIN_LOCK) -> None:
    """Give *SpinLock* up, which the caller shares, and leave the IRQL (KE-SPIN-04). IRQL: DISPATCH_LEVEL."""
    thread = current_kthread()
    check_release(SpinLock, thread, True, AT_DPC_LEVEL, "ExReleaseSpinLockSharedFromDpcLevel")
    await ReleaseShared(SpinLock)


@routine(
    "wdm",
    "LOGICAL ExTryAcquireSpinLockExclusiveAtDpcLevel(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def ExTryAcquireSpinLockExclusiveAtDpcLevel(SpinLock: EX_SPIN_LOCK) -> bool:
    """Become the owner of *SpinLock* if nobody holds it, and return whether that was so. IRQL: DISPATCH_LEVEL."""
    acquired = await TryExclusive(SpinLock)
    if acquired:
        SpinLock.held(current_kthread(), AT_DPC_LEVEL)
    return acquired


@routine(
    "wdm",
    "LOGICAL ExTryAcquireSpinLockSharedAtDpcLevel(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def ExTryAcquireSpinLockSharedAtDpcLevel(SpinLock: EX_SPIN_LOCK) -> bool:
    """Share *SpinLock* if no writer holds it or waits for it, and return whether that was so. IRQL: DISPATCH_LEVEL.

    A thread that holds it in any mode: ``ke.self-deadlock``.
    """
    thread = current_kthread()
    check_again(SpinLock, thread, "ExTryAcquireSpinLockSharedAtDpcLevel")
    acquired = await TryShared(SpinLock)
    if acquired:
        SpinLock.held(thread, AT_DPC_LEVEL)
    return acquired


@routine(
    "wdm",
    "LOGICAL ExTryConvertSharedSpinLockExclusive(_Inout_ PEX_SPIN_LOCK SpinLock)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def ExTryConvertSharedSpinLockExclusive(SpinLock: EX_SPIN_LOCK) -> bool:
    """From sharing *SpinLock* become its owner, and return whether that was possible (KE-SPIN-15).

    It is if no other reader holds it and no writer waits. Then it has to be released as exclusive, with the IRQL of the
    shared acquisition. IRQL: DISPATCH_LEVEL, by a reader: finding ``ke.lock-not-owned``.
    """
    thread = current_kthread()
    if thread not in SpinLock.sharers:
        not_owned(SpinLock, thread, "ExTryConvertSharedSpinLockExclusive", SpinLock.holders())
    return await Upgrade(SpinLock)
