"""Looking into directories: FindFirstFileW and its relatives, ReadDirectoryChangesW."""

from __future__ import annotations

from typing import Any

from kemu.io.constants import FILE_OPEN
from kemu.io.file_constants import (
    FILE_DIRECTORY_FILE,
    FILE_LIST_DIRECTORY,
    FILE_OPEN_FOR_BACKUP_INTENT,
    FILE_SHARE_VALID_FLAGS,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FileBothDirectoryInformation,
)
from kemu.io.filesystem.names import dos_path, split
from kemu.io.structures import FILE_DIRECTORY_INFORMATION, FILE_NOTIFY_INFORMATION
from kemu.nt.access import SYNCHRONIZE
from kemu.nt.status import (
    NT_SUCCESS,
    STATUS_NOTIFY_ENUM_DIR,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_PENDING,
)
from kemu.user.errors import ERROR_INVALID_HANDLE, ERROR_IO_PENDING, ERROR_NOTIFY_ENUM_DIR
from kemu.user.files import OVERLAPPED, FileApi
from kemu.user.handles import INVALID_HANDLE_VALUE, Handle
from kemu.user.native import IO_STATUS_BLOCK

BUFFER = 4096


class Search:
    """An enumeration: the directory's handle, and the entries that were read ahead."""

    __slots__ = ("ahead", "directory")

    def __init__(self, directory: Handle) -> None:
        self.directory = directory
        self.ahead: list[FILE_DIRECTORY_INFORMATION] = []


def expression(pattern: str) -> str:
    """What Win32 makes of a pattern for the file system: ``*.*`` is everything, ``?`` may be nothing at the end."""
    if pattern == "*.*":
        return "*"
    out: list[str] = []
    for place, char in enumerate(pattern):
        following = pattern[place + 1 : place + 2]
        if char == "?":
            out.append(">")
        elif char == "." and following in {"?", "*"}:
            out.append('"')
        elif char == "*" and following == "." and pattern[place + 2 : place + 3] in {"", "?", "*"}:
            out.append("<")
        else:
            out.append(char)
    return "".join(out)


class FindApi(FileApi):
    """The calls about directories."""

    async def FindFirstFileW(self, lpFileName: str) -> tuple[Search | None, FILE_DIRECTORY_INFORMATION | None]:
        """Begin an enumeration with a pattern in the last component: a handle for it, and the first entry.

        INVALID_HANDLE_VALUE with ERROR_FILE_NOT_FOUND if nothing matches.
        """
        drive = lpFileName[:2] if lpFileName[1:2] == ":" else ""
        directory, pattern = split(dos_path(lpFileName))
        status, _, handle = await self.native.NtCreateFile(
            FILE_LIST_DIRECTORY | SYNCHRONIZE,
            drive + directory,
            0,
            FILE_SHARE_VALID_FLAGS,
            FILE_OPEN,
            FILE_DIRECTORY_FILE | FILE_SYNCHRONOUS_IO_NONALERT | FILE_OPEN_FOR_BACKUP_INTENT,
        )
        if handle is None:
            # What is missing is a part of the path, not the file that is looked for.
            self.fail(STATUS_OBJECT_PATH_NOT_FOUND if status == STATUS_OBJECT_NAME_NOT_FOUND else status)
            return INVALID_HANDLE_VALUE, None
        status, entries = await self.native.NtQueryDirectoryFile(
            handle, BUFFER, FileBothDirectoryInformation, True, expression(pattern)
        )
        if not NT_SUCCESS(status):
            await self.native.NtClose(handle)
            self.fail(status)
            return INVALID_HANDLE_VALUE, None
        return Search(handle), entries[0]

    async def FindNextFileW(self, hFindFile: Search | None) -> tuple[bool, FILE_DIRECTORY_INFORMATION | None]:
        """The next entry; False with ERROR_NO_MORE_FILES after the last."""
        if hFindFile is None:
            self.set_error(ERROR_INVALID_HANDLE)
            return False, None
        if not hFindFile.ahead:
            status, entries = await self.native.NtQueryDirectoryFile(
                hFindFile.directory, BUFFER, FileBothDirectoryInformation
            )
            if not self.succeeded(status):
                return False, None
            hFindFile.ahead = entries
        return True, hFindFile.ahead.pop(0)

    async def FindClose(self, hFindFile: Search | None) -> bool:
        """End an enumeration."""
        if hFindFile is None:
            self.set_error(ERROR_INVALID_HANDLE)
            return False
        return self.succeeded(await self.native.NtClose(hFindFile.directory))

    async def ReadDirectoryChangesW(
        self,
        hDirectory: Any,
        nBufferLength: int,
        bWatchSubtree: bool,
        dwNotifyFilter: int,
        lpOverlapped: OVERLAPPED | None = None,
    ) -> tuple[bool, list[FILE_NOTIFY_INFORMATION]]:
        """Wait for changes in a directory: whether that succeeded, and the changes.

        Overlapped it is pending (True: it was queued), and the changes are in the OVERLAPPED's buffer when it is
        complete. None at all means that there were too many: enumerate the directory.
        """
        block = lpOverlapped if lpOverlapped is not None else IO_STATUS_BLOCK()
        event = None if lpOverlapped is None else await self.event_of(lpOverlapped)
        status = await self.native.NtNotifyChangeDirectoryFile(
            hDirectory, event, block, nBufferLength, dwNotifyFilter, bWatchSubtree
        )
        if status == STATUS_PENDING:
            self.set_error(ERROR_IO_PENDING)
            return True, []
        if status == STATUS_NOTIFY_ENUM_DIR:
            self.set_error(ERROR_NOTIFY_ENUM_DIR)
            return True, []
        return self.succeeded(status), block.buffer or []
