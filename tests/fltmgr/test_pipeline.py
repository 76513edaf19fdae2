"""The way of an operation down and up the stack (FLT-STACK), and how many ways a small world has to go.

The numbers of interleavings are derived in comments. A *step* is one operation together with the code up to the next
one; a thread's start is a step. Interleavings are told apart by their schedule, traces only by the order of steps
that touch the same thing (where at least one changes it).
"""

from __future__ import annotations

from math import comb
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, Script, all_runs, codes, orders, queue, resumes, run

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.ntstatus import STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS
from kemu.wdk.wdm import (
    FILE_OPEN,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
)

WITH, NO, SYNC = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SYNCHRONIZE
CREATE, READ = IRP_MJ_CREATE, IRP_MJ_READ


@pytest.mark.rule("FLT-STACK-01", "FLT-STACK-04")
@pytest.mark.parametrize("completion", ["inline", "later", "explore"])
def test_down_from_the_highest_and_up_from_the_lowest(completion: str) -> None:
    async def script(lab: Lab) -> None:
        majors = (CREATE, READ, IRP_MJ_WRITE, IRP_MJ_QUERY_INFORMATION, IRP_MJ_CLEANUP, IRP_MJ_CLOSE)
        for name, altitude in (("B", MIDDLE), ("C", LOWER), ("A", UPPER)):
            await lab.recorder(name, altitude, *majors)
        carry_out = lab.volume.filesystem.carry_out

        def carried_out(thread: Any, request: Any) -> bool:
            lab.note("fs")
            return carry_out(thread, request)

        lab.volume.filesystem.carry_out = carried_out
        file = await lab.open()
        await file.read(1)
        await file.write(b"x")
        await file.size()
        await file.close()

    one_way = ("A.pre", "B.pre", "C.pre", "fs", "C.post", "B.post", "A.post")
    # Create, read, write, query, cleanup and close, one after another.
    runs = all_runs(script, completion=completion, bound=2)
    assert codes(runs) == {None}
    assert orders(runs) == {one_way * 6}


@pytest.mark.rule("FLT-STACK-02", "FLT-STACK-03")
def test_who_is_called() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("both", "500000", {READ: (lab.pre("both"), lab.post("both"))})
        await lab.filter("pre only", "400000", {READ: (lab.pre("pre only", NO), None)})
        await lab.filter("post only", "300000", {READ: (None, lab.post("post only"))})
        await lab.filter("neither", "200000", {READ: (None, None)})
        await lab.filter("write", "100000", {IRP_MJ_WRITE: (lab.pre("write"), lab.post("write"))})
        file = await lab.open()
        await file.read(1)
        lab.note("then")
        await file.write(b"x")

    one = run(script)
    assert one.code is None
    assert one.order == ["both.pre", "pre only.pre", "post only.post", "both.post", "then", "write.pre", "write.post"]
    assert one.note("post only.post").value is None


@pytest.mark.rule("FLT-STACK-03")
def test_a_post_operation_alone_sees_failures_too() -> None:
    async def script(lab: Lab) -> int:
        await lab.filter("A", UPPER, {CREATE: (None, lab.post("A"))})
        return (await lab.app.create(r"\missing", FILE_OPEN))[0]

    one = run(script)
    assert (one.result, one.order) == (STATUS_OBJECT_NAME_NOT_FOUND, ["A.post"])


@pytest.mark.rule("FLT-STACK-08")
def test_below_a_filter_that_pends_the_thread_is_a_workers() -> None:
    async def script(lab: Lab) -> None:
        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes()) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.recorder("A", UPPER)
        await lab.filter("P", MIDDLE, {READ: (pend, lab.post("P"))})
        await lab.recorder("B", LOWER)
        file = await lab.quiet_open()
        await file.read(1)
        lab.note("fast")
        await file.read(1, fast=True)

    async def only_irps(lab: Lab) -> None:
        await lab.recorder("A", UPPER)
        await lab.recorder("B", LOWER)
        file = await lab.quiet_open()
        await file.read(1, fast=True)

    for one in all_runs(script, bound=1):
        if one.code is None:
            continue
        # The fast I/O read cannot be queued.
        assert one.order[-2:] == ["fast", "A.pre"]
        assert one.note("B.pre").thread not in {"script", ""}
        assert [note.thread for note in one.notes if note.what == "A.pre"] == ["script", "script"]
    assert {note.thread for one in all_runs(only_irps) for note in one.notes} == {"script"}


# How many ways there are.


def traces(runs: list[Run]) -> int:
    return len({one.outcome.fingerprint for one in runs})


def one_operation(major: int, status: int = WITH, *, pends: int | None = None) -> Script:
    """One operation beside one filter, which returns *status*, or has a worker resume it with *pends*."""

    async def script(lab: Lab) -> None:
        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes(pends or 0)) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        file = await lab.quiet_open()
        await lab.filter("A", LOWER, {major: (pend if pends is not None else lab.pre("A", status), lab.post("A"))})
        if major == CREATE:
            await lab.app.create(r"\b")
        else:
            await file.read(1)

    return script


@pytest.mark.parametrize("major", [CREATE, READ])
@pytest.mark.parametrize("status", [WITH, NO, SYNC])
@pytest.mark.parametrize(
    ("completion", "interleavings"),
    [
        # One thread: nothing to choose.
        ("inline", 1),
        # The originator waits while the file system's thread runs, and that one has ended, or has nothing more to do
        # with the originator than the end of its last step, when the originator goes on.
        ("later", 1),
        # Inline, later at PASSIVE_LEVEL, later at DISPATCH_LEVEL.
        ("explore", 3),
    ],
)
def test_one_operation_and_one_filter(major: int, status: int, completion: str, interleavings: int) -> None:
    runs = all_runs(one_operation(major, status), completion=completion)
    assert codes(runs) == {None}
    assert (len(runs), traces(runs)) == (interleavings, interleavings)


# The originator queues (and so creates the worker), and then has P (the queueing returns), R (the callback returns
# PENDING) and W (see the completion, and what follows from it), of which W needs the worker's last step. The worker has
# start, T (take the work), C (complete the pended operation), F (the file system performs it), and with a
# postoperation of a read D (deliver it). Completed later, F is the second step of a thread that C starts. So with k
# steps of that chain P and R can stand anywhere among them: (k + 2)! / (k! 2!) interleavings.
#
# Traces: P comes before or after T (the work item). R comes before or after C (the frame), and
#   read, no callback:   nothing more, 2 * 2
#   read, callback:      or after D, which C precedes: 2 * 3
#   create, no callback: or after F, which completes the request that the originator looks at after R: 2 * 3
#   create, callback:    nothing more: D is the originator's, after W. 2 * 2
CHAIN = {"inline": ("start", "T", "C", "F"), "later": ("start", "T", "C", "start", "F")}


@pytest.mark.rule("FLT-PEND-08")
@pytest.mark.parametrize("completion", ["inline", "later", "explore"])
@pytest.mark.parametrize(
    ("major", "pends", "more", "distinct"),
    [(READ, NO, 0, 4), (READ, WITH, 1, 6), (CREATE, NO, 0, 6), (CREATE, WITH, 0, 4)],
)
def test_one_pended_operation(major: int, pends: int, more: int, distinct: int, completion: str) -> None:
    runs = all_runs(one_operation(major, pends=pends), completion=completion)
    assert codes(runs) == {None}
    ways = {how: comb(len(chain) + more + 2, 2) for how, chain in CHAIN.items()}
    expected = ways["inline"] + 2 * ways["later"] if completion == "explore" else ways[completion]
    assert len(runs) == expected
    assert traces(runs) == (3 * distinct if completion == "explore" else distinct)


def two_operations(*, same: bool, writes: bool, filters: int = 1) -> Script:
    """Two operations in two threads, on one file or on two; the script has ended when they begin."""

    async def script(lab: Lab) -> None:
        lab.file(r"\b", b"1234")
        one = await lab.quiet_open(r"\a")
        other = await lab.quiet_open(r"\a" if same else r"\b")
        for number in range(filters):
            await lab.recorder(f"F{number}", str(100000 + number), READ, IRP_MJ_WRITE)

        async def first() -> None:
            await one.read(1)

        async def second() -> None:
            await (other.write(b"x") if writes else other.read(1))

        lab.start("first", first())
        lab.start("second", second())

    return script


@pytest.mark.parametrize(
    ("same", "writes", "distinct"),
    [
        (False, False, 1),
        (False, True, 1),
        # Reading commutes.
        (True, False, 1),
        # A read and a write of one file: either is the first.
        (True, True, 2),
    ],
)
def test_two_operations_beside_each_other(same: bool, writes: bool, distinct: int) -> None:
    runs = all_runs(two_operations(same=same, writes=writes))
    assert codes(runs) == {None}
    # Six steps each: start, begin, deliver pre, perform, deliver post, see the completion: 12! / (6! 6!).
    assert (len(runs), traces(runs)) == (comb(12, 6), distinct)


def test_two_operations_without_a_filter() -> None:
    # No deliveries, four steps each: 8! / (4! 4!).
    assert len(all_runs(two_operations(same=True, writes=True, filters=0))) == comb(8, 4)


def test_a_filter_that_does_not_see_the_operation_costs_nothing() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", UPPER, IRP_MJ_CLOSE)
        await two_operations(same=True, writes=True, filters=0)(lab)

    assert len(all_runs(script)) == comb(8, 4)
