"""MF-42: a scanner stores its verdict without looking whether the file has changed meanwhile.

The scan reads a clean file. A program writes to it, and the state becomes "changed". The scan stores "clean", with an
exchange, over that: what was written is never scanned.
"""

from _verdicts import PATH, SCANNING, VIRUS, Scanner, is_infected, scanned

from kemu.scenario import World, scenario
from kemu.wdk.wdm import NT_SUCCESS, Driver, InterlockedCompareExchange, InterlockedExchange


class Exchanges(Scanner):
    """Stores the verdict, whatever has come in between."""

    async def Decide(self) -> None:
        await InterlockedExchange(self.State, await self.Scan())


class ComparesAndExchanges(Scanner):
    """Stores the verdict only if it still is about what was scanned."""

    async def Decide(self) -> None:
        await InterlockedCompareExchange(self.State, await self.Scan(), SCANNING)


@scenario(
    variants={"buggy": Exchanges, "fixed": ComparesAndExchanges},
    expects={"buggy": "expectation"},
    completion="inline",
)
async def verdict_overwrites_change(world: World, driver: type[Driver]) -> None:
    """A program opens a clean file while another writes to it; after that, nobody should be able to open it."""
    world.file(PATH)
    dropper = await world.process("dropper").open(PATH)
    await scanned(world, driver, b"clean")

    async def opener() -> None:
        await world.process("app").create(PATH)

    async def writer() -> None:
        await dropper.write(VIRUS)

    await world.together(opener(), writer())
    status, _ = await world.process("app").create(PATH)
    admitted = NT_SUCCESS(status) and is_infected(world)
    world.check(not admitted, f"the file is infected, but opening it returned {status}")
