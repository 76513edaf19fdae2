"""MF-58: a lock of the driver is held across a call into the file system.

The filter keeps what it knows of a volume in a file there. After a program has written to that file, it reads it again
before the next open, and holds its lock while it reads. A filter below opens a file from the top of the stack when it
sees that read, as scanners do, and waits: that open comes to the first filter's pre-create, which needs the lock. At
fault is who has held a lock across I/O. Right is to say under the lock that a reading is under way, and to read without
it; who meets that state goes on without.
"""

from _plain_filter import PlainFilter

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_GENERATED_IO,
    PFLT_FILTER,
    PFLT_INSTANCE,
    FltAcquirePushLockExclusive,
    FltClose,
    FltCreateFileEx,
    FltInitializePushLock,
    FltReadFile,
    FltReleasePushLock,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    EX_PUSH_LOCK,
    FILE_OPEN,
    FILE_READ_DATA,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    FILE_SYNCHRONOUS_IO_NONALERT,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    OBJ_KERNEL_HANDLE,
    SYNCHRONIZE,
    Driver,
    InitializeObjectAttributes,
    ObDereferenceObject,
)

METADATA = r"\metadata.bin"


async def read_head(Filter: PFLT_FILTER, Instance: PFLT_INSTANCE | None, Path: str, through: PFLT_INSTANCE) -> int:
    """Open *Path* below *Instance*, or from the top of the stack, and read from it below *through*; the status."""
    attributes = InitializeObjectAttributes(Path, OBJ_KERNEL_HANDLE)
    status, Handle, File, _ = await FltCreateFileEx(
        Filter,
        Instance,
        FILE_READ_DATA | SYNCHRONIZE,
        attributes,
        None,
        0,
        FILE_SHARE_READ | FILE_SHARE_WRITE,
        FILE_OPEN,
        FILE_SYNCHRONOUS_IO_NONALERT,
        None,
        0,
        0,
    )
    if not NT_SUCCESS(status) or File is None:
        return status
    status, _ = await FltReadFile(through, File, 0, 4, bytearray(4), 0, None, None)
    _ = await FltClose(Handle)
    await ObDereferenceObject(File)
    return status


class Scanner(PlainFilter):
    """Below: opens a file from the top of the stack when another filter reads."""

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead)]

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if Data.Flags & FLTFL_CALLBACK_DATA_GENERATED_IO:
            _ = await read_head(FltObjects.Filter, None, r"\definitions.bin", FltObjects.Instance)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class MetadataManager(PlainFilter):
    """Reads its file again before an open that follows a write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.Lock = EX_PUSH_LOCK("Lock")
        self.Stale = False
        self.Reading = False

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        FltInitializePushLock(self.Lock)
        return [
            FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate),
            FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite),
        ]

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await FltAcquirePushLockExclusive(self.Lock)
        self.Stale = True
        await FltReleasePushLock(self.Lock)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        raise NotImplementedError

    async def load(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        """Read the file, below this instance."""
        _ = await read_head(FltObjects.Filter, FltObjects.Instance, METADATA, FltObjects.Instance)


class ReadsUnderTheLock(MetadataManager):
    """Holds the lock while it reads."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await FltAcquirePushLockExclusive(self.Lock)
        if self.Stale:
            self.Stale = False
            await self.load(FltObjects)
        await FltReleasePushLock(self.Lock)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class ReadsInTransition(MetadataManager):
    """Says under the lock that it reads, and reads without it."""

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await FltAcquirePushLockExclusive(self.Lock)
        reads = self.Stale and not self.Reading
        if reads:
            self.Stale, self.Reading = False, True
        await FltReleasePushLock(self.Lock)
        if reads:
            await self.load(FltObjects)
            await FltAcquirePushLockExclusive(self.Lock)
            self.Reading = False
            await FltReleasePushLock(self.Lock)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


@scenario(
    variants={"buggy": ReadsUnderTheLock, "fixed": ReadsInTransition},
    expects={"buggy": "lock-across-io"},
    completion="inline",
)
async def lock_across_metadata(world: World, driver: type[Driver]) -> None:
    """One program writes to the filter's file, another one opens a file."""
    for path in (METADATA, r"\definitions.bin", r"\data.bin"):
        world.file(path, b"0123456789")
    app = world.process("app")
    metadata = await app.open(METADATA)
    await world.load(Scanner, altitude="200000")
    await world.load(driver, altitude="328010")

    async def writer() -> None:
        status, _ = await metadata.write(b"new")
        world.check(status == STATUS_SUCCESS, f"the write must succeed, but returned {status}")

    async def opener() -> None:
        await app.open(r"\data.bin")

    await world.together(writer(), opener(), process=app)
