"""Which earlier event enabled an event: what the recorder adds where the emitter gives no cause.

An event is looked up by what it is about: its operation, its instance's part in the operation, or its object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Scope = Literal["irp", "frame", "obj"]

CAUSES: Final[Mapping[str, tuple[Scope, tuple[str, ...]]]] = {
    "irp.cancel": ("irp", ("irp.create",)),
    "irp.complete": ("irp", ()),
    "irp.call": ("irp", ()),
    "irp.return": ("irp", ("irp.call",)),
    "irp.up": ("irp", ()),
    "fs.call": ("irp", ()),
    "fs.return": ("irp", ("fs.call",)),
    "flt.pre.enter": ("irp", ()),
    "flt.pre.return": ("frame", ("flt.pre.enter",)),
    "flt.queue": ("frame", ("flt.pre.enter", "flt.post.enter")),
    "flt.dequeue": ("frame", ("flt.queue",)),
    "flt.complete_pended": ("frame", ("flt.pre.return", "flt.post.return", "flt.queue", "flt.pre.enter")),
    "flt.post.enter": ("frame", ("flt.pre.return", "flt.complete_pended")),
    "flt.post.return": ("frame", ("flt.post.enter",)),
    "sync.acquire": ("obj", ("sync.release",)),
    "sync.release": ("obj", ("sync.acquire",)),
    "sync.wait": ("obj", ("sync.signal", "sync.release")),
    "apc.enter": ("obj", ("apc.insert",)),
    "apc.return": ("obj", ("apc.enter",)),
    "work.run": ("obj", ("work.queue",)),
}
"""Event -> what it is looked up by, and the events of which the latest is its cause; none: any event."""

Key = tuple[Scope, object]


def keys(irp: int | None, instance: object, obj: object) -> list[Key]:
    """Everything that an event is about."""
    about: list[Key] = []
    if irp is not None:
        about.append(("irp", irp))
        if instance is not None:
            about.append(("frame", (irp, instance)))
    if obj is not None:
        about.append(("obj", obj))
    return about


class Causes:
    """Remembers the latest event of each name and thing, and looks causes up."""

    def __init__(self) -> None:
        self._latest: dict[tuple[Key, str], int] = {}

    def find(self, event: str, about: list[Key]) -> int | None:
        """The event that enabled *event*, which is *about* these things."""
        rule = CAUSES.get(event)
        if rule is None:
            return None
        scope, candidates = rule
        for key in about:
            if key[0] == scope:
                found = [self._latest.get((key, name), -1) for name in candidates or ("*",)]
                latest = max(found)
                return latest if latest >= 0 else None
        return None

    def note(self, event: str, about: list[Key], seq: int) -> None:
        """*event* has the number *seq*."""
        for key in about:
            self._latest[key, event] = seq
            self._latest[key, "*"] = seq
