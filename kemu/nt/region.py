"""Critical and guarded regions: in the one a thread gets no normal kernel APC, in the other none at all (KE-APC).

The counts belong to the calling thread and nobody else looks at them, so that these routines do not schedule.
"""

from __future__ import annotations

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.system import report


@routine("ntddk", "VOID KeEnterCriticalRegion(VOID)", max_irql=APC_LEVEL)
def KeEnterCriticalRegion() -> None:
    """Disable normal kernel APCs for the calling thread; regions nest (KE-APC-04, KE-APC-05).

    IRQL: <= APC_LEVEL. A callback that returns inside a region it entered: finding ``callback-dirty-exit``.
    """
    current_kthread().kernel_apc_disable += 1


@routine("ntddk", "VOID KeLeaveCriticalRegion(VOID)", max_irql=APC_LEVEL)
def KeLeaveCriticalRegion() -> None:
    """Leave the innermost critical region. IRQL: <= APC_LEVEL. Findings: ``ke.region-balance`` (KE-APC-06)."""
    thread = current_kthread()
    if thread.kernel_apc_disable == 0:
        report("ke.region-balance", f"{thread.label} leaves a critical region that it has not entered")
    thread.kernel_apc_disable -= 1


@routine("ntddk", "VOID KeEnterGuardedRegion(VOID)", max_irql=APC_LEVEL)
def KeEnterGuardedRegion() -> None:
    """Disable all APCs for the calling thread; regions nest (KE-APC-03, KE-APC-05).

    IRQL: <= APC_LEVEL. A callback that returns inside a region it entered: finding ``callback-dirty-exit``.
    """
    current_kthread().special_apc_disable += 1


@routine("ntddk", "VOID KeLeaveGuardedRegion(VOID)", max_irql=APC_LEVEL)
def KeLeaveGuardedRegion() -> None:
    """Leave the innermost guarded region. IRQL: <= APC_LEVEL. Findings: ``ke.region-balance`` (KE-APC-06)."""
    thread = current_kthread()
    if thread.special_apc_disable == 0:
        report("ke.region-balance", f"{thread.label} leaves a guarded region that it has not entered")
    thread.special_apc_disable -= 1


@routine("ntddk", "BOOLEAN KeAreApcsDisabled(VOID)", max_irql=DISPATCH_LEVEL)
def KeAreApcsDisabled() -> bool:
    """Whether the calling thread is in a critical or guarded region, whatever its IRQL (KE-APC-10).

    IRQL: <= DISPATCH_LEVEL.
    """
    thread = current_kthread()
    return thread.kernel_apc_disable > 0 or thread.special_apc_disable > 0


@routine("wdm", "BOOLEAN KeAreAllApcsDisabled(VOID)", max_irql=DISPATCH_LEVEL)
def KeAreAllApcsDisabled() -> bool:
    """Whether the calling thread is in a guarded region, or at APC_LEVEL or above (KE-APC-10).

    IRQL: <= DISPATCH_LEVEL.
    """
    thread = current_kthread()
    return thread.special_apc_disable > 0 or thread.irql >= APC_LEVEL
