"""Several contexts at once, and which kinds a file can have (FLT-CTX-10, FLT-CTX-30)."""

from __future__ import annotations

from typing import Any

from kemu.fltmgr.context import release_context
from kemu.fltmgr.context_links import GetContext, carrier
from kemu.fltmgr.context_rules import too_high
from kemu.fltmgr.context_types import (
    FLT_ALL_CONTEXTS,
    FLT_FILE_CONTEXT,
    FLT_RELATED_CONTEXTS,
    FLT_RELATED_CONTEXTS_EX,
    FLT_SECTION_CONTEXT,
    FLT_STREAM_CONTEXT,
    FLT_STREAMHANDLE_CONTEXT,
    FLT_TRANSACTION_CONTEXT,
    FLT_VOLUME_CONTEXT,
    MEMBERS,
    ON_FILES,
)
from kemu.fltmgr.objects import Instance
from kemu.fltmgr.structures import FLT_RELATED_OBJECTS
from kemu.io.request import FileObject
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.nt.structure import sizeof
from kemu.runtime import Cell


async def _collect(
    name: str, objects: FLT_RELATED_OBJECTS, desired: int, found: FLT_RELATED_CONTEXTS, known: int
) -> None:
    """Fill *found*, which has members for the *known* kinds, with the contexts of the *desired* ones."""
    instance, volume, file = objects.Instance, objects.Volume, objects.FileObject
    transaction: Cell | None = getattr(objects, "Transaction", None)
    for kind, member in MEMBERS.items():
        if not kind & known:
            continue
        block: Any = None
        target: Cell | None = instance
        if kind == FLT_VOLUME_CONTEXT:
            target = volume
        elif kind & ON_FILES:
            target = file
        elif kind == FLT_TRANSACTION_CONTEXT:
            target = transaction
        elif kind == FLT_SECTION_CONTEXT:
            target = None
        if kind & desired and target is not None:
            owner = objects.Filter if kind == FLT_VOLUME_CONTEXT else instance
            # What is not there, or cannot be, is merely None.
            _, block = await GetContext(name, kind, owner, target, quiet=True)
        setattr(found, member, block)


@routine(
    "fltkernel",
    """VOID FltGetContexts(_In_ PCFLT_RELATED_OBJECTS FltObjects, _In_ FLT_CONTEXT_TYPE DesiredContexts,
       _Out_ PFLT_RELATED_CONTEXTS Contexts)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetContexts(FltObjects: FLT_RELATED_OBJECTS, DesiredContexts: int) -> FLT_RELATED_CONTEXTS:
    """The contexts of the *DesiredContexts* of what an operation is about, each with a reference (FLT-CTX-10).

    None for what is not there, cannot be there, or was not asked for. IRQL: <= APC_LEVEL.
    Findings: ``ctx-get-at-dispatch``.
    """
    found = FLT_RELATED_CONTEXTS()
    await _collect("FltGetContexts", FltObjects, DesiredContexts, found, FLT_ALL_CONTEXTS)
    return found


@routine(
    "fltkernel",
    """NTSTATUS FltGetContextsEx(_In_ PCFLT_RELATED_OBJECTS FltObjects, _In_ FLT_CONTEXT_TYPE DesiredContexts,
       _In_ SIZE_T ContextsSize, _Out_ PFLT_RELATED_CONTEXTS_EX Contexts)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetContextsEx(
    FltObjects: FLT_RELATED_OBJECTS, DesiredContexts: int, ContextsSize: int
) -> tuple[NTSTATUS, FLT_RELATED_CONTEXTS_EX | None]:
    """As FltGetContexts, with room for a section context, of which an operation has none.

    STATUS_INVALID_PARAMETER if *ContextsSize* is not ``sizeof(FLT_RELATED_CONTEXTS_EX)``. IRQL: <= APC_LEVEL.
    """
    if ContextsSize != sizeof(FLT_RELATED_CONTEXTS_EX):
        return STATUS_INVALID_PARAMETER, None
    found = FLT_RELATED_CONTEXTS_EX()
    await _collect("FltGetContextsEx", FltObjects, DesiredContexts, found, FLT_ALL_CONTEXTS | FLT_SECTION_CONTEXT)
    return STATUS_SUCCESS, found


async def _release_all(name: str, contexts: FLT_RELATED_CONTEXTS) -> None:
    for member in MEMBERS.values():
        block = getattr(contexts, member, None)
        if block is not None:
            await release_context(block, name)


@routine("fltkernel", "VOID FltReleaseContexts(_In_ PFLT_RELATED_CONTEXTS Contexts)", max_irql=DISPATCH_LEVEL)
async def FltReleaseContexts(Contexts: FLT_RELATED_CONTEXTS) -> None:
    """Release every context that FltGetContexts has found. IRQL: as FltReleaseContext."""
    await _release_all("FltReleaseContexts", Contexts)


@routine(
    "fltkernel",
    "VOID FltReleaseContextsEx(_In_ SIZE_T ContextsSize, _In_ PFLT_RELATED_CONTEXTS_EX Contexts)",
    max_irql=DISPATCH_LEVEL,
)
async def FltReleaseContextsEx(ContextsSize: int, Contexts: FLT_RELATED_CONTEXTS_EX) -> None:
    """Release every context that FltGetContextsEx has found. IRQL: as FltReleaseContext."""
    await _release_all("FltReleaseContextsEx", Contexts)


def _supports(kind: int, file: FileObject) -> bool:
    # The answer does not change while the file is open: no place for another thread to run.
    return carrier(current_kthread(), kind, file) is not None


@routine("fltkernel", "BOOLEAN FltSupportsFileContexts(_In_ PFILE_OBJECT FileObject)", max_irql=APC_LEVEL)
def FltSupportsFileContexts(FileObject: FileObject) -> bool:
    """Whether the file system keeps contexts for the file itself; false as well if that is not open (FLT-CTX-30).

    IRQL: <= APC_LEVEL.
    """
    return _supports(FLT_FILE_CONTEXT, FileObject) and FileObject.volume.filesystem.has_file_contexts


@routine(
    "fltkernel",
    "BOOLEAN FltSupportsFileContextsEx(_In_ PFILE_OBJECT FileObject, _In_opt_ PFLT_INSTANCE Instance)",
    max_irql=APC_LEVEL,
)
def FltSupportsFileContextsEx(FileObject: FileObject, Instance: Instance | None = None) -> bool:
    """Whether the file can have a context; for an *Instance* also where the filter manager makes do with the stream's.

    IRQL: <= APC_LEVEL.
    """
    if Instance is None:
        return FltSupportsFileContexts(FileObject)
    return _supports(FLT_FILE_CONTEXT, FileObject)


@routine("fltkernel", "BOOLEAN FltSupportsStreamContexts(_In_ PFILE_OBJECT FileObject)", max_irql=APC_LEVEL)
def FltSupportsStreamContexts(FileObject: FileObject) -> bool:
    """Whether the stream can have a context. IRQL: <= APC_LEVEL."""
    return _supports(FLT_STREAM_CONTEXT, FileObject)


@routine("fltkernel", "BOOLEAN FltSupportsStreamHandleContexts(_In_ PFILE_OBJECT FileObject)", max_irql=APC_LEVEL)
def FltSupportsStreamHandleContexts(FileObject: FileObject) -> bool:
    """Whether the file object can have a context. IRQL: <= APC_LEVEL."""
    return _supports(FLT_STREAMHANDLE_CONTEXT, FileObject)
