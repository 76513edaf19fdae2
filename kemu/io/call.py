"""Passing IRPs down: stack locations, IoCallDriver, and what a dispatch routine owes to its caller (KE-IRP)."""

from __future__ import annotations

from typing import Final

from kemu.io.completion import complete, set_routine
from kemu.io.constants import (
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_POWER,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    major_name,
)
from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IO_STACK_LOCATION, IRP, SL_PENDING_RETURNED, Call, address
from kemu.io.manager import IoManager
from kemu.io.routines import DISPATCH, call_routine
from kemu.nt.bugcheck import (
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    NO_MORE_IRP_STACK_LOCATIONS,
    BugCheck,
)
from kemu.nt.dispatcher import WaitForObject
from kemu.nt.driver import routine_name, status_of
from kemu.nt.event import KEVENT, KeInitializeEvent, NotificationEvent, SetEvent
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread, current_kthread, irql_name
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_PENDING,
)
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Point, Thread

AT_DISPATCH: Final = frozenset(
    {IRP_MJ_POWER, IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL}
)
"""The requests that may be passed down at DISPATCH_LEVEL (KE-IRQL-13)."""

_MINUS_ONE: Final = -1 & 0xFFFFFFFF


def _violation(parameter: int, irp: IRP) -> BugCheck:
    return BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (parameter, 0, address(irp)))


class CallDriver(Operation["tuple[IO_STACK_LOCATION, Call | None]"]):
    """An IRP is passed to a device: its driver has control from here on."""

    __slots__ = ("by_system", "device", "irp")
    kind = "pass"

    def __init__(self, device: DEVICE_OBJECT, irp: IRP, by_system: bool) -> None:
        self.device = device
        self.irp = irp
        self.by_system = by_system

    def perform(self, thread: Thread) -> tuple[IO_STACK_LOCATION, Call | None]:
        irp, device = self.irp, self.device
        assert isinstance(thread, KThread)
        irp.used("passes on", writes=True, by_system=self.by_system)
        thread.read(irp.cancel)
        self._check(thread)
        forwarder = None
        if irp.skipped:
            forwarder = irp.stack[irp.location - 1].call
        elif irp.location <= irp.StackCount:
            forwarder = irp.stack[irp.location].call
        irp.skipped = False
        irp.location -= 1
        location = irp.stack[irp.location]
        if forwarder is not None:
            forwarder.forwarded = True
        location.DeviceObject = device
        location.call = Call(thread)
        location.Control &= ~SL_PENDING_RETURNED
        options = thread.runtime.system.options
        location.forced = bool(
            options.force_pending and thread.runtime.choose(2, f"{irp.label} is completed later than it is")
        )
        irp.holder = device.actor
        irp.kept_by = ""
        irp.completer = None
        log = thread.runtime.log
        if log is not None:
            log("irp.call", about=irp, dev=device.label)
        return location, forwarder

    def _check(self, thread: KThread) -> None:
        irp = self.irp
        what = f"{thread.label} passes {irp.label} to {self.device.label}"
        if irp.location <= 1:
            report(
                "ke.irp-no-location",
                f"{what}, but all its {irp.StackCount} stack locations are in use",
                BugCheck(NO_MORE_IRP_STACK_LOCATIONS, (address(irp),)),
            )
        location = irp.stack[irp.location - 1]
        if irp.cancel.routine is not None:
            report(
                "ke.forward-with-cancel-routine",
                f"{what} with its cancel routine still set",
                verifier=_violation(0x203, irp),
            )
        lock = thread.runtime.system.get(IoManager).cancel_lock
        if lock.owner is thread:
            report("ke.spin-forbidden-call", f"{what} while the {lock.label} is held")
        if not location.prepared and not irp.skipped:
            report(
                "ke.irp-stack-not-copied",
                f"{what}, whose next stack location nobody has filled in",
                verifier=_violation(0x206, irp),
            )
        if location.CompletionRoutine is not None and location.routine_index != irp.location - 1:
            report(
                "ke.irp-stack-copied-routine",
                f"{what} with the completion routine {routine_name(location.CompletionRoutine)} of the driver above, "
                "which was copied with the stack location",
                verifier=_violation(0x207, irp),
            )
        if irp.ex_failed:
            report(
                "ke.completion-ex-unchecked",
                f"{what} although IoSetCompletionRoutineEx has failed",
                verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x0004100F,)),
            )
        major = location.MajorFunction
        if thread.irql >= DISPATCH_LEVEL and major not in AT_DISPATCH:
            report(
                "ke.irql",
                f"{what} at {irql_name(thread.irql)}, where {major_name(major)} may not be passed on",
                verifier=_violation(0x23A, irp),
            )

    def target(self) -> Cell:
        return self.irp

    def describe(self) -> str:
        return f"pass {self.irp.label} to {self.device.label}"


async def call_driver(device: DEVICE_OBJECT, irp: IRP, *, by_system: bool = False) -> NTSTATUS:
    """Pass *irp* to *device* on the calling thread and return what its dispatch routine returns.

    *by_system* if it is the I/O manager that does so, in whichever driver's code the thread may be.
    """
    thread = current_kthread()
    location, forwarder = await CallDriver(device, irp, by_system)
    call = location.call
    assert call is not None
    if device.native is not None:
        returned = await device.native.dispatch_irp(device, irp)
    else:
        returned = await _dispatch(device, irp, location, call)
    call.thread = None
    if call.deferred:
        returned = STATUS_PENDING
    call.returned = returned
    if forwarder is not None:
        forwarder.returned_below = returned
    log = thread.runtime.log
    if log is not None:
        log("irp.return", about=irp, dev=device.label, status=returned)
    if returned == STATUS_PENDING:
        # Who holds the IRP may complete it before the driver above, or the issuer, hears of this.
        await Point(f"return STATUS_PENDING for {irp.label}", irp)
    if not by_system:
        code = "ke.irp-after-call"
        irp.last_call[thread] = code
    return returned


async def _dispatch(device: DEVICE_OBJECT, irp: IRP, location: IO_STACK_LOCATION, call: Call) -> NTSTATUS:
    """Call the dispatch routine of a driver and hold what it has done against what it returns."""
    driver = device.DriverObject
    major = location.MajorFunction
    found = driver.MajorFunction[major] if 0 <= major < len(driver.MajorFunction) else None
    if found is None:
        irp.IoStatus._Status = STATUS_INVALID_DEVICE_REQUEST  # pyright: ignore[reportPrivateUsage]
        irp.IoStatus._Information = 0  # pyright: ignore[reportPrivateUsage]
        irp.holder = None
        await complete(irp, by_system=True)
        return STATUS_INVALID_DEVICE_REQUEST
    name = routine_name(found)
    value = await call_routine(driver.actor, DISPATCH, name, found, device, irp)
    who = f"{name} of {driver.actor.driver}"
    if value in {-1, _MINUS_ONE}:
        report("ke.irp-bad-status", f"{who} returned 0xFFFFFFFF for {irp.label}", verifier=_violation(0x225, irp))
    returned = status_of(driver.actor, name, found, value)
    current_kthread().read(irp)
    if returned == STATUS_PENDING:
        # Whoever passed it on and lets it complete without a look may return what the driver below returned.
        passed = call.forwarded and call.completed is None and call.returned_below == STATUS_PENDING
        if not call.marked and not passed:
            report(
                "ke.pending-not-marked",
                f"{who} returned STATUS_PENDING for {irp.label} without IoMarkIrpPending",
                verifier=_violation(0x23D, irp),
            )
        return returned
    if call.marked:
        report(
            "ke.pending-not-returned",
            f"{who} marked {irp.label} pending and returned {returned}",
            verifier=_violation(0x23E, irp),
        )
    elif call.completed is None and not call.forwarded:
        report(
            "ke.irp-not-handled",
            f"{who} returned {returned} and has neither completed {irp.label} nor passed it on nor marked it pending",
            verifier=_violation(0x226, irp),
        )
    elif call.completed is not None and call.completed != returned:
        report(
            "ke.irp-status-mismatch",
            f"{who} returned {returned}, but completed {irp.label} with {call.completed}",
            verifier=_violation(0x224, irp),
        )
    return returned


@routine(
    "wdm",
    "NTSTATUS IoCallDriver(_In_ PDEVICE_OBJECT DeviceObject, _Inout_ PIRP Irp)",
    max_irql=DISPATCH_LEVEL,
)
async def IoCallDriver(DeviceObject: DEVICE_OBJECT, Irp: IRP) -> NTSTATUS:
    """Pass *Irp* to a device and return what its dispatch routine returns; it may be complete before that (KE-IRP-08).

    From here on the driver may look at the IRP in its completion routine only, and after that if the routine has
    returned STATUS_MORE_PROCESSING_REQUIRED. IRQL: <= DISPATCH_LEVEL; there only for reads, writes and device controls
    (KE-IRQL-13). Findings: ``ke.irp-no-location``, ``ke.forward-with-cancel-routine``, ``ke.irp-stack-not-copied``,
    ``ke.irp-stack-copied-routine``, ``ke.completion-ex-unchecked``; and those about what the routine returns.
    """
    return await call_driver(DeviceObject, Irp)


@routine(
    "wdm",
    "NTSTATUS IofCallDriver(_In_ PDEVICE_OBJECT DeviceObject, _Inout_ PIRP Irp)",
    max_irql=DISPATCH_LEVEL,
)
async def IofCallDriver(DeviceObject: DEVICE_OBJECT, Irp: IRP) -> NTSTATUS:
    """What IoCallDriver is a macro for. IRQL: <= DISPATCH_LEVEL."""
    return await call_driver(DeviceObject, Irp)


@routine("wdm", "PIO_STACK_LOCATION IoGetCurrentIrpStackLocation(_In_ PIRP Irp)")
def IoGetCurrentIrpStackLocation(Irp: IRP) -> IO_STACK_LOCATION:
    """The driver's own stack location. IRQL: any. Findings: ``ke.irp-no-location`` if nobody has passed it on yet."""
    return Irp.current("looks at its stack location")


@routine("wdm", "PIO_STACK_LOCATION IoGetNextIrpStackLocation(_In_ PIRP Irp)")
def IoGetNextIrpStackLocation(Irp: IRP) -> IO_STACK_LOCATION:
    """The stack location of the driver below, to be filled in. IRQL: any. Findings: ``ke.irp-no-location``."""
    location = Irp.next("looks at the next stack location")
    location.prepared = True
    return location


@routine("wdm", "VOID IoSetNextIrpStackLocation(_Inout_ PIRP Irp)")
def IoSetNextIrpStackLocation(Irp: IRP) -> None:
    """Make the next stack location the current one, for a driver that wants one of its own. IRQL: any."""
    location = Irp.next("takes the next stack location")
    location.prepared = True
    Irp.location -= 1


@routine("wdm", "VOID IoSkipCurrentIrpStackLocation(_Inout_ PIRP Irp)")
def IoSkipCurrentIrpStackLocation(Irp: IRP) -> None:
    """Let the driver below have the driver's own stack location: without a completion routine. IRQL: any."""
    location = Irp.current("skips its stack location")
    location.prepared = True
    location.CompletionRoutine = None
    Irp.location += 1
    Irp.skipped = True


@routine("wdm", "VOID IoCopyCurrentIrpStackLocationToNext(_Inout_ PIRP Irp)")
def IoCopyCurrentIrpStackLocationToNext(Irp: IRP) -> None:
    """Copy the driver's stack location, without its completion routine, to that of the driver below. IRQL: any."""
    current = Irp.current("copies its stack location")
    Irp.next("copies its stack location").parameters_from(current)


@routine(
    "ntddk",
    "BOOLEAN IoForwardIrpSynchronously(_In_ PDEVICE_OBJECT DeviceObject, _In_ PIRP Irp)",
    max_irql=APC_LEVEL,
)
async def IoForwardIrpSynchronously(DeviceObject: DEVICE_OBJECT, Irp: IRP) -> bool:
    """Pass *Irp* down and wait until the drivers below have completed it; the caller has control of it again.

    False, and nothing done, if there is no stack location left. IRQL: <= APC_LEVEL.
    """
    current = Irp.current("forwards it")
    if Irp.location <= 1:
        return False
    Irp.next("forwards it").parameters_from(current)
    done = KEVENT(f"completion of {Irp.label}")
    KeInitializeEvent(done, NotificationEvent, False)

    async def completed(_device: object, _irp: object, _context: object) -> int:
        await SetEvent(done)
        return STATUS_MORE_PROCESSING_REQUIRED

    set_routine(Irp, completed, None, True, True, True)
    if await call_driver(DeviceObject, Irp) == STATUS_PENDING:
        await WaitForObject(done)
    return True
