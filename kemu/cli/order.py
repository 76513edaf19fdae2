"""A schedule written by hand: who is to run, in turn.

``writer*3, wk:delayed#0, clock, writer`` lets the thread ``writer`` take three steps, then the worker run until it
cannot go on, then time pass, then the writer go on. After the last entry the plain schedule follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from kemu.errors import UsageError
from kemu.runtime import DecisionPoint, Outcome

CLOCK: Final = "clock"
SYNTAX: Final = "write names of threads separated by commas, such as writer*3, wk:delayed#0, clock"


@dataclass(frozen=True, slots=True)
class Entry:
    """*party* takes *steps* steps, or, if that is None, all that it can."""

    party: str
    steps: int | None

    def __str__(self) -> str:
        return self.party if self.steps is None else f"{self.party}*{self.steps}"


def parse_order(text: str) -> tuple[Entry, ...]:
    """Read an order. Raises `UsageError` for text that is none."""
    entries: list[Entry] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?P<party>[^*,\s][^*,]*?)\s*(?:\*\s*(?P<steps>[1-9]\d*)\s*)?", part)
        if match is None:
            raise UsageError(f"{part.strip()!r} in the order {text!r} is no thread", remedy=SYNTAX)
        steps = int(match["steps"]) if match["steps"] else None
        entries.append(Entry(match["party"], 1 if steps is None and match["party"] == CLOCK else steps))
    return tuple(entries)


class Order:
    """Decides as an order says. Questions of the emulated system are answered plainly.

    Steps that are forced count like those that are decided. An entry that is not possible is a `UsageError`.
    """

    name = "order"
    seed: None = None
    completed: None = None

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._left = list(reversed(entries))
        self._number = 1
        self._taken = 0
        self._steps: dict[str, int] = {}
        self._begun = False

    def begin(self) -> bool:
        if self._begun:
            return False
        self._begun = True
        return True

    def choose(self, n: int, label: str) -> int:
        return 0

    def pick(self, n: int, point: DecisionPoint) -> int:
        before, self._steps = self._steps, _steps(point)
        # What was done since the last decision, in the order of the entries as far as it fits.
        fresh = {party: steps - before.get(party, 0) for party, steps in self._steps.items()}
        while self._left:
            entry = self._left[-1]
            new = fresh.get(entry.party, 0)
            used = new if entry.steps is None else min(new, entry.steps - self._taken)
            fresh[entry.party] = new - used
            self._taken += used
            place = _place(entry.party, n, point)
            done = self._taken == entry.steps if entry.steps is not None else place is None and self._taken > 0
            if done:
                self._left.pop()
                self._number += 1
                self._taken = 0
            elif place is not None:
                return place
            else:
                raise self._impossible(entry, point)
        return 0

    def _impossible(self, entry: Entry, point: DecisionPoint) -> UsageError:
        able = [thread.label for thread in point.ready] + [CLOCK] * point.clock_is_enabled
        if entry.party in self._steps:
            message = f"{entry.party} cannot go on there"
        else:
            message = f"there is no {entry.party!r} at that point"
        return UsageError(
            f"entry {self._number} of the order, {entry}, is not possible: {message}",
            remedy=f"{self._hint(entry.party)}these can go on: {', '.join(able)}",
        )

    def _hint(self, party: str) -> str:
        if party in self._steps:
            return ""
        nearest = get_close_matches(party, self._steps, n=1)
        return f"did you mean {nearest[0]!r}? " if nearest else ""

    def end(self, outcome: Outcome) -> None:
        """Raise `UsageError` for an entry that names nobody."""
        unknown = [entry.party for entry in reversed(self._left) if entry.party not in self._steps]
        # Of the others nothing can be said: the last steps of a run are mostly forced.
        if unknown:
            raise UsageError(
                f"the order names {unknown[0]!r}, and there was no such thread when decisions were taken",
                remedy=f"{self._hint(unknown[0])}there were: {', '.join(self._steps) or 'no decisions at all'}",
            )


def _steps(point: DecisionPoint) -> dict[str, int]:
    """How many steps every party has taken so far, by name."""
    runtime = point.ready[0].runtime
    steps: dict[str, int] = {}
    for thread in runtime.threads:
        steps[thread.label] = steps.get(thread.label, 0) + thread.steps
    steps[CLOCK] = 0 if runtime.clock.ticker is None else runtime.clock.ticker.steps
    return steps


def _place(party: str, n: int, point: DecisionPoint) -> int | None:
    """The alternative that is *party*, or None if it cannot go on."""
    for place, thread in enumerate(point.ready):
        if thread.label == party:
            return (place - point.index) % len(point.ready)
    return n - 1 if party == CLOCK and point.clock_is_enabled else None
