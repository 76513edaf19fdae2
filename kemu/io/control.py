"""Programs and devices: opening a device by its name, and the IRPs that a program's requests travel in.

A device stands for its files where a volume stands for those of a disk: requests are issued, waited for and cancelled
by the same I/O manager. Here a request is put into an IRP, and taken out of it when the last driver has completed it.
"""

from __future__ import annotations

from typing import Any

from kemu.io.buffers import delivered, fetch
from kemu.io.call import call_driver
from kemu.io.constants import (
    FO_SYNCHRONOUS_IO,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
)
from kemu.io.device import DEVICE_OBJECT, DO_BUFFERED_IO, DO_DIRECT_IO, DeviceFile, Devices, FindDevice, ReleaseDevice
from kemu.io.irp import IRP, IRP_BUFFERED_IO, IRP_INPUT_OPERATION, MDL, address
from kemu.io.irp_made import METHOD_BUFFERED, fill_control, method_of
from kemu.io.manager import IoManager
from kemu.io.request import FAST_IO_OPERATION, Parameters, Request
from kemu.nt.bugcheck import DRIVER_VERIFIER_IOMANAGER_VIOLATION, BugCheck
from kemu.nt.kthread import KThread
from kemu.nt.status import NT_ERROR, NT_SUCCESS, NTSTATUS, STATUS_FLT_DISALLOW_FAST_IO, STATUS_SUCCESS
from kemu.nt.system import report
from kemu.runtime import Thread, current_thread


class ControlParameters(Parameters):
    """The parameters of a device control."""

    __slots__ = ("IoControlCode",)

    def __init__(self, code: int, data: bytes | bytearray, length: int) -> None:
        super().__init__(Buffer=data, Length=length)
        self.IoControlCode = code


class DeviceMount:
    """Where the requests of the files on a device go."""

    __slots__ = ("device", "label")

    def __init__(self, device: DEVICE_OBJECT) -> None:
        self.device = device
        self.label = device.label

    @property
    def device_flags(self) -> int:
        """How the device wants the buffers of reads and writes."""
        return self.device._flags  # pyright: ignore[reportPrivateUsage]

    @property
    def top(self) -> DeviceMount:
        """The target of requests, as a volume has one."""
        return self

    async def dispatch(self, request: Request) -> bool:
        """Send *request* down the device's stack in an IRP; return whether it is complete when this returns."""
        if request.kind == FAST_IO_OPERATION:
            # No driver has fast I/O routines here: the I/O manager goes on with an IRP.
            request.status = STATUS_FLT_DISALLOW_FAST_IO
            return True
        file = request.file
        assert isinstance(file, DeviceFile)
        thread = current_thread()
        if request.major == IRP_MJ_CLOSE:
            thread.write(file)
            file.closing = True
            if file.requests:
                # The close request comes when nothing is outstanding any more; the caller does not wait for that.
                request.status = STATUS_SUCCESS
                return True
            await send_close(file, request)
            return False
        thread.update(file)
        file.requests += 1
        irp = irp_of(request, self.device)
        # Held until the dispatch routines have returned: the caller's own reference.
        file.requests += 1
        await call_driver(self.device.top(), irp, by_system=True)
        await drop(current_thread(), file)
        return False


def irp_of(request: Request, device: DEVICE_OBJECT) -> IRP:
    """Put *request* into a new IRP, whose next stack location is for the top of the stack of *device*."""
    top = device.top()
    irp = IRP(top.StackSize, request.label, kind="request", request=request)
    request._cancel = irp.cancel  # pyright: ignore[reportPrivateUsage]
    irp.up = completed
    location = irp.stack[irp.location - 1]
    location.prepared = True
    location.MajorFunction, location.MinorFunction = request.major, request.minor
    location.FileObject = request.file
    irp._RequestorMode = request.mode  # pyright: ignore[reportPrivateUsage]
    parameters = request.parameters
    if isinstance(parameters, ControlParameters):
        output = bytearray(parameters.Length) if parameters.Length else None
        fill_control(irp, location, parameters.IoControlCode, parameters.Buffer, output, parameters.Length)
        return irp
    location.Parameters.origin = parameters
    location.Parameters.Length = parameters.Length
    location.Parameters.ByteOffset = parameters.ByteOffset
    location.Parameters.FileInformationClass = parameters.FileInformationClass
    location.Parameters.Options = parameters.CreateOptions
    if request.major in {IRP_MJ_READ, IRP_MJ_WRITE}:
        _transfer_buffer(irp, request, device._flags)  # pyright: ignore[reportPrivateUsage]
    return irp


def _transfer_buffer(irp: IRP, request: Request, flags: int) -> None:
    """The buffer of a read or write, as the flags of the device say."""
    parameters = request.parameters
    is_read = request.major == IRP_MJ_READ
    buffer = bytearray(parameters.Length) if is_read else bytearray(fetch(current_thread(), request) or b"")
    if flags & DO_BUFFERED_IO:
        irp.AssociatedIrp._buffer = buffer  # pyright: ignore[reportPrivateUsage]
        irp._Flags = IRP_BUFFERED_IO | (IRP_INPUT_OPERATION if is_read else 0)  # pyright: ignore[reportPrivateUsage]
    elif flags & DO_DIRECT_IO:
        irp._MdlAddress = MDL(buffer)  # pyright: ignore[reportPrivateUsage]
    else:
        irp._UserBuffer = buffer  # pyright: ignore[reportPrivateUsage]


def output_of(irp: IRP) -> Any:
    """Where the drivers have left what the request returns; None if it returns no data."""
    request = irp.request
    assert request is not None
    if request.major in {IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL}:
        parameters = request.parameters
        assert isinstance(parameters, ControlParameters)
        if not parameters.Length:
            return None
        if method_of(parameters.IoControlCode) == METHOD_BUFFERED:
            return irp.AssociatedIrp._buffer  # pyright: ignore[reportPrivateUsage]
    elif request.major != IRP_MJ_READ:
        return None
    mdl = irp._MdlAddress  # pyright: ignore[reportPrivateUsage]
    for found in (irp.AssociatedIrp._buffer, irp._UserBuffer):  # pyright: ignore[reportPrivateUsage]
        if mdl is None and found is not None:
            return found
    return mdl.buffer if mdl is not None else None


async def completed(irp: IRP) -> None:
    """The drivers have completed the IRP of a request: the issuer may go on."""
    thread = current_thread()
    request = irp.request
    assert request is not None
    thread.write(irp)
    block = irp.IoStatus  # pyright: ignore[reportPrivateUsage]
    request.status = status = block._Status  # pyright: ignore[reportPrivateUsage]
    request.information = count = block._Information  # pyright: ignore[reportPrivateUsage]
    output = output_of(irp)
    if output is not None and not NT_ERROR(status):
        if count > request.parameters.Length:
            report(
                "ke.irp-information",
                f"{irp.label} was completed with {count} bytes in a buffer of {request.parameters.Length}",
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x312, 0, address(irp))),
            )
        request.buffer = bytes(output[:count])
        if request.memory is not None:
            delivered(thread, request)
    file = request.file
    irp.end(thread, f"was completed by {thread.label}")
    if isinstance(file, DeviceFile) and request.major != IRP_MJ_CLOSE:
        await drop(thread, file)
    request.finish(thread)


async def drop(thread: Thread, file: DeviceFile) -> None:
    """A request on *file* is over; the last one of a closed file makes the close request go out."""
    file.requests -= 1
    if not file.closing:
        thread.update(file)
        return
    thread.write(file)
    if not file.requests:
        # Not here: this may be DISPATCH_LEVEL, and in the middle of a driver's routine.
        thread.runtime.spawn(f"close {file.label}", _close_later(file))


async def _close_later(file: DeviceFile) -> None:
    thread = current_thread()
    assert isinstance(thread, KThread)
    request = Request(file.volume, file, IRP_MJ_CLOSE, Parameters())
    await send_close(file, request)


async def send_close(file: DeviceFile, request: Request) -> None:
    """Send the close request, and drop the reference that the file had to the device."""
    await call_driver(file.DeviceObject.top(), irp_of(request, file.DeviceObject), by_system=True)
    await ReleaseDevice(file.DeviceObject)


async def open_device(manager: IoManager, path: str, *, synchronous: bool = True) -> tuple[NTSTATUS, DeviceFile | None]:
    r"""Open a device by a name such as ``\\.\Echo``: its driver gets a create request."""
    devices = manager.system.get(Devices)
    status, device, rest = await FindDevice(devices, path, opens=True)
    if device is None:
        return status, None
    mount: Any = DeviceMount(device)
    file = DeviceFile(device, mount, rest, FO_SYNCHRONOUS_IO if synchronous else 0)
    file.label = path
    status = await manager.call(Request(mount, file, IRP_MJ_CREATE, Parameters()))
    if NT_SUCCESS(status):
        return status, file
    await ReleaseDevice(device)
    return status, None
