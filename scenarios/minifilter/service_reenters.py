"""MF-54: the service opens the files that it scans, and the filter asks the service about that.

With two threads the service gets along as long as one of them is free to answer what the other has caused. When both
open a file, both wait in the filter for the service, and everybody waits for them. The repaired filter lets creates of
the service's process pass.
"""

from typing import Any

from _scan_port import PORT, SAFE, ScanPort

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PORT,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.wdm import (
    PVOID,
    Driver,
    InterlockedExchangePointer,
    PsGetCurrentProcess,
    ReadPointerAcquire,
)


class AsksAboutEverybody(ScanPort):
    """Waits for the service as long as it takes, whoever opens a file."""

    Timeout = None


class TrustsTheService(ScanPort):
    """Remembers the service's process when that connects, and lets it open what it likes."""

    Timeout = None

    def __init__(self) -> None:
        super().__init__()
        self.UserProcess = PVOID(None, "UserProcess")

    async def Connect(self, ClientPort: FLT_PORT, ServerPortCookie: Any, Context: Any, SizeOfContext: int) -> int:
        await InterlockedExchangePointer(self.UserProcess, PsGetCurrentProcess())
        return await super().Connect(ClientPort, ServerPortCookie, Context, SizeOfContext)

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        await super().Disconnect(ConnectionCookie)
        await InterlockedExchangePointer(self.UserProcess, None)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if await ReadPointerAcquire(self.UserProcess) is PsGetCurrentProcess():
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return await super().PreCreate(Data, FltObjects)


@scenario(
    variants={"buggy": AsksAboutEverybody, "fixed": TrustsTheService},
    expects={"buggy": "reentrant-deadlock"},
    completion="inline",
)
async def service_reenters(world: World, driver: type[Driver]) -> None:
    """Two programs open a file, and the service scans both."""
    await world.load(driver, altitude="328010")
    app, engine = world.process("app"), world.process("engine")

    async def scan(message: bytes) -> bytes:
        if message == rb"\report.docx":
            # The service reads other files itself, such as its signatures.
            file = await engine.open(r"\signatures")
            await file.close()
        return SAFE

    await engine.serve(PORT, scan, threads=2)

    async def opener() -> None:
        status, file = await app.create(r"\report.docx")
        world.check(file is not None, f"the create must succeed, but returned {status}")

    await world.together(opener(), opener(), process=app)
