"""Preoperation callbacks: what they may return, for which operations, and what that does (FLT-PRE)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Pre, Run, all_runs, codes, queue, resumes, run

from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM, SYSTEM_THREAD_EXCEPTION_NOT_HANDLED
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
    FltCompletePendedPreOperation,
    FltIsOperationSynchronous,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_PENDING,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    KSPIN_LOCK,
    NTSTATUS,
    PASSIVE_LEVEL,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)

WITH, NO, PENDING, DISALLOW_FAST, COMPLETE, SYNC, DISALLOW_FSFILTER = (
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_PENDING,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SYNCHRONIZE,
    FLT_PREOP_DISALLOW_FSFILTER_IO,
)
IRP, FAST, FSFILTER = "IRP", "fast I/O", "FSFilter"
KINDS = {IRP: IRP_OPERATION, FAST: FAST_IO_OPERATION, FSFILTER: FS_FILTER_OPERATION}


def returning(
    status: Any,
    kind: str = IRP,
    *,
    context: Any = None,
    has_post: bool = True,
    sets: NTSTATUS | None = None,
    overlapped: bool = False,
    major: int | None = None,
) -> Run:
    """A run in which M's preoperation callback returns *status*; T stands above it and B below."""

    async def script(lab: Lab) -> NTSTATUS:
        one = major if major is not None else IRP_MJ_QUERY_OPEN if kind == FSFILTER else IRP_MJ_READ

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("M.pre")
            if sets is not None:
                Data.IoStatus.Status = sets
            if status == PENDING:
                assert await queue(Data, resumes()) == (STATUS_SUCCESS if kind == IRP else 0xC01C0006)
            return status if context is None else (status, context)

        file = await lab.open(overlapped=overlapped)
        await lab.recorder("T", UPPER, one)
        await lab.filter("M", MIDDLE, {one: (pre, lab.post("M") if has_post else None)})
        await lab.recorder("B", LOWER, one)
        request = lab.request(file, one, kind=KINDS[kind], Length=4)
        return (await lab.send(request)).status

    return run(script)


THROUGH = ["T.pre", "M.pre", "B.pre", "B.post", "M.post", "T.post"]
UNSEEN = ["T.pre", "M.pre", "B.pre", "B.post", "T.post"]
STOPPED = ["T.pre", "M.pre", "T.post"]

# The legality matrix of section 22: what happens, or the finding.
MATRIX: dict[tuple[int, str], list[str] | str] = {
    (WITH, IRP): THROUGH, (WITH, FAST): THROUGH, (WITH, FSFILTER): THROUGH,
    (NO, IRP): UNSEEN, (NO, FAST): UNSEEN, (NO, FSFILTER): UNSEEN,
    (PENDING, IRP): THROUGH, (PENDING, FAST): "pend-non-irp", (PENDING, FSFILTER): "pend-non-irp",
    (DISALLOW_FAST, IRP): "disallow-fastio-non-fastio", (DISALLOW_FAST, FAST): STOPPED,
    (DISALLOW_FAST, FSFILTER): "disallow-fastio-non-fastio",
    (COMPLETE, IRP): STOPPED, (COMPLETE, FAST): STOPPED, (COMPLETE, FSFILTER): STOPPED,
    (SYNC, IRP): THROUGH, (SYNC, FAST): THROUGH, (SYNC, FSFILTER): THROUGH,
    (DISALLOW_FSFILTER, IRP): "disallow-fsfilter-wrong-major",
    (DISALLOW_FSFILTER, FAST): "disallow-fsfilter-wrong-major", (DISALLOW_FSFILTER, FSFILTER): STOPPED,
}  # fmt: skip


@pytest.mark.rule(
    "FLT-PRE-05", "FLT-PRE-06", "FLT-PRE-08", "FLT-PRE-13", "FLT-PRE-19", "FLT-PRE-20", "FLT-PRE-22", "FLT-PRE-24"
)
@pytest.mark.parametrize(("status", "kind"), MATRIX)
def test_the_matrix_of_results(status: int, kind: str) -> None:
    one = returning(status, kind, sets=STATUS_SUCCESS if status == COMPLETE else None)
    expected = MATRIX[status, kind]
    if isinstance(expected, str):
        assert one.code == expected
    else:
        assert (one.code, one.order) == (None, expected)


@pytest.mark.rule("FLT-PRE-24")
def test_disallowing_an_fsfilter_operation_other_than_query_open() -> None:
    one = returning(DISALLOW_FSFILTER, FSFILTER, major=IRP_MJ_QUERY_INFORMATION)
    assert one.code == "disallow-fsfilter-wrong-major"


@pytest.mark.rule("FLT-PRE-02")
@pytest.mark.parametrize("status", [7, -1, 0x103, None, "FLT_PREOP_COMPLETE", True, (0, None, None)])
def test_unknown_results(status: Any) -> None:
    assert returning(status).code == "preop-unknown-status"


@pytest.mark.rule("FLT-PRE-03", "FLT-PRE-04")
@pytest.mark.parametrize(("status", "kind"), [result for result, what in MATRIX.items() if not isinstance(what, str)])
def test_who_may_leave_a_context(status: int, kind: str) -> None:
    one = returning(status, kind, context="context", sets=STATUS_SUCCESS if status == COMPLETE else None)
    if status in {WITH, SYNC}:
        assert one.code is None
        assert one.note("M.post").value == "context"
        assert one.note("B.post").value is None
    else:
        assert one.code == "preop-context-leak"


@pytest.mark.rule("FLT-PRE-03")
def test_the_context_is_null_unless_one_is_left() -> None:
    assert returning(WITH).note("M.post").value is None


@pytest.mark.rule("FLT-PRE-07")
@pytest.mark.parametrize("kind", [IRP, FAST, FSFILTER])
@pytest.mark.parametrize("status", [WITH, SYNC, NO])
def test_a_post_operation_that_is_not_there(status: int, kind: str) -> None:
    one = returning(status, kind, has_post=False)
    if status == NO:
        assert (one.code, one.order) == (None, UNSEEN)
        return
    assert one.code == "preop-callback-without-postop"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == FLTMGR_FILE_SYSTEM
    assert one.finding.bug_check.parameters == (0x66,)


@pytest.mark.rule("FLT-PRE-08", "FLT-POST-28", "FLT-STACK-03")
@pytest.mark.parametrize("kind", [IRP, FAST, FSFILTER])
def test_completing_shows_the_operation_to_nobody_below(kind: str) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        major = IRP_MJ_QUERY_OPEN if kind == FSFILTER else IRP_MJ_READ

        async def complete(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            return FLT_PREOP_COMPLETE

        file = await lab.open()
        await lab.filter("with", "700000", {major: (lab.pre("with"), lab.post("with"))})
        await lab.filter("no", "600000", {major: (lab.pre("no", NO), lab.post("no"))})
        await lab.filter("only post", "500000", {major: (None, lab.post("only post"))})
        await lab.filter("sync", "400000", {major: (lab.pre("sync", SYNC), lab.post("sync"))})
        await lab.filter("C", "300000", {major: (complete, lab.post("C"))})
        await lab.filter("lower", "200000", {major: (lab.pre("lower"), lab.post("lower"))})
        await lab.filter("lower only post", "100000", {major: (None, lab.post("lower only post"))})
        return (await lab.send(lab.request(file, major, kind=KINDS[kind], Length=4))).status

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_ACCESS_DENIED)
    assert one.order == ["with.pre", "no.pre", "sync.pre", "sync.post", "only post.post", "with.post"]


@pytest.mark.rule("FLT-PRE-09", "FLT-PRE-10")
@pytest.mark.parametrize("kind", [IRP, FAST, FSFILTER])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (None, "complete-without-status"),
        (STATUS_PENDING, "complete-bad-status"),
        (STATUS_FLT_DISALLOW_FAST_IO, "complete-bad-status"),
        (NTSTATUS(0xC0FFEE00), "complete-bad-status"),
        (STATUS_SUCCESS, None),
        (STATUS_ACCESS_DENIED, None),
        (STATUS_REPARSE, None),
    ],
)
def test_the_status_of_a_completed_operation(kind: str, status: NTSTATUS | None, code: str | None) -> None:
    one = returning(COMPLETE, kind, sets=status)
    assert one.code == code
    if code is None:
        assert one.result == status


@pytest.mark.rule("FLT-PRE-11")
@pytest.mark.parametrize("major", [IRP_MJ_CLEANUP, IRP_MJ_CLOSE])
@pytest.mark.parametrize("status", [STATUS_SUCCESS, STATUS_REPARSE, STATUS_ACCESS_DENIED])
def test_cleanup_and_close_do_not_fail(major: int, status: NTSTATUS) -> None:
    bad = None if status == STATUS_SUCCESS else "cleanup-close-failed"
    assert returning(COMPLETE, major=major, sets=status).code == bad
    assert returning(NO, major=major).code is None

    async def in_post(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            Data.IoStatus.Status = status
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", UPPER, {major: (None, post)})
        await (await lab.open()).close()

    assert run(in_post).code == bad


# SYNCHRONIZE.


@pytest.mark.rule("FLT-PRE-12", "FLT-PRE-29", "FLT-POST-02")
@pytest.mark.parametrize("completion", ["inline", "later", "explore"])
def test_synchronising_brings_the_post_operation_into_the_thread(completion: str) -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", UPPER, {IRP_MJ_READ: (lab.pre("A", SYNC, "context"), lab.post("A"))})
        await lab.recorder("B", LOWER, IRP_MJ_READ)
        file = await lab.quiet_open()
        await file.read(1)
        lab.note("end")

    runs = all_runs(script, completion=completion)
    assert codes(runs) == {None}
    for one in runs:
        assert one.order == ["A.pre", "B.pre", "B.post", "A.post", "end"]
        assert (one.note("A.post").thread, one.note("A.post").irql) == ("script", PASSIVE_LEVEL)
        assert one.note("A.post").value == "context"
    # The one that did not ask for it runs wherever the completion comes from.
    below = {(one.note("B.post").thread == "script", one.note("B.post").irql) for one in runs}
    here, elsewhere = {(True, PASSIVE_LEVEL)}, {(False, PASSIVE_LEVEL)}
    expected = {"inline": here, "later": elsewhere, "explore": here | elsewhere | {(False, DISPATCH_LEVEL)}}
    assert below == expected[completion]


@pytest.mark.rule("FLT-PRE-12")
@pytest.mark.parametrize("completion", ["inline", "later"])
def test_the_synchronising_thread_need_not_be_the_originators(completion: str) -> None:
    async def script(lab: Lab) -> None:
        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes()) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pend, lab.post("A"))})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (lab.pre("B", SYNC), lab.post("B"))})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script, completion=completion)
    assert codes(runs) == {None}
    for one in runs:
        assert one.note("B.pre").thread == one.note("B.post").thread != "script"
        # Completion goes on in the thread that it was brought to.
        assert one.note("A.post").thread == one.note("B.post").thread


@pytest.mark.rule("FLT-PRE-12")
def test_several_may_synchronise_one_operation() -> None:
    async def script(lab: Lab) -> None:
        for name, altitude in (("A", "300000"), ("B", "200000"), ("C", "100000")):
            await lab.filter(name, altitude, {IRP_MJ_READ: (lab.pre(name, SYNC, name), lab.post(name))})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script, completion="later")
    assert codes(runs) == {None}
    for one in runs:
        assert one.order == ["A.pre", "B.pre", "C.pre", "C.post", "B.post", "A.post"]
        assert {note.thread for note in one.notes} == {"script"}
        assert [note.value for note in one.notes[3:]] == ["C", "B", "A"]


@pytest.mark.rule("FLT-PRE-13", "FLT-FAST-03")
@pytest.mark.parametrize("kind", [FAST, FSFILTER])
def test_synchronising_what_is_synchronous_anyway(kind: str) -> None:
    one = returning(SYNC, kind, context="context")
    assert (one.code, one.order, one.warnings) == (None, THROUGH, ())
    assert one.note("M.post").value == "context"
    assert {note.thread for note in one.notes} == {"script"}


@pytest.mark.rule("FLT-PRE-15")
def test_synchronising_a_create_is_pointless() -> None:
    async def script(lab: Lab, status: int) -> None:
        await lab.filter("A", UPPER, {IRP_MJ_CREATE: (lab.pre("A", status), lab.post("A"))})
        await lab.open()

    advised = all_runs(lambda lab: script(lab, SYNC), completion="later")
    assert {(one.code, one.warnings) for one in advised} == {(None, ("sync-on-create",))}
    assert {tuple(one.order) for one in advised} == {("A.pre", "A.post")}
    assert {one.warnings for one in all_runs(lambda lab: script(lab, WITH), completion="later")} == {()}


@pytest.mark.rule("FLT-PRE-16")
@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_WRITE])
def test_synchronising_an_asynchronous_transfer(major: int) -> None:
    assert returning(SYNC, major=major, overlapped=True).code == "sync-async-rw"
    assert returning(SYNC, major=major, overlapped=False).code is None
    assert returning(SYNC, major=IRP_MJ_QUERY_INFORMATION, overlapped=True).code is None

    async def asks_first(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            return SYNC if FltIsOperationSynchronous(Data) else WITH

        await lab.filter("A", UPPER, {major: (pre, lab.post("A"))})
        file = await lab.open(overlapped=True)
        await file.read(1)
        await file.write(b"x")

    assert run(asks_first).code is None


# What a callback must leave as it found it.


@pytest.mark.rule("FLT-PRE-18", "FLT-PRE-27", "FLT-IRQL-10")
@pytest.mark.parametrize(
    ("status", "code"), [(WITH, "callback-dirty-exit"), (NO, "callback-dirty-exit"), (SYNC, "lock-across-io")]
)
def test_a_lock_is_not_held_beyond_the_callback(status: int, code: str) -> None:
    def program(releases: bool) -> str | None:
        async def script(lab: Lab) -> None:
            mutex = FAST_MUTEX("Mutex")
            ExInitializeFastMutex(mutex)

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                await ExAcquireFastMutex(mutex)
                if releases:
                    await ExReleaseFastMutex(mutex)
                return status

            await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, lab.post("A"))})
            await (await lab.open()).read(1)

        return run(script).code

    assert program(releases=False) == code
    assert program(releases=True) is None


@pytest.mark.rule("FLT-PRE-27")
@pytest.mark.parametrize("phase", ["pre", "post"])
def test_the_irql_is_restored(phase: str) -> None:
    def program(restores: bool) -> str | None:
        async def script(lab: Lab) -> None:
            lock = KSPIN_LOCK("Lock")
            KeInitializeSpinLock(lock)

            async def raises(status: int) -> int:
                old = await KeAcquireSpinLock(lock)
                await KeReleaseSpinLock(lock, old)
                if not restores:
                    current_kthread().irql = APC_LEVEL
                return status

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                return await raises(WITH)

            async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
                return await raises(FLT_POSTOP_FINISHED_PROCESSING)

            pair = (pre, lab.post("A")) if phase == "pre" else (lab.pre("A"), post)
            await lab.filter("A", UPPER, {IRP_MJ_READ: pair})
            await (await lab.open()).read(1)

        return run(script).code

    assert program(restores=False) == "callback-dirty-exit"
    assert program(restores=True) is None


@pytest.mark.rule("FLT-PRE-27")
@pytest.mark.parametrize("phase", ["pre", "post"])
def test_an_exception_that_leaves_a_callback(phase: str) -> None:
    def program(catches: bool) -> Run:
        async def script(lab: Lab) -> None:
            def divide(by: int) -> None:
                try:
                    _ = 1 / by
                except ZeroDivisionError:
                    if not catches:
                        raise

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                divide(0)
                return WITH

            async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
                divide(0)
                return FLT_POSTOP_FINISHED_PROCESSING

            pair = (pre, lab.post("A")) if phase == "pre" else (lab.pre("A"), post)
            await lab.filter("A", UPPER, {IRP_MJ_READ: pair})
            await (await lab.open()).read(1)

        return run(script)

    assert program(catches=True).code is None
    one = program(catches=False)
    assert one.code == "ke.unhandled-exception"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == SYSTEM_THREAD_EXCEPTION_NOT_HANDLED
    assert "division by zero" in one.finding.detail


# Where pre-operations run.


@pytest.mark.rule("FLT-PRE-01")
def test_pre_operations_never_run_at_dispatch() -> None:
    async def script(lab: Lab) -> None:
        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        majors = (IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_CLEANUP, IRP_MJ_CLOSE)
        await lab.recorder("A", UPPER, *majors)
        await lab.filter("B", MIDDLE, {IRP_MJ_READ: (pend, None)})
        await lab.recorder("C", LOWER, *majors)
        file = await lab.open()
        await file.read(1)
        await file.close()

    runs = all_runs(script, bound=1, completion="explore")
    assert codes(runs) == {None}
    levels = {note.irql for one in runs for note in one.notes if note.what.endswith("pre")}
    assert levels == {PASSIVE_LEVEL}
    assert DISPATCH_LEVEL in {note.irql for one in runs for note in one.notes}
    originators = {note.thread for one in runs for note in one.notes if note.what == "A.pre"}
    assert originators == {"script"}


@pytest.mark.rule("FLT-PRE-28")
def test_callbacks_get_what_their_prototypes_say() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> tuple[int, str]:
            assert isinstance(Data, FLT_CALLBACK_DATA)
            assert isinstance(FltObjects, FLT_RELATED_OBJECTS)
            return WITH, "context"

        async def post(
            Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
        ) -> int:
            assert isinstance(Data, FLT_CALLBACK_DATA)
            assert isinstance(FltObjects, FLT_RELATED_OBJECTS)
            assert (CompletionContext, Flags) == ("context", 0)
            lab.note("post")
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, post)})
        await (await lab.open()).read(1)

    one = run(script)
    assert (one.code, one.order) == (None, ["post"])


@pytest.mark.rule("FLT-PRE-22", "FLT-PRE-23")
@pytest.mark.parametrize("writes", [False, True])
def test_disallowing_fast_io_sets_the_status_itself(writes: bool) -> None:
    one = returning(DISALLOW_FAST, FAST, sets=STATUS_FLT_DISALLOW_FAST_IO if writes else None)
    assert (one.code, one.order, one.result) == (None, STOPPED, STATUS_FLT_DISALLOW_FAST_IO)
    assert one.warnings == (("disallow-fastio-status",) if writes else ())


def completes_from_a_worker(lab: Lab, status: NTSTATUS) -> Pre:
    async def work(Data: FLT_CALLBACK_DATA) -> None:
        Data.IoStatus.Status = status
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert await queue(Data, work) == STATUS_SUCCESS
        return FLT_PREOP_PENDING

    return pre


@pytest.mark.rule("FLT-PRE-10", "FLT-PRE-11")
@pytest.mark.parametrize(
    ("major", "status", "code"),
    [
        (IRP_MJ_READ, STATUS_ACCESS_DENIED, None),
        (IRP_MJ_READ, STATUS_PENDING, "complete-bad-status"),
        (IRP_MJ_CLEANUP, STATUS_SUCCESS, None),
        (IRP_MJ_CLEANUP, STATUS_ACCESS_DENIED, "cleanup-close-failed"),
    ],
)
def test_the_same_rules_hold_for_a_worker_that_completes(major: int, status: NTSTATUS, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", UPPER, {major: (completes_from_a_worker(lab, status), None)})
        file = await lab.quiet_open()
        await lab.send(lab.request(file, major, Length=1))

    assert codes(all_runs(script)) == {code}
