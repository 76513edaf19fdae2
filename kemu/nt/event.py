"""Event objects (KE-EVENT)."""

from __future__ import annotations

from typing import Final

from kemu.nt.dispatcher import DispatcherObject, signalled
from kemu.nt.kthread import DISPATCH_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.storage import Storage
from kemu.nt.system import refuse, report
from kemu.runtime import Cell, Operation, Thread, current_thread

NotificationEvent: Final = 0
SynchronizationEvent: Final = 1


class KEVENT(DispatcherObject, Storage):
    """Storage for an event; `KeInitializeEvent` makes one of it."""

    __slots__ = ("initialised", "signalled", "type")

    guards = ("signalled",)
    storage_size = 24

    def __init__(self, label: str = "event") -> None:
        super().__init__(current_thread(), label)
        self.type = NotificationEvent
        self.signalled = False
        self.initialised = False

    @property
    def is_initialised(self) -> bool:
        return self.initialised

    def is_signalled(self, thread: Thread) -> bool:
        return self.signalled

    def satisfy(self, thread: Thread) -> NTSTATUS:
        if self.type != SynchronizationEvent:
            return signalled(self, thread)
        thread.write(self)
        thread.acquire(self)
        self.signalled = False
        self.changed()
        return STATUS_SUCCESS


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


def checked_event(event: KEVENT, where: str) -> KEVENT:
    """Return *event* if it was initialised; finding ``ke.uninitialised`` otherwise (KE-WAIT-02)."""
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
