"""The selectively uniform random walk: all orders of the operations on one cell are equally likely.

After Zhao, Wolff, Mathur and Roychoudhury, "Selectively uniform concurrency testing" (ASPLOS 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.explore.strategies.base import Path, Sampler, check_number

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Outcome, Thread

Key = tuple[Path, str]
"""What a cell is called in all runs: its creator's path and its label. Several cells may have one name."""

Counts = dict[Key, dict[Path, int]]


class SURW(Sampler):
    """A random walk that holds back operations on one cell, so that their order comes near to uniform.

    For each run a cell is drawn among those on which at least two threads were seen to declare operations. One
    thread is *intended* to be the next to touch it, drawn in proportion to how many such operations each has
    left, whether it is there yet or not. Another that is about to touch it is held back; where everybody is, the
    intended one is drawn again among them. Everything else is a uniform walk. After *fair_after* decisions the rest
    of the run is one, too: a thread that spins could otherwise keep the others waiting for good.

    Cells and counts are those of the runs so far, the largest count of each thread. So a run follows from the seed,
    its number and the runs before it, and *start* changes only the numbers of the runs. A strategy does not see
    what a thread does once no other can go on. So the first two runs are for looking: in one the first thread in the
    ring always goes on, in the other the last one. Only declared operations are seen (`Operation.target`), and not
    whether they write.

    From the third on, every run can come up as far as the counts allow for it. Answers follow `Sampler.answer`.
    """

    name = "surw"

    def __init__(self, seed: int, *, fair_after: int = 2_000, start: int = 0) -> None:
        super().__init__(seed, start=start)
        check_number("fair_after", fair_after, least=1)
        self.fair_after = fair_after
        self._first_run = start
        self._counts: Counts = {}
        self._seen: Counts = {}
        self._pending: dict[Path, tuple[int, Key | None]] = {}
        self._cell: Key | None = None
        self._intended: Path | None = None
        self._count = 0

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self._seen.clear()
        self._pending.clear()
        self._intended = None
        self._count = 0
        shared = [key for key, counts in self._counts.items() if len(counts) > 1]
        self._cell = shared[self.below(len(shared))] if shared else None

    def pick(self, n: int, point: DecisionPoint) -> int:
        self._count += 1
        for thread in point.ready:
            self._note(thread)
        if self._count > self.fair_after:
            return self.below(n)
        number = self.run - self._first_run
        if number < 2:
            return ((number * (len(point.ready) - 1)) - point.index) % len(point.ready)
        if self._cell is None:
            return self.below(n)
        if self._intended is None:
            self._intended = self._draw(self._expected(point))
        ready = point.ready
        places = [place for place in range(len(ready)) if self._may_go_on(ready[place].path)]
        if not places:
            waiting = {thread.path: self._left(thread.path) for thread in ready}
            self._intended = self._draw(waiting)
            places = [place for place in range(len(ready)) if ready[place].path == self._intended]
        if n > len(ready):
            places.append(len(ready))
        place = places[self.below(len(places))]
        if place == len(ready):
            return place
        if self._is_held(ready[place].path):
            self._intended = None
        return (place - point.index) % len(ready)

    def _note(self, thread: Thread) -> None:
        """Take note of the operation that *thread* is about to do, once."""
        path = thread.path
        known = self._pending.get(path)
        if known is not None and known[0] == thread.steps:
            return
        if known is not None and known[1] == self._cell and path == self._intended:
            # It had its turn without having been picked, there being nobody else.
            self._intended = None
        target = thread.op.target()
        key = None if target is None else (target.creator.path, target.label)
        self._pending[path] = (thread.steps, key)
        if key is not None:
            counts = self._seen.setdefault(key, {})
            counts[path] = counts.get(path, 0) + 1

    def _is_held(self, path: Path) -> bool:
        """Whether the pending operation of *path*, which can go on, is on the cell of this run."""
        return self._pending[path][1] == self._cell

    def _may_go_on(self, path: Path) -> bool:
        return path == self._intended or not self._is_held(path)

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
        paths = [path for path in self._counts[self._cell] if path not in over]
        known = self._seen.get(self._cell, {})
        paths += [path for path in known if path not in over and path not in self._counts[self._cell]]
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

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
