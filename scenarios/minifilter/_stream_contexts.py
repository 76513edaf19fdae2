"""A minifilter that keeps a context for each stream; the drivers of several scenarios derive from it."""

from typing import Any

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLTFL_POST_OPERATION_DRAINING,
    PFLT_FILTER,
    FltAllocateContext,
    FltGetStreamContext,
    FltRegisterFilter,
    FltReleaseContext,
    FltSetStreamContext,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_FLT_CONTEXT_ALREADY_DEFINED, STATUS_REPARSE, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    LONG,
    NT_SUCCESS,
    Driver,
    InterlockedDecrement,
    InterlockedIncrement,
    NonPagedPool,
    Structure,
)


class STREAM_CONTEXT(Structure):
    """What is known of one stream."""

    Opens: LONG
    Clean: int


class StreamContexts(Driver):
    """Counts how often each stream is open, in its context."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None

    def contexts(self) -> list[FLT_CONTEXT_REGISTRATION]:
        """What the driver declares of contexts."""
        return [FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, self.ContextCleanup, STREAM_CONTEXT, "Strm")]

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        """The operations that it takes part in."""
        return [
            FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate),
            FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup),
        ]

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            ContextRegistration=[*self.contexts(), FLT_CONTEXT_REGISTRATION()],
            OperationRegistration=[*self.operations(), FLT_OPERATION_REGISTRATION()],
            FilterUnloadCallback=self.Unload,
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

    async def ContextCleanup(self, Context: Any, ContextType: int) -> None:
        """Nobody holds the context any more."""

    async def find_or_create(self, FltObjects: FLT_RELATED_OBJECTS) -> STREAM_CONTEXT | None:
        """The stream's context with a reference, or None. Whoever sets it first wins, and others take that one."""
        assert FltObjects.FileObject is not None
        status, found = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            return found
        status, created = await FltAllocateContext(FltObjects.Filter, FLT_STREAM_CONTEXT, STREAM_CONTEXT, NonPagedPool)
        if not NT_SUCCESS(status) or created is None:
            return None
        created.Opens.value = 0
        created.Clean = 1
        return await self.set(FltObjects, created)

    async def set(self, FltObjects: FLT_RELATED_OBJECTS, created: STREAM_CONTEXT) -> STREAM_CONTEXT | None:
        """Link *created*, or take what somebody else has linked meanwhile."""
        assert FltObjects.FileObject is not None
        status, winner = await FltSetStreamContext(
            FltObjects.Instance, FltObjects.FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, created, True
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        return winner if status == STATUS_FLT_CONTEXT_ALREADY_DEFINED else None

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        """A file was opened."""
        context = await self.find_or_create(FltObjects)
        if context is not None:
            await InterlockedIncrement(context.Opens)
            await FltReleaseContext(context)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        status = Data.IoStatus.Status
        if not Flags & FLTFL_POST_OPERATION_DRAINING and NT_SUCCESS(status) and status != STATUS_REPARSE:
            await self.opened(FltObjects)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        status, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            await InterlockedDecrement(context.Opens)
            await FltReleaseContext(context)
        return FLT_PREOP_SUCCESS_NO_CALLBACK
