"""MF-62: an open is undone while the scanner has a handle for its file object.

A scanner gives the file object of an open that was granted to a worker and waits for its verdict, for five seconds.
Then it denies the open with FltCancelFileOpen. That stops the system if there is a handle for the file object by then:
the worker has opened one by pointer, to read. It can read through the file object as well, which needs no handle; and
it has to be done before the open is undone, for a file that is closed cannot be read.
"""

from dataclasses import dataclass
from typing import Any

from _plain_filter import PlainFilter

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_GENERIC_WORKITEM,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltCancelFileOpen,
    FltFreeGenericWorkItem,
    FltQueueGenericWorkItem,
    FltReadFile,
)
from kemu.wdk.ntifs import ObOpenObjectByPointer
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    FILE_OBJECT,
    FILE_READ_DATA,
    IRP_MJ_CREATE,
    KEVENT,
    NT_SUCCESS,
    OBJ_KERNEL_HANDLE,
    DelayedWorkQueue,
    Driver,
    Executive,
    IoFileObjectType,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    ZwClose,
)

FIVE_SECONDS = -50_000_000


@dataclass
class Scan:
    """What the worker is given."""

    Objects: FLT_RELATED_OBJECTS
    File: FILE_OBJECT
    Done: KEVENT


class Scanner(PlainFilter):
    """Has each open that was granted looked at by a worker."""

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate)]

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: object, Flags: int
    ) -> int:
        item = await FltAllocateGenericWorkItem()
        File = FltObjects.FileObject
        if item is None or File is None or not NT_SUCCESS(Data.IoStatus.Status):
            return FLT_POSTOP_FINISHED_PROCESSING
        scan = Scan(FltObjects, File, KEVENT("Done"))
        KeInitializeEvent(scan.Done, NotificationEvent, False)
        status = await FltQueueGenericWorkItem(item, FltObjects.Instance, self.ScanWorker, DelayedWorkQueue, scan)
        if not NT_SUCCESS(status):
            await FltFreeGenericWorkItem(item)
            return FLT_POSTOP_FINISHED_PROCESSING
        status = await KeWaitForSingleObject(scan.Done, Executive, KernelMode, False, FIVE_SECONDS)
        if status == STATUS_TIMEOUT:
            await self.stop(scan)
            await FltCancelFileOpen(FltObjects.Instance, File)
            Data.IoStatus.Status, Data.IoStatus.Information = STATUS_ACCESS_DENIED, 0
        return FLT_POSTOP_FINISHED_PROCESSING

    async def ScanWorker(self, WorkItem: FLT_GENERIC_WORKITEM, FltObject: Any, Context: Any) -> None:
        await FltFreeGenericWorkItem(WorkItem)
        await self.scan(FltObject, Context)
        await KeSetEvent(Context.Done, 0, False)

    async def scan(self, Instance: Any, scan: Scan) -> None:
        """Read the file."""
        raise NotImplementedError

    async def stop(self, scan: Scan) -> None:
        """The open will be undone."""
        raise NotImplementedError


class OpensAHandle(Scanner):
    """The worker opens a handle for the file object that it was given; who gives up leaves it to itself."""

    async def scan(self, Instance: Any, scan: Scan) -> None:
        status, Handle = await ObOpenObjectByPointer(
            scan.File, OBJ_KERNEL_HANDLE, None, FILE_READ_DATA, IoFileObjectType.contents, KernelMode
        )
        if NT_SUCCESS(status):
            _ = await ZwClose(Handle)

    async def stop(self, scan: Scan) -> None:
        pass


class ReadsThroughTheFileObject(Scanner):
    """The worker reads through the file object, and is waited for before the open is undone."""

    async def scan(self, Instance: Any, scan: Scan) -> None:
        _ = await FltReadFile(Instance, scan.File, 0, 4, bytearray(4), 0, None, None)

    async def stop(self, scan: Scan) -> None:
        _ = await KeWaitForSingleObject(scan.Done, Executive, KernelMode, False, None)


@scenario(
    variants={"buggy": OpensAHandle, "fixed": ReadsThroughTheFileObject},
    expects={"buggy": "cancelfileopen-misuse"},
    completion="inline",
)
async def open_cancelled_with_handle(world: World, driver: type[Driver]) -> None:
    """A program opens a file; the verdict takes its time."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")

    async def opener() -> None:
        status, _ = await app.create(r"\data.bin")
        allowed = status in {STATUS_SUCCESS, STATUS_ACCESS_DENIED}
        world.check(allowed, f"the open must be granted or denied, but returned {status}")

    await world.together(opener(), process=app)
