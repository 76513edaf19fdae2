"""KE-13: two creates see that a name has not been looked up yet, and both allocate it.

The driver keeps the volume's name after the first create. It looks whether it has one, and later stores the one that it
has allocated: of two creates at the same time the second store wins, and nobody frees the first block.
"""

from _creates import WatchesCreates

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import FLT_CALLBACK_DATA, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_RELATED_OBJECTS
from kemu.wdk.wdm import (
    POOL_FLAG_PAGED,
    PVOID,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    InterlockedCompareExchangePointer,
    ReadPointerAcquire,
    Structure,
    sizeof,
)

NAME_TAG = "NaMe"


class VOLUME_NAME(Structure):
    """What the driver remembers of the volume."""

    Length: int


class KeepsTheName(WatchesCreates):
    """Keeps one name for all creates, and frees it at unload."""

    def __init__(self) -> None:
        super().__init__()
        self.Name = PVOID(label="VolumeName")

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await self.look_up()
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def look_up(self) -> None:
        raise NotImplementedError

    async def new_name(self) -> VOLUME_NAME | None:
        name = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(VOLUME_NAME), NAME_TAG)
        if name is not None:
            name.Length = 96
        return name

    async def Unload(self, Flags: int) -> int:
        status = await super().Unload(Flags)
        name = await ReadPointerAcquire(self.Name)
        if name is not None:
            await ExFreePoolWithTag(name, NAME_TAG)
        return status


class ChecksThenStores(KeepsTheName):
    """Looks whether there is a name, and stores one later."""

    async def look_up(self) -> None:
        if self.Name.value is None:
            self.Name.value = await self.new_name()


class ComparesAndExchanges(KeepsTheName):
    """Stores the name only if there is still none, and frees its own otherwise."""

    async def look_up(self) -> None:
        if await ReadPointerAcquire(self.Name) is not None:
            return
        name = await self.new_name()
        if name is not None and await InterlockedCompareExchangePointer(self.Name, name, None) is not None:
            await ExFreePoolWithTag(name, NAME_TAG)


@scenario(
    variants={"buggy": ChecksThenStores, "fixed": ComparesAndExchanges},
    expects={"buggy": "ke.pool-leak"},
    completion="inline",
    preempt="access",
)
async def name_allocated_twice(world: World, driver: type[Driver]) -> None:
    """Two programs open files at the same time; then the driver is unloaded."""
    loaded = await world.load(driver, altitude="328010")

    async def opener(path: str) -> None:
        await world.process("app").open(path)

    await world.together(opener(r"\one.txt"), opener(r"\two.txt"))
    await loaded.unload()
