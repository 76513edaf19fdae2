"""Legacy filters on a volume: device objects above and below the filter manager.

A volume has no device objects until somebody asks for them (`World.volume_device`): its requests go from the I/O
manager to the filter manager and on to the file system as they are. With a device attached on top of the filter
manager's, a request travels in an IRP down to that one, and from there on as another request, which shares its cancel
state: that is what minifilters see. The same again below the filter manager.
"""

from __future__ import annotations

from kemu.io.buffers import delivered
from kemu.io.call import call_driver
from kemu.io.completion import complete, mark
from kemu.io.constants import IRP_MJ_READ, IRP_MJ_WRITE
from kemu.io.control import irp_of
from kemu.io.device import DEVICE_OBJECT, Devices, NativeDevice
from kemu.io.irp import IRP
from kemu.io.request import IRP_OPERATION, Completer, FileObject, IoTarget, Parameters, Request
from kemu.io.volume import Volume
from kemu.nt.status import NTSTATUS, STATUS_FLT_DISALLOW_FAST_IO, STATUS_PENDING
from kemu.nt.system import System, report
from kemu.runtime import Thread, current_thread

TOP_NAME = r"\Device\HarddiskVolume1"
BASE_NAME = r"\Ntfs"


class InnerRequest(Request):
    """What an IRP is to the filter manager, or to the file system, that it has come to."""

    __slots__ = ("ended_inside", "inside", "irp")

    is_inner = True

    def __init__(self, volume: Volume, file: FileObject, irp: IRP) -> None:
        location = irp.stack[irp.location]
        super().__init__(
            volume,
            file,
            location.MajorFunction,
            parameters_of(irp),
            flags=irp.request.flags if irp.request is not None else 0,
            minor=location.MinorFunction,
            mode=irp._RequestorMode,  # pyright: ignore[reportPrivateUsage]
        )
        self.irp = irp
        self._cancel = irp.cancel
        if irp.issuer is not None:
            self.thread = irp.issuer
        self.inside: Thread | None = current_thread()
        """The thread that has brought the IRP here, as long as it has not returned."""
        self.ended_inside = False

    async def go_on(self) -> None:
        """The request is complete: complete the IRP, in the calling thread."""
        irp = self.irp
        thread = current_thread()
        thread.write(irp)
        irp.IoStatus._Status = self.status  # pyright: ignore[reportPrivateUsage]
        irp.IoStatus._Information = self.information  # pyright: ignore[reportPrivateUsage]
        if self.buffer:
            target = irp._UserBuffer  # pyright: ignore[reportPrivateUsage]
            if irp._MdlAddress is not None:  # pyright: ignore[reportPrivateUsage]
                target = irp._MdlAddress.buffer  # pyright: ignore[reportPrivateUsage]
            if self.major == IRP_MJ_READ and target is not None:
                target[: len(self.buffer)] = self.buffer
            else:
                # Whatever a query returns, which may be a structure.
                irp._UserBuffer = self.buffer  # pyright: ignore[reportPrivateUsage]
        if self.inside is thread:
            self.ended_inside = True
        else:
            mark(irp, thread)
        await complete(irp, by_system=True)


def parameters_of(irp: IRP) -> Parameters:
    """The parameters of the current stack location, as those of a request."""
    location = irp.stack[irp.location]
    given = location.Parameters
    parameters = given.origin.copy() if given.origin is not None else Parameters()
    parameters.Length, parameters.ByteOffset = given.Length, given.ByteOffset
    parameters.FileInformationClass = given.FileInformationClass
    if location.MajorFunction == IRP_MJ_WRITE:
        mdl = irp._MdlAddress  # pyright: ignore[reportPrivateUsage]
        data = mdl.buffer if mdl is not None else irp._UserBuffer  # pyright: ignore[reportPrivateUsage]
        parameters.Buffer = bytes(data or b"")[: given.Length]
    return parameters


class BorderDevice(NativeDevice):
    """The device object through which IRPs come to the filter manager, or to the file system."""

    def __init__(self, volume: Volume, target: IoTarget) -> None:
        self.volume = volume
        self.target = target

    async def dispatch_irp(self, device: DEVICE_OBJECT, irp: IRP) -> NTSTATUS:
        file = irp.stack[irp.location].FileObject
        if file is None:
            report("ke.bad-pointer", f"{irp.label} comes to {device.label} without a file object")
            return STATUS_PENDING
        request = InnerRequest(self.volume, file, irp)
        if irp.request is not None and irp.request.filter_context is None:
            # Who looks for what is pended finds it by the issuer's request.
            irp.request.filter_context = request
        if await self.target.dispatch(request) and not request.done:
            request.finish(current_thread())
            await request.go_on()
        request.inside = None
        return request.status if request.ended_inside else STATUS_PENDING


class VolumeStack:
    """The device objects of one volume: what is above the filter manager, and what is below it."""

    def __init__(self, system: System, volume: Volume) -> None:
        self.volume = volume
        self.manager: IoTarget = volume.top
        self.completer: Completer | None = volume.filesystem.completer
        self.top = DEVICE_OBJECT(TOP_NAME, None, TOP_NAME)
        self.top.native = BorderDevice(volume, self.manager)
        self.base = DEVICE_OBJECT(BASE_NAME, None, BASE_NAME)
        self.base.native = BorderDevice(volume, volume.filesystem)
        devices = system.get(Devices)
        current_thread().write(devices.names)
        for device in (self.top, self.base):
            device._flags = 0  # pyright: ignore[reportPrivateUsage]
            devices.names.devices[device.label.upper()] = device
            devices.devices.append(device)
        volume.top = Above(self)
        volume.bottom = Below(self)
        volume.filesystem.completer = self

    async def completed(self, request: Request) -> None:
        """The file system has completed *request* later, in the calling thread."""
        # One that the filter manager has a record of came to that in an IRP, and goes back to it.
        if isinstance(request, InnerRequest) and request.filter_context is None:
            request.finish(current_thread())
            await request.go_on()
            return
        assert self.completer is not None
        await self.completer.completed(request)


class Above:
    """Where the requests of programs go: to the devices above the filter manager, if there are any."""

    def __init__(self, stack: VolumeStack) -> None:
        self.stack = stack

    async def dispatch(self, request: Request) -> bool:
        stack = self.stack
        current_thread().read(stack.top)
        if stack.top.AttachedDevice is None:
            return await stack.manager.dispatch(request)
        if request.kind != IRP_OPERATION:
            # The driver above has no fast I/O routines: the I/O manager goes on with an IRP.
            request.status = STATUS_FLT_DISALLOW_FAST_IO
            return True
        irp = irp_of(request, stack.top)
        irp.up = _issuer_goes_on
        await call_driver(stack.top.top(), irp, by_system=True)
        return False


async def _issuer_goes_on(irp: IRP) -> None:
    """The IRP of a program's request has come out of the top of the volume's stack."""
    thread = current_thread()
    request = _result(irp)
    irp.end(thread, f"was completed by {thread.label}")
    request.finish(thread)


def _result(irp: IRP) -> Request:
    """Give the request of *irp* its result."""
    request = irp.request
    assert request is not None
    current_thread().write(irp)
    request.status = irp.IoStatus._Status  # pyright: ignore[reportPrivateUsage]
    request.information = irp.IoStatus._Information  # pyright: ignore[reportPrivateUsage]
    output = irp._UserBuffer  # pyright: ignore[reportPrivateUsage]
    if output is not None and request.major != IRP_MJ_WRITE:
        request.buffer = bytes(output[: request.information]) if request.major == IRP_MJ_READ else output
        if request.memory is not None:
            delivered(current_thread(), request)
    return request


class Below:
    """Where the filter manager sends operations: to the devices below it, if there are any."""

    def __init__(self, stack: VolumeStack) -> None:
        self.stack = stack

    async def dispatch(self, request: Request) -> bool:
        stack = self.stack
        thread = current_thread()
        thread.read(stack.base)
        if stack.base.AttachedDevice is None or request.kind != IRP_OPERATION:
            return await stack.volume.filesystem.dispatch(request)
        irp = irp_of(request, stack.base)
        inside: list[Thread] = [thread]
        inline: list[bool] = []

        async def up(irp: IRP) -> None:
            completing = current_thread()
            _result(irp)
            irp.end(completing, f"was completed by {completing.label}")
            if completing in inside:
                inline.append(True)
                return
            completer = stack.completer
            assert completer is not None
            await completer.completed(request)

        irp.up = up
        await call_driver(stack.base.top(), irp, by_system=True)
        inside.clear()
        return bool(inline)
