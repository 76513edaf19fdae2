"""MF-41: a scanner takes a short cut for empty files, and overwrites that the file has changed.

An empty file is clean. But between the query of its size and the store of the verdict a program may have written to it:
the note that the file has changed is lost, and what was written is never scanned.
"""

from _verdicts import CLEAN, PATH, SCANNING, VIRUS, Scanner, is_infected, scanned

from kemu.scenario import World, scenario
from kemu.wdk.wdm import NT_SUCCESS, Driver, InterlockedCompareExchange, InterlockedExchange


class LooksAtTheSize(Scanner):
    """Scans what is not empty."""

    async def Decide(self) -> None:
        assert self.Service is not None
        _, size = await self.Service.size()
        if size == 0:
            await self.StoreClean()
        else:
            await InterlockedCompareExchange(self.State, await self.Scan(), SCANNING)

    async def StoreClean(self) -> None:
        """The file is empty: store that it is clean."""
        raise NotImplementedError


class Stores(LooksAtTheSize):
    """Stores the verdict, whatever has come in between."""

    async def StoreClean(self) -> None:
        await InterlockedExchange(self.State, CLEAN)


class Compares(LooksAtTheSize):
    """Stores the verdict only if the state still is what it was when the size was asked for."""

    async def StoreClean(self) -> None:
        await InterlockedCompareExchange(self.State, CLEAN, SCANNING)


@scenario(variants={"buggy": Stores, "fixed": Compares}, expects={"buggy": "expectation"}, completion="inline")
async def empty_file_is_clean(world: World, driver: type[Driver]) -> None:
    """A program opens an empty file while another writes to it; after that, nobody should be able to open it."""
    world.file(PATH)
    dropper = await world.process("dropper").open(PATH)
    await scanned(world, driver, b"")

    async def opener() -> None:
        await world.process("app").create(PATH)

    async def writer() -> None:
        await dropper.write(VIRUS)

    await world.together(opener(), writer())
    status, _ = await world.process("app").create(PATH)
    admitted = NT_SUCCESS(status) and is_infected(world)
    world.check(not admitted, f"the file is infected, but opening it returned {status}")
