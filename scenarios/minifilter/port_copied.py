"""MF-50: the port of the service is kept twice, and closed through the one that nobody sends through.

FltSendMessage and FltCloseClientPort take the address of a variable, which is how the one learns that the other has
closed the port. A driver that keeps the port in a structure for each connection, closes that, and sends through a
global copy, sends to a port that is gone.
"""

from typing import Any

from _scan_port import PORT, SAFE, ScanPort

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import FLT_PORT, PFLT_PORT, FltCloseClientPort
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePool,
    Structure,
    sizeof,
)


class CONNECTION(Structure):
    """What the driver knows of a connection."""

    Port: PFLT_PORT


class KeepsTwo(ScanPort):
    """Sends through ``ClientPort`` and closes ``CONNECTION.Port``."""

    async def Connect(self, ClientPort: FLT_PORT, ServerPortCookie: Any, Context: Any, SizeOfContext: int) -> Any:
        connection = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(CONNECTION), "Conn")
        connection.Port.value = ClientPort
        self.ClientPort.value = ClientPort
        return STATUS_SUCCESS, connection

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        await FltCloseClientPort(self.Filter, ConnectionCookie.Port)
        await ExFreePool(ConnectionCookie)


class KeepsOne(ScanPort):
    """Sends through ``ClientPort`` and closes that."""


@scenario(variants={"buggy": KeepsTwo, "fixed": KeepsOne}, expects={"buggy": "port-copy-race"}, completion="inline")
async def port_copied(world: World, driver: type[Driver]) -> None:
    """A program opens a file while the service ends."""
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def scan(message: bytes) -> bytes:
        return SAFE

    service = await world.process("service").serve(PORT, scan)

    async def opener() -> None:
        _, file = await app.create(r"\report.docx")
        if file is not None:
            await file.close()

    async def stops() -> None:
        await service.disconnect()

    await world.together(opener(), stops(), process=app)
