"""What is on a volume: files and directories, their streams and names, and the opens of them.

Everything here is made of cells, so that a search sees what two operations have in common: looking for a name is
independent of creating another one in the same directory, asking for a file's size of overwriting its data.

| cell | holds |
| --- | --- |
| `Entry` | one name of one directory: whether there is a file of that name |
| `Node.listing` | which names a directory has, in all |
| `Node` | who has the file open, with which rights, and whether it is going to be deleted |
| `Node.basic` | attributes and times |
| `Stream.size` | sizes and valid data length |
| `Stream.data` | the bytes |
| `Stream.guard` | byte-range locks and oplocks |
| `Open` | what belongs to one open: whether it was cleaned up, its position, how far it has enumerated |

Cells that not every file needs, and those of names that nobody has, come into being when they are first touched. Their
names follow from what they belong to, so that it makes no difference who comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kemu.io.file_constants import (
    FILE_APPEND_DATA,
    FILE_ATTRIBUTE_ARCHIVE,
    FILE_ATTRIBUTE_DIRECTORY,
    FILE_EXECUTE,
    FILE_READ_DATA,
    FILE_SHARE_DELETE,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    FILE_WRITE_DATA,
)
from kemu.io.filesystem.names import fold, join
from kemu.nt.access import DELETE
from kemu.runtime import Cell, Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.locks import ByteRangeLock
    from kemu.io.filesystem.oplocks import Oplock
    from kemu.io.filesystem.short_names import Tunnelled
    from kemu.io.request import FileObject

PART: Final = -5
"""What stands in the name of a part between that of its owner and its own."""
OPEN: Final = ("open of", 0)
DATA: Final = ("data of", 1, 0)
SIZE: Final = ("size of", 2, 0)
GUARD: Final = ("locks of", 3, 0)
BASIC: Final = ("attributes of", 4)
LISTING: Final = ("names in", 5)

CLUSTER: Final = 4096
SECTOR: Final = 512

READING: Final = FILE_READ_DATA | FILE_EXECUTE
WRITING: Final = FILE_WRITE_DATA | FILE_APPEND_DATA
COUNTED: Final = READING | WRITING | DELETE
"""An open that has none of these takes no part in sharing."""


class Part(Cell):
    """A cell that belongs to another one and is named after it, whoever touches it first.

    *kind* is what it is of its owner in words, and then in numbers.
    """

    __slots__ = ("_name", "kind", "owner")

    def __init__(self, owner: Cell, kind: tuple[Any, ...]) -> None:
        # Not the base class's constructor: it takes an ordinal of the thread, which would rename what comes after.
        self.creator = owner.creator
        self.version = self.written = 0
        self.owner = owner
        self.kind = kind
        self._name: tuple[int, ...] | None = None

    @property
    def name(self) -> tuple[int, ...]:
        name = self._name
        if name is None:
            name = self._name = (*self.owner.name, PART, *self.kind[1:])
        return name

    @property
    def label(self) -> str:  # type: ignore[override]
        """What it is of whom."""
        return f"{self.kind[0]} {self.owner.label}"


class Entry(Part):
    """One name of one directory, whether there is a file of that name or not. Its kind is the folded name."""

    __slots__ = ("alias", "link")

    def __init__(self, directory: Node, folded: str) -> None:
        self.creator = directory.creator
        self.version = self.written = 0
        self.owner = directory
        self.kind = (folded,)
        self._name = None
        self.link: Link | None = None
        self.alias: Link | None = None
        """What has this name as its short one."""

    @property
    def found(self) -> Link | None:
        """What a path that says this name leads to."""
        return self.link if self.link is not None else self.alias

    @property
    def name(self) -> tuple[int, ...]:
        name = self._name
        if name is None:
            name = self._name = (*self.owner.name, PART, 0, *map(ord, self.kind[0]))
        return name

    @property
    def label(self) -> str:
        """The path."""
        return f"name {join(self.owner.label, self.kind[0])}"


class Link:
    """A name that a file has. The cell behind it is the file's own."""

    __slots__ = ("deleted", "directory", "name", "node", "removed", "short")

    def __init__(self, directory: Node | None, name: str, node: Node) -> None:
        self.directory = directory
        """None for the root."""
        self.name = name
        self.node = node
        self.deleted = False
        """Whether the name goes when the last of those does (delete pending)."""
        self.removed = False
        """Whether it is gone."""
        self.short: str | None = None
        """The short name beside it, if it has one of its own (`short_names`)."""

    @property
    def is_open(self) -> bool:
        """Whether there are opens through this name that were not cleaned up."""
        return any(opened.link is self for opened in self.node.all_opened())

    @property
    def path(self) -> str:
        """The path from the root of the volume on."""
        return "\\" if self.directory is None else join(self.directory.path, self.name)


class Stream:
    """A data stream of a file. The bytes beyond the valid data length are zeroes and are never written to disk.

    What most streams never have is in the class: making a file is part of most runs.
    """

    deleted = False
    locks: Sequence[ByteRangeLock] = ()
    """Replaced, never changed."""
    oplock: Oplock | None = None
    cached: object = None
    """The cache map, once there was cached I/O."""
    mapped = 0
    """How many views of sections of it are mapped."""
    files = 0
    """How many file objects there are for it that were not closed. Kept without a cell: only `ContextKeeper` asks."""
    is_paging_file = False
    _data: Part | None = None
    _size: Part | None = None
    _guard: Part | None = None

    def __init__(self, node: Node, name: str, data: bytes = b"", number: int = 0) -> None:
        self.node = node
        self.name = name
        self.number = number
        self.bytes = bytearray(data)
        self.valid = len(data)
        """Valid data length."""
        self.allocation = round_up(len(data)) if data else 0
        self.opened: list[Open] = []
        """The opens of it that were not cleaned up, oldest first."""

    @property
    def label(self) -> str:
        """The path, with the stream's name."""
        return f"{self.node.path}:{self.name}" if self.name else self.node.path

    def refuses(self, access: int, share: int) -> bool:
        """Whether an open with these rights, which shares so, is a sharing violation (IoCheckShareAccess)."""
        if not self.opened or not access & COUNTED:
            return False
        reads, writes, deletes = access & READING, access & WRITING, access & DELETE
        for other in self.opened:
            theirs = other.access
            if theirs & COUNTED and (
                (reads and not other.share & FILE_SHARE_READ)
                or (writes and not other.share & FILE_SHARE_WRITE)
                or (deletes and not other.share & FILE_SHARE_DELETE)
                or (theirs & READING and not share & FILE_SHARE_READ)
                or (theirs & WRITING and not share & FILE_SHARE_WRITE)
                or (theirs & DELETE and not share & FILE_SHARE_DELETE)
            ):
                return True
        return False

    def _kind(self, what: str, number: int) -> tuple[Any, ...]:
        return f"{what} stream {self.name} of", number, self.number

    @property
    def data(self) -> Part:
        """The cell of the bytes."""
        part = self._data
        if part is None:
            part = self._data = Part(self.node, self._kind("data of", 1) if self.number else DATA)
        return part

    @property
    def size(self) -> Part:
        """The cell of the sizes."""
        part = self._size
        if part is None:
            part = self._size = Part(self.node, self._kind("size of", 2) if self.number else SIZE)
        return part

    @property
    def guard(self) -> Part:
        """The cell of locks and oplocks."""
        part = self._guard
        if part is None:
            part = self._guard = Part(self.node, self._kind("locks of", 3) if self.number else GUARD)
        return part


class Node(Cell):
    """A file or a directory; the cell of who has it open and of whether it is going to be deleted."""

    creation_time = last_access_time = last_write_time = change_time = 0
    streams: Mapping[str, Stream] = {}
    """The named streams. Replaced, never changed."""
    streams_made = 0
    files = 0
    """How many file objects there are for its streams that were not closed, as in `Stream`."""
    posix_deleted = False
    last_disposition: object = None
    """What was last set of delete pending, for whoever compares."""
    tunnel: Mapping[str, Tunnelled] = {}
    """Of a directory: what was removed from it of late, by the folded name. Replaced, never changed."""
    _basic: Part | None = None
    _listing: Part | None = None

    def __init__(self, creator: Thread, label: str, *, is_directory: bool, data: bytes = b"", time: int = 0) -> None:
        super().__init__(creator, label)
        self.is_directory = is_directory
        self.attributes = FILE_ATTRIBUTE_DIRECTORY if is_directory else FILE_ATTRIBUTE_ARCHIVE
        if time:
            self.creation_time = self.last_access_time = self.last_write_time = self.change_time = time
        self.links: list[Link] = []
        self.stream = Stream(self, "", data)
        self.entries: dict[str, Entry] = {}
        """Of a directory: what is known of names, by the folded name."""

    @property
    def path(self) -> str:
        """The path of the first name, or the last one that it had."""
        return self.links[0].path if self.links else self.label

    @property
    def data(self) -> bytearray:
        """The bytes of the unnamed stream."""
        return self.stream.bytes

    @property
    def basic(self) -> Part:
        """The cell of attributes and times."""
        part = self._basic
        if part is None:
            part = self._basic = Part(self, BASIC)
        return part

    @property
    def listing(self) -> Part:
        """The cell of the names that a directory has."""
        part = self._listing
        if part is None:
            part = self._listing = Part(self, LISTING)
        return part

    @property
    def number(self) -> int:
        """The file's number on its volume: the same in every run that has the file."""
        return hash(self.name) & 0x0000_FFFF_FFFF_FFFF | 0x0001_0000_0000_0000

    def all_opened(self) -> list[Open]:
        """The opens of all streams that were not cleaned up."""
        if not self.streams:
            return self.stream.opened
        return [*self.stream.opened, *(one for stream in self.streams.values() for one in stream.opened)]

    def entry(self, name: str) -> Entry:
        """The cell of *name* in this directory."""
        folded = fold(name)
        entry = self.entries.get(folded)
        if entry is None:
            entry = self.entries[folded] = Entry(self, folded)
        return entry

    def children(self) -> list[Link]:
        """What is in this directory, by name as NTFS enumerates it."""
        return [entry.link for _, entry in sorted(self.entries.items()) if entry.link is not None]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in this directory."""
        return all(entry.link is None for entry in self.entries.values())


class VolumeNode(Node):
    """What a handle of the volume itself is open on: no file, and in no directory. It has one sector."""

    def __init__(self, root: Node) -> None:
        thread = root.creator
        ordinals = thread.ordinals
        super().__init__(thread, "volume", is_directory=False, data=bytes(SECTOR))
        # Whoever opens it first: the name is its own, and takes none of the thread's.
        thread.ordinals = ordinals
        self.root = root

    @property
    def name(self) -> tuple[int, ...]:
        return (*self.root.name, PART, 6)


class Open(Part):
    """One open of a stream, the file system's record behind a file object (CCB)."""

    cleaned = False
    closed = False
    """Whether the file object was closed; known only where there is a `ContextKeeper`."""
    delete_on_close = False
    posix_delete = False
    pattern: str | None = None
    """The expression that the directory is enumerated with, fixed by the first query."""
    enumerated = ""
    """The folded name that the enumeration has reached."""
    dismounted = False
    """Whether the volume was dismounted under it."""
    by_alias = False
    """Whether it was opened by the file's short name."""

    def __init__(self, file: FileObject, link: Link, stream: Stream, access: int, share: int, options: int) -> None:
        super().__init__(file, OPEN)
        self.file = file
        self.node = link.node
        self.link = link
        self.stream = stream
        self.access = access
        self.share = share
        self.options = options


def round_up(size: int) -> int:
    """The space that *size* bytes take."""
    return -(-size // CLUSTER) * CLUSTER
