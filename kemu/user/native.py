"""The system services for files, by their Nt names, as a process's threads call them.

Access is checked here, against what the handle was opened with. Transfers of a handle for synchronous I/O come one
after another: each waits for the file object's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kemu.io.constants import (
    IRP_MJ_CREATE,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
)
from kemu.io.fastio import query_attributes, query_by_name, tries_first, try_fast
from kemu.io.file_constants import (
    FILE_APPEND_DATA,
    FILE_LIST_DIRECTORY,
    FILE_READ_DATA,
    FILE_SYNCHRONOUS_IO_ALERT,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FILE_WRITE_ATTRIBUTES,
    FILE_WRITE_DATA,
    FO_HANDLE_CREATED,
    IRP_MN_LOCK,
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_QUERY_DIRECTORY,
    IRP_MN_UNLOCK_SINGLE,
    PAGE_READWRITE,
    SL_EXCLUSIVE_LOCK,
    SL_FAIL_IMMEDIATELY,
    SL_RESTART_SCAN,
    SL_RETURN_SINGLE_ENTRY,
    SL_WATCH_TREE,
    FileAllocationInformation,
    FileBasicInformation,
    FileDispositionInformation,
    FileDispositionInformationEx,
    FileEndOfFileInformation,
    FileLinkInformation,
    FileRenameInformation,
    FileRenameInformationEx,
    FileValidDataLengthInformation,
    map_generic,
)
from kemu.io.filesystem.names import dos_path, is_volume
from kemu.io.manager import IoManager, ListRequests, file_object
from kemu.io.parameters import Members, Parameters
from kemu.io.request import FileObject, Request, WaitDone
from kemu.io.section import MapView, Section, UnmapView, View, create_section
from kemu.io.volume import Volume
from kemu.nt.access import DELETE
from kemu.nt.event import KEVENT, SetEvent
from kemu.nt.process import Process
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_INVALID_HANDLE,
    STATUS_NOT_FOUND,
    STATUS_NOT_MAPPED_VIEW,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.nt.usermemory import UserBuffer
from kemu.runtime import BlockingOperation, Thread, Waitable, current_thread
from kemu.user.handles import Handle, ReferenceHandle, close_handle

SYNCHRONOUS = FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT

NEEDS: dict[int, int] = {
    FileBasicInformation: FILE_WRITE_ATTRIBUTES,
    FileRenameInformation: DELETE,
    FileRenameInformationEx: DELETE,
    FileDispositionInformation: DELETE,
    FileDispositionInformationEx: DELETE,
    FileLinkInformation: 0,
    FileEndOfFileInformation: FILE_WRITE_DATA,
    FileAllocationInformation: FILE_WRITE_DATA,
    FileValidDataLengthInformation: FILE_WRITE_DATA,
}
"""What setting a class of information needs."""


class FileLock(Waitable):
    """What makes the transfers of a synchronous file object come one after another."""

    __slots__ = ("owner",)

    guards = ("owner",)

    def __init__(self, file: FileObject) -> None:
        super().__init__(current_thread(), f"I/O lock of {file.FileName}")
        self.owner: Thread | None = None

    def holders(self) -> tuple[Thread, ...]:
        return (self.owner,) if self.owner is not None else ()


class AcquireFileLock(BlockingOperation[None]):
    """Wait until no other transfer of a synchronous file object is going on."""

    __slots__ = ("lock",)
    kind = "acquire"

    def __init__(self, lock: FileLock) -> None:
        super().__init__(lock)
        self.lock = lock

    def available(self, thread: Thread) -> bool:
        return self.lock.owner is None

    def take(self, thread: Thread) -> None:
        thread.write(self.lock)
        thread.acquire(self.lock)
        self.lock.owner = thread
        self.lock.changed()


class IO_STATUS_BLOCK:
    """Where a call for asynchronous I/O leaves its result; `Request` is what is under way."""

    __slots__ = ("Information", "Request", "Status", "buffer")

    def __init__(self) -> None:
        self.Status: NTSTATUS = STATUS_PENDING
        self.Information = 0
        self.Request: Request | None = None
        self.buffer: Any = b""


class Native:
    """The system services of one process."""

    def __init__(self, process: Process, manager: IoManager, default: Volume) -> None:
        self.process = process
        self.manager = manager
        self.default = default
        self._waits: dict[Thread, Request] = {}
        """What each thread waits for that is inside a synchronous call."""

    def volume_of(self, path: str) -> Volume | None:
        """The volume that *path* is on: by its drive, or the one that a path without one is on."""
        if (len(path) < 2 or path[1] != ":") and not is_volume(path):
            return self.default
        return self.manager.volume_named(path)

    async def NtCreateFile(
        self,
        DesiredAccess: int,
        ObjectName: str,
        FileAttributes: int,
        ShareAccess: int,
        CreateDisposition: int,
        CreateOptions: int,
        AllocationSize: int = 0,
        RootDirectory: Any = None,
    ) -> tuple[NTSTATUS, int, Handle | None]:
        """Open or create a file: status, what came of it (FILE_OPENED...) and a handle."""
        volume = self.volume_of(ObjectName)
        if volume is None:
            return STATUS_OBJECT_NAME_NOT_FOUND, 0, None
        synchronous = bool(CreateOptions & SYNCHRONOUS)
        access = map_generic(DesiredAccess)
        name = ObjectName if ObjectName.isdigit() else "" if is_volume(ObjectName) else dos_path(ObjectName)
        file = file_object(volume, name, synchronous=synchronous)
        members: Members = {
            "DesiredAccess": access,
            "FileAttributes": FileAttributes,
            "ShareAccess": ShareAccess,
            "CreateOptions": CreateOptions,
            "AllocationSize": AllocationSize,
        }

        async def send(file: FileObject) -> Request:
            parameters = Parameters(Disposition=CreateDisposition, **members)
            request = Request(file.volume, file, IRP_MJ_CREATE, parameters)
            await self._wait(request)
            return request

        request = await self.manager.open(send, file)
        status, file = request.status, request.file
        if not NT_SUCCESS(status):
            return status, 0, None
        file.Flags |= FO_HANDLE_CREATED
        if synchronous:
            file.lock = FileLock(file)
        return status, request.information, Handle(self.process, file, access, CreateOptions)

    async def NtClose(self, Handle: Any) -> NTSTATUS:
        """Close a handle. The last handle's end sends a cleanup, the last reference's a close."""
        return await close_handle(self.manager, self.process, Handle)

    async def NtReadFile(
        self,
        FileHandle: Any,
        Event: KEVENT | None,
        IoStatusBlock: IO_STATUS_BLOCK,
        Length: int,
        ByteOffset: int,
        Buffer: UserBuffer | None = None,
    ) -> NTSTATUS:
        """Read, into *Buffer* if it is given; STATUS_PENDING if that goes on after the call."""
        return await self.transfer(
            FileHandle,
            FILE_READ_DATA,
            IRP_MJ_READ,
            IoStatusBlock,
            Event,
            Length=Length,
            ByteOffset=ByteOffset,
            Buffer=b"" if Buffer is None else Buffer,
        )

    async def NtWriteFile(
        self,
        FileHandle: Any,
        Event: KEVENT | None,
        IoStatusBlock: IO_STATUS_BLOCK,
        Buffer: bytes | UserBuffer,
        ByteOffset: int,
        Length: int | None = None,
    ) -> NTSTATUS:
        """Write *Buffer*, or *Length* bytes of it; STATUS_PENDING if that goes on after the call."""
        return await self.transfer(
            FileHandle,
            FILE_WRITE_DATA | FILE_APPEND_DATA,
            IRP_MJ_WRITE,
            IoStatusBlock,
            Event,
            Length=len(Buffer) if Length is None else Length,
            Buffer=Buffer,
            ByteOffset=ByteOffset,
        )

    async def NtQueryInformationFile(
        self, FileHandle: Any, FileInformationClass: int, Length: int = 4096, FileInformation: Any = None
    ) -> tuple[NTSTATUS, Any]:
        """Query information: the status, and the structure or the list of structures of the class."""
        block = IO_STATUS_BLOCK()
        status = await self.transfer(
            FileHandle,
            0,
            IRP_MJ_QUERY_INFORMATION,
            block,
            FileInformationClass=FileInformationClass,
            Length=Length,
            InfoBuffer=FileInformation,
            wait=True,
        )
        return status, block.buffer

    async def NtQueryFullAttributesFile(self, ObjectName: str) -> tuple[NTSTATUS, Any]:
        """Times, sizes and attributes of a file, which need not be opened for that."""
        volume = self.volume_of(ObjectName)
        if volume is None:
            return STATUS_OBJECT_NAME_NOT_FOUND, None
        return await query_attributes(self.manager, volume, dos_path(ObjectName))

    async def NtQueryInformationByName(self, ObjectName: str, FileInformationClass: int) -> tuple[NTSTATUS, Any]:
        """Information about a file, which need not be opened for some classes."""
        volume = self.volume_of(ObjectName)
        if volume is None:
            return STATUS_OBJECT_NAME_NOT_FOUND, None
        return await query_by_name(self.manager, volume, dos_path(ObjectName), FileInformationClass)

    async def NtSetInformationFile(self, FileHandle: Any, FileInformation: Any, FileInformationClass: int) -> NTSTATUS:
        """Set information: the structure of the class."""
        return await self.transfer(
            FileHandle,
            NEEDS.get(FileInformationClass, 0),
            IRP_MJ_SET_INFORMATION,
            IO_STATUS_BLOCK(),
            FileInformationClass=FileInformationClass,
            Length=FileInformation.SIZE,
            InfoBuffer=FileInformation,
            wait=True,
        )

    async def NtQueryVolumeInformationFile(
        self, FileHandle: Any, FsInformationClass: int, Length: int = 4096
    ) -> tuple[NTSTATUS, Any]:
        """Query information about the volume of a file."""
        block = IO_STATUS_BLOCK()
        status = await self.transfer(
            FileHandle,
            0,
            IRP_MJ_QUERY_VOLUME_INFORMATION,
            block,
            FsInformationClass=FsInformationClass,
            Length=Length,
            wait=True,
        )
        return status, block.buffer

    async def NtQueryDirectoryFile(
        self,
        FileHandle: Any,
        Length: int,
        FileInformationClass: int,
        ReturnSingleEntry: bool = False,
        FileName: str | None = None,
        RestartScan: bool = False,
    ) -> tuple[NTSTATUS, list[Any]]:
        """Continue the enumeration of a directory."""
        flags = SL_RETURN_SINGLE_ENTRY * ReturnSingleEntry | SL_RESTART_SCAN * RestartScan
        block = IO_STATUS_BLOCK()
        status = await self.transfer(
            FileHandle,
            FILE_LIST_DIRECTORY,
            IRP_MJ_DIRECTORY_CONTROL,
            block,
            minor=IRP_MN_QUERY_DIRECTORY,
            FileInformationClass=FileInformationClass,
            Length=Length,
            FileName=FileName,
            OperationFlags=flags,
            wait=True,
        )
        return status, block.buffer or []

    async def NtNotifyChangeDirectoryFile(
        self,
        FileHandle: Any,
        Event: KEVENT | None,
        IoStatusBlock: IO_STATUS_BLOCK,
        Length: int,
        CompletionFilter: int,
        WatchTree: bool,
    ) -> NTSTATUS:
        """Be told of changes in a directory."""
        return await self.transfer(
            FileHandle,
            FILE_LIST_DIRECTORY,
            IRP_MJ_DIRECTORY_CONTROL,
            IoStatusBlock,
            Event,
            minor=IRP_MN_NOTIFY_CHANGE_DIRECTORY,
            Length=Length,
            CompletionFilter=CompletionFilter,
            OperationFlags=SL_WATCH_TREE * WatchTree,
        )

    async def NtLockFile(
        self,
        FileHandle: Any,
        Event: KEVENT | None,
        IoStatusBlock: IO_STATUS_BLOCK,
        ByteOffset: int,
        Length: int,
        Key: int,
        FailImmediately: bool,
        ExclusiveLock: bool,
    ) -> NTSTATUS:
        """Lock a range of bytes."""
        return await self.transfer(
            FileHandle,
            FILE_READ_DATA | FILE_WRITE_DATA,
            IRP_MJ_LOCK_CONTROL,
            IoStatusBlock,
            Event,
            minor=IRP_MN_LOCK,
            ByteOffset=ByteOffset,
            Length=Length,
            Key=Key,
            FailImmediately=FailImmediately,
            ExclusiveLock=ExclusiveLock,
            OperationFlags=SL_FAIL_IMMEDIATELY * FailImmediately | SL_EXCLUSIVE_LOCK * ExclusiveLock,
        )

    async def NtUnlockFile(self, FileHandle: Any, ByteOffset: int, Length: int, Key: int) -> NTSTATUS:
        """Unlock exactly that range."""
        return await self.transfer(
            FileHandle,
            FILE_READ_DATA | FILE_WRITE_DATA,
            IRP_MJ_LOCK_CONTROL,
            IO_STATUS_BLOCK(),
            minor=IRP_MN_UNLOCK_SINGLE,
            ByteOffset=ByteOffset,
            Length=Length,
            Key=Key,
            wait=True,
        )

    async def NtFlushBuffersFile(self, FileHandle: Any) -> NTSTATUS:
        """Write back what is cached of the file."""
        return await self.transfer(
            FileHandle, FILE_WRITE_DATA | FILE_APPEND_DATA, IRP_MJ_FLUSH_BUFFERS, IO_STATUS_BLOCK(), wait=True
        )

    async def NtFsControlFile(
        self,
        FileHandle: Any,
        Event: KEVENT | None,
        IoStatusBlock: IO_STATUS_BLOCK,
        FsControlCode: int,
        InputBuffer: Any = None,
    ) -> NTSTATUS:
        """Send a control code to the file system."""
        return await self.transfer(
            FileHandle,
            0,
            IRP_MJ_FILE_SYSTEM_CONTROL,
            IoStatusBlock,
            Event,
            FsControlCode=FsControlCode,
            InputBuffer=InputBuffer,
        )

    async def NtCreateSection(
        self, MaximumSize: int, SectionPageProtection: int, FileHandle: Any
    ) -> tuple[NTSTATUS, Handle | None]:
        """Make a section of a file, and a handle to it."""
        needed = FILE_WRITE_DATA if SectionPageProtection == PAGE_READWRITE else FILE_READ_DATA
        file = await ReferenceHandle(self.process, FileHandle, FileObject, needed)
        if isinstance(file, NTSTATUS):
            return file, None
        status, section = await create_section(self.manager, file, MaximumSize, SectionPageProtection)
        if section is None:
            return status, None
        return status, Handle(self.process, section, SectionPageProtection)

    async def NtMapViewOfSection(
        self, SectionHandle: Any, SectionOffset: int = 0, ViewSize: int = 0
    ) -> tuple[NTSTATUS, View | None]:
        """Map a part of a section, or all of it from an offset on."""
        section = await ReferenceHandle(self.process, SectionHandle, Section)
        if isinstance(section, NTSTATUS):
            return section, None
        view = await MapView(section, SectionOffset, ViewSize)
        return (view, None) if isinstance(view, NTSTATUS) else (STATUS_SUCCESS, view)

    async def NtUnmapViewOfSection(self, BaseAddress: View) -> NTSTATUS:
        """Give a view back."""
        return STATUS_SUCCESS if await UnmapView(BaseAddress) else STATUS_NOT_MAPPED_VIEW

    async def NtFlushVirtualMemory(self, BaseAddress: View) -> NTSTATUS:
        """Write back what was changed of the file behind a view."""
        section = BaseAddress.section
        return await section.cache.flush(section.open.stream)

    async def NtCancelIoFileEx(self, FileHandle: Any, IoRequestToCancel: IO_STATUS_BLOCK | None) -> NTSTATUS:
        """Cancel one request on a handle, or all; STATUS_NOT_FOUND if there is none."""
        wanted = None if IoRequestToCancel is None else IoRequestToCancel.Request
        return await self._cancel(FileHandle, lambda request: IoRequestToCancel is None or request is wanted)

    async def NtCancelIoFile(self, FileHandle: Any) -> NTSTATUS:
        """Cancel what the calling thread has issued on a handle."""
        thread = current_thread()
        status = await self._cancel(FileHandle, lambda request: request.thread is thread)
        return STATUS_SUCCESS if status == STATUS_NOT_FOUND else status

    async def NtCancelSynchronousIoFile(self, Thread: Thread) -> NTSTATUS:
        """Cancel what *Thread* waits for inside a synchronous call; STATUS_NOT_FOUND if it waits for nothing."""
        current_thread().read(Thread)
        request = self._waits.get(Thread)
        if request is None:
            return STATUS_NOT_FOUND
        await self.manager.cancel(request)
        return STATUS_SUCCESS

    # How all of them work.

    async def _cancel(self, FileHandle: Any, wanted: Callable[[Request], bool]) -> NTSTATUS:
        file = await ReferenceHandle(self.process, FileHandle, FileObject)
        if isinstance(file, NTSTATUS):
            return file
        found = [request for request in await ListRequests(self.manager, file) if wanted(request)]
        for request in found:
            await self.manager.cancel(request)
        return STATUS_SUCCESS if found else STATUS_NOT_FOUND

    async def transfer(
        self,
        FileHandle: Any,
        access: int,
        major: int,
        block: IO_STATUS_BLOCK,
        event: KEVENT | None = None,
        *,
        minor: int = 0,
        wait: bool = False,
        **members: Any,
    ) -> NTSTATUS:
        """Look *FileHandle* up, which must have been granted one right of *access*, and send a request.

        Waits on handles for synchronous I/O, and if *wait* says so; otherwise returns STATUS_PENDING as long as the
        request is not complete. *event* is signalled when it is.
        """
        file = await ReferenceHandle(self.process, FileHandle, FileObject, access)
        if isinstance(file, NTSTATUS):
            return file if file != STATUS_OBJECT_TYPE_MISMATCH else STATUS_INVALID_HANDLE
        lock: FileLock | None = file.lock
        if lock is not None:
            await AcquireFileLock(lock)
        parameters = Parameters(**members)
        if self.manager.system.options.fast_io and tries_first(file, major, parameters):
            with self.manager.attempts.of_one_request(current_thread()) as attempt:
                request = await try_fast(self.manager, file, major, parameters, minor=minor)
                if request is None:
                    attempt.again()
                    return await self._by_irp(file, lock, major, minor, parameters, block, event, wait=wait)
            # Fast I/O is over when the call is, so that the completion is that of a request that nobody waits for.
            block.Request = request
            Completion(block, event)(current_thread())
            if lock is not None:
                self._release(lock)
            return request.status
        return await self._by_irp(file, lock, major, minor, parameters, block, event, wait=wait)

    async def _by_irp(
        self,
        file: FileObject,
        lock: FileLock | None,
        major: int,
        minor: int,
        parameters: Parameters,
        block: IO_STATUS_BLOCK,
        event: KEVENT | None,
        *,
        wait: bool,
    ) -> NTSTATUS:
        """Send a request as an IRP, and wait for it where `transfer` does."""
        request = Request(file.volume, file, major, parameters, minor=minor)
        block.Request = request
        block.Status, block.Information = STATUS_PENDING, 0
        request.on_complete = Completion(block, event)
        if lock is not None or wait:
            status = await self._wait(request)
            if lock is not None:
                self._release(lock)
            return status
        await self.manager.start(request)
        if request.done:
            current_thread().read(request)
            self.manager.outstanding.remove(request)
            return request.status
        return STATUS_PENDING

    async def _wait(self, request: Request) -> NTSTATUS:
        """Send *request* and wait for it, so that CancelSynchronousIo finds it."""
        thread = current_thread()
        self._waits[thread] = request
        thread.write(thread)
        status = await self.manager.call(request)
        thread.write(thread)
        del self._waits[thread]
        return status

    def _release(self, lock: FileLock) -> None:
        thread = current_thread()
        thread.write(lock)
        thread.release(lock)
        lock.owner = None
        lock.changed()

    async def finished(self, block: IO_STATUS_BLOCK) -> NTSTATUS:
        """Wait until the request of *block* is complete."""
        request = block.Request
        assert request is not None
        status = await WaitDone(request)
        if request in self.manager.outstanding:
            self.manager.outstanding.remove(request)
        return status


class Completion:
    """What the completion of a request does for its issuer: fills the status block in and signals the event."""

    __slots__ = ("block", "event")

    def __init__(self, block: IO_STATUS_BLOCK, event: KEVENT | None) -> None:
        self.block = block
        self.event = event

    def __call__(self, thread: Thread) -> None:
        request = self.block.Request
        assert request is not None
        self.block.Status, self.block.Information = request.status, request.information
        self.block.buffer = request.buffer
        if self.event is not None:
            SetEvent(self.event).perform(thread)
