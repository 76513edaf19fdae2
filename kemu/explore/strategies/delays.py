"""The exhaustive search by number of delays: runs with few delays first, each once.

After Emmi, Qadeer and Rakamaric, "Delay-bounded scheduling" (POPL 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kemu.explore.strategies.base import WorkItem
from kemu.explore.strategies.dfs import BoundedDFS, item_of

if TYPE_CHECKING:
    from kemu.runtime import DecisionPoint


class BoundedDelays(BoundedDFS):
    """Makes every run with at most *bound* delays exactly once, those with fewer first; with None, every run.

    The run without a delay is the plain one: the running thread goes on, where it cannot the next in the ring does,
    and the clock comes last. A delay skips whose turn it is, to the next in the ring: alternative k of a decision
    costs k, and so does answer k of a question. So a run costs the sum of its choices.

    Other than a bound on preemptions, this one also bounds who goes on when the running thread cannot: how many runs
    there are depends on how long they are, and hardly on how many threads there are. In return the threads' order
    matters: what is far from the plain run takes many delays.
    """

    kind: ClassVar[str] = "idb"
    cost: ClassVar[str] = "delays (turns put off, and answers counted from the plain one)"

    def pick(self, n: int, point: DecisionPoint) -> int:
        if self._at < len(self._path):
            return self._repeat(n, point)
        return self._meet(n, costly=range(1, n), free=range(n, n))

    def _items(self, path: Sequence[int], ends: Sequence[int], length: int, values: range) -> list[WorkItem]:
        # Together: only the first of the alternatives costs what the work does, and each of the others one more.
        return [item_of([*path[:length], values.start], ends, length + 1, len(values))]

    def _keep_rest(self, path: Sequence[int], ends: Sequence[int], length: int, values: range) -> None:
        # The alternative after the one that is taken now takes one delay more.
        self._work.popleft()
        if self.level == self.bound:
            self._pruned = True
        else:
            self._later.append((path, ends, length, values))
