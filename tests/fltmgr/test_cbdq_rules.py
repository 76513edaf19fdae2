"""Cancel-safe queues: what must outlive what, who is woken, and what a driver owes to an operation it has taken out."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run
from fltmgr.test_cbdq import Queue

from kemu.scenario.world import Pending
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CALLBACK_DATA_IO_CONTEXT,
    FLT_CALLBACK_DATA_QUEUE,
    FLT_GENERIC_WORKITEM,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltCbdqInsertIo,
    FltCbdqRemoveIo,
    FltCbdqRemoveNextIo,
    FltCompletePendedPreOperation,
    FltFreeGenericWorkItem,
    FltIsIoCanceled,
    FltQueueGenericWorkItem,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    LONG,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    DelayedWorkQueue,
    ExAllocatePool2,
    ExFreePoolWithTag,
    InterlockedDecrement,
    InterlockedIncrement,
    Structure,
    sizeof,
)

NO = FLT_PREOP_SUCCESS_NO_CALLBACK


class Record(Structure):
    """What a driver keeps for an entry."""

    Context: FLT_CALLBACK_DATA_IO_CONTEXT


class Holder(Structure):
    """What a driver keeps for an instance."""

    Cbdq: FLT_CALLBACK_DATA_QUEUE


@pytest.mark.rule("FLT-CBDQ-15", "FLT-CBDQ-13")
@pytest.mark.parametrize(
    ("frees", "code"),
    [
        ("at the end", None),
        ("while queued", "cbdq-context-lifetime"),
        ("between removals", "ke.use-after-free"),
    ],
)
def test_the_context_of_an_entry_outlives_it(frees: str, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        queue = Queue(lab)
        records: list[Record] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            record: Record = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Record), "Rec ")
            records.append(record)
            assert await FltCbdqInsertIo(queue.cbdq, Data, record.Context, None) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await queue.load(pre)
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)
        record = records[0]
        context = record.Context
        if frees == "while queued":
            await ExFreePoolWithTag(record, "Rec ")
        Data = await FltCbdqRemoveIo(queue.cbdq, context)
        assert Data is not None
        if frees == "between removals":
            await ExFreePoolWithTag(record, "Rec ")
        # Who comes second gets nothing.
        assert await FltCbdqRemoveIo(queue.cbdq, context) is None
        await FltCompletePendedPreOperation(Data, NO, None)
        await pending.wait()
        await ExFreePoolWithTag(record, "Rec ")

    assert run(script).code == code


@pytest.mark.rule("FLT-CBDQ-15", "FLT-RACE-12", "FLT-RACE-13")
@pytest.mark.parametrize("frees_first", [False, True])
def test_a_record_that_the_cancellation_may_still_use(frees_first: bool) -> None:
    """The pre-read looks at its record after the insertion; the cancellation frees it."""

    async def script(lab: Lab) -> None:
        queue = Queue(lab)

        async def cancelled(Cbdq: FLT_CALLBACK_DATA_QUEUE, Data: FLT_CALLBACK_DATA) -> None:
            record = Data.QueueContext
            await ExFreePoolWithTag(record, "Rec ")
            lab.note("cancelled")
            Data.IoStatus.Status = STATUS_CANCELLED
            await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

        queue.cancelled = cancelled  # type: ignore[method-assign]

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            record: Any = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Record), "Rec ")
            Data.QueueContext = record
            assert await FltCbdqInsertIo(queue.cbdq, Data, record.Context, None) == STATUS_SUCCESS
            lab.note("inserted")
            if frees_first:
                lab.note("looks", record.Context)
            return FLT_PREOP_PENDING

        await queue.load(pre)
        file = await lab.quiet_open(overlapped=True)

        async def reader() -> Pending:
            pending = await file.begin_read(1)
            lab.note("pending")
            return pending

        async def canceller() -> None:
            await file.cancel_all()

        pending, _ = await lab.together(reader(), canceller())
        if not pending.request.done:
            await pending.cancel()
        await pending.wait()

    runs = all_runs(script, bound=2)
    assert codes(runs) == ({None, "ke.use-after-free"} if frees_first else {None})
    # Cancelled inside the insertion, before the pre-read has returned, and after that.
    assert {one.before("cancelled", "inserted") for one in runs if "inserted" in one.order} == {True, False}
    after = {one.before("pending", "cancelled") for one in runs if {"pending", "cancelled"} <= set(one.order)}
    assert after == {True, False}


@pytest.mark.rule("FLT-CBDQ-15")
@pytest.mark.parametrize(("empties", "code"), [(True, None), (False, "cbdq-context-lifetime")])
def test_a_queue_is_freed_empty(empties: bool, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        holder: Holder = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Holder), "Hold")
        queue = Queue(lab)
        queue.cbdq = holder.Cbdq
        await queue.load()
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)
        if empties:
            assert await queue.drain() == 1
            await pending.wait()
        await ExFreePoolWithTag(holder, "Hold")

    assert run(script).code == code


@pytest.mark.rule("FLT-CBDQ-19")
@pytest.mark.parametrize(
    ("sleeps", "cancels", "asks", "warns"),
    [(True, True, False, True), (False, True, False, False), (True, False, False, False), (True, True, True, False)],
)
def test_an_operation_out_of_the_queue_cannot_be_cancelled(
    sleeps: bool, cancels: bool, asks: bool, warns: bool
) -> None:
    async def script(lab: Lab) -> None:
        queue = Queue(lab)
        await queue.load()
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)
        Data = await FltCbdqRemoveNextIo(queue.cbdq, None)
        assert Data is not None
        if cancels:
            # The queue does not know it any more.
            assert not await pending.cancel()
        if sleeps:
            await lab.sleep(5)
        if asks:
            lab.note("cancelled", await FltIsIoCanceled(Data))
        await FltCompletePendedPreOperation(Data, NO, None)
        await pending.wait()

    one = run(script)
    assert (one.code, one.warnings) == (None, ("cancel-unresponsive",) if warns else ())
    if asks:
        assert one.note("cancelled").value is True


@pytest.mark.rule("FLT-CBDQ-14", "FLT-RACE-13", "FLT-CBDQ-12")
@pytest.mark.parametrize("looks", [True, False])
def test_a_removal_may_get_nothing(looks: bool) -> None:
    async def script(lab: Lab) -> None:
        queue = Queue(lab)
        await queue.load()
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)

        async def worker() -> None:
            Data = await FltCbdqRemoveNextIo(queue.cbdq, None)
            lab.note("removed", Data is not None)
            if looks and Data is None:
                return
            await FltCompletePendedPreOperation(Data, NO, None)  # type: ignore[arg-type]

        async def canceller() -> None:
            await pending.cancel()

        await lab.together(worker(), canceller())
        await pending.wait()

    runs = all_runs(script)
    assert codes(runs) == ({None} if looks else {None, "ke.bad-pointer"})
    assert {one.note("removed").value for one in runs if "removed" in one.order} == {True, False}


@pytest.mark.rule("FLT-RACE-15", "FLT-PEND-02")
@pytest.mark.parametrize("looks_again", [True, False])
def test_an_insertion_between_the_last_look_and_the_end_of_the_worker(looks_again: bool) -> None:
    """A counter says whether a worker is on its way; it must not be given up before the queue was seen empty."""

    async def script(lab: Lab) -> None:
        queue = Queue(lab)
        busy = LONG(0, "Busy")

        async def work(WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
            await FltFreeGenericWorkItem(WorkItem)
            while True:
                while (Data := await FltCbdqRemoveNextIo(queue.cbdq, None)) is not None:
                    await FltCompletePendedPreOperation(Data, NO, None)
                lab.note("empty")
                if await InterlockedDecrement(busy) == 0 or not looks_again:
                    lab.note("ends")
                    return

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            instance = FltObjects.Instance
            if not NT_SUCCESS(await FltCbdqInsertIo(queue.cbdq, Data, None, None)):
                return NO
            lab.note("inserted")
            if await InterlockedIncrement(busy) == 1:
                item = await FltAllocateGenericWorkItem()
                assert item is not None
                await FltQueueGenericWorkItem(item, instance, work, DelayedWorkQueue, None)
            return FLT_PREOP_PENDING

        await queue.load(pre)
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        await lab.together(reader(), reader())

    runs = all_runs(script, bound=1)
    assert codes(runs) == ({None} if looks_again else {None, "pend-never-completed"})
    # An insertion after the worker has seen the queue empty, and before it has ended.
    between = [one.order for one in runs if "empty" in one.order and "inserted" in one.order[one.index("empty") :]]
    assert between
