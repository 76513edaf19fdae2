"""What is explored: a program, which can be run again and again under any oracle.

The scenario layer implements `Program`; tests of this package implement it directly on the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from kemu.runtime import Observer, Oracle, Outcome


class Failure(Protocol):
    """What is wrong with a run. Two failures with one signature are the same bug seen twice."""

    @property
    def code(self) -> str:
        """The identifier of the check that failed."""
        ...

    @property
    def signature(self) -> tuple[str, ...]:
        """What tells this bug from others, the same in every run that shows it."""
        ...

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        ...


class Program(Protocol):
    """Something that can be run. Two runs that take the same decisions are the same run.

    A run fails by having a failure in its outcome: deadlocks, step limits and failed invariants included.
    Misuse of kemu and kemu's own bugs are not outcomes: `run` raises them as exceptions of `kemu.errors`.
    """

    @property
    def name(self) -> str:
        """What a user calls it."""
        ...

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that name the scenario, its variant and parameters, and the code."""
        ...

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        """Run it once, under *oracle*, whose `begin` was called; *observer* watches the steps."""
        ...


@runtime_checkable
class Trackable(Program, Protocol):
    """A program with state of its own, of which runs say what they do to it only if they are asked to."""

    @property
    def can_track(self) -> bool:
        """Whether they can."""
        ...

    def instrumented(self, tracked: bool = True) -> Program:
        """The same program, with runs that do, or do not. They take the same decisions."""
        ...


def tracked(program: Program) -> Program:
    """*program* with runs that say what they do to its own state, if they can."""
    return program.instrumented() if isinstance(program, Trackable) and program.can_track else program


def failure_of(outcome: Outcome) -> Failure | None:
    """The failure in *outcome*, typed: the runtime, which only carries it, does not know what it is."""
    return cast("Failure | None", outcome.failure)
