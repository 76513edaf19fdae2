"""MF-48: a filter pauses direct access to a stream, converts the stream, and forbids direct access only then.

A program that asks for direct access between the pause and the veto is let through, and goes on beside the filter while
that encrypts what the program reads. First the veto is made known, then what is there is paused.
"""

from typing import Any

from _reads import Reads

from kemu.scenario import World, scenario
from kemu.user.win32 import CREATE_NEW
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.ntstatus import STATUS_NOT_SUPPORTED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    GENERIC_WRITE,
    IRP_MJ_FLUSH_BUFFERS,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)

ENABLE_DIRECT = IRP_MJ_FLUSH_BUFFERS
"""What stands for the request for direct access: it goes down the stack of the file as that does."""


class Encrypts(Reads):
    """Turns a stream into an encrypted one, and answers requests for direct access to it."""

    Majors = (ENABLE_DIRECT,)

    def __init__(self) -> None:
        super().__init__()
        self.Lock = FAST_MUTEX("StreamLock")
        self.Veto = False
        self.Direct = False
        self.Exposed = False

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.Lock)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        await ExAcquireFastMutex(self.Lock)
        if not self.Veto:
            self.Direct = True
        Data.IoStatus.Status = STATUS_NOT_SUPPORTED if self.Veto else STATUS_SUCCESS
        Data.IoStatus.Information = 0
        await ExReleaseFastMutex(self.Lock)
        return FLT_PREOP_COMPLETE

    async def pause(self, *, veto: bool) -> None:
        """Take direct access away from whoever has it, and forbid it with *veto*."""
        await ExAcquireFastMutex(self.Lock)
        self.Veto = veto
        self.Direct = False
        await ExReleaseFastMutex(self.Lock)

    async def encrypt(self) -> None:
        """Encrypt the stream; whoever has direct access now reads it beside the filter."""
        await ExAcquireFastMutex(self.Lock)
        self.Exposed = self.Direct
        await ExReleaseFastMutex(self.Lock)

    async def convert(self) -> None:
        """Make the stream an encrypted one."""
        raise NotImplementedError


class ForbidsAtTheEnd(Encrypts):
    """Pauses, encrypts, forbids."""

    async def convert(self) -> None:
        await self.pause(veto=False)
        await self.encrypt()
        await self.pause(veto=True)


class ForbidsFirst(Encrypts):
    """Forbids and pauses, encrypts then."""

    async def convert(self) -> None:
        await self.pause(veto=True)
        await self.encrypt()


@scenario(
    variants={"buggy": ForbidsAtTheEnd, "fixed": ForbidsFirst},
    expects={"buggy": "expectation"},
    completion="inline",
)
async def veto_after_pause(world: World, driver: type[Driver]) -> None:
    """A program asks for direct access to a file that is being encrypted."""
    loaded = await world.load(driver, altitude="145000")
    encrypts = loaded.driver
    assert isinstance(encrypts, Encrypts)
    app = world.process("app")
    api = app.win32
    file = await api.CreateFileW("data.bin", GENERIC_WRITE, 0, None, CREATE_NEW)

    async def program() -> None:
        await api.FlushFileBuffers(file)

    async def converter() -> None:
        await encrypts.convert()

    await world.together(program(), converter(), process=app)
    world.check(not encrypts.Exposed, "nobody may have direct access while the stream is encrypted")
