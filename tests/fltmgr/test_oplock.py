"""Oplocks that a minifilter keeps for a file itself (FLT-OPL)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import MIDDLE, Lab, all_runs, codes, queue, resumes, run

from kemu.io.file_constants import FileEndOfFileInformation
from kemu.io.request import FAST_IO_OPERATION
from kemu.io.structures import FILE_END_OF_FILE_INFORMATION
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    OPLOCK,
    OPLOCK_FLAG_COMPLETE_IF_OPLOCKED,
    FltCheckOplock,
    FltCheckOplockEx,
    FltCompletePendedPreOperation,
    FltCurrentBatchOplock,
    FltCurrentOplock,
    FltCurrentOplockH,
    FltInitializeOplock,
    FltOplockFsctrl,
    FltOplockFsctrlEx,
    FltOplockIsFastIoPossible,
    FltUninitializeOplock,
)
from kemu.wdk.ntifs import (
    FSCTL_OPLOCK_BREAK_ACKNOWLEDGE,
    FSCTL_REQUEST_BATCH_OPLOCK,
    FSCTL_REQUEST_OPLOCK_LEVEL_1,
    FSCTL_REQUEST_OPLOCK_LEVEL_2,
    FSCTL_SET_ZERO_DATA,
)
from kemu.wdk.ntstatus import (
    STATUS_CANCELLED,
    STATUS_INVALID_PARAMETER,
    STATUS_OPLOCK_NOT_GRANTED,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)

WITH, NO = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK
OK = STATUS_SUCCESS
LEVEL_1, LEVEL_2, BATCH = FSCTL_REQUEST_OPLOCK_LEVEL_1, FSCTL_REQUEST_OPLOCK_LEVEL_2, FSCTL_REQUEST_BATCH_OPLOCK
CHECKS = (
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
)
NAMES = {int(FLT_PREOP_COMPLETE): "complete", int(FLT_PREOP_PENDING): "pending", int(WITH): "go on"}


class Keeper:
    """A filter that keeps an oplock for the one file there is."""

    def __init__(
        self,
        lab: Lab,
        *,
        wait: str = "routine",
        returns: int | None = None,
        checks: tuple[int, ...] = CHECKS,
        exclusive: bool = True,
        recheck: bool = False,
        flags: int = 0,
    ) -> None:
        self.lab = lab
        self.oplock = OPLOCK("the oplock")
        self.lock = FAST_MUTEX("its lock")
        self.wait, self.returns, self.checks, self.exclusive = wait, returns, checks, exclusive
        self.recheck, self.flags = recheck, flags
        self.opens = 1

    async def load(self) -> None:
        ExInitializeFastMutex(self.lock)
        FltInitializeOplock(self.oplock)
        callbacks: dict[int, Any] = dict.fromkeys(self.checks, (self.check, None))
        callbacks[IRP_MJ_FILE_SYSTEM_CONTROL] = (self.control, None)
        await self.lab.filter("K", MIDDLE, callbacks)
        self.oplock.driver = next(iter(self.lab.manager.filters)).driver

    def answer(self, what: str, status: int) -> int:
        self.lab.note(f"{what}: {NAMES[status]}")
        if self.returns is not None and status != WITH:
            return self.returns
        # What may go on needs no post-operation callback here.
        return status if status != WITH else NO

    async def control(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if Data.Iopb.Parameters.FsControlCode == FSCTL_SET_ZERO_DATA:
            return await self.check(Data, FltObjects)
        # An acknowledgement may come at any time.
        exclusive = self.exclusive and Data.Iopb.Parameters.FsControlCode != FSCTL_OPLOCK_BREAK_ACKNOWLEDGE
        if exclusive:
            await ExAcquireFastMutex(self.lock)
        status = await FltOplockFsctrl(self.oplock, Data, self.opens)
        if exclusive:
            await ExReleaseFastMutex(self.lock)
        return self.answer("control", status)

    async def check(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        done = self.done if self.wait == "routine" else None
        if self.exclusive:
            await ExAcquireFastMutex(self.lock)
        if self.flags:
            status = await FltCheckOplockEx(self.oplock, Data, self.flags, self, done, self.before)
        else:
            status = await FltCheckOplock(self.oplock, Data, self, done, self.before)
        if self.exclusive:
            await ExReleaseFastMutex(self.lock)
        return self.answer("check", status)

    async def before(self, Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        assert Context is self
        self.lab.note("posted")

    async def done(self, Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        status = Data.IoStatus.Status
        self.lab.note("done", status)
        if self.recheck:
            await FltCheckOplock(self.oplock, Data, Context, self.done, None)
        if status == OK and current_kthread().locks:
            # It is called with whatever the caller of the oplock's routines holds: a worker goes on without that.
            assert await queue(Data, resumes(NO)) == OK
        elif status == OK:
            await FltCompletePendedPreOperation(Data, NO, None)
        else:
            Data.IoStatus.Status = status
            await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)


async def fsctl(lab: Lab, file: Any, code: int, **members: Any) -> Any:
    return await lab.begin(lab.request(file, IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=code, **members))


async def owned(lab: Lab, code: int = LEVEL_1, **options: Any) -> tuple[Keeper, Any, Any, Any]:
    """A filter, the owner's file and its request, which is granted, and another open of the same file."""
    keeper = Keeper(lab, **options)
    owner = await lab.quiet_open(overlapped=True)
    other = await lab.quiet_open(overlapped=True)
    await keeper.load()
    lab._decide(False)
    request = await fsctl(lab, owner, code)
    lab._decide(True)
    lab.notes.clear()
    return keeper, owner, request, other


# Granting.


@pytest.mark.rule("FLT-OPL-06", "FLT-OPL-01")
@pytest.mark.parametrize(
    ("synchronous", "opens", "code", "granted"),
    [
        (False, 1, LEVEL_1, True),
        (False, 1, BATCH, True),
        (False, 2, LEVEL_2, True),
        (False, 2, LEVEL_1, False),
        (True, 1, LEVEL_1, False),
    ],
)
def test_who_is_granted_an_oplock(synchronous: bool, opens: int, code: int, granted: bool) -> None:
    async def script(lab: Lab) -> Any:
        keeper = Keeper(lab)
        keeper.opens = opens
        file = await lab.quiet_open(overlapped=not synchronous)
        await keeper.load()
        request = (await fsctl(lab, file, code)).request
        pending = not request.done
        holds = [await FltCurrentOplock(keeper.oplock), await FltCurrentBatchOplock(keeper.oplock)]
        holds += [await FltCurrentOplockH(keeper.oplock), await FltOplockIsFastIoPossible(keeper.oplock)]
        await FltUninitializeOplock(keeper.oplock)
        return pending, request.status, holds

    one = run(script)
    assert one.code is None
    pending, status, holds = one.result
    assert pending == granted
    assert status == (OK if granted else STATUS_OPLOCK_NOT_GRANTED)
    assert one.order == ["control: pending" if granted else "control: complete"]
    assert holds == [granted, code == BATCH, code == BATCH, not granted or code == LEVEL_2]


@pytest.mark.rule("FLT-OPL-06", "FLT-OPL-01", "FLT-OPL-02")
@pytest.mark.parametrize("wait", ["routine", "blocks"])
def test_a_break_waits_for_the_acknowledgement(wait: str) -> None:
    async def script(lab: Lab) -> Any:
        keeper, owner, request, other = await owned(lab, wait=wait)

        async def reader() -> Any:
            read = await other.begin_read(4)
            return await read.wait()

        async def acknowledges() -> None:
            await request.wait()
            lab.note("broken")
            done = await fsctl(lab, owner, FSCTL_OPLOCK_BREAK_ACKNOWLEDGE)
            lab.note("acknowledged")
            # It has accepted level 2, which is held until somebody writes.
            await done.cancel()
            await done.wait()

        statuses = await lab.together(reader(), acknowledges())
        await FltUninitializeOplock(keeper.oplock)
        return statuses[0], request.request.information

    runs = all_runs(script, bound=1, completion="inline")
    assert codes(runs) == {None}
    for one in runs:
        assert one.result == (OK, 7)
        assert one.before("broken", "control: pending")
        if wait == "routine":
            assert one.before("posted", "done")
            assert one.before("broken", "done")


@pytest.mark.rule("FLT-OPL-02", "FLT-RACE-66")
def test_the_wait_may_be_over_before_the_check_returns() -> None:
    """Break and acknowledgement, with the completion routine before and after the return of FltCheckOplock."""

    async def script(lab: Lab) -> Any:
        keeper, owner, request, other = await owned(lab, exclusive=False)

        async def reader() -> Any:
            return await (await other.begin_read(4)).wait()

        async def acknowledges() -> None:
            await request.wait()
            await fsctl(lab, owner, FSCTL_OPLOCK_BREAK_ACKNOWLEDGE)
            lab.note("acknowledged")

        results = await lab.together(reader(), acknowledges())
        await FltUninitializeOplock(keeper.oplock)
        return results[0]

    runs = all_runs(script, bound=2, completion="inline")
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {OK}
    early = {one.before("done", "check: pending") for one in runs}
    assert early == {True, False}
    # The acknowledgement may come before or after the operation that waits has been posted.
    assert {one.note("done").thread for one in runs} == {"reader", "acknowledges"}


@pytest.mark.rule("FLT-OPL-06", "FLT-OPL-01")
@pytest.mark.parametrize("wait", ["routine", "blocks"])
def test_the_wait_for_a_break_can_be_cancelled(wait: str) -> None:
    async def script(lab: Lab) -> Any:
        keeper, _, _, other = await owned(lab, wait=wait)
        reads: list[Any] = []

        async def reader() -> Any:
            read = lab.request(other, IRP_MJ_READ, Length=4)
            reads.append(read)
            return (await lab.send(read)).status

        thread = lab.start("reader", reader())
        await lab.sleep(1)
        await lab.app.win32.native.manager.cancel(reads[0])
        status = await thread.join()
        await FltUninitializeOplock(keeper.oplock)
        return status

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_CANCELLED)
    if wait == "routine":
        assert one.note("done").value == STATUS_CANCELLED
    else:
        assert "check: complete" in one.order


@pytest.mark.rule("FLT-OPL-01")
def test_an_operation_may_go_on_while_a_break_is_under_way() -> None:
    async def script(lab: Lab) -> Any:
        keeper, _, request, other = await owned(lab, flags=OPLOCK_FLAG_COMPLETE_IF_OPLOCKED)
        status = await (await other.begin_read(4)).wait()
        broken = request.request.done
        await FltUninitializeOplock(keeper.oplock)
        return status, broken

    one = run(script)
    assert (one.code, one.result) == (None, (OK, True))
    assert one.order[0] == "check: go on"


@pytest.mark.rule("FLT-OPL-01")
def test_only_irps_break_oplocks() -> None:
    async def script(lab: Lab) -> Any:
        keeper, _, request, other = await owned(lab)
        await lab.send(lab.request(other, IRP_MJ_READ, kind=FAST_IO_OPERATION, Length=4))
        broken = request.request.done
        await FltUninitializeOplock(keeper.oplock)
        return broken

    one = run(script)
    assert (one.code, one.result) == (None, False)


@pytest.mark.rule("FLT-OPL-04", "FLT-OPL-06")
@pytest.mark.parametrize(
    ("what", "breaks"),
    [("read", False), ("write", True), ("size", True), ("zero", True), ("flush", False), ("create", False)],
)
def test_what_breaks_level_2(what: str, breaks: bool) -> None:
    async def script(lab: Lab) -> Any:
        keeper, _, request, other = await owned(lab, LEVEL_2)
        if what == "read":
            await (await other.begin_read(4)).wait()
        elif what == "write":
            await (await other.begin_write(b"x")).wait()
        elif what == "size":
            end = FILE_END_OF_FILE_INFORMATION(4)
            sent = lab.request(
                other, IRP_MJ_SET_INFORMATION,
                FileInformationClass=FileEndOfFileInformation, InfoBuffer=end, Length=end.SIZE,
            )  # fmt: skip
            await lab.send(sent)
        elif what == "zero":
            await (await fsctl(lab, other, FSCTL_SET_ZERO_DATA)).wait()
        elif what == "flush":
            await lab.send(lab.request(other, IRP_MJ_FLUSH_BUFFERS))
        else:
            status, third = await lab.app.create(r"\a")
            assert (status, third is not None) == (OK, True)
        broken = request.request.done
        await FltUninitializeOplock(keeper.oplock)
        return broken

    one = run(script)
    assert (one.code, one.warnings, one.result) == (None, (), breaks)


@pytest.mark.rule("FLT-OPL-06")
def test_a_create_breaks_level_1_and_a_cleanup_ends_it() -> None:
    async def script(lab: Lab) -> Any:
        keeper, owner, request, _ = await owned(lab)

        async def opens() -> Any:
            return (await lab.app.create(r"\a", overlapped=True))[0]

        async def closes() -> None:
            await request.wait()
            lab.note("closing")
            await owner.close()

        results = await lab.together(opens(), closes())
        held = await FltCurrentOplock(keeper.oplock)
        return results[0], held

    runs = all_runs(script, bound=1, completion="inline")
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(OK, False)}
    assert all(one.before("closing", "done") for one in runs)


@pytest.mark.rule("FLT-OPL-04")
@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_CREATE])
@pytest.mark.parametrize("careful", [True, False])
def test_operations_that_are_passed_on_unchecked(major: int, careful: bool) -> None:
    async def script(lab: Lab) -> Any:
        keeper, _, _, other = await owned(lab, LEVEL_2)
        if not careful:

            async def careless(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                return NO

            keeper.check = careless  # type: ignore[method-assign]
            for node in next(iter(lab.manager.filters)).instances[0].nodes.values():
                if node.major == major:
                    node.pre = careless
        if major == IRP_MJ_READ:
            await (await other.begin_read(4)).wait()
        elif major == IRP_MJ_WRITE:
            await (await other.begin_write(b"x")).wait()
        else:
            await lab.app.create(r"\a")
            await lab.app.create(r"\elsewhere")
        await FltUninitializeOplock(keeper.oplock)

    one = run(script)
    assert one.code is None
    assert one.warnings == (() if careful else ("oplock-unchecked",))


# What a driver must not do.


@pytest.mark.rule("FLT-OPL-07")
@pytest.mark.parametrize("returns", [None, NO, WITH, FLT_PREOP_COMPLETE])
def test_what_a_check_returns_is_to_be_returned(returns: int | None) -> None:
    async def script(lab: Lab) -> Any:
        keeper, owner, request, other = await owned(lab)
        keeper.returns = returns

        async def reader() -> None:
            await (await other.begin_read(4)).wait()

        async def acknowledges() -> None:
            await request.wait()
            await fsctl(lab, owner, FSCTL_OPLOCK_BREAK_ACKNOWLEDGE)

        await lab.together(reader(), acknowledges())
        await FltUninitializeOplock(keeper.oplock)

    assert run(script).code == (None if returns is None else "oplock-status-dropped")


@pytest.mark.rule("FLT-OPL-07")
def test_what_a_request_returns_is_to_be_returned() -> None:
    async def script(lab: Lab) -> Any:
        keeper = Keeper(lab, returns=NO)
        owner = await lab.quiet_open(overlapped=True)
        await keeper.load()
        await fsctl(lab, owner, LEVEL_1)

    assert run(script).code == "oplock-status-dropped"


@pytest.mark.rule("FLT-OPL-03", "FLT-RACE-66")
@pytest.mark.parametrize("recheck", [False, True])
def test_the_completion_routine_does_not_check_again(recheck: bool) -> None:
    async def script(lab: Lab) -> Any:
        keeper, owner, request, other = await owned(lab, recheck=recheck)

        async def reader() -> None:
            await (await other.begin_read(4)).wait()

        async def acknowledges() -> None:
            await request.wait()
            await fsctl(lab, owner, FSCTL_OPLOCK_BREAK_ACKNOWLEDGE)

        await lab.together(reader(), acknowledges())
        await FltUninitializeOplock(keeper.oplock)

    assert run(script).code == ("oplock-recheck-deadlock" if recheck else None)


@pytest.mark.rule("FLT-RACE-66")
def test_an_owner_that_waits_for_itself() -> None:
    """The owner reads through another handle and is the one who would acknowledge the break: it waits for ever."""

    async def script(lab: Lab) -> Any:
        _, owner, request, other = await owned(lab, wait="blocks", exclusive=False)
        await (await other.begin_read(4)).wait()
        await request.wait()
        await fsctl(lab, owner, FSCTL_OPLOCK_BREAK_ACKNOWLEDGE)

    # The kernel's code says the same: nobody is left who could set the event.
    assert run(script).code == "ke.hang"


@pytest.mark.rule("FLT-OPL-05")
@pytest.mark.parametrize("exclusive", [True, False])
def test_requests_are_exclusive_against_checks(exclusive: bool) -> None:
    async def script(lab: Lab) -> Any:
        keeper = Keeper(lab, exclusive=exclusive)
        first = await lab.quiet_open(overlapped=True)
        other = await lab.quiet_open(overlapped=True)
        await keeper.load()
        keeper.opens = 2

        async def requests() -> None:
            lab.note("requesting")
            await fsctl(lab, first, LEVEL_2)

        async def reads() -> None:
            lab.note("reading")
            await (await other.begin_read(4)).wait()

        await lab.together(requests(), reads())
        await FltUninitializeOplock(keeper.oplock)

    found = codes(all_runs(script, bound=1, completion="inline"))
    assert found == ({None} if exclusive else {None, "oplock-unsynchronized"})


def test_an_oplock_has_to_be_initialised() -> None:
    async def script(lab: Lab) -> Any:
        await FltCurrentOplock(OPLOCK("x"))

    assert run(script).code == "ke.uninitialised"


def test_giving_an_oplock_up_lets_everybody_go_on() -> None:
    async def script(lab: Lab) -> Any:
        keeper, _, request, other = await owned(lab)
        read = await other.begin_read(4)
        waits = not read.request.done
        await FltUninitializeOplock(keeper.oplock)
        return waits, await request.wait(), await read.wait()

    one = run(script)
    assert (one.code, one.result) == (None, (True, OK, OK))


def test_the_other_form_of_the_request() -> None:
    async def script(lab: Lab) -> Any:
        oplock = OPLOCK("x")
        FltInitializeOplock(oplock)

        async def control(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            return await FltOplockFsctrlEx(oplock, Data, 1, 0)

        file = await lab.quiet_open(overlapped=True)
        await lab.filter("K", MIDDLE, {IRP_MJ_FILE_SYSTEM_CONTROL: (control, None)})
        request = await fsctl(lab, file, BATCH)
        before = request.request.done
        await FltUninitializeOplock(oplock)
        return before, await request.wait()

    assert run(script).result == (False, OK)


@pytest.mark.rule("FLT-RACE-70")
@pytest.mark.parametrize("checks", [True, False])
def test_a_state_that_was_asked_for_changes_before_it_is_acted_on(checks: bool) -> None:
    """A filter asks whether anybody holds the oplock, and passes a write on if not."""

    async def script(lab: Lab) -> Any:
        keeper = Keeper(lab, exclusive=False)
        first, other = await lab.quiet_open(overlapped=True), await lab.quiet_open(overlapped=True)

        async def write(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            held = await FltCurrentOplock(keeper.oplock)
            lab.note(f"asked: {held}")
            await lab.step("prepare")
            if checks:
                return await keeper.check(Data, FltObjects)
            lab.note("goes on")
            return NO

        await keeper.load()
        keeper.opens = 2
        lab.manager.filters[0].instances[0].nodes[IRP_MJ_WRITE].pre = write

        async def requests() -> None:
            request = await fsctl(lab, first, LEVEL_2)
            lab.note("granted" if not request.request.done else "broken")

        async def writes() -> None:
            await (await other.begin_write(b"x")).wait()

        await lab.together(requests(), writes())
        await FltUninitializeOplock(keeper.oplock)

    runs = all_runs(script, bound=2, completion="inline")
    if checks:
        assert all("toctou-state" not in one.warnings for one in runs)
        return
    assert codes(runs) == {None}
    seen: set[tuple[str, ...]] = set()
    for one in runs:
        order = tuple(what for what in one.order if what.startswith(("control", "asked", "goes")))
        seen.add(order)
        # Advised exactly where the grant comes between the look and what follows from it.
        between = order == ("asked: False", "control: pending", "goes on")
        if between:
            assert "toctou-state" in one.warnings
    assert ("asked: False", "goes on", "control: pending") in seen
    assert ("asked: False", "control: pending", "goes on") in seen
    assert ("control: pending", "asked: True", "goes on") in seen
    assert any("toctou-state" not in one.warnings for one in runs)


@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_CREATE, IRP_MJ_FILE_SYSTEM_CONTROL])
def test_a_request_that_is_not_about_oplocks(major: int) -> None:
    async def script(lab: Lab) -> Any:
        oplock = OPLOCK("x")
        FltInitializeOplock(oplock)
        file = await lab.quiet_open(overlapped=True)

        async def control(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            return await FltOplockFsctrl(oplock, Data, 1)

        await lab.filter("K", MIDDLE, {major: (control, None)})
        if major == IRP_MJ_READ:
            return await (await file.begin_read(4)).wait()
        if major == IRP_MJ_CREATE:
            return (await lab.app.create(r"\a"))[0]
        return await (await fsctl(lab, file, FSCTL_SET_ZERO_DATA)).wait()

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_INVALID_PARAMETER)


@pytest.mark.parametrize("value", [None, "text"])
def test_what_is_no_oplock(value: Any) -> None:
    async def script(lab: Lab) -> Any:
        await FltCurrentOplock(value)

    assert run(script).code == "ke.bad-pointer"
