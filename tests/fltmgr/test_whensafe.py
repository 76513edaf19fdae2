"""Completion processing at a safe IRQL (FLT-POST-15 to FLT-POST-22, FLT-POST-32, FLT-POST-34, FLT-RACE-07)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import MIDDLE, UPPER, Lab, Run, all_runs, codes, queue, resumes_post, run

from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    FltDoCompletionProcessingWhenSafe,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    FAST_MUTEX,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_PAGING_IO,
    NTSTATUS,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeGetCurrentIrql,
)

WITH, NO, SYNC = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SYNCHRONIZE
FINISHED, MORE, DISALLOW = (
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
)
Safe = Callable[[FLT_CALLBACK_DATA], Awaitable[Any]]


class Deferrer:
    """M's callbacks: the post-operation callback defers to `safe`, and returns what `returns` makes of the answer."""

    def __init__(
        self,
        lab: Lab,
        safe: Safe | None = None,
        returns: Callable[[bool, int], Any] = lambda done, status: status,
        *,
        heeds_draining: bool = True,
    ) -> None:
        self.lab = lab
        self.safe = safe
        self.returns = returns
        self.heeds_draining = heeds_draining

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> Any:
        self.lab.note("M.post", Flags)
        if self.heeds_draining and Flags & FLTFL_POST_OPERATION_DRAINING:
            return FINISHED
        done, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, self.safely)
        self.lab.note("answer", (done, status))
        return self.returns(done, status)

    async def safely(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> Any:
        self.lab.note("safe", Context)
        result = FINISHED if self.safe is None else await self.safe(Data)
        self.lab.note("safe done")
        return result


def deferring(
    safe: Callable[[Lab], Safe] | None = None,
    returns: Callable[[bool, int], Any] = lambda done, status: status,
    *,
    irql: int | None = None,
    kind: int = IRP_OPERATION,
    flags: int = 0,
    top_level: object = None,
    major: int = IRP_MJ_READ,
    **options: Any,
) -> list[Run]:
    """Every run of an operation whose completion M defers; with *irql*, only those that complete at that level."""

    async def script(lab: Lab) -> NTSTATUS:
        file = await lab.quiet_open()
        m = Deferrer(lab, safe(lab) if safe is not None else None, returns)
        await lab.filter("T", UPPER, {major: (lab.pre("T"), lab.post("T"))})
        await lab.filter("M", MIDDLE, {major: (lab.pre("M", WITH, "context"), m.post)})
        current_kthread().top_level_irp = top_level
        return (await lab.send(lab.request(file, major, kind=kind, flags=flags, Length=4))).status

    runs = all_runs(script, completion="explore", **options)
    return [one for one in runs if irql is None or one.note("M.post").irql == irql]


DEFERRED = ["T.pre", "M.pre", "M.post"]


@pytest.mark.rule("FLT-POST-17", "FLT-POST-18", "FLT-POST-19", "FLT-POST-32", "FLT-POST-35", "FLT-RACE-07")
def test_now_or_in_a_worker_that_may_be_done_before_the_call_returns() -> None:
    runs = deferring()
    assert codes(runs) == {None}
    seen: set[str] = set()
    for one in runs:
        where = one.note("M.post")
        safe = one.note("safe")
        assert safe.value == "context"
        assert safe.irql <= APC_LEVEL
        assert one.order.count("T.post") == 1
        if where.irql < DISPATCH_LEVEL:
            assert safe.thread == where.thread
            assert one.note("answer").value == (True, FINISHED)
            assert one.order == [*DEFERRED, "safe", "safe done", "answer", "T.post"]
            seen.add("inline")
        else:
            assert safe.thread.startswith("wk:")
            assert one.note("answer").value == (True, MORE)
            # Completion goes on by itself, in the worker.
            assert one.note("T.post").thread == safe.thread
            seen.add("posted early" if one.before("T.post", "answer") else "posted late")
            seen.add("begins late" if one.before("answer", "safe") else "begins early")
    assert seen == {"inline", "posted early", "posted late", "begins early", "begins late"}


@pytest.mark.rule("FLT-POST-32", "FLT-IRQL-01")
@pytest.mark.parametrize("irql", [PASSIVE_LEVEL, APC_LEVEL])
def test_below_dispatch_level_it_keeps_the_level(irql: int) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()

        async def safe(Data: FLT_CALLBACK_DATA) -> int:
            lab.note("level", KeGetCurrentIrql())
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (None, Deferrer(lab, safe).post)})
        current_kthread().irql = irql
        await lab.send(lab.request(file, IRP_MJ_READ, Length=1))
        current_kthread().irql = PASSIVE_LEVEL

    one = run(script)
    assert (one.code, one.note("level").value) == (None, irql)


@pytest.mark.rule("FLT-POST-18", "FLT-POST-22", "FLT-WORK-03", "FLT-WORK-15")
@pytest.mark.parametrize(
    ("flags", "top_level", "refused"),
    [(0, None, False), (IRP_PAGING_IO, None, True)],
)
def test_what_cannot_be_posted(flags: int, top_level: object, refused: bool) -> None:
    runs = deferring(irql=DISPATCH_LEVEL, flags=flags, top_level=top_level)
    assert codes(runs) == {None}
    assert {one.note("answer").value for one in runs} == {(False, FINISHED) if refused else (True, MORE)}
    for one in runs:
        assert ("safe" in one.order) is not refused
        assert "T.post" in one.order


@pytest.mark.rule("FLT-POST-18", "FLT-POST-22")
def test_under_a_top_level_irp_it_is_not_posted() -> None:
    async def script(lab: Lab, top_level: object) -> None:
        file = await lab.quiet_open()
        m = Deferrer(lab)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", WITH), m.post)})

        async def at_dispatch() -> None:
            # The thread that completes is this one: a caller that has raised its level stands for a DPC.
            thread = current_kthread()
            thread.top_level_irp = top_level
            request = lab.request(file, IRP_MJ_READ, Length=1)
            await lab.at_dispatch(lab.send(request))

        await at_dispatch()

    for top_level, answer in ((None, (True, MORE)), (object(), (False, FINISHED))):
        runs = all_runs(lambda lab, top=top_level: script(lab, top))
        assert {one.note("answer").value for one in runs} == {answer}


@pytest.mark.rule("FLT-POST-22", "FLT-WORK-03", "FLT-RACE-27")
def test_while_the_instance_is_torn_down_it_is_not_posted() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (None, Deferrer(lab).post)})

        async def admin() -> None:
            assert await loaded.detach() == STATUS_SUCCESS

        async def reader() -> None:
            assert (await file.read(4))[0] == STATUS_SUCCESS

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=2, completion="explore")
    assert codes(runs) == {None}
    answers = {one.note("answer").value for one in runs if "answer" in one.order}
    assert answers == {(True, FINISHED), (True, MORE), (False, FINISHED)}


@pytest.mark.rule("FLT-POST-22")
def test_where_memory_is_short_it_is_not_posted() -> None:
    runs = deferring(irql=DISPATCH_LEVEL, low_resources=True)
    assert codes(runs) == {None}
    assert {one.note("answer").value for one in runs} == {(True, MORE), (False, FINISHED)}


@pytest.mark.rule("FLT-POST-19", "FLT-POST-11")
@pytest.mark.parametrize(("resumes", "expected"), [(True, {None}), (False, {"postpend-never-completed"})])
def test_a_safe_callback_may_pend_as_well(resumes: bool, expected: set[str | None]) -> None:
    def safe(lab: Lab) -> Safe:
        async def body(Data: FLT_CALLBACK_DATA) -> int:
            if resumes:
                assert await queue(Data, resumes_post) == STATUS_SUCCESS
            return MORE

        return body

    assert codes(deferring(safe)) == expected


@pytest.mark.rule("FLT-POST-19", "FLT-POST-11")
def test_completing_it_as_well_as_the_filter_manager_does() -> None:
    def safe(lab: Lab) -> Safe:
        async def body(Data: FLT_CALLBACK_DATA) -> int:
            await resumes_post(Data)
            return FINISHED

        return body

    assert codes(deferring(safe, irql=DISPATCH_LEVEL)) == {"postpend-double-complete"}


@pytest.mark.rule("FLT-POST-20", "FLT-RACE-07")
@pytest.mark.parametrize(
    ("returned", "expected"),
    [(None, {None}), (FINISHED, {None, "whensafe-status-ignored"}), (MORE, {None, "whensafe-status-ignored"})],
)
def test_the_answer_must_be_returned(returned: int | None, expected: set[str | None]) -> None:
    runs = deferring(returns=lambda done, status: status if returned is None else returned)
    assert codes(runs) == expected
    if returned is FINISHED:
        # Only where it was posted: a test in which the file system completes inline does not see it.
        assert {one.code for one in runs if one.note("M.post").irql < DISPATCH_LEVEL} == {None}
        assert {one.code for one in runs if one.note("M.post").irql == DISPATCH_LEVEL} == {"whensafe-status-ignored"}


@pytest.mark.rule("FLT-POST-21", "FLT-POST-34")
@pytest.mark.parametrize(
    ("returned", "expected"), [(None, {None}), (MORE, {"whensafe-false-ignored", "whensafe-status-ignored"})]
)
def test_a_refusal_must_be_heeded(returned: int | None, expected: set[str | None]) -> None:
    runs = deferring(flags=IRP_PAGING_IO, returns=lambda done, status: status if returned is None else returned)
    assert codes(runs) == expected
    assert {one.code for one in runs if one.note("answer").value == (False, FINISHED)} == expected - {
        "whensafe-status-ignored"
    }


@pytest.mark.rule("FLT-POST-21", "FLT-POST-14")
@pytest.mark.parametrize(("frees", "expected"), [(True, {None}), (False, {None, "postop-context-leak"})])
def test_what_the_safe_callback_would_have_freed_is_to_be_freed(frees: bool, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return WITH, await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Ctx ")

        async def safe(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await ExFreePoolWithTag(Context, "Ctx ")
            return FINISHED

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            done, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, safe)
            if not done and frees:
                await ExFreePoolWithTag(Context, "Ctx ")
            return status

        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        await file.read(1, flags=IRP_PAGING_IO)
        await loaded.unload()

    assert codes(all_runs(script, completion="explore")) == expected


@pytest.mark.rule("FLT-POST-15")
@pytest.mark.parametrize("heeds", [True, False])
def test_never_while_draining(heeds: bool) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        m = Deferrer(lab, heeds_draining=heeds)
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M"), m.post)})

        async def reader() -> None:
            await file.read(1)

        async def admin() -> None:
            await loaded.detach()

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=1, completion="later")
    assert codes(runs) == ({None} if heeds else {None, "whensafe-draining"})
    drained = [one for one in runs if "M.post" in one.order and one.note("M.post").value]
    assert drained
    assert {one.code for one in drained} == {None if heeds else "whensafe-draining"}


@pytest.mark.rule("FLT-POST-16")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [(IRP_OPERATION, {None}), (FAST_IO_OPERATION, {"whensafe-misuse"}), (FS_FILTER_OPERATION, {"whensafe-misuse"})],
)
def test_only_for_irps(kind: int, expected: set[str | None]) -> None:
    assert codes(deferring(kind=kind)) == expected


@pytest.mark.rule("FLT-POST-16")
@pytest.mark.parametrize("where", ["pre-operation", "worker"])
def test_only_from_a_post_operation_callback(where: str) -> None:
    async def script(lab: Lab) -> None:
        m = Deferrer(lab)
        objects: list[FLT_RELATED_OBJECTS] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltDoCompletionProcessingWhenSafe(Data, FltObjects, None, 0, m.safely)
            return NO

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await FltDoCompletionProcessingWhenSafe(Data, objects[0], None, 0, m.safely)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            objects.append(FltObjects)
            assert await queue(Data, work) == STATUS_SUCCESS
            return MORE

        one = (pre, None) if where == "pre-operation" else (lab.pre("M"), post)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: one})
        await (await lab.quiet_open()).read(1)

    assert codes(all_runs(script)) == {"whensafe-misuse"}


@pytest.mark.rule("FLT-POST-06", "FLT-POST-27")
@pytest.mark.parametrize(
    ("status", "code"), [(7, "postop-unknown-status"), (DISALLOW, "disallow-fsfilter-wrong-major")]
)
def test_what_a_safe_callback_may_not_return(status: int, code: str) -> None:
    def safe(lab: Lab) -> Safe:
        async def body(Data: FLT_CALLBACK_DATA) -> int:
            return status

        return body

    assert codes(deferring(safe)) == {code}


@pytest.mark.rule("FLT-POST-35", "FLT-POST-34", "FLT-POST-04")
@pytest.mark.parametrize("way", ["directly", "when safe", "deferred", "synchronised"])
def test_the_ways_to_get_work_done_that_needs_a_low_level(way: str) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        file = await lab.quiet_open()
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)

        async def work(Data: FLT_CALLBACK_DATA) -> int:
            await ExAcquireFastMutex(mutex)
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            Data.IoStatus.Information = 0
            await ExReleaseFastMutex(mutex)
            return FINISHED

        async def in_worker(Data: FLT_CALLBACK_DATA) -> None:
            await work(Data)
            await resumes_post(Data)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if way == "deferred":
                assert await queue(Data, in_worker) == STATUS_SUCCESS
                return MORE
            return await work(Data)

        callback = Deferrer(lab, work).post if way == "when safe" else post
        before = lab.pre("M", SYNC if way == "synchronised" else WITH)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (before, callback)})
        return (await file.read(4))[0]

    runs = all_runs(script, completion="explore")
    assert codes(runs) == ({None, "ke.irql"} if way == "directly" else {None})
    assert {one.result for one in runs if one.code is None} == {STATUS_ACCESS_DENIED}


@pytest.mark.rule("FLT-RACE-07", "FLT-CBD-18")
@pytest.mark.parametrize(("late", "expected"), [(True, {None, "cbd-use-after-release"}), (False, {None})])
def test_touching_what_was_posted(late: bool, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        m = Deferrer(lab)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if not late:
                lab.note("length", Data.Iopb.Parameters.Length)
            _, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, m.safely)
            if late and status != FINISHED:
                lab.note("length", Data.Iopb.Parameters.Length)
            return status

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M"), post)})
        await file.read(1)

    assert codes(all_runs(script, completion="explore")) == expected


@pytest.mark.rule("FLT-RACE-24", "FLT-INST-20")
def test_a_posted_completion_and_a_teardown() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M"), Deferrer(lab).post)})

        async def reader() -> None:
            assert (await file.read(1))[0] == STATUS_SUCCESS

        async def admin() -> None:
            assert await loaded.detach() == STATUS_SUCCESS
            lab.note("gone")

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=2, completion="explore")
    assert codes(runs) == {None}
    posted = [one for one in runs if "safe" in one.order and one.note("safe").thread.startswith("wk:")]
    assert {one.before("safe done", "gone") for one in posted} == {True}
    assert posted


@pytest.mark.rule("FLT-POST-02", "FLT-POST-17")
def test_a_create_is_always_completed_at_once() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (lab.pre("M"), Deferrer(lab).post)})
        await lab.open()

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {one.note("answer").value for one in runs} == {(True, FINISHED)}
    assert {one.note("safe").thread for one in runs} == {"script"}
