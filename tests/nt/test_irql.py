"""The IRQL range of every declared routine: as the documentation says, and kept at every call."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
from fltmgr.kit import Lab, run

import kemu
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import REGISTRY
from kemu.wdk.fltkernel import FLT_PREOP_COMPLETE, FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.wdm import (
    FAST_MUTEX,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    ExAllocatePool2,
    KeGetCurrentIrql,
    Structure,
)

for found in pkgutil.walk_packages(kemu.__path__, "kemu."):
    if found.name.startswith(("kemu.nt.", "kemu.io.", "kemu.fltmgr.", "kemu.wdk.")):
        importlib.import_module(found.name)

RANGES: dict[tuple[int, int], str] = {
    (PASSIVE_LEVEL, HIGH_LEVEL): """
        KeInitializeDpc KeInitializeThreadedDpc KeInsertQueueDpc KeRemoveQueueDpc KeSetImportanceDpc
        KeSetTargetProcessorDpc KeSetTargetProcessorDpcEx KeQueryActiveProcessorCountEx
        ExInitializeSetTimerParameters ExInitializeDeleteTimerParameters ExInitializeWorkItem
        IoInitializeWorkItem IoUninitializeWorkItem
        KeQuerySystemTime KeQuerySystemTimePrecise KeQueryInterruptTime KeQueryInterruptTimePrecise
        KeQueryUnbiasedInterruptTime KeQueryTickCount KeQueryTimeIncrement KeQueryPerformanceCounter
        DbgPrint DbgPrintEx KdPrint KeInitializeEvent KeInitializeSpinLock KeGetCurrentIrql KeTestSpinLock
        ExGetCurrentResourceThread
        FltSetCallbackDataDirty FltClearCallbackDataDirty FltIsCallbackDataDirty FltIsOperationSynchronous
        FltIsIoCanceled FltClearCancelCompletion FltCbdqInitialize
        PsGetCurrentProcess PsGetCurrentThread PsGetCurrentProcessId PsGetCurrentThreadId PsGetProcessId
        PsGetThreadProcessId PsGetProcessCreateTimeQuadPart""",
    (PASSIVE_LEVEL, DISPATCH_LEVEL): """
        IoAcquireCancelSpinLock KeSetEvent KeClearEvent KeResetEvent ExInitializeFastMutex
        KeAcquireSpinLock KeAcquireSpinLockRaiseToDpc KeAcquireSpinLockForDpc
        KeAcquireInStackQueuedSpinLock KeAcquireInStackQueuedSpinLockForDpc
        ExAcquireSpinLockExclusive ExAcquireSpinLockShared
        ExInitializeResourceLite ExReinitializeResourceLite ExReleaseResourceLite ExReleaseResourceForThreadLite
        ExSetResourceOwnerPointer ExSetResourceOwnerPointerEx ExIsResourceAcquiredExclusiveLite
        ExIsResourceAcquiredSharedLite ExIsResourceAcquiredLite ExGetExclusiveWaiterCount ExGetSharedWaiterCount
        ExAcquireRundownProtection ExAcquireRundownProtectionEx ExReleaseRundownProtection
        ExReleaseRundownProtectionEx ExFreeCacheAwareRundownProtection ExAcquireRundownProtectionCacheAware
        ExAcquireRundownProtectionCacheAwareEx ExReleaseRundownProtectionCacheAware
        ExReleaseRundownProtectionCacheAwareEx IoAcquireRemoveLock IoReleaseRemoveLock
        KeSetPriorityThread KeQueryPriorityThread
        IoAllocateWorkItem IoQueueWorkItem IoQueueWorkItemEx IoFreeWorkItem IoSizeofWorkItem ExQueueWorkItem
        KeInitializeTimer KeInitializeTimerEx KeSetTimer KeSetTimerEx KeSetCoalescableTimer KeCancelTimer
        KeReadStateTimer ExAllocateTimer ExSetTimer ExCancelTimer FltSetCancelCompletion
        FltCbdqInsertIo FltCbdqRemoveNextIo FltCbdqRemoveIo FltCbdqDisable FltCbdqEnable
        FltObjectReference FltObjectDereference FltCompletePendedPostOperation
        FltAllocateDeferredIoWorkItem FltFreeDeferredIoWorkItem FltQueueDeferredIoWorkItem
        FltAllocateGenericWorkItem FltFreeGenericWorkItem FltQueueGenericWorkItem KeAreApcsDisabled
        KeAreAllApcsDisabled
        ObReferenceObject ObReferenceObjectWithTag ObReferenceObjectSafe ObReferenceObjectByPointer
        ObDereferenceObject ObDereferenceObjectWithTag ObDereferenceObjectDeferDelete
        PsGetThreadId PsIsThreadTerminating ExNotifyCallback""",
    (PASSIVE_LEVEL, APC_LEVEL): """
        ExAcquireFastMutex ExTryToAcquireFastMutex ExAcquireFastMutexUnsafe ExReleaseFastMutexUnsafe
        KeInitializeGuardedMutex KeAcquireGuardedMutex KeTryToAcquireGuardedMutex KeReleaseGuardedMutex
        KeAcquireGuardedMutexUnsafe KeReleaseGuardedMutexUnsafe
        ExInitializePushLock ExAcquirePushLockExclusiveEx ExAcquirePushLockSharedEx ExReleasePushLockExclusiveEx
        ExReleasePushLockSharedEx ExAcquirePushLockExclusive ExAcquirePushLockShared ExReleasePushLockExclusive
        ExReleasePushLockShared
        ExDeleteResourceLite ExAcquireResourceExclusiveLite ExAcquireResourceSharedLite ExAcquireSharedStarveExclusive
        ExAcquireSharedWaitForExclusive ExConvertExclusiveToSharedLite
        ExEnterCriticalRegionAndAcquireResourceExclusive ExEnterCriticalRegionAndAcquireResourceShared
        ExEnterCriticalRegionAndAcquireSharedWaitForExclusive ExReleaseResourceAndLeaveCriticalRegion
        ExInitializeRundownProtection ExWaitForRundownProtectionRelease ExRundownCompleted
        ExReInitializeRundownProtection ExAllocateCacheAwareRundownProtection ExSizeOfRundownProtectionCacheAware
        ExInitializeRundownProtectionCacheAware ExWaitForRundownProtectionReleaseCacheAware
        ExRundownCompletedCacheAware ExReInitializeRundownProtectionCacheAware
        FltInitializePushLock FltDeletePushLock FltAcquirePushLockExclusive FltAcquirePushLockShared FltReleasePushLock
        FltAcquirePushLockExclusiveEx FltAcquirePushLockSharedEx FltReleasePushLockEx
        FltRegisterFilter FltStartFiltering FltUnregisterFilter
        KeEnterCriticalRegion KeLeaveCriticalRegion KeEnterGuardedRegion KeLeaveGuardedRegion
        ExRaiseStatus ExRaiseAccessViolation
        ObOpenObjectByPointer PsLookupProcessByProcessId PsLookupThreadByThreadId PsGetProcessExitStatus
        ExCreateCallback ExRegisterCallback ExUnregisterCallback""",
    (PASSIVE_LEVEL, PASSIVE_LEVEL): """
        PsCreateSystemThread IoCreateSystemThread PsTerminateSystemThread
        ObReferenceObjectByHandle ObCloseHandle ZwClose ZwOpenProcess ZwDuplicateObject
        IoInitializeRemoveLock IoReleaseRemoveLockAndWait""",
    (APC_LEVEL, APC_LEVEL): "ExReleaseFastMutex",
    (DISPATCH_LEVEL, DISPATCH_LEVEL): """
        IoReleaseCancelSpinLock KeReleaseSpinLock KeAcquireSpinLockAtDpcLevel KeReleaseSpinLockFromDpcLevel
        KeTryToAcquireSpinLockAtDpcLevel KeReleaseSpinLockForDpc
        ExReleaseSpinLockExclusive ExReleaseSpinLockShared ExAcquireSpinLockExclusiveAtDpcLevel
        ExAcquireSpinLockSharedAtDpcLevel ExReleaseSpinLockExclusiveFromDpcLevel ExReleaseSpinLockSharedFromDpcLevel
        ExTryAcquireSpinLockExclusiveAtDpcLevel ExTryAcquireSpinLockSharedAtDpcLevel
        ExTryConvertSharedSpinLockExclusive
        KeReleaseInStackQueuedSpinLock KeAcquireInStackQueuedSpinLockAtDpcLevel
        KeReleaseInStackQueuedSpinLockFromDpcLevel KeReleaseInStackQueuedSpinLockForDpc""",
}
"""What the requirement line of each routine's page says."""

DEPENDS = (
    "KeWaitForSingleObject",
    "KeFlushQueuedDpcs",
    "ExDeleteTimer",
    "ExAllocatePool2",
    "ExFreePoolWithTag",
    "ExFreePool",
    "FltCompletePendedPreOperation",
)
"""Routines whose range depends on their arguments."""

FIXED = [(name, *limits) for limits, names in RANGES.items() for name in names.split()]


def exported(name: str) -> Any:
    return getattr(importlib.import_module(f"kemu.wdk.{REGISTRY[name].header}"), name)


def arguments(name: str) -> list[Any]:
    """Something to pass: the range is checked before anything is looked at."""
    if name == "ExInitializeFastMutex":
        return [FAST_MUTEX()]
    return [None for parameter in REGISTRY[name].parameters if not parameter.is_output]


async def call_at(irql: int, name: str, args: list[Any]) -> None:
    """Call, and do not await: what the routine does is not the question."""
    current_kthread().irql = irql
    called = exported(name)(*args)
    if REGISTRY[name].is_awaited:
        called.close()


def test_every_routine_is_in_the_table() -> None:
    assert sorted(REGISTRY) == sorted([*(name for name, *_ in FIXED), *DEPENDS])


@pytest.mark.rule("KE-IRQL-11", "FLT-IRQL-01", "FLT-IRQL-02", "FLT-IRQL-03", "FLT-IRQL-06")
@pytest.mark.parametrize(("name", "lowest", "highest"), FIXED)
def test_a_routine_may_be_called_in_its_range_and_nowhere_else(name: str, lowest: int, highest: int) -> None:
    def at(irql: int) -> str | None:
        async def script(lab: Lab) -> None:
            await call_at(irql, name, arguments(name))

        return run(script).code

    assert (REGISTRY[name].min_irql, REGISTRY[name].max_irql) == (lowest, highest)
    if REGISTRY[name].is_awaited or name == "ExInitializeFastMutex":
        assert at(lowest) != "ke.irql"
        assert at(highest) != "ke.irql"
    if lowest > PASSIVE_LEVEL:
        assert at(lowest - 1) == "ke.irql"
    if highest < HIGH_LEVEL:
        assert at(highest + 1) == "ke.irql"


@pytest.mark.rule("KE-WAIT-04", "KE-POOL-01", "FLT-PEND-06", "FLT-IRQL-02", "FLT-IRQL-03")
@pytest.mark.parametrize(
    ("name", "args", "highest"),
    [
        ("KeWaitForSingleObject", [None, 0, 0, False, None], APC_LEVEL),
        ("KeWaitForSingleObject", [None, 0, 0, False, -1], APC_LEVEL),
        ("KeWaitForSingleObject", [None], APC_LEVEL),
        ("KeWaitForSingleObject", [None, 0, 0, False, 0], DISPATCH_LEVEL),
        ("KeFlushQueuedDpcs", [], PASSIVE_LEVEL),
        ("ExDeleteTimer", [None, True, False, None], DISPATCH_LEVEL),
        ("ExDeleteTimer", [None, True, True, None], APC_LEVEL),
        ("ExAllocatePool2", [POOL_FLAG_NON_PAGED, 8, "Test"], DISPATCH_LEVEL),
        ("ExAllocatePool2", [POOL_FLAG_PAGED, 8, "Test"], APC_LEVEL),
        ("FltCompletePendedPreOperation", [None, FLT_PREOP_COMPLETE, None], DISPATCH_LEVEL),
        ("FltCompletePendedPreOperation", [None, FLT_PREOP_SUCCESS_NO_CALLBACK, None], APC_LEVEL),
    ],
)
def test_a_range_may_depend_on_the_arguments(name: str, args: list[Any], highest: int) -> None:
    def at(irql: int) -> str | None:
        async def script(lab: Lab) -> None:
            await call_at(irql, name, args)

        return run(script).code

    assert at(PASSIVE_LEVEL) != "ke.irql"
    assert at(highest) != "ke.irql"
    assert at(highest + 1) == "ke.irql"


@pytest.mark.rule("KE-POOL-01")
@pytest.mark.parametrize("routine", ["ExFreePool", "ExFreePoolWithTag"])
@pytest.mark.parametrize(("flags", "highest"), [(POOL_FLAG_NON_PAGED, DISPATCH_LEVEL), (POOL_FLAG_PAGED, APC_LEVEL)])
def test_a_block_is_freed_where_its_pool_allows(routine: str, flags: int, highest: int) -> None:
    def at(irql: int) -> str | None:
        async def script(lab: Lab) -> None:
            block: Structure = await ExAllocatePool2(flags, 8, "Test")
            await call_at(irql, routine, [block, "Test"][: len(REGISTRY[routine].parameters)])

        return run(script).code

    assert at(highest) is None
    assert at(highest + 1) == "ke.irql"


@pytest.mark.rule("KE-IRQL-01", "FLT-IRQL-11")
@pytest.mark.parametrize("irql", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL])
def test_the_level_can_be_read_at_any_level(irql: int) -> None:
    async def script(lab: Lab) -> int:
        current_kthread().irql = irql
        return KeGetCurrentIrql()

    assert run(script).result == irql


@pytest.mark.rule("KE-IRQL-01")
def test_the_levels_are_those_of_x64() -> None:
    assert (PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL) == (0, 1, 2, 15)
