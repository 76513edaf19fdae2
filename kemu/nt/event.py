"""Event objects (KE-EVENT)."""

from __future__ import annotations

from typing import Final

from kemu.nt.announce import announce_wait, announcing_ceiling
from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, BugCheck
from kemu.nt.dispatcher import DispatcherObject, ReadState, signalled
from kemu.nt.kthread import DISPATCH_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.storage import Storage
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread, current_thread

NotificationEvent: Final = 0
SynchronizationEvent: Final = 1


class KEVENT(DispatcherObject, Storage):
    """Storage for an event; `KeInitializeEvent` makes one of it."""

    __slots__ = ("initialised", "lost", "signalled", "taken_by", "type", "unseen")

    guards = ("signalled",)
    storage_size = 24

    def __init__(self, label: str = "event") -> None:
        super().__init__(current_thread(), label)
        self.type = NotificationEvent
        self.signalled = False
        self.initialised = False
        # What follows decides nothing; findings tell of it.
        self.unseen = ""
        """Who has signalled it since a wait was satisfied last."""
        self.lost = ""
        """How its last signal went unseen, in words; "" if it did not."""
        self.taken_by: Thread | None = None
        """Whose wait has cleared it last."""

    @property
    def is_initialised(self) -> bool:
        return self.initialised

    def is_signalled(self, thread: Thread) -> bool:
        return self.signalled

    def satisfy(self, thread: Thread) -> NTSTATUS:
        self.unseen = ""
        if self.type != SynchronizationEvent:
            return signalled(self, thread)
        thread.write(self)
        thread.acquire(self)
        self.signalled = False
        self.taken_by = thread
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
        event.unseen = thread.label
        event.lost = ""
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
        if event.unseen and previous:
            event.lost = f"{event.unseen} signalled it and {thread.label} cleared it before a wait saw that"
        event.signalled = False
        event.unseen = ""
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


def set_ceiling(Event: KEVENT, Increment: int = 0, Wait: bool = False) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL with Wait = TRUE."""
    return announcing_ceiling(Wait)


def set_stops(
    irql: int, Event: KEVENT, Increment: int = 0, Wait: bool = False
) -> tuple[BugCheck | None, BugCheck | None]:
    """What Driver Verifier says of a set above DISPATCH_LEVEL (KE-EVENT-03)."""
    return None, BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x80, irql)) if irql > DISPATCH_LEVEL else None


@routine(
    "wdm",
    "LONG KeSetEvent(_Inout_ PRKEVENT Event, _In_ KPRIORITY Increment, _In_ BOOLEAN Wait)",
    max_irql=set_ceiling,
    stops=set_stops,
)
async def KeSetEvent(Event: KEVENT, Increment: int = 0, Wait: bool = False) -> int:
    """Signal *Event* and return its previous state (KE-EVENT-01, KE-EVENT-02).

    *Increment* is accepted and has no effect: kemu's schedule does not follow priorities. With *Wait* it returns with
    the IRQL raised, and the very next call must be a wait; other threads come between the two all the same
    (KE-WAIT-17). IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL with *Wait* (KE-EVENT-03).
    """
    checked_event(Event, "KeSetEvent")
    previous = seen(Event, await SetEvent(Event))
    announce_wait("KeSetEvent", Wait)
    return previous


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


@routine("wdm", "LONG KeReadStateEvent(_In_ PRKEVENT Event)", max_irql=DISPATCH_LEVEL)
async def KeReadStateEvent(Event: KEVENT) -> int:
    """Whether *Event* is signalled, as a number, without waiting for it. IRQL: <= DISPATCH_LEVEL."""
    checked_event(Event, "KeReadStateEvent")
    return seen(Event, await ReadState(Event))
