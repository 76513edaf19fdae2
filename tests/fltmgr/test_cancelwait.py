"""Waits that a cancellation ends, or the end of the thread (FLT-CANCEL-14 to FLT-CANCEL-18, FLT-RACE-17)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Run, all_runs, codes, queue, resumes, run

from kemu.io.request import FAST_IO_OPERATION, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.nt.wait import KWAIT_BLOCK
from kemu.scenario.threads import Started
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCancellableWaitForMultipleObjects,
    FltCancellableWaitForSingleObject,
    FltClearCancelCompletion,
    FltCompletePendedPreOperation,
    FltSetCancelCompletion,
)
from kemu.wdk.ntddk import KeEnterGuardedRegion, KeLeaveGuardedRegion
from kemu.wdk.ntstatus import (
    STATUS_ABANDONED_WAIT_0,
    STATUS_CANCELLED,
    STATUS_SUCCESS,
    STATUS_THREAD_IS_TERMINATING,
    STATUS_TIMEOUT,
    STATUS_WAIT_1,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    IRP_MJ_READ,
    KEVENT,
    NT_SUCCESS,
    NTSTATUS,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    ExAllocatePool2,
    ExFreePoolWithTag,
    KeInitializeEvent,
    KeSetEvent,
    NotificationEvent,
    Structure,
    WaitAll,
    WaitAny,
    sizeof,
)

NO, WITH, COMPLETE = FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_COMPLETE
Wait = Callable[[FLT_CALLBACK_DATA, KEVENT], Awaitable[Any]]
SECOND = 10_000_000


async def single(Data: FLT_CALLBACK_DATA, event: KEVENT) -> NTSTATUS:
    return await FltCancellableWaitForSingleObject(event, None, Data)


async def either(Data: FLT_CALLBACK_DATA, event: KEVENT) -> NTSTATUS:
    return await FltCancellableWaitForMultipleObjects(1, [event], WaitAny, None, None, Data)


def waiter(lab: Lab, event: KEVENT, wait: Wait) -> Any:
    """A pre-read that waits, and completes the read with what the wait returned unless that is a success."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        lab.note("waits")
        status = await wait(Data, event)
        lab.note("goes on", status)
        if status == STATUS_SUCCESS:
            return NO
        Data.IoStatus.Status = status if not NT_SUCCESS(status) else STATUS_CANCELLED
        return COMPLETE

    return pre


def waiting(
    wait: Wait = single, *, signals: bool = True, cancels: bool = True, ends: bool = False, bound: int | None = None
) -> list[Run]:
    """A pre-read waits for an event; another thread signals it, another cancels the read, or asks the reader to end."""

    async def script(lab: Lab) -> NTSTATUS:
        file = await lab.quiet_open(overlapped=True)
        event = lab.event("Event")
        await lab.filter("M", LOWER, {IRP_MJ_READ: (waiter(lab, event, wait), None)})

        async def reader() -> NTSTATUS:
            return await (await file.begin_read(1)).wait()

        reading = lab.start("reader", reader())
        others: list[Started[None]] = []
        if signals:

            async def signaller() -> None:
                await KeSetEvent(event, 0, False)
                lab.note("signalled")

            others.append(lab.start("signaller", signaller()))
        if cancels:

            async def canceller() -> None:
                await file.cancel_all()
                lab.note("cancelled")

            others.append(lab.start("canceller", canceller()))
        if ends:
            await lab.terminate(reading)
        for one in others:
            await one.join()
        return await reading.join()

    return all_runs(script, bound=bound)


@pytest.mark.rule("FLT-CANCEL-14", "FLT-RACE-17")
@pytest.mark.parametrize("wait", [single, either])
def test_a_signal_and_a_cancellation(wait: Wait) -> None:
    runs = waiting(wait, bound=2)
    assert codes(runs) == {None}
    both = {(one.note("goes on").value, one.before("signalled", "cancelled")) for one in runs}
    # Whichever comes first may win, and a cancellation that comes before the read has begun is none.
    assert both == {
        (STATUS_SUCCESS, True),
        (STATUS_SUCCESS, False),
        (STATUS_CANCELLED, True),
        (STATUS_CANCELLED, False),
    }


@pytest.mark.rule("FLT-CANCEL-14", "FLT-RACE-17")
def test_a_signal_that_never_comes() -> None:
    runs = waiting(signals=False)
    # Cancelled before the wait, while it waits; or before there is a read, and then nothing ends the wait.
    assert codes(runs) == {None, "ke.hang"}
    assert {one.result for one in runs if one.code is None} == {STATUS_CANCELLED}
    assert {one.before("waits", "cancelled") for one in runs if one.code is None} == {True, False}


@pytest.mark.rule("FLT-CANCEL-14", "FLT-RACE-17")
@pytest.mark.parametrize("signals", [True, False])
def test_a_thread_that_is_to_end(signals: bool) -> None:
    runs = waiting(signals=signals, cancels=False, ends=True)
    assert codes(runs) == {None}
    expected = {STATUS_THREAD_IS_TERMINATING, STATUS_SUCCESS} if signals else {STATUS_THREAD_IS_TERMINATING}
    assert {one.result for one in runs} == expected


@pytest.mark.rule("FLT-CANCEL-14")
def test_a_wait_without_an_operation_ends_with_the_thread_only() -> None:
    async def wait(Data: FLT_CALLBACK_DATA, event: KEVENT) -> NTSTATUS:
        return await FltCancellableWaitForSingleObject(event, None, None)

    runs = waiting(wait, bound=2)
    assert {one.note("goes on").value for one in runs} == {STATUS_SUCCESS}
    assert {one.result for one in waiting(wait, signals=False, cancels=False, ends=True)} == {
        STATUS_THREAD_IS_TERMINATING
    }


@pytest.mark.rule("FLT-CANCEL-14", "FLT-RACE-17")
def test_a_time_that_is_over() -> None:
    async def wait(Data: FLT_CALLBACK_DATA, event: KEVENT) -> NTSTATUS:
        status = await FltCancellableWaitForSingleObject(event, -SECOND, Data)
        return STATUS_CANCELLED if status == STATUS_TIMEOUT else status

    runs = waiting(wait, cancels=False, signals=False)
    assert {one.note("goes on").value for one in runs} == {STATUS_CANCELLED}


@pytest.mark.rule("FLT-CANCEL-14")
def test_a_timeout_is_a_success_code() -> None:
    def looked_at(compares: bool) -> str | None:
        async def script(lab: Lab) -> None:
            event = lab.event("Event")
            status = await FltCancellableWaitForSingleObject(event, -SECOND, None)
            if compares:
                assert status == STATUS_TIMEOUT
            NT_SUCCESS(status)

        one = run(script)
        return one.code or ",".join(one.warnings) or None

    assert looked_at(compares=True) is None
    assert looked_at(compares=False) == "ke.wait-status"
    assert [NT_SUCCESS(one) for one in (STATUS_CANCELLED, STATUS_THREAD_IS_TERMINATING)] == [False, False]


@pytest.mark.rule("FLT-CANCEL-14")
def test_the_results_of_a_wait_for_several() -> None:
    async def script(lab: Lab) -> list[NTSTATUS]:
        first, second = lab.event("First"), lab.event("Second")
        await KeSetEvent(second, 0, False)
        got = [await FltCancellableWaitForMultipleObjects(2, [first, second], WaitAny, None, None, None)]
        await KeSetEvent(first, 0, False)
        got.append(await FltCancellableWaitForMultipleObjects(2, [first, second], WaitAny, None, None, None))
        got.append(await FltCancellableWaitForMultipleObjects(2, [first, second], WaitAll, None, None, None))
        mutex = lab.mutant("Mutant")

        async def owner() -> None:
            await FltCancellableWaitForSingleObject(mutex, None, None)

        await lab.start("owner", owner()).join()
        got.append(await FltCancellableWaitForSingleObject(mutex, None, None))
        return got

    assert run(script).result == [STATUS_WAIT_1, STATUS_SUCCESS, STATUS_SUCCESS, STATUS_ABANDONED_WAIT_0]


@pytest.mark.rule("FLT-CANCEL-14")
def test_a_cancellation_before_the_wait_and_one_after_it() -> None:
    async def script(lab: Lab, early: bool) -> list[NTSTATUS]:
        got: list[NTSTATUS] = []
        kept: list[FLT_CALLBACK_DATA] = []
        file = await lab.quiet_open(overlapped=True)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            return FLT_PREOP_PENDING

        await lab.filter("M", LOWER, {IRP_MJ_READ: (pre, None)})
        pending = await file.begin_read(1)
        event = lab.event("Event")
        await KeSetEvent(event, 0, False)
        if early:
            assert not await pending.cancel()
        got.append(await FltCancellableWaitForSingleObject(event, None, kept[0]))
        if not early:
            # The wait is over, and has left nothing behind that a cancellation would call.
            assert not await pending.cancel()
        got.append(await FltCancellableWaitForSingleObject(event, None, kept[0]))
        await FltCompletePendedPreOperation(kept[0], NO, None)
        await pending.wait()
        return got

    assert run(lambda lab: script(lab, early=True)).result == [STATUS_CANCELLED, STATUS_CANCELLED]
    assert run(lambda lab: script(lab, early=False)).result == [STATUS_SUCCESS, STATUS_CANCELLED]


@pytest.mark.rule("FLT-CANCEL-15")
@pytest.mark.parametrize(("clears", "expected"), [(True, {None}), (False, {"cancelwait-with-cancel-routine"})])
def test_an_operation_with_a_cancel_routine(clears: bool, expected: set[str | None]) -> None:
    async def canceled(Data: FLT_CALLBACK_DATA) -> None:
        raise AssertionError

    async def wait(Data: FLT_CALLBACK_DATA, event: KEVENT) -> NTSTATUS:
        await FltSetCancelCompletion(Data, canceled)
        if clears:
            assert await FltClearCancelCompletion(Data) == STATUS_SUCCESS
        return await FltCancellableWaitForSingleObject(event, None, Data)

    assert codes(waiting(wait, cancels=False)) == expected


@pytest.mark.rule("FLT-CANCEL-15")
def test_a_cancel_routine_that_is_set_while_somebody_waits() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open(overlapped=True)
        event = lab.event("Event")
        kept: list[FLT_CALLBACK_DATA] = []

        async def canceled(Data: FLT_CALLBACK_DATA) -> None:
            raise AssertionError

        async def wait(Data: FLT_CALLBACK_DATA, event: KEVENT) -> NTSTATUS:
            kept.append(Data)
            return await single(Data, event)

        await lab.filter("M", LOWER, {IRP_MJ_READ: (waiter(lab, event, wait), None)})

        async def reader() -> None:
            await (await file.begin_read(1)).wait()

        reading = lab.start("reader", reader())
        while not kept:
            await lab.sleep(1)
        await FltSetCancelCompletion(kept[0], canceled)
        await KeSetEvent(event, 0, False)
        await reading.join()

    assert run(script).code == "cancelwait-with-cancel-routine"


@pytest.mark.rule("FLT-CANCEL-15")
@pytest.mark.parametrize(("late", "expected"), [(True, {None, "cbd-use-after-release"}), (False, {None})])
def test_the_operation_must_stay_with_the_caller(late: bool, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        event = lab.event("Event")
        await KeSetEvent(event, 0, False)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not late:
                await FltCancellableWaitForSingleObject(event, None, Data)
            assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
            if late:
                await FltCancellableWaitForSingleObject(event, None, Data)
            return FLT_PREOP_PENDING

        await lab.filter("M", LOWER, {IRP_MJ_READ: (pre, None)})
        await file.read(1)

    assert codes(all_runs(script)) == expected


@pytest.mark.rule("FLT-CANCEL-16", "FLT-IRQL-06")
@pytest.mark.parametrize(
    ("kind", "irql", "code"),
    [
        (IRP_OPERATION, PASSIVE_LEVEL, None),
        (IRP_OPERATION, APC_LEVEL, "ke.irql"),
        (FAST_IO_OPERATION, APC_LEVEL, None),
        (FAST_IO_OPERATION, DISPATCH_LEVEL, "ke.irql"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_the_level_depends_on_the_operation(kind: int, irql: int, code: str | None, several: bool) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        event = lab.event("Event")
        await KeSetEvent(event, 0, False)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            thread = current_kthread()
            before, thread.irql = thread.irql, irql
            if several:
                await FltCancellableWaitForMultipleObjects(1, [event], WaitAll, None, None, Data)
            else:
                await FltCancellableWaitForSingleObject(event, None, Data)
            thread.irql = before
            return NO

        await lab.filter("M", LOWER, {IRP_MJ_READ: (pre, None)})
        await lab.send(lab.request(file, IRP_MJ_READ, kind=kind, Length=1))

    assert run(script).code == code


@pytest.mark.rule("FLT-CANCEL-16")
@pytest.mark.parametrize(("guarded", "code"), [(False, None), (True, "ke.irql")])
def test_special_kernel_apcs_must_be_let_in(guarded: bool, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        event = lab.event("Event")
        await KeSetEvent(event, 0, False)
        if guarded:
            KeEnterGuardedRegion()
        await FltCancellableWaitForSingleObject(event, None, None)
        if guarded:
            KeLeaveGuardedRegion()

    assert run(script).code == code


class Request(Structure):
    Done: KEVENT


@pytest.mark.rule("FLT-CANCEL-17", "FLT-RACE-17")
@pytest.mark.parametrize(("waits_out", "expected"), [(True, {None}), (False, {None, "ke.use-after-free"})])
def test_what_is_waited_for_goes_on(waits_out: bool, expected: set[str | None]) -> None:
    """The waiter is cancelled, and frees the event that the worker is still going to set."""

    async def script(lab: Lab) -> None:
        file = await lab.quiet_open(overlapped=True)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            record: Request = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Request), "Req ")
            KeInitializeEvent(record.Done, NotificationEvent, False)

            async def service() -> None:
                await KeSetEvent(record.Done, 0, False)

            lab.start("service", service())
            status = await FltCancellableWaitForSingleObject(record.Done, None, Data)
            if waits_out and status == STATUS_CANCELLED:
                await FltCancellableWaitForSingleObject(record.Done, None, None)
            await ExFreePoolWithTag(record, "Req ")
            if status == STATUS_SUCCESS:
                return NO
            Data.IoStatus.Status = STATUS_CANCELLED
            return COMPLETE

        await lab.filter("M", LOWER, {IRP_MJ_READ: (pre, None)})

        async def reader() -> None:
            await (await file.begin_read(1)).wait()

        async def canceller() -> None:
            await file.cancel_all()

        await lab.together(reader(), canceller())

    assert codes(all_runs(script, bound=2)) == expected


@pytest.mark.rule("FLT-CANCEL-18")
@pytest.mark.parametrize(
    ("count", "blocks", "code"),
    [(3, 0, None), (4, 0, "ke.wait-objects"), (4, 4, None), (64, 64, None), (65, 65, "ke.wait-objects")],
)
def test_how_many_objects_there_may_be(count: int, blocks: int, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        events = [lab.event(f"Event{number}") for number in range(count)]
        await KeSetEvent(events[0], 0, False)
        array = KWAIT_BLOCK(blocks) if blocks else None
        await FltCancellableWaitForMultipleObjects(count, events, WaitAny, None, array, None)

    assert run(script).code == code


def test_a_wait_type_that_is_none() -> None:
    async def script(lab: Lab) -> None:
        await FltCancellableWaitForMultipleObjects(1, [lab.event("Event")], 2, None, None, None)

    with pytest.raises(Exception, match="wait type 2"):
        run(script)


def test_a_thread_that_takes_apcs() -> None:
    async def script(lab: Lab) -> NTSTATUS:
        event = lab.event("Event")

        async def waits() -> NTSTATUS:
            return await FltCancellableWaitForSingleObject(event, -SECOND * 10, None)

        started = lab.start("waits", waits(), apcs=True)
        await lab.sleep(1)

        async def special(*_: Any) -> None:
            lab.note("apc")

        await lab.queue_apc(started, special)
        await lab.sleep(1)
        await KeSetEvent(event, 0, False)
        return await started.join()

    one = run(script)
    assert (one.code, one.result, one.order) == (None, STATUS_SUCCESS, ["apc"])


@pytest.mark.rule("FLT-RACE-17", "FLT-CANCEL-14")
def test_all_orders_of_a_cancellation_and_a_signal_beside_the_wait() -> None:
    async def script(lab: Lab) -> NTSTATUS:
        kept: list[FLT_CALLBACK_DATA] = []
        file = await lab.quiet_open(overlapped=True)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            return FLT_PREOP_PENDING

        await lab.filter("M", LOWER, {IRP_MJ_READ: (pre, None)})
        event = lab.event("Event")
        pending = await file.begin_read(1)

        async def waits() -> NTSTATUS:
            return await FltCancellableWaitForSingleObject(event, None, kept[0])

        async def other() -> None:
            await pending.cancel()
            await KeSetEvent(event, 0, False)

        result, _ = await lab.together(waits(), other())
        kept[0].IoStatus.Status = STATUS_CANCELLED
        await FltCompletePendedPreOperation(kept[0], COMPLETE, None)
        await pending.wait()
        return result

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_CANCELLED, STATUS_SUCCESS}
