"""The races of generated I/O: each order that there is, and what is wrong in which of them."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.gio_kit import LOWER, MIDDLE, UPPER, Lab, acting, open_on, opened, second_volume
from fltmgr.kit import Run, Script, all_runs, codes, queue, run
from fltmgr.test_cancel import set_unless_cancelled

from kemu.explore import DPOR
from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ
from kemu.scenario.world import Pending
from kemu.verifier.settings import parse_settings
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CALLBACK_DATA_QUEUE,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_GENERATED_IO,
    FltAcquirePushLockExclusive,
    FltAllocateCallbackData,
    FltCancelIo,
    FltCbdqInitialize,
    FltCbdqInsertIo,
    FltClose,
    FltCompletePendedPreOperation,
    FltDeletePushLock,
    FltFreeCallbackData,
    FltInitializePushLock,
    FltPerformAsynchronousIo,
    FltReadFile,
    FltReleasePushLock,
    FltSetCancelCompletion,
    FltWriteFile,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    EX_PUSH_LOCK,
    LIST_ENTRY,
    InitializeListHead,
    InsertTailList,
    KeSetEvent,
    KeWaitForSingleObject,
    ObDereferenceObject,
    RemoveEntryList,
)


async def own_read(FltObjects: FLT_RELATED_OBJECTS) -> FLT_CALLBACK_DATA:
    _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
    assert own is not None
    own.Iopb.MajorFunction = IRP_MJ_READ
    own.Iopb.Parameters.Length = 3
    return own


async def cancelled(Data: FLT_CALLBACK_DATA) -> None:
    Data.IoStatus.Status, Data.IoStatus.Information = STATUS_CANCELLED, 0
    await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)


def is_generated(Data: FLT_CALLBACK_DATA) -> bool:
    return bool(Data.Flags & FLTFL_CALLBACK_DATA_GENERATED_IO)


# FltCancelIo.


def cancelling(below: Any, *, at: str = "any", twice: bool = False) -> Script:
    """M sends a read of its own, which another thread cancels; *below* is the pre-read of the instance below it."""

    async def script(lab: Lab) -> Any:
        made: list[FLT_CALLBACK_DATA] = []
        ready, done = lab.event("ready"), lab.event("done")
        returned: list[bool] = []

        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            lab.note("callback", Data.IoStatus.Status)
            await lab.step("in the callback")
            await FltFreeCallbackData(Data)
            lab.note("freed")
            await KeSetEvent(done, 0, False)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            made.append(await own_read(FltObjects))
            if at == "any":
                await KeSetEvent(ready, 0, False)
            lab.note("send")
            await FltPerformAsynchronousIo(made[0], completed, None)
            if at == "after":
                await KeSetEvent(ready, 0, False)
            await KeWaitForSingleObject(done, 0, 0, False, None)

        async def canceller() -> None:
            await KeWaitForSingleObject(ready, 0, 0, False, None)
            returned.append(await FltCancelIo(made[0]))
            if twice:
                returned.append(await FltCancelIo(made[0]))

        async def reader() -> None:
            await file.read(4)

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        if below is not None:
            await lab.filter("L", LOWER, {IRP_MJ_READ: (below(lab), None)})
        file = await lab.quiet_open()
        await lab.together(reader(), canceller())
        return returned

    return script


def pends_cancellable(lab: Lab) -> Any:
    """Pends generated reads, cancellable, as it should; nobody resumes them but the cancellation."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if not is_generated(Data):
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        if not await set_unless_cancelled(Data, cancelled):
            lab.note("cancelled before")
            Data.IoStatus.Status = STATUS_CANCELLED
            return FLT_PREOP_COMPLETE
        lab.note("cancellable")
        return FLT_PREOP_PENDING

    return pre


@pytest.mark.rule("FLT-CANCEL-10", "FLT-CANCEL-12", "FLT-CANCEL-13")
def test_what_is_cancelled_completes_by_its_callback_whether_or_not_somebody_was_told() -> None:
    runs = all_runs(cancelling(pends_cancellable, twice=False), bound=2)
    told: set[tuple[bool, bool]] = set()
    for one in runs:
        if one.code is None:
            assert one.note("callback").value == STATUS_CANCELLED
            told.add((one.result[0], "cancelled before" in one.order))
    # There was a routine, and it was called; there was none yet, and who would set one saw the bit.
    assert told == {(True, False), (False, True)}


@pytest.mark.rule("FLT-CANCEL-10")
def test_what_is_cancelled_already_is_not_cancelled_again() -> None:
    for one in all_runs(cancelling(pends_cancellable, twice=True), bound=1):
        if one.code is None:
            assert one.result.count(True) <= 1
            assert one.result[1] is False or one.result[0] is False


@pytest.mark.rule("FLT-CANCEL-13")
def test_a_cancel_routine_that_is_set_later_is_not_called_but_trying_again_helps() -> None:
    def careless(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not is_generated(Data):
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            await FltSetCancelCompletion(Data, cancelled)
            lab.note("set")
            return FLT_PREOP_PENDING

        return pre

    runs = all_runs(cancelling(careless), bound=2)
    lost = [one for one in runs if one.code == "cancel-lost"]
    assert lost
    assert codes(runs) == {None, "cancel-lost"}
    again = all_runs(cancelling(careless, twice=True), bound=2)
    assert any(one.code is None and one.result == [False, True] for one in again)


@pytest.mark.rule("FLT-CANCEL-13", "FLT-CBDQ-08")
def test_a_cancel_safe_queue_below_sees_the_bit() -> None:
    def queueing(lab: Lab) -> Any:
        head = LIST_ENTRY()
        InitializeListHead(head)
        cbdq = FLT_CALLBACK_DATA_QUEUE("Q")
        lock = EX_PUSH_LOCK("QLock")
        FltInitializePushLock(lock)

        async def insert(Cbdq: Any, Data: FLT_CALLBACK_DATA, Context: Any) -> int:
            InsertTailList(head, Data.QueueLinks)
            return STATUS_SUCCESS

        async def remove(Cbdq: Any, Data: FLT_CALLBACK_DATA) -> None:
            RemoveEntryList(Data.QueueLinks)

        async def peek(Cbdq: Any, Data: Any, Context: Any) -> Any:
            return None if head.Flink is head else CONTAINING_RECORD(head.Flink)  # type: ignore[arg-type]

        async def acquire(Cbdq: Any) -> None:
            await FltAcquirePushLockExclusive(lock)

        async def release(Cbdq: Any, Irql: Any) -> None:
            await FltReleasePushLock(lock)

        async def complete(Cbdq: Any, Data: FLT_CALLBACK_DATA) -> None:
            await cancelled(Data)

        made: list[int] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not is_generated(Data):
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            if not made:
                made.append(1)
                await FltCbdqInitialize(FltObjects.Instance, cbdq, insert, remove, peek, acquire, release, complete)
            status = await FltCbdqInsertIo(cbdq, Data, None, None)
            assert status == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        return pre

    runs = all_runs(cancelling(queueing), bound=1)
    assert {one.result[0] for one in runs if one.code is None} == {True, False}
    assert codes(runs) <= {None, "cancel-completed-io", "asyncio-cbd-race"}
    for one in runs:
        assert "callback" not in one.order or one.note("callback").value == STATUS_CANCELLED


@pytest.mark.rule("FLT-RACE-16", "FLT-CANCEL-11", "FLT-IO-17")
def test_a_cancellation_comes_before_the_io_in_it_in_its_callback_and_after_the_end() -> None:
    runs = all_runs(cancelling(None), bound=3, completion="later")
    seen: set[tuple[str | None, str]] = set()
    for one in runs:
        where = "freed" if "freed" in one.order else "callback" if "callback" in one.order else "in flight"
        if one.code is None:
            status = one.note("callback").value
            where = "before or in flight, in time" if status == STATUS_CANCELLED else "in flight, too late"
            assert one.result == [False]
        seen.add((one.code, where))
    assert seen == {
        (None, "before or in flight, in time"),
        (None, "in flight, too late"),
        # The callback has begun, and has not freed the callback data; and it has.
        ("cancel-completed-io", "callback"),
        ("asyncio-cbd-race", "freed"),
    }
    before = [one for one in runs if one.code is None and "send" in one.order]
    assert before


@pytest.mark.rule("FLT-RACE-16")
def test_the_reduced_search_finds_the_same_ends_of_a_cancellation() -> None:
    def ends(runs: list[Run]) -> set[tuple[str | None, bool, bool]]:
        return {(one.code, "callback" in one.order, "freed" in one.order) for one in runs}

    search = DPOR()
    reduced: list[Run] = []
    while search.begin():
        one = run(cancelling(None), search, observer=search, completion="later")
        search.end(one.outcome)
        if one.outcome.end != "abandoned":
            reduced.append(one)
    assert ends(reduced) == ends(all_runs(cancelling(None), bound=3, completion="later"))


# The callback before the call returns.


@pytest.mark.rule("FLT-RACE-60", "FLT-IO-17")
@pytest.mark.parametrize("touches", [False, True])
def test_a_callback_that_frees_and_an_issuer_that_looks_again(touches: bool) -> None:
    async def script(lab: Lab) -> Any:
        done = lab.event("done")

        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            lab.note("callback")
            await FltFreeCallbackData(Data)
            await KeSetEvent(done, 0, False)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            own = await own_read(FltObjects)
            status = await FltPerformAsynchronousIo(own, completed, None)
            lab.note("returned", status)
            if touches:
                lab.note("status", own.IoStatus.Status)
            await KeWaitForSingleObject(done, 0, 0, False, None)

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await file.read(4)

    runs = all_runs(script, bound=2, completion="explore")
    orders: dict[str, set[str | None]] = {}
    for one in runs:
        if "callback" not in one.order or not one.before("callback", "returned"):
            order = "late"
        else:
            order = "inline" if one.note("callback").thread == one.note("returned").thread else "early"
        orders.setdefault(order, set()).add(one.code)
    expected = {"asyncio-cbd-race"} if touches else {None}
    assert orders == dict.fromkeys(("inline", "early", "late"), expected)


# A lock across I/O.


def locked(*, holds: bool, meets: str, ignores: bool = False) -> Script:
    """M reads below itself in a pre-read, and takes its lock in a pre-create; *holds* says whether it keeps it."""

    async def script(lab: Lab) -> Any:
        if ignores:
            lab.verifier.settings = parse_settings("lock-across-io=ignore")
        lock = EX_PUSH_LOCK("Lock")
        FltInitializePushLock(lock)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            await FltAcquirePushLockExclusive(lock)
            if not holds:
                await FltReleasePushLock(lock)
            lab.note("read")
            await FltReadFile(FltObjects.Instance, FltObjects.FileObject, 0, 3, bytearray(3), 0, None, None)
            lab.note("read done")
            if holds:
                await FltReleasePushLock(lock)

        async def pre_create(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("create")
            await FltAcquirePushLockExclusive(lock)
            lab.note("create has the lock")
            await FltReleasePushLock(lock)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def below(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not is_generated(Data):
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            async def open_from_the_top(Data: FLT_CALLBACK_DATA) -> None:
                _, handle, file = await opened(FltObjects, top=True)
                assert file is not None
                await FltClose(handle)
                await ObDereferenceObject(file)
                await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

            await queue(Data, open_from_the_top)
            return FLT_PREOP_PENDING

        async def reader() -> None:
            await file.read(4)

        async def opener() -> None:
            await lab.app.create(r"\a")

        if meets != "lower filter":
            file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None), IRP_MJ_CREATE: (pre_create, None)})
        if meets == "lower filter":
            await lab.filter("L", LOWER, {IRP_MJ_READ: (below, None)})
            file = await lab.quiet_open()
            lab.notes.clear()
            await reader()
        else:
            await lab.together(reader(), opener())
        FltDeletePushLock(lock)

    return script


@pytest.mark.rule("FLT-RACE-61", "FLT-IO-12")
@pytest.mark.parametrize("meets", ["second thread", "lower filter"])
def test_a_lock_that_is_held_across_io_is_found_in_every_order_and_one_that_is_not_in_none(meets: str) -> None:
    assert codes(all_runs(locked(holds=True, meets=meets), bound=1)) == {"lock-across-io"}
    assert codes(all_runs(locked(holds=False, meets=meets), bound=1)) == {None}


@pytest.mark.rule("FLT-RACE-61")
def test_what_comes_of_a_lock_across_io_where_nobody_says_so() -> None:
    def waited(one: Run) -> bool:
        # The create came while the read was under way, and got the lock only afterwards.
        inside = one.order.index("read") < one.order.index("create") < one.order.index("read done")
        return inside and one.before("read done", "create has the lock")

    second = all_runs(locked(holds=True, meets="second thread", ignores=True), bound=1)
    assert codes(second) == {None}
    assert {waited(one) for one in second} == {False, True}
    # The lower filter's own create, which the read waits for, waits for the lock: nothing goes on.
    lower = all_runs(locked(holds=True, meets="lower filter", ignores=True), bound=1)
    assert codes(lower) <= {"ke.hang", "ke.deadlock", "pend-never-completed"}
    assert all(one.code is not None for one in lower)
    assert all("create has the lock" not in one.order for one in lower)


@pytest.mark.rule("FLT-RACE-61")
@pytest.mark.parametrize("holds", [False, True])
def test_one_filter_on_two_volumes_of_which_one_lies_on_the_other(holds: bool) -> None:
    async def script(lab: Lab) -> Any:
        lock = EX_PUSH_LOCK("Lock")
        FltInitializePushLock(lock)
        other = await second_volume(lab)
        backing: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert FltObjects.FileObject is not None
            await FltAcquirePushLockExclusive(lock)
            lab.note(FltObjects.Volume.volume.dos_name)
            if not holds:
                await FltReleasePushLock(lock)
            if FltObjects.Volume is other:
                await FltReadFile(FltObjects.Instance, FltObjects.FileObject, 0, 3, bytearray(3), 0, None, None)
            if holds:
                await FltReleasePushLock(lock)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def disk(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            # What is on D: lies in a file on C:.
            if FltObjects.Volume is other:
                await lab.send(lab.request(backing[0], IRP_MJ_READ, Length=3))
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        for name, altitude, callback in (("M", MIDDLE, pre), ("Disk", LOWER, disk)):
            driver = await lab.filter(name, altitude, {IRP_MJ_READ: (callback, None)})
            if not any(one.volume is other for one in driver.filter.instances):
                await lab.manager.attach(driver.filter, other, altitude, automatic=True)
        backing.append((await lab.quiet_open()).file)
        file = await open_on(lab, other)
        request = lab.request(file, IRP_MJ_READ, Length=3)
        request.volume = other.volume
        await lab.send(request)

    one = run(script)
    assert one.code == ("lock-across-io" if holds else None)
    if not holds:
        assert one.order == ["D:", "C:", "C:"]


# The position of a file object.


def positioned(*, explicit: bool = False, writes: bool = False) -> Script:
    """Two threads read at the position of one file object by FltReadFile; what each got."""

    async def script(lab: Lab) -> Any:
        objects: list[FLT_RELATED_OBJECTS] = []
        got: list[Any] = []
        ready, done = lab.event("ready"), lab.event("done")

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            objects.append(FltObjects)
            await KeSetEvent(ready, 0, False)
            await transfer(0)
            await KeWaitForSingleObject(done, 0, 0, False, None)

        async def transfer(which: int) -> None:
            instance, file = objects[0].Instance, objects[0].FileObject
            assert file is not None
            buffer = bytearray(2)
            offset = 2 * which if explicit else None
            if writes and which:
                await FltWriteFile(instance, file, offset, 2, b"XY", 0, None, None)
            else:
                await FltReadFile(instance, file, offset, 2, buffer, 0, None, None)
            got.append((which, bytes(buffer)))

        async def reader() -> None:
            await file.read(1, 8)

        async def other() -> None:
            await KeWaitForSingleObject(ready, 0, 0, False, None)
            await transfer(1)
            await KeSetEvent(done, 0, False)

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await lab.together(reader(), other())
        return tuple(sorted(got))

    return script


@pytest.mark.rule("FLT-RACE-67")
def test_two_transfers_at_one_position_race_exactly_where_they_overlap() -> None:
    runs = all_runs(positioned(), bound=3)
    results = {(one.result, bool(one.warnings)) for one in runs}
    assert codes(runs) == {None}
    assert all(one.warnings in {(), ("byteoffset-race",)} for one in runs)
    one_after_the_other = {((0, b"01"), (1, b"23")), ((0, b"23"), (1, b"01"))}
    assert {result for result, warned in results if not warned} == one_after_the_other
    # Both begin at the same place.
    assert (((0, b"01"), (1, b"01")), True) in results


@pytest.mark.rule("FLT-RACE-67")
@pytest.mark.parametrize("writes", [False, True])
def test_transfers_with_an_offset_do_not(writes: bool) -> None:
    runs = all_runs(positioned(explicit=True, writes=writes), bound=1)
    assert {one.warnings for one in runs} == {()}
    overlapping = all_runs(positioned(writes=writes), bound=1)
    assert {one.warnings for one in overlapping} == {(), ("byteoffset-race",)}


@pytest.mark.rule("FLT-RACE-67")
def test_the_reduced_search_sees_the_position() -> None:
    runs = all_runs(positioned())
    assert {one.result for one in runs} >= {((0, b"01"), (1, b"01"))}


def test_a_program_does_not_cancel_what_a_filter_has_initiated() -> None:
    async def script(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            return await FltReadFile(FltObjects.Instance, FltObjects.FileObject, 0, 3, bytearray(3), 0, None, None)

        async def reader() -> Any:
            pending: Pending = await file.begin_read(4)
            return await pending.wait()

        async def canceller() -> None:
            await file.cancel_all()

        await lab.filter("M", UPPER, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open(overlapped=True)
        return (await lab.together(reader(), canceller()))[0]

    runs = all_runs(script, bound=2)
    assert {one.result for one in runs} == {STATUS_SUCCESS, STATUS_CANCELLED}
    assert {one.note("acted").value for one in runs} == {(STATUS_SUCCESS, 3)}
