"""Pulsing an event (KE-EVENT-04), which is unreliable, and obsolete for that reason.

A pulse releases whoever waits at that moment and leaves the event cleared. A thread that a kernel APC keeps busy does
not wait at that moment, although nothing in its code says so; it misses the pulse and waits on (KE-WAIT-15). So a pulse
is two steps: the event is signalled, and it is cleared again, when all who wait have seen it, or at once: that is a
choice.
"""

from __future__ import annotations

from kemu.nt.announce import announce_wait, announcing_ceiling
from kemu.nt.dispatcher import WaitForObject, WaitForObjects
from kemu.nt.event import KEVENT, SetEvent, checked_event, seen
from kemu.nt.routine import routine
from kemu.nt.system import report
from kemu.runtime import BlockingOperation, Thread, current_thread


class EndPulse(BlockingOperation[None]):
    """Clear an event that was pulsed, as soon as nobody is left who would see it."""

    __slots__ = ("event", "hurries")
    kind = "end the pulse of"
    # Who waits is no state of the event.
    opaque = True

    def __init__(self, event: KEVENT, hurries: bool) -> None:
        super().__init__(event)
        self.event = event
        self.hurries = hurries

    def available(self, thread: Thread) -> bool:
        event = self.event
        if self.hurries or not event.signalled:
            return True
        return not any(
            isinstance(one.op, WaitForObject | WaitForObjects) and one.op.available(one) for one in event.watchers
        )

    def take(self, thread: Thread) -> None:
        event = self.event
        thread.write(event)
        if self.hurries and event.unseen:
            event.lost = f"{thread.label} pulsed it while who waits for it was in a kernel APC"
        event.signalled = False
        event.unseen = ""
        event.changed()


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

    Every use is warning ``ke.pulse``. Whether one of the waiters is in a kernel APC, and misses the pulse, is a choice.
    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL with *Wait*, as KeSetEvent.
    """
    checked_event(Event, "KePulseEvent")
    report("ke.pulse", f"KePulseEvent of {Event.label}: a waiter that is in a kernel APC misses it")
    previous = seen(Event, await SetEvent(Event))
    hurries = current_thread().runtime.choose(2, f"a waiter for {Event.label} is in a kernel APC") != 0
    await EndPulse(Event, hurries)
    announce_wait("KePulseEvent", Wait)
    return previous
