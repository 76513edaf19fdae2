"""The filter manager's name cache: which names of which open files it knows (FLT-NAME-02, FLT-NAME-15).

A name in the cache is never a wrong one: renaming the file or a directory above it, deleting it, and another hard link
take it out, in the step in which they happen. So a query that may go on to the file system has the same answer with the
cache as without. What shows is the miss of a query that may not, and who asks a name provider again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kemu.io.filesystem.nodes import Open, Part
from kemu.runtime import Cell, Thread

if TYPE_CHECKING:
    from kemu.fltmgr.objects import FltVolume, Instance

NAME: Final = 7
ALL: Final = ("name cache of", 7)


class Cached(NamedTuple):
    """A name, and what it was in the file system when it was cached."""

    name: str
    truth: str
    links: int


class CachedName(Part):
    """One format of the name of one open file, or of one create, as one provider tells it; cached or not."""

    __slots__ = ("cached",)

    def __init__(self, owner: Cell, format_: int, provider: Instance | None) -> None:
        number = () if provider is None else provider.name
        super().__init__(owner, ("cached name of", NAME, format_, *number))
        self.cached: Cached | None = None


class NameCache:
    """All names that were ever cached, by what they are names of."""

    def __init__(self) -> None:
        self.cells: dict[tuple[Cell, int, Instance | None], CachedName] = {}
        self.volumes: dict[FltVolume, Part] = {}

    def cell(self, owner: Cell, format_: int, provider: Instance | None) -> CachedName:
        """The cell of that name."""
        key = (owner, format_, provider)
        found = self.cells.get(key)
        if found is None:
            found = self.cells[key] = CachedName(owner, format_, provider)
        return found

    def whole(self, volume: FltVolume) -> Part:
        """The cell of the names of *volume* in all, which a purge of them writes."""
        found = self.volumes.get(volume)
        if found is None:
            found = self.volumes[volume] = Part(volume, ALL)
        return found

    def look(self, thread: Thread, cell: CachedName, volume: FltVolume, truth: str, links: int) -> str | None:
        """The cached name, if it is cached and nothing has taken it out of the cache since."""
        thread.read(self.whole(volume))
        thread.read(cell)
        cached = cell.cached
        return cached.name if cached is not None and (cached.truth, cached.links) == (truth, links) else None

    def put(
        self, thread: Thread, cell: CachedName, volume: FltVolume, name: str, truth: str, links: int, *, seen: bool
    ) -> None:
        """Cache a name. Where nobody sees who has put it there, this commutes with doing so again."""
        thread.read(self.whole(volume))
        (thread.write if seen else thread.update)(cell)
        cell.cached = Cached(name, truth, links)

    def purge(self, thread: Thread, instance: Instance, opened: Open | None) -> None:
        """Forget what *instance* has provided: of one open file, or of all."""
        if opened is None:
            thread.write(self.whole(instance.volume))
        for (owner, _, provider), cell in self.cells.items():
            if provider is instance and (opened is None or owner is opened):
                thread.write(cell)
                cell.cached = None
