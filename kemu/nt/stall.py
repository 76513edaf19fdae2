"""Time that a processor is kept busy: KeStallExecutionProcessor, and the budgets that the documentation sets.

Virtual time stands still while threads run, so that stalling is the only way in which driver code takes time at a
raised IRQL. A stall lets that time pass: deadlines that fall into it may expire, and threads on other processors run
meanwhile.
"""

from __future__ import annotations

from typing import Final

from kemu.nt.bugcheck import DPC_WATCHDOG_VIOLATION, BugCheck
from kemu.nt.dispatcher import Delay
from kemu.nt.integer import integer
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK
from kemu.nt.system import current_system, report

MICROSECOND: Final = 10

STALL_BUDGET: Final = 50
"""Microseconds that a driver may stall the processor at a time (KE-IRQL-17)."""
DPC_BUDGET: Final = 100
"""Microseconds that a DPC may take."""
SPIN_LOCK_BUDGET: Final = 25
"""Microseconds that a spin lock may be held."""


class Watchdog:
    """The DPC watchdog, which is off unless a scenario sets a limit (KE-IRQL-18). Limits are in ticks of 100 ns."""

    def __init__(self) -> None:
        self.one_dpc: int | None = None
        """How long one DPC may stall its processor."""
        self.cumulative: int | None = None
        """How long a processor may be stalled at DISPATCH_LEVEL or above, in all."""

    def look(self, thread: KThread) -> None:
        """Judge *thread*, which has just stalled its processor."""
        if thread.in_dpc and self.one_dpc is not None and thread.dpc_ticks > self.one_dpc:
            self._bark(thread, f"one DPC took {thread.dpc_ticks} ticks", (0, thread.dpc_ticks, self.one_dpc))
        if self.cumulative is not None and thread.stalled > self.cumulative:
            what = f"{thread.stalled} ticks at DISPATCH_LEVEL or above"
            self._bark(thread, what, (1, self.cumulative))

    def _bark(self, thread: KThread, what: str, parameters: tuple[int, ...]) -> None:
        stop = BugCheck(DPC_WATCHDOG_VIOLATION, parameters)
        report("ke.dpc-watchdog", f"{thread.label}: {what}, which is more than the watchdog allows", stop)


def dpc_begins(thread: KThread) -> None:
    """*thread* begins a DPC: for whoever emulates DPCs."""
    thread.in_dpc = True
    thread.dpc_ticks = 0


def dpc_ends(thread: KThread) -> None:
    """*thread* has carried its DPC out."""
    thread.in_dpc = False


@routine("wdm", "VOID KeStallExecutionProcessor(_In_ ULONG MicroSeconds)")
async def KeStallExecutionProcessor(MicroSeconds: int) -> None:
    """Keep the calling thread's processor busy for *MicroSeconds* of virtual time.

    IRQL: any. More than the documentation allows - 50 at a time, 100 in a DPC, 25 under a spin lock - is warning
    ``ke.budget`` (KE-IRQL-17).
    """
    integer(MicroSeconds, "KeStallExecutionProcessor of", 32, signed=False)
    thread = current_kthread()
    check_budgets(thread, MicroSeconds)
    if MicroSeconds:
        await Delay(MicroSeconds * MICROSECOND, None)
    if thread.irql >= DISPATCH_LEVEL:
        thread.stalled += MicroSeconds * MICROSECOND
        thread.dpc_ticks += MicroSeconds * MICROSECOND
        current_system().get(Watchdog).look(thread)


def check_budgets(thread: KThread, microseconds: int) -> None:
    """The budgets that a stall of so many *microseconds* exceeds."""
    limit = DPC_BUDGET if thread.in_dpc else STALL_BUDGET
    if microseconds > limit:
        report("ke.budget", f"KeStallExecutionProcessor for {microseconds} us, where {limit} us are the most")
    for lock in thread.locks:
        if isinstance(lock, KSPIN_LOCK) and microseconds > SPIN_LOCK_BUDGET:
            report(
                "ke.budget",
                f"KeStallExecutionProcessor for {microseconds} us while {lock.label} is held, which should be for "
                f"{SPIN_LOCK_BUDGET} us at most",
            )
