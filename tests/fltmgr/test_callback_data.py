"""Callback data and parameters (FLT-CBD; related objects: FLT-STACK)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import (
    LOWER,
    MIDDLE,
    UPPER,
    Lab,
    Post,
    Pre,
    Run,
    all_runs,
    codes,
    queue,
    resumes,
    resumes_post,
    run,
)

from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION, FileObject, Parameters
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_FASTIO_OPERATION,
    FLT_IS_FS_FILTER_OPERATION,
    FLT_IS_IRP_OPERATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_DIRTY,
    FLTFL_CALLBACK_DATA_FAST_IO_OPERATION,
    FLTFL_CALLBACK_DATA_FS_FILTER_OPERATION,
    FLTFL_CALLBACK_DATA_IRP_OPERATION,
    FLTFL_CALLBACK_DATA_POST_OPERATION,
    FLTFL_CALLBACK_DATA_SYSTEM_BUFFER,
    FltClearCallbackDataDirty,
    FltCompletePendedPreOperation,
    FltIsCallbackDataDirty,
    FltIsOperationSynchronous,
    FltSetCallbackDataDirty,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_END_OF_FILE, STATUS_SUCCESS
from kemu.wdk.wdm import (
    IO_STATUS_BLOCK,
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    IRP_SYNCHRONOUS_API,
    IRP_SYNCHRONOUS_PAGING_IO,
    LIST_ENTRY,
    InitializeListHead,
    InsertTailList,
)

Touch = Callable[[FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS], Any]


def pre_that(touch: Touch, status: Any = FLT_PREOP_SUCCESS_WITH_CALLBACK) -> Pre:
    """A preoperation callback that does something with its arguments and returns *status*."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        touch(Data, FltObjects)
        return status

    return pre


def post_that(touch: Touch) -> Post:
    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> Any:
        touch(Data, FltObjects)
        return FLT_POSTOP_FINISHED_PROCESSING

    return post


def read_with(pre: Touch, post: Touch | None = None, status: Any = FLT_PREOP_SUCCESS_WITH_CALLBACK) -> Run:
    """A run in which a filter's callbacks for one read do something with their arguments."""

    async def script(lab: Lab) -> tuple[int, bytes]:
        after = post_that(post) if post is not None else lab.post("A")
        await lab.filter("A", MIDDLE, {IRP_MJ_READ: (pre_that(pre, status), after)})
        return await (await lab.open()).read(4)

    return run(script)


def look(lab: Lab, name: str, touch: Touch) -> tuple[Pre, Post]:
    """A pair of callbacks that note what *touch* finds."""
    return (
        pre_that(lambda d, o: lab.note(f"{name}.pre", touch(d, o))),
        post_that(lambda d, o: lab.note(f"{name}.post", touch(d, o))),
    )


# Classes and flags.


@pytest.mark.rule("FLT-CBD-01")
def test_exactly_one_class_bit() -> None:
    async def script(lab: Lab) -> None:
        pair = look(
            lab,
            "A",
            lambda d, o: (
                d.Flags & (IRP_OPERATION | FAST_IO_OPERATION | FS_FILTER_OPERATION),
                FLT_IS_IRP_OPERATION(d), FLT_IS_FASTIO_OPERATION(d), FLT_IS_FS_FILTER_OPERATION(d),
            ),
        )  # fmt: skip
        await lab.filter("A", MIDDLE, {IRP_MJ_READ: pair, IRP_MJ_QUERY_OPEN: pair})
        file = await lab.open()
        await file.read(1)
        await file.read(1, fast=True)
        await lab.send(lab.request(file, IRP_MJ_QUERY_OPEN, kind=FS_FILTER_OPERATION))

    irp = (FLTFL_CALLBACK_DATA_IRP_OPERATION, True, False, False)
    fast = (FLTFL_CALLBACK_DATA_FAST_IO_OPERATION, False, True, False)
    filesystem = (FLTFL_CALLBACK_DATA_FS_FILTER_OPERATION, False, False, True)
    assert [note.value for note in run(script).notes] == [irp, irp, fast, fast, filesystem, filesystem]


@pytest.mark.rule("FLT-CBD-02")
def test_post_operation_is_marked() -> None:
    async def script(lab: Lab) -> None:
        pair = look(lab, "A", lambda d, o: bool(d.Flags & FLTFL_CALLBACK_DATA_POST_OPERATION))
        await lab.filter("A", MIDDLE, {IRP_MJ_READ: pair})
        await (await lab.open()).read(1)

    assert [(note.what, note.value) for note in run(script).notes] == [("A.pre", False), ("A.post", True)]


@pytest.mark.rule("FLT-CBD-03")
@pytest.mark.parametrize("bit", [FLTFL_CALLBACK_DATA_SYSTEM_BUFFER, FLTFL_CALLBACK_DATA_DIRTY])
def test_flags_are_not_the_drivers(bit: int) -> None:
    def write(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        Data.Flags |= bit

    assert read_with(write).code == "cbd-flag-write"
    assert read_with(lambda d, o: FltSetCallbackDataDirty(d)).code is None


@pytest.mark.rule("FLT-CBD-04")
@pytest.mark.parametrize("member", ["Thread", "RequestorMode"])
def test_read_only_members(member: str) -> None:
    assert read_with(lambda d, o: setattr(d, member, 0)).code == "cbd-readonly-write"
    assert read_with(lambda d, o: getattr(d, member)).code is None


@pytest.mark.rule("FLT-CBD-23", "FLT-STACK-08")
def test_thread_is_the_originator_in_whatever_thread_the_callback_runs() -> None:
    async def script(lab: Lab) -> None:
        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes()) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pend, lab.post("A"))})
        await lab.filter("B", LOWER, {IRP_MJ_READ: look(lab, "B", lambda d, o: d.Thread and d.Thread.label)})
        await (await lab.open()).read(1)

    one = run(script)
    assert one.note("B.pre").thread != "script"
    assert one.note("B.pre").value == "script"


# Changing parameters.


def shrink(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
    Data.Iopb.Parameters.Length = 2


def shrink_dirty(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
    shrink(Data, FltObjects)
    FltSetCallbackDataDirty(Data)


@pytest.mark.rule("FLT-CBD-05", "FLT-CBD-06")
def test_changes_count_when_declared() -> None:
    assert read_with(lambda d, o: None).result == (STATUS_SUCCESS, b"0123")
    declared = read_with(shrink_dirty)
    assert (declared.code, declared.result) == (None, (STATUS_SUCCESS, b"01"))
    assert read_with(shrink).code == "params-not-dirty"


@pytest.mark.rule("FLT-CBD-05")
def test_a_whole_structure_may_be_assigned() -> None:
    def assign(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        Data.Iopb.Parameters = Parameters(Length=3, ByteOffset=5)
        FltSetCallbackDataDirty(Data)

    one = read_with(assign)
    assert (one.code, one.result) == (None, (STATUS_SUCCESS, b"567"))


@pytest.mark.rule("FLT-CBD-06")
@pytest.mark.parametrize(("member", "value"), [("IrpFlags", IRP_NOCACHE), ("MinorFunction", 2)])
@pytest.mark.parametrize("dirty", [False, True])
def test_every_member_of_the_parameter_block_needs_it(member: str, value: int, dirty: bool) -> None:
    async def script(lab: Lab) -> None:
        def change(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            setattr(Data.Iopb, member, value)
            if dirty:
                FltSetCallbackDataDirty(Data)

        pre, post = look(lab, "B", lambda d, o: getattr(d.Iopb, member))
        changed = look(lab, "A", lambda d, o: getattr(d.Iopb, member))[1]
        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre_that(change), changed)})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (pre, post)})
        await (await lab.open()).read(1)

    one = run(script)
    if dirty:
        assert (one.code, [note.value for note in one.notes]) == (None, [value, value, 0])
    else:
        assert one.code == "params-not-dirty"


@pytest.mark.rule("FLT-CBD-06")
def test_a_value_that_was_put_back_is_no_change() -> None:
    def and_back(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        length = Data.Iopb.Parameters.Length
        Data.Iopb.Parameters.Length = 1
        Data.Iopb.Parameters.Length = length

    assert read_with(and_back).code is None


@pytest.mark.rule("FLT-CBD-24")
def test_the_declaration_can_be_asked_for_and_taken_back() -> None:
    asked: list[bool] = []

    def change_of_mind(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        asked.append(FltIsCallbackDataDirty(Data))
        shrink_dirty(Data, FltObjects)
        asked.append(FltIsCallbackDataDirty(Data))
        FltClearCallbackDataDirty(Data)
        asked.append(FltIsCallbackDataDirty(Data))
        Data.Iopb.Parameters.Length = 4

    one = read_with(change_of_mind)
    assert (one.code, one.result) == (None, (STATUS_SUCCESS, b"0123"))
    assert asked == [False, True, False]

    def leaves_the_change(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        shrink_dirty(Data, FltObjects)
        FltClearCallbackDataDirty(Data)

    assert read_with(leaves_the_change).code == "params-not-dirty"


@pytest.mark.rule("FLT-CBD-05")
def test_a_declaration_covers_changes_made_after_it() -> None:
    def dirty_first(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        FltSetCallbackDataDirty(Data)
        shrink(Data, FltObjects)

    one = read_with(dirty_first)
    assert (one.code, one.result) == (None, (STATUS_SUCCESS, b"01"))


@pytest.mark.rule("FLT-CBD-09")
def test_who_sees_a_change() -> None:
    async def script(lab: Lab) -> bytes:
        def length(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            return Data.Iopb.Parameters.Length

        def to(size: int) -> Touch:
            def change(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
                Data.Iopb.Parameters.Length = size
                FltSetCallbackDataDirty(Data)

            return change

        await lab.filter("top", "500000", {IRP_MJ_READ: look(lab, "top", length)})
        await lab.filter("to6", "400000", {IRP_MJ_READ: (pre_that(to(6)), look(lab, "to6", length)[1])})
        await lab.filter("mid", "300000", {IRP_MJ_READ: look(lab, "mid", length)})
        await lab.filter("to2", "200000", {IRP_MJ_READ: (pre_that(to(2)), look(lab, "to2", length)[1])})
        await lab.filter("low", "100000", {IRP_MJ_READ: look(lab, "low", length)})
        _, data = await (await lab.open()).read(8)
        return data

    one = run(script)
    assert one.result == b"01"
    # Each sees one value in both of its callbacks, and the changers see what they were given.
    assert [(note.what, note.value) for note in one.notes] == [
        ("top.pre", 8), ("mid.pre", 6), ("low.pre", 2),
        ("low.post", 2), ("to2.post", 6), ("mid.post", 6), ("to6.post", 8), ("top.post", 8),
    ]  # fmt: skip


@pytest.mark.rule("FLT-CBD-09")
def test_what_is_written_reaches_the_file_system() -> None:
    async def script(lab: Lab) -> bytes:
        def scramble(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            Data.Iopb.Parameters.Buffer = bytes(Data.Iopb.Parameters.Buffer)[::-1]
            FltSetCallbackDataDirty(Data)

        await lab.filter("A", MIDDLE, {IRP_MJ_WRITE: (pre_that(scramble, FLT_PREOP_SUCCESS_NO_CALLBACK), None)})
        file = await lab.open()
        await file.write(b"abc")
        return (await file.read(4))[1]

    assert run(script).result == b"cba3"


@pytest.mark.rule("FLT-CBD-05", "FLT-CBD-09")
@pytest.mark.parametrize("dirty", [False, True])
def test_changes_made_while_the_operation_is_pended(dirty: bool) -> None:
    async def script(lab: Lab) -> bytes:
        async def change(Data: FLT_CALLBACK_DATA) -> None:
            Data.Iopb.Parameters.Length = 2
            if dirty:
                FltSetCallbackDataDirty(Data)
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_WITH_CALLBACK, None)

        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, change) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.filter("A", MIDDLE, {IRP_MJ_READ: (pend, lab.post("A"))})
        return (await (await lab.quiet_open()).read(4))[1]

    runs = all_runs(script)
    assert codes(runs) == {None if dirty else "params-not-dirty"}
    if dirty:
        assert {one.result for one in runs} == {b"01"}


@pytest.mark.rule("FLT-CBD-07", "FLT-POST-23", "FLT-CBD-08")
def test_the_result_needs_no_declaration() -> None:
    def fail(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        Data.IoStatus.Information = 0

    completed = read_with(fail, status=FLT_PREOP_COMPLETE)
    assert (completed.code, completed.result[0]) == (None, STATUS_ACCESS_DENIED)
    in_post = read_with(lambda d, o: None, fail)
    assert (in_post.code, in_post.result[0]) == (None, STATUS_ACCESS_DENIED)


@pytest.mark.rule("FLT-CBD-07")
def test_the_result_may_be_assigned_as_a_structure() -> None:
    def fail(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        Data.IoStatus = IO_STATUS_BLOCK(STATUS_END_OF_FILE, 0)

    one = read_with(fail, status=FLT_PREOP_COMPLETE)
    assert (one.code, one.result[0]) == (None, STATUS_END_OF_FILE)


@pytest.mark.rule("FLT-CBD-08")
@pytest.mark.parametrize("status", [FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK])
def test_the_result_is_not_for_operations_that_go_on(status: int) -> None:
    def write(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        Data.IoStatus.Status = STATUS_SUCCESS

    def look(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return Data.IoStatus.Status

    assert read_with(write, status=status).code == "iostatus-wrong-place"
    assert read_with(look, status=status).code is None
    assert read_with(write, status=FLT_PREOP_COMPLETE).code is None


@pytest.mark.rule("FLT-CBD-08")
def test_the_result_is_not_for_a_worker_that_lets_the_operation_go_on() -> None:
    def program(status: int) -> set[str | None]:
        async def script(lab: Lab) -> None:
            async def work(Data: FLT_CALLBACK_DATA) -> None:
                Data.IoStatus.Status = STATUS_SUCCESS
                await FltCompletePendedPreOperation(Data, status, None)

            async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                assert await queue(Data, work) == STATUS_SUCCESS
                return FLT_PREOP_PENDING

            await lab.filter("A", MIDDLE, {IRP_MJ_READ: (pend, None)})
            await (await lab.quiet_open()).read(4)

        return codes(all_runs(script))

    assert program(FLT_PREOP_SUCCESS_NO_CALLBACK) == {"iostatus-wrong-place"}
    assert program(FLT_PREOP_COMPLETE) == {None}


@pytest.mark.rule("FLT-CBD-11")
@pytest.mark.parametrize("dirty", [False, True])
def test_the_major_function_stays(dirty: bool) -> None:
    def change(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        Data.Iopb.MajorFunction = IRP_MJ_WRITE
        if dirty:
            FltSetCallbackDataDirty(Data)

    assert read_with(change).code == "major-changed"
    assert read_with(lambda d, o: d.Iopb.MajorFunction).code is None


@pytest.mark.rule("FLT-CBD-06", "FLT-CBD-12")
@pytest.mark.parametrize("member", ["TargetFileObject", "TargetInstance"])
def test_redirecting_to_what_cannot_take_the_operation(member: str) -> None:
    def redirect(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        setattr(Data.Iopb, member, FileObject(FltObjects.Volume.volume, r"\elsewhere"))

    def redirect_dirty(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        redirect(Data, FltObjects)
        FltSetCallbackDataDirty(Data)

    assert read_with(redirect).code == "params-not-dirty"
    assert read_with(redirect_dirty).code == "bad-redirect"


# Who has control.


@pytest.mark.rule("FLT-CBD-15", "FLT-PEND-13")
def test_storage_of_the_callback_data_while_it_is_pended() -> None:
    async def script(lab: Lab) -> Any:
        head = LIST_ENTRY()
        InitializeListHead(head)

        async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            Data.QueueContext = "mine"
            InsertTailList(head, Data.QueueLinks)
            return FLT_PREOP_PENDING

        await lab.filter("A", MIDDLE, {IRP_MJ_READ: (pend, None)})
        file = await lab.open()
        pending = await lab.begin(lab.request(file, IRP_MJ_READ, Length=1))
        assert head.Flink is not None
        Data: FLT_CALLBACK_DATA = head.Flink.record
        found = (Data.QueueContext, Data.Iopb.Parameters.Length)
        await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
        await pending.wait()
        return found

    one = run(script)
    assert (one.code, one.result) == (None, ("mine", 1))


VIEWS: dict[str, Touch] = {
    "Data": lambda d, o: d.Flags,
    "Iopb": lambda d, o: d.Iopb,
    "FltObjects": lambda d, o: o.Instance,
    "QueueLinks": lambda d, o: d.QueueLinks,
}


@pytest.mark.rule("FLT-CBD-17", "FLT-CBD-18")
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("status", [FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SUCCESS_WITH_CALLBACK])
def test_nothing_may_be_touched_after_the_operation_was_passed_on(view: str, status: int) -> None:
    def program(late: bool) -> str | None:
        async def script(lab: Lab) -> None:
            kept: list[Any] = []

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                VIEWS[view](Data, FltObjects)
                kept.extend((Data, FltObjects))
                return status

            async def below(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                if late:
                    VIEWS[view](kept[0], kept[1])
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, lab.post("A"))})
            await lab.filter("B", LOWER, {IRP_MJ_READ: (below, None)})
            await (await lab.open()).read(1)

        return run(script).code

    assert program(late=True) == "cbd-use-after-release"
    assert program(late=False) is None


KEPT: dict[str, tuple[Callable[[FLT_CALLBACK_DATA], Any], Callable[[Any], Any]]] = {
    "Iopb": (lambda d: d.Iopb, lambda iopb: iopb.MajorFunction),
    "Iopb, written": (lambda d: d.Iopb, lambda iopb: setattr(iopb, "IrpFlags", 0)),
    "Parameters": (lambda d: d.Iopb.Parameters, lambda parameters: parameters.Length),
    "Parameters, written": (lambda d: d.Iopb.Parameters, lambda parameters: setattr(parameters, "Length", 1)),
    "IoStatus": (lambda d: d.IoStatus, lambda result: result.Status),
    "IoStatus, written": (lambda d: d.IoStatus, lambda result: setattr(result, "Information", 1)),
}


@pytest.mark.rule("FLT-CBD-18", "FLT-RACE-01", "FLT-WORK-06")
@pytest.mark.parametrize("what", KEPT)
@pytest.mark.parametrize("dirty", [False, True])
def test_no_part_may_be_kept_beyond_the_hand_over(what: str, dirty: bool) -> None:
    get, touch = KEPT[what]

    def program(late: bool) -> set[str | None]:
        async def script(lab: Lab) -> None:
            async def pend(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                part = get(Data)
                if not late:
                    touch(part)
                if dirty:
                    FltSetCallbackDataDirty(Data)
                assert await queue(Data, resumes(FLT_PREOP_SUCCESS_NO_CALLBACK)) == STATUS_SUCCESS
                if late:
                    touch(part)
                return FLT_PREOP_PENDING

            await lab.filter("A", MIDDLE, {IRP_MJ_READ: (pend, None)})
            await (await lab.quiet_open()).read(1)

        return codes(all_runs(script))

    # Whether it is too late depends on whether the worker was faster.
    assert "cbd-use-after-release" in program(late=True)
    if "written" not in what or dirty:
        assert program(late=False) == {None}


@pytest.mark.rule("FLT-CBD-17", "FLT-CBD-18")
def test_control_in_the_post_phase_ends_with_the_callback() -> None:
    def program(pends: bool) -> str | None:
        async def script(lab: Lab) -> None:
            kept: list[FLT_CALLBACK_DATA] = []

            async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
                kept.append(Data)
                return FLT_POSTOP_MORE_PROCESSING_REQUIRED if pends else FLT_POSTOP_FINISHED_PROCESSING

            await lab.filter("A", MIDDLE, {IRP_MJ_READ: (lab.pre("A"), post)})
            pending = await lab.begin(lab.request(await lab.open(), IRP_MJ_READ, Length=1))
            assert kept[0].IoStatus.Information == 1
            await resumes_post(kept[0])
            await pending.wait()

        return run(script).code

    assert program(pends=True) is None
    assert program(pends=False) == "cbd-use-after-release"


# Synchronous or not.


@pytest.mark.rule("FLT-CBD-19", "FLT-CBD-20")
@pytest.mark.parametrize(
    ("kind", "overlapped", "flags", "expected"),
    [
        (IRP_OPERATION, False, 0, True),
        (IRP_OPERATION, True, 0, False),
        (IRP_OPERATION, True, IRP_SYNCHRONOUS_API, True),
        (IRP_OPERATION, True, IRP_PAGING_IO | IRP_SYNCHRONOUS_PAGING_IO, True),
        (IRP_OPERATION, False, IRP_PAGING_IO, False),
        (IRP_OPERATION, True, IRP_PAGING_IO | IRP_SYNCHRONOUS_API, False),
        (FAST_IO_OPERATION, True, 0, True),
        (FAST_IO_OPERATION, True, IRP_PAGING_IO, True),
        (FS_FILTER_OPERATION, True, 0, True),
    ],
)
def test_is_operation_synchronous(kind: int, overlapped: bool, flags: int, expected: bool) -> None:
    async def script(lab: Lab) -> None:
        major = IRP_MJ_QUERY_OPEN if kind == FS_FILTER_OPERATION else IRP_MJ_READ
        await lab.filter("A", MIDDLE, {major: look(lab, "A", lambda d, o: FltIsOperationSynchronous(d))})
        file = await lab.open(overlapped=overlapped)
        await lab.send(lab.request(file, major, kind=kind, flags=flags, Length=1))

    assert [note.value for note in run(script).notes] == [expected, expected]


# Related objects.


@pytest.mark.rule("FLT-STACK-10", "FLT-STACK-12", "FLT-STACK-13")
def test_related_objects() -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            found.append((FltObjects.Filter, FltObjects.Volume, FltObjects.Instance))
            assert FltObjects.FileObject is None
            return STATUS_SUCCESS

        found: list[Any] = []

        def see(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            found.append((FltObjects.Filter, FltObjects.Volume, FltObjects.Instance))
            assert FltObjects.FileObject is Data.Iopb.TargetFileObject
            assert FltObjects.FileObject is not None
            assert Data.Iopb.TargetInstance is FltObjects.Instance

        pair = (pre_that(see), post_that(see))
        loaded = await lab.filter("A", MIDDLE, {IRP_MJ_CREATE: pair, IRP_MJ_READ: pair}, InstanceSetupCallback=setup)
        await lab.recorder("B", LOWER, IRP_MJ_READ)
        await (await lab.open()).read(1)
        # Setup, two callbacks of a create and two of a read: one filter, one volume, one instance.
        assert len(found) == 5
        assert set(found) == {(loaded.filter, lab.manager.volumes[0], lab.instance(loaded))}

    assert run(script).code is None


@pytest.mark.rule("FLT-STACK-11")
@pytest.mark.parametrize("member", ["Filter", "Volume", "Instance", "FileObject"])
def test_related_objects_are_read_only(member: str) -> None:
    assert read_with(lambda d, o: setattr(o, member, None)).code == "relobj-write"
    assert read_with(lambda d, o: None, lambda d, o: setattr(o, member, None)).code == "relobj-write"
    assert read_with(lambda d, o: getattr(o, member), lambda d, o: getattr(o, member)).code is None


@pytest.mark.rule("FLT-STACK-09")
def test_two_operations_may_be_inside_one_callback() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("in", current_kthread().label)
            await lab.step("inside")
            lab.note("out", current_kthread().label)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", MIDDLE, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        await lab.together(reader(), reader())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.order[1] for one in runs} == {"in", "out"}
