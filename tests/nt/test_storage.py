"""Locks, run-down protection and lookaside lists inside of a driver's structures: what freeing and paging does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.errors import UsageError
from kemu.nt.bugcheck import BugCheck
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import FltAcquirePushLockShared
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    ERESOURCE,
    EX_PUSH_LOCK,
    EX_RUNDOWN_REF,
    EX_SPIN_LOCK,
    FAST_MUTEX,
    IO_REMOVE_LOCK,
    KGUARDED_MUTEX,
    KLOCK_QUEUE_HANDLE,
    KMUTEX,
    KSEMAPHORE,
    KSPIN_LOCK,
    LOOKASIDE_LIST_EX,
    NPAGED_LOOKASIDE_LIST,
    PAGED_LOOKASIDE_LIST,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    POOL_FLAG_UNINITIALIZED,
    ExAcquireFastMutex,
    ExAcquirePushLockExclusive,
    ExAcquirePushLockShared,
    ExAcquireResourceExclusiveLite,
    ExAcquireRundownProtection,
    ExAcquireSpinLockExclusive,
    ExAcquireSpinLockShared,
    ExAllocatePool2,
    ExDeleteResourceLite,
    ExFreePool,
    ExInitializeFastMutex,
    ExInitializePushLock,
    ExInitializeResourceLite,
    ExInitializeRundownProtection,
    ExReleaseFastMutex,
    ExReleasePushLockExclusive,
    ExReleasePushLockShared,
    ExReleaseResourceLite,
    ExReleaseRundownProtection,
    ExReleaseSpinLockExclusive,
    ExReleaseSpinLockShared,
    ExWaitForRundownProtectionRelease,
    IoAcquireRemoveLock,
    IoInitializeRemoveLock,
    IoReleaseRemoveLock,
    IoReleaseRemoveLockAndWait,
    KeAcquireGuardedMutex,
    KeAcquireInStackQueuedSpinLock,
    KeInitializeGuardedMutex,
    KeInitializeSpinLock,
    KeReleaseGuardedMutex,
    KeReleaseInStackQueuedSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    Structure,
    sizeof,
)


class LOCKS(Structure):
    Spin: KSPIN_LOCK
    ReadWrite: EX_SPIN_LOCK
    Handle: KLOCK_QUEUE_HANDLE
    Fast: FAST_MUTEX
    Guarded: KGUARDED_MUTEX
    Push: EX_PUSH_LOCK
    Resource: ERESOURCE
    Rundown: EX_RUNDOWN_REF
    Remove: IO_REMOVE_LOCK


class DISPATCHED(Structure):
    Mutex: KMUTEX
    Semaphore: KSEMAPHORE


class LISTS(Structure):
    Both: LOOKASIDE_LIST_EX
    Nonpaged: NPAGED_LOOKASIDE_LIST
    Paged: PAGED_LOOKASIDE_LIST


def test_their_sizes_are_those_of_x64() -> None:
    assert sizeof(LOCKS) == 8 + 4 + 24 + 56 + 56 + 8 + 104 + 8 + 32
    assert sizeof(DISPATCHED) == 56 + 32
    # The older kinds of lists begin a line of the processor's cache.
    assert sizeof(LISTS) == 96 + 128 + 128


async def locks(flags: int = POOL_FLAG_NON_PAGED) -> Any:
    return await ExAllocatePool2(flags, sizeof(LOCKS), "Lock")


@dataclass(frozen=True)
class Use:
    """How one of the objects is initialised, held and let go, and what freeing it meanwhile is."""

    field: str
    initialise: Callable[[Any], object]
    hold: Callable[[Any], Awaitable[object]]
    let_go: Callable[[Any, Any], Awaitable[object]]
    finding: str
    verifier: tuple[int, ...] | None = None
    words: str = "which script owns"

    def __repr__(self) -> str:
        return self.field


def nothing(block: LOCKS) -> None:
    pass


async def hold_resource(block: LOCKS) -> object:
    return await ExAcquireResourceExclusiveLite(block.Resource, True)


async def let_go_resource(block: LOCKS, held: object) -> None:
    await ExReleaseResourceLite(block.Resource)
    ExDeleteResourceLite(block.Resource)


USES = [
    Use(
        "ReadWrite",
        nothing,
        lambda block: ExAcquireSpinLockExclusive(block.ReadWrite),
        lambda block, irql: ExReleaseSpinLockExclusive(block.ReadWrite, irql),
        "ke.lock-freed",
        (0x100B,),
    ),
    Use(
        "ReadWrite",
        nothing,
        lambda block: ExAcquireSpinLockShared(block.ReadWrite),
        lambda block, irql: ExReleaseSpinLockShared(block.ReadWrite, irql),
        "ke.lock-freed",
        (0x100B,),
    ),
    Use(
        "Fast",
        lambda block: ExInitializeFastMutex(block.Fast),
        lambda block: ExAcquireFastMutex(block.Fast),
        lambda block, held: ExReleaseFastMutex(block.Fast),
        "ke.lock-freed",
        (0x100B,),
    ),
    Use(
        "Guarded",
        lambda block: KeInitializeGuardedMutex(block.Guarded),
        lambda block: KeAcquireGuardedMutex(block.Guarded),
        lambda block, held: KeReleaseGuardedMutex(block.Guarded),
        "ke.lock-freed",
        (0x100B,),
    ),
    Use(
        "Push",
        nothing,
        lambda block: ExAcquirePushLockExclusive(block.Push),
        lambda block, held: ExReleasePushLockExclusive(block.Push),
        "ke.lock-freed",
        (0x100B,),
    ),
    Use(
        "Push",
        nothing,
        lambda block: ExAcquirePushLockShared(block.Push),
        lambda block, held: ExReleasePushLockShared(block.Push),
        "ke.lock-freed",
        (0x100B,),
    ),
    Use(
        "Resource",
        lambda block: ExInitializeResourceLite(block.Resource),
        hold_resource,
        let_go_resource,
        "ke.lock-freed",
        (0xD2,),
    ),
    Use(
        "Rundown",
        lambda block: ExInitializeRundownProtection(block.Rundown),
        lambda block: ExAcquireRundownProtection(block.Rundown),
        lambda block, held: ExReleaseRundownProtection(block.Rundown),
        "ke.freed-active",
        words="which script holds",
    ),
    Use(
        "Remove",
        lambda block: IoInitializeRemoveLock(block.Remove, "Lock", 0, 0),
        lambda block: IoAcquireRemoveLock(block.Remove, None),
        lambda block, held: IoReleaseRemoveLock(block.Remove, None),
        "ke.freed-active",
        words="which script holds",
    ),
    Use(
        "Handle",
        lambda block: KeInitializeSpinLock(block.Spin),
        lambda block: KeAcquireInStackQueuedSpinLock(OUTSIDE[0], block.Handle),
        lambda block, held: KeReleaseInStackQueuedSpinLock(block.Handle),
        "ke.lock-freed",
        words="which the lock is acquired with",
    ),
]
OUTSIDE: list[KSPIN_LOCK] = []
"""The spin lock that is acquired with the handle, which lies elsewhere; of the current run."""


def stop(check: BugCheck | None) -> tuple[int, ...] | None:
    return None if check is None else tuple(check.parameters)


@pytest.mark.rule("KE-POOL-10", "KE-SPIN-10", "KE-RUNDOWN-05", "KE-RES-01")
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("use", USES, ids=repr)
def test_memory_is_freed_when_nobody_holds_what_is_in_it(use: Use, active: bool) -> None:
    async def script(lab: Lab) -> None:
        outside = KSPIN_LOCK("the lock")
        KeInitializeSpinLock(outside)
        OUTSIDE[:] = [outside]
        block = await locks()
        KeEnterCriticalRegion()
        use.initialise(block)
        held = await use.hold(block)
        if not active:
            await use.let_go(block, held)
        await ExFreePool(block)
        KeLeaveCriticalRegion()

    one = run(script)
    assert one.code == (use.finding if active else None)
    if active:
        assert f"LOCKS.{use.field}, {use.words}" in one.finding.detail
        if use.verifier is not None:
            assert stop(one.finding.verifier) == use.verifier


@pytest.mark.rule("KE-POOL-08")
@pytest.mark.parametrize("use", USES, ids=repr)
def test_a_pointer_to_what_was_in_freed_memory(use: Use) -> None:
    async def script(lab: Lab) -> None:
        block = await locks()

        class Inside:
            """What still points into the block."""

            Spin, ReadWrite, Handle, Fast = block.Spin, block.ReadWrite, block.Handle, block.Fast
            Guarded, Push, Resource = block.Guarded, block.Push, block.Resource
            Rundown, Remove = block.Rundown, block.Remove

        outside = KSPIN_LOCK("the lock")
        KeInitializeSpinLock(outside)
        OUTSIDE[:] = [outside]
        use.initialise(block)
        if use.field == "Resource":
            ExDeleteResourceLite(block.Resource)
        await ExFreePool(block)
        KeEnterCriticalRegion()
        await use.hold(Inside)

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert f"LOCKS.{use.field}, " in one.finding.detail


@pytest.mark.rule("KE-RES-01")
@pytest.mark.parametrize("deletes", [True, False])
def test_a_resource_is_deleted_before_its_memory_is_freed(deletes: bool) -> None:
    async def script(lab: Lab) -> None:
        block = await locks()
        ExInitializeResourceLite(block.Resource)
        if deletes:
            ExDeleteResourceLite(block.Resource)
        await ExFreePool(block)

    one = run(script)
    assert one.code == (None if deletes else "ke.resource-not-deleted")
    if not deletes:
        assert stop(one.finding.verifier) == (0xD2,)


@pytest.mark.rule("KE-RUNDOWN-05", "KE-REMLOCK-01")
@pytest.mark.parametrize("kind", ["run-down", "remove lock"])
@pytest.mark.parametrize("waits", [True, False])
def test_memory_that_others_protect_from_being_freed(kind: str, waits: bool) -> None:
    async def script(lab: Lab) -> None:
        block = await locks()
        ExInitializeRundownProtection(block.Rundown)
        IoInitializeRemoveLock(block.Remove, "Lock", 0, 0)
        rundown, remove = block.Rundown, block.Remove
        acquired = lab.event("acquired")

        async def holder() -> None:
            KeEnterCriticalRegion()
            if kind == "run-down":
                await ExAcquireRundownProtection(rundown)
                await KeSetEvent(acquired)
                await ExReleaseRundownProtection(rundown)
            else:
                await IoAcquireRemoveLock(remove, None)
                await KeSetEvent(acquired)
                await IoReleaseRemoveLock(remove, None)
            KeLeaveCriticalRegion()

        async def freer() -> None:
            await KeWaitForSingleObject(acquired)
            if waits and kind == "run-down":
                await ExWaitForRundownProtectionRelease(rundown)
            elif waits:
                await IoAcquireRemoveLock(remove, 1)
                await IoReleaseRemoveLockAndWait(remove, 1)
            await ExFreePool(block)

        await lab.together(holder(), freer())

    found = codes(all_runs(script))
    assert found == ({None} if waits else {None, "ke.freed-active"})


@pytest.mark.rule("KE-PUSH-01", "KE-SPIN-14")
@pytest.mark.parametrize("how", ["zeroed", "assigned", "initialised", "garbage"])
@pytest.mark.parametrize("kind", ["push", "flt", "spin"])
def test_zeroed_memory_is_a_free_lock(kind: str, how: str) -> None:
    async def script(lab: Lab) -> None:
        block = await locks(POOL_FLAG_NON_PAGED | (0 if how == "zeroed" else POOL_FLAG_UNINITIALIZED))
        if how == "assigned":
            for name in ("Push", "ReadWrite"):
                setattr(block, name, 0)
        elif how == "initialised":
            ExInitializePushLock(block.Push)
        KeEnterCriticalRegion()
        if kind == "push":
            await ExAcquirePushLockShared(block.Push)
        elif kind == "flt":
            await FltAcquirePushLockShared(block.Push)
        else:
            await ExAcquireSpinLockShared(block.ReadWrite)

    usable = how in {"zeroed", "assigned"} or (how == "initialised" and kind != "spin")
    one = run(script)
    assert (one.code == "ke.uninitialised") is not usable


def test_a_lock_that_is_held_is_not_assigned() -> None:
    async def script(lab: Lab) -> None:
        block = await locks()
        await ExAcquireSpinLockShared(block.ReadWrite)
        block.ReadWrite = 0

    one = run(script)
    assert one.code == "ke.lock-reinitialised"
    assert "LOCKS.ReadWrite = 0 on" in one.finding.detail


@pytest.mark.parametrize("value", [1, None, "free"])
def test_nothing_but_zero_is_assigned_to_a_lock(value: object) -> None:
    async def script(lab: Lab) -> None:
        block = await locks()
        block.ReadWrite = value

    with pytest.raises(UsageError, match=r"LOCKS\.ReadWrite is an EX_SPIN_LOCK inside"):
        run(script)


def test_a_drivers_global_is_zeroed() -> None:
    async def script(lab: Lab) -> None:
        mine = LOCKS()
        KeEnterCriticalRegion()
        await ExAcquirePushLockShared(mine.Push)
        await ExReleasePushLockShared(mine.Push)
        KeLeaveCriticalRegion()

    assert run(script).code is None


# Paged memory.

Initialise = Callable[[Any], object]
RESIDENT: dict[str, Initialise] = {
    "Fast": lambda block: ExInitializeFastMutex(block.Fast),
    "Guarded": lambda block: KeInitializeGuardedMutex(block.Guarded),
    "Resource": lambda block: ExInitializeResourceLite(block.Resource),
    "Spin": lambda block: KeInitializeSpinLock(block.Spin),
    "Remove": lambda block: IoInitializeRemoveLock(block.Remove, "Lock", 0, 0),
}


@pytest.mark.rule("KE-FMUTEX-08", "KE-RES-01", "KE-SPIN-10")
@pytest.mark.parametrize("flags", [POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED])
@pytest.mark.parametrize(("name", "initialise"), RESIDENT.items(), ids=RESIDENT)
def test_what_has_to_be_resident(flags: int, name: str, initialise: Initialise) -> None:
    async def script(lab: Lab) -> None:
        initialise(await locks(flags))

    one = run(script)
    assert one.code == ("ke.pageable-sync" if flags == POOL_FLAG_PAGED else None)
    if one.code:
        assert f"LOCKS.{name}, in a LOCKS of" in one.finding.detail


@pytest.mark.rule("KE-PUSH-01")
def test_a_push_lock_may_be_paged() -> None:
    async def script(lab: Lab) -> None:
        block = await locks(POOL_FLAG_PAGED)
        KeEnterCriticalRegion()
        await ExAcquirePushLockExclusive(block.Push)
        await ExReleasePushLockExclusive(block.Push)
        KeLeaveCriticalRegion()

    assert run(script).code is None


@pytest.mark.rule("KE-RUNDOWN-08")
@pytest.mark.parametrize("flags", [POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED])
@pytest.mark.parametrize("irql", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL])
def test_run_down_protection_that_is_paged_is_used_below_dispatch_level(flags: int, irql: int) -> None:
    async def script(lab: Lab) -> None:
        block = await locks(flags)
        rundown = block.Rundown
        ExInitializeRundownProtection(rundown)
        current_kthread().irql = irql
        await ExAcquireRundownProtection(rundown)
        await ExReleaseRundownProtection(rundown)
        current_kthread().irql = PASSIVE_LEVEL

    one = run(script)
    wrong = flags == POOL_FLAG_PAGED and irql == DISPATCH_LEVEL
    assert one.code == ("ke.paged" if wrong else None)
    if wrong:
        assert stop(one.finding.bug_check) == (0, DISPATCH_LEVEL, 1)
