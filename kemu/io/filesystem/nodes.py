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

from typing import TYPE_CHECKING, Final

from kemu.io.file_constants import (
    DELETE,
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
from kemu.runtime import Cell, Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.locks import ByteRangeLock
    from kemu.io.filesystem.oplocks import Oplock
    from kemu.io.request import FileObject

PART: Final = -5
"""What stands in the name of a part between that of its owner and its own."""

CLUSTER: Final = 4096
SECTOR: Final = 512

READING: Final = FILE_READ_DATA | FILE_EXECUTE
WRITING: Final = FILE_WRITE_DATA | FILE_APPEND_DATA
COUNTED: Final = READING | WRITING | DELETE
"""An open that has none of these takes no part in sharing."""


class Part(Cell):
    """A cell that belongs to another one and is named after it, whoever touches it first."""

    __slots__ = ("_name", "index", "owner", "what")

    def __init__(self, owner: Cell, what: str, *index: int) -> None:
        # Not the base class's constructor: it takes an ordinal of the thread, which would rename what comes after.
        self.creator = owner.creator
        self.ordinal = -1
        self.version = self.written = 0
        self.owner = owner
        self.what = what
        self.index = index
        self._name: tuple[int, ...] | None = None

    @property
    def name(self) -> tuple[int, ...]:
        name = self._name
        if name is None:
            name = self._name = (*self.owner.name, PART, *self.index)
        return name

    @property
    def label(self) -> str:  # type: ignore[override]
        """What it is of whom."""
        return f"{self.what} {self.owner.label}"


class Entry(Part):
    """One name of one directory, whether there is a file of that name or not."""

    __slots__ = ("link",)

    def __init__(self, directory: Node, folded: str) -> None:
        super().__init__(directory, folded, 0, *map(ord, folded))
        self.link: Link | None = None

    @property
    def label(self) -> str:
        """The path."""
        return f"name {join(self.owner.label, self.what)}"


class Link:
    """A name that a file has. The cell behind it is the file's own."""

    __slots__ = ("deleted", "directory", "name", "node", "removed")

    def __init__(self, directory: Node | None, name: str, node: Node) -> None:
        self.directory = directory
        """None for the root."""
        self.name = name
        self.node = node
        self.deleted = False
        """Whether the name goes when the last of those does (delete pending)."""
        self.removed = False
        """Whether it is gone."""

    @property
    def is_open(self) -> bool:
        """Whether there are opens through this name that were not cleaned up."""
        return any(opened.link is self for opened in self.node.all_opened())

    @property
    def path(self) -> str:
        """The path from the root of the volume on."""
        return "\\" if self.directory is None else join(self.directory.path, self.name)


class Stream:
    """A data stream of a file. The bytes beyond the valid data length are zeroes and are never written to disk."""

    __slots__ = (
        "_data",
        "_guard",
        "_size",
        "allocation",
        "bytes",
        "cached",
        "deleted",
        "locks",
        "mapped",
        "name",
        "node",
        "number",
        "opened",
        "oplock",
        "valid",
    )

    def __init__(self, node: Node, name: str, data: bytes = b"", number: int = 0) -> None:
        self.node = node
        self.name = name
        self.number = number
        self.bytes = bytearray(data)
        self.valid = len(data)
        """Valid data length."""
        self.allocation = round_up(len(data))
        self.opened: list[Open] = []
        """The opens of it that were not cleaned up, oldest first."""
        self.deleted = False
        self.locks: list[ByteRangeLock] = []
        self.oplock: Oplock | None = None
        self.cached: object = None
        """The cache map, once there was cached I/O."""
        self.mapped = 0
        """How many views of sections of it are mapped."""
        self._data: Part | None = None
        self._size: Part | None = None
        self._guard: Part | None = None

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

    def _what(self, what: str) -> str:
        return f"{what} stream {self.name} of" if self.name else what

    @property
    def data(self) -> Part:
        """The cell of the bytes."""
        part = self._data
        if part is None:
            part = self._data = Part(self.node, self._what("data of"), 1, self.number)
        return part

    @property
    def size(self) -> Part:
        """The cell of the sizes."""
        part = self._size
        if part is None:
            part = self._size = Part(self.node, self._what("size of"), 2, self.number)
        return part

    @property
    def guard(self) -> Part:
        """The cell of locks and oplocks."""
        part = self._guard
        if part is None:
            part = self._guard = Part(self.node, self._what("locks of"), 3, self.number)
        return part


class Node(Cell):
    """A file or a directory; the cell of who has it open and of whether it is going to be deleted."""

    __slots__ = (
        "_basic",
        "_listing",
        "attributes",
        "change_time",
        "creation_time",
        "entries",
        "is_directory",
        "last_access_time",
        "last_write_time",
        "links",
        "posix_deleted",
        "stream",
        "streams",
        "streams_made",
    )

    def __init__(self, creator: Thread, label: str, *, is_directory: bool, data: bytes = b"", time: int = 0) -> None:
        super().__init__(creator, label)
        self.is_directory = is_directory
        self.attributes = FILE_ATTRIBUTE_DIRECTORY if is_directory else FILE_ATTRIBUTE_ARCHIVE
        self.creation_time = self.last_access_time = self.last_write_time = self.change_time = time
        self.links: list[Link] = []
        self.stream = Stream(self, "", data)
        self.streams: dict[str, Stream] = {}
        """The named streams."""
        self.streams_made = 0
        self.entries: dict[str, Entry] = {}
        """Of a directory: what is known of names, by the folded name."""
        self.posix_deleted = False
        self._basic: Part | None = None
        self._listing: Part | None = None

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
            part = self._basic = Part(self, "attributes of", 4)
        return part

    @property
    def listing(self) -> Part:
        """The cell of the names that a directory has."""
        part = self._listing
        if part is None:
            part = self._listing = Part(self, "names in", 5)
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


class Open(Part):
    """One open of a stream, the file system's record behind a file object (CCB)."""

    __slots__ = (
        "access",
        "cleaned",
        "delete_on_close",
        "dismounted",
        "enumerated",
        "file",
        "link",
        "node",
        "options",
        "pattern",
        "posix_delete",
        "share",
        "stream",
    )

    def __init__(self, file: FileObject, link: Link, stream: Stream, access: int, share: int, options: int) -> None:
        super().__init__(file, "open of", 0)
        self.file = file
        self.node = link.node
        self.link = link
        self.stream = stream
        self.access = access
        self.share = share
        self.options = options
        self.cleaned = False
        self.delete_on_close = False
        self.posix_delete = False
        self.pattern: str | None = None
        """The expression that the directory is enumerated with, fixed by the first query."""
        self.enumerated = ""
        """The folded name that the enumeration has reached."""
        self.dismounted = False
        """Whether the volume was dismounted under it."""


def round_up(size: int) -> int:
    """The space that *size* bytes take."""
    return -(-size // CLUSTER) * CLUSTER
