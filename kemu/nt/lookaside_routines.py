"""The routines of lookaside lists, in their three kinds."""

from __future__ import annotations

from typing import Any, Final

from kemu.nt.bugcheck import BAD_POOL_CALLER, BugCheck
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL
from kemu.nt.lookaside import (
    LOOKASIDE_LIST_EX,
    NPAGED_LOOKASIDE_LIST,
    PAGED_LOOKASIDE_LIST,
    Allocator,
    LookasideList,
    delete,
    give,
    initialise,
    take,
)
from kemu.nt.memory import POOL_RAISE_IF_ALLOCATION_FAILURE, NonPagedPool, NonPagedPoolNx, PagedPool
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_INVALID_PARAMETER_4, STATUS_INVALID_PARAMETER_5, STATUS_SUCCESS

EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL: Final = 1
EX_LOOKASIDE_LIST_EX_FLAGS_FAIL_NO_RAISE: Final = 2


def lookaside_ceiling(Lookaside: LookasideList, Entry: object = None) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for entries in paged pool."""
    return APC_LEVEL if isinstance(Lookaside, LookasideList) and Lookaside.is_paged else DISPATCH_LEVEL  # pyright: ignore[reportUnnecessaryIsInstance]


def allocate_stops(irql: int, Lookaside: LookasideList) -> tuple[BugCheck, None]:
    """The bug check of taking an entry at too high an IRQL (KE-LOOK-03)."""
    size = int(getattr(Lookaside, "size", 0))
    return BugCheck(BAD_POOL_CALLER, (0x08, irql, PagedPool, size)), None


def free_stops(irql: int, Lookaside: LookasideList, Entry: object) -> tuple[BugCheck, None]:
    """The bug check of giving an entry back at too high an IRQL (KE-LOOK-03)."""
    return BugCheck(BAD_POOL_CALLER, (0x09, irql, PagedPool, 0)), None


@routine(
    "wdm",
    """NTSTATUS ExInitializeLookasideListEx(_Inout_ PLOOKASIDE_LIST_EX Lookaside,
       _In_opt_ PALLOCATE_FUNCTION_EX Allocate, _In_opt_ PFREE_FUNCTION_EX Free, _In_ POOL_TYPE PoolType,
       _In_ ULONG Flags, _In_ SIZE_T Size, _In_ ULONG Tag, _In_ USHORT Depth)""",
    max_irql=DISPATCH_LEVEL,
)
def ExInitializeLookasideListEx(
    Lookaside: LOOKASIDE_LIST_EX,
    Allocate: Allocator | None,
    Free: Allocator | None,
    PoolType: int,
    Flags: int,
    Size: int,
    Tag: str | int,
    Depth: int,
) -> NTSTATUS:
    """Make an empty list of entries of *Size* bytes in pool of *PoolType*. IRQL: <= DISPATCH_LEVEL.

    STATUS_INVALID_PARAMETER_4 for another type of pool, STATUS_INVALID_PARAMETER_5 for flags that nobody knows or that
    contradict each other (KE-LOOK-05). *Allocate* and *Free* are the driver's own routines, or None: an ``async def``
    that takes PoolType, NumberOfBytes, Tag, Lookaside and returns a block, and one that takes Buffer, Lookaside.
    *Depth* is not used.
    """
    if PoolType not in {PagedPool, NonPagedPool, NonPagedPoolNx}:
        return STATUS_INVALID_PARAMETER_4
    if Flags not in {0, EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL, EX_LOOKASIDE_LIST_EX_FLAGS_FAIL_NO_RAISE}:
        return STATUS_INVALID_PARAMETER_5
    initialise(
        Lookaside,
        "ExInitializeLookasideListEx",
        Size,
        Tag,
        is_paged=PoolType == PagedPool,
        raises=Flags == EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL,
        allocator=Allocate,
        freer=Free,
    )
    return STATUS_SUCCESS


@routine(
    "wdm",
    "PVOID ExAllocateFromLookasideListEx(_Inout_ PLOOKASIDE_LIST_EX Lookaside)",
    max_irql=lookaside_ceiling,
    stops=allocate_stops,
)
async def ExAllocateFromLookasideListEx(Lookaside: LOOKASIDE_LIST_EX) -> Any:
    """Take the entry that was given back last, with its old contents; if there is none, allocate one (KE-LOOK-02).

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for entries in paged pool (KE-LOOK-03). None if there is no memory.
    """
    return await take(Lookaside, "ExAllocateFromLookasideListEx")


@routine(
    "wdm",
    "VOID ExFreeToLookasideListEx(_Inout_ PLOOKASIDE_LIST_EX Lookaside, _In_ PVOID Entry)",
    max_irql=lookaside_ceiling,
    stops=free_stops,
)
async def ExFreeToLookasideListEx(Lookaside: LOOKASIDE_LIST_EX, Entry: Any) -> None:
    """Give *Entry* back to the list that it comes from (KE-LOOK-04); a full list frees it.

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for entries in paged pool.
    """
    await give(Lookaside, Entry, "ExFreeToLookasideListEx")


@routine("wdm", "VOID ExDeleteLookasideListEx(_Inout_ PLOOKASIDE_LIST_EX Lookaside)", max_irql=lookaside_ceiling)
async def ExDeleteLookasideListEx(Lookaside: LOOKASIDE_LIST_EX) -> None:
    """Free what the list keeps. All entries must be back: finding ``ke.lookaside-outstanding`` (KE-LOOK-04).

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for entries in paged pool.
    """
    await delete(Lookaside, "ExDeleteLookasideListEx")


@routine(
    "wdm",
    """VOID ExInitializeNPagedLookasideList(_Inout_ PNPAGED_LOOKASIDE_LIST Lookaside,
       _In_opt_ PALLOCATE_FUNCTION Allocate, _In_opt_ PFREE_FUNCTION Free, _In_ ULONG Flags, _In_ SIZE_T Size,
       _In_ ULONG Tag, _In_ USHORT Depth)""",
    max_irql=DISPATCH_LEVEL,
)
def ExInitializeNPagedLookasideList(
    Lookaside: NPAGED_LOOKASIDE_LIST,
    Allocate: Allocator | None,
    Free: Allocator | None,
    Flags: int,
    Size: int,
    Tag: str | int,
    Depth: int,
) -> None:
    """Make an empty list of entries of *Size* bytes in nonpaged pool. IRQL: <= DISPATCH_LEVEL.

    *Flags* is 0 or has POOL_RAISE_IF_ALLOCATION_FAILURE. *Allocate* and *Free* are the driver's own routines, or None:
    an ``async def`` that takes PoolType, NumberOfBytes, Tag and returns a block, and one that takes Buffer. *Depth* is
    not used.
    """
    initialise(
        Lookaside,
        "ExInitializeNPagedLookasideList",
        Size,
        Tag,
        is_paged=False,
        raises=bool(Flags & POOL_RAISE_IF_ALLOCATION_FAILURE),
        allocator=Allocate,
        freer=Free,
    )


@routine(
    "wdm",
    "PVOID ExAllocateFromNPagedLookasideList(_Inout_ PNPAGED_LOOKASIDE_LIST Lookaside)",
    max_irql=DISPATCH_LEVEL,
)
async def ExAllocateFromNPagedLookasideList(Lookaside: NPAGED_LOOKASIDE_LIST) -> Any:
    """As ExAllocateFromLookasideListEx. IRQL: <= DISPATCH_LEVEL."""
    return await take(Lookaside, "ExAllocateFromNPagedLookasideList")


@routine(
    "wdm",
    "VOID ExFreeToNPagedLookasideList(_Inout_ PNPAGED_LOOKASIDE_LIST Lookaside, _In_ PVOID Entry)",
    max_irql=DISPATCH_LEVEL,
)
async def ExFreeToNPagedLookasideList(Lookaside: NPAGED_LOOKASIDE_LIST, Entry: Any) -> None:
    """As ExFreeToLookasideListEx. IRQL: <= DISPATCH_LEVEL."""
    await give(Lookaside, Entry, "ExFreeToNPagedLookasideList")


@routine(
    "wdm",
    "VOID ExDeleteNPagedLookasideList(_Inout_ PNPAGED_LOOKASIDE_LIST Lookaside)",
    max_irql=DISPATCH_LEVEL,
)
async def ExDeleteNPagedLookasideList(Lookaside: NPAGED_LOOKASIDE_LIST) -> None:
    """As ExDeleteLookasideListEx. IRQL: <= DISPATCH_LEVEL."""
    await delete(Lookaside, "ExDeleteNPagedLookasideList")


@routine(
    "wdm",
    """VOID ExInitializePagedLookasideList(_Inout_ PPAGED_LOOKASIDE_LIST Lookaside,
       _In_opt_ PALLOCATE_FUNCTION Allocate, _In_opt_ PFREE_FUNCTION Free, _In_ ULONG Flags, _In_ SIZE_T Size,
       _In_ ULONG Tag, _In_ USHORT Depth)""",
    max_irql=APC_LEVEL,
)
def ExInitializePagedLookasideList(
    Lookaside: PAGED_LOOKASIDE_LIST,
    Allocate: Allocator | None,
    Free: Allocator | None,
    Flags: int,
    Size: int,
    Tag: str | int,
    Depth: int,
) -> None:
    """Make an empty list of entries of *Size* bytes in paged pool. IRQL: <= APC_LEVEL.

    *Flags* is 0 or has POOL_RAISE_IF_ALLOCATION_FAILURE. *Allocate* and *Free* are the driver's own routines, or None:
    an ``async def`` that takes PoolType, NumberOfBytes, Tag and returns a block, and one that takes Buffer. *Depth* is
    not used.
    """
    initialise(
        Lookaside,
        "ExInitializePagedLookasideList",
        Size,
        Tag,
        is_paged=True,
        raises=bool(Flags & POOL_RAISE_IF_ALLOCATION_FAILURE),
        allocator=Allocate,
        freer=Free,
    )


@routine(
    "wdm",
    "PVOID ExAllocateFromPagedLookasideList(_Inout_ PPAGED_LOOKASIDE_LIST Lookaside)",
    max_irql=APC_LEVEL,
    stops=allocate_stops,
)
async def ExAllocateFromPagedLookasideList(Lookaside: PAGED_LOOKASIDE_LIST) -> Any:
    """As ExAllocateFromLookasideListEx. IRQL: <= APC_LEVEL."""
    return await take(Lookaside, "ExAllocateFromPagedLookasideList")


@routine(
    "wdm",
    "VOID ExFreeToPagedLookasideList(_Inout_ PPAGED_LOOKASIDE_LIST Lookaside, _In_ PVOID Entry)",
    max_irql=APC_LEVEL,
    stops=free_stops,
)
async def ExFreeToPagedLookasideList(Lookaside: PAGED_LOOKASIDE_LIST, Entry: Any) -> None:
    """As ExFreeToLookasideListEx. IRQL: <= APC_LEVEL."""
    await give(Lookaside, Entry, "ExFreeToPagedLookasideList")


@routine(
    "wdm",
    "VOID ExDeletePagedLookasideList(_Inout_ PPAGED_LOOKASIDE_LIST Lookaside)",
    max_irql=APC_LEVEL,
)
async def ExDeletePagedLookasideList(Lookaside: PAGED_LOOKASIDE_LIST) -> None:
    """As ExDeleteLookasideListEx. IRQL: <= APC_LEVEL."""
    await delete(Lookaside, "ExDeletePagedLookasideList")
