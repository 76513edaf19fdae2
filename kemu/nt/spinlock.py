"""Spin locks (KE-SPIN): exclusive, not recursive, held at DISPATCH_LEVEL."""

from __future__ import annotations

from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.lock import AcquireLock, OwnedLock, ReleaseLock, check_acquire, check_old_irql, check_release
from kemu.nt.routine import routine
from kemu.nt.storage import Storage
from kemu.runtime import current_thread


class KSPIN_LOCK(OwnedLock, Storage):
    """Storage for a spin lock."""

    __slots__ = ()

    def __init__(self, label: str = "spin lock") -> None:
        super().__init__(label)


@routine("wdm", "VOID KeInitializeSpinLock(_Inout_ PKSPIN_LOCK SpinLock)")
def KeInitializeSpinLock(SpinLock: KSPIN_LOCK) -> None:
    """Make *SpinLock* free. IRQL: any."""
    current_thread().write(SpinLock)
    SpinLock.initialised = True


@routine(
    "wdm",
    "VOID KeAcquireSpinLock(_Inout_ PKSPIN_LOCK SpinLock, _Out_ PKIRQL OldIrql)",
    max_irql=DISPATCH_LEVEL,
)
async def KeAcquireSpinLock(SpinLock: KSPIN_LOCK) -> int:
    """Spin for *SpinLock*, raise to DISPATCH_LEVEL and return the old IRQL (KE-SPIN-01).

    IRQL: <= DISPATCH_LEVEL. The owner that asks again spins for ever: finding ``ke.self-deadlock``, bug check 0xF
    (KE-SPIN-05).
    """
    thread = current_kthread()
    check_acquire(SpinLock, thread, "KeAcquireSpinLock")
    await AcquireLock(SpinLock)
    # The old level is stored after the lock is held; storing it before would overwrite the owner's.
    SpinLock.old_irql = old_irql = thread.irql
    thread.irql = DISPATCH_LEVEL
    return old_irql


@routine(
    "wdm",
    "VOID KeReleaseSpinLock(_Inout_ PKSPIN_LOCK SpinLock, _In_ KIRQL NewIrql)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def KeReleaseSpinLock(SpinLock: KSPIN_LOCK, NewIrql: int) -> None:
    """Give *SpinLock* up and go back to *NewIrql*, the value that the acquisition returned.

    IRQL: DISPATCH_LEVEL, by the owner (KE-SPIN-06). Another value than the acquisition's leaves the thread at a
    wrong level: finding ``ke.irql-nesting`` (KE-SPIN-02).
    """
    thread = current_kthread()
    check_release(SpinLock, thread, "KeReleaseSpinLock")
    check_old_irql(SpinLock, NewIrql, "KeReleaseSpinLock")
    await ReleaseLock(SpinLock)
    thread.irql = NewIrql
