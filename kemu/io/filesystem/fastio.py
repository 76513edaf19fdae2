"""Fast I/O: what the file system does at once, and what it leaves to an IRP; and queries by name without an open.

Fast I/O is carried out in the calling thread and never waits: where it would have to, or where nothing is cached, the
file system says so and nothing has happened. Whether a byte-range lock or an oplock stands in its way is asked from
the top of the volume's stack (FAST_IO_CHECK_IF_POSSIBLE), so that filters with locks of their own can say no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.io.constants import (
    IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_MDL_READ,
    IRP_MJ_MDL_READ_COMPLETE,
    IRP_MJ_MDL_WRITE_COMPLETE,
    IRP_MJ_NETWORK_QUERY_OPEN,
    IRP_MJ_PREPARE_MDL_WRITE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_VOLUME_DISMOUNT,
    IRP_MJ_VOLUME_MOUNT,
    IRP_MJ_WRITE,
)
from kemu.io.file_constants import (
    FO_NO_INTERMEDIATE_BUFFERING,
    IRP_MN_COMPLETE,
    IRP_MN_LOCK,
    IRP_MN_MDL,
    FileBasicInformation,
    FileNetworkOpenInformation,
    FileStandardInformation,
)
from kemu.io.filesystem import data, information, locks
from kemu.io.filesystem.cache import CacheMap
from kemu.io.filesystem.names import parse
from kemu.io.filesystem.nodes import Node, Open, Stream
from kemu.io.filesystem.opening import walk
from kemu.io.filesystem.oplocks import lets_fast_io_pass
from kemu.io.irp import MDL
from kemu.io.parameters import Parameters
from kemu.io.request import FAST_IO_OPERATION, Request
from kemu.io.structures import FILE_NETWORK_OPEN_INFORMATION, FILE_STAT_INFORMATION
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.runtime import Thread, current_thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem, Handler, Result

REFUSED: Final = STATUS_FLT_DISALLOW_FAST_IO
"""What fast I/O comes to that the file system leaves to an IRP."""

QUERIES: Final = frozenset({FileBasicInformation, FileStandardInformation, FileNetworkOpenInformation})
"""What can be queried by fast I/O (FLT-FAST-02)."""
MDL_OPERATIONS: Final = frozenset(
    {IRP_MJ_MDL_READ, IRP_MJ_MDL_READ_COMPLETE, IRP_MJ_PREPARE_MDL_WRITE, IRP_MJ_MDL_WRITE_COMPLETE}
)


def is_cached(stream: Stream) -> bool:
    """Whether there is cached I/O on *stream* already. The caller has read its guard."""
    return isinstance(stream.cached, CacheMap)


def allows(fs: FileSystem, thread: Thread, request: Request) -> bool:
    """Whether the file system carries *request*, which is fast I/O, out at once, as far as it can tell before."""
    major = request.major
    opened = request.file.fs_context
    if major not in ALLOWED or not isinstance(opened, Open):
        return major in NAMELESS
    stream = opened.stream
    thread.read(opened)
    thread.read(stream.guard)
    parameters = request.parameters
    if major == IRP_MJ_QUERY_INFORMATION:
        return parameters.FileInformationClass in QUERIES
    if major == IRP_MJ_LOCK_CONTROL:
        # A lock that has to be waited for takes an IRP.
        return lets_fast_io_pass(stream, writes=False) and (
            request.minor != IRP_MN_LOCK or parameters.FailImmediately or locks.is_free(request, opened)
        )
    if major in MDL_OPERATIONS or fs.cache is not None:
        if not is_cached(stream) or request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING:
            return False
        if major in COMPLETIONS:
            return True
    return _no_conflict(request, stream, opened, writes=major in WRITES)


def _no_conflict(request: Request, stream: Stream, opened: Open, *, writes: bool) -> bool:
    """Whether neither an oplock nor a byte-range lock is in the way. The caller has read the guard."""
    if not lets_fast_io_pass(stream, writes=writes):
        return False
    parameters = request.parameters
    length = parameters.Length or len(parameters.Buffer)
    return not (stream.locks and locks.conflicts(stream, opened, request, parameters.ByteOffset, length, writes=writes))


async def is_possible(fs: FileSystem, request: Request) -> bool:
    """Ask the stack of the volume whether a fast read or write may go on, if that is questionable."""
    opened = request.file.fs_context
    if not isinstance(opened, Open):
        return False
    stream = opened.stream
    current_thread().read(stream.guard)
    if not stream.locks and (stream.oplock is None or not stream.oplock.holders):
        return True
    parameters = request.parameters
    asked = Parameters(
        ByteOffset=parameters.ByteOffset,
        Length=parameters.Length,
        Key=parameters.Key,
        CheckForReadOperation=request.major == IRP_MJ_READ,
    )
    check = Request(
        request.file.volume,
        request.file,
        IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE,
        asked,
        kind=FAST_IO_OPERATION,
        mode=request.mode,
    )
    return NT_SUCCESS(await fs.send(check))


# The operations that are never IRPs.


def check_if_possible(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE."""
    opened = request.file.fs_context
    assert isinstance(opened, Open)
    thread.read(opened)
    thread.read(opened.stream.guard)
    reads = request.parameters.CheckForReadOperation
    return (STATUS_SUCCESS if _no_conflict(request, opened.stream, opened, writes=not reads) else REFUSED), 0


def _find(fs: FileSystem, thread: Thread, request: Request) -> Node | None:
    """The file that *request* is about, which is not open: the file object has but a name."""
    path = parse(request.file.FileName)
    return None if isinstance(path, NTSTATUS) or path.stream else walk_to(fs, thread, path.components)


def walk_to(fs: FileSystem, thread: Thread, components: tuple[str, ...]) -> Node | None:
    """The file or directory of that path, as the calling step sees it."""
    if not components:
        return fs.root
    directory = walk(fs, thread, components[:-1])
    if directory is None:
        return None
    entry = directory.entry(components[-1])
    thread.read(entry)
    return None if entry.link is None else entry.link.node


def network_query_open(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_NETWORK_QUERY_OPEN: times, sizes and attributes of a file that nobody opens."""
    thread.read(fs.presence)
    if not fs.is_mounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    node = _find(fs, thread, request)
    if node is None:
        return STATUS_OBJECT_NAME_NOT_FOUND, 0
    found = FILE_NETWORK_OPEN_INFORMATION()
    information.describe_node(thread, node, found)
    request.buffer = found
    return STATUS_SUCCESS, found.SIZE


def query_open(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_QUERY_OPEN: the same as a callback of FSFilter. It leaves Information alone (FLT-FAST-08)."""
    thread.read(fs.presence)
    if not fs.is_mounted:
        return STATUS_VOLUME_DISMOUNTED, 0
    kind = information.STAT_KINDS.get(request.parameters.FileInformationClass)
    if kind is None:
        return STATUS_INVALID_PARAMETER, 0
    node = _find(fs, thread, request)
    if node is None:
        return STATUS_OBJECT_NAME_NOT_FOUND, 0
    found = kind()
    if isinstance(found, FILE_STAT_INFORMATION):
        information.describe_stat(thread, node, found)
    request.buffer = found
    return STATUS_SUCCESS, 0


def mdl_read(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_MDL_READ: describe pages of the cache to the caller, who gives them back with MDL_READ_COMPLETE."""
    # The same as a read, but that the bytes are not copied to a buffer of the caller's.
    status, length = data.read(fs, thread, request)
    if NT_SUCCESS(status) and status != STATUS_PENDING:
        lend(request, bytearray(request.buffer))
    return status, length


def prepare_mdl_write(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_PREPARE_MDL_WRITE: lend pages that the caller fills, and gives back with MDL_WRITE_COMPLETE."""
    lend(request, bytearray(request.parameters.Length))
    return STATUS_SUCCESS, request.parameters.Length


def lend(request: Request, pages: bytearray) -> None:
    """Make *pages* what the issuer of *request* gets."""
    request.buffer = MDL(pages)


def mdl_complete(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_MDL_READ_COMPLETE: the pages are given back."""
    return (STATUS_SUCCESS, 0) if isinstance(request.parameters.MdlChain, MDL) else (STATUS_INVALID_PARAMETER, 0)


def mdl_write_complete(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_MDL_WRITE_COMPLETE: what the caller has put into the pages is written."""
    chain = request.parameters.MdlChain
    if not isinstance(chain, MDL):
        return STATUS_INVALID_PARAMETER, 0
    parameters = request.parameters.copy()
    parameters.Buffer, parameters.Length = chain.buffer, len(chain.buffer)
    request.parameters = parameters
    return data.write(fs, thread, request)


def read(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_READ, also with IRP_MN_MDL and IRP_MN_COMPLETE."""
    if request.minor & IRP_MN_COMPLETE:
        return mdl_complete(fs, thread, request)
    return mdl_read(fs, thread, request) if request.minor & IRP_MN_MDL else data.read(fs, thread, request)


def write(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_WRITE, also with IRP_MN_MDL and IRP_MN_COMPLETE."""
    if request.minor & IRP_MN_COMPLETE:
        return mdl_write_complete(fs, thread, request)
    return prepare_mdl_write(fs, thread, request) if request.minor & IRP_MN_MDL else data.write(fs, thread, request)


def told(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_VOLUME_MOUNT and IRP_MJ_VOLUME_DISMOUNT: there is nothing to do but to let filters know."""
    return STATUS_SUCCESS, 0


WRITES: Final = frozenset({IRP_MJ_WRITE, IRP_MJ_PREPARE_MDL_WRITE, IRP_MJ_MDL_WRITE_COMPLETE})
COMPLETIONS: Final = frozenset({IRP_MJ_MDL_READ_COMPLETE, IRP_MJ_MDL_WRITE_COMPLETE})
NAMELESS: Final = frozenset({IRP_MJ_NETWORK_QUERY_OPEN, IRP_MJ_VOLUME_MOUNT, IRP_MJ_VOLUME_DISMOUNT})
"""Fast I/O that needs no open."""
ALLOWED: Final = frozenset(
    {
        IRP_MJ_READ,
        IRP_MJ_WRITE,
        IRP_MJ_QUERY_INFORMATION,
        IRP_MJ_LOCK_CONTROL,
        IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE,
        *MDL_OPERATIONS,
    }
)
"""Fast I/O that the file system has routines for. It has none for device controls."""

HANDLERS: Final[dict[int, Handler]] = {
    IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE: check_if_possible,
    IRP_MJ_NETWORK_QUERY_OPEN: network_query_open,
    IRP_MJ_MDL_READ: mdl_read,
    IRP_MJ_MDL_READ_COMPLETE: mdl_complete,
    IRP_MJ_PREPARE_MDL_WRITE: prepare_mdl_write,
    IRP_MJ_MDL_WRITE_COMPLETE: mdl_write_complete,
    IRP_MJ_QUERY_OPEN: query_open,
    IRP_MJ_VOLUME_MOUNT: told,
    IRP_MJ_VOLUME_DISMOUNT: told,
}
