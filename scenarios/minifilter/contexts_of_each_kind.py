"""What a filter with contexts of an instance, of files, streams and stream handles does, all races considered.

The instance's context is set when the instance is attached. The post-create callback finds or makes the contexts of the
file and of the stream, so that whoever sets one first wins, and replaces that of the handle; each counts what happens
under a resource of its own, which its cleanup deletes. A rename renews the name in the stream's context. Pre-cleanup
and pre-close callbacks count, too, with what they find.
"""

from typing import Any

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_FILE_CONTEXT,
    FLT_INSTANCE_CONTEXT,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLT_STREAMHANDLE_CONTEXT,
    PFLT_FILTER,
    FltAllocateContext,
    FltDeleteContext,
    FltGetFileContext,
    FltGetInstanceContext,
    FltGetStreamContext,
    FltRegisterFilter,
    FltReleaseContext,
    FltSetFileContext,
    FltSetInstanceContext,
    FltSetStreamContext,
    FltSetStreamHandleContext,
    FltStartFiltering,
    FltSupportsFileContextsEx,
    FltUnregisterFilter,
)
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.ntstatus import (
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    ERESOURCE,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_SET_INFORMATION,
    NT_SUCCESS,
    Driver,
    ExAcquireResourceExclusiveLite,
    ExDeleteResourceLite,
    ExInitializeResourceLite,
    ExReleaseResourceLite,
    FileRenameInformation,
    NonPagedPool,
    Structure,
)


class INSTANCE_CONTEXT(Structure):
    """One attachment."""

    Instance: Any


class FILE_CONTEXT(Structure):
    """One file, whichever of its streams is open."""

    FileName: str


class STREAM_CONTEXT(Structure):
    """One stream."""

    FileName: str
    CreateCount: int
    CleanupCount: int
    CloseCount: int
    Resource: ERESOURCE


class HANDLE_CONTEXT(Structure):
    """One open."""

    FileName: str


class Contexts(Driver):
    """Keeps contexts of each kind."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            ContextRegistration=[
                FLT_CONTEXT_REGISTRATION(FLT_INSTANCE_CONTEXT, 0, None, INSTANCE_CONTEXT, "IxxC"),
                FLT_CONTEXT_REGISTRATION(FLT_FILE_CONTEXT, 0, None, FILE_CONTEXT, "FxxC"),
                FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, self.ContextCleanup, STREAM_CONTEXT, "SxxC"),
                FLT_CONTEXT_REGISTRATION(FLT_STREAMHANDLE_CONTEXT, 0, None, HANDLE_CONTEXT, "HxxC"),
                FLT_CONTEXT_REGISTRATION(),
            ],
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate),
                FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup),
                FLT_OPERATION_REGISTRATION(IRP_MJ_CLOSE, 0, self.PreClose),
                FLT_OPERATION_REGISTRATION(IRP_MJ_SET_INFORMATION, 0, self.PreSetInformation, self.PostSetInformation),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceSetupCallback=self.InstanceSetup,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
            InstanceTeardownCompleteCallback=self.InstanceTeardownComplete,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    # Instances.

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        status, context = await FltAllocateContext(
            FltObjects.Filter, FLT_INSTANCE_CONTEXT, INSTANCE_CONTEXT, NonPagedPool
        )
        if not NT_SUCCESS(status) or context is None:
            return STATUS_FLT_DO_NOT_ATTACH
        context.Instance = FltObjects.Instance
        status, _ = await FltSetInstanceContext(FltObjects.Instance, FLT_SET_CONTEXT_KEEP_IF_EXISTS, context, None)
        await FltReleaseContext(context)
        return STATUS_SUCCESS if NT_SUCCESS(status) else STATUS_FLT_DO_NOT_ATTACH

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS

    async def InstanceTeardownComplete(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        status, context = await FltGetInstanceContext(FltObjects.Instance)
        if NT_SUCCESS(status):
            await FltDeleteContext(context)
            await FltReleaseContext(context)

    # Contexts.

    async def ContextCleanup(self, Context: STREAM_CONTEXT, ContextType: int) -> None:
        _ = ExDeleteResourceLite(Context.Resource)

    async def find_or_create_file(self, FltObjects: FLT_RELATED_OBJECTS) -> FILE_CONTEXT | None:
        """The file's context with a reference, or None."""
        assert FltObjects.FileObject is not None
        status, context = await FltGetFileContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            return context
        status, created = await FltAllocateContext(FltObjects.Filter, FLT_FILE_CONTEXT, FILE_CONTEXT, NonPagedPool)
        if not NT_SUCCESS(status) or created is None:
            return None
        created.FileName = FltObjects.FileObject.FileName
        status, winner = await FltSetFileContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, created, True
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        return winner if status == STATUS_FLT_CONTEXT_ALREADY_DEFINED else None

    async def find_or_create_stream(self, FltObjects: FLT_RELATED_OBJECTS) -> STREAM_CONTEXT | None:
        """The stream's context with a reference, or None."""
        assert FltObjects.FileObject is not None
        status, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            return context
        status, created = await FltAllocateContext(FltObjects.Filter, FLT_STREAM_CONTEXT, STREAM_CONTEXT, NonPagedPool)
        if not NT_SUCCESS(status) or created is None:
            return None
        _ = ExInitializeResourceLite(created.Resource)
        created.FileName = ""
        created.CreateCount = created.CleanupCount = created.CloseCount = 0
        status, winner = await FltSetStreamContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, created, True
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        return winner if status == STATUS_FLT_CONTEXT_ALREADY_DEFINED else None

    async def acquire(self, context: STREAM_CONTEXT) -> None:
        KeEnterCriticalRegion()
        await ExAcquireResourceExclusiveLite(context.Resource, True)

    async def release(self, context: STREAM_CONTEXT) -> None:
        await ExReleaseResourceLite(context.Resource)
        KeLeaveCriticalRegion()

    # Operations.

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        status = Data.IoStatus.Status
        if not NT_SUCCESS(status) or status == STATUS_REPARSE:
            return FLT_POSTOP_FINISHED_PROCESSING
        assert FltObjects.FileObject is not None
        stream = await self.find_or_create_stream(FltObjects)
        if stream is not None:
            await self.acquire(stream)
            stream.CreateCount += 1
            stream.FileName = FltObjects.FileObject.FileName
            await self.release(stream)
            await FltReleaseContext(stream)
        await self.replace_handle(FltObjects)
        if FltSupportsFileContextsEx(FltObjects.FileObject, FltObjects.Instance):
            file = await self.find_or_create_file(FltObjects)
            if file is not None:
                await FltReleaseContext(file)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def replace_handle(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        """Set the handle's context, whatever there is."""
        assert FltObjects.FileObject is not None
        status, created = await FltAllocateContext(
            FltObjects.Filter, FLT_STREAMHANDLE_CONTEXT, HANDLE_CONTEXT, NonPagedPool
        )
        if not NT_SUCCESS(status) or created is None:
            return
        created.FileName = FltObjects.FileObject.FileName
        _, old = await FltSetStreamHandleContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_REPLACE_IF_EXISTS, created, True
        )
        if old is not None:
            await FltReleaseContext(old)
        await FltReleaseContext(created)

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, stream = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            await self.acquire(stream)
            stream.CleanupCount += 1
            await self.release(stream)
            await FltReleaseContext(stream)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PreClose(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, stream = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            await self.acquire(stream)
            stream.CloseCount += 1
            await self.release(stream)
            await FltReleaseContext(stream)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PreSetInformation(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if Data.Iopb.Parameters.FileInformationClass == FileRenameInformation:
            return FLT_PREOP_SYNCHRONIZE
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PostSetInformation(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        if not NT_SUCCESS(Data.IoStatus.Status):
            return FLT_POSTOP_FINISHED_PROCESSING
        stream = await self.find_or_create_stream(FltObjects)
        if stream is not None:
            await self.acquire(stream)
            stream.FileName = "renamed"
            await self.release(stream)
            await FltReleaseContext(stream)
        return FLT_POSTOP_FINISHED_PROCESSING


@scenario(completion="inline")
async def contexts_of_each_kind(world: World) -> None:
    """One program opens a file and closes it while another one renames it; then the filter is unloaded."""
    filter_ = await world.load(Contexts, altitude="328025")
    app = world.process("app")
    world.file(r"\old.txt", b"words")

    async def open_and_close() -> None:
        status, file = await app.create(r"\old.txt")
        if file is not None:
            await file.close()
        world.check(NT_SUCCESS(status), f"the file must open or be made, but that returned {status}")

    async def rename() -> None:
        await app.win32.MoveFileExW(r"C:\old.txt", r"C:\new.txt")

    await world.together(open_and_close(), rename(), process=app)
    status = await filter_.unload()
    world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")
