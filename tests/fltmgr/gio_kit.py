"""What the tests of generated I/O have in common: filters whose read sends something below itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Pre, Script

from kemu.fltmgr.objects import FltVolume
from kemu.io.constants import FILE_OPEN, IRP_MJ_READ
from kemu.io.manager import IoManager
from kemu.io.request import FileObject
from kemu.io.volume import Volume
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCreateFileEx,
)
from kemu.wdk.wdm import (
    FILE_READ_DATA,
    FILE_SHARE_DELETE,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    FILE_SYNCHRONOUS_IO_NONALERT,
    OBJ_KERNEL_HANDLE,
    OBJECT_ATTRIBUTES,
)

__all__ = ["LOWER", "MIDDLE", "UPPER", "Lab", "acting", "on_read", "open_on", "opened", "second_volume", "seer"]

Act = Callable[[FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS], Awaitable[Any]]
SHARED = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE


def acting(lab: Lab, act: Act) -> Pre:
    """A preoperation callback that does *act* the first time, and lets everything pass."""
    done: list[Any] = []

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if not done:
            done.append(Data)
            lab.note("acted", await act(Data, FltObjects))
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    return pre


def on_read(make: Callable[[Lab], Act], *, upper: bool = True, lower: bool = True, overlapped: bool = False) -> Script:
    """A program reads, and the pre-read callback of M does what *make* returns; recorders above and below it."""

    async def script(lab: Lab) -> Any:
        if upper:
            await seer(lab, "U", UPPER)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, make(lab)), None)})
        if lower:
            await seer(lab, "L", LOWER)
        file = await lab.quiet_open(overlapped=overlapped)
        return await file.read(4)

    return script


async def seer(lab: Lab, name: str, altitude: str, *majors: int) -> LoadedDriver:
    """A filter that notes each operation with its flags, on the way down and up."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        lab.note(f"{name}.pre", (Data.Iopb.MajorFunction, Data.Flags))
        return 0

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        lab.note(f"{name}.post", (Data.Iopb.MajorFunction, Data.Flags))
        return 0

    return await lab.filter(name, altitude, dict.fromkeys(majors or (IRP_MJ_READ,), (pre, post)))


async def opened(
    FltObjects: FLT_RELATED_OBJECTS,
    path: str = r"\a",
    *,
    top: bool = False,
    disposition: int = FILE_OPEN,
    access: int = FILE_READ_DATA,
    options: int = FILE_SYNCHRONOUS_IO_NONALERT,
    attributes: int = OBJ_KERNEL_HANDLE,
) -> tuple[int, int, FileObject | None]:
    """Open a file with FltCreateFileEx: status, handle and file object."""
    instance = None if top else FltObjects.Instance
    status, handle, file, _ = await FltCreateFileEx(
        FltObjects.Filter, instance, access | 0x100000, OBJECT_ATTRIBUTES(path, attributes), None, 0, SHARED,
        disposition, options, None, 0, 0,
    )  # fmt: skip
    return status, handle, file


async def second_volume(lab: Lab) -> FltVolume:
    """A volume D: with a file of other content."""
    volume = Volume(lab.system, "D:")
    lab.system.get(IoManager).mount(volume)
    volume.filesystem.add(r"\a", b"abcdefghij")
    return lab.manager.mount(volume)


async def open_on(lab: Lab, volume: FltVolume, path: str = r"\a") -> FileObject:
    manager = lab.system.get(IoManager)
    _, file = await manager.create(volume.volume, path)
    assert file is not None
    return file
