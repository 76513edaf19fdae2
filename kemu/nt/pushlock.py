"""Push locks (KE-PUSH): several sharers or one owner, no recursion, at APC_LEVEL or below.

A writer that waits keeps later sharers out as long as there are others, and any of the writers that wait may be next.
"""

from __future__ import annotations

from typing import Final

from kemu.nt.bugcheck import (
    APC_INDEX_MISMATCH,
    INVALID_PUSH_LOCK_FLAGS,
    KERNEL_AUTO_BOOST_INVALID_LOCK_RELEASE,
    KERNEL_AUTO_BOOST_LOCK_ACQUISITION_WITH_RAISED_IRQL,
    BugCheck,
)
from kemu.nt.kthread import APC_LEVEL, KThread, current_kthread
from kemu.nt.lock import apcs_are_disabled, not_owned, owns_already, uninitialised, violation
from kemu.nt.routine import routine, stops_with
from kemu.nt.sharedlock import AcquireShared, ReleaseExclusive, ReleaseShared, SharedLock, acquire_exclusive
from kemu.nt.system import report

EX_PUSH_LOCK_ENABLE_AUTO_BOOST: Final = 0x1
EX_PUSH_LOCK_DISABLE_AUTO_BOOST: Final = 0x2
EX_DEFAULT_PUSH_LOCK_FLAGS: Final = EX_PUSH_LOCK_ENABLE_AUTO_BOOST
VALID_FLAGS: Final = EX_PUSH_LOCK_ENABLE_AUTO_BOOST | EX_PUSH_LOCK_DISABLE_AUTO_BOOST

ACQUIRED_WITH_APCS: Final = 0xEA
RELEASED_WITH_APCS: Final = 0xEB
RAISED_IRQL: Final = KERNEL_AUTO_BOOST_LOCK_ACQUISITION_WITH_RAISED_IRQL

EX: Final = "Ex"
FLT: Final = "Flt"


class EX_PUSH_LOCK(SharedLock):
    """Storage for a push lock. Zeroed memory is a free one (KE-PUSH-01)."""

    __slots__ = ("families",)

    boosts = True
    """Whether the kernel keeps a record of it with the thread that holds it."""
    pageable = True

    def __init__(self, label: str = "push lock") -> None:
        super().__init__(label)
        self.families: dict[KThread, str] = {}
        """Which routines each holder has acquired it with. Each looks at its own."""

    @property
    def admits_readers(self) -> bool:
        return self.owner is None and (not self.sharers or not self.waiting)


def check_usable(lock: EX_PUSH_LOCK, name: str) -> None:
    """Finding of a lock that was deleted, or whose memory was never zeroed."""
    if not lock.initialised:
        uninitialised(lock, name)


def check_flags(lock: EX_PUSH_LOCK, flags: int, name: str) -> None:
    """Finding of flags that there are not (KE-PUSH-05)."""
    if flags & ~VALID_FLAGS:
        report(
            "ke.push-flags",
            f"{name} of {lock.label} with flags 0x{flags:X}",
            BugCheck(INVALID_PUSH_LOCK_FLAGS, (flags,)),
        )


def check_apcs(lock: EX_PUSH_LOCK, thread: KThread, name: str, what: int) -> None:
    """Finding of a call with normal kernel APCs enabled (KE-PUSH-02): a suspended holder would stop everybody."""
    if not apcs_are_disabled(thread):
        report(
            "ke.pushlock-apc",
            f"{name} of {lock.label} by {thread.label}, which is in no critical or guarded region",
            verifier=violation(what),
        )


async def acquire(lock: EX_PUSH_LOCK, shared: bool, family: str, name: str) -> None:
    """Acquire *lock* for the calling thread with a routine of *family*."""
    thread = current_kthread()
    check_usable(lock, name)
    if lock.owner is thread or (not shared and thread in lock.sharers):
        owns_already(lock, thread, name)
    elif thread in lock.sharers:
        report(
            "ke.push-shared-recursion",
            f"{name}: {thread.label} shares {lock.label} already, and waits for itself as soon as a writer waits",
        )
    if shared:
        await AcquireShared(lock)
    else:
        await acquire_exclusive(lock)
    lock.families[thread] = family


async def release(lock: EX_PUSH_LOCK, shared: bool | None, family: str, name: str) -> None:
    """Release *lock*, which the calling thread has acquired; *shared* is None for routines that take either mode."""
    thread = current_kthread()
    check_usable(lock, name)
    exclusive = lock.owner is thread
    if not exclusive and thread not in lock.sharers:
        not_owned(lock, thread, name, lock.holders(), BugCheck(KERNEL_AUTO_BOOST_INVALID_LOCK_RELEASE))
    if shared is exclusive:
        report(
            "ke.lock-mode",
            f"{name} of {lock.label}, which {thread.label} holds {'exclusive' if exclusive else 'shared'}",
            BugCheck(KERNEL_AUTO_BOOST_INVALID_LOCK_RELEASE),
        )
    if lock.families.pop(thread, family) != family:
        report(
            "ke.push-mix",
            f"{name} of {lock.label}, which was acquired with a routine of the other family: only Flt routines enter "
            "and leave a critical region",
            BugCheck(APC_INDEX_MISMATCH),
        )
    if exclusive:
        await ReleaseExclusive(lock)
    else:
        await ReleaseShared(lock)


@routine("wdm", "VOID ExInitializePushLock(_Inout_ PEX_PUSH_LOCK PushLock)", max_irql=APC_LEVEL)
def ExInitializePushLock(PushLock: EX_PUSH_LOCK) -> None:
    """Make *PushLock* free, as zeroed memory is anyway (KE-PUSH-01). IRQL: <= APC_LEVEL.

    One that somebody holds: ``ke.lock-reinitialised``.
    """
    PushLock.make_free("ExInitializePushLock")


@routine(
    "wdm",
    "VOID ExAcquirePushLockExclusiveEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def ExAcquirePushLockExclusiveEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """Wait until nobody holds *PushLock*, and own it.

    IRQL: <= APC_LEVEL, in a critical or guarded region or at APC_LEVEL: ``ke.pushlock-apc`` (KE-PUSH-02). A thread that
    holds it in any mode waits for itself: ``ke.self-deadlock`` (KE-PUSH-03). Other *Flags* than the two there are: bug
    check 0x152; they are about priorities and change nothing.
    """
    check_flags(PushLock, Flags, "ExAcquirePushLockExclusive")
    check_apcs(PushLock, current_kthread(), "ExAcquirePushLockExclusive", ACQUIRED_WITH_APCS)
    await acquire(PushLock, False, EX, "ExAcquirePushLockExclusive")


@routine(
    "wdm",
    "VOID ExAcquirePushLockSharedEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def ExAcquirePushLockSharedEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """Share *PushLock*: at once if it is free, or shared and nobody waits to own it (KE-PUSH-04).

    IRQL: as ExAcquirePushLockExclusive. A thread that shares it already is granted it once more, unless a writer has
    come in between: ``ke.push-shared-recursion`` in any case (KE-PUSH-03, KE-DOC-05).
    """
    check_flags(PushLock, Flags, "ExAcquirePushLockShared")
    check_apcs(PushLock, current_kthread(), "ExAcquirePushLockShared", ACQUIRED_WITH_APCS)
    await acquire(PushLock, True, EX, "ExAcquirePushLockShared")


@routine(
    "wdm",
    "VOID ExReleasePushLockExclusiveEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    stops=stops_with(RAISED_IRQL),
)
async def ExReleasePushLockExclusiveEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """Give *PushLock* up, which the caller owns. IRQL: <= APC_LEVEL, with normal kernel APCs still disabled.

    Findings: ``ke.lock-not-owned``, ``ke.lock-mode`` (KE-PUSH-05), ``ke.push-mix`` (KE-PUSH-06).
    """
    check_flags(PushLock, Flags, "ExReleasePushLockExclusive")
    check_apcs(PushLock, current_kthread(), "ExReleasePushLockExclusive", RELEASED_WITH_APCS)
    await release(PushLock, False, EX, "ExReleasePushLockExclusive")


@routine(
    "wdm",
    "VOID ExReleasePushLockSharedEx(_Inout_ PEX_PUSH_LOCK PushLock, _In_ ULONG Flags)",
    max_irql=APC_LEVEL,
    stops=stops_with(RAISED_IRQL),
)
async def ExReleasePushLockSharedEx(PushLock: EX_PUSH_LOCK, Flags: int) -> None:
    """Give *PushLock* up, which the caller shares. IRQL: <= APC_LEVEL, with normal kernel APCs still disabled.

    Findings: as ExReleasePushLockExclusive.
    """
    check_flags(PushLock, Flags, "ExReleasePushLockShared")
    check_apcs(PushLock, current_kthread(), "ExReleasePushLockShared", RELEASED_WITH_APCS)
    await release(PushLock, True, EX, "ExReleasePushLockShared")


# What C has as macros.


@routine(
    "wdm",
    "VOID ExAcquirePushLockExclusive(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def ExAcquirePushLockExclusive(PushLock: EX_PUSH_LOCK) -> None:
    """ExAcquirePushLockExclusiveEx with EX_DEFAULT_PUSH_LOCK_FLAGS. IRQL: <= APC_LEVEL."""
    await ExAcquirePushLockExclusiveEx(PushLock, EX_DEFAULT_PUSH_LOCK_FLAGS)


@routine(
    "wdm",
    "VOID ExAcquirePushLockShared(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=stops_with(RAISED_IRQL),
)
async def ExAcquirePushLockShared(PushLock: EX_PUSH_LOCK) -> None:
    """ExAcquirePushLockSharedEx with EX_DEFAULT_PUSH_LOCK_FLAGS. IRQL: <= APC_LEVEL."""
    await ExAcquirePushLockSharedEx(PushLock, EX_DEFAULT_PUSH_LOCK_FLAGS)


@routine(
    "wdm",
    "VOID ExReleasePushLockExclusive(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    stops=stops_with(RAISED_IRQL),
)
async def ExReleasePushLockExclusive(PushLock: EX_PUSH_LOCK) -> None:
    """ExReleasePushLockExclusiveEx with EX_DEFAULT_PUSH_LOCK_FLAGS. IRQL: <= APC_LEVEL."""
    await ExReleasePushLockExclusiveEx(PushLock, EX_DEFAULT_PUSH_LOCK_FLAGS)


@routine(
    "wdm",
    "VOID ExReleasePushLockShared(_Inout_ PEX_PUSH_LOCK PushLock)",
    max_irql=APC_LEVEL,
    stops=stops_with(RAISED_IRQL),
)
async def ExReleasePushLockShared(PushLock: EX_PUSH_LOCK) -> None:
    """ExReleasePushLockSharedEx with EX_DEFAULT_PUSH_LOCK_FLAGS. IRQL: <= APC_LEVEL."""
    await ExReleasePushLockSharedEx(PushLock, EX_DEFAULT_PUSH_LOCK_FLAGS)
