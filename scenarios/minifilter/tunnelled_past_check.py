"""MF-44: a filter decides by the name that it gets before a create, and the file that is created is called otherwise.

Nobody may write to `Master key.text`. While a backup program has the file out of the way, a program creates
`MASTER~1.TEX`. That is nobody's name in the pre-create; but the file system remembers whose short name it was, and
gives the new file the long name as well. The handle that was let through writes to `Master key.text`.
"""

from typing import Any

from kemu.io.file_constants import FILE_SHARE_VALID_FLAGS, GENERIC_READ, GENERIC_WRITE
from kemu.scenario import World, scenario
from kemu.user.win32 import OPEN_ALWAYS
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_FILE_NAME_INFORMATION,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltGetFileNameInformation,
    FltGetTunneledName,
    FltParseFileNameInformation,
    FltRegisterFilter,
    FltReleaseFileNameInformation,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    UNICODE_STRING,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    RtlEqualUnicodeString,
    RtlInitUnicodeString,
)

NAME, SHORT = "Master key.text", "MASTER~1.TEX"
OPTIONS = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_DEFAULT


class Keeper(Driver):
    """Lets nobody write to files of one name: which handles may write is decided when they are opened."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Lock = FAST_MUTEX("WritableLock")
        self.Writable: list[object] = []
        self.Protected = UNICODE_STRING()

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        RtlInitUnicodeString(self.Protected, NAME)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate),
                FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite),
                FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup),
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

    async def IsProtected(self, info: FLT_FILE_NAME_INFORMATION) -> bool:
        status = await FltParseFileNameInformation(info)
        return NT_SUCCESS(status) and RtlEqualUnicodeString(info.FinalComponent, self.Protected, True)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> object:
        raise NotImplementedError

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        raise NotImplementedError

    async def Allow(self, file: object) -> None:
        await ExAcquireFastMutex(self.Lock)
        self.Writable.append(file)
        await ExReleaseFastMutex(self.Lock)

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await ExAcquireFastMutex(self.Lock)
        allowed = FltObjects.FileObject in self.Writable
        await ExReleaseFastMutex(self.Lock)
        if allowed:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        Data.IoStatus.Information = 0
        return FLT_PREOP_COMPLETE

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await ExAcquireFastMutex(self.Lock)
        if FltObjects.FileObject in self.Writable:
            self.Writable.remove(FltObjects.FileObject)
        await ExReleaseFastMutex(self.Lock)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class DecidesBefore(Keeper):
    """Looks at the name in the pre-create, and goes by that."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> object:
        status, info = await FltGetFileNameInformation(Data, OPTIONS)
        if not NT_SUCCESS(status) or info is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        protected = await self.IsProtected(info)
        await FltReleaseFileNameInformation(info)
        return FLT_PREOP_SUCCESS_NO_CALLBACK if protected else FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if NT_SUCCESS(Data.IoStatus.Status):
            await self.Allow(FltObjects.FileObject)
        return FLT_POSTOP_FINISHED_PROCESSING


class DecidesAfter(Keeper):
    """Takes the name along, and asks in the post-create what tunnelling has made of it."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> object:
        status, info = await FltGetFileNameInformation(Data, OPTIONS)
        if not NT_SUCCESS(status) or info is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return FLT_PREOP_SUCCESS_WITH_CALLBACK, (info, await self.IsProtected(info))

    async def PostCreate(
        self,
        Data: FLT_CALLBACK_DATA,
        FltObjects: FLT_RELATED_OBJECTS,
        CompletionContext: Any,
        Flags: int,
    ) -> int:
        info, protected = CompletionContext
        if NT_SUCCESS(Data.IoStatus.Status):
            status, tunneled = await FltGetTunneledName(Data, info)
            if not NT_SUCCESS(status):
                protected = True
            elif tunneled is not None:
                protected = await self.IsProtected(tunneled)
                await FltReleaseFileNameInformation(tunneled)
            if not protected:
                await self.Allow(FltObjects.FileObject)
        await FltReleaseFileNameInformation(info)
        return FLT_POSTOP_FINISHED_PROCESSING


@scenario(
    variants={"buggy": DecidesBefore, "fixed": DecidesAfter},
    expects={"buggy": "expectation"},
    short_names=True,
    completion="inline",
)
async def tunnelled_past_check(world: World, driver: type[Driver]) -> None:
    """A backup program moves the protected file away and back, while another creates and writes the short name."""
    world.file(rf"\{NAME}", b"key")
    await world.load(driver, altitude="328010")
    backup, program = world.process("backup"), world.process("program")

    async def rotate() -> None:
        await backup.win32.MoveFileExW(SHORT, "saved.key")
        await backup.win32.MoveFileExW("saved.key", SHORT)

    async def intrude() -> None:
        access = GENERIC_READ | GENERIC_WRITE
        handle = await program.win32.CreateFileW(SHORT, access, FILE_SHARE_VALID_FLAGS, None, OPEN_ALWAYS)
        if handle is not None:
            await program.win32.WriteFile(handle, b"fake")
            await program.win32.CloseHandle(handle)

    await world.together(rotate(), intrude())
    node = world.volume.filesystem.find(rf"\{NAME}")
    world.check(node is None or bytes(node.data) != b"fake", f"nobody writes to {NAME}")
