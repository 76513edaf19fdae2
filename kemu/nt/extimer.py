"""Timers that the system allocates (KE-TIMER-13 to KE-TIMER-15): EX_TIMER.

A deleted timer stays a valid pointer for the callback that is running; it only does nothing any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from kemu.nt.callout import DPC_ROUTINE
from kemu.nt.deferred import run_deferred
from kemu.nt.dpc import KDPC, WaitForDpcs, initialise_dpc
from kemu.nt.driver import current_driver, routine_name
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.system import current_system, refuse, report, resources_fail
from kemu.nt.time import TICK
from kemu.nt.timer import CancelTimer, SetTimer, TimerObject, Timers, check_period
from kemu.runtime import Cell, Operation, Point, Thread, current_thread

EX_TIMER_HIGH_RESOLUTION: Final = 0x4
EX_TIMER_NO_WAKE: Final = 0x8
EX_TIMER_NOTIFICATION: Final = 0x80000000

TimerCallback = Callable[..., Awaitable[None]]


class EX_TIMER(TimerObject):
    """A timer of ExAllocateTimer. Its callback runs as a DPC does."""

    __slots__ = ("attributes", "callback", "delete_callback", "deleted")

    def __init__(self, callback: TimerCallback | None, context: Any, attributes: int) -> None:
        super().__init__("EX_TIMER")
        self.attributes = attributes
        self.synchronization = not attributes & EX_TIMER_NOTIFICATION
        self.driver = current_driver()
        self.deleted = False
        self.delete_callback: tuple[TimerCallback, Any] | None = None
        """What is to be called, with which context, when the timer is gone."""
        self.callback = KDPC(f"callback of {self.label}")

        async def expire(Dpc: KDPC, Context: Any, *arguments: Any) -> None:
            if callback is not None:
                await callback(self, Context)
            await self.finish_deletion()

        if callback is not None:
            # Reports name the routine by that of its function.
            expire.__name__ = routine_name(callback)
        initialise_dpc(self.callback, expire, context, threaded=False)
        self.dpc = None if callback is None else self.callback

    def set(self, thread: Thread, due: int, period: int, dpc: KDPC | None, delay: int = 0) -> bool:
        if self.deleted:
            thread.read(self)
            return False
        return super().set(thread, due, period, dpc, delay)

    def cancel(self, thread: Thread) -> bool:
        if self.deleted:
            thread.read(self)
            return False
        return super().cancel(thread)

    def expired(self, clock: Thread) -> None:
        if self.delete_callback is not None:
            # Without a callback there is otherwise nobody who would notice that the timer is gone.
            self.dpc = self.callback
        super().expired(clock)

    async def finish_deletion(self) -> None:
        """Call the delete callback if the timer is deleted, and nothing of it is set, queued or running elsewhere."""
        thread = current_kthread()
        thread.read(self)
        deletion = self.delete_callback
        if deletion is None or self.in_queue or self.callback.busy(thread):
            return
        thread.write(self)
        self.delete_callback = None
        callback, context = deletion
        await run_deferred(self.driver, routine_name(callback), callback, (context,), None, DPC_ROUTINE)

    @property
    def left(self) -> str | None:
        return super().left if self.deleted else f"{self.label} not deleted"


@dataclass(slots=True)
class EXT_SET_PARAMETERS:
    """More about how a timer is set; `ExInitializeSetTimerParameters` fills it in."""

    Version: int = 0
    Reserved: int = 0
    NoWakeTolerance: int = 0


@dataclass(slots=True)
class EXT_DELETE_PARAMETERS:
    """More about how a timer is deleted; `ExInitializeDeleteTimerParameters` fills it in."""

    Version: int = 0
    Reserved: int = 0
    DeleteCallback: TimerCallback | None = None
    DeleteContext: Any = None


@routine("wdm", "VOID ExInitializeSetTimerParameters(_Inout_ PEXT_SET_PARAMETERS Parameters)")
def ExInitializeSetTimerParameters(Parameters: EXT_SET_PARAMETERS) -> None:
    """Fill *Parameters* in for ExSetTimer. IRQL: any."""
    Parameters.Version, Parameters.Reserved, Parameters.NoWakeTolerance = 1, 0, 0


@routine("wdm", "VOID ExInitializeDeleteTimerParameters(_Inout_ PEXT_DELETE_PARAMETERS Parameters)")
def ExInitializeDeleteTimerParameters(Parameters: EXT_DELETE_PARAMETERS) -> None:
    """Fill *Parameters* in for ExDeleteTimer: no callback. IRQL: any."""
    Parameters.Version, Parameters.Reserved = 1, 0
    Parameters.DeleteCallback = Parameters.DeleteContext = None


@routine(
    "wdm",
    """PEX_TIMER ExAllocateTimer(_In_opt_ PEXT_CALLBACK Callback, _In_opt_ PVOID CallbackContext,
       _In_ ULONG Attributes)""",
    max_irql=DISPATCH_LEVEL,
)
async def ExAllocateTimer(Callback: TimerCallback | None, CallbackContext: Any, Attributes: int) -> EX_TIMER | None:
    """Allocate a timer that calls ``Callback(Timer, CallbackContext)`` at DISPATCH_LEVEL; None where memory is short.

    A synchronization timer, unless *Attributes* has EX_TIMER_NOTIFICATION. IRQL: <= DISPATCH_LEVEL.
    Findings: ``ke.timer-attributes`` for EX_TIMER_HIGH_RESOLUTION with EX_TIMER_NO_WAKE (KE-TIMER-15).
    """
    both = EX_TIMER_HIGH_RESOLUTION | EX_TIMER_NO_WAKE
    if Attributes & both == both:
        report("ke.timer-attributes", "ExAllocateTimer with both EX_TIMER_HIGH_RESOLUTION and EX_TIMER_NO_WAKE")
    if Attributes & ~(both | EX_TIMER_NOTIFICATION):
        refuse(f"ExAllocateTimer with attributes 0x{Attributes:X}", remedy="combine the EX_TIMER_... flags of wdm.h")
    if resources_fail("ExAllocateTimer"):
        return None
    timer = EX_TIMER(Callback, CallbackContext, Attributes)
    current_system().get(Timers).note(current_thread(), timer)
    return timer


@routine(
    "wdm",
    """BOOLEAN ExSetTimer(_In_ PEX_TIMER Timer, _In_ LONGLONG DueTime, _In_ LONGLONG Period,
       _In_opt_ PEXT_SET_PARAMETERS Parameters)""",
    max_irql=DISPATCH_LEVEL,
)
async def ExSetTimer(Timer: EX_TIMER, DueTime: int, Period: int, Parameters: EXT_SET_PARAMETERS | None) -> bool:
    """Have *Timer* expire at *DueTime*, and then each *Period*; both in units of 100 ns (KE-TIMER-03).

    True if it was set. A deleted timer: False, and nothing happens (KE-TIMER-13). IRQL: <= DISPATCH_LEVEL.
    Findings: ``ke.timer-units``, ``ke.timer-attributes`` for a high-resolution timer with an absolute time.
    """
    if Period < 0:
        refuse("ExSetTimer with a negative period", remedy="only a due time may be negative: it is then relative")
    if Timer.attributes & EX_TIMER_HIGH_RESOLUTION and DueTime >= 0:
        report("ke.timer-attributes", "ExSetTimer of a high-resolution timer to an absolute time")
    if Parameters is not None and not Parameters.Version:
        report("ke.uninitialised", "ExSetTimer with parameters that ExInitializeSetTimerParameters has not initialised")
    check_period(Timer, Period, "units of 100 ns", "ExSetTimer")
    was_set = await SetTimer(Timer, DueTime, Period, Timer.dpc)
    if -TICK < DueTime <= 0:
        await Point(f"return from setting {Timer.label}", Timer)
    return was_set


@routine(
    "wdm",
    "BOOLEAN ExCancelTimer(_Inout_ PEX_TIMER Timer, _In_opt_ PEXT_CANCEL_PARAMETERS Parameters)",
    max_irql=DISPATCH_LEVEL,
)
async def ExCancelTimer(Timer: EX_TIMER, Parameters: None) -> bool:
    """Forget the setting of *Timer*; True if it was set. A deleted timer: False. IRQL: <= DISPATCH_LEVEL."""
    return await CancelTimer(Timer)


class DeleteTimer(Operation[bool | None]):
    """Delete a timer; whether it was cancelled by that, and None if it was deleted before."""

    __slots__ = ("callback", "cancels", "timer")
    kind = "delete"

    def __init__(self, timer: EX_TIMER, cancels: bool, callback: tuple[TimerCallback, Any] | None) -> None:
        self.timer = timer
        self.cancels = cancels
        self.callback = callback

    def perform(self, thread: Thread) -> bool | None:
        timer = self.timer
        if timer.deleted:
            thread.read(timer)
            return None
        cancelled = timer.cancel(thread) if self.cancels else False
        thread.write(timer)
        timer.deleted = True
        # One that is not cancelled expires once more at the most.
        timer.period = 0
        timer.delete_callback = self.callback
        return cancelled

    def target(self) -> Cell:
        return self.timer


def in_callback_of(timer: object) -> bool:
    """Whether the calling thread runs the callback of *timer*."""
    deferred = current_kthread().deferred
    return deferred is not None and isinstance(timer, EX_TIMER) and deferred.source is timer.callback


def delete_ceiling(Timer: EX_TIMER, Cancel: bool, Wait: bool, Parameters: EXT_DELETE_PARAMETERS | None) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL with Wait"""
    # For a wait inside of the callback the routine itself has a finding, which says more.
    return APC_LEVEL if Wait and not in_callback_of(Timer) else DISPATCH_LEVEL


def deletes_at_once(Timer: EX_TIMER, Cancel: bool, Wait: bool, Parameters: EXT_DELETE_PARAMETERS | None) -> bool:
    """Whether it waits for nothing, so that it may be deleted under a spin lock (KE-SPIN-08)."""
    return not Wait or in_callback_of(Timer)


@routine(
    "wdm",
    """BOOLEAN ExDeleteTimer(_In_ PEX_TIMER Timer, _In_ BOOLEAN Cancel, _In_ BOOLEAN Wait,
       _In_opt_ PEXT_DELETE_PARAMETERS Parameters)""",
    max_irql=delete_ceiling,
    under_spin_lock=deletes_at_once,
)
async def ExDeleteTimer(Timer: EX_TIMER, Cancel: bool, Wait: bool, Parameters: EXT_DELETE_PARAMETERS | None) -> bool:
    """Delete *Timer*; True if *Cancel* and it was set (KE-TIMER-13).

    With *Wait*, which needs *Cancel*, it returns after a callback that is queued or running has returned, and after the
    delete callback. Without, the delete callback is called as soon as no callback is left to run (KE-TIMER-14). A timer
    that is not cancelled expires at most once more. IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL with *Wait*.
    Findings: ``ke.timer-delete-wait``, ``ke.self-deadlock`` for a wait in the timer's own callback.
    """
    if Wait and not Cancel:
        report("ke.timer-delete-wait", f"ExDeleteTimer of {Timer.label} with Wait and without Cancel")
    if Wait and in_callback_of(Timer):
        report("ke.self-deadlock", f"ExDeleteTimer with Wait, in the callback of {Timer.label}, waits for itself")
    callback = None
    if Parameters is not None:
        if not Parameters.Version:
            report(
                "ke.uninitialised",
                "ExDeleteTimer with parameters that ExInitializeDeleteTimerParameters has not initialised",
            )
        if Parameters.DeleteCallback is not None:
            callback = (Parameters.DeleteCallback, Parameters.DeleteContext)
    cancelled = await DeleteTimer(Timer, Cancel, callback)
    if cancelled is None:
        return False
    if Wait:
        runs = Timer.callback.busy(current_thread())
        if runs:
            await WaitForDpcs(runs)
    await Timer.finish_deletion()
    return cancelled
