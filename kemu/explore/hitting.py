"""Smallest hitting sets, with conditions: what the search for the orders that make a run fail comes down to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

MOST_NODES: Final = 5_000
"""How many sets are looked at in search for the smallest one."""


class Clause(NamedTuple):
    """That a set that contains all that is *given* has to contain one of *elements* as well."""

    elements: frozenset[int]
    given: frozenset[int] = frozenset()


def smallest_set(clauses: Sequence[Clause], most: int, costs: Sequence[int] = ()) -> tuple[int, ...] | None:
    """A smallest set of which all *clauses* are true; None if it would have more than *most* elements.

    Of several, one is taken whose elements have low *costs*, and low numbers where these are equal. Where it would
    take too long to find the smallest one, it is a small one.
    """
    nodes = 0

    def preference(element: int) -> tuple[int, int]:
        return (costs[element] if costs else 0, element)

    def open_clauses(chosen: frozenset[int]) -> list[Clause]:
        return [one for one in clauses if one.given <= chosen and one.elements.isdisjoint(chosen)]

    def search(chosen: frozenset[int], size: int) -> frozenset[int] | None:
        nonlocal nodes
        nodes += 1
        left = open_clauses(chosen)
        if not left:
            return chosen
        if len(chosen) == size or nodes > MOST_NODES:
            return None
        for element in sorted(min(left, key=lambda one: len(one.elements)).elements, key=preference):
            found = search(chosen | {element}, size)
            if found is not None:
                return found
        return None

    for size in range(most + 1):
        found = search(frozenset(), size)
        if found is not None:
            return tuple(sorted(found))
    if nodes <= MOST_NODES:
        return None
    chosen: frozenset[int] = frozenset()
    while left := open_clauses(chosen):
        counts: dict[int, int] = {}
        for element in sorted(element for one in left for element in one.elements):
            counts[element] = counts.get(element, 0) + 1
        if not counts or len(chosen) == most:
            return None
        chosen |= {min(counts, key=lambda element: (-counts[element], *preference(element)))}
    return tuple(sorted(chosen))
