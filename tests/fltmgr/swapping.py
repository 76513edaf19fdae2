"""A driver that swaps buffers, with every step of it to be left out or done in another way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fltmgr.kit import Lab, Post, Pre

from kemu.io.request import IRP_OPERATION
from kemu.nt.status import NT_SUCCESS
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_IRP_OPERATION,
    FLT_IS_SYSTEM_BUFFER,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltSetCallbackDataDirty,
)
from kemu.wdk.wdm import (
    IRP_MJ_WRITE,
    POOL_FLAG_NON_PAGED,
    ExAllocatePool2,
    ExFreePoolWithTag,
    IoAllocateMdl,
    MmBuildMdlForNonPagedPool,
    MmGetSystemAddressForMdlSafe,
    NormalPagePriority,
    RtlCopyMemory,
)

__all__ = ["IRP_OPERATION", "Swapper", "described"]

Put = Callable[[FLT_CALLBACK_DATA, Any, Any], Awaitable[None]]


async def described(size: int, *, flags: int = POOL_FLAG_NON_PAGED) -> tuple[Any, Any]:
    """A buffer, and the MDL that describes it."""
    buffer = await ExAllocatePool2(flags, size, "Swap")
    mdl = await IoAllocateMdl(buffer, size, False, False, None)
    assert mdl is not None
    MmBuildMdlForNonPagedPool(mdl)
    return buffer, mdl


class Swapper:
    """Swaps the buffer of reads, writes or directory queries. What a test wants otherwise, it overrides."""

    member = "ReadBuffer"
    status: Any = FLT_PREOP_SUCCESS_WITH_CALLBACK
    size: int | None = None
    frees = True

    def __init__(self, lab: Lab, name: str = "S", **different: Any) -> None:
        self.lab = lab
        self.name = name
        for attribute, value in different.items():
            setattr(self, attribute, value)

    @property
    def pair(self) -> tuple[Pre, Post]:
        return self.pre, self.post

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        parameters = Data.Iopb.Parameters
        size = parameters.Length if self.size is None else self.size
        buffer = await ExAllocatePool2(POOL_FLAG_NON_PAGED, size, "Swap")
        mdl = None
        if FLT_IS_IRP_OPERATION(Data) and not FLT_IS_SYSTEM_BUFFER(Data):
            mdl = await IoAllocateMdl(buffer, size, False, False, None)
            assert mdl is not None
            MmBuildMdlForNonPagedPool(mdl)
        if Data.Iopb.MajorFunction == IRP_MJ_WRITE:
            self.fill(Data, buffer)
        self.put(Data, buffer, mdl)
        FltSetCallbackDataDirty(Data)
        self.lab.note(f"{self.name}.pre")
        return (self.status, buffer) if self.status == FLT_PREOP_SUCCESS_WITH_CALLBACK else self.status

    def put(self, Data: FLT_CALLBACK_DATA, buffer: Any, mdl: Any) -> None:
        """Swap *buffer* and *mdl* in."""
        parameters = Data.Iopb.Parameters
        setattr(parameters, self.member, buffer)
        parameters.MdlAddress = mdl

    def original(self, Data: FLT_CALLBACK_DATA) -> Any:
        """The issuer's buffer, at an address that is good here."""
        parameters = Data.Iopb.Parameters
        if parameters.MdlAddress is not None:
            return MmGetSystemAddressForMdlSafe(parameters.MdlAddress, NormalPagePriority)
        return getattr(parameters, self.member)

    def fill(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
        """Put what is written into *buffer*."""
        RtlCopyMemory(buffer, self.original(Data), Data.Iopb.Parameters.Length)

    def copy(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
        """Give the issuer what is in *buffer*."""
        RtlCopyMemory(self.original(Data), buffer, Data.IoStatus.Information)

    async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
        """What else is to be done in the end."""

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        self.lab.note(f"{self.name}.post", Flags)
        if Data.Iopb.MajorFunction != IRP_MJ_WRITE and NT_SUCCESS(Data.IoStatus.Status) and Data.IoStatus.Information:
            self.copy(Data, Context)
        await self.finish(Data, Context)
        if self.frees:
            await ExFreePoolWithTag(Context, "Swap")
        return FLT_POSTOP_FINISHED_PROCESSING
