"""Requests and file objects: what travels down the device stack of a volume."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from kemu.io.constants import FO_SYNCHRONOUS_IO, IRP_PAGING_IO, IRP_SYNCHRONOUS_API, major_name
from kemu.io.parameters import Parameters
from kemu.nt.status import NTSTATUS, STATUS_PENDING
from kemu.runtime import BlockingOperation, Cell, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.io.buffers import Memory
    from kemu.io.volume import Volume
    from kemu.nt.transaction import KTRANSACTION

IRP_OPERATION: Final = 0x1
FAST_IO_OPERATION: Final = 0x2
FS_FILTER_OPERATION: Final = 0x4

CLASS_NAMES: Final = {IRP_OPERATION: "IRP", FAST_IO_OPERATION: "fast I/O", FS_FILTER_OPERATION: "FSFilter"}


class FileObject(Cell):
    """FILE_OBJECT: one open instance of a file."""

    __slots__ = (
        "CurrentByteOffset",
        "FileName",
        "Flags",
        "FsContext",
        "FsContext2",
        "below",
        "closer",
        "ended",
        "fs_context",
        "handles",
        "left",
        "lock",
        "pending",
        "transaction",
        "volume",
    )

    def __init__(self, volume: Volume, name: str, flags: int = FO_SYNCHRONOUS_IO) -> None:
        super().__init__(current_thread(), name)
        self.volume = volume
        self.FileName = name
        self.Flags = flags
        self.FsContext: Any = None
        """The driver's whose device the file is open on, as is FsContext2."""
        self.FsContext2: Any = None
        self.CurrentByteOffset = 0
        """The position of synchronous I/O."""
        self.transaction: KTRANSACTION | None = None
        """The transaction that it was opened in."""
        self.handles = 1
        """Handles to it. The last one's end sends a cleanup."""
        self.pending = 0
        """Requests under way and views of sections, each of which refers to it. The close comes after the last."""
        self.lock: Any = None
        """What makes the synchronous I/O of programs come one after another, if it was opened for that."""
        self.closer: Callable[[], None] | None = None
        """Sends the close, if the last handle is gone and only such references are left."""
        self.fs_context: Any = None
        """The file system's own record of the open file; None until the create succeeded."""
        self.below: IoTarget | None = None
        """Where its requests enter the stack of the volume, if it was opened below the top."""
        self.left = False
        """Whether its last handle is gone, and the cleanup that this sends is over."""
        self.ended = False
        """Whether the close was sent, or is about to be."""

    def close_now(self) -> None:
        """The last reference is gone, after the last handle: have the close sent."""
        closer, self.closer = self.closer, None
        assert closer is not None
        closer()


CancelRoutine = Callable[[], Awaitable[None]]


class HeldCancelRoutine:
    """A cancel routine that is called with the cancel spin lock held, as those of IoSetCancelRoutine are."""

    def hold(self, thread: Thread, lock: Cell) -> None:
        """Take *lock* for *thread*, inside the step that sets the cancel bit."""
        raise NotImplementedError

    async def __call__(self) -> None:
        """Call the driver's routine, which releases the lock."""
        raise NotImplementedError


class CancelState(Cell):
    """The cancel bit of an IRP and who is to be told (``Irp->Cancel``, ``Irp->CancelRoutine``)."""

    __slots__ = ("requested", "routine")

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.requested = False
        self.routine: CancelRoutine | None = None


class Request(Waitable):
    """One I/O request, from the I/O manager down and back.

    Waiting for its completion means waiting for this object. `cancel` is created when first asked for.
    """

    __slots__ = (
        "_cancel",
        "buffer",
        "done",
        "file",
        "filter_context",
        "flags",
        "information",
        "kind",
        "major",
        "memory",
        "minor",
        "mode",
        "on_complete",
        "parameters",
        "status",
        "thread",
        "volume",
    )

    guards = ("done",)

    is_inner: ClassVar[bool] = False
    """Whether it came in an IRP, which is to be completed when the request is, or its issuer is called back."""
    is_generated: ClassVar[bool] = False
    """Whether a minifilter has initiated it, so that no lock keeps it apart from others of the file object."""

    def __init__(
        self,
        volume: Volume,
        file: FileObject,
        major: int,
        parameters: Parameters,
        *,
        kind: int = IRP_OPERATION,
        flags: int = 0,
        minor: int = 0,
        mode: int = 1,
    ) -> None:
        thread = current_thread()
        super().__init__(thread, major_name(major))
        thread.ordinals += 1
        self.volume = volume
        self.file = file
        self.major = major
        self.minor = minor
        self.parameters = parameters
        self.kind = kind
        self.flags = flags
        self.mode = mode
        self.thread: Thread | None = thread
        """Who has issued it; None if no thread has (FLT-CBD-23)."""
        self.status: NTSTATUS = STATUS_PENDING
        self.information = 0
        self.buffer: Any = b""
        """What a read or a query returned."""
        self.memory: Memory | None = None
        """The memory that it is about, as soon as anybody has looked at it."""
        self.done = False
        self.filter_context: object = None
        """The filter manager's record of the request."""
        self.on_complete: Callable[[Thread], None] | None = None
        """Called in the step that completes the request: signals what the issuer waits for."""
        self._cancel: CancelState | None = None

    async def go_on(self) -> None:
        """Complete the IRP that the request came in, if it did, in the calling thread."""

    @property
    def cancel(self) -> CancelState:
        """The request's cancel state."""
        if self._cancel is None:
            # The ordinal was set aside with the request's own, so that it has one name whoever asks first.
            self._cancel = cancel = CancelState.__new__(CancelState)
            cancel.creator, cancel.ordinal, cancel.label = self.creator, self.ordinal + 1, f"cancel of {self.label}"
            cancel.version = cancel.written = 0
            cancel.requested, cancel.routine = False, None
        return self._cancel

    @property
    def is_synchronous(self) -> bool:
        """Whether the originator waits for the completion (FltIsOperationSynchronous, FLT-CBD-19)."""
        if self.kind != IRP_OPERATION:
            return True
        if self.flags & IRP_PAGING_IO:
            return bool(self.flags & 0x40)
        return bool(self.flags & IRP_SYNCHRONOUS_API or self.file.Flags & FO_SYNCHRONOUS_IO)

    def log_fields(self) -> dict[str, object]:
        """What a log says of this request."""
        return {"irp": self, "op": self.label}

    def finish(self, thread: Thread) -> None:
        """The request is complete; whoever waits for it may go on."""
        thread.write(self)
        thread.release(self)
        if self.memory is not None:
            self.memory.finish(thread)
        self.done = True
        file = self.file
        thread.update(file)
        file.pending -= 1
        if file.closer is not None and not file.pending:
            file.close_now()
        log = thread.runtime.log
        if log is not None:
            log("irp.complete", about=self, status=self.status, info=self.information)
        if self.on_complete is not None:
            self.on_complete(thread)
        self.changed()


class WaitDone(BlockingOperation[NTSTATUS]):
    """Wait until a request has completed; evaluates to its final status."""

    __slots__ = ("request",)
    kind = "see the completion of"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.request = request

    def available(self, thread: Thread) -> bool:
        return self.request.done

    def take(self, thread: Thread) -> NTSTATUS:
        thread.read(self.request)
        thread.acquire(self.request)
        return self.request.status


class IoTarget(Protocol):
    """A layer of a volume's device stack."""

    async def dispatch(self, request: Request) -> bool:
        """Process *request* on the calling thread; return whether it is complete when this returns."""
        ...


class Completer(Protocol):
    """Who takes a request back that the layer below completed later, on another thread."""

    async def completed(self, request: Request) -> None: ...
