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
        DbgPrint DbgPrintEx ExGetCurrentResourceThread ExGetPreviousMode
        ExInitializeDeleteTimerParameters ExInitializeDriverRuntime ExInitializeSetTimerParameters
        ExInitializeWorkItem ExInterlockedInsertHeadList ExInterlockedInsertTailList
        ExInterlockedPopEntryList ExInterlockedPopEntrySList ExInterlockedPushEntryList
        ExInterlockedPushEntrySList ExInterlockedRemoveHeadList ExQueryDepthSList FltCbdqInitialize
        FltClearCallbackDataDirty FltClearCancelCompletion FltDecodeParameters
        FltDoCompletionProcessingWhenSafe FltGetSwappedBufferMdlAddress FltIsCallbackDataDirty
        FltIsIoCanceled FltIsOperationSynchronous FltRetainSwappedBufferMdlAddress
        FltSetCallbackDataDirty FsRtlIsNtstatusExpected InitializeSListHead InterlockedAdd
        InterlockedAdd64 InterlockedAnd InterlockedAnd64 InterlockedCompareExchange
        InterlockedCompareExchange64 InterlockedCompareExchangePointer InterlockedDecrement
        InterlockedDecrement64 InterlockedExchange InterlockedExchange64 InterlockedExchangeAdd
        InterlockedExchangeAdd64 InterlockedExchangePointer InterlockedFlushSList
        InterlockedIncrement InterlockedIncrement64 InterlockedOr InterlockedOr64
        InterlockedPopEntrySList InterlockedPushEntrySList InterlockedXor InterlockedXor64
        IoCopyCurrentIrpStackLocationToNext IoCsqInitialize IoCsqInitializeEx
        IoGetCurrentIrpStackLocation IoGetNextIrpStackLocation IoInitializeDriverCreateContext
        IoInitializeWorkItem IoMarkIrpPending IoSetNextIrpStackLocation
        IoSkipCurrentIrpStackLocation IoUninitializeWorkItem KdPrint KeGetCurrentIrql
        KeGetCurrentThread KeInitializeDpc KeInitializeEvent KeInitializeMutex KeInitializeSpinLock
        KeInitializeThreadedDpc KeInsertQueueDpc KeLowerIrql KeQueryActiveProcessorCountEx
        KeQueryInterruptTime KeQueryInterruptTimePrecise KeQueryPerformanceCounter KeQuerySystemTime
        KeQuerySystemTimePrecise KeQueryTickCount KeQueryTimeIncrement KeQueryUnbiasedInterruptTime
        KeRaiseIrql KeRaiseIrqlToDpcLevel KeReadStateSemaphore KeRemoveQueueDpc KeSetImportanceDpc
        KeSetTargetProcessorDpc KeSetTargetProcessorDpcEx KeStallExecutionProcessor KeTestSpinLock
        MmGetMdlByteCount PsGetCurrentProcess PsGetCurrentProcessId PsGetCurrentThread
        PsGetCurrentThreadId PsGetProcessCreateTimeQuadPart PsGetProcessId PsGetThreadProcessId
        ReadAcquire ReadAcquire64 ReadNoFence ReadNoFence64 ReadPointerAcquire ReadPointerNoFence
        RtlCompareMemory RtlCopyUnicodeString RtlInitUnicodeString WriteNoFence WriteNoFence64
        WritePointerNoFence WritePointerRelease WriteRelease WriteRelease64""",
    (PASSIVE_LEVEL, DISPATCH_LEVEL): """
        ExAcquireRundownProtection ExAcquireRundownProtectionCacheAware
        ExAcquireRundownProtectionCacheAwareEx ExAcquireRundownProtectionEx
        ExAcquireSpinLockExclusive ExAcquireSpinLockShared ExAllocateFromNPagedLookasideList
        ExAllocateTimer ExCancelTimer ExDeleteNPagedLookasideList
        ExFreeCacheAwareRundownProtection ExFreeToNPagedLookasideList ExGetExclusiveWaiterCount
        ExGetSharedWaiterCount ExInitializeFastMutex ExInitializeLookasideListEx
        ExInitializeNPagedLookasideList ExInitializeResourceLite
        ExIsResourceAcquiredExclusiveLite ExIsResourceAcquiredLite
        ExIsResourceAcquiredSharedLite ExNotifyCallback ExQueueWorkItem
        ExReinitializeResourceLite ExReleaseResourceForThreadLite ExReleaseResourceLite
        ExReleaseRundownProtection ExReleaseRundownProtectionCacheAware
        ExReleaseRundownProtectionCacheAwareEx ExReleaseRundownProtectionEx
        ExSetResourceOwnerPointer ExSetResourceOwnerPointerEx ExSetTimer
        FltAdjustDeviceStackSizeForIoRedirection FltAllocateDeferredIoWorkItem
        FltAllocateGenericWorkItem FltCancelIo FltCbdqDisable FltCbdqEnable FltCbdqInsertIo
        FltCbdqRemoveIo FltCbdqRemoveNextIo FltCompareInstanceAltitudes
        FltCompletePendedPostOperation FltCurrentBatchOplock FltCurrentOplock FltCurrentOplockH
        FltFreeCallbackData FltFreeDeferredIoWorkItem FltFreeGenericWorkItem FltGetDeviceObject
        FltGetDiskDeviceObject FltGetRequestorProcess FltGetRequestorProcessId
        FltGetRequestorSessionId FltIsIoRedirectionAllowed FltIsIoRedirectionAllowedForOperation
        FltObjectDereference FltObjectReference FltQueueDeferredIoWorkItem
        FltQueueGenericWorkItem FltReferenceContext FltReleaseContext FltReleaseContexts
        FltReleaseContextsEx FltReleaseResource FltSetCancelCompletion IoAcquireCancelSpinLock
        IoAcquireRemoveLock IoAllocateIrp IoAllocateMdl IoAllocateWorkItem
        IoAttachDeviceToDeviceStack IoBuildAsynchronousFsdRequest IoCallDriver IoCancelIrp
        IoCompleteRequest IoCsqInsertIrp IoCsqInsertIrpEx IoCsqRemoveIrp IoCsqRemoveNextIrp
        IoFreeIrp IoFreeMdl IoFreeWorkItem IoGetTopLevelIrp IoGetTransactionParameterBlock
        IoQueueWorkItem IoQueueWorkItemEx IoReleaseRemoveLock IoReuseIrp IoSetCancelRoutine
        IoSetCompletionRoutine IoSetCompletionRoutineEx IoSetTopLevelIrp IoSizeofWorkItem
        IoThreadToProcess IofCallDriver IofCompleteRequest KeAcquireInStackQueuedSpinLock
        KeAcquireInStackQueuedSpinLockForDpc KeAcquireSpinLock KeAcquireSpinLockForDpc
        KeAcquireSpinLockRaiseToDpc KeAreAllApcsDisabled KeAreApcsDisabled KeCancelTimer
        KeClearEvent KeInitializeSemaphore KeInitializeTimer KeInitializeTimerEx
        KeQueryPriorityThread KeReadStateEvent KeReadStateMutex KeReadStateTimer KeResetEvent
        KeSetCoalescableTimer KeSetPriorityThread KeSetTimer KeSetTimerEx
        MmBuildMdlForNonPagedPool MmGetSystemAddressForMdlSafe MmUnlockPages ObDereferenceObject
        ObDereferenceObjectDeferDelete ObDereferenceObjectWithTag ObReferenceObject
        ObReferenceObjectByPointer ObReferenceObjectSafe ObReferenceObjectWithTag PsGetThreadId
        PsIsThreadTerminating""",
    (PASSIVE_LEVEL, APC_LEVEL): """
        ExAcquireFastMutex ExAcquireFastMutexUnsafe ExAcquirePushLockExclusive
        ExAcquirePushLockExclusiveEx ExAcquirePushLockShared ExAcquirePushLockSharedEx
        ExAcquireResourceExclusiveLite ExAcquireResourceSharedLite
        ExAcquireSharedStarveExclusive ExAcquireSharedWaitForExclusive
        ExAllocateCacheAwareRundownProtection ExAllocateFromPagedLookasideList
        ExConvertExclusiveToSharedLite ExCreateCallback ExDeletePagedLookasideList
        ExDeleteResourceLite ExEnterCriticalRegionAndAcquireResourceExclusive
        ExEnterCriticalRegionAndAcquireResourceShared
        ExEnterCriticalRegionAndAcquireSharedWaitForExclusive ExFreeToPagedLookasideList
        ExInitializePagedLookasideList ExInitializePushLock ExInitializeRundownProtection
        ExInitializeRundownProtectionCacheAware ExRaiseAccessViolation ExRaiseStatus
        ExReInitializeRundownProtection ExReInitializeRundownProtectionCacheAware
        ExRegisterCallback ExReleaseFastMutexUnsafe ExReleasePushLockExclusive
        ExReleasePushLockExclusiveEx ExReleasePushLockShared ExReleasePushLockSharedEx
        ExReleaseResourceAndLeaveCriticalRegion ExRundownCompleted ExRundownCompletedCacheAware
        ExSizeOfRundownProtectionCacheAware ExTryToAcquireFastMutex ExUnregisterCallback
        ExWaitForRundownProtectionRelease ExWaitForRundownProtectionReleaseCacheAware
        FltAcquirePushLockExclusive FltAcquirePushLockExclusiveEx FltAcquirePushLockShared
        FltAcquirePushLockSharedEx FltAcquireResourceExclusive FltAcquireResourceShared
        FltAllocateCallbackData FltAllocateCallbackDataEx FltAllocateContext
        FltAllocateExtraCreateParameter FltAllocateExtraCreateParameterList
        FltBuildDefaultSecurityDescriptor FltCheckAndGrowNameControl FltCheckOplock
        FltCheckOplockEx FltCloseSectionForDataScan FltCommitFinalizeComplete
        FltCreateSectionForDataScan FltDeleteContext FltDeleteFileContext
        FltDeleteInstanceContext FltDeletePushLock FltDeleteStreamContext
        FltDeleteStreamHandleContext FltDeleteTransactionContext FltDeleteVolumeContext
        FltDetachVolume FltEnlistInTransaction FltEnumerateFilters FltEnumerateInstances
        FltEnumerateVolumes FltFindExtraCreateParameter FltFreeExtraCreateParameter
        FltFreeExtraCreateParameterList FltFreeSecurityDescriptor FltGetBottomInstance
        FltGetContexts FltGetContextsEx FltGetDestinationFileNameInformation
        FltGetEcpListFromCallbackData FltGetFileContext FltGetFileNameInformation
        FltGetFileNameInformationUnsafe FltGetFileSystemType FltGetFilterFromInstance
        FltGetFilterFromName FltGetFilterInformation FltGetInstanceContext
        FltGetInstanceInformation FltGetLowerInstance FltGetStreamContext
        FltGetStreamHandleContext FltGetTopInstance FltGetTransactionContext FltGetTunneledName
        FltGetUpperInstance FltGetVolumeContext FltGetVolumeFromDeviceObject
        FltGetVolumeFromFileObject FltGetVolumeFromInstance FltGetVolumeInformation
        FltGetVolumeInstanceFromName FltGetVolumeName FltGetVolumeProperties FltInitializeOplock
        FltInitializePushLock FltInsertExtraCreateParameter FltLockUserBuffer FltOplockFsctrl
        FltOplockFsctrlEx FltOplockIsFastIoPossible FltParseFileName FltParseFileNameInformation
        FltPerformSynchronousIo FltPrePrepareComplete FltPrepareComplete
        FltPurgeFileNameInformationCache FltReferenceFileNameInformation FltRegisterFilter
        FltRegisterForDataScan FltReleaseFileNameInformation FltReleasePushLock
        FltReleasePushLockEx FltRequestOperationStatusCallback FltReuseCallbackData
        FltRollbackEnlistment FltSendMessage FltSetEcpListIntoCallbackData FltSetFileContext
        FltSetInstanceContext FltSetStreamContext FltSetStreamHandleContext
        FltSetTransactionContext FltSetVolumeContext FltStartFiltering FltSupportsFileContexts
        FltSupportsFileContextsEx FltSupportsStreamContexts FltSupportsStreamHandleContexts
        FltUninitializeOplock FltUnregisterFilter FsRtlIsNameInExpression
        FsRtlRegisterFileSystemFilterCallbacks IoCreateDevice IoDeleteDevice
        IoForwardIrpSynchronously IoReplaceFileObjectName KeAcquireGuardedMutex
        KeAcquireGuardedMutexUnsafe KeDelayExecutionThread KeEnterCriticalRegion
        KeEnterGuardedRegion KeInitializeGuardedMutex KeLeaveCriticalRegion KeLeaveGuardedRegion
        KeReleaseGuardedMutex KeReleaseGuardedMutexUnsafe KeStackAttachProcess
        KeTryToAcquireGuardedMutex KeUnstackDetachProcess MmMapViewInSystemSpace
        MmUnmapViewInSystemSpace ObOpenObjectByPointer ProbeForRead ProbeForWrite
        PsGetProcessExitStatus PsLookupProcessByProcessId PsLookupThreadByThreadId""",
    (PASSIVE_LEVEL, PASSIVE_LEVEL): """
        FltAcknowledgeEcp FltAttachVolume FltAttachVolumeAtAltitude FltCancelFileOpen FltClose
        FltCloseClientPort FltCloseCommunicationPort FltCommitComplete
        FltCreateCommunicationPort FltCreateFile FltCreateFileEx FltCreateFileEx2
        FltDeviceIoControlFile FltFlushBuffers FltFsControlFile FltGetRoutineAddress
        FltGetVolumeFromName FltGetVolumeGuidName FltIsEcpAcknowledged FltIsEcpFromUserMode
        FltIsVolumeWritable FltLoadFilter FltOpenVolume FltQueryDirectoryFile
        FltQueryInformationFile FltQuerySecurityObject FltQueryVolumeInformation
        FltQueryVolumeInformationFile FltReadFile FltRollbackComplete FltSetInformationFile
        FltSetVolumeInformation FltTagFile FltUnloadFilter FltUntagFile FltWriteFile
        IoBuildDeviceIoControlRequest IoBuildSynchronousFsdRequest IoCreateSymbolicLink
        IoCreateSystemThread IoDeleteSymbolicLink IoDetachDevice IoGetDeviceObjectPointer
        IoInitializeRemoveLock IoRegisterShutdownNotification IoReleaseRemoveLockAndWait
        IoUnregisterShutdownNotification MmGetSystemRoutineAddress ObCloseHandle
        ObReferenceObjectByHandle PsCreateSystemThread PsTerminateSystemThread
        RtlAppendUnicodeStringToString RtlAppendUnicodeToString RtlCompareUnicodeString
        RtlEqualUnicodeString RtlPrefixUnicodeString RtlSetDaclSecurityDescriptor ZwClose
        ZwDuplicateObject ZwOpenKey ZwOpenProcess ZwQueryValueKey""",
    (APC_LEVEL, APC_LEVEL): """
        ExReleaseFastMutex""",
    (DISPATCH_LEVEL, DISPATCH_LEVEL): """
        ExAcquireSpinLockExclusiveAtDpcLevel ExAcquireSpinLockSharedAtDpcLevel
        ExReleaseSpinLockExclusive ExReleaseSpinLockExclusiveFromDpcLevel ExReleaseSpinLockShared
        ExReleaseSpinLockSharedFromDpcLevel ExTryAcquireSpinLockExclusiveAtDpcLevel
        ExTryAcquireSpinLockSharedAtDpcLevel ExTryConvertSharedSpinLockExclusive
        IoReleaseCancelSpinLock KeAcquireInStackQueuedSpinLockAtDpcLevel KeAcquireSpinLockAtDpcLevel
        KeReleaseInStackQueuedSpinLock KeReleaseInStackQueuedSpinLockForDpc
        KeReleaseInStackQueuedSpinLockFromDpcLevel KeReleaseSpinLock KeReleaseSpinLockForDpc
        KeReleaseSpinLockFromDpcLevel KeTryToAcquireSpinLockAtDpcLevel""",
}
"""What the requirement line of each routine's page says."""

DEPENDS = (
    "ExAllocateFromLookasideListEx",
    "ExAllocatePool",
    "ExAllocatePool2",
    "ExAllocatePoolQuotaUninitialized",
    "ExAllocatePoolQuotaZero",
    "ExAllocatePoolUninitialized",
    "ExAllocatePoolWithQuotaTag",
    "ExAllocatePoolWithTag",
    "ExAllocatePoolZero",
    "ExDeleteLookasideListEx",
    "ExDeleteTimer",
    "ExFreePool",
    "ExFreePool2",
    "ExFreePoolWithTag",
    "ExFreeToLookasideListEx",
    "FltAllocatePoolAlignedWithTag",
    "FltCancellableWaitForMultipleObjects",
    "FltCancellableWaitForSingleObject",
    "FltCompletePendedPreOperation",
    "FltFreePoolAlignedWithTag",
    "FltPerformAsynchronousIo",
    "FltReissueSynchronousIo",
    "KeFlushQueuedDpcs",
    "KePulseEvent",
    "KeReleaseMutex",
    "KeReleaseSemaphore",
    "KeSetEvent",
    "KeWaitForMultipleObjects",
    "KeWaitForSingleObject",
    "MmProbeAndLockPages",
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


@pytest.mark.rule("KE-WAIT-04", "KE-EVENT-03", "KE-SEM-04", "KE-POOL-01", "FLT-PEND-06", "FLT-IRQL-02", "FLT-IRQL-03")
@pytest.mark.parametrize(
    ("name", "args", "highest"),
    [
        ("KeWaitForSingleObject", [None, 0, 0, False, None], APC_LEVEL),
        ("KeWaitForSingleObject", [None, 0, 0, False, -1], APC_LEVEL),
        ("KeWaitForSingleObject", [None], APC_LEVEL),
        ("KeWaitForSingleObject", [None, 0, 0, False, 0], DISPATCH_LEVEL),
        ("KeWaitForMultipleObjects", [1, [None], 1, 0, 0, False, None, None], APC_LEVEL),
        ("KeWaitForMultipleObjects", [1, [None], 1, 0, 0, False, -1], APC_LEVEL),
        ("KeWaitForMultipleObjects", [1, [None], 1], APC_LEVEL),
        ("KeWaitForMultipleObjects", [1, [None], 1, 0, 0, False, 0, None], DISPATCH_LEVEL),
        ("KeSetEvent", [None, 0, False], DISPATCH_LEVEL),
        ("KeSetEvent", [None, 0, True], APC_LEVEL),
        ("KePulseEvent", [None, 0, False], DISPATCH_LEVEL),
        ("KePulseEvent", [None, 0, True], APC_LEVEL),
        ("KeReleaseMutex", [None, False], DISPATCH_LEVEL),
        ("KeReleaseMutex", [None, True], APC_LEVEL),
        ("KeReleaseSemaphore", [None, 0, 1, False], DISPATCH_LEVEL),
        ("KeReleaseSemaphore", [None, 0, 1, True], PASSIVE_LEVEL),
        ("KeFlushQueuedDpcs", [], PASSIVE_LEVEL),
        ("ExDeleteTimer", [None, True, False, None], DISPATCH_LEVEL),
        ("ExDeleteTimer", [None, True, True, None], APC_LEVEL),
        ("ExAllocatePool2", [POOL_FLAG_NON_PAGED, 8, "Test"], DISPATCH_LEVEL),
        ("ExAllocatePool2", [POOL_FLAG_PAGED, 8, "Test"], APC_LEVEL),
        ("FltCancellableWaitForSingleObject", [None, None, None], APC_LEVEL),
        ("FltCancellableWaitForMultipleObjects", [1, [None], 1, None, None, None], APC_LEVEL),
        ("FltAllocatePoolAlignedWithTag", [None, 512, 8, "Test"], DISPATCH_LEVEL),
        ("FltAllocatePoolAlignedWithTag", [None, 1, 8, "Test"], APC_LEVEL),
        ("MmProbeAndLockPages", [None, 0, 0], APC_LEVEL),
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
