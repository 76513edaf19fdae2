"""Reading the IRQL (KE-IRQL)."""

from __future__ import annotations

from kemu.nt.kthread import current_kthread
from kemu.nt.routine import routine


@routine("wdm", "KIRQL KeGetCurrentIrql(VOID)")
def KeGetCurrentIrql() -> int:
    """The calling thread's IRQL. IRQL: any; no scheduling point, because nobody else changes it."""
    return current_kthread().irql
