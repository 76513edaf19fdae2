"""Cancelling IRPs: the cancel bit, cancel routines, IoCancelIrp (KE-CANCEL).

Bit and routine are exchanged by interlocked operations. The routine is called with the cancel spin lock held, which
whoever cancels has taken in the step that set the bit: nobody who holds that lock sees the one without the other.
"""

from __future__ import annotations

from kemu.io.irp import IRP, CancelRoutineOf, address
from kemu.io.irp_messages import CancelIrpRequest
from kemu.io.manager import IoManager
from kemu.io.request import CancelRoutine, HeldCancelRoutine
from kemu.io.routines import CANCEL, call_routine
from kemu.nt.bugcheck import (
    DRIVER_RETURNED_HOLDING_CANCEL_LOCK,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    BugCheck,
)
from kemu.nt.driver import DriverActor, current_driver, routine_name
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK, RAISED
from kemu.nt.system import current_system, report
from kemu.runtime import BlockingOperation, Cell, Deliver, Operation, Point, Thread


class DriverCancel(HeldCancelRoutine):
    """The cancel routine that a driver has set."""

    __slots__ = ("driver", "irp", "lock", "routine")

    def __init__(self, irp: IRP, routine: CancelRoutineOf, driver: DriverActor | None, lock: KSPIN_LOCK) -> None:
        self.irp = irp
        self.routine = routine
        self.driver = driver
        self.lock = lock

    def hold(self, thread: Thread, lock: Cell) -> None:
        take_lock(thread, self.lock)
        self.irp.cancel.taken = True
        self.irp._CancelIrql = self.lock.saves(self.lock.old_irql)  # pyright: ignore[reportPrivateUsage]

    async def __call__(self) -> None:
        irp, lock, driver = self.irp, self.lock, self.driver
        thread = current_kthread()
        name = routine_name(self.routine)
        location = irp.stack[irp.location] if irp.location <= irp.StackCount else None
        device = location.DeviceObject if location is not None else None
        irql = lock.old_irql
        if driver is None:
            await self.routine(device, irp)
        else:
            await Deliver(driver, CancelIrpRequest, irp)
            await call_routine(driver, CANCEL, name, self.routine, device, irp)
        if lock.owner is thread:
            report(
                "ke.cancel-lock-held",
                f"{name} of {driver.driver if driver is not None else 'nobody'} returned and still holds the "
                f"{lock.label}",
                BugCheck(DRIVER_RETURNED_HOLDING_CANCEL_LOCK, (address(irp),)),
            )
        thread.irql = irql


def take_lock(thread: Thread, lock: KSPIN_LOCK) -> None:
    """Become the owner of the cancel spin lock, inside a step in which nobody has it."""
    assert isinstance(thread, KThread)
    lock.owner = thread
    # A plain number: the level may still be known as what another lock's acquisition has saved.
    lock.old_irql = int(thread.irql)
    lock.how = RAISED
    thread.irql = DISPATCH_LEVEL
    thread.locks.append(lock)
    lock.changed()


class ExchangeCancelRoutine(Operation[CancelRoutineOf | None]):
    """Set or clear a cancel routine; evaluates to the one that was set."""

    __slots__ = ("driver", "irp", "routine")
    kind = "IoSetCancelRoutine"

    def __init__(self, irp: IRP, routine: CancelRoutineOf | None) -> None:
        self.irp = irp
        self.routine = routine
        self.driver = current_driver()

    def perform(self, thread: Thread) -> CancelRoutineOf | None:
        irp = self.irp
        cancel = irp.cancel
        irp.used("sets the cancel routine" if self.routine is not None else "clears the cancel routine")
        thread.write(cancel)
        thread.exchange(cancel)
        old = cancel.routine
        assert old is None or isinstance(old, DriverCancel)
        if self.routine is None:
            cancel.taken_back = old is not None and cancel.requested
            cancel.routine = None
            return None if old is None else old.routine
        if old is not None and old.driver is not self.driver:
            report(
                "ke.cancel-routine-overwritten",
                f"{thread.label} sets a cancel routine for {irp.label} over that of another driver",
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x229, 0, address(irp))),
            )
        lock = thread.runtime.system.get(IoManager).cancel_lock
        cancel.routine = DriverCancel(irp, self.routine, self.driver, lock)
        return None if old is None else old.routine

    def target(self) -> Cell:
        return self.irp.cancel


class CancelIrp(BlockingOperation[CancelRoutine | None]):
    """IoCancelIrp: under the cancel spin lock, set the cancel bit and take the cancel routine."""

    __slots__ = ("by_system", "irp", "lock")
    kind = "cancel"

    def __init__(self, irp: IRP, lock: KSPIN_LOCK, by_system: bool) -> None:
        super().__init__(lock)
        self.irp = irp
        self.lock = lock
        self.by_system = by_system

    def available(self, thread: Thread) -> bool:
        return self.lock.owner is None

    def take(self, thread: Thread) -> CancelRoutine | None:
        irp, lock = self.irp, self.lock
        cancel = irp.cancel
        thread.write(lock)
        thread.exchange(lock)
        thread.write(cancel)
        thread.exchange(cancel)
        thread.read(irp)
        if irp.ended and self.by_system:
            return None
        if irp.ended:
            code = "ke.irp-after-completion"
            if irp.ended.startswith("was freed"):
                code = "ke.use-after-free"
            report(code, f"{thread.label} cancels {irp.label}, which {irp.ended}")
        thread.use(irp)
        driver = None if self.by_system else current_driver()
        if driver is not None and irp.owner is not driver:
            report("ke.cancel-foreign", f"{thread.label} cancels {irp.label}, which {driver.driver} has not made")
        log = thread.runtime.log
        if log is not None:
            log("irp.cancel", about=irp)
        cancel.requested = True
        taken, cancel.routine = cancel.routine, None
        if isinstance(taken, HeldCancelRoutine):
            taken.hold(thread, lock)
        return taken

    def describe(self) -> str:
        return f"cancel {self.irp.label}"


async def cancel_irp(irp: IRP, *, by_system: bool = True) -> bool:
    """Cancel *irp*, for the I/O manager or for a driver; whether there was a cancel routine."""
    taken = await CancelIrp(irp, current_system().get(IoManager).cancel_lock, by_system)
    if taken is None:
        return False
    await taken()
    return True


@routine("wdm", "BOOLEAN IoCancelIrp(_In_ PIRP Irp)", max_irql=DISPATCH_LEVEL)
async def IoCancelIrp(Irp: IRP) -> bool:
    """Set the cancel bit of *Irp* and call its cancel routine; whether there was one (KE-CANCEL-01).

    The IRP must not be complete: the caller's completion routine keeps it, or what holds it does (KE-CANCEL-09).
    IRQL: <= DISPATCH_LEVEL. Findings: ``ke.cancel-foreign``, ``ke.cancel-lock-held``, ``ke.irp-after-completion``.
    """
    return await cancel_irp(Irp, by_system=False)


@routine(
    "wdm",
    "PDRIVER_CANCEL IoSetCancelRoutine(_Inout_ PIRP Irp, _In_opt_ PDRIVER_CANCEL CancelRoutine)",
    max_irql=DISPATCH_LEVEL,
)
async def IoSetCancelRoutine(Irp: IRP, CancelRoutine: CancelRoutineOf | None) -> CancelRoutineOf | None:
    """Exchange the cancel routine of *Irp* and return the old one (KE-CANCEL-04).

    None: no routine was set, or a cancellation has taken it and owns the IRP. A routine that is set after the IRP was
    cancelled is not called: look at ``Irp.Cancel`` afterwards (KE-CANCEL-05). IRQL: <= DISPATCH_LEVEL.
    Findings: ``ke.cancel-routine-overwritten``.
    """
    old = await ExchangeCancelRoutine(Irp, CancelRoutine)
    if CancelRoutine is not None:
        # Between this and a look at Irp->Cancel the IRP may be cancelled.
        await Point("return from IoSetCancelRoutine", Irp.cancel)
    return old
