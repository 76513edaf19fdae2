"""Tagged pool, and the structures that live in it (KE-POOL).

A block is an instance of the structure it was allocated for: ``sizeof(READ_ITEM)`` is a size that remembers its
structure. Freeing changes the block's class, so that every later access is a finding, at no cost while the block
is alive.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from kemu.nt.bugcheck import BAD_POOL_CALLER, BugCheck
from kemu.nt.deferred import stale_context
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.exception import raise_status
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import STATUS_INSUFFICIENT_RESOURCES
from kemu.nt.system import Leftover, System, current_system, refuse, report, resources_fail
from kemu.runtime import Cell, Operation, Thread

POOL_FLAG_USE_QUOTA: Final = 0x1
POOL_FLAG_UNINITIALIZED: Final = 0x2
POOL_FLAG_CACHE_ALIGNED: Final = 0x8
POOL_FLAG_RAISE_ON_FAILURE: Final = 0x20
POOL_FLAG_NON_PAGED: Final = 0x40
POOL_FLAG_NON_PAGED_EXECUTE: Final = 0x80
POOL_FLAG_PAGED: Final = 0x100

_TAG: Final = re.compile(r"[ -~]{1,4}")
_KINDS: Final = POOL_FLAG_NON_PAGED | POOL_FLAG_NON_PAGED_EXECUTE | POOL_FLAG_PAGED


class Structure:
    """Base of a driver's own structures. Annotated fields exist and are zero in zeroed memory; a field of
    uninitialised memory that is read before it is written is finding ``ke.uninitialised``.
    """

    _allocation: Allocation | None = None

    def __getattr__(self, name: str) -> Any:
        if self._allocation is not None and name in fields_of(type(self)):
            report("ke.uninitialised", f"{type(self).__name__}.{name} was read before it was written")
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")


class Freed(Structure):
    """What a block becomes when it is freed."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__dict__", "_allocation"}:
            return object.__getattribute__(self, name)
        return _touch_freed(self, f"reads .{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            _touch_freed(self, f"writes .{name}")


def _touch_freed(block: Freed, what: str) -> None:
    allocation: Allocation = object.__getattribute__(block, "__dict__")["_allocation"]
    report(
        stale_context(block) or "ke.use-after-free",
        f"{current_kthread().label} {what} of {allocation.describe()}, freed by {allocation.freed_by}",
    )


class Bytes(Structure):
    """A block that was allocated by a plain number of bytes."""

    data: bytearray


class Size(int):
    """A size in bytes that remembers the structure it is the size of."""

    structure: type[Structure]

    def __new__(cls, structure: type[Structure]) -> Size:
        size = super().__new__(cls, 8 * max(1, len(fields_of(structure))))
        size.structure = structure
        return size


def fields_of(structure: type[Structure]) -> dict[str, Any]:
    """The annotated fields of *structure*, the base class's first."""
    return {
        name: kind
        for cls in reversed(structure.__mro__)
        for name, kind in inspect.get_annotations(cls).items()
        if not name.startswith("_")
    }


def sizeof(structure: type[Structure]) -> Size:
    """The size of *structure*, as C's operator; eight bytes a field."""
    return Size(structure)


class Allocation(Cell):
    """The pool's record of one block."""

    __slots__ = ("block", "driver", "flags", "freed_by", "site", "size", "tag")

    def __init__(self, creator: Thread, block: Structure, flags: int, size: int, tag: str, site: str) -> None:
        super().__init__(creator, f"block '{tag}'")
        self.block = block
        self.flags = flags
        self.size = size
        self.tag = tag
        self.site = site
        self.driver = current_driver()
        self.freed_by: str | None = None

    def describe(self) -> str:
        """Words for a finding: what, which tag, where from."""
        return f"a {type_name(self.block)} of {int(self.size)} bytes, tag '{self.tag}', allocated at {self.site}"


def type_name(block: Structure) -> str:
    """The name of the structure a block was allocated for, also after it was freed."""
    name: str = object.__getattribute__(block, "__dict__").get("_name", "")
    return name or type(block).__name__


class Pool:
    """All blocks in use, oldest first."""

    def __init__(self) -> None:
        self.allocations: dict[Allocation, None] = {}

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The blocks that *driver* has allocated and not freed."""
        for allocation in self.allocations:
            if allocation.driver is driver:
                yield Leftover("ke.pool-leak", allocation.describe())


class FreeBlock(Operation[None]):
    """Free a block; a point of the schedule, because others may hold a pointer to it."""

    __slots__ = ("allocation",)
    kind = "free"

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation

    def perform(self, thread: Thread) -> None:
        allocation = self.allocation
        thread.write(allocation)
        if allocation.freed_by is not None:
            report(
                "ke.double-free",
                f"{thread.label} frees {allocation.describe()}, freed already by {allocation.freed_by}",
                BugCheck(BAD_POOL_CALLER, (0x07,)),
            )
            return
        thread.end(allocation)
        allocation.freed_by = thread.label
        block = allocation.block
        block.__dict__["_name"] = type(block).__name__
        block.__class__ = Freed
        system: System = thread.runtime.system
        del system.get(Pool).allocations[allocation]
        log = thread.runtime.log
        if log is not None:
            log("mem.free", tag=allocation.tag, size=int(allocation.size))

    def target(self) -> Cell:
        return self.allocation


def pool_ceiling(Flags: int, NumberOfBytes: int, Tag: str) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return APC_LEVEL if Flags & POOL_FLAG_PAGED else DISPATCH_LEVEL


def is_nonpaged(Flags: int, NumberOfBytes: int, Tag: str) -> bool:
    """Whether it may be allocated under a spin lock (KE-SPIN-08)."""
    return not Flags & POOL_FLAG_PAGED


@routine(
    "wdm",
    "DECLSPEC_RESTRICT PVOID ExAllocatePool2(_In_ POOL_FLAGS Flags, _In_ SIZE_T NumberOfBytes, _In_ ULONG Tag)",
    max_irql=pool_ceiling,
    under_spin_lock=is_nonpaged,
)
async def ExAllocatePool2(Flags: int, NumberOfBytes: int, Tag: str) -> Any:
    """Allocate zeroed pool (KE-POOL-02) and return the block, or None.

    *NumberOfBytes* is usually ``sizeof(STRUCTURE)``; the block is then an instance of it. A plain number gives a
    `Bytes`. *Tag* is one to four printable ASCII characters. None comes back for a zero tag, for flags that name
    no kind of pool, and where allocations are explored with low resources. With POOL_FLAG_RAISE_ON_FAILURE such a
    failure raises STATUS_INSUFFICIENT_RESOURCES instead (`StructuredException`). Another tag raises `UsageError`.
    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool (KE-POOL-01). Zero bytes: bug check 0xC2 (KE-POOL-04).
    """
    system = current_system()
    thread = current_kthread()
    if Tag and not _TAG.fullmatch(Tag):
        refuse(f"ExAllocatePool2 with tag {Tag!r}", remedy="use one to four printable ASCII characters, such as 'Scan'")
    if NumberOfBytes == 0:
        report(
            "ke.pool-zero-bytes",
            f"ExAllocatePool2 of zero bytes, tag '{Tag}'",
            BugCheck(BAD_POOL_CALLER, (0,)),
        )
    if not Tag or not (Flags & _KINDS) or (Flags & _KINDS) & ((Flags & _KINDS) - 1):
        return None
    if resources_fail(f"ExAllocatePool2 '{Tag}'"):
        if Flags & POOL_FLAG_RAISE_ON_FAILURE:
            raise_status(STATUS_INSUFFICIENT_RESOURCES, "ExAllocatePool2")
        return None
    structure = NumberOfBytes.structure if isinstance(NumberOfBytes, Size) else Bytes
    block = structure.__new__(structure)
    caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    site = f"{caller.f_code.co_name}:{caller.f_lineno}"
    allocation = Allocation(thread, block, Flags, NumberOfBytes, Tag, site)
    fields = block.__dict__
    if not Flags & POOL_FLAG_UNINITIALIZED:
        fields.update(dict.fromkeys(fields_of(structure), 0))
        if structure is Bytes:
            fields["data"] = bytearray(NumberOfBytes)
    fields["_allocation"] = allocation
    system.get(Pool).allocations[allocation] = None
    log = thread.runtime.log
    if log is not None:
        log("mem.alloc", tag=Tag, size=int(NumberOfBytes))
    return block


def allocation_of(block: object) -> Allocation | None:
    """The pool's record of *block*, which may be anything a driver passes, and may be free."""
    if not isinstance(block, Structure):
        return None
    allocation: Allocation | None = object.__getattribute__(block, "__dict__").get("_allocation")
    return allocation


def free_ceiling(P: Structure, Tag: str = "") -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    allocation = allocation_of(P)
    return APC_LEVEL if allocation is not None and allocation.flags & POOL_FLAG_PAGED else DISPATCH_LEVEL


def frees_nonpaged(P: Structure, Tag: str = "") -> bool:
    """Whether it may be freed under a spin lock (KE-SPIN-08)."""
    allocation = allocation_of(P)
    return allocation is None or not allocation.flags & POOL_FLAG_PAGED


@routine(
    "wdm",
    "VOID ExFreePoolWithTag(_In_ PVOID P, _In_ ULONG Tag)",
    max_irql=free_ceiling,
    under_spin_lock=frees_nonpaged,
)
async def ExFreePoolWithTag(P: Structure, Tag: str) -> None:
    """Free a block that was allocated with *Tag*.

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool. Findings: ``ke.double-free``, ``ke.pool-wrong-tag``,
    ``ke.pool-wrong-address`` (KE-POOL-07), each with bug check 0xC2.
    """
    allocation = allocation_of(P)
    if allocation is None:
        report(
            "ke.pool-wrong-address",
            f"ExFreePoolWithTag of a {type(P).__name__} that does not come from pool",
            BugCheck(BAD_POOL_CALLER, (0x99,)),
        )
        return
    if allocation.tag != Tag:
        report(
            "ke.pool-wrong-tag",
            f"ExFreePoolWithTag with tag '{Tag}' of {allocation.describe()}",
            BugCheck(BAD_POOL_CALLER, (0x0A,)),
        )
    await FreeBlock(allocation)


@routine("wdm", "VOID ExFreePool(_In_ PVOID P)", max_irql=free_ceiling, under_spin_lock=frees_nonpaged)
async def ExFreePool(P: Structure) -> None:
    """Free a block, whatever its tag.

    IRQL: as ExFreePoolWithTag, whose findings it has, too.
    """
    allocation = allocation_of(P)
    if allocation is None:
        report(
            "ke.pool-wrong-address",
            f"ExFreePool of a {type(P).__name__} that does not come from pool",
            BugCheck(BAD_POOL_CALLER, (0x99,)),
        )
        return
    await FreeBlock(allocation)
