"""Allocating, referencing and releasing contexts (FLT-CTX-01 to FLT-CTX-12, FLT-CTX-19 to FLT-CTX-26).

A context is an instance of the structure that it was allocated for, as a block of pool is:

    status, context = await FltAllocateContext(self.Filter, FLT_STREAM_CONTEXT, STREAM_CONTEXT, NonPagedPool)
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from kemu.fltmgr.context_end import destroy, ended, unlinked
from kemu.fltmgr.context_record import Context
from kemu.fltmgr.context_rules import over_released, referenced_after_free, the_context, too_high, used_after_release
from kemu.fltmgr.context_types import (
    FLT_SECTION_CONTEXT,
    FLT_VOLUME_CONTEXT,
    KIND_NAMES,
    MAXUSHORT,
    Definition,
    Definitions,
    bytes_of,
)
from kemu.fltmgr.objects import Filter
from kemu.fltmgr.structures import FLT_REGISTRATION
from kemu.nt.buffer import Bytes, fill
from kemu.nt.driver import DRIVER_OBJECT, in_driver
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.memory import NonPagedPool, NonPagedPoolNx, PagedPool
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_BUFFER_SIZE,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.structure import Size, Structure, furnish, paged_class
from kemu.nt.system import report, resources_fail
from kemu.runtime import Cell, Operation, Point, Thread

S = TypeVar("S", bound=Structure)


def declared_contexts(driver: DRIVER_OBJECT, registration: FLT_REGISTRATION) -> Definitions | None:
    """What *registration* says of contexts; None if it says nothing."""
    if not registration.ContextRegistration:
        return None
    definitions = Definitions(registration.ContextRegistration)
    if not definitions.is_terminated:
        report("reg-unterminated", f"the context array of {driver.name} does not end with FLT_CONTEXT_END")
    return definitions


class LookAtFilter(Operation[bool]):
    """Find out whether a filter is going away."""

    __slots__ = ("filter",)
    kind = "FltAllocateContext for"

    def __init__(self, filter_: Filter) -> None:
        self.filter = filter_

    def perform(self, thread: Thread) -> bool:
        thread.read(self.filter)
        return self.filter.deleting

    def target(self) -> Cell:
        return self.filter


@routine(
    "fltkernel",
    """NTSTATUS FltAllocateContext(_In_ PFLT_FILTER Filter, _In_ FLT_CONTEXT_TYPE ContextType, _In_ SIZE_T ContextSize,
       _In_ POOL_TYPE PoolType, _Outptr_ PFLT_CONTEXT *ReturnedContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltAllocateContext(
    Filter: Filter, ContextType: int, ContextSize: type[S] | int, PoolType: int
) -> tuple[NTSTATUS, S | None]:
    """Allocate a context and return the status and the context, which the caller holds a reference on (FLT-CTX-07).

    *ContextSize* is the class of the structure, or a number of bytes such as ``sizeof`` gives. The contents are not
    zeroed, but for contexts of a variable size (FLT-CTX-06). STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND if the filter has
    declared nothing of that kind and size (FLT-CTX-03), STATUS_FLT_DELETING_OBJECT once it is being unregistered,
    STATUS_INSUFFICIENT_RESOURCES where low resources are explored, STATUS_INVALID_BUFFER_SIZE for more than MAXUSHORT
    bytes, STATUS_INVALID_PARAMETER for no bytes, and for a kind or pool that there is not (FLT-CTX-04).
    IRQL: <= APC_LEVEL. Findings: ``volume-ctx-paged``, ``ctx-get-at-dispatch``.
    """
    size = bytes_of(ContextSize)
    if await LookAtFilter(Filter):
        return STATUS_FLT_DELETING_OBJECT, None
    if ContextType not in KIND_NAMES or size <= 0 or PoolType not in {NonPagedPool, NonPagedPoolNx, PagedPool}:
        return STATUS_INVALID_PARAMETER, None
    if size > MAXUSHORT:
        return STATUS_INVALID_BUFFER_SIZE, None
    if ContextType == FLT_VOLUME_CONTEXT and PoolType == PagedPool:
        report("volume-ctx-paged", f"{Filter.driver.driver} allocates a volume context of {int(size)} bytes")
        return STATUS_INVALID_PARAMETER, None
    definitions = Filter.context_definitions
    definition = None if definitions is None else definitions.choose(ContextType, size)
    if definition is None:
        return STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND, None
    thread = current_kthread()
    is_paged = PoolType == PagedPool
    if definition.allocates is not None:
        block = await in_driver(Filter.driver, "ContextAllocate", definition.allocates, PoolType, size, ContextType)
        if not isinstance(block, Structure):
            return STATUS_INSUFFICIENT_RESOURCES, None
        context = Context(thread, Filter, ContextType, definition, block, size, is_paged=is_paged)
        context.external = True
    elif resources_fail("FltAllocateContext"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    else:
        context = _make(thread, Filter, ContextType, definition, size, is_paged)
        block = context.block
    block.__dict__["_context"] = context
    # In the order of their names, whoever comes first.
    Filter.contexts.append(context)
    Filter.contexts.sort(key=lambda one: one.name)
    log = thread.runtime.log
    if log is not None:
        log("flt.ctx.alloc", flt=Filter.driver.label, kind=KIND_NAMES[ContextType], obj=context)
    return STATUS_SUCCESS, cast("S", block)


def _make(thread: KThread, filter_: Filter, kind: int, definition: Definition, size: int, is_paged: bool) -> Context:
    """Make a context in memory of the filter manager's."""
    structure = size.structure if isinstance(size, Size) else Bytes
    block: Structure = object.__new__(paged_class(structure) if is_paged and structure is not Bytes else structure)
    context = Context(thread, filter_, kind, definition, block, size, is_paged=is_paged)
    zeroed = definition.is_variable
    if isinstance(block, Bytes):
        fill(block, size, zeroed=zeroed)
        block.__dict__["_allocation"] = context
    else:
        furnish(block, structure, context, context.parts, zeroed=zeroed)
    return context


class ReferenceContext(Operation[None]):
    """Take a reference on a context that the thread can only hope is there."""

    __slots__ = ("context",)
    kind = "FltReferenceContext"

    def __init__(self, context: Context) -> None:
        self.context = context

    def perform(self, thread: Thread) -> None:
        context = self.context
        thread.read(context)
        if not context.keeps(thread):
            # It is there because of somebody else, who may let go of it.
            thread.write(context.counts)
        if context.is_over:
            referenced_after_free(thread, context, "FltReferenceContext")
            return
        context.take(thread, "FltReferenceContext")

    def target(self) -> Cell:
        return self.context.counts


class ReleaseContext(Operation["Context | None"]):
    """Drop a reference; evaluates to the context if the caller is to destroy it."""

    __slots__ = ("context", "name")
    kind = "FltReleaseContext"

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name

    def perform(self, thread: Thread) -> Context | None:
        context = self.context
        thread.read(context)
        if context.is_over or not context.holds:
            thread.write(context.counts)
            over_released(thread, context, self.name)
            return None
        return ended(thread, context) if context.drop(thread) else None

    def target(self) -> Cell:
        return self.context.counts


async def release_context(pointer: Any, name: str) -> None:
    """What FltReleaseContext does, for the routine *name*."""
    context = the_context(pointer, name)
    thread = current_kthread()
    if context.is_paged and thread.irql > APC_LEVEL:
        report(
            "ctx-release-irql",
            f"{thread.label} calls {name} on {context.describe()} in paged pool, at DISPATCH_LEVEL",
        )
    last = await ReleaseContext(context, name)
    if last is not None:
        await destroy(last)
    elif context.dying:
        # A worker has it, and may be done before this returns.
        await Point(f"return from releasing the {context.label}", context)


@routine("fltkernel", "VOID FltReferenceContext(_In_ PFLT_CONTEXT Context)", max_irql=DISPATCH_LEVEL)
async def FltReferenceContext(Context: Any) -> None:
    """Take one more reference on a context that the caller holds one on. IRQL: <= DISPATCH_LEVEL.

    Findings: ``ctx-ref-after-free`` (FLT-CTX-12).
    """
    await ReferenceContext(the_context(Context, "FltReferenceContext"))


@routine("fltkernel", "VOID FltReleaseContext(_In_ PFLT_CONTEXT Context)", max_irql=DISPATCH_LEVEL)
async def FltReleaseContext(Context: Any) -> None:
    """Drop a reference; the caller must not use the context any more.

    The last one, of a context that is not linked, has it cleaned up and freed: in this call, or by a worker if that is
    at DISPATCH_LEVEL (FLT-CTX-24). IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for a context in paged pool (FLT-CTX-25).
    Findings: ``ctx-over-release``, ``ctx-release-irql``.
    """
    await release_context(Context, "FltReleaseContext")


class DeleteContext(Operation["Context | None"]):
    """Take a context off its object; evaluates to it if the caller is to destroy it."""

    __slots__ = ("context",)
    kind = "FltDeleteContext"

    def __init__(self, context: Context) -> None:
        self.context = context

    def perform(self, thread: Thread) -> Context | None:
        context = self.context
        thread.read(context)
        thread.write(context.counts)
        what = f"{thread.label} calls FltDeleteContext on {context.describe()}"
        if context.is_over:
            used_after_release(thread, context, "FltDeleteContext")
            return None
        if context.slot is None:
            if context.unlinked not in {"deleted", "gone"}:
                why = f"which was {context.unlinked}" if context.unlinked else "which was never set"
                report("ctx-delete-invalid", f"{what}, {why}")
            return None
        if not context.holds:
            report("ctx-delete-invalid", f"{what}, on which nobody holds a reference")
        return unlinked(thread, context.slot.unlink(thread, "deleted"))

    def target(self) -> Cell:
        return self.context.counts


@routine(
    "fltkernel",
    "VOID FltDeleteContext(_In_ PFLT_CONTEXT Context)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteContext(Context: Any) -> None:
    """Take a context off the object that it is linked to, so that nobody finds it any more (FLT-CTX-19).

    The caller must hold a reference, which stays valid and is still to be released; only the first of several deletions
    does anything. IRQL: <= APC_LEVEL. Findings: ``ctx-delete-invalid`` (FLT-CTX-21), ``section-ctx-delete``
    (FLT-CTX-31), ``ctx-get-at-dispatch``.
    """
    context = the_context(Context, "FltDeleteContext")
    if context.kind == FLT_SECTION_CONTEXT:
        report("section-ctx-delete", f"{current_kthread().label} calls FltDeleteContext on {context.describe()}")
    last = await DeleteContext(context)
    if last is not None:
        await destroy(last)
