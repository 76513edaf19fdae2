"""Dynamic partial-order reduction: one run for each class of runs that differ by more than the order of independent
steps.

Source-DPOR with sleep sets, after Abdulla, Aronis, Jonsson and Sagonas, "Source sets: a foundation for optimal dynamic
partial order reduction" (JACM 2017), for steps whose footprint is known only once they were made, that may have to
wait, and that may ask questions on their way:

- a step that had to wait is reversed with the newest event before which it would have been possible, and so is, at the
  end of a run, whatever a thread still waits for;
- a step with questions is several steps, one for each *vector* of answers, of which each sleeps and wakes for itself.

Where too many runs are given up, the search changes over to wakeup trees, of the same paper (`kemu.explore.wakeup`). It
does so only below states in which nothing sleeps: what is to be explored there does not depend on what the search did
elsewhere, nor on how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NoReturn

from kemu.errors import ScenarioNotDeterministic, UsageError
from kemu.explore.dependence import THREADS, CellNumbers, Dependence, Footprint, members
from kemu.explore.frames import Frame
from kemu.explore.guards import Guards, Wait, declared
from kemu.explore.strategies.base import CLOCK, Path, Reduction, check_number, steps_before
from kemu.explore.wakeup import Planned
from kemu.runtime import READ, WRITE, ControlledRuntime

if TYPE_CHECKING:
    from kemu.runtime import Cell, DecisionPoint, Outcome, Thread, Waitable

THE_CLOCK: Final = 0
"""The number of the clock among the parties."""

ANY_STATE: Final = -1
"""The number of a cell that stands for all that invariants look at."""

MANY_CHANGES: Final = 8
"""So many independent steps may change the objects of one wait for several before nothing is proved any more."""

ENOUGH_RUNS: Final = 50
"""After how many runs the share of those that were given up says something."""


class DPOR:
    """Explores every class of equivalent runs, each by one complete run.

    A run that would only repeat a class is given up on the way; `blocked` counts those. The number of complete runs is
    the number of classes (Mazurkiewicz traces), if every run comes to an end: a run that a failure cuts short hides
    what would have come after it.

    Exhaustion is a proof as far as the footprints are complete and `doubt` is empty. Runs have to be finite: one that
    has more than *depth* steps is given up, too, and leaves a doubt.
    """

    name = "dpor"
    seed: None = None
    completed: None = None

    def __init__(self, depth: int = 2_000, wakeup: float | None = 0.1) -> None:
        check_number("depth", depth, least=1)
        if wakeup is not None and not 0 <= wakeup <= 1:
            raise UsageError(f"wakeup is {wakeup!r}", remedy="give a share of the runs from 0 to 1, or none")
        self.depth = depth
        self.wakeup = wakeup
        """The share of runs given up from which on there are wakeup trees: 0 for always, None for never."""
        self._has_trees = wakeup == 0
        """Whether there are, where nothing sleeps from outside."""
        self.exhausted = False
        """Whether every class has been explored."""
        self.traces = 0
        """Complete runs."""
        self.blocked = 0
        """Runs that were given up because they were going to repeat an earlier one."""
        self.doubt = ""
        """Why exhaustion is no proof; "" if it is one."""
        self._parties: dict[Path, int] = {CLOCK: THE_CLOCK}
        self._paths: list[Path] = [CLOCK]
        self._cells = CellNumbers()
        self._events = Dependence()
        self._guards = Guards(self._cells)
        self._frames: list[Frame] = []
        self._setup = 0
        """How many events belong to set-up, in which nothing is decided."""
        # Of the current run.
        self._runtime: ControlledRuntime | None = None
        self._at = 0
        """The number of the current step, which is the number of its event and of the state before it."""
        self._known = 0
        """How many steps are those of an earlier run."""
        self._threads = 0
        self._born: list[Waitable] = []
        self._waits: dict[int, Wait] = {}
        """For each thread that may have to wait, what it waits for before its next step."""
        self._answered = 0
        self._open: tuple[int, list[tuple[Cell, int]]] | None = None
        """The party whose new step is being made, and what that has touched so far."""
        self._late: int | None = None
        """The event that is being reversed; None for a step that was never made."""
        self._reversals: list[tuple[int, int, int, int | None]] = []
        """With wakeup trees, what is planned at the end of each run that begins like this."""

    @property
    def observer(self) -> DPOR:
        """The search watches its runs itself."""
        return self

    @property
    def reduction(self) -> Reduction:
        """How far it has come."""
        return Reduction(self.traces, self.blocked, self.exhausted, self.doubt)

    def distrust(self, why: str) -> None:
        """Take note of *why* exhaustion will be no proof. The first doubt is what reports tell of."""
        self.doubt = self.doubt or why

    # From run to run.

    def begin(self) -> bool:
        if self.exhausted:
            return False
        if not self._go_on():
            self.exhausted = True
            return False
        self._runtime = None
        self._at = 0
        self._known = len(self._events)
        self._born = []
        self._waits.clear()
        return True

    def _go_on(self) -> bool:
        """Move on to the next run; whether there is one."""
        return not (self.traces or self.blocked) or self._advance()

    def _advance(self) -> bool:
        """Take the last run back as far as there is nothing left to explore; whether there is something then."""
        self._watch_share()
        frames = self._frames
        while frames:
            frame = frames[-1]
            frame.explored[tuple(frame.vector)] = self._events.footprints[-1]
            self._forget(len(frames) - 1)
            if frame.advance():
                return True
            frames.pop()
        return False

    def _forget(self, length: int) -> None:
        """Forget all events of the last run from number *length* on."""
        self._events.truncate(length)
        self._guards.truncate(length)
        while self._reversals and (self._reversals[-1][3] or 0) >= length:
            self._reversals.pop()

    def _watch_share(self) -> None:
        """Change over to wakeup trees if they are worth what they cost."""
        runs = self.traces + self.blocked
        if not self._has_trees and self.wakeup is not None and runs >= ENOUGH_RUNS:
            self._has_trees = self.blocked > self.wakeup * runs

    def end(self, outcome: Outcome) -> None:
        if self._open is not None:
            # The step in which the run failed.
            self._finish(*self._open)
        if self._at < len(self._frames):
            message = "the run is over; an earlier one went on"
            raise ScenarioNotDeterministic(message, outcome.steps)
        if outcome.end == "abandoned":
            self.blocked += 1
        else:
            self.traces += 1
            if outcome.end in ("stopped", "step-limit"):
                self.distrust("a run was cut short")
        self._race_with_those_who_wait()
        if self._reversals:
            self._plan()

    # Decisions.

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._runtime is None:
            self._refuse()
        if self._at < len(self._frames):
            frame = self._frames[self._at]
            if len(frame.enabled) != n:
                message = f"there are {n} alternatives; in an earlier run there were {len(frame.enabled)}"
                raise ScenarioNotDeterministic(message, steps_before(point))
        else:
            ready, index, number = point.ready, point.index, self._number
            enabled = [number(thread.path) for thread in (*ready[index:], *ready[:index])]
            if n > len(ready):
                enabled.append(THE_CLOCK)
            frame = self._new_frame(tuple(enabled))
        return frame.enabled.index(frame.party)

    def choose(self, n: int, label: str) -> int:
        if self._runtime is None:
            self._refuse()
        frame = self._frames[self._at]
        place = self._answered
        self._answered = place + 1
        if place == len(frame.vector):
            frame.vector.append(0)
            frame.ends.append(n)
        elif frame.ends[place] != n:
            message = f"question {label!r} has {n} answers; in an earlier run it had {frame.ends[place]}"
            raise ScenarioNotDeterministic(message, steps_before())
        return frame.vector[place]

    def _refuse(self) -> NoReturn:
        raise UsageError("dpor does not see the steps of the run", remedy="give it to the run as observer, too")

    def _number(self, path: Path) -> int:
        number = self._parties.get(path)
        if number is None:
            number = self._parties[path] = len(self._paths)
            self._paths.append(path)
        return number

    def _new_frame(self, enabled: tuple[int, ...]) -> Frame:
        """Begin a new state; the run ends here if nothing can come of it that has not been seen."""
        sleep = self._frames[-1].asleep_after(self._events.footprints[-1]) if self._frames else {}
        for party in enabled:
            sleeper = sleep.get(party)
            if sleeper is None or sleeper.awake:
                break
        else:
            runtime = self._runtime
            assert runtime is not None
            runtime.abandon()
        frame = Frame(enabled, sleep, party, [party])
        above = self._frames[-1] if self._frames else None
        if above is not None and above.sequences is not None:
            frame.sequences = {}
            for sequence in above.left_over(self._events.footprints[-1]):
                if sequence[0].party in enabled:
                    frame.plan(sequence)
            if frame.sequences:
                frame.backtrack.clear()
                frame.take_first()
        elif self._has_trees and not sleep:
            # Whatever can come after this state is explored below it, so that it does not matter how.
            frame.sequences = {}
        self._frames.append(frame)
        return frame

    # The steps of a run.

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        at = self._at
        self._answered = 0
        if at < self._known:
            path = CLOCK if thread is None else thread.path
            if not at:
                self._enter(thread)
            if self._paths[self._frames[at].party] != path:
                raise ScenarioNotDeterministic("another thread goes on than in an earlier run", at)
            return
        if at == self._known:
            self._catch_up(thread)
        runtime = self._runtime
        assert runtime is not None
        if at == self.depth:
            self.distrust(f"a run has more than {self.depth:,} steps")
            del self._frames[at:]
            runtime.abandon()
        acting = runtime.clock.thread(runtime) if thread is None else thread
        party = self._number(acting.path)
        if at == len(self._frames):
            self._new_frame((party,))
        if not runtime.decides:
            if any(len(frame.enabled) > 1 for frame in self._frames[self._setup : at]):
                self.distrust("set-up that is not explored comes after the first decision")
            self._setup = at + 1
        assert acting.footprint is not None
        self._open = (party, acting.footprint)

    def chose(self, value: int, alternatives: int, label: str) -> None:
        """Nothing: `choose` has seen to it."""

    def after_step(self, thread: Thread | None) -> None:
        if self._open is None:
            self._check_answers(self._frames[self._at])
            self._at += 1
            return
        party, touched = self._open
        asleep = self._finish(party, touched)
        touched.clear()
        if thread is not None:
            self._note_wait(party, thread)
        if asleep:
            assert self._runtime is not None
            self._runtime.abandon()

    def _enter(self, thread: Thread | None) -> None:
        """The first step of a run."""
        assert thread is not None
        runtime = thread.runtime
        assert isinstance(runtime, ControlledRuntime)
        self._runtime = runtime
        self._born.extend(runtime.threads)
        runtime.born = self._born

    def _catch_up(self, thread: Thread | None) -> None:
        """The first step that is not one of an earlier run."""
        if self._runtime is None:
            self._enter(thread)
        else:
            self._born.clear()
        runtime = self._runtime
        assert runtime is not None
        self._threads = len(runtime.threads)
        parties = runtime.threads if runtime.clock.ticker is None else [*runtime.threads, runtime.clock.ticker]
        for one in parties:
            if one.footprint is not None:
                one.footprint.clear()
        for one in runtime.threads:
            self._note_wait(self._number(one.path), one)

    def _note_wait(self, party: int, thread: Thread) -> None:
        wait = declared(thread) if thread.alive else None
        if wait is not None:
            self._waits[party] = wait
        else:
            self._waits.pop(party, None)

    def _check_answers(self, frame: Frame) -> None:
        if self._answered < len(frame.vector):
            message = f"it asks {self._answered} questions; in an earlier run it asked {len(frame.vector)}"
            raise ScenarioNotDeterministic(message, self._at)

    def _finish(self, party: int, touched: list[tuple[Cell, int]]) -> bool:
        """A new step is over, having *touched* that; whether it only repeats what was explored before."""
        self._open = None
        at = self._at
        frame = self._frames[at]
        self._check_answers(frame)
        self._at = at + 1
        runtime = self._runtime
        assert runtime is not None
        self._guards.after(at, self._born, touched, clock=party == THE_CLOCK)
        self._born.clear()
        footprint = self._footprint(party, touched, runtime)
        events = self._events
        past = events.past_of(party)
        conflicts = events.conflicts(footprint, past)
        events.append(party, footprint, past, conflicts)
        for thread in runtime.threads[self._threads :]:
            events.spawned(self._number(thread.path), at)
        self._threads = len(runtime.threads)
        wait = self._waits.get(party)
        if wait is not None and wait.several and not self._guard_cells(party, wait) <= footprint.keys():
            self.distrust(f"{wait.op.kind!r} does not touch all that it waits for")
        sleeper = frame.sleep.get(party)
        if sleeper is not None and tuple(frame.vector) in sleeper.vectors:
            return True
        if conflicts:
            self._race(party, at, past, events.latest(conflicts))
        return False

    def _footprint(self, party: int, touched: list[tuple[Cell, int]], runtime: ControlledRuntime) -> Footprint:
        footprint = self._cells.footprint(touched)
        if runtime.invariants and any(mode != READ for mode in footprint.values()):
            # An invariant looks at the states in between, which equivalent runs need not share.
            footprint[ANY_STATE] = WRITE
        return footprint

    # Races.

    def _race(self, party: int, at: int, past: int, candidates: int) -> None:
        """Plan the reversal of event *at* with each of the *candidates*, or with one that let it wait."""
        self._late = at
        wait = self._waits.get(party)
        guards = self._guard_cells(party, wait)
        waited = wait is not None and wait.several
        for event in members(candidates):
            others = self._events.not_after(event, at)
            if guards and not guards.isdisjoint(self._events.footprints[event]):
                possible = self._possible(party, wait, event, others, past)
                if not possible:
                    waited = True
                    if possible is False:
                        continue
            self._reverse(event, others | 1 << at, party)
        if waited:
            self._race_for_turn(party, wait, guards, at, past)

    def _race_for_turn(self, party: int, wait: Wait | None, guards: set[int], at: int, past: int) -> None:
        """Plan the reversal of event *at* with the newest one before which it was possible."""
        made = at < len(self._events)
        several = wait is not None and wait.several
        for event in self._events.touching(guards, past, reads=party == THE_CLOCK):
            if event >= at:
                continue
            others = self._events.not_after(event, at)
            possible = self._possible(party, wait, event, others, past)
            if possible is not False:
                self._reverse(event, others | 1 << at if made else others, party)
            if several:
                # Objects change independently of each other: what one of them allows, another may prevent.
                for fewer in self._without_some(others, guards, past):
                    if self._possible(party, wait, event, fewer, past) is not False:
                        self._reverse(event, fewer | 1 << at if made else fewer, party)
            elif possible:
                return

    def _without_some(self, others: int, guards: set[int], past: int) -> Iterator[int]:
        """What is left of the *others*, of which some change the *guards*, if those do not all happen: every set there
        is that has all of *past*.
        """
        events = self._events
        changes = [one for one in members(others) if events.changes(one, guards)]
        if len(changes) > MANY_CHANGES:
            self.distrust(f"a thread waits for several objects, of which {len(changes)} steps change some at a time")
            return
        seen = {others}
        for number in range(1, 1 << len(changes)):
            gone = sum(1 << changes[one] for one in members(number))
            left = sum(1 << one for one in members(others) if not events.past[one] & gone)
            if left not in seen and not past & others & ~left:
                seen.add(left)
                yield left

    def _race_with_those_who_wait(self) -> None:
        """The run is over: race what each thread still waits for with what made it wait."""
        self._late = None
        at = len(self._events)
        for party, wait in sorted(self._waiting(), key=itemgetter(0)):
            self._race_for_turn(party, wait, self._guard_cells(party, wait), at, self._events.past_of(party))

    def _waiting(self) -> Iterable[tuple[int, Wait | None]]:
        """Who could not go on when the run ended."""
        for party, wait in self._waits.items():
            if wait.thread.parked:
                yield party, wait
        if self._clock_cell() is not None:
            yield THE_CLOCK, None

    def _guard_cells(self, party: int, wait: Wait | None) -> set[int]:
        """The cells that decide whether *party*, which waits for that, can go on."""
        if party == THE_CLOCK:
            clock = self._clock_cell()
            return set() if clock is None else {clock}
        return set() if wait is None else {self._cells.of(cell) for cell in wait.guards()}

    def _clock_cell(self) -> int | None:
        return self._cells.known((THREADS, *CLOCK))

    def _possible(self, party: int, wait: Wait | None, event: int, others: int, past: int) -> bool | None:
        """Whether *party*, whose next step has that *past*, could have gone on before *event*, with the *others* done
        as well; None if it may be.
        """
        frame = self._frames[event]
        if party == THE_CLOCK:
            if party in frame.enabled:
                return True
            clock = self._clock_cell()
            footprints = self._events.footprints
            # Setting a deadline reads the clock; it does not matter who does it first.
            return None if any(clock in footprints[other] for other in members(others)) else False
        assert wait is not None
        allowed = self._guards.allowed(wait, event, others)
        if allowed is not None or past >> event:
            return allowed
        # The run itself has shown whether it could go on before the event. Afterwards only a change of what it waits
        # for can have let it.
        if party in frame.enabled:
            return None if others else True
        cells = self._guard_cells(party, wait)
        return None if any(self._events.changes(other, cells) for other in members(others)) else False

    def _last_of(self, party: int) -> int:
        return max(members(self._events.past_of(party)), default=-1)

    def _reverse(self, event: int, reversal: int, party: int) -> None:
        """See to it that from the state before *event* some run begins as *reversal*, and then *party*, could: events
        none of which happens after *event*.

        If the step of *party* was never made, nobody knows what it would touch and whether it could come first. So the
        run has to begin with one of the others.
        """
        if event < self._setup:
            return
        frame = self._frames[event]
        if frame.sequences is not None:
            self._reversals.append((event, reversal, party, self._late))
            return
        first = self._events.initials(reversal) or [party]
        initials = [one for one in first if one in frame.enabled]
        if any(one in frame.backtrack or frame.sleeps(one) for one in initials):
            return
        if initials:
            frame.backtrack.append(party if party in initials else min(initials, key=frame.enabled.index))
        else:
            frame.backtrack.extend(one for one in frame.enabled if one not in frame.backtrack)

    def _plan(self) -> None:
        """The run is over: plan the reversals that it has shown, each as a sequence of steps.

        The events that do not happen after the one that is reversed belong to it, up to the end of the run. So the
        reversals that an earlier run has shown are planned again: how it goes on differs.
        """
        events, frames = self._events, self._frames
        end = len(events)
        concurrent: dict[int, int] = {}
        made: dict[int, int] = {}
        for one in range(self._setup, end):
            thread = events.threads[one]
            made[thread] = made.get(thread, 0) | 1 << one
        for event, reversal, party, late in self._reversals:
            frame = frames[event]
            last: list[Planned] = []
            if late is None:
                first = reversal
                last.append(Planned(party, None, None, 0, 0))
            else:
                first = concurrent.get(event) or concurrent.setdefault(event, events.not_after(event, end))
                gone = first & ~reversal & ((1 << late) - 1)
                if gone:
                    first = sum(1 << one for one in members(first) if not events.past[one] & gone)
                if events.past[late] >> event & 1:
                    last.append(Planned(party, None, events.footprints[late], 0, 0))
            if self._begins_asleep(frame, first, made):
                continue
            steps = [
                Planned(
                    events.threads[one], tuple(frames[one].vector), events.footprints[one], 1 << one, events.past[one]
                )
                for one in members(first)
            ]
            sequence = (*steps, *last)
            if sequence[0].party in frame.enabled:
                frame.plan(sequence)
                continue
            # Nobody knows how to come there.
            possible = [one for one in events.initials(first) if one in frame.enabled]
            for one in possible or frame.enabled:
                frame.plan((Planned(one, None, None, 0, 0),))
        while self._reversals and self._reversals[-1][3] is None:
            self._reversals.pop()

    def _begins_asleep(self, frame: Frame, first: int, made: Mapping[int, int]) -> bool:
        """Whether one of the events *first*, of those that each party has *made*, can come first and sleeps: most plans
        end here, before there is a sequence.
        """
        past = self._events.past
        for party, sleeper in frame.sleep.items():
            own = first & made.get(party, 0)
            if own and not sleeper.awake:
                low = own & -own
                if past[low.bit_length() - 1] & first == low:
                    return True
        return False
