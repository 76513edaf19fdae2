"""Fast I/O: synchronous, and may be refused in favour of an IRP (FLT-FAST, FLT-PRE-20 to FLT-PRE-23)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, codes, orders, queue, resumes, run

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_FASTIO_OPERATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FltIsIoCanceled,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_FLT_NOT_SAFE_TO_POST_OPERATION,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    LONG,
    PASSIVE_LEVEL,
    InterlockedDecrement,
    InterlockedIncrement,
)

WITH, NO = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK
MAJORS = {"read": IRP_MJ_READ, "write": IRP_MJ_WRITE, "size": IRP_MJ_QUERY_INFORMATION}


async def transfer(lab: Lab, what: str) -> Any:
    """Have the user program do *what*, as fast I/O if it can; what came of it."""
    file = await lab.quiet_open()
    if what == "read":
        return await file.read(4, fast=True)
    return await (file.write(b"abcd", fast=True) if what == "write" else file.size(fast=True))


def noting(lab: Lab, name: str, fast: Any = WITH, irp: Any = WITH) -> tuple[Any, Any]:
    """Callbacks that note the class of the operation, and return *fast* or *irp*."""

    def suffix(Data: FLT_CALLBACK_DATA) -> str:
        return "fast" if FLT_IS_FASTIO_OPERATION(Data) else "irp"

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        lab.note(f"{name}.pre.{suffix(Data)}")
        return fast if FLT_IS_FASTIO_OPERATION(Data) else irp

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        lab.note(f"{name}.post.{suffix(Data)}", (Data.IoStatus.Status, Data.IoStatus.Information))
        return FLT_POSTOP_FINISHED_PROCESSING

    return pre, post


RESULTS = {"read": (STATUS_SUCCESS, b"0123"), "write": (STATUS_SUCCESS, 4), "size": (STATUS_SUCCESS, 10)}


@pytest.mark.rule("FLT-FAST-02", "FLT-FAST-03")
@pytest.mark.parametrize("what", MAJORS)
@pytest.mark.parametrize("status", [WITH, FLT_PREOP_SYNCHRONIZE])
def test_fast_io_is_synchronous(what: str, status: int) -> None:
    async def script(lab: Lab) -> Any:
        for name, altitude in (("A", UPPER), ("B", LOWER)):
            await lab.filter(name, altitude, {MAJORS[what]: noting(lab, name, status)})
        return await transfer(lab, what)

    # The file system completes only IRPs later: there is nothing to choose.
    (one,) = all_runs(script, completion="explore")
    assert (one.code, one.result) == (None, RESULTS[what])
    assert one.order == ["A.pre.fast", "B.pre.fast", "B.post.fast", "A.post.fast"]
    assert {(note.thread, note.irql) for note in one.notes} == {("script", PASSIVE_LEVEL)}


@pytest.mark.rule("FLT-FAST-05", "FLT-PRE-22")
@pytest.mark.parametrize("what", MAJORS)
def test_what_is_disallowed_comes_back_as_an_irp(what: str) -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("A", UPPER, {MAJORS[what]: noting(lab, "A")})
        await lab.filter("D", MIDDLE, {MAJORS[what]: noting(lab, "D", FLT_PREOP_DISALLOW_FASTIO)})
        await lab.filter("B", LOWER, {MAJORS[what]: noting(lab, "B")})
        return await transfer(lab, what)

    one = run(script)
    assert (one.code, one.warnings, one.result) == (None, (), RESULTS[what])
    assert one.order == [
        "A.pre.fast", "D.pre.fast", "A.post.fast",
        "A.pre.irp", "D.pre.irp", "B.pre.irp", "B.post.irp", "D.post.irp", "A.post.irp",
    ]  # fmt: skip
    assert one.note("A.post.fast").value == (STATUS_FLT_DISALLOW_FAST_IO, 0)
    assert one.note("A.post.irp").value[0] == STATUS_SUCCESS


@pytest.mark.rule("FLT-FAST-05")
@pytest.mark.parametrize("status", [NO, FLT_PREOP_COMPLETE])
def test_what_is_not_disallowed_does_not_come_back(status: int) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("pre")
            if status == FLT_PREOP_COMPLETE:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            return status

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        return (await transfer(lab, "read"))[0]

    one = run(script)
    assert one.order == ["pre"]
    assert one.result == (STATUS_ACCESS_DENIED if status == FLT_PREOP_COMPLETE else STATUS_SUCCESS)


@pytest.mark.rule("FLT-PRE-20")
def test_only_fast_io_can_be_disallowed() -> None:
    def program(careful: bool) -> str | None:
        async def script(lab: Lab) -> None:
            irp = WITH if careful else FLT_PREOP_DISALLOW_FASTIO
            await lab.filter("D", MIDDLE, {IRP_MJ_READ: noting(lab, "D", FLT_PREOP_DISALLOW_FASTIO, irp)})
            await transfer(lab, "read")

        return run(script).code

    assert program(careful=True) is None
    assert program(careful=False) == "disallow-fastio-non-fastio"


@pytest.mark.rule("FLT-PRE-23")
@pytest.mark.parametrize("status", [STATUS_FLT_DISALLOW_FAST_IO, STATUS_ACCESS_DENIED])
def test_the_status_of_disallowed_fast_io_is_not_the_drivers_to_set(status: int) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not FLT_IS_FASTIO_OPERATION(Data):
                return NO
            Data.IoStatus.Status = status
            return FLT_PREOP_DISALLOW_FASTIO

        await lab.filter("D", MIDDLE, {IRP_MJ_READ: (pre, None)})
        return await transfer(lab, "read")

    one = run(script)
    # Advice: the filter manager sets the status itself, and the read comes back all the same.
    assert (one.code, one.warnings, one.result) == (None, ("disallow-fastio-status",), RESULTS["read"])


Body = Callable[[FLT_CALLBACK_DATA], Awaitable[Any]]


@pytest.mark.rule("FLT-FAST-03", "FLT-PRE-19", "FLT-WORK-02")
@pytest.mark.parametrize(("gives_up", "code"), [(True, None), (False, "pend-non-irp")])
def test_fast_io_cannot_be_queued_or_pended(gives_up: bool, code: str | None) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            status = await queue(Data, resumes(NO))
            assert status == STATUS_FLT_NOT_SAFE_TO_POST_OPERATION
            assert not await FltIsIoCanceled(Data)
            return NO if gives_up else FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        return await transfer(lab, "read")

    one = run(script)
    assert one.code == code
    if gives_up:
        assert one.result == RESULTS["read"]


@pytest.mark.rule("FLT-FAST-05", "FLT-PRE-19", "FLT-PRE-22")
def test_a_filter_that_pends_disallows_fast_io_first() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if FLT_IS_FASTIO_OPERATION(Data):
                return FLT_PREOP_DISALLOW_FASTIO
            assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        return await transfer(lab, "read")

    assert {(one.code, one.result) for one in all_runs(script)} == {(None, RESULTS["read"])}


@pytest.mark.rule("FLT-RACE-63", "FLT-FAST-05")
def test_other_operations_between_the_two_attempts() -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("D", MIDDLE, {IRP_MJ_READ: noting(lab, "D", FLT_PREOP_DISALLOW_FASTIO, NO)})
        file = await lab.quiet_open()

        async def reader() -> bytes:
            return (await file.read(4, fast=True))[1]

        async def writer() -> None:
            await file.write(b"abcd")
            lab.note("written")

        return (await lab.together(reader(), writer()))[0]

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert orders(runs) == {
        ("written", "D.pre.fast", "D.pre.irp"),
        ("D.pre.fast", "written", "D.pre.irp"),
        ("D.pre.fast", "D.pre.irp", "written"),
    }
    between = [one for one in runs if one.order == ["D.pre.fast", "written", "D.pre.irp"]]
    assert {one.result for one in between} == {b"abcd"}
    assert {one.result for one in runs} == {b"0123", b"abcd"}


@pytest.mark.rule("FLT-RACE-63")
@pytest.mark.parametrize(
    ("counts", "warned"),
    [
        # In the one place where all requests come by.
        ("everything", True),
        # Only what it does not refuse.
        ("what goes on", False),
        # What is under way: up before and down after.
        ("under way", False),
    ],
)
@pytest.mark.parametrize("others", [False, True])
def test_a_request_that_comes_twice_is_counted_once(counts: str, warned: bool, others: bool) -> None:
    async def script(lab: Lab) -> Any:
        counter = LONG(0)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            refused = FLT_IS_FASTIO_OPERATION(Data)
            lab.note("fast" if refused else "irp")
            if counts != "what goes on" or not refused:
                await InterlockedIncrement(counter)
            if refused:
                if counts == "under way":
                    await InterlockedDecrement(counter)
                return FLT_PREOP_DISALLOW_FASTIO
            return WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if counts == "under way":
                await InterlockedDecrement(counter)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("D", MIDDLE, {IRP_MJ_READ: (pre, post)})
        file = await lab.quiet_open()

        async def reads() -> None:
            await file.read(4, fast=True)

        async def reads_too() -> None:
            await file.read(4)
            lab.note("other")

        await lab.together(reads(), *([reads_too()] if others else []))

    runs = all_runs(script, bound=1) if others else [run(script)]
    assert codes(runs) == {None}
    assert {one.warnings for one in runs} == {("double-count",) if warned else ()}
    if others:
        after = {one.notes[one.index("fast") + 1].thread for one in runs}
        assert after == {"reads", "reads_too"}
