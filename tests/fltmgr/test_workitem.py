"""Deferred and generic work items: when they are refused, where they run, what they keep, how they are misused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, codes, queue, resumes, run

from kemu.errors import UsageError
from kemu.io.constants import IRP_MJ_READ, IRP_PAGING_IO
from kemu.io.request import FAST_IO_OPERATION, IRP_OPERATION
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_GENERIC_WORKITEM,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltAllocateDeferredIoWorkItem,
    FltAllocateGenericWorkItem,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltFreeGenericWorkItem,
    FltQueueDeferredIoWorkItem,
    FltQueueGenericWorkItem,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_NOT_SAFE_TO_POST_OPERATION,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import CriticalWorkQueue, DelayedWorkQueue, HyperCriticalWorkQueue

Routine = Callable[[FLT_GENERIC_WORKITEM, Any, Any], Awaitable[None]]


async def queue_generic(target: Any, routine: Routine, context: Any = None, kind: int = DelayedWorkQueue) -> int:
    """Queue a new generic work item, and free it if that fails; the status."""
    item = await FltAllocateGenericWorkItem()
    assert item is not None
    status = await FltQueueGenericWorkItem(item, target, routine, kind, context)
    if status != STATUS_SUCCESS:
        await FltFreeGenericWorkItem(item)
    return status


def noting(lab: Lab, name: str = "work") -> Routine:
    async def routine(WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
        lab.note(f"{name} begins")
        await FltFreeGenericWorkItem(WorkItem)
        await lab.step("in the routine")
        lab.note(f"{name} ends")

    return routine


async def one_read(lab: Lab, pre: Any, **kind: Any) -> Any:
    """Load a filter with *pre* and send one read; its request."""
    await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
    file = await lab.quiet_open()
    return await lab.send(lab.request(file, IRP_MJ_READ, Length=2, **kind))


# Deferred I/O work items.


@pytest.mark.rule("FLT-WORK-01")
def test_a_deferred_routine_runs_at_passive_level_in_a_system_thread_with_item_data_and_context() -> None:
    async def script(lab: Lab) -> bool:
        seen: list[Any] = []

        async def routine(WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            thread = current_kthread()
            seen.append((WorkItem, Data, Context, thread.irql, thread.label, thread.process))
            await FltFreeDeferredIoWorkItem(WorkItem)
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

        given: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            item = await FltAllocateDeferredIoWorkItem()
            assert item is not None
            given.extend([item, Data])
            await lab.at_dispatch(FltQueueDeferredIoWorkItem(item, Data, routine, DelayedWorkQueue, "context"))
            return FLT_PREOP_PENDING

        request = await one_read(lab, pre)
        lab.check(request.buffer == b"01", "the read must succeed")
        return seen == [(*given, "context", PASSIVE_LEVEL, "wk:delayed#0", lab.system_process)]

    assert run(script).result is True


@pytest.mark.rule("FLT-WORK-15")
def test_work_routines_start_without_a_top_level_irp() -> None:
    async def script(lab: Lab) -> object:
        seen: list[object] = []

        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
            seen.append(current_kthread().top_level_irp)
            await FltFreeGenericWorkItem(WorkItem)

        driver = await lab.filter("D", "1", {})
        current_kthread().top_level_irp = "of the queueing thread"
        await queue_generic(driver.filter, routine)
        await lab.sleep(1)
        return seen

    assert run(script).result == [None]


@pytest.mark.rule("FLT-WORK-02", "FLT-WORK-03")
@pytest.mark.parametrize(
    ("kind", "flags", "top_level", "status"),
    [
        (IRP_OPERATION, 0, None, STATUS_SUCCESS),
        (FAST_IO_OPERATION, 0, None, STATUS_FLT_NOT_SAFE_TO_POST_OPERATION),
        (IRP_OPERATION, IRP_PAGING_IO, None, STATUS_FLT_NOT_SAFE_TO_POST_OPERATION),
        (IRP_OPERATION, 0, "FSRTL_FSP_TOP_LEVEL_IRP", STATUS_FLT_NOT_SAFE_TO_POST_OPERATION),
    ],
)
def test_what_cannot_be_posted_is_refused(kind: int, flags: int, top_level: object, status: int) -> None:
    async def script(lab: Lab) -> tuple[int, bytes]:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            current_kthread().top_level_irp = top_level
            queued = await queue(Data, resumes(FLT_PREOP_SUCCESS_NO_CALLBACK))
            lab.note("queued", queued)
            return FLT_PREOP_PENDING if queued == STATUS_SUCCESS else FLT_PREOP_SUCCESS_NO_CALLBACK

        return (await one_read(lab, pre, kind=kind, flags=flags)).buffer

    one = run(script)
    assert one.note("queued").value == status
    assert one.result == b"01"


@pytest.mark.rule("FLT-WORK-03", "FLT-INST-31", "FLT-RACE-27", "FLT-WORK-04")
def test_a_deferred_item_is_refused_once_the_teardown_has_begun() -> None:
    def script_of(handles: bool) -> Script:
        async def script(lab: Lab) -> None:
            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                status = await queue(Data, resumes(FLT_PREOP_SUCCESS_NO_CALLBACK))
                lab.note(str(status))
                passes = handles and status != STATUS_SUCCESS
                return FLT_PREOP_SUCCESS_NO_CALLBACK if passes else FLT_PREOP_PENDING

            async def start(FltObjects: Any, Reason: int) -> None:
                lab.note("start")

            driver = await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)}, InstanceTeardownStartCallback=start)
            file = await lab.quiet_open()

            async def reader() -> None:
                await file.read(1)

            await lab.together(reader(), driver.detach())

        return script

    runs = all_runs(script_of(handles=True), bound=2)
    assert codes(runs) == {None}
    assert {one.order[0] for one in runs} >= {"STATUS_SUCCESS", "start"}
    assert any("STATUS_FLT_DELETING_OBJECT" in one.order for one in runs)
    # While the instance stands, nothing is refused.
    assert not any(one.order[0] == "STATUS_FLT_DELETING_OBJECT" and "start" not in one.order for one in runs)
    assert "pend-orphan" in codes(all_runs(script_of(handles=False), bound=2))


@pytest.mark.rule("FLT-WORK-06", "FLT-CBD-18")
def test_an_operation_that_was_given_back_cannot_be_queued() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
            await queue(Data, resumes())
            return FLT_PREOP_PENDING

        await one_read(lab, pre)

    assert run(script).code == "cbd-use-after-release"


# The reference that a queued item holds.


@pytest.mark.rule("FLT-WORK-10", "FLT-ORD-12", "FLT-UNLOAD-11", "FLT-RACE-31")
@pytest.mark.parametrize("of", ["filter", "instance"])
def test_an_unload_waits_for_every_generic_item_that_was_queued_before_it(of: str) -> None:
    async def script(lab: Lab) -> None:
        async def unload(Flags: int) -> int:
            await FltUnregisterFilter(driver.filter)
            lab.note("unregistered")
            return STATUS_SUCCESS

        driver = await lab.filter("D", "1", {}, FilterUnloadCallback=unload)
        target = driver.filter if of == "filter" else lab.instance(driver)

        async def queues() -> None:
            lab.note(f"queued {await queue_generic(target, noting(lab))}")

        await lab.together(queues(), driver.unload())

    runs = all_runs(script, bound=3)
    # Who comes after the end has a pointer to nothing.
    gone = "use-after-unregister" if of == "filter" else "ref-missing"
    assert codes(runs) == {None, gone}
    runs = [one for one in runs if one.code is None]
    seen: set[bool] = set()
    for one in runs:
        if f"queued {STATUS_SUCCESS}" in one.order:
            assert one.before("work ends", "unregistered")
            seen.add(True)
        else:
            assert "work begins" not in one.order
            assert f"queued {STATUS_FLT_DELETING_OBJECT}" in one.order
            seen.add(False)
    assert seen == {True, False}


@pytest.mark.rule("FLT-WORK-11", "FLT-RACE-31")
def test_an_item_that_queues_itself_again_is_refused_when_the_unload_has_begun() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})

        async def routine(WorkItem: FLT_GENERIC_WORKITEM, FltObject: PFLT_FILTER, Context: int) -> None:
            if Context == 2:
                status = STATUS_FLT_DELETING_OBJECT
            else:
                status = await FltQueueGenericWorkItem(WorkItem, FltObject, routine, DelayedWorkQueue, Context + 1)
            if status != STATUS_SUCCESS:
                await FltFreeGenericWorkItem(WorkItem)
                lab.note("stopped", Context)

        await queue_generic(driver.filter, routine, 0)
        await driver.unload()
        lab.note("unloaded")

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("stopped", "unloaded")}
    assert {one.note("stopped").value for one in runs} == {0, 1, 2}


@pytest.mark.rule("FLT-ORD-07")
def test_an_unload_waits_for_the_routine_of_a_deferred_item_although_its_operation_is_over() -> None:
    async def script(lab: Lab) -> None:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
            await lab.step("after the completion")
            lab.note("worker leaves")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            status = await queue(Data, work)
            lab.note(f"queued {status}")
            return FLT_PREOP_PENDING if status == STATUS_SUCCESS else FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        async def unload() -> None:
            await driver.unload()
            lab.note("unloaded")

        await lab.together(reader(), unload())

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    waited = [one for one in runs if f"queued {STATUS_SUCCESS}" in one.order]
    assert waited
    assert all(one.before("worker leaves", "unloaded") for one in waited)


# Misuse.


def misused(
    allocate: Callable[[], Awaitable[Any]], use: Callable[[Lab, Any, FLT_CALLBACK_DATA, Any], Awaitable[Any]]
) -> Run:
    """One pre-read that allocates an item and misuses it."""

    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await use(lab, await allocate(), Data, FltObjects.Instance)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await one_read(lab, pre)

    return run(script)


@pytest.mark.rule("FLT-WORK-08")
def test_an_item_is_freed_once() -> None:
    for allocate, free in (
        (FltAllocateDeferredIoWorkItem, FltFreeDeferredIoWorkItem),
        (FltAllocateGenericWorkItem, FltFreeGenericWorkItem),
    ):

        async def twice(lab: Lab, item: Any, Data: Any, instance: Any, free: Any = free) -> None:
            await free(item)
            await free(item)

        async def once(lab: Lab, item: Any, Data: Any, instance: Any, free: Any = free) -> None:
            await free(item)

        assert misused(allocate, twice).code == "workitem-double-free"
        assert misused(allocate, once).code is None


@pytest.mark.rule("FLT-WORK-08")
def test_an_item_is_freed_and_queued_as_what_it_was_allocated_as() -> None:
    async def free_generic(lab: Lab, item: Any, Data: Any, instance: Any) -> None:
        await FltFreeGenericWorkItem(item)

    async def free_deferred(lab: Lab, item: Any, Data: Any, instance: Any) -> None:
        await FltFreeDeferredIoWorkItem(item)

    async def queue_as_generic(lab: Lab, item: Any, Data: Any, instance: Any) -> None:
        await FltQueueGenericWorkItem(item, instance, noting(lab), DelayedWorkQueue, None)

    async def queue_as_deferred(lab: Lab, item: Any, Data: Any, instance: Any) -> None:
        await FltQueueDeferredIoWorkItem(item, Data, noting(lab), DelayedWorkQueue, None)

    for allocate, use in (
        (FltAllocateDeferredIoWorkItem, free_generic),
        (FltAllocateGenericWorkItem, free_deferred),
        (FltAllocateDeferredIoWorkItem, queue_as_generic),
        (FltAllocateGenericWorkItem, queue_as_deferred),
    ):
        assert misused(allocate, use).code == "workitem-kind-mismatch"


@pytest.mark.rule("FLT-WORK-13", "FLT-WORK-12")
def test_the_systems_own_queue_is_reserved_and_others_do_not_exist() -> None:
    def deferred(kind: int) -> Any:
        async def use(lab: Lab, item: Any, Data: Any, instance: Any) -> None:
            await FltQueueDeferredIoWorkItem(item, Data, noting(lab), kind, None)

        return use

    def generic(kind: int) -> Any:
        async def use(lab: Lab, item: Any, Data: Any, instance: Any) -> None:
            await FltQueueGenericWorkItem(item, instance, noting(lab), kind, None)

        return use

    assert misused(FltAllocateDeferredIoWorkItem, deferred(HyperCriticalWorkQueue)).code == "queue-type-reserved"
    assert misused(FltAllocateGenericWorkItem, generic(HyperCriticalWorkQueue)).code == "queue-type-reserved"
    assert misused(FltAllocateGenericWorkItem, generic(CriticalWorkQueue)).code is None
    for allocate, use in (
        (FltAllocateDeferredIoWorkItem, deferred),
        (FltAllocateGenericWorkItem, generic),
    ):
        with pytest.raises(UsageError, match="with queue type 3"):
            misused(allocate, use(3))


@pytest.mark.rule("FLT-WORK-09")
def test_an_item_must_not_be_queued_again_before_its_routine_began() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        item = await FltAllocateGenericWorkItem()
        assert item is not None

        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None: ...

        for _ in range(2):
            await FltQueueGenericWorkItem(item, driver.filter, routine, DelayedWorkQueue, None)

    assert codes(all_runs(script, bound=1)) == {None, "ke.work-requeued"}


@pytest.mark.rule("FLT-WORK-08")
@pytest.mark.parametrize("allocate", [FltAllocateDeferredIoWorkItem, FltAllocateGenericWorkItem])
def test_an_item_that_is_left_at_the_unload_is_a_leak(allocate: Callable[[], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: Any, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            await allocate()
            return STATUS_SUCCESS

        driver = await lab.filter("D", "1", {}, InstanceSetupCallback=setup)
        await driver.unload()

    one = run(script)
    assert one.code == "workitem-leak"
    assert "D was unloaded and left a" in one.finding.detail


@pytest.mark.rule("FLT-WORK-01")
@pytest.mark.parametrize("allocate", [FltAllocateDeferredIoWorkItem, FltAllocateGenericWorkItem])
def test_an_allocation_may_fail_where_low_resources_are_explored(allocate: Callable[[], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> bool:
        return await allocate() is None

    assert {one.result for one in all_runs(script, low_resources=True)} == {False, True}
    assert {one.result for one in all_runs(script)} == {False}


def test_a_generic_item_is_for_a_filter_or_an_instance() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        await queue_generic(lab.instance(driver).volume, noting(lab))

    with pytest.raises(UsageError, match="FltQueueGenericWorkItem for C:, which is a FltVolume"):
        run(script)


@pytest.mark.rule("FLT-WORK-01")
def test_items_are_allocated_queued_and_freed_at_dispatch_level() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        current_kthread().irql = DISPATCH_LEVEL
        await queue_generic(driver.filter, noting(lab))
        item = await FltAllocateDeferredIoWorkItem()
        assert item is not None
        await FltFreeDeferredIoWorkItem(item)

    assert run(script).code is None
