"""MF-43: a scan that takes too long leaves the state "scanning" behind.

A program's open waits for the scanner's service, but not for ever. Who gives up denies the open, and takes the request
back, so that a late answer is dropped. The state still says that a scan is under way, which is not "changed": no open
after this one asks for a scan, and all of them are let through.
"""

from _verdicts import INFECTED, MODIFIED, PATH, SCANNING, VIRUS, Scanner, scanned

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_TIMEOUT
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KEVENT,
    LONG,
    NT_SUCCESS,
    Driver,
    InterlockedCompareExchange,
    InterlockedExchange,
    KeInitializeEvent,
    KeSetEvent,
    KeWaitForSingleObject,
    ReadAcquire,
    SynchronizationEvent,
)

FIVE_SECONDS = -50_000_000


class AsksTheService(Scanner):
    """Has its service scan, and waits for the answer for five seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.Request = KEVENT("Request")
        self.Answer = KEVENT("Answer")
        self.Asked = LONG(0, "Asked")
        self.Stopping = LONG(0, "Stopping")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeEvent(self.Request, SynchronizationEvent, False)
        KeInitializeEvent(self.Answer, SynchronizationEvent, False)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def Admit(self) -> bool:
        if await InterlockedCompareExchange(self.State, SCANNING, MODIFIED) == MODIFIED and not await self.Ask():
            return False
        return await ReadAcquire(self.State) != INFECTED

    async def Ask(self) -> bool:
        """Ask the service; whether it has answered in time."""
        await InterlockedExchange(self.Asked, 1)
        await KeSetEvent(self.Request)
        if await KeWaitForSingleObject(self.Answer, Timeout=FIVE_SECONDS) == STATUS_TIMEOUT:
            if await InterlockedExchange(self.Asked, 0) == 1:
                await self.GiveUp()
                return False
            await KeWaitForSingleObject(self.Answer)
        return True

    async def GiveUp(self) -> None:
        """There will be no answer to what was asked."""

    async def service(self) -> None:
        """What the service does: scan, whenever it is asked to."""
        while True:
            await KeWaitForSingleObject(self.Request)
            if await ReadAcquire(self.Stopping):
                return
            verdict = await self.Scan()
            if await InterlockedExchange(self.Asked, 0) == 1:
                await InterlockedCompareExchange(self.State, verdict, SCANNING)
                await KeSetEvent(self.Answer)

    async def stop(self) -> None:
        """Have the service end."""
        await InterlockedExchange(self.Stopping, 1)
        await KeSetEvent(self.Request)


class LeavesIt(AsksTheService):
    """Takes the request back, and that is all."""


class PutsItBack(AsksTheService):
    """The file has not been scanned: it is as changed as it was."""

    async def GiveUp(self) -> None:
        await InterlockedCompareExchange(self.State, MODIFIED, SCANNING)


@scenario(variants={"buggy": LeavesIt, "fixed": PutsItBack}, expects={"buggy": "expectation"}, completion="inline")
async def scan_given_up(world: World, driver: type[Driver]) -> None:
    """A program opens an infected file, and again if it was not told why that failed."""
    scanner = await scanned(world, driver, VIRUS)
    assert isinstance(scanner, AsksTheService)

    async def opener() -> None:
        for _ in range(2):
            status, _ = await world.process("app").create(PATH)
            world.check(not NT_SUCCESS(status), f"the file is infected, but opening it returned {status}")
        await scanner.stop()

    await world.together(opener(), scanner.service())
