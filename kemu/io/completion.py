"""Completing IRPs: the walk up the stack, completion routines, what is checked on the way (KE-IRP).

The walk goes on in whichever thread completes the IRP. A completion routine that returns
STATUS_MORE_PROCESSING_REQUIRED ends it; whoever completes the IRP again goes on from there, also before that routine
has returned. Behind the highest stack location the IRP goes back to whoever has made it.
"""

from __future__ import annotations

from typing import Final

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import (
    IRP,
    SL_INVOKE_ON_CANCEL,
    SL_INVOKE_ON_ERROR,
    SL_INVOKE_ON_SUCCESS,
    SL_PENDING_RETURNED,
    CompletionRoutine,
    address,
)
from kemu.io.irp_made import Irps
from kemu.io.irp_messages import Completed
from kemu.io.manager import IoManager
from kemu.io.routines import COMPLETION, call_routine, spin_lock_held
from kemu.nt.bugcheck import (
    CANCEL_STATE_IN_COMPLETED_IRP,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    MULTIPLE_IRP_COMPLETE_REQUESTS,
    BugCheck,
)
from kemu.nt.driver import DriverActor, current_driver, routine_name, status_of
from kemu.nt.event import KEVENT, SetEvent
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import (
    NT_ERROR,
    NT_SUCCESS,
    NTSTATUS,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report, resources_fail
from kemu.runtime import Cell, Deliver, Operation, Point, Thread, current_thread

IO_NO_INCREMENT: Final = 0
IO_DISK_INCREMENT: Final = 1
STATUS_CONTINUE_COMPLETION: Final = STATUS_SUCCESS

_MINUS_ONE: Final = 0xFFFFFFFF


class MarkPending(Operation[None]):
    """Mark an IRP pending: a driver says that it will be completed later."""

    __slots__ = ("irp",)
    kind = "mark pending"

    def __init__(self, irp: IRP) -> None:
        self.irp = irp

    def perform(self, thread: Thread) -> None:
        irp = self.irp
        thread.write(irp)
        driver = current_driver()
        if irp.ended or (driver is not None and irp.holder is not driver):
            what = f"which {irp.ended}" if irp.ended else "which is another driver's by now"
            report("ke.mark-after-queue", f"{thread.label} marks {irp.label} pending, {what}")
            return
        thread.use(irp)
        mark(irp, thread)

    def target(self) -> Cell:
        return self.irp


def mark(irp: IRP, thread: Thread) -> None:
    """Set the pending bit of the current stack location."""
    if irp.location > irp.StackCount:
        report(
            "ke.mark-own-irp",
            f"{thread.label} marks {irp.label} pending, which it has made itself: there is no stack location for that",
        )
        return
    location = irp.stack[irp.location]
    location.Control |= SL_PENDING_RETURNED
    if location.call is not None:
        location.call.marked = True


class CompleteIrp(Operation[None]):
    """A driver gives an IRP back to those above."""

    __slots__ = ("by_system", "irp")
    kind = "complete"

    def __init__(self, irp: IRP, by_system: bool) -> None:
        self.irp = irp
        self.by_system = by_system

    def perform(self, thread: Thread) -> None:
        irp = self.irp
        assert isinstance(thread, KThread)
        thread.write(irp)
        thread.read(irp.cancel)
        self._check(thread)
        irp.last_call.pop(thread, None)
        irp.kept_by = ""
        irp.holder = None
        irp.completer = irp.who_ended = thread
        if irp.location <= irp.StackCount:
            call = irp.stack[irp.location].call
            if call is not None:
                call.completed = irp.IoStatus._Status  # pyright: ignore[reportPrivateUsage]
        log = thread.runtime.log
        if log is not None:
            log("irp.up", about=irp, status=irp.IoStatus._Status)  # pyright: ignore[reportPrivateUsage]

    def _check(self, thread: KThread) -> None:
        irp = self.irp
        what = f"{thread.label} completes {irp.label}"
        driver = None if self.by_system else current_driver()
        if irp.ended.startswith("was freed"):
            report("ke.use-after-free", f"{what}, which {irp.ended}")
        if irp.ended or irp.completer is not None or (driver is not None and irp.holder is not driver):
            how = irp.ended or (
                f"{irp.completer.label} is completing" if irp.completer is not None else "another driver has control of"
            )
            report(
                "ke.irp-double-complete",
                f"{what}, which {how}",
                BugCheck(MULTIPLE_IRP_COMPLETE_REQUESTS, (address(irp),)),
            )
        lock = spin_lock_held(thread, thread.runtime.system.get(IoManager).cancel_lock)
        if lock is not None:
            report("ke.spin-forbidden-call", f"{what} while spin lock {lock.label} is held")
        if irp.csq is not None:
            report("ke.csq-bypass", f"{what}, which {irp.csq.label} still holds: it was taken out of the list by hand")
        routine_set = irp.cancel.routine
        if routine_set is not None:
            report(
                "ke.complete-with-cancel-routine",
                f"{what} with its cancel routine still set",
                BugCheck(CANCEL_STATE_IN_COMPLETED_IRP, (address(irp),)),
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x07, 0, address(irp))),
            )
        status = irp.IoStatus._Status  # pyright: ignore[reportPrivateUsage]
        if status in {STATUS_PENDING, _MINUS_ONE}:
            report(
                "ke.irp-complete-pending",
                f"{what} with status {status}",
                verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x06, 0, address(irp), int(status))),
            )
        if irp.location <= irp.StackCount:
            call = irp.stack[irp.location].call
            if call is not None and call.returned == STATUS_PENDING and not call.marked:
                report(
                    "ke.pending-not-marked",
                    f"{what}, whose dispatch routine has returned STATUS_PENDING without IoMarkIrpPending",
                    verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x23D,)),
                )

    def target(self) -> Cell:
        return self.irp


async def complete_by_driver(irp: IRP | None) -> None:
    """Complete *irp* for a driver, which goes on while those who have the IRP now go on as well."""
    thread = current_kthread()
    if irp is None and thread in current_system().get(Irps).nulls:
        report("ke.csq-null", f"{thread.label} completes NULL, which a cancel-safe queue has returned")
    if not isinstance(irp, IRP):
        bad_pointer("IoCompleteRequest", "Irp", IRP, irp)
        return
    await complete(irp)
    await Point(f"return from completing {irp.label}", irp)


async def complete(irp: IRP, *, by_system: bool = False) -> None:
    """Complete *irp* in the calling thread, as far up as its completion routines let it.

    *by_system* if it is not the driver that does so in whose code the thread is.
    """
    await CompleteIrp(irp, by_system)
    await walk_up(irp)


async def walk_up(irp: IRP) -> None:
    """Call completion routines from where the completion stands."""
    thread = current_kthread()
    is_first = True
    while irp.location <= irp.StackCount:
        location = irp.stack[irp.location]
        call = location.call
        if location.forced and call is not None and call.thread is thread:
            # The driver above is told that the IRP is pending, and hears of its completion in another thread.
            location.forced = False
            call.deferred = True
            location.Control |= SL_PENDING_RETURNED
            thread.runtime.spawn(f"io:{irp.label} forced pending", _go_on(irp))
            return
        thread.write(irp)
        pending = bool(location.Control & SL_PENDING_RETURNED)
        irp._PendingReturned = pending  # pyright: ignore[reportPrivateUsage]
        irp.location += 1
        above = irp.stack[irp.location] if irp.location <= irp.StackCount else None
        found, owner, context = location.CompletionRoutine, location.routine_driver, location.Context
        wanted = _wanted(irp, location.Control)
        kept = location.keeps_loaded
        location.CompletionRoutine, location.keeps_loaded, location.prepared = None, None, False
        if found is not None and owner is not None and wanted:
            device = above.DeviceObject if above is not None else None
            if not is_first:
                await Deliver(owner, Completed, irp)
            is_first = False
            if not await _call(irp, owner, found, device, context):
                _let_go(thread, kept)
                return
            if irp.ended or irp.completer is not thread:
                _returned_too_late(irp, owner, found)
            if pending and above is not None and not above.Control & SL_PENDING_RETURNED:
                report(
                    "ke.pending-not-propagated",
                    f"{routine_name(found)} of {owner.driver} saw PendingReturned in {irp.label} and did not call "
                    "IoMarkIrpPending",
                    verifier=BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x228,)),
                )
        elif pending and above is not None:
            above.Control |= SL_PENDING_RETURNED
            if above.call is not None:
                above.call.marked = True
        _let_go(thread, kept)
    await _out_of_the_top(irp)


async def _go_on(irp: IRP) -> None:
    irp.completer = current_thread()
    await walk_up(irp)


def _let_go(thread: Thread, device: DEVICE_OBJECT | None) -> None:
    """The routine of IoSetCompletionRoutineEx has run."""
    if device is not None:
        device.dereference(thread)


def _wanted(irp: IRP, control: int) -> bool:
    """Whether the completion routine was set for how the IRP ends."""
    status = irp.IoStatus._Status  # pyright: ignore[reportPrivateUsage]
    wanted = control & (SL_INVOKE_ON_SUCCESS if NT_SUCCESS(status) else SL_INVOKE_ON_ERROR)
    return bool(wanted or (irp.cancel.requested and control & SL_INVOKE_ON_CANCEL))


async def _call(
    irp: IRP, owner: DriverActor, found: CompletionRoutine, device: DEVICE_OBJECT | None, context: object
) -> bool:
    """Call one completion routine; return whether the completion goes on."""
    name = routine_name(found)
    thread = current_kthread()
    thread.write(irp)
    irp.holder = owner
    irp.completer = None
    before = irp.kept_by = f"{name} of {owner.driver} returned STATUS_MORE_PROCESSING_REQUIRED"
    # Whether it goes on elsewhere meanwhile can be told by the walk's mark being gone.
    turn = irp.location
    returned = await call_routine(owner, COMPLETION, name, found, device, irp, context)
    if status_of(owner, name, found, returned) == STATUS_MORE_PROCESSING_REQUIRED:
        return False
    thread.write(irp)
    if not irp.ended and irp.kept_by == before and irp.location == turn:
        irp.kept_by = ""
        irp.holder = None
        irp.completer = thread
    return True


def _returned_too_late(irp: IRP, owner: DriverActor, found: CompletionRoutine) -> None:
    """A completion routine has let the completion of an IRP go on that goes on, or is over, elsewhere."""
    how = irp.ended or "goes on elsewhere"
    what = f"{routine_name(found)} of {owner.driver} lets the completion of {irp.label} go on, which {how}"
    if irp.ended.startswith("was freed"):
        report("ke.use-after-free", what)
    report("ke.irp-double-complete", what, BugCheck(MULTIPLE_IRP_COMPLETE_REQUESTS, (address(irp),)))


class SignalCompletion(SetEvent):
    """Signal the event of an IRP, which has to be there yet (KE-EVENT-07)."""

    __slots__ = ("irp",)

    def __init__(self, event: KEVENT, irp: str) -> None:
        super().__init__(event)
        self.irp = irp

    def perform(self, thread: Thread) -> int:
        freed = thread.runtime.system.freed.get(self.event)
        if freed is not None:
            thread.write(self.event)
            report("ke.use-after-free", f"the completion of {self.irp} sets {self.event.label}, {freed}")
        return super().perform(thread)


async def _out_of_the_top(irp: IRP) -> None:
    """No driver is above: the IRP goes back to whoever has made it."""
    thread = current_kthread()
    if irp.up is not None:
        await irp.up(irp)
        return
    if irp.kind in {"allocated", "asynchronous"}:
        report(
            "ke.own-irp-completed",
            f"the completion of {irp.label} has come out of the top of its stack: no completion routine of "
            f"{irp.owner.driver if irp.owner is not None else 'nobody'} has kept it",
        )
    thread.write(irp)
    iosb, event = irp._UserIosb, irp._UserEvent  # pyright: ignore[reportPrivateUsage]
    if iosb is not None:
        iosb.Status = irp.IoStatus._Status  # pyright: ignore[reportPrivateUsage]
        iosb.Information = irp.IoStatus._Information  # pyright: ignore[reportPrivateUsage]
    take_output(irp)
    irp.end(thread, f"was completed by {thread.label}")
    if event is not None:
        await SignalCompletion(event, irp.label)


def take_output(irp: IRP) -> None:
    """Copy what a driver returned in a system buffer to the issuer's (METHOD_BUFFERED)."""
    block = irp.IoStatus  # pyright: ignore[reportPrivateUsage]
    system = irp.AssociatedIrp._buffer  # pyright: ignore[reportPrivateUsage]
    target = irp._UserBuffer  # pyright: ignore[reportPrivateUsage]
    if target is None or system is None or NT_ERROR(block._Status):  # pyright: ignore[reportPrivateUsage]
        return
    count = min(block._Information, len(target), len(system))  # pyright: ignore[reportPrivateUsage]
    target[:count] = system[:count]


@routine("wdm", "VOID IoMarkIrpPending(_Inout_ PIRP Irp)")
async def IoMarkIrpPending(Irp: IRP) -> None:
    """Say that the dispatch routine will return STATUS_PENDING (KE-IRP-03), before anybody else can see the IRP.

    IRQL: any. Findings: ``ke.mark-after-queue``, ``ke.mark-own-irp``.
    """
    await MarkPending(Irp)


@routine(
    "wdm",
    "VOID IoCompleteRequest(_In_ PIRP Irp, _In_ CCHAR PriorityBoost)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("Irp",),
)
async def IoCompleteRequest(Irp: IRP, PriorityBoost: int = IO_NO_INCREMENT) -> None:
    """Complete *Irp* with its IoStatus: completion routines run, from the lowest up, before this returns (KE-IRP-06).

    *PriorityBoost* has no effect. From here on the driver may not touch the IRP. IRQL: <= DISPATCH_LEVEL.
    Findings: ``ke.irp-double-complete``, ``ke.irp-complete-pending``, ``ke.complete-with-cancel-routine``,
    ``ke.spin-forbidden-call``, ``ke.csq-bypass``, ``ke.pending-not-marked``, ``ke.pending-not-propagated``.
    """
    await complete_by_driver(Irp)


@routine(
    "wdm",
    "VOID IofCompleteRequest(_In_ PIRP Irp, _In_ CCHAR PriorityBoost)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("Irp",),
)
async def IofCompleteRequest(Irp: IRP, PriorityBoost: int = IO_NO_INCREMENT) -> None:
    """What IoCompleteRequest is a macro for. IRQL: <= DISPATCH_LEVEL."""
    await complete_by_driver(Irp)


def set_routine(
    irp: IRP, found: CompletionRoutine | None, context: object, success: bool, error: bool, cancel: bool
) -> None:
    """Put a completion routine into the next lower stack location."""
    location = irp.next("sets a completion routine")
    location.CompletionRoutine, location.Context = found, context
    location.routine_driver, location.routine_index = current_driver(), irp.location - 1
    location.Control = (
        (SL_INVOKE_ON_SUCCESS if success else 0)
        | (SL_INVOKE_ON_ERROR if error else 0)
        | (SL_INVOKE_ON_CANCEL if cancel else 0)
    )


@routine(
    "wdm",
    """VOID IoSetCompletionRoutine(_In_ PIRP Irp, _In_opt_ PIO_COMPLETION_ROUTINE CompletionRoutine,
       _In_opt_ PVOID Context, _In_ BOOLEAN InvokeOnSuccess, _In_ BOOLEAN InvokeOnError,
       _In_ BOOLEAN InvokeOnCancel)""",
    max_irql=DISPATCH_LEVEL,
)
def IoSetCompletionRoutine(
    Irp: IRP,
    CompletionRoutine: CompletionRoutine | None,
    Context: object,
    InvokeOnSuccess: bool,
    InvokeOnError: bool,
    InvokeOnCancel: bool,
) -> None:
    """Have ``CompletionRoutine(DeviceObject, Irp, Context)`` called when the drivers below have completed *Irp*.

    It runs in the thread that completes the IRP, at that thread's IRQL (KE-IRQL-16), and must not be unloaded by then
    (KE-IRP-11): use IoSetCompletionRoutineEx where it may. IRQL: <= DISPATCH_LEVEL.
    """
    set_routine(Irp, CompletionRoutine, Context, InvokeOnSuccess, InvokeOnError, InvokeOnCancel)


@routine(
    "wdm",
    """NTSTATUS IoSetCompletionRoutineEx(_In_ PDEVICE_OBJECT DeviceObject, _In_ PIRP Irp,
       _In_ PIO_COMPLETION_ROUTINE CompletionRoutine, _In_opt_ PVOID Context, _In_ BOOLEAN InvokeOnSuccess,
       _In_ BOOLEAN InvokeOnError, _In_ BOOLEAN InvokeOnCancel)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoSetCompletionRoutineEx(
    DeviceObject: DEVICE_OBJECT,
    Irp: IRP,
    CompletionRoutine: CompletionRoutine,
    Context: object,
    InvokeOnSuccess: bool,
    InvokeOnError: bool,
    InvokeOnCancel: bool,
) -> NTSTATUS:
    """As IoSetCompletionRoutine; *DeviceObject* keeps the driver loaded until the routine has run (KE-UNLOAD-07).

    STATUS_INSUFFICIENT_RESOURCES where low resources are explored: then no routine is set, and the IRP must not be
    passed on. IRQL: <= DISPATCH_LEVEL.
    """
    if resources_fail("IoSetCompletionRoutineEx"):
        Irp.used("sets a completion routine")
        Irp.ex_failed = True
        return STATUS_INSUFFICIENT_RESOURCES
    set_routine(Irp, CompletionRoutine, Context, InvokeOnSuccess, InvokeOnError, InvokeOnCancel)
    DeviceObject.reference(current_thread())
    Irp.ex_failed = False
    Irp.stack[Irp.location - 1].keeps_loaded = DeviceObject
    return STATUS_SUCCESS
