"""The check that a program has no other source of chance than its decisions: it is run twice and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kemu.errors import ScenarioNotDeterministic
from kemu.explore.program import failure_of
from kemu.explore.strategies.replay import Replay
from kemu.runtime import Oracle

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.runtime import Outcome, Thread

CAUSES: Final = (
    "usual causes: the wall clock, random, the order of a set, id() or a default repr, a real thread,"
    " or state of a module or class that survives a run"
)


class Transcript:
    """Writes down each step of a run: who took it, doing what, and among how many."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []
        self._step = -1

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        self._step += 1
        if thread is None:
            self._add(f"the clock fires, {alternatives} alternatives")
        else:
            self._add(f"{thread.label} performs '{thread.op.describe()}', {alternatives} alternatives")

    def chose(self, value: int, alternatives: int, label: str) -> None:
        self._add(f"the question {label!r} has {alternatives} answers and gets {value}")

    def after_step(self, thread: Thread | None) -> None:
        if thread is not None and thread.footprint is not None:
            thread.footprint.clear()

    def _add(self, line: str) -> None:
        self.lines.append(line)
        self.steps.append(self._step)


def check_determinism(program: Program, decide: Oracle | Sequence[int] = ()) -> Outcome:
    """Run *program* twice with the same decisions and compare the two runs step by step.

    *decide* is what to run it with: choices (none: the plain run), or an oracle for its next run. Returns the
    outcome of the first run; raises `ScenarioNotDeterministic` with the first step at which the second
    differs.
    """
    oracle = Replay(decide, strict=False) if isinstance(decide, Sequence) else decide
    first, second = Transcript(), Transcript()
    oracle.begin()
    outcome = program.run(oracle, first)
    again = Replay(outcome.choices, strict=False)
    again.begin()
    outcome_again = program.run(again, second)
    compare(first, second)
    if _end(outcome) != _end(outcome_again):
        message = f"the same steps ended as {_end(outcome)} and then as {_end(outcome_again)}; {CAUSES}"
        raise ScenarioNotDeterministic(message, outcome.steps)
    return outcome


def compare(first: Transcript, second: Transcript) -> None:
    """Raise `ScenarioNotDeterministic` if the two transcripts differ, naming the first difference."""
    for at in range(max(len(first.lines), len(second.lines))):
        one = first.lines[at] if at < len(first.lines) else "the run is over"
        two = second.lines[at] if at < len(second.lines) else "the run is over"
        if one != two:
            steps = first.steps if at < len(first.lines) else second.steps
            raise ScenarioNotDeterministic(f"in one run {one}; in the next {two}; {CAUSES}", steps[at])


def _end(outcome: Outcome) -> tuple[object, ...]:
    failure = failure_of(outcome)
    signature = failure.signature if failure is not None else ()
    return (outcome.end, signature, f"fingerprint {outcome.fingerprint:016x}")
