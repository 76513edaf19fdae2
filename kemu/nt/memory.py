"""Tagged pool (KE-POOL).

A block is an instance of the structure it was allocated for: ``sizeof(READ_ITEM)`` is a size that remembers its
structure, with the kernel objects that lie in it. A plain number of bytes gives a `Bytes`. Each block keeps who
allocated it and who freed it, and every report says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from kemu.nt.allocation import Allocation, place
from kemu.nt.buffer import Bytes, fill
from kemu.nt.bugcheck import BAD_POOL_CALLER, DRIVER_VERIFIER_DETECTED_VIOLATION, BugCheck
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.exception import raise_status
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_QUOTA_EXCEEDED
from kemu.nt.structure import Size, Structure, furnish, inside_of, paged_class
from kemu.nt.system import Leftover, current_system, refuse, report, resources_fail
from kemu.runtime.site import here

POOL_FLAG_USE_QUOTA: Final = 0x1
POOL_FLAG_UNINITIALIZED: Final = 0x2
POOL_FLAG_SESSION: Final = 0x4
POOL_FLAG_CACHE_ALIGNED: Final = 0x8
POOL_FLAG_RAISE_ON_FAILURE: Final = 0x20
POOL_FLAG_NON_PAGED: Final = 0x40
POOL_FLAG_NON_PAGED_EXECUTE: Final = 0x80
POOL_FLAG_PAGED: Final = 0x100
POOL_FLAG_SPECIAL_POOL: Final = 0x1_0000_0000

_KINDS: Final = POOL_FLAG_NON_PAGED | POOL_FLAG_NON_PAGED_EXECUTE | POOL_FLAG_PAGED
_REQUIRED: Final = (
    _KINDS
    | POOL_FLAG_USE_QUOTA
    | POOL_FLAG_UNINITIALIZED
    | POOL_FLAG_SESSION
    | POOL_FLAG_CACHE_ALIGNED
    | POOL_FLAG_RAISE_ON_FAILURE
)
"""The known flags of the lower half. What nobody knows there fails, and in the upper half it is left aside."""

NonPagedPool: Final = 0
NonPagedPoolExecute: Final = 0
PagedPool: Final = 1
NonPagedPoolMustSucceed: Final = 2
NonPagedPoolCacheAligned: Final = 4
PagedPoolCacheAligned: Final = 5
NonPagedPoolNx: Final = 512
NonPagedPoolNxCacheAligned: Final = 516
POOL_QUOTA_FAIL_INSTEAD_OF_RAISE: Final = 8
POOL_RAISE_IF_ALLOCATION_FAILURE: Final = 16

DrvRtPoolNxOptIn: Final = 1

LARGEST: Final = 1 << 28
"""The most bytes that pool has in one piece (a choice of kemu's)."""
_TAG: Final = re.compile(r"[ -~]{1,4}")


class Pool:
    """All blocks in use, oldest first."""

    def __init__(self) -> None:
        self.allocations: dict[Allocation, None] = {}
        self.nx_opt_in: dict[DriverActor | None, None] = {}
        """The drivers that want NonPagedPool to be without execution."""

        self.told: Callable[[Allocation], None] | None = None
        """Told of every block that is made."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The blocks that *driver* has allocated and not freed (KE-POOL-11)."""
        # The entries of a lookaside list go with the list, which is told of itself.
        own = (allocation for allocation in self.allocations if allocation.driver is driver)
        left = [allocation for allocation in own if allocation.from_lookaside is None]
        for allocation in left:
            verifier = BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x62, 0, 0, len(left)))
            code = "ke.pool-leak"
            what = allocation.describe()
            if allocation.swapped:
                code = "swap-buffer-leak"
            elif allocation.passed:
                code = "postop-context-leak"
                what += f", the completion context of {allocation.passed}"
            elif allocation.stranded:
                code = "unpaired-state"
                what += f", {allocation.stranded},"
            yield Leftover(code, what, verifier=verifier)


# Allocation.


def tag_text(name: str, tag: str | int) -> str:
    """*tag* as a dump shows it: what C writes the other way round, ``'nacS'``, and has as a number."""
    if isinstance(tag, int) and not isinstance(tag, bool) and 0 <= tag < 1 << 32:
        tag = tag.to_bytes(4, "little").rstrip(b"\0").decode("latin-1")
    if not isinstance(tag, str) or (tag and not _TAG.fullmatch(tag)):
        refuse(f"{name} with tag {tag!r}", remedy="use one to four printable ASCII characters, such as 'Scan'")
    return tag


def tag_number(tag: str | int) -> int:
    """*tag* as the number that C makes of it."""
    return tag if isinstance(tag, int) else int.from_bytes(tag.encode("latin-1", "replace"), "little")


def _checked_number(name: str, parameter: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(f"{name} with {parameter} {value!r}", remedy="give a whole number")


def allocate(size: int, tag: str, *, is_paged: bool, zeroed: bool) -> Structure:
    """Make a block, which nothing has refused."""
    thread = current_kthread()
    structure = size.structure if isinstance(size, Size) else Bytes
    block: Structure = object.__new__(paged_class(structure) if is_paged and structure is not Bytes else structure)
    allocation = Allocation(thread, block, size, tag, is_paged=is_paged)
    if isinstance(block, Bytes):
        fill(block, size, zeroed=zeroed)
        block.__dict__["_allocation"] = allocation
    elif inside_of(structure) or zeroed:
        furnish(block, structure, allocation, allocation.parts, zeroed=zeroed)
    else:
        block.__dict__["_allocation"] = allocation
    pool = current_system().get(Pool)
    pool.allocations[allocation] = None
    if pool.told is not None:
        pool.told(allocation)
    log = thread.runtime.log
    if log is not None:
        log("mem.alloc", tag=tag, size=int(size))
    return block


def _failed(name: str, status: NTSTATUS, raises: bool) -> None:
    if raises:
        raise_status(status, name)


def _pool(name: str, size: int, tag: str, *, kind: int, zeroed: bool, quota: bool, raises: bool) -> Any:
    """Allocate pool of *kind*, a POOL_FLAG, on behalf of the routine *name*."""
    _checked_number(name, "NumberOfBytes", size)
    if size == 0:
        report(
            "ke.pool-zero-bytes",
            f"{name} of zero bytes, tag '{tag}'",
            BugCheck(BAD_POOL_CALLER, (0, 0, _TYPES[kind], tag_number(tag))),
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0, current_kthread().irql, _TYPES[kind], 0)),
        )
    if kind == POOL_FLAG_NON_PAGED_EXECUTE:
        report(
            "ke.pool-executable",
            f"{name} of memory that can be executed, tag '{tag}'",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x2000,)),
        )
    if quota and current_kthread().in_dpc:
        report(
            "ke.quota-context",
            f"{name} charges quota, tag '{tag}', in a context that is not the requester's",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x10B,)),
        )
    return allocate_checked(name, size, tag, kind=kind, zeroed=zeroed, quota=quota, raises=raises)


def allocate_checked(
    name: str, size: int, tag: str, *, kind: int, zeroed: bool, raises: bool, quota: bool = False
) -> Structure | None:
    """Make a block, unless there is no memory: then None, or an exception if that *raises*."""
    # A negative size is a number of 64 bits in C, more than there is.
    if not 0 < size <= LARGEST or resources_fail(f"{name} '{tag}'"):
        _failed(name, STATUS_QUOTA_EXCEEDED if quota else STATUS_INSUFFICIENT_RESOURCES, raises)
        return None
    return allocate(size, tag, is_paged=kind == POOL_FLAG_PAGED, zeroed=zeroed)


def _has(flags: object, flag: int) -> bool:
    # The IRQL is looked at before anything else is, and the tables of tests pass whatever they have.
    return isinstance(flags, int) and bool(flags & flag)


def pool_ceiling(Flags: int, NumberOfBytes: int, Tag: str | int) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return APC_LEVEL if _has(Flags, POOL_FLAG_PAGED) else DISPATCH_LEVEL


def pool_type_ceiling(PoolType: int, NumberOfBytes: int, Tag: str | int = "") -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return APC_LEVEL if _has(PoolType, PagedPool) else DISPATCH_LEVEL


def is_nonpaged(Flags: int, NumberOfBytes: int, Tag: str | int) -> bool:
    """Whether it may be allocated under a spin lock (KE-SPIN-08)."""
    return not _has(Flags, POOL_FLAG_PAGED)


def is_nonpaged_type(PoolType: int, NumberOfBytes: int, Tag: str | int = "") -> bool:
    """Whether it may be allocated under a spin lock (KE-SPIN-08)."""
    return not _has(PoolType, PagedPool)


def _allocated_too_high(irql: int, kind: int, size: int, is_paged: bool) -> tuple[BugCheck, BugCheck]:
    return (
        BugCheck(BAD_POOL_CALLER, (0x08, irql, kind, int(size))),
        BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x01 if is_paged else 0x02, irql, kind, int(size))),
    )


def pool_stops(irql: int, Flags: int, NumberOfBytes: int, Tag: str | int) -> tuple[BugCheck, BugCheck]:
    """The bug checks of an allocation at too high an IRQL (KE-POOL-01)."""
    return _allocated_too_high(irql, Flags, NumberOfBytes, _has(Flags, POOL_FLAG_PAGED))


def pool_type_stops(irql: int, PoolType: int, NumberOfBytes: int, Tag: str | int = "") -> tuple[BugCheck, BugCheck]:
    """The bug checks of an allocation at too high an IRQL (KE-POOL-01)."""
    return _allocated_too_high(irql, PoolType, NumberOfBytes, _has(PoolType, PagedPool))


@routine(
    "wdm",
    "DECLSPEC_RESTRICT PVOID ExAllocatePool2(_In_ POOL_FLAGS Flags, _In_ SIZE_T NumberOfBytes, _In_ ULONG Tag)",
    max_irql=pool_ceiling,
    stops=pool_stops,
    under_spin_lock=is_nonpaged,
)
async def ExAllocatePool2(Flags: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """Allocate zeroed pool (KE-POOL-02) and return the block, or None.

    *NumberOfBytes* is usually ``sizeof(STRUCTURE)``; the block is then an instance of it. A plain number gives a
    `Bytes`. *Tag* is one to four printable ASCII characters. None comes back for a zero tag, for flags that name
    no kind of pool or that nobody knows, for more than there is, and where allocations are explored with low
    resources. With POOL_FLAG_RAISE_ON_FAILURE a failure raises (`StructuredException`). Another tag raises
    `UsageError`. IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool (KE-POOL-01). Zero bytes: bug check 0xC2
    (KE-POOL-04).
    """
    name = "ExAllocatePool2"
    _checked_number(name, "Flags", Flags)
    tag = tag_text(name, Tag)
    kind = Flags & _KINDS
    raises = bool(Flags & POOL_FLAG_RAISE_ON_FAILURE)
    if not tag or kind not in _TYPES or Flags & 0xFFFFFFFF & ~_REQUIRED:
        _failed(name, STATUS_INVALID_PARAMETER, raises)
        return None
    zeroed = not Flags & POOL_FLAG_UNINITIALIZED
    quota = bool(Flags & POOL_FLAG_USE_QUOTA)
    return _pool(name, NumberOfBytes, tag, kind=kind, zeroed=zeroed, quota=quota, raises=raises)


_TYPES: Final = {
    POOL_FLAG_NON_PAGED: NonPagedPoolNx,
    POOL_FLAG_NON_PAGED_EXECUTE: NonPagedPool,
    POOL_FLAG_PAGED: PagedPool,
}
"""For each kind of pool its POOL_TYPE, as bug checks tell it."""


def _older(
    name: str, pool_type: int, size: int, tag: str | int, *, zeroed: bool, quota: bool, is_deprecated: bool = False
) -> Any:
    """What the routines that take a POOL_TYPE have in common."""
    _checked_number(name, "PoolType", pool_type)
    text = tag_text(name, tag)
    if is_deprecated:
        report("ke.pool-deprecated", f"{name}, tag '{text}': use ExAllocatePool2")
    if not text:
        report("ke.pool-bad-tag", f"{name} with tag 0", BugCheck(BAD_POOL_CALLER, (0x9B, pool_type, int(size))))
    elif text.rstrip() == "BIG":
        report("ke.pool-bad-tag", f"{name} with tag 'BIG'", BugCheck(BAD_POOL_CALLER, (0x9C, pool_type, int(size))))
    elif not any(character.isalnum() for character in text):
        report(
            "ke.pool-bad-tag",
            f"{name} with tag '{text}', which has no letter or digit",
            BugCheck(BAD_POOL_CALLER, (0x9D, pool_type, int(size))),
        )
    if pool_type & 0x7 in {NonPagedPoolMustSucceed, 6}:
        report(
            "ke.pool-must-succeed",
            f"{name} of pool that must succeed, tag '{text}'",
            BugCheck(BAD_POOL_CALLER, (0x9A, pool_type, int(size))),
        )
    kind = POOL_FLAG_NON_PAGED
    if pool_type & PagedPool:
        kind = POOL_FLAG_PAGED
    elif not pool_type & NonPagedPoolNx and current_driver() not in current_system().get(Pool).nx_opt_in:
        kind = POOL_FLAG_NON_PAGED_EXECUTE
    if quota:
        raises = not pool_type & POOL_QUOTA_FAIL_INSTEAD_OF_RAISE
    else:
        raises = bool(pool_type & POOL_RAISE_IF_ALLOCATION_FAILURE)
    return _pool(name, size, text, kind=kind, zeroed=zeroed, quota=quota, raises=raises)


_PARAMETERS: Final = "(_In_ POOL_TYPE PoolType, _In_ SIZE_T NumberOfBytes, _In_ ULONG Tag)"


@routine(
    "wdm",
    f"PVOID ExAllocatePoolZero{_PARAMETERS}",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePoolZero(PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """Allocate zeroed pool of *PoolType* and return the block, or None. As ExAllocatePool2 otherwise.

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool. A tag of 0, ``'BIG'`` or without letters and digits is finding
    ``ke.pool-bad-tag`` (KE-POOL-04).
    """
    return _older("ExAllocatePoolZero", PoolType, NumberOfBytes, Tag, zeroed=True, quota=False)


@routine(
    "wdm",
    f"PVOID ExAllocatePoolUninitialized{_PARAMETERS}",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePoolUninitialized(PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """As ExAllocatePoolZero, but the memory has to be written before it is read.

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.
    """
    return _older("ExAllocatePoolUninitialized", PoolType, NumberOfBytes, Tag, zeroed=False, quota=False)


@routine(
    "wdm",
    f"PVOID ExAllocatePoolQuotaZero{_PARAMETERS}",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePoolQuotaZero(PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """As ExAllocatePoolZero, charged to the current process (KE-POOL-12).

    A failure raises STATUS_QUOTA_EXCEEDED unless *PoolType* has POOL_QUOTA_FAIL_INSTEAD_OF_RAISE (KE-POOL-03).
    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.
    """
    return _older("ExAllocatePoolQuotaZero", PoolType, NumberOfBytes, Tag, zeroed=True, quota=True)


@routine(
    "wdm",
    f"PVOID ExAllocatePoolQuotaUninitialized{_PARAMETERS}",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePoolQuotaUninitialized(PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """As ExAllocatePoolQuotaZero, but the memory has to be written before it is read.

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.
    """
    return _older("ExAllocatePoolQuotaUninitialized", PoolType, NumberOfBytes, Tag, zeroed=False, quota=True)


@routine(
    "wdm",
    f"PVOID ExAllocatePoolWithTag{_PARAMETERS}",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePoolWithTag(PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """As ExAllocatePoolUninitialized. Deprecated since Windows 10 2004: remark ``ke.pool-deprecated`` (KE-POOL-03).

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.
    """
    name = "ExAllocatePoolWithTag"
    return _older(name, PoolType, NumberOfBytes, Tag, zeroed=False, quota=False, is_deprecated=True)


@routine(
    "wdm",
    f"PVOID ExAllocatePoolWithQuotaTag{_PARAMETERS}",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePoolWithQuotaTag(PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """As ExAllocatePoolQuotaUninitialized. Deprecated: remark ``ke.pool-deprecated`` (KE-POOL-03).

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.
    """
    name = "ExAllocatePoolWithQuotaTag"
    return _older(name, PoolType, NumberOfBytes, Tag, zeroed=False, quota=True, is_deprecated=True)


@routine(
    "wdm",
    "PVOID ExAllocatePool(_In_ POOL_TYPE PoolType, _In_ SIZE_T NumberOfBytes)",
    max_irql=pool_type_ceiling,
    stops=pool_type_stops,
    under_spin_lock=is_nonpaged_type,
)
async def ExAllocatePool(PoolType: int, NumberOfBytes: int) -> Any:
    """As ExAllocatePoolWithTag with the tag ``None``, which is that of nobody. Deprecated (KE-POOL-03).

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.
    """
    return _older("ExAllocatePool", PoolType, NumberOfBytes, "None", zeroed=False, quota=False, is_deprecated=True)


@routine("wdm", "VOID ExInitializeDriverRuntime(_In_ ULONG RuntimeFlags)")
def ExInitializeDriverRuntime(RuntimeFlags: int) -> None:
    """With DrvRtPoolNxOptIn, let this driver's NonPagedPool be without execution (KE-POOL-13). IRQL: any."""
    if RuntimeFlags & DrvRtPoolNxOptIn:
        current_system().get(Pool).nx_opt_in[current_driver()] = None


def PAGED_CODE() -> None:
    """State that the code may be paged out: above APC_LEVEL finding ``ke.paged-code`` (KE-IRQL-08)."""
    thread = current_kthread()
    if thread.irql > APC_LEVEL:
        report("ke.paged-code", f"{thread.label} comes to PAGED_CODE() at {place(here(thread))}, at IRQL {thread.irql}")
