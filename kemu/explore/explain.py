"""The explanation of a failing run, in its first form.

What a reader needs of a shrunk run is little: which two events came in the wrong order, which context
switches brought that about, and what would have to be different for the run to pass. The last is found by
trying: single decisions are changed, and of the changes that let the run pass the latest is taken, because it
is the one nearest to the failure. The two events are then the last that touch the same cell, one of them
changing it, and that come the other way round in the passing run. Without a passing run, they are the last
that touch the same cell at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from kemu.explore.recording import Decision, Recording, record
from kemu.explore.strategies.replay import Replay
from kemu.explore.token import trim
from kemu.explore.watch import Event, watch
from kemu.runtime import READ, UPDATE, Cell

if TYPE_CHECKING:
    from kemu.explore.program import Failure, Program
    from kemu.explore.where import Place

MAX_REPLAYS: Final = 40


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two events of different threads that touch one cell, at least one of them changing it."""

    first: Event
    second: Event
    cell: str
    """The label of the cell."""
    reversed: bool
    """Whether a run was seen that passes and in which they come the other way round."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A context switch."""

    step: int
    """The first step of the party that comes."""
    leaves: str
    enters: str
    preemption: bool
    """Whether the one that leaves could have gone on."""
    before: str
    """What the one that leaves was about to do; "" if it had ended or is the clock."""
    place: Place | None
    """Where that is."""

    def __str__(self) -> str:
        what = f" before it could {self.before}" if self.before else ""
        at = f" ({self.place})" if self.place is not None else ""
        verb = "is preempted by" if self.preemption else "gives way to"
        return f"step {self.step}: {self.leaves} {verb} {self.enters}{what}{at}"


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of a single decision with which the run passes."""

    decision: int
    """Which decision, from 0."""
    step: int
    """The step that it leads to, or in which the question is asked."""
    taken: Decision
    """What the failing run decides there."""
    instead: Decision
    """What the passing run decides there."""
    choices: tuple[int, ...]
    """The passing run."""

    def __str__(self) -> str:
        if self.taken.kind == "data":
            return (
                f"passes if in step {self.step} {self.taken.label!r} is answered {self.instead.value}"
                f" instead of {self.taken.value}"
            )
        return f"passes if step {self.step} is taken by {self.instead.label} instead of {self.taken.label}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say about a failing run."""

    failure: Failure
    recording: Recording
    events: tuple[Event, ...]
    """All events of the run."""
    conflict: Conflict | None
    switches: tuple[Switch, ...]
    flip: Flip | None
    replays: int
    """How many runs it took."""


def explain(program: Program, choices: Sequence[int], *, max_replays: int = MAX_REPLAYS) -> Explanation | None:
    """Explain the failing run of *choices*, best a shrunk one. None if the run does not fail."""
    recording, events = watch(program, Replay(choices, strict=False))
    failure = recording.failure
    if failure is None:
        return None
    flip, replays = find_flip(program, recording, max_replays)
    conflict = None
    if flip is not None:
        _, passing = watch(program, Replay(flip.choices, strict=False))
        replays += 1
        conflict = reversed_conflict(events, passing)
    return Explanation(
        failure=failure,
        recording=recording,
        events=tuple(events),
        conflict=conflict or last_conflict(events),
        switches=tuple(switches(recording, events)),
        flip=flip,
        replays=replays + 1,
    )


def find_flip(program: Program, recording: Recording, max_replays: int) -> tuple[Flip | None, int]:
    """The latest change of one decision found to let the run pass, and the number of replays used."""
    replays = 0
    found: Flip | None = None
    choices = recording.choices
    for at, value in _changes(recording):
        if replays >= max_replays:
            break
        if found is not None and at <= found.decision:
            continue
        changed = (*choices[:at], value, *choices[at + 1 :])
        replays += 1
        other = record(program, Replay(changed, strict=False))
        if other.failure is None and at < len(other.decisions):
            taken = recording.decisions[at]
            found = Flip(at, taken.step, taken, other.decisions[at], trim(other.choices))
    return found, replays


def _changes(recording: Recording) -> Iterator[tuple[int, int]]:
    """All changes of one decision: first those that make one plain; each kind from the last decision on back.

    Few decisions of a shrunk run are not plain, and it was shrunk until it needed them: they show quickly how
    early a change has to be. All others are then tried from the end.
    """
    decisions = recording.decisions
    for at in reversed(range(len(decisions))):
        if decisions[at].value:
            yield at, 0
    for at in reversed(range(len(decisions))):
        for value in range(1 if decisions[at].value else 0, decisions[at].n):
            if value != decisions[at].value:
                yield at, value


def reversed_conflict(events: Sequence[Event], passing: Sequence[Event]) -> Conflict | None:
    """The last two conflicting events of *events* that come the other way round in *passing*."""
    places = {event.key: place for place, event in enumerate(passing) if event.taken}
    never = len(passing)
    for first, second, cell in _conflicts(events):
        place = places.get(second.key)
        if place is not None and place < places.get(first.key, never):
            return Conflict(first, second, cell.label, reversed=True)
    return None


def last_conflict(events: Sequence[Event]) -> Conflict | None:
    """The last two conflicting events, whose order may matter or not."""
    for first, second, cell in _conflicts(events):
        return Conflict(first, second, cell.label, reversed=False)
    return None


def _conflicts(events: Sequence[Event]) -> Iterator[tuple[Event, Event, Cell]]:
    """All pairs of conflicting events of different threads, those with the latest second event first."""
    touched: dict[Cell, list[tuple[int, int]]] = {}
    for place, event in enumerate(events):
        for cell, mode in event.footprint:
            touched.setdefault(cell, []).append((place, mode))
    for place in reversed(range(len(events))):
        second = events[place]
        pairs: dict[int, Cell] = {}
        for cell, mode in second.footprint:
            for earlier, other_mode in touched[cell]:
                if earlier >= place:
                    break
                if events[earlier].path != second.path and not (mode == other_mode and mode in (READ, UPDATE)):
                    pairs[earlier] = cell
        for earlier in sorted(pairs, reverse=True):
            yield events[earlier], second, pairs[earlier]


def switches(recording: Recording, events: Sequence[Event]) -> Iterator[Switch]:
    """The context switches of a run, in order."""
    preempting = {decision.step for decision in recording.decisions if decision.preemption}
    for left, entered in pairwise(events):
        if left.path != entered.path and entered.taken:
            yield Switch(
                step=entered.step,
                leaves=left.thread,
                enters=entered.thread,
                preemption=entered.step in preempting,
                before=left.then,
                place=left.then_place,
            )
