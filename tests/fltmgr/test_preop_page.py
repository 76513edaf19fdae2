"""The documentation's page "Writing Preoperation Callback Routines", sentence by sentence.

Each test says which sentences of the page it tries out, by their numbers in the page's order (S1-1 and so on; the words
are ours). A sentence that only explains another one is in `EXPLAINS`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes, orders, queue, resumes, run

from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.nt.routine import REGISTRY
from kemu.wdk import fltkernel
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_CALLBACK_STATUS,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
    FltDoCompletionProcessingWhenSafe,
    FltRegisterFilter,
    FltStartFiltering,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_FLT_DISALLOW_FAST_IO, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    NTSTATUS,
    PASSIVE_LEVEL,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeGetCurrentIrql,
    KeLowerIrql,
    KeRaiseIrql,
)

WITH, NO, SYNC = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SYNCHRONIZE
PENDING, COMPLETE = FLT_PREOP_PENDING, FLT_PREOP_COMPLETE

EXPLAINS = {
    2: "pre-operation callbacks resemble dispatch routines: the levels are in test_operation_table.py",
    11: "the table of usage scenarios is the next sentences",
    23: "that some things are safe at a raised IRQL and others not is the IRQL table of the routines",
    26: "the facts about the IRQL are the next sentences",
    31: "the table of IRQLs and threads is test_operation_table.py",
    34: "managing contexts is a page of its own",
}


async def stack(lab: Lab, pre: Any, *, post: bool = True, major: int = IRP_MJ_READ) -> None:
    """T above, M with the callback under test, B below."""
    await lab.recorder("T", UPPER, major)
    await lab.filter("M", MIDDLE, {major: (pre, lab.post("M") if post else None)})
    await lab.recorder("B", LOWER, major)


def reading(make: Callable[[Lab], Any], *, post: bool = True, completion: str = "inline", **more: Any) -> list[Run]:
    """Every run of a read with M's callback in the middle of the stack; the result is the read's status."""

    async def script(lab: Lab) -> NTSTATUS:
        file = await lab.quiet_open()
        await stack(lab, make(lab), post=post)
        return (await file.read(4))[0]

    return all_runs(script, completion=completion, **more)


def returns(status: int, context: Any = None) -> Callable[[Lab], Any]:
    """M notes itself and returns *status*."""
    return lambda lab: lab.pre("M", status, context)


# What a pre-operation callback is.


@pytest.mark.rule("FLT-STACK-02", "FLT-REG-08", "FLT-STACK-03")
def test_s1_1_s1_5_a_filter_sees_the_operations_it_has_callbacks_for() -> None:
    async def script(lab: Lab) -> None:
        callbacks = {IRP_MJ_READ: (lab.pre("read"), None), IRP_MJ_CLEANUP: (lab.pre("cleanup", NO), None)}
        callbacks[IRP_MJ_READ] = (lab.pre("read", NO), None)
        await lab.filter("M", MIDDLE, callbacks)
        file = await lab.open()
        await file.write(b"x")
        await file.read(1)
        await file.close()

    assert run(script).order == ["read.pre", "cleanup.pre"]


@pytest.mark.rule("FLT-PRE-28", "FLT-REG-01", "FLT-REG-02", "FLT-REG-04")
def test_s1_3_s1_4_the_callbacks_are_registered_in_driver_entry() -> None:
    async def script(lab: Lab) -> list[int]:
        class Filter(Driver):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                registration = FLT_REGISTRATION(
                    OperationRegistration=[
                        FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, lab.pre("M", NO), None),
                        FLT_OPERATION_REGISTRATION(),
                    ]
                )
                status, registered = await FltRegisterFilter(DriverObject, registration)
                assert (status, registered is not None) == (STATUS_SUCCESS, True)
                assert registered is not None
                return await FltStartFiltering(registered)

        loaded = await lab.load(Filter, MIDDLE)
        await (await lab.open()).read(1)
        return [loaded.status]

    one = run(script)
    assert (one.code, one.result, one.order) == (None, [STATUS_SUCCESS], ["M.pre"])


@pytest.mark.rule("FLT-STACK-02", "FLT-STACK-03")
def test_s1_6_either_callback_may_be_there_without_the_other() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", UPPER, {IRP_MJ_READ: (lab.pre("A", NO), None)})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (None, lab.post("B"))})
        await (await lab.quiet_open()).read(1)

    assert run(script).order == ["A.pre", "B.post"]


@pytest.mark.rule("FLT-PRE-28", "FLT-PRE-02", "FLT-PRE-03", "FLT-STACK-10", "FLT-STACK-11")
def test_s1_7_what_it_is_given_and_what_it_returns() -> None:
    def make(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert isinstance(Data, FLT_CALLBACK_DATA)
            assert isinstance(FltObjects, FLT_RELATED_OBJECTS)
            assert isinstance(WITH, FLT_PREOP_CALLBACK_STATUS)
            return WITH, "context"

        return pre

    for one in reading(make):
        assert (one.code, one.note("M.post").value) == (None, "context")

    def writes(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            FltObjects.FileObject = None  # type: ignore[misc]

        return pre

    assert codes(reading(writes)) == {"relobj-write"}
    assert codes(reading(returns(7))) == {"preop-unknown-status"}


@pytest.mark.rule("FLT-CBD-17", "FLT-CBD-18")
def test_s1_8_s1_9_the_filter_has_control_until_it_returns_anything_but_pending() -> None:
    kept: list[FLT_CALLBACK_DATA] = []

    def make(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept[:] = [Data]
            await lab.sleep(1)
            lab.note("still mine", Data.Iopb.MajorFunction)
            return NO

        return pre

    for one in reading(make):
        assert one.code is None
        # Nobody below is called before it returns.
        assert one.order == ["T.pre", "still mine", "B.pre", "B.post", "T.post"]

    def late(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            async def looks() -> None:
                lab.note("looks", Data.Flags)

            lab.start("looks", looks())
            return NO

        return pre

    assert codes(reading(late)) == {"cbd-use-after-release"}


@pytest.mark.rule("FLT-CBD-17", "FLT-PEND-01", "FLT-PEND-07", "FLT-WORK-07")
def test_s1_10_or_until_a_work_routine_completes_the_pended_operation() -> None:
    def make(lab: Lab) -> Any:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await lab.sleep(5)
            lab.note("still mine", Data.Iopb.MajorFunction)
            await FltCompletePendedPreOperation(Data, NO, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return PENDING

        return pre

    for one in reading(make):
        assert (one.code, one.order) == (None, ["T.pre", "still mine", "B.pre", "B.post", "T.post"])
        # It goes on in the thread of the work routine.
        assert one.note("B.pre").thread == one.note("still mine").thread
        assert one.note("B.pre").thread.startswith("wk:")


# The table.

THROUGH = ["T.pre", "M.pre", "B.pre", "B.post", "M.post", "T.post"]
PASSED_BY = [what for what in THROUGH if what != "M.post"]


@pytest.mark.rule("FLT-PRE-05", "FLT-PRE-07")
@pytest.mark.parametrize("post", [True, False])
def test_s1_12_pass_it_through_and_do_not_call_back(post: bool) -> None:
    runs = reading(returns(NO), post=post)
    assert {(one.code, one.result) for one in runs} == {(None, STATUS_SUCCESS)}
    assert orders(runs) == {tuple(PASSED_BY)}


@pytest.mark.rule("FLT-PRE-06", "FLT-PRE-07")
def test_s1_13_pass_it_through_and_call_back() -> None:
    runs = reading(returns(WITH, "context"))
    assert orders(runs) == {tuple(THROUGH)}
    assert {one.note("M.post").value for one in runs} == {"context"}
    assert codes(reading(returns(WITH), post=False)) == {"preop-callback-without-postop"}


@pytest.mark.rule("FLT-PEND-01", "FLT-PEND-10", "FLT-PEND-11", "FLT-PRE-19", "FLT-PEND-02")
def test_s1_14_pend_it() -> None:
    def make(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("M.pre")
            assert await queue(Data, resumes(WITH)) == STATUS_SUCCESS
            return PENDING

        return pre

    runs = reading(make)
    assert codes(runs) == {None}
    assert orders(runs) == {tuple(THROUGH)}
    # Nobody who would complete it: it stays where it is.
    assert codes(reading(returns(PENDING))) == {"pend-never-completed"}

    async def fast(lab: Lab) -> None:
        file = await lab.quiet_open()
        await stack(lab, lab.pre("M", PENDING))
        await lab.send(lab.request(file, IRP_MJ_READ, kind=FAST_IO_OPERATION, Length=1))

    assert run(fast).code == "pend-non-irp"


@pytest.mark.rule("FLT-PEND-01", "FLT-PEND-02", "FLT-PEND-03", "FLT-PEND-06")
@pytest.mark.parametrize(
    ("status", "irql", "code"),
    [
        (WITH, PASSIVE_LEVEL, None),
        (NO, APC_LEVEL, None),
        (COMPLETE, DISPATCH_LEVEL, None),
        (NO, DISPATCH_LEVEL, "ke.irql"),
        (PENDING, PASSIVE_LEVEL, "pend-bad-status"),
        (SYNC, PASSIVE_LEVEL, "pend-bad-status"),
        (FLT_PREOP_DISALLOW_FASTIO, PASSIVE_LEVEL, "pend-bad-status"),
    ],
)
def test_s1_15_finish_it_with_the_completing_routine(status: int, irql: int, code: str | None) -> None:
    def make(lab: Lab) -> Any:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            if status == COMPLETE:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            before = KeRaiseIrql(irql)
            await FltCompletePendedPreOperation(Data, status, None)
            KeLowerIrql(before)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return PENDING

        return pre

    runs = reading(make)
    assert codes(runs) == {code}
    if code is None:
        assert {one.result for one in runs} == {STATUS_ACCESS_DENIED if status == COMPLETE else STATUS_SUCCESS}


@pytest.mark.rule("FLT-PEND-08", "FLT-PEND-09", "FLT-ORD-02", "FLT-RACE-01")
@pytest.mark.parametrize("completion", ["inline", "explore"])
def test_s1_16_s1_17_the_race_between_returning_and_completing_is_nobodys_business(completion: str) -> None:
    def make(lab: Lab) -> Any:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("completes")
            await FltCompletePendedPreOperation(Data, WITH, "context")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            lab.note("returns")
            return PENDING

        return pre

    runs = reading(make, completion=completion, bound=None if completion == "inline" else 2)
    # Neither lost nor processed twice, whatever comes first, and also if the whole operation does.
    assert codes(runs) == {None}
    assert {one.order.count("M.post") for one in runs} == {1}
    assert {one.before("completes", "returns") for one in runs} == {True, False}
    assert {one.before("T.post", "returns") for one in runs} == {True, False}
    assert {one.note("M.post").value for one in runs} == {"context"}


@pytest.mark.rule("FLT-PRE-12", "FLT-PRE-29", "FLT-ORD-05", "FLT-RACE-23")
def test_s1_18_s1_19_synchronise_for_one_thread_and_one_level() -> None:
    def make(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("M.pre")
            # Something that only this thread has: what would be a local variable of the caller.
            return SYNC, current_kthread()

        return pre

    runs = reading(make, completion="explore")
    assert codes(runs) == {None}
    for one in runs:
        pre, post = one.note("M.pre"), one.note("M.post")
        assert (pre.thread, pre.irql) == (post.thread, post.irql) == ("script", PASSIVE_LEVEL)
        assert post.value.label == "script"
    # Whoever did not ask for that is called wherever the file system completes.
    assert {one.note("B.post").irql for one in runs} == {PASSIVE_LEVEL, DISPATCH_LEVEL}
    assert len({one.note("B.post").thread for one in runs}) > 1


@pytest.mark.rule("FLT-PRE-08", "FLT-PRE-09", "FLT-PRE-10", "FLT-PRE-11", "FLT-POST-28")
def test_s1_20_complete_it() -> None:
    def make(status: NTSTATUS | None) -> Callable[[Lab], Any]:
        def completes(lab: Lab) -> Any:
            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                lab.note("M.pre")
                if status is not None:
                    Data.IoStatus.Status = status
                return COMPLETE

            return pre

        return completes

    runs = reading(make(STATUS_ACCESS_DENIED))
    assert {(one.code, one.result) for one in runs} == {(None, STATUS_ACCESS_DENIED)}
    assert orders(runs) == {("T.pre", "M.pre", "T.post")}
    assert codes(reading(make(None))) == {"complete-without-status"}
    assert codes(reading(make(STATUS_PENDING))) == {"complete-bad-status"}


# The facts about the IRQL.


@pytest.mark.rule("FLT-IRQL-11", "FLT-IRQL-06", "FLT-IRQL-01")
@pytest.mark.parametrize("takes_mutex", [False, True])
def test_s1_21_s1_22_s1_24_s1_25_the_filter_has_to_know_its_level(takes_mutex: bool) -> None:
    """The filter manager delivers what comes at DISPATCH_LEVEL; it is the driver that looks, or breaks a rule."""

    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            level = KeGetCurrentIrql()
            lab.note("level", level)
            if takes_mutex or level <= APC_LEVEL:
                await ExAcquireFastMutex(mutex)
                await ExReleaseFastMutex(mutex)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (None, post)})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script, completion="explore")
    assert {one.note("level").value for one in runs} == {PASSIVE_LEVEL, DISPATCH_LEVEL}
    assert codes(runs) == ({None, "ke.irql"} if takes_mutex else {None})
    assert all((one.code == "ke.irql") == (takes_mutex and one.note("level").value == DISPATCH_LEVEL) for one in runs)


MAJORS = (IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_QUERY_INFORMATION, IRP_MJ_DIRECTORY_CONTROL, IRP_MJ_CLEANUP)


@pytest.mark.rule("FLT-PRE-01", "FLT-FAST-10")
def test_s1_27_s1_28_s1_29_pre_operations_run_at_passive_or_apc_level_mostly_in_the_originators_thread() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("M", MIDDLE, *MAJORS)
        file = await lab.open()
        await file.write(b"x")
        await file.read(1)
        await file.size()
        await file.close()

    runs = all_runs(script, completion="explore", bound=1)
    found = {(note.thread, note.irql) for one in runs for note in one.notes if note.what == "M.pre"}
    assert found == {("script", PASSIVE_LEVEL)}


@pytest.mark.rule("FLT-STACK-08", "FLT-PEND-07", "FLT-RACE-05", "FLT-ORD-04")
@pytest.mark.parametrize("kind", [IRP_OPERATION, FAST_IO_OPERATION, FS_FILTER_OPERATION])
def test_s1_30_or_in_a_worker_if_a_higher_filter_has_pended_the_irp(kind: int) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if kind != IRP_OPERATION:
                return NO
            assert await queue(Data, resumes(WITH)) == STATUS_SUCCESS
            return PENDING

        await lab.filter("T", UPPER, {IRP_MJ_READ: (pre, lab.post("T"))})
        await lab.recorder("B", LOWER, IRP_MJ_READ)
        await lab.send(lab.request(file, IRP_MJ_READ, kind=kind, Length=1))

    threads = {one.note("B.pre").thread for one in all_runs(script)}
    assert threads == ({"wk:delayed#0"} if kind == IRP_OPERATION else {"script"})


GETTERS = sorted(name for name in REGISTRY if re.fullmatch(r"FltGet\w+Contexts?", name))


@pytest.mark.rule("FLT-IRQL-03")
@pytest.mark.skipif(not GETTERS, reason="there are no contexts to be got")
@pytest.mark.parametrize("name", GETTERS)
def test_s1_32_contexts_cannot_be_got_above_apc_level(name: str) -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = DISPATCH_LEVEL
        getattr(fltkernel, name)(*(None for one in REGISTRY[name].parameters if not one.is_output)).close()

    assert run(script).code == "ke.irql"


@pytest.mark.rule("FLT-POST-17", "FLT-POST-19", "FLT-PRE-29", "FLT-POST-35")
@pytest.mark.parametrize("way", ["in the context", "when safe", "synchronised"])
def test_s1_33_pass_on_what_was_got_or_process_at_a_low_level(way: str) -> None:
    """What takes a low level, here a mutex, is done before, or where the level is low again."""

    async def script(lab: Lab) -> NTSTATUS:
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)

        async def gets() -> str:
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)
            return "got"

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return SYNC if way == "synchronised" else WITH, await gets() if way == "in the context" else None

        async def safe(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("has", Context or await gets())
            return FLT_POSTOP_FINISHED_PROCESSING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if way != "when safe":
                return await safe(Data, FltObjects, Context, Flags)
            return (await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, safe))[1]

        file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        return (await file.read(1))[0]

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {(one.result, one.note("has").value) for one in runs} == {(STATUS_SUCCESS, "got")}
    assert {one.note("has").irql for one in runs} == (
        {PASSIVE_LEVEL, DISPATCH_LEVEL} if way == "in the context" else {PASSIVE_LEVEL}
    )


# The related pages.


@pytest.mark.rule("FLT-PRE-05", "FLT-PRE-06", "FLT-PRE-12", "FLT-PRE-13")
@pytest.mark.parametrize("kind", [IRP_OPERATION, FAST_IO_OPERATION, FS_FILTER_OPERATION])
@pytest.mark.parametrize("status", [NO, WITH, SYNC])
def test_s1_35_passing_an_operation_down(kind: int, status: int) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        await stack(lab, lab.pre("M", status))
        await lab.send(lab.request(file, IRP_MJ_READ, kind=kind, Length=1))

    one = run(script)
    assert (one.code, one.order) == (None, PASSED_BY if status == NO else THROUGH)


@pytest.mark.rule("FLT-PRE-11", "FLT-PRE-08")
@pytest.mark.parametrize(("status", "code"), [(STATUS_SUCCESS, None), (STATUS_ACCESS_DENIED, "cleanup-close-failed")])
def test_s1_36_completing_an_operation(status: NTSTATUS, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            Data.IoStatus.Status = status
            return COMPLETE

        file = await lab.quiet_open()
        await stack(lab, pre, post=False, major=IRP_MJ_CLEANUP)
        await file.close()

    one = run(script)
    assert one.code == code
    if code is None:
        assert one.order == ["T.pre", "T.post"]


@pytest.mark.rule("FLT-PRE-20", "FLT-PRE-22", "FLT-PRE-23")
@pytest.mark.parametrize("sets_status", [False, True])
def test_s1_37_disallowing_fast_io(sets_status: bool) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if sets_status:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            return FLT_PREOP_DISALLOW_FASTIO

        file = await lab.quiet_open()
        await stack(lab, pre, post=False)
        return (await lab.send(lab.request(file, IRP_MJ_READ, kind=FAST_IO_OPERATION, Length=1))).status

    one = run(script)
    assert (one.code, one.result, one.order) == (None, STATUS_FLT_DISALLOW_FAST_IO, ["T.pre", "T.post"])
    assert one.warnings == (("disallow-fastio-status",) if sets_status else ())
    assert codes(reading(returns(FLT_PREOP_DISALLOW_FASTIO))) == {"disallow-fastio-non-fastio"}


@pytest.mark.rule("FLT-PEND-10", "FLT-PEND-02", "FLT-WORK-04", "FLT-PEND-11")
@pytest.mark.parametrize(
    ("returned", "code"), [(PENDING, None), (NO, "pend-not-returned"), (WITH, "pend-not-returned")]
)
def test_s1_38_pending_an_operation(returned: int, code: str | None) -> None:
    def make(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
            return returned

        return pre

    assert codes(reading(make)) == {code}


def test_every_sentence_is_tried_out_or_explains_another_one() -> None:
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    tests = [one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name.startswith("test_s1_")]
    tried = {int(number) for name in tests for number in re.findall(r"s1_(\d+)", name)}
    assert tried.isdisjoint(EXPLAINS)
    assert tried | set(EXPLAINS) == set(range(1, 39))
