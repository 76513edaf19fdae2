"""System worker threads: when items run, how many at once, and how items are misused."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, codes, run

from kemu.nt.bugcheck import WORKER_INVALID
from kemu.nt.kthread import PASSIVE_LEVEL, current_kthread
from kemu.scenario.world import LoadedDriver
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IO_WORKITEM,
    KEVENT,
    BackgroundWorkQueue,
    CriticalWorkQueue,
    CustomPriorityWorkQueue,
    DelayedWorkQueue,
    HyperCriticalWorkQueue,
    IoAllocateWorkItem,
    IoFreeWorkItem,
    IoQueueWorkItemEx,
    KeSetEvent,
    KeWaitForSingleObject,
    MaximumWorkQueue,
    NormalWorkQueue,
    RealTimeWorkQueue,
    SuperCriticalWorkQueue,
)


async def queue(driver: LoadedDriver, routine: Any, context: Any = None, kind: int = DelayedWorkQueue) -> IO_WORKITEM:
    item = await IoAllocateWorkItem(driver.driver_object)
    assert item is not None
    await IoQueueWorkItemEx(item, routine, kind, context)
    return item


def noting(lab: Lab) -> Any:
    """A routine that notes its context, and frees its item."""

    async def routine(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
        lab.note(f"start {Context}", (IoObject, Item))
        await lab.step("in the routine")
        await IoFreeWorkItem(Item)
        lab.note(f"end {Context}")

    return routine


@pytest.mark.rule("KE-WORK-03")
def test_an_item_runs_at_passive_level_in_a_system_thread_off_the_queue() -> None:
    async def script(lab: Lab) -> Any:
        driver = await lab.filter("D", "1", {})
        seen: list[Any] = []

        async def routine(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
            thread = current_kthread()
            seen.append((IoObject, Context, Item, Item.queued, thread.irql, thread.label, thread.process))

        item = await queue(driver, routine, "context")
        await lab.sleep(1)
        return seen == [
            (driver.driver_object, "context", item, False, PASSIVE_LEVEL, "wk:delayed#0", lab.system_process)
        ]

    assert run(script).result is True


@pytest.mark.rule("KE-WORK-15", "FLT-ORD-11")
def test_the_routine_may_run_before_the_queueing_returns_but_never_before_it_began() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        lab.note("before")
        await queue(driver, noting(lab), "x")
        lab.note("after")

    orders = {tuple(one.order) for one in all_runs(script)}
    assert orders == {
        ("before", "after", "start x", "end x"),
        ("before", "start x", "after", "end x"),
        ("before", "start x", "end x", "after"),
    }


@pytest.mark.rule("KE-WORK-11", "FLT-ORD-11")
def test_items_start_in_order_on_one_worker_and_in_any_order_on_several() -> None:
    def script_of(count: int) -> Script:
        async def script(lab: Lab) -> None:
            driver = await lab.filter("D", "1", {})
            for number in range(count):
                await queue(driver, noting(lab), number)

        return script

    def starts(runs: list[Run]) -> set[tuple[str, ...]]:
        return {tuple(what for what in one.order if what.startswith("start")) for one in runs}

    assert starts(all_runs(script_of(3), worker_threads=1)) == {("start 0", "start 1", "start 2")}
    assert starts(all_runs(script_of(2), worker_threads=2)) == {("start 0", "start 1"), ("start 1", "start 0")}


@pytest.mark.rule("KE-WORK-11")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_items_run_at_once_than_there_are_workers(workers: int) -> None:
    async def script(lab: Lab) -> int:
        driver = await lab.filter("D", "1", {})
        inside = most = 0

        async def routine(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await lab.step("in the routine")
            inside -= 1

        for _ in range(3):
            await queue(driver, routine)
        await lab.sleep(1)
        return most

    results = {one.result for one in all_runs(script, bound=2, worker_threads=workers)}
    assert max(results) == workers


@pytest.mark.rule("KE-WORK-11")
def test_each_queue_has_workers_of_its_own() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        event = lab.event("go")

        async def waits(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
            await KeWaitForSingleObject(event)

        async def sets(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
            await KeSetEvent(event)

        await queue(driver, waits, None, DelayedWorkQueue)
        await queue(driver, sets, None, CriticalWorkQueue)

    assert codes(all_runs(script, bound=1, worker_threads=1)) == {None}


@pytest.mark.rule("KE-WORK-12")
def test_workers_that_wait_for_an_item_behind_them_starve() -> None:
    def script_of(items: int) -> Script:
        async def script(lab: Lab) -> None:
            driver = await lab.filter("D", "1", {})
            event = lab.event("go")

            async def waits(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
                await KeWaitForSingleObject(event)

            async def sets(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
                await KeSetEvent(event)

            for _ in range(items):
                await queue(driver, waits)
            await queue(driver, sets)

        return script

    starved = run(script_of(2), worker_threads=2)
    assert starved.code == "ke.worker-starvation"
    assert "wk:delayed#0 waits" in starved.finding.detail
    assert run(script_of(1), worker_threads=2).code is None
    assert run(script_of(2), worker_threads=3).code is None


@pytest.mark.rule("KE-EVENT-05")
def test_a_worker_that_waits_for_nobody_is_a_hang_and_no_starvation() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})

        async def waits(IoObject: DRIVER_OBJECT, Context: KEVENT, Item: IO_WORKITEM) -> None:
            await KeWaitForSingleObject(Context)

        await queue(driver, waits, lab.event("never"))

    assert run(script, worker_threads=1).code == "ke.hang"


@pytest.mark.rule("KE-WORK-04")
def test_an_item_must_not_be_queued_while_it_is_queued_but_again_once_its_routine_has_started() -> None:
    async def twice(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        item = await queue(driver, noting(lab))
        await IoQueueWorkItemEx(item, noting(lab), DelayedWorkQueue, None)

    found = [one for one in all_runs(twice) if one.code == "ke.work-requeued"]
    assert found
    assert found[0].finding.bug_check is not None
    assert (found[0].finding.bug_check.code, found[0].finding.bug_check.parameters) == (0xE4, (1,))

    async def again(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})

        async def routine(IoObject: DRIVER_OBJECT, Context: int, Item: IO_WORKITEM) -> None:
            lab.note(f"run {Context}")
            if Context:
                await IoQueueWorkItemEx(Item, routine, DelayedWorkQueue, Context - 1)
            else:
                await IoFreeWorkItem(Item)

        await queue(driver, routine, 2)

    assert {(one.code, tuple(one.order)) for one in all_runs(again, bound=2)} == {(None, ("run 2", "run 1", "run 0"))}


@pytest.mark.rule("KE-WORK-06")
def test_a_requeued_item_may_run_concurrently_with_itself() -> None:
    async def script(lab: Lab) -> int:
        driver = await lab.filter("D", "1", {})
        inside = most = 0

        async def routine(IoObject: DRIVER_OBJECT, Context: bool, Item: IO_WORKITEM) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            if Context:
                await IoQueueWorkItemEx(Item, routine, DelayedWorkQueue, False)
            await lab.step("in the routine")
            inside -= 1

        await queue(driver, routine, True)
        await lab.sleep(1)
        return most

    assert {one.result for one in all_runs(script, bound=1)} >= {1, 2}


@pytest.mark.rule("KE-WORK-05")
def test_an_item_must_not_be_freed_while_it_is_queued() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})

        async def routine(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None: ...

        await IoFreeWorkItem(await queue(driver, routine))

    runs = all_runs(script)
    assert codes(runs) == {None, "ke.work-freed-queued"}
    found = next(one for one in runs if one.code)
    assert found.finding.bug_check is not None
    assert (found.finding.bug_check.code, found.finding.bug_check.parameters) == (0xE4, (2,))


@pytest.mark.rule("KE-WORK-05")
def test_a_free_item_must_not_be_freed_again_or_queued() -> None:
    def script_of(requeues: bool) -> Script:
        async def script(lab: Lab) -> None:
            driver = await lab.filter("D", "1", {})
            item = await IoAllocateWorkItem(driver.driver_object)
            assert item is not None
            await IoFreeWorkItem(item)
            if requeues:
                await IoQueueWorkItemEx(item, noting(lab), DelayedWorkQueue, None)
            else:
                await IoFreeWorkItem(item)

        return script

    assert run(script_of(requeues=False)).code == "workitem-double-free"
    assert run(script_of(requeues=True)).code == "ke.use-after-free"


@pytest.mark.rule("KE-WORK-09")
def test_an_allocation_may_fail_where_low_resources_are_explored() -> None:
    async def script(lab: Lab) -> bool:
        driver = await lab.filter("D", "1", {})
        return await IoAllocateWorkItem(driver.driver_object) is None

    assert {one.result for one in all_runs(script, low_resources=True)} == {False, True}
    assert {one.result for one in all_runs(script)} == {False}


@pytest.mark.rule("KE-WORK-01", "KE-WORK-02")
def test_queue_types_are_those_of_the_header_and_the_systems_own_is_reserved() -> None:
    kinds = (CriticalWorkQueue, DelayedWorkQueue, HyperCriticalWorkQueue, NormalWorkQueue, BackgroundWorkQueue)
    assert (*kinds, RealTimeWorkQueue, SuperCriticalWorkQueue, MaximumWorkQueue) == tuple(range(8))

    def script_of(kind: int) -> Script:
        async def script(lab: Lab) -> None:
            await queue(await lab.filter("D", "1", {}), noting(lab), None, kind)

        return script

    def seen(kind: int) -> tuple[str | None, tuple[str, ...]]:
        one = run(script_of(kind))
        return one.code, one.warnings

    for kind in (DelayedWorkQueue, CustomPriorityWorkQueue, CustomPriorityWorkQueue + 16):
        assert seen(kind) == (None, ())
    for kind in (CriticalWorkQueue, HyperCriticalWorkQueue, SuperCriticalWorkQueue, CustomPriorityWorkQueue + 17):
        assert seen(kind) == (None, ("ke.work-queue-type",))
    for kind in (-1, MaximumWorkQueue, 31, 64):
        assert seen(kind)[0] == "ke.work-queue-invalid"
    stop = run(script_of(MaximumWorkQueue)).finding.bug_check
    assert stop is not None
    assert (stop.code, stop.parameters) == (WORKER_INVALID, (6,))


@pytest.mark.rule("FLT-UNLOAD-17", "FLT-RACE-32")
def test_an_item_the_filter_manager_does_not_know_must_be_over_at_the_unload() -> None:
    def script_of(waits: bool) -> Script:
        async def script(lab: Lab) -> None:
            driver = await lab.filter("D", "1", {})
            done = lab.event("done")

            async def routine(IoObject: DRIVER_OBJECT, Context: Any, Item: IO_WORKITEM) -> None:
                await lab.step("in the routine")
                await KeSetEvent(done)

            await queue(driver, routine)
            if waits:
                await KeWaitForSingleObject(done)
                # The event comes before the routine's last instructions.
                await lab.sleep(1)
            await driver.unload()

        return script

    runs = all_runs(script_of(waits=False), bound=2)
    assert codes(runs) == {None, "unload-foreign-callback"}
    details = {one.finding.detail for one in runs if one.code}
    assert details == {
        "routine of D is called, which was unloaded",
        "routine of D was running when it was unloaded",
    }
    assert run(script_of(waits=True)).code is None
