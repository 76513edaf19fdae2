"""Events, mutexes, semaphores, timers, DPCs, and waiting for them."""

from kemu.nt.bugcheck import (
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    KERNEL_SECURITY_CHECK_FAILURE,
    MAXIMUM_WAIT_OBJECTS_EXCEEDED,
    THREAD_TERMINATE_HELD_MUTEX,
)
from kemu.verifier.catalogue.rule import INFO, WARNING, declare

declare("ke.event-reinitialised", "a dispatcher object was initialised again while threads wait for it", "KE-EVENT-06",
      stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
declare("ke.lost-wakeup", "a signal was cleared before the wait that needed it", "KE-EVENT-05", "KE-EVENT-04",
      "KE-RACE-01")  # fmt: skip
declare("ke.pulse", "KePulseEvent misses a waiter that is in a kernel APC", "KE-EVENT-04", severity=WARNING)
declare("ke.wait-status", "the status of a wait that was not satisfied passes for a success", "KE-WAIT-05",
      severity=WARNING)  # fmt: skip
declare("ke.wait-objects", "a wait for more objects than there are wait blocks", "KE-WAIT-10",
      stop=(MAXIMUM_WAIT_OBJECTS_EXCEEDED, 0))  # fmt: skip
declare("ke.wait-true", "a call that announced a wait was followed by something else", "KE-WAIT-17")
declare("ke.wait-mode", "a wait is neither for the kernel alone nor one that a user may end", "KE-WAIT-19",
      severity=INFO)  # fmt: skip
declare("ke.arbitrary-wait", "an arbitrary thread is made to wait", "KE-CTX-02", severity=WARNING)
declare("ke.unkillable-wait", "a wait in UserMode cannot be ended because APCs are disabled", "KE-APC-12")
declare("ke.stack-object-usermode", "a wait in UserMode uses an object on the kernel stack", "KE-WAIT-09", "KE-CTX-08",
      verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x123))  # fmt: skip
declare("ke.user-apc-loop", "a thread waits again instead of returning to user mode", "KE-WAIT-07", severity=WARNING)
declare("ke.mutex-usermode", "a wait for a mutex is in UserMode", "KE-WAIT-08")
declare("ke.mutex-held-at-exit", "a thread ends while it owns a mutex", "KE-MUTEX-05",
      stop=(THREAD_TERMINATE_HELD_MUTEX, 0))  # fmt: skip
declare("ke.abandoned", "a mutex was abandoned, and its new owner did not look", "KE-MUTEX-06", severity=WARNING)
declare("ke.semaphore-range", "a semaphore's count or limit is out of range", "KE-SEM-01")
declare("ke.init-irql", "an object is initialised above the level that its page states", "KE-SEM-01", "KE-IRQL-11",
      severity=INFO)  # fmt: skip
