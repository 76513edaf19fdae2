"""Reading, raising and lowering the IRQL (KE-IRQL).

A thread's level is nobody else's business, so that none of these schedules.
"""

from __future__ import annotations

from kemu.nt.bugcheck import (
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    IRQL_NOT_GREATER_OR_EQUAL,
    IRQL_NOT_LESS_OR_EQUAL,
    BugCheck,
)
from kemu.nt.integer import integer
from kemu.nt.kthread import DISPATCH_LEVEL, HIGH_LEVEL, current_kthread, irql_name
from kemu.nt.lock import check_lowered
from kemu.nt.routine import routine
from kemu.nt.system import report


@routine("wdm", "KIRQL KeGetCurrentIrql(VOID)")
def KeGetCurrentIrql() -> int:
    """The calling thread's IRQL. IRQL: any; no scheduling point, because nobody else changes it."""
    return current_kthread().irql


def raise_irql(new: int, name: str) -> int:
    """Raise the caller's IRQL to *new* and return the old one, on behalf of the routine called *name*."""
    integer(new, f"{name} to", 32)
    thread = current_kthread()
    old = thread.irql
    if not old <= new <= HIGH_LEVEL:
        report(
            "ke.irql-raise",
            f"{name} at {irql_name(old)} to {irql_name(new)}: IRQL is only raised by it, and to HIGH_LEVEL at most",
            BugCheck(IRQL_NOT_GREATER_OR_EQUAL, (0, old)),
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x30, old, new)),
        )
    thread.raised = (*thread.raised, (old, new))
    thread.irql = new
    return old


@routine("wdm", "VOID KeRaiseIrql(_In_ KIRQL NewIrql, _Out_ PKIRQL OldIrql)")
def KeRaiseIrql(NewIrql: int) -> int:
    """Raise the IRQL to *NewIrql* and return the old one, for `KeLowerIrql` (KE-IRQL-04).

    IRQL: any that is not above *NewIrql*; otherwise finding ``ke.irql-raise``, bug check 0x9.
    """
    return raise_irql(NewIrql, "KeRaiseIrql")


@routine("ntddk", "KIRQL KeRaiseIrqlToDpcLevel(VOID)")
def KeRaiseIrqlToDpcLevel() -> int:
    """Raise the IRQL to DISPATCH_LEVEL and return the old one.

    IRQL: any up to DISPATCH_LEVEL; otherwise finding ``ke.irql-raise``, bug check 0x9 (KE-IRQL-06).
    """
    return raise_irql(DISPATCH_LEVEL, "KeRaiseIrqlToDpcLevel")


@routine("wdm", "VOID KeLowerIrql(_In_ KIRQL NewIrql)")
def KeLowerIrql(NewIrql: int) -> None:
    """Go back to *NewIrql*, which the last raise returned (KE-IRQL-05).

    IRQL: any from *NewIrql* up. A level above the current one: finding ``ke.irql-lower``, bug check 0xA; any other
    value than the last raise's, or lowering below DISPATCH_LEVEL in a DPC: ``ke.irql-nesting``; the same under a spin
    lock: ``ke.spin-lowered`` (KE-SPIN-07). APCs that were held back come with the next call that is awaited.
    """
    integer(NewIrql, "KeLowerIrql to", 32)
    thread = current_kthread()
    now = thread.irql
    check_lowered(thread, NewIrql, "KeLowerIrql")
    if not 0 <= NewIrql <= now:
        report(
            "ke.irql-lower",
            f"KeLowerIrql at {irql_name(now)} to {irql_name(NewIrql)}, which is not lower",
            BugCheck(IRQL_NOT_LESS_OR_EQUAL, (0, now)),
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x31, now, NewIrql, 0)),
        )
    if thread.in_dpc and NewIrql < DISPATCH_LEVEL:
        report(
            "ke.irql-nesting",
            f"KeLowerIrql to {irql_name(NewIrql)} in a DPC, which runs at DISPATCH_LEVEL to its end",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x31, now, NewIrql, 1)),
        )
    if not thread.raised:
        report("ke.irql-nesting", f"KeLowerIrql to {irql_name(NewIrql)} without a raise that it would undo")
    elif thread.raised[-1] != (NewIrql, now):
        old, new = thread.raised[-1]
        report(
            "ke.irql-nesting",
            f"KeLowerIrql at {irql_name(now)} to {irql_name(NewIrql)}, where the last raise went from {irql_name(old)} "
            f"to {irql_name(new)}",
        )
    thread.raised = thread.raised[:-1]
    thread.irql = NewIrql
