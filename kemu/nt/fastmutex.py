"""Fast mutexes (KE-FMUTEX): exclusive, not recursive, held at APC_LEVEL."""

from __future__ import annotations

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.lock import AcquireLock, OwnedLock, ReleaseLock, check_acquire, check_release
from kemu.nt.routine import routine
from kemu.nt.storage import Storage
from kemu.runtime import current_thread


class FAST_MUTEX(OwnedLock, Storage):
    """Storage for a fast mutex."""

    __slots__ = ()

    storage_size = 56

    def __init__(self, label: str = "fast mutex") -> None:
        super().__init__(label)


@routine("wdm", "VOID ExInitializeFastMutex(_Inout_ PFAST_MUTEX FastMutex)", max_irql=DISPATCH_LEVEL)
def ExInitializeFastMutex(FastMutex: FAST_MUTEX) -> None:
    """Make *FastMutex* free. IRQL: <= DISPATCH_LEVEL."""
    current_thread().write(FastMutex)
    FastMutex.initialised = True


@routine("wdm", "VOID ExAcquireFastMutex(_Inout_ PFAST_MUTEX FastMutex)", max_irql=APC_LEVEL)
async def ExAcquireFastMutex(FastMutex: FAST_MUTEX) -> None:
    """Wait for *FastMutex* and hold it at APC_LEVEL (KE-FMUTEX-01).

    IRQL: <= APC_LEVEL. The owner that asks again waits for itself: finding ``ke.self-deadlock`` (KE-FMUTEX-03).
    """
    thread = current_kthread()
    check_acquire(FastMutex, thread, "ExAcquireFastMutex")
    await AcquireLock(FastMutex)
    FastMutex.old_irql = thread.irql
    thread.irql = APC_LEVEL


@routine("wdm", "VOID ExReleaseFastMutex(_Inout_ PFAST_MUTEX FastMutex)", min_irql=APC_LEVEL, max_irql=APC_LEVEL)
async def ExReleaseFastMutex(FastMutex: FAST_MUTEX) -> None:
    """Give *FastMutex* up and restore the IRQL (KE-FMUTEX-01). IRQL: APC_LEVEL, by the owner (KE-FMUTEX-02)."""
    thread = current_kthread()
    check_release(FastMutex, thread, "ExReleaseFastMutex")
    old_irql = FastMutex.old_irql
    await ReleaseLock(FastMutex)
    thread.irql = old_irql
