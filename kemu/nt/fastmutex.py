"""Fast mutexes and guarded mutexes (KE-FMUTEX): exclusive, not recursive, held with APCs disabled."""

from __future__ import annotations

from typing import Final

from kemu.nt.bugcheck import MUTEX_ALREADY_OWNED, BugCheck
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread, current_kthread, irql_name
from kemu.nt.lock import (
    OUT_OF_ORDER,
    AcquireLock,
    OwnedLock,
    ReleaseLock,
    TryAcquireLock,
    apcs_are_disabled,
    check_acquire,
    check_release,
    violation,
)
from kemu.nt.routine import routine, stops_with
from kemu.nt.storage import Storage
from kemu.nt.system import report

UNSAFE_ACQUIRE: Final = 0x39
UNSAFE_RELEASE: Final = 0x3A


class FAST_MUTEX(OwnedLock, Storage):
    """Storage for a fast mutex."""

    __slots__ = ("unsafe",)

    acquired_again = (None, BugCheck(MUTEX_ALREADY_OWNED))

    storage_size = 56

    def __init__(self, label: str = "fast mutex") -> None:
        super().__init__(label)
        self.unsafe = False
        """Whether the owner has acquired it with a routine that does not disable APCs."""


class KGUARDED_MUTEX(FAST_MUTEX):
    """Storage for a guarded mutex."""

    __slots__ = ()

    def __init__(self, label: str = "guarded mutex") -> None:
        super().__init__(label)


def check_order(mutex: FAST_MUTEX, thread: KThread, name: str) -> None:
    """Finding of a release before that of a mutex which was acquired later (KE-FMUTEX-02).

    Each restores what it has found, so that in another order the thread goes on with APCs while it owns one.
    """
    for lock in reversed(thread.locks):
        if lock is mutex:
            return
        if isinstance(lock, FAST_MUTEX) and not lock.unsafe:
            report(
                "ke.lock-release-order",
                f"{name} of {mutex.label}, before {lock.label}, which {thread.label} has acquired later",
                verifier=violation(OUT_OF_ORDER),
            )


def check_pair(mutex: FAST_MUTEX, unsafe: bool, name: str) -> None:
    """Finding of a release that does not go with the acquisition (KE-FMUTEX-05)."""
    if mutex.unsafe is not unsafe:
        how = "an unsafe routine" if mutex.unsafe else "one that disables APCs"
        report("ke.fmutex-mix", f"{name} of {mutex.label}, which was acquired by {how}")


def check_unsafe(thread: KThread, mutex: FAST_MUTEX, name: str, what: int) -> None:
    """Finding of an unsafe routine in a thread that gets APCs (KE-FMUTEX-04, KE-DOC-07)."""
    if not apcs_are_disabled(thread):
        report(
            "ke.irql",
            f"{name} of {mutex.label} was called at {irql_name(thread.irql)} with APCs enabled; it may be called at "
            "APC_LEVEL, or in a critical or guarded region",
            verifier=violation(what, thread.irql),
        )
    elif thread.irql != APC_LEVEL and not isinstance(mutex, KGUARDED_MUTEX):
        report(
            "ke.fmutex-unsafe-level",
            f"{name} of {mutex.label} was called at {irql_name(thread.irql)}, in a region",
            verifier=violation(what, thread.irql),
        )


@routine("wdm", "VOID ExInitializeFastMutex(_Inout_ PFAST_MUTEX FastMutex)", max_irql=DISPATCH_LEVEL)
def ExInitializeFastMutex(FastMutex: FAST_MUTEX) -> None:
    """Make *FastMutex* free. IRQL: <= DISPATCH_LEVEL. Once for each: finding ``ke.lock-reinitialised`` (KE-DL-03)."""
    FastMutex.initialise("ExInitializeFastMutex")


@routine(
    "wdm",
    "VOID ExAcquireFastMutex(_Inout_ PFAST_MUTEX FastMutex)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(verifier=0x33),
)
async def ExAcquireFastMutex(FastMutex: FAST_MUTEX) -> None:
    """Wait for *FastMutex* and hold it at APC_LEVEL (KE-FMUTEX-01).

    IRQL: <= APC_LEVEL. The owner that asks again waits for itself: finding ``ke.self-deadlock`` (KE-FMUTEX-03).
    """
    thread = current_kthread()
    check_acquire(FastMutex, thread, "ExAcquireFastMutex")
    await AcquireLock(FastMutex)
    FastMutex.unsafe = False
    FastMutex.old_irql = thread.irql
    thread.irql = APC_LEVEL


@routine(
    "wdm",
    "BOOLEAN ExTryToAcquireFastMutex(_Inout_ PFAST_MUTEX FastMutex)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(verifier=0x33),
)
async def ExTryToAcquireFastMutex(FastMutex: FAST_MUTEX) -> bool:
    """Acquire *FastMutex* if nobody owns it, and return whether that was so; otherwise nothing changes (KE-FMUTEX-07).

    IRQL: <= APC_LEVEL.
    """
    thread = current_kthread()
    if not FastMutex.initialised:
        check_acquire(FastMutex, thread, "ExTryToAcquireFastMutex")
    if not await TryAcquireLock(FastMutex):
        return False
    FastMutex.unsafe = False
    FastMutex.old_irql = thread.irql
    thread.irql = APC_LEVEL
    return True


@routine(
    "wdm",
    "VOID ExReleaseFastMutex(_Inout_ PFAST_MUTEX FastMutex)",
    min_irql=APC_LEVEL,
    max_irql=APC_LEVEL,
    stops=stops_with(verifier=0x34),
)
async def ExReleaseFastMutex(FastMutex: FAST_MUTEX) -> None:
    """Give *FastMutex* up and restore the IRQL (KE-FMUTEX-01).

    IRQL: APC_LEVEL, by the owner, in the reverse order of acquisition: finding ``ke.lock-release-order``
    (KE-FMUTEX-02). One acquired by the unsafe routine: ``ke.fmutex-mix`` (KE-FMUTEX-05).
    """
    thread = current_kthread()
    check_release(FastMutex, thread, "ExReleaseFastMutex")
    if FastMutex.unsafe:
        check_pair(FastMutex, False, "ExReleaseFastMutex")
    if thread.locks[-1:] != [FastMutex]:
        check_order(FastMutex, thread, "ExReleaseFastMutex")
    old_irql = FastMutex.old_irql
    await ReleaseLock(FastMutex)
    thread.irql = old_irql


async def acquire_unsafe(mutex: FAST_MUTEX, name: str) -> None:
    """Acquire *mutex* and leave IRQL and regions as they are."""
    thread = current_kthread()
    check_unsafe(thread, mutex, name, UNSAFE_ACQUIRE)
    check_acquire(mutex, thread, name)
    await AcquireLock(mutex)
    mutex.unsafe = True


async def release_unsafe(mutex: FAST_MUTEX, name: str) -> None:
    """Release *mutex* and leave IRQL and regions as they are."""
    thread = current_kthread()
    check_unsafe(thread, mutex, name, UNSAFE_RELEASE)
    check_release(mutex, thread, name)
    check_pair(mutex, True, name)
    await ReleaseLock(mutex)


@routine(
    "wdm",
    "VOID ExAcquireFastMutexUnsafe(_Inout_ PFAST_MUTEX FastMutex)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(verifier=UNSAFE_ACQUIRE),
)
async def ExAcquireFastMutexUnsafe(FastMutex: FAST_MUTEX) -> None:
    """Wait for *FastMutex* and leave the IRQL; the caller has disabled APCs itself (KE-FMUTEX-04).

    IRQL: <= APC_LEVEL, below it in a critical or guarded region only: finding ``ke.irql`` otherwise.
    """
    await acquire_unsafe(FastMutex, "ExAcquireFastMutexUnsafe")


@routine(
    "wdm",
    "VOID ExReleaseFastMutexUnsafe(_Inout_ PFAST_MUTEX FastMutex)",
    max_irql=APC_LEVEL,
    stops=stops_with(verifier=UNSAFE_RELEASE),
)
async def ExReleaseFastMutexUnsafe(FastMutex: FAST_MUTEX) -> None:
    """Give up what ExAcquireFastMutexUnsafe has acquired: ``ke.fmutex-mix`` otherwise (KE-FMUTEX-05).

    IRQL: as ExAcquireFastMutexUnsafe, by the owner.
    """
    await release_unsafe(FastMutex, "ExReleaseFastMutexUnsafe")


# Guarded mutexes. Their IRQL is never raised; what holds APCs off is a guarded region (KE-FMUTEX-06).


@routine("wdm", "VOID KeInitializeGuardedMutex(_Inout_ PKGUARDED_MUTEX Mutex)", max_irql=APC_LEVEL)
def KeInitializeGuardedMutex(Mutex: KGUARDED_MUTEX) -> None:
    """Make *Mutex* free. IRQL: <= APC_LEVEL."""
    Mutex.initialise("KeInitializeGuardedMutex")


@routine("wdm", "VOID KeAcquireGuardedMutex(_Inout_ PKGUARDED_MUTEX Mutex)", max_irql=APC_LEVEL, under_spin_lock=False)
async def KeAcquireGuardedMutex(Mutex: KGUARDED_MUTEX) -> None:
    """Wait for *Mutex* and hold it in a guarded region, at the same IRQL (KE-FMUTEX-06).

    IRQL: <= APC_LEVEL. The owner that asks again: ``ke.self-deadlock``.
    """
    thread = current_kthread()
    check_acquire(Mutex, thread, "KeAcquireGuardedMutex")
    # Entered first: a thread that was suspended as the owner would keep everybody else waiting.
    thread.special_apc_disable += 1
    await AcquireLock(Mutex)
    Mutex.unsafe = False


@routine(
    "wdm",
    "BOOLEAN KeTryToAcquireGuardedMutex(_Inout_ PKGUARDED_MUTEX Mutex)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def KeTryToAcquireGuardedMutex(Mutex: KGUARDED_MUTEX) -> bool:
    """Acquire *Mutex* if nobody owns it, and return whether that was so; otherwise nothing changes (KE-FMUTEX-07).

    IRQL: <= APC_LEVEL.
    """
    thread = current_kthread()
    if not Mutex.initialised:
        check_acquire(Mutex, thread, "KeTryToAcquireGuardedMutex")
    if not await TryAcquireLock(Mutex):
        return False
    Mutex.unsafe = False
    thread.special_apc_disable += 1
    return True


@routine("wdm", "VOID KeReleaseGuardedMutex(_Inout_ PKGUARDED_MUTEX Mutex)", max_irql=APC_LEVEL)
async def KeReleaseGuardedMutex(Mutex: KGUARDED_MUTEX) -> None:
    """Give *Mutex* up and leave its guarded region. IRQL: <= APC_LEVEL, by the owner.

    Findings: ``ke.fmutex-mix``, ``ke.lock-release-order``, ``ke.region-balance``.
    """
    thread = current_kthread()
    check_release(Mutex, thread, "KeReleaseGuardedMutex")
    check_pair(Mutex, False, "KeReleaseGuardedMutex")
    check_order(Mutex, thread, "KeReleaseGuardedMutex")
    await ReleaseLock(Mutex)
    if thread.special_apc_disable == 0:
        report("ke.region-balance", f"{thread.label} has left the guarded region of {Mutex.label} before releasing it")
    thread.special_apc_disable -= 1


@routine(
    "wdm",
    "VOID KeAcquireGuardedMutexUnsafe(_Inout_ PKGUARDED_MUTEX FastMutex)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def KeAcquireGuardedMutexUnsafe(FastMutex: KGUARDED_MUTEX) -> None:
    """Wait for the mutex in a guarded region that the caller has entered itself, or at APC_LEVEL (KE-FMUTEX-04).

    IRQL: <= APC_LEVEL. With APCs enabled: finding ``ke.irql``.
    """
    await acquire_unsafe(FastMutex, "KeAcquireGuardedMutexUnsafe")


@routine("wdm", "VOID KeReleaseGuardedMutexUnsafe(_Inout_ PKGUARDED_MUTEX FastMutex)", max_irql=APC_LEVEL)
async def KeReleaseGuardedMutexUnsafe(FastMutex: KGUARDED_MUTEX) -> None:
    """Give up what KeAcquireGuardedMutexUnsafe has acquired. IRQL: <= APC_LEVEL, by the owner."""
    await release_unsafe(FastMutex, "KeReleaseGuardedMutexUnsafe")
