"""Pulsing an event (KE-EVENT-04), which is unreliable, and obsolete for that reason.

A pulse releases whoever waits at that moment and leaves the event cleared. A thread that a kernel APC keeps busy does
not wait at that moment, although nothing in its code says so; it misses the pulse and waits on (KE-WAIT-15). So a pulse
is two steps: the event is signalled, and a moment later, which the schedule decides, it is cleared; who has not run by
then is who was in an APC. Under a plain schedule everybody has.
"""

from __future__ import annotations

from kemu.nt.announce import announce_wait, announcing_ceiling
from kemu.nt.event import KEVENT, SetEvent, checked_event, seen
from kemu.nt.routine import routine
from kemu.nt.system import report
from kemu.runtime import BlockingOperation, Cell, Thread


class EndPulse(BlockingOperation[None]):
    """Clear an event that was pulsed, when the moment is over."""

    __slots__ = ("event",)
    kind = "end the pulse of"

    def __init__(self, event: KEVENT) -> None:
        # Waiting for the clock, and not for those who wait: a search could not tell when that would be over.
        super().__init__(timeout=1)
        self.event = event

    def available(self, thread: Thread) -> bool:
        return False

    def timed_out(self, thread: Thread) -> None:
        event = self.event
        thread.write(event)
        if event.unseen:
            event.lost = f"{thread.label} pulsed it, and nobody's wait saw that"
        event.signalled = False
        event.unseen = ""
        event.changed()

    def target(self) -> Cell:
        return self.event


def pulse_ceiling(Event: KEVENT, Increment: int = 0, Wait: bool = False) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL with Wait = TRUE."""
    return announcing_ceiling(Wait)


@routine(
    "ntddk",
    "LONG KePulseEvent(_Inout_ PRKEVENT Event, _In_ KPRIORITY Increment, _In_ BOOLEAN Wait)",
    max_irql=pulse_ceiling,
)
async def KePulseEvent(Event: KEVENT, Increment: int = 0, Wait: bool = False) -> int:
    """Release who waits for *Event*, clear it, and return its previous state (KE-EVENT-04).

    Every use is warning ``ke.pulse``: which of the waiters see the pulse is up to the schedule, because any of them may
    be in a kernel APC. IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL with *Wait*, as KeSetEvent.
    """
    checked_event(Event, "KePulseEvent")
    report("ke.pulse", f"KePulseEvent of {Event.label}: a waiter that is in a kernel APC misses it")
    previous = seen(Event, await SetEvent(Event))
    await EndPulse(Event)
    announce_wait("KePulseEvent", Wait)
    return previous
