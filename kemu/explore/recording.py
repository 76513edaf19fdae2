"""Recordings: what a run decided and what that cost; the one written order of *simpler*."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from kemu.explore.program import Failure, failure_of
from kemu.explore.strategies.base import CLOCK, Path
from kemu.explore.strategies.follow import Plan, Slice
from kemu.explore.token import trim
from kemu.runtime import continues, current_thread, is_preemption

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.runtime import DecisionPoint, Oracle, Outcome, Thread


class Cost(NamedTuple):
    """How complicated a run is. The smaller one is the simpler run; fields count in their order.

    Preemptions come first because each is a coincidence that the reader has to believe; then answers that are
    not plain; then all context switches, preemptions and the clock's turns included. `length` counts the
    decisions up to the last one that is not 0.
    """

    preemptions: int
    answers: int
    switches: int
    length: int
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision: *value* of *n* alternatives."""

    kind: Literal["thread", "data"]
    n: int
    value: int
    step: int
    """The step that it led to, or in which the question was asked."""
    label: str
    """Of a thread decision, the label of the party that was picked; of a data decision, the question."""
    continues: bool = False
    """Whether alternative 0 meant that the running thread goes on."""
    preemption: bool = False
    """Whether the processor was taken away from a thread that could go on."""
    clock: bool = False
    """Whether the clock was picked."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A run as it was made."""

    decisions: tuple[Decision, ...]
    parties: tuple[Path, ...]
    """Who took each step: the thread's path, or `CLOCK`."""
    answers: dict[Path, tuple[int, ...]]
    """The answers to open questions, by the thread that asked."""
    outcome: Outcome

    @property
    def failure(self) -> Failure | None:
        return failure_of(self.outcome)

    @property
    def choices(self) -> tuple[int, ...]:
        """All choices, in order; with the same program they give the same run."""
        return tuple(decision.value for decision in self.decisions)

    @property
    def cost(self) -> Cost:
        decisions = self.decisions
        choices = trim(self.choices)
        return Cost(
            preemptions=sum(decision.preemption for decision in decisions),
            answers=sum(decision.kind == "data" and decision.value > 0 for decision in decisions),
            switches=sum(a != b for a, b in pairwise(self.parties)),
            length=len(choices),
            choices=choices,
        )

    def plan(self) -> Plan:
        """The run as a plan: who ran, piece by piece."""
        slices: list[Slice] = []
        steps: dict[Path, int] = {}
        for path in self.parties:
            steps[path] = steps.get(path, 0) + 1
            if slices and slices[-1].path == path:
                slices.pop()
            slices.append(Slice(path, steps[path]))
        return Plan(tuple(slices), self.answers)


class Recorder:
    """Records one run of another oracle. It has to be given to the run as oracle and as observer."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.decisions: list[Decision] = []
        self.parties: list[Path] = []
        self.answers: dict[Path, list[int]] = {}

    def begin(self) -> bool:
        return self.oracle.begin()

    def pick(self, n: int, point: DecisionPoint) -> int:
        value = self.oracle.pick(n, point)
        clock = point.clock_is_enabled and value == n - 1
        label = "clock" if clock else point.ready[(point.index + value) % len(point.ready)].label
        self.decisions.append(
            Decision(
                kind="thread",
                n=n,
                value=value,
                step=len(self.parties),
                label=label,
                continues=continues(point),
                preemption=is_preemption(point, value),
                clock=clock,
            )
        )
        return value

    def choose(self, n: int, label: str) -> int:
        value = self.oracle.choose(n, label)
        self.decisions.append(Decision(kind="data", n=n, value=value, step=len(self.parties) - 1, label=label))
        self.answers.setdefault(current_thread().path, []).append(value)
        return value

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        self.parties.append(CLOCK if thread is None else thread.path)

    def chose(self, value: int, alternatives: int, label: str) -> None:
        """Nothing: `choose` has recorded it."""

    def after_step(self, thread: Thread | None) -> None:
        if thread is not None and thread.footprint is not None:
            thread.footprint.clear()

    def recording(self, outcome: Outcome) -> Recording:
        """What was recorded of the run that ended with *outcome*."""
        answers = {path: tuple(values) for path, values in self.answers.items()}
        return Recording(tuple(self.decisions), tuple(self.parties), answers, outcome)


def record(program: Program, oracle: Oracle) -> Recording:
    """Run *program* once under *oracle* and record it."""
    recorder = Recorder(oracle)
    recorder.begin()
    return recorder.recording(program.run(recorder, recorder))
