"""A disk: a device of the machine's own that completes each IRP at once, or later in a thread of its own.

When, and at which IRQL, is the choice that the file system has as well (`Options.completion`): completion routines of
the drivers above thus run at PASSIVE_LEVEL in one schedule and at DISPATCH_LEVEL in another (KE-IRQL-16).
"""

from __future__ import annotations

from kemu.io.completion import complete, mark
from kemu.io.constants import (
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_PNP,
    IRP_MJ_POWER,
    IRP_MJ_READ,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_WRITE,
)
from kemu.io.device import DEVICE_OBJECT, DO_DIRECT_IO, FILE_DEVICE_DISK, Devices, NativeDevice
from kemu.io.irp import IRP
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, KThread
from kemu.nt.status import (
    NTSTATUS,
    STATUS_CANCELLED,
    STATUS_END_OF_FILE,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.nt.system import System
from kemu.runtime import Actor, Cell, Operation, Thread, current_thread

_NOTHING_TO_DO = frozenset(
    {
        IRP_MJ_CREATE,
        IRP_MJ_CLEANUP,
        IRP_MJ_CLOSE,
        IRP_MJ_FLUSH_BUFFERS,
        IRP_MJ_PNP,
        IRP_MJ_POWER,
        IRP_MJ_SHUTDOWN,
    }
)


class Content(Cell):
    """The bytes of a disk."""

    __slots__ = ("data",)

    def __init__(self, label: str, data: bytes) -> None:
        super().__init__(current_thread(), label)
        self.data = bytearray(data)


class Transfer(Operation[None]):
    """The disk carries a request out."""

    __slots__ = ("disk", "irp")
    kind = "carry out"

    def __init__(self, disk: Disk, irp: IRP) -> None:
        self.disk = disk
        self.irp = irp

    def perform(self, thread: Thread) -> None:
        status, information = self.disk.carry_out(thread, self.irp)
        thread.write(self.irp)
        self.irp.IoStatus._Status = status  # pyright: ignore[reportPrivateUsage]
        self.irp.IoStatus._Information = information  # pyright: ignore[reportPrivateUsage]

    def target(self) -> Cell:
        return self.disk.content

    def describe(self) -> str:
        return f"{self.disk.label} carries out {self.irp.label}"


class Disk(Actor, NativeDevice):
    """The driver of one disk, and its device object, as one."""

    kind = "disk"

    def __init__(self, system: System, name: str, data: bytes) -> None:
        super().__init__(system.runtime, f"disk:{name}")
        self.content = Content(name, data)
        self._completion = system.options.completion
        self.device = device = DEVICE_OBJECT(name, None, name)
        device.native = self
        device.DeviceType = FILE_DEVICE_DISK
        device._flags = DO_DIRECT_IO  # pyright: ignore[reportPrivateUsage]
        devices = system.get(Devices)
        thread = current_thread()
        thread.write(devices.names)
        devices.names.devices[name.upper()] = device
        devices.devices.append(device)

    async def dispatch_irp(self, device: DEVICE_OBJECT, irp: IRP) -> NTSTATUS:
        thread = current_thread()
        thread.actors.append(self)
        when = 0
        if self._completion != "inline":
            question = f"{self.label} completes {irp.label} later"
            when = 1 if self._completion == "later" else self.runtime.choose(3, question)
        if when == 0:
            await Transfer(self, irp)
            status = irp.IoStatus._Status  # pyright: ignore[reportPrivateUsage]
            await complete(irp, by_system=True)
            thread.actors.pop()
            return status
        mark(irp, thread)
        irql = PASSIVE_LEVEL if when == 1 else DISPATCH_LEVEL
        name = "io" if irql == PASSIVE_LEVEL else "dpc"
        self.runtime.spawn(f"{name}:{irp.label}@{self.label}", self._complete_later(irp, irql))
        thread.actors.pop()
        return STATUS_PENDING

    async def _complete_later(self, irp: IRP, irql: int) -> None:
        thread = current_thread()
        assert isinstance(thread, KThread)
        thread.actors.append(self)
        thread.irql = irql
        await Transfer(self, irp)
        await complete(irp, by_system=True)

    def carry_out(self, thread: Thread, irp: IRP) -> tuple[NTSTATUS, int]:
        """Let *irp* take effect, inside the calling step: its status and how many bytes were transferred."""
        thread.read(irp.cancel)
        if irp.cancel.requested:
            return STATUS_CANCELLED, 0
        location = irp.stack[irp.location]
        parameters = location.Parameters
        if location.MajorFunction in _NOTHING_TO_DO:
            return STATUS_SUCCESS, 0
        if location.MajorFunction not in {IRP_MJ_READ, IRP_MJ_WRITE}:
            return STATUS_INVALID_DEVICE_REQUEST, 0
        mdl = irp._MdlAddress  # pyright: ignore[reportPrivateUsage]
        buffer = mdl.buffer if mdl is not None else irp.AssociatedIrp._buffer  # pyright: ignore[reportPrivateUsage]
        if buffer is None:
            buffer = irp._UserBuffer  # pyright: ignore[reportPrivateUsage]
        start, content = parameters.ByteOffset, self.content
        if location.MajorFunction == IRP_MJ_READ:
            thread.read(content)
            found = content.data[start : start + parameters.Length]
            if not found:
                return STATUS_END_OF_FILE, 0
            buffer[: len(found)] = found
            return STATUS_SUCCESS, len(found)
        thread.write(content)
        data = buffer[: parameters.Length]
        if start > len(content.data):
            content.data.extend(bytes(start - len(content.data)))
        content.data[start : start + len(data)] = data
        return STATUS_SUCCESS, len(data)
