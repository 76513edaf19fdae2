"""Fast I/O and FSFilter operations: who issues them, in which class they arrive, what may be refused (FLT-FAST)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, run

from kemu.io.constants import major_name
from kemu.io.fastio import (
    mdl_read,
    mdl_read_complete,
    mdl_write_complete,
    prepare_mdl_write,
    tell_mounted,
)
from kemu.io.file_constants import FileInternalInformation, FileStandardInformation
from kemu.io.manager import IoManager
from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION
from kemu.user.native import IO_STATUS_BLOCK
from kemu.user.win32 import OPEN_EXISTING
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_FASTIO_OPERATION,
    FLT_IS_FS_FILTER_OPERATION,
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_DISALLOW_FASTIO,
    FLT_PREOP_DISALLOW_FSFILTER_IO,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.ntifs import (
    FILE_STAT_INFORMATION,
    FSCTL_DISMOUNT_VOLUME,
    FSCTL_REQUEST_OPLOCK_LEVEL_1,
    FileCaseSensitiveInformation,
    FileStatBasicInformation,
    FileStatInformation,
    FileStatLxInformation,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_LOCK_NOT_GRANTED,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_PENDING,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_MDL_READ,
    IRP_MJ_MDL_READ_COMPLETE,
    IRP_MJ_MDL_WRITE_COMPLETE,
    IRP_MJ_NETWORK_QUERY_OPEN,
    IRP_MJ_PREPARE_MDL_WRITE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_VOLUME_DISMOUNT,
    IRP_MJ_VOLUME_MOUNT,
    IRP_MJ_WRITE,
    ObReferenceObject,
)

WITH, NO = FLT_PREOP_SUCCESS_WITH_CALLBACK, FLT_PREOP_SUCCESS_NO_CALLBACK
OK = STATUS_SUCCESS
CACHED: dict[str, Any] = {"cached_io": True}
FAST: dict[str, Any] = {"cached_io": True, "fast_io": True}
ALL_SHARES = 7
PSEUDO = (
    IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE,
    IRP_MJ_NETWORK_QUERY_OPEN,
    IRP_MJ_MDL_READ,
    IRP_MJ_MDL_READ_COMPLETE,
    IRP_MJ_PREPARE_MDL_WRITE,
    IRP_MJ_MDL_WRITE_COMPLETE,
    IRP_MJ_VOLUME_MOUNT,
    IRP_MJ_VOLUME_DISMOUNT,
)
FSFILTER = (
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_QUERY_OPEN,
)
BOTH = (IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_QUERY_INFORMATION, IRP_MJ_LOCK_CONTROL, IRP_MJ_DEVICE_CONTROL)


def kind_of(Data: FLT_CALLBACK_DATA) -> str:
    if FLT_IS_FASTIO_OPERATION(Data):
        return "fast"
    return "fsfilter" if FLT_IS_FS_FILTER_OPERATION(Data) else "irp"


def short(major: int) -> str:
    return major_name(major).removeprefix("IRP_MJ_").lower()


def watching(lab: Lab, name: str = "", does: dict[int, Any] | None = None) -> tuple[Any, Any]:
    """Callbacks that note what comes and in which class; *does* says what the first returns for some majors.

    That is a result, or a status to fail or complete the operation with.
    """
    wanted = does or {}
    prefix = f"{name}." if name else ""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        major = Data.Iopb.MajorFunction
        lab.note(f"{prefix}{short(major)}.{kind_of(Data)}", Data.Iopb.Parameters.SyncType)
        result = wanted.get(major, WITH)
        if kind_of(Data) == "irp" and result == FLT_PREOP_DISALLOW_FASTIO:
            return WITH
        if result not in range(7):
            Data.IoStatus.Status = result
            return FLT_PREOP_COMPLETE
        return result

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        lab.note(f"{prefix}{short(Data.Iopb.MajorFunction)}.post", (Data.IoStatus.Status, Data.IoStatus.Information))
        return FLT_POSTOP_FINISHED_PROCESSING

    return pre, post


async def watch(
    lab: Lab, *majors: int, name: str = "D", altitude: str = MIDDLE, does: dict[int, Any] | None = None
) -> None:
    pair = watching(lab, "" if name == "D" else name, does)
    await lab.filter(name, altitude, dict.fromkeys(majors or (*PSEUDO, *FSFILTER, *BOTH), pair))


def came(one: Any) -> list[str]:
    """What came, without the post-operations."""
    return [what for what in one.order if not what.endswith(".post")]


def manager(lab: Lab) -> IoManager:
    return lab.system.get(IoManager)


async def opened(lab: Lab, flags: int = 0) -> Any:
    access = 0xC0000000
    return await lab.app.win32.CreateFileW(r"\a", access, ALL_SHARES, None, OPEN_EXISTING, flags)


# Who issues what.


async def use_the_cache(lab: Lab) -> Any:
    """A program that reads, queries and locks; the first transfer makes the file a cached one."""
    win32 = lab.app.win32
    handle = await opened(lab)
    first = await win32.ReadFile(handle, 4)
    await win32.SetFilePointerEx(handle, 0)
    native = win32.native
    block = IO_STATUS_BLOCK()
    second = await native.NtReadFile(handle, None, block, 4, 0)
    status, _ = await native.NtQueryInformationFile(handle, FileStandardInformation)
    locked = await native.NtLockFile(handle, None, IO_STATUS_BLOCK(), 0, 4, 0, True, True)
    return first, second, block.buffer, status, locked


@pytest.mark.rule("FLT-FAST-02")
def test_what_programs_do_is_tried_as_fast_io_first() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, *BOTH)
        return await use_the_cache(lab)

    one = run(script, **FAST)
    assert one.result == ((True, b"0123"), OK, b"0123", OK, OK)
    assert came(one)[-3:] == ["read.fast", "query_information.fast", "lock_control.fast"]
    assert "read.irp" in one.order


@pytest.mark.rule("FLT-FAST-02")
def test_without_the_option_they_are_irps() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, *BOTH)
        return await use_the_cache(lab)

    one = run(script, **CACHED)
    assert one.result == ((True, b"0123"), OK, b"0123", OK, OK)
    assert {what.split(".")[1] for what in came(one)} == {"irp"}


@pytest.mark.rule("FLT-FAST-02")
@pytest.mark.parametrize("which", [FileStandardInformation, FileInternalInformation])
def test_few_queries_are_fast_io(which: int) -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, *BOTH)
        status, _ = await lab.app.win32.native.NtQueryInformationFile(await opened(lab), which)
        return status

    one = run(script, **FAST)
    assert one.result == OK
    assert came(one) == ["query_information.fast" if which == FileStandardInformation else "query_information.irp"]


@pytest.mark.rule("FLT-FAST-02", "FLT-FAST-05")
def test_a_device_control_is_fast_io_and_then_an_irp() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL)
        file = await lab.quiet_open()
        return await file.control(0x222003, fast=True)

    one = run(script, **FAST)
    assert came(one) == ["device_control.fast", "device_control.irp"]


@pytest.mark.rule("FLT-FAST-05")
def test_a_lock_that_has_to_be_waited_for_takes_an_irp() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_LOCK_CONTROL)
        native = lab.app.win32.native
        mine, other = await opened(lab), await opened(lab, 0x40000000)
        await native.NtLockFile(mine, None, IO_STATUS_BLOCK(), 0, 4, 0, True, True)
        at_once = await native.NtLockFile(other, None, IO_STATUS_BLOCK(), 0, 4, 0, True, True)
        block = IO_STATUS_BLOCK()
        waiting = await native.NtLockFile(other, None, block, 0, 4, 0, False, True)
        await native.NtUnlockFile(mine, 0, 4, 0)
        await native.finished(block)
        return at_once, waiting, block.Status

    one = run(script, **FAST)
    assert one.result == (STATUS_LOCK_NOT_GRANTED, STATUS_PENDING, OK)
    assert came(one) == [
        "lock_control.fast", "lock_control.fast",
        "lock_control.fast", "lock_control.irp", "lock_control.fast",
    ]  # fmt: skip


@pytest.mark.rule("FLT-FAST-01")
def test_questionable_fast_io_is_asked_about_first() -> None:
    """A byte-range lock of somebody else: the file system asks whether fast I/O is possible, from the top."""

    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE, IRP_MJ_READ)
        native = lab.app.win32.native
        mine, other = await opened(lab), await opened(lab)
        await native.NtReadFile(mine, None, IO_STATUS_BLOCK(), 4, 0)
        await native.NtLockFile(other, None, IO_STATUS_BLOCK(), 8, 1, 0, True, True)
        lab.notes.clear()
        free = await native.NtReadFile(mine, None, IO_STATUS_BLOCK(), 4, 0)
        taken = await native.NtReadFile(mine, None, IO_STATUS_BLOCK(), 10, 0)
        return free, taken

    one = run(script, **FAST)
    assert one.result[0] == OK
    assert one.result[1] != OK
    assert one.order == [
        "read.fast", "fast_io_check_if_possible.fast", "fast_io_check_if_possible.post", "read.post",
        "read.fast", "fast_io_check_if_possible.fast", "fast_io_check_if_possible.post", "read.post",
        "read.irp", "read.post",
    ]  # fmt: skip
    checks = [note.value[0] for note in one.notes if note.what == "fast_io_check_if_possible.post"]
    assert checks == [OK, STATUS_FLT_DISALLOW_FAST_IO]


@pytest.mark.rule("FLT-FAST-01", "FLT-FAST-05")
def test_a_filter_with_locks_of_its_own_makes_fast_io_impossible() -> None:
    async def script(lab: Lab) -> Any:
        refuses = {IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE: FLT_PREOP_DISALLOW_FASTIO}
        await watch(lab, IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE, IRP_MJ_READ, does=refuses)
        native = lab.app.win32.native
        mine = await opened(lab)
        await native.NtReadFile(mine, None, IO_STATUS_BLOCK(), 4, 0)
        await native.NtLockFile(mine, None, IO_STATUS_BLOCK(), 8, 1, 0, True, True)
        lab.notes.clear()
        return await native.NtReadFile(mine, None, IO_STATUS_BLOCK(), 4, 0)

    one = run(script, **FAST)
    assert one.result == OK
    assert came(one) == ["read.fast", "fast_io_check_if_possible.fast", "read.irp"]


def test_an_oplock_is_never_broken_by_fast_io() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_READ)
        native = lab.app.win32.native
        reader = await opened(lab)
        await native.NtReadFile(reader, None, IO_STATUS_BLOCK(), 4, 0)
        lab.notes.clear()
        block = IO_STATUS_BLOCK()
        owner = await opened(lab, 0x40000000)
        await native.NtClose(reader)
        granted = await native.NtFsControlFile(owner, None, block, FSCTL_REQUEST_OPLOCK_LEVEL_1)
        return granted, await native.NtReadFile(owner, None, IO_STATUS_BLOCK(), 4, 0)

    one = run(script, **FAST)
    assert one.result[0] == STATUS_PENDING


# Queries by name.


@pytest.mark.rule("FLT-FAST-01")
def test_a_query_by_name_opens_nothing() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_NETWORK_QUERY_OPEN, IRP_MJ_CREATE)
        ok, found = await lab.app.win32.GetFileAttributesExW(r"\a")
        missing, _ = await lab.app.win32.GetFileAttributesExW(r"\none")
        return ok, found.EndOfFile, missing

    one = run(script)
    assert one.result == (True, 10, False)
    assert came(one) == ["network_query_open.fast"] * 2
    assert [note.value[0] for note in one.notes if note.value] == [OK, STATUS_OBJECT_NAME_NOT_FOUND]


@pytest.mark.rule("FLT-FAST-07", "FLT-FAST-05")
def test_a_query_by_name_that_is_refused_opens_the_file() -> None:
    async def script(lab: Lab) -> Any:
        refuses = {IRP_MJ_NETWORK_QUERY_OPEN: FLT_PREOP_DISALLOW_FASTIO}
        await watch(lab, IRP_MJ_NETWORK_QUERY_OPEN, IRP_MJ_CREATE, IRP_MJ_QUERY_INFORMATION, does=refuses)
        ok, found = await lab.app.win32.GetFileAttributesExW(r"\a")
        missing, _ = await lab.app.win32.GetFileAttributesExW(r"\none")
        return ok, found.EndOfFile, missing

    one = run(script)
    assert one.result == (True, 10, False)
    assert came(one) == [
        "network_query_open.fast", "create.irp", "query_information.irp", "network_query_open.fast", "create.irp",
    ]  # fmt: skip


@pytest.mark.rule("FLT-FAST-07", "FLT-POST-27")
@pytest.mark.parametrize(
    ("major", "code"),
    [(IRP_MJ_NETWORK_QUERY_OPEN, "disallow-fsfilter-wrong-major"), (IRP_MJ_QUERY_OPEN, None)],
)
def test_only_query_open_can_be_refused_afterwards(major: int, code: str | None) -> None:
    async def script(lab: Lab) -> Any:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            return FLT_POSTOP_DISALLOW_FSFILTER_IO

        await watch(lab, major, name="U", altitude=UPPER)
        await lab.filter("D", MIDDLE, {major: (None, post)})
        await watch(lab, IRP_MJ_CREATE, name="L", altitude=LOWER)
        if major == IRP_MJ_NETWORK_QUERY_OPEN:
            return await lab.app.win32.GetFileAttributesExW(r"\a")
        status, found = await lab.app.win32.native.NtQueryInformationByName(r"\a", FileStatInformation)
        return status, found.EndOfFile

    one = run(script)
    assert one.code == code
    if code is None:
        assert one.result == (OK, 10)
        assert one.note("U.query_open.post").value[0] == STATUS_FLT_DISALLOW_FAST_IO
        assert "L.create.irp" in one.order


@pytest.mark.rule("FLT-FAST-07")
def test_a_query_by_name_is_not_reparsed() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(r"\target", b"x")
        await watch(lab, IRP_MJ_NETWORK_QUERY_OPEN, IRP_MJ_CREATE, does={IRP_MJ_NETWORK_QUERY_OPEN: STATUS_REPARSE})
        return await lab.app.win32.native.NtQueryFullAttributesFile(r"\a")

    one = run(script)
    assert one.result == (STATUS_REPARSE, None)
    assert came(one) == ["network_query_open.fast"]


@pytest.mark.rule("FLT-FAST-08", "FLT-PRE-24")
@pytest.mark.parametrize("refuses", [False, True])
def test_query_open(refuses: bool) -> None:
    async def script(lab: Lab) -> Any:
        does = {IRP_MJ_QUERY_OPEN: FLT_PREOP_DISALLOW_FSFILTER_IO} if refuses else {}
        await watch(lab, IRP_MJ_QUERY_OPEN, IRP_MJ_CREATE, does=does)
        status, found = await lab.app.win32.native.NtQueryInformationByName(r"\a", FileStatInformation)
        assert isinstance(found, FILE_STAT_INFORMATION)
        return status, found.EndOfFile, found.NumberOfLinks

    one = run(script)
    assert (one.code, one.result) == (None, (OK, 10, 1))
    assert came(one) == ["query_open.fsfilter"] + ["create.irp"] * refuses
    if not refuses:
        assert one.note("query_open.post").value == (OK, 0)


@pytest.mark.rule("FLT-FAST-14")
@pytest.mark.parametrize(
    ("which", "is_query_open"),
    [
        (FileStatInformation, True),
        (FileStatLxInformation, True),
        (FileStatBasicInformation, True),
        (FileCaseSensitiveInformation, True),
        (FileStandardInformation, False),
    ],
)
def test_few_classes_are_queried_by_query_open(which: int, is_query_open: bool) -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_QUERY_OPEN, IRP_MJ_CREATE)
        return (await lab.app.win32.native.NtQueryInformationByName(r"\a", which))[0]

    one = run(script)
    assert one.result == OK
    assert came(one) == ["query_open.fsfilter" if is_query_open else "create.irp"]


def test_query_open_of_a_file_that_is_not_there() -> None:
    async def script(lab: Lab) -> Any:
        native = lab.app.win32.native
        return (
            await native.NtQueryInformationByName(r"\none", FileStatInformation),
            await native.NtQueryInformationByName(r"\none\deeper", FileStatInformation),
            (await native.NtQueryInformationByName("\\", FileStatInformation))[0],
            await native.NtQueryInformationByName("X:\\a", FileStatInformation),
            await native.NtQueryFullAttributesFile("X:\\a"),
        )

    gone = (STATUS_OBJECT_NAME_NOT_FOUND, None)
    assert run(script).result == (gone, gone, OK, gone, gone)


@pytest.mark.rule("FLT-FAST-06")
@pytest.mark.parametrize(
    ("does", "code"),
    [("reads", "nqo-fileobject-escape"), ("references", "nqo-fileobject-escape"), ("copies", None)],
)
def test_the_file_object_of_a_query_by_name_cannot_be_kept(does: str, code: str | None) -> None:
    async def script(lab: Lab) -> Any:
        kept: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            file = FltObjects.FileObject
            assert file is not None
            if does == "references":
                await ObReferenceObject(file)
            kept.append(file.FileName if does == "copies" else file)
            return NO

        async def later(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if does == "copies":
                lab.note(kept[0])
            else:
                lab.note(kept[0].FileName)
            return NO

        await lab.filter("D", MIDDLE, {IRP_MJ_NETWORK_QUERY_OPEN: (pre, None), IRP_MJ_CREATE: (later, None)})
        await lab.app.win32.GetFileAttributesExW(r"\a")
        await lab.open()

    one = run(script)
    assert one.code == code
    if code is None:
        assert one.order == [r"\a"]


@pytest.mark.rule("FLT-FAST-06")
def test_the_kept_file_object_cannot_be_written_to() -> None:
    async def script(lab: Lab) -> Any:
        kept: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(FltObjects.FileObject)
            return NO

        async def later(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept[0].FsContext = None
            return NO

        await lab.filter("D", MIDDLE, {IRP_MJ_NETWORK_QUERY_OPEN: (pre, None), IRP_MJ_CREATE: (later, None)})
        await lab.app.win32.GetFileAttributesExW(r"\a")
        # The script is nobody's driver: what it looks at is its own affair.
        kept[0].FsContext = None
        assert kept[0].FileName == r"\a"
        await lab.open()

    assert run(script).code == "nqo-fileobject-escape"


# Pages without a copy.


@pytest.mark.rule("FLT-FAST-17", "FLT-FAST-05")
@pytest.mark.parametrize("cached", [True, False])
def test_pages_are_lent_as_fast_io_if_the_file_is_cached(cached: bool) -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab)
        file = await lab.quiet_open()
        if cached:
            await file.read(4)
            lab.notes.clear()
        status, mdl = await mdl_read(manager(lab), file.file, 2, 3)
        data = bytes(mdl.buffer)
        done = await mdl_read_complete(manager(lab), file.file, mdl)
        prepared, pages = await prepare_mdl_write(manager(lab), file.file, 0, 2)
        pages.buffer[:] = b"XY"
        written = await mdl_write_complete(manager(lab), file.file, 0, pages)
        return status, data, done, prepared, written, await file.read(4)

    one = run(script, **CACHED)
    assert one.result == (OK, b"234", OK, OK, OK, (OK, b"XY23"))
    steps = ["mdl_read", "mdl_read_complete", "prepare_mdl_write", "mdl_write_complete"]
    seen = [what for what in came(one) if what.split(".")[0] in steps or what in {"read.irp", "write.irp"}]
    if cached:
        assert seen[:4] == [f"{step}.fast" for step in steps]
    else:
        # The first read makes the file a cached one.
        assert seen[:2] == ["mdl_read.fast", "read.irp"]


@pytest.mark.rule("FLT-FAST-17")
def test_without_a_cache_pages_are_lent_by_irps() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab)
        file = await lab.quiet_open()
        status, mdl = await mdl_read(manager(lab), file.file, 2, 3)
        done = await mdl_read_complete(manager(lab), file.file, mdl)
        prepared, pages = await prepare_mdl_write(manager(lab), file.file, 0, 2)
        pages.buffer[:] = b"XY"
        written = await mdl_write_complete(manager(lab), file.file, 0, pages)
        wrong = await mdl_read_complete(manager(lab), file.file, None)
        also = await mdl_write_complete(manager(lab), file.file, 0, None)
        return status, bytes(mdl.buffer), done, prepared, written, await file.read(4), wrong == also == OK

    one = run(script)
    assert one.result == (OK, b"234", OK, OK, OK, (OK, b"XY23"), False)
    assert came(one)[:8] == [
        "mdl_read.fast", "read.irp", "mdl_read_complete.fast", "read.irp",
        "prepare_mdl_write.fast", "write.irp", "mdl_write_complete.fast", "write.irp",
    ]  # fmt: skip


@pytest.mark.rule("FLT-FAST-17", "FLT-FAST-05", "FLT-RACE-63")
def test_a_filter_that_refuses_mdl_reads_sees_them_again_as_reads() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_MDL_READ, IRP_MJ_READ, does={IRP_MJ_MDL_READ: FLT_PREOP_DISALLOW_FASTIO})
        file = await lab.quiet_open()
        await file.read(4)
        lab.notes.clear()
        return (await mdl_read(manager(lab), file.file, 0, 4))[0]

    one = run(script, **CACHED)
    assert one.result == OK
    assert came(one) == ["mdl_read.fast", "read.irp"]


# Mounting.


@pytest.mark.rule("FLT-FAST-01")
def test_mounting_and_dismounting_are_fast_io() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_VOLUME_MOUNT, IRP_MJ_VOLUME_DISMOUNT)
        mounted = await tell_mounted(manager(lab), lab.volume)
        native = lab.app.win32.native
        return mounted, await native.NtFsControlFile(await opened(lab), None, IO_STATUS_BLOCK(), FSCTL_DISMOUNT_VOLUME)

    for completion in ("inline", "later"):
        one = run(script, completion=completion)
        assert one.result == (OK, OK)
        assert came(one) == ["volume_mount.fast", "volume_dismount.fast"]


@pytest.mark.rule("FLT-PRE-21")
@pytest.mark.parametrize("major", [IRP_MJ_VOLUME_MOUNT, IRP_MJ_VOLUME_DISMOUNT])
def test_mounting_is_told_to_those_below_too(major: int) -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, major)
        file = await lab.quiet_open()
        return (await lab.send(lab.request(file, major, kind=FAST_IO_OPERATION))).status

    assert run(script).result == OK


# The classes.


@pytest.mark.rule("FLT-FAST-01", "FLT-FAST-03", "FLT-PRE-13")
@pytest.mark.parametrize("major", [*PSEUDO, *FSFILTER])
@pytest.mark.parametrize("status", [WITH, FLT_PREOP_SYNCHRONIZE])
def test_they_stay_in_their_thread(major: int, status: int) -> None:
    kind = FAST_IO_OPERATION if major in PSEUDO else FS_FILTER_OPERATION

    async def script(lab: Lab) -> Any:
        await watch(lab, major, name="A", altitude=UPPER, does={major: status})
        await watch(lab, major, name="B", altitude=LOWER, does={major: status})
        file = await lab.quiet_open()
        await lab.send(lab.request(file, major, kind=kind))

    runs = all_runs(script, completion="explore")
    what = "fast" if major in PSEUDO else "fsfilter"
    for one in runs:
        assert one.code is None
        assert one.order == [f"{x}.{short(major)}.{what}" for x in "AB"] + [f"{x}.{short(major)}.post" for x in "BA"]
        assert {note.thread for note in one.notes} == {"script"}


@pytest.mark.rule("FLT-PRE-19", "FLT-FAST-03")
@pytest.mark.parametrize("major", [IRP_MJ_QUERY_OPEN, IRP_MJ_MDL_READ])
def test_they_cannot_be_pended(major: int) -> None:
    kind = FAST_IO_OPERATION if major in PSEUDO else FS_FILTER_OPERATION

    async def script(lab: Lab) -> Any:
        await watch(lab, major, does={major: FLT_PREOP_PENDING})
        await lab.send(lab.request(await lab.quiet_open(), major, kind=kind))

    assert run(script).code == "pend-non-irp"


@pytest.mark.rule("FLT-FAST-04")
def test_fast_io_has_no_mdl_and_fsfilter_operations_no_buffers() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            parameters = Data.Iopb.Parameters
            lab.note(kind_of(Data), (getattr(parameters, "MdlAddress", None), parameters.MdlChain, parameters.Buffer))
            return NO

        majors = (IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_QUERY_INFORMATION, *FSFILTER)
        await lab.filter("D", MIDDLE, dict.fromkeys(majors, (pre, None)))
        file = await lab.quiet_open()
        await file.read(4, fast=True)
        await file.size(fast=True)
        await file.write(b"x", fast=True)
        for major in FSFILTER:
            await lab.send(lab.request(file, major, kind=FS_FILTER_OPERATION))

    seen = [(note.what, note.value) for note in run(script).notes]
    assert seen[:3] == [("fast", (None, None, b""))] * 2 + [("fast", (None, None, b"x"))]
    assert seen[3:] == [("fsfilter", (None, None, b""))] * len(FSFILTER)
