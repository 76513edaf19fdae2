"""MF-39: a file is opened a second time while the scan for the first open is under way.

The scanner asks whether the file has changed since the last scan, and waits for a verdict only then. While a scan runs
the state is neither "changed" nor "infected": whoever comes in that time is let through, whatever the scan finds.
"""

from _verdicts import PATH, VIRUS, Scanner, scanned

from kemu.scenario import World, scenario
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KEVENT,
    NT_SUCCESS,
    Driver,
    InterlockedExchange,
    KeInitializeEvent,
    KeSetEvent,
    KeWaitForSingleObject,
    SynchronizationEvent,
)


class AsksOnly(Scanner):
    """Who finds a scan under way does not wait for it."""

    async def Decide(self) -> None:
        await InterlockedExchange(self.State, await self.Scan())


class TakesTurns(AsksOnly):
    """Who wants to know the state takes the scan event first, so that no scan is under way then."""

    def __init__(self) -> None:
        super().__init__()
        self.ScanEvent = KEVENT("ScanEvent")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeEvent(self.ScanEvent, SynchronizationEvent, True)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def Admit(self) -> bool:
        await KeWaitForSingleObject(self.ScanEvent)
        admitted = await super().Admit()
        await KeSetEvent(self.ScanEvent)
        return admitted


@scenario(variants={"buggy": AsksOnly, "fixed": TakesTurns}, expects={"buggy": "expectation"}, completion="inline")
async def second_opener_admitted(world: World, driver: type[Driver]) -> None:
    """Two programs open an infected file, and nobody changes it."""
    await scanned(world, driver, VIRUS)

    async def opener() -> None:
        status, _ = await world.process("app").create(PATH)
        world.check(not NT_SUCCESS(status), f"the file is infected, but opening it returned {status}")

    await world.together(opener(), opener())
