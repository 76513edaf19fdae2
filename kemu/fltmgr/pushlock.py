"""The filter manager's push locks (KE-PUSH): those of the kernel, in a critical region of their own."""

from __future__ import annotations

from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.nt.lock import check_deleted
from kemu.nt.pushlock import (
    EX_DEFAULT_PUSH_LOCK_FLAGS,
    EX_PUSH_LOCK,
    FLT,
    RAISED_IRQL,
    acquire,
    check_flags,
    check_usable,
    release,
)
from kemu.nt.routine import routine, stops_with
from kemu.nt.system import report
from kemu.runtime import current_thread

FLT_PUSH_LOCK_ENABLE_AUTO_BOOST = 0x1
FLT_PUSH_LOCK_DISABLE_AUTO_BOOST = 0x2


@routine("fltkernel", "VOID FltInitializePushLock(_Inout_ PEX_PUSH_LOCK PushLock)", max_irql=APC_LEVEL)
def FltInitializePushLock(PushLock: EX_PUSH_LOCK) -> None:
    """Make *PushLock* free. IRQL: <= APC_LEVEL. One that somebody holds: ``ke.lock-reinitialised``."""
    PushLock.make_free("FltInitializePushLock")


@routine("fltkernel", "VOID FltDeletePushLock(_In_ PEX_PUSH_LOCK PushLock)", max_irql=APC_LEVEL)
def FltDeletePushLock(PushLock: EX_PUSH_LOCK) -> None:
    """Have done with *PushLock*. IRQL: <= APC_LEVEL.

    One that somebody holds or waits for: ``ke.lock-freed``. Used afterwards: ``ke.uninitialised``.
    """
    check_usable(PushLock, "FltDeletePushLock")
    current_thread().write(PushLock)
    check_deleted(PushLock, PushLock.holders(), "FltDeletePushLock")
    PushLock.initialised = False


async def _acquire(lock: EX_PUSH_LOCK, shared: bool, flags: int, name: str) -> None:
    check_flags(lock, flags, name)
    # Entered first: a thread that was suspended as the owner would keep everybody else waiting.
    current_kthread().kernel_apc_disable += 1
    await acquire(lock, shared, FLT, name)


async def _release(lock: EX_PUSH_LOCK, flags: int, name: str) -> None:
    check_flags(lock, flags, name)
    await release(lock, None, FLT, name)
    thread = current_kthread()
    if thread.kernel_apc_disable == 0:
        report("ke.region-balance", f"{thread.label} has left the critical region of {lock.label} before releasing it")
    thread.kernel_apc_disable -= 1


@routine(
    "fltkernel",
    "VOID FltAcquirePushLockExclusive(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def FltAcquirePushLockExclusive(PushLock: EX_PUSH_LOCK) -> None:
    """Enter a critical region, wait until nobody holds *PushLock*, and own it (KE-PUSH-02).

    IRQL: <= APC_LEVEL. A thread that holds it in any mode: ``ke.self-deadlock`` (KE-PUSH-03, KE-DOC-25).
    """
    await _acquire(PushLock, False, EX_DEFAULT_PUSH_LOCK_FLAGS, "FltAcquirePushLockExclusive")


@routine(
    "fltkernel",
    "VOID FltAcquirePushLockShared(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def FltAcquirePushLockShared(PushLock: EX_PUSH_LOCK) -> None:
    """Enter a critical region, and share *PushLock* as soon as nobody owns it or waits to (KE-PUSH-04).

    IRQL: <= APC_LEVEL. A thread that shares it already: ``ke.push-shared-recursion`` (KE-PUSH-03, KE-DOC-25).
    """
    await _acquire(PushLock, True, EX_DEFAULT_PUSH_LOCK_FLAGS, "FltAcquirePushLockShared")


@routine(
    "fltkernel",
    "VOID FltReleasePushLock(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    stops=stops_with(RAISED_IRQL),
)
async def FltReleasePushLock(PushLock: EX_PUSH_LOCK) -> None:
    """Give *PushLock* up, in whichever mode the caller holds it, and leave the critical region.

    IRQL: <= APC_LEVEL. Findings: ``ke.lock-not-owned`` (KE-PUSH-05), ``ke.push-mix`` (KE-PUSH-06).
    """
    await _release(PushLock, EX_DEFAULT_PUSH_LOCK_FLAGS, "FltReleasePushLock")


@routine(
    "fltkernel",
    "VOID FltAcquirePushLockExclusiveEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def FltAcquirePushLockExclusiveEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """As FltAcquirePushLockExclusive; *Flags* are about priorities and change nothing, others: bug check 0x152.

    IRQL: <= APC_LEVEL.
    """
    await _acquire(PushLock, False, Flags, "FltAcquirePushLockExclusiveEx")


@routine(
    "fltkernel",
    "VOID FltAcquirePushLockSharedEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def FltAcquirePushLockSharedEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """As FltAcquirePushLockShared; *Flags* are about priorities and change nothing, others: bug check 0x152.

    IRQL: <= APC_LEVEL.
    """
    await _acquire(PushLock, True, Flags, "FltAcquirePushLockSharedEx")


@routine(
    "fltkernel",
    "VOID FltReleasePushLockEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    stops=stops_with(RAISED_IRQL),
)
async def FltReleasePushLockEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """As FltReleasePushLock, with the flags of the acquisition. IRQL: <= APC_LEVEL."""
    await _release(PushLock, Flags, "FltReleasePushLockEx")
