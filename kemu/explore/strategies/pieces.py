"""The reduced search in pieces, for several processes.

A piece is a step from a state: who goes on there, and the beginning of the answers in that step. Whoever has the piece
explores what comes after that step, below a prefix that is fixed. A reversal that belongs to a state of the prefix is
not its business: it is *asked* for, and whoever cut the search in pieces sees to it (after Yang, Chen, Gopalakrishnan
and Kirby, "Distributed dynamic partial order reduction", STTT 2010, and Simsa, Bryant, Gibson and Hickey, "Scalable
dynamic partial order reduction", RV 2012).

Nothing is explored twice: a piece knows the sleep set of the state that it begins at, with all parties that went on
there before, in every piece, and what their steps touched. So a piece can only be begun when those steps have been
made once, with every vector of answers; what comes after them may still be explored elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from kemu.errors import ScenarioNotDeterministic
from kemu.explore.dependence import CellNumbers, Dependence, Footprint
from kemu.explore.frames import Frame, Sleeper
from kemu.explore.guards import Guards
from kemu.explore.strategies.base import Path, Remainder
from kemu.explore.strategies.dpor import ANY_STATE, DPOR
from kemu.explore.wakeup import Vector
from kemu.runtime import Outcome

Name = tuple[int, ...]
"""The name of a cell; empty for the one that stands for all that invariants look at."""

Numbered = tuple[tuple[int, int], ...]
"""What a step touched: cells, by their place in a list of names, and modes."""

Known = tuple[tuple[Vector, int], ...]
"""Vectors of answers, each with the place in a list of what the step touched with it."""

Sleeping = tuple[tuple[Path, bool, Known], ...]
"""A sleep set: parties, whether a vector of theirs has been woken, and those that still sleep."""

Start = tuple[Vector, Vector]
"""The beginning of the answers in a step, and how many alternatives there were at each."""


class Step(NamedTuple):
    """A step of a prefix."""

    alternatives: int
    place: int
    """Which of them it is."""
    vector: Vector
    ends: Vector


class Item(NamedTuple):
    """A piece: the last of the steps, and all that comes after it."""

    steps: tuple[Step, ...]
    sleep: Sleeping
    """Of the state before the last step."""
    cells: tuple[Name, ...]
    touched: tuple[Numbered, ...]


EVERYTHING: Final = Item((), (), (), ())
"""The whole search."""


class State(NamedTuple):
    """A state on the way to the run that comes next, with what is to be explored from it."""

    enabled: tuple[Path, ...]
    sleep: Sleeping
    """With those that were explored to the end."""
    todo: tuple[Path, ...]
    """Who goes on in runs to come, in this order."""
    party: Path
    """Who goes on in the run that comes next."""
    vector: Vector
    ends: Vector
    """The answers in that step; in the last state, the beginning of them."""
    known: Known
    """The vectors that its step has been made with."""
    open: tuple[Start, ...]
    """Beginnings of those that it has still to be made with."""


class Report(NamedTuple):
    """What came of a piece."""

    asked: tuple[tuple[int, tuple[int, ...]], ...]
    """Reversals that belong to states of the prefix: the number of the state, and alternatives of it of which one has
    to be explored, the one to be preferred first; none if all have to be."""
    known: Known
    """The vectors that the last step of the prefix has been made with."""
    open: tuple[Start, ...]
    """Beginnings of those that it has still to be made with."""
    way: Start
    """The answers in that step, on the way to the states."""
    states: tuple[State, ...]
    """Those that come after the prefix, if there is something left to do from one of them."""
    cells: tuple[Name, ...]
    touched: tuple[Numbered, ...]


@dataclass(slots=True)
class Fixed(Frame):
    """A state of the prefix. Who goes on there is settled, and the beginning of the answers, too."""

    floor: int = 0
    """How many answers are settled."""

    def advance(self) -> bool:
        while len(self.vector) > self.floor:
            if self.vector[-1] + 1 < self.ends[-1]:
                self.vector[-1] += 1
                return True
            self.vector.pop()
            self.ends.pop()
        return False


class DivisibleDPOR(DPOR):
    """The same search, which can be cut in pieces."""

    left: None = None
    """How many runs it may still make: all there are."""

    def __init__(self, depth: int = 2_000, wakeup: float | None = 0.1) -> None:
        super().__init__(depth, wakeup)
        self._todo: deque[Item] = deque([EVERYTHING])
        self._item: Item | None = None
        """The piece that is being explored."""
        self._fixed = 0
        """How many states belong to its prefix."""
        self._last: Fixed | None = None
        """The last of them."""
        self._asked: dict[int, list[frozenset[int]]] = {}
        self._asking: list[tuple[int, tuple[int, ...]]] = []
        self._reports: list[Report] = []
        """What came of the pieces that are done."""
        self._begun: tuple[int, int] | None = None
        """How many states there were when the run was begun, and answers in the last; None between runs."""
        self._moved = False
        """Whether the search has moved on to its next run already."""

    # From run to run.

    def begin(self) -> bool:
        if not super().begin():
            return False
        frames = self._frames
        self._begun = (len(frames), len(frames[-1].vector) if frames else 0)
        return True

    def end(self, outcome: Outcome) -> None:
        super().end(outcome)
        self._begun = None

    def move_on(self) -> None:
        """Move on to the next run already, so that `exhausted` tells whether there is one. Between runs."""
        if not self._moved and not self.exhausted and self._item is not None:
            self._moved = self._go_on()
            self.exhausted = not self._moved

    def _go_on(self) -> bool:
        if self._begun is not None:
            # The last run raised, and did not end.
            self._take_back(*self._begun)
        if self._moved:
            self._moved = False
            return True
        if self._item is not None:
            if self._advance():
                return True
            self._reports.append(self._report(done=True))
            self._item = None
        if not self._todo:
            return False
        self._start(self._todo.popleft())
        return True

    def _start(self, item: Item) -> None:
        self._item = item
        self._fixed = len(item.steps)
        self._last = None
        self._asked.clear()
        self._asking = []
        self._frames = []
        self._events = Dependence()
        self._guards = Guards(self._cells)
        self._reversals = []

    # In the prefix.

    def _new_frame(self, enabled: tuple[int, ...]) -> Frame:
        at = len(self._frames)
        if at >= self._fixed:
            return super()._new_frame(enabled)
        assert self._item is not None
        step = self._item.steps[at]
        if len(enabled) != step.alternatives:
            message = f"there are {len(enabled)} alternatives; in an earlier run there were {step.alternatives}"
            raise ScenarioNotDeterministic(message, at)
        party = enabled[step.place]
        frame = Fixed(enabled, {}, party, [party], [*step.vector], [*step.ends], floor=len(step.vector))
        if at == self._fixed - 1:
            frame.sleep = self._unpacked(self._item)
            self._last = frame
        self._frames.append(frame)
        return frame

    def _unpacked(self, item: Item) -> dict[int, Sleeper]:
        numbers = [self._cells.named(name) if name else ANY_STATE for name in item.cells]
        touched = [{numbers[cell]: mode for cell, mode in one} for one in item.touched]
        return {
            self._number(party): Sleeper({vector: touched[place] for vector, place in known}, awake)
            for party, awake, known in item.sleep
        }

    def _race(self, party: int, at: int, past: int, candidates: int) -> None:
        # What the steps before the last one of the prefix race with was seen to when they were made first.
        if at >= self._fixed - 1:
            super()._race(party, at, past, candidates)

    def _reverse(self, event: int, reversal: int, party: int) -> None:
        if event >= self._fixed:
            super()._reverse(event, reversal, party)
            return
        frame = self._frames[event]
        if event < self._setup or len(frame.enabled) == 1:
            return
        first = self._events.initials(reversal) or [party]
        if frame.party in first:
            return
        places = sorted(frame.enabled.index(one) for one in first if one in frame.enabled)
        wanted = frozenset(places)
        asked = self._asked.setdefault(event, [])
        # One of the fewer that were asked for before is going to be explored.
        if any(one <= wanted for one in asked):
            return
        asked.append(wanted)
        if party in first and party in frame.enabled:
            best = frame.enabled.index(party)
            places = [best, *(one for one in places if one != best)]
        self._asking.append((event, tuple(places)))

    # Pieces.

    def prepare(self) -> None:
        """It is going to be cut in pieces: it makes no plans, which hold for whoever has seen the runs that they come
        from. To be called before the first run.
        """
        self.wakeup = None
        self._has_trees = False

    def split(self) -> Remainder:
        assert all(frame.sequences is None for frame in self._frames)
        if self._begun is not None:
            self._take_back(*self._begun)
        else:
            self.move_on()
        reports = list(self._reports)
        if self._item is not None and self._frames:
            reports.append(self._report(done=False))
        return Remainder(0, tuple(reports), (), pruned=False)

    def _take_back(self, states: int, answers: int) -> None:
        """The run was broken off: it has to be made again, and what it met is forgotten."""
        self._begun = None
        self._open = None
        self._moved = True
        del self._frames[states:]
        self._forget(max(states - 1, 0))
        if self._frames:
            frame = self._frames[-1]
            del frame.vector[answers:], frame.ends[answers:]

    def resume(self, remainder: Remainder, *, one_level: bool = False) -> None:
        self._todo = deque(item_of(one) for one in remainder.now)
        self._item = None
        self._reports = []
        self._begun = None
        self._moved = False
        self.exhausted = False
        self.prepare()

    def conclude(self, completed: int | None, *, exhausted: bool) -> None:
        self.exhausted = exhausted

    def _report(self, *, done: bool) -> Report:
        packing = Packing(self._cells)
        frames = [] if done else self._frames
        # The step after the last state is the one that comes next.
        made = [*self._events.footprints[: len(frames) - 1], None][: len(frames)]
        known: Known = ()
        starts: tuple[Start, ...] = ()
        way: Start = ((), ())
        last = self._last
        if last is not None:
            footprint = made[self._fixed - 1] if frames else None
            known = packing.known(_met(last, footprint))
            if frames:
                starts = _open(last, last.floor, footprint is None)
                way = (tuple(last.vector), tuple(last.ends))
        states: list[State] = []
        for frame, footprint in zip(frames[self._fixed :], made[self._fixed :], strict=True):
            sleep = tuple(
                (self._paths[party], sleeper.awake, packing.known(sleeper.vectors))
                for party, sleeper in frame.sleep.items()
            )
            states.append(
                State(
                    tuple(self._paths[party] for party in frame.enabled),
                    sleep,
                    tuple(
                        self._paths[party]
                        for party in frame.backtrack
                        if party != frame.party and not frame.sleeps(party)
                    ),
                    self._paths[frame.party],
                    tuple(frame.vector),
                    tuple(frame.ends),
                    packing.known(_met(frame, footprint)),
                    _open(frame, 0, footprint is None),
                )
            )
        return Report(tuple(self._asking), known, starts, way, tuple(states), packing.cells, packing.touched)


def _met(frame: Frame, footprint: Footprint | None) -> dict[Vector, Footprint]:
    """The vectors that the step has been made with, also with that on the way to later states."""
    return frame.explored if footprint is None else {**frame.explored, tuple(frame.vector): footprint}


def _open(frame: Frame, floor: int, is_next: bool) -> tuple[Start, ...]:
    """The beginnings of vectors that the step has still to be made with; *is_next* if the present one is among them."""
    vector, ends = tuple(frame.vector), tuple(frame.ends)
    starts = [(vector, ends)] if is_next else []
    for place in range(len(vector) - 1, floor - 1, -1):
        starts += [((*vector[:place], answer), ends[: place + 1]) for answer in range(vector[place] + 1, ends[place])]
    return tuple(starts)


class Packing:
    """Lists the cells and footprints that are told of, each once."""

    def __init__(self, cells: CellNumbers) -> None:
        self._names = cells.names()
        self._cells: dict[int, int] = {}
        self._touched: dict[Numbered, int] = {}

    def known(self, vectors: dict[Vector, Footprint]) -> Known:
        """*vectors*, with places in `touched`."""
        return tuple((vector, self._place(footprint)) for vector, footprint in vectors.items())

    def _place(self, footprint: Footprint) -> int:
        cells = self._cells
        numbered = tuple((cells.setdefault(cell, len(cells)), mode) for cell, mode in footprint.items())
        return self._touched.setdefault(numbered, len(self._touched))

    @property
    def cells(self) -> tuple[Name, ...]:
        """The names of the cells."""
        return tuple(() if cell == ANY_STATE else self._names[cell] for cell in self._cells)

    @property
    def touched(self) -> tuple[Numbered, ...]:
        """The footprints."""
        return tuple(self._touched)


def item_of(value: Iterable[Any]) -> Item:
    """An item, which may have become lists on its way."""
    steps, sleep, cells, touched = deep(value)
    return Item(tuple(Step(*step) for step in steps), sleep, cells, touched)


def report_of(value: Iterable[Any]) -> Report:
    """A report, which may have become lists on its way."""
    report = Report(*deep(value))
    return report._replace(states=tuple(State(*state) for state in report.states))


def deep(value: Any) -> Any:
    """*value* with tuples in place of lists, all the way down."""
    return tuple([deep(one) for one in cast("list[Any]", value)]) if isinstance(value, list | tuple) else value
