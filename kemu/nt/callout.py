"""What kinds of routines the system calls, and which bug check each is that returns with its thread changed.

An unverified Windows notices that late or never; Driver Verifier notices it as the routine returns, with a code for
each kind (KE-IRQL-09, KE-IRQL-10, KE-APC-07, KE-APC-08).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kemu.nt.bugcheck import (
    APC_INDEX_MISMATCH,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    IRQL_UNEXPECTED_VALUE,
    TIMER_OR_DPC_INVALID,
    WORKER_THREAD_RETURNED_AT_BAD_IRQL,
    BugCheck,
    BugCheckCode,
)
from kemu.nt.kthread import DISPATCH_LEVEL

if TYPE_CHECKING:
    from kemu.nt.kthread import KThread


@dataclass(frozen=True, slots=True)
class Callout:
    """One kind of routine."""

    name: str
    arbitrary: bool = False
    """Whether it runs in whatever thread happens to be current (KE-CTX-01)."""
    must_not_wait: bool = False
    """Whether it is called where others wait for it, and so must not wait for others (FLT-INST-06)."""
    unique: int = 2
    """The part of the first parameter of 0xC8 that says what has returned."""
    irql: tuple[BugCheckCode, int] | None = None
    """What Driver Verifier stops with if it returns at another IRQL."""
    apcs: tuple[BugCheckCode, int] | None = None
    """What Driver Verifier stops with if it returns with another APC disable count."""


CALLOUT: Final = Callout("callback")
DISPATCH_ROUTINE: Final = Callout(
    "dispatch routine",
    irql=(DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x05),
    apcs=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xC5),
)
"""A dispatch routine of a highest-level driver, which the requestor's own thread calls."""
LOWER_DISPATCH_ROUTINE: Final = Callout(
    "dispatch routine",
    arbitrary=True,
    irql=(DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x05),
    apcs=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xC5),
)
FAST_IO_ROUTINE: Final = Callout("fast I/O routine", apcs=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xC6))
COMPLETION_ROUTINE: Final = Callout(
    "completion routine",
    arbitrary=True,
    irql=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xFA),
    apcs=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xFB),
)
CANCEL_ROUTINE: Final = Callout("cancel routine", arbitrary=True)
DPC_ROUTINE: Final = Callout("DPC routine", arbitrary=True, apcs=(TIMER_OR_DPC_INVALID, 4))
TIMER_DPC_ROUTINE: Final = Callout("timer DPC routine", arbitrary=True, apcs=(TIMER_OR_DPC_INVALID, 5))
INTERRUPT_ROUTINE: Final = Callout(
    "interrupt service routine", arbitrary=True, unique=3, irql=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x111)
)
APC_ROUTINE: Final = Callout("APC routine", arbitrary=True, unique=1)
WORKER_ROUTINE: Final = Callout("worker routine")
INSTANCE_SETUP: Final = Callout("InstanceSetup callback", must_not_wait=True)


def kind_of(kind: Callout, thread: KThread) -> Callout:
    """*kind*, or what a routine of no particular kind is on *thread*."""
    if kind is CALLOUT and thread.actors and thread.actors[0].kind == "worker":
        return WORKER_ROUTINE
    return kind


def irql_changed(kind: Callout, before: int, now: int) -> tuple[BugCheck, BugCheck | None]:
    """What an unverified and a verified Windows stop with if a routine returns at *now* where it was called at
    *before*.
    """
    if kind is WORKER_ROUTINE and now >= DISPATCH_LEVEL:
        stop = BugCheck(WORKER_THREAD_RETURNED_AT_BAD_IRQL, (0, now))
    else:
        stop = BugCheck(IRQL_UNEXPECTED_VALUE, (now << 16 | before << 8 | kind.unique,))
    if kind.irql is None:
        return stop, None
    code, first = kind.irql
    return stop, BugCheck(code, (first, 0, before, now) if code != DRIVER_VERIFIER_DETECTED_VIOLATION else (first,))


def apcs_changed(kind: Callout, before: int, now: int) -> tuple[BugCheck, BugCheck | None]:
    """Likewise for its CombinedApcDisable, which was *before* and is *now*."""
    stop = BugCheck(APC_INDEX_MISMATCH, (0, 0, now, int(kind is WORKER_ROUTINE)))
    if kind.apcs is None:
        return stop, None
    code, first = kind.apcs
    return stop, BugCheck(code, (first, 0, now, before))
