"""The documentation's page on writing post-operation callback routines, sentence by sentence (P-1 and so on).

What it says of the creates that a post-operation callback cancels (P-5) is tried out with the routine that does that.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, codes, orders, queue, resumes_post, run

from kemu.io.request import FAST_IO_OPERATION
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_CALLBACK_STATUS,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DISPATCH_LEVEL,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    NTSTATUS,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    ExAllocatePool2,
    ExFreePoolWithTag,
    Structure,
    sizeof,
)

WITH, SYNC = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SYNCHRONIZE
FINISHED, MORE = FLT_POSTOP_FINISHED_PROCESSING, FLT_POSTOP_MORE_PROCESSING_REQUIRED
ELSEWHERE = {
    5: "cancelling a successful create has a routine and tests of its own",
    6: "post-operation callbacks resemble completion routines: the levels are in test_operation_table.py",
    7: "registration works as for pre-operation callbacks: test_preop_page.py",
    19: "the sections are test_whensafe.py, test_going_on.py and test_race_orders.py",
}


class Record(Structure):
    Count: int


@pytest.mark.rule("FLT-STACK-02", "FLT-STACK-03", "FLT-REG-08")
def test_p_1_p_8_who_is_called() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", UPPER, {IRP_MJ_READ: (None, lab.post("A")), IRP_MJ_CREATE: (lab.pre("C", 1), None)})
        file = await lab.open()
        await file.write(b"x")
        await file.read(1)

    assert run(script).order == ["C.pre", "A.post"]


@pytest.mark.rule("FLT-POST-01", "FLT-POST-04", "FLT-POST-35", "FLT-IRQL-07", "FLT-IRQL-08")
@pytest.mark.parametrize(("flags", "expected"), [(POOL_FLAG_NON_PAGED, {None}), (POOL_FLAG_PAGED, {None, "ke.paged"})])
def test_p_2_p_10_p_11_p_12_work_at_dispatch_level_in_any_thread(flags: int, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        record: Record = await ExAllocatePool2(flags, sizeof(Record), "Rec ")

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("post")
            record.Count += 1
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (None, post)})
        await (await lab.quiet_open()).read(1)
        await ExFreePoolWithTag(record, "Rec ")

    runs = all_runs(script, completion="explore")
    assert codes(runs) == expected
    assert {one.note("post").irql for one in runs} == {PASSIVE_LEVEL, DISPATCH_LEVEL}
    assert len({one.note("post").thread for one in runs}) > 1


@pytest.mark.rule("FLT-POST-08", "FLT-POST-11", "FLT-POST-31", "FLT-WORK-07", "FLT-CBD-17")
def test_p_3_p_4_p_16_p_18_or_in_a_worker_that_completes_it() -> None:
    async def script(lab: Lab) -> NTSTATUS:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("worker")
            # Still the filter's.
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            await resumes_post(Data)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return MORE

        await lab.filter("T", UPPER, {IRP_MJ_READ: (lab.pre("T"), lab.post("T"))})
        await lab.filter("M", LOWER, {IRP_MJ_READ: (lab.pre("M"), post)})
        return (await (await lab.quiet_open()).read(1))[0]

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_ACCESS_DENIED}
    assert {(one.note("worker").irql, one.before("worker", "T.post")) for one in runs} == {(PASSIVE_LEVEL, True)}


@pytest.mark.rule("FLT-PRE-28", "FLT-PRE-06", "FLT-POST-06")
def test_p_9_what_it_is_given_and_what_it_returns() -> None:
    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            assert isinstance(Data, FLT_CALLBACK_DATA)
            assert isinstance(FltObjects, FLT_RELATED_OBJECTS)
            lab.note("post", (Context, Flags, type(FINISHED) is FLT_POSTOP_CALLBACK_STATUS))
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", WITH, "context"), post)})
        await (await lab.quiet_open()).read(1)

    assert run(script).note("post").value == ("context", 0, True)


@pytest.mark.rule("FLT-POST-02", "FLT-PRE-12", "FLT-ORD-04", "FLT-ORD-05", "FLT-FAST-03")
@pytest.mark.parametrize("what", ["synchronised", "fast I/O", "create"])
def test_p_13_p_14_p_15_the_exceptions(what: str) -> None:
    async def script(lab: Lab) -> None:
        major = IRP_MJ_CREATE if what == "create" else IRP_MJ_READ
        file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {major: (lab.pre("M", SYNC if what == "synchronised" else WITH), lab.post("M"))})
        if what == "create":
            await lab.app.create(r"\b")
        elif what == "fast I/O":
            await lab.send(lab.request(file, major, kind=FAST_IO_OPERATION, Length=1))
        else:
            await file.read(1)

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {(note.thread, note.irql) for one in runs for note in one.notes} == {("script", PASSIVE_LEVEL)}


@pytest.mark.rule("FLT-CBD-17", "FLT-CBD-18", "FLT-POST-07", "FLT-ORD-01")
def test_p_17_control_ends_with_finished_processing() -> None:
    async def script(lab: Lab) -> None:
        kept: list[FLT_CALLBACK_DATA] = []

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            kept.append(Data)
            return FINISHED

        async def above(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("above", Data.IoStatus.Status)
            lab.note("late", kept[0].IoStatus.Status)
            return FINISHED

        await lab.filter("T", UPPER, {IRP_MJ_READ: (lab.pre("T"), above)})
        await lab.filter("M", LOWER, {IRP_MJ_READ: (None, post)})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script)
    assert codes(runs) == {"cbd-use-after-release"}
    assert orders(runs) == {("T.pre", "above")}


def test_every_sentence_is_tried_out_here_or_elsewhere() -> None:
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    tests = [one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name.startswith("test_p_")]
    tried = {int(number) for name in tests for number in re.findall(r"p_(\d+)", name)}
    assert tried.isdisjoint(ELSEWHERE)
    assert tried | set(ELSEWHERE) == set(range(1, 20))
