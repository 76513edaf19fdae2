"""What tests of IRPs share: drivers made of given dispatch routines, in the worlds of `fltmgr.kit`.

async def script(lab: Lab) -> None:
    await device(lab, "D", {IRP_MJ_READ: read})
    file = await lab.app.open(r"\\\\.\\D")
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from fltmgr.kit import Lab

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.driver import DRIVER_OBJECT, Driver
from kemu.runtime import current_thread
from kemu.scenario.world import LoadedDriver
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    CTL_CODE,
    DO_DIRECT_IO,
    FILE_ANY_ACCESS,
    FILE_DEVICE_UNKNOWN,
    IO_NO_INCREMENT,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    METHOD_BUFFERED,
    NT_SUCCESS,
    IoAttachDeviceToDeviceStack,
    IoCompleteRequest,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoDeleteDevice,
    IoDeleteSymbolicLink,
    IoDetachDevice,
)

Dispatch = Callable[[DEVICE_OBJECT, IRP], Awaitable[int]]

CODE = CTL_CODE(FILE_DEVICE_UNKNOWN, 0x800, METHOD_BUFFERED, FILE_ANY_ACCESS)


async def complete(irp: IRP, status: int = STATUS_SUCCESS, information: int = 0) -> int:
    """Complete *irp* as a driver does; what its dispatch routine returns."""
    irp.IoStatus.Status = status
    irp.IoStatus.Information = information
    await IoCompleteRequest(irp, IO_NO_INCREMENT)
    return status


async def succeed(device: DEVICE_OBJECT, irp: IRP) -> int:
    """A dispatch routine that has nothing to do."""
    return await complete(irp)


def spawn(name: str, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Start a thread that runs *coroutine* in the code of the driver that calls this."""
    here = current_thread()
    thread = here.runtime.spawn(name, coroutine)
    thread.actors.extend(here.actors[-1:])


class Device(Driver):
    """A driver with one device, which programs open by its name, or which is attached to another one."""

    def __init__(
        self,
        name: str,
        dispatch: Mapping[int, Dispatch],
        *,
        over: DEVICE_OBJECT | None = None,
        extension: int = 0,
        flags: int = DO_DIRECT_IO,
        unloads: bool = True,
    ) -> None:
        self.name = name
        self.dispatch = dict.fromkeys((IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE), succeed) | dict(dispatch)
        self.over = over
        self.extension = extension
        self.flags = flags
        self.unloads = unloads
        self.object: DRIVER_OBJECT | None = None
        self.made: DEVICE_OBJECT | None = None
        self.below: DEVICE_OBJECT | None = None
        self.on_unload: Callable[[], Awaitable[None]] | None = None

    @property
    def device(self) -> DEVICE_OBJECT:
        """Its device."""
        assert self.made is not None
        return self.made

    @property
    def lower(self) -> DEVICE_OBJECT:
        """The device that it is attached to."""
        assert self.below is not None
        return self.below

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.object = DriverObject
        for major, routine in self.dispatch.items():
            DriverObject.MajorFunction[major] = routine
        if self.unloads:
            DriverObject.DriverUnload = self.Unload
        name = None if self.over is not None else rf"\Device\{self.name}"
        status, self.made = await IoCreateDevice(DriverObject, self.extension, name, FILE_DEVICE_UNKNOWN, 0, False)
        if not NT_SUCCESS(status) or self.made is None:
            return status
        self.made.Flags |= self.flags
        if self.over is not None:
            self.below = await IoAttachDeviceToDeviceStack(self.made, self.over)
            return STATUS_SUCCESS
        return await IoCreateSymbolicLink(rf"\DosDevices\{self.name}", rf"\Device\{self.name}")

    async def Unload(self, DriverObject: DRIVER_OBJECT) -> None:
        if self.on_unload is not None:
            await self.on_unload()
        if self.below is not None:
            await IoDetachDevice(self.below)
        else:
            _ = await IoDeleteSymbolicLink(rf"\DosDevices\{self.name}")
        await IoDeleteDevice(self.device)


async def device(lab: Lab, name: str, dispatch: Mapping[int, Dispatch], **options: Any) -> Device:
    """Load a driver with one device."""
    return (await loaded(lab, name, dispatch, **options))[0]


async def loaded(lab: Lab, name: str, dispatch: Mapping[int, Dispatch], **options: Any) -> tuple[Device, LoadedDriver]:
    """As `device`, with what unloads it."""
    one = Device(name, dispatch, **options)
    return one, await lab.load(one)
