"""The filter manager's acquisition of resources: that of the kernel, in a critical region of its own (FLT-IRQL-09)."""

from __future__ import annotations

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.ownership import ERESOURCE, EXCLUSIVE, SHARED
from kemu.nt.resource import enter_and_acquire, release
from kemu.nt.routine import routine
from kemu.nt.system import report


@routine(
    "fltkernel",
    "VOID FltAcquireResourceExclusive(_Inout_ PERESOURCE Resource)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltAcquireResourceExclusive(Resource: ERESOURCE) -> None:
    """Enter a critical region and acquire *Resource* exclusively. IRQL: <= APC_LEVEL.

    Findings: those of ExAcquireResourceExclusiveLite. A thread that has it shared waits for itself.
    """
    await enter_and_acquire(Resource, EXCLUSIVE, "FltAcquireResourceExclusive")


@routine(
    "fltkernel",
    "VOID FltAcquireResourceShared(_Inout_ PERESOURCE Resource)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltAcquireResourceShared(Resource: ERESOURCE) -> None:
    """Enter a critical region and acquire *Resource* shared. IRQL: <= APC_LEVEL."""
    await enter_and_acquire(Resource, SHARED, "FltAcquireResourceShared")


@routine("fltkernel", "VOID FltReleaseResource(_Inout_ PERESOURCE Resource)", max_irql=DISPATCH_LEVEL)
async def FltReleaseResource(Resource: ERESOURCE) -> None:
    """Undo one acquisition, and leave its critical region. IRQL: <= DISPATCH_LEVEL."""
    thread = current_kthread()
    await release(Resource, thread, "FltReleaseResource")
    if thread.kernel_apc_disable == 0:
        label = Resource.label
        report("ke.region-balance", f"{thread.label} has left the critical region of {label} before releasing it")
    thread.kernel_apc_disable -= 1
