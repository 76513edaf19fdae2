"""The kernel's work items: of devices and drivers, and bare ones; how they are misused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, orders, run

from kemu.nt.bugcheck import (
    APC_INDEX_MISMATCH,
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    SYSTEM_EXIT_OWNED_MUTEX,
    WORKER_INVALID,
    WORKER_THREAD_RETURNED_AT_BAD_IRQL,
    BugCheck,
)
from kemu.nt.kthread import current_kthread
from kemu.nt.process import Process
from kemu.runtime import Thread
from kemu.scenario.world import LoadedDriver
from kemu.wdk.ntddk import KeEnterCriticalRegion
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IO_WORKITEM,
    KMUTEX,
    POOL_FLAG_NON_PAGED,
    WORK_QUEUE_ITEM,
    CriticalWorkQueue,
    DelayedWorkQueue,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeWorkItem,
    ExQueueWorkItem,
    IoAllocateWorkItem,
    IoFreeWorkItem,
    IoInitializeWorkItem,
    IoQueueWorkItem,
    IoQueueWorkItemEx,
    IoSizeofWorkItem,
    IoUninitializeWorkItem,
    KeInitializeMutex,
    KeSetEvent,
    KeWaitForSingleObject,
    Structure,
    sizeof,
)

SECOND = 10_000_000


class FakeDevice:
    """A device object, as far as work items see it."""

    def __init__(self, driver: DRIVER_OBJECT) -> None:
        self.DriverObject = driver
        self.references = 0

    def reference(self, thread: Thread) -> None:
        self.references += 1

    def dereference(self, thread: Thread) -> None:
        self.references -= 1


class BLOCK(Structure):
    Value: int


async def device(lab: Lab) -> tuple[LoadedDriver, FakeDevice]:
    driver = await lab.filter("D", "1", {})
    return driver, FakeDevice(driver.driver_object)


def bare(routine: Callable[..., Awaitable[None]], context: Any = None, label: str = "Item") -> WORK_QUEUE_ITEM:
    """An initialised bare work item."""
    item = WORK_QUEUE_ITEM(label)
    ExInitializeWorkItem(item, routine, context)
    return item


@pytest.mark.rule("KE-WORK-07", "KE-UNLOAD-07", "KE-ORD-02")
def test_a_devices_work_item_keeps_the_device_until_its_routine_has_returned() -> None:
    async def script(lab: Lab) -> Any:
        _, one = await device(lab)
        item = await IoAllocateWorkItem(one)
        assert item is not None
        seen: list[int] = []

        async def routine(DeviceObject: Any, Context: Any) -> None:
            seen.append(one.references)
            await IoFreeWorkItem(item)
            await lab.step()
            seen.append(one.references)
            assert (DeviceObject, Context) == (one, "context")

        await IoQueueWorkItem(item, routine, DelayedWorkQueue, "context")
        await lab.sleep(1)
        return seen, one.references

    assert run(script).result == ([1, 1], 0)


@pytest.mark.rule("KE-WORK-08")
def test_io_queue_work_item_needs_an_item_of_a_device() -> None:
    async def script(lab: Lab, of_device: bool) -> None:
        driver, one = await device(lab)
        item = await IoAllocateWorkItem(one if of_device else driver.driver_object)
        assert item is not None

        async def routine(*arguments: Any) -> None:
            await IoFreeWorkItem(item)

        await IoQueueWorkItem(item, routine, DelayedWorkQueue, None)

    assert run(lambda lab: script(lab, False)).code == "ke.work-object"
    assert run(lambda lab: script(lab, True)).code is None


@pytest.mark.rule("KE-WORK-08")
@pytest.mark.parametrize("wrong", [None, "a device", 7])
def test_an_item_of_neither_a_device_nor_a_driver(wrong: Any) -> None:
    async def allocates(lab: Lab) -> None:
        await IoAllocateWorkItem(wrong)

    async def initialises(lab: Lab) -> None:
        IoInitializeWorkItem(wrong, IO_WORKITEM())

    for script in (allocates, initialises):
        found = run(script).finding
        assert found.code == "ke.bad-pointer"
        assert found.bug_check is not None
        assert (found.bug_check.code, found.bug_check.parameters) == (WORKER_INVALID, (3,))


@pytest.mark.parametrize("wrong", [None, "a routine"])
def test_a_worker_routine_that_is_none(wrong: Any) -> None:
    async def io_item(lab: Lab) -> None:
        _, one = await device(lab)
        item = await IoAllocateWorkItem(one)
        assert item is not None
        await IoQueueWorkItem(item, wrong, DelayedWorkQueue, None)

    async def bare_item(lab: Lab) -> None:
        bare(wrong)

    for script in (io_item, bare_item):
        found = run(script).finding
        assert found.code == "ke.bad-pointer"
        assert found.bug_check is not None
        assert (found.bug_check.code, found.bug_check.parameters) == (WORKER_INVALID, (7,))


@pytest.mark.rule("KE-WORK-09")
def test_storage_of_the_drivers_own() -> None:
    async def script(lab: Lab) -> Any:
        _, one = await device(lab)
        item = IO_WORKITEM("Extension.Item")
        IoInitializeWorkItem(one, item)

        async def routine(IoObject: Any, Context: Any, Item: IO_WORKITEM) -> None:
            lab.note("ran", Item is item)
            await IoUninitializeWorkItem(Item)

        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)
        await lab.sleep(1)
        # It may be initialised and used again.
        IoInitializeWorkItem(one, item)
        await IoUninitializeWorkItem(item)
        return IoSizeofWorkItem()

    made = run(script)
    assert (made.code, made.result, made.note("ran").value) == (None, 0x58, True)


@pytest.mark.rule("KE-WORK-09")
def test_items_are_given_back_as_they_were_got() -> None:
    async def script(lab: Lab, kind: str) -> None:
        _, one = await device(lab)
        allocated = await IoAllocateWorkItem(one)
        assert allocated is not None
        stored = IO_WORKITEM()
        if kind != "raw":
            IoInitializeWorkItem(one, stored)
        if kind == "uninitialise allocated":
            await IoUninitializeWorkItem(allocated)
        elif kind == "free stored":
            await IoFreeWorkItem(stored)
        elif kind == "raw":
            await IoUninitializeWorkItem(stored)
        elif kind == "twice":
            await IoFreeWorkItem(allocated)
            await IoFreeWorkItem(allocated)

    def code(kind: str) -> str | None:
        return run(lambda lab: script(lab, kind)).code

    assert code("uninitialise allocated") == code("free stored") == "workitem-kind-mismatch"
    assert code("raw") == "ke.uninitialised"
    assert code("twice") == "workitem-double-free"
    assert code("right") is None


@pytest.mark.rule("KE-WORK-09")
@pytest.mark.parametrize("frees", [True, False])
def test_an_item_that_is_never_freed(frees: bool) -> None:
    async def script(lab: Lab) -> None:
        driver, one = await device(lab)
        item = await IoAllocateWorkItem(one)
        assert item is not None
        if frees:
            await IoFreeWorkItem(item)
        await driver.unload()

    assert run(script).warnings == (() if frees else ("ke.work-leak",))


async def nothing(*arguments: Any) -> None:
    """A routine that does nothing."""


def test_storage_that_is_initialised_while_it_is_queued() -> None:
    async def io_item(lab: Lab) -> None:
        _, one = await device(lab)
        item = IO_WORKITEM()
        IoInitializeWorkItem(one, item)
        await IoQueueWorkItemEx(item, nothing, DelayedWorkQueue, None)
        IoInitializeWorkItem(one, item)

    async def bare_item(lab: Lab) -> None:
        item = bare(nothing)
        await ExQueueWorkItem(item, DelayedWorkQueue)
        ExInitializeWorkItem(item, nothing, None)

    assert run(io_item).code == run(bare_item).code == "ke.work-requeued"


# Bare items.


@pytest.mark.rule("KE-WORK-03", "KE-CTX-03")
def test_a_bare_item_calls_its_routine_with_its_context() -> None:
    async def script(lab: Lab) -> Any:
        seen: list[Any] = []

        async def routine(Context: Any) -> None:
            thread = current_kthread()
            seen.append((Context, thread.irql, thread.process is lab.system.get(Process), thread.label))

        await ExQueueWorkItem(bare(routine, "context"), CriticalWorkQueue)
        await lab.sleep(1)
        return seen

    assert run(script).result == [("context", 0, True, "wk:critical#0")]


@pytest.mark.rule("KE-WORK-04", "KE-RACE-10")
@pytest.mark.parametrize("waits", [True, False])
def test_an_item_that_is_queued_while_it_is_queued(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        started = lab.event("Started")

        async def routine(Context: Any) -> None:
            await KeSetEvent(started)

        item = bare(routine)
        await ExQueueWorkItem(item, DelayedWorkQueue)
        if waits:
            await KeWaitForSingleObject(started)
        await ExQueueWorkItem(item, DelayedWorkQueue)

    runs = all_runs(script)
    assert codes(runs) == ({None} if waits else {None, "ke.work-requeued"})
    for one in runs:
        if one.code:
            assert one.finding.bug_check is not None
            assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (WORKER_INVALID, (1,))


@pytest.mark.rule("KE-WORK-04", "KE-WORK-06", "KE-RACE-10")
def test_a_routine_may_queue_its_item_again_and_then_runs_concurrently_with_itself() -> None:
    async def script(lab: Lab) -> None:
        async def routine(Context: Any) -> None:
            lab.note("in")
            if len(lab.notes) == 1:
                await ExQueueWorkItem(item, DelayedWorkQueue)
            lab.note("out")

        item = bare(routine)
        await ExQueueWorkItem(item, DelayedWorkQueue)

    found = orders(all_runs(script, unseen=True))
    assert found == {("in", "in", "out", "out"), ("in", "out", "in", "out")}


@pytest.mark.rule("KE-WORK-05", "KE-RACE-10")
@pytest.mark.parametrize("waits", [True, False])
def test_an_item_that_is_freed_while_it_is_queued(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await device(lab)
        started = lab.event("Started")
        item = await IoAllocateWorkItem(driver.driver_object)
        assert item is not None

        async def routine(*arguments: Any) -> None:
            await KeSetEvent(started)

        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)
        if waits:
            await KeWaitForSingleObject(started)
        await IoFreeWorkItem(item)

    runs = all_runs(script)
    assert codes(runs) == ({None} if waits else {None, "ke.work-freed-queued"})


@pytest.mark.rule("KE-WORK-05")
def test_an_item_in_memory_that_was_freed() -> None:
    async def script(lab: Lab) -> None:
        item = bare(nothing)
        assert item.still_active() is None
        await ExQueueWorkItem(item, DelayedWorkQueue)
        left = item.still_active()
        assert left is not None
        assert (left.code, left.bug_check) == ("ke.work-freed-queued", BugCheck(WORKER_INVALID, (0,)))
        lab.system.freed[item] = "which is gone"

    found = run(script).finding
    assert found.code == "ke.work-freed-queued"
    assert found.bug_check is not None
    assert found.bug_check.parameters == (0,)


def test_a_bare_item_that_was_not_initialised() -> None:
    async def script(lab: Lab) -> None:
        await ExQueueWorkItem(WORK_QUEUE_ITEM("Raw"), DelayedWorkQueue)

    assert run(script).code == "ke.uninitialised"


@pytest.mark.rule("KE-WORK-02")
def test_a_queue_type_that_ex_queue_work_item_does_not_know() -> None:
    async def script(lab: Lab, kind: int) -> None:
        await ExQueueWorkItem(bare(nothing), kind)

    assert run(lambda lab: script(lab, 7)).code == "ke.work-queue-invalid"
    assert run(lambda lab: script(lab, CriticalWorkQueue)).warnings == ()
    assert run(lambda lab: script(lab, 2)).warnings == ("ke.work-queue-type",)


# Unload.


def unloading(prepare: Callable[[Lab, LoadedDriver], Awaitable[Callable[[], Awaitable[Any]]]]) -> Script:
    """A script in which a driver's unload does what *prepare* returns, and *prepare* runs as the driver."""

    async def script(lab: Lab) -> None:
        async def unload(Flags: int) -> int:
            await last()
            return await type(driver.driver).Unload(driver.driver, Flags)  # type: ignore[attr-defined]

        driver = await lab.filter("D", "1", {}, FilterUnloadCallback=unload)
        current_kthread().actors.append(driver.driver_object.actor)
        last = await prepare(lab, driver)
        current_kthread().actors.pop()
        await driver.unload()

    return script


@pytest.mark.rule("KE-WORK-07", "KE-UNLOAD-07", "KE-RACE-10", "KE-RACE-16")
@pytest.mark.parametrize("waits", [True, False])
def test_nothing_keeps_the_driver_for_a_bare_item(waits: bool) -> None:
    async def prepare(lab: Lab, driver: LoadedDriver) -> Callable[[], Awaitable[Any]]:
        done = lab.event("Done")

        async def routine(Context: Any) -> None:
            await lab.step()
            await KeSetEvent(done)

        await ExQueueWorkItem(bare(routine), DelayedWorkQueue)

        async def last() -> None:
            if waits:
                await KeWaitForSingleObject(done)

        return last

    runs = all_runs(unloading(prepare), bound=2)
    assert codes(runs) == ({None} if waits else {None, "ke.work-left"})
    states = {one.finding.detail.rsplit(" ", 2)[1] for one in runs if one.code}
    assert states == (set() if waits else {"queued", "running"})
    for one in runs:
        if one.code:
            assert one.finding.bug_check is not None
            assert one.finding.bug_check.code == DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS


@pytest.mark.rule("KE-WORK-07", "KE-UNLOAD-03")
def test_a_routine_that_is_called_in_code_that_is_gone() -> None:
    async def script(lab: Lab, early: bool) -> None:
        driver, _ = await device(lab)
        go = lab.event("Go")

        async def routine(Context: Any) -> None:
            await KeWaitForSingleObject(go)

        current_kthread().actors.append(driver.driver_object.actor)
        item = bare(routine)
        current_kthread().actors.pop()
        driver.driver_object.altitude = ""
        await ExQueueWorkItem(item, DelayedWorkQueue)
        if early:
            driver.driver_object.loaded = False
        else:
            await lab.sleep(1)
            driver.driver_object.loaded = False
        await KeSetEvent(go)

    for early, words in ((True, "is called"), (False, "was running")):
        found = run(lambda lab, early=early: script(lab, early)).finding
        assert found.code == "ke.unload-running"
        assert words in found.detail


# What a routine may not do.


@pytest.mark.rule("KE-WORK-16", "KE-REMLOCK-05")
@pytest.mark.parametrize("waits", [True, False])
def test_a_context_that_is_freed_before_the_routine_uses_it(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        done = lab.event("Done")
        block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(BLOCK), "Test")

        async def routine(Context: BLOCK) -> None:
            Context.Value = 1
            await KeSetEvent(done)

        await ExQueueWorkItem(bare(routine, block), DelayedWorkQueue)
        if waits:
            await KeWaitForSingleObject(done)
        await ExFreePoolWithTag(block, "Test")

    assert codes(all_runs(script, unseen=True)) == ({None} if waits else {None, "ke.work-lifetime"})


def test_other_memory_that_a_routine_uses_is_use_after_free() -> None:
    async def script(lab: Lab) -> None:
        block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(BLOCK), "Test")

        async def routine(Context: Any) -> None:
            block.Value = 1

        await ExQueueWorkItem(bare(routine), DelayedWorkQueue)
        await ExFreePoolWithTag(block, "Test")

    assert codes(all_runs(script, unseen=True)) == {None, "ke.use-after-free"}


@pytest.mark.rule("KE-WORK-10", "KE-IRQL-10", "KE-APC-07")
def test_a_routine_that_returns_with_its_thread_changed() -> None:
    def left(change: Callable[[], object]) -> Any:
        async def script(lab: Lab) -> None:
            async def routine(Context: Any) -> None:
                if change() == "mutex":
                    mutex = KMUTEX("Mutex")
                    KeInitializeMutex(mutex, 0)
                    await KeWaitForSingleObject(mutex)

            await ExQueueWorkItem(bare(routine), DelayedWorkQueue)

        return run(script)

    def raised(irql: int) -> None:
        current_kthread().irql = irql

    def stop(change: Callable[[], object]) -> tuple[Any, tuple[int, ...]]:
        one = left(change)
        assert one.code == "callback-dirty-exit"
        return one.finding.bug_check.code, one.finding.bug_check.parameters

    assert stop(lambda: raised(2)) == (WORKER_THREAD_RETURNED_AT_BAD_IRQL, (0, 2))
    assert stop(lambda: raised(1)) == (0xC8, (1 << 16 | 2,))
    assert stop(lambda: "mutex") == (SYSTEM_EXIT_OWNED_MUTEX, ())
    assert stop(KeEnterCriticalRegion) == (APC_INDEX_MISMATCH, (0, 0, 0xFFFF, 1))
    assert left(lambda: None).code is None


@pytest.mark.rule("KE-WORK-13")
@pytest.mark.parametrize(("seconds", "warns"), [(1, False), (2, True)])
def test_a_routine_that_takes_longer_than_the_budget(seconds: int, warns: bool) -> None:
    async def script(lab: Lab) -> None:
        async def routine(Context: Any) -> None:
            await lab.sleep(seconds)

        await ExQueueWorkItem(bare(routine), DelayedWorkQueue)

    assert run(script, work_budget=1).warnings == (("ke.work-long",) if warns else ())
    assert run(script).warnings == ()


@pytest.mark.rule("KE-WORK-12", "KE-WORK-14", "KE-RACE-11")
def test_workers_that_wait_for_items_behind_them() -> None:
    async def script(lab: Lab) -> None:
        done = lab.event("Done")

        async def sets(Context: Any) -> None:
            await KeSetEvent(done)

        async def waits(Context: Any) -> None:
            await ExQueueWorkItem(bare(sets, label="Inner"), DelayedWorkQueue)
            await KeWaitForSingleObject(done)

        for number in range(2):
            await ExQueueWorkItem(bare(waits, label=f"Outer {number}"), DelayedWorkQueue)

    assert codes(all_runs(script, bound=1, worker_threads=2)) == {None, "ke.worker-starvation"}
    assert codes(all_runs(script, bound=1, worker_threads=3)) == {None}
