"""The explanation of a failing run.

What a reader needs of a shrunk run: the orders of events that make it fail, and whether another order lets it pass
(`orderings`); of these the one pair whose exchange leads to the nearest run that passes, which is the race; which
context switches brought that about; and which single decision, taken otherwise, lets the run pass. All of it is found
by trying. Of decisions the latest is named, because it is the one nearest to the failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from kemu.explore.orderings import Neighbour, Orderings, find_reasons
from kemu.explore.races import races
from kemu.explore.recording import Decision, Recording, record
from kemu.explore.strategies.replay import Replay
from kemu.explore.token import trim
from kemu.explore.watch import Event, watch

if TYPE_CHECKING:
    from kemu.explore.program import Failure, Program
    from kemu.explore.where import Place

MAX_REPLAYS: Final = 150
MOST_FLIPS: Final = 25
"""Of these, how many may look for the decision."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two events of different threads that touch one cell, at least one of them changing it."""

    first: Event
    second: Event
    cell: str
    """The label of the cell."""
    reversed: bool
    """Whether a run was seen that passes and in which they come the other way round."""
    choices: tuple[int, ...] | None = None
    """That run."""
    others: int = 0
    """How many more conflicting pairs come the other way round in it."""


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
    orderings: Orderings | None
    """The orders of events that make the run fail; None if none were found, and `why` then says why."""
    why: str
    replays: int
    """How many runs it took."""
    interrupted: bool = False
    """Whether the user ended it early."""


def explain(
    program: Program,
    choices: Sequence[int],
    *,
    max_replays: int = MAX_REPLAYS,
    stop: Callable[[], bool] | None = None,
) -> Explanation | None:
    """Explain the failing run of *choices*, best a shrunk one. None if the run does not fail.

    It takes at most *max_replays* runs beside that one. It ends early, and keeps what it has, with an interrupt or
    when *stop*, which is asked before each run, says so.
    """
    recording, events = watch(program, Replay(choices, strict=False))
    failure = recording.failure
    if failure is None:
        return None
    flips = min(MOST_FLIPS, max_replays // 3)
    reasons = find_reasons(program, recording, events, max_replays=max_replays - flips, stop=stop)
    interrupted = reasons.interrupted
    flip, replays = None, 0
    if not interrupted:
        flip, replays, interrupted = find_flip(program, recording, flips, stop)
    return Explanation(
        failure=failure,
        recording=recording,
        events=tuple(events),
        conflict=_conflict(reasons.nearest) or last_conflict(events),
        switches=tuple(switches(recording, events)),
        flip=flip,
        orderings=reasons.orderings,
        why=reasons.why,
        replays=reasons.replays + replays + 1,
        interrupted=interrupted,
    )


def _conflict(nearest: Neighbour | None) -> Conflict | None:
    if nearest is None:
        return None
    return Conflict(nearest.first, nearest.second, nearest.cell, True, nearest.choices, nearest.others)


def find_flip(
    program: Program, recording: Recording, max_replays: int, stop: Callable[[], bool] | None = None
) -> tuple[Flip | None, int, bool]:
    """The latest change of one decision found to let the run pass.

    With it, the number of replays, and whether the user ended the search.
    """
    replays = 0
    found: Flip | None = None
    choices = recording.choices
    try:
        for at, value in _changes(recording):
            if replays >= max_replays:
                break
            if found is not None and at <= found.decision:
                continue
            if stop is not None and stop():
                return found, replays, True
            changed = (*choices[:at], value, *choices[at + 1 :])
            replays += 1
            other = record(program, Replay(changed, strict=False))
            if other.failure is None and at < len(other.decisions):
                taken = recording.decisions[at]
                found = Flip(at, taken.step, taken, other.decisions[at], trim(other.choices))
    except KeyboardInterrupt:
        return found, replays, True
    return found, replays, False


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


def last_conflict(events: Sequence[Event]) -> Conflict | None:
    """The last two conflicting events, whose order may matter or not."""
    for race in races(events, whole_sections=False):
        return Conflict(events[race.first], events[race.second], race.cell.label, reversed=False)
    return None


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
