"""A filter that reads, writes and enumerates through buffers of its own, as an encrypting filter has to.

Before an operation goes down, its buffer is swapped for nonpaged memory with an MDL; a write is copied there first.
After it has come up, what was read is copied to the program's buffer. That may be at DISPATCH_LEVEL and in any process,
where the program's address leads nowhere: the buffer is locked and mapped, in a work item if it has to be. A teardown
cancels such operations and waits for them.
"""

from typing import Any

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_FASTIO_OPERATION,
    FLT_IS_IRP_OPERATION,
    FLT_IS_SYSTEM_BUFFER,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltAllocatePoolAlignedWithTag,
    FltDecodeParameters,
    FltDoCompletionProcessingWhenSafe,
    FltFreePoolAlignedWithTag,
    FltLockUserBuffer,
    FltRegisterFilter,
    FltSetCallbackDataDirty,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntifs import IRP_MN_QUERY_DIRECTORY
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    NT_SUCCESS,
    Driver,
    IoAllocateMdl,
    IoFreeMdl,
    MmBuildMdlForNonPagedPool,
    MmGetSystemAddressForMdlSafe,
    NonPagedPoolNx,
    NormalPagePriority,
    ProbeForRead,
    ProbeForWrite,
    RtlCopyMemory,
)

TAG = "Swap"
SECTOR_SIZE = 512

INTERRUPTED = {STATUS_CANCELLED, STATUS_INSUFFICIENT_RESOURCES}
"""What a teardown does to operations whose buffers are swapped: cancel them; and there is no worker for them."""


class SwapBuffers(Driver):
    """Swaps the buffers of reads, writes and directory queries."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreBuffers, self.PostRead),
                FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreBuffers, self.PostWrite),
                FLT_OPERATION_REGISTRATION(IRP_MJ_DIRECTORY_CONTROL, 0, self.PreBuffers, self.PostRead),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
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

    # Before the operation.

    async def PreBuffers(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        Iopb = Data.Iopb
        if Iopb.MajorFunction == IRP_MJ_DIRECTORY_CONTROL and Iopb.MinorFunction != IRP_MN_QUERY_DIRECTORY:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status, mdl_address, buffer_address, length, _ = FltDecodeParameters(Data)
        assert status == STATUS_SUCCESS
        assert mdl_address is not None
        assert buffer_address is not None
        assert length is not None
        if length.value == 0:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        size = length.value
        if Iopb.IrpFlags & IRP_NOCACHE:
            size = -(-size // SECTOR_SIZE) * SECTOR_SIZE
        buffer = await FltAllocatePoolAlignedWithTag(FltObjects.Instance, NonPagedPoolNx, size, TAG)
        if buffer is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        mdl = None
        if FLT_IS_IRP_OPERATION(Data) and not FLT_IS_SYSTEM_BUFFER(Data):
            mdl = await IoAllocateMdl(buffer, size, False, False, None)
            if mdl is None:
                await FltFreePoolAlignedWithTag(FltObjects.Instance, buffer, TAG)
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            MmBuildMdlForNonPagedPool(mdl)
        if Iopb.MajorFunction == IRP_MJ_WRITE:
            try:
                source = buffer_address.value
                if mdl_address.value is not None:
                    source = MmGetSystemAddressForMdlSafe(mdl_address.value, NormalPagePriority)
                elif not FLT_IS_SYSTEM_BUFFER(Data):
                    ProbeForRead(source, length.value, 1)
                RtlCopyMemory(buffer, source, length.value)
            except StructuredException as error:
                # Nobody has been given the MDL yet.
                await self.FreeAll(FltObjects, buffer, mdl)
                Data.IoStatus.Status = error.ExceptionCode
                Data.IoStatus.Information = 0
                return FLT_PREOP_COMPLETE
        buffer_address.value = buffer
        mdl_address.value = mdl
        FltSetCallbackDataDirty(Data)
        return FLT_PREOP_SUCCESS_WITH_CALLBACK, buffer

    async def FreeAll(self, FltObjects: FLT_RELATED_OBJECTS, Buffer: Any, Mdl: Any) -> None:
        """Undo what was made ready and is not used."""
        if Mdl is not None:
            await IoFreeMdl(Mdl)
        await FltFreePoolAlignedWithTag(FltObjects.Instance, Buffer, TAG)

    # After it.

    async def PostWrite(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        await FltFreePoolAlignedWithTag(FltObjects.Instance, CompletionContext, TAG)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def PostRead(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        _, mdl_address, buffer_address, _, _ = FltDecodeParameters(Data)
        assert mdl_address is not None
        assert buffer_address is not None
        if NT_SUCCESS(Data.IoStatus.Status) and Data.IoStatus.Information:
            if mdl_address.value is not None:
                target = MmGetSystemAddressForMdlSafe(mdl_address.value, NormalPagePriority)
                self.CopyOut(Data, target, CompletionContext)
            elif FLT_IS_SYSTEM_BUFFER(Data) or FLT_IS_FASTIO_OPERATION(Data):
                # Fast I/O comes up in the thread that it has gone down in.
                if not FLT_IS_SYSTEM_BUFFER(Data):
                    ProbeForWrite(buffer_address.value, Data.IoStatus.Information, 1)
                self.CopyOut(Data, buffer_address.value, CompletionContext)
            else:
                return await self.CopyWhenSafe(Data, FltObjects, CompletionContext, Flags)
        await FltFreePoolAlignedWithTag(FltObjects.Instance, CompletionContext, TAG)
        return FLT_POSTOP_FINISHED_PROCESSING

    def CopyOut(self, Data: FLT_CALLBACK_DATA, Target: Any, Buffer: Any) -> None:
        """Copy what was read to the program's buffer, if there is an address for it."""
        if Target is None:
            Data.IoStatus.Status = STATUS_INSUFFICIENT_RESOURCES
            Data.IoStatus.Information = 0
        else:
            RtlCopyMemory(Target, Buffer, Data.IoStatus.Information)

    async def CopyWhenSafe(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Buffer: Any, Flags: int
    ) -> int:
        """Copy what was read to the program's address."""
        raise NotImplementedError


class CopiesAtOnce(SwapBuffers):
    """Copies wherever the operation has come up."""

    async def CopyWhenSafe(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Buffer: Any, Flags: int
    ) -> int:
        _, _, buffer_address, _, _ = FltDecodeParameters(Data)
        assert buffer_address is not None
        try:
            ProbeForWrite(buffer_address.value, Data.IoStatus.Information, 1)
            self.CopyOut(Data, buffer_address.value, Buffer)
        except StructuredException as error:
            Data.IoStatus.Status = error.ExceptionCode
            Data.IoStatus.Information = 0
        await FltFreePoolAlignedWithTag(FltObjects.Instance, Buffer, TAG)
        return FLT_POSTOP_FINISHED_PROCESSING


class CopiesWhenSafe(SwapBuffers):
    """Locks the program's buffer and maps it, at DISPATCH_LEVEL in a system worker."""

    async def CopyWhenSafe(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Buffer: Any, Flags: int
    ) -> int:
        done, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Buffer, Flags, self.LockAndCopy)
        if done:
            return status
        Data.IoStatus.Status = STATUS_INSUFFICIENT_RESOURCES
        Data.IoStatus.Information = 0
        await FltFreePoolAlignedWithTag(FltObjects.Instance, Buffer, TAG)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def LockAndCopy(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        status = await FltLockUserBuffer(Data)
        if NT_SUCCESS(status):
            _, mdl_address, _, _, _ = FltDecodeParameters(Data)
            assert mdl_address is not None
            target = MmGetSystemAddressForMdlSafe(mdl_address.value, NormalPagePriority)
            self.CopyOut(Data, target, CompletionContext)
        else:
            Data.IoStatus.Status = status
            Data.IoStatus.Information = 0
        await FltFreePoolAlignedWithTag(FltObjects.Instance, CompletionContext, TAG)
        return FLT_POSTOP_FINISHED_PROCESSING


@scenario(
    variants={"hasty": CopiesAtOnce, "fixed": CopiesWhenSafe},
    expects={"hasty": "ke.user-va-context"},
)
async def swap_buffers(world: World, driver: type[Driver]) -> None:
    """A program reads, writes and enumerates while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    app = world.process("app")
    swapping = await world.load(driver, altitude="328010")
    file = await app.open(r"\data.bin")

    async def program() -> None:
        memory = app.memory(bytes(4))
        status, data = await file.read(4, 6, into=memory)
        if status not in INTERRUPTED:
            world.check(status == STATUS_SUCCESS and data == b"6789", f"the read must succeed, but returned {status}")
            world.check(await memory.load(0, 4) == b"6789", "what was read must be in the program's memory")

        status, _ = await file.write(app.memory(b"abcd"))
        node = world.volume.filesystem.find(r"\data.bin")
        assert node is not None
        expected = b"0123456789" if status in INTERRUPTED else b"abcd456789"
        world.check(bytes(node.data) == expected, f"the write returned {status}, and the file has {bytes(node.data)!r}")

        search, entry = await app.win32.FindFirstFileW(r"C:\*.bin")
        if search is not None and entry is not None:
            world.check(entry.FileName == "data.bin", f"the file is data.bin, and not {entry.FileName}")
            await app.win32.FindClose(search)

    async def fltmc_detach() -> None:
        await swapping.detach()

    await world.together(program(), fltmc_detach(), process=app)
