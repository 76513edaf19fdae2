"""MF-51: the filter is unregistered while its server port is open.

FltUnregisterFilter waits for the server port, which nobody closes any more. Here the driver closes it when its one
service disconnects, and its author has taken it that the service is always stopped before the driver.
"""

from typing import Any

from _scan_port import PORT, SAFE, ScanPort

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import FltCloseClientPort, FltCloseCommunicationPort, FltUnregisterFilter
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import Driver


class ClosesAtDisconnect(ScanPort):
    """Closes the server port when the service has gone, and nowhere else."""

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        await FltCloseClientPort(self.Filter, self.ClientPort)
        await FltCloseCommunicationPort(self.ServerPort)

    async def Unload(self, Flags: int) -> int:
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS


class ClosesAtUnload(ScanPort):
    """Closes the server port before it unregisters."""


@scenario(variants={"buggy": ClosesAtDisconnect, "fixed": ClosesAtUnload}, expects={"buggy": "unload-port-open"})
async def port_open_at_unload(world: World, driver: type[Driver]) -> None:
    """The driver is unloaded while its service ends."""
    scanner = await world.load(driver, altitude="328010")

    async def scan(message: bytes) -> bytes:
        return SAFE

    service = await world.process("service").serve(PORT, scan)

    async def stops() -> None:
        await service.kill()

    async def fltmc_unload() -> None:
        status = await scanner.unload()
        world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")

    await world.together(stops(), fltmc_unload())
