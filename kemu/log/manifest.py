"""Every event of ``kemu.trace/1``: its fields in order, its phase, its category, and what it means.

The recorder stores fields in this order, files and renderings use it, and the reference page is made from it.
A test compares names and fields with what the code emits, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Phase = Literal["B", "E", "i"]
"""Begins something that ends in the same thread, ends it, or is an instant."""

COMMON: Final = ("seq", "step", "vt", "thread", "actor", "irql", "ev", "cause", "irp")
"""The fields of every event, before its own. What does not apply is left out of a file.

``seq`` number in the trace, from 0, and what ``cause`` refers to; ``step`` of the schedule, from 0; ``vt``
virtual time in ticks of 100 ns; ``thread`` and ``actor`` by name; ``irql`` a number; ``ev`` the name;
``cause`` the event that enabled this one; ``irp`` the number of the operation it belongs to.
"""

OPEN_FIELD: Final = "data"
"""Where ``user.log`` keeps the fields that the driver gave."""


@dataclass(frozen=True, slots=True)
class EventKind:
    """What is known of all events of one name."""

    fields: tuple[str, ...]
    phase: Phase
    category: str
    doc: str


_FRAME: Final = ("op", "flt", "inst", "alt", "path")
"""What an operation's frame says of itself."""


def _kind(doc: str, *fields: str, category: str, phase: Phase = "i") -> EventKind:
    return EventKind(fields, phase, category, doc)


MANIFEST: Final[Mapping[str, EventKind]] = MappingProxyType(
    {
        "sched.decide": _kind(
            "the schedule went to `thread`; `why` is forced, continue, switch, preempt or clock",
            "enabled", "pick", "why", category="schedule",
        ),
        "sched.block": _kind(
            "the thread cannot go on: it waits to `waits_for`, which `holder` would have to bring about",
            "waits_for", "holder", category="schedule",
        ),
        "sched.wake": _kind(
            "the thread can go on; the cause is what its wait was for", "waits_for", category="schedule"
        ),
        "choice": _kind(
            "an open question of the emulated system got the answer `value` of `n`; 0 is the plain one",
            "what", "n", "value", category="schedule",
        ),
        "actor.spawn": _kind("a thread was created", "thread_name", "service", category="schedule"),
        "actor.exit": _kind("a thread has ended", "thread_name", category="schedule"),
        "msg.send": _kind("a message is on its way", "to", "message", category="message"),
        "msg.recv": _kind("an actor takes a message from its mailbox", "message", category="message"),
        "irp.create": _kind("a request starts down the stack", "op", "path", "kind", category="io"),
        "irp.complete": _kind("a request is complete", "op", "status", "info", category="io"),
        "irp.call": _kind("an IRP is passed to a device", "op", "dev", category="io"),
        "irp.return": _kind("a dispatch routine returned", "op", "dev", "status", category="io"),
        "irp.up": _kind("a driver completes an IRP: it goes up the stack", "op", "status", category="io"),
        "irp.cancel": _kind("a request is cancelled", "op", category="io"),
        "fs.call": _kind("the file system gets a request", "op", "path", category="io"),
        "fs.return": _kind(
            "the file system has carried a request out", "op", "status", "info", category="io"
        ),
        "flt.io.completed": _kind(
            "asynchronous I/O of a minifilter is complete: its callback is called",
            "op", "flt", "status", category="flt",
        ),
        "flt.pre.enter": _kind(
            "a preoperation callback is called", *_FRAME, "message", category="flt", phase="B"
        ),
        "flt.pre.return": _kind(
            "a preoperation callback returned", *_FRAME, "ret", category="flt", phase="E"
        ),
        "flt.post.enter": _kind(
            "a postoperation callback is called", *_FRAME, "message", category="flt", phase="B"
        ),
        "flt.post.return": _kind(
            "a postoperation callback returned", *_FRAME, "ret", category="flt", phase="E"
        ),
        "flt.complete_pended": _kind(
            "a pended operation is given back to the filter manager", *_FRAME, "ret", category="flt"
        ),
        "flt.queue": _kind(
            "an operation is put on a queue, or refused by it", *_FRAME, "status", category="flt"
        ),
        "flt.dequeue": _kind("an operation is taken from a queue", *_FRAME, category="flt"),
        "flt.instance.setup": _kind(
            "an instance was offered to a filter", "flt", "inst", "alt", "status", category="flt"
        ),
        "flt.instance.teardown": _kind("an instance is torn down", "flt", "inst", "phase", category="flt"),
        "flt.filter.register": _kind("a filter registers", "flt", "alt", category="flt"),
        "flt.filter.unload": _kind("a filter unloads", "flt", category="flt"),
        "sync.acquire": _kind("a lock is acquired", "obj", category="sync"),
        "sync.release": _kind("a lock is released", "obj", category="sync"),
        "sync.signal": _kind("an object is signalled", "obj", category="sync"),
        "sync.wait": _kind("a wait ended, with `status`", "obj", "status", category="sync"),
        "apc.insert": _kind("an APC is queued to the thread `to`", "obj", "kind", "to", category="apc"),
        "apc.enter": _kind("an APC interrupts the thread", "obj", "kind", category="apc", phase="B"),
        "apc.return": _kind("the APC is over", "obj", category="apc", phase="E"),
        "work.queue": _kind("a work item is queued", "obj", "mbox", category="work"),
        "work.run": _kind("a worker takes a work item", "obj", category="work"),
        "ob.open": _kind("a handle was made for `obj`", "obj", "handle", "access", category="object"),
        "ob.close": _kind("a handle of `obj` was closed", "obj", "handle", category="object"),
        "dpc.queue": _kind("a DPC is queued", "obj", category="work"),
        "dpc.run": _kind("the routine of a DPC starts", "obj", category="work"),
        "timer.set": _kind(
            "a timer is set to expire at `due`, and then each `period`, both in ticks of 100 ns",
            "obj", "due", "period", category="work",
        ),
        "timer.cancel": _kind("a timer is cancelled", "obj", category="work"),
        "timer.expire": _kind("a timer expires", "obj", category="work"),
        "mem.alloc": _kind("pool is allocated", "tag", "size", category="memory"),
        "mem.free": _kind("pool is freed", "tag", "size", category="memory"),
        "check.violation": _kind(
            "a documented rule is broken", "check", "sev", "detail", category="check"
        ),
        "user.log": _kind(
            "a line that a driver or a script logs; its own fields are in `data`",
            "level", "text", "src", category="user",
        ),
    }
)  # fmt: skip


def fields_of(event: str) -> tuple[str, ...]:
    """The fields of *event* in order; none for a name that this version does not know."""
    kind = MANIFEST.get(event)
    return kind.fields if kind is not None else ()
