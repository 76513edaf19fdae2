"""Freeing pool: what is found when the wrong thing is freed, or the right one too early (KE-POOL-07, KE-POOL-10)."""

from __future__ import annotations

from typing import Any, cast

from kemu.nt.allocation import Allocation
from kemu.nt.buffer import Pointer, allocation_of
from kemu.nt.bugcheck import BAD_POOL_CALLER, DRIVER_VERIFIER_DETECTED_VIOLATION, BugCheck
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.memory import Pool, tag_number, tag_text
from kemu.nt.routine import routine
from kemu.nt.storage import Storage
from kemu.nt.structure import Structure, become_freed
from kemu.nt.system import System, current_system, refuse, report
from kemu.runtime import BlockingOperation, Cell, Operation, Point, Thread
from kemu.runtime.site import Site, here


class FreeBlock(Operation[None]):
    """Free a block; a point of the schedule, because others may hold a pointer to it."""

    __slots__ = ("allocation", "where")
    kind = "free"

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.where: Site | None = here(current_kthread())

    def perform(self, thread: Thread) -> None:
        allocation = self.allocation
        thread.write(allocation)
        if allocation.freed is not None:
            address = allocation.address
            report(
                "ke.double-free",
                f"{thread.label} frees {allocation.describe()}, {allocation.freed_words} already",
                BugCheck(BAD_POOL_CALLER, (0x07, 0, 0, address)),
                verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x13, address)),
            )
            return
        thread.end(allocation)
        log = thread.runtime.log
        if log is not None:
            log("mem.free", tag=allocation.tag, size=int(allocation.size))
        release(thread, allocation, self.where)
        system: System = thread.runtime.system
        del system.get(Pool).allocations[allocation]

    def target(self) -> Cell:
        return self.allocation


def release(thread: Thread, allocation: Allocation, site: Site | None) -> None:
    """The memory of *allocation* is nobody's any more, given back by *thread* at *site*: so is what lies in it.

    What is in use there is finding ``ke.freed-active`` (KE-POOL-10), also if it is only about to be used.
    """
    system: System = thread.runtime.system
    allocation.freed = thread.label, site
    for part in allocation.parts:
        if isinstance(part, Structure):
            become_freed(part)
            continue
        words = f"in {allocation.describe()}, {allocation.freed_words}"
        left = part.still_active()
        if left is not None:
            detail = f"{thread.label} frees {allocation.describe()}, with {left.what}, in it"
            system.report(left.code, detail, left.bug_check, verifier=left.verifier)
        if isinstance(part, Cell):
            # Whatever another thread does to the object comes before or after this.
            thread.write(part)
            for other in thread.runtime.threads:
                if other is not thread and other.alive and part in _about_to_touch(other.op):
                    report(
                        allocation.freed_code,
                        f"{other.label} is about to {other.op.describe()}, {words}",
                    )
            system.freed[part] = words
            if allocation.freed_code != Allocation.freed_code:
                system.freed_codes[part] = allocation.freed_code
        part.storage_freed(words)
    become_freed(allocation.block)


def _about_to_touch(operation: Operation[Any]) -> tuple[Cell | None, ...]:
    if isinstance(operation, Point):
        # Whoever stands at the return from handing an object over leaves it alone: it may be gone by then.
        return ()
    if isinstance(operation, BlockingOperation):
        return operation.sources
    return (operation.target(),)


def free_ceiling(P: Structure, Tag: str | int = "") -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    allocation = allocation_of(P)
    return APC_LEVEL if allocation is not None and allocation.is_paged else DISPATCH_LEVEL


def is_nonpaged(P: Structure, *others: object) -> bool:
    """Whether it may be freed under a spin lock (KE-SPIN-08)."""
    allocation = allocation_of(P)
    return allocation is None or not allocation.is_paged


def free2_ceiling(P: Structure, Tag: str | int, ExtendedParameters: object, ExtendedParametersCount: int) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return free_ceiling(P)


def free_stops(irql: int, P: Structure, *others: object) -> tuple[BugCheck, BugCheck]:
    """The bug checks of freeing at too high an IRQL (KE-POOL-01)."""
    allocation = allocation_of(P)
    is_paged = allocation is not None and allocation.is_paged
    address = 0 if allocation is None else allocation.address
    return (
        BugCheck(BAD_POOL_CALLER, (0x09, irql, is_paged, address)),
        BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x11 if is_paged else 0x12, irql, is_paged, address)),
    )


def checked_block(block: Any, name: str) -> Allocation | None:
    """The pool's record of *block*, which is to be freed; a finding if it is not the beginning of one (KE-POOL-07).

    A class whose objects have a routine of their own to free them names it: `free_routine` (KE-POOL-15).
    """
    cls = cast("type[object]", type(block))
    kind = cls.__name__
    allocation = allocation_of(block)
    routine_name = getattr(cls, "free_routine", "") or (allocation.free_routine if allocation is not None else "")
    if routine_name:
        report(
            "ke.freed-elsewhere",
            f"{name} of {block}, a {kind}, which {routine_name} frees",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x105,)),
        )
    if allocation is not None and block is allocation.block:
        return allocation
    inside = allocation if allocation is not None else _around(block)
    if inside is not None and inside.freed is None:
        what = f"an address inside of {inside.describe()}"
        code = 0x41286 if inside.is_paged else 0x46
    elif inside is not None:
        return inside
    else:
        what = "NULL" if block is None else f"a {kind} that does not come from pool"
        code = 0x40 if getattr(cls, "is_user_memory", False) else 0x99
    report(
        "ke.pool-wrong-address",
        f"{name} of {what}",
        BugCheck(BAD_POOL_CALLER, (code,)),
        verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x10,)),
    )
    return None


def _around(address: object) -> Allocation | None:
    """The block that *address* points into: past the beginning, or at a kernel object."""
    if isinstance(address, Pointer):
        return allocation_of(address.region)
    if isinstance(address, Storage):
        for allocation in current_system().get(Pool).allocations:
            if any(part is address for part in allocation.parts):
                return allocation
    return None


async def _free(name: str, block: Any, tag: str | int | None) -> None:
    allocation = checked_block(block, name)
    if allocation is None:
        return
    if tag is not None and allocation.freed is None and tag_text(name, tag) != allocation.tag:
        report(
            "ke.pool-wrong-tag",
            f"{name} with tag '{tag_text(name, tag)}' of {allocation.describe()}",
            BugCheck(BAD_POOL_CALLER, (0x0A, allocation.address, tag_number(allocation.tag), tag_number(tag))),
        )
    await FreeBlock(allocation)


@routine(
    "wdm",
    "VOID ExFreePoolWithTag(_In_ PVOID P, _In_ ULONG Tag)",
    max_irql=free_ceiling,
    stops=free_stops,
    under_spin_lock=is_nonpaged,
)
async def ExFreePoolWithTag(P: Any, Tag: str | int) -> None:
    """Free a block that was allocated with *Tag*; 0 is any tag.

    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool. Findings: ``ke.double-free``, ``ke.pool-wrong-tag``,
    ``ke.pool-wrong-address`` (KE-POOL-07), each with bug check 0xC2; ``ke.freed-active`` for what is still in use
    inside the block (KE-POOL-10).
    """
    await _free("ExFreePoolWithTag", P, Tag or None)


@routine("wdm", "VOID ExFreePool(_In_ PVOID P)", max_irql=free_ceiling, stops=free_stops, under_spin_lock=is_nonpaged)
async def ExFreePool(P: Any) -> None:
    """Free a block, whatever its tag.

    IRQL: as ExFreePoolWithTag, whose findings it has, too.
    """
    await _free("ExFreePool", P, None)


@routine(
    "wdm",
    """VOID ExFreePool2(_Pre_notnull_ PVOID P, _In_ ULONG Tag,
       _In_reads_opt_(ExtendedParametersCount) PCPOOL_EXTENDED_PARAMETER ExtendedParameters,
       _In_ ULONG ExtendedParametersCount)""",
    max_irql=free2_ceiling,
    stops=free_stops,
    under_spin_lock=is_nonpaged,
)
async def ExFreePool2(P: Any, Tag: str | int, ExtendedParameters: object, ExtendedParametersCount: int) -> None:
    """Free a block that was allocated with *Tag*. There are no extended parameters: None and 0.

    IRQL: as ExFreePoolWithTag, whose findings it has, too.
    """
    if ExtendedParameters is not None or ExtendedParametersCount:
        refuse("ExFreePool2 with extended parameters, which kemu does not emulate", remedy="pass None and 0")
    await _free("ExFreePool2", P, Tag or None)
