"""Lookaside lists: entries of one size that are kept and handed out again (KE-LOOK).

An entry that is given back keeps its contents, and whoever gets it next finds them. Whoever still has the old pointer
does, too: on a real system two owners then share one block. Here the entry gets a new object with every owner, so that
the first use of the old one is finding ``ke.lookaside-uaf``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from kemu.nt.allocation import Allocation
from kemu.nt.buffer import allocation_of
from kemu.nt.bugcheck import (
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    BugCheck,
)
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.freeing import release
from kemu.nt.kthread import current_kthread
from kemu.nt.memory import (
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    NonPagedPoolNx,
    PagedPool,
    Pool,
    allocate,
    allocate_checked,
    tag_text,
)
from kemu.nt.storage import Storage
from kemu.nt.structure import Structure, inside_of
from kemu.nt.system import Leftover, current_system, report
from kemu.runtime import Cell, Operation, Thread, current_thread
from kemu.runtime.site import Site, here

DEPTH: Final = 4
"""How many entries a list keeps (a choice of kemu's: Windows begins with as many and adapts)."""
SMALLEST: Final = 8
"""An entry that is kept holds a link."""

Allocator = Callable[..., Awaitable[Any]]


@dataclass(slots=True)
class Kept:
    """What is in a list: the memory of an entry that was given back."""

    size: int
    tag: str
    contents: dict[str, Any] = field(default_factory=dict[str, Any])


class LookasideList(Cell, Storage):
    """Base of the kinds of lookaside lists."""

    __slots__ = (
        *("allocator", "driver", "freer", "initialised", "is_paged", "kept", "outstanding", "raises", "size", "tag"),
    )

    storage_size: ClassVar[int] = 96
    passes_itself: ClassVar[bool] = False
    """Whether the driver's own allocation and free routines are given the list."""

    def __init__(self, label: str = "lookaside list") -> None:
        super().__init__(current_thread(), label)
        self.initialised = False
        self.is_paged = False
        self.size = 0
        self.tag = ""
        self.raises = False
        self.allocator: Allocator | None = None
        self.freer: Allocator | None = None
        self.kept: list[Kept] = []
        """Last in, first out."""
        self.outstanding: dict[Allocation, None] = {}
        self.driver: DriverActor | None = None

    def still_active(self) -> Leftover | None:
        if not self.initialised:
            return None
        verifier = BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0xCC,))
        return Leftover("ke.freed-active", f"{self.label}, which was not deleted", verifier=verifier)


class LOOKASIDE_LIST_EX(LookasideList):
    """A list of entries in paged or nonpaged pool."""

    __slots__ = ()

    passes_itself: ClassVar[bool] = True


class NPAGED_LOOKASIDE_LIST(LookasideList):
    """A list of entries in nonpaged pool."""

    __slots__ = ()

    storage_size: ClassVar[int] = 128


class PAGED_LOOKASIDE_LIST(LookasideList):
    """A list of entries in paged pool."""

    __slots__ = ()

    storage_size: ClassVar[int] = 128


class Lookasides:
    """All lists in use, oldest first."""

    def __init__(self) -> None:
        self.lists: dict[LookasideList, None] = {}

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The lists that *driver* has initialised and not deleted (KE-LOOK-01)."""
        for one in self.lists:
            if one.driver is driver:
                stop = BugCheck(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS)
                yield Leftover("ke.lookaside-leak", f"{one.label}, which was not deleted,", stop)


class TakeEntry(Operation[Kept | None]):
    """Take the entry that was given back last, if there is one."""

    __slots__ = ("list",)
    kind = "take an entry of"

    def __init__(self, lookaside: LookasideList) -> None:
        self.list = lookaside

    def perform(self, thread: Thread) -> Kept | None:
        lookaside = self.list
        thread.write(lookaside)
        return lookaside.kept.pop() if lookaside.kept else None

    def target(self) -> Cell:
        return self.list


class GiveEntry(Operation[bool]):
    """Give an entry back; whether the list is full, so that its memory has to be freed."""

    __slots__ = ("allocation", "list", "where")
    kind = "give an entry back to"

    def __init__(self, lookaside: LookasideList, allocation: Allocation) -> None:
        self.list = lookaside
        self.allocation = allocation
        self.where: Site | None = here(current_kthread())

    def perform(self, thread: Thread) -> bool:
        lookaside, allocation = self.list, self.allocation
        thread.write(lookaside)
        thread.write(allocation)
        if allocation.freed is not None:
            report(
                "ke.double-free",
                f"{thread.label} gives {allocation.describe()} back to {lookaside.label}, "
                f"{allocation.freed_words} already",
            )
            return False
        if allocation.from_lookaside is not lookaside:
            origin = allocation.from_lookaside
            report(
                "ke.lookaside-foreign",
                f"{thread.label} gives {allocation.describe()} to {lookaside.label}, and it comes from "
                f"{'pool' if origin is None else origin.label}",
            )
            return False
        lookaside.outstanding.pop(allocation, None)
        is_full = len(lookaside.kept) >= DEPTH
        if is_full and lookaside.freer is not None:
            # The driver's own routine frees it: it is a block as any other from here on.
            allocation.from_lookaside = None
            return True
        thread.end(allocation)
        fields = allocation.block.__dict__
        inside = inside_of(type(allocation.block))
        contents = {
            name: value
            for name, value in fields.items()
            if name not in inside and (name[:1] != "_" or name in {"_content", "_written"})
        }
        release(thread, allocation, self.where)
        del current_system().get(Pool).allocations[allocation]
        if not is_full:
            lookaside.kept.append(Kept(allocation.size, allocation.tag, contents))
        return False

    def target(self) -> Cell:
        return self.list


def initialise(
    lookaside: LookasideList,
    name: str,
    size: int,
    tag: str | int,
    *,
    is_paged: bool,
    raises: bool,
    allocator: Allocator | None,
    freer: Allocator | None,
) -> None:
    """Make *lookaside* an empty list on behalf of the routine *name*."""
    if lookaside.initialised:
        report(
            "ke.lookaside-reinitialised",
            f"{name} of {lookaside.label}, which is in use",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0xCA,)),
        )
    if size < SMALLEST:
        report(
            "ke.lookaside-size",
            f"{name} of {lookaside.label} with entries of {int(size)} bytes; a link takes {SMALLEST}",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0xCD, 0, int(size), SMALLEST)),
        )
    current_thread().write(lookaside)
    lookaside.size = size
    lookaside.tag = tag_text(name, tag)
    lookaside.is_paged = is_paged
    lookaside.raises = raises
    lookaside.allocator = allocator
    lookaside.freer = freer
    lookaside.initialised = True
    lookaside.driver = current_driver()
    current_system().get(Lookasides).lists[lookaside] = None


def check_initialised(lookaside: LookasideList, name: str, code: int | None = None) -> None:
    """Finding ``ke.uninitialised`` for a list that is not in use; *code* is what the verifier says."""
    if not lookaside.initialised:
        verifier = None if code is None else BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (code,))
        report("ke.uninitialised", f"{name} on {lookaside.label}, which is not initialised", verifier=verifier)


def _pool_type(lookaside: LookasideList) -> int:
    return PagedPool if lookaside.is_paged else NonPagedPoolNx


async def take(lookaside: LookasideList, name: str) -> Any:
    """An entry of *lookaside*, kept or new, or None."""
    check_initialised(lookaside, name)
    kept = await TakeEntry(lookaside)
    if kept is not None:
        block = _revived(kept, lookaside)
    elif lookaside.allocator is None:
        block = allocate_checked(
            name,
            lookaside.size,
            lookaside.tag,
            kind=POOL_FLAG_PAGED if lookaside.is_paged else POOL_FLAG_NON_PAGED,
            zeroed=False,
            raises=lookaside.raises,
        )
    else:
        more = (lookaside,) if lookaside.passes_itself else ()
        block = await lookaside.allocator(_pool_type(lookaside), lookaside.size, lookaside.tag, *more)
        if block is not None:
            _check_type(lookaside, block)
    allocation = allocation_of(block)
    if allocation is not None:
        allocation.from_lookaside = lookaside
        lookaside.outstanding[allocation] = None
    return block


def _revived(kept: Kept, lookaside: LookasideList) -> Structure:
    """An entry with the memory of *kept*: old contents, and the objects in it not initialised."""
    block = allocate(kept.size, kept.tag, is_paged=lookaside.is_paged, zeroed=False)
    block.__dict__.update(kept.contents)
    return block


def _check_type(lookaside: LookasideList, block: Any) -> None:
    """What a driver's own routine has allocated has to be what the list is for (KE-LOOK-03)."""
    allocation = allocation_of(block)
    if allocation is None:
        found = f"a {type(block).__name__} that does not come from pool"
    elif allocation.is_paged != lookaside.is_paged:
        found = f"{allocation.describe()} in {'paged' if allocation.is_paged else 'nonpaged'} pool"
    elif allocation.size != lookaside.size or allocation.tag != lookaside.tag:
        found = allocation.describe()
    else:
        return
    kind = "paged" if lookaside.is_paged else "nonpaged"
    wanted = f"{int(lookaside.size)} bytes of {kind} pool, tag '{lookaside.tag}'"
    report("ke.lookaside-type", f"the routine that allocates for {lookaside.label} returned {found}, not {wanted}")


async def give(lookaside: LookasideList, entry: Any, name: str) -> None:
    """Give *entry* back to *lookaside*."""
    check_initialised(lookaside, name)
    allocation = allocation_of(entry)
    if allocation is None or (entry is not allocation.block and allocation.freed is None):
        what = "NULL" if entry is None else f"a {type(entry).__name__} that is no block of pool"
        report("ke.lookaside-foreign", f"{name} of {what}")
        return
    if await GiveEntry(lookaside, allocation):
        await _freed_by_driver(lookaside, entry)


async def _freed_by_driver(lookaside: LookasideList, entry: Any) -> None:
    assert lookaside.freer is not None
    await lookaside.freer(entry, *((lookaside,) if lookaside.passes_itself else ()))


class DeleteList(Operation[list[Kept]]):
    """End a list; evaluates to what it keeps."""

    __slots__ = ("list", "name")
    kind = "delete"

    def __init__(self, lookaside: LookasideList, name: str) -> None:
        self.list = lookaside
        self.name = name

    def perform(self, thread: Thread) -> list[Kept]:
        lookaside = self.list
        thread.write(lookaside)
        check_initialised(lookaside, self.name, 0xCB)
        if lookaside.outstanding:
            first = next(iter(lookaside.outstanding))
            count = len(lookaside.outstanding)
            report(
                "ke.lookaside-outstanding",
                f"{self.name} of {lookaside.label}, {count} of whose entries {'is' if count == 1 else 'are'} not back: "
                f"{first.describe()}",
            )
        lookaside.initialised = False
        del current_system().get(Lookasides).lists[lookaside]
        kept, lookaside.kept = lookaside.kept, []
        return kept

    def target(self) -> Cell:
        return self.list


async def delete(lookaside: LookasideList, name: str) -> None:
    """End *lookaside* on behalf of the routine *name*, and free what it keeps."""
    check_initialised(lookaside, name, 0xCB)
    kept = await DeleteList(lookaside, name)
    if lookaside.freer is not None:
        for one in reversed(kept):
            await _freed_by_driver(lookaside, _revived(one, lookaside))
