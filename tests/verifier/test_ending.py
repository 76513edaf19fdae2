"""What the end of a run amounts to: every kind of hang, by its cause and not by its symptom."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Run, queue, resumes, run
from io_kit import loaded, succeed

from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltCompletePendedPreOperation,
    FltFreeGenericWorkItem,
    FltObjectReference,
    FltQueueGenericWorkItem,
    FltSetCancelCompletion,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    DelayedWorkQueue,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    KeWaitForSingleObject,
)


async def parked(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
    return FLT_PREOP_PENDING


async def read(lab: Lab, pre: Any, post: Any = None) -> Any:
    """A filter with the callbacks, and a read that was issued and may not be over."""
    driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, post)})
    file = await lab.open(overlapped=True)
    return driver, await file.begin_read(1)


def ending(one: Run) -> tuple[str, str | None]:
    return one.outcome.end, one.code


def test_everything_at_rest_is_no_finding() -> None:
    async def script(lab: Lab) -> None:
        await read(lab, lab.pre("D", FLT_PREOP_SUCCESS_NO_CALLBACK))

    assert ending(run(script)) == ("finished", None)


@pytest.mark.rule("FLT-PEND-02")
@pytest.mark.parametrize("waits", [True, False])
def test_a_pended_operation_that_nobody_completes(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        _, one = await read(lab, parked)
        if waits:
            await one.wait()

    found = run(script)
    assert ending(found) == ("stuck" if waits else "finished", "pend-never-completed")
    assert found.finding.detail.startswith("IRP_MJ_READ is pended by flt:D")
    assert ("script waits" in found.finding.detail) == waits
    assert found.finding.signature == ("pend-never-completed", "flt:D")


@pytest.mark.rule("FLT-POST-11")
@pytest.mark.parametrize("waits", [True, False])
def test_a_pended_post_operation_that_nobody_completes(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        _, one = await read(lab, lab.pre("D"), lab.post("D", FLT_POSTOP_MORE_PROCESSING_REQUIRED))
        if waits:
            await one.wait()

    assert ending(run(script)) == ("stuck" if waits else "finished", "postpend-never-completed")


@pytest.mark.rule("FLT-CANCEL-08", "FLT-CANCEL-06")
@pytest.mark.parametrize(("before", "code"), [(True, "cancel-lost"), (False, "cancel-not-completed")])
def test_an_operation_that_was_cancelled_and_not_completed(before: bool, code: str) -> None:
    async def forgets(Data: FLT_CALLBACK_DATA) -> None: ...

    async def script(lab: Lab) -> None:
        store: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            store.append(Data)
            return FLT_PREOP_PENDING

        _, one = await read(lab, pre)
        for step in (one.cancel, lambda: FltSetCancelCompletion(store[0], forgets))[:: 1 if before else -1]:
            await step()
        await one.wait()

    assert ending(run(script)) == ("stuck", code)


@pytest.mark.rule("FLT-INST-19", "FLT-INST-20", "FLT-INST-28")
@pytest.mark.parametrize(
    ("pended", "code"), [("pre", "teardown-pended-pre"), ("post", "teardown-pended-post"), ("inside", "teardown-hang")]
)
def test_a_teardown_that_waits_for_an_operation(pended: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        async def inside(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await KeWaitForSingleObject(lab.event("never"))
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        pre = {"pre": parked, "post": lab.pre("D"), "inside": inside}[pended]
        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, lab.post("D", FLT_POSTOP_MORE_PROCESSING_REQUIRED))})
        file = await lab.open(overlapped=True)

        async def reader() -> None:
            await file.begin_read(1)

        lab.start("reader", reader())
        await lab.step()
        await lab.sleep(1)
        await driver.detach()

    found = run(script)
    assert ending(found) == ("stuck", code)
    assert found.finding.signature == (code, "flt:D")


@pytest.mark.rule("FLT-UNLOAD-14", "FLT-REF-03")
@pytest.mark.parametrize(("of", "code"), [("filter", "unload-hang"), ("instance", "ref-leak")])
def test_an_unload_that_waits_for_a_reference(of: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", LOWER, {})
        await FltObjectReference(driver.filter if of == "filter" else lab.instance(driver))
        await driver.unload()

    assert ending(run(script)) == ("stuck", code)


@pytest.mark.rule("FLT-UNLOAD-14", "FLT-UNLOAD-11")
def test_an_unload_that_waits_for_a_work_routine() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", LOWER, {})

        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
            await FltFreeGenericWorkItem(WorkItem)
            await KeWaitForSingleObject(lab.event("never"))

        item = await FltAllocateGenericWorkItem()
        assert item is not None
        await FltQueueGenericWorkItem(item, driver.filter, routine, DelayedWorkQueue, None)
        await driver.unload()

    found = run(script)
    assert ending(found) == ("stuck", "unload-hang")
    assert "generic work item of D" in found.finding.detail


@pytest.mark.rule("KE-VER-03")
@pytest.mark.parametrize("kind", ["minifilter", "legacy", "in use"])
def test_an_unload_that_never_ends(kind: str) -> None:
    async def script(lab: Lab) -> None:
        async def waits(*arguments: Any) -> None:
            await KeWaitForSingleObject(lab.event("idle"))

        if kind == "minifilter":
            driver = await lab.filter("D", LOWER, {}, FilterUnloadCallback=waits)
        else:
            device, driver = await loaded(lab, "D", {IRP_MJ_CREATE: succeed})
            if kind == "legacy":
                device.on_unload = waits
            else:
                await lab.app.open(r"\\.\D")
        await driver.unload()

    found = run(script)
    assert ending(found) == ("stuck", "ke.unload-hang")
    assert ("idle" in found.finding.detail) is (kind != "in use")
    assert found.finding.verifier is not None
    assert (found.finding.verifier.code, found.finding.verifier.parameters[0]) == (0xC4, 0x115)


@pytest.mark.rule("KE-VER-03")
def test_whoever_waits_after_an_unload_does_not_unload() -> None:
    async def script(lab: Lab) -> None:
        await (await lab.filter("D", LOWER, {})).unload()
        await (await loaded(lab, "E", {}))[1].unload()
        await KeWaitForSingleObject(lab.event("never"))

    assert ending(run(script)) == ("stuck", "ke.hang")


@pytest.mark.rule("KE-EVENT-05")
def test_a_thread_that_waits_for_nobody() -> None:
    async def script(lab: Lab) -> None:
        await KeWaitForSingleObject(lab.event("never"))

    found = run(script)
    assert ending(found) == ("stuck", "ke.hang")
    assert found.finding.detail == "script waits to see the signal of never, which nobody will bring about"


async def two_locks(lab: Lab) -> tuple[Any, Any]:
    """Two threads that take two mutexes crosswise, each after the other has its first."""
    mutexes = FAST_MUTEX("A"), FAST_MUTEX("B")
    for mutex in mutexes:
        ExInitializeFastMutex(mutex)

    async def crosswise(first: int) -> None:
        await ExAcquireFastMutex(mutexes[first])
        await lab.sleep(1)
        await ExAcquireFastMutex(mutexes[1 - first])

    return crosswise(0), crosswise(1)


@pytest.mark.rule("KE-RACE-05")
def test_threads_that_wait_for_each_other() -> None:
    async def script(lab: Lab) -> None:
        await lab.together(*await two_locks(lab))

    found = run(script)
    assert ending(found) == ("stuck", "ke.deadlock")
    assert found.finding.signature == ("ke.deadlock", "crosswise crosswise#2")


@pytest.mark.rule("KE-RACE-05", "FLT-INST-28")
def test_a_deadlock_is_the_cause_and_a_teardown_that_waits_for_it_is_not() -> None:
    async def script(lab: Lab) -> None:
        one, two = await two_locks(lab)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await one
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.open()

        async def reader() -> None:
            await file.read(1)

        async def detach() -> None:
            await lab.sleep(2)
            await driver.detach()

        await lab.together(reader(), two, detach())

    assert ending(run(script)) == ("stuck", "ke.deadlock")


@pytest.mark.rule("FLT-RACE-26", "FLT-INST-28")
def test_a_cycle_through_a_teardown_is_the_teardowns() -> None:
    """TeardownStart holds what a callback needs, and the teardown waits for the callback."""

    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)
        entered = lab.event("entered")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await lab.sleep(1)
            await ExAcquireFastMutex(mutex)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.open()

        async def reader() -> None:
            await file.read(1)

        async def detach() -> None:
            await KeWaitForSingleObject(entered, Timeout=-1)
            await ExAcquireFastMutex(mutex)
            await driver.detach()

        await lab.together(reader(), detach())

    found = run(script)
    assert ending(found) == ("stuck", "teardown-hang")
    assert "cycle" in found.finding.detail


@pytest.mark.rule("KE-WORK-12", "FLT-WORK-14")
def test_workers_that_wait_for_what_is_queued_behind_them() -> None:
    """The operation is pended, and its work item is queued: what is missing is a worker."""

    async def script(lab: Lab) -> None:
        go = lab.event("go")

        async def waits(Data: FLT_CALLBACK_DATA) -> None:
            await KeWaitForSingleObject(go)
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

        works = [waits, resumes(FLT_PREOP_SUCCESS_NO_CALLBACK)]

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await queue(Data, works.pop(0))
            return FLT_PREOP_PENDING

        await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.open(overlapped=True)
        reads = [await file.begin_read(1), await file.begin_read(1)]
        await reads[1].wait()

    found = run(script, worker_threads=1)
    assert ending(found) == ("stuck", "ke.worker-starvation")
    assert found.finding.signature == ("ke.worker-starvation", "delayed work queue")


@pytest.mark.rule("KE-WORK-13")
def test_a_run_that_does_not_come_to_rest_says_who_took_the_steps() -> None:
    async def script(lab: Lab) -> None:
        async def spinner() -> None:
            while True:
                await lab.step("spin again")

        lab.start("spinner", spinner())

    found = run(script, max_steps=200)
    assert ending(found) == ("step-limit", "ke.step-limit")
    assert "by spinner, which is to spin again" in found.finding.detail
    assert "200 steps" in found.finding.detail
    assert found.finding.signature == ("ke.step-limit", "spinner")


def test_a_finding_of_the_run_itself_comes_before_its_ending() -> None:
    async def script(lab: Lab) -> None:
        await read(lab, parked)
        lab.check(False, "the script is not content")

    assert ending(run(script)) == ("stopped", "expectation")


def test_the_first_operation_that_was_issued_is_reported() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("Upper", UPPER, {IRP_MJ_READ: (parked, None)})
        file = await lab.open(overlapped=True)
        for _ in range(2):
            await file.begin_read(1)

    assert run(script).finding.signature == ("pend-never-completed", "flt:Upper")
