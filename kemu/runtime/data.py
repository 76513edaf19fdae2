"""The driver state of one run: which object an access belongs to, and what its cells are called.

A cell of driver state is one field of one object. Searches that compare footprints of several executions go by
names, so an object is named where it is created, by the creating thread and a count of that thread's own, and its
cells are named after it. Who touches a field first has no part in a name, and making a cell consumes nothing that
another name is made of.

The runtime knows nothing of drivers' classes: whoever loads them registers their objects here (`DriverData.adopt`)
and records accesses with `Thread.load` and `Thread.store`. A run whose `data` is None records nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from kemu.runtime.benign import is_benign
from kemu.runtime.footprint import Cell
from kemu.runtime.thread import host

if TYPE_CHECKING:
    from kemu.runtime.thread import Thread

Name = tuple[int, ...]

# What the names of objects begin with that no thread of the run has created; paths of threads begin with 0 or more.
STATIC: Final = -1
"""An object that was made when a file was imported."""
GLOBAL: Final = -2
"""A global variable of a file."""
COARSE: Final = -3
"""All state of a file."""
ANONYMOUS: Final = -4
"""Every object whose creation nobody saw."""
INVARIANTS: Final = -5
"""What invariants look at."""
CLASSES: Final = -6
"""An attribute of all classes that were made in the run."""


@cache
def number_of(field: str) -> int:
    """A number for a field's name, the same in every process."""
    return int.from_bytes(blake2b(field.encode(), digest_size=7).digest(), "little")


class DataCell(Cell):
    """A piece of driver state, named after the object that it belongs to."""

    __slots__ = ("_name", "benign", "lifetime")

    def __init__(
        self, creator: Thread, name: Name, label: str, *, benign: bool = False, lifetime: Cell | None = None
    ) -> None:
        # Not the base class's constructor: it takes an ordinal of the thread, which would rename what comes after.
        self.creator = creator
        self.ordinal = -1
        self.label = label
        self.version = self.written = 0
        self._name = name
        self.benign = benign
        self.lifetime = lifetime

    @property
    def name(self) -> Name:
        return self._name


class Owner:
    """What is known of one object with state: its name, and its cells as they were needed."""

    __slots__ = ("cells", "creator", "label", "name", "object")

    def __init__(self, object_: object, creator: Thread, name: Name, label: str) -> None:
        self.object = object_
        """Kept, so that nothing else can get its address while the run lasts."""
        self.creator = creator
        self.name = name
        self.label = label
        self.cells: dict[str, DataCell] = {}

    def cell(self, field: str) -> DataCell:
        """The cell of *field*."""
        cell = self.cells.get(field)
        if cell is None:
            name = (*self.name, number_of(field))
            benign = is_benign(type(self.object), field)
            cell = self.cells[field] = DataCell(self.creator, name, f"{self.label}.{field}", benign=benign)
        return cell


class DriverData:
    """All driver state of one run.

    *statics* are the objects that were there before: each by its address, with itself, its name and its label.
    """

    def __init__(self, first: Thread, statics: Mapping[int, tuple[object, Name, str]] | None = None) -> None:
        self.recording = True
        """Whether accesses count: not during a set-up that is not explored, nor while invariants are evaluated."""
        self.first = first
        self._statics: Mapping[int, tuple[object, Name, str]] = {} if statics is None else statics
        self._owners: dict[int, Owner] = {}
        self._counts: dict[Thread, int] = {}
        self._named: dict[Name, DataCell] = {}
        self.anonymous = DataCell(first, (ANONYMOUS,), "an object whose creation was not seen")
        self.invariants = DataCell(first, (INVARIANTS,), "the invariants")

    def new_name(self, thread: Thread) -> Name:
        """A name for an object that *thread* creates now."""
        count = self._counts.get(thread, 0)
        self._counts[thread] = count + 1
        return (*thread.path, -1 - count)

    def adopt(self, object_: object, thread: Thread, label: str) -> None:
        """Name *object_*, which *thread* has just created."""
        if id(object_) not in self._owners:
            self._owners[id(object_)] = Owner(object_, thread, self.new_name(thread), label)

    def adopt_part(self, object_: object, whole: Cell, field: str, label: str) -> None:
        """Name *object_*, a part of *whole* that is made when somebody first asks for it."""
        name = (*whole.name, -1 - number_of(field))
        self._owners[id(object_)] = Owner(object_, whole.creator, name, label)

    def owner(self, object_: object) -> Owner | None:
        """What is known of *object_*; None if nobody saw how it was made."""
        owner = self._owners.get(id(object_))
        if owner is None:
            static = self._statics.get(id(object_))
            if static is not None and static[0] is object_:
                owner = self._owners[id(object_)] = Owner(object_, self.first, static[1], static[2])
        return owner

    def cell(self, object_: object, field: str) -> DataCell:
        """The cell of one field of *object_*."""
        owner = self.owner(object_)
        return self.anonymous if owner is None else owner.cell(field)

    def part(
        self, whole: Cell, field: str, label: str, *, benign: bool = False, lifetime: Cell | None = None
    ) -> DataCell:
        """The cell of one field of an object of kemu's, whose own state is the cell *whole*."""
        name = (*whole.name, -1 - number_of(field))
        return self.named(name, label, whole.creator, benign=benign, lifetime=lifetime)

    def named(
        self,
        name: Name,
        label: str,
        creator: Thread | None = None,
        *,
        benign: bool = False,
        lifetime: Cell | None = None,
    ) -> DataCell:
        """The cell called *name*; of what race detection asks, what is said when it is made counts."""
        cell = self._named.get(name)
        if cell is None:
            cell = DataCell(creator or self.first, name, label, benign=benign, lifetime=lifetime)
            self._named[name] = cell
        return cell

    def load(self, thread: Thread, cell: DataCell) -> None:
        """Record that *thread* observes *cell*."""
        if cell is self.anonymous:
            # Two objects may share it, so that it proves no race.
            thread.read(cell)
        else:
            thread.load(cell)

    def store(self, thread: Thread, cell: DataCell) -> None:
        """Record that *thread* changes *cell*."""
        if cell is self.anonymous:
            thread.write(cell)
        else:
            thread.store(cell)
        if thread.runtime.invariants:
            # Invariants are evaluated after every step, and any of them may look at this: two stores that are
            # independent for the threads are not for them.
            thread.write(self.invariants)


def recorder() -> tuple[DriverData, Thread] | None:
    """The driver state of the current run and its running thread, if accesses are recorded now."""
    runtime = host.get(None)
    if runtime is None:
        return None
    data, thread = runtime.data, runtime.running
    if data is None or thread is None or not data.recording:
        return None
    return data, thread


def load_field(object_: Any, field: str) -> None:
    """Record that the running thread observes a field of *object_*, which `adopt` has named."""
    found = recorder()
    if found is not None:
        data, thread = found
        data.load(thread, data.cell(object_, field))


def store_field(object_: Any, field: str) -> None:
    """Record that the running thread changes a field of *object_*, which `adopt` has named."""
    found = recorder()
    if found is not None:
        data, thread = found
        data.store(thread, data.cell(object_, field))


def observe(cell: Cell) -> None:
    """Record that what the running thread does depends on *cell*, if driver state is tracked."""
    found = recorder()
    if found is not None:
        found[1].read(cell)


def created(object_: object, label: str, whole: Cell | None = None, field: str = "") -> None:
    """Name *object_*, which was just made, if driver state is tracked: after the running thread, or as a part of
    *whole*.
    """
    runtime = host.get(None)
    if runtime is not None:
        data, thread = runtime.data, runtime.running
        if data is not None and thread is not None:
            if whole is None:
                data.adopt(object_, thread, label)
            else:
                data.adopt_part(object_, whole, field, label)
