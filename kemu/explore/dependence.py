"""What a reduced search knows of a run: its events, what each touched, and which happen before which.

An event is one step. Two events are *dependent* if they belong to one thread, or touch one cell and do not both
read it or both update it; dependence, in the order of the run, is the happens-before relation. Sets of events are
integers with one bit for each, so that joining two pasts is one operation.

Events and cells are recognised in later runs of the same beginning: cells by their names, threads by their paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from kemu.runtime import READ, WRITE, Thread

if TYPE_CHECKING:
    from kemu.runtime import Cell

Footprint = dict[int, int]
"""What a step touched: for the number of each cell the mode, which is WRITE where several came together."""


def dependent(one: Footprint, other: Footprint) -> bool:
    """Whether two steps of different threads that touched this do not commute."""
    if len(one) > len(other):
        one, other = other, one
    for cell, mode in one.items():
        met = other.get(cell)
        if met is not None and (met != mode or mode == WRITE):
            return True
    return False


def members(events: int) -> Iterator[int]:
    """The events of a set, in order."""
    while events:
        low = events & -events
        yield low.bit_length() - 1
        events ^= low


THREADS: Final = -9
"""What the names of threads begin with here. No other name begins with it."""


class CellNumbers:
    """Small numbers for cells, the same in every run of one search."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}

    def of(self, cell: Cell) -> int:
        """The number of *cell*."""
        # A thread's creator is forgotten with the run; its path names it as well.
        name = (THREADS, *cell.path) if isinstance(cell, Thread) else cell.name
        number = self._numbers.get(name)
        return self.named(name) if number is None else number

    def named(self, name: tuple[int, ...]) -> int:
        """The number of the cell of that *name*, a new one if it has none yet."""
        return self._numbers.setdefault(name, len(self._numbers))

    def names(self) -> list[tuple[int, ...]]:
        """The names, in the order of the numbers."""
        return list(self._numbers)

    def known(self, name: tuple[int, ...]) -> int | None:
        """The number of the cell of that *name*, if it was ever touched."""
        return self._numbers.get(name)

    def footprint(self, touched: Iterable[tuple[Cell, int]]) -> Footprint:
        """What was *touched*, put together."""
        result: Footprint = {}
        of = self.of
        for cell, mode in touched:
            number = of(cell)
            known = result.setdefault(number, mode)
            if known != mode:
                result[number] = WRITE
        return result


class Dependence:
    """The events of the current run as far as it has come, and their order."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        """Of each event, the thread that made it."""
        self.footprints: list[Footprint] = []
        self.past: list[int] = []
        """Of each event, the set of those that happen before it, and itself."""
        self._before: list[int | None] = []
        self._last: dict[int, int] = {}
        self._spawned: dict[int, int] = {}
        self._accesses: dict[int, list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.threads)

    def spawned(self, thread: int, event: int) -> None:
        """*thread* was created in *event*, so that everything it does comes after that."""
        self._spawned[thread] = event

    def past_of(self, thread: int) -> int:
        """What happens before the next step of *thread*, whatever that is going to be."""
        last = self._last.get(thread)
        if last is None:
            last = self._spawned.get(thread)
        return 0 if last is None else self.past[last]

    def append(self, thread: int, footprint: Footprint, past: int, conflicts: int) -> int:
        """Add an event whose thread has that *past*, and which is dependent on the *conflicts* outside of it."""
        event = len(self.threads)
        for other in members(conflicts):
            past |= self.past[other]
        self.threads.append(thread)
        self.footprints.append(footprint)
        self.past.append(past | 1 << event)
        self._before.append(self._last.get(thread))
        self._last[thread] = event
        accesses = self._accesses
        for cell, mode in footprint.items():
            accesses.setdefault(cell, []).append((event, mode))
        return event

    def truncate(self, length: int) -> None:
        """Forget all events from number *length* on."""
        while len(self.threads) > length:
            thread = self.threads.pop()
            self.past.pop()
            before = self._before.pop()
            if before is None:
                del self._last[thread]
            else:
                self._last[thread] = before
            for cell in self.footprints.pop():
                self._accesses[cell].pop()

    def conflicts(self, footprint: Footprint, past: int) -> int:
        """The events outside *past* that are dependent on a step that touches *footprint*, but for those that
        happen before another one of them.
        """
        found = 0
        for cell, mode in footprint.items():
            accesses = self._accesses.get(cell)
            if accesses is None:
                continue
            for event, other in reversed(accesses):
                if other != mode or mode == WRITE:
                    found |= 1 << event
                if other == WRITE:
                    break
        return found & ~past

    def latest(self, events: int) -> int:
        """Those of a set of *events* that happen before no other of the set."""
        if not events & (events - 1):
            return events
        result = events
        for event in members(events):
            result &= ~self.past[event] | 1 << event
        return result

    def touching(self, cells: Iterable[int], past: int, *, reads: bool = False) -> list[int]:
        """The events outside *past* that changed one of *cells*, or also those that only read one, newest first."""
        found = 0
        for cell in cells:
            for event, mode in self._accesses.get(cell, ()):
                if reads or mode != READ:
                    found |= 1 << event
        return list(members(found & ~past))[::-1]

    def changes(self, event: int, cells: Iterable[int]) -> bool:
        """Whether *event* changed one of *cells*."""
        footprint = self.footprints[event]
        return any(footprint.get(cell, READ) != READ for cell in cells)

    def not_after(self, event: int, end: int) -> int:
        """The events after number *event* and before number *end* that do not happen after it."""
        result = 0
        past = self.past
        for other in range(event + 1, end):
            if not past[other] >> event & 1:
                result |= 1 << other
        return result

    def initials(self, events: int) -> list[int]:
        """The threads whose first event of a set of *events* has none of the set in its past."""
        seen: set[int] = set()
        result: list[int] = []
        for event in members(events):
            thread = self.threads[event]
            if thread not in seen:
                seen.add(thread)
                if self.past[event] & events == 1 << event:
                    result.append(thread)
        return result
