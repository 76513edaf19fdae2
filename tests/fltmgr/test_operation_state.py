"""What callback data and related objects hold beside the parameters, and who asked for an operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes, queue, resumes, run

from kemu.io.request import FAST_IO_OPERATION, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IO_PARAMETER_BLOCK,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FltCancelFileOpen,
    FltCompletePendedPreOperation,
    FltGetRequestorProcess,
    FltGetRequestorProcessId,
    FltGetRequestorSessionId,
    FltRequestOperationStatusCallback,
    FltSetCallbackDataDirty,
)
from kemu.wdk.ntifs import FSRTL_CACHE_TOP_LEVEL_IRP, IoThreadToProcess
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_PENDING,
    STATUS_REPARSE,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    NTSTATUS,
    POOL_FLAG_NON_PAGED,
    ExAllocatePool2,
    ExFreePoolWithTag,
    IoGetTopLevelIrp,
    IoSetTopLevelIrp,
    PsGetCurrentProcess,
)

WITH, NO, SYNC = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SYNCHRONIZE
FINISHED = FLT_POSTOP_FINISHED_PROCESSING
Look = Callable[[FLT_CALLBACK_DATA], Awaitable[None]]


def seen_by(look: Callable[[FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS], Any], *, post: bool = False) -> Run:
    """The plain run in which a filter looks at a read in its pre-operation callback, or in the other one."""

    async def script(lab: Lab) -> Any:
        got: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not post:
                got.append(look(Data, FltObjects))
            return WITH

        async def after(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if post:
                got.append(look(Data, FltObjects))
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, after)})
        await (await lab.quiet_open()).read(1)
        return got[0]

    return run(script)


# FltObjects and Data.


@pytest.mark.rule("FLT-CBD-25", "FLT-STACK-10")
def test_without_a_transaction_its_context_means_nothing() -> None:
    one = seen_by(lambda d, o: (o.Transaction, o.TransactionContext, o.Size))
    assert one.result[0] is None
    # Not 0, which a driver might take for the context of a file without versions.
    assert one.result[1] != 0
    assert one.result[2] == 48
    assert seen_by(lambda d, o: setattr(o, "TransactionContext", 0)).code == "relobj-write"


@pytest.mark.rule("FLT-CBD-23")
@pytest.mark.parametrize("has_thread", [True, False])
def test_an_operation_need_not_have_a_thread(has_thread: bool) -> None:
    async def script(lab: Lab) -> Any:
        got: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            process = FltGetRequestorProcess(Data)
            got.extend([Data.Thread, process, FltGetRequestorProcessId(Data), FltGetRequestorSessionId(Data)])
            return NO

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open()
        request = lab.request(file, IRP_MJ_READ, Length=1)
        if not has_thread:
            request.thread = None
        await lab.send(request)
        return [got[0] is None, got[1] is None, got[2] == 0, got[3]]

    one = run(script)
    assert one.code is None
    expected = [False, False, False, (STATUS_SUCCESS, 0)]
    assert one.result == (expected if has_thread else [True, True, True, (STATUS_UNSUCCESSFUL, 0)])


@pytest.mark.rule("FLT-CBD-23", "FLT-STACK-08", "FLT-RACE-05")
def test_who_asked_is_not_who_carries_it_on() -> None:
    async def script(lab: Lab) -> Any:
        got: dict[str, bool] = {}

        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes()) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            requestor = FltGetRequestorProcess(Data)
            assert requestor is not None
            got["requestor"] = requestor is lab.app.process
            got["thread"] = IoThreadToProcess(Data.Thread) is requestor  # type: ignore[arg-type]
            got["current"] = PsGetCurrentProcess() is requestor
            got["id"] = FltGetRequestorProcessId(Data) == lab.app.process.pid
            got["session"] = FltGetRequestorSessionId(Data) == (STATUS_SUCCESS, 1)
            return NO

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pend, lab.post("A"))})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        await lab.together(reader(), process=lab.app)
        return got

    one = run(script)
    assert one.result == {"requestor": True, "thread": True, "current": False, "id": True, "session": True}


@pytest.mark.rule("FLT-WORK-15")
def test_a_top_level_irp_belongs_to_its_thread() -> None:
    async def script(lab: Lab) -> Any:
        got: list[Any] = []
        marker = object()

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            got.append(IoGetTopLevelIrp())
            await FltCompletePendedPreOperation(Data, NO, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, work) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open()

        async def other() -> None:
            IoSetTopLevelIrp(marker)
            await lab.sleep(1)
            got.append(IoGetTopLevelIrp() is marker)

        started = lab.start("other", other())
        await lab.sleep(0.5)
        got.append(IoGetTopLevelIrp())
        await file.read(1)
        await started.join()
        IoSetTopLevelIrp(FSRTL_CACHE_TOP_LEVEL_IRP)
        got.append(IoGetTopLevelIrp())
        IoSetTopLevelIrp(None)
        return got

    assert run(script).result == [None, None, True, FSRTL_CACHE_TOP_LEVEL_IRP]


# Storage in callback data.


@pytest.mark.rule("FLT-CBD-15", "FLT-CBD-16")
@pytest.mark.parametrize(
    ("uses", "code"),
    [
        (("FilterContext",), None),
        (("QueueLinks", "QueueContext"), None),
        (("QueueLinks", "FilterContext"), "filtercontext-misuse"),
        (("FilterContext", "QueueLinks"), "filtercontext-misuse"),
        (("QueueContext", "FilterContext"), "filtercontext-misuse"),
        (("FilterContext", "QueueContext"), "filtercontext-misuse"),
    ],
)
def test_the_filter_context_lies_in_the_place_of_the_queue_members(uses: tuple[str, ...], code: str | None) -> None:
    def look(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        for use in uses:
            if use == "FilterContext":
                Data.FilterContext[3] = "mine"
                assert (len(Data.FilterContext), Data.FilterContext[3], Data.FilterContext[0]) == (4, "mine", None)
            elif use == "QueueContext":
                Data.QueueContext = "mine"
            else:
                assert Data.QueueLinks is Data.QueueLinks

    assert seen_by(look).code == code


@pytest.mark.rule("FLT-CBD-15", "FLT-PEND-13")
def test_the_filter_context_lasts_while_the_operation_is_pended_and_no_longer() -> None:
    async def script(lab: Lab, late: bool) -> Any:
        kept: list[Any] = []

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("context", Data.FilterContext[0])
            await FltCompletePendedPreOperation(Data, WITH, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            context = Data.FilterContext
            context[0] = "mine"
            kept.append(context)
            assert await queue(Data, work) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("afterwards", Data.FilterContext[0])
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        await (await lab.quiet_open()).read(1)
        return kept[0][0] if late else None

    one = run(lambda lab: script(lab, late=False))
    assert (one.code, one.note("context").value, one.note("afterwards").value) == (None, "mine", None)
    assert run(lambda lab: script(lab, late=True)).code == "filtercontext-misuse"


def reparsing(lower: Look, upper: Look, *, status: NTSTATUS = STATUS_REPARSE, unload: bool = True) -> Run:
    """A create for which the lower filter, and then the upper one, does something in post-create."""

    async def script(lab: Lab) -> None:
        def post(does: Look) -> Any:
            async def after(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
                await does(Data)
                return FINISHED

            return after

        async def fails(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await lower(Data)
            if status != STATUS_REPARSE:
                assert FltObjects.FileObject is not None
                await FltCancelFileOpen(FltObjects.Instance, FltObjects.FileObject)
            Data.IoStatus.Status = status
            return FINISHED

        above = await lab.filter("U", UPPER, {IRP_MJ_CREATE: (lab.pre("U"), post(upper))})
        below = await lab.filter("L", LOWER, {IRP_MJ_CREATE: (lab.pre("L"), fails)})
        await lab.app.create(r"\a")
        if unload:
            await above.unload()
            await below.unload()

    return run(script)


async def nothing(Data: FLT_CALLBACK_DATA) -> None:
    return None


async def tag(Data: FLT_CALLBACK_DATA) -> None:
    Data.TagData = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Tag ")


async def replace(Data: FLT_CALLBACK_DATA) -> None:
    await ExFreePoolWithTag(Data.TagData, "Tag ")
    await tag(Data)


@pytest.mark.rule("FLT-CBD-21", "FLT-CBD-22")
def test_reparse_data_of_a_create() -> None:
    assert reparsing(tag, nothing).code is None
    assert reparsing(tag, replace).code is None
    # The old buffer was not freed.
    assert reparsing(tag, tag).code == "tagdata-misuse"
    # Without STATUS_REPARSE nobody frees it.
    assert reparsing(tag, nothing, status=STATUS_ACCESS_DENIED).code == "ke.pool-leak"


@pytest.mark.rule("FLT-CBD-21")
def test_reparse_data_pass_upward() -> None:
    seen: list[bool] = []

    async def look(Data: FLT_CALLBACK_DATA) -> None:
        seen.append(Data.TagData is not None)

    assert reparsing(tag, look).code is None
    assert reparsing(nothing, look).code is None
    # Each create that is answered so comes again.
    assert dict.fromkeys(seen) == {True: None, False: None}
    assert seen == sorted(seen, reverse=True)


@pytest.mark.rule("FLT-CBD-22")
@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_reparse_data_are_for_post_create_only(post: bool, writes: bool) -> None:
    def look(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        if writes:
            Data.TagData = None
        else:
            assert Data.TagData is None

    assert seen_by(look, post=post).code == "tagdata-misuse"


@pytest.mark.rule("FLT-CBD-22")
def test_reparse_data_in_pre_create() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("tag", Data.TagData)
            return NO

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    assert run(script).code == "tagdata-misuse"


# One's own changes.


@pytest.mark.rule("FLT-CBD-10", "FLT-CBD-09")
@pytest.mark.parametrize(
    ("changes", "looks", "warns"),
    [
        ("Length", "Length", True),
        ("Length", "ByteOffset", False),
        ("Key", "Key", True),
        ("Key", "Length", False),
        ("Buffer", "Buffer", False),
        (None, "Length", False),
    ],
)
def test_looking_for_ones_own_change(changes: str | None, looks: str, warns: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if changes is not None:
                setattr(Data.Iopb.Parameters, changes, b"" if changes == "Buffer" else 3)
                FltSetCallbackDataDirty(Data)
            return WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("seen", getattr(Data.Iopb.Parameters.Read, looks))
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        await (await lab.quiet_open()).read(4)

    one = run(script)
    assert one.code is None
    assert one.warnings == (("postop-reads-own-change",) if warns else ())
    if looks == "Length":
        assert one.note("seen").value == 4


@pytest.mark.rule("FLT-CBD-10")
@pytest.mark.parametrize("member", ["MinorFunction", "IrpFlags"])
def test_looking_for_ones_own_change_of_the_block(member: str) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            setattr(Data.Iopb, member, 0x2000)
            FltSetCallbackDataDirty(Data)
            return WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("seen", getattr(Data.Iopb, member))
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        await (await lab.quiet_open()).read(4)

    assert run(script).warnings == ("postop-reads-own-change",)


# What the layer below has returned.


def asking(
    *,
    before: Any = None,
    after: Any = None,
    pre: int = WITH,
    major: int = IRP_MJ_READ,
    kind: int = IRP_OPERATION,
    pends: bool = False,
    lower: Any = None,
    completion: str = "inline",
    low_resources: bool = False,
) -> list[Run]:
    """Every run of an operation whose status M requests; notes what the request returned, and what M is told."""

    async def script(lab: Lab) -> Any:
        async def told(
            FltObjects: FLT_RELATED_OBJECTS, Iopb: FLT_IO_PARAMETER_BLOCK, Status: int, Context: Any
        ) -> None:
            lab.note("told", (Status, Iopb.Parameters.Length, Context, FltObjects.FileObject is not None))

        async def callback(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if before is not None:
                before(Data)
            lab.note("asked", await FltRequestOperationStatusCallback(Data, told, "context"))
            if after is not None:
                after(Data)
            if pends:
                assert await queue(Data, resumes(pre)) == STATUS_SUCCESS
                return FLT_PREOP_PENDING
            return pre

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("M.post")
            return FINISHED

        file = await lab.quiet_open()
        await lab.filter("M", MIDDLE, {major: (callback, post)})
        if lower is not None:
            await lab.filter("L", LOWER, {major: (lower, None)})
        request = lab.request(file, major, kind=kind, Length=4)
        return (await lab.send(request)).status

    return all_runs(script, completion=completion, low_resources=low_resources)


@pytest.mark.rule("FLT-POST-29")
@pytest.mark.parametrize("pre", [WITH, NO, SYNC])
@pytest.mark.parametrize("pends", [False, True])
def test_the_driver_is_told_what_the_layer_below_returned(pre: int, pends: bool) -> None:
    if pends and pre == SYNC:
        return
    for one in asking(pre=pre, pends=pends):
        assert one.code is None
        told = one.note("told")
        assert told.value == (STATUS_SUCCESS, 4, "context", True)
        assert told.irql <= APC_LEVEL
        # Who carries the operation on is told; without pending that is the originator.
        assert told.thread.startswith("wk:") if pends else told.thread == "script"
        if pre == WITH:
            assert one.before("M.post", "told")
        elif pre == SYNC:
            assert one.before("told", "M.post")


@pytest.mark.rule("FLT-POST-29")
def test_what_completes_later_has_returned_pending() -> None:
    runs = asking(completion="later")
    assert {one.note("told").value[0] for one in runs} == {STATUS_PENDING}
    assert {(one.note("told").thread, one.code) for one in runs} == {("script", None)}
    # Completion goes on beside it.
    assert {one.before("told", "M.post") for one in runs} == {True, False}


@pytest.mark.rule("FLT-POST-29")
def test_a_lower_filter_may_complete_or_pend_it() -> None:
    async def fails(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        return FLT_PREOP_COMPLETE

    async def pends(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
        return FLT_PREOP_PENDING

    assert {one.note("told").value[0] for one in asking(lower=fails)} == {STATUS_ACCESS_DENIED}
    assert {one.note("told").value[0] for one in asking(lower=pends)} == {STATUS_PENDING}


@pytest.mark.rule("FLT-POST-29")
def test_what_does_not_go_down_has_nothing_to_tell() -> None:
    def complete(Data: FLT_CALLBACK_DATA) -> None:
        Data.IoStatus.Status = STATUS_ACCESS_DENIED

    runs = asking(after=complete, pre=FLT_PREOP_COMPLETE)
    assert {(one.code, tuple(one.order)) for one in runs} == {(None, ("asked",))}


@pytest.mark.rule("FLT-POST-29")
@pytest.mark.parametrize(
    ("major", "kind", "status"),
    [
        (IRP_MJ_READ, IRP_OPERATION, STATUS_SUCCESS),
        (IRP_MJ_CLOSE, IRP_OPERATION, STATUS_INVALID_PARAMETER),
        (IRP_MJ_READ, FAST_IO_OPERATION, STATUS_INVALID_PARAMETER),
    ],
)
def test_what_it_may_be_asked_for(major: int, kind: int, status: NTSTATUS) -> None:
    runs = asking(major=major, kind=kind)
    assert {one.note("asked").value for one in runs} == {status}
    assert {"told" in one.order for one in runs} == {status == STATUS_SUCCESS}


@pytest.mark.rule("FLT-POST-29")
def test_it_may_be_asked_for_in_a_pre_operation_callback_only() -> None:
    async def script(lab: Lab) -> Any:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("asked", await FltRequestOperationStatusCallback(Data, post, None))  # type: ignore[arg-type]
            return FINISHED

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M"), post)})
        await (await lab.quiet_open()).read(1)

    assert run(script).note("asked").value == STATUS_INVALID_PARAMETER


@pytest.mark.rule("FLT-POST-29")
def test_asking_without_memory() -> None:
    assert {one.note("asked").value for one in asking(low_resources=True)} == {
        STATUS_SUCCESS,
        STATUS_INSUFFICIENT_RESOURCES,
    }


@pytest.mark.rule("FLT-POST-29", "FLT-INST-31", "FLT-ORD-07")
def test_asking_while_the_instance_is_torn_down() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()

        async def told(*arguments: Any) -> None:
            lab.note("told")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("asked", await FltRequestOperationStatusCallback(Data, told, None))
            return NO

        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})

        async def reader() -> None:
            await file.read(1)

        async def admin() -> None:
            await loaded.unload()
            lab.note("gone")

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=2, completion="explore")
    assert codes(runs) == {None}
    asked = [one for one in runs if "asked" in one.order]
    assert {one.note("asked").value for one in asked} == {STATUS_SUCCESS, STATUS_FLT_DELETING_OBJECT}
    # An unload waits for the callback.
    assert {one.before("told", "gone") for one in asked if "told" in one.order} == {True}


@pytest.mark.rule("FLT-POST-29", "FLT-POST-30")
@pytest.mark.parametrize("late", [False, True])
def test_the_callback_sees_the_parameters_of_the_time_of_asking(late: bool) -> None:
    def change(Data: FLT_CALLBACK_DATA) -> None:
        Data.Iopb.Parameters.Length = 2
        FltSetCallbackDataDirty(Data)

    for one in asking(before=None if late else change, after=change if late else None):
        assert one.code is None
        assert one.note("told").value[1] == (4 if late else 2)
        assert one.warnings == (("status-snapshot-stale",) if late else ())


# NULL.


@pytest.mark.rule("FLT-CBDQ-14", "FLT-RACE-13")
def test_callback_data_that_are_none() -> None:
    async def script(lab: Lab) -> None:
        await FltCompletePendedPreOperation(None, NO, None)  # type: ignore[arg-type]

    assert run(script).code == "ke.bad-pointer"

    async def wrong(lab: Lab) -> None:
        FltSetCallbackDataDirty(current_kthread())  # type: ignore[arg-type]

    assert run(wrong).code == "ke.bad-pointer"


@pytest.mark.rule("FLT-WORK-05")
def test_a_worker_may_be_done_with_everything_before_the_queueing_returns() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            # The work item frees itself before it completes the operation.
            assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
            lab.note("returned")
            return FLT_PREOP_PENDING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("T.post")
            return FINISHED

        await lab.filter("T", UPPER, {IRP_MJ_READ: (lab.pre("T"), post)})
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await (await lab.quiet_open()).read(1)

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.before("T.post", "returned") for one in runs} == {True, False}
