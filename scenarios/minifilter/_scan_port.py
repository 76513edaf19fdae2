"""A minifilter that asks its service about each create; the drivers of several scenarios derive from it."""

from typing import Any

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PORT,
    FLT_PORT_ALL_ACCESS,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    PFLT_PORT,
    FltBuildDefaultSecurityDescriptor,
    FltCloseClientPort,
    FltCloseCommunicationPort,
    FltCreateCommunicationPort,
    FltFreeSecurityDescriptor,
    FltRegisterFilter,
    FltSendMessage,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CREATE,
    NT_SUCCESS,
    OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE,
    ULONG,
    Driver,
    InitializeObjectAttributes,
    Structure,
)

PORT = r"\ScanPort"
SECOND = -10_000_000
"""A timeout, in units of 100 ns from now."""

SAFE = (1).to_bytes(8, "little")
HARMFUL = (0).to_bytes(8, "little")


class SCAN_REPLY(Structure):
    """What the service answers."""

    SafeToOpen: int


class ScanPort(Driver):
    """Listens at a port, keeps the port of one service, and lets it decide about each create."""

    Filter: PFLT_FILTER
    ServerPort: FLT_PORT
    Timeout: int | None = SECOND

    def __init__(self) -> None:
        self.ClientPort = PFLT_PORT(None, "ClientPort")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            OperationRegistration=[*self.operations(), FLT_OPERATION_REGISTRATION()],
            FilterUnloadCallback=self.Unload,
        )
        status, registered = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or registered is None:
            return status
        self.Filter = registered
        status = await self.Listen()
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltCloseCommunicationPort(self.ServerPort)
            await FltUnregisterFilter(self.Filter)
        return status

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate)]

    async def Listen(self) -> int:
        status, security = await FltBuildDefaultSecurityDescriptor(FLT_PORT_ALL_ACCESS)
        if not NT_SUCCESS(status) or security is None:
            return status
        attributes = InitializeObjectAttributes(PORT, OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE, 0, security)
        status, port = await FltCreateCommunicationPort(
            self.Filter, attributes, None, self.Connect, self.Disconnect, None, 1
        )
        if port is not None:
            self.ServerPort = port
        await FltFreeSecurityDescriptor(security)
        return status

    async def Unload(self, Flags: int) -> int:
        await FltCloseCommunicationPort(self.ServerPort)
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def Connect(self, ClientPort: FLT_PORT, ServerPortCookie: Any, Context: Any, SizeOfContext: int) -> int:
        self.ClientPort.value = ClientPort
        return STATUS_SUCCESS

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        await FltCloseClientPort(self.Filter, self.ClientPort)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        if await self.IsSafe(FltObjects.FileObject.FileName.encode()):
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        Data.IoStatus.Information = 0
        return FLT_PREOP_COMPLETE

    async def IsSafe(self, message: bytes) -> bool:
        status, safe = await self.Ask(message)
        return status == STATUS_SUCCESS and safe

    async def Ask(self, message: bytes) -> tuple[int, bool]:
        """Ask the service; the status, and its answer if that is STATUS_SUCCESS."""
        reply = SCAN_REPLY()
        length = ULONG(8)
        status = await FltSendMessage(self.Filter, self.ClientPort, message, len(message), reply, length, self.Timeout)
        if status != STATUS_SUCCESS or length.value != 8:
            return status, False
        return status, reply.SafeToOpen == 1
