"""Files as a program uses them: handles, transfers, positions, names, errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, run

from kemu.io.constants import IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_READ
from kemu.io.file_constants import (
    FILE_SHARE_DELETE,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    GENERIC_READ,
    GENERIC_WRITE,
    FileFsSizeInformation,
)
from kemu.nt.access import DELETE
from kemu.nt.status import STATUS_SUCCESS
from kemu.user import Win32
from kemu.user.errors import (
    ERROR_ACCESS_DENIED,
    ERROR_ALREADY_EXISTS,
    ERROR_DIR_NOT_EMPTY,
    ERROR_FILE_EXISTS,
    ERROR_FILE_NOT_FOUND,
    ERROR_INVALID_FUNCTION,
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_NAME,
    ERROR_INVALID_PARAMETER,
    ERROR_LOCK_VIOLATION,
    ERROR_MR_MID_NOT_FOUND,
    ERROR_NEGATIVE_SEEK,
    ERROR_NOT_LOCKED,
    ERROR_PATH_NOT_FOUND,
    ERROR_SHARING_VIOLATION,
    ERROR_SUCCESS,
    RtlNtStatusToDosError,
)
from kemu.user.win32 import (
    CREATE_ALWAYS,
    CREATE_NEW,
    DUPLICATE_CLOSE_SOURCE,
    DUPLICATE_SAME_ACCESS,
    FILE_BEGIN,
    FILE_CURRENT,
    FILE_END,
    FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_DELETE_ON_CLOSE,
    FILE_FLAG_NO_BUFFERING,
    INVALID_HANDLE_VALUE,
    LOCKFILE_EXCLUSIVE_LOCK,
    LOCKFILE_FAIL_IMMEDIATELY,
    MOVEFILE_REPLACE_EXISTING,
    OPEN_ALWAYS,
    OPEN_EXISTING,
    OVERLAPPED,
    TRUNCATE_EXISTING,
)
from kemu.wdk.fltkernel import FLT_PREOP_SUCCESS_NO_CALLBACK

READ_WRITE = GENERIC_READ | GENERIC_WRITE
ALL = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE
Script = Callable[[Win32], Coroutine[Any, Any, Any]]


def result(script: Script) -> Any:
    """What *script* returns in the plain run; there are the file ``a`` with ten digits and the directory ``d``."""

    async def whole(lab: Lab) -> Any:
        lab.directory(r"C:\d")
        return await script(lab.app.win32)

    one: Run = run(whole)
    assert one.code is None
    return one.result


async def opened(api: Win32, path: str = r"C:\a", how: int = OPEN_EXISTING, flags: int = 0, share: int = ALL) -> Any:
    handle = await api.CreateFileW(path, READ_WRITE, share, None, how, flags)
    assert handle is not INVALID_HANDLE_VALUE, api.GetLastError()
    return handle


@pytest.mark.parametrize(
    ("path", "how", "access", "flags", "error", "content"),
    [
        ("a", OPEN_EXISTING, READ_WRITE, 0, ERROR_SUCCESS, b"0123456789"),
        ("a", OPEN_ALWAYS, READ_WRITE, 0, ERROR_ALREADY_EXISTS, b"0123456789"),
        ("a", CREATE_ALWAYS, READ_WRITE, 0, ERROR_ALREADY_EXISTS, b""),
        ("a", CREATE_NEW, READ_WRITE, 0, ERROR_FILE_EXISTS, None),
        ("a", TRUNCATE_EXISTING, READ_WRITE, 0, ERROR_SUCCESS, b""),
        ("a", TRUNCATE_EXISTING, GENERIC_READ, 0, ERROR_INVALID_PARAMETER, None),
        ("a", 7, READ_WRITE, 0, ERROR_INVALID_PARAMETER, None),
        ("n", OPEN_EXISTING, READ_WRITE, 0, ERROR_FILE_NOT_FOUND, None),
        ("n", OPEN_ALWAYS, READ_WRITE, 0, ERROR_SUCCESS, b""),
        ("n", CREATE_ALWAYS, READ_WRITE, 0, ERROR_SUCCESS, b""),
        ("n", CREATE_NEW, READ_WRITE, 0, ERROR_SUCCESS, b""),
        (r"x\y", CREATE_NEW, READ_WRITE, 0, ERROR_PATH_NOT_FOUND, None),
        (r"a\y", OPEN_EXISTING, READ_WRITE, 0, ERROR_PATH_NOT_FOUND, None),
        ("a?", OPEN_EXISTING, READ_WRITE, 0, ERROR_INVALID_NAME, None),
        ("d", OPEN_EXISTING, READ_WRITE, 0, ERROR_ACCESS_DENIED, None),
        ("Z:\\a", OPEN_EXISTING, READ_WRITE, 0, ERROR_FILE_NOT_FOUND, None),
        ("c:/a", OPEN_EXISTING, READ_WRITE, 0, ERROR_SUCCESS, b"0123456789"),
    ],
)
def test_creating_a_file(path: str, how: int, access: int, flags: int, error: int, content: bytes | None) -> None:
    async def script(api: Win32) -> tuple[int, bytes | None]:
        handle = await api.CreateFileW(path, access, ALL, None, how, flags)
        error = api.GetLastError()
        if handle is INVALID_HANDLE_VALUE:
            return error, None
        return error, (await api.ReadFile(handle, 100))[1]

    assert result(script) == (error, content)


def test_a_directory_is_opened_with_backup_semantics() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api, "d", flags=FILE_FLAG_BACKUP_SEMANTICS)
        read = await api.ReadFile(handle, 1)
        return [read, api.GetLastError()]

    assert result(script) == [(False, b""), ERROR_INVALID_FUNCTION]


def test_sharing() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api, share=FILE_SHARE_READ)
        refused = await api.CreateFileW("a", GENERIC_WRITE, ALL, None, OPEN_EXISTING)
        error = api.GetLastError()
        await api.CloseHandle(handle)
        return [refused, error, await opened(api) is not None]

    assert result(script) == [INVALID_HANDLE_VALUE, ERROR_SHARING_VIOLATION, True]


def test_transfers_move_the_position() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api)
        return [
            await api.ReadFile(handle, 3),
            await api.WriteFile(handle, b"XYZ", 2),
            await api.ReadFile(handle, 100),
            await api.ReadFile(handle, 100),
            await api.SetFilePointerEx(handle, 1),
            await api.SetFilePointerEx(handle, 2, FILE_CURRENT),
            await api.SetFilePointerEx(handle, -4, FILE_END),
            await api.ReadFile(handle, 1),
            await api.SetFilePointerEx(handle, -1, FILE_BEGIN),
            api.GetLastError(),
            await api.SetFilePointerEx(handle, 0, 3),
            api.GetLastError(),
        ]

    assert result(script) == [
        (True, b"012"),
        (True, 2),
        (True, b"56789"),
        (True, b""),
        (True, 1),
        (True, 3),
        (True, 6),
        (True, b"6"),
        (False, 0),
        ERROR_NEGATIVE_SEEK,
        (False, 0),
        ERROR_INVALID_PARAMETER,
    ]


def test_the_end_of_file() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api)
        await api.SetFilePointerEx(handle, 4)
        return [await api.SetEndOfFile(handle), await api.GetFileSizeEx(handle), await api.FlushFileBuffers(handle)]

    assert result(script) == [True, (True, 4), True]


def test_a_handle_is_good_for_what_it_was_opened_for() -> None:
    async def script(api: Win32) -> list[Any]:
        reads = await api.CreateFileW("a", GENERIC_READ, ALL, None, OPEN_EXISTING)
        writes = await api.CreateFileW("a", GENERIC_WRITE, ALL, None, OPEN_EXISTING)
        found = [
            await api.WriteFile(reads, b"x"),
            api.GetLastError(),
            await api.ReadFile(writes, 1),
            api.GetLastError(),
            await api.SetEndOfFile(reads),
            await api.FlushFileBuffers(reads),
        ]
        api.SetLastError(7)
        return [*found, api.GetLastError()]

    denied = ERROR_ACCESS_DENIED
    assert result(script) == [(False, 0), denied, (False, b""), denied, False, False, 7]


def test_a_handle_that_is_none() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api)
        event = await api.CreateEventW()
        first, second = await api.CloseHandle(handle), await api.CloseHandle(handle)
        calls: list[Awaitable[Any]] = [
            api.ReadFile(handle, 1),
            api.ReadFile(None, 1),
            api.ReadFile(event, 1),
            api.CloseHandle(None),
            api.CancelIoEx(handle),
            api.SetFilePointerEx(handle, 0, FILE_CURRENT),
            api.SetFilePointerEx(handle, 0, FILE_END),
            api.GetFileSizeEx(event),
        ]
        errors: list[int] = []
        for call in calls:
            api.SetLastError(0)
            await call
            errors.append(api.GetLastError())
        return [first, second, errors]

    assert result(script) == [True, False, [ERROR_INVALID_HANDLE] * 8]


def test_deleting_and_moving() -> None:
    async def script(api: Win32) -> list[Any]:
        found: list[Any] = [
            await api.MoveFileExW("a", r"d\b"),
            await api.DeleteFileW("a"),
            api.GetLastError(),
            await api.RemoveDirectoryW("d"),
            api.GetLastError(),
            await api.MoveFileExW("n", "m"),
            api.GetLastError(),
        ]
        await opened(api, "c", CREATE_NEW)
        found += [
            await api.MoveFileExW(r"d\b", "c"),
            api.GetLastError(),
            await api.DeleteFileW(r"d\b"),
            await api.RemoveDirectoryW("d"),
            await api.CreateDirectoryW("e"),
            await api.CreateDirectoryW("e"),
            api.GetLastError(),
        ]
        return found

    exists = ERROR_ALREADY_EXISTS
    assert result(script) == [
        True, False, ERROR_FILE_NOT_FOUND, False, ERROR_DIR_NOT_EMPTY, False, ERROR_FILE_NOT_FOUND,
        False, exists, True, True, True, False, exists,
    ]  # fmt: skip


def test_moving_over_a_file() -> None:
    async def script(api: Win32) -> list[Any]:
        await api.CloseHandle(await opened(api, "b", CREATE_NEW))
        return [
            await api.MoveFileExW("a", "b", MOVEFILE_REPLACE_EXISTING),
            await api.ReadFile(await opened(api, "b"), 3),
        ]

    assert result(script) == [True, (True, b"012")]


def test_deleting_an_open_file_frees_its_name_at_once() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api)
        return [
            await api.DeleteFileW("a"),
            await api.CreateFileW("a", GENERIC_READ, ALL, None, OPEN_EXISTING),
            api.GetLastError(),
            await api.ReadFile(handle, 2),
        ]

    assert result(script) == [True, None, ERROR_FILE_NOT_FOUND, (True, b"01")]


def test_a_file_that_is_deleted_on_close() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await api.CreateFileW("n", READ_WRITE, ALL, None, CREATE_NEW, FILE_FLAG_DELETE_ON_CLOSE)
        await api.CloseHandle(handle)
        return [await api.CreateFileW("n", DELETE, ALL, None, OPEN_EXISTING), api.GetLastError()]

    assert result(script) == [None, ERROR_FILE_NOT_FOUND]


def test_unbuffered_reads_are_of_whole_sectors() -> None:
    async def script(api: Win32) -> list[Any]:
        handle = await opened(api, flags=FILE_FLAG_NO_BUFFERING)
        return [await api.ReadFile(handle, 512), await api.ReadFile(handle, 1), api.GetLastError()]

    assert result(script) == [(True, b"0123456789"), (False, b""), ERROR_INVALID_PARAMETER]


def test_locks() -> None:
    async def script(api: Win32) -> list[Any]:
        mine, other = await opened(api), await opened(api)
        at = OVERLAPPED(2)
        now = LOCKFILE_FAIL_IMMEDIATELY
        return [
            await api.LockFileEx(mine, LOCKFILE_EXCLUSIVE_LOCK, 0, 3, 0, at),
            await api.LockFileEx(other, now, 0, 1, 0, OVERLAPPED(4)),
            api.GetLastError(),
            await api.ReadFile(other, 3),
            api.GetLastError(),
            await api.ReadFile(mine, 3),
            await api.ReadFile(other, 2),
            await api.UnlockFileEx(mine, 0, 2, 0, at),
            api.GetLastError(),
            await api.UnlockFileEx(mine, 0, 3, 0, at),
            await api.LockFileEx(other, now, 0, 1, 0, OVERLAPPED(4)),
        ]

    violation = ERROR_LOCK_VIOLATION
    assert result(script) == [
        True, False, violation, (False, b""), violation, (True, b"012"), (True, b"01"),
        False, ERROR_NOT_LOCKED, True, True,
    ]  # fmt: skip


def test_a_volume_tells_about_itself() -> None:
    async def script(api: Win32) -> Any:
        handle = await opened(api)
        status, sizes = await api.native.NtQueryVolumeInformationFile(handle, FileFsSizeInformation)
        return status, sizes.BytesPerSector

    assert result(script) == (STATUS_SUCCESS, 512)


def test_errors_of_statuses() -> None:
    assert RtlNtStatusToDosError(0xC0000099) == ERROR_MR_MID_NOT_FOUND
    assert RtlNtStatusToDosError(0x102) == ERROR_SUCCESS


async def majors(lab: Lab) -> None:
    async def pre(Data: Any, FltObjects: Any) -> int:
        lab.note(str(Data.Iopb.MajorFunction))
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    await lab.filter("D", "1", dict.fromkeys((IRP_MJ_CLEANUP, IRP_MJ_CLOSE), (pre, None)))


CLEANUP, CLOSE = str(IRP_MJ_CLEANUP), str(IRP_MJ_CLOSE)


def test_the_last_of_two_handles_sends_the_cleanup() -> None:
    async def script(lab: Lab) -> list[Any]:
        await majors(lab)
        api, process = lab.app.win32, lab.app.process
        other = lab.process("other")
        handle = await opened(api)
        ok, twin = await api.DuplicateHandle(process, handle, other.process)
        lab.note("closing the first")
        await api.CloseHandle(handle)
        lab.note("closing the second")
        read = await other.win32.ReadFile(twin, 2)
        return [ok, read, await api.CloseHandle(twin), await other.win32.CloseHandle(twin)]

    one = run(script)
    # A handle means something in its own process only.
    assert one.result == [True, (True, b"01"), False, True]
    assert one.order == ["closing the first", "closing the second", CLEANUP, CLOSE]


def test_duplicating_and_closing_the_source() -> None:
    async def script(lab: Lab) -> list[Any]:
        api, process = lab.app.win32, lab.app.process
        handle = await opened(api)
        options = DUPLICATE_CLOSE_SOURCE | DUPLICATE_SAME_ACCESS
        ok, twin = await api.DuplicateHandle(process, handle, process, 0, False, options)
        weak_ok, weak = await api.DuplicateHandle(process, twin, process, GENERIC_READ & 0, False, 0)
        return [
            ok,
            await api.ReadFile(handle, 1),
            await api.ReadFile(twin, 1),
            weak_ok,
            await api.ReadFile(weak, 1),
            api.GetLastError(),
            await api.DuplicateHandle(process, handle, process),
            api.GetLastError(),
        ]

    assert run(script).result == [
        True, (False, b""), (True, b"0"), True, (False, b""), ERROR_ACCESS_DENIED, (False, None), ERROR_INVALID_HANDLE,
    ]  # fmt: skip


def test_transfers_of_a_synchronous_handle_come_one_after_another() -> None:
    async def script(lab: Lab) -> list[bytes]:
        inside: list[str] = []
        api = lab.app.win32

        async def pre(Data: Any, FltObjects: Any) -> int:
            inside.append("in")
            lab.check(len(inside) == 1, "two transfers of one synchronous handle at once")
            await lab.step("inside")
            inside.pop()
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        handle = await opened(api)

        async def read() -> bytes:
            return (await api.ReadFile(handle, 5))[1]

        return sorted(await lab.together(read(), read()))

    runs = all_runs(script, bound=2)
    assert {one.code for one in runs} == {None}
    assert {tuple(one.result) for one in runs} == {(b"01234", b"56789")}


def test_a_handle_that_another_thread_closes() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        handle = await opened(api)

        async def close() -> None:
            await api.CloseHandle(handle)

        async def read() -> Any:
            ok, data = await api.ReadFile(handle, 2)
            return data if ok else api.GetLastError()

        return (await lab.together(close(), read()))[1]

    runs = all_runs(script, bound=2)
    assert {one.code for one in runs} == {None}
    # Read before, refused after, and the file object that is cleaned up in between.
    assert {one.result for one in runs} == {b"01", ERROR_INVALID_HANDLE}


def test_the_end_of_a_process_closes_its_files() -> None:
    async def script(lab: Lab) -> Any:
        await majors(lab)
        await opened(lab.app.win32)
        await lab.app.exit()
        return lab.app.process.handles

    one = run(script)
    assert one.result == []
    assert one.order == [CLEANUP, CLOSE]


def test_a_program_passes_memory_of_its_own() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        handle = await api.CreateFileW(r"C:\a", GENERIC_READ | GENERIC_WRITE, 0, None, OPEN_EXISTING, 0)
        memory = lab.app.memory(b"abcdefgh")
        wrote = await api.WriteFile(handle, memory, 3), await api.WriteFile(handle, memory)
        await api.SetFilePointerEx(handle, 0)
        into = lab.app.memory(bytes(6))
        return wrote, await api.ReadFile(handle, 5, lpBuffer=into), bytes(into.content)

    assert run(script).result == (((True, 3), (True, 8)), (True, b"abcab"), b"abcab\0")
