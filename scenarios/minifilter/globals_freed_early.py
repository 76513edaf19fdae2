"""MF-52: a scanner frees its table of extensions before it unregisters.

The post-create callback looks the extension of every opened file up in a table. FilterUnload frees the table first and
calls FltUnregisterFilter then; until that returns callbacks go on, and one of them walks through what was freed.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CREATE,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    Structure,
    sizeof,
)

TAG = "Scnr"


class EXTENSIONS(Structure):
    """The extensions of the files that are scanned."""

    First: str
    Second: str


class Scanner(Driver):
    """Notes which of the opened files have an extension that is in the table."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Table: EXTENSIONS | None = None
        self.Scanned: list[str] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.Table = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(EXTENSIONS), TAG)
        if self.Table is None:
            return STATUS_INSUFFICIENT_RESOURCES
        self.Table.First, self.Table.Second = ".doc", ".txt"
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if NT_SUCCESS(status) and self.Filter is not None:
            status = await FltStartFiltering(self.Filter)
            if not NT_SUCCESS(status):
                await FltUnregisterFilter(self.Filter)
        if not NT_SUCCESS(status):
            await ExFreePoolWithTag(self.Table, TAG)
        return status

    async def Unload(self, Flags: int) -> int:
        raise NotImplementedError

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        assert self.Table is not None
        assert FltObjects.FileObject is not None
        name = FltObjects.FileObject.FileName
        if name.endswith((self.Table.First, self.Table.Second)):
            self.Scanned.append(name)
        return FLT_POSTOP_FINISHED_PROCESSING


class FreesFirst(Scanner):
    """Frees the table, and unregisters then."""

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        assert self.Table is not None
        await ExFreePoolWithTag(self.Table, TAG)
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS


class UnregistersFirst(Scanner):
    """Frees the table when no callback can run any more."""

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        assert self.Table is not None
        await FltUnregisterFilter(self.Filter)
        await ExFreePoolWithTag(self.Table, TAG)
        return STATUS_SUCCESS


@scenario(
    variants={"buggy": FreesFirst, "fixed": UnregistersFirst},
    expects={"buggy": "unload-free-before-unregister"},
    completion="inline",
)
async def globals_freed_early(world: World, driver: type[Driver]) -> None:
    """A program opens a file while an administrator unloads the scanner."""
    world.file(r"\letter.doc", b"Dear")
    scanner = await world.load(driver, altitude="328010")
    app = world.process("app")

    async def opener() -> None:
        file = await app.open(r"\letter.doc")
        await file.close()

    async def fltmc_unload() -> None:
        status = await scanner.unload()
        world.check(status == STATUS_SUCCESS, f"the unload must succeed, but returned {status}")

    await world.together(opener(), fltmc_unload(), process=app)
