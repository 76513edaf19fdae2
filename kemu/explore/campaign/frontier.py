"""What is left of a reduced search that was cut in pieces: the states at which it was cut, and the steps from there
that nobody has explored yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kemu.explore.strategies.base import Path
from kemu.explore.strategies.pieces import (
    EVERYTHING,
    Item,
    Known,
    Name,
    Report,
    Sleeping,
    Start,
    State,
    Step,
    Vector,
)

Touched = tuple[tuple[Name, int], ...]
"""What a step touched: the names of cells, and modes."""

Vectors = dict[Vector, Touched]


@dataclass(slots=True)
class Asleep:
    """What is known of a party that sleeps."""

    awake: bool
    """Whether a vector has been woken."""
    vectors: Vectors


@dataclass(slots=True)
class Branch:
    """A party that goes on from a state, in one piece or several."""

    party: Path
    vectors: Vectors = field(default_factory=dict[Vector, Touched])
    """Those that its step has been made with."""
    unmet: int = 0
    """How many pieces there are of which nobody knows yet with what vectors they begin."""


@dataclass(slots=True)
class Node:
    """A state at which the search was cut, or that is on the way to one."""

    parent: Node | None
    step: Step | None
    """What leads here from the parent; None at the beginning."""
    depth: int
    enabled: tuple[Path, ...]
    sleep: dict[Path, Asleep]
    branches: list[Branch]
    """In the order in which the need for them came up."""
    taken: set[Path]
    """Their parties, and those that were explored to the end before the search was cut."""
    given: int = 1
    """How many of the branches may be explored now."""

    def steps(self) -> list[Step]:
        """How to get here."""
        steps: list[Step] = []
        node: Node = self
        while node.parent is not None:
            assert node.step is not None
            steps.append(node.step)
            node = node.parent
        return steps[::-1]

    def covers(self, party: Path) -> bool:
        """Whether all that *party* can do next is or will be explored."""
        sleeper = self.sleep.get(party)
        return party in self.taken or (sleeper is not None and not sleeper.awake)

    def want(self, places: tuple[int, ...]) -> None:
        """See to it that one of those alternatives is explored, the first if it takes a new one; if none, all."""
        parties = [self.enabled[place] for place in places]
        if not parties:
            parties = [party for party in self.enabled if not self.covers(party)]
        elif any(self.covers(party) for party in parties):
            return
        else:
            del parties[1:]
        self.branches += [Branch(party) for party in parties]
        self.taken.update(parties)

    def asleep_before(self, branch: Branch) -> dict[Path, Asleep]:
        """The sleep set for *branch*."""
        sleep = dict(self.sleep)
        for before in self.branches:
            if before is branch:
                break
            known = self.sleep.get(before.party)
            vectors = before.vectors if known is None else {**known.vectors, **before.vectors}
            sleep[before.party] = Asleep(False, vectors)
        return sleep


@dataclass(frozen=True, slots=True)
class Open:
    """A piece to be explored: a branch, with the beginning of a vector."""

    node: Node | None
    """None for the whole search."""
    branch: Branch
    start: Start = ((), ())

    def item(self) -> Item:
        """What whoever explores it has to know."""
        node = self.node
        if node is None:
            return EVERYTHING
        cells: dict[Name, int] = {}
        touched: dict[Touched, int] = {}
        sleep = tuple(
            (
                party,
                sleeper.awake,
                tuple((vector, touched.setdefault(one, len(touched))) for vector, one in sleeper.vectors.items()),
            )
            for party, sleeper in node.asleep_before(self.branch).items()
        )
        numbered = tuple(tuple((cells.setdefault(name, len(cells)), mode) for name, mode in one) for one in touched)
        step = Step(len(node.enabled), node.enabled.index(self.branch.party), *self.start)
        return Item((*node.steps(), step), sleep, tuple(cells), numbered)


class Frontier:
    """The pieces that may be explored now, those that come first in a search in one process last."""

    def __init__(self) -> None:
        self.open: list[Open] = [Open(None, Branch((), unmet=1))]

    def take(self, most: int) -> list[Open]:
        """The *most* pieces that come first, or all."""
        taken = self.open[-most:][::-1]
        del self.open[-most:]
        return taken

    def put_back(self, pieces: Iterable[Open]) -> None:
        """Those pieces were not begun."""
        self.open += list(pieces)[::-1]

    def apply(self, piece: Open, report: Report) -> None:
        """Take note of what came of *piece*."""
        touched = _named(report)
        node, branch = piece.node, piece.branch
        branch.unmet -= 1
        nodes = [] if node is None else [node]
        for depth, places in report.asked:
            asked = _above(node, depth)
            asked.want(places)
            nodes.append(asked)
        if node is not None:
            branch.vectors.update(_vectors(report.known, touched))
            self._put(node, branch, report.open)
        step = Step(0, 0, (), ())
        if node is not None and report.states:
            step = Step(len(node.enabled), node.enabled.index(branch.party), *report.way)
        for state in report.states:
            node = _node(node, step, state, touched)
            step = Step(len(node.enabled), node.enabled.index(state.party), state.vector, state.ends)
            nodes.append(node)
            self._put(node, node.branches[0], state.open)
        for one in sorted(nodes, key=lambda one: one.depth):
            self._give(one)

    def _put(self, node: Node, branch: Branch, starts: tuple[Start, ...]) -> None:
        branch.unmet += len(starts)
        # Reversed, because the last one is taken first.
        self.open += [Open(node, branch, start) for start in reversed(starts)]

    def _give(self, node: Node) -> None:
        """Have the next branch of *node* explored, if the vectors of those before it are all known."""
        if node.given < len(node.branches) and not node.branches[node.given - 1].unmet:
            branch = node.branches[node.given]
            node.given += 1
            self._put(node, branch, (((), ()),))


def _above(node: Node | None, depth: int) -> Node:
    """The state of number *depth* on the way to *node*."""
    assert node is not None
    while node.depth > depth:
        assert node.parent is not None
        node = node.parent
    return node


def _node(parent: Node | None, step: Step, state: State, touched: list[Touched]) -> Node:
    first = Branch(state.party, _vectors(state.known, touched))
    sleep = _asleep(state.sleep, touched)
    return Node(
        parent,
        None if parent is None else step,
        0 if parent is None else parent.depth + 1,
        state.enabled,
        sleep,
        [first, *(Branch(party) for party in state.todo)],
        {state.party, *state.todo},
    )


def _named(report: Report) -> list[Touched]:
    return [tuple((report.cells[cell], mode) for cell, mode in one) for one in report.touched]


def _vectors(known: Known, touched: list[Touched]) -> Vectors:
    return {vector: touched[place] for vector, place in known}


def _asleep(sleep: Sleeping, touched: list[Touched]) -> dict[Path, Asleep]:
    return {party: Asleep(awake, _vectors(known, touched)) for party, awake, known in sleep}
