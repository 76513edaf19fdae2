"""Critical regions: no normal kernel APC is delivered to a thread in one (KE-APC).

The count belongs to the calling thread and nobody else looks at it, so that these routines do not schedule.
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


@routine("ntddk", "BOOLEAN KeAreApcsDisabled(VOID)", max_irql=DISPATCH_LEVEL)
def KeAreApcsDisabled() -> bool:
    """Whether the calling thread is in a critical region, whatever its IRQL (KE-APC-10). IRQL: <= DISPATCH_LEVEL."""
    return current_kthread().kernel_apc_disable > 0
