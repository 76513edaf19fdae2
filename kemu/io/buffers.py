"""The memory that a request is about: where the program's buffer is, and how the I/O manager passes it.

Most requests never show their buffer to anybody. They carry what is written as plain bytes, and bring back what was
read as such. The memory comes into being when somebody looks at it: a minifilter at ``ReadBuffer``, or the program
itself, which has passed an address. From then on what counts is what is in that memory, whoever puts it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from kemu.io.constants import (
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_PNP,
    IRP_MJ_QUERY_EA,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_QUOTA,
    IRP_MJ_QUERY_SECURITY,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_EA,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SET_QUOTA,
    IRP_MJ_SET_SECURITY,
    IRP_MJ_SET_VOLUME_INFORMATION,
    IRP_MJ_SYSTEM_CONTROL,
    IRP_MJ_WRITE,
    IRP_PAGING_IO,
)
from kemu.io.device import DO_BUFFERED_IO, DO_DIRECT_IO
from kemu.io.layout import decode, encode
from kemu.nt.buffer import Copied, Region, check_bounds
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.mdl import MDL, region_of
from kemu.nt.process import Process, UserMode
from kemu.nt.status import NT_ERROR, STATUS_ACCESS_VIOLATION
from kemu.nt.structure import WRITE
from kemu.nt.system import report
from kemu.nt.usermemory import UserBuffer
from kemu.runtime import Cell, Thread

if TYPE_CHECKING:
    from kemu.io.request import Request

IRP_OPERATION: Final = 0x1

NO_BUFFER: Final = 0
SYSTEM: Final = 1
"""Nonpaged memory of the I/O manager's, which copies from and to the program's."""
DIRECT: Final = 2
"""The program's memory, locked, with an MDL."""
NEITHER: Final = 3
"""The address that the program has passed, as it is."""

METHODS: Final = (SYSTEM, DIRECT, DIRECT, NEITHER)
"""By the lowest two bits of a control code: METHOD_BUFFERED, METHOD_IN_DIRECT, METHOD_OUT_DIRECT, METHOD_NEITHER."""

BUFFERED_MAJORS: Final = frozenset(
    {
        IRP_MJ_QUERY_INFORMATION,
        IRP_MJ_SET_INFORMATION,
        IRP_MJ_QUERY_VOLUME_INFORMATION,
        IRP_MJ_SET_VOLUME_INFORMATION,
    }
)
BY_DEVICE: Final = frozenset(
    {
        IRP_MJ_DIRECTORY_CONTROL,
        IRP_MJ_QUERY_EA,
        IRP_MJ_SET_EA,
        IRP_MJ_QUERY_QUOTA,
        IRP_MJ_SET_QUOTA,
        IRP_MJ_READ,
        IRP_MJ_WRITE,
    }
)
NEITHER_MAJORS: Final = frozenset({IRP_MJ_PNP, IRP_MJ_QUERY_SECURITY, IRP_MJ_SET_SECURITY, IRP_MJ_SYSTEM_CONTROL})
CONTROLS: Final = frozenset({IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_FILE_SYSTEM_CONTROL})
RETURNS: Final = frozenset(
    {
        IRP_MJ_READ,
        IRP_MJ_DIRECTORY_CONTROL,
        IRP_MJ_QUERY_EA,
        IRP_MJ_QUERY_QUOTA,
        IRP_MJ_QUERY_SECURITY,
        *CONTROLS,
    }
)
"""What brings bytes back to the program."""

MEMBERS: Final = {
    IRP_MJ_CREATE: "EaBuffer",
    IRP_MJ_QUERY_EA: "EaBuffer",
    IRP_MJ_SET_EA: "EaBuffer",
    IRP_MJ_QUERY_QUOTA: "QuotaBuffer",
    IRP_MJ_SET_QUOTA: "QuotaBuffer",
    IRP_MJ_QUERY_SECURITY: "SecurityBuffer",
    IRP_MJ_DIRECTORY_CONTROL: "DirectoryBuffer",
}
"""Where a request of a major function has its buffer, if that is not ``Buffer``."""


def buffering(request: Request) -> int:
    """How the I/O manager passes the buffer of *request* (FLT-BUF-01)."""
    major = request.major
    if major in BUFFERED_MAJORS:
        return SYSTEM
    if major == IRP_MJ_CREATE:
        return NO_BUFFER if request.parameters.EaBuffer is None else SYSTEM
    if major in BY_DEVICE:
        flags = request.volume.device_flags
        return SYSTEM if flags & DO_BUFFERED_IO else DIRECT if flags & DO_DIRECT_IO else NEITHER
    if major in CONTROLS:
        return METHODS[control_code(request) & 3]
    return NEITHER if major in NEITHER_MAJORS else NO_BUFFER


def control_code(request: Request) -> int:
    """The code of a device or file system control."""
    parameters = request.parameters
    return parameters.FsControlCode if request.major == IRP_MJ_FILE_SYSTEM_CONTROL else parameters.IoControlCode


def has_system_buffer(request: Request) -> bool:
    """Whether *request* is an IRP whose buffer is the I/O manager's (FLTFL_CALLBACK_DATA_SYSTEM_BUFFER)."""
    return request.kind == IRP_OPERATION and not request.flags & IRP_PAGING_IO and buffering(request) == SYSTEM


def _named_after(cell: Any, request: Request, part: int, label: str) -> None:
    """Name *cell* after the request that it belongs to: it makes no difference who asks for it first."""
    cell.creator = request.creator
    cell.version = cell.written = 0
    cell.label = label
    cell.place = (*request.name, _PART, part)


_PART: Final = -5
"""As for the parts of the file system."""


class SystemMemory(Cell, Region):
    """Nonpaged memory of the I/O manager's: a system buffer, or the buffer of a request of the kernel itself."""

    __slots__ = ("content", "freed", "place")

    def __init__(self, request: Request, content: bytes, part: int) -> None:
        _named_after(self, request, part, f"the system buffer of {request.label}")
        self.content = bytearray(content)
        self.freed = False

    @property
    def name(self) -> tuple[int, ...]:
        return self.place

    def region_length(self) -> int:
        return len(self.content)

    def region_label(self) -> str:
        return self.label

    def region_fetch(self, offset: int, length: int) -> Copied:
        thread = current_kthread()
        if not thread.runtime.looking:
            thread.read(self)
            self._alive("reads")
        return Copied(bytes(self.content[offset : offset + length]))

    def region_put(self, offset: int, copied: Copied) -> None:
        current_kthread().write(self)
        self._alive("writes")
        self.content[offset : offset + len(copied.data)] = copied.data

    def _alive(self, verb: str) -> None:
        if self.freed:
            report("ke.use-after-free", f"{current_kthread().label} {verb} {self.label}, which is complete and freed")


class ProgramMemory(UserBuffer):
    """The memory of a program that has passed no address to kemu, but has some all the same."""

    __slots__ = ("place",)

    def __init__(self, request: Request, process: Process, content: bytes, part: int) -> None:
        # Not the base class's constructor: it takes an ordinal of the thread, which would rename what comes after.
        _named_after(self, request, part, f"the buffer of {process.label} for {request.label}")
        self.filled(process, content)

    @property
    def name(self) -> tuple[int, ...]:
        return self.place


class Memory:
    """The memory of one request."""

    __slots__ = ("given", "input", "locked", "mdl", "method", "passed", "region", "request")

    def __init__(self, request: Request) -> None:
        parameters = request.parameters
        self.request = request
        self.method = buffering(request)
        self.given: Any = getattr(parameters, MEMBERS.get(request.major, "Buffer"))
        """What the issuer has put there."""
        self.mdl: MDL | None = None
        self.locked: list[MDL] = []
        """The MDLs of FltLockUserBuffer, to be freed when the request is complete."""
        self.passed: Region | None = self.given if isinstance(self.given, Region) else None
        """The memory whose address the issuer has passed: of the program, or of a driver that sends a request."""
        self.input: Region | None = None
        """Of a control with two buffers, the one that goes in."""
        issuer = request.thread
        process = issuer.process if isinstance(issuer, KThread) else None
        if request.mode != UserMode or request.flags & IRP_PAGING_IO:
            process = None
        self.region: Region = self._region(request, process)
        if request.kind == IRP_OPERATION and (self.method == DIRECT or request.flags & IRP_PAGING_IO):
            self.mdl = self.describe(self.region, 1, "the I/O manager")
        if request.buffer:
            self.deliver(current_kthread())

    def _region(self, request: Request, process: Process | None) -> Region:
        length = request.parameters.Length
        given = b""
        if self.passed is not None:
            given = bytes(content_of(self.passed))
        elif isinstance(self.given, bytes | bytearray):
            given = bytes(self.given)
        if request.major in CONTROLS and self.method != SYSTEM:
            self.input = self._place(request, process, given, 2)
            given = b""
        content = given if request.major not in RETURNS else given.ljust(length, b"\0")
        if self.passed is not None and (self.method != SYSTEM or request.kind != IRP_OPERATION):
            return self.passed
        if self.method == SYSTEM and request.kind == IRP_OPERATION:
            process = None
        return self._place(request, process, content, 3)

    def _place(self, request: Request, process: Process | None, content: bytes, part: int) -> Region:
        if process is None:
            return SystemMemory(request, content, part)
        return ProgramMemory(request, process, content, part)

    @property
    def address(self) -> Region | None:
        """What a driver finds in the request: paging I/O has an MDL and no address."""
        return None if self.request.flags & IRP_PAGING_IO else self.region

    def describe(self, region: Region, part: int, keeper: str) -> MDL:
        """An MDL of *keeper*'s for *region*, whose pages are locked."""
        cell = Cell.__new__(Described)
        _named_after(cell, self.request, part, f"MDL for {self.request.label}")
        length = region.region_length()
        # The issuer's memory may be larger than what the request is about.
        length = min(length, self.request.parameters.Length) if region is self.passed else length
        return MDL(region=region, length=length, cell=cell, keeper=keeper)

    def is_raw(self) -> bool:
        """Whether it is an address in the issuer's process, and nothing more."""
        return isinstance(self.region, UserBuffer) and self.mdl is None and not self.locked

    def pins(self, region: Region) -> bool:
        """Whether the pages of *region* are locked, so that they are there whatever the program does."""
        return any(mdl is not None and mdl.region is region for mdl in (self.mdl, *self.locked))

    # What the file system does with it.

    def deliver(self, thread: Thread) -> bool:
        """Put what was read where the request has its buffer now; false if there is no memory any more."""
        request = self.request
        if request.major not in RETURNS or request.buffer is None:
            return True
        data = request.buffer
        if isinstance(data, list):
            data = encode(cast("list[Any]", data))
        if not isinstance(data, bytes | bytearray):
            return True
        target = self.target()
        region, start = region_of(target)
        content = bytes(data[: request.parameters.Length])
        if isinstance(region, UserBuffer):
            is_there = self.pins(region) or (region.is_mapped and region.is_writable)
            if not is_there or start + len(content) > len(region.content):
                thread.read(region)
                return False
        put(thread, target, content)
        return True

    def target(self) -> Any:
        """The buffer as the lowest of those sees it who are above."""
        found = getattr(self.request.parameters, MEMBERS.get(self.request.major, "Buffer"))
        return found if found is not self.given and region_of(found)[0] is not None else self.region

    def finish(self, thread: Thread) -> None:
        """The request is complete: the program has what is in its memory."""
        request = self.request
        if request.major in RETURNS and not NT_ERROR(request.status):
            content = content_of(self.region)[: max(request.information, 0)]
            if request.major == IRP_MJ_DIRECTORY_CONTROL:
                entries = decode(bytes(content), request.minor, request.parameters.FileInformationClass)
                given: Any = self.given
                if isinstance(given, list):
                    cast("list[Any]", given)[:] = entries
                request.buffer = entries
            elif request.major != IRP_MJ_FILE_SYSTEM_CONTROL or isinstance(request.buffer, bytes):
                request.buffer = bytes(content)
                passed = self.passed
                is_gone = isinstance(passed, UserBuffer) and not passed.is_mapped
                if passed is not None and passed is not self.region and not is_gone:
                    put(thread, passed, bytes(content))
        for mdl in (self.mdl, *self.locked):
            if mdl is not None and not mdl.freed:
                if mdl.cell is not None:
                    thread.write(mdl.cell)
                mdl.freed = f"{mdl.keeper}, when {request.label} was complete"
        for region in (self.region, self.input):
            if isinstance(region, SystemMemory):
                thread.write(region)
                region.freed = True


class Described(Cell):
    """What a footprint has of an MDL that belongs to a request."""

    __slots__ = ("place",)

    @property
    def name(self) -> tuple[int, ...]:
        return self.place


def memory_of(request: Request) -> Memory:
    """The memory of *request*, which is there from now on."""
    memory = request.memory
    if memory is None:
        request.memory = memory = Memory(request)
    return memory


def content_of(region: Region) -> bytes | bytearray:
    """All bytes of *region*, for whoever does not ask for permission."""
    if isinstance(region, UserBuffer | SystemMemory):
        return region.content
    return region.region_fetch(0, region.region_length()).data


def put(thread: Thread, value: Any, data: bytes) -> None:
    """Write *data* to a buffer, as the file system."""
    region, start = region_of(value)
    if isinstance(region, UserBuffer | SystemMemory):
        thread.write(region)
        region.content[start : start + len(data)] = data
    elif region is not None and data and check_bounds(region, start, len(data), WRITE):
        region.region_put(start, Copied(data))


def fetch(thread: Thread, request: Request) -> bytes | None:
    """What *request* writes, as the file system takes it; None if it is not there any more."""
    value: Any = request.parameters.Buffer
    memory = request.memory
    if memory is not None and value is memory.given:
        value = memory.region
    elif isinstance(value, bytes | bytearray):
        return bytes(value)
    region, start = region_of(value)
    length = request.parameters.Length
    if isinstance(region, UserBuffer | SystemMemory):
        thread.read(region)
        pinned = memory is not None and memory.pins(region)
        is_there = pinned or not isinstance(region, UserBuffer) or region.is_mapped
        if not is_there or start + length > len(region.content):
            return None
        return bytes(region.content[start : start + length])
    if region is None:
        return None
    length = min(length, region.region_length() - start)
    return region.region_fetch(start, length).data


def delivered(thread: Thread, request: Request) -> None:
    """The file system has the result of *request*, whose memory is there: put it there, inside the calling step."""
    memory = request.memory
    assert memory is not None
    if not NT_ERROR(request.status) and not memory.deliver(thread):
        request.status, request.information = STATUS_ACCESS_VIOLATION, 0
