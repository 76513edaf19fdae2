"""Rules about what a driver does with certain operations: synchronising, disallowing, pending, draining, flooding."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import MIDDLE, Lab, Pre, Run, all_runs, codes, queue, resumes, run

from kemu.errors import UsageError
from kemu.io.request import FAST_IO_OPERATION, IRP_OPERATION
from kemu.scenario.world import Pending
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_GENERIC_WORKITEM,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    FltAllocateGenericWorkItem,
    FltCompletePendedPreOperation,
    FltFreeGenericWorkItem,
    FltQueueGenericWorkItem,
)
from kemu.wdk.ntifs import (
    FSCTL_IS_VOLUME_MOUNTED,
    FSCTL_REQUEST_BATCH_OPLOCK,
    FSCTL_REQUEST_FILTER_OPLOCK,
    FSCTL_REQUEST_OPLOCK,
    FSCTL_REQUEST_OPLOCK_LEVEL_1,
    FSCTL_REQUEST_OPLOCK_LEVEL_2,
    IRP_MN_LOCK,
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_QUERY_DIRECTORY,
    IRP_MN_UNLOCK_ALL,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_VOLUME_DISMOUNT,
    IRP_MJ_VOLUME_MOUNT,
    IRP_MJ_WRITE,
    IRP_PAGING_IO,
    DelayedWorkQueue,
)

NO, WITH, SYNC = FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SYNCHRONIZE


def result(
    status: int, major: int, *, minor: int = 0, kind: int = IRP_OPERATION, post: bool = True, **more: Any
) -> Run:
    """The plain run in which a filter returns *status* for one operation; the volume's root is the file."""

    async def script(lab: Lab) -> None:
        await lab.filter("M", MIDDLE, {major: (lab.pre("M", status), lab.post("M") if post else None)})
        file = await lab.quiet_open()
        request = lab.request(file, major, kind=kind, **more)
        request.minor = minor
        # A request that stays below, such as one for an oplock, is not waited for.
        await lab.begin(request)

    return run(script)


@pytest.mark.rule("FLT-PRE-17")
@pytest.mark.parametrize(
    "code",
    [
        FSCTL_REQUEST_BATCH_OPLOCK,
        FSCTL_REQUEST_FILTER_OPLOCK,
        FSCTL_REQUEST_OPLOCK,
        FSCTL_REQUEST_OPLOCK_LEVEL_1,
        FSCTL_REQUEST_OPLOCK_LEVEL_2,
    ],
)
def test_oplock_requests_cannot_be_synchronised(code: int) -> None:
    assert result(SYNC, IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=code).code == "sync-unsyncable"
    assert result(WITH, IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=code).code is None


@pytest.mark.rule("FLT-PRE-17")
@pytest.mark.parametrize(
    ("major", "minor", "code"),
    [
        (IRP_MJ_DIRECTORY_CONTROL, IRP_MN_NOTIFY_CHANGE_DIRECTORY, "sync-unsyncable"),
        (IRP_MJ_DIRECTORY_CONTROL, IRP_MN_QUERY_DIRECTORY, None),
        (IRP_MJ_LOCK_CONTROL, IRP_MN_LOCK, "sync-unsyncable"),
        (IRP_MJ_LOCK_CONTROL, IRP_MN_UNLOCK_ALL, None),
        (IRP_MJ_FILE_SYSTEM_CONTROL, 0, None),
    ],
)
def test_what_else_cannot_be_synchronised(major: int, minor: int, code: str | None) -> None:
    more: dict[str, Any] = (
        {"FsControlCode": FSCTL_IS_VOLUME_MOUNTED} if major == IRP_MJ_FILE_SYSTEM_CONTROL else {"Length": 1}
    )
    assert result(SYNC, major, minor=minor, **more).code == code
    # Of an operation that is no IRP the result means nothing but a callback.
    assert result(SYNC, major, minor=minor, kind=FAST_IO_OPERATION, **more).code is None


@pytest.mark.rule("FLT-PRE-21")
@pytest.mark.parametrize(
    ("major", "code"),
    [
        (IRP_MJ_READ, None),
        (IRP_MJ_VOLUME_MOUNT, "disallow-fastio-forbidden-major"),
        (IRP_MJ_VOLUME_DISMOUNT, "disallow-fastio-forbidden-major"),
        (IRP_MJ_SHUTDOWN, "disallow-fastio-forbidden-major"),
    ],
)
def test_what_cannot_be_disallowed(major: int, code: str | None) -> None:
    # No shutdown comes as fast I/O; this one does, so that the major function alone decides.
    assert result(FLT_PREOP_DISALLOW_FASTIO, major, kind=FAST_IO_OPERATION, post=False).code == code


# Pending paging I/O.


def pended_write(flags: int, *, in_worker: bool) -> list[Run]:
    async def script(lab: Lab) -> None:
        async def routine(WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Data: FLT_CALLBACK_DATA) -> None:
            await FltFreeGenericWorkItem(WorkItem)
            await FltCompletePendedPreOperation(Data, NO, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if in_worker:
                item = await FltAllocateGenericWorkItem()
                assert item is not None
                queued = await FltQueueGenericWorkItem(item, FltObjects.Instance, routine, DelayedWorkQueue, Data)
                assert queued == STATUS_SUCCESS
            else:

                async def own_thread() -> None:
                    await FltCompletePendedPreOperation(Data, NO, None)

                lab.start("own thread", own_thread())
            return FLT_PREOP_PENDING

        await lab.filter("M", MIDDLE, {IRP_MJ_WRITE: (pre, None)})
        file = await lab.quiet_open()
        await lab.send(lab.request(file, IRP_MJ_WRITE, flags=flags, Buffer=b"x", Length=1))

    return all_runs(script)


@pytest.mark.rule("FLT-PEND-16")
def test_paging_io_is_not_pended_to_a_system_worker() -> None:
    assert codes(pended_write(IRP_PAGING_IO, in_worker=True)) == {"pend-paging"}
    assert codes(pended_write(0, in_worker=True)) == {None}
    assert codes(pended_write(IRP_PAGING_IO, in_worker=False)) == {None}


# Flooding the work queue.


def flooded(reads: int) -> Run:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert await queue(Data, resumes(NO)) == STATUS_SUCCESS
            return FLT_PREOP_PENDING

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open(overlapped=True)
        pending: list[Pending] = [await file.begin_read(1) for _ in range(reads)]
        for one in pending:
            assert await one.wait() == STATUS_SUCCESS

    return run(script)


@pytest.mark.rule("FLT-PEND-15")
@pytest.mark.parametrize(("reads", "warnings"), [(16, ()), (40, ("workqueue-flood",))])
def test_a_work_item_for_each_of_many_operations(reads: int, warnings: tuple[str, ...]) -> None:
    one = flooded(reads)
    assert (one.code, one.warnings) == (None, warnings)


# Draining.


@pytest.mark.rule("FLT-POST-13", "FLT-RACE-22", "FLT-POST-33")
@pytest.mark.parametrize("careful", [True, False])
@pytest.mark.parametrize("races", [False, True])
def test_a_drained_result_is_none(careful: bool, races: bool) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("drained" if Flags & FLTFL_POST_OPERATION_DRAINING else "completed")
            # The status alone may be looked at: it says that this is no success.
            if not careful or Data.IoStatus.Status == STATUS_SUCCESS:
                lab.note("read", Data.IoStatus.Information)
            return FLT_POSTOP_FINISHED_PROCESSING

        loaded = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M"), post)})

        async def reader() -> None:
            assert (await file.read(1))[0] == STATUS_SUCCESS

        async def admin() -> None:
            await loaded.detach()

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=1, completion="later", races=races)
    assert codes(runs) == ({None} if careful else {None, "drain-used-as-completion"})
    # The drain comes before the real completion, instead of it, or too late.
    assert {tuple(what for what in one.order if what in {"drained", "completed"}) for one in runs} >= {
        ("drained",),
        ("completed",),
    }
    for one in runs:
        if "drained" in one.order:
            assert one.code == (None if careful else "drain-used-as-completion")
        else:
            assert one.code is None


# Callbacks that are no coroutines.


@pytest.mark.parametrize("phase", ["pre", "post"])
def test_a_callback_that_is_no_coroutine_is_an_error_that_names_it(phase: str) -> None:
    def plain(*arguments: Any) -> int:
        return NO if phase == "pre" else FLT_POSTOP_FINISHED_PROCESSING

    async def script(lab: Lab) -> None:
        before: Pre = plain if phase == "pre" else lab.pre("M")  # type: ignore[assignment]
        after = plain if phase == "post" else None
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (before, after)})  # type: ignore[dict-item]
        await (await lab.quiet_open()).read(1)

    with pytest.raises(UsageError, match=f"the {phase}-operation callback for IRP_MJ_READ of M is no coroutine"):
        run(script)
