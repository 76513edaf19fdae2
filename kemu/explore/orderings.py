"""Why a run fails, as the fewest orderings of two events each that make every run fail that keeps them.

The orders are searched among the races of the run. Every run that does not fail breaks some of them, and the set that
is searched has to hold at least one of those: it is a smallest set that meets all of them, among the runs known so
far. That set is enforced, with everything else at random; a run that does not fail then is one more to meet, and when
no more comes up the set is taken. This is the scheme of implicit hitting sets (Ignatiev, Previti, Liffiton and
Marques-Silva, "Smallest MUS extraction with minimal hitting set dualization", CP 2015), with runs in the place of a
solver: so *every run* means all that were made to check, and their number is part of the answer.

A run in which whoever could go on would break an order is not a failing one. So an order that the others only leave
possible is part of the set: the set brings the failure about, it does not only describe it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from kemu.errors import KemuError
from kemu.explore.hitting import Clause, smallest_set
from kemu.explore.races import Race, coarse, conflicting, conflicts, merged, races
from kemu.explore.strategies.alternate import LEAST_HORIZON, SWITCHES
from kemu.explore.strategies.base import Path
from kemu.explore.strategies.constrain import DEAD_END, TOO_LONG, Before, Constrain, Moment
from kemu.explore.strategies.follow import Follow, Plan, Slice
from kemu.explore.strategies.pct import PCT
from kemu.explore.strategies.replay import Replay
from kemu.explore.strategies.sticky import StickyRandomWalk
from kemu.explore.token import trim
from kemu.explore.watch import Event, watch

if TYPE_CHECKING:
    from kemu.explore.program import Failure, Program
    from kemu.explore.recording import Recording
    from kemu.runtime import Oracle

MAX_REPLAYS: Final = 100
CHECKS: Final = 20
"""How many runs in a row have to fail for a set of orders to be taken."""
MOST_REVERSALS: Final = 40
MOST_EVENTS: Final = 2_000
"""Of longer runs no orders are searched: they go round in circles, and no order of two events is to blame."""
MOST_STEPS: Final = 50_000
"""How many steps all runs together may take, or nearly so: each is looked at closely."""
MOST_ORDERS: Final = 8
MOST_CONFLICTS: Final = 500
SURVEY: Final = 12
REVERSAL_ATTEMPTS: Final = 4
LONGER: Final = 10
"""How many times as long as the failing run another one may get."""


class View(NamedTuple):
    """What is taken for a conflict."""

    whole_sections: bool
    """Whether what a lock keeps together is taken as one."""
    is_coarse: bool
    """Whether any two steps in the code of users conflict."""


VIEWS: Final = (View(True, False), View(False, False), View(False, True))
"""In their turn: the next one is tried where orders of such conflicts do not decide whether a run fails."""

Kind = Literal["fails", "passes", "fails otherwise", "dead end"]
Reversal = Literal["passes", "passes with others", "fails otherwise", "impossible", "untested"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A run that passes, and in which one race of the failing run comes the other way round."""

    first: Event
    """As the failing run has them."""
    second: Event
    cell: str
    choices: tuple[int, ...]
    """The run that passes."""
    others: int
    """How many more races come the other way round in it."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order that the failure needs, and what is known of the other way round."""

    first: Event
    second: Event
    cell: str
    reversal: Reversal
    """What comes of a run that breaks this order and no other one of the set: it ``passes``, or ``fails
    otherwise``. ``passes with others``: the runs that pass reverse another one of the set as well.
    ``impossible``: all that were tried had to be given up. ``untested``: none was tried."""


@dataclass(frozen=True, slots=True)
class Orderings:
    """The orders that make a run fail. None at all: it fails in whatever order, as far as was tried."""

    orders: tuple[Order, ...]
    """As they come in the run."""
    checked: int
    """How many runs were made that kept all orders, with everything else at random. All of them failed."""
    settled: bool
    """Whether `CHECKS` runs failed, and not merely the replays were used up."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """What a search for reasons came to."""

    nearest: Neighbour | None
    orderings: Orderings | None
    """None if there are none that could be found; `why` then says why."""
    why: str
    replays: int
    interrupted: bool


class _Stop(Exception):
    """Ends the search: the replays are used up, or the user has had enough. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An order that the failing run keeps."""

    first: Event
    second: Event
    cell: str
    order: Before


@dataclass(slots=True)
class _Trial:
    """A run that was made."""

    kind: Kind
    choices: tuple[int, ...]
    happened: dict[Moment, int]
    """When what came. Nothing, if the program misused kemu."""
    broken: list[bool] = field(default_factory=list[bool])
    """Of the candidates that were known when somebody asked last, which ones it does not keep."""
    given: frozenset[int] = frozenset()
    """Of a run that was given up, the candidates that had to be kept for it to come to that."""

    def breaks(self, order: Before) -> bool:
        """Whether the later event came without the earlier one, or before it."""
        second = self.happened.get(order.second)
        return second is not None and second < self.happened.get(order.first, len(self.happened))

    def reverses(self, order: Before) -> bool:
        """Whether both events came, the later one first."""
        return order.first in self.happened and self.breaks(order)


def find_reasons(
    program: Program,
    recording: Recording,
    events: Sequence[Event],
    *,
    max_replays: int = MAX_REPLAYS,
    stop: Callable[[], bool] | None = None,
) -> Reasons:
    """Find out why the failing run of *recording*, whose events are *events*, fails.

    Uses at most *max_replays* runs of *program*; *stop* is asked before each, and True ends the search with what
    it has, as does an interrupt.
    """
    search = _Search(program, recording, events, max_replays, stop)
    if len(events) > MOST_EVENTS:
        return search.reasons(f"the run has more than {MOST_EVENTS:,} steps")
    why = "the order of events alone does not decide it"
    try:
        for view in VIEWS:
            try:
                search.begin(view)
                search.reverse_each()
                search.look_around()
                if search.settle():
                    search.test_reversals()
                    why = ""
                else:
                    why = f"it takes more than {MOST_ORDERS} orders of two events"
                break
            except _Blind:
                search.best = None
    except _Stop:
        why = "the replays were used up"
        if search.steps >= MOST_STEPS:
            why = "the runs are too long to make enough of them"
        if search.interrupted:
            why = "interrupted"
    except KeyboardInterrupt:
        search.interrupted = True
        why = "interrupted"
    return search.reasons(why)


class _Blind(Exception):
    """A run keeps all orders that there are and does not fail: they do not decide. Never leaves this module."""


class _Search:
    """The runs made so far and what follows from them."""

    def __init__(
        self,
        program: Program,
        recording: Recording,
        events: Sequence[Event],
        max_replays: int,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.program = program
        self.recording = recording
        self.events = events
        self.max_replays = max_replays
        self.stop = stop
        failure = recording.failure
        assert failure is not None
        self.signature = failure.signature
        self.replays = 0
        self.steps = 0
        """Steps of all runs."""
        self.interrupted = False
        self.nearest: Neighbour | None = None
        self.answers = _answers(recording)
        self.view = VIEWS[0]
        self.places = {event.moment: at for at, event in enumerate(events)}
        self.races: list[Race] = []
        self.candidates: list[_Candidate] = []
        self.known: set[Before] = set()
        self.trials: list[_Trial] = []
        """Runs that did not fail in the same way."""
        self.failing: list[_Trial] = []
        """Runs that did."""
        self.best: tuple[int, ...] | None = None
        """The numbers of the candidates in the set that is looked at."""
        self.checked = 0
        self.series = list(range(CHECKS))
        """The numbers of the runs that check a set, in their order."""

    def begin(self, view: View) -> None:
        """Search among the races of the run, as *view* has it."""
        self.view = view
        if view.is_coarse:
            self.events = coarse(self.events)
        self.candidates.clear()
        self.known.clear()
        self.trials.clear()
        self.failing.clear()
        self.best = None
        self.checked = 0
        self.races = races(self.events, whole_sections=view.whole_sections)
        # Orders that follow from several races say less than these do, and may be all that matters.
        for race in (*self.races, *conflicts(self.events, MOST_CONFLICTS)):
            self._add(self.events[race.first], self.events[race.second], race.cell.label)

    def _add(self, first: Event, second: Event, cell: str) -> None:
        order = Before(first.moment, second.moment)
        if order not in self.known:
            self.known.add(order)
            self.candidates.append(_Candidate(first, second, cell, order))

    # Runs.

    def attempt(self, base: Oracle, kept: Sequence[int] = (), extra: Iterable[Before] = ()) -> _Trial | None:
        """Make a run as *base* decides and as far as the candidates *kept* and the orders *extra* stay so.

        None if it fails in the same way. Otherwise it is remembered.
        """
        if self.stop is not None and self.stop():
            self.interrupted = True
            raise _Stop
        if self.replays >= self.max_replays or self.steps >= MOST_STEPS:
            raise _Stop
        self.replays += 1
        orders = [*(self.candidates[number].order for number in kept), *extra]
        longest = LONGER * len(self.events) + 1_000
        oracle = Constrain(base, orders, answers=self.answers, max_steps=longest)
        try:
            recording, events = watch(self.program, oracle, oracle)
        except KemuError:
            # The program misuses kemu in this run, which is for others to tell: nothing can be learned from it.
            return _Trial("dead end", (), {}, given=frozenset(kept))
        self.steps += len(events)
        kind = self._kind(recording.failure)
        trial = _Trial(kind, trim(recording.choices), {event.moment: at for at, event in enumerate(events)})
        if recording.outcome.failure is DEAD_END:
            trial.given = frozenset(one for one in kept if self.candidates[one].order in oracle.blocking)
        elif kind == "dead end":
            trial.given = frozenset(kept)
        if kind == "fails":
            self.failing.append(trial)
            return None
        self.trials.append(trial)
        if self.view.is_coarse:
            events = coarse(events)
        for race in races(events, whole_sections=self.view.whole_sections):
            # What the failing run does not come to any more came early here: not to do so is an order, too.
            early, late = events[race.first], events[race.second]
            if not self._happened(early) and self._happened(late):
                first = self.events[self.places[late.moment]]
                second = replace(early, step=len(self.events), taken=False)
                self._add(first, second, race.cell.label)
        if not trial.given and not self.broken(trial):
            raise _Blind
        return trial

    def _happened(self, event: Event) -> bool:
        """Whether the failing run comes to that."""
        place = self.places.get(event.moment)
        return place is not None and self.events[place].taken

    def _kind(self, failure: Failure | None) -> Kind:
        if failure is None:
            return "passes"
        if failure in (DEAD_END, TOO_LONG):
            return "dead end"
        return "fails" if failure.signature == self.signature else "fails otherwise"

    def broken(self, trial: _Trial) -> frozenset[int]:
        """The candidates that *trial* does not keep."""
        return frozenset(number for number, is_broken in enumerate(self._look(trial)) if is_broken)

    def _look(self, trial: _Trial) -> list[bool]:
        trial.broken.extend(trial.breaks(one.order) for one in self.candidates[len(trial.broken) :])
        return trial.broken

    def doubts(self) -> list[int]:
        """For each candidate, how many runs fail although they do not keep it: those that always do explain more."""
        counts = [0] * len(self.candidates)
        for trial in self.failing:
            for number, is_broken in enumerate(self._look(trial)):
                counts[number] += is_broken
        return counts

    def base(self, number: int) -> Oracle:
        """Who decides in the run of that *number* of a series: first nobody, then chance."""
        if number == 0:
            return Replay((), strict=False)
        if number % 2:
            return StickyRandomWalk(0, SWITCHES[number // 2 % len(SWITCHES)], start=number)
        return PCT(0, horizon=max(LEAST_HORIZON, len(self.recording.decisions)), start=number)

    # The nearest run that passes.

    def reverse_each(self) -> None:
        """Exchange the events of each race, the latest first, and leave the rest as it was as far as it goes."""
        for race in self.races[:MOST_REVERSALS]:
            first, second = self.events[race.first], self.events[race.second]
            trial = self.attempt(Follow(self._reversed(race)))
            if trial is None or trial.kind != "passes" or self.nearest is not None:
                continue
            if trial.breaks(Before(first.moment, second.moment)):
                others = sum(at < len(self.races) for at in self.broken(trial)) - 1
                self.nearest = Neighbour(first, second, race.cell.label, trial.choices, others)

    def _reversed(self, race: Race) -> Plan:
        """The run with the events of *race* exchanged."""
        events = self.events
        # What has to wait for the first event waits with it, but not the second one.
        waiting = [events[race.first]]
        between: list[Event] = []
        for event in events[race.first + 1 : race.second]:
            waits = event.path != events[race.second].path and any(_ordered(one, event) for one in waiting)
            (waiting if waits else between).append(event)
        order = [*events[: race.first], *between, events[race.second], *waiting, *events[race.second + 1 :]]
        return Plan(tuple(_slices(order)), self.recording.answers)

    # The smallest set of orders.

    def look_around(self) -> None:
        """Make some runs that need not keep any order: what they have in common tells which orders matter."""
        for number in range(SURVEY):
            self.attempt(self.base(number))

    def settle(self) -> bool:
        """Find the set. False if there is none that anybody wants to read."""
        while True:
            clauses = [Clause(self.broken(trial), trial.given) for trial in self.trials]
            found = smallest_set(clauses, MOST_ORDERS, self.doubts())
            if found is None:
                return False
            self.best = found
            self.checked = 0
            for number in tuple(self.series):
                trial = self.attempt(self.base(number), found)
                if trial is not None and not trial.happened:
                    continue
                if trial is not None:
                    # What has refuted one set is likely to refute the next one soon.
                    self.series.remove(number)
                    self.series.insert(0, number)
                    self.best = None
                    if trial.kind != "dead end":
                        self._narrow(found, trial, number)
                    break
                self.checked += 1
            else:
                return True

    def _narrow(self, kept: tuple[int, ...], trial: _Trial, number: int) -> None:
        """From a run that does not fail, look for one that breaks fewer orders."""
        broken = sorted(self.broken(trial))
        while len(broken) > 1:
            middle = len(broken) // 2
            for half in (broken[middle:], broken[:middle]):
                other = self.attempt(self.base(number), (*kept, *half))
                if other is not None and other.kind != "dead end" and self.broken(other) < frozenset(broken):
                    broken = sorted(self.broken(other))
                    break
            else:
                return

    def test_reversals(self) -> None:
        """Reverse each order of the set of which no run shows what comes of that."""
        for number in self.best or ():
            for attempt in range(REVERSAL_ATTEMPTS):
                if self._reversal(number) not in ("untested", "impossible"):
                    break
                first, second = self.candidates[number].order
                self.attempt(self.base(attempt), extra=[Before(second, first)])

    # What came of it.

    def reasons(self, why: str) -> Reasons:
        """What is known by now."""
        self._take_nearest()
        orderings = None
        if self.best is not None and self.checked:
            numbers = sorted(self.best, key=lambda number: self._position(self.candidates[number]))
            orders = tuple(self._order(number) for number in numbers)
            orderings = Orderings(orders, self.checked, self.checked >= CHECKS)
        return Reasons(self.nearest, orderings, "" if orderings else why, self.replays, self.interrupted)

    def _take_nearest(self) -> None:
        """If no race could be exchanged by itself: of the runs that pass take one that is as near as there is."""
        passing = [trial for trial in self.trials if trial.kind == "passes"]
        broken = sorted((len(self.broken(trial)), at) for at, trial in enumerate(passing) if self.broken(trial))
        if self.nearest is None and broken:
            exchanged = self.broken(passing[broken[0][1]])
            one = self.candidates[min(exchanged.intersection(self.best or ()) or exchanged)]
            others = sum(number < len(self.races) for number in exchanged if self.candidates[number] is not one)
            self.nearest = Neighbour(one.first, one.second, one.cell, passing[broken[0][1]].choices, others)

    def _position(self, candidate: _Candidate) -> tuple[int, int]:
        return (candidate.first.step, candidate.second.step)

    def _order(self, number: int) -> Order:
        one = self.candidates[number]
        return Order(one.first, one.second, one.cell, self._reversal(number))

    def _reversal(self, number: int) -> Reversal:
        """What the trials tell of the other way round."""
        chosen = self.best or ()
        order = self.candidates[number].order
        kinds: dict[Kind, bool] = {}
        for trial in self.trials:
            if trial.breaks(order):
                others = [self.candidates[other].order for other in chosen if other != number]
                # An order of events that the run, having gone another way, does not come to is not broken by it.
                moot = trial.reverses(order) and not any(trial.reverses(other) for other in others)
                alone = moot or not any(trial.breaks(other) for other in others)
                kinds[trial.kind] = kinds.get(trial.kind, False) or alone
        if "passes" in kinds:
            return "passes" if kinds["passes"] else "passes with others"
        if "fails otherwise" in kinds:
            return "fails otherwise"
        return "impossible" if kinds else "untested"


def _ordered(first: Event, second: Event) -> bool:
    """Whether *second* comes after *first* because it is the same thread's, its child's, or conflicts with it."""
    if first.path == second.path or second.path in first.spawns:
        return True
    modes = merged(first.footprint)
    return any(cell in modes and conflicting(mode, modes[cell]) for cell, mode in merged(second.footprint).items())


def _slices(order: Iterable[Event]) -> list[Slice]:
    slices: list[Slice] = []
    for event in order:
        if slices and slices[-1].path == event.path:
            slices.pop()
        slices.append(Slice(event.path, event.ordinal))
    return slices


def _answers(recording: Recording) -> dict[tuple[Path, str], tuple[int, ...]]:
    answers: dict[tuple[Path, str], tuple[int, ...]] = {}
    for decision in recording.decisions:
        if decision.kind == "data":
            key = (recording.parties[decision.step], decision.label)
            answers[key] = (*answers.get(key, ()), decision.value)
    return answers
