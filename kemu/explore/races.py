"""The races of one run: pairs of conflicting events that nothing else puts in order.

Whether the run would have come out otherwise with two of its events exchanged is not said here. But the order of
these pairs is all that tells the run from others: every run that keeps them is the same up to the order of
independent events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kemu.explore.strategies.base import Path
from kemu.explore.watch import Event
from kemu.runtime import WRITE, Cell


@dataclass(frozen=True, slots=True)
class Race:
    """Two events of different threads that touch *cell*, of which at least one changes it, in their order."""

    first: int
    """The place of the earlier event in the run."""
    second: int
    cell: Cell


class _Unseen(Cell):
    """What the code of users may touch without telling kemu: variables of a script, mostly."""

    def __init__(self) -> None:
        self.label = "state that kemu does not see"


UNSEEN: Final = _Unseen()


def coarse(events: Iterable[Event]) -> list[Event]:
    """The same events, all of which touch one cell more if they are in the code of users."""
    touch = (UNSEEN, WRITE)
    return [event if event.place is None else replace(event, footprint=(*event.footprint, touch)) for event in events]


def conflicting(mode: int, other: int) -> bool:
    """Whether two accesses to one cell in these modes may not be exchanged."""
    return mode != other or mode == WRITE


def merged(footprint: Iterable[tuple[Cell, int]]) -> dict[Cell, int]:
    """Each cell of *footprint* with one mode."""
    modes: dict[Cell, int] = {}
    for cell, mode in footprint:
        modes[cell] = mode if modes.get(cell, mode) == mode else WRITE
    return modes


def races(events: Sequence[Event], *, whole_sections: bool = True) -> list[Race]:
    """The races of the run of *events*, those with the latest events first.

    With *whole_sections*, the second of two threads to take a lock races with the first one's taking it; otherwise
    with its giving it back, before which it could not.
    """
    past = _Past(events)
    found: dict[tuple[int, int], Race] = {}
    for second in range(len(events)):
        for first, cell in past.add(second):
            pair = past.section(first, second, cell) if whole_sections else first
            if pair is not None:
                found[pair, second] = Race(pair, second, cell)

    # Of the steps that threads are stuck before, none is the last; what they are stuck because of tells.
    def age(race: Race) -> tuple[int, int, int]:
        return (events[race.second].step, race.first, race.second)

    return sorted(found.values(), key=age, reverse=True)


def conflicts(events: Sequence[Event], most: int) -> list[Race]:
    """All pairs of conflicting events of different threads, whether in order anyway or not; the latest first.

    Of a lock, the pairs are of those who take it. Nothing at all if there would be more than *most*.
    """
    past = _Past(events)
    touched: dict[Cell, list[tuple[int, int]]] = {}
    found: dict[tuple[int, int], Race] = {}
    for second, event in enumerate(events):
        past.add(second)
        for cell, mode in merged(event.footprint).items():
            if not past.gives_back(second, cell):
                for first, other in touched.get(cell, ()):
                    if events[first].path != event.path and conflicting(mode, other):
                        found.setdefault((first, second), Race(first, second, cell))
                        if len(found) > most:
                            return []
                if event.taken:
                    touched.setdefault(cell, []).append((second, mode))
    return sorted(found.values(), key=lambda race: (events[race.second].step, race.first, race.second), reverse=True)


class _Past:
    """What happens before what: for each event, a set of earlier ones, as the bits of a number."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.past: list[int] = []
        self._last: dict[Path, int] = {}
        self._parent: dict[Path, int] = {}
        # For each cell and thread, the places of its accesses, and of its last one in each mode.
        self._touched: dict[Cell, dict[Path, list[int]]] = {}
        self._newest: dict[Cell, dict[Path, dict[int, int]]] = {}

    def add(self, place: int) -> list[tuple[int, Cell]]:
        """Take note of the event at *place*, the next one, and return the earlier ones that it races with."""
        event = self.events[place]
        before = self._before(event.path)
        rivals: dict[int, Cell] = {}
        modes = merged(event.footprint)
        for cell, mode in modes.items():
            for path, newest in self._newest.get(cell, {}).items():
                # What the same thread did before that comes before it anyway.
                places = [place for other, place in newest.items() if conflicting(mode, other)]
                if path != event.path and places:
                    rivals.setdefault(max(places), cell)
        found: list[tuple[int, Cell]] = []
        for earlier in sorted(rivals, reverse=True):
            if not before >> earlier & 1:
                found.append((earlier, rivals[earlier]))
                before |= self.past[earlier] | 1 << earlier
        self.past.append(before)
        if event.taken:
            self._last[event.path] = place
            for path in event.spawns:
                self._parent[path] = place
            for cell, mode in modes.items():
                self._touched.setdefault(cell, {}).setdefault(event.path, []).append(place)
                self._newest.setdefault(cell, {}).setdefault(event.path, {})[mode] = place
        return found

    def _before(self, path: Path) -> int:
        """What happens before the next event of a thread by the thread's own doing."""
        last = self._last.get(path, self._parent.get(path))
        return 0 if last is None else self.past[last] | 1 << last

    def gives_back(self, place: int, cell: Cell) -> bool:
        """Whether the thread of the event at *place* held *cell* before it, and does not after it."""
        event = self.events[place]
        if not event.taken or cell in event.holds:
            return False
        for earlier in reversed(self._touched[cell][event.path]):
            if earlier < place:
                return cell in self.events[earlier].holds
        return False

    def section(self, first: int, second: int, cell: Cell) -> int | None:
        """Where the thread of *first*, if that gives *cell* back for *second* to take, had taken it.

        Otherwise *first*; None if the two are in order already, whatever becomes of the lock.
        """
        events = self.events
        one, other = events[first], events[second]
        if cell in one.holds or not (cell in other.holds or not other.taken):
            return first
        took = first
        for earlier in reversed(self._touched[cell][one.path]):
            if earlier < first:
                if cell not in events[earlier].holds:
                    break
                took = earlier
        if took != first and self._own_past(second) >> took & 1:
            return None
        return took

    def _own_past(self, place: int) -> int:
        path = self.events[place].path
        for earlier in reversed(range(place)):
            if self.events[earlier].path == path:
                return self.past[earlier]
        parent = self._parent.get(path)
        return 0 if parent is None else self.past[parent]
