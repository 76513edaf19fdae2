"""Cached I/O, in scenarios that ask for it (``cached_io=True``): pages, the lazy writer, flushing.

A cached read or write works on pages in memory. What is missing is read, and what was written is written back, by
paging I/O: requests with IRP_PAGING_IO that are sent down the volume's whole stack, so that every filter sees them.
Page faults are taken by the thread that reads or writes; dirty pages are written by the lazy writer's thread, or by
whoever flushes, one at a time for each stream.

The first file object that a stream is cached through is the one that paging I/O is sent on. The cache refers to it, so
that its close comes only after the last handle is closed and the last page is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_READ,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    IRP_SYNCHRONOUS_PAGING_IO,
)
from kemu.io.file_constants import FO_NO_INTERMEDIATE_BUFFERING
from kemu.io.filesystem.nodes import PART, Open, Stream
from kemu.io.parameters import Parameters
from kemu.io.request import FS_FILTER_OPERATION, FileObject, Request
from kemu.io.toplevel import FSRTL_CACHE_TOP_LEVEL_IRP
from kemu.nt.apc import KAPC, offer_apc, takes_apcs
from kemu.nt.dispatcher import SPECIAL_KERNEL
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.process import KernelMode
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_END_OF_FILE, STATUS_SUCCESS
from kemu.runtime import BlockingOperation, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem

PAGE: Final = 4096
PAGING: Final = IRP_PAGING_IO | IRP_NOCACHE | IRP_SYNCHRONOUS_PAGING_IO


class CacheMap(Waitable):
    """What is cached of one stream; the cell of its pages. Who writes pages waits for whoever is at that already."""

    __slots__ = ("_name", "dirty", "file", "mapped", "pages", "queued", "stream", "writer")

    guards = ("writer",)

    def __init__(self, stream: Stream, file: FileObject) -> None:
        # Not the base class's constructor: the map is named after the stream, whoever is the first to use it.
        node = stream.node
        self.creator = node.creator
        self.ordinal = -1
        self.label = f"cache of {stream.label}"
        self.version = self.written = 0
        self.watchers = []
        self._name = (*node.name, PART, 7, stream.number)
        born = node.creator.runtime.born
        if born is not None:
            born.append(self)
        self.stream = stream
        self.file = file
        self.pages: dict[int, bytearray] = {}
        self.dirty: list[int] = []
        """Pages that have to be written, the one that was written to first first."""
        self.queued = False
        """Whether the lazy writer knows of it."""
        self.mapped = False
        """Whether pages are dirty because of views."""
        self.writer: Thread | None = None
        """Who writes a page at the moment."""

    @property
    def name(self) -> tuple[int, ...]:
        return self._name

    def holders(self) -> tuple[Thread, ...]:
        return (self.writer,) if self.writer is not None else ()

    def missing(self, start: int, end: int) -> int | None:
        """The first page of a range that is not here and whose bytes are on disk."""
        for page in range(start // PAGE, -(-end // PAGE)):
            if page not in self.pages and page * PAGE < self.stream.valid:
                return page
        return None

    def page(self, number: int) -> bytearray:
        """A page; one that was never written to disk is made of zeroes."""
        found = self.pages.get(number)
        if found is None:
            found = self.pages[number] = bytearray(PAGE)
        return found

    def get(self, start: int, end: int) -> bytes:
        """The bytes of a range whose pages are here."""
        if end <= start:
            return b""
        first = start // PAGE
        whole = b"".join(self.page(number) for number in range(first, -(-end // PAGE)))
        return whole[start - first * PAGE : end - first * PAGE]

    def put(self, start: int, data: bytes) -> None:
        """Write to pages that are here, and make them dirty."""
        done = 0
        while done < len(data):
            number, within = divmod(start + done, PAGE)
            part = data[done : done + PAGE - within]
            self.page(number)[within : within + len(part)] = part
            if number not in self.dirty:
                self.dirty.append(number)
            done += len(part)

    def cut(self, end: int) -> None:
        """The stream ends at *end* now: forget what is cached behind it."""
        last = -(-end // PAGE)
        for number in [number for number in self.pages if number >= last]:
            del self.pages[number]
        self.dirty = [number for number in self.dirty if number < last]
        if end % PAGE and end // PAGE in self.pages:
            self.pages[end // PAGE][end % PAGE :] = bytes(PAGE - end % PAGE)


class DirtyStreams(Waitable):
    """The streams that the lazy writer has to look at."""

    __slots__ = ("queue",)

    guards = ("queue",)

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.queue: list[CacheMap] = []


class TakeDirtyStream(BlockingOperation[CacheMap]):
    """The lazy writer takes a stream with dirty pages; it is at rest as long as there is none."""

    __slots__ = ("streams",)
    kind = "take a stream of"
    idle = True

    def __init__(self, streams: DirtyStreams) -> None:
        super().__init__(streams)
        self.streams = streams

    def available(self, thread: Thread) -> bool:
        return bool(self.streams.queue)

    def take(self, thread: Thread) -> CacheMap:
        thread.write(self.streams)
        thread.acquire(self.streams)
        taken = self.streams.queue.pop(0)
        taken.queued = False
        self.streams.changed()
        return taken


class TakeDirtyPage(BlockingOperation["tuple[int, bytes] | None"]):
    """Take the next dirty page of a stream, which is clean from here on: its offset and bytes; None if there is none.

    Waits as long as another page is being written, so that two writes of one page come in order, and so that whoever
    flushes does not come back while something is still on its way.
    """

    __slots__ = ("map",)
    kind = "take a dirty page of"

    def __init__(self, map_: CacheMap) -> None:
        super().__init__(map_)
        self.map = map_

    def available(self, thread: Thread) -> bool:
        return self.map.writer is None

    def take(self, thread: Thread) -> tuple[int, bytes] | None:
        map_ = self.map
        thread.write(map_)
        thread.exchange(map_)
        thread.read(map_.stream.size)
        size = len(map_.stream.bytes)
        while map_.dirty:
            start = map_.dirty.pop(0) * PAGE
            if start < size:
                map_.writer = thread
                map_.changed()
                return start, map_.get(start, min(start + PAGE, size))
        return None


class Cache:
    """The cache of one volume."""

    def __init__(self, fs: FileSystem) -> None:
        self.fs = fs
        self.dirty = DirtyStreams(current_thread(), f"dirty streams of {fs.label}")
        self.faults: list[tuple[Open, int]] = []
        """The pages that requests of the current step have to be given first. Empty between steps."""
        self.owed: dict[CacheMap, KAPC] = {}
        """The releases after mapped writes that the writer's thread has not been told of yet."""
        writer = fs.runtime.spawn(f"lazy writer of {fs.label}", self._write_lazily(), service=True)
        assert isinstance(writer, KThread)
        takes_apcs(writer)

    def is_cached(self, request: Request) -> bool:
        """Whether a transfer goes through the cache."""
        return (
            request.major in {IRP_MJ_READ, IRP_MJ_WRITE}
            and not request.flags & (IRP_NOCACHE | IRP_PAGING_IO)
            and not request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING
        )

    def map_of(self, thread: Thread, opened: Open) -> CacheMap:
        """The cache map of a stream; the first cached transfer makes it, and has it refer to its file object."""
        stream = opened.stream
        found = stream.cached
        if not isinstance(found, CacheMap):
            found = stream.cached = CacheMap(stream, opened.file)
            thread.update(opened.file)
            opened.file.pending += 1
        return found

    # What transfers do, inside their step.

    def read(self, thread: Thread, opened: Open, start: int, end: int) -> bytes | None:
        """The bytes of a range that is there; None if a page has to be read first, of which a note is made."""
        map_ = self.map_of(thread, opened)
        number = map_.missing(start, end)
        if number is not None:
            thread.read(map_)
            self.faults.append((opened, number))
            return None
        thread.read(map_)
        return map_.get(start, end)

    def lacks(self, thread: Thread, opened: Open, start: int, end: int) -> bool:
        """Whether a write has to wait for a page: one that it overwrites in part, and that is on disk."""
        map_ = self.map_of(thread, opened)
        thread.read(map_)
        for place in (start, end):
            if place % PAGE:
                number = map_.missing(place, place + 1)
                if number is not None:
                    self.faults.append((opened, number))
                    return True
        return False

    def write(self, thread: Thread, opened: Open, start: int, data: bytes, *, mapped: bool = False) -> None:
        """Write to the cache, through a view if *mapped*, and have the lazy writer know."""
        map_ = self.map_of(thread, opened)
        thread.write(map_)
        map_.put(start, data)
        map_.mapped = map_.mapped or mapped
        if not map_.queued:
            map_.queued = True
            thread.write(self.dirty)
            thread.release(self.dirty)
            self.dirty.queue.append(map_)
            self.dirty.changed()

    def purge(self, thread: Thread, stream: Stream, end: int = 0) -> None:
        """Forget what is cached of *stream* from *end* on."""
        map_ = stream.cached
        if isinstance(map_, CacheMap):
            thread.write(map_)
            map_.cut(end)

    def let_go(self, thread: Thread, stream: Stream) -> None:
        """Nothing is open any more, or the last page is written: if both, the cache is no longer needed."""
        map_ = stream.cached
        if not isinstance(map_, CacheMap):
            return
        thread.write(map_)
        if not stream.node.links:
            map_.cut(0)
        if stream.opened or map_.dirty or map_.queued or map_.writer is not None or stream.mapped or map_ in self.owed:
            return
        stream.cached = None
        file = map_.file
        thread.update(file)
        file.pending -= 1
        if file.closer is not None and not file.pending:
            file.close_now()

    # Paging I/O.

    async def page_in(self) -> NTSTATUS:
        """Read the page that the current step has missed; a failure is that of the transfer."""
        opened, number = self.faults.pop()
        return await self.read_page(opened, number)

    async def read_page(self, opened: Open, number: int) -> NTSTATUS:
        """Read one page of a stream from disk. If the stream ends before it by now, there is nothing to read."""
        thread = current_kthread()
        map_ = self.map_of(thread, opened)
        parameters = Parameters(Length=PAGE, ByteOffset=number * PAGE)
        request = Request(opened.file.volume, map_.file, IRP_MJ_READ, parameters, flags=PAGING, mode=KernelMode)
        before, thread.top_level_irp = thread.top_level_irp, thread.top_level_irp or request
        status = await self.fs.send(request)
        thread.top_level_irp = before
        if NT_SUCCESS(status):
            thread.write(map_)
            # Somebody else may have been faster, and may have written to the page since.
            if number not in map_.pages:
                map_.pages[number] = bytearray(request.buffer.ljust(PAGE, b"\0"))
        return STATUS_SUCCESS if status == STATUS_END_OF_FILE else status

    async def write_pages(self, map_: CacheMap) -> NTSTATUS:
        """Write the dirty pages of a stream; the first failure. A page that cannot be written is lost."""
        result: NTSTATUS = STATUS_SUCCESS
        while (taken := await TakeDirtyPage(map_)) is not None:
            start, data = taken
            parameters = Parameters(Length=len(data), ByteOffset=start, Buffer=data)
            request = Request(map_.file.volume, map_.file, IRP_MJ_WRITE, parameters, flags=PAGING, mode=KernelMode)
            status = await self.fs.send(request)
            thread = current_thread()
            thread.write(map_)
            thread.exchange(map_)
            map_.writer = None
            map_.changed()
            if not NT_SUCCESS(status) and NT_SUCCESS(result):
                result = status
        return result

    async def flush(self, stream: Stream) -> NTSTATUS:
        """Write what is dirty of *stream* (CcFlushCache): filters are told before and after."""
        map_ = stream.cached
        if not isinstance(map_, CacheMap):
            return STATUS_SUCCESS
        thread = current_kthread()
        status = await self._tell(map_.file, IRP_MJ_ACQUIRE_FOR_CC_FLUSH, Parameters())
        if not NT_SUCCESS(status):
            # A filter did not want it now (FLT-FAST-16).
            return status
        status = await self.write_pages(map_)
        await self._tell(map_.file, IRP_MJ_RELEASE_FOR_CC_FLUSH, Parameters())
        self.let_go(thread, stream)
        return status

    async def _tell(self, file: FileObject, major: int, parameters: Parameters) -> NTSTATUS:
        request = Request(file.volume, file, major, parameters, kind=FS_FILTER_OPERATION, mode=KernelMode)
        return await self.fs.send(request)

    async def _write_lazily(self) -> None:
        """The lazy writer's thread."""
        thread = current_kthread()
        thread.top_level_irp = FSRTL_CACHE_TOP_LEVEL_IRP
        while True:
            if self.owed:
                # As soon as it has nothing else to do, which includes that it waits, the thread takes its APCs.
                thread.read(self.dirty)
                if not self.dirty.queue:
                    await self._release_all()
            map_ = await TakeDirtyStream(self.dirty)
            if map_ in self.owed:
                await self._release(map_)
            if map_.mapped:
                await self._write_mapped(map_)
            else:
                await self.write_pages(map_)
            self.let_go(thread, map_.stream)

    async def _write_mapped(self, map_: CacheMap) -> None:
        """Write what was changed through views, as the mapped page writer does: it asks before, and tells afterwards.

        The release is a special kernel APC of the writer's thread. It comes at once if there is nothing else to write,
        and otherwise wherever it interrupts what the thread does next (FLT-FAST-10).
        """
        thread = current_kthread()
        map_.mapped = False
        ending = (max(map_.dirty, default=0) + 1) * PAGE
        status = await self._tell(map_.file, IRP_MJ_ACQUIRE_FOR_MOD_WRITE, Parameters(EndingOffset=ending))
        if NT_SUCCESS(status):
            await self.write_pages(map_)

        async def release() -> None:
            del self.owed[map_]
            parameters = Parameters(ResourceToRelease=map_)
            await self._tell(map_.file, IRP_MJ_RELEASE_FOR_MOD_WRITE, parameters)
            self.let_go(thread, map_.stream)

        apc = KAPC(thread, SPECIAL_KERNEL, release, label=f"RELEASE_FOR_MOD_WRITE of {map_.stream.label}")
        apc.releases_pages = True
        self.owed[map_] = apc
        offer_apc(apc)

    async def _release(self, map_: CacheMap) -> None:
        """Tell now that *map_* was written."""
        apcs = current_kthread().apcs
        assert apcs is not None
        await apcs.run_offered(self.owed[map_])

    async def _release_all(self) -> None:
        """Tell all of that, the one that was written first first."""
        for map_ in list(self.owed):
            await self._release(map_)
