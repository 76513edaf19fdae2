"""The in-memory file system: enough of one for create, read, write, query information, cleanup and close.

Each request takes effect in one step, in the thread that brings it here, or later: in a thread of its own at
PASSIVE_LEVEL or DISPATCH_LEVEL, as a disk's DPC would complete it. Which of them happens is a choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.constants import (
    FILE_CREATE,
    FILE_OPEN,
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
    FILE_SUPERSEDE,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
)
from kemu.io.request import IRP_OPERATION, Completer, Request
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, KThread
from kemu.nt.status import (
    NTSTATUS,
    STATUS_CANCELLED,
    STATUS_END_OF_FILE,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.runtime import Actor, Cell, Operation, Runtime, Thread, current_thread

if TYPE_CHECKING:
    from kemu.nt.system import System

FILE_OPENED = 1
FILE_CREATED = 2
FILE_OVERWRITTEN = 3


class Node(Cell):
    """A file: its bytes, and how many opens it has."""

    __slots__ = ("data", "opens")

    def __init__(self, creator: Thread, path: str, data: bytes) -> None:
        super().__init__(creator, path)
        self.data = bytearray(data)
        self.opens = 0


class Directory(Cell):
    """All names of the volume."""

    __slots__ = ("nodes",)

    def __init__(self, creator: Thread) -> None:
        super().__init__(creator, "directory")
        self.nodes: dict[str, Node] = {}


class Perform(Operation[None]):
    """The file system carries a request out."""

    __slots__ = ("filesystem", "request")
    kind = "perform"

    def __init__(self, filesystem: FileSystem, request: Request) -> None:
        self.filesystem = filesystem
        self.request = request

    def perform(self, thread: Thread) -> None:
        self.filesystem.carry_out(thread, self.request)

    def target(self) -> Cell:
        file = self.request.file
        return file.fs_context if file.fs_context is not None else self.filesystem.directory

    def describe(self) -> str:
        return f"{self.filesystem.label} performs {self.request.label}"


class FileSystem(Actor):
    """The file system of one volume, at the bottom of its stack."""

    kind = "filesystem"

    def __init__(self, runtime: Runtime, system: System, label: str) -> None:
        super().__init__(runtime, f"fs:{label}")
        self.directory = Directory(current_thread())
        self.completer: Completer | None = None
        self._completion = system.options.completion

    def add(self, path: str, data: bytes = b"") -> None:
        """Put a file there before the run begins."""
        self.directory.nodes[_fold(path)] = Node(current_thread(), path, data)

    async def dispatch(self, request: Request) -> bool:
        """Carry *request* out now, or have it completed later by a thread of its own."""
        thread = current_thread()
        thread.actors.append(self)
        log = thread.runtime.log
        if log is not None:
            log("fs.call", about=request, path=request.file.FileName)
        when = 0
        if request.kind == IRP_OPERATION and self._completion != "inline":
            when = (
                1
                if self._completion == "later"
                else self.runtime.choose(3, f"{self.label} completes {request.label} later")
            )
        if when == 0:
            await Perform(self, request)
            thread.actors.pop()
            return True
        irql = PASSIVE_LEVEL if when == 1 else DISPATCH_LEVEL
        label = f"dpc:{request.label}@{self.label}" if irql == DISPATCH_LEVEL else f"io:{request.label}@{self.label}"
        self.runtime.spawn(label, self._complete_later(request, irql))
        thread.actors.pop()
        return False

    async def _complete_later(self, request: Request, irql: int) -> None:
        thread = current_thread()
        assert isinstance(thread, KThread)
        thread.actors.append(self)
        thread.irql = irql
        await Perform(self, request)
        assert self.completer is not None
        await self.completer.completed(request)

    def carry_out(self, thread: Thread, request: Request) -> None:
        """Let *request* take effect, inside the calling step."""
        major = request.major
        information = 0
        if major == IRP_MJ_CREATE:
            status, information = self._create(thread, request)
        elif major == IRP_MJ_READ:
            status, information = self._read(thread, request)
        elif major == IRP_MJ_WRITE:
            status, information = self._write(thread, request)
        elif major == IRP_MJ_QUERY_INFORMATION:
            status, information = self._query(thread, request)
        elif major == IRP_MJ_CLEANUP:
            status = STATUS_SUCCESS
        elif major == IRP_MJ_CLOSE:
            status = self._close(thread, request)
        else:
            status = STATUS_INVALID_DEVICE_REQUEST
        request.status = status
        request.information = information
        log = thread.runtime.log
        if log is not None:
            log("fs.return", about=request, status=status, info=information)

    def _create(self, thread: Thread, request: Request) -> tuple[NTSTATUS, int]:
        if self._cancelled(thread, request):
            return STATUS_CANCELLED, 0
        nodes = self.directory.nodes
        path = request.file.FileName
        disposition = request.parameters.Disposition
        node = nodes.get(_fold(path))
        if node is None:
            if disposition in {FILE_OPEN, FILE_OVERWRITE}:
                thread.read(self.directory)
                return STATUS_OBJECT_NAME_NOT_FOUND, 0
            thread.write(self.directory)
            node = nodes[_fold(path)] = Node(thread, path, b"")
            information = FILE_CREATED
        else:
            thread.read(self.directory)
            if disposition == FILE_CREATE:
                return STATUS_OBJECT_NAME_COLLISION, 0
            information = FILE_OPENED
            if disposition in {FILE_OVERWRITE, FILE_OVERWRITE_IF, FILE_SUPERSEDE}:
                node.data.clear()
                information = FILE_OVERWRITTEN
        thread.write(node)
        node.opens += 1
        request.file.fs_context = node
        return STATUS_SUCCESS, information

    def _read(self, thread: Thread, request: Request) -> tuple[NTSTATUS, int]:
        node = self._node(request)
        if self._cancelled(thread, request):
            return STATUS_CANCELLED, 0
        thread.read(node)
        start = request.parameters.ByteOffset
        if start >= len(node.data):
            return STATUS_END_OF_FILE, 0
        request.buffer = bytes(node.data[start : start + request.parameters.Length])
        return STATUS_SUCCESS, len(request.buffer)

    def _write(self, thread: Thread, request: Request) -> tuple[NTSTATUS, int]:
        node = self._node(request)
        if self._cancelled(thread, request):
            return STATUS_CANCELLED, 0
        thread.write(node)
        start = request.parameters.ByteOffset
        data = bytes(request.parameters.Buffer)
        if start > len(node.data):
            node.data.extend(bytes(start - len(node.data)))
        node.data[start : start + len(data)] = data
        return STATUS_SUCCESS, len(data)

    def _query(self, thread: Thread, request: Request) -> tuple[NTSTATUS, int]:
        node = self._node(request)
        thread.read(node)
        request.buffer = len(node.data).to_bytes(8, "little")
        return STATUS_SUCCESS, 8

    def _close(self, thread: Thread, request: Request) -> NTSTATUS:
        node = request.file.fs_context
        if node is not None:
            thread.write(node)
            node.opens -= 1
        return STATUS_SUCCESS

    def _cancelled(self, thread: Thread, request: Request) -> bool:
        thread.read(request.cancel)
        return request.cancel.requested

    def _node(self, request: Request) -> Node:
        node = request.file.fs_context
        assert node is not None, "the I/O manager lets no request through on a file that is not open"
        return node


def _fold(path: str) -> str:
    """File names are looked up without regard to case."""
    return path.upper()
