"""The I/O manager: waiting, cancelling, falling back from fast I/O, closing."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.io.constants import IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_READ
from kemu.io.manager import IoManager
from kemu.io.request import FAST_IO_OPERATION
from kemu.wdk.fltkernel import FLT_PREOP_DISALLOW_FASTIO, FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import IoAcquireCancelSpinLock, IoReleaseCancelSpinLock


def test_a_request_can_be_issued_and_waited_for_later() -> None:
    async def script(lab: Lab) -> list[object]:
        file = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(3)
        before = read.request.done
        return [before, await read.wait(), await read.wait(), read.request.buffer]

    runs = {tuple(one.result) for one in all_runs(script, completion="later")}
    assert {one[1:] for one in runs} == {(STATUS_SUCCESS, STATUS_SUCCESS, b"012")}
    assert {one[0] for one in runs} == {False}
    assert run(script, completion="inline").result[0] is True


def test_what_is_waited_for_is_not_outstanding_any_more() -> None:
    async def script(lab: Lab) -> list[int]:
        manager = lab.system.get(IoManager)
        file = await lab.open(overlapped=True)
        read = await file.begin_read(3)
        counts = [len(manager.outstanding)]
        await read.wait()
        counts.append(len(manager.outstanding))
        await file.read(3)
        return [*counts, len(manager.outstanding)]

    assert run(script).result == [1, 0, 0]


def test_closing_a_handle_sends_a_cleanup_and_then_a_close() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: Any, FltObjects: Any) -> int:
            lab.note(str(Data.Iopb.MajorFunction))
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        majors = (IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE)
        await lab.filter("D", "1", dict.fromkeys(majors, (pre, None)))
        await (await lab.open()).close()

    assert run(script).order == [str(IRP_MJ_CREATE), str(IRP_MJ_CLEANUP), str(IRP_MJ_CLOSE)]


@pytest.mark.rule("FLT-FAST-05")
def test_disallowed_fast_io_is_tried_again_as_an_irp() -> None:
    async def script(lab: Lab) -> bytes:
        async def pre(Data: Any, FltObjects: Any) -> int:
            fast = Data.Flags & FAST_IO_OPERATION
            lab.note("fast" if fast else "irp")
            return FLT_PREOP_DISALLOW_FASTIO if fast else FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        return (await (await lab.open()).read(2, fast=True))[1]

    one = run(script)
    assert one.order == ["fast", "irp"]
    assert one.result == b"01"


def test_cancelling_tells_whether_somebody_was_told_and_only_the_first_time() -> None:
    async def script(lab: Lab) -> list[bool]:
        file = await lab.open(overlapped=True)
        read = await file.begin_read(1)

        async def routine() -> None:
            lab.note("cancelled")

        read.request.cancel.routine = routine
        results = [await read.cancel()]
        read.request.cancel.routine = routine
        results.append(await read.cancel())
        return results

    async def nobody(lab: Lab) -> list[bool]:
        file = await lab.open(overlapped=True)
        read = await file.begin_read(1)
        return [await read.cancel(), read.request.cancel.requested]

    runs = all_runs(script, completion="later")
    assert {(tuple(one.result), tuple(one.order)) for one in runs} == {
        ((True, False), ("cancelled",)),
        ((False, False), ()),
    }
    assert {tuple(one.result) for one in all_runs(nobody, completion="later")} == {(False, True), (False, False)}


def test_a_request_that_is_complete_cannot_be_cancelled() -> None:
    async def script(lab: Lab) -> tuple[bool, bool]:
        file = await lab.open(overlapped=True)
        read = await file.begin_read(1)
        return await read.cancel(), read.request.cancel.requested

    assert run(script).result == (False, False)


def test_cancelling_a_handle_cancels_what_is_outstanding_on_it_and_nothing_else() -> None:
    async def script(lab: Lab) -> list[object]:
        lab.completes("inline")
        mine, other = await lab.open(overlapped=True), await lab.open(overlapped=True)
        told: list[str] = []
        reads: dict[str, Any] = {}
        done = await mine.begin_read(1)
        lab.completes("later")
        for name, file in (("one", mine), ("two", mine), ("other", other)):
            reads[name] = await file.begin_read(1)

            async def routine(name: str = name) -> None:
                told.append(name)

            reads[name].request.cancel.routine = routine
        return [await mine.cancel_all(), told, done.request.cancel.requested]

    assert run(script).result == [2, ["one", "two"], False]


@pytest.mark.rule("FLT-CANCEL-07")
def test_the_cancel_spin_lock_keeps_cancellation_out() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open(overlapped=True)
        lab.completes("later")
        read = await file.begin_read(1)

        async def holder() -> None:
            irql = await IoAcquireCancelSpinLock()
            before = read.request.cancel.requested
            await lab.step("under the lock")
            lab.check(read.request.cancel.requested == before, "cancelled under the cancel spin lock")
            await IoReleaseCancelSpinLock(irql)

        async def canceller() -> None:
            await read.cancel()

        await lab.together(holder(), canceller())

    assert codes(all_runs(script, bound=2)) == {None}
