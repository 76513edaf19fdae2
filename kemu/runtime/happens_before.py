"""What is ordered before what: vector clocks, and the synchronisation that advances and joins them.

Two accesses are ordered if a chain of program order and *edges* leads from one to the other. An edge goes from a
release to an acquire of the same object, and only the driver's own synchronisation makes one: what kemu itself does to
emulate a kernel - its mailboxes, its look-ups, its choices, its clock - orders nothing, because the real kernel does it
in another way.

Clocks belong to *tasks*, not to threads. A thread is one task from its start to its end, but a system worker begins
another with every item, and the clock with every timer: that one worker happens to carry out two items after each
other orders nothing, because another time two workers do.

A clock advances at the release itself. What the same thread does afterwards, in the same step even, is not covered by
it (Flanagan and Freund, FastTrack, PLDI 2009, from whom the epochs are as well).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kemu.runtime.footprint import Cell
    from kemu.runtime.thread import Thread


class Labelled(Protocol):
    """Whatever is synchronised on. It is told from others by identity; the label is for reports."""

    @property
    def label(self) -> str: ...


class Task:
    """A piece of work in program order.

    `clock[i]` is the last epoch of task *i* that is ordered before what this task does now; `clock[index]` is its own
    current epoch. Tasks that are not in the list are at 0.
    """

    __slots__ = ("acquired", "clock", "index", "label", "released")

    def __init__(self, index: int, label: str, clock: list[int]) -> None:
        self.index = index
        self.label = label
        clock.extend([0] * (index + 1 - len(clock)))
        clock[index] = 1
        self.clock = clock
        self.released: list[str] = []
        """What ended each epoch, the first one's first."""
        self.acquired: str | None = None
        """What the task has acquired last."""

    def advance(self, label: str) -> None:
        """Begin the next epoch, at a release of what is called *label*."""
        self.clock[self.index] += 1
        self.released.append(label)

    def join(self, other: list[int]) -> None:
        """Whatever *other* knows is ordered before what this task does from now on."""
        mine = self.clock
        if len(mine) < len(other):
            mine.extend([0] * (len(other) - len(mine)))
        for index, epoch in enumerate(other):
            if epoch > mine[index]:
                mine[index] = epoch

    def knows(self, index: int, epoch: int) -> bool:
        """Whether that epoch of task *index* is ordered before what this task does now."""
        mine = self.clock
        return index < len(mine) and mine[index] >= epoch


class HappensBefore:
    """The order of one run, as its synchronisation makes it. Called through `Thread`, whose methods say what for."""

    def __init__(self) -> None:
        self._tasks: dict[Thread, Task] = {}
        self._count = 0
        self._released: dict[Labelled, tuple[int, int, list[int]]] = {}
        """Of each object the last release: the task, its epoch, and all that is ordered before."""
        self._left: dict[Labelled, list[int]] = {}
        """Of each object all releases that only a waiter sees, joined."""

    def task(self, thread: Thread) -> Task:
        """What *thread* is doing."""
        task = self._tasks.get(thread)
        if task is None:
            task = self._begin(thread, [])
        return task

    def _begin(self, thread: Thread, clock: list[int]) -> Task:
        task = self._tasks[thread] = Task(self._count, thread.label, clock)
        self._count += 1
        return task

    # Threads.

    def fork(self, parent: Thread, child: Thread) -> None:
        """*parent* starts *child*."""
        task = self.task(parent)
        self._begin(child, task.clock.copy()).acquired = f"its start by {parent.label}"
        task.advance(f"the start of {child.label}")

    def join(self, thread: Thread, child: Thread) -> None:
        """*thread* has seen the end of *child*."""
        task = self.task(thread)
        task.join(self.task(child).clock)
        task.acquired = f"the end of {child.label}"

    def begin(self, thread: Thread, cell: Cell) -> None:
        """*thread* begins what *cell* was released for, and nothing that it did before is ordered before it."""
        released = self._released.get(cell)
        task = self._begin(thread, [] if released is None else released[2].copy())
        task.acquired = cell.label

    # Objects.

    def release(self, thread: Thread, cell: Labelled) -> None:
        """What *thread* did is ordered before whoever acquires *cell* next; an earlier release no longer is."""
        task = self.task(thread)
        clock = task.clock
        self._released[cell] = (task.index, clock[task.index], clock.copy())
        task.advance(cell.label)

    def acquire(self, thread: Thread, cell: Labelled) -> None:
        """The last release of *cell* is ordered before what *thread* does from now on."""
        task = self.task(thread)
        released = self._released.get(cell)
        task.acquired = cell.label
        # Who knows the epoch of the release knows everything that was ordered before it.
        if released is not None and not task.knows(released[0], released[1]):
            task.join(released[2])

    def exchange(self, thread: Thread, cell: Labelled) -> None:
        """*thread* carries out an interlocked operation on *cell*: both of the above."""
        self.acquire(thread, cell)
        self.release(thread, cell)

    def release_to_waiter(self, thread: Thread, cell: Labelled) -> None:
        """What *thread* did is ordered before whoever waits until all have released *cell*, and before nobody else."""
        task = self.task(thread)
        clock = task.clock
        left = self._left.get(cell)
        if left is None:
            self._left[cell] = clock.copy()
        else:
            left.extend([0] * (len(clock) - len(left)))
            for index, epoch in enumerate(clock):
                if epoch > left[index]:
                    left[index] = epoch
        task.advance(cell.label)

    def acquire_as_waiter(self, thread: Thread, cell: Labelled) -> None:
        """Every such release of *cell* is ordered before what *thread* does from now on."""
        task = self.task(thread)
        left = self._left.get(cell)
        task.acquired = cell.label
        if left is not None:
            task.join(left)
