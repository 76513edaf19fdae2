"""MF-60: the notification of a section conflict uses a scan that it has taken a pointer to, but no reference.

A file is scanned through a section when it is closed. If somebody shortens the file meanwhile, the filter manager tells
the scanner, whose callback takes the scan out of the section's context and has it aborted. Taking a pointer out keeps
others from taking it too; it does not keep the scanning thread from ending and freeing what the pointer leads to.
"""

from kemu.scenario import World, scenario
from kemu.user.win32 import FILE_BEGIN, OPEN_EXISTING
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SECTION_CONTEXT,
    PFLT_INSTANCE,
    FltAllocateContext,
    FltCloseSectionForDataScan,
    FltCreateSectionForDataScan,
    FltRegisterFilter,
    FltRegisterForDataScan,
    FltReleaseContext,
    FltStartFiltering,
)
from kemu.wdk.ntifs import MmMapViewInSystemSpace, MmUnmapViewInSystemSpace
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CLEANUP,
    KEVENT,
    LONG,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    PVOID,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    InterlockedDecrement,
    InterlockedExchangePointer,
    KeInitializeEvent,
    KeSetEvent,
    NonPagedPool,
    NotificationEvent,
    Structure,
    sizeof,
)

SCAN_TAG = "Scan"
SECTION_TAG = "Sect"
PAGE_READONLY = 0x02
SECTION_MAP_READ = 0x04
GENERIC_READ_WRITE = 0xC0000000
SHARE_ALL = 7


class SCAN(Structure):
    """One scan: what tells the scanning thread that it is in the way."""

    Abort: KEVENT
    References: LONG


class SECTION(Structure):
    """The context of the section: the scan that goes on."""

    Scan: PVOID


class ScansOnCleanup(Driver):
    """Scans the file of each handle that is closed."""

    name = "Scanner"

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            ContextRegistration=[
                FLT_CONTEXT_REGISTRATION(FLT_SECTION_CONTEXT, 0, None, SECTION, SECTION_TAG),
                FLT_CONTEXT_REGISTRATION(),
            ],
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_CLEANUP, 0, self.PreCleanup, None),
                FLT_OPERATION_REGISTRATION(),
            ],
            InstanceSetupCallback=self.InstanceSetup,
            SectionNotificationCallback=self.SectionNotification,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        return await FltStartFiltering(self.Filter)

    async def InstanceSetup(
        self, FltObjects: FLT_RELATED_OBJECTS, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int
    ) -> int:
        return await FltRegisterForDataScan(FltObjects.Instance)

    async def PreCleanup(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        status, context = await FltAllocateContext(FltObjects.Filter, FLT_SECTION_CONTEXT, SECTION, NonPagedPool)
        if NT_SUCCESS(status) and context is not None:
            await self.scan(FltObjects, context)
            await FltReleaseContext(context)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def scan(self, FltObjects: FLT_RELATED_OBJECTS, context: SECTION) -> None:
        """Scan the file through a section, unless that turns out to be in the way."""
        file = FltObjects.FileObject
        scan: SCAN | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(SCAN), SCAN_TAG)
        if scan is None or file is None:
            return
        KeInitializeEvent(scan.Abort, NotificationEvent, False)
        scan.References.value = 2
        context.Scan.value = scan
        status, _, section, _ = await FltCreateSectionForDataScan(
            FltObjects.Instance, file, context, SECTION_MAP_READ, None, None, PAGE_READONLY, 0, 0
        )
        if NT_SUCCESS(status) and section is not None:
            status, view = await MmMapViewInSystemSpace(section, 0)
            if NT_SUCCESS(status) and view is not None:
                await view.read(0, 1)
                _ = await MmUnmapViewInSystemSpace(view)
        taken = await InterlockedExchangePointer(context.Scan, None)
        if section is not None:
            _ = await FltCloseSectionForDataScan(context)
        await self.end(scan, taken)

    async def SectionNotification(
        self, Instance: PFLT_INSTANCE, SectionContext: SECTION, Data: FLT_CALLBACK_DATA
    ) -> int:
        scan = await InterlockedExchangePointer(SectionContext.Scan, None)
        if scan is not None:
            await KeSetEvent(scan.Abort, 0, False)
            await self.dereference(scan)
        return STATUS_SUCCESS

    async def end(self, scan: SCAN, taken: SCAN | None) -> None:
        """The scan is over; *taken* is None if the notification has it."""
        raise NotImplementedError

    async def dereference(self, scan: SCAN) -> None:
        """The notification has no more use for the scan."""
        raise NotImplementedError


class FreesTheScan(ScansOnCleanup):
    """The scanning thread frees the scan when it is done, whoever has a pointer to it."""

    async def end(self, scan: SCAN, taken: SCAN | None) -> None:
        await ExFreePoolWithTag(scan, SCAN_TAG)

    async def dereference(self, scan: SCAN) -> None:
        pass


class CountsReferences(ScansOnCleanup):
    """The pointer in the section's context owns a reference, and who takes it out takes that over."""

    async def end(self, scan: SCAN, taken: SCAN | None) -> None:
        if taken is not None:
            await self.dereference(scan)
        await self.dereference(scan)

    async def dereference(self, scan: SCAN) -> None:
        if await InterlockedDecrement(scan.References) == 0:
            await ExFreePoolWithTag(scan, SCAN_TAG)


@scenario(
    variants={"buggy": FreesTheScan, "fixed": CountsReferences},
    expects={"buggy": "ke.use-after-free"},
    cached_io=True,
    completion="inline",
)
async def conflict_uses_scan_context(world: World, driver: type[Driver]) -> None:
    """One program closes a file, which is scanned, while another makes it shorter."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    reader, writer = world.process("reader"), world.process("writer")

    async def close() -> None:
        file = await reader.open(r"\data.bin")
        await file.close()

    async def shorten() -> None:
        win32 = writer.win32
        handle = await win32.CreateFileW(r"\data.bin", GENERIC_READ_WRITE, SHARE_ALL, None, OPEN_EXISTING)
        await win32.SetFilePointerEx(handle, 4, FILE_BEGIN)
        await win32.SetEndOfFile(handle)

    await world.together(close(), shorten())
