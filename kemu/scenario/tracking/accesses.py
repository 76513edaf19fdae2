"""Accesses as operations of their own, for runs in which another thread may come in before every access to state.

An operation names its cell before it touches it. The access is made, and recorded, when the thread goes on, as the
first thing of its step.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from kemu.fltmgr.structures import FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS
from kemu.nt.buffer import Bytes, allocation_of, contents_cell
from kemu.nt.shared import Shared
from kemu.nt.structure import Structure
from kemu.runtime import Cell, Operation, Thread
from kemu.runtime.data import recorder
from kemu.scenario.tracking.containers import Recorded, cell_of, is_store

if TYPE_CHECKING:
    from kemu.scenario.tracking.recorder import Recorder


class Access(Operation[None]):
    """The scheduling point before an access."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def perform(self, thread: Thread) -> None:
        return None

    def target(self) -> Cell:
        return self.cell


class Load(Access):
    """The point before something is read."""

    __slots__ = ()
    kind = "load"


class Store(Access):
    """The point before something is assigned."""

    __slots__ = ()
    kind = "store"


class Statement(Operation[None]):
    """The scheduling point before a statement."""

    __slots__ = ("place",)
    kind = "statement"

    def __init__(self, place: str) -> None:
        self.place = place

    def perform(self, thread: Thread) -> None:
        return None

    def describe(self) -> str:
        return f"run {self.place}"

    def __await__(self) -> Generator[Operation[Any], Any, None]:
        if recorder() is not None:
            yield self


class Item:
    """One item of a container or of anything else that can be subscripted."""

    __slots__ = ("_key", "_owner")

    def __init__(self, owner: Any, key: Any) -> None:
        self._owner = owner
        self._key = key

    @property
    def value(self) -> Any:
        """The item."""
        return self._owner[self._key]

    @value.setter
    def value(self, value: Any) -> None:
        self._owner[self._key] = value

    @value.deleter
    def value(self) -> None:
        del self._owner[self._key]


class Accesses:
    """What rewritten code awaits. Each evaluates to an object on which the driver's own line then makes the access."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def load(self, obj: Any, name: str) -> Any:
        """Let others go first, then record that ``obj.name`` is read; *obj*."""
        cell = self._cell(obj, name)
        if cell is not None:
            await Load(cell)
        return self._recorder.load(obj, name)

    async def store(self, obj: Any, name: str) -> Any:
        """Let others go first, then record that ``obj.name`` is assigned or deleted; *obj*."""
        cell = self._cell(obj, name)
        if cell is not None:
            await Store(cell)
        return self._recorder.store(obj, name)

    def _cell(self, obj: Any, name: str) -> Cell | None:
        if isinstance(obj, Shared) and name == "value":
            return obj if recorder() is not None else None
        touched = self._recorder.cell_for(obj, name)
        if touched is None:
            return None
        _, _, cell, keeper = touched
        if cell is not None:
            return cell
        # What hangs on callback data goes when the callback data does: one point for a chain of fields is enough.
        return keeper if isinstance(obj, Structure | FLT_CALLBACK_DATA | FLT_RELATED_OBJECTS | type) else None

    async def item(self, owner: Any, key: Any) -> Item:
        """Let others go first where an item of a container is read."""
        cell = _contents(owner)
        if cell is not None:
            await Load(cell)
        return Item(owner, key)

    async def item_to_store(self, owner: Any, key: Any) -> Item:
        """Let others go first where an item of a container is assigned or deleted."""
        cell = _contents(owner)
        if cell is not None:
            await Store(cell)
        return Item(owner, key)

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Let others go first where a container's method is called; what it returns."""
        owner = getattr(method, "__self__", None)
        cell = _contents(owner)
        if cell is not None:
            await (Store(cell) if is_store(method.__name__) else Load(cell))
        return method(*args, **kwargs)

    async def load_global(self, position: int, name: str) -> None:
        """Let others go first, then record that a global variable is read."""
        cell = self._global(position, name)
        if cell is not None:
            await Load(cell)
            self._recorder.touch_global(position, name, stores=False)

    async def store_global(self, values: Any, name: str) -> Any:
        """Let others go first where a global variable is assigned; what takes the assignment."""
        cell = self._global(values.position, name)
        if cell is not None:
            await Store(cell)
        return values

    def _global(self, position: int, name: str) -> Cell | None:
        found = recorder()
        return None if found is None else self._recorder.global_cell(found[0], position, name)


def _contents(owner: Any) -> Cell | None:
    """The cell of a container's contents, if *owner* is one and accesses are recorded now."""
    if isinstance(owner, Bytes):
        allocation = allocation_of(owner)
        found = recorder()
        return None if found is None or allocation is None else contents_cell(found[0], allocation)
    if not isinstance(owner, Recorded):
        return None
    found = recorder()
    return None if found is None else cell_of(owner, found[0])
