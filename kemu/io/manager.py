"""The I/O manager: issuing requests for user threads, waiting for them, cancelling them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Unpack

from kemu.io.attempts import Attempts
from kemu.io.buffers import memory_of
from kemu.io.constants import (
    FILE_OPEN_IF,
    FO_SYNCHRONOUS_IO,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
)
from kemu.io.ecp import Ecps
from kemu.io.file_constants import FO_HANDLE_CREATED, FO_VOLUME_OPEN
from kemu.io.filesystem.names import dos_path
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
from kemu.nt.object import ObjectManager
from kemu.nt.process import Process
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK, RAISED, check_level
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DISALLOW_FAST_IO,
    STATUS_REPARSE,
    STATUS_REPARSE_POINT_NOT_RESOLVED,
    STATUS_SUCCESS,
)
from kemu.nt.system import System, current_system
from kemu.nt.transaction import KTRANSACTION
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, current_thread

MOST_REPARSES: Final = 32
"""How many times one open is sent again (a choice of kemu's)."""


def file_object(volume: Volume, path: str, *, synchronous: bool) -> FileObject:
    """A new file object for *path* on *volume*; for the volume itself if there is no path."""
    file = FileObject(volume, path, FO_SYNCHRONOUS_IO if synchronous else 0)
    if not path:
        file.label = volume.dos_name
        file.Flags |= FO_VOLUME_OPEN
    return file


class IoManager:
    """The I/O manager of one run."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.cancel_lock = KSPIN_LOCK("cancel spin lock")
        self.cancel_lock.initialised = True
        self.outstanding: list[Request] = []
        self.attempts = Attempts(system)
        self.volumes: list[Volume] = []
        """The volumes, oldest first."""
        self.by_name: dict[str, Volume] = {}
        """Those that the names of drives lead to."""
        """The mounted volumes, oldest first."""
        self.ecps = Ecps()
        system.add(self.ecps)

    def mount(self, volume: Volume) -> None:
        """Take *volume* up, whose file system sends its paging I/O from the top of the stack."""
        self.volumes.append(volume)
        self.remember(volume)
        volume.filesystem.sender = self.call

    def remember(self, volume: Volume) -> None:
        """Let names lead to *volume*, and no more to a dismounted one that was called so."""
        self.by_name[volume.dos_name.upper()] = volume

    def volume_named(self, path: str) -> Volume | None:
        r"""The volume that a path of a program is on, ``D:\a``, or means itself, ``\\.\D:``; None without one."""
        drive = path[4:] if path.startswith(("\\\\.\\", "\\\\?\\")) else path
        return self.by_name.get(drive[:2].upper())

    async def start(self, request: Request) -> None:
        """Send *request* down the calling thread; returns when the stack returns, complete or not."""
        current_kthread().issued = True
        await self._send(request)

    async def _send(self, request: Request) -> None:
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
        if await (file.below or request.volume.top).dispatch(request) and not request.done:
            request.finish(thread)

    async def call(self, request: Request) -> NTSTATUS:
        """Send *request* down and wait for its completion."""
        await self._send(request)
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
        transaction: KTRANSACTION | None = None,
        **members: Unpack[Members],
    ) -> tuple[NTSTATUS, FileObject | None]:
        """Open a file: its status, and the file object if that is a success. *members* are more of the parameters."""

        async def send(file: FileObject) -> Request:
            parameters = Parameters(Disposition=disposition, **members)
            request = Request(file.volume, file, IRP_MJ_CREATE, parameters)
            await self.call(request)
            return request

        file = file_object(volume, path, synchronous=synchronous)
        file.transaction = transaction
        request = await self.open(send, file)
        if not NT_SUCCESS(request.status):
            return request.status, None
        request.file.Flags |= FO_HANDLE_CREATED
        return request.status, request.file

    async def open(self, send: Callable[[FileObject], Awaitable[Request]], file: FileObject) -> Request:
        """Have *send* send a create for *file*; again, for the name that the file object has then, as long as that is
        answered with STATUS_REPARSE (FLT-IO-24). Returns the last request, whose file object is another one then.
        """
        ecps = self.ecps
        request = await send(file)
        rounds = 0
        while request.status == STATUS_REPARSE:
            rounds += 1
            if rounds > MOST_REPARSES:
                request.status = STATUS_REPARSE_POINT_NOT_RESOLVED
                break
            again = self._renamed(file)
            ecps.move(file, again)
            file = again
            request = await send(file)
        if ecps.of:
            await ecps.end(file)
        return request

    def _renamed(self, file: FileObject) -> FileObject:
        """A new file object for the name that *file* was given instead of its own."""
        name = file.FileName
        if name.upper().startswith("\\??\\"):
            name = name[4:]
        volume = next((one for one in self.volumes if name.upper().startswith(one.dos_name.upper())), file.volume)
        again = FileObject(volume, dos_path(name), file.Flags & FO_SYNCHRONOUS_IO)
        again.handles = file.handles
        again.below = file.below
        again.transaction = file.transaction
        return again

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
        file.left = True
        if file.pending:
            thread.write(file)
            file.closer = lambda: self.close_later(file)
        elif not file.ended and not self._is_referenced(file):
            await self.send_close(file)
        return status

    async def send_close(self, file: FileObject) -> None:
        """Send the close request."""
        file.ended = True
        await self.call(Request(file.volume, file, IRP_MJ_CLOSE, Parameters()))

    def close_later(self, file: FileObject) -> None:
        """Send the close request from a thread of its own, unless a driver refers to the file: the last reference went
        at any IRQL, in any thread.
        """
        if not self._is_referenced(file):
            file.ended = True
            self.system.runtime.spawn(f"close:{file.FileName}", self.send_close(file))

    def _is_referenced(self, file: FileObject) -> bool:
        """Whether a driver holds a reference: the close then comes when that is dropped."""
        header = self.system.get(ObjectManager).known_header(file)
        if header is None:
            return False
        current_thread().read(header)
        return bool(header.pointers)

    async def transfer(
        self, file: FileObject, major: int, parameters: Parameters, *, fast: bool = False, flags: int = 0
    ) -> Request:
        """Read, write or query and wait; *fast* tries fast I/O first and falls back to an IRP (FLT-FAST-05)."""
        if fast:
            with self.attempts.of_one_request(current_thread()) as attempt:
                request = Request(file.volume, file, major, parameters, kind=FAST_IO_OPERATION)
                await self.call(request)
                if request.status == STATUS_FLT_DISALLOW_FAST_IO:
                    attempt.again()
                    request = Request(file.volume, file, major, parameters, kind=IRP_OPERATION, flags=flags)
                    await self.call(request)
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

    async def cancel(self, request: Request, *, again: bool = False) -> bool:
        """IoCancelIrp: set the cancel bit and run the cancel routine, if there is one, on the calling thread.

        With *again* also one that was set after an earlier cancellation.
        """
        routine_to_run = await SetCancelBit(request, self.cancel_lock, again=again)
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
        requests = [one for one in self.manager.outstanding if one.thread is not None and self.issued(one.thread)]
        for request in requests:
            thread.read(request)
        return [request for request in requests if not request.done]

    def target(self) -> Cell:
        return self.owner


class SetCancelBit(BlockingOperation[CancelRoutine | None]):
    """Under the cancel spin lock, set the cancel bit and take the cancel routine away."""

    __slots__ = ("again", "request")
    kind = "cancel"

    def __init__(self, request: Request, lock: OwnedLock, *, again: bool = False) -> None:
        super().__init__(lock)
        self.request = request
        self.again = again

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
        if request.done or (cancel.requested and not self.again):
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
