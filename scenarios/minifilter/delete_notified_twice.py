"""A filter that reports deletions looks whether it has reported one, and reports it: two cleanups do so at once.

What is watched is what Microsoft's `delete` sample watches: dispositions of both classes, deletion with POSIX
semantics, and files that are opened to be deleted on close. A file goes with the first cleanup of a handle that deletes
it with POSIX semantics, or with the last of all. Both may say so of one file, and it is to be reported once.
"""

from typing import Any

from kemu.io.file_constants import (
    FILE_DELETE_ON_CLOSE,
    FILE_DISPOSITION_DELETE,
    FILE_DISPOSITION_POSIX_SEMANTICS,
    FILE_SHARE_VALID_FLAGS,
    GENERIC_READ,
    FileDispositionInformation,
    FileDispositionInformationEx,
)
from kemu.io.structures import FILE_DISPOSITION_INFORMATION_EX
from kemu.nt.access import DELETE
from kemu.scenario import World, scenario
from kemu.user.files import FILE_FLAG_DELETE_ON_CLOSE
from kemu.user.win32 import OPEN_EXISTING
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltGetFileNameInformation,
    FltRegisterFilter,
    FltReleaseFileNameInformation,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_SET_INFORMATION,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)

OPTIONS = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_DEFAULT


class FileState:
    """What the filter knows of one file, by the name that it was opened by."""

    def __init__(self, name: str) -> None:
        self.Name = name
        self.Opens = 0
        self.WillBeDeleted = False
        self.Notified = False


class HandleState:
    """What it knows of one open of a file."""

    def __init__(self, file: object, state: FileState, on_close: bool) -> None:
        self.File = file
        self.State = state
        self.OnClose = on_close
        self.Posix = False


class DeleteReporter(Driver):
    """Reports the deletion of files."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Lock = FAST_MUTEX("StateLock")
        self.Files: list[FileState] = []
        self.Handles: list[HandleState] = []
        self.LogLock = FAST_MUTEX("LogLock")
        self.Log: list[str] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        ExInitializeFastMutex(self.LogLock)
        change = FLT_OPERATION_REGISTRATION(IRP_MJ_SET_INFORMATION, 0, self.PreSetInformation, self.PostSetInformation)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, None, self.PostCreate),
                change,
                FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup, self.PostCleanup),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.FilterUnload,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        return await FltStartFiltering(self.Filter)

    async def FilterUnload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if not NT_SUCCESS(Data.IoStatus.Status):
            return FLT_POSTOP_FINISHED_PROCESSING
        status, info = await FltGetFileNameInformation(Data, OPTIONS)
        if NT_SUCCESS(status) and info is not None:
            name = str(info.Name)
            await FltReleaseFileNameInformation(info)
            on_close = bool(Data.Iopb.Parameters.Create.Options & FILE_DELETE_ON_CLOSE)
            await ExAcquireFastMutex(self.Lock)
            state = next((one for one in self.Files if one.Name == name), None)
            if state is None:
                state = FileState(name)
                self.Files.append(state)
            state.Opens += 1
            self.Handles.append(HandleState(FltObjects.FileObject, state, on_close))
            await ExReleaseFastMutex(self.Lock)
        return FLT_POSTOP_FINISHED_PROCESSING

    def Handle(self, file: object) -> HandleState | None:
        return next((one for one in self.Handles if one.File is file), None)

    async def PreSetInformation(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        which = Data.Iopb.Parameters.SetFileInformation.FileInformationClass
        if which not in {FileDispositionInformation, FileDispositionInformationEx}:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return FLT_PREOP_SYNCHRONIZE

    async def PostSetInformation(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if NT_SUCCESS(Data.IoStatus.Status):
            given = Data.Iopb.Parameters.SetFileInformation.InfoBuffer
            deletes, posix = False, False
            if Data.Iopb.Parameters.SetFileInformation.FileInformationClass == FileDispositionInformation:
                deletes = given.DeleteFile
            else:
                deletes = bool(given.Flags & FILE_DISPOSITION_DELETE)
                posix = deletes and bool(given.Flags & FILE_DISPOSITION_POSIX_SEMANTICS)
            await ExAcquireFastMutex(self.Lock)
            handle = self.Handle(FltObjects.FileObject)
            if handle is not None:
                handle.State.WillBeDeleted, handle.Posix = deletes, posix
            await ExReleaseFastMutex(self.Lock)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SYNCHRONIZE

    async def PostCleanup(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        await ExAcquireFastMutex(self.Lock)
        handle = self.Handle(FltObjects.FileObject)
        gone = False
        if handle is not None:
            self.Handles.remove(handle)
            state = handle.State
            state.Opens -= 1
            state.WillBeDeleted = state.WillBeDeleted or handle.OnClose
            gone = state.WillBeDeleted and (handle.Posix or not state.Opens)
            gone = gone and self.IsFirst(state)
        await ExReleaseFastMutex(self.Lock)
        if handle is not None and gone:
            await self.Report(handle.State)
        return FLT_POSTOP_FINISHED_PROCESSING

    def IsFirst(self, state: FileState) -> bool:
        """Whether the deletion is to be reported, as far as can be told under the lock."""
        raise NotImplementedError

    async def Report(self, state: FileState) -> None:
        await ExAcquireFastMutex(self.LogLock)
        self.Log.append(state.Name)
        await ExReleaseFastMutex(self.LogLock)


class MarksAfterReport(DeleteReporter):
    """Notes that a deletion is reported when it is."""

    def IsFirst(self, state: FileState) -> bool:
        return not state.Notified

    async def Report(self, state: FileState) -> None:
        await super().Report(state)
        await ExAcquireFastMutex(self.Lock)
        state.Notified = True
        await ExReleaseFastMutex(self.Lock)


class MarksUnderLock(DeleteReporter):
    """Notes it in the same breath in which it looks."""

    def IsFirst(self, state: FileState) -> bool:
        first = not state.Notified
        state.Notified = True
        return first


@scenario(
    variants={"buggy": MarksAfterReport, "fixed": MarksUnderLock}, expects={"buggy": "expectation"}, completion="inline"
)
async def delete_notified_twice(world: World, driver: type[DeleteReporter]) -> None:
    """One program has opened a file to delete it on close, another deletes it with POSIX semantics; both close it."""
    world.file(r"\report.doc")
    reporter = driver()
    await world.load(reporter, altitude="328010")
    api = world.process("app").win32
    access = GENERIC_READ | DELETE

    async def open_file(flags: int) -> Any:
        return await api.CreateFileW("report.doc", access, FILE_SHARE_VALID_FLAGS, None, OPEN_EXISTING, flags)

    first, second = await open_file(0), await open_file(FILE_FLAG_DELETE_ON_CLOSE)

    async def delete() -> None:
        flags = FILE_DISPOSITION_INFORMATION_EX(FILE_DISPOSITION_DELETE | FILE_DISPOSITION_POSIX_SEMANTICS)
        await api.native.NtSetInformationFile(first, flags, FileDispositionInformationEx)
        await api.CloseHandle(first)

    async def close() -> None:
        await api.CloseHandle(second)

    await world.together(delete(), close())
    world.check(world.volume.filesystem.find(r"\report.doc") is None, "the file is deleted")
    world.check(len(reporter.Log) == 1, f"the deletion is reported once, and was {len(reporter.Log)} times")
