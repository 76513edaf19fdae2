"""Threads that drivers make: their start and end, waiting for them, and unloading their code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, orders, run

from kemu.errors import UsageError
from kemu.nt.bugcheck import (
    ACTIVE_EX_WORKER_THREAD_TERMINATION,
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    WORKER_INVALID,
)
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.process import Process
from kemu.nt.systhread import ThreadExit
from kemu.runtime import Thread
from kemu.scenario.world import LoadedDriver
from kemu.wdk.ntddk import KeAreApcsDisabled, ZwOpenProcess
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    CLIENT_ID,
    DRIVER_OBJECT,
    FAST_MUTEX,
    OBJ_EXCLUSIVE,
    OBJ_KERNEL_HANDLE,
    OBJ_PERMANENT,
    THREAD_ALL_ACCESS,
    WORK_QUEUE_ITEM,
    DelayedWorkQueue,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExInitializeWorkItem,
    ExQueueWorkItem,
    ExReleaseFastMutex,
    InitializeObjectAttributes,
    IoCreateSystemThread,
    KeGetCurrentIrql,
    KeQueryPriorityThread,
    KernelMode,
    KeSetEvent,
    KeSetPriorityThread,
    KeWaitForSingleObject,
    NtCurrentProcess,
    ObDereferenceObject,
    ObReferenceObjectByHandle,
    PsCreateSystemThread,
    PsGetCurrentThread,
    PsTerminateSystemThread,
    PsThreadType,
    ZwClose,
)

Routine = Callable[[Any], Awaitable[None]]


async def create(routine: Routine, context: Any = None) -> int:
    """Make a thread and return its handle."""
    status, handle, _ = await PsCreateSystemThread(THREAD_ALL_ACCESS, None, None, routine, context)
    assert status == STATUS_SUCCESS
    return handle


async def referenced(handle: int) -> KThread:
    """The thread behind *handle*, referenced; the handle is closed."""
    status, thread, _ = await ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, PsThreadType.contents, KernelMode)
    assert status == STATUS_SUCCESS
    await ZwClose(handle)
    return thread


@pytest.mark.rule("KE-THREAD-01", "KE-APC-15", "KE-CTX-03")
def test_a_thread_runs_in_the_system_process_at_passive_level_inside_a_critical_region() -> None:
    async def script(lab: Lab) -> Any:
        async def routine(Context: Any) -> None:
            thread = current_kthread()
            lab.note("ran", (Context, KeAreApcsDisabled(), thread.process is lab.system.get(Process)))

        status, handle, client = await PsCreateSystemThread(THREAD_ALL_ACCESS, None, None, routine, "context")
        thread = await referenced(handle)
        await KeWaitForSingleObject(thread)
        await ObDereferenceObject(thread)
        return status, client

    made = run(script)
    note = made.note("ran")
    assert (note.thread, note.irql, note.value) == ("sys:routine", 0, ("context", True, True))
    status, client = made.result
    assert status == STATUS_SUCCESS
    assert isinstance(client, CLIENT_ID)
    assert client.UniqueProcess == 4


@pytest.mark.rule("KE-THREAD-01")
def test_a_thread_may_run_and_end_before_its_creation_returns() -> None:
    async def script(lab: Lab) -> Any:
        async def routine(Context: Any) -> None:
            lab.note("ran")

        handle = await create(routine)
        lab.note("created")
        # The handle is good even if the thread has ended.
        return await ZwClose(handle)

    runs = all_runs(script)
    assert orders(runs) == {("ran", "created"), ("created", "ran")}
    assert {one.result for one in runs} == {STATUS_SUCCESS}


@pytest.mark.rule("KE-WAIT-01", "KE-ORD-01")
def test_a_wait_for_the_thread_returns_after_its_last_instruction() -> None:
    async def script(lab: Lab) -> None:
        async def routine(Context: Any) -> None:
            await lab.step()
            lab.note("last")

        thread = await referenced(await create(routine))
        await KeWaitForSingleObject(thread)
        lab.note("ended")
        await ObDereferenceObject(thread)

    assert orders(all_runs(script)) == {("last", "ended")}


@pytest.mark.rule("KE-THREAD-03")
def test_a_thread_ends_itself_and_nothing_after_that_happens() -> None:
    async def script(lab: Lab) -> Any:
        async def routine(Context: Any) -> None:
            try:
                await PsTerminateSystemThread(STATUS_SUCCESS)
            except ValueError:
                lab.note("caught")
            lab.note("went on")

        thread = await referenced(await create(routine))
        await KeWaitForSingleObject(thread)
        await ObDereferenceObject(thread)

    assert orders(all_runs(script)) == {()}
    assert not issubclass(ThreadExit, Exception)


@pytest.mark.rule("KE-THREAD-03")
def test_a_thread_that_no_driver_has_made_cannot_be_ended() -> None:
    async def script(lab: Lab) -> int:
        return await PsTerminateSystemThread(STATUS_SUCCESS)

    assert run(script).result == STATUS_INVALID_PARAMETER


@pytest.mark.rule("KE-WORK-10")
def test_a_worker_must_not_be_ended() -> None:
    async def script(lab: Lab) -> None:
        async def routine(Context: Any) -> None:
            await PsTerminateSystemThread(STATUS_SUCCESS)

        item = WORK_QUEUE_ITEM("Item")
        ExInitializeWorkItem(item, routine, None)
        await ExQueueWorkItem(item, DelayedWorkQueue)

    found = run(script).finding
    assert found.code == "ke.worker-terminated"
    assert found.bug_check is not None
    assert found.bug_check.code == ACTIVE_EX_WORKER_THREAD_TERMINATION


async def nothing(Context: Any) -> None:
    """A routine that does nothing."""


@pytest.mark.rule("KE-THREAD-02")
@pytest.mark.parametrize(
    ("flags", "code"),
    [(OBJ_PERMANENT, "ke.thread-handle"), (OBJ_EXCLUSIVE, "ke.thread-handle"), (OBJ_KERNEL_HANDLE, None)],
)
def test_attributes_that_a_thread_cannot_have(flags: int, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        attributes = InitializeObjectAttributes(None, flags)
        await PsCreateSystemThread(THREAD_ALL_ACCESS, attributes, None, nothing, None)

    assert run(script).code == code


@pytest.mark.rule("KE-THREAD-01", "KE-THREAD-02")
def test_the_process_of_a_thread() -> None:
    async def script(lab: Lab) -> Any:
        async def routine(Context: Any) -> None:
            lab.note("in", current_kthread().process)

        async def made(process: int, access: int = THREAD_ALL_ACCESS) -> int:
            status, _, _ = await PsCreateSystemThread(access, None, process, routine, None)
            return int(status)

        async def tries() -> Any:
            opened = CLIENT_ID(UniqueProcess=lab.app.process.pid)
            attributes = InitializeObjectAttributes(None, OBJ_KERNEL_HANDLE)
            _, full = await ZwOpenProcess(0x1FFFFF, attributes, opened)
            _, weak = await ZwOpenProcess(0x1000, attributes, opened)
            thread = await create(nothing)
            return [
                await made(NtCurrentProcess()),
                await made(full),
                await made(weak),
                await made(thread),
                await made(0xFFFFFFFF80000FF0),
                await made(0, 0x10000000 << 4),
            ]

        (result,) = await lab.together(tries(), process=lab.app)
        return result, [note.value for note in lab.notes] == [lab.app.process] * 2

    made = run(script)
    statuses, inside = made.result
    assert [status & 0xFFFFFFFF for status in statuses] == [
        status & 0xFFFFFFFF
        for status in map(
            int,
            (
                STATUS_SUCCESS,
                STATUS_SUCCESS,
                STATUS_ACCESS_DENIED,
                STATUS_OBJECT_TYPE_MISMATCH,
                STATUS_INVALID_HANDLE,
                STATUS_INVALID_PARAMETER,
            ),
        )
    ]
    assert inside


@pytest.mark.parametrize("wrong", [None, "a routine"])
def test_a_start_routine_that_is_none(wrong: Any) -> None:
    async def script(lab: Lab) -> None:
        await PsCreateSystemThread(THREAD_ALL_ACCESS, None, None, wrong, None)

    assert run(script).code == "ke.bad-pointer"


class FakeDevice:
    """A device object, as far as threads see it."""

    def __init__(self, driver: DRIVER_OBJECT) -> None:
        self.DriverObject = driver
        self.references = 0

    def reference(self, thread: Thread) -> None:
        self.references += 1

    def dereference(self, thread: Thread) -> None:
        self.references -= 1


@pytest.mark.rule("KE-THREAD-05", "KE-UNLOAD-07")
def test_a_thread_of_the_io_manager_keeps_its_device_until_it_has_ended() -> None:
    async def script(lab: Lab) -> Any:
        driver = await lab.filter("D", "1", {})
        device = FakeDevice(driver.driver_object)
        seen: list[int] = []

        async def routine(Context: Any) -> None:
            seen.append(device.references)

        status, handle, _ = await IoCreateSystemThread(device, THREAD_ALL_ACCESS, None, None, routine, None)
        thread = await referenced(handle)
        await KeWaitForSingleObject(thread)
        await ObDereferenceObject(thread)
        return status, seen, device.references

    assert run(script).result == (STATUS_SUCCESS, [1], 0)


@pytest.mark.rule("KE-THREAD-05")
def test_a_thread_of_the_io_manager_needs_a_device_or_driver_object() -> None:
    async def script(lab: Lab, object_: Any) -> None:
        await IoCreateSystemThread(object_, THREAD_ALL_ACCESS, None, None, nothing, None)

    for wrong in (None, 5):
        found = run(lambda lab, wrong=wrong: script(lab, wrong)).finding
        assert found.code == "ke.bad-pointer"
        assert found.bug_check is not None
        assert (found.bug_check.code, found.bug_check.parameters) == (WORKER_INVALID, (3,))

    async def right(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        await script(lab, driver.driver_object)

    assert run(right).code is None


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


def protocol(by: str) -> Script:
    """A driver's thread that is told to stop by an event, and an unload that waits *by* some means."""

    async def prepare(lab: Lab, driver: LoadedDriver) -> Callable[[], Awaitable[Any]]:
        stop, stopped = lab.event("Stop"), lab.event("Stopped")

        async def routine(Context: Any) -> None:
            await KeWaitForSingleObject(stop)
            await KeSetEvent(stopped)
            if by != "returning":
                await PsTerminateSystemThread(STATUS_SUCCESS)

        handle = await create(routine)
        thread = await referenced(handle) if by == "thread" else None

        async def last() -> None:
            if by == "closing":
                await ZwClose(handle)
                return
            await KeSetEvent(stop)
            if by in {"event", "returning"}:
                await KeWaitForSingleObject(stopped)
            if thread is not None:
                await KeWaitForSingleObject(thread)
                await ObDereferenceObject(thread)

        return last

    return unloading(prepare)


@pytest.mark.rule("KE-THREAD-04", "KE-RACE-16")
@pytest.mark.parametrize("by", ["event", "returning"])
def test_an_event_does_not_say_that_the_thread_has_ended(by: str) -> None:
    runs = all_runs(protocol(by), bound=1)
    assert codes(runs) == {None, "ke.thread-unload-race"}
    found = next(one.finding for one in runs if one.code)
    assert found.bug_check is not None
    assert found.bug_check.code == DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS
    assert "thread sys:routine at its last instructions" in found.detail


@pytest.mark.rule("KE-THREAD-04", "KE-UNLOAD-07", "KE-RACE-16")
def test_the_unload_waits_for_the_thread_itself() -> None:
    assert codes(all_runs(protocol("thread"), bound=2)) == {None}


@pytest.mark.rule("KE-THREAD-04", "KE-UNLOAD-03", "KE-UNLOAD-07")
def test_a_thread_that_still_runs_at_the_unload() -> None:
    one = run(protocol("nothing"))
    assert one.code in {"ke.thread-left", "ke.thread-unload-race"}
    assert "ke.thread-left" in codes(all_runs(protocol("nothing"), bound=1))


@pytest.mark.rule("KE-THREAD-03")
def test_closing_its_handle_does_not_stop_a_thread() -> None:
    one = run(protocol("closing"))
    assert (one.code, one.warnings) == ("ke.thread-left", ("ke.thread-stop",))
    assert run(protocol("thread")).warnings == ()


@pytest.mark.rule("KE-UNLOAD-03")
@pytest.mark.parametrize("started", [True, False])
def test_a_thread_in_code_that_is_gone(started: bool) -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        go = lab.event("Go")

        async def routine(Context: Any) -> None:
            await KeWaitForSingleObject(go)

        current_kthread().actors.append(driver.driver_object.actor)
        await create(routine)
        current_kthread().actors.pop()
        if started:
            await lab.sleep(1)
        driver.driver_object.loaded = False
        await KeSetEvent(go)

    found = run(script).finding
    assert found.code == "ke.unload-running"
    assert ("was running" if started else "starts in") in found.detail


def test_a_pointer_to_a_thread_that_was_not_referenced_is_stale_when_the_thread_has_ended() -> None:
    async def script(lab: Lab, keeps: bool) -> None:
        pointers: list[KThread] = []

        async def routine(Context: Any) -> None:
            pointers.append(PsGetCurrentThread())

        handle = await create(routine)
        thread = await referenced(handle) if keeps else None
        if not keeps:
            await ZwClose(handle)
        await lab.sleep(1)
        await KeWaitForSingleObject(pointers[0])
        if thread is not None:
            await ObDereferenceObject(thread)

    assert run(lambda lab: script(lab, False)).code == "ke.use-after-free"
    assert run(lambda lab: script(lab, True)).code is None


@pytest.mark.rule("KE-THREAD-06")
def test_a_thread_that_waits_for_itself_or_for_one_that_needs_its_lock() -> None:
    async def itself(lab: Lab) -> None:
        async def routine(Context: Any) -> None:
            await KeWaitForSingleObject(PsGetCurrentThread())

        await create(routine)

    assert run(itself).code == "ke.self-deadlock"

    async def under_lock(lab: Lab, releases: bool) -> None:
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)

        async def routine(Context: Any) -> None:
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)

        thread = await referenced(await create(routine))
        await ExAcquireFastMutex(mutex)
        if releases:
            await ExReleaseFastMutex(mutex)
        await KeWaitForSingleObject(thread)
        if not releases:
            await ExReleaseFastMutex(mutex)
        await ObDereferenceObject(thread)

    assert "ke.deadlock" in codes(all_runs(lambda lab: under_lock(lab, False)))
    assert codes(all_runs(lambda lab: under_lock(lab, True))) == {None}


# Priorities.


@pytest.mark.rule("KE-THREAD-07", "KE-WORK-01")
def test_priorities_are_kept_and_have_no_effect() -> None:
    async def script(lab: Lab) -> Any:
        seen: list[int] = []

        async def work(Context: Any) -> None:
            seen.append(KeQueryPriorityThread(PsGetCurrentThread()))

        async def low(Context: Any) -> None:
            thread = PsGetCurrentThread()
            seen.append(KeSetPriorityThread(thread, 1))
            seen.append(KeQueryPriorityThread(thread))
            assert KeGetCurrentIrql() == 0
            lab.note("low")

        async def high(Context: Any) -> None:
            KeSetPriorityThread(PsGetCurrentThread(), 31)
            lab.note("high")

        item = WORK_QUEUE_ITEM("Item")
        ExInitializeWorkItem(item, work, None)
        await ExQueueWorkItem(item, DelayedWorkQueue)
        await create(low)
        await create(high)
        await lab.sleep(1)
        return sorted(seen)

    runs = all_runs(script, bound=1)
    assert run(script).result == [1, 8, 12]
    assert {("low", "high"), ("high", "low")} <= orders(runs)


@pytest.mark.parametrize("priority", [0, 32, -1])
def test_a_priority_that_there_is_not(priority: int) -> None:
    async def script(lab: Lab) -> None:
        KeSetPriorityThread(PsGetCurrentThread(), priority)

    with pytest.raises(UsageError, match=f"priority {priority}"):
        run(script)
