"""The file system of one volume, at the bottom of its stack.

Each request takes effect in one step, in the thread that brings it here, or later: in a thread of its own at
PASSIVE_LEVEL or DISPATCH_LEVEL, as a disk's DPC would complete it. Which of them happens is a choice. Some wait until
something else happens: for a byte-range lock, a change in a directory, the break of an oplock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from kemu.io.buffers import delivered
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SET_VOLUME_INFORMATION,
    IRP_MJ_VOLUME_DISMOUNT,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
)
from kemu.io.file_constants import FO_NO_INTERMEDIATE_BUFFERING, FSCTL_DISMOUNT_VOLUME
from kemu.io.filesystem import deletion, directory, fastio, information, locks, notify, opening, volume_information
from kemu.io.filesystem.cache import Cache
from kemu.io.filesystem.faults import fault_of
from kemu.io.filesystem.names import join, parse
from kemu.io.filesystem.nodes import CLUSTER, Entry, Link, Node, Open, Part, Stream, round_up
from kemu.io.filesystem.oplocks import forget_oplock
from kemu.io.filesystem.short_names import add_alias
from kemu.io.filesystem.waiting import Waiting
from kemu.io.parameters import Parameters
from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION, Completer, FileObject, Request
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, KThread
from kemu.nt.process import KernelMode
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FSFILTER_OP_COMPLETED_SUCCESSFULLY,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.runtime import Actor, Cell, Operation, Runtime, Thread, current_thread

if TYPE_CHECKING:
    from kemu.nt.system import System

Result = tuple[NTSTATUS, int]
"""Status and information of a request; STATUS_PENDING if it waits."""
Handler = Callable[["FileSystem", Thread, Request], Result]


class ContextKeeper(Protocol):
    """Keeps something for files that ends when they are closed, as FsRtl's contexts do."""

    def closed(self, thread: Thread, opened: Open) -> None:
        """The file object of *opened* is closed, in the step of *thread*."""
        ...

    async def tear_down(self, file: FileObject) -> None:
        """Called after that step, in the same thread."""
        ...


class Perform(Operation[bool]):
    """The file system carries a request out; false if it has to wait."""

    __slots__ = ("filesystem", "request")
    kind = "perform"

    def __init__(self, filesystem: FileSystem, request: Request) -> None:
        self.filesystem = filesystem
        self.request = request

    def perform(self, thread: Thread) -> bool:
        return self.filesystem.carry_out(thread, self.request)

    def target(self) -> Cell:
        opened = self.request.file.fs_context
        if isinstance(opened, Open):
            return opened.stream.data
        return self.filesystem.cell_of(self.request.file.FileName)

    def describe(self) -> str:
        return f"{self.filesystem.label} performs {self.request.label}"


class FileSystem(Actor):
    """The file system of one volume."""

    kind = "filesystem"

    def __init__(self, runtime: Runtime, system: System, label: str) -> None:
        super().__init__(runtime, f"fs:{label}")
        self.system = system
        thread = current_thread()
        self.root = Node(thread, "\\", is_directory=True)
        self.root_link = Link(None, "", self.root)
        self.root.links.append(self.root_link)
        self.watched = Cell(thread, f"watches on {label}")
        self.space_cell = Part(self.presence, ("free space of", 1))
        self.is_mounted = True
        """The cell of this is `presence`."""
        self.volume_label = ""
        self.nodes: list[Node] = [self.root]
        """All files and directories that there ever were."""
        self.watches: list[notify.Watch] = []
        self.limit: int | None = None
        """The size of the volume in clusters, or None for one that never gets full."""
        self.volume_link: Link | None = None
        """What handles of the volume itself are open on, once there was one."""
        self.open_files = 0
        """How many file objects are open. The cell of this is `presence`, which every create and close reads."""
        self.emptied: Callable[[Thread], None] | None = None
        """Told when the last file object of a volume that was dismounted is closed, in the step of that."""
        self.used = 0
        """How much of that is taken, in bytes."""
        self.due: list[tuple[Request, bool]] = []
        """What the current step has completed of other requests, or is to carry out again. Empty between steps."""
        self.completer: Completer | None = None
        self.sender: Callable[[Request], Awaitable[NTSTATUS]] | None = None
        """Sends a request from the top of the stack and waits for it: the I/O manager."""
        self.lock_waiters: dict[Stream, list[Waiting]] = {}
        self._completion = system.options.completion
        self.cache = Cache(self) if system.options.cached_io else None
        """None unless reads and writes are cached."""
        self._faults = system.options.io_faults
        self.times = system.options.file_times
        self.contexts: ContextKeeper | None = None
        """None unless somebody keeps contexts of files, streams or file objects."""
        self.has_file_contexts = True
        """Whether a file has contexts of its own, apart from those of its streams; false as on FAT."""
        self.short_names = system.options.short_names
        """Whether files have short names beside their long ones, and removed names are tunnelled."""

    # Before the run.

    def add(self, path: str, content: bytes = b"") -> Node:
        """Put a file there before the run begins, and the directories that lead to it."""
        parsed = parse(path)
        assert not isinstance(parsed, NTSTATUS), f"{path!r} is not a path"
        thread = current_thread()
        node = self.root
        for name in parsed.components[:-1]:
            link = node.entry(name).link
            node = link.node if link is not None else self.new_node(thread, name, node, is_directory=True)
        link = node.entry(parsed.name).link
        if link is None:
            return self.new_node(thread, parsed.name, node, is_directory=False, content=content)
        stream = link.node.stream
        stream.bytes[:] = content
        stream.valid = len(content)
        return link.node

    def add_directory(self, path: str) -> Node:
        """Put a directory there before the run begins, and those that lead to it."""
        parsed = parse(path)
        assert not isinstance(parsed, NTSTATUS), f"{path!r} is not a path"
        thread = current_thread()
        node = self.root
        for name in parsed.components:
            link = node.entry(name).link
            node = link.node if link is not None else self.new_node(thread, name, node, is_directory=True)
        return node

    def find(self, path: str) -> Node | None:
        """The file or directory of that path, for invariants and tests: no part of the run looks at it."""
        parsed = parse(path)
        if isinstance(parsed, NTSTATUS):
            return None
        node = self.root
        for name in parsed.components:
            link = node.entry(name).found
            if link is None:
                return None
            node = link.node
        return node

    # What the parts have in common.

    def new_node(
        self, thread: Thread, name: str, parent: Node, *, is_directory: bool, content: bytes = b"", short: str = ""
    ) -> Node:
        """Make a file or a directory called *name* in *parent*, with the short name *short* if it gets one."""
        time = self.now(thread) if self.times else 0
        node = Node(thread, join(parent.label, name), is_directory=is_directory, data=content, time=time)
        link = Link(parent, name, node)
        node.links.append(link)
        parent.entry(name).link = link
        if self.short_names:
            add_alias(thread, link, short)
        self.nodes.append(node)
        self.used += node.stream.allocation
        return node

    def undo(self, entry: Entry) -> None:
        """Take back what the calling step has created under *entry*."""
        link = entry.link
        entry.link = None
        if link is not None and link.short is not None and link.directory is not None:
            link.directory.entry(link.short).alias = None
        self.nodes.pop()

    def free(self, thread: Thread, node: Node) -> None:
        """A file is gone: its last name and its last open are."""
        if self.limit is not None:
            thread.write(self.space_cell)
        self.used -= sum(stream.allocation for stream in (node.stream, *node.streams.values()))

    def now(self, thread: Thread) -> int:
        """The time to stamp a file with; 0 unless times are asked for, so that nothing depends on the clock."""
        return self.runtime.clock.read(thread) if self.times else 0

    def stamp(self, thread: Thread, node: Node) -> None:
        """A file was written to; to be called only if times are kept."""
        thread.write(node.basic)
        node.last_write_time = node.change_time = self.now(thread)

    def notify(self, thread: Thread, link: Link, kind: int, action: int, stream: Stream | None = None) -> None:
        """Something happened to *link* that watches of directories may want to know."""
        thread.read(self.watched)
        if self.watches:
            notify.report(self, thread, link, kind, action, stream)

    def waiters_of(self, stream: Stream) -> list[Waiting]:
        """The requests that wait for a byte-range lock of *stream*."""
        return self.lock_waiters.setdefault(stream, [])

    def reserve(self, thread: Thread, stream: Stream, size: int, *, shrink: bool = False) -> bool:
        """Give *stream* room for *size* bytes; false if the volume is full."""
        needed = round_up(size)
        if needed <= stream.allocation and not shrink:
            return True
        grows = needed - stream.allocation
        if self.limit is not None:
            thread.write(self.space_cell)
            if grows > 0 and self.used + grows > self.limit * CLUSTER:
                return False
        self.used += grows
        stream.allocation = needed
        return True

    def cell_of(self, path: str) -> Cell:
        """The cell that a create of *path* is mostly about."""
        parsed = parse(path)
        if isinstance(parsed, NTSTATUS) or not parsed.components:
            return self.root
        node = self.root
        for name in parsed.components[:-1]:
            link = node.entry(name).found
            if link is None:
                return node.entry(name)
            node = link.node
        return node.entry(parsed.name)

    # Requests.

    async def dispatch(self, request: Request) -> bool:
        """Carry *request* out now, or have it completed later by a thread of its own."""
        thread = current_thread()
        thread.actors.append(self)
        log = thread.runtime.log
        if log is not None:
            log("fs.call", about=request, path=request.file.FileName)
        if (
            request.kind == FAST_IO_OPERATION
            and request.major in {IRP_MJ_READ, IRP_MJ_WRITE}
            and not await fastio.is_possible(self, request)
        ):
            request.status = fastio.REFUSED
            thread.actors.pop()
            return True
        when = 0
        if (
            self._completion != "inline"
            and request.kind == IRP_OPERATION
            and (self.cache is None or not self.cache.is_cached(request))
        ):
            when = (
                1
                if self._completion == "later"
                else self.runtime.choose(3, f"{self.label} completes {request.label} later")
            )
        if when == 0:
            done = await Perform(self, request) if self.cache is None else await self._through_cache(request)
            if self.due:
                await self.settle()
            if self.contexts is not None and request.major == IRP_MJ_CLOSE:
                await self.contexts.tear_down(request.file)
            if has_dismounted(request):
                await self._tell_dismounted(request)
            thread.actors.pop()
            return done
        irql = PASSIVE_LEVEL if when == 1 else DISPATCH_LEVEL
        label = f"dpc:{request.label}@{self.label}" if irql == DISPATCH_LEVEL else f"io:{request.label}@{self.label}"
        self.runtime.spawn(label, self._complete_later(request, irql))
        thread.actors.pop()
        return False

    async def _complete_later(self, request: Request, irql: int) -> None:
        thread = current_thread()
        assert isinstance(thread, KThread)
        thread.actors.append(self)
        if self.cache is None:
            thread.irql = irql
            done = await Perform(self, request)
        else:
            # Pages are read and written at PASSIVE_LEVEL; only the completion may come from a DPC.
            done = await self._through_cache(request)
        if self.due:
            await self.settle()
        if self.contexts is not None and request.major == IRP_MJ_CLOSE:
            await self.contexts.tear_down(request.file)
        if has_dismounted(request):
            await self._tell_dismounted(request)
        if done:
            thread.irql = irql
            assert self.completer is not None
            await self.completer.completed(request)

    async def _tell_dismounted(self, request: Request) -> None:
        """Let filters know that *request* has dismounted the volume (IRP_MJ_VOLUME_DISMOUNT)."""
        told = Request(
            request.volume,
            request.file,
            IRP_MJ_VOLUME_DISMOUNT,
            Parameters(),
            kind=FAST_IO_OPERATION,
            mode=KernelMode,
        )
        await self.send(told)

    async def send(self, request: Request) -> NTSTATUS:
        """Send *request* from the top of the volume's stack, and wait for it."""
        assert self.sender is not None
        return await self.sender(request)

    async def complete(self, request: Request) -> None:
        """Give *request*, whose result is known, back to whoever sent it, and go on with what became due."""
        assert self.completer is not None
        if self.due:
            await self.settle()
        await self.completer.completed(request)

    async def settle(self) -> None:
        """Complete what the current step has made complete, and carry out again what waited for it."""
        due, self.due = self.due, []
        for request, again in due:
            if not again or await self._through_cache(request):
                await self.complete(request)
            elif self.due:
                await self.settle()

    async def _through_cache(self, request: Request) -> bool:
        """Carry *request* out after what the cache has to do for it: write pages first, or read them."""
        cache = self.cache
        if cache is None:
            return await Perform(self, request)
        opened = request.file.fs_context
        if isinstance(opened, Open) and needs_flush(request) and opened.stream.cached is not None:
            status = await cache.flush(opened.stream)
            if request.major == IRP_MJ_FLUSH_BUFFERS and not NT_SUCCESS(status):
                request.status = status
                return True
        while not await Perform(self, request):
            if not cache.faults:
                return False
            status = await cache.page_in()
            if not NT_SUCCESS(status):
                request.status, request.information = status, 0
                return True
        return True

    def purge(self, thread: Thread, stream: Stream, end: int = 0) -> None:
        """Forget what is cached of *stream* from *end* on."""
        if self.cache is not None:
            self.cache.purge(thread, stream, end)

    def cancelled(self, thread: Thread, waiting: Waiting) -> None:
        """The request that *waiting* is about was cancelled, and is off its list."""
        opened = waiting.request.file.fs_context
        if isinstance(opened, Open) and waiting.request.major == IRP_MJ_FILE_SYSTEM_CONTROL:
            forget_oplock(thread, waiting, opened.stream)

    def carry_out(self, thread: Thread, request: Request) -> bool:
        """Let *request* take effect, inside the calling step; false if it has to wait."""
        handler = HANDLERS.get(request.major)
        fault = fault_of(self, request) if self._faults else None
        if request.kind == FAST_IO_OPERATION and not fastio.allows(self, thread, request):
            status, information_ = fastio.REFUSED, 0
        elif fault is not None:
            status, information_ = fault, 0
        elif handler is not None:
            status, information_ = handler(self, thread, request)
            if status == STATUS_PENDING:
                return False
        elif request.kind == FS_FILTER_OPERATION:
            sections = request.major == IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION
            status = STATUS_FSFILTER_OP_COMPLETED_SUCCESSFULLY if sections else STATUS_SUCCESS
            information_ = 0
        else:
            status, information_ = STATUS_INVALID_DEVICE_REQUEST, 0
        request.status = status
        request.information = information_
        if request.memory is not None:
            delivered(thread, request)
        log = thread.runtime.log
        if log is not None:
            log("fs.return", about=request, status=status, info=information_)
        return True


def has_dismounted(request: Request) -> bool:
    """Whether *request* was one to dismount the volume, and has done so."""
    return (
        request.major == IRP_MJ_FILE_SYSTEM_CONTROL
        and request.parameters.FsControlCode == FSCTL_DISMOUNT_VOLUME
        and NT_SUCCESS(request.status)
        and request.status != STATUS_PENDING
    )


def needs_flush(request: Request) -> bool:
    """Whether dirty pages have to be on disk before *request*: it asks for that, or looks at the disk itself."""
    if request.major == IRP_MJ_FLUSH_BUFFERS:
        return True
    direct = bool(request.flags & IRP_NOCACHE or request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING)
    return request.major in {IRP_MJ_READ, IRP_MJ_WRITE} and direct and not request.flags & IRP_PAGING_IO


def _close(fs: FileSystem, thread: Thread, request: Request) -> Result:
    """IRP_MJ_CLOSE: the last reference is gone. What others can see of that happened at cleanup, but for contexts."""
    opened = request.file.fs_context
    if isinstance(opened, Open):
        opened.stream.files -= 1
        opened.node.files -= 1
        if fs.contexts is not None:
            fs.contexts.closed(thread, opened)
        thread.read(fs.presence)
        fs.open_files -= 1
        if not fs.is_mounted:
            thread.write(fs.presence)
            if not fs.open_files and fs.emptied is not None:
                fs.emptied(thread)
    return STATUS_SUCCESS, 0


HANDLERS: dict[int, Handler] = {
    IRP_MJ_CREATE: opening.create,
    **fastio.HANDLERS,
    IRP_MJ_READ: fastio.read,
    IRP_MJ_WRITE: fastio.write,
    IRP_MJ_QUERY_INFORMATION: information.query,
    IRP_MJ_SET_INFORMATION: information.change,
    IRP_MJ_CLEANUP: deletion.cleanup,
    IRP_MJ_CLOSE: _close,
    IRP_MJ_DIRECTORY_CONTROL: directory.control,
    IRP_MJ_LOCK_CONTROL: locks.lock_control,
    IRP_MJ_FILE_SYSTEM_CONTROL: volume_information.control,
    IRP_MJ_QUERY_VOLUME_INFORMATION: volume_information.query,
    IRP_MJ_SET_VOLUME_INFORMATION: volume_information.change,
    IRP_MJ_FLUSH_BUFFERS: volume_information.flush,
}
