"""Buffers for non-cached I/O, which begin where sectors do (FLT-IO-07)."""

from __future__ import annotations

from typing import Any

from kemu.fltmgr.objects import Instance
from kemu.nt.freeing import ExFreePoolWithTag, free_ceiling
from kemu.nt.memory import ExAllocatePoolUninitialized, pool_type_ceiling
from kemu.nt.routine import routine


def _ceiling(Instance: Instance, PoolType: int, NumberOfBytes: int, Tag: str | int) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return pool_type_ceiling(PoolType, NumberOfBytes)


def _free_ceiling(Instance: Instance, Buffer: Any, Tag: str | int) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL for paged pool."""
    return free_ceiling(Buffer)


@routine(
    "fltkernel",
    """PVOID FltAllocatePoolAlignedWithTag(_In_ PFLT_INSTANCE Instance, _In_ POOL_TYPE PoolType,
       _In_ SIZE_T NumberOfBytes, _In_ ULONG Tag)""",
    max_irql=_ceiling,
)
async def FltAllocatePoolAlignedWithTag(Instance: Instance, PoolType: int, NumberOfBytes: int, Tag: str | int) -> Any:
    """Allocate a buffer for non-cached I/O on the volume of *Instance*, at a sector's address, or None.

    How long non-cached I/O has to be, the driver sees to itself. FltFreePoolAlignedWithTag frees it.
    IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool. Findings as ExAllocatePoolUninitialized.
    """
    return await ExAllocatePoolUninitialized(PoolType, NumberOfBytes, Tag)


@routine(
    "fltkernel",
    """VOID FltFreePoolAlignedWithTag(_In_ PFLT_INSTANCE Instance, _In_ PVOID Buffer, _In_ ULONG Tag)""",
    max_irql=_free_ceiling,
)
async def FltFreePoolAlignedWithTag(Instance: Instance, Buffer: Any, Tag: str | int) -> None:
    """Free a buffer of FltAllocatePoolAlignedWithTag. IRQL: <= DISPATCH_LEVEL; <= APC_LEVEL for paged pool.

    Findings as ExFreePoolWithTag.
    """
    await ExFreePoolWithTag(Buffer, Tag)
