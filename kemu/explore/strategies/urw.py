"""The uniform random walk over interleavings: who has more left to do goes on more often.

After Zhao, Wolff, Mathur and Roychoudhury, "Selectively uniform concurrency testing" (ASPLOS 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.explore.strategies.base import Path, Sampler

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint, Outcome, Thread


class URW(Sampler):
    """Picks each party with a probability in proportion to the steps that it has left.

    Where threads do not block, and as many steps are left as expected, every interleaving is equally likely;
    a uniform choice of the thread instead strongly prefers those in which short threads are over early. A thread's
    weight includes those of its children that are not there yet, and is 1 if nothing is expected of it any more.
    Every run can come up.

    How long threads are is learnt: the largest number of steps at which the thread of that path was seen to be in a
    run so far. So a run follows from the seed, its number and the runs before it; the first one is a plain random
    walk, and *start* changes only the numbers of the runs. Answers follow `Sampler.answer`.
    """

    name = "urw"
    full_support = True

    def __init__(self, seed: int, *, start: int = 0) -> None:
        super().__init__(seed, start=start)
        self._lengths: dict[Path, int] = {}
        self._threads: dict[Path, Thread] = {}
        self._to_come: dict[Path, list[int]] = {}

    def begin_run(self, run: int) -> None:
        super().begin_run(run)
        self._threads.clear()

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._eager:
            start = self.starting(point)
            if start >= 0:
                return start
        weights = [self._weight(thread) for thread in point.ready]
        if n > len(weights):
            ticker = point.ready[0].runtime.clock.ticker
            weights.append(1 if ticker is None else self._weight(ticker))
        drawn = self.below(sum(weights))
        place = 0
        while drawn >= weights[place]:
            drawn -= weights[place]
            place += 1
        return place if place == len(point.ready) else (place - point.index) % len(point.ready)

    def _weight(self, thread: Thread) -> int:
        path = thread.path
        self._threads[path] = thread
        left = self._lengths.get(path, 0) - thread.steps
        if left < 1:
            left = 1
        to_come = self._to_come.get(path)
        if to_come is not None and thread.children < len(to_come):
            left += to_come[thread.children]
        return left

    def end(self, outcome: Outcome) -> None:
        # What a thread did once no other could go on counts as well, which no decision shows.
        lengths = self._lengths
        grown = False
        for path, thread in self._threads.items():
            if thread.steps > lengths.get(path, 0):
                lengths[path] = thread.steps
                grown = True
        if grown:
            self._sum_up()

    def _sum_up(self) -> None:
        """Work out, for each thread and number k, how many steps its children from the k-th on take with theirs."""
        subtrees: dict[Path, int] = {}
        families: dict[Path, int] = {}
        for path in sorted(self._lengths, key=len, reverse=True):
            # Also for ancestors that were never seen at a decision.
            for depth in range(len(path), 0, -1):
                subtrees[path[:depth]] = subtrees.get(path[:depth], 0) + self._lengths[path]
                parent = path[: depth - 1]
                families[parent] = max(families.get(parent, 0), path[depth - 1] + 1)
        self._to_come.clear()
        for parent, size in families.items():
            sums = [0] * (size + 1)
            for k in range(size - 1, -1, -1):
                sums[k] = sums[k + 1] + subtrees.get((*parent, k), 0)
            self._to_come[parent] = sums

    def choose(self, n: int, label: str) -> int:
        return self.answer(n)
