"""A filter that registers for everything and changes nothing, and one that registers for nothing.

Both are how minifilters begin. What goes through the first comes out as if it were not there: whatever operation it is,
an IRP, fast I/O or a call of the cache and memory managers, it is shown on its way down and on its way up once,
unless the filter goes away meanwhile. The second one only comes and goes.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_FASTIO_OPERATION,
    FLT_IS_FS_FILTER_OPERATION,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    Driver,
)

MAJORS = (
    IRP_MJ_CREATE,
    IRP_MJ_CLOSE,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_CLEANUP,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
)


class PassThrough(Driver):
    """Has callbacks for every operation, which count what they see."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Down: dict[str, int] = {}
        self.Up: dict[str, int] = {}

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        operations = [FLT_OPERATION_REGISTRATION(major, 0, self.PreOperation, self.PostOperation) for major in MAJORS]
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                *operations,
                FLT_OPERATION_REGISTRATION(IRP_MJ_SHUTDOWN, 0, self.PreShutdown),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceSetupCallback=self.InstanceSetup,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
            InstanceTeardownStartCallback=self.InstanceTeardown,
            InstanceTeardownCompleteCallback=self.InstanceTeardown,
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

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        return STATUS_SUCCESS

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS

    async def InstanceTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        pass

    async def PreOperation(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        kind = kind_of(Data)
        self.Down[kind] = self.Down.get(kind, 0) + 1
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostOperation(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        kind = kind_of(Data)
        self.Up[kind] = self.Up.get(kind, 0) + 1
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PreShutdown(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        # There is no completion to be seen of a shutdown.
        return FLT_PREOP_SUCCESS_NO_CALLBACK


def kind_of(Data: FLT_CALLBACK_DATA) -> str:
    """The class of an operation."""
    if FLT_IS_FASTIO_OPERATION(Data):
        return "fast I/O"
    return "FSFilter" if FLT_IS_FS_FILTER_OPERATION(Data) else "IRP"


class NullFilter(Driver):
    """Registers no operation."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            FilterUnloadCallback=self.Unload, InstanceQueryTeardownCallback=self.InstanceQueryTeardown
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

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS


@scenario(cached_io=True)
async def pass_through(world: World) -> None:
    """A program does a little of everything, and every operation is seen twice."""
    driver = PassThrough()
    await world.load(driver, altitude="47777")
    # The lazy writer may still be under way when the program has ended.
    world.at_end(lambda: driver.Down == driver.Up, "every operation is seen on both ways")
    world.file(r"\data.bin", b"0123456789")
    app = world.process("app")
    file = await app.open(r"\data.bin")
    world.check(await file.read(4) == (STATUS_SUCCESS, b"0123"), "the file is read through the filter")
    world.check(await file.read(4, 4, fast=True) == (STATUS_SUCCESS, b"4567"), "by fast I/O as well")
    world.check(await file.write(b"ab", 8) == (STATUS_SUCCESS, 2), "it is written")
    world.check(await file.write(b"cd", 10, fast=True) == (STATUS_SUCCESS, 2), "by fast I/O as well")
    world.check(await file.size() == (STATUS_SUCCESS, 12), "its size is told")
    await file.close()
    win32 = app.win32
    handle = await win32.CreateFileW(r"C:\data.bin", 0xC0000000, 7, None, 3, 0)
    world.check(await win32.FlushFileBuffers(handle), "it is flushed")
    section = await win32.CreateFileMappingW(handle, None, 4, 0, 0)
    world.check(section is not None, "it is mapped")
    await win32.CloseHandle(section)
    await win32.CloseHandle(handle)
    world.check(await win32.MoveFileExW(r"C:\data.bin", r"C:\moved.bin"), "it is renamed")
    search, found = await win32.FindFirstFileW(r"C:\*.bin")
    world.check(found is not None and found.FileName == "moved.bin", "its directory is listed")
    await win32.FindClose(search)
    world.check(await win32.DeleteFileW(r"C:\moved.bin"), "it is deleted")
    world.outcome(kinds=", ".join(sorted(driver.Down)))


@scenario(variants={"pass_through": PassThrough, "null": NullFilter})
async def come_and_go(world: World, driver: type[Driver]) -> None:
    """A filter is unloaded while a program reads."""
    world.file(r"\data.bin", b"0123456789")
    loaded = await world.load(driver, altitude="47777")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        world.check(
            await file.read(4) == (STATUS_SUCCESS, b"0123"), "a read succeeds whether the filter is there or not"
        )

    async def fltmc_unload() -> None:
        world.check(await loaded.unload() == STATUS_SUCCESS, "the unload succeeds")

    await world.together(reader(), fltmc_unload(), process=app)
