"""The levels of the filter manager's routines and callbacks, and what breaks them (FLT-IRQL)."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Minifilter, all_runs, codes, queue, resumes, run

import kemu
from kemu.nt.kthread import current_kthread
from kemu.nt.routine import REGISTRY
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_GENERIC_WORKITEM,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAcquirePushLockExclusive,
    FltAcquirePushLockShared,
    FltAcquireResourceExclusive,
    FltAcquireResourceShared,
    FltAllocateGenericWorkItem,
    FltCompletePendedPreOperation,
    FltDeletePushLock,
    FltFreeGenericWorkItem,
    FltInitializePushLock,
    FltQueueGenericWorkItem,
    FltReleasePushLock,
    FltReleaseResource,
    FltSetCancelCompletion,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    DRIVER_OBJECT,
    ERESOURCE,
    EX_PUSH_LOCK,
    HIGH_LEVEL,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    PAGED_CODE,
    PASSIVE_LEVEL,
    POOL_FLAG_PAGED,
    DelayedWorkQueue,
    ExAllocatePool2,
    ExDeleteResourceLite,
    ExFreePoolWithTag,
    ExInitializeResourceLite,
    Structure,
    sizeof,
)

for found in pkgutil.walk_packages(kemu.__path__, "kemu."):
    if found.name.startswith("kemu.fltmgr."):
        importlib.import_module(found.name)

LIMITS = {
    HIGH_LEVEL: """FltSetCallbackDataDirty FltDoCompletionProcessingWhenSafe KeGetCurrentIrql FltDecodeParameters
        FltIsOperationSynchronous FltIsIoCanceled FltClearCancelCompletion FltCbdqInitialize
        FltGetSwappedBufferMdlAddress FltRetainSwappedBufferMdlAddress""",
    DISPATCH_LEVEL: """FltObjectReference FltObjectDereference FltReferenceContext FltAllocateDeferredIoWorkItem
        FltAllocateGenericWorkItem FltFreeDeferredIoWorkItem FltFreeGenericWorkItem FltQueueDeferredIoWorkItem
        FltQueueGenericWorkItem FltSetCancelCompletion FltCancelIo FltFreeCallbackData FltCompareInstanceAltitudes
        FltGetRequestorProcess FltGetRequestorProcessId FltCompletePendedPostOperation FltGetNewSystemBufferAddress
        FltIsIoRedirectionAllowed FltIsIoRedirectionAllowedForOperation FltAdjustDeviceStackSizeForIoRedirection
        FltGetDeviceObject FltGetDiskDeviceObject FltReleaseResource""",
    APC_LEVEL: """FltRegisterFilter FltStartFiltering FltUnregisterFilter FltDetachVolume FltAllocateContext
        FltGetInstanceContext FltSetInstanceContext FltDeleteContext FltGetFileNameInformation FltLockUserBuffer
        FltSendMessage FltAllocateCallbackData FltReuseCallbackData FltPerformSynchronousIo
        FltRequestOperationStatusCallback FltEnlistInTransaction FltPrePrepareComplete FltPrepareComplete
        FltCommitFinalizeComplete FltProcessFileLock FltGetVolumeInformation FltAcquirePushLockExclusive
        FltAcquirePushLockShared FltAcquireResourceExclusive FltAcquireResourceShared""",
    PASSIVE_LEVEL: """FltAttachVolume FltAttachVolumeAtAltitude FltLoadFilter FltUnloadFilter FltGetVolumeFromName
        FltCreateFile FltReadFile FltWriteFile FltQueryInformationFile FltSetInformationFile FltClose FltFsControlFile
        FltDeviceIoControlFile FltFlushBuffers FltTagFile FltOpenVolume FltCancelFileOpen FltCreateCommunicationPort
        FltCloseCommunicationPort FltCloseClientPort FltCommitComplete FltRollbackComplete FltIsVolumeWritable
        FltSetVolumeInformation FltQueryVolumeInformation""",
}
"""The limits that the rules state; of the routines that there are."""

THERE = [(name, limit) for limit, names in LIMITS.items() for name in names.split() if name in REGISTRY]


@pytest.mark.rule("FLT-IRQL-01", "FLT-IRQL-02", "FLT-IRQL-03", "FLT-IRQL-04", "FLT-IRQL-06")
@pytest.mark.parametrize(("name", "limit"), THERE)
def test_a_routine_is_declared_with_the_limit_that_the_rules_state(name: str, limit: int) -> None:
    declared = REGISTRY[name].max_irql
    assert declared == limit or callable(declared)


# Callbacks.


@pytest.mark.rule("FLT-IRQL-05", "FLT-WORK-01")
def test_the_callbacks_that_run_at_passive_level() -> None:
    async def script(lab: Lab) -> None:
        class Filter(Minifilter):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                lab.note("DriverEntry")
                return await super().DriverEntry(DriverObject, RegistryPath)

            async def Unload(self, Flags: int) -> int:
                lab.note("FilterUnload")
                return await super().Unload(Flags)

        async def setup(FltObjects: FLT_RELATED_OBJECTS, *more: int) -> int:
            lab.note("InstanceSetup")
            return STATUS_SUCCESS

        async def query(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
            lab.note("InstanceQueryTeardown")
            return STATUS_SUCCESS

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("InstanceTeardownStart")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("InstanceTeardownComplete")

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("deferred work")
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

        async def generic(WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
            lab.note("generic work")
            await FltFreeGenericWorkItem(WorkItem)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            item = await FltAllocateGenericWorkItem()
            assert item is not None
            await FltQueueGenericWorkItem(item, FltObjects.Instance, generic, DelayedWorkQueue, None)
            assert await queue(Data, work) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        driver = Filter(
            "M",
            {IRP_MJ_READ: (pre, None)},
            InstanceSetupCallback=setup,
            InstanceQueryTeardownCallback=query,
            InstanceTeardownStartCallback=start,
            InstanceTeardownCompleteCallback=complete,
        )
        loaded = await lab.load(driver, MIDDLE)
        await (await lab.quiet_open()).read(1)
        await loaded.detach()
        await loaded.unload()

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {note.irql for one in runs for note in one.notes} == {PASSIVE_LEVEL}
    assert {note.what for note in runs[0].notes} == {
        "DriverEntry", "FilterUnload", "InstanceSetup", "InstanceQueryTeardown", "InstanceTeardownStart",
        "InstanceTeardownComplete", "deferred work", "generic work",
    }  # fmt: skip


@pytest.mark.rule("FLT-IRQL-05", "FLT-CANCEL-03")
def test_a_cancel_callback_runs_at_passive_or_dispatch_level() -> None:
    async def script(lab: Lab) -> None:
        async def canceled(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("canceled")
            Data.IoStatus.Status = STATUS_CANCELLED
            await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltSetCancelCompletion(Data, canceled)
            return FLT_PREOP_PENDING

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)
        await pending.cancel()
        assert await pending.wait() == STATUS_CANCELLED

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.note("canceled").irql for one in runs} == {PASSIVE_LEVEL, DISPATCH_LEVEL}


# Paged memory and code.


class Record(Structure):
    Count: int


@pytest.mark.rule("FLT-IRQL-07", "FLT-POST-04")
@pytest.mark.parametrize("what", ["data", "code", "nothing"])
def test_what_is_paged_is_not_there_at_dispatch_level(what: str) -> None:
    async def script(lab: Lab) -> None:
        record: Record = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(Record), "Rec ")

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("post")
            if what == "data":
                record.Count += 1
            elif what == "code":
                PAGED_CODE()
            return FLT_POSTOP_FINISHED_PROCESSING

        file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (None, post)})
        await file.read(1)
        await ExFreePoolWithTag(record, "Rec ")

    runs = all_runs(script, completion="explore")
    expected = {"data": "ke.paged", "code": "ke.paged-code", "nothing": None}[what]
    # It passes every test in which the file system completes inline.
    assert {one.code for one in runs if one.note("post").irql == PASSIVE_LEVEL} == {None}
    assert {one.code for one in runs if one.note("post").irql == DISPATCH_LEVEL} == {expected}


# Locks of the filter manager's.


@pytest.mark.rule("FLT-IRQL-09")
@pytest.mark.parametrize("shared", [False, True])
def test_resources_and_push_locks_disable_normal_kernel_apcs(shared: bool) -> None:
    async def script(lab: Lab) -> list[bool]:
        resource, lock = ERESOURCE("Resource"), EX_PUSH_LOCK("Lock")
        ExInitializeResourceLite(resource)
        FltInitializePushLock(lock)
        seen = [current_kthread().kernel_apc_disable > 0]
        await (FltAcquireResourceShared if shared else FltAcquireResourceExclusive)(resource)
        seen.append(current_kthread().kernel_apc_disable > 0)
        await FltReleaseResource(resource)
        seen.append(current_kthread().kernel_apc_disable > 0)
        await (FltAcquirePushLockShared if shared else FltAcquirePushLockExclusive)(lock)
        seen.append(current_kthread().kernel_apc_disable > 0)
        await FltReleasePushLock(lock)
        seen.append(current_kthread().kernel_apc_disable > 0)
        ExDeleteResourceLite(resource)
        FltDeletePushLock(lock)
        return seen

    one = run(script)
    assert (one.code, one.result) == (None, [False, True, False, True, False])


@pytest.mark.rule("FLT-IRQL-09")
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ["resource", "push lock"])
def test_acquiring_what_one_has(kind: str, again: bool) -> None:
    """A resource is recursive, a push lock is not."""

    async def script(lab: Lab) -> None:
        resource, lock = ERESOURCE("Resource"), EX_PUSH_LOCK("Lock")
        ExInitializeResourceLite(resource)
        FltInitializePushLock(lock)
        for _ in range(1 + again):
            if kind == "resource":
                await FltAcquireResourceExclusive(resource)
            else:
                await FltAcquirePushLockExclusive(lock)
        for _ in range(1 + again):
            if kind == "resource":
                await FltReleaseResource(resource)
            else:
                await FltReleasePushLock(lock)
        ExDeleteResourceLite(resource)

    assert run(script).code == ("ke.self-deadlock" if kind == "push lock" and again else None)


@pytest.mark.rule("FLT-IRQL-09")
@pytest.mark.parametrize("upgrades", [False, True])
def test_two_that_have_a_resource_shared_and_want_it_exclusively(upgrades: bool) -> None:
    async def script(lab: Lab) -> None:
        resource = ERESOURCE("Resource")
        ExInitializeResourceLite(resource)

        async def holder() -> None:
            await FltAcquireResourceShared(resource)
            if not upgrades:
                await FltReleaseResource(resource)
            await FltAcquireResourceExclusive(resource)
            await FltReleaseResource(resource)
            if upgrades:
                await FltReleaseResource(resource)

        await lab.together(holder(), holder())
        ExDeleteResourceLite(resource)

    found = codes(all_runs(script, bound=2))
    # Each waits for the other; and already for itself as long as it has the resource shared.
    assert found == ({"ke.self-deadlock"} if upgrades else {None})


@pytest.mark.rule("FLT-IRQL-10", "FLT-PRE-27")
@pytest.mark.parametrize("kind", ["resource", "push lock"])
@pytest.mark.parametrize("releases", [True, False])
def test_a_callback_gives_back_what_it_has_acquired(kind: str, releases: bool) -> None:
    async def script(lab: Lab) -> None:
        resource, lock = ERESOURCE("Resource"), EX_PUSH_LOCK("Lock")
        ExInitializeResourceLite(resource)
        FltInitializePushLock(lock)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if kind == "resource":
                await FltAcquireResourceExclusive(resource)
            else:
                await FltAcquirePushLockExclusive(lock)
            if releases and kind == "resource":
                await FltReleaseResource(resource)
            elif releases:
                await FltReleasePushLock(lock)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await (await lab.quiet_open()).read(1)
        ExDeleteResourceLite(resource)

    assert run(script).code == (None if releases else "callback-dirty-exit")


@pytest.mark.rule("FLT-IRQL-09")
def test_leaving_the_region_of_a_resource_before_releasing_it() -> None:
    async def script(lab: Lab) -> None:
        resource = ERESOURCE("Resource")
        ExInitializeResourceLite(resource)
        await FltAcquireResourceExclusive(resource)
        current_kthread().kernel_apc_disable = 0
        current_kthread().irql = APC_LEVEL
        await FltReleaseResource(resource)

    assert run(script).code == "ke.region-balance"


# What comes from elsewhere.


@pytest.mark.rule("FLT-RACE-38", "FLT-ORD-04", "FLT-PRE-27")
@pytest.mark.parametrize("who", ["originator", "other thread"])
@pytest.mark.parametrize("locks", [False, True])
def test_a_create_that_a_higher_filter_pends(who: str, locks: bool) -> None:
    """B's pre-create runs wherever the create is resumed, its post-create in the originator's thread."""

    async def script(lab: Lab) -> None:
        resource = ERESOURCE("Resource")
        ExInitializeResourceLite(resource)

        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if who == "originator":
                await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
            else:
                assert await queue(Data, resumes(FLT_PREOP_SUCCESS_NO_CALLBACK)) == STATUS_SUCCESS
            lab.note("returns")
            return FLT_PREOP_PENDING

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("B.pre")
            if locks:
                await FltAcquireResourceExclusive(resource)
            return 0

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("B.post")
            if locks:
                await FltReleaseResource(resource)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("P", UPPER, {IRP_MJ_CREATE: (pend, None)})
        await lab.filter("B", LOWER, {IRP_MJ_CREATE: (pre, post)})
        await lab.open()

    runs = all_runs(script)
    if locks:
        assert codes(runs) == {"callback-dirty-exit"}
        return
    assert codes(runs) == {None}
    assert {one.note("B.post").thread for one in runs} == {"script"}
    assert {note.irql for one in runs for note in one.notes} == {PASSIVE_LEVEL}
    if who == "originator":
        assert {one.note("B.pre").thread for one in runs} == {"script"}
        assert {one.before("B.pre", "returns") for one in runs} == {True}
    else:
        assert {one.note("B.pre").thread for one in runs} == {"wk:delayed#0"}
        # Resumed before the pre-operation callback of the pender has returned, and after.
        assert {one.before("B.pre", "returns") for one in runs} == {True, False}
