"""Cells, footprints and the fingerprint of a run.

A *cell* is the smallest piece of shared state whose accesses are told apart: the state of one lock, the
state of one frame of an operation, one mailbox. Whoever changes or observes it says so through its thread
(`Thread.read`, `Thread.write`, `Thread.update`).

The fingerprint needs no clocks: a thread carries one hash of everything it has seen, a cell carries the hash
of its last write. A read mixes the cell's hash into the thread's; a write does so and stores the result in
the cell; a commuting update sees the last write but not the other updates since. Two runs end with the same
hashes exactly when they perform the same events in the same order up to swaps of independent ones (but for a
64-bit collision), which is Mazurkiewicz equivalence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from kemu.runtime.thread import Thread

READ: Final = 0
WRITE: Final = 1
UPDATE: Final = 2
"""A change that commutes with others like it, such as an interlocked add whose result nobody uses."""


MASK: Final = (1 << 64) - 1


def mix(state: int, value: int) -> int:
    """Return *state* with *value* mixed in, as a signed number of 64 bits.

    The hash of a tuple of integers does not depend on PYTHONHASHSEED and is the same on every 64-bit Python
    since 3.8. It is not linear, so mixing a state with itself again and again (a thread that writes its own
    cell) wears no bits out, and it takes a quarter of the time of the same in arithmetic, where each of five
    operations on more than 30 bits makes a new object.
    """
    return hash((state, value))


class Cell:
    """A piece of shared state in a footprint, named by its creating thread and that thread's ordinal.

    The name decides ties and never depends on addresses or on a global counter: a counter shared by all
    threads would give an object another name in another interleaving, and a reduced search would then take
    two runs for different that are the same, or the reverse.
    """

    __slots__ = ("creator", "label", "ordinal", "version", "written")

    # What race detection asks of a cell; those of a driver's fields may say otherwise.
    benign: bool = False
    """Whether races on it are meant to be."""
    lifetime: Cell | None = None
    """The object that the cell is a field of, if that can be freed: freeing it changes all its fields."""

    def __init__(self, creator: Thread, label: str) -> None:
        self.creator = creator
        self.ordinal = creator.ordinals
        creator.ordinals += 1
        self.label = label
        self.version = 0
        """The hash that an observer sees: of the last write and of the updates since."""
        self.written = 0
        """The hash that an update sees: of the last write alone."""

    @property
    def name(self) -> tuple[int, ...]:
        """The cell's name: the creator's path and the ordinal."""
        return (*self.creator.path, self.ordinal)

    def __repr__(self) -> str:
        return self.label


def _path(thread: Thread) -> tuple[int, ...]:
    return thread.path


class Waitable(Cell):
    """A cell that threads can wait for.

    `watchers` holds the threads whose next operation depends on this object, whether it is possible at the
    moment or not, in the order in which they declared it.
    """

    __slots__ = ("watchers",)

    guards: ClassVar[tuple[str, ...] | None] = None
    """The attributes that decide whether an operation on the object can go on. A reduced search asks operations whether
    they are available with these put back to what they were: plain values and tuples to themselves, lists and deques to
    a range of that length, None to None, and anything else to an object of no consequence. None if it takes more than
    that to know; the search then takes it that the operation could have gone on, and makes more runs."""

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.watchers: list[Thread] = []
        born = creator.runtime.born
        if born is not None:
            born.append(self)

    def changed(self) -> None:
        """Look again at who can go on. To be called when a watcher may have been enabled or disabled."""
        watchers = self.watchers
        # Who began to wait first is nobody's business: equivalent runs must touch the same in the same order.
        for thread in watchers if len(watchers) < 2 else sorted(watchers, key=_path):
            thread.runtime.reconsider(thread)

    def holders(self) -> tuple[Thread, ...]:
        """The threads that would have to act for a waiter to go on, as far as the object knows."""
        return ()
