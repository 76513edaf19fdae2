"""IRPs that drivers make: allocated, or built for a request that the I/O manager frees (KE-IRP-10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kemu.io.constants import (
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
)
from kemu.io.device import DEVICE_OBJECT, DO_BUFFERED_IO, DO_DIRECT_IO
from kemu.io.irp import (
    IO_STACK_LOCATION,
    IRP,
    IRP_BUFFERED_IO,
    IRP_INPUT_OPERATION,
    MDL,
    address,
    operation_label,
)
from kemu.nt.bugcheck import DRIVER_VERIFIER_IOMANAGER_VIOLATION, BugCheck
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.event import KEVENT
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS
from kemu.nt.system import Leftover, current_system, report, resources_fail
from kemu.runtime import Cell, Operation, Thread, current_thread

METHOD_BUFFERED: Final = 0
METHOD_IN_DIRECT: Final = 1
METHOD_OUT_DIRECT: Final = 2
METHOD_NEITHER: Final = 3
FILE_ANY_ACCESS: Final = 0
FILE_READ_ACCESS: Final = 1
FILE_WRITE_ACCESS: Final = 2

NormalPagePriority: Final = 16
HighPagePriority: Final = 32
MdlMappingNoExecute: Final = 0x40000000


def CTL_CODE(DeviceType: int, Function: int, Method: int, Access: int) -> int:
    """Make the code of a device control."""
    return DeviceType << 16 | Access << 14 | Function << 2 | Method


def method_of(code: int) -> int:
    """How a device control passes its buffers."""
    return code & 3


class Irps:
    """The IRPs that drivers have made and not freed, oldest first."""

    def __init__(self) -> None:
        self.made: dict[IRP, None] = {}
        self.nulls: set[Thread] = set()
        """The threads to which a cancel-safe queue has returned NULL. Asked, never listed."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The IRPs that *driver* has not freed (KE-UNLOAD-03)."""
        code = "ke.irp-leak"
        for irp in self.made:
            if irp.owner is driver and not irp.ended:
                yield Leftover(code, f"{irp.label}, which it has made")


def make(size: int, label: str, kind: str) -> IRP:
    """A new IRP of the running driver's."""
    irp = IRP(size, label, kind=kind, owner=current_driver())
    current_system().get(Irps).made[irp] = None
    return irp


def _stack_size(size: int) -> None:
    if size < 1:
        report("ke.irp-no-location", f"{current_thread().label} makes an IRP with {size} stack locations")


@routine("wdm", "PIRP IoAllocateIrp(_In_ CCHAR StackSize, _In_ BOOLEAN ChargeQuota)", max_irql=DISPATCH_LEVEL)
async def IoAllocateIrp(StackSize: int, ChargeQuota: bool) -> IRP | None:
    """Allocate an IRP with *StackSize* stack locations: as many as ``DeviceObject.StackSize`` of the device below.

    The driver frees it, in its completion routine at the earliest. None where low resources are explored.
    IRQL: <= DISPATCH_LEVEL.
    """
    _stack_size(StackSize)
    if resources_fail("IoAllocateIrp"):
        return None
    return make(StackSize, "IRP", "allocated")


class FreeIrp(Operation[None]):
    """A driver frees an IRP."""

    __slots__ = ("irp",)
    kind = "free"

    def __init__(self, irp: IRP) -> None:
        self.irp = irp

    def perform(self, thread: Thread) -> None:
        irp = self.irp
        thread.write(irp)
        what = f"{thread.label} frees {irp.label}"
        if irp.ended:
            report("ke.use-after-free", f"{what}, which {irp.ended}", verifier=_violation(0x01, irp))
        if irp.kind in {"request", "synchronous"}:
            report("ke.irp-freed-in-use", f"{what}, which the I/O manager frees", verifier=_violation(0x20B, irp))
        driver = current_driver()
        if irp.completer is not None or (driver is not None and irp.holder is not driver):
            report(
                "ke.irp-freed-in-use",
                f"{what}, which {'nobody' if irp.holder is None else irp.holder.driver} has control of",
                verifier=_violation(0x20A, irp),
            )
        if irp.csq is not None or irp.cancel.routine is not None:
            report("ke.irp-freed-in-use", f"{what}, which is queued", verifier=_violation(0x20C, irp))
        thread.runtime.system.get(Irps).made.pop(irp, None)
        irp.end(thread, f"was freed by {thread.label}")

    def target(self) -> Cell:
        return self.irp


def _violation(parameter: int, irp: IRP) -> BugCheck:
    return BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (parameter, 0, address(irp)))


@routine("wdm", "VOID IoFreeIrp(_In_ PIRP Irp)", max_irql=DISPATCH_LEVEL)
async def IoFreeIrp(Irp: IRP) -> None:
    """Free an IRP of IoAllocateIrp or IoBuildAsynchronousFsdRequest that no driver has control of but the caller.

    IRQL: <= DISPATCH_LEVEL. Findings: ``ke.irp-freed-in-use``, ``ke.use-after-free``.
    """
    await FreeIrp(Irp)


@routine("wdm", "VOID IoReuseIrp(_Inout_ PIRP Irp, _In_ NTSTATUS Iostatus)", max_irql=DISPATCH_LEVEL)
def IoReuseIrp(Irp: IRP, Iostatus: int) -> None:
    """Make an IRP of IoAllocateIrp a fresh one, with *Iostatus* as its status.

    IRQL: <= DISPATCH_LEVEL. Findings: ``ke.irp-reused-in-use`` (0xC9/0x310) while another driver has control of it.
    """
    thread = current_thread()
    if Irp.ended:
        Irp.used("initialises again")
    driver = current_driver()
    if Irp.completer is not None or Irp.kind != "allocated" or (driver is not None and Irp.holder is not driver):
        report(
            "ke.irp-reused-in-use",
            f"{thread.label} initialises {Irp.label} again, which it has not got back",
            verifier=_violation(0x310, Irp),
        )
    thread.write(Irp)
    thread.write(Irp.cancel)
    Irp.initialise(Irp.StackCount)
    cancel = Irp.cancel
    cancel.requested, cancel.routine, cancel.taken, cancel.taken_back, cancel.looked = False, None, False, False, False
    Irp.IoStatus._Status = NTSTATUS(Iostatus)  # pyright: ignore[reportPrivateUsage]


def _fill_transfer(irp: IRP, major: int, device: DEVICE_OBJECT, buffer: bytearray | None, length: int) -> None:
    """Set up a read, a write or a request without a buffer, as the device's flags say."""
    location = irp.stack[irp.location - 1]
    location.prepared = True
    location.MajorFunction = major
    if major not in {IRP_MJ_READ, IRP_MJ_WRITE} or buffer is None:
        return
    location.Parameters.Length = length
    flags = device.Flags
    if flags & DO_BUFFERED_IO:
        content = buffer[:length] if major == IRP_MJ_WRITE else bytearray(length)
        irp.AssociatedIrp._buffer = bytearray(content)  # pyright: ignore[reportPrivateUsage]
        irp._Flags = IRP_BUFFERED_IO  # pyright: ignore[reportPrivateUsage]
        if major == IRP_MJ_READ:
            irp._Flags |= IRP_INPUT_OPERATION  # pyright: ignore[reportPrivateUsage]
            irp._UserBuffer = buffer  # pyright: ignore[reportPrivateUsage]
    elif flags & DO_DIRECT_IO:
        irp._MdlAddress = MDL(buffer)  # pyright: ignore[reportPrivateUsage]
    else:
        irp._UserBuffer = buffer  # pyright: ignore[reportPrivateUsage]


@routine(
    "wdm",
    """PIRP IoBuildSynchronousFsdRequest(_In_ ULONG MajorFunction, _In_ PDEVICE_OBJECT DeviceObject,
       _Inout_opt_ PVOID Buffer, _In_opt_ ULONG Length, _In_opt_ PLARGE_INTEGER StartingOffset, _In_ PKEVENT Event,
       _Inout_ PIO_STATUS_BLOCK IoStatusBlock)""",
    max_irql=PASSIVE_LEVEL,
)
async def IoBuildSynchronousFsdRequest(
    MajorFunction: int,
    DeviceObject: DEVICE_OBJECT,
    Buffer: bytearray | None,
    Length: int | None,
    StartingOffset: int | None,
    Event: KEVENT,
    IoStatusBlock: Any,
) -> IRP | None:
    """Make an IRP to wait for: the I/O manager fills *IoStatusBlock*, sets *Event*, and frees the IRP.

    Wait for *Event* if IoCallDriver returns STATUS_PENDING. The thread's exit cancels it. None where low resources
    are explored. IRQL: PASSIVE_LEVEL.
    """
    if (Length or 0) < 0 or resources_fail("IoBuildSynchronousFsdRequest"):
        return None
    irp = make(DeviceObject.StackSize, operation_label(MajorFunction, " of a driver"), "synchronous")
    current_kthread().issued = True
    _fill_transfer(irp, MajorFunction, DeviceObject, Buffer, Length or 0)
    irp.stack[irp.location - 1].Parameters.ByteOffset = StartingOffset or 0
    irp._UserEvent, irp._UserIosb = Event, IoStatusBlock  # pyright: ignore[reportPrivateUsage]
    return irp


@routine(
    "wdm",
    """PIRP IoBuildAsynchronousFsdRequest(_In_ ULONG MajorFunction, _In_ PDEVICE_OBJECT DeviceObject,
       _Inout_opt_ PVOID Buffer, _In_opt_ ULONG Length, _In_opt_ PLARGE_INTEGER StartingOffset,
       _In_opt_ PIO_STATUS_BLOCK IoStatusBlock)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoBuildAsynchronousFsdRequest(
    MajorFunction: int,
    DeviceObject: DEVICE_OBJECT,
    Buffer: bytearray | None,
    Length: int | None,
    StartingOffset: int | None,
    IoStatusBlock: Any,
) -> IRP | None:
    """Make an IRP that the driver frees in its completion routine.

    None where low resources are explored. IRQL: <= DISPATCH_LEVEL.
    """
    if (Length or 0) < 0 or resources_fail("IoBuildAsynchronousFsdRequest"):
        return None
    irp = make(DeviceObject.StackSize, operation_label(MajorFunction, " of a driver"), "asynchronous")
    _fill_transfer(irp, MajorFunction, DeviceObject, Buffer, Length or 0)
    irp.stack[irp.location - 1].Parameters.ByteOffset = StartingOffset or 0
    irp._UserIosb = IoStatusBlock  # pyright: ignore[reportPrivateUsage]
    return irp


@routine(
    "wdm",
    """PIRP IoBuildDeviceIoControlRequest(_In_ ULONG IoControlCode, _In_ PDEVICE_OBJECT DeviceObject,
       _In_opt_ PVOID InputBuffer, _In_ ULONG InputBufferLength, _Inout_opt_ PVOID OutputBuffer,
       _In_ ULONG OutputBufferLength, _In_ BOOLEAN InternalDeviceIoControl, _In_opt_ PKEVENT Event,
       _Inout_ PIO_STATUS_BLOCK IoStatusBlock)""",
    max_irql=PASSIVE_LEVEL,
)
async def IoBuildDeviceIoControlRequest(
    IoControlCode: int,
    DeviceObject: DEVICE_OBJECT,
    InputBuffer: bytes | bytearray | None,
    InputBufferLength: int,
    OutputBuffer: bytearray | None,
    OutputBufferLength: int,
    InternalDeviceIoControl: bool,
    Event: KEVENT | None,
    IoStatusBlock: Any,
) -> IRP | None:
    """Make the IRP of a device control to wait for, as IoBuildSynchronousFsdRequest does. IRQL: PASSIVE_LEVEL."""
    if min(InputBufferLength, OutputBufferLength) < 0 or resources_fail("IoBuildDeviceIoControlRequest"):
        return None
    major = IRP_MJ_INTERNAL_DEVICE_CONTROL if InternalDeviceIoControl else IRP_MJ_DEVICE_CONTROL
    irp = make(DeviceObject.StackSize, operation_label(major, " of a driver"), "synchronous")
    current_kthread().issued = True
    location = irp.stack[irp.location - 1]
    location.MajorFunction = major
    given = bytes(InputBuffer or b"")[:InputBufferLength]
    fill_control(irp, location, IoControlCode, given, OutputBuffer, OutputBufferLength)
    irp._UserEvent, irp._UserIosb = Event, IoStatusBlock  # pyright: ignore[reportPrivateUsage]
    return irp


def fill_control(
    irp: IRP,
    location: IO_STACK_LOCATION,
    code: int,
    given: bytes | bytearray,
    output: bytearray | None,
    output_length: int,
) -> None:
    """Set up the buffers of a device control as its method says."""
    location.prepared = True
    parameters = location.Parameters
    parameters.IoControlCode = code
    parameters.InputBufferLength = len(given)
    parameters.OutputBufferLength = output_length
    method = method_of(code)
    if method == METHOD_NEITHER:
        parameters.Type3InputBuffer = bytearray(given)
        irp._UserBuffer = output  # pyright: ignore[reportPrivateUsage]
        return
    size = max(len(given), output_length) if method == METHOD_BUFFERED else len(given)
    if size:
        buffer = bytearray(size)
        buffer[: len(given)] = given
        irp.AssociatedIrp._buffer = buffer  # pyright: ignore[reportPrivateUsage]
    if method == METHOD_BUFFERED:
        irp._Flags = IRP_BUFFERED_IO | IRP_INPUT_OPERATION  # pyright: ignore[reportPrivateUsage]
        irp._UserBuffer = output  # pyright: ignore[reportPrivateUsage]
    elif output is not None:
        irp._MdlAddress = MDL(output)  # pyright: ignore[reportPrivateUsage]


@routine(
    "wdm",
    "PVOID MmGetSystemAddressForMdlSafe(_In_ PMDL Mdl, _In_ ULONG Priority)",
    max_irql=DISPATCH_LEVEL,
)
def MmGetSystemAddressForMdlSafe(Mdl: MDL, Priority: int) -> bytearray | None:
    """Map the buffer of an MDL: a bytearray, or None where low resources are explored. IRQL: <= DISPATCH_LEVEL."""
    return None if resources_fail("MmGetSystemAddressForMdlSafe") else Mdl.buffer
