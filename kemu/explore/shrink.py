"""Shrinking: from a run that fails to the simplest run found that fails in the same way.

*Simpler* is the order of `Cost`. A candidate counts for what it does, not for what was asked of it: its run
is recorded, and it is taken if it has the same failure signature and a smaller cost. So a candidate may be
sloppy, and two kinds are used:

* a list of choices with something cut, zeroed, lowered or deleted, replayed leniently;
* a plan (`strategies.follow`) in which pieces of one thread are merged or answers made plain. Plans keep
  their meaning where a changed list of choices loses it, and do most of the work.

What these passes leave may be a minimum of its neighbourhood alone. Two things lead out of that: a second failing run
to start from, and at the end a search through the runs with fewer preemptions and answers that are not plain, cheapest
first, with a share of the replays. Where that search comes to its end, the run is known to have the fewest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kemu.errors import KemuError, ScenarioNotDeterministic, UsageError
from kemu.explore.recording import Recorder, Recording, record
from kemu.explore.strategies.dfs import BoundedDFS
from kemu.explore.strategies.follow import WITHOUT_END, Follow, Plan, Slice
from kemu.explore.strategies.replay import Replay

if TYPE_CHECKING:
    from kemu.explore.program import Program

MAX_REPLAYS: Final = 70

SHARE_OF_SEARCH: Final = 1 / 3
"""How much of the replays the search for runs with fewer preemptions and answers may use at most."""

SHARE_OF_FIRST: Final = 0.6
"""How much of the replays the first start may use if there is a second one."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What shrinking came to."""

    recording: Recording
    """The simplest run that was found."""
    original: Recording
    """The run that it started from."""
    replays: int
    """How many runs it took, the first replay of the original included."""
    settled: bool
    """Whether no pass found anything simpler any more; otherwise the replays were used up."""
    fewest: bool = False
    """Whether every run with fewer preemptions and answers that are not plain was made, and none of them fails in
    the same way."""


class _OutOfReplays(Exception):
    """Ends all passes. Never leaves this module."""


def shrink(
    program: Program,
    choices: Sequence[int],
    *,
    signature: tuple[str, ...] | None = None,
    second: Sequence[int] | None = None,
    max_replays: int = MAX_REPLAYS,
) -> Shrunk:
    """Shrink the failing run of *choices*, using at most *max_replays* runs of *program*.

    *signature* is the failure to keep (by default the one the run has); *second*, another run with that
    failure, from which to start once more: it may lead where the first does not get.

    Raises `UsageError` if the run does not fail, `ScenarioNotDeterministic` if it no longer has that
    *signature*.
    """
    if max_replays < 1:
        raise UsageError(f"shrinking may use {max_replays} replays", remedy="allow at least 1")
    original = record(program, Replay(choices, strict=False))
    failure = original.failure
    if signature is not None and (failure is None or failure.signature != signature):
        now = "passes" if failure is None else f"fails with {' '.join(failure.signature)}"
        raise ScenarioNotDeterministic(
            f"the run that failed with {' '.join(signature)} now {now}", original.outcome.steps
        )
    if failure is None:
        raise UsageError("the run to shrink does not fail", remedy="give the token of a failing run")
    allowed = max_replays if second is None else max(1, int(max_replays * SHARE_OF_FIRST))
    shrinker = _Shrinker(program, failure.signature, original, allowed)
    settled = shrinker.shrink()
    replays = shrinker.replays
    if second is not None and replays < max_replays:
        start = record(program, Replay(second, strict=False))
        replays += 1
        if start.failure is not None and start.failure.signature == failure.signature:
            again = _Shrinker(program, failure.signature, start, max_replays - replays + 1, shrinker.tried)
            settled = again.shrink() and settled
            replays += again.replays - 1
            if again.best.cost < shrinker.best.cost:
                shrinker = again
    before = shrinker.replays
    shrinker.max_replays = before + max_replays - replays
    fewest, still_settled = shrinker.search(int(max_replays * SHARE_OF_SEARCH))
    return Shrunk(shrinker.best, original, replays + shrinker.replays - before, settled and still_settled, fewest)


class _Shrinker:
    """The passes, and what they share: the best run so far, what was tried, how many replays were used."""

    def __init__(
        self,
        program: Program,
        signature: tuple[str, ...],
        start: Recording,
        max_replays: int,
        tried: set[object] | None = None,
    ) -> None:
        self.program = program
        self.signature = signature
        self.best = start
        self.cost = start.cost
        self.max_replays = max_replays
        self.replays = 1
        self.tried: set[object] = tried if tried is not None else set()
        self.tried.add(self.cost.choices)

    def shrink(self) -> bool:
        """Run all passes until none helps; return whether it came to that."""
        passes: tuple[Callable[[], None], ...] = (
            self.cut,
            self.put_off_many,
            self.merge_many,
            self.answer_plainly,
            self.merge_one,
            self.zero,
            self.lower,
            self.delete,
        )
        try:
            while True:
                before = self.cost
                for step in passes:
                    if not self.cost.choices:
                        # The plain run: there is none simpler.
                        return True
                    step()
                if self.cost == before:
                    return True
        except _OutOfReplays:
            return False

    def search(self, most: int) -> tuple[bool, bool]:
        """Look for a run with fewer preemptions and answers with at most *most* runs, and shrink it.

        Returns whether there is none, and whether the passes have settled where there was one.
        """
        settled = True
        while most > 0 and self.replays < self.max_replays:
            cost = self.cost.preemptions + self.cost.answers
            if not cost:
                return True, settled
            before = self.replays
            found = self._search(BoundedDFS(cost - 1), most)
            most -= self.replays - before
            if found is not True:
                return found is None, settled
            settled = self.shrink()
        return not self.cost.preemptions + self.cost.answers, settled

    def _search(self, oracle: BoundedDFS, most: int) -> bool | None:
        """Whether a simpler run was found, which is then the best. None if *oracle* has no more runs."""
        for _ in range(min(most, self.max_replays - self.replays)):
            recorder = Recorder(oracle)
            if not recorder.begin():
                return None
            self.replays += 1
            try:
                outcome = self.program.run(recorder, recorder)
                oracle.end(outcome)
            except KemuError:
                # These are runs that nobody has asked for: what is wrong with one of them does not spoil the result.
                return False
            if self._take(recorder.recording(outcome)):
                return True
        return False

    # Candidates.

    def try_choices(self, choices: Sequence[int]) -> bool:
        """Whether *choices* lead to a simpler run of the same failure, which is then the best."""
        oracle = Replay(choices, strict=False)
        return self._try(oracle.key(), oracle)

    def try_plan(self, plan: Plan) -> bool:
        """Whether *plan* leads to a simpler run of the same failure, which is then the best."""
        return self._try(plan.key(), Follow(plan))

    def _try(self, key: object, oracle: Replay | Follow) -> bool:
        if key in self.tried:
            return False
        if self.replays >= self.max_replays:
            raise _OutOfReplays
        self.tried.add(key)
        self.replays += 1
        return self._take(record(self.program, oracle))

    def _take(self, recording: Recording) -> bool:
        cost = recording.cost
        self.tried.add(cost.choices)
        failure = recording.failure
        if failure is None or failure.signature != self.signature or not cost < self.cost:
            return False
        self.best = recording
        self.cost = cost
        return True

    # Passes on lists of choices.

    def cut(self) -> None:
        """Find a short beginning after which the plain decisions lead to the failure."""
        too_short, enough = -1, len(self.cost.choices)
        middle = 0
        while too_short < middle < enough:
            if self.try_choices(self.cost.choices[:middle]):
                enough = min(middle, len(self.cost.choices))
            else:
                too_short = middle
            middle = (too_short + enough) // 2

    def zero(self) -> None:
        """Make decisions plain: half of those that are not at a time, then ever fewer, the last first."""
        width = sum(value > 0 for value in self.cost.choices) // 2
        while width:
            end = self.cost.length
            while end > 0:
                choices = self.cost.choices
                group = [at for at in range(min(end, len(choices))) if choices[at]][-width:]
                if not group:
                    break
                self.try_choices([0 if at in group else value for at, value in enumerate(choices)])
                end = group[0]
            width //= 2

    def lower(self) -> None:
        """Take the nearest alternative in the place of a farther one, or at least a nearer one."""
        for at in range(self.cost.length):
            value = self.cost.choices[at] if at < self.cost.length else 0
            for nearer in sorted({1, value // 2, value - 1}):
                choices = self.cost.choices
                if at < len(choices) and choices[at] > nearer > 0:
                    self.try_choices((*choices[:at], nearer, *choices[at + 1 :]))

    def delete(self) -> None:
        """Drop the decisions before one that is not plain, so that it comes earlier."""
        for at in reversed(range(self.cost.length)):
            for width in (4, 2, 1):
                choices = self.cost.choices
                if width <= at < len(choices) and choices[at] and not any(choices[at - width : at]):
                    self.try_choices((*choices[: at - width], *choices[at:]))

    # Passes on plans.

    def merge_many(self) -> None:
        """Let preempted threads go on: all of them, then ever smaller groups."""
        width = self.cost.preemptions
        while width:
            start = 0
            while start < self.cost.preemptions:
                plan = self.best.plan()
                group = set(_preempted(self.best, plan)[start : start + width])
                if not self.try_plan(_let_go_on(plan, group)):
                    start += width
            width //= 2

    def put_off_many(self) -> None:
        """Leave pieces that end with a preemption to later ones of their threads, or to the end: half of them at a
        time, then ever fewer, the last first.

        A thread whose start matters to nobody is put off until everything is over. There can be as many of these as
        there are threads, and each of them is a preemption.
        """
        width = self.cost.preemptions // 2
        while width:
            end = len(self.best.plan().slices)
            while end > 0:
                plan = self.best.plan()
                group = [at for at in _preempted(self.best, plan) if at < end][-width:]
                if not group:
                    break
                self.try_plan(
                    Plan(tuple(piece for at, piece in enumerate(plan.slices) if at not in group), plan.answers)
                )
                end = group[0]
            width //= 2

    def merge_one(self) -> None:
        """Move a piece of a thread to the thread's next piece, or the next one to it; put off a last piece."""
        at = 0
        while at < len(self.best.plan().slices):
            plan = self.best.plan()
            without = Plan((*plan.slices[:at], *plan.slices[at + 1 :]), plan.answers)
            if self.try_plan(without):
                continue
            last = _next_piece(plan.slices, at) is None
            if last or not self.try_plan(_let_go_on(plan, {at})):
                at += 1

    def answer_plainly(self) -> None:
        """Answer open questions plainly: all of them, then one at a time, the last first."""
        plan = self.best.plan()
        if not self.cost.answers or self.try_plan(Plan(plan.slices)):
            return
        for path in sorted(plan.answers):
            for at in reversed(range(len(plan.answers[path]))):
                plan = self.best.plan()
                values = plan.answers.get(path, ())
                if at < len(values) and values[at]:
                    plain = (*values[:at], 0, *values[at + 1 :])
                    self.try_plan(Plan(plan.slices, {**plan.answers, path: plain}))


def _preempted(recording: Recording, plan: Plan) -> list[int]:
    """The pieces of *plan* at whose end the thread could have gone on."""
    steps = {decision.step for decision in recording.decisions if decision.preemption}
    preempted: list[int] = []
    taken: dict[tuple[int, ...], int] = {}
    step = 0
    for at, piece in enumerate(plan.slices):
        step += piece.upto - taken.get(piece.path, 0)
        taken[piece.path] = piece.upto
        if step in steps:
            preempted.append(at)
    return preempted


def _next_piece(slices: Sequence[Slice], at: int) -> int | None:
    for later in range(at + 1, len(slices)):
        if slices[later].path == slices[at].path:
            return later
    return None


def _let_go_on(plan: Plan, group: set[int]) -> Plan:
    """The plan in which the threads of the pieces in *group* go on with their next piece, or to their end."""
    slices: list[Slice] = []
    merged: set[int] = set()
    for at, piece in enumerate(plan.slices):
        if at in merged:
            continue
        upto = piece.upto
        here: int | None = at
        while here in group:
            here = _next_piece(plan.slices, here)
            if here is None:
                upto = WITHOUT_END
            else:
                merged.add(here)
                upto = plan.slices[here].upto
        slices.append(Slice(piece.path, upto))
    return Plan(tuple(slices), plan.answers)
