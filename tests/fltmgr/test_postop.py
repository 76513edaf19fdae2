"""Postoperation callbacks: where they run, what they return, pending them, draining (FLT-POST)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import (
    LOWER,
    MIDDLE,
    UPPER,
    Lab,
    Post,
    Run,
    all_runs,
    codes,
    orders,
    queue,
    resumes,
    resumes_post,
    run,
)

from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_DRAINING_IO,
    FLTFL_CALLBACK_DATA_POST_OPERATION,
    FLTFL_POST_OPERATION_DRAINING,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_FLT_NOT_SAFE_TO_POST_OPERATION,
    STATUS_FLT_POST_OPERATION_CLEANUP,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_PAGING_IO,
    NT_SUCCESS,
    NTSTATUS,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)

WITH, NO, SYNC = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SYNCHRONIZE
FINISHED, MORE, DISALLOW = (
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
)
KINDS = {"IRP": IRP_OPERATION, "fast I/O": FAST_IO_OPERATION, "FSFilter": FS_FILTER_OPERATION}
Body = Callable[[FLT_CALLBACK_DATA, int], Awaitable[Any]]


def post_with(lab: Lab, body: Body) -> Post:
    """A postoperation callback of M's: notes itself, does *body* and returns its result."""

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> Any:
        lab.note("M.post", Flags)
        return await body(Data, Flags)

    return post


async def stack(lab: Lab, body: Body, *, major: int = IRP_MJ_READ, pre: int = WITH) -> None:
    """T, M and B; M's postoperation does *body*."""
    await lab.recorder("T", UPPER, major)
    await lab.filter("M", MIDDLE, {major: (lab.pre("M", pre), post_with(lab, body))})
    await lab.recorder("B", LOWER, major)


def posting(
    body: Callable[[Lab], Body], *, kind: str = "IRP", flags: int = 0, major: int | None = None, runs: bool = False
) -> Any:
    """Runs (or the plain run) in which M's postoperation for one operation does ``body(lab)``."""

    async def script(lab: Lab) -> NTSTATUS:
        one = major if major is not None else IRP_MJ_QUERY_OPEN if kind == "FSFilter" else IRP_MJ_READ
        file = await lab.quiet_open()
        await stack(lab, body(lab), major=one)
        return (await lab.send(lab.request(file, one, kind=KINDS[kind], flags=flags, Length=4))).status

    return all_runs(script) if runs else run(script)


def returning(status: Any, **options: Any) -> Run:
    async def body(Data: FLT_CALLBACK_DATA, Flags: int) -> Any:
        return status

    return posting(lambda lab: body, **options)


THROUGH = ["T.pre", "M.pre", "B.pre", "B.post", "M.post", "T.post"]


# Where they run.


@pytest.mark.rule("FLT-POST-01", "FLT-IRQL-08", "FLT-RACE-08")
def test_the_threads_and_levels_of_post_operations() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", UPPER, IRP_MJ_READ)
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    found = {(one.note("A.post").thread == "script", one.note("A.post").irql) for one in runs}
    assert found == {(True, PASSIVE_LEVEL), (False, PASSIVE_LEVEL), (False, DISPATCH_LEVEL)}


@pytest.mark.rule("FLT-POST-02", "FLT-ORD-04")
def test_post_create_runs_at_passive_in_the_originators_thread() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", UPPER, IRP_MJ_CREATE)
        await lab.recorder("B", LOWER, IRP_MJ_CREATE)
        await lab.open()

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {(note.thread, note.irql) for one in runs for note in one.notes} == {("script", PASSIVE_LEVEL)}
    assert orders(runs) == {("A.pre", "B.pre", "B.post", "A.post")}


@pytest.mark.rule("FLT-POST-02", "FLT-FAST-03")
@pytest.mark.parametrize("kind", ["fast I/O", "FSFilter"])
def test_what_is_no_irp_stays_in_its_thread(kind: str) -> None:
    async def script(lab: Lab) -> None:
        major = IRP_MJ_READ if kind == "fast I/O" else IRP_MJ_QUERY_OPEN
        file = await lab.quiet_open()
        await lab.recorder("A", UPPER, major)
        await lab.send(lab.request(file, major, kind=KINDS[kind], Length=1))

    runs = all_runs(script, completion="explore")
    assert {(note.thread, note.irql) for one in runs for note in one.notes} == {("script", PASSIVE_LEVEL)}
    assert orders(runs) == {("A.pre", "A.post")}


@pytest.mark.rule("FLT-POST-04", "FLT-RACE-08", "FLT-IRQL-06")
@pytest.mark.parametrize(("status", "expected"), [(WITH, {None, "ke.irql"}), (SYNC, {None})])
def test_a_post_operation_that_takes_a_mutex(status: int, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)

        async def body(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)
            return FINISHED

        await stack(lab, body, pre=status)
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script, completion="explore")
    assert codes(runs) == expected
    # Inline it is always right, which is how such a bug stays unseen.
    assert {one.code for one in runs if one.order and one.note("M.post").irql == PASSIVE_LEVEL} == {None}


# What they return.


@pytest.mark.rule("FLT-POST-06", "FLT-POST-07", "FLT-POST-09", "FLT-POST-27")
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (FINISHED, "IRP", None),
        (FINISHED, "fast I/O", None),
        (FINISHED, "FSFilter", None),
        (MORE, "fast I/O", "postpend-non-irp"),
        (MORE, "FSFilter", "postpend-non-irp"),
        (DISALLOW, "IRP", "disallow-fsfilter-wrong-major"),
        (DISALLOW, "fast I/O", "disallow-fsfilter-wrong-major"),
        (DISALLOW, "FSFilter", None),
        (3, "IRP", "postop-unknown-status"),
        (-1, "IRP", "postop-unknown-status"),
        (None, "IRP", "postop-unknown-status"),
        (False, "IRP", "postop-unknown-status"),
    ],
)
def test_results(status: Any, kind: str, code: str | None) -> None:
    one = returning(status, kind=kind)
    assert one.code == code
    if code is None:
        assert one.order == THROUGH


@pytest.mark.rule("FLT-POST-27", "FLT-FAST-08")
def test_disallowing_in_the_post_operation_sends_the_issuer_another_way() -> None:
    one = returning(DISALLOW, kind="FSFilter")
    assert (one.code, one.order, one.result) == (None, THROUGH, STATUS_FLT_DISALLOW_FAST_IO)
    assert returning(FINISHED, kind="FSFilter").result != STATUS_FLT_DISALLOW_FAST_IO
    assert returning(DISALLOW, major=IRP_MJ_READ, kind="FSFilter").code == "disallow-fsfilter-wrong-major"


@pytest.mark.rule("FLT-POST-28")
def test_who_gets_no_post_operation() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", UPPER, {IRP_MJ_READ: (lab.pre("A", NO), lab.post("A"))})
        await lab.recorder("B", LOWER, IRP_MJ_READ)
        await (await lab.open()).read(1)

    assert run(script).order == ["A.pre", "B.pre", "B.post"]


@pytest.mark.rule("FLT-POST-23")
def test_turning_a_success_into_a_failure() -> None:
    async def script(lab: Lab) -> Any:
        async def fail(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            Data.IoStatus.Information = 0
            return FINISHED

        async def above(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("above", (Data.IoStatus.Status, Data.IoStatus.Information))
            return FINISHED

        await lab.filter("A", "400000", {IRP_MJ_READ: (None, above)})
        await stack(lab, fail)
        return (await (await lab.open()).read(4))[0]

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_ACCESS_DENIED)
    assert one.note("above").value == (STATUS_ACCESS_DENIED, 0)


@pytest.mark.rule("FLT-POST-25")
@pytest.mark.parametrize("pends", [False, True])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (STATUS_ACCESS_DENIED, None),
        (STATUS_FLT_DISALLOW_FAST_IO, "postop-bad-status"),
        (STATUS_PENDING, "postop-bad-status"),
        (NTSTATUS(0xC0FFEE00), "postop-bad-status"),
    ],
)
def test_statuses_that_a_post_operation_may_not_set(status: NTSTATUS, code: str | None, pends: bool) -> None:
    def body(lab: Lab) -> Body:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            Data.IoStatus.Status = status
            await FltCompletePendedPostOperation(Data)

        async def pended(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return MORE

        async def at_once(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            Data.IoStatus.Status = status
            return FINISHED

        return pended if pends else at_once

    runs: list[Run] = posting(body, runs=True)
    assert codes(runs) == {code}
    if code is None:
        assert {one.result for one in runs} == {status}


# Pending.


class Pended:
    """A read whose postoperation M has pended, and whose callback data the script holds."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.data: list[FLT_CALLBACK_DATA] = []

    async def read(self) -> FLT_CALLBACK_DATA:
        async def body(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            self.data.append(Data)
            return MORE

        await stack(self.lab, body)
        file = await self.lab.quiet_open()
        self.pending = await self.lab.begin(self.lab.request(file, IRP_MJ_READ, Length=4))
        return self.data[0]


@pytest.mark.rule("FLT-POST-08", "FLT-POST-31")
@pytest.mark.parametrize("irql", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL])
def test_completion_stops_until_it_is_resumed(irql: int) -> None:
    async def script(lab: Lab) -> Any:
        pended = Pended(lab)
        Data = await pended.read()
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        await lab.sleep(60)
        assert not pended.pending.request.done
        lab.note("still pended")
        thread = current_kthread()
        thread.irql = irql
        await FltCompletePendedPostOperation(Data)
        thread.irql = PASSIVE_LEVEL
        return await pended.pending.wait()

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_ACCESS_DENIED)
    assert one.order == [*THROUGH[:-1], "still pended", "T.post"]
    assert one.note("T.post").irql == irql


@pytest.mark.rule("FLT-POST-11")
def test_never_resumed() -> None:
    async def script(lab: Lab, resume: bool, waits: bool) -> None:
        pended = Pended(lab)
        Data = await pended.read()
        if resume:
            await FltCompletePendedPostOperation(Data)
        if waits:
            await pended.pending.wait()

    for waits in (False, True):
        assert run(lambda lab, w=waits: script(lab, False, w)).code == "postpend-never-completed"
        assert run(lambda lab, w=waits: script(lab, True, w)).code is None


@pytest.mark.rule("FLT-POST-11")
def test_resumed_twice() -> None:
    async def script(lab: Lab, agreed: bool) -> None:
        Data = await Pended(lab).read()
        taken: list[str] = []

        async def owner() -> None:
            if not agreed or not taken:
                taken.append("")
                await FltCompletePendedPostOperation(Data)

        await lab.together(owner(), owner())

    assert codes(all_runs(lambda lab: script(lab, agreed=True), unseen=True)) == {None}
    assert codes(all_runs(lambda lab: script(lab, agreed=False))) == {"postpend-double-complete"}


@pytest.mark.rule("FLT-WORK-07", "FLT-POST-11")
@pytest.mark.parametrize("queued", [False, True])
def test_resumed_with_the_routine_of_the_other_phase(queued: bool) -> None:
    async def script(lab: Lab) -> None:
        if queued:

            async def body(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
                assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
                return MORE

            await stack(lab, body)
            await (await lab.quiet_open()).read(1)
        else:
            Data = await Pended(lab).read()
            await FltCompletePendedPreOperation(Data, NO, None)

    assert codes(all_runs(script)) == {"wrong-resume-routine"}


@pytest.mark.rule("FLT-RACE-06", "FLT-POST-31", "FLT-POST-08")
def test_resuming_before_during_and_after_the_return() -> None:
    def body(lab: Lab) -> Body:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("worker")
            await FltCompletePendedPostOperation(Data)
            lab.note("resumed")

        async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            lab.note("returns")
            return MORE

        return post

    runs: list[Run] = posting(body, runs=True)
    assert codes(runs) == {None}
    assert {one.before("worker", "returns") for one in runs} == {True, False}
    # All of it may be over before the callback returns.
    assert {one.before("resumed", "returns") for one in runs} == {True, False}
    for one in runs:
        assert [what for what in one.order if "." in what] == THROUGH
        assert one.note("T.post").thread == one.note("worker").thread


@pytest.mark.rule("FLT-POST-11", "FLT-RACE-06")
def test_resumed_early_and_again_after_the_return() -> None:
    async def script(lab: Lab) -> None:
        kept: list[FLT_CALLBACK_DATA] = []

        async def body(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            kept.append(Data)
            await FltCompletePendedPostOperation(Data)
            return MORE

        await stack(lab, body)
        await (await lab.open()).read(1)
        await FltCompletePendedPostOperation(kept[0])

    assert run(script).code == "postpend-double-complete"


@pytest.mark.rule("FLT-RACE-06", "FLT-CBD-18", "FLT-WORK-06")
def test_touching_what_was_handed_over() -> None:
    def body(late: bool) -> Callable[[Lab], Body]:
        def make(lab: Lab) -> Body:
            async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
                if not late:
                    lab.note("length", Data.Iopb.Parameters.Length)
                assert await queue(Data, resumes_post) == STATUS_SUCCESS
                if late:
                    lab.note("length", Data.Iopb.Parameters.Length)
                return MORE

            return post

        return make

    assert codes(posting(body(late=True), runs=True)) == {None, "cbd-use-after-release"}
    assert codes(posting(body(late=False), runs=True)) == {None}


@pytest.mark.rule("FLT-WORK-06", "FLT-POST-11")
def test_what_is_handed_over_must_be_pended() -> None:
    def body(status: int) -> Callable[[Lab], Body]:
        def make(lab: Lab) -> Body:
            async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
                assert await queue(Data, resumes_post) == STATUS_SUCCESS
                return status

            return post

        return make

    assert codes(posting(body(FINISHED), runs=True)) == {"pend-not-returned"}
    assert codes(posting(body(MORE), runs=True)) == {None}


@pytest.mark.rule("FLT-POST-11", "FLT-RACE-06")
@pytest.mark.parametrize(("status", "code"), [(FINISHED, "pend-not-returned"), (MORE, None)])
def test_resuming_from_inside_the_callback(status: int, code: str | None) -> None:
    def body(lab: Lab) -> Body:
        async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            await FltCompletePendedPostOperation(Data)
            return status

        return post

    one: Run = posting(body)
    assert one.code == code
    if code is None:
        assert one.order == THROUGH


@pytest.mark.rule("FLT-POST-10", "FLT-WORK-03", "FLT-WORK-04")
@pytest.mark.parametrize(("flags", "status", "code"), [
    (0, MORE, None), (IRP_PAGING_IO, FINISHED, None), (IRP_PAGING_IO, MORE, "postpend-orphan"),
])  # fmt: skip
def test_a_posting_that_failed(flags: int, status: int, code: str | None) -> None:
    def body(lab: Lab) -> Body:
        async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            queued = await queue(Data, resumes_post)
            assert queued == (STATUS_FLT_NOT_SAFE_TO_POST_OPERATION if flags else STATUS_SUCCESS)
            return status

        return post

    assert posting(body, flags=flags).code == code


@pytest.mark.rule("FLT-POST-10")
def test_a_queueing_that_failed_in_the_pre_operation_says_nothing_about_the_post_operation() -> None:
    async def script(lab: Lab) -> None:
        kept: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert not NT_SUCCESS(NTSTATUS(await queue(Data, resumes())))
            return WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            # Parked for a thread of the driver's own.
            kept.append(Data)
            return MORE

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, post)})
        file = await lab.open()
        pending = await lab.begin(lab.request(file, IRP_MJ_READ, flags=IRP_PAGING_IO, Length=1))
        await FltCompletePendedPostOperation(kept[0])
        await pending.wait()

    assert run(script).code is None


@pytest.mark.rule("FLT-POST-31", "FLT-ORD-04", "FLT-ORD-05")
@pytest.mark.parametrize("major", [IRP_MJ_CREATE, IRP_MJ_READ])
def test_completion_returns_to_the_thread_that_waits_for_it(major: int) -> None:
    async def script(lab: Lab) -> None:
        async def body(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            assert await queue(Data, resumes_post) == STATUS_SUCCESS
            return MORE

        file = await lab.quiet_open()
        status = SYNC if major == IRP_MJ_READ else WITH
        await lab.filter("A", "400000", {major: (lab.pre("A", status), lab.post("A"))})
        await stack(lab, body, major=major)
        if major == IRP_MJ_CREATE:
            await lab.app.create(r"\b")
        else:
            await file.read(1)

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.note("A.post").thread for one in runs} == {"script"}
    # What does not wait runs in the thread of the resumption.
    assert {one.note("T.post").thread == "script" for one in runs} == {major == IRP_MJ_CREATE}


# Draining.


def draining(body: Callable[[Lab], Body], *, pre: int = WITH) -> list[Run]:
    """The runs, with at most two preemptions, in which M is detached while a read of it may still be below."""

    async def script(lab: Lab) -> NTSTATUS:
        file = await lab.quiet_open()
        await lab.recorder("T", UPPER, IRP_MJ_READ)
        callbacks = {IRP_MJ_READ: (lab.pre("M", pre) if pre >= 0 else None, post_with(lab, body(lab)))}
        loaded = await lab.filter("M", MIDDLE, callbacks)

        async def reader() -> NTSTATUS:
            return (await file.read(4))[0]

        async def admin() -> None:
            assert await loaded.detach() == STATUS_SUCCESS
            lab.note("gone")

        return (await lab.together(reader(), admin()))[0]

    return all_runs(script, bound=2, completion="later")


def is_drained(one: Run) -> bool | None:
    """Whether M's postoperation was drained; None if M did not see the operation."""
    posts = [note.value for note in one.notes if note.what == "M.post"]
    assert len(posts) <= 1
    return bool(posts[0]) if posts else None


@pytest.mark.rule("FLT-POST-03", "FLT-POST-12", "FLT-POST-33", "FLT-ORD-03", "FLT-INST-24", "FLT-INST-25")
@pytest.mark.parametrize("pre", [WITH, SYNC, -1])
def test_a_drained_post_operation(pre: int) -> None:
    def body(lab: Lab) -> Body:
        async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            drained = Flags & FLTFL_POST_OPERATION_DRAINING
            assert bool(Data.Flags & FLTFL_CALLBACK_DATA_DRAINING_IO) == bool(drained)
            assert Data.Flags & FLTFL_CALLBACK_DATA_POST_OPERATION
            lab.note("status", Data.IoStatus.Status)
            return FINISHED

        return post

    runs = draining(body, pre=pre)
    assert codes(runs) == {None}
    assert {is_drained(one) for one in runs} == {True, False, None}
    for one in runs:
        # The operation completes normally for everybody else, whatever happened to M.
        assert one.result == STATUS_SUCCESS
        assert [what for what in one.order if what.startswith("T")] == ["T.pre", "T.post"]
        saw = is_drained(one)
        assert ("M.post" in one.order) == (saw is not None)
        if saw:
            assert one.note("M.post").irql <= APC_LEVEL
            assert one.note("status").value == STATUS_FLT_POST_OPERATION_CLEANUP
            # Not brought back to the synchronising thread (FLT-PRE-14).
            assert one.note("M.post").thread == "admin"
            assert one.before("M.post", "gone")
        elif saw is False:
            assert one.note("status").value == STATUS_SUCCESS


@pytest.mark.rule("FLT-PRE-14", "FLT-ORD-05")
def test_a_synchronising_thread_stays_until_the_real_completion() -> None:
    async def script(lab: Lab) -> None:
        kept: list[FLT_CALLBACK_DATA] = []

        async def park(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            return FLT_PREOP_PENDING

        file = await lab.quiet_open()
        await lab.filter("T", UPPER, {IRP_MJ_READ: (lab.pre("T", SYNC), lab.post("T"))})
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", SYNC), lab.post("M"))})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (park, None)})

        async def reader() -> None:
            await file.read(1)
            lab.note("read")

        started = lab.start("reader", reader())
        while not kept:
            await lab.sleep(1)
        assert await loaded.detach() == STATUS_SUCCESS
        lab.note("detached")
        await lab.sleep(60)
        lab.note("resuming")
        await FltCompletePendedPreOperation(kept[0], NO, None)
        await started.join()

    one = run(script)
    assert one.code is None
    assert one.order == ["T.pre", "M.pre", "M.post", "detached", "resuming", "T.post", "read"]
    assert one.note("M.post").thread == "script"
    assert one.note("T.post").thread == one.note("T.pre").thread == "reader"


@pytest.mark.rule("FLT-POST-12")
def test_a_draining_operation_is_not_pended() -> None:
    def body(careful: bool) -> Callable[[Lab], Body]:
        def make(lab: Lab) -> Body:
            async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
                if careful and Flags & FLTFL_POST_OPERATION_DRAINING:
                    return FINISHED
                return MORE if NT_SUCCESS(NTSTATUS(await queue(Data, resumes_post))) or not careful else FINISHED

            return post

        return make

    assert codes(draining(body(careful=True))) == {None}
    found = codes(draining(body(careful=False)))
    assert "drain-more-processing" in found
    # The same carelessness, with a completion that comes while the instance goes away.
    assert found <= {None, "drain-more-processing", "postpend-orphan"}


@pytest.mark.rule("FLT-POST-13")
def test_what_a_drained_callback_writes_is_not_the_result() -> None:
    def body(lab: Lab) -> Body:
        async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
            if Flags & FLTFL_POST_OPERATION_DRAINING:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            return FINISHED

        return post

    runs = draining(body)
    assert {is_drained(one) for one in runs} == {True, False, None}
    assert {(one.code, one.result) for one in runs} == {(None, STATUS_SUCCESS)}


@pytest.mark.rule("FLT-POST-14")
def test_the_context_is_freed_on_every_path() -> None:
    def program(frees_drained: bool) -> set[str | None]:
        async def script(lab: Lab) -> None:
            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
                return WITH, await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Ctx ")

            async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
                if frees_drained or not Flags & FLTFL_POST_OPERATION_DRAINING:
                    await ExFreePoolWithTag(Context, "Ctx ")
                return FINISHED

            file = await lab.quiet_open()
            loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})

            async def reader() -> None:
                await file.read(4)

            async def admin() -> None:
                await loaded.unload()

            await lab.together(reader(), admin())

        return codes(all_runs(script, bound=2, completion="later"))

    assert program(frees_drained=True) == {None}
    assert program(frees_drained=False) == {None, "postop-context-leak"}


@pytest.mark.rule("FLT-PRE-11")
def test_a_worker_may_not_fail_a_cleanup_either() -> None:
    def body(status: NTSTATUS) -> Callable[[Lab], Body]:
        def make(lab: Lab) -> Body:
            async def work(Data: FLT_CALLBACK_DATA) -> None:
                Data.IoStatus.Status = status
                await FltCompletePendedPostOperation(Data)

            async def post(Data: FLT_CALLBACK_DATA, Flags: int) -> int:
                assert await queue(Data, work) == STATUS_SUCCESS
                return MORE

            return post

        return make

    assert codes(posting(body(STATUS_ACCESS_DENIED), major=IRP_MJ_CLEANUP, runs=True)) == {"cleanup-close-failed"}
    assert codes(posting(body(STATUS_SUCCESS), major=IRP_MJ_CLEANUP, runs=True)) == {None}
