"""What the filter manager guarantees about order, and the races it must be able to bring about (section 21)."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes, orders, queue, run, sample

from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    ExAllocatePool2,
    Executive,
    ExFreePoolWithTag,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    Structure,
    sizeof,
)

WITH, NO, SYNC, COMPLETE, PENDING = (
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
)

# What a filter does with an operation: in its preoperation, and whether it pends its postoperation.
PRES = {"with": (WITH, False), "no": (NO, False), "sync": (SYNC, False), "complete": (COMPLETE, False)}
PENDS = {"pend with": (WITH, True), "pend no": (NO, True), "pend complete": (COMPLETE, True)}
BEHAVIOURS = {**PRES, **PENDS}


async def behave(lab: Lab, name: str, altitude: str, major: int, behaviour: str, *, pends_post: bool) -> None:
    """Load a filter that does as *behaviour* says and notes begin and end of its two phases.

    A phase ends when the operation is given back: by the callback's return, or by the resumption.
    """
    status, pends = BEHAVIOURS[behaviour]

    def finish(Data: FLT_CALLBACK_DATA) -> None:
        if status == COMPLETE:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
        lab.note(f"{name}.pre ends")

    async def resume(Data: FLT_CALLBACK_DATA) -> None:
        finish(Data)
        await FltCompletePendedPreOperation(Data, status, None)

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        lab.note(f"{name}.pre")
        if pends:
            assert await queue(Data, resume) == STATUS_SUCCESS
            return PENDING
        finish(Data)
        return status

    async def resume_post(Data: FLT_CALLBACK_DATA) -> None:
        lab.note(f"{name}.post ends")
        await FltCompletePendedPostOperation(Data)

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        lab.note(f"{name}.post")
        if pends_post:
            assert await queue(Data, resume_post) == STATUS_SUCCESS
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED
        lab.note(f"{name}.post ends")
        return FLT_POSTOP_FINISHED_PROCESSING

    await lab.filter(name, altitude, {major: (pre, post)})


def expected(behaviours: dict[str, str]) -> list[str]:
    """The one order of phases that the filter manager allows."""
    down: list[str] = []
    up: list[str] = []
    for name, behaviour in behaviours.items():
        down += [f"{name}.pre", f"{name}.pre ends"]
        status, _ = BEHAVIOURS[behaviour]
        if status == COMPLETE:
            break
        if status in {WITH, SYNC}:
            up[:0] = [f"{name}.post", f"{name}.post ends"]
    return down + up


def check_threads(one: Run, behaviours: dict[str, str], major: int) -> None:
    resumed = False
    for name, behaviour in behaviours.items():
        if f"{name}.pre" not in one.order:
            break
        _, pends = BEHAVIOURS[behaviour]
        pre = one.note(f"{name}.pre")
        # Down to the first that pends, in the originator's thread; below, in the thread that resumed it.
        assert (pre.thread == "script") == (not resumed)
        assert pre.irql == PASSIVE_LEVEL
        if f"{name}.post" in one.order:
            post = one.note(f"{name}.post")
            if major == IRP_MJ_CREATE:
                assert (post.thread, post.irql) == ("script", PASSIVE_LEVEL)
                assert (pre.thread == post.thread) == (not resumed)
            elif behaviour == "sync":
                assert (post.thread, post.irql) == (pre.thread, PASSIVE_LEVEL)
        resumed |= pends


@pytest.mark.rule("FLT-ORD-01", "FLT-ORD-02", "FLT-ORD-03", "FLT-ORD-04", "FLT-ORD-05", "FLT-STACK-01", "FLT-STACK-08")
@pytest.mark.parametrize("major", [IRP_MJ_CREATE, IRP_MJ_READ])
@pytest.mark.parametrize("pends_post", [False, True])
@pytest.mark.parametrize("upper", BEHAVIOURS)
def test_the_phases_of_an_operation_come_in_one_order(major: int, pends_post: bool, upper: str) -> None:
    for lower in BEHAVIOURS:
        behaviours = {"A": upper, "B": lower}

        async def script(lab: Lab, behaviours: dict[str, str] = behaviours) -> None:
            file = await lab.quiet_open()
            for (name, behaviour), altitude in zip(behaviours.items(), (UPPER, LOWER), strict=True):
                await behave(lab, name, altitude, major, behaviour, pends_post=pends_post)
            if major == IRP_MJ_CREATE:
                await lab.app.create(r"\b")
            else:
                await file.read(1)
            lab.note("done")

        runs = all_runs(script, bound=1, completion="explore")
        assert codes(runs) == {None}, behaviours
        assert orders(runs) == {(*expected(behaviours), "done")}, behaviours
        for one in runs:
            check_threads(one, behaviours, major)


@pytest.mark.rule("FLT-ORD-01", "FLT-ORD-04", "FLT-ORD-05")
def test_the_same_for_three_filters_and_random_schedules() -> None:
    combinations = list(product(BEHAVIOURS, BEHAVIOURS, BEHAVIOURS))

    async def script(lab: Lab) -> None:
        which = lab.choose(len(combinations), "behaviours")
        major = IRP_MJ_CREATE if lab.choose(2, "major") else IRP_MJ_READ
        pends_post = bool(lab.choose(2, "pends posts"))
        lab.note("chosen", (which, major))
        file = await lab.quiet_open()
        for name, behaviour, altitude in zip("ABC", combinations[which], (UPPER, MIDDLE, LOWER), strict=True):
            await behave(lab, name, altitude, major, behaviour, pends_post=pends_post)
        if major == IRP_MJ_CREATE:
            await lab.app.create(r"\b")
        else:
            await file.read(1)
        lab.note("done")

    seen: set[int] = set()
    for one in sample(script, 1500, completion="explore"):
        chosen: tuple[int, int] = one.notes[0].value
        which, major = chosen
        seen.add(which)
        behaviours = dict(zip("ABC", combinations[which], strict=True))
        assert one.code is None
        assert one.order[1:] == [*expected(behaviours), "done"]
        check_threads(one, behaviours, major)
    assert len(seen) > 200


@pytest.mark.rule("FLT-ORD-05")
def test_a_synchronising_thread_does_nothing_else_in_between() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        await behave(lab, "A", UPPER, IRP_MJ_READ, "sync", pends_post=False)
        await behave(lab, "B", LOWER, IRP_MJ_READ, "pend with", pends_post=False)

        async def reader() -> None:
            await file.read(1)
            lab.note("next")

        await lab.together(reader(), reader())

    for one in sample(script, 400, completion="explore"):
        assert one.code is None
        for thread in ("reader", "reader#2"):
            mine = [note.what for note in one.notes if note.thread == thread]
            # B's preoperation runs in it, and B's postoperation only if the completion finds its way here.
            assert [what for what in mine if what[0] != "B"] == [
                "A.pre", "A.pre ends", "A.post", "A.post ends", "next",
            ]  # fmt: skip


@pytest.mark.rule("FLT-ORD-02")
def test_a_post_operation_before_its_preoperation_has_returned_only_if_it_pended() -> None:
    async def script(lab: Lab, pends: bool) -> None:
        async def resume(Data: FLT_CALLBACK_DATA) -> None:
            await FltCompletePendedPreOperation(Data, WITH, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            status = WITH
            if pends:
                assert await queue(Data, resume) == STATUS_SUCCESS
                status = PENDING
            lab.note("returns")
            return status

        file = await lab.quiet_open()
        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, lab.post("A"))})
        await file.read(1)

    assert orders(all_runs(lambda lab: script(lab, False), completion="explore")) == {("returns", "A.post")}
    pended = orders(all_runs(lambda lab: script(lab, True), completion="explore"))
    assert pended == {("returns", "A.post"), ("A.post", "returns")}


@pytest.mark.rule("FLT-ORD-14")
def test_two_operations_have_no_order() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> tuple[int, int]:
            which = Data.Iopb.Parameters.Length
            lab.note(f"pre {which}")
            return WITH, which

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note(f"post {Context}")
            return FLT_POSTOP_FINISHED_PROCESSING

        file = await lab.quiet_open()
        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, post)})

        async def reader(which: int) -> None:
            await file.read(which)

        lab.start("one", reader(1))
        lab.start("two", reader(2))

    runs = all_runs(script)
    # Every shuffle of two sequences of two: 4! / (2! 2!).
    assert codes(runs) == {None}
    assert len(orders(runs)) == 6


@pytest.mark.rule("FLT-RACE-05")
def test_below_a_resumption_the_process_is_another_one() -> None:
    async def script(lab: Lab) -> None:
        async def resume(Data: FLT_CALLBACK_DATA) -> None:
            await FltCompletePendedPreOperation(Data, NO, None)

        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resume) == STATUS_SUCCESS
            return PENDING

        def where(name: str) -> Any:
            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                process = current_kthread().process
                assert process is not None
                lab.note(name, process.label)
                return NO

            return pre

        await lab.filter("A", UPPER, {IRP_MJ_CREATE: (where("above"), None)})
        await lab.filter("P", MIDDLE, {IRP_MJ_CREATE: (pend, None)})
        await lab.filter("B", LOWER, {IRP_MJ_CREATE: (where("below"), None)})

        async def opener() -> None:
            await lab.open()

        await lab.together(opener(), process=lab.app)

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {(one.note("above").value, one.note("below").value) for one in runs} == {("app", "System")}


class Shared(Structure):
    """What a filter's preoperation shares with a thread of its own."""

    Count: int


@pytest.mark.rule("FLT-RACE-09")
@pytest.mark.parametrize("waits", [False, True])
def test_a_context_that_the_post_operation_frees_while_a_worker_uses_it(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        go, done = lab.event("go"), lab.event("done")
        shared: list[Any] = []

        async def worker() -> None:
            await KeWaitForSingleObject(go, Executive, KernelMode, False, None)
            shared[0].Count += 1
            lab.note("used")
            await KeSetEvent(done, 0, False)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Shared), "Shar")
            shared.append(block)
            await KeSetEvent(go, 0, False)
            return SYNC, block

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if waits:
                await KeWaitForSingleObject(done, Executive, KernelMode, False, None)
            await ExFreePoolWithTag(Context, "Shar")
            lab.note("freed")
            return FLT_POSTOP_FINISHED_PROCESSING

        file = await lab.quiet_open()
        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, post)})

        async def reader() -> None:
            await file.read(1)

        await lab.together(reader(), worker())

    runs = all_runs(script, bound=2)
    if waits:
        assert codes(runs) == {None}
        assert orders(runs) == {("used", "freed")}
    else:
        assert codes(runs) == {None, "ke.use-after-free"}
        assert {one.order[0] for one in runs} == {"used", "freed"}


@pytest.mark.rule("FLT-RACE-08")
def test_a_file_system_that_completes_inline_nests_the_post_operation_in_the_originators_call() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open(overlapped=True)
        await lab.recorder("A", UPPER)
        pending = await file.begin_read(1)
        lab.note("issued")
        await pending.wait()

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert orders(runs) == {("A.pre", "A.post", "issued"), ("A.pre", "issued", "A.post")}
    for one in runs:
        assert (one.note("A.post").thread == "script") == one.before("A.post", "issued")


def test_the_plain_run_is_the_simple_one() -> None:
    """First looks: nothing is preempted, nothing completes later."""

    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        await behave(lab, "A", UPPER, IRP_MJ_READ, "pend with", pends_post=False)
        await file.read(1)

    one = run(script, completion="explore")
    assert (one.code, one.order) == (None, expected({"A": "pend with"}))
