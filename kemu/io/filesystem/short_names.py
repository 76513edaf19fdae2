"""Short names of the form 8.3, and the tunnel cache that gives a name its other half back (FLT-NAME-12).

Only where a scenario asks for it (``short_names=True``): a name that is no short one itself then gets an alias such as
``LONGFI~1.TXT``. When a name is removed from a directory, by a deletion or a rename, the pair of long and short name is
remembered for 15 seconds under the name that it was removed by, and a file that is given that name meanwhile gets the
other half, too. So a program that saves by way of a temporary file, and knows only the short name, keeps the long one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from kemu.io.filesystem.names import fold
from kemu.io.filesystem.nodes import Link, Node
from kemu.runtime import TICKS_PER_SECOND, Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem

AGE: Final = 15 * TICKS_PER_SECOND
"""How long an entry is good for: MaximumTunnelEntryAgeInSeconds."""

_SHORT = re.compile(r"[^ .+,;=\[\]]{1,8}(?:\.[^ .+,;=\[\]]{1,3})?")
_DROPPED = re.compile(r"[ .]")
_REPLACED = re.compile(r"[+,;=\[\]]")


class Tunnelled(NamedTuple):
    """What was removed: both names, and when."""

    long: str
    short: str
    removed: int


def is_short(name: str) -> bool:
    """Whether *name* has the form 8.3."""
    return _SHORT.fullmatch(name) is not None


def make_short(name: str, number: int) -> str:
    """The alias that *name* gets if *number* - 1 others like it are taken."""
    base, dot, extension = name.lstrip(".").rpartition(".")
    if not dot:
        base, extension = extension, ""
    base, extension = (_REPLACED.sub("_", _DROPPED.sub("", part)).upper() for part in (base, extension))
    tail = f"~{number}"
    return base[: 8 - len(tail)] + tail + (f".{extension[:3]}" if extension else "")


def add_alias(thread: Thread, link: Link, wanted: str = "") -> None:
    """Give *link*, which has just got its name, a short one: *wanted* if that is free."""
    directory = link.directory
    assert directory is not None
    link.short = None
    if is_short(link.name):
        return
    number = 0
    name = wanted
    while True:
        if name:
            entry = directory.entry(name)
            if entry.found is None:
                break
            thread.read(entry)
        number += 1
        name = make_short(link.name, number)
    thread.write(entry)
    entry.alias = link
    link.short = name


def drop_alias(fs: FileSystem, thread: Thread, link: Link, *, by_alias: bool) -> None:
    """Take the short name of *link*, whose name is being removed, away, and remember the pair."""
    directory = link.directory
    assert directory is not None
    if link.short is None:
        return
    entry = directory.entry(link.short)
    thread.write(entry)
    entry.alias = None
    # Who asks for what is stored here asks for one of the two names, whose cells this step writes.
    pair = Tunnelled(link.name, link.short, fs.runtime.clock.read(thread))
    directory.tunnel = {**directory.tunnel, fold(link.short if by_alias else link.name): pair}


def tunnelled(fs: FileSystem, thread: Thread, directory: Node, name: str) -> Tunnelled | None:
    """What was removed under *name* from *directory* not long ago. The calling step writes that name's cell."""
    found = directory.tunnel.get(fold(name))
    if found is None or fs.runtime.clock.read(thread) - found.removed > AGE:
        return None
    return found
