"""The states that a reduced search goes through, with what was and is to be explored from each."""

from __future__ import annotations

from dataclasses import dataclass, field

from kemu.explore.dependence import Footprint, dependent

Vector = tuple[int, ...]
"""The answers to the questions that were asked in one step."""


@dataclass(slots=True)
class Sleeper:
    """A party whose next step was explored from a state from which the current one differs by independent steps."""

    vectors: dict[Vector, Footprint]
    """For each vector of answers that still sleeps, what the step touched."""
    awake: bool = False
    """Whether a vector has been woken, so that the step has to be made again."""


@dataclass(slots=True)
class Frame:
    """A state of the current run, with what was and is to be explored from it."""

    enabled: tuple[int, ...]
    """The parties that can go on, in the order of the alternatives."""
    sleep: dict[int, Sleeper]
    party: int
    """Who goes on in the current run."""
    backtrack: list[int]
    """Who goes on in some run, in the order in which the need for it came up."""
    vector: list[int] = field(default_factory=list[int])
    """The answers in the current step."""
    ends: list[int] = field(default_factory=list[int])
    """How many alternatives each of them had."""
    explored: dict[Vector, Footprint] = field(default_factory=dict[Vector, Footprint])
    """The vectors that `party` has been through."""

    def sleeps(self, party: int) -> bool:
        """Whether all that *party* can do next has been explored."""
        sleeper = self.sleep.get(party)
        return sleeper is not None and not sleeper.awake

    def advance(self) -> bool:
        """Go on to the next vector or the next party; whether there is one."""
        while self.vector:
            if self.vector[-1] + 1 < self.ends[-1]:
                self.vector[-1] += 1
                return True
            self.vector.pop()
            self.ends.pop()
        known = self.sleep.get(self.party)
        # Some vectors may have slept before and the others were explored here: together they are all.
        vectors = self.explored if known is None else known.vectors | self.explored
        self.sleep[self.party] = Sleeper(vectors)
        self.explored = {}
        for party in self.backtrack:
            if not self.sleeps(party):
                self.party = party
                return True
        return False

    def asleep_after(self, footprint: Footprint) -> dict[int, Sleeper]:
        """Who sleeps after `party` has made a step that touched *footprint*."""
        result: dict[int, Sleeper] = {}
        for party, sleeper in self.sleep.items():
            if party == self.party:
                continue
            known = sleeper.vectors
            vectors = {vector: touched for vector, touched in known.items() if not dependent(touched, footprint)}
            if vectors:
                result[party] = Sleeper(vectors, sleeper.awake or len(vectors) < len(known))
        return result
