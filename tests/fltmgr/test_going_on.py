"""How a run goes on after an illegal result, where the settings say that it does; and what never ends at all."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes, queue, resumes, resumes_post, run

from kemu.io.request import FAST_IO_OPERATION, IRP_OPERATION
from kemu.verifier.settings import parse_settings
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_DISALLOW_FSFILTER_IO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
    FltDoCompletionProcessingWhenSafe,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_PENDING, STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from kemu.wdk.wdm import (
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_PAGING_IO,
    NTSTATUS,
    Executive,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
)

NO, WITH = FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SUCCESS_WITH_CALLBACK
FINISHED, MORE = FLT_POSTOP_FINISHED_PROCESSING, FLT_POSTOP_MORE_PROCESSING_REQUIRED
ALL = ["T.pre", "M.pre", "B.pre", "B.post", "M.post", "T.post"]
UNSEEN = [what for what in ALL if what != "M.post"]


def ignoring(lab: Lab, code: str) -> None:
    """From now on a violation of *code* is noted, and the run goes on."""
    lab.verifier.settings = parse_settings(None, [f"{code}=ignore"])


async def stack(lab: Lab, pre: Any, post: Any, major: int = IRP_MJ_READ) -> None:
    await lab.recorder("T", UPPER, major)
    await lab.filter("M", MIDDLE, {major: (pre, post)})
    await lab.recorder("B", LOWER, major)


@pytest.mark.rule("FLT-PRE-02", "FLT-PRE-19", "FLT-PRE-20", "FLT-PRE-24")
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (9, IRP_OPERATION, "preop-unknown-status"),
        (None, IRP_OPERATION, "preop-unknown-status"),
        (FLT_PREOP_PENDING, FAST_IO_OPERATION, "pend-non-irp"),
        (FLT_PREOP_DISALLOW_FASTIO, IRP_OPERATION, "disallow-fastio-non-fastio"),
        (FLT_PREOP_DISALLOW_FSFILTER_IO, IRP_OPERATION, "disallow-fsfilter-wrong-major"),
    ],
)
def test_after_an_illegal_result_the_operation_is_passed_down(status: Any, kind: int, code: str) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        ignoring(lab, code)
        file = await lab.quiet_open()
        await stack(lab, lab.pre("M", status), lab.post("M"))
        return (await lab.send(lab.request(file, IRP_MJ_READ, kind=kind, Length=1))).status

    one = run(script)
    assert (one.code, one.warnings, one.order, one.result) == (None, (code,), UNSEEN, STATUS_SUCCESS)


@pytest.mark.rule("FLT-PRE-09", "FLT-PRE-10", "FLT-PRE-11")
@pytest.mark.parametrize(
    ("status", "major", "code", "expected"),
    [
        (None, IRP_MJ_READ, "complete-without-status", STATUS_UNSUCCESSFUL),
        (STATUS_PENDING, IRP_MJ_READ, "complete-bad-status", STATUS_UNSUCCESSFUL),
        (STATUS_ACCESS_DENIED, IRP_MJ_CLEANUP, "cleanup-close-failed", STATUS_SUCCESS),
    ],
)
def test_after_a_forbidden_status(status: NTSTATUS | None, major: int, code: str, expected: NTSTATUS) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if status is not None:
                Data.IoStatus.Status = status
            return FLT_PREOP_COMPLETE

        ignoring(lab, code)
        file = await lab.quiet_open()
        await stack(lab, pre, None, major)
        return (await lab.send(lab.request(file, major, Length=1))).status

    one = run(script)
    assert (one.code, one.warnings, one.result) == (None, (code,), expected)


@pytest.mark.rule("FLT-POST-06", "FLT-POST-09", "FLT-POST-10", "FLT-POST-27")
@pytest.mark.parametrize(
    ("status", "kind", "queues", "code"),
    [
        (9, IRP_OPERATION, False, "postop-unknown-status"),
        (MORE, FAST_IO_OPERATION, False, "postpend-non-irp"),
        (FLT_POSTOP_DISALLOW_FSFILTER_IO, IRP_OPERATION, False, "disallow-fsfilter-wrong-major"),
        (MORE, IRP_OPERATION, True, "postpend-orphan"),
    ],
)
def test_after_an_illegal_result_completion_goes_on(status: Any, kind: int, queues: bool, code: str) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> Any:
            lab.note("M.post")
            if queues:
                # Paging I/O is not posted.
                assert await queue(Data, resumes_post) != STATUS_SUCCESS
            return status

        ignoring(lab, code)
        file = await lab.quiet_open()
        await stack(lab, lab.pre("M"), post)
        flags = IRP_PAGING_IO if queues else 0
        return (await lab.send(lab.request(file, IRP_MJ_READ, kind=kind, flags=flags, Length=1))).status

    one = run(script)
    assert (one.code, one.warnings, one.order, one.result) == (None, (code,), ALL, STATUS_SUCCESS)


@pytest.mark.rule("FLT-PEND-10", "FLT-WORK-06")
@pytest.mark.parametrize("phase", ["pre", "post"])
def test_what_was_handed_over_stays_handed_over(phase: str) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if phase == "pre":
                assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
                return NO
            return WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            assert await queue(Data, resumes_post) == STATUS_SUCCESS
            return FINISHED

        ignoring(lab, "pend-not-returned")
        file = await lab.quiet_open()
        await stack(lab, pre, post)
        return (await file.read(1))[0]

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {(one.result, one.order.count("T.post")) for one in runs} == {(STATUS_SUCCESS, 1)}


@pytest.mark.rule("FLT-POST-20", "FLT-POST-21")
@pytest.mark.parametrize("flags", [0, IRP_PAGING_IO])
def test_what_was_posted_stays_posted(flags: int) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        async def safe(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            return FINISHED

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            done, _ = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, safe)
            return FINISHED if done else MORE

        ignoring(lab, "whensafe-false-ignored" if flags else "whensafe-status-ignored")
        file = await lab.quiet_open()
        await stack(lab, lab.pre("M"), post)
        return (await lab.send(lab.request(file, IRP_MJ_READ, flags=flags, Length=1))).status

    runs: list[Run] = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {(one.result, one.order.count("T.post")) for one in runs} == {(STATUS_SUCCESS, 1)}


# What never ends, or is done by those who should not be there any more.


@pytest.mark.rule("FLT-INST-28", "FLT-UNLOAD-11")
@pytest.mark.parametrize("unloads", [False, True])
def test_a_callback_that_waits_for_ever(unloads: bool) -> None:
    async def script(lab: Lab) -> None:
        never = lab.event("Never")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await KeWaitForSingleObject(never, Executive, KernelMode, False, None)
            return NO

        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})

        async def reader() -> None:
            await file.read(1)

        lab.start("reader", reader())
        await lab.sleep(1)
        if unloads:
            await loaded.unload()

    one = run(script)
    # Who waits, for what, and behind whom.
    assert one.code == ("teardown-hang" if unloads else "ke.hang")
    assert "Never" in one.finding.detail
    assert "reader" in one.finding.detail


def test_a_callback_that_spins_for_ever() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            while True:
                await lab.sleep(1)

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await (await lab.quiet_open()).read(1)

    one = run(script, max_steps=500)
    assert one.code == "ke.step-limit"
    assert "script" in one.finding.detail


@pytest.mark.rule("FLT-CBD-18", "FLT-PEND-02")
def test_callback_data_that_are_kept_after_their_completion() -> None:
    async def script(lab: Lab, again: str) -> None:
        kept: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            return FLT_PREOP_PENDING

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open(overlapped=True)
        pending = await file.begin_read(1)
        Data = kept[0]
        await FltCompletePendedPreOperation(Data, NO, None)
        await pending.wait()
        if again == "reads":
            lab.note("length", Data.Iopb.Parameters.Length)
        elif again == "writes":
            Data.IoStatus.Status = STATUS_SUCCESS
        else:
            await FltCompletePendedPreOperation(Data, NO, None)

    for again, code in (
        ("reads", "cbd-use-after-release"),
        ("writes", "cbd-use-after-release"),
        ("completes", "pend-double-complete"),
    ):
        one = run(lambda lab, again=again: script(lab, again))
        assert one.code == code
        assert one.finding.detail.startswith("script")


@pytest.mark.rule("FLT-ORD-07", "FLT-UNLOAD-11")
def test_an_unload_waits_for_programs_that_are_inside() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("in")
            await lab.sleep(60)
            lab.note("out")
            return NO

        file = await lab.quiet_open()
        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})

        async def reader() -> None:
            assert (await file.read(1))[0] == STATUS_SUCCESS

        async def admin() -> None:
            assert await loaded.unload() == STATUS_SUCCESS
            lab.note("unloaded")

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("unloaded",), ("in", "out", "unloaded")}


# What a teardown drains.


@pytest.mark.rule("FLT-INST-24", "FLT-POST-03", "FLT-ORD-03")
@pytest.mark.parametrize("kind", [IRP_OPERATION, FAST_IO_OPERATION])
@pytest.mark.parametrize("drains", [False, True])
def test_whether_creates_and_fast_io_are_drained_is_an_option(kind: int, drains: bool) -> None:
    async def script(lab: Lab) -> NTSTATUS:
        major = IRP_MJ_CREATE if kind == IRP_OPERATION else IRP_MJ_READ
        file = await lab.quiet_open()
        go = lab.event("Go")

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("M.post", Flags)
            return FINISHED

        async def waits(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("below")
            await KeWaitForSingleObject(go, Executive, KernelMode, False, None)
            return NO

        await lab.filter("T", UPPER, {major: (lab.pre("T"), lab.post("T"))})
        loaded = await lab.filter("M", MIDDLE, {major: (lab.pre("M"), post)})
        await lab.filter("B", LOWER, {major: (waits, None)})

        async def program() -> NTSTATUS:
            if kind == IRP_OPERATION:
                return (await lab.app.create(r"\b"))[0]
            return (await lab.send(lab.request(file, major, kind=kind, Length=1))).status

        async def admin() -> None:
            await loaded.detach()
            lab.note("gone")

        started = lab.start("program", program())
        await lab.sleep(1)
        detaching = lab.start("admin", admin())
        await lab.sleep(1)
        lab.note("go on")
        await KeSetEvent(go, 0, False)
        await detaching.join()
        return await started.join()

    one = run(script, drain_creates=drains, drain_fast_io=drains)
    assert (one.code, one.result) == (None, STATUS_SUCCESS)
    assert one.note("M.post").value == int(drains)
    assert one.note("M.post").thread == ("admin" if drains else "program")
    # The teardown is over when it has drained the operation, which ends as ever for everybody else.
    assert one.before("gone", "go on") is drains
    assert one.before("M.post", "go on") is drains
    assert one.note("T.post").thread == "program"
