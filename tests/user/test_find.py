"""Looking into directories as a program does."""

from __future__ import annotations

from typing import Any

from fltmgr.kit import Lab, run

from kemu.io.constants import FILE_OPEN
from kemu.io.file_constants import (
    FILE_ACTION_ADDED,
    FILE_DOES_NOT_EXIST,
    FILE_EXISTS,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_SHARE_VALID_FLAGS,
    GENERIC_READ,
    SL_OPEN_TARGET_DIRECTORY,
)
from kemu.io.filesystem.names import split
from kemu.io.manager import IoManager
from kemu.io.parameters import Parameters
from kemu.io.request import FileObject, Request
from kemu.nt.status import STATUS_OBJECT_PATH_NOT_FOUND, STATUS_SUCCESS
from kemu.user.errors import (
    ERROR_FILE_NOT_FOUND,
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_PARAMETER,
    ERROR_IO_PENDING,
    ERROR_NO_MORE_FILES,
    ERROR_NOTIFY_ENUM_DIR,
    ERROR_PATH_NOT_FOUND,
)
from kemu.user.find import expression
from kemu.user.win32 import CREATE_NEW, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, OVERLAPPED


def test_an_enumeration() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        for name in ("a.txt", "b.txt", "c"):
            lab.file(rf"\d\{name}")
        search, entry = await api.FindFirstFileW(r"C:\d\*.txt")
        assert entry is not None
        found: list[Any] = [entry.FileName]
        while True:
            ok, entry = await api.FindNextFileW(search)
            if not ok or entry is None:
                break
            found.append(entry.FileName)
        return [*found, api.GetLastError(), await api.FindClose(search), await api.FindClose(search)]

    assert run(script).result == ["a.txt", "b.txt", ERROR_NO_MORE_FILES, True, False]


def test_enumerations_that_find_nothing() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        return [
            await api.FindFirstFileW(r"\x*"),
            api.GetLastError(),
            await api.FindFirstFileW(r"\no\*"),
            api.GetLastError(),
            await api.FindNextFileW(None),
            api.GetLastError(),
            await api.FindClose(None),
        ]

    nothing = (None, None)
    assert run(script).result == [
        nothing, ERROR_FILE_NOT_FOUND, nothing, ERROR_PATH_NOT_FOUND, (False, None), ERROR_INVALID_HANDLE, False,
    ]  # fmt: skip


def test_what_win32_makes_of_a_pattern() -> None:
    patterns = ("*.*", "*", "a?.*", "*.", "a.txt", "*.txt")
    assert [expression(one) for one in patterns] == ["*", "*", 'a>"*', "<.", "a.txt", "*.txt"]
    assert split(r"\a") == ("\\", "a")


async def directory(lab: Lab, flags: int = 0) -> Any:
    flags |= FILE_FLAG_BACKUP_SEMANTICS
    return await lab.app.win32.CreateFileW("\\", GENERIC_READ, FILE_SHARE_VALID_FLAGS, None, OPEN_EXISTING, flags)


def test_changes_are_told_overlapped() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        handle = await directory(lab, FILE_FLAG_OVERLAPPED)
        overlapped = OVERLAPPED()
        watch = FILE_NOTIFY_CHANGE_FILE_NAME
        begun = await api.ReadDirectoryChangesW(handle, 64, False, watch, overlapped)
        error = api.GetLastError()
        for name in "nopqr":
            await api.CreateFileW(name, GENERIC_READ, FILE_SHARE_VALID_FLAGS, None, CREATE_NEW)
        ended = await api.GetOverlappedResult(handle, overlapped, True)
        changes = [(one.Action, one.FileName) for one in overlapped.buffer]
        # Four more changes, of 16 bytes each, are there already.
        more = await api.ReadDirectoryChangesW(handle, 64, False, watch, OVERLAPPED())
        return [begun, error, ended, changes, more[0]]

    assert run(script).result == [(True, []), ERROR_IO_PENDING, (True, 14), [(FILE_ACTION_ADDED, "n")], True]


def test_a_synchronous_watch_waits() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        handle = await directory(lab)

        async def watch(length: int) -> Any:
            _, changes = await api.ReadDirectoryChangesW(handle, length, False, FILE_NOTIFY_CHANGE_FILE_NAME)
            return [one.FileName for one in changes], api.GetLastError()

        async def create(name: str) -> None:
            await api.CreateFileW(name, GENERIC_READ, FILE_SHARE_VALID_FLAGS, None, CREATE_NEW)

        first = lab.start("watch", watch(64))
        await lab.sleep(1)
        await create("n")
        found = [await first.join()]
        for name in "opqrs":
            await create(name)
        found.append(await watch(64))
        return [*found, await api.ReadDirectoryChangesW(handle, 64, False, 0), api.GetLastError()]

    assert run(script).result == [
        (["n"], 0), ([], ERROR_NOTIFY_ENUM_DIR), (False, []), ERROR_INVALID_PARAMETER,
    ]  # fmt: skip


def test_opening_the_directory_of_a_target() -> None:
    async def script(lab: Lab) -> list[Any]:
        lab.file(r"\d\x")
        found: list[Any] = []
        for path in (r"\d\x", r"\d\n", r"\a\x", r"\no\x", r"\n"):
            file = FileObject(lab.volume, path)
            parameters = Parameters(Disposition=FILE_OPEN, OperationFlags=SL_OPEN_TARGET_DIRECTORY)
            request = Request(lab.volume, file, 0, parameters)
            await lab.system.get(IoManager).call(request)
            found.append((request.status, request.information))
        return found

    missing = (STATUS_OBJECT_PATH_NOT_FOUND, 0)
    assert run(script).result[:4] == [
        (STATUS_SUCCESS, FILE_EXISTS), (STATUS_SUCCESS, FILE_DOES_NOT_EXIST), missing, missing,
    ]  # fmt: skip
