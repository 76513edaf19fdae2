"""Callback data of a driver's own: for the I/O that it initiates (FLT-IO-13, FLT-IO-17).

Its owner is in turn the driver, the filter manager between sending and callback, and nobody once it is freed. Every
access looks at that, and tells the search that it did: which came first, the access or the callback, is what the races
are about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.constants import FLTFL_CALLBACK_DATA_GENERATED_IO
from kemu.fltmgr.frame import Frame, Input, IrpCtrl
from kemu.fltmgr.generated import AsynchronousRequest, GeneratedRequest
from kemu.fltmgr.initiated import GeneratedIo
from kemu.fltmgr.objects import Node
from kemu.fltmgr.structures import (
    FLT_CALLBACK_DATA,
    FLT_IO_PARAMETER_BLOCK,
    FLT_OPERATION_REGISTRATION,
    FLT_PARAMETERS,
    IO_STATUS_BLOCK,
)
from kemu.io.constants import IRP_MJ_READ
from kemu.io.request import IRP_OPERATION, CancelState, FileObject, Parameters
from kemu.nt.buffer import Copied, Region
from kemu.nt.kthread import current_kthread
from kemu.nt.status import NT_SUCCESS
from kemu.nt.system import current_system, report
from kemu.runtime import Thread, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.objects import Instance

_get = object.__getattribute__

IDLE: Final = "idle"
"""The driver's."""
SENT: Final = "sent"
"""The filter manager's, until it calls back or the call that waits for it returns."""
FREED: Final = "freed"


class OwnFrame(Frame):
    """The record behind callback data that a driver has allocated, or that the filter manager hands a callback."""

    __slots__ = ("by_driver", "cancel", "completed", "looked", "phase", "sent_asynchronously", "where")

    def __init__(self, instance: Instance, file: FileObject | None, *, by_driver: bool) -> None:
        thread = current_thread()
        request = self._blank(instance, file)
        super().__init__(IrpCtrl(request), Node(instance, FLT_OPERATION_REGISTRATION()), -1)
        self.label = f"callback data of {instance.label}"
        self.flags = IRP_OPERATION | FLTFL_CALLBACK_DATA_GENERATED_IO
        self.by_driver = by_driver
        self.phase = IDLE
        self.where = thread.label
        """Who has freed it."""
        self.begin_anew(file)

    @staticmethod
    def _blank(instance: Instance, file: FileObject | None) -> GeneratedRequest:
        request = GeneratedRequest(instance, file, 0, Parameters())  # type: ignore[arg-type]
        request.label = "callback data"
        return request

    def begin_anew(self, file: FileObject | None) -> None:
        """The state of fresh callback data: no parameters but the target (FLT-IO-14)."""
        request = self.operation.request
        self.cancel = CancelState(current_thread(), f"cancel of {self.label}")
        request._cancel = self.cancel  # pyright: ignore[reportPrivateUsage]
        self.completed = False
        """Whether the I/O that it was sent for is over, as far as the driver has been told."""
        self.looked = False
        """Whether the driver has looked at the final status."""
        self.sent_asynchronously = False
        self.result = None
        self.data = data = FLT_CALLBACK_DATA(self)
        self.iopb = iopb = FLT_IO_PARAMETER_BLOCK(self)
        iopb.TargetFileObject = file  # type: ignore[assignment]
        iopb._parameters.__class__ = OwnParameters  # pyright: ignore[reportPrivateUsage]
        iopb.__class__ = OwnParameterBlock
        data.__class__ = OwnCallbackData

    def blank(self) -> None:
        """Forget what it was used for (FltReuseCallbackData)."""
        assert self.iopb is not None
        file: FileObject = _get(self.iopb, "TargetFileObject")
        data = self.data
        self.operation = IrpCtrl(self._blank(self.instance, file))
        self.begin_anew(file)
        # The driver goes on with the pointer that it has.
        self.data = data

    def status_block(self) -> IO_STATUS_BLOCK:
        if self.result is None:
            block = super().status_block()
            block.__class__ = OwnStatusBlock
        assert self.result is not None
        return self.result

    def request_to_send(self, *, asynchronous: bool) -> GeneratedRequest:
        """A request of what the driver has filled in."""
        iopb = self.iopb
        assert iopb is not None
        seen = Input.seen(iopb)
        kind = AsynchronousRequest if asynchronous else GeneratedRequest
        major: int = _get(iopb, "MajorFunction")
        request = kind(self.instance, seen.file, major, seen.parameters, flags=seen.flags, minor=seen.minor)
        request._cancel = self.cancel  # pyright: ignore[reportPrivateUsage]
        request.own = self
        return request

    def send(self, thread: Thread, request: GeneratedRequest) -> None:
        """The filter manager has it from here on."""
        thread.write(self)
        thread.end(self)
        self.phase = SENT
        self.operation = IrpCtrl(request)
        self.result = None
        self.completed = self.looked = False
        self.sent_asynchronously = isinstance(request, AsynchronousRequest)
        self.where = thread.label

    def back(self, thread: Thread, request: GeneratedRequest) -> None:
        """The driver has it again, with the result."""
        thread.write(self)
        self.phase = IDLE
        self.completed = True
        self.result = None
        fill(request)

    def called_back(self, thread: Thread) -> None:
        """The callback of the driver has returned."""
        if not self.by_driver:
            thread.write(self)
            thread.end(self)
            self.phase = FREED
            self.where = thread.label

    def check(self, thread: Thread, what: str) -> None:
        """Findings ``asyncio-cbd-race`` (FLT-IO-17), ``cbd-use-after-release`` and ``ke.use-after-free``: *what* is
        done with callback data that is not the driver's.
        """
        thread.read(self)
        if self.phase == IDLE:
            if thread.runtime.races is not None:
                thread.use(self)
            return
        if self.phase == SENT:
            why = f"which {self.where} has sent, and whose callback was not called"
            report("asyncio-cbd-race", f"{thread.label} {what}, {why}")
        elif not self.by_driver:
            report("cbd-use-after-release", f"{thread.label} {what} after the callback that it was given to")
        elif self.sent_asynchronously:
            report("asyncio-cbd-race", f"{thread.label} {what}, which {self.where} has freed")
        else:
            report("ke.use-after-free", f"{thread.label} {what}, which {self.where} has freed")

    def check_result(self, what: str) -> None:
        """Finding ``asyncio-status-misread``: nobody has looked at how asynchronous I/O has failed (FLT-IO-16)."""
        status = self.operation.request.status
        if self.completed and self.sent_asynchronously and not self.looked and not NT_SUCCESS(status):
            report(
                "asyncio-status-misread",
                f"{what} of {self.label}, whose {self.operation.request.label} has failed with {status}: IoStatus was "
                "not looked at",
            )

    def forget(self) -> None:
        """It is freed."""
        current_system().get(GeneratedIo).allocated.pop(self, None)


def fill(request: GeneratedRequest) -> None:
    """Put what was read into the buffer that the initiator has given."""
    buffer: object = request.parameters.Buffer
    if request.major != IRP_MJ_READ or not request.buffer:
        return
    if isinstance(buffer, Region):
        buffer.region_put(0, Copied(bytes(request.buffer), None))
    elif isinstance(buffer, bytearray):
        buffer[: len(request.buffer)] = request.buffer


def content(buffer: Any, length: int) -> bytes:
    """The first *length* bytes of a buffer that is to be written."""
    return buffer.region_fetch(0, length).data if isinstance(buffer, Region) else bytes(buffer[:length])


class _Own:
    """Asks the record at every access."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in {"plain", "written"}:
            frame: OwnFrame = _get(self, "_frame")
            frame.check(current_kthread(), f"reads {name} of {frame.label}")
            if name == "Status":
                frame.looked = True
        return _get(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            frame: OwnFrame = _get(self, "_frame")
            frame.check(current_kthread(), f"writes {name} of {frame.label}")
        super().__setattr__(name, value)


class OwnCallbackData(_Own, FLT_CALLBACK_DATA):
    """Callback data of a driver's own."""

    __slots__ = ()


class OwnParameterBlock(_Own, FLT_IO_PARAMETER_BLOCK):
    """Its parameter block."""

    __slots__ = ()


class OwnParameters(_Own, FLT_PARAMETERS):
    """Its parameters."""

    __slots__ = ()


class OwnStatusBlock(_Own, IO_STATUS_BLOCK):
    """Its result."""

    __slots__ = ()
