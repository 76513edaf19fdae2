"""Telling drivers of a shutdown: IRP_MJ_SHUTDOWN for the devices that asked for it."""

from __future__ import annotations

from kemu.io.constants import IRP_MJ_SHUTDOWN
from kemu.io.control import DeviceMount
from kemu.io.device import DEVICE_OBJECT, DeviceFile, Devices
from kemu.io.manager import IoManager
from kemu.io.request import Parameters, Request
from kemu.nt.kthread import PASSIVE_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import current_system
from kemu.runtime import Cell, Operation, Thread


class RegisterShutdown(Operation[None]):
    """A device is put on the list of those that are told, or taken off it."""

    __slots__ = ("adds", "device", "devices")
    kind = "register for shutdown"

    def __init__(self, devices: Devices, device: DEVICE_OBJECT, adds: bool) -> None:
        self.devices = devices
        self.device = device
        self.adds = adds

    def perform(self, thread: Thread) -> None:
        thread.write(self.devices.names)
        thread.write(self.device)
        told = self.devices.shutdown
        if self.device in told:
            told.remove(self.device)
        if self.adds:
            told.insert(0, self.device)

    def target(self) -> Cell:
        return self.device


@routine("wdm", "NTSTATUS IoRegisterShutdownNotification(_In_ PDEVICE_OBJECT DeviceObject)", max_irql=PASSIVE_LEVEL)
async def IoRegisterShutdownNotification(DeviceObject: DEVICE_OBJECT) -> NTSTATUS:
    """Have IRP_MJ_SHUTDOWN sent to *DeviceObject* when the system shuts down. IRQL: PASSIVE_LEVEL."""
    await RegisterShutdown(current_system().get(Devices), DeviceObject, True)
    return STATUS_SUCCESS


@routine("wdm", "VOID IoUnregisterShutdownNotification(_In_ PDEVICE_OBJECT DeviceObject)", max_irql=PASSIVE_LEVEL)
async def IoUnregisterShutdownNotification(DeviceObject: DEVICE_OBJECT) -> None:
    """Take *DeviceObject* off that list. IRQL: PASSIVE_LEVEL."""
    await RegisterShutdown(current_system().get(Devices), DeviceObject, False)


async def shut_down(manager: IoManager) -> None:
    """Send IRP_MJ_SHUTDOWN to the devices that asked for it, the last one first, and wait for each."""
    for device in list(manager.system.get(Devices).shutdown):
        mount = DeviceMount(device)
        file = DeviceFile(device, mount, "")
        await manager.call(Request(file.volume, file, IRP_MJ_SHUTDOWN, Parameters()))
