"""Executive resources (KE-RES): several sharers or one owner, recursive, with the APCs of their owners disabled."""

from __future__ import annotations

from typing import Final

from kemu.nt.bugcheck import RESOURCE_NOT_OWNED, RESOURCE_OWNER_POINTER_INVALID, BugCheck
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.lock import apcs_are_disabled, check_deleted, not_owned, violation
from kemu.nt.ownership import (
    ERESOURCE,
    EXCLUSIVE,
    SHARED,
    STARVE_EXCLUSIVE,
    WAIT_FOR_EXCLUSIVE,
    AskForResource,
    AwaitResource,
    ConvertToShared,
    CountWaiters,
    Owner,
    ReleaseResource,
    Resources,
)
from kemu.nt.region import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import current_system, report
from kemu.runtime import current_thread

FLAG_OWNER_POINTER_IS_THREAD: Final = 0x1

ACQUIRED_WITH_APCS: Final = 0x37
RELEASED_WITH_APCS: Final = 0x38
REINITIALISED: Final = 0xD0
DELETED_UNINITIALISED: Final = 0xD1


def check_usable(resource: ERESOURCE, name: str, what: int | None = None) -> None:
    """Finding of a resource that is not initialised, or was deleted."""
    if not resource.initialised:
        report(
            "ke.uninitialised",
            f"{name} on {resource.label}, which ExInitializeResourceLite has not initialised",
            verifier=violation(what) if what is not None else None,
        )


def check_moved(resource: ERESOURCE, thread: KThread, name: str) -> None:
    """Finding of a thread that uses what it has given away (KE-RES-10)."""
    if thread in resource.moved:
        report(
            "ke.eresource-transferred",
            f"{name} of {resource.label} by {thread.label}, which has put an owner pointer in its place: only "
            "ExReleaseResourceForThreadLite may follow",
        )


def check_apcs(resource: ERESOURCE, thread: KThread, name: str, what: int) -> None:
    """Finding of a call with normal kernel APCs enabled (KE-RES-02)."""
    if not apcs_are_disabled(thread):
        report(
            "ke.eresource-apc",
            f"{name} of {resource.label} by {thread.label}, which is in no critical or guarded region",
            verifier=violation(what),
        )


async def acquire(resource: ERESOURCE, mode: int, wait: bool, name: str) -> bool:
    """Acquire *resource* for the calling thread, or, without *wait*, return whether that was possible."""
    thread = current_kthread()
    check_usable(resource, name)
    check_apcs(resource, thread, name, ACQUIRED_WITH_APCS)
    check_moved(resource, thread, name)
    asked = await AskForResource(resource, mode, bool(wait), name)
    if isinstance(asked, bool):
        return asked
    return await AwaitResource(resource, asked)


async def release(resource: ERESOURCE, owner: object, name: str) -> None:
    """Undo one acquisition of *owner*."""
    thread = current_kthread()
    check_usable(resource, name)
    if not isinstance(owner, KThread | int):
        not_owned(resource, thread, name, resource.holders(), BugCheck(RESOURCE_NOT_OWNED))
        return
    if owner is thread:
        check_apcs(resource, thread, name, RELEASED_WITH_APCS)
        check_moved(resource, thread, name)
    await ReleaseResource(resource, owner, name)


@routine("wdm", "NTSTATUS ExInitializeResourceLite(_Inout_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
def ExInitializeResourceLite(Resource: ERESOURCE) -> NTSTATUS:
    """Make *Resource* free; STATUS_SUCCESS. IRQL: <= DISPATCH_LEVEL.

    One that is initialised: ``ke.lock-reinitialised``. To be deleted before its memory is freed (KE-RES-01).
    """
    if Resource.initialised:
        report(
            "ke.lock-reinitialised",
            f"ExInitializeResourceLite on {Resource.label}, which is initialised already",
            verifier=violation(REINITIALISED),
        )
    current_thread().write(Resource)
    Resource.reset()
    Resource.initialised = True
    current_system().get(Resources).added(Resource)
    return STATUS_SUCCESS


@routine("wdm", "NTSTATUS ExReinitializeResourceLite(_Inout_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
def ExReinitializeResourceLite(Resource: ERESOURCE) -> NTSTATUS:
    """Make *Resource*, which is initialised and not in use, free again; STATUS_SUCCESS. IRQL: <= DISPATCH_LEVEL.

    One that somebody owns or waits for: ``ke.lock-freed``.
    """
    check_usable(Resource, "ExReinitializeResourceLite")
    current_thread().write(Resource)
    check_deleted(Resource, Resource.holders(), "ExReinitializeResourceLite")
    Resource.reset()
    return STATUS_SUCCESS


@routine("wdm", "NTSTATUS ExDeleteResourceLite(_Inout_ PERESOURCE Resource)", max_irql=APC_LEVEL)
def ExDeleteResourceLite(Resource: ERESOURCE) -> NTSTATUS:
    """Have done with *Resource*; STATUS_SUCCESS. IRQL: <= APC_LEVEL.

    One that somebody owns or waits for: ``ke.lock-freed``. One that is not initialised: ``ke.uninitialised``
    (KE-RES-01).
    """
    check_usable(Resource, "ExDeleteResourceLite", DELETED_UNINITIALISED)
    current_thread().write(Resource)
    check_deleted(Resource, Resource.holders(), "ExDeleteResourceLite")
    Resource.initialised = False
    current_system().get(Resources).active.pop(Resource, None)
    return STATUS_SUCCESS


@routine(
    "wdm",
    "BOOLEAN ExAcquireResourceExclusiveLite(_Inout_ PERESOURCE Resource, _In_ BOOLEAN Wait)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExAcquireResourceExclusiveLite(Resource: ERESOURCE, Wait: bool) -> bool:
    """Own *Resource*: at once if it is free or the caller owns it already, else after all others (KE-RES-03).

    Returns whether the caller owns it; FALSE only without *Wait* (KE-RES-07). IRQL: <= APC_LEVEL, with normal kernel
    APCs disabled: ``ke.eresource-apc`` (KE-RES-02). A caller that shares it waits for itself: ``ke.self-deadlock``
    (KE-RES-04).
    """
    return await acquire(Resource, EXCLUSIVE, Wait, "ExAcquireResourceExclusiveLite")


@routine(
    "wdm",
    "BOOLEAN ExAcquireResourceSharedLite(_Inout_ PERESOURCE Resource, _In_ BOOLEAN Wait)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExAcquireResourceSharedLite(Resource: ERESOURCE, Wait: bool) -> bool:
    """Share *Resource*, or own it once more if the caller owns it (KE-RES-05).

    At once if it is free, if the caller has it already, or if it is shared and nobody waits to own it.
    Otherwise as ExAcquireResourceExclusiveLite. IRQL: <= APC_LEVEL.
    """
    return await acquire(Resource, SHARED, Wait, "ExAcquireResourceSharedLite")


@routine(
    "wdm",
    "BOOLEAN ExAcquireSharedStarveExclusive(_Inout_ PERESOURCE Resource, _In_ BOOLEAN Wait)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExAcquireSharedStarveExclusive(Resource: ERESOURCE, Wait: bool) -> bool:
    """As ExAcquireResourceSharedLite, but also before those who wait to own it (KE-RES-06). IRQL: <= APC_LEVEL."""
    return await acquire(Resource, STARVE_EXCLUSIVE, Wait, "ExAcquireSharedStarveExclusive")


@routine(
    "wdm",
    "BOOLEAN ExAcquireSharedWaitForExclusive(_Inout_ PERESOURCE Resource, _In_ BOOLEAN Wait)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExAcquireSharedWaitForExclusive(Resource: ERESOURCE, Wait: bool) -> bool:
    """As ExAcquireResourceSharedLite, but after all who wait to own it, also if the caller shares it (KE-RES-06).

    In that case the one who waits, waits for the caller: ``ke.self-deadlock``. IRQL: <= APC_LEVEL.
    """
    return await acquire(Resource, WAIT_FOR_EXCLUSIVE, Wait, "ExAcquireSharedWaitForExclusive")


@routine("wdm", "VOID ExReleaseResourceLite(_Inout_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
async def ExReleaseResourceLite(Resource: ERESOURCE) -> None:
    """Undo one acquisition of the caller (KE-RES-09).

    IRQL: <= DISPATCH_LEVEL, with normal kernel APCs still disabled: ``ke.eresource-apc``. By another thread:
    ``ke.lock-not-owned``, bug check 0xE3.
    """
    await release(Resource, current_kthread(), "ExReleaseResourceLite")


@routine(
    "wdm",
    "VOID ExReleaseResourceForThreadLite(_Inout_ PERESOURCE Resource, _In_ ERESOURCE_THREAD ResourceThreadId)",
    max_irql=DISPATCH_LEVEL,
)
async def ExReleaseResourceForThreadLite(Resource: ERESOURCE, ResourceThreadId: KThread | int) -> None:
    """Undo one acquisition of the caller, or of whoever has put the pointer *ResourceThreadId* in its place.

    IRQL: <= DISPATCH_LEVEL (KE-RES-10). For another thread: ``ke.lock-not-owned``, bug check 0x16E.
    """
    await release(Resource, ResourceThreadId, "ExReleaseResourceForThreadLite")


@routine("wdm", "VOID ExConvertExclusiveToSharedLite(_Inout_ PERESOURCE Resource)", max_irql=APC_LEVEL)
async def ExConvertExclusiveToSharedLite(Resource: ERESOURCE) -> None:
    """From owning *Resource* go over to sharing it, and let in those who wait to share it (KE-RES-08).

    IRQL: <= APC_LEVEL, by the owner: ``ke.lock-not-owned`` otherwise.
    """
    thread = current_kthread()
    name = "ExConvertExclusiveToSharedLite"
    check_usable(Resource, name)
    check_moved(Resource, thread, name)
    if Resource.owner is not thread:
        not_owned(Resource, thread, name, Resource.holders(), BugCheck(RESOURCE_NOT_OWNED))
        return
    await ConvertToShared(Resource)


@routine(
    "wdm",
    "VOID ExSetResourceOwnerPointer(_Inout_ PERESOURCE Resource, _In_ PVOID OwnerPointer)",
    max_irql=DISPATCH_LEVEL,
)
def ExSetResourceOwnerPointer(Resource: ERESOURCE, OwnerPointer: int) -> None:
    """Put *OwnerPointer* in the caller's place, so that another thread can release what the caller has acquired.

    It is a number with its two lowest bits set: ``ke.eresource-owner-pointer``, bug check 0x132, otherwise. Afterwards
    only ExReleaseResourceForThreadLite may be called with it: ``ke.eresource-transferred`` (KE-RES-10).
    IRQL: <= DISPATCH_LEVEL.
    """
    transfer(Resource, OwnerPointer, "ExSetResourceOwnerPointer")


@routine(
    "wdm",
    "VOID ExSetResourceOwnerPointerEx(_Inout_ PERESOURCE Resource, _In_ PVOID OwnerPointer, _In_ ULONG Flags)",
    max_irql=DISPATCH_LEVEL,
)
def ExSetResourceOwnerPointerEx(Resource: ERESOURCE, OwnerPointer: KThread | int, Flags: int) -> None:
    """As ExSetResourceOwnerPointer; with FLAG_OWNER_POINTER_IS_THREAD *OwnerPointer* is the thread that owns it now.

    IRQL: <= DISPATCH_LEVEL.
    """
    name = "ExSetResourceOwnerPointerEx"
    if not Flags & FLAG_OWNER_POINTER_IS_THREAD:
        transfer(Resource, OwnerPointer, name)
    elif isinstance(OwnerPointer, KThread):
        move(Resource, OwnerPointer, name)
    else:
        bad_pointer(Resource, OwnerPointer, name)


def transfer(resource: ERESOURCE, pointer: object, name: str) -> None:
    """Put *pointer* in the calling thread's place."""
    if not isinstance(pointer, int) or isinstance(pointer, bool) or pointer & 3 != 3:
        bad_pointer(resource, pointer, name)
        return
    thread = current_kthread()
    move(resource, pointer, name)
    resource.moved[thread] = pointer


def bad_pointer(resource: ERESOURCE, pointer: object, name: str) -> None:
    """Report what is no owner pointer."""
    shown = f"0x{pointer:X}" if isinstance(pointer, int) else f"a {type(pointer).__name__}"
    report(
        "ke.eresource-owner-pointer",
        f"{name} of {resource.label} with {shown}: an owner pointer is a number whose two lowest bits are set",
        BugCheck(RESOURCE_OWNER_POINTER_INVALID),
    )


def move(resource: ERESOURCE, to: Owner, name: str) -> None:
    """Make *to* the owner of what the calling thread has acquired."""
    thread = current_kthread()
    check_usable(resource, name)
    check_moved(resource, thread, name)
    if not resource.count_of(thread):
        not_owned(resource, thread, name, resource.holders(), BugCheck(RESOURCE_NOT_OWNED))
        return
    thread.write(resource)
    thread.locks[:] = [lock for lock in thread.locks if lock is not resource and lock is not resource.shared]
    if resource.owner is thread:
        resource.owner = to
    else:
        resource.sharers[to] = resource.sharers.get(to, 0) + resource.sharers.pop(thread)
    # What the thread did is ordered before whatever follows the release, whoever makes that.
    thread.release_to_waiter(resource)


@routine("wdm", "ERESOURCE_THREAD ExGetCurrentResourceThread(VOID)")
def ExGetCurrentResourceThread() -> KThread:
    """What names the calling thread to ExReleaseResourceForThreadLite. IRQL: any."""
    return current_kthread()


@routine("wdm", "BOOLEAN ExIsResourceAcquiredExclusiveLite(_In_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
def ExIsResourceAcquiredExclusiveLite(Resource: ERESOURCE) -> bool:
    """Whether the caller owns *Resource*. IRQL: <= DISPATCH_LEVEL; no scheduling point: nobody else decides that."""
    check_usable(Resource, "ExIsResourceAcquiredExclusiveLite")
    return Resource.owner is current_kthread()


@routine("wdm", "ULONG ExIsResourceAcquiredSharedLite(_In_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
def ExIsResourceAcquiredSharedLite(Resource: ERESOURCE) -> int:
    """How often the caller has acquired *Resource*, in whichever mode. IRQL: <= DISPATCH_LEVEL; no scheduling point."""
    check_usable(Resource, "ExIsResourceAcquiredSharedLite")
    return Resource.count_of(current_kthread())


@routine("wdm", "ULONG ExIsResourceAcquiredLite(_In_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
def ExIsResourceAcquiredLite(Resource: ERESOURCE) -> int:
    """ExIsResourceAcquiredSharedLite, which counts exclusive acquisitions as well. IRQL: <= DISPATCH_LEVEL."""
    return ExIsResourceAcquiredSharedLite(Resource)


@routine("wdm", "ULONG ExGetExclusiveWaiterCount(_In_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
async def ExGetExclusiveWaiterCount(Resource: ERESOURCE) -> int:
    """How many threads wait to own *Resource* at the moment. IRQL: <= DISPATCH_LEVEL."""
    check_usable(Resource, "ExGetExclusiveWaiterCount")
    return await CountWaiters(Resource, True)


@routine("wdm", "ULONG ExGetSharedWaiterCount(_In_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
async def ExGetSharedWaiterCount(Resource: ERESOURCE) -> int:
    """How many threads wait to share *Resource* at the moment. IRQL: <= DISPATCH_LEVEL."""
    check_usable(Resource, "ExGetSharedWaiterCount")
    return await CountWaiters(Resource, False)


# With the critical region.


async def enter_and_acquire(resource: ERESOURCE, mode: int, name: str) -> KThread:
    """Enter a critical region and acquire *resource*; what the routines return is the thread."""
    KeEnterCriticalRegion()
    await acquire(resource, mode, True, name)
    return current_kthread()


@routine(
    "wdm",
    "PVOID ExEnterCriticalRegionAndAcquireResourceExclusive(_Inout_ PERESOURCE Resource)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExEnterCriticalRegionAndAcquireResourceExclusive(Resource: ERESOURCE) -> KThread:
    """KeEnterCriticalRegion and ExAcquireResourceExclusiveLite with *Wait*. IRQL: <= APC_LEVEL."""
    return await enter_and_acquire(Resource, EXCLUSIVE, "ExEnterCriticalRegionAndAcquireResourceExclusive")


@routine(
    "wdm",
    "PVOID ExEnterCriticalRegionAndAcquireResourceShared(_Inout_ PERESOURCE Resource)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExEnterCriticalRegionAndAcquireResourceShared(Resource: ERESOURCE) -> KThread:
    """KeEnterCriticalRegion and ExAcquireResourceSharedLite with *Wait*. IRQL: <= APC_LEVEL."""
    return await enter_and_acquire(Resource, SHARED, "ExEnterCriticalRegionAndAcquireResourceShared")


@routine(
    "wdm",
    "PVOID ExEnterCriticalRegionAndAcquireSharedWaitForExclusive(_Inout_ PERESOURCE Resource)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExEnterCriticalRegionAndAcquireSharedWaitForExclusive(Resource: ERESOURCE) -> KThread:
    """KeEnterCriticalRegion and ExAcquireSharedWaitForExclusive with *Wait*. IRQL: <= APC_LEVEL."""
    name = "ExEnterCriticalRegionAndAcquireSharedWaitForExclusive"
    return await enter_and_acquire(Resource, WAIT_FOR_EXCLUSIVE, name)


@routine("wdm", "VOID ExReleaseResourceAndLeaveCriticalRegion(_Inout_ PERESOURCE Resource)", max_irql=APC_LEVEL)
async def ExReleaseResourceAndLeaveCriticalRegion(Resource: ERESOURCE) -> None:
    """ExReleaseResourceLite and KeLeaveCriticalRegion. IRQL: <= APC_LEVEL."""
    await release(Resource, current_kthread(), "ExReleaseResourceAndLeaveCriticalRegion")
    KeLeaveCriticalRegion()
