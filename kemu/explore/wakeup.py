"""Wakeup trees: what is still to be explored from a state, as sequences of steps and not only as first steps.

After Abdulla, Aronis, Jonsson and Sagonas, "Source sets: a foundation for optimal dynamic partial order reduction"
(JACM 2017), for steps whose footprint is known only once they were made. A sequence that reverses a race consists of
events of the run in which the race was seen, which will be the same again, and of the step to be reversed, of which
nothing is certain. That step comes last.

The tree is not built in advance. Each state keeps the sequences that are to be explored from it; those that begin with
the step that is made there, or do without it, go on to the next state without it. Whether a sequence would only repeat
what sleeps is asked when its turn comes: by then every party that sleeps has made its step, and what that touched is
known. Only of the last step it is not: there, what the step touched when it came too late has to do. That is enough,
because a step looks at one thing after another: of several steps of others that it depends on, it meets one first,
whichever of the others came before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kemu.explore.dependence import Footprint, dependent

Vector = tuple[int, ...]
"""The answers to the questions that were asked in one step."""


class Planned(NamedTuple):
    """A step of a sequence."""

    party: int
    vector: Vector | None
    """The answers in it; None for the step to be reversed."""
    footprint: Footprint | None
    """What it touches, or touched where it was too late; None if that says nothing of where it comes first."""
    event: int
    """The event that it is, as a set of one; 0 for the step to be reversed."""
    past: int
    """The events that it comes after."""


Sequence = tuple[Planned, ...]


def covers(party: int, vectors: Mapping[Vector, Footprint], sequence: Sequence) -> bool:
    """Whether every run that begins as *sequence* is, up to the order of independent steps, one that begins with
    *party*, whose next step touches that for each vector of answers.
    """
    before = 0
    for position, step in enumerate(sequence):
        if step.party == party:
            if step.event:
                return not step.past & before
            return _commute(vectors, sequence[:position])
        before |= step.event
    return _commute(vectors, sequence)


def after(party: int, vector: Vector, footprint: Footprint, sequence: Sequence) -> Sequence:
    """What is left of *sequence* when *party* has made a step; nothing if it does not begin like that."""
    before = 0
    for position, step in enumerate(sequence):
        if step.party == party:
            fits = step.event and step.vector == vector and not step.past & before
            return sequence[:position] + sequence[position + 1 :] if fits else ()
        before |= step.event
    return sequence if _commute({vector: footprint}, sequence) else ()


def _commute(vectors: Mapping[Vector, Footprint], sequence: Sequence) -> bool:
    return all(
        step.footprint is not None and not dependent(footprint, step.footprint)
        for footprint in vectors.values()
        for step in sequence
    )
