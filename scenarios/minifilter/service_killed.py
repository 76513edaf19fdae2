"""MF-46: whatever the service has not called harmful is let in, also when the service is gone.

The filter asks its service about each create, and lets the create pass if the question fails: without a service nobody
could open anything. So whoever kills the service just then gets the harmful file as well. The repaired filter refuses
what nobody has judged.
"""

from _scan_port import HARMFUL, PORT, ScanPort

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import FILE_OPEN, Driver


class FailsOpen(ScanPort):
    """No answer is as good as a friendly one."""

    async def IsSafe(self, message: bytes) -> bool:
        status, safe = await self.Ask(message)
        return status != STATUS_SUCCESS or safe


class FailsClosed(ScanPort):
    """Only an answer lets a file in."""


@scenario(variants={"buggy": FailsOpen, "fixed": FailsClosed}, expects={"buggy": "expectation"}, completion="inline")
async def service_killed(world: World, driver: type[Driver]) -> None:
    """A program opens malware while somebody kills the service."""
    world.file(r"\malware.exe", b"MZ")
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def scan(message: bytes) -> bytes:
        return HARMFUL

    service = await world.process("service").serve(PORT, scan)

    async def opener() -> None:
        _, file = await app.create(r"\malware.exe", FILE_OPEN)
        world.check(file is None, "malware must not be opened")

    async def taskkill() -> None:
        # What the end of the service's process comes to for the filter.
        await service.disconnect()

    await world.together(opener(), taskkill(), process=app)
