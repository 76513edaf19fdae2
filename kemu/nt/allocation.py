"""The record of one block of memory: where it comes from, what is in it, and what has become of it."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kemu.nt.driver import DriverActor, current_driver
from kemu.runtime import Cell, Thread
from kemu.runtime.site import Site, here, line_of

if TYPE_CHECKING:
    from kemu.nt.storage import Storage
    from kemu.nt.structure import Structure

PAGE_SIZE: Final = 0x1000
_POOL: Final = 0xFFFF_8000_0000_0000
"""Where pool begins, as far as a debugger would show it."""


class Allocation(Cell):
    """The record of one block."""

    __slots__ = (
        *("block", "driver", "freed", "from_lookaside", "is_paged", "locked", "parts", "passed", "site", "size"),
        *("stranded", "swapped", "tag"),
    )

    freed_code: ClassVar[str] = "ke.use-after-free"
    """The finding when it is used after it was freed."""
    free_routine: ClassVar[str] = ""
    """The routine that frees it, if the pool's do not (KE-POOL-15)."""

    def __init__(self, creator: Thread, block: Structure, size: int, tag: str, *, is_paged: bool) -> None:
        super().__init__(creator, f"block '{tag}'")
        self.block = block
        self.size = size
        self.tag = tag
        self.is_paged = is_paged
        self.site = here(creator)
        self.driver: DriverActor | None = current_driver()
        self.parts: list[Storage | Structure] = []
        """The kernel objects and structures inside, in the order of the fields."""
        self.freed: tuple[str, Site | None] | None = None
        """Who freed it, and where; None as long as it is in use."""
        self.locked = 0
        """How many MDLs keep its pages in memory."""
        self.swapped = False
        """Whether it was put in the place of the buffer of an operation (FLT-BUF-08)."""
        self.stranded = ""
        """What it was for, if nothing will come any more that would have it freed."""
        self.from_lookaside: Any = None
        """The lookaside list that it is an entry of."""
        self.passed = ""
        """The operation from whose preoperation callback it was last handed to the postoperation callback."""

    def describe(self) -> str:
        """Words for a finding: what, which tag, where from."""
        kind = type_name(self.block)
        article = "an" if kind[:1] in "AEIOU" else "a"
        return f"{article} {kind} of {int(self.size)} bytes, tag '{self.tag}', allocated at {place(self.site)}"

    @property
    def freed_words(self) -> str:
        """Words for a finding: who freed it, and where."""
        assert self.freed is not None
        return f"freed by {self.freed[0]} at {place(self.freed[1])}"

    @property
    def address(self) -> int:
        """What a debugger would show for the block: made from its name, the same in every run.

        As in special pool, a block that is smaller than a page ends at the end of one, but for the alignment of 16
        bytes; a larger one begins a page (KE-POOL-05).
        """
        page = int.from_bytes(blake2b(repr(self.name).encode(), digest_size=4).digest(), "little") * PAGE_SIZE
        aligned = (self.size + 15) // 16 * 16
        return _POOL + page + max(PAGE_SIZE - aligned, 0)


def place(site: Site | None) -> str:
    """``file:line (function)`` of the user's line at which something happened."""
    if site is None:
        return "an unknown place"
    return f"{site[0].co_filename}:{line_of(site)} ({site[0].co_qualname})"


def type_name(block: Structure) -> str:
    """The name of the structure that a block was allocated for, also after it was freed."""
    name: str = object.__getattribute__(block, "__dict__").get("_name", "")
    return name or type(block).__name__
