"""Pending a preoperation and resuming it (FLT-PEND), and the races about it (FLT-RACE)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes, orders, queue, resumes, run

from kemu.fltmgr.structures import frame_of
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_DISALLOW_FSFILTER_IO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
    FltIsIoCanceled,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_CANCELLED,
    STATUS_FLT_NOT_SAFE_TO_POST_OPERATION,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_PAGING_IO,
    NT_SUCCESS,
    PASSIVE_LEVEL,
    ExAcquireFastMutex,
    Executive,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
)

WITH, NO, PENDING, COMPLETE = (
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_PENDING,
    FLT_PREOP_COMPLETE,
)
Work = Callable[[FLT_CALLBACK_DATA], Awaitable[None]]


class Parked:
    """A read that a filter has pended, and whose callback data the script holds."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.data: list[FLT_CALLBACK_DATA] = []

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        self.lab.note("M.pre")
        self.data.append(Data)
        return PENDING

    async def read(self, *, has_post: bool = True, major: int = IRP_MJ_READ) -> FLT_CALLBACK_DATA:
        """Load M between the recorders T and B, issue a read, which it pends, and return its callback data."""
        lab = self.lab
        await lab.recorder("T", UPPER, major)
        await lab.filter("M", MIDDLE, {major: (self.pre, lab.post("M") if has_post else None)})
        await lab.recorder("B", LOWER, major)
        file = await lab.quiet_open()
        self.pending = await lab.begin(lab.request(file, major, Length=4))
        return self.data[0]


def resuming(status: Any, context: Any = None, **options: Any) -> Run:
    """A run in which a pended read is resumed with *status* and waited for."""

    async def script(lab: Lab) -> int:
        parked = Parked(lab)
        Data = await parked.read(**options)
        if status == COMPLETE:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
        await FltCompletePendedPreOperation(Data, status, context)
        return await parked.pending.wait()

    return run(script)


@pytest.mark.rule("FLT-PEND-01", "FLT-PEND-17")
@pytest.mark.parametrize("cancels", [False, True])
def test_a_pended_operation_stays_where_it_is(cancels: bool) -> None:
    async def script(lab: Lab) -> Any:
        parked = Parked(lab)
        Data = await parked.read()
        await lab.sleep(60)
        if cancels:
            assert not await parked.pending.cancel()
            await lab.sleep(60)
        lab.note("still pended")
        assert not parked.pending.request.done
        assert await FltIsIoCanceled(Data) == cancels
        await FltCompletePendedPreOperation(Data, WITH, None)
        return await parked.pending.wait()

    one = run(script)
    assert one.code is None
    # The file system does not begin what was cancelled.
    assert one.result == (STATUS_CANCELLED if cancels else STATUS_SUCCESS)
    assert one.order == ["T.pre", "M.pre", "still pended", "B.pre", "B.post", "M.post", "T.post"]


@pytest.mark.rule("FLT-PEND-02")
@pytest.mark.parametrize("waits", [False, True])
def test_never_resumed(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        parked = Parked(lab)
        await parked.read()
        if waits:
            await parked.pending.wait()

    one = run(script)
    assert one.code == "pend-never-completed"
    assert one.finding.signature == ("pend-never-completed", "flt:M")
    assert resuming(NO).code is None


@pytest.mark.rule("FLT-PEND-02", "FLT-RACE-04")
@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ("both", {"pend-double-complete"}),
        # Whoever is first takes it.
        ("agreed", {None}),
        # One decides that the other will, and the other that the one has.
        ("neither", {"pend-never-completed"}),
        # Looking and taking are not one step.
        ("racy", {None, "pend-double-complete"}),
        ("polite", {None, "pend-never-completed"}),
    ],
)
def test_two_owners(owners: str, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        parked = Parked(lab)
        Data = await parked.read()
        taken: list[str] = []

        async def owner(name: str, other: str) -> None:
            if owners == "polite":
                taken.append(name)
                await lab.step("look")
                mine = other not in taken
            elif owners == "racy":
                mine = not taken
                await lab.step("take")
                taken.append(name)
            else:
                mine = owners == "both" or (owners == "agreed" and not taken)
                taken.append(name)
            if mine:
                await FltCompletePendedPreOperation(Data, NO, None)

        await lab.together(owner("worker", "timeout"), owner("timeout", "worker"))

    assert codes(all_runs(script, unseen=True)) == expected


@pytest.mark.rule("FLT-PEND-03")
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (WITH, None),
        (NO, None),
        (COMPLETE, None),
        (PENDING, "pend-bad-status"),
        (FLT_PREOP_SYNCHRONIZE, "pend-bad-status"),
        (FLT_PREOP_DISALLOW_FASTIO, "pend-bad-status"),
        (FLT_PREOP_DISALLOW_FSFILTER_IO, "pend-bad-status"),
        (7, "pend-bad-status"),
        (None, "pend-bad-status"),
    ],
)
def test_what_resumes(status: Any, code: str | None) -> None:
    one = resuming(status)
    assert one.code == code
    if code is None:
        below = [] if status == COMPLETE else ["B.pre", "B.post"]
        own = ["M.post"] if status == WITH else []
        assert one.order == ["T.pre", "M.pre", *below, *own, "T.post"]
        assert one.result == (STATUS_ACCESS_DENIED if status == COMPLETE else STATUS_SUCCESS)


@pytest.mark.rule("FLT-PEND-04", "FLT-PRE-04")
@pytest.mark.parametrize(
    ("status", "code"), [(WITH, None), (NO, "preop-context-leak"), (COMPLETE, "preop-context-leak")]
)
def test_a_context_given_at_the_resumption(status: int, code: str | None) -> None:
    one = resuming(status, "context")
    assert one.code == code
    if code is None:
        assert one.note("M.post").value == "context"


@pytest.mark.rule("FLT-PEND-05")
@pytest.mark.parametrize(("status", "code"), [(WITH, "preop-callback-without-postop"), (NO, None), (COMPLETE, None)])
def test_resuming_with_a_post_operation_that_is_not_there(status: int, code: str | None) -> None:
    one = resuming(status, has_post=False)
    assert one.code == code
    if code is not None:
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.code == FLTMGR_FILE_SYSTEM
        assert one.finding.bug_check.parameters == (0x66,)


@pytest.mark.rule("FLT-PEND-06", "FLT-IRQL-02", "FLT-IRQL-03")
@pytest.mark.parametrize("status", [WITH, NO, COMPLETE])
@pytest.mark.parametrize("irql", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL])
def test_the_irql_of_the_resumption(status: int, irql: int) -> None:
    async def script(lab: Lab) -> None:
        parked = Parked(lab)
        Data = await parked.read()
        Data.IoStatus.Information = 0
        if status == COMPLETE:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
        thread = current_kthread()
        thread.irql = irql
        await FltCompletePendedPreOperation(Data, status, None)
        thread.irql = PASSIVE_LEVEL
        await parked.pending.wait()

    one = run(script)
    if irql == DISPATCH_LEVEL and status != COMPLETE:
        assert one.code == "ke.irql"
    else:
        assert one.code is None
        # The operation goes on at the caller's level.
        assert one.note("T.post").irql == irql


@pytest.mark.rule("FLT-PEND-07", "FLT-PEND-19", "FLT-STACK-08")
@pytest.mark.parametrize("status", [WITH, NO])
def test_the_operation_goes_on_inside_the_call(status: int) -> None:
    async def script(lab: Lab) -> None:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("call")
            await FltCompletePendedPreOperation(Data, status, None)
            lab.note("returned")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return PENDING

        await lab.recorder("T", UPPER)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, lab.post("M"))})
        await lab.recorder("B", LOWER)
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script)
    assert codes(runs) == {None}
    own = ("M.post",) if status == WITH else ()
    assert orders(runs) == {("T.pre", "call", "B.pre", "B.post", *own, "T.post", "returned")}
    for one in runs:
        worker = one.note("call").thread
        assert worker != "script"
        assert {note.thread for note in one.notes if note.what != "T.pre"} == {worker}


@pytest.mark.rule("FLT-PEND-19")
def test_completing_runs_the_higher_post_operations_inside_the_call() -> None:
    async def script(lab: Lab, major: int, upper: int) -> None:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            await FltCompletePendedPreOperation(Data, COMPLETE, None)
            lab.note("returned")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return PENDING

        file = await lab.quiet_open()
        await lab.filter("T", UPPER, {major: (lab.pre("T", upper), lab.post("T"))})
        await lab.filter("M", MIDDLE, {major: (pre, None)})
        if major == IRP_MJ_CREATE:
            await lab.app.create(r"\b")
        else:
            await file.read(1)

    for major, upper, waits in (
        (IRP_MJ_READ, WITH, False),
        # Their own thread is waiting for these.
        (IRP_MJ_READ, FLT_PREOP_SYNCHRONIZE, True),
        (IRP_MJ_CREATE, WITH, True),
    ):
        runs = all_runs(lambda lab, major=major, upper=upper: script(lab, major, upper))
        assert codes(runs) == {None}
        for one in runs:
            if waits:
                assert one.note("T.post").thread == "script"
            else:
                assert one.note("T.post").thread == one.note("returned").thread != "script"
                assert one.before("T.post", "returned")


@pytest.mark.rule("FLT-PEND-19")
def test_the_call_blocks_while_a_lower_instance_synchronises() -> None:
    async def script(lab: Lab) -> None:
        parked = Parked(lab)
        await lab.filter("S", "50000", {IRP_MJ_READ: (lab.pre("S", FLT_PREOP_SYNCHRONIZE), lab.post("S"))})
        Data = await parked.read()
        lab.completes("later")
        await FltCompletePendedPreOperation(Data, WITH, None)
        lab.note("returned")
        await parked.pending.wait()

    runs = all_runs(script)
    assert codes(runs) == {None}
    # By then the completion has gone all the way up: S's thread is the one that carries it on.
    assert orders(runs) == {
        ("T.pre", "M.pre", "B.pre", "S.pre", "S.post", "B.post", "M.post", "T.post", "returned"),
    }


@pytest.mark.rule("FLT-PEND-07", "FLT-PEND-19")
def test_the_call_does_not_wait_for_a_completion_that_comes_later() -> None:
    async def script(lab: Lab) -> None:
        parked = Parked(lab)
        Data = await parked.read()
        lab.completes("explore")
        await FltCompletePendedPreOperation(Data, WITH, None)
        lab.note("returned")
        await parked.pending.wait()

    runs = all_runs(script)
    assert codes(runs) == {None}
    for one in runs:
        # Completed inline, it is over by then.
        assert one.before("returned", "T.post") == (one.note("T.post").thread != "script")
    assert {one.before("returned", "T.post") for one in runs} == {True, False}
    assert {one.before("returned", "B.pre") for one in runs} == {False}


# Before the callback has returned.

EARLY_A, EARLY_B, LATE = "before the queueing returns", "before the callback returns", "after the callback returned"


@pytest.mark.rule("FLT-PEND-08", "FLT-PEND-09", "FLT-RACE-01", "FLT-ORD-02")
@pytest.mark.parametrize("status", [WITH, NO, COMPLETE])
def test_resuming_before_during_and_after_the_return(status: int) -> None:
    async def script(lab: Lab) -> None:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            if frame_of(Data).state_name == "pended":
                lab.note(LATE)
            else:
                lab.note(EARLY_B if any(note.what == "queued" for note in lab.notes) else EARLY_A)
            if status == COMPLETE:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            await FltCompletePendedPreOperation(Data, status, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("M.pre")
            assert await queue(Data, work) == STATUS_SUCCESS
            lab.note("queued")
            return PENDING

        await lab.recorder("T", UPPER)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, lab.post("M"))})
        await lab.recorder("B", LOWER)
        file = await lab.quiet_open()
        await file.read(1)
        lab.note("done")

    runs = all_runs(script, completion="inline")
    assert codes(runs) == {None}
    when = {next(what for what in one.order if what in {EARLY_A, EARLY_B, LATE}) for one in runs}
    assert when == {EARLY_A, EARLY_B, LATE}
    below = [] if status == COMPLETE else ["B.pre", "B.post"]
    own = ["M.post"] if status == WITH else []
    for one in runs:
        # Neither lost nor processed twice.
        moves = [what for what in one.order if "." in what]
        assert moves == ["T.pre", "M.pre", *below, *own, "T.post"]
        assert one.order[-1] == "done"
    # All of it may be over before the queueing call returns.
    assert any(one.before("T.post", "queued") for one in runs)


@pytest.mark.rule("FLT-PEND-08", "FLT-RACE-03")
@pytest.mark.parametrize("status", [WITH, NO, COMPLETE])
@pytest.mark.parametrize("returned", [PENDING, WITH, NO])
def test_resuming_from_inside_the_callback(status: int, returned: int) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("M.pre")
            if status == COMPLETE:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            await FltCompletePendedPreOperation(Data, status, None)
            lab.note("M.resumed")
            return returned

        await lab.recorder("T", UPPER)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, lab.post("M"))})
        await lab.recorder("B", LOWER)
        await (await lab.open()).read(1)

    one = run(script)
    if returned != PENDING:
        assert one.code == "pend-not-returned"
        return
    below = [] if status == COMPLETE else ["B.pre", "B.post"]
    own = ["M.post"] if status == WITH else []
    assert (one.code, one.order) == (None, ["T.pre", "M.pre", *below, *own, "T.post", "M.resumed"])


@pytest.mark.rule("FLT-RACE-03", "FLT-PEND-08", "FLT-ORD-04")
def test_the_helper_io_completes_inline_or_later() -> None:
    async def script(lab: Lab) -> None:
        async def resume(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("helper")
            await FltCompletePendedPreOperation(Data, WITH, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("M.pre")
            if lab.choose(2, "the helper I/O completes later"):
                assert await queue(Data, resume) == STATUS_SUCCESS
            else:
                await resume(Data)
            lab.note("M.pends")
            return PENDING

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (pre, lab.post("M"))})
        await lab.open()
        lab.note("open")

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.note("helper").thread == "script" for one in runs} == {True, False}
    for one in runs:
        # A post-create stays with the originator, whose pre-create has to return first.
        assert one.order[-2:] == ["M.post", "open"]
        assert one.note("M.post").thread == "script"
        assert one.before("M.pends", "M.post")


@pytest.mark.rule("FLT-PEND-10", "FLT-RACE-02", "FLT-WORK-06")
@pytest.mark.parametrize("returned", [PENDING, WITH, NO, COMPLETE])
def test_what_is_handed_over_must_be_pended(returned: int) -> None:
    async def script(lab: Lab) -> None:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("worker")
            await FltCompletePendedPreOperation(Data, NO, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if returned == COMPLETE:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            assert await queue(Data, work) == STATUS_SUCCESS
            lab.note("returns")
            return returned

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, lab.post("M"))})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script)
    if returned == PENDING:
        assert codes(runs) == {None}
        assert {one.before("worker", "returns") for one in runs} == {True, False}
    elif returned == COMPLETE:
        # A worker that is faster also finds a status that is not meant for it.
        assert codes(runs) == {"pend-not-returned", "iostatus-wrong-place"}
    else:
        assert codes(runs) == {"pend-not-returned"}
        assert {"worker" in one.order for one in runs} == {True, False}


@pytest.mark.rule("FLT-PEND-10", "FLT-PEND-12", "FLT-RACE-02")
def test_an_error_path_after_handing_over_to_a_thread_of_the_drivers_own() -> None:
    async def script(lab: Lab, returned: int) -> None:
        work = lab.event("work")
        parked: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            parked.append(Data)
            await KeSetEvent(work, 0, False)
            await lab.step("error path")
            return returned

        async def thread() -> None:
            await KeWaitForSingleObject(work, Executive, KernelMode, False, None)
            await FltCompletePendedPreOperation(parked[0], NO, None)

        file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, lab.post("M"))})

        async def reader() -> None:
            await file.read(1)

        await lab.together(reader(), thread())

    assert codes(all_runs(lambda lab: script(lab, PENDING))) == {None}
    assert codes(all_runs(lambda lab: script(lab, NO))) == {"pend-not-returned", "pend-complete-not-pended"}


@pytest.mark.rule("FLT-PEND-11", "FLT-PEND-16", "FLT-WORK-03", "FLT-WORK-04")
@pytest.mark.parametrize(("flags", "failure"), [(0, "handled"), (0, "ignored"), (IRP_PAGING_IO, "handled")])
def test_a_queueing_that_failed_and_was_handled(flags: int, failure: str) -> None:
    assert queueing(flags, failure).code is None


@pytest.mark.rule("FLT-PEND-11", "FLT-PEND-16", "FLT-WORK-04")
def test_a_queueing_that_failed_and_was_ignored() -> None:
    one = queueing(IRP_PAGING_IO, "ignored")
    assert one.code == "pend-orphan"
    assert "FltQueueDeferredIoWorkItem" in one.finding.detail


def queueing(flags: int, failure: str) -> Run:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            status = await queue(Data, resumes(NO))
            assert status == (STATUS_FLT_NOT_SAFE_TO_POST_OPERATION if flags else STATUS_SUCCESS)
            return PENDING if failure == "ignored" or NT_SUCCESS(status) else NO

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await lab.send(lab.request(await lab.open(), IRP_MJ_READ, flags=flags, Length=1))

    return run(script)


@pytest.mark.rule("FLT-PEND-12")
@pytest.mark.parametrize("returned", [WITH, NO])
def test_resuming_what_is_not_pended(returned: int) -> None:
    async def script(lab: Lab) -> None:
        kept: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            return returned

        parked = Parked(lab)
        await lab.filter("A", "400000", {IRP_MJ_READ: (pre, lab.post("A"))})
        Data = await parked.read()
        # A has passed the read on; that M pends it is not A's business.
        await FltCompletePendedPreOperation(kept[0], NO, None)
        await FltCompletePendedPreOperation(Data, NO, None)

    assert run(script).code == "pend-complete-not-pended"


@pytest.mark.rule("FLT-PEND-02", "FLT-WORK-07")
def test_resuming_with_the_routine_of_the_other_phase() -> None:
    async def script(lab: Lab) -> None:
        Data = await Parked(lab).read()
        await FltCompletePendedPostOperation(Data)

    assert run(script).code == "wrong-resume-routine"
    assert resuming(NO).code is None


@pytest.mark.rule("FLT-PEND-18")
@pytest.mark.parametrize("major", [IRP_MJ_CLEANUP, IRP_MJ_CLOSE])
def test_cleanup_and_close_may_be_pended(major: int) -> None:
    async def script(lab: Lab) -> int:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("M.pre")
            assert await queue(Data, resumes()) == STATUS_SUCCESS
            return PENDING

        await lab.filter("M", MIDDLE, {major: (pre, lab.post("M"))})
        return await (await lab.quiet_open()).close()

    runs = all_runs(script)
    assert {(one.code, one.result, tuple(one.order)) for one in runs} == {(None, STATUS_SUCCESS, ("M.pre", "M.post"))}


@pytest.mark.rule("FLT-PEND-20")
@pytest.mark.parametrize("status", [WITH, COMPLETE])
def test_no_lock_is_held_across_the_resumption(status: int) -> None:
    def program(releases: bool) -> str | None:
        async def script(lab: Lab) -> None:
            mutex = FAST_MUTEX("Mutex")
            ExInitializeFastMutex(mutex)
            Data = await Parked(lab).read()
            if status == COMPLETE:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            await ExAcquireFastMutex(mutex)
            if releases:
                await ExReleaseFastMutex(mutex)
            await FltCompletePendedPreOperation(Data, status, None)
            if not releases:
                await ExReleaseFastMutex(mutex)

        return run(script).code

    assert program(releases=False) == "lock-across-io"
    assert program(releases=True) is None


@pytest.mark.rule("FLT-PEND-09", "FLT-POST-28", "FLT-INST-24")
def test_a_completer_whose_callback_still_runs_is_not_drained() -> None:
    async def script(lab: Lab) -> None:
        async def complete(Data: FLT_CALLBACK_DATA) -> None:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            await FltCompletePendedPreOperation(Data, COMPLETE, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await complete(Data)
            lab.note("completed")
            await lab.step("still running")
            lab.note("returns")
            return PENDING

        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, lab.post("M"))})

        async def reader() -> None:
            await file.read(1)

        async def admin() -> None:
            assert await loaded.detach() == STATUS_SUCCESS
            lab.note("gone")

        await lab.together(reader(), admin())

    runs = all_runs(script)
    assert codes(runs) == {None}
    # The teardown waits for the callback, and gives it no postoperation.
    assert orders(runs) == {("completed", "returns", "gone"), ("gone",)}


@pytest.mark.rule("FLT-PEND-08", "FLT-PEND-09")
def test_two_filters_that_pend_one_operation() -> None:
    async def script(lab: Lab) -> None:
        def pender(name: str) -> Any:
            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                lab.note(f"{name}.pre")
                assert await queue(Data, resumes(WITH, name)) == STATUS_SUCCESS
                return PENDING

            return pre

        for name, altitude in (("A", UPPER), ("B", LOWER)):
            await lab.filter(name, altitude, {IRP_MJ_READ: (pender(name), lab.post(name))})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert orders(runs) == {("A.pre", "B.pre", "B.post", "A.post")}
    assert {tuple(note.value for note in one.notes) for one in runs} == {(None, None, "B", "A")}
    # The worker that A's resumption brought to B.pre is still in there when B's is queued: another one takes that.
    for one in runs:
        assert len({"script", one.note("B.pre").thread, one.note("B.post").thread}) == 3
        assert one.note("B.post").thread == one.note("A.post").thread


@pytest.mark.rule("FLT-PEND-10", "FLT-POST-31")
def test_a_post_operation_while_the_preoperation_still_runs() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes(WITH, "context")) == STATUS_SUCCESS
            lab.note("pre ends")
            return PENDING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("post begins", Context)
            await lab.step("in post")
            lab.note("post ends")
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert orders(runs) == {
        ("pre ends", "post begins", "post ends"),
        ("post begins", "pre ends", "post ends"),
        ("post begins", "post ends", "pre ends"),
    }
    assert {one.note("post begins").value for one in runs} == {"context"}
