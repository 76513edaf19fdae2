"""The selectively uniform random walk: all orders of the operations on one cell are equally likely.

After Zhao, Wolff, Mathur and Roychoudhury, "Selectively uniform concurrency testing" (ASPLOS 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.base import Path, Sampler, check_number

if TYPE_CHECKING:
    from kemu.runtime import Cell, DecisionPoint, Outcome, Thread

LOOKING: Final = (10, 11)
"""Two runs that are made to see more: in one the first thread that can goes on, in the other the last one."""

Key = tuple[Path, str]
"""What a cell is called in all runs: its creator's path and its label. Several cells may have one name."""

Pending = tuple[int, Key | None, int]
"""After how many steps of its thread an operation comes, what it is declared on, and its priority."""

DONE: Final[Pending] = (-1, None, 0)

Counts = dict[Key, dict[Path, int]]


class SURW(Sampler):
    """A random walk that holds back operations on one cell, so that their order comes near to uniform.

    For each run a cell is drawn among those on which at least two threads were seen to declare operations, and which
    were seen to change. One thread is *intended* to be the next to touch it, drawn in proportion to how many such
    operations each has left, whether it is there yet or not. Another that is about to touch it is held back; where
    everybody is, the intended one is drawn again among them. Who goes on of those that are not held back is a uniform
    walk in one half of the runs; in the other half each pending operation has a random priority, which gets a thread
    further before the next one moves. After *fair_after* decisions the rest of a run is a uniform walk without
    anybody being held back: a thread that spins could otherwise keep the others waiting for good.

    Cells and counts are those of the runs so far, the largest count of each thread. So a run follows from the seed,
    its number and the runs before it, and *start* changes only the numbers of the runs; the first one is a plain
    random walk. Only declared operations are seen (`Operation.target`), and those of a thread only while another one
    can go on as well. Some threads are over too early by chance for it ever to be seen what they share with the last
    ones, so two early runs are made in the order of the ring, forwards and backwards.

    Every run can come up as far as the counts allow for it. Answers follow `Sampler.answer`.
    """

    name = "surw"

    def __init__(self, seed: int, *, fair_after: int = 2_000, start: int = 0) -> None:
        super().__init__(seed, start=start)
        check_number("fair_after", fair_after, least=1)
        self.fair_after = fair_after
        self._first_run = start
        # What is known from the runs so far. The key of a cell is always the same object.
        self._names: dict[Key, Key] = {}
        self._counts: Counts = {}
        self._changing: set[Key] = set()
        # This run: what each thread is about to do, after how many steps; the names of cells; how often who did what.
        self._pending: dict[Path, Pending] = {}
        self._threads: dict[Path, Thread] = {}
        self._keys: dict[Cell, Key] = {}
        self._seen: Counts = {}
        self._cell: Key | None = None
        self._left: dict[Path, int] = {}
        self._intended: Path | None = None
        self._count = 0

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self.listen()
        self._count = 0
        shared = [key for key, counts in self._counts.items() if len(counts) > 1 and key in self._changing]
        self._cell = shared[self.below(len(shared))] if shared else None
        self._left = self._counts[self._cell].copy() if self._cell is not None else {}

    def listen(self) -> None:
        """Get ready for a run that somebody else decides, and that is to be learnt from: see `hear`."""
        self._seen.clear()
        self._pending.clear()
        self._keys.clear()
        self._threads.clear()
        self._cell = None
        self._intended = None

    def hear(self, point: DecisionPoint) -> None:
        """Take note of a decision of somebody else's."""
        for thread in point.ready:
            known = self._pending.get(thread.path)
            if known is None or known[0] != thread.steps:
                self._note(thread, known)

    def pick(self, n: int, point: DecisionPoint) -> int:
        ready = point.ready
        pending = self._pending
        cell = self._cell
        place = 0
        for thread in ready:
            known = pending.get(thread.path)
            if known is None or known[0] != thread.steps:
                if not thread.steps and self._eager:
                    return (place - point.index) % len(ready)
                self._note(thread, known)
            place += 1
        self._count = count = self._count + 1
        if count > self.fair_after:
            return self.below(n)
        number = self.run - self._first_run
        if number in LOOKING:
            return ((number - LOOKING[0]) * (place - 1) - point.index) % place
        if cell is None:
            return self.below(n)
        if self._intended is None:
            self._intended = self._draw(self._left)
        places = self._free(ready)
        if not places:
            held = {thread.path: self._left[thread.path] for thread in ready}
            self._intended = self._draw(held)
            places = self._free(ready)
        if n > place:
            places.append(place)
        if len(places) == 1:
            chosen = places[0]
        elif self.run % 2 and n == place:
            chosen = max(places, key=lambda place: pending[ready[place].path][2])
        else:
            chosen = places[self.below(len(places))]
        if chosen == place:
            return chosen
        path = ready[chosen].path
        if pending[path][1] is cell:
            self._intended = None
            self._left[path] -= 1
            pending[path] = DONE
        return (chosen - point.index) % place

    def _free(self, ready: list[Thread]) -> list[int]:
        """The places of those who are not held back."""
        pending, cell, intended = self._pending, self._cell, self._intended
        return [
            place
            for place, thread in enumerate(ready)
            if pending[thread.path][1] is not cell or thread.path == intended
        ]

    def _note(self, thread: Thread, known: Pending | None) -> None:
        """Take note of the operation that *thread* is about to do, once; *known* is the one before."""
        path = thread.path
        if known is None:
            self._threads[path] = thread
        elif known[1] is self._cell and known[1] is not None:
            # It had its turn without having been picked, there being nobody else.
            self._left[path] -= 1
            if path == self._intended:
                self._intended = None
        priority = self.priority() if self.run % 2 else 0
        target = thread.op.target()
        if target is None:
            pending = (thread.steps, None, priority)
        else:
            key = self._keys.get(target)
            if key is None:
                key = (target.creator.path, target.label)
                self._keys[target] = key = self._names.setdefault(key, key)
            counts = self._seen.get(key)
            if counts is None:
                self._seen[key] = {path: 1}
            else:
                counts[path] = counts.get(path, 0) + 1
            if key is self._cell and self._left.get(path, 0) < 1:
                self._left[path] = 1
            pending = (thread.steps, key, priority)
        self._pending[path] = pending

    def _draw(self, weights: dict[Path, int]) -> Path | None:
        """Draw a thread in proportion to what it is expected to have left; one that is over has nothing left."""
        while total := sum(weights.values()):
            drawn = self.below(total)
            paths = iter(weights)
            path = next(paths)
            while drawn >= weights[path]:
                drawn -= weights[path]
                path = next(paths)
            thread = self._threads.get(path)
            if thread is None or thread.alive:
                return path
            weights[path] = 0
        return None

    def end(self, outcome: Outcome) -> None:
        for key, counts in self._seen.items():
            largest = self._counts.setdefault(key, {})
            for path, count in counts.items():
                largest[path] = max(count, largest.get(path, 0))
        # What only reads can never be in the wrong order.
        self._changing.update(key for cell, key in self._keys.items() if cell.version)

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
