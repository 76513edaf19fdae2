"""Files: CreateFileW and what works on its handles (fileapi.h, ioapiset.h)."""

from __future__ import annotations

from typing import Any, Final

from kemu.io.constants import (
    FILE_CREATE,
    FILE_OPEN,
    FILE_OPEN_IF,
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
)
from kemu.io.file_constants import (
    FILE_CREATED,
    FILE_DELETE_ON_CLOSE,
    FILE_DIRECTORY_FILE,
    FILE_DISPOSITION_DELETE,
    FILE_DISPOSITION_POSIX_SEMANTICS,
    FILE_NO_INTERMEDIATE_BUFFERING,
    FILE_NON_DIRECTORY_FILE,
    FILE_OPEN_FOR_BACKUP_INTENT,
    FILE_RANDOM_ACCESS,
    FILE_READ_ATTRIBUTES,
    FILE_RENAME_REPLACE_IF_EXISTS,
    FILE_SEQUENTIAL_ONLY,
    FILE_SHARE_VALID_FLAGS,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FILE_USE_FILE_POINTER_POSITION,
    FILE_WRITE_THROUGH,
    GENERIC_WRITE,
    FileDispositionInformationEx,
    FileEndOfFileInformation,
    FilePositionInformation,
    FileRenameInformation,
    FileStandardInformation,
)
from kemu.io.filesystem.names import dos_path
from kemu.io.request import FileObject
from kemu.io.structures import (
    FILE_DISPOSITION_INFORMATION_EX,
    FILE_END_OF_FILE_INFORMATION,
    FILE_POSITION_INFORMATION,
    FILE_RENAME_INFORMATION,
)
from kemu.nt.access import DELETE, SYNCHRONIZE
from kemu.nt.event import KEVENT, ClearEvent
from kemu.nt.kthread import KThread
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_END_OF_FILE,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.nt.usermemory import UserBuffer
from kemu.runtime import current_thread
from kemu.user.base import Api
from kemu.user.errors import (
    ERROR_ALREADY_EXISTS,
    ERROR_FILE_EXISTS,
    ERROR_INVALID_PARAMETER,
    ERROR_IO_INCOMPLETE,
    ERROR_IO_PENDING,
    ERROR_NEGATIVE_SEEK,
    ERROR_SUCCESS,
)
from kemu.user.handles import INVALID_HANDLE_VALUE, Handle, ReferenceHandle
from kemu.user.native import IO_STATUS_BLOCK, SYNCHRONOUS

CREATE_NEW: Final = 1
CREATE_ALWAYS: Final = 2
OPEN_EXISTING: Final = 3
OPEN_ALWAYS: Final = 4
TRUNCATE_EXISTING: Final = 5

FILE_FLAG_WRITE_THROUGH: Final = 0x8000_0000
FILE_FLAG_OVERLAPPED: Final = 0x4000_0000
FILE_FLAG_NO_BUFFERING: Final = 0x2000_0000
FILE_FLAG_RANDOM_ACCESS: Final = 0x1000_0000
FILE_FLAG_SEQUENTIAL_SCAN: Final = 0x0800_0000
FILE_FLAG_DELETE_ON_CLOSE: Final = 0x0400_0000
FILE_FLAG_BACKUP_SEMANTICS: Final = 0x0200_0000

FILE_BEGIN: Final = 0
FILE_CURRENT: Final = 1
FILE_END: Final = 2

MOVEFILE_REPLACE_EXISTING: Final = 0x1

LOCKFILE_FAIL_IMMEDIATELY: Final = 0x1
LOCKFILE_EXCLUSIVE_LOCK: Final = 0x2

DISPOSITIONS: Final = {
    CREATE_NEW: FILE_CREATE,
    CREATE_ALWAYS: FILE_OVERWRITE_IF,
    OPEN_EXISTING: FILE_OPEN,
    OPEN_ALWAYS: FILE_OPEN_IF,
    TRUNCATE_EXISTING: FILE_OVERWRITE,
}
OPTIONS: Final = (
    (FILE_FLAG_WRITE_THROUGH, FILE_WRITE_THROUGH),
    (FILE_FLAG_NO_BUFFERING, FILE_NO_INTERMEDIATE_BUFFERING),
    (FILE_FLAG_RANDOM_ACCESS, FILE_RANDOM_ACCESS),
    (FILE_FLAG_SEQUENTIAL_SCAN, FILE_SEQUENTIAL_ONLY),
    (FILE_FLAG_DELETE_ON_CLOSE, FILE_DELETE_ON_CLOSE),
    (FILE_FLAG_BACKUP_SEMANTICS, FILE_OPEN_FOR_BACKUP_INTENT),
)


class OVERLAPPED(IO_STATUS_BLOCK):
    """One asynchronous operation: where in the file, and the event that says when it is over.

    What was read is in `buffer` when the operation is complete.
    """

    __slots__ = ("Offset", "hEvent")

    def __init__(self, Offset: int = 0, hEvent: Handle | None = None) -> None:
        super().__init__()
        self.Offset = Offset
        self.hEvent = hEvent
        self.Status = STATUS_SUCCESS


class FileApi(Api):
    """The calls about files."""

    async def CreateFileW(
        self,
        lpFileName: str,
        dwDesiredAccess: int,
        dwShareMode: int,
        lpSecurityAttributes: object,
        dwCreationDisposition: int,
        dwFlagsAndAttributes: int = 0,
        hTemplateFile: object = None,
    ) -> Handle | None:
        """Open or create a file: a handle, or INVALID_HANDLE_VALUE."""
        disposition = DISPOSITIONS.get(dwCreationDisposition)
        if disposition is None or (dwCreationDisposition == TRUNCATE_EXISTING and not dwDesiredAccess & GENERIC_WRITE):
            self.set_error(ERROR_INVALID_PARAMETER)
            return INVALID_HANDLE_VALUE
        access = dwDesiredAccess | SYNCHRONIZE | FILE_READ_ATTRIBUTES
        options = 0
        for flag, option in OPTIONS:
            if dwFlagsAndAttributes & flag:
                options |= option
        if dwFlagsAndAttributes & FILE_FLAG_DELETE_ON_CLOSE:
            access |= DELETE
        if not dwFlagsAndAttributes & FILE_FLAG_BACKUP_SEMANTICS:
            options |= FILE_NON_DIRECTORY_FILE
        if not dwFlagsAndAttributes & FILE_FLAG_OVERLAPPED:
            options |= FILE_SYNCHRONOUS_IO_NONALERT
        status, came_of_it, handle = await self.native.NtCreateFile(
            access, lpFileName, dwFlagsAndAttributes & 0xFFFF, dwShareMode, disposition, options
        )
        if handle is None:
            if status == STATUS_OBJECT_NAME_COLLISION and dwCreationDisposition == CREATE_NEW:
                self.set_error(ERROR_FILE_EXISTS)
            else:
                self.fail(status)
            return INVALID_HANDLE_VALUE
        existed = came_of_it != FILE_CREATED
        always = dwCreationDisposition in {CREATE_ALWAYS, OPEN_ALWAYS}
        self.set_error(ERROR_ALREADY_EXISTS if always and existed else ERROR_SUCCESS)
        return handle

    async def CloseHandle(self, hObject: Any) -> bool:
        """Close a handle of any kind."""
        return self.succeeded(await self.native.NtClose(hObject))

    # Transfers.

    async def ReadFile(
        self,
        hFile: Any,
        nNumberOfBytesToRead: int,
        lpOverlapped: OVERLAPPED | None = None,
        lpBuffer: UserBuffer | None = None,
    ) -> tuple[bool, bytes]:
        """Read: whether that succeeded, and the bytes, which are in *lpBuffer* too if it is given.

        On a handle for overlapped I/O it may return False with ERROR_IO_PENDING; `GetOverlappedResult` then tells how
        it ended, and the bytes are in the OVERLAPPED. A synchronous read at the end of the file succeeds with no bytes.
        """
        block, event, offset = await self._prepare(hFile, lpOverlapped)
        status = await self.native.NtReadFile(hFile, event, block, nNumberOfBytesToRead, offset, lpBuffer)
        if status == STATUS_END_OF_FILE and lpOverlapped is None:
            self.set_error(ERROR_SUCCESS)
            return True, b""
        if status == STATUS_PENDING:
            self.set_error(ERROR_IO_PENDING)
            return False, b""
        return self.succeeded(status), block.buffer if NT_SUCCESS(status) else b""

    async def WriteFile(
        self,
        hFile: Any,
        lpBuffer: bytes | UserBuffer,
        nNumberOfBytesToWrite: int | None = None,
        lpOverlapped: OVERLAPPED | None = None,
    ) -> tuple[bool, int]:
        """Write: whether that succeeded, and how many bytes. As `ReadFile`, it may be pending."""
        data = lpBuffer if isinstance(lpBuffer, UserBuffer) else lpBuffer[:nNumberOfBytesToWrite]
        block, event, offset = await self._prepare(hFile, lpOverlapped)
        length = nNumberOfBytesToWrite if isinstance(lpBuffer, UserBuffer) else None
        status = await self.native.NtWriteFile(hFile, event, block, data, offset, length)
        if status == STATUS_PENDING:
            self.set_error(ERROR_IO_PENDING)
            return False, 0
        return self.succeeded(status), block.Information if NT_SUCCESS(status) else 0

    async def _prepare(self, file: Any, overlapped: OVERLAPPED | None) -> tuple[IO_STATUS_BLOCK, KEVENT | None, int]:
        """The status block, the event and the offset of a transfer. A call resets the event before it begins."""
        if overlapped is None:
            return IO_STATUS_BLOCK(), None, FILE_USE_FILE_POINTER_POSITION
        event = await self.event_of(overlapped)
        if event is not None:
            await ClearEvent(event)
        return overlapped, event, overlapped.Offset

    async def event_of(self, overlapped: OVERLAPPED) -> KEVENT | None:
        """The event behind an OVERLAPPED's handle, if it has one."""
        if overlapped.hEvent is None:
            return None
        found = await ReferenceHandle(self.process, overlapped.hEvent, KEVENT)
        return found if isinstance(found, KEVENT) else None

    async def GetOverlappedResult(self, hFile: Any, lpOverlapped: OVERLAPPED, bWait: bool) -> tuple[bool, int]:
        """How an asynchronous operation ended: whether it succeeded, and how many bytes it was.

        With *bWait* it waits: for the event, if there is one, which somebody else's wait may have taken the signal of.
        Without, an operation that is still going on is ERROR_IO_INCOMPLETE.
        """
        request = lpOverlapped.Request
        if request is not None:
            current_thread().read(request)
        if lpOverlapped.Status == STATUS_PENDING:
            if not bWait:
                self.set_error(ERROR_IO_INCOMPLETE)
                return False, 0
            event = await self.event_of(lpOverlapped)
            if event is None:
                await self.native.finished(lpOverlapped)
            else:
                await self.wait_for(event, None)
        if not self.succeeded(lpOverlapped.Status):
            return False, 0
        return True, lpOverlapped.Information

    async def CancelIo(self, hFile: Any) -> bool:
        """Cancel what the calling thread has issued on a handle."""
        return self.succeeded(await self.native.NtCancelIoFile(hFile))

    async def CancelIoEx(self, hFile: Any, lpOverlapped: OVERLAPPED | None = None) -> bool:
        """Cancel one operation on a handle, or all of the process; ERROR_NOT_FOUND if there is none."""
        return self.succeeded(await self.native.NtCancelIoFileEx(hFile, lpOverlapped))

    async def CancelSynchronousIo(self, hThread: Any) -> bool:
        """Cancel the synchronous operation that a thread waits in; ERROR_NOT_FOUND if it waits in none."""
        thread = await ReferenceHandle(self.process, hThread, KThread)
        if isinstance(thread, NTSTATUS):
            return self.succeeded(thread)
        return self.succeeded(await self.native.NtCancelSynchronousIoFile(thread))

    async def FlushFileBuffers(self, hFile: Any) -> bool:
        """Write back what is cached of a file."""
        return self.succeeded(await self.native.NtFlushBuffersFile(hFile))

    # Position, size, names.

    async def SetFilePointerEx(
        self, hFile: Any, liDistanceToMove: int, dwMoveMethod: int = FILE_BEGIN
    ) -> tuple[bool, int]:
        """Move the position of a handle for synchronous I/O; returns the new one too."""
        base = 0
        if dwMoveMethod == FILE_CURRENT:
            status, position = await self.native.NtQueryInformationFile(hFile, FilePositionInformation)
            if not NT_SUCCESS(status):
                return self.succeeded(status), 0
            base = position.CurrentByteOffset
        elif dwMoveMethod == FILE_END:
            ok, base = await self.GetFileSizeEx(hFile)
            if not ok:
                return False, 0
        elif dwMoveMethod != FILE_BEGIN:
            self.set_error(ERROR_INVALID_PARAMETER)
            return False, 0
        target = base + liDistanceToMove
        if target < 0:
            self.set_error(ERROR_NEGATIVE_SEEK)
            return False, 0
        status = await self.native.NtSetInformationFile(
            hFile, FILE_POSITION_INFORMATION(target), FilePositionInformation
        )
        return self.succeeded(status), target

    async def SetEndOfFile(self, hFile: Any) -> bool:
        """Make the current position the end of file."""
        status, position = await self.native.NtQueryInformationFile(hFile, FilePositionInformation)
        if NT_SUCCESS(status):
            end = FILE_END_OF_FILE_INFORMATION(position.CurrentByteOffset)
            status = await self.native.NtSetInformationFile(hFile, end, FileEndOfFileInformation)
        return self.succeeded(status)

    async def GetFileSizeEx(self, hFile: Any) -> tuple[bool, int]:
        """The size of a file in bytes."""
        status, standard = await self.native.NtQueryInformationFile(hFile, FileStandardInformation)
        return self.succeeded(status), standard.EndOfFile if NT_SUCCESS(status) else 0

    async def GetFileAttributesExW(self, lpFileName: str) -> tuple[bool, Any]:
        """Times, sizes and attributes of a file: whether it exists, and a FILE_NETWORK_OPEN_INFORMATION."""
        status, found = await self.native.NtQueryFullAttributesFile(lpFileName)
        return self.succeeded(status), found

    async def DeleteFileW(self, lpFileName: str) -> bool:
        """Delete a file, with POSIX semantics as Windows 10 and later do."""
        return await self._delete(lpFileName, FILE_NON_DIRECTORY_FILE)

    async def RemoveDirectoryW(self, lpPathName: str) -> bool:
        """Delete an empty directory."""
        return await self._delete(lpPathName, FILE_DIRECTORY_FILE)

    async def CreateDirectoryW(self, lpPathName: str, lpSecurityAttributes: object = None) -> bool:
        """Create a directory."""
        status, _, handle = await self.native.NtCreateFile(
            SYNCHRONIZE | FILE_READ_ATTRIBUTES,
            lpPathName,
            0,
            FILE_SHARE_VALID_FLAGS,
            FILE_CREATE,
            FILE_DIRECTORY_FILE | FILE_SYNCHRONOUS_IO_NONALERT | FILE_OPEN_FOR_BACKUP_INTENT,
        )
        if handle is not None:
            await self.native.NtClose(handle)
        return self.succeeded(status)

    async def _delete(self, name: str, options: int) -> bool:
        status, handle = await self._open_to_change(name, options)
        if handle is None:
            return self.succeeded(status)
        flags = FILE_DISPOSITION_DELETE | FILE_DISPOSITION_POSIX_SEMANTICS
        status = await self.native.NtSetInformationFile(
            handle, FILE_DISPOSITION_INFORMATION_EX(flags), FileDispositionInformationEx
        )
        await self.native.NtClose(handle)
        return self.succeeded(status)

    async def _open_to_change(self, name: str, options: int) -> tuple[NTSTATUS, Handle | None]:
        status, _, handle = await self.native.NtCreateFile(
            DELETE | FILE_READ_ATTRIBUTES | SYNCHRONIZE,
            name,
            0,
            FILE_SHARE_VALID_FLAGS,
            FILE_OPEN,
            options | FILE_SYNCHRONOUS_IO_NONALERT | FILE_OPEN_FOR_BACKUP_INTENT,
        )
        return status, handle

    async def MoveFileExW(self, lpExistingFileName: str, lpNewFileName: str, dwFlags: int = 0) -> bool:
        """Rename a file or a directory on its volume. Copying to another volume is not modelled."""
        status, handle = await self._open_to_change(lpExistingFileName, 0)
        if handle is None:
            return self.succeeded(status)
        replace = bool(dwFlags & MOVEFILE_REPLACE_EXISTING) and bool(FILE_RENAME_REPLACE_IF_EXISTS)
        status = await self.native.NtSetInformationFile(
            handle, FILE_RENAME_INFORMATION(dos_path(lpNewFileName), replace), FileRenameInformation
        )
        await self.native.NtClose(handle)
        return self.succeeded(status)

    # Locks.

    async def LockFileEx(
        self,
        hFile: Any,
        dwFlags: int,
        dwReserved: int,
        nNumberOfBytesToLockLow: int,
        nNumberOfBytesToLockHigh: int,
        lpOverlapped: OVERLAPPED,
    ) -> bool:
        """Lock a range that begins at the OVERLAPPED's offset; may be pending, or wait on a synchronous handle."""
        event = await self.event_of(lpOverlapped)
        status = await self.native.NtLockFile(
            hFile,
            event,
            lpOverlapped,
            lpOverlapped.Offset,
            nNumberOfBytesToLockHigh << 32 | nNumberOfBytesToLockLow,
            0,
            bool(dwFlags & LOCKFILE_FAIL_IMMEDIATELY),
            bool(dwFlags & LOCKFILE_EXCLUSIVE_LOCK),
        )
        if status == STATUS_PENDING:
            self.set_error(ERROR_IO_PENDING)
            return False
        return self.succeeded(status)

    async def UnlockFileEx(
        self,
        hFile: Any,
        dwReserved: int,
        nNumberOfBytesToUnlockLow: int,
        nNumberOfBytesToUnlockHigh: int,
        lpOverlapped: OVERLAPPED,
    ) -> bool:
        """Unlock a range that was locked as a whole."""
        length = nNumberOfBytesToUnlockHigh << 32 | nNumberOfBytesToUnlockLow
        return self.succeeded(await self.native.NtUnlockFile(hFile, lpOverlapped.Offset, length, 0))


def is_synchronous(handle: Handle) -> bool:
    """Whether calls on *handle* wait for their end."""
    return isinstance(handle.object, FileObject) and bool(handle.options & SYNCHRONOUS)
