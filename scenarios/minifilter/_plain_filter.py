"""A minifilter that is registered and unloaded as most are; the drivers of several scenarios derive from it."""

from kemu.wdk.fltkernel import (
    FLT_OPERATION_REGISTRATION,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import DRIVER_OBJECT, NT_SUCCESS, Driver


class PlainFilter(Driver):
    """Registers what `operations` returns."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        """The operation array, without its end."""
        raise NotImplementedError

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            OperationRegistration=[*self.operations(), FLT_OPERATION_REGISTRATION()],
            FilterUnloadCallback=self.Unload,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
            InstanceTeardownStartCallback=self.InstanceTeardownStart,
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

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        pass

    async def InstanceTeardownComplete(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        pass
