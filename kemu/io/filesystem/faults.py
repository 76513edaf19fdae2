"""What may go wrong with the disk: a choice for each transfer, in scenarios that ask for it (``io_faults=True``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.io.constants import IRP_MJ_FLUSH_BUFFERS, IRP_MJ_READ, IRP_MJ_WRITE
from kemu.nt.status import NTSTATUS, STATUS_DISK_FULL, STATUS_IO_DEVICE_ERROR

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem
    from kemu.io.request import Request

FAULTS: Final[dict[int, tuple[NTSTATUS, ...]]] = {
    IRP_MJ_READ: (STATUS_IO_DEVICE_ERROR,),
    IRP_MJ_WRITE: (STATUS_IO_DEVICE_ERROR, STATUS_DISK_FULL),
    IRP_MJ_FLUSH_BUFFERS: (STATUS_IO_DEVICE_ERROR,),
}


def fault_of(fs: FileSystem, request: Request) -> NTSTATUS | None:
    """How *request* fails, if it does: none is the plain answer. It then has no effect at all."""
    faults = FAULTS.get(request.major, ())
    if not faults:
        return None
    choice = fs.runtime.choose(1 + len(faults), f"{fs.label} fails {request.label}")
    return faults[choice - 1] if choice else None
