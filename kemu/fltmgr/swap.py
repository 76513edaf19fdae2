"""Buffers that a driver has put in the place of the issuer's (FLT-BUF-07 to FLT-BUF-12).

The swapped buffer is what everybody below sees. Above it is the issuer's again: what was read comes there only if the
driver copies it, in its post-operation callback, after which the filter manager frees the MDL that was swapped in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.members import MDL_ADDRESS, member_of
from kemu.io.buffers import has_system_buffer, memory_of
from kemu.io.constants import (
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
)
from kemu.io.file_constants import FO_NO_INTERMEDIATE_BUFFERING
from kemu.io.filesystem.nodes import SECTOR
from kemu.io.request import FAST_IO_OPERATION
from kemu.io.structures import Information
from kemu.nt.buffer import Region, allocation_of
from kemu.nt.mdl import ALLOCATED, MDL, free_mdl, is_pageable, region_of
from kemu.nt.system import refuse, report

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame
    from kemu.io.parameters import Parameters
    from kemu.io.request import Request
    from kemu.runtime import Thread

KEEPER: Final = "the filter manager"
LOCKER: Final = "FltLockUserBuffer"

STRUCTURED: Final = {IRP_MJ_QUERY_INFORMATION: "InfoBuffer", IRP_MJ_QUERY_VOLUME_INFORMATION: "VolumeBuffer"}


class Swap:
    """What one instance has put in the place of the buffer it was given."""

    __slots__ = ("buffer", "cancelled", "mdl", "original", "retained")

    def __init__(self, buffer: Any, mdl: MDL | None, original: Any) -> None:
        self.buffer = buffer
        self.mdl = mdl
        self.original = original
        """The structure that the issuer waits for, if it is one."""
        self.retained = False
        """Whether the driver frees the MDL itself."""
        self.cancelled = False
        """Whether a teardown has cancelled the operation."""


def take_swap(frame: Frame, before: Parameters, after: Parameters) -> None:
    """Note what the driver of *frame* has swapped between *before* and *after*, if it has."""
    request = frame.operation.request
    if request.major in STRUCTURED:
        _take_structure(frame, STRUCTURED[request.major], before, after)
        return
    name = member_of(request.major)
    old, new = getattr(before, name), getattr(after, name)
    mdl = after.more.get(MDL_ADDRESS)
    if new is old and mdl is before.more.get(MDL_ADDRESS):
        return
    if new is old and isinstance(mdl, MDL) and mdl.keeper == LOCKER:
        _note_lock(frame, mdl)
        return
    region, offset = region_of(new)
    memory = memory_of(request)
    if new is old:
        if not isinstance(mdl, MDL):
            return
        # Only the MDL: that of paging I/O, whose buffer is NULL, or of memory that stays.
        if mdl is not memory.mdl and memory.address is not None and not mdl.covers(memory.region):
            _inconsistent(frame, f"swaps in {mdl.describe()}, and leaves the buffer as it was")
        region, offset = mdl.region, mdl.offset
        assert region is not None
        if memory.address is None:
            setattr(after, name, region)
    elif region is None:
        _check_plain(frame, new)
        return
    else:
        _check(frame, region, offset, mdl)
    _check_size(frame, region, offset, after)
    allocation = allocation_of(region)
    if allocation is not None:
        allocation.swapped = True
    if isinstance(mdl, MDL) and mdl.driver is not None:
        mdl.keeper = KEEPER
    frame.swap = Swap(new, mdl if isinstance(mdl, MDL) else None, None)


def _take_structure(frame: Frame, name: str, before: Parameters, after: Parameters) -> None:
    old, new = getattr(before, name), getattr(after, name)
    if new is old or not isinstance(new, Information):
        return
    if old is None:
        # The issuer waits for a structure of its own, which the driver is to fill in.
        old = type(new)()
        setattr(before, name, old)
    frame.swap = Swap(new, None, old)


def _note_lock(frame: Frame, mdl: MDL) -> None:
    """A buffer that somebody above has swapped in without an MDL has one from now on (FLT-BUF-14)."""
    for upper in reversed(frame.operation.frames[: frame.index]):
        swap = upper.swap
        if swap is not None and swap.mdl is None and mdl.covers(swap.buffer):
            swap.mdl = mdl


def _inconsistent(frame: Frame, how: str) -> None:
    report("swap-inconsistent", f"{frame.label} {how}, in {frame.operation.label}")


def _check_plain(frame: Frame, new: Any) -> None:
    """The driver has put something there that is no memory. Bytes may be written, but nothing can be read into them."""
    if not isinstance(new, bytes | bytearray):
        what = "NULL" if new is None else f"a {type(new).__name__}"
        _inconsistent(frame, f"puts {what} in the place of the buffer")
    elif frame.operation.request.major != IRP_MJ_WRITE:
        refuse(
            f"{frame.label} swaps in plain bytes for {frame.operation.label}",
            remedy="allocate the buffer, with ExAllocatePool2 or FltAllocatePoolAlignedWithTag",
        )


def _check(frame: Frame, region: Region, offset: int, mdl: Any) -> None:
    request = frame.operation.request
    label = region.region_label()
    if request.kind == FAST_IO_OPERATION:
        if mdl is not None:
            _inconsistent(frame, f"swaps in {label} with an MDL, which fast I/O has not")
    elif has_system_buffer(request):
        if is_pageable(region):
            _inconsistent(frame, f"swaps in {label}, which may be paged out, for a system buffer")
        if mdl is not None:
            _inconsistent(frame, f"swaps in {label} with an MDL, which a system buffer has not")
    elif not isinstance(mdl, MDL):
        _inconsistent(frame, f"swaps in {label} without an MDL")
    elif mdl.state == ALLOCATED:
        _inconsistent(frame, f"swaps in {label} with an MDL that describes no pages yet")
    elif mdl.region is not region or mdl.offset != offset:
        _inconsistent(frame, f"swaps in {label} with {mdl.describe()}")


def _check_size(frame: Frame, region: Region, offset: int, after: Parameters) -> None:
    request = frame.operation.request
    needed = after.Length
    if request.major in {IRP_MJ_READ, IRP_MJ_WRITE} and is_noncached(request):
        needed = -(-needed // SECTOR) * SECTOR
    room = region.region_length() - offset
    if room < needed:
        report(
            "swap-too-small",
            f"{frame.label} swaps in {room} bytes where {frame.operation.label} of {after.Length} needs {needed}",
        )


def is_noncached(request: Request) -> bool:
    """Whether a read or write goes to the disk itself, in whole sectors."""
    return (
        bool(request.flags & (IRP_NOCACHE | IRP_PAGING_IO) or request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING)
        and request.kind != FAST_IO_OPERATION
    )


def swap_forgotten(frame: Frame) -> None:
    """The driver has swapped buffers and does not want to hear of the completion (FLT-BUF-08)."""
    assert frame.swap is not None
    report(
        "swap-without-postop",
        f"{frame.label} has swapped the buffer of {frame.operation.label} and asks for no post-operation callback",
    )


def restore(thread: Thread, frame: Frame) -> None:
    """The driver is done with an operation whose buffer it has swapped: everybody above has the issuer's (FLT-BUF-09).

    Inside the calling step.
    """
    swap, frame.swap = frame.swap, None
    assert swap is not None
    request = frame.operation.request
    if swap.original is not None and request.buffer is swap.buffer:
        request.buffer = swap.original
    mdl = swap.mdl
    if mdl is not None and not swap.retained and not mdl.freed:
        free_mdl(thread, mdl, f"{KEEPER}, after the post-operation callback of {frame.label}")
