"""The selectively uniform random walk: all orders of the operations on one cell are equally likely.

After Zhao, Wolff, Mathur and Roychoudhury, "Selectively uniform concurrency testing" (ASPLOS 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.explore.strategies.base import Path, Sampler, check_number

if TYPE_CHECKING:
    from kemu.runtime import Cell, DecisionPoint, Outcome, Thread

LOOKING: Final = (3, 4)
"""Two runs that are made to see more: in one the first thread that can goes on, in the other the last one."""

Key = tuple[Path, str]
"""What a cell is called in all runs: its creator's path and its label. Several cells may have one name."""

Pending = tuple[int, Key | None, int]
"""After how many steps of its thread an operation comes, what it is declared on, and its priority."""

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
        # What is known from the runs so far.
        self._counts: Counts = {}
        self._changing: set[Key] = set()
        # This run: what each thread is about to do, after how many steps; the names of cells; how often who did what.
        self._pending: dict[Path, Pending] = {}
        self._keys: dict[Cell, Key] = {}
        self._seen: Counts = {}
        self._cell: Key | None = None
        self._intended: Path | None = None
        self._count = 0

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self._seen.clear()
        self._pending.clear()
        self._keys.clear()
        self._intended = None
        self._count = 0
        shared = [key for key, counts in self._counts.items() if len(counts) > 1 and key in self._changing]
        self._cell = shared[self.below(len(shared))] if shared else None

    def pick(self, n: int, point: DecisionPoint) -> int:
        ready = point.ready
        if self._eager:
            start = self.starting(point)
            if start >= 0:
                return start
        self._count += 1
        pending = self._pending
        for thread in ready:
            known = pending.get(thread.path)
            if known is None or known[0] != thread.steps:
                self._note(thread, known)
        if self._count > self.fair_after:
            return self.below(n)
        number = self.run - self._first_run
        if number in LOOKING:
            return ((number - LOOKING[0]) * (len(ready) - 1) - point.index) % len(ready)
        cell = self._cell
        if cell is None:
            return self.below(n)
        intended = self._intended
        if intended is None:
            self._intended = intended = self._draw(self._expected(point))
        places: list[int] = []
        place = 0
        for thread in ready:
            path = thread.path
            if path == intended or pending[path][1] != cell:
                places.append(place)
            place += 1
        if not places:
            self._intended = intended = self._draw({thread.path: self._left(thread.path) for thread in ready})
            places = [place for place, thread in enumerate(ready) if thread.path == intended]
        if n > len(ready):
            places.append(len(ready))
        if self.run % 2 and n == len(ready):
            place = max(places, key=lambda place: pending[ready[place].path][2])
        else:
            place = places[self.below(len(places))]
        if place == len(ready):
            return place
        if pending[ready[place].path][1] == cell:
            self._intended = None
        return (place - point.index) % len(ready)

    def _note(self, thread: Thread, known: Pending | None) -> None:
        """Take note of the operation that *thread* is about to do, once; *known* is the one before."""
        path = thread.path
        if known is not None and path == self._intended and known[1] == self._cell:
            # It had its turn without having been picked, there being nobody else.
            self._intended = None
        target = thread.op.target()
        if target is None:
            self._pending[path] = (thread.steps, None, self.below(1 << 48))
            return
        key = self._keys.get(target)
        if key is None:
            self._keys[target] = key = (target.creator.path, target.label)
        self._pending[path] = (thread.steps, key, self.below(1 << 48))
        counts = self._seen.get(key)
        if counts is None:
            self._seen[key] = {path: 1}
        else:
            counts[path] = counts.get(path, 0) + 1

    def _left(self, path: Path) -> int:
        """How many operations on the cell *path* is expected to have left; at least 1 if it is about to do one."""
        assert self._cell is not None
        total = self._counts[self._cell].get(path, 0)
        seen = self._seen.get(self._cell, {}).get(path, 0)
        pending = self._pending.get(path)
        if pending is not None and pending[1] == self._cell:
            return max(1, total - seen + 1)
        return max(0, total - seen)

    def _expected(self, point: DecisionPoint) -> dict[Path, int]:
        """The threads that are expected to touch the cell, with their weights. Those that are over will not."""
        assert self._cell is not None
        over = {thread.path for thread in point.ready[0].runtime.threads if not thread.alive}
        counts = self._counts[self._cell]
        paths = [path for path in counts if path not in over]
        known = self._seen.get(self._cell, {})
        paths += [path for path in known if path not in over and path not in counts]
        return {path: self._left(path) for path in paths}

    def _draw(self, weights: dict[Path, int]) -> Path | None:
        total = sum(weights.values())
        if total == 0:
            return None
        drawn = self.below(total)
        for path, weight in weights.items():
            drawn -= weight
            if drawn < 0:
                return path
        raise AssertionError("a draw below the sum of the weights")

    def end(self, outcome: Outcome) -> None:
        for key, counts in self._seen.items():
            largest = self._counts.setdefault(key, {})
            for path, count in counts.items():
                largest[path] = max(count, largest.get(path, 0))
        # What only reads can never be in the wrong order.
        self._changing.update(key for cell, key in self._keys.items() if cell.version)

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
