"""MF-61: a log hands out records in order, but one that could not be delivered goes back to the front too late.

A reader takes the oldest record off the list, and copies it to the program's memory without holding the lock: that may
fault. If it does, the record is put back where it was. Another reader may have taken the next record meanwhile, so that
they come out in the wrong order. Whether the memory is there has to be known before a record is taken.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_NO_MORE_ENTRIES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    MDL,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    IoAllocateMdl,
    IoFreeMdl,
    IoWriteAccess,
    MmGetSystemAddressForMdlSafe,
    MmProbeAndLockPages,
    MmUnlockPages,
    NormalPagePriority,
    ProbeForWrite,
    UserMode,
)


class Log(Driver):
    """Has a list of numbered records, which programs fetch one by one."""

    def __init__(self) -> None:
        self.Lock = FAST_MUTEX("LogLock")
        self.Records = [1, 2]

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        return STATUS_SUCCESS

    async def Take(self) -> int | None:
        """Take the oldest record off the list."""
        await ExAcquireFastMutex(self.Lock)
        record = self.Records.pop(0) if self.Records else None
        await ExReleaseFastMutex(self.Lock)
        return record

    async def GetLog(self, Buffer: object) -> int:
        """Copy the oldest record to *Buffer*, which is memory of the calling program's."""
        raise NotImplementedError


class CopiesWhatItHasTaken(Log):
    """Takes a record, and puts it back if it cannot be copied."""

    async def GetLog(self, Buffer: object) -> int:
        record = await self.Take()
        if record is None:
            return STATUS_NO_MORE_ENTRIES
        try:
            ProbeForWrite(Buffer, 1, 1)
            Buffer[0] = record  # type: ignore[index]
        except StructuredException as error:
            await ExAcquireFastMutex(self.Lock)
            self.Records.insert(0, record)
            await ExReleaseFastMutex(self.Lock)
            return error.ExceptionCode
        return STATUS_SUCCESS


class LocksFirst(Log):
    """Takes a record when it has somewhere to put it."""

    async def GetLog(self, Buffer: object) -> int:
        mdl: MDL | None = await IoAllocateMdl(Buffer, 1, False, False, None)
        assert mdl is not None
        try:
            await MmProbeAndLockPages(mdl, UserMode, IoWriteAccess)
        except StructuredException as error:
            await IoFreeMdl(mdl)
            return error.ExceptionCode
        record = await self.Take()
        if record is not None:
            MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority)[0] = record
        MmUnlockPages(mdl)
        await IoFreeMdl(mdl)
        return STATUS_SUCCESS if record is not None else STATUS_NO_MORE_ENTRIES


@scenario(
    variants={"buggy": CopiesWhatItHasTaken, "fixed": LocksFirst},
    expects={"buggy": "expectation"},
    completion="inline",
)
async def record_put_back(world: World, driver: type[Driver]) -> None:
    """Two programs fetch records, one of them into memory that it cannot write; then the rest is fetched."""
    loaded = await world.load(driver)
    log = loaded.driver
    assert isinstance(log, Log)
    fetched: list[int] = []

    async def fetch(*, writable: bool) -> None:
        memory = app.memory(b"\0", writable=writable)
        if NT_SUCCESS(await log.GetLog(memory)):
            fetched.append((await memory.load(0, 1))[0])

    async def broken() -> None:
        await fetch(writable=False)

    async def reader() -> None:
        await fetch(writable=True)

    async def flush() -> None:
        while len(fetched) < 2:
            await fetch(writable=True)

    app = world.process("app")
    await world.together(broken(), reader(), process=app)
    await world.together(flush(), process=app)
    world.check(fetched == sorted(fetched), f"the records came out in the order {fetched}")
