"""FSFilter operations: what may be failed, and the release after a mapped write (FLT-FAST-09 to FLT-FAST-16)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, Lab, all_runs, codes, run

from kemu.errors import UsageError
from kemu.io.constants import major_name
from kemu.io.file_constants import PAGE_READWRITE
from kemu.io.request import FS_FILTER_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.user.native import IO_STATUS_BLOCK
from kemu.user.win32 import OPEN_EXISTING
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAcquirePushLockExclusive,
    FltInitializePushLock,
    FltReleasePushLock,
)
from kemu.wdk.ntifs import (
    FS_FILTER_CALLBACKS,
    FsRtlRegisterFileSystemFilterCallbacks,
    SyncTypeCreateSection,
    SyncTypeOther,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    APC_LEVEL,
    DRIVER_OBJECT,
    EX_PUSH_LOCK,
    FAST_MUTEX,
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_WRITE,
    KEVENT,
    Driver,
    ExAcquireFastMutex,
    Executive,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeClearEvent,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    SynchronizationEvent,
)

NO = FLT_PREOP_SUCCESS_NO_CALLBACK
OK = STATUS_SUCCESS
CACHED: dict[str, Any] = {"cached_io": True}
Body = Any


def short(major: int) -> str:
    return major_name(major).removeprefix("IRP_MJ_").lower()


def failing(lab: Lab, fails: dict[int, int], *, afterwards: bool = False) -> tuple[Any, Any]:
    """Callbacks that note what comes, and fail some of it, before or *afterwards*."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        major = Data.Iopb.MajorFunction
        lab.note(short(major))
        if major in fails and not afterwards:
            Data.IoStatus.Status = fails[major]
            return FLT_PREOP_COMPLETE
        return 0 if afterwards else NO

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        if Data.Iopb.MajorFunction in fails:
            Data.IoStatus.Status = fails[Data.Iopb.MajorFunction]
        return 0

    return pre, post if afterwards else None


async def opened(lab: Lab, path: str = r"\a") -> Any:
    return await lab.app.win32.CreateFileW(path, 0xC0000000, 7, None, OPEN_EXISTING)


async def mapped(lab: Lab, path: str = r"\a") -> Any:
    """A view of a file that may be written to."""
    native = lab.app.win32.native
    status, section = await native.NtCreateSection(0, PAGE_READWRITE, await opened(lab, path))
    assert status == OK
    status, view = await native.NtMapViewOfSection(section)
    assert view is not None
    return view


# What may be failed.


@pytest.mark.rule("FLT-FAST-09")
@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize(
    ("sync", "status", "code"),
    [
        (SyncTypeOther, STATUS_INSUFFICIENT_RESOURCES, "acquire-section-failed"),
        (SyncTypeOther, STATUS_SUCCESS, None),
        (SyncTypeCreateSection, STATUS_INSUFFICIENT_RESOURCES, None),
        (SyncTypeCreateSection, STATUS_ACCESS_DENIED, "acquire-section-failed"),
    ],
)
def test_who_may_fail_the_acquisition_for_a_section(afterwards: bool, sync: int, status: int, code: str | None) -> None:
    async def script(lab: Lab) -> Any:
        major = IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION
        await lab.filter("D", MIDDLE, {major: failing(lab, {major: status}, afterwards=afterwards)})
        file = await lab.quiet_open()
        return (await lab.send(lab.request(file, major, kind=FS_FILTER_OPERATION, SyncType=sync))).status

    one = run(script)
    assert one.code == code
    if code is None:
        assert one.result == status


@pytest.mark.rule("FLT-FAST-09")
def test_a_section_that_is_refused_for_want_of_memory() -> None:
    async def script(lab: Lab) -> Any:
        major = IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION
        await lab.filter("D", MIDDLE, {major: failing(lab, {major: STATUS_INSUFFICIENT_RESOURCES})})
        return (await lab.app.win32.native.NtCreateSection(0, PAGE_READWRITE, await opened(lab)))[0]

    one = run(script, **CACHED)
    assert (one.code, one.result) == (None, STATUS_INSUFFICIENT_RESOURCES)


@pytest.mark.rule("FLT-FAST-16")
@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize("major", [IRP_MJ_ACQUIRE_FOR_MOD_WRITE, IRP_MJ_ACQUIRE_FOR_CC_FLUSH])
@pytest.mark.parametrize(("status", "warned"), [(STATUS_ACCESS_DENIED, True), (STATUS_SUCCESS, False)])
def test_failing_an_acquisition_is_for_emergencies(afterwards: bool, major: int, status: int, warned: bool) -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("D", MIDDLE, {major: failing(lab, {major: status}, afterwards=afterwards)})
        view = await mapped(lab)
        await view.write(0, b"XY")
        await lab.sleep(1)
        return await lab.app.win32.FlushViewOfFile(view)

    one = run(script, **CACHED)
    assert one.code is None
    assert ("fsfilter-acquire-failed" in one.warnings) == warned
    assert short(major) in one.order


RELEASES = {
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION: IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_RELEASE_FOR_MOD_WRITE: IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_CC_FLUSH: IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
}


@pytest.mark.rule("FLT-FAST-15")
@pytest.mark.parametrize("major", RELEASES)
def test_a_release_cannot_be_failed(major: int) -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("D", MIDDLE, {major: failing(lab, {major: STATUS_ACCESS_DENIED})})
        await lab.filter("L", LOWER, {RELEASES[major]: failing(lab, {})})
        view = await mapped(lab)
        written = await view.write(0, b"XY")
        await lab.sleep(1)
        await view.write(2, b"ZZ")
        flushed = await lab.app.win32.FlushViewOfFile(view)
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        return written, flushed, bytes(node.data)

    one = run(script, **CACHED)
    assert (one.code, one.warnings, one.result) == (None, (), (OK, True, b"XYZZ456789"))
    assert short(major) in one.order
    assert short(RELEASES[major]) in one.order


# The release after a mapped write.


async def two_dirty_files(lab: Lab) -> None:
    """Two files are written to through views: the mapped page writer has a second one to write after the first."""
    lab.file(r"\b", b"0123456789")
    lab._decide(False)
    first, second = await mapped(lab), await mapped(lab, r"\b")
    lab.notes.clear()
    await first.write(0, b"X")
    await second.write(0, b"Y")
    lab._decide(True)


@pytest.mark.rule("FLT-FAST-10")
def test_the_release_may_interrupt_the_writer_at_passive_level() -> None:
    """Where it comes is open: inside of the next file's callbacks, or after the last of them."""

    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            file = FltObjects.FileObject
            assert file is not None
            what = short(Data.Iopb.MajorFunction) + file.FileName
            lab.note(f"{what} begins")
            await KeClearEvent_of(lab)
            lab.note(f"{what} ends")
            return NO

        majors = (IRP_MJ_ACQUIRE_FOR_MOD_WRITE, IRP_MJ_WRITE, IRP_MJ_RELEASE_FOR_MOD_WRITE)
        await lab.filter("D", MIDDLE, dict.fromkeys(majors, (pre, None)))
        await two_dirty_files(lab)

    runs = all_runs(script, bound=1, **CACHED)
    assert codes(runs) == {None}
    places: set[str] = set()
    for one in runs:
        for note in one.notes:
            released = note.what.startswith("release")
            assert note.irql == (APC_LEVEL if released else 0)
            assert note.thread.startswith("lazy writer")
        if r"release_for_mod_write\a begins" in one.order:
            at = one.index(r"release_for_mod_write\a begins")
            places.add(one.order[at - 1])
    assert {r"acquire_for_mod_write\b begins", r"write\b begins", r"write\b ends"} <= places


async def KeClearEvent_of(lab: Lab) -> None:
    """Any routine that is awaited: a place where an APC can come."""
    event = KEVENT("any")
    KeInitializeEvent(event, SynchronizationEvent, False)
    await KeClearEvent(event)


def locking(kind: str) -> tuple[Any, Any, Any]:
    """A lock of a driver: itself, acquiring it, releasing it."""
    if kind == "push lock":
        push_lock = EX_PUSH_LOCK("Lock")
        FltInitializePushLock(push_lock)
        return push_lock, FltAcquirePushLockExclusive, FltReleasePushLock
    if kind == "fast mutex":
        mutex = FAST_MUTEX("Lock")
        ExInitializeFastMutex(mutex)
        return mutex, ExAcquireFastMutex, ExReleaseFastMutex
    event = KEVENT("Lock")
    KeInitializeEvent(event, SynchronizationEvent, True)

    async def take(event: KEVENT) -> None:
        await KeWaitForSingleObject(event, Executive, KernelMode, False, None)

    async def give(event: KEVENT) -> None:
        await KeSetEvent(event, 0, False)

    return event, take, give


@pytest.mark.rule("FLT-FAST-11", "FLT-RACE-62")
@pytest.mark.parametrize(
    ("kind", "harmful"),
    [
        # Owning a push lock keeps off normal APCs only; an event, none at all. A fast mutex raises to APC_LEVEL.
        ("push lock", True),
        ("event", True),
        ("fast mutex", False),
    ],
)
def test_waiting_in_the_release_for_what_the_interrupted_code_holds(kind: str, harmful: bool) -> None:
    async def script(lab: Lab) -> None:
        lock, acquire, release = locking(kind)

        async def write(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await acquire(lock)
            lab.note("held")
            await KeClearEvent_of(lab)
            await release(lock)
            lab.note("let go")
            return NO

        async def released(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert current_kthread().irql == APC_LEVEL
            lab.note("release")
            await acquire(lock)
            await release(lock)
            return NO

        await lab.filter("D", MIDDLE, {IRP_MJ_WRITE: (write, None), IRP_MJ_RELEASE_FOR_MOD_WRITE: (released, None)})
        await two_dirty_files(lab)

    runs = all_runs(script, bound=1, **CACHED)
    # Raised exactly where the release comes while the lock is held.
    for one in runs:
        inside = False
        held = False
        for what in one.order:
            if what == "held":
                held = True
            elif what == "let go":
                held = False
            else:
                inside = inside or held
        # An APC also comes at the end of a wait, where the event is taken and nothing is noted yet.
        assert (one.code == "modwrite-apc-deadlock") == inside or kind == "event"
    assert codes(runs) == ({None, "modwrite-apc-deadlock"} if harmful else {None})


@pytest.mark.rule("FLT-FAST-11", "FLT-RACE-62")
@pytest.mark.parametrize("nested", [True, False])
def test_a_cycle_through_the_interrupted_code(nested: bool) -> None:
    """The release waits for somebody who waits for what the interrupted code holds."""

    async def script(lab: Lab) -> None:
        outer, inner = EX_PUSH_LOCK("Outer"), EX_PUSH_LOCK("Inner")
        FltInitializePushLock(outer)
        FltInitializePushLock(inner)

        async def write(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltAcquirePushLockExclusive(outer)
            await KeClearEvent_of(lab)
            await FltReleasePushLock(outer)
            return NO

        async def released(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltAcquirePushLockExclusive(inner)
            await FltReleasePushLock(inner)
            return NO

        async def somebody() -> None:
            await FltAcquirePushLockExclusive(inner)
            if nested:
                await FltAcquirePushLockExclusive(outer)
                await FltReleasePushLock(outer)
            await FltReleasePushLock(inner)

        await lab.filter("D", MIDDLE, {IRP_MJ_WRITE: (write, None), IRP_MJ_RELEASE_FOR_MOD_WRITE: (released, None)})
        await two_dirty_files(lab)
        await lab.start("somebody", somebody()).join()

    found = codes(all_runs(script, bound=2 if nested else 1, **CACHED))
    # The order of the locks is reported too, where the release comes without harm.
    assert found == ({None, "modwrite-apc-deadlock", "ke.lock-order"} if nested else {None})


# Registration, and what belongs to fast I/O only.


class Registers(Driver):
    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        return await FsRtlRegisterFileSystemFilterCallbacks(DriverObject, FS_FILTER_CALLBACKS())


@pytest.mark.rule("FLT-FAST-12")
def test_a_minifilter_does_not_register_with_the_runtime_library() -> None:
    async def minifilter(lab: Lab) -> None:
        await lab.load(Registers, MIDDLE)

    async def legacy(lab: Lab) -> None:
        await lab.load(Registers)

    async def ordinary(lab: Lab) -> None:
        await lab.recorder("D", MIDDLE)

    assert run(minifilter).code == "legacy-fsfilter-registration"
    assert run(ordinary).code is None
    with pytest.raises(UsageError, match="minifilters only"):
        run(legacy)


@pytest.mark.rule("FLT-FAST-13")
@pytest.mark.parametrize("member", ["ProcessId", "FailImmediately", "ExclusiveLock", "Length"])
@pytest.mark.parametrize("fast", [True, False])
def test_members_of_a_lock_request_that_only_fast_io_fills_in(member: str, fast: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note(str(getattr(Data.Iopb.Parameters.LockControl, member)))
            return NO

        await lab.filter("D", MIDDLE, {IRP_MJ_LOCK_CONTROL: (pre, None)})
        return await lab.app.win32.native.NtLockFile(await opened(lab), None, IO_STATUS_BLOCK(), 0, 4, 0, True, True)

    one = run(script, fast_io=fast)
    assert one.result == OK
    assert one.warnings == (() if fast or member == "Length" else ("lock-fastio-fields",))
