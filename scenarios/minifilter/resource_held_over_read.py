"""MF-23: a pre-read callback acquires a resource, synchronises the read, and its post-read callback releases it.

Both run in one thread, unless the instance is detached in between: then the post-read callback is called by the thread
that detaches, which does not own the resource. A lock is never to be held while an operation is below.
"""

from typing import Any

from _reads import Reads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FltAcquireResourceExclusive,
    FltReleaseResource,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import DRIVER_OBJECT, ERESOURCE, Driver, ExDeleteResourceLite, ExInitializeResourceLite


class Guarded(Reads):
    """Has a resource that guards what it knows of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.Resource = ERESOURCE("FileResource")
        self.Reading = 0

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeResourceLite(self.Resource)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def Unload(self, Flags: int) -> int:
        status = await super().Unload(Flags)
        ExDeleteResourceLite(self.Resource)
        return status


class HoldsOverTheRead(Guarded):
    """Keeps the resource for the time of the read."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        await FltAcquireResourceExclusive(self.Resource)
        self.Reading += 1
        return FLT_PREOP_SYNCHRONIZE

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        self.Reading -= 1
        await FltReleaseResource(self.Resource)
        return FLT_POSTOP_FINISHED_PROCESSING


class ReleasesBefore(Guarded):
    """Acquires it twice, and carries state over the read and no ownership."""

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        await FltAcquireResourceExclusive(self.Resource)
        self.Reading += 1
        await FltReleaseResource(self.Resource)
        return FLT_PREOP_SYNCHRONIZE

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        await FltAcquireResourceExclusive(self.Resource)
        self.Reading -= 1
        await FltReleaseResource(self.Resource)
        return FLT_POSTOP_FINISHED_PROCESSING


@scenario(
    variants={"buggy": HoldsOverTheRead, "fixed": ReleasesBefore},
    expects={"buggy": "lock-across-io"},
    completion="later",
)
async def resource_held_over_read(world: World, driver: type[Driver]) -> None:
    """A program reads while an administrator unloads the filter."""
    world.file(r"\data.bin", b"0123456789")
    guarded = await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_unload() -> None:
        status = await guarded.unload()
        world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")

    await world.together(reader(), fltmc_unload(), process=app)
