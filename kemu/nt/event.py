"""Event objects and waiting for one dispatcher object (KE-EVENT, KE-WAIT)."""

from __future__ import annotations

from typing import Final

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.process import KernelMode
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.nt.system import refuse, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

NotificationEvent: Final = 0
SynchronizationEvent: Final = 1
Executive: Final = 0
"""The usual wait reason."""
UserRequest: Final = 6


class KEVENT(Waitable):
    """Storage for an event; `KeInitializeEvent` makes one of it."""

    __slots__ = ("initialised", "signalled", "type")

    guards = ("signalled",)

    def __init__(self, label: str = "event") -> None:
        super().__init__(current_thread(), label)
        self.type = NotificationEvent
        self.signalled = False
        self.initialised = False


class SetEvent(Operation[int]):
    """Signal an event; evaluates to its previous state."""

    __slots__ = ("event",)
    kind = "set"

    def __init__(self, event: KEVENT) -> None:
        self.event = event

    def perform(self, thread: Thread) -> int:
        event = self.event
        thread.write(event)
        log = thread.runtime.log
        if log is not None:
            log("sync.signal", obj=event)
        previous = int(event.signalled)
        if not previous:
            # A set of an event that is signalled changes nothing: no wait is released by it.
            thread.release(event)
        event.signalled = True
        event.changed()
        return previous

    def target(self) -> Cell:
        return self.event


class ClearEvent(Operation[int]):
    """Clear an event; evaluates to its previous state."""

    __slots__ = ("event",)
    kind = "clear"

    def __init__(self, event: KEVENT) -> None:
        self.event = event

    def perform(self, thread: Thread) -> int:
        event = self.event
        thread.write(event)
        previous = int(event.signalled)
        event.signalled = False
        event.changed()
        return previous

    def target(self) -> Cell:
        return self.event


class WaitForEvent(BlockingOperation[NTSTATUS]):
    """Wait until an event is signalled; a synchronization event is cleared by that."""

    __slots__ = ("event",)
    kind = "see the signal of"

    def __init__(self, event: KEVENT, timeout: int | None = None) -> None:
        super().__init__(event, timeout=timeout)
        self.event = event

    def available(self, thread: Thread) -> bool:
        return self.event.signalled

    def take(self, thread: Thread) -> NTSTATUS:
        event = self.event
        if event.type == SynchronizationEvent:
            thread.write(event)
            event.signalled = False
            event.changed()
        else:
            thread.read(event)
        thread.acquire(event)
        log = thread.runtime.log
        if log is not None:
            log("sync.wait", obj=event, status=STATUS_SUCCESS)
        return STATUS_SUCCESS

    def timed_out(self, thread: Thread) -> NTSTATUS:
        thread.read(self.event)
        log = thread.runtime.log
        if log is not None:
            log("sync.wait", obj=self.event, status=STATUS_TIMEOUT)
        return STATUS_TIMEOUT


def checked_event(event: object, where: str) -> KEVENT:
    """Return *event* if it was initialised; finding ``ke.uninitialised`` otherwise (KE-WAIT-02)."""
    if not isinstance(event, KEVENT):
        # C takes any pointer here; what has no dispatcher header cannot be waited for (KE-WAIT-01).
        refuse(
            f"{where} on {event!r}, which is a {type(event).__name__}",
            remedy="give it a KEVENT: locks are acquired with their own routines",
        )
    if not event.initialised:
        report("ke.uninitialised", f"{where} on {event.label}, which KeInitializeEvent has not initialised")
    return event


@routine("wdm", "VOID KeInitializeEvent(_Inout_ PRKEVENT Event, _In_ EVENT_TYPE Type, _In_ BOOLEAN State)")
def KeInitializeEvent(Event: KEVENT, Type: int, State: bool) -> None:
    """Make an event of *Type* (NotificationEvent or SynchronizationEvent), signalled if *State*.

    IRQL: any. Initialising an event that threads wait for is bug check 0x139 (KE-EVENT-06).
    """
    thread = current_thread()
    if Event.initialised and Event.watchers:
        report("ke.event-reinitialised", f"{Event.label} was initialised again while a thread waits for it")
    thread.write(Event)
    if State:
        thread.release(Event)
    Event.type = Type
    Event.signalled = State
    Event.initialised = True


@routine(
    "wdm",
    "LONG KeSetEvent(_Inout_ PRKEVENT Event, _In_ KPRIORITY Increment, _In_ BOOLEAN Wait)",
    max_irql=DISPATCH_LEVEL,
)
async def KeSetEvent(Event: KEVENT, Increment: int = 0, Wait: bool = False) -> int:
    """Signal *Event* and return its previous state (KE-EVENT-01, KE-EVENT-02). IRQL: <= DISPATCH_LEVEL.

    *Increment* is accepted and has no effect: kemu's schedule does not follow priorities. *Wait* must be False:
    the pair it announces is not atomic anyway (KE-WAIT-17). Raises `UsageError` otherwise.
    """
    if Wait:
        refuse(
            "KeSetEvent with Wait = TRUE, which kemu does not emulate",
            remedy="set the event with Wait = FALSE, then wait: the pair is not atomic either way",
        )
    checked_event(Event, "KeSetEvent")
    return seen(Event, await SetEvent(Event))


def seen(event: KEVENT, previous: int) -> int:
    """Return *previous*; a caller that is told of a signal is ordered behind it, as one that has waited is."""
    if previous:
        current_thread().acquire(event)
    return previous


@routine("wdm", "VOID KeClearEvent(_Inout_ PRKEVENT Event)", max_irql=DISPATCH_LEVEL)
async def KeClearEvent(Event: KEVENT) -> None:
    """Make *Event* not signalled. IRQL: <= DISPATCH_LEVEL."""
    checked_event(Event, "KeClearEvent")
    await ClearEvent(Event)


@routine("wdm", "LONG KeResetEvent(_Inout_ PRKEVENT Event)", max_irql=DISPATCH_LEVEL)
async def KeResetEvent(Event: KEVENT) -> int:
    """Make *Event* not signalled and return its previous state (KE-EVENT-02). IRQL: <= DISPATCH_LEVEL."""
    checked_event(Event, "KeResetEvent")
    return seen(Event, await ClearEvent(Event))


def relative_timeout(timeout: int | None) -> int | None:
    """Turn a LARGE_INTEGER timeout into ticks from now (KE-WAIT-03): negative is relative, positive absolute."""
    if timeout is None or timeout == 0:
        return timeout
    if timeout < 0:
        return -timeout
    thread = current_thread()
    return max(timeout - thread.runtime.clock.read(thread), 0)


def wait_ceiling(
    Object: KEVENT,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> int:
    """<= APC_LEVEL; <= DISPATCH_LEVEL with a zero timeout."""
    return DISPATCH_LEVEL if Timeout == 0 else APC_LEVEL


@routine(
    "wdm",
    """NTSTATUS KeWaitForSingleObject(_In_ PVOID Object, _In_ KWAIT_REASON WaitReason, _In_ KPROCESSOR_MODE WaitMode,
       _In_ BOOLEAN Alertable, _In_opt_ PLARGE_INTEGER Timeout)""",
    max_irql=wait_ceiling,
)
async def KeWaitForSingleObject(
    Object: KEVENT,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> NTSTATUS:
    """Wait until *Object* is signalled: STATUS_SUCCESS, or STATUS_TIMEOUT, which is a success code too (KE-WAIT-05).

    *Timeout* in units of 100 ns: None for ever, 0 polls, negative is relative, positive absolute (KE-WAIT-03).
    IRQL: <= APC_LEVEL; <= DISPATCH_LEVEL if *Timeout* is 0 (KE-WAIT-04).
    """
    checked_event(Object, "KeWaitForSingleObject")
    forbid_wait_under_spin_lock("KeWaitForSingleObject", Timeout)
    return await WaitForEvent(Object, relative_timeout(Timeout))


def forbid_wait_under_spin_lock(name: str, timeout: int | None) -> None:
    """Finding ``ke.spin-forbidden-call`` for a wait while a spin lock is held below its IRQL (KE-SPIN-08)."""
    from kemu.nt.spinlock import KSPIN_LOCK

    if timeout != 0:
        for lock in current_kthread().locks:
            if isinstance(lock, KSPIN_LOCK):
                report("ke.spin-forbidden-call", f"{name} waits while spin lock {lock.label} is held")
