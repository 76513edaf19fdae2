"""Filters that only stand by: what is under test shares the volume with them, as on a real machine."""

from __future__ import annotations

from typing import Any

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
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
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    Driver,
)

MAJORS = (IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_QUERY_INFORMATION, IRP_MJ_CLEANUP, IRP_MJ_CLOSE)


class PassThrough(Driver):
    """Sees every operation on its way down and up, and leaves it alone."""

    def __init__(self, number: int) -> None:
        self.name = f"PassThrough{number}"
        self.Filter: PFLT_FILTER | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        """Register for every major function the emulated file system knows, and start."""
        operations = [FLT_OPERATION_REGISTRATION(major, 0, self.PreOperation, self.PostOperation) for major in MAJORS]
        registration = FLT_REGISTRATION([*operations, FLT_OPERATION_REGISTRATION()], self.Unload)
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        return await FltStartFiltering(self.Filter)

    async def Unload(self, Flags: int) -> int:
        """Go without a word."""
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def PreOperation(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        """Ask to see the result."""
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostOperation(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        """Let the result pass."""
        return FLT_POSTOP_FINISHED_PROCESSING
