"""What a minifilter owes when it begins I/O: checked before anything is sent (FLT-IO)."""

from __future__ import annotations

from typing import Final

from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.objects import Instance
from kemu.io.constants import (
    FO_SYNCHRONOUS_IO,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    IRP_SYNCHRONOUS_PAGING_IO,
)
from kemu.io.file_constants import FILE_USE_FILE_POINTER_POSITION, FO_CLEANUP_COMPLETE, FO_NO_INTERMEDIATE_BUFFERING
from kemu.io.filesystem.nodes import SECTOR, Open
from kemu.io.request import FileObject, Request
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.system import report

FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS: Final = 0x0040_0000
HSM_RANGE: Final = altitude_key("180000")
"""Where the group FSFilter HSM begins: who is below sees files whose data is elsewhere."""


def check_locks(name: str) -> None:
    """Finding ``lock-across-io``: a lock is held while I/O is sent (FLT-IO-12)."""
    thread = current_kthread()
    if thread.locks:
        held = " and ".join(lock.label for lock in thread.locks)
        report("lock-across-io", f"{name} was called by {thread.label}, which holds {held}")


def check_top_level(name: str, *, apcs: bool) -> None:
    """Findings ``io-with-toplevel-irp`` and ``io-apcs-disabled`` (FLT-IO-10)."""
    thread = current_kthread()
    if thread.top_level_irp is not None:
        report("io-with-toplevel-irp", f"{name} was called by {thread.label}, whose top-level IRP is set")
    if apcs and thread.special_apc_disable:
        report("io-apcs-disabled", f"{name} was called by {thread.label}, which has disabled all APCs")


def check_request(name: str, instance: Instance, request: Request) -> None:
    """The findings of a request that *name* is about to send below *instance*."""
    thread = current_kthread()
    check_locks(name)
    if request.major != IRP_MJ_CREATE:
        check_open(thread, name, request)
    if request.major in {IRP_MJ_READ, IRP_MJ_WRITE}:
        check_transfer(name, request)
        check_placeholder(thread, name, instance, request.file)


def check_open(thread: KThread, name: str, request: Request) -> None:
    """Finding ``io-on-unopened-file`` (FLT-IO-05). Paging I/O goes on after the cleanup."""
    file = request.file
    opened = file.fs_context
    thread.read(opened if isinstance(opened, Open) else file)
    if opened is None:
        report("io-on-unopened-file", f"{name} of {request.label} on {file.label}, which is not open yet")
    elif file.Flags & FO_CLEANUP_COMPLETE and not request.flags & IRP_PAGING_IO:
        report("io-on-unopened-file", f"{name} of {request.label} on {file.label}, whose last handle is closed")


def check_transfer(name: str, request: Request) -> None:
    """Findings ``io-bad-params`` (FLT-IO-09) and ``noncached-misaligned`` (FLT-IO-07)."""
    file, parameters = request.file, request.parameters
    offset = parameters.ByteOffset
    what = f"{name} of {request.label}"
    if request.flags & IRP_SYNCHRONOUS_PAGING_IO and not request.flags & IRP_PAGING_IO:
        report("io-bad-params", f"{what}: synchronous paging I/O that is no paging I/O")
    if offset == FILE_USE_FILE_POINTER_POSITION and not file.Flags & FO_SYNCHRONOUS_IO:
        report("io-bad-params", f"{what} without an offset, on {file.label}, which has no position: it is asynchronous")
    uncached = request.flags & IRP_NOCACHE or file.Flags & FO_NO_INTERMEDIATE_BUFFERING
    if uncached and not request.flags & IRP_PAGING_IO:
        length = parameters.Length
        if offset % SECTOR if offset >= 0 else 0:
            report("noncached-misaligned", f"{what} at offset {offset}, which is no multiple of {SECTOR}")
        if length % SECTOR:
            report("noncached-misaligned", f"{what} of {length} bytes, which is no multiple of {SECTOR}")


def check_placeholder(thread: KThread, name: str, instance: Instance, file: FileObject) -> None:
    """Finding ``placeholder-io``: data that is elsewhere is asked for from below who would bring it (FLT-IO-29)."""
    opened = file.fs_context
    if HSM_RANGE is None or instance.key >= HSM_RANGE or not isinstance(opened, Open):
        return
    thread.read(opened.node.basic)
    if opened.node.attributes & FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS:
        report("placeholder-io", f"{name} on {file.label} from altitude {instance.altitude}")
