"""Timer objects (KE-TIMER): a deadline of the virtual clock that signals, and queues a DPC.

A deadline is noticed at the clock tick at or after it. When the clock fires is up to the schedule, as for every
timeout: it may be before threads that could still run have done anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, KERNEL_SECURITY_CHECK_FAILURE, BugCheck
from kemu.nt.dispatcher import DispatcherObject, signalled
from kemu.nt.dpc import KDPC, checked_dpc, insert_dpc
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.kthread import DISPATCH_LEVEL, KThread
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, System, refuse, report
from kemu.nt.time import TICK, TICKS_PER_MILLISECOND, tick_after
from kemu.runtime import Cell, Operation, Point, Thread, Timer, current_thread

NotificationTimer: Final = 0
SynchronizationTimer: Final = 1

ONE_DAY: Final = 24 * 60 * 60 * 1000 * TICKS_PER_MILLISECOND

EAGER_EXPIRIES: Final = 2
"""How often a periodic timer may expire while threads could go on. After that it waits until none can."""
IDLE_EXPIRIES: Final = 100
"""How often it expires then, for a run in which somebody waits, before that counts as waiting for ever."""


class TimerObject(DispatcherObject):
    """What KTIMER and EX_TIMER have in common."""

    __slots__ = ("deadline", "dpc", "driver", "due", "expiries", "in_queue", "period", "signalled", "synchronization")

    guards = ("signalled",)

    def __init__(self, label: str) -> None:
        creator = current_thread()
        super().__init__(creator, label)
        self.deadline = Timer(creator.runtime.clock, creator, label, self._expire)
        self.synchronization = False
        self.signalled = False
        self.driver: DriverActor | None = None
        self.dpc: KDPC | None = None
        self.due = 0
        """When it is to expire, in 100 ns of virtual time, before ticks are considered."""
        self.period = 0
        """In 100 ns; 0 for a timer that expires once."""
        self.in_queue = False
        self.expiries = 0

    def is_signalled(self, thread: Thread) -> bool:
        return self.signalled

    def satisfy(self, thread: Thread) -> NTSTATUS:
        if not self.synchronization:
            return signalled(self, thread)
        thread.write(self)
        thread.acquire(self)
        self.signalled = False
        self.changed()
        return STATUS_SUCCESS

    def set(self, thread: Thread, due: int, period: int, dpc: KDPC | None, delay: int = 0) -> bool:
        """Set the timer inside the step of *thread*; whether it was set (KE-TIMER-02).

        *due* is negative for a time from now. The timer may expire up to *delay* later, in 100 ns.
        """
        system: System = thread.runtime.system
        thread.write(self)
        system.get(Timers).note(thread, self)
        was_set = self.in_queue
        self.signalled = False
        self.changed()
        now = thread.runtime.clock.read(thread)
        self.due = max(now - due if due < 0 else due, now)
        self.period = period
        self.dpc = dpc
        self.driver = current_driver()
        self.expiries = 0
        self.in_queue = True
        self.deadline.arm(self._expiry(system, now, relative=due < 0, delay=delay))
        log = thread.runtime.log
        if log is not None:
            log("timer.set", obj=self, due=self.due, period=period)
        return was_set

    def _expiry(self, system: System, now: int, *, relative: bool, delay: int) -> int:
        """When the clock notices that the timer is due (KE-TIMER-12): at a tick, and which one may be open."""
        expiry = tick_after(self.due) if self.due > now else now
        if not system.options.timer_jitter:
            return expiry
        latest = max(1, delay // TICK)
        answer = system.runtime.choose(3 if relative else 2, f"{self.label} expires on time, late or early")
        if answer == 1:
            return expiry + latest * TICK
        return max(expiry - TICK, now) if answer == 2 else expiry

    def cancel(self, thread: Thread) -> bool:
        """Take the timer out of the queue inside the step of *thread*; whether it was there (KE-TIMER-05)."""
        thread.write(self)
        was_set, self.in_queue = self.in_queue, False
        self.deadline.cancel()
        log = thread.runtime.log
        if log is not None:
            log("timer.cancel", obj=self)
        return was_set

    def _expire(self) -> None:
        """What the clock does when the time has come (KE-TIMER-04)."""
        clock = current_thread()
        clock.write(self)
        system: System = clock.runtime.system
        freed = system.freed.get(self)
        if freed is not None:
            report("ke.timer-freed", f"{self.label} expires, {freed}", BugCheck(KERNEL_SECURITY_CHECK_FAILURE, (3,)))
        log = clock.runtime.log
        if log is not None:
            log("timer.expire", obj=self)
        self.signalled = True
        clock.release(self)
        self.expiries += 1
        if not self.period:
            self.in_queue = False
        elif self.expiries < EAGER_EXPIRIES + IDLE_EXPIRIES:
            self.due += self.period
            # Otherwise every run would be endless: at each of its steps the timer might expire once more.
            self.deadline.arm(tick_after(self.due), lazy=self.expiries >= EAGER_EXPIRIES)
        self.changed()
        self.expired(clock)

    def expired(self, clock: Thread) -> None:
        """Queue the DPC, inside the clock's step."""
        dpc = self.dpc
        if dpc is not None:
            insert_dpc(clock, dpc, (dpc, dpc.DeferredContext, 0, 0), by_timer=True)

    @property
    def left(self) -> str | None:
        """What is left of the timer if its driver is unloaded now."""
        return f"{self.label} set" if self.in_queue else None

    def still_active(self) -> Leftover | None:
        """What is wrong if the memory of the timer is freed now (KE-TIMER-06, KE-TIMER-08, KE-TIMER-10)."""
        thread = current_thread()
        thread.read(self)
        dpc = self.dpc
        inside = thread.deferred if isinstance(thread, KThread) else None
        if self.in_queue and self.period and inside is not None and inside.source is dpc:
            return Leftover("ke.timer-free-periodic", f"{self.label}, which is periodic, in its own DPC")
        if self.in_queue:
            stop = BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x15,))
            return Leftover("ke.timer-freed", f"{self.label}, which is set", verifier=stop)
        if dpc is not None and dpc.busy(thread):
            return Leftover("ke.timer-dpc-race", f"{self.label}, whose DPC is queued or running")
        return super().still_active()


class KTIMER(TimerObject, Storage):
    """Storage for a timer; `KeInitializeTimer` or `KeInitializeTimerEx` makes one of it."""

    __slots__ = ("initialised",)

    storage_size = 64

    def __init__(self, label: str = "timer") -> None:
        super().__init__(label)
        self.initialised = False

    @property
    def is_initialised(self) -> bool:
        return self.initialised


class Timers(Cell):
    """The timers that were ever set, and all that the system has allocated."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        super().__init__(current_thread(), "the timers")
        self.known: dict[TimerObject, None] = {}

    def note(self, thread: Thread, timer: TimerObject) -> None:
        """Remember *timer*, inside the step of *thread*."""
        if timer not in self.known:
            thread.update(self)
            self.known[timer] = None

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The timers of *driver* that are set (KE-TIMER-11)."""
        thread = current_thread()
        thread.read(self)
        # By name: which of two timers was set first is nobody's business, because that commutes.
        for timer in sorted(self.known, key=lambda timer: timer.name):
            if timer.driver is driver:
                thread.read(timer)
                left = timer.left
                if left is not None:
                    yield Leftover("ke.timer-left", left)


class SetTimer(Operation[bool]):
    """Set a timer; whether it was set."""

    __slots__ = ("delay", "dpc", "due", "period", "timer")
    kind = "set"

    def __init__(self, timer: TimerObject, due: int, period: int, dpc: KDPC | None, delay: int = 0) -> None:
        self.timer = timer
        self.due = due
        self.period = period
        self.dpc = dpc
        self.delay = delay

    def perform(self, thread: Thread) -> bool:
        return self.timer.set(thread, self.due, self.period, self.dpc, self.delay)

    def target(self) -> Cell:
        return self.timer


class CancelTimer(Operation[bool]):
    """Cancel a timer; whether it was set."""

    __slots__ = ("timer",)
    kind = "cancel"

    def __init__(self, timer: TimerObject) -> None:
        self.timer = timer

    def perform(self, thread: Thread) -> bool:
        return self.timer.cancel(thread)

    def target(self) -> Cell:
        return self.timer


class ReadTimer(Operation[bool]):
    """Look whether a timer is signalled."""

    __slots__ = ("timer",)
    kind = "read"

    def __init__(self, timer: TimerObject) -> None:
        self.timer = timer

    def perform(self, thread: Thread) -> bool:
        thread.read(self.timer)
        if self.timer.signalled:
            thread.acquire(self.timer)
        return self.timer.signalled

    def target(self) -> Cell:
        return self.timer


def initialise_timer(timer: KTIMER, kind: int, name: str) -> None:
    """Make *timer* one of *kind*, not signalled and not set."""
    if kind not in {NotificationTimer, SynchronizationTimer}:
        refuse(f"{name} with type {kind!r}", remedy="use NotificationTimer or SynchronizationTimer")
    if timer.in_queue:
        report("ke.timer-reinitialised", f"{timer.label} was initialised again while it is set")
    current_thread().write(timer)
    timer.synchronization = kind == SynchronizationTimer
    timer.signalled = False
    timer.initialised = True


def checked_timer(timer: KTIMER, where: str) -> KTIMER:
    """Return *timer* if it was initialised; finding ``ke.uninitialised`` otherwise."""
    if not timer.initialised:
        report("ke.uninitialised", f"{where} on {timer.label}, which KeInitializeTimer has not initialised")
    return timer


def check_period(timer: TimerObject, period: int, unit: str, name: str) -> None:
    """Finding ``ke.timer-units`` for a *period* in 100 ns that somebody may have meant in other units (KE-TIMER-03)."""
    if period and not TICK <= period <= ONE_DAY:
        length = "is shorter than a clock tick" if period < TICK else "is longer than a day"
        report("ke.timer-units", f"the period that {name} gives {timer.label} {length}; it is in {unit}")


async def set_timer(timer: KTIMER, due: int, milliseconds: int, dpc: KDPC | None, name: str, delay: int = 0) -> bool:
    """What the routines that set a KTIMER come to; *milliseconds* is the period, *delay* too is in milliseconds."""
    checked_timer(timer, name)
    if milliseconds < 0 or delay < 0:
        refuse(f"{name} with a negative period or delay", remedy="only a due time may be negative: it is then relative")
    period = milliseconds * TICKS_PER_MILLISECOND
    check_period(timer, period, "milliseconds", name)
    if dpc is not None:
        checked_dpc(dpc, name)
        current_thread().write(dpc)
        dpc.timer = timer
    was_set = await SetTimer(timer, due, period, dpc, delay * TICKS_PER_MILLISECOND)
    if -TICK < due <= 0:
        # So soon that it may expire, and its DPC run, before this returns (KE-TIMER-12).
        await Point(f"return from setting {timer.label}", timer)
    return was_set


@routine("wdm", "VOID KeInitializeTimer(_Inout_ PKTIMER Timer)", max_irql=DISPATCH_LEVEL)
def KeInitializeTimer(Timer: KTIMER) -> None:
    """Make a notification timer, not signalled (KE-TIMER-01). IRQL: <= DISPATCH_LEVEL."""
    initialise_timer(Timer, NotificationTimer, "KeInitializeTimer")


@routine("wdm", "VOID KeInitializeTimerEx(_Inout_ PKTIMER Timer, _In_ TIMER_TYPE Type)", max_irql=DISPATCH_LEVEL)
def KeInitializeTimerEx(Timer: KTIMER, Type: int) -> None:
    """Make a timer of *Type* (NotificationTimer or SynchronizationTimer), not signalled (KE-TIMER-01).

    IRQL: <= DISPATCH_LEVEL. Findings: ``ke.timer-reinitialised`` while it is set.
    """
    initialise_timer(Timer, Type, "KeInitializeTimerEx")


@routine(
    "wdm",
    "BOOLEAN KeSetTimer(_Inout_ PKTIMER Timer, _In_ LARGE_INTEGER DueTime, _In_opt_ PKDPC Dpc)",
    max_irql=DISPATCH_LEVEL,
)
async def KeSetTimer(Timer: KTIMER, DueTime: int, Dpc: KDPC | None) -> bool:
    """Have *Timer* signalled, and *Dpc* queued, at *DueTime*; whether it was set (KE-TIMER-02, KE-TIMER-04).

    *DueTime* is in units of 100 ns: negative from now, else absolute. An earlier setting is forgotten.
    IRQL: <= DISPATCH_LEVEL. Findings: ``ke.uninitialised``.
    """
    return await set_timer(Timer, DueTime, 0, Dpc, "KeSetTimer")


@routine(
    "wdm",
    """BOOLEAN KeSetTimerEx(_Inout_ PKTIMER Timer, _In_ LARGE_INTEGER DueTime, _In_ LONG Period,
       _In_opt_ PKDPC Dpc)""",
    max_irql=DISPATCH_LEVEL,
)
async def KeSetTimerEx(Timer: KTIMER, DueTime: int, Period: int, Dpc: KDPC | None) -> bool:
    """As KeSetTimer; with a *Period*, in milliseconds, the timer expires again and again (KE-TIMER-03, KE-TIMER-04).

    IRQL: <= DISPATCH_LEVEL. Findings: also ``ke.timer-units`` for a period that is hardly meant.
    """
    return await set_timer(Timer, DueTime, Period, Dpc, "KeSetTimerEx")


@routine(
    "wdm",
    """BOOLEAN KeSetCoalescableTimer(_Inout_ PKTIMER Timer, _In_ LARGE_INTEGER DueTime, _In_ ULONG Period,
       _In_ ULONG TolerableDelay, _In_opt_ PKDPC Dpc)""",
    max_irql=DISPATCH_LEVEL,
)
async def KeSetCoalescableTimer(
    Timer: KTIMER, DueTime: int, Period: int, TolerableDelay: int, Dpc: KDPC | None
) -> bool:
    """As KeSetTimerEx; where the accuracy of timers is explored it may expire *TolerableDelay* milliseconds late.

    IRQL: <= DISPATCH_LEVEL.
    """
    return await set_timer(Timer, DueTime, Period, Dpc, "KeSetCoalescableTimer", TolerableDelay)


@routine("wdm", "BOOLEAN KeCancelTimer(_Inout_ PKTIMER Timer)", max_irql=DISPATCH_LEVEL)
async def KeCancelTimer(Timer: KTIMER) -> bool:
    """Forget the setting of *Timer*; True if it was in the timer queue (KE-TIMER-05).

    For a timer that expires once, False is: never set, or expired, and its DPC is queued, running or over. A periodic
    one is in the queue all the time, so that True says nothing about its DPC. IRQL: <= DISPATCH_LEVEL.
    """
    return await CancelTimer(checked_timer(Timer, "KeCancelTimer"))


@routine("wdm", "BOOLEAN KeReadStateTimer(_In_ PKTIMER Timer)", max_irql=DISPATCH_LEVEL)
async def KeReadStateTimer(Timer: KTIMER) -> bool:
    """Whether *Timer* is signalled. IRQL: <= DISPATCH_LEVEL."""
    return await ReadTimer(checked_timer(Timer, "KeReadStateTimer"))
