"""Sections: mapping a file into memory.

Creating one asks the filters and the file system first (IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION). A view shares the
pages of the file's cache: a page that is missing is read by paging I/O when it is touched, and what was written is
written back later by the mapped page writer, which is the lazy writer's thread and tells filters so
(IRP_MJ_ACQUIRE_FOR_MOD_WRITE). A section refers to its file object, so that the close comes after it is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_SET_INFORMATION,
)
from kemu.io.file_constants import (
    PAGE_EXECUTE_READ,
    PAGE_READONLY,
    PAGE_READWRITE,
    PAGE_WRITECOPY,
    FileEndOfFileInformation,
    SyncTypeCreateSection,
)
from kemu.io.filesystem.cache import Cache
from kemu.io.filesystem.nodes import Open
from kemu.io.parameters import Parameters
from kemu.io.request import FS_FILTER_OPERATION, FileObject, Request
from kemu.io.structures import FILE_END_OF_FILE_INFORMATION
from kemu.nt.process import KernelMode
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_ACCESS_VIOLATION,
    STATUS_FILE_CLOSED,
    STATUS_INVALID_FILE_FOR_SECTION,
    STATUS_INVALID_PAGE_PROTECTION,
    STATUS_INVALID_VIEW_SIZE,
    STATUS_MAPPED_FILE_SIZE_ZERO,
    STATUS_SECTION_TOO_BIG,
    STATUS_SUCCESS,
)
from kemu.nt.system import refuse
from kemu.runtime import Cell, Operation, Thread, current_thread

if TYPE_CHECKING:
    from kemu.io.manager import IoManager

PROTECTIONS = frozenset({PAGE_READONLY, PAGE_READWRITE, PAGE_WRITECOPY, PAGE_EXECUTE_READ})


class Section(Cell):
    """A section object that is backed by a file."""

    __slots__ = ("cache", "closed", "file", "handles", "open", "protection", "size", "views")

    def __init__(self, file: FileObject, opened: Open, cache: Cache, size: int, protection: int) -> None:
        thread = current_thread()
        super().__init__(thread, f"section of {file.FileName}")
        self.file = file
        self.open = opened
        self.cache = cache
        self.size = size
        self.protection = protection
        self.views = 0
        self.handles = 1
        self.closed = False
        thread.update(file)
        file.pending += 1

    def let_go(self, thread: Thread) -> None:
        """The section is closed and no view of it is left."""
        file = self.file
        thread.update(file)
        file.pending -= 1
        if file.closer is not None and not file.pending:
            file.close_now()


class SizeOf(Operation[int]):
    """See how long a file is."""

    __slots__ = ("open",)
    kind = "see the size of"

    def __init__(self, opened: Open) -> None:
        self.open = opened

    def perform(self, thread: Thread) -> int:
        thread.read(self.open.stream.size)
        return len(self.open.stream.bytes)

    def target(self) -> Cell:
        return self.open.stream.size


async def create_section(
    manager: IoManager, file: FileObject, MaximumSize: int, SectionPageProtection: int
) -> tuple[NTSTATUS, Section | None]:
    """Make a section of *MaximumSize* bytes, or as long as the file if that is 0. A longer one makes the file longer.

    Raises `UsageError` in a scenario without ``cached_io=True``.
    """
    opened = file.fs_context
    cache = file.volume.filesystem.cache
    if cache is None:
        refuse("a section needs a cache", remedy="declare the scenario with cached_io=True")
    if SectionPageProtection not in PROTECTIONS:
        return STATUS_INVALID_PAGE_PROTECTION, None
    if not isinstance(opened, Open) or (opened.node.is_directory and opened.stream is opened.node.stream):
        return STATUS_INVALID_FILE_FOR_SECTION, None
    parameters = Parameters(SyncType=SyncTypeCreateSection, PageProtection=SectionPageProtection)
    status = await _tell(manager, file, IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION, parameters)
    if not NT_SUCCESS(status):
        return status, None
    status, section = await _make(manager, file, opened, cache, MaximumSize, SectionPageProtection)
    await _tell(manager, file, IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION, Parameters())
    return status, section


async def _make(
    manager: IoManager, file: FileObject, opened: Open, cache: Cache, size: int, protection: int
) -> tuple[NTSTATUS, Section | None]:
    current_thread().read(opened)
    if opened.cleaned:
        return STATUS_FILE_CLOSED, None
    length = await SizeOf(opened)
    size = size or length
    if not size:
        return STATUS_MAPPED_FILE_SIZE_ZERO, None
    if size > length:
        if protection != PAGE_READWRITE:
            return STATUS_SECTION_TOO_BIG, None
        longer = Parameters(
            FileInformationClass=FileEndOfFileInformation,
            InfoBuffer=FILE_END_OF_FILE_INFORMATION(size),
            Length=FILE_END_OF_FILE_INFORMATION.SIZE,
        )
        status = await manager.call(Request(file.volume, file, IRP_MJ_SET_INFORMATION, longer, mode=KernelMode))
        if not NT_SUCCESS(status):
            return status, None
    return STATUS_SUCCESS, Section(file, opened, cache, size, protection)


async def _tell(manager: IoManager, file: FileObject, major: int, parameters: Parameters) -> NTSTATUS:
    request = Request(file.volume, file, major, parameters, kind=FS_FILTER_OPERATION, mode=KernelMode)
    return await manager.call(request)


class MapView(Operation["View | NTSTATUS"]):
    """Map a part of a section."""

    __slots__ = ("length", "offset", "section")
    kind = "map a view of"

    def __init__(self, section: Section, offset: int, length: int) -> None:
        self.section = section
        self.offset = offset
        self.length = length

    def perform(self, thread: Thread) -> View | NTSTATUS:
        section = self.section
        thread.write(section)
        length = self.length or section.size - self.offset
        if self.offset < 0 or length <= 0 or self.offset + length > section.size:
            return STATUS_INVALID_VIEW_SIZE
        section.views += 1
        # From here on the file cannot be made shorter.
        thread.write(section.open.stream.guard)
        section.open.stream.mapped += 1
        return View(section, self.offset, length)

    def target(self) -> Cell:
        return self.section


class UnmapView(Operation[bool]):
    """Give a view back; false if it was given back already."""

    __slots__ = ("view",)
    kind = "unmap a view of"

    def __init__(self, view: View) -> None:
        self.view = view

    def perform(self, thread: Thread) -> bool:
        view = self.view
        section = view.section
        thread.write(section)
        if not view.mapped:
            return False
        view.mapped = False
        section.views -= 1
        stream = section.open.stream
        thread.write(stream.guard)
        stream.mapped -= 1
        if section.closed and not section.views:
            section.let_go(thread)
        section.cache.let_go(thread, stream)
        return True

    def target(self) -> Cell:
        return self.view.section


class CloseSection(Operation[None]):
    """The last handle of a section is closed."""

    __slots__ = ("section",)
    kind = "close"

    def __init__(self, section: Section) -> None:
        self.section = section

    def perform(self, thread: Thread) -> None:
        section = self.section
        thread.write(section)
        # Views keep it.
        section.closed = True
        if not section.views:
            section.let_go(thread)

    def target(self) -> Cell:
        return self.section


class TouchPages(Operation["bytes | None"]):
    """Read or write memory of a view; None if a page has to be read first."""

    __slots__ = ("data", "length", "start", "view")
    kind = "touch a view of"

    def __init__(self, view: View, start: int, length: int, data: bytes | None) -> None:
        self.view = view
        self.start = start
        self.length = length
        self.data = data

    def perform(self, thread: Thread) -> bytes | None:
        section = self.view.section
        cache, opened = section.cache, section.open
        thread.read(opened.stream.size)
        found = cache.read(thread, opened, self.start, self.start + self.length)
        if found is None or self.data is None:
            return found
        cache.write(thread, opened, self.start, self.data, mapped=True)
        return self.data

    def target(self) -> Cell:
        return self.view.section.open.stream.data


class View:
    """A part of a section in memory. Touching it may cause paging I/O in the thread that does."""

    __slots__ = ("length", "mapped", "offset", "section")

    def __init__(self, section: Section, offset: int, length: int) -> None:
        self.section = section
        self.offset = offset
        self.length = length
        self.mapped = True

    async def read(self, start: int, length: int) -> tuple[NTSTATUS, bytes]:
        """Read memory; STATUS_ACCESS_VIOLATION outside of the view; a page that cannot be read fails with why."""
        return await self._touch(start, length, None)

    async def write(self, start: int, data: bytes) -> NTSTATUS:
        """Write memory."""
        if self.section.protection != PAGE_READWRITE:
            return STATUS_ACCESS_VIOLATION
        return (await self._touch(start, len(data), data))[0]

    async def _touch(self, start: int, length: int, data: bytes | None) -> tuple[NTSTATUS, bytes]:
        if not self.mapped or start < 0 or start + length > self.length:
            return STATUS_ACCESS_VIOLATION, b""
        cache = self.section.cache
        while True:
            found = await TouchPages(self, self.offset + start, length, data)
            if found is not None:
                return STATUS_SUCCESS, found
            status = await cache.page_in()
            if not NT_SUCCESS(status):
                return status, b""
