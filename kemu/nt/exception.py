"""Structured exceptions: what a kernel routine raises instead of returning a status.

C catches one with ``__try`` and ``__except``; here it is a Python exception, to be caught by its name:

    try:
        KeReleaseMutex(mutex, False)
    except StructuredException as error:
        status = error.ExceptionCode
"""

from __future__ import annotations

from typing import Final, NoReturn

from kemu.nt.bugcheck import KMODE_EXCEPTION_NOT_HANDLED, BugCheck
from kemu.nt.kthread import APC_LEVEL, HIGH_LEVEL, current_kthread, irql_name
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_VIOLATION,
    STATUS_DATATYPE_MISALIGNMENT,
    STATUS_ILLEGAL_INSTRUCTION,
    STATUS_INSTRUCTION_MISALIGNMENT,
)
from kemu.nt.system import report


class StructuredException(Exception):
    """An exception that a kernel routine has raised. One that leaves a driver's routine stops the system."""

    def __init__(self, status: int, routine_name: str = "ExRaiseStatus") -> None:
        self.ExceptionCode = NTSTATUS(status)
        """What GetExceptionCode() returns in the filter expression."""
        super().__init__(f"{routine_name} raised {self.ExceptionCode}")


def raise_status(status: int, routine_name: str) -> NoReturn:
    """Raise *status* on behalf of *routine_name*.

    Above APC_LEVEL, or under a spin lock, no exception can be handled (KE-IRQL-19): finding ``ke.raise-at-dispatch``.
    """
    thread = current_kthread()
    if thread.irql > APC_LEVEL:
        report(
            "ke.raise-at-dispatch",
            f"{routine_name} raises {NTSTATUS(status)} at {irql_name(thread.irql)}",
            BugCheck(KMODE_EXCEPTION_NOT_HANDLED, (int(NTSTATUS(status)),)),
        )
    raise StructuredException(status, routine_name)


@routine(
    "ntddk", "DECLSPEC_NORETURN VOID ExRaiseStatus(_In_ NTSTATUS Status)", max_irql=APC_LEVEL, under_spin_lock=False
)
def ExRaiseStatus(Status: int) -> NoReturn:
    """Raise *Status* as an exception (KE-IRQL-19). IRQL: <= APC_LEVEL."""
    raise_status(Status, "ExRaiseStatus")


@routine("ntddk", "DECLSPEC_NORETURN VOID ExRaiseAccessViolation(VOID)", max_irql=APC_LEVEL, under_spin_lock=False)
def ExRaiseAccessViolation() -> NoReturn:
    """Raise STATUS_ACCESS_VIOLATION. IRQL: <= APC_LEVEL."""
    raise_status(STATUS_ACCESS_VIOLATION, "ExRaiseAccessViolation")


UNEXPECTED: Final = frozenset(
    {
        STATUS_ACCESS_VIOLATION,
        STATUS_DATATYPE_MISALIGNMENT,
        STATUS_ILLEGAL_INSTRUCTION,
        STATUS_INSTRUCTION_MISALIGNMENT,
    }
)
"""What an exception of the processor is for: a driver that comes to that is wrong, and should not go on."""


@routine("ntifs", "BOOLEAN FsRtlIsNtstatusExpected(_In_ NTSTATUS Exception)", max_irql=HIGH_LEVEL)
def FsRtlIsNtstatusExpected(Exception: int) -> bool:  # noqa: A002 - as the WDK has it
    """Whether an exception filter should handle an exception with that status, as one that routines raise on purpose.

    Its page speaks of nonfatal errors of the system, and does not list the others: they are an access violation, an
    illegal instruction and the two misalignments, as Windows is known to have it. IRQL: any.
    """
    return NTSTATUS(Exception) not in UNEXPECTED
