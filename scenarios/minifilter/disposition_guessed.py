"""MF-27: a filter believes that the disposition it hears of last is the one that counts.

One program wants a file deleted, another wants it kept, at the same time. The file system makes the changes in one
order; the post-operation callbacks come in the other. The filter reports a deletion that does not happen, or misses
one.
"""

from kemu.io.file_constants import FILE_SHARE_VALID_FLAGS, GENERIC_READ, FileDispositionInformation
from kemu.io.structures import FILE_DISPOSITION_INFORMATION
from kemu.nt.access import DELETE
from kemu.scenario import World, scenario
from kemu.user.win32 import OPEN_EXISTING
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_SET_INFORMATION,
    KEVENT,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    Executive,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    SynchronizationEvent,
)


class DeleteWatcher(Driver):
    """Knows whether a file is going to be deleted. There is one file in this scenario, and one flag."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Lock = FAST_MUTEX("StateLock")
        self.WillBeDeleted = False
        self.Turn = KEVENT("Turn")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        KeInitializeEvent(self.Turn, SynchronizationEvent, True)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_SET_INFORMATION, 0, self.PreSetInformation, self.PostSetInformation),
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

    async def PreSetInformation(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        parameters = Data.Iopb.Parameters.SetFileInformation
        if parameters.FileInformationClass != FileDispositionInformation:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        # The post-operation callback takes a lock: it has to come at a level where that is possible.
        return FLT_PREOP_SYNCHRONIZE

    async def PostSetInformation(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        if NT_SUCCESS(Data.IoStatus.Status):
            await ExAcquireFastMutex(self.Lock)
            self.WillBeDeleted = Data.Iopb.Parameters.SetFileInformation.InfoBuffer.DeleteFile
            await ExReleaseFastMutex(self.Lock)
        return FLT_POSTOP_FINISHED_PROCESSING


class OneAtATime(DeleteWatcher):
    """Lets the second change go down when the first has come back up: then the order is the same."""

    async def PreSetInformation(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        status = await super().PreSetInformation(Data, FltObjects)
        if status == FLT_PREOP_SYNCHRONIZE:
            await KeWaitForSingleObject(self.Turn, Executive, KernelMode, False, None)
        return status

    async def PostSetInformation(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        status = await super().PostSetInformation(Data, FltObjects, CompletionContext, Flags)
        await KeSetEvent(self.Turn, 0, False)
        return status


@scenario(variants={"buggy": DeleteWatcher, "fixed": OneAtATime}, expects={"buggy": "expectation"}, completion="inline")
async def disposition_guessed(world: World, driver: type[DeleteWatcher]) -> None:
    """Two programs have a file open; one asks for its deletion while the other takes such a request back."""
    world.file(r"\report.doc")
    watcher = driver()
    await world.load(watcher, altitude="328010")
    api = world.process("app").win32

    async def open_file() -> object:
        return await api.CreateFileW("report.doc", GENERIC_READ | DELETE, FILE_SHARE_VALID_FLAGS, None, OPEN_EXISTING)

    first, second = await open_file(), await open_file()

    async def delete() -> None:
        await api.native.NtSetInformationFile(first, FILE_DISPOSITION_INFORMATION(True), FileDispositionInformation)

    async def keep() -> None:
        await api.native.NtSetInformationFile(second, FILE_DISPOSITION_INFORMATION(False), FileDispositionInformation)

    await world.together(delete(), keep())
    await api.CloseHandle(first)
    await api.CloseHandle(second)
    deleted = world.volume.filesystem.find(r"\report.doc") is None
    told = watcher.WillBeDeleted
    world.check(told == deleted, f"the filter says {told}, and the file was deleted: {deleted}")
