"""A minifilter with a communication port, made of given routines, and a lab that loads it: for tests of ports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fltmgr.kit import Callbacks, Lab, Minifilter

from kemu.scenario.service import Service
from kemu.scenario.world import LoadedDriver, UserProcess
from kemu.wdk.fltkernel import (
    FLT_PORT,
    FLT_PORT_ALL_ACCESS,
    PFLT_PORT,
    FltBuildDefaultSecurityDescriptor,
    FltCloseClientPort,
    FltCloseCommunicationPort,
    FltCreateCommunicationPort,
    FltFreeSecurityDescriptor,
    FltSendMessage,
    FltUnregisterFilter,
)
from kemu.wdk.fltuserstructures import FILTER_MESSAGE_HEADER, FILTER_REPLY_HEADER
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    NT_SUCCESS,
    OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE,
    POOL_FLAG_PAGED,
    ULONG,
    ExAllocatePool2,
    ExFreePool,
    InitializeObjectAttributes,
)

PORT = r"\Port"
ATTRIBUTES = OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE
SECOND = -10_000_000
"""A timeout of one second."""


class Talker(Minifilter):
    """Listens at `PORT`, keeps one client port, and notes what it is told."""

    def __init__(self, lab: Lab, callbacks: Callbacks | None = None, *, limit: int = 1, **routines: Any) -> None:
        super().__init__("Talker", callbacks or {})
        self.lab = lab
        self.limit = limit
        self.ServerPort: FLT_PORT | None = None
        self.ClientPort = PFLT_PORT(None, "Talker.ClientPort")
        self.connects: Callable[..., Awaitable[Any]] = routines.pop("connect", self.Connect)
        self.disconnects: Callable[..., Awaitable[None]] = routines.pop("disconnect", self.Disconnect)
        self.messages: Callable[..., Awaitable[Any]] | None = routines.pop("message", self.Message)
        self.closes: Callable[[], Awaitable[None]] = routines.pop("closes", self.close_server)
        assert not routines

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        status = await super().DriverEntry(DriverObject, RegistryPath)
        if not NT_SUCCESS(status):
            return status
        status, security = await FltBuildDefaultSecurityDescriptor(FLT_PORT_ALL_ACCESS)
        if security is None:
            return status
        attributes = InitializeObjectAttributes(PORT, ATTRIBUTES, 0, security)
        assert self.Filter is not None
        status, self.ServerPort = await FltCreateCommunicationPort(
            self.Filter, attributes, "server", self.connects, self.disconnects, self.messages, self.limit
        )
        await FltFreeSecurityDescriptor(security)
        return status

    async def Unload(self, Flags: int) -> int:
        await self.closes()
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def close_server(self) -> None:
        assert self.ServerPort is not None
        await FltCloseCommunicationPort(self.ServerPort)

    async def Connect(self, ClientPort: FLT_PORT, Cookie: Any, Context: Any, SizeOfContext: int) -> Any:
        self.lab.note("connect", (Cookie, Context, SizeOfContext))
        self.ClientPort.value = ClientPort
        return STATUS_SUCCESS, "connection"

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        self.lab.note("disconnect", ConnectionCookie)
        assert self.Filter is not None
        await FltCloseClientPort(self.Filter, self.ClientPort)

    async def Message(
        self, PortCookie: Any, InputBuffer: Any, InputBufferLength: int, OutputBuffer: Any, OutputBufferLength: int
    ) -> Any:
        self.lab.note("message", PortCookie)
        return STATUS_SUCCESS, 0

    async def send(self, data: bytes = b"scan", timeout: int | None = None, variable: PFLT_PORT | None = None) -> int:
        """Send without an answer; the status."""
        assert self.Filter is not None
        port = self.ClientPort if variable is None else variable
        return await FltSendMessage(self.Filter, port, data, len(data), None, None, timeout)

    async def ask(
        self, data: bytes = b"scan", size: int = 4, timeout: int | None = None, variable: PFLT_PORT | None = None
    ) -> tuple[int, bytes]:
        """Send and wait for an answer; the status and the answer, which goes through a block of pool."""
        assert self.Filter is not None
        port = self.ClientPort if variable is None else variable
        block = await ExAllocatePool2(POOL_FLAG_PAGED, max(size, 1), "Answ")
        assert block is not None
        length = ULONG(size)
        status = await FltSendMessage(self.Filter, port, data, len(data), block, length, timeout)
        answer = bytes(block[0 : length.value]) if status == STATUS_SUCCESS else b""
        await ExFreePool(block)
        return status, answer


async def talker(lab: Lab, callbacks: Callbacks | None = None, **options: Any) -> tuple[Talker, LoadedDriver]:
    """Load a `Talker`."""
    driver = Talker(lab, callbacks, **options)
    loaded = await lab.load(driver, "300000")
    assert loaded.status == STATUS_SUCCESS, loaded.status
    return driver, loaded


async def as_program(process: UserProcess, coroutine: Coroutine[Any, Any, Any], name: str = "program") -> Any:
    """Run *coroutine* in a thread of *process*, and return its result."""
    return await process.world.start(name, coroutine, process).join()


def header(message: bytes) -> FILTER_MESSAGE_HEADER:
    """The header of *message*."""
    return FILTER_MESSAGE_HEADER.from_buffer_copy(message)


def reply(message: bytes, data: bytes, status: int = 0) -> bytes:
    """A reply to *message*."""
    return bytes(FILTER_REPLY_HEADER(status, header(message).MessageId)) + data


async def safe(message: bytes) -> bytes:
    """Answers that everything is safe."""
    return b"safe"


async def service_of(lab: Lab, answer: Any = safe, threads: int = 1) -> Service:
    """A service of the lab's own program."""
    return await lab.app.serve(PORT, answer, threads=threads)
