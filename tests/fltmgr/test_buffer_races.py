"""Buffers and schedules: other processes, teardowns, programs that change their memory (FLT-RACE-05, -25, -68)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, codes, queue, resumes, run
from fltmgr.swapping import Swapper

from kemu.io.device import DO_DIRECT_IO
from kemu.io.file_constants import FILE_NOTIFY_CHANGE_FILE_NAME, IRP_MN_NOTIFY_CHANGE_DIRECTORY
from kemu.nt.exception import StructuredException
from kemu.nt.kthread import current_kthread
from kemu.nt.usermemory import UserBuffer
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
    FltIsIoCanceled,
    FltLockUserBuffer,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_VIOLATION,
    STATUS_CANCELLED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    Executive,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    MmGetSystemAddressForMdlSafe,
    NormalPagePriority,
    ProbeForRead,
)

NO = FLT_PREOP_SUCCESS_NO_CALLBACK


# Pended operations and the address of their program.


class Deferring:
    """Pends writes and resumes them in a worker, having locked their buffers or not."""

    def __init__(self, lab: Lab, *, locks: bool) -> None:
        self.lab = lab
        self.locks = locks

    async def work(self, Data: FLT_CALLBACK_DATA) -> None:
        if self.locks:
            assert await FltLockUserBuffer(Data) == STATUS_SUCCESS
        await resumes(NO)(Data)

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        status = await queue(Data, self.work)
        self.lab.note("queued", status)
        return FLT_PREOP_PENDING if NT_SUCCESS(status) else NO


def looking(lab: Lab) -> Any:
    """A lower driver that uses what it finds: an MDL, or else the address, in whatever process it is called."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        process = current_kthread().process
        lab.note("lower", None if process is None else process.label)
        parameters = Data.Iopb.Parameters.Write
        if parameters.MdlAddress is not None:
            lab.note("bytes", MmGetSystemAddressForMdlSafe(parameters.MdlAddress, NormalPagePriority)[0:4])
        else:
            ProbeForRead(parameters.WriteBuffer, 4, 1)
            lab.note("bytes", parameters.WriteBuffer[0:4])
        return NO

    return pre


def deferred(*, locks: bool, passes_address: bool) -> Any:
    """A program writes while the driver that defers it is detached; a lower driver looks at what is written."""

    async def script(lab: Lab) -> None:
        driver = await lab.filter("U", UPPER, {IRP_MJ_WRITE: (Deferring(lab, locks=locks).pre, None)})
        await lab.filter("L", LOWER, {IRP_MJ_WRITE: (looking(lab), None)})
        file = await lab.quiet_open()

        async def writer() -> None:
            status, _ = await file.write(lab.app.memory(b"data") if passes_address else b"data")
            assert status == STATUS_SUCCESS

        one = lab.start("writer", writer(), lab.app)
        other = lab.start("detach", driver.detach())
        await one.join()
        await other.join()

    return script


def where(one: Run) -> str | None:
    """In which process the lower driver was called; None if it was not."""
    return next((str(note.value) for note in one.notes if note.what == "lower"), None)


@pytest.mark.rule("FLT-RACE-05", "FLT-PEND-14")
def test_a_deferred_write_reaches_lower_drivers_in_another_process_and_has_to_be_locked() -> None:
    bad = all_runs(deferred(locks=False, passes_address=True), bound=1)
    good = all_runs(deferred(locks=True, passes_address=True), bound=1)
    # The operation went to a worker, or the teardown was there before it; or the instance did not see it at all.
    for runs in (bad, good):
        assert {note.value for one in runs for note in one.notes if note.what == "queued"} == {
            STATUS_SUCCESS,
            STATUS_FLT_DELETING_OBJECT,
        }
    assert {where(one) for one in good} == {"app", "System"}
    assert codes(good) == {None}
    assert {note.value for one in good for note in one.notes if note.what == "bytes"} == {b"data"}
    # Without the lock the finding comes exactly in the runs in which a worker passes it on.
    assert codes(bad) == {None, "pend-unlocked-user-buffer"}
    for one in bad:
        refused = any(note.value == STATUS_FLT_DELETING_OBJECT for note in one.notes if note.what == "queued")
        assert where(one) == ("app" if one.code is None else None)
        assert one.code is None or not refused


@pytest.mark.rule("FLT-RACE-05")
def test_a_lower_driver_that_uses_a_foreign_address_is_found_where_nobody_has_looked_before() -> None:
    """The condition is the kernel's ``ke.user-va-context`` then: an address of one process, used in another."""
    runs = all_runs(deferred(locks=False, passes_address=False), bound=1)
    assert {(where(one), one.code) for one in runs} == {("app", None), ("System", "ke.user-va-context")}


@pytest.mark.rule("FLT-PEND-14")
@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("unlocked", "pend-unlocked-user-buffer"),
        ("locked first", None),
        ("completed", None),
        ("swapped", None),
        ("same process", None),
    ],
)
def test_the_buffer_of_an_operation_that_is_resumed_elsewhere_has_to_be_locked(how: str, found: str | None) -> None:
    async def script(lab: Lab) -> None:
        swapper = Swapper(lab, member="WriteBuffer")
        swapper.fill = lambda Data, buffer: None  # type: ignore[method-assign]
        held: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert isinstance(Data.Iopb.Parameters.WriteBuffer, UserBuffer)
            if how == "locked first":
                await FltLockUserBuffer(Data)
            elif how == "swapped":
                context.append((await swapper.pre(Data, FltObjects))[1])
            held.append(Data)
            await KeSetEvent(pended, 0, False)
            return FLT_PREOP_PENDING

        async def resumer() -> None:
            await KeWaitForSingleObject(pended, Executive, KernelMode, False, None)
            status, given = (FLT_PREOP_SUCCESS_WITH_CALLBACK, context[0]) if how == "swapped" else (NO, None)
            if how == "completed":
                status = FLT_PREOP_COMPLETE
                held[0].IoStatus.Status = STATUS_SUCCESS
            await FltCompletePendedPreOperation(held[0], status, given)

        context: list[Any] = []
        pended = lab.event("pended")
        await lab.filter("U", MIDDLE, {IRP_MJ_WRITE: (pre, swapper.post)})
        file = await lab.quiet_open()
        one = lab.start("writer", file.write(b"data"), lab.app)
        other = lab.start("resumer", resumer(), lab.app if how == "same process" else None)
        await one.join()
        await other.join()

    one = run(script)
    assert one.code == found
    if found is not None:
        assert "in System" in one.finding.detail


# Swapped buffers and teardowns.


def notified(*, ignores: bool) -> Any:
    """A directory is watched with a swapped buffer, a file is created in it, and the driver is detached."""

    async def script(lab: Lab) -> Any:
        parked: list[FLT_CALLBACK_DATA] = []
        released = lab.event("released")

        async def park(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            if Data.Iopb.MinorFunction != IRP_MN_NOTIFY_CHANGE_DIRECTORY:
                return NO
            # Without a cancel routine: whoever cancels it gets nowhere.
            parked.append(Data)
            return FLT_PREOP_PENDING

        swapper = Swapper(lab, member="DirectoryBuffer")
        driver = await lab.filter("S", UPPER, {IRP_MJ_DIRECTORY_CONTROL: swapper.pair})
        if ignores:
            await lab.filter("L", LOWER, {IRP_MJ_DIRECTORY_CONTROL: (park, None)})
        lab.directory(r"\d")
        directory = await lab.quiet_open(r"\d", overlapped=True)
        lab.volume.device_flags = DO_DIRECT_IO

        request = lab.request(
            directory, IRP_MJ_DIRECTORY_CONTROL, Length=64, CompletionFilter=FILE_NOTIFY_CHANGE_FILE_NAME
        )
        request.minor = IRP_MN_NOTIFY_CHANGE_DIRECTORY
        # Who comes after the teardown would wait for a change for ever: that is no matter of this.
        early = None if ignores else await lab.begin(request)

        async def watcher() -> Any:
            pending = early or await lab.begin(request)
            if ignores:
                await KeWaitForSingleObject(released, Executive, KernelMode, False, None)
                parked[0].IoStatus.Status = STATUS_SUCCESS
                await FltCompletePendedPreOperation(parked[0], FLT_PREOP_COMPLETE, None)
            status = await pending.wait()
            lab.note("completed", status)
            return [entry.FileName for entry in request.buffer] if status == STATUS_SUCCESS and not ignores else status

        async def detach() -> None:
            await driver.detach()
            lab.note("detached")
            await KeSetEvent(released, 0, False)

        async def creator() -> None:
            await lab.open(r"\d\new")
            lab.note("created")

        others = () if ignores else (creator(),)
        return (await lab.together(watcher(), detach(), *others))[0]

    return script


@pytest.mark.rule("FLT-RACE-25", "FLT-INST-26")
def test_the_cancellation_by_a_teardown_races_with_the_completion_of_a_swapped_notification() -> None:
    runs = all_runs(notified(ignores=False), bound=1)
    assert codes(runs) == {None}
    # Cancelled by the teardown, or completed by the change of the directory.
    assert {one.note("completed").value for one in runs} == {STATUS_SUCCESS, STATUS_CANCELLED}
    for one in runs:
        # In either order, once, never drained, and before the teardown is over.
        assert one.order.count("S.post") == 1
        assert one.note("S.post").value == 0
        assert one.before("S.post", "detached")
        if one.note("completed").value == STATUS_SUCCESS:
            assert one.result == ["new"]


@pytest.mark.rule("FLT-RACE-25", "FLT-BUF-11")
def test_a_lower_driver_that_ignores_the_cancellation_makes_the_teardown_hang() -> None:
    runs = all_runs(notified(ignores=True))
    assert {("S.pre" in one.order, one.code) for one in runs} == {(True, "teardown-hang"), (False, None)}
    hang = next(one for one in runs if one.code)
    assert "IRP_MJ_DIRECTORY_CONTROL (awaiting post-operation)" in hang.finding.detail


# Programs that change their memory meanwhile.


class Reader:
    """Reads what a program writes: by its address, once or twice, or by locking it."""

    def __init__(self, lab: Lab, how: str) -> None:
        self.lab = lab
        self.how = how

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        buffer = Data.Iopb.Parameters.WriteBuffer
        try:
            if self.how == "locks":
                await FltIsIoCanceled(Data)
                status = await FltLockUserBuffer(Data)
                await FltIsIoCanceled(Data)
                if not NT_SUCCESS(status):
                    raise StructuredException(status)
                buffer = MmGetSystemAddressForMdlSafe(Data.Iopb.Parameters.MdlAddress, NormalPagePriority)
                self.lab.note("read", buffer[0:4])
                return NO
            ProbeForRead(buffer, 4, 1)
            await FltIsIoCanceled(Data)
            first = buffer[0:4]
            await FltIsIoCanceled(Data)
            self.lab.note("read", first if self.how == "once" else (first, buffer[0:4]))
        except StructuredException as error:
            if self.how == "unguarded":
                raise
            self.lab.note("failed", error.ExceptionCode)
        return NO


def changing(how: str, change: str) -> Any:
    """A program writes, and another thread of it changes the memory."""

    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, {IRP_MJ_WRITE: (Reader(lab, how).pre, None)})
        file = await lab.quiet_open()
        memory = lab.app.memory(b"good")

        async def writer() -> None:
            status, _ = await file.write(memory)
            lab.note("status", status)
            lab.note("file", bytes(lab.volume.filesystem.find(r"\a").data)[:4])  # type: ignore[union-attr]

        async def changer() -> None:
            await (memory.unmap() if change == "unmap" else memory.store(0, b"evil"))

        await lab.together(writer(), changer(), process=lab.app)

    return script


def outcomes(runs: list[Run]) -> set[tuple[Any, ...]]:
    """What the driver saw, and what came into the file."""
    return {tuple(note.value for note in one.notes if note.what in {"read", "failed", "file"}) for one in runs}


@pytest.mark.rule("FLT-RACE-68", "FLT-BUF-03")
def test_a_program_rewrites_its_memory_between_any_two_accesses() -> None:
    """What the driver reads and what is written differ, if the change comes between: nothing but a copy helps."""
    once = all_runs(changing("once", "store"))
    assert codes(once) == {None}
    assert outcomes(once) == {(b"evil", b"evil"), (b"good", b"evil"), (b"good", b"good")}
    locked = all_runs(changing("locks", "store"))
    assert outcomes(locked) == outcomes(once)
    assert codes(all_runs(changing("twice", "store"))) == {"ke.double-fetch"}


@pytest.mark.rule("FLT-RACE-68", "FLT-BUF-02")
def test_a_program_unmaps_its_memory_between_any_two_accesses() -> None:
    """An address may be gone at any access; pages that were locked before are not."""
    once = all_runs(changing("once", "unmap"))
    assert codes(once) == {None}
    assert outcomes(once) == {(b"good", b"good"), (b"good", b"0123"), (STATUS_ACCESS_VIOLATION, b"0123")}
    locked = all_runs(changing("locks", "unmap"))
    assert codes(locked) == {None}
    # A lock that has succeeded holds for the file system too.
    assert outcomes(locked) == {(b"good", b"good"), (STATUS_ACCESS_VIOLATION, b"0123")}
    # Without a handler the driver goes down with it, in exactly the runs in which the memory was gone.
    bad = all_runs(changing("unguarded", "unmap"))
    assert codes(bad) == {"ke.unhandled-exception", "ke.double-fetch"}
