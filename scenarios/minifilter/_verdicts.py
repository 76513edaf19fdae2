"""A virus scanner that keeps one verdict on a file; the drivers of several scenarios derive from it.

It has a record of its own for the one file that it watches, decides in pre-create, and finds out that the file was
written to in pre-write and, because a scan may look in between, again in post-write. What is in the file is asked for
with a handle that was open before the scanner was there.
"""

from kemu.scenario import World
from kemu.scenario.world import File
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CREATE,
    IRP_MJ_WRITE,
    LONG,
    NT_SUCCESS,
    Driver,
    InterlockedCompareExchange,
    InterlockedExchange,
    ReadAcquire,
)

PATH = r"\payload.exe"
VIRUS = b"virus"

MODIFIED = 0
SCANNING = 1
CLEAN = 2
INFECTED = 3


class Scanner(Driver):
    """Lets nobody open the file unless it is clean."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.State = LONG(MODIFIED, "State")
        self.Service: File | None = None
        """A handle to the file, which the scanner's service has."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate),
                FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite, self.PostWrite),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if await self.Admit():
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        Data.IoStatus.Status = STATUS_ACCESS_DENIED
        Data.IoStatus.Information = 0
        return FLT_PREOP_COMPLETE

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await InterlockedExchange(self.State, MODIFIED)
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostWrite(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        await InterlockedExchange(self.State, MODIFIED)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def Admit(self) -> bool:
        """Whether the file may be opened: look at what was found, and scan the file if it has changed since."""
        if await InterlockedCompareExchange(self.State, SCANNING, MODIFIED) == MODIFIED:
            await self.Decide()
        return await ReadAcquire(self.State) != INFECTED

    async def Decide(self) -> None:
        """Scan the file and store the verdict."""
        raise NotImplementedError

    async def Scan(self) -> int:
        """What the file is, as it is now."""
        assert self.Service is not None
        _, data = await self.Service.read(len(VIRUS))
        return INFECTED if data == VIRUS else CLEAN


async def scanned(world: World, driver: type[Driver], content: bytes) -> Scanner:
    """Put the file there with that *content*, and load the scanner."""
    world.file(PATH, content)
    service = await world.process("service").open(PATH)
    loaded = await world.load(driver, altitude="328010")
    scanner = loaded.driver
    assert isinstance(scanner, Scanner)
    scanner.Service = service
    return scanner


def is_infected(world: World) -> bool:
    """The truth."""
    node = world.volume.filesystem.find(PATH)
    return node is not None and bytes(node.data).startswith(VIRUS)
