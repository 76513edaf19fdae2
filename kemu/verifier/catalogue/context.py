"""IRQL, APCs and what a routine leaves behind on its thread."""

from kemu.nt.bugcheck import (
    APC_INDEX_MISMATCH,
    DPC_WATCHDOG_VIOLATION,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    INVALID_PROCESS_DETACH_ATTEMPT,
    IRQL_NOT_GREATER_OR_EQUAL,
    IRQL_NOT_LESS_OR_EQUAL,
    KERNEL_APC_PENDING_DURING_EXIT,
)
from kemu.verifier.catalogue.rule import WARNING, declare

declare("ke.irql", "a routine was called outside its IRQL range", "KE-IRQL-11", "KE-WAIT-04", "FLT-IRQL-06")
declare("ke.irql-raise", "IRQL is raised to a lower level, or beyond the highest", "KE-IRQL-04", "KE-IRQL-06",
      stop=(IRQL_NOT_GREATER_OR_EQUAL, 0), verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x30))  # fmt: skip
declare("ke.irql-lower", "IRQL is lowered to a higher level", "KE-IRQL-05",
      stop=(IRQL_NOT_LESS_OR_EQUAL, 0), verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x31))  # fmt: skip
declare(
    "ke.irql-nesting",
    "IRQL is restored to another value than was saved",
    "KE-SPIN-02",
    "KE-IRQL-05",
)
declare("ke.region-balance", "a critical region is left that was not entered", "KE-APC-06",
      verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x3E))  # fmt: skip
declare("ke.budget", "a processor is kept busy for longer than the documentation allows", "KE-IRQL-17",
      severity=WARNING)  # fmt: skip
declare("ke.dpc-watchdog", "a processor was kept at DISPATCH_LEVEL for too long", "KE-IRQL-18",
      stop=(DPC_WATCHDOG_VIOLATION, 0))  # fmt: skip
declare("ke.apc-io-deadlock", "a thread waits for I/O whose completion it does not let in", "KE-APC-13", "KE-APC-11",
      "KE-RACE-22", verifier=(DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x302))  # fmt: skip
declare("ke.apc-reentry", "an APC needs what the thread that it interrupts holds", "KE-APC-14", "KE-RACE-06")
declare("ke.apc-pending-exit", "a thread ends with a kernel APC that it does not let in", "KE-APC-09",
      stop=(KERNEL_APC_PENDING_DURING_EXIT, 0))  # fmt: skip
declare("ke.zw-apc", "a Zw routine was called where its APCs cannot come", "KE-IRQL-12", "KE-APC-11",
      verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xE6))  # fmt: skip
declare("ke.dirty-return", "a thread returns to user mode with something that belongs to the kernel", "KE-APC-07",
      "KE-IRQL-10", "KE-MUTEX-05", stop=(APC_INDEX_MISMATCH, 0))  # fmt: skip
declare("ke.previous-mode", "an Nt routine takes a driver's argument for a user program's", "KE-CTX-05")
declare("ke.attach-balance", "a thread detaches from a process that it did not attach to last", "KE-CTX-06",
      stop=(INVALID_PROCESS_DETACH_ATTEMPT, 0))  # fmt: skip
declare("ke.attached-io", "I/O is done while attached to another process", "KE-CTX-06", severity=WARNING)
declare(
    "callback-dirty-exit",
    "a callback returned with another IRQL or with a lock held",
    "FLT-PRE-27",
    "FLT-IRQL-10",
    "KE-IRQL-09",
    "KE-IRQL-10",
    "KE-APC-07",
    "KE-APC-08",
)
