"""How the tests of reduced searches look at all runs of a program: made one by one, and one for each class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from explore.generated import GeneratedProgram

from kemu.explore.program import Program
from kemu.explore.strategies import DPOR, BoundedDFS


@dataclass(frozen=True)
class Runs:
    """What all runs of a program come to."""

    made: int
    """Runs, without those that were given up."""
    distinct: frozenset[int]
    """Their fingerprints."""
    states: frozenset[object]
    """What they came to, of a generated program."""
    failing: int
    """How many failed."""
    blocked: int = 0
    doubt: str = ""


def brute_force(program: Program, *, limit: int = 200_000) -> Runs | None:
    """All runs, without any reduction; None if there are more than *limit*, or one that does not end."""
    search = BoundedDFS(None)
    made = failing = 0
    distinct: set[int] = set()
    states: set[object] = set()
    while search.begin():
        if made == limit:
            return None
        outcome = program.run(search)
        search.end(outcome)
        if outcome.end == "step-limit":
            return None
        made += 1
        failing += outcome.failure is not None
        distinct.add(outcome.fingerprint)
        if isinstance(program, GeneratedProgram):
            states.add(program.state)
    return Runs(made, frozenset(distinct), frozenset(states), failing)


def reduced(program: Program, make: Callable[[], DPOR] = DPOR) -> Runs:
    """One run of each class, as the search finds them."""
    search = make()
    made = failing = 0
    distinct: set[int] = set()
    states: set[object] = set()
    while search.begin():
        outcome = program.run(search, search.observer)
        search.end(outcome)
        if outcome.end == "abandoned":
            continue
        made += 1
        failing += outcome.failure is not None
        distinct.add(outcome.fingerprint)
        if isinstance(program, GeneratedProgram):
            states.add(program.state)
    assert search.exhausted
    assert search.traces == made
    return Runs(made, frozenset(distinct), frozenset(states), failing, search.blocked, search.doubt)
