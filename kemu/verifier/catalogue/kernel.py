"""The kernel at large: use before initialisation, exceptions, runs that do not come to rest."""

from kemu.nt.bugcheck import (
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    KMODE_EXCEPTION_NOT_HANDLED,
    PAGE_FAULT_IN_NONPAGED_AREA,
    SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
    UNEXPECTED_KERNEL_MODE_TRAP,
)
from kemu.verifier.catalogue.rule import declare

declare("ke.uninitialised", "something was used before it was initialised", "KE-WAIT-02", "KE-SPIN-10")
declare("ke.unhandled-exception", "an exception left a driver's routine", "FLT-PRE-27",
      stop=(SYSTEM_THREAD_EXCEPTION_NOT_HANDLED, 0))  # fmt: skip
declare("ke.bad-pointer", "a routine was given NULL, or another object than it takes", "KE-WAIT-02", "KE-POOL-06",
      stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0))  # fmt: skip
declare("ke.raise-at-dispatch", "an exception is raised where none can be handled", "KE-IRQL-19", "KE-SPIN-08",
      stop=(KMODE_EXCEPTION_NOT_HANDLED, 0))  # fmt: skip
declare("ke.hang", "a thread waits for something that nobody will bring about", "KE-EVENT-05")
declare("ke.unload-hang", "a driver's unload never ends", "KE-VER-03",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x115))  # fmt: skip
declare("ke.step-limit", "the run did not come to rest within the step limit", "KE-WORK-13")
declare("ke.stack-overflow", "callbacks or calls are nested too deep for a kernel stack", "KE-CTX-07",
        stop=(UNEXPECTED_KERNEL_MODE_TRAP, 8))  # fmt: skip
