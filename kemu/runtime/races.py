"""Data races, found in a single run: two accesses of which one is a change, and nothing orders them.

The algorithm is FastTrack (Flanagan and Freund, PLDI 2009): of each cell the last change is kept, and of the accesses
that observe it the last one, or one for each task once there are several that nothing orders. A race is reported at
its second access, whichever that is in this run; in another run it may be the other way round.

Objects have a lifetime as well. Using one (`use`) observes it, and its end (`end`) - being freed, or being given back
to a framework - changes it, and with it all its fields. So a use that nothing orders before the end is reported when
the end comes, although in this run it came late enough: in another run it comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kemu.runtime.happens_before import HappensBefore, Task
from kemu.runtime.site import Site, here, line_of

if TYPE_CHECKING:
    from kemu.runtime.core import Runtime
    from kemu.runtime.footprint import Cell
    from kemu.runtime.thread import Thread

LOAD: Final = "loads"
STORE: Final = "stores"
USE: Final = "uses"
END: Final = "ends"
ATOMIC: Final = "changes atomically"


@dataclass(frozen=True, slots=True)
class Access:
    """One half of a race."""

    thread: str
    what: str
    """``loads``, ``stores``, ``uses``, ``ends`` or ``changes atomically``."""
    file: str
    """The user's file, or "" if no code of the user's was running."""
    line: int
    function: str

    @property
    def place(self) -> str:
        """``file:line``, or "" if there is none."""
        return f"{self.file}:{self.line}" if self.file else ""


@dataclass(frozen=True, slots=True)
class Race:
    """Two accesses that nothing orders, in the order in which this run made them."""

    cell: Cell
    first: Access
    second: Access
    missing: str
    """Why nothing orders them, in words."""


Noted = tuple[Task, int, str, Site | None]
"""An access: who, in which epoch, doing what, where."""


class History:
    """What is remembered of the accesses to one cell."""

    __slots__ = ("benign", "lifetime", "load", "loads", "store")

    def __init__(self, cell: Cell) -> None:
        self.benign = cell.benign
        self.lifetime = cell.lifetime
        self.store: Noted | None = None
        self.load: Noted | None = None
        """The last load since the store, as long as one is enough."""
        self.loads: dict[int, Noted] | None = None
        """The last load of each task, once there were two that nothing orders."""


class RaceDetector(HappensBefore):
    """Watches one run: what synchronises it, and every access. Calls *report* with a race when it is complete."""

    def __init__(self, runtime: Runtime, report: Callable[[Race], None]) -> None:
        super().__init__()
        self._runtime = runtime
        self._report = report
        self._histories: dict[Cell, History] = {}

    def load(self, thread: Thread, cell: Cell) -> None:
        """*thread* observes *cell*."""
        self._load(thread, cell, LOAD)

    def store(self, thread: Thread, cell: Cell) -> None:
        """*thread* changes *cell*."""
        self._store(thread, cell, STORE)

    def use(self, thread: Thread, cell: Cell) -> None:
        """*thread* uses the object behind *cell*."""
        self._load(thread, cell, USE)

    def end(self, thread: Thread, cell: Cell) -> None:
        """*thread* ends the object behind *cell*, or its own right to use it."""
        self._store(thread, cell, END)

    def atomic(self, thread: Thread, cell: Cell) -> None:
        """*thread* looks at *cell*, or changes it, in one piece: that races with plain stores only."""
        self._load(thread, cell, ATOMIC)

    def _history(self, cell: Cell) -> History:
        history = self._histories.get(cell)
        if history is None:
            history = self._histories[cell] = History(cell)
        return history

    def _load(self, thread: Thread, cell: Cell, what: str) -> None:
        history = self._history(cell)
        if history.lifetime is not None:
            self._load(thread, history.lifetime, what)
        if history.benign:
            return
        task = self.task(thread)
        index = task.index
        epoch = task.clock[index]
        last, loads = history.load, history.loads
        if loads is None:
            if last is not None and last[0] is task and last[1] == epoch:
                return
        elif index in loads and loads[index][1] == epoch:
            return
        noted = (task, epoch, what, here(thread))
        store = history.store
        if store is not None and not task.knows(store[0].index, store[1]):
            self._found(cell, store, noted)
        if loads is not None:
            loads[index] = noted
        elif last is None or task.knows(last[0].index, last[1]):
            history.load = noted
        else:
            history.loads = {last[0].index: last, index: noted}

    def _store(self, thread: Thread, cell: Cell, what: str) -> None:
        history = self._history(cell)
        if history.lifetime is not None:
            self._load(thread, history.lifetime, what)
        if history.benign:
            return
        task = self.task(thread)
        epoch = task.clock[task.index]
        store = history.store
        if store is not None and store[0] is task and store[1] == epoch:
            return
        noted = (task, epoch, what, here(thread))
        if store is not None and not task.knows(store[0].index, store[1]):
            self._found(cell, store, noted)
        if history.loads is not None:
            for load in history.loads.values():
                if not task.knows(load[0].index, load[1]):
                    self._found(cell, load, noted)
            history.loads = None
        elif history.load is not None and not task.knows(history.load[0].index, history.load[1]):
            self._found(cell, history.load, noted)
        history.load = None
        history.store = noted

    def _found(self, cell: Cell, first: Noted, second: Noted) -> None:
        # What a driver does while its run is taken apart is nobody's race.
        if not self._runtime.dead:
            self._report(Race(cell, access(first), access(second), missing(first, second)))


def access(noted: Noted) -> Access:
    """*noted*, put into words."""
    task, _, what, site = noted
    if site is None:
        return Access(task.label, what, "", 0, "")
    return Access(task.label, what, site[0].co_filename, line_of(site), site[0].co_qualname)


def missing(first: Noted, second: Noted) -> str:
    """Which ordering is missing between the two: what the one released afterwards, what the other acquired before."""
    one, epoch = first[0], first[1]
    other = second[0]
    # Each release ends an epoch, so that the one that ended the access's is the next after it.
    since = one.released[epoch - 1 :]
    gave = f"{one.label} next released {since[0]}" if since else f"{one.label} has released nothing since"
    took = f"{other.label} last acquired {other.acquired}" if other.acquired else f"{other.label} has acquired nothing"
    return f"no lock, event or hand-off orders the first before the second: {gave}, {took}"
