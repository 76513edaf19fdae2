"""Races of pending, cancelling and draining: each order that matters is reached, and only the harmful ones fail."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes
from fltmgr.test_cbdq import Queue

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    FltAllocateDeferredIoWorkItem,
    FltCbdqRemoveNextIo,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltIsIoCanceled,
    FltQueueDeferredIoWorkItem,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    IRP_MJ_READ,
    KEVENT,
    LONG,
    DelayedWorkQueue,
    Executive,
    InterlockedCompareExchange,
    InterlockedExchange,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
)

NO, WITH, PENDING = FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_PENDING
FINISHED, MORE = FLT_POSTOP_FINISHED_PROCESSING, FLT_POSTOP_MORE_PROCESSING_REQUIRED


async def hand_over(lab: Lab, Data: FLT_CALLBACK_DATA, *, post: bool) -> None:
    """Queue *Data*; a worker notes ``worker``, resumes it, and notes ``resumed``. Then notes ``queued``."""

    async def routine(WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        lab.note("worker")
        if post:
            await FltCompletePendedPostOperation(Data)
        else:
            await FltCompletePendedPreOperation(Data, WITH, None)
        lab.note("resumed")

    item = await FltAllocateDeferredIoWorkItem()
    assert item is not None
    assert await FltQueueDeferredIoWorkItem(item, Data, routine, DelayedWorkQueue, None) == STATUS_SUCCESS
    lab.note("queued")


def place_of(one: Run) -> str:
    """Where the resumption came: before the queueing call had returned, before the callback had, or after."""
    if one.before("worker", "queued"):
        return "before the queueing returned"
    return "before the callback returned" if one.before("worker", "returns") else "after it"


@pytest.mark.rule("FLT-RACE-01", "FLT-RACE-06", "FLT-PEND-08", "FLT-PEND-09", "FLT-ORD-14")
@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("looks", [False, True])
def test_a_resumption_before_the_callback_returns(post: bool, looks: bool) -> None:
    async def script(lab: Lab) -> None:
        somewhere = lab.event("Somewhere")

        async def hands_over(Data: FLT_CALLBACK_DATA) -> None:
            await hand_over(lab, Data, post=post)
            # A call that takes time, between the queueing and the return.
            await KeSetEvent(somewhere, 0, False)
            if looks:
                lab.note("looks", Data.Iopb.MajorFunction)
            lab.note("returns")

        async def before(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if post:
                return WITH
            await hands_over(Data)
            return PENDING

        async def after(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if not post:
                return FINISHED
            await hands_over(Data)
            return MORE

        file = await lab.quiet_open()
        await lab.filter("T", UPPER, {IRP_MJ_READ: (lab.pre("T"), lab.post("T"))})
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (before, after)})
        await file.read(1)

    runs = all_runs(script)
    places = {place_of(one) for one in runs if "returns" in one.order}
    if looks:
        # Harmful exactly where the worker was first.
        assert codes(runs) == {None, "cbd-use-after-release"}
        assert {one.code for one in runs if "looks" in one.order} == {None}
        return
    assert codes(runs) == {None}
    assert places == {"before the queueing returned", "before the callback returned", "after it"}
    # In the first two the whole operation may be over before the callback returns.
    for place in ("before the queueing returned", "before the callback returned"):
        there = [one for one in runs if place_of(one) == place]
        assert {one.before("T.post", "returns") for one in there} == {True, False}
    assert {one.order.count("T.post") for one in runs} == {1}


@pytest.mark.rule("FLT-RACE-02", "FLT-PEND-10")
@pytest.mark.parametrize("post", [False, True])
def test_a_callback_that_hands_over_and_then_takes_an_error_path(post: bool) -> None:
    async def script(lab: Lab) -> None:
        async def before(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not post:
                await hand_over(lab, Data, post=False)
                lab.note("returns")
            return WITH

        async def after(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if post:
                await hand_over(lab, Data, post=True)
                lab.note("returns")
            return FINISHED

        file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (before, after)})
        await file.read(1)

    runs = all_runs(script)
    assert codes(runs) == {"pend-not-returned"}
    # The worker runs before that return, or has not begun by then.
    assert {"worker" in one.order for one in runs} == {True, False}


@pytest.mark.rule("FLT-RACE-04", "FLT-PEND-02")
@pytest.mark.parametrize("agreed", ["both", "one", "neither"])
@pytest.mark.parametrize("other", ["teardown", "timeout"])
def test_two_that_would_complete_one_operation(other: str, agreed: str) -> None:
    """A worker, and InstanceTeardownStart or a timeout: they agree by an interlocked exchange, or do not."""

    async def script(lab: Lab) -> None:
        owned = LONG(0, "Owned")
        kept: list[FLT_CALLBACK_DATA] = []
        parked: KEVENT = lab.event("Parked")

        async def complete(who: str) -> None:
            if agreed == "neither":
                return
            if agreed == "one" and await InterlockedExchange(owned, 1):
                lab.note(f"not {who}")
                return
            if agreed == "both" and await InterlockedCompareExchange(owned, 0, 0):
                return
            lab.note(who)
            await FltCompletePendedPreOperation(kept[0], NO, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            await KeSetEvent(parked, 0, False)
            return PENDING

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            await complete("other")

        file = await lab.quiet_open(overlapped=True)
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)}, InstanceTeardownStartCallback=start)
        pending = await file.begin_read(1)

        async def worker() -> None:
            await KeWaitForSingleObject(parked, Executive, KernelMode, False, None)
            await complete("worker")

        async def second() -> None:
            if other == "teardown":
                await loaded.detach()
            else:
                await complete("other")

        await lab.together(worker(), second())
        await pending.wait()

    runs = all_runs(script, bound=2)
    reached = {tuple(what for what in one.order if what in {"worker", "other"}) for one in runs}
    if agreed == "neither":
        assert codes(runs) == ({"teardown-pended-pre"} if other == "teardown" else {"pend-never-completed"})
        return
    if agreed == "one":
        assert codes(runs) == {None}
        assert reached == {("worker",), ("other",)}
        return
    assert codes(runs) == {"pend-double-complete"}
    assert reached == {("worker", "other"), ("other", "worker")}


@pytest.mark.rule("FLT-RACE-14", "FLT-CBDQ-19")
@pytest.mark.parametrize("status", [STATUS_SUCCESS, STATUS_CANCELLED])
def test_a_cancellation_between_removal_and_completion(status: int) -> None:
    """Whoever has removed an operation completes it, once, with either status."""

    async def script(lab: Lab) -> int:
        queue = Queue(lab)
        await queue.load()
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)

        async def worker() -> None:
            Data = await FltCbdqRemoveNextIo(queue.cbdq, None)
            if Data is None:
                lab.note("too late")
                return
            lab.note("removed")
            if status == STATUS_CANCELLED and await FltIsIoCanceled(Data):
                Data.IoStatus.Status = STATUS_CANCELLED
                await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)
            else:
                await FltCompletePendedPreOperation(Data, NO, None)
            lab.note("completed")

        async def canceller() -> None:
            await pending.cancel()
            lab.note("cancelled")

        await lab.together(worker(), canceller())
        return await pending.wait()

    runs = all_runs(script)
    assert codes(runs) == {None}
    cancelled = {
        "before the removal" if "too late" in one.order
        else "after the completion" if one.before("completed", "cancelled")
        else "between"
        for one in runs
    }  # fmt: skip
    assert cancelled == {"before the removal", "between", "after the completion"}
    assert {one.result for one in runs} == {STATUS_SUCCESS, STATUS_CANCELLED}


@pytest.mark.rule("FLT-RACE-22", "FLT-RACE-23", "FLT-ORD-03")
@pytest.mark.parametrize("synchronises", [False, True])
def test_a_drain_and_the_real_completion(synchronises: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("pre")
            return 5 if synchronises else WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("drained" if Flags & FLTFL_POST_OPERATION_DRAINING else "completed")
            return FINISHED

        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (None, lab.post("B"))})

        async def reader() -> None:
            await file.read(1)
            lab.note("read")

        async def admin() -> None:
            await loaded.detach()
            lab.note("gone")

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=2, completion="later")
    assert codes(runs) == {None}
    seen = [one for one in runs if "pre" in one.order]
    # Exactly one post-operation callback, whichever it is.
    assert {(one.order.count("drained"), one.order.count("completed")) for one in seen} == {(1, 0), (0, 1)}
    drained = [one for one in seen if "drained" in one.order]
    # The drain comes before the completion has begun, while it is under way, and so instead of it.
    assert {one.before("drained", "B.post") for one in drained} == {True, False}
    assert {one.note("drained").thread for one in drained} == {"admin"}
    completed = [one for one in seen if "completed" in one.order]
    assert {one.before("completed", "gone") for one in completed} == {True}
    # A synchronised operation that was not drained comes back to its thread.
    threads = {one.note("completed").thread for one in completed}
    assert ("reader" in threads) is synchronises
    assert len(threads) == 1
