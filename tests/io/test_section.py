"""Sections: who is asked, what touching memory causes, when the file is closed."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.errors import UsageError
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_READ,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
    major_name,
)
from kemu.io.file_constants import GENERIC_READ, GENERIC_WRITE, PAGE_READONLY, PAGE_READWRITE, SyncTypeCreateSection
from kemu.nt.status import (
    STATUS_ACCESS_VIOLATION,
    STATUS_FILE_CLOSED,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_FILE_FOR_SECTION,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PAGE_PROTECTION,
    STATUS_INVALID_VIEW_SIZE,
    STATUS_IO_DEVICE_ERROR,
    STATUS_MAPPED_FILE_SIZE_ZERO,
    STATUS_NOT_MAPPED_VIEW,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SECTION_TOO_BIG,
    STATUS_SUCCESS,
)
from kemu.user.errors import (
    ERROR_ACCESS_DENIED,
    ERROR_FILE_INVALID,
    ERROR_INVALID_HANDLE,
    ERROR_USER_MAPPED_FILE,
)
from kemu.user.win32 import CREATE_NEW, FILE_FLAG_BACKUP_SEMANTICS, FILE_MAP_WRITE, OPEN_EXISTING
from kemu.wdk.fltkernel import FLT_PREOP_COMPLETE, FLT_PREOP_SUCCESS_NO_CALLBACK

OK = STATUS_SUCCESS
MAJORS = (
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
)
CACHED: dict[str, Any] = {"cached_io": True}
ALL = 7


async def watch(lab: Lab, fails: int | None = None, status: int = STATUS_INSUFFICIENT_RESOURCES) -> None:
    async def pre(Data: Any, FltObjects: Any) -> int:
        major = Data.Iopb.MajorFunction
        parameters = Data.Iopb.Parameters
        lab.note(major_name(major).removeprefix("IRP_MJ_").lower(), (parameters.SyncType, parameters.EndingOffset))
        if major == fails:
            Data.IoStatus.Status = status
            return FLT_PREOP_COMPLETE
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    await lab.filter("D", "1", dict.fromkeys(MAJORS, (pre, None)))


async def opened(lab: Lab, path: str = "a", how: int = OPEN_EXISTING, flags: int = 0) -> Any:
    handle = await lab.app.win32.CreateFileW(path, GENERIC_READ | GENERIC_WRITE, ALL, None, how, flags)
    assert handle is not None
    return handle


async def mapped(lab: Lab, file: Any, protection: int = PAGE_READWRITE, size: int = 0) -> tuple[Any, Any]:
    api = lab.app.win32
    section = await api.CreateFileMappingW(file, None, protection, 0, size)
    assert section is not None, api.GetLastError()
    view = await api.MapViewOfFile(section, FILE_MAP_WRITE)
    assert view is not None
    return section, view


def test_a_view_reads_and_writes_the_file() -> None:
    async def script(lab: Lab) -> list[Any]:
        await watch(lab)
        file = await opened(lab)
        _, view = await mapped(lab, file)
        read = await view.read(2, 3)
        written = await view.write(0, b"XY")
        await lab.sleep(1)
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        return [read, written, bytes(node.data), await lab.app.win32.ReadFile(file, 4)]

    one = run(script, **CACHED)
    assert one.result == [(OK, b"234"), OK, b"XY23456789", (True, b"XY23")]
    assert one.order == [
        "acquire_for_section_synchronization", "release_for_section_synchronization", "read",
        "acquire_for_mod_write", "write", "release_for_mod_write", "read",
    ]  # fmt: skip
    assert one.note("acquire_for_section_synchronization").value == (SyncTypeCreateSection, 0)
    assert one.note("acquire_for_mod_write").value == (0, 4096)


@pytest.mark.rule("FLT-FAST-10")
def test_the_release_of_the_mapped_page_writer_is_at_apc_level() -> None:
    async def script(lab: Lab) -> None:
        await watch(lab)
        _, view = await mapped(lab, await opened(lab))
        await view.write(0, b"XY")

    one = run(script, **CACHED)
    assert [one.note(what).irql for what in ("acquire_for_mod_write", "release_for_mod_write")] == [0, 1]


def test_a_filter_that_does_not_want_the_pages_written_now() -> None:
    async def script(lab: Lab) -> bytes:
        await watch(lab, IRP_MJ_ACQUIRE_FOR_MOD_WRITE)
        file = await opened(lab)
        _, view = await mapped(lab, file)
        await view.write(0, b"XY")
        await lab.sleep(1)
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        before = bytes(node.data[:2])
        assert await lab.app.win32.FlushViewOfFile(view)
        return before + bytes(node.data[:2])

    assert run(script, **CACHED).result == b"01XY"


def test_a_filter_that_refuses_a_section() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION)
        return (await lab.app.win32.native.NtCreateSection(0, PAGE_READONLY, await opened(lab)))[0]

    one = run(script, **CACHED)
    assert one.result == STATUS_INSUFFICIENT_RESOURCES
    assert one.order == ["acquire_for_section_synchronization"]


def test_a_page_that_cannot_be_read() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab, IRP_MJ_READ, STATUS_IO_DEVICE_ERROR)
        _, view = await mapped(lab, await opened(lab))
        return (await view.read(0, 1))[0], await view.write(0, b"x")

    assert run(script, **CACHED).result == (STATUS_IO_DEVICE_ERROR, STATUS_IO_DEVICE_ERROR)


def test_a_section_may_be_longer_than_its_file() -> None:
    async def script(lab: Lab) -> list[Any]:
        await watch(lab)
        file = await opened(lab)
        native = lab.app.win32.native
        too_big = (await native.NtCreateSection(20, PAGE_READONLY, file))[0]
        _, view = await mapped(lab, file, size=20)
        return [too_big, await lab.app.win32.GetFileSizeEx(file), await view.read(8, 12)]

    one = run(script, **CACHED)
    assert one.result == [STATUS_SECTION_TOO_BIG, (True, 20), (OK, b"89" + bytes(10))]
    assert "set_information" in one.order


def test_what_cannot_be_mapped() -> None:
    async def script(lab: Lab) -> list[Any]:
        lab.directory("d")
        api, native = lab.app.win32, lab.app.win32.native
        empty = await opened(lab, "n", CREATE_NEW)
        directory = await opened(lab, "d", flags=FILE_FLAG_BACKUP_SEMANTICS)
        file = await opened(lab)
        reads = await api.CreateFileW("a", GENERIC_READ, ALL, None, OPEN_EXISTING)
        section, view = await mapped(lab, file)
        return [
            (await native.NtCreateSection(0, PAGE_READONLY, empty))[0],
            (await native.NtCreateSection(0, PAGE_READONLY, directory))[0],
            (await native.NtCreateSection(0, 0x33, file))[0],
            (await native.NtCreateSection(0, PAGE_READONLY, None))[0],
            (await native.NtMapViewOfSection(section, 11))[0],
            (await native.NtMapViewOfSection(section, 0, 11))[0],
            (await native.NtMapViewOfSection(file))[0],
            (await view.read(9, 2))[0],
            await api.CreateFileMappingW(empty, None, PAGE_READONLY),
            api.GetLastError(),
            await api.CreateFileMappingW(reads, None, PAGE_READWRITE),
            api.GetLastError(),
            await api.MapViewOfFile(None, FILE_MAP_WRITE),
            api.GetLastError(),
            await api.UnmapViewOfFile(None),
        ]

    assert run(script, **CACHED).result == [
        STATUS_MAPPED_FILE_SIZE_ZERO, STATUS_INVALID_FILE_FOR_SECTION, STATUS_INVALID_PAGE_PROTECTION,
        STATUS_INVALID_HANDLE, STATUS_INVALID_VIEW_SIZE, STATUS_INVALID_VIEW_SIZE, STATUS_OBJECT_TYPE_MISMATCH,
        STATUS_ACCESS_VIOLATION, None, ERROR_FILE_INVALID, None, ERROR_ACCESS_DENIED, None, ERROR_INVALID_HANDLE, False,
    ]  # fmt: skip


def test_a_view_that_is_only_read() -> None:
    async def script(lab: Lab) -> Any:
        _, view = await mapped(lab, await opened(lab), PAGE_READONLY)
        return (await view.read(0, 1))[0], await view.write(0, b"x")

    assert run(script, **CACHED).result == (OK, STATUS_ACCESS_VIOLATION)


def test_a_mapped_file_is_not_made_shorter() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        file = await opened(lab)
        _, view = await mapped(lab, file)
        found: list[Any] = [await api.SetEndOfFile(file), api.GetLastError()]
        found.append(await api.CreateFileW("a", GENERIC_WRITE, ALL, None, 2))
        found.append(await api.DeleteFileW("a"))
        found.append(await api.UnmapViewOfFile(view))
        found.append(await api.native.NtUnmapViewOfSection(view))
        found.append((await view.read(0, 1))[0])
        return [*found, await api.SetEndOfFile(file)]

    assert run(script, **CACHED).result == [
        False, ERROR_USER_MAPPED_FILE, None, False, True, STATUS_NOT_MAPPED_VIEW, STATUS_ACCESS_VIOLATION, True,
    ]  # fmt: skip


@pytest.mark.parametrize("first", ["section", "view"])
def test_the_close_comes_after_the_section_is_gone(first: str) -> None:
    async def script(lab: Lab) -> list[str]:
        await watch(lab)
        api = lab.app.win32
        file = await opened(lab)
        section, view = await mapped(lab, file)
        found: list[str] = []

        async def look() -> None:
            await lab.sleep(1)
            found.append("+".join(note.what for note in lab.notes if note.what in {"cleanup", "close"}))

        await api.CloseHandle(file)
        await look()
        await (api.CloseHandle(section) if first == "section" else api.UnmapViewOfFile(view))
        await look()
        await (api.UnmapViewOfFile(view) if first == "section" else api.CloseHandle(section))
        await look()
        return found

    assert run(script, **CACHED).result == ["cleanup", "cleanup", "cleanup+close"]


def test_two_handles_of_a_section() -> None:
    async def script(lab: Lab) -> Any:
        api, process = lab.app.win32, lab.app.process
        section, view = await mapped(lab, await opened(lab))
        _, twin = await api.DuplicateHandle(process, section, process)
        await api.CloseHandle(section)
        again = await api.MapViewOfFile(twin, FILE_MAP_WRITE)
        assert again is not None
        await api.UnmapViewOfFile(view)
        await api.CloseHandle(twin)
        return await again.read(0, 2)

    assert run(script, **CACHED).result == (OK, b"01")


def test_a_file_object_after_its_cleanup_has_no_sections() -> None:
    async def script(lab: Lab) -> Any:
        from kemu.io.manager import IoManager
        from kemu.io.section import create_section

        file = await lab.open()
        await file.close()
        return (await create_section(lab.system.get(IoManager), file.file, 0, PAGE_READONLY))[0]

    assert run(script, **CACHED).result == STATUS_FILE_CLOSED


def test_a_section_needs_cached_io() -> None:
    async def script(lab: Lab) -> None:
        await mapped(lab, await opened(lab))

    with pytest.raises(UsageError, match="cached_io=True"):
        run(script)


def test_unmapping_and_writing_pages_race() -> None:
    async def script(lab: Lab) -> bytes:
        api = lab.app.win32
        file = await opened(lab)
        section, view = await mapped(lab, file)

        async def write() -> None:
            await view.write(0, b"X")

        async def close() -> None:
            await api.CloseHandle(section)
            await api.CloseHandle(file)

        await lab.together(write(), close())
        await api.FlushViewOfFile(view)
        await api.UnmapViewOfFile(view)
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        return bytes(node.data[:1])

    runs = all_runs(script, bound=1, **CACHED)
    assert {(one.code, one.result) for one in runs} == {(None, b"X")}
