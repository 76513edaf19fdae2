"""The scanner: a filter that has a service look at what is opened and written, as the sample of that name does.

A create of a file with a certain extension waits until the service has judged the file. Of an open file that may be
harmful the filter keeps a record: bytes that are written are judged before they go on, and a file that was written to
is judged again when its handle is closed. Creates of the service's own process pass, or its reading would come back to
it. The record is kept in a table under a lock.

The wait has a limit, and STATUS_TIMEOUT is a success code: whoever asks only for NT_SUCCESS takes what is in the reply
buffer for an answer.
"""

from typing import Any

from _scan_port import HARMFUL, PORT, SAFE, SCAN_REPLY, ScanPort

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PORT,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltSendMessage,
)
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    FAST_MUTEX,
    FILE_OPEN,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    PVOID,
    ULONG,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InterlockedExchangePointer,
    ProbeForRead,
    PsGetCurrentProcess,
    ReadPointerAcquire,
)


class Scanner(ScanPort):
    """Scans at create, write and cleanup."""

    def __init__(self) -> None:
        super().__init__()
        self.UserProcess = PVOID(None, "UserProcess")
        self.Lock = FAST_MUTEX("TableLock")
        self.Rescan: dict[Any, bool] = {}
        """For each open file that needs scanning, whether it was written to."""
        ExInitializeFastMutex(self.Lock)

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [
            FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate),
            FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite),
            FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup),
        ]

    async def Connect(self, ClientPort: FLT_PORT, ServerPortCookie: Any, Context: Any, SizeOfContext: int) -> int:
        await InterlockedExchangePointer(self.UserProcess, PsGetCurrentProcess())
        return await super().Connect(ClientPort, ServerPortCookie, Context, SizeOfContext)

    async def Disconnect(self, ConnectionCookie: Any) -> None:
        await super().Disconnect(ConnectionCookie)
        await InterlockedExchangePointer(self.UserProcess, None)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        assert FltObjects.FileObject is not None
        name = FltObjects.FileObject.FileName
        if not name.endswith(".exe") or await ReadPointerAcquire(self.UserProcess) is PsGetCurrentProcess():
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        if await self.IsSafe(b"file " + name.encode()):
            return FLT_PREOP_SUCCESS_WITH_CALLBACK
        return self.Deny(Data)

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        if NT_SUCCESS(Data.IoStatus.Status):
            await ExAcquireFastMutex(self.Lock)
            self.Rescan[FltObjects.FileObject] = False
            await ExReleaseFastMutex(self.Lock)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await ExAcquireFastMutex(self.Lock)
        known = FltObjects.FileObject in self.Rescan
        await ExReleaseFastMutex(self.Lock)
        if not known:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        write = Data.Iopb.Parameters.Write
        try:
            # The program's own memory, in its thread.
            ProbeForRead(write.WriteBuffer, write.Length, 1)
            content = bytes(write.WriteBuffer[0 : write.Length])
        except StructuredException as error:
            Data.IoStatus.Status = error.ExceptionCode
            Data.IoStatus.Information = 0
            return FLT_PREOP_COMPLETE
        if not await self.IsSafe(b"data " + content):
            return self.Deny(Data)
        await ExAcquireFastMutex(self.Lock)
        self.Rescan[FltObjects.FileObject] = True
        await ExReleaseFastMutex(self.Lock)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await ExAcquireFastMutex(self.Lock)
        written = self.Rescan.pop(FltObjects.FileObject, False)
        await ExReleaseFastMutex(self.Lock)
        if written:
            assert FltObjects.FileObject is not None
            # Nobody can be refused any more; the service may do something about the file.
            await self.IsSafe(b"rescan " + FltObjects.FileObject.FileName.encode())
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    def Deny(self, Data: FLT_CALLBACK_DATA) -> int:
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        Data.IoStatus.Information = 0
        return FLT_PREOP_COMPLETE


class TakesTimeoutForAnAnswer(Scanner):
    """Reads the reply buffer after every success code."""

    async def IsSafe(self, message: bytes) -> bool:
        reply = SCAN_REPLY()
        # In C the buffer holds what was in that place of the stack.
        reply.SafeToOpen = 1
        status = await FltSendMessage(
            self.Filter, self.ClientPort, message, len(message), reply, ULONG(8), self.Timeout
        )
        return NT_SUCCESS(status) and reply.SafeToOpen == 1


@scenario(
    variants={"buggy": TakesTimeoutForAnAnswer, "fixed": Scanner},
    expects={"buggy": "port-timeout-as-success"},
    completion="inline",
)
async def scanner(world: World, driver: type[Driver]) -> None:
    """A program opens two programs, one of them malware, and writes to the other."""
    world.file(r"\malware.exe", b"bad")
    world.file(r"\tool.exe", b"good")
    scanner = await world.load(driver, altitude="328010")
    app, engine = world.process("app"), world.process("engine")
    rescanned: list[str] = []

    async def scan(message: bytes) -> bytes:
        what, _, data = message.partition(b" ")
        if what != b"data":
            # The service reads the file itself, which the filter lets pass as long as it is connected.
            _, file = await engine.create(data.decode(), FILE_OPEN)
            if file is None:
                return HARMFUL
            _, data = await file.read(16)
            await file.close()
        if what == b"rescan":
            rescanned.append(data.decode())
        return HARMFUL if b"bad" in data else SAFE

    service = await engine.serve(PORT, scan)

    async def user() -> None:
        _, malware = await app.create(r"\malware.exe", FILE_OPEN)
        world.check(malware is None, "malware must not be opened")
        _, tool = await app.create(r"\tool.exe", FILE_OPEN)
        if tool is None:
            # The service has not answered in time.
            return
        status, _ = await tool.write(b"bad")
        world.check(status != STATUS_SUCCESS, "malware must not be written")
        status, _ = await tool.write(b"fine")
        await tool.close()

    await world.together(user(), process=app)
    await service.stop()
    world.check(rescanned in ([], ["fine"]), f"what was written must be scanned, and not {rescanned}")
    status = await scanner.unload()
    world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")
