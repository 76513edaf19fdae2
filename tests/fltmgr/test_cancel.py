"""Cancelling pended operations: who is called when, who owns the completion, and how it goes wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, codes, queue, run

from kemu.io.constants import IRP_MJ_READ, IRP_PAGING_IO
from kemu.io.request import FAST_IO_OPERATION
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL
from kemu.scenario.world import LoadedDriver, Pending
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltClearCancelCompletion,
    FltCompletePendedPreOperation,
    FltIsIoCanceled,
    FltSetCancelCompletion,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    KSPIN_LOCK,
    IoAcquireCancelSpinLock,
    IoReleaseCancelSpinLock,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
)

Cancelled = Callable[[FLT_CALLBACK_DATA], Awaitable[None]]


async def complete_cancelled(Data: FLT_CALLBACK_DATA) -> None:
    Data.IoStatus.Status = STATUS_CANCELLED
    Data.IoStatus.Information = 0
    await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)


async def set_unless_cancelled(Data: FLT_CALLBACK_DATA, routine: Cancelled) -> bool:
    """Make *Data* cancellable, looking at the cancel bit under the cancel spin lock."""
    irql = await IoAcquireCancelSpinLock()
    cancelled = await FltIsIoCanceled(Data)
    if not cancelled:
        await FltSetCancelCompletion(Data, routine)
    await IoReleaseCancelSpinLock(irql)
    return not cancelled


def pender(
    lab: Lab,
    *,
    tests: bool = True,
    clears: bool = True,
    cancelled: Cancelled = complete_cancelled,
    work: Cancelled | None = None,
) -> Any:
    """A pre-read that pends: cancellable, resumed by a worker that may take the callback back before it does so.

    Callback data may be asked about while it is parked: the cancel callback, which gives it back, unparks it first.
    """
    lock = KSPIN_LOCK("parked")
    parked: list[FLT_CALLBACK_DATA] = []

    async def routine(Data: FLT_CALLBACK_DATA) -> None:
        lab.note("cancel callback")
        irql = await KeAcquireSpinLock(lock)
        parked.clear()
        await KeReleaseSpinLock(lock, irql)
        await cancelled(Data)

    async def take(Data: FLT_CALLBACK_DATA) -> bool:
        irql = await KeAcquireSpinLock(lock)
        taken = bool(parked) and await FltClearCancelCompletion(Data) == STATUS_SUCCESS
        await KeReleaseSpinLock(lock, irql)
        return taken

    async def worker(Data: FLT_CALLBACK_DATA) -> None:
        lab.note("worker")
        if not clears or await take(Data):
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        KeInitializeSpinLock(lock)
        parked.append(Data)
        if tests:
            if not await set_unless_cancelled(Data, routine):
                lab.note("cancelled before")
                Data.IoStatus.Status = STATUS_CANCELLED
                return FLT_PREOP_COMPLETE
        else:
            await FltSetCancelCompletion(Data, routine)
        lab.note("set")
        status = await queue(Data, work or worker)
        lab.check(status == STATUS_SUCCESS, "it can be queued")
        lab.note("queued")
        return FLT_PREOP_PENDING

    return pre


def cancelled_read(make: Callable[[Lab], Any]) -> Script:
    """One thread issues a read and another one cancels everything on the file; returns the read's status."""

    async def script(lab: Lab) -> int:
        await lab.filter("D", "1", {IRP_MJ_READ: (make(lab), None)})
        file = await lab.quiet_open(overlapped=True)

        async def reader() -> int:
            return await (await file.begin_read(1)).wait()

        async def canceller() -> None:
            lab.note("cancel")
            await file.cancel_all()

        return (await lab.together(reader(), canceller()))[0]

    return script


@pytest.mark.rule("FLT-CANCEL-03", "FLT-CANCEL-04", "FLT-CANCEL-05", "FLT-RACE-04", "FLT-RACE-11", "FLT-RACE-14")
def test_exactly_one_of_worker_and_cancel_callback_completes_in_every_run() -> None:
    runs = all_runs(cancelled_read(pender), bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS, STATUS_CANCELLED}
    for one in runs:
        if "cancel callback" in one.order or "cancelled before" in one.order:
            assert one.result == STATUS_CANCELLED


@pytest.mark.rule("FLT-RACE-10")
def test_a_cancellation_may_come_before_the_set_between_set_and_queue_and_after_the_queue() -> None:
    runs = all_runs(cancelled_read(pender), bound=3)
    assert any("cancelled before" in one.order for one in runs)
    between = ("set", "cancel callback", "queued")
    assert any([what for what in one.order if what in between] == list(between) for one in runs)
    assert any("cancel callback" in one.order and one.before("queued", "cancel callback") for one in runs)
    assert any("cancel callback" in one.order and one.before("worker", "cancel callback") for one in runs)


@pytest.mark.rule("FLT-CANCEL-03")
def test_the_callback_runs_on_the_cancellers_thread_at_passive_or_dispatch_level() -> None:
    runs = all_runs(cancelled_read(pender), bound=2)
    notes = {(one.note("cancel callback").thread, one.note("cancel callback").irql) for one in runs if called(one)}
    assert notes == {("canceller", PASSIVE_LEVEL), ("canceller", DISPATCH_LEVEL)}


def called(one: Run) -> bool:
    return "cancel callback" in one.order


@pytest.mark.rule("FLT-CANCEL-03", "FLT-RACE-11")
def test_the_callback_may_run_while_the_worker_does() -> None:
    async def slow(Data: FLT_CALLBACK_DATA) -> None:
        Data.IoStatus.Status = STATUS_CANCELLED
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

    runs = all_runs(cancelled_read(lambda lab: pender(lab, cancelled=slow)), bound=2)
    both = [one for one in runs if called(one) and "worker" in one.order]
    assert {one.before("worker", "cancel callback") for one in both} == {True, False}


@pytest.mark.rule("FLT-CANCEL-05", "FLT-RACE-11")
def test_a_worker_that_does_not_clear_completes_what_the_callback_completes() -> None:
    runs = all_runs(cancelled_read(lambda lab: pender(lab, clears=False)), bound=2)
    assert "cancel-double-complete" in codes(runs)
    assert None in codes(runs)
    one = next(one for one in runs if one.code)
    assert one.finding.rules == ("FLT-CANCEL-05", "FLT-RACE-11")


@pytest.mark.rule("FLT-CANCEL-07", "FLT-CANCEL-08", "FLT-RACE-10")
def test_an_operation_that_was_cancelled_before_the_set_is_lost_without_the_test() -> None:
    """The worker waits for the cancellation, as one that serves a queue of waiting operations would."""

    def make(tests: bool) -> Script:
        async def parked(Data: FLT_CALLBACK_DATA) -> None:
            """Leaves the operation to its cancellation."""

        return cancelled_read(lambda lab: pender(lab, tests=tests, work=parked))

    without = all_runs(make(tests=False), bound=2)
    assert codes(without) >= {None, "cancel-lost"}
    lost = next(one for one in without if one.code == "cancel-lost")
    assert not called(lost)
    # A cancellation before the read is issued finds nothing, so that the read waits for ever.
    assert codes(all_runs(make(tests=True), bound=2)) == {None, "pend-never-completed"}


@pytest.mark.rule("FLT-CANCEL-06")
def test_a_callback_that_does_not_complete_is_a_finding() -> None:
    async def forgets(Data: FLT_CALLBACK_DATA) -> None: ...

    runs = all_runs(cancelled_read(lambda lab: pender(lab, cancelled=forgets)), bound=2)
    assert codes(runs) == {None, "cancel-not-completed"}
    assert all(called(one) for one in runs if one.code)


@pytest.mark.rule("FLT-CANCEL-06")
def test_a_callback_may_leave_the_completion_to_somebody_else() -> None:
    async def script(lab: Lab) -> int:
        go = lab.event("cancelled")

        async def tells(Data: FLT_CALLBACK_DATA) -> None:
            await KeSetEvent(go)

        async def waits(Data: FLT_CALLBACK_DATA) -> None:
            await KeWaitForSingleObject(go)
            await complete_cancelled(Data)

        await lab.filter("D", "1", {IRP_MJ_READ: (pender(lab, cancelled=tells, work=waits), None)})
        file = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(1)
        await read.cancel()
        return await read.wait()

    runs = all_runs(script, bound=1)
    assert {(one.code, one.result) for one in runs} == {(None, STATUS_CANCELLED)}


async def pended(lab: Lab, prepare: Cancelled) -> tuple[LoadedDriver, Pending, FLT_CALLBACK_DATA]:
    """A read that is pended after *prepare*, and stays so."""
    datas: list[FLT_CALLBACK_DATA] = []

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await prepare(Data)
        datas.append(Data)
        return FLT_PREOP_PENDING

    driver = await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
    file = await lab.quiet_open(overlapped=True)
    read = await file.begin_read(1)
    return driver, read, datas[0]


async def nothing(Data: FLT_CALLBACK_DATA) -> None: ...


async def sets(Data: FLT_CALLBACK_DATA) -> None:
    await FltSetCancelCompletion(Data, complete_cancelled)


@pytest.mark.rule("FLT-CANCEL-04")
def test_clearing_tells_whether_the_callback_can_still_run() -> None:
    async def script(lab: Lab) -> list[object]:
        _, read, data = await pended(lab, nothing)
        results: list[object] = [await FltClearCancelCompletion(data)]
        await FltSetCancelCompletion(data, complete_cancelled)
        results.append(await FltClearCancelCompletion(data))
        results.append(await FltClearCancelCompletion(data))
        results.append(await read.cancel())
        await FltCompletePendedPreOperation(data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
        return [*results, await read.wait()]

    assert run(script).result == [
        STATUS_CANCELLED,
        STATUS_SUCCESS,
        STATUS_CANCELLED,
        False,
        STATUS_CANCELLED,  # the file system sees the bit: FLT-CANCEL-13
    ]


@pytest.mark.rule("FLT-CANCEL-10", "FLT-CANCEL-13")
def test_a_cancellation_without_a_routine_leaves_the_bit_set_and_setting_a_routine_does_not_fire() -> None:
    async def script(lab: Lab) -> list[object]:
        _, read, data = await pended(lab, nothing)
        results: list[object] = [await read.cancel(), await FltIsIoCanceled(data)]
        await FltSetCancelCompletion(data, complete_cancelled)
        results.append(await read.cancel())
        results.append(read.request.done)
        await FltCompletePendedPreOperation(data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
        return results

    assert run(script).result == [False, True, False, False]


@pytest.mark.rule("FLT-CANCEL-09")
def test_only_an_irp_can_be_cancelled() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            request.cancel.requested = True
            lab.note("cancelled", await FltIsIoCanceled(Data))
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        request = lab.request(await lab.open(), IRP_MJ_READ, kind=FAST_IO_OPERATION)
        await lab.send(request)

    assert run(script).note("cancelled").value is False


@pytest.mark.rule("FLT-CANCEL-01")
@pytest.mark.parametrize(
    ("kind", "flags", "code"),
    [
        ({}, 0, None),
        ({"kind": FAST_IO_OPERATION}, 0, "cancel-set-illegal"),
        ({}, IRP_PAGING_IO, "cancel-set-illegal"),
    ],
)
def test_only_irps_that_are_no_paging_io_are_made_cancellable(
    kind: dict[str, int], flags: int, code: str | None
) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltSetCancelCompletion(Data, complete_cancelled)
            await FltClearCancelCompletion(Data)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        await lab.send(lab.request(await lab.open(), IRP_MJ_READ, flags=flags, **kind))

    assert run(script).code == code


@pytest.mark.rule("FLT-CBD-18")
@pytest.mark.parametrize("use", [sets, FltIsIoCanceled, FltClearCancelCompletion])
def test_an_operation_that_was_given_back_is_not_asked_about(use: Callable[[FLT_CALLBACK_DATA], Any]) -> None:
    async def script(lab: Lab) -> None:
        _, _, data = await pended(lab, nothing)
        await FltCompletePendedPreOperation(data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
        await use(data)

    assert run(script).code == "cbd-use-after-release"


@pytest.mark.rule("FLT-ORD-07")
def test_an_unload_waits_for_a_cancel_callback_that_goes_on_after_its_completion() -> None:
    async def script(lab: Lab) -> None:
        async def cancelled(Data: FLT_CALLBACK_DATA) -> None:
            await complete_cancelled(Data)
            await lab.step("after the completion")
            lab.note("callback leaves")

        async def prepare(Data: FLT_CALLBACK_DATA) -> None:
            await FltSetCancelCompletion(Data, cancelled)

        driver, read, _ = await pended(lab, prepare)

        async def canceller() -> None:
            await read.cancel()

        async def unload() -> None:
            await driver.unload()
            lab.note("unloaded")

        await lab.together(canceller(), unload())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("callback leaves", "unloaded")}
