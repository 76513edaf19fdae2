"""The I/O manager: issuing requests for user threads, waiting for them, cancelling them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from kemu.io.buffers import memory_of
from kemu.io.constants import (
    FILE_OPEN_IF,
    FO_SYNCHRONOUS_IO,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
)
from kemu.io.parameters import Members, Parameters
from kemu.io.request import (
    CLASS_NAMES,
    FAST_IO_OPERATION,
    IRP_OPERATION,
    CancelRoutine,
    FileObject,
    HeldCancelRoutine,
    Request,
    WaitDone,
)
from kemu.io.volume import Volume
from kemu.nt.buffer import Region
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.lock import AcquireLock, OwnedLock, ReleaseLock, check_acquire, check_lowered, check_release
from kemu.nt.lockorder import LockOrder
from kemu.nt.process import Process
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK, RAISED, check_level
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_FLT_DISALLOW_FAST_IO, STATUS_SUCCESS
from kemu.nt.system import System, current_system
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, current_thread


class IoManager:
    """The I/O manager of one run."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.cancel_lock = KSPIN_LOCK("cancel spin lock")
        self.cancel_lock.initialised = True
        self.outstanding: list[Request] = []
        self.volumes: list[Volume] = []
        """The mounted volumes, oldest first."""

    def mount(self, volume: Volume) -> None:
        """Take *volume* up, whose file system sends its paging I/O from the top of the stack."""
        self.volumes.append(volume)
        volume.filesystem.sender = self.call

    async def start(self, request: Request) -> None:
        """Send *request* down the calling thread; returns when the stack returns, complete or not."""
        thread = current_thread()
        log = thread.runtime.log
        if log is not None:
            log("irp.create", about=request, path=request.file.FileName, kind=CLASS_NAMES[request.kind])
        # Starting commutes with starting; only who lists the requests of a file sees the order.
        file = request.file
        if isinstance(request.parameters.Buffer, Region):
            memory_of(request)
        thread.update(file)
        file.pending += 1
        self.outstanding.append(request)
        if await request.volume.top.dispatch(request) and not request.done:
            request.finish(thread)

    async def call(self, request: Request) -> NTSTATUS:
        """Send *request* down and wait for its completion."""
        await self.start(request)
        status = await WaitDone(request)
        self.outstanding.remove(request)
        return status

    async def create(
        self,
        volume: Volume,
        path: str,
        disposition: int = FILE_OPEN_IF,
        *,
        synchronous: bool = True,
        **members: Unpack[Members],
    ) -> tuple[NTSTATUS, FileObject | None]:
        """Open a file: its status, and the file object if that is a success. *members* are more of the parameters."""
        file = FileObject(volume, path, FO_SYNCHRONOUS_IO if synchronous else 0)
        status = await self.call(Request(volume, file, IRP_MJ_CREATE, Parameters(Disposition=disposition, **members)))
        return status, file if NT_SUCCESS(status) else None

    async def close(self, file: FileObject) -> NTSTATUS:
        """Close a handle. The last one's end sends a cleanup request, and a close request when nothing else refers
        to the file object: requests under way and sections do.
        """
        thread = current_thread()
        thread.write(file)
        file.handles -= 1
        if file.handles:
            return STATUS_SUCCESS
        status = await self.call(Request(file.volume, file, IRP_MJ_CLEANUP, Parameters()))
        thread.read(file)
        if file.pending:
            thread.write(file)
            file.closer = lambda: self._close_later(file)
        else:
            await self.call(Request(file.volume, file, IRP_MJ_CLOSE, Parameters()))
        return status

    async def send_close(self, file: FileObject) -> None:
        """Send the close request."""
        await self.call(Request(file.volume, file, IRP_MJ_CLOSE, Parameters()))

    def _close_later(self, file: FileObject) -> None:
        """Send the close request from a thread of its own: the last reference went at any IRQL, in any thread."""
        self.system.runtime.spawn(f"close:{file.FileName}", self.send_close(file))

    async def transfer(
        self, file: FileObject, major: int, parameters: Parameters, *, fast: bool = False, flags: int = 0
    ) -> Request:
        """Read, write or query and wait; *fast* tries fast I/O first and falls back to an IRP (FLT-FAST-05)."""
        if fast:
            request = Request(file.volume, file, major, parameters, kind=FAST_IO_OPERATION)
            await self.call(request)
            if request.status != STATUS_FLT_DISALLOW_FAST_IO:
                return request
        request = Request(file.volume, file, major, parameters, kind=IRP_OPERATION, flags=flags)
        await self.call(request)
        return request

    async def cancel_file(self, file: FileObject) -> int:
        """CancelIoEx for a handle: cancel everything that is outstanding on *file*; how many had a cancel routine."""
        told = 0
        for request in await ListRequests(self, file):
            told += await self.cancel(request)
        return told

    async def cancel_thread(self, thread: Thread) -> int:
        """Cancel what *thread*, which is about to exit, has issued (KE-CANCEL-10); how many had a cancel routine."""
        told = 0
        for request in await ListRequestsOf(self, thread, lambda issuer: issuer is thread):
            told += await self.cancel(request)
        return told

    async def cancel_process(self, process: Process) -> int:
        """Cancel what the threads of *process*, which is about to exit, have issued (KE-CANCEL-10)."""
        told = 0

        def is_of_process(issuer: Thread) -> bool:
            return isinstance(issuer, KThread) and issuer.process is process

        for request in await ListRequestsOf(self, process, is_of_process):
            told += await self.cancel(request)
        return told

    async def cancel(self, request: Request) -> bool:
        """IoCancelIrp: set the cancel bit and run the cancel routine, if there is one, on the calling thread."""
        routine_to_run = await SetCancelBit(request, self.cancel_lock)
        if routine_to_run is None:
            return False
        await routine_to_run()
        return True


class ListRequests(Operation[list[Request]]):
    """The requests that are outstanding on a file."""

    __slots__ = ("file", "manager")
    kind = "list the requests of"

    def __init__(self, manager: IoManager, file: FileObject) -> None:
        self.manager = manager
        self.file = file

    def perform(self, thread: Thread) -> list[Request]:
        thread.read(self.file)
        requests = [request for request in self.manager.outstanding if request.file is self.file]
        for request in requests:
            thread.read(request)
        return [request for request in requests if not request.done]

    def target(self) -> FileObject:
        return self.file


class ListRequestsOf(Operation[list[Request]]):
    """The requests of a thread, or of all threads of a process, that are outstanding."""

    __slots__ = ("issued", "manager", "owner")
    kind = "list the requests of"

    def __init__(self, manager: IoManager, owner: Cell, issued: Callable[[Thread], bool]) -> None:
        self.manager = manager
        self.owner = owner
        self.issued = issued

    def perform(self, thread: Thread) -> list[Request]:
        requests = [request for request in self.manager.outstanding if self.issued(request.thread)]
        for request in requests:
            thread.read(request)
        return [request for request in requests if not request.done]

    def target(self) -> Cell:
        return self.owner


class SetCancelBit(BlockingOperation[CancelRoutine | None]):
    """Under the cancel spin lock, set the cancel bit and take the cancel routine away."""

    __slots__ = ("request",)
    kind = "cancel"

    def __init__(self, request: Request, lock: OwnedLock) -> None:
        super().__init__(lock)
        self.request = request

    def available(self, thread: Thread) -> bool:
        lock = self.sources[0]
        assert isinstance(lock, OwnedLock)
        return lock.owner is None

    def take(self, thread: Thread) -> CancelRoutine | None:
        request = self.request
        lock = self.sources[0]
        thread.write(lock)
        thread.exchange(lock)
        if isinstance(thread, KThread) and thread.locks:
            thread.runtime.system.get(LockOrder).note(thread, lock)
        cancel = request.cancel
        thread.write(cancel)
        thread.exchange(cancel)
        thread.read(request)
        log = thread.runtime.log
        if log is not None:
            log("irp.cancel", about=request)
        if request.done or cancel.requested:
            return None
        cancel.requested = True
        taken, cancel.routine = cancel.routine, None
        if isinstance(taken, HeldCancelRoutine):
            taken.hold(thread, lock)
        return taken

    def describe(self) -> str:
        return f"cancel {self.request.label}"


@routine("wdm", "VOID IoAcquireCancelSpinLock(_Out_ PKIRQL Irql)", max_irql=DISPATCH_LEVEL)
async def IoAcquireCancelSpinLock() -> int:
    """Hold the system's cancel spin lock and return the old IRQL. IRQL: <= DISPATCH_LEVEL."""
    lock = current_system().get(IoManager).cancel_lock
    thread = current_kthread()
    check_acquire(lock, thread, "IoAcquireCancelSpinLock")
    await AcquireLock(lock)
    lock.how = RAISED
    lock.old_irql = old_irql = thread.irql
    thread.irql = DISPATCH_LEVEL
    return lock.saves(old_irql)


@routine(
    "wdm",
    "VOID IoReleaseCancelSpinLock(_In_ KIRQL Irql)",
    min_irql=DISPATCH_LEVEL,
    max_irql=DISPATCH_LEVEL,
)
async def IoReleaseCancelSpinLock(Irql: int) -> None:
    """Give the cancel spin lock up and go back to *Irql*, which the acquisition returned.

    IRQL: DISPATCH_LEVEL, by the owner. Another value: finding ``ke.irql-nesting``.
    """
    lock = current_system().get(IoManager).cancel_lock
    thread = current_kthread()
    check_release(lock, thread, "IoReleaseCancelSpinLock")
    check_level(lock, Irql, "IoReleaseCancelSpinLock")
    check_lowered(thread, Irql, "IoReleaseCancelSpinLock", lock)
    await ReleaseLock(lock)
    thread.irql = Irql
