"""The states that a reduced search goes through, with what was and is to be explored from each."""

from __future__ import annotations

from dataclasses import dataclass, field

from kemu.explore.dependence import Footprint, dependent
from kemu.explore.wakeup import Sequence, Vector, after, covers

Sequences = dict[tuple[tuple[int, Vector | None], ...], Sequence]
"""Sequences by who makes their steps, and with which answers: those that agree in that are one."""


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
    sequences: Sequences | None = None
    """In a part of the search that has wakeup trees, what is to be explored, in the order in which the need for it came
    up; None elsewhere."""

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
        return self.follow()

    def plan(self, sequence: Sequence) -> None:
        """Explore *sequence* from here, unless it turns out to be a repetition."""
        assert self.sequences is not None
        if not self.repeats(sequence):
            self.sequences.setdefault(tuple([step[:2] for step in sequence]), sequence)

    def repeats(self, sequence: Sequence) -> bool:
        """Whether all runs that begin as *sequence* have been explored, or will be elsewhere."""
        return any(
            not sleeper.awake and covers(party, sleeper.vectors, sequence) for party, sleeper in self.sleep.items()
        )

    def follow(self) -> bool:
        """Take the first sequence that is no repetition; whether there is one."""
        if not self.sequences:
            return False
        self.sequences = {key: one for key, one in self.sequences.items() if not self.repeats(one)}
        return self.take_first()

    def take_first(self) -> bool:
        """Take the first of the sequences; whether there is one."""
        if not self.sequences:
            return False
        first = next(iter(self.sequences.values()))
        self.party = first[0].party
        if self.party not in self.backtrack:
            self.backtrack.append(self.party)
        return True

    def left_over(self, footprint: Footprint) -> list[Sequence]:
        """What is left of the sequences after `party` has made a step that touched *footprint*."""
        if not self.sequences:
            return []
        vector = tuple(self.vector)
        left = [after(self.party, vector, footprint, one) for one in self.sequences.values()]
        return [one for one in left if one]

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
