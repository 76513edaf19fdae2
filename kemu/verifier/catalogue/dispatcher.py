"""Events, mutexes, semaphores, timers, DPCs, and waiting for them."""

from kemu.nt.bugcheck import (
    DRIVER_IRQL_NOT_LESS_OR_EQUAL,
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    KERNEL_SECURITY_CHECK_FAILURE,
    MAXIMUM_WAIT_OBJECTS_EXCEEDED,
    THREAD_TERMINATE_HELD_MUTEX,
    TIMER_OR_DPC_INVALID,
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
declare("ke.dpc-reinitialised", "a DPC was initialised again while it is queued", "KE-DPC-08",
        stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
declare("ke.dpc-freed", "the memory of a DPC was freed while it is queued", "KE-DPC-08",
        stop=(KERNEL_SECURITY_CHECK_FAILURE, 3), verifier=(TIMER_OR_DPC_INVALID, 1))  # fmt: skip
declare("ke.dpc-left", "a DPC is queued as its driver is unloaded", "KE-DPC-08", "KE-TIMER-17", "KE-UNLOAD-03",
        verifier=(TIMER_OR_DPC_INVALID, 2))  # fmt: skip
declare("ke.dpc-processor", "a DPC was given a processor that does not exist", "KE-DPC-01",
        stop=(TIMER_OR_DPC_INVALID, 3))  # fmt: skip
declare("ke.dpc-context-race", "a DPC routine reads what a later insertion has overwritten", "KE-DPC-04", "KE-RACE-03")
declare("ke.flush-dpc", "DPCs are waited for where one of them may be kept from running", "KE-DPC-07")
declare("ke.timer-units", "the period of a timer is hardly meant in the units it is given in", "KE-TIMER-03",
        severity=WARNING)  # fmt: skip
declare("ke.timer-reinitialised", "a timer was initialised again while it is set", "KE-TIMER-10",
        stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
declare("ke.timer-dpc-race", "the DPC of a timer that was cancelled uses memory that was freed", "KE-TIMER-06",
        "KE-RACE-02", "KE-ORD-06", stop=(DRIVER_IRQL_NOT_LESS_OR_EQUAL, 0))  # fmt: skip
declare("ke.timer-free-periodic", "the DPC of a periodic timer frees the timer", "KE-TIMER-08",
        stop=(KERNEL_SECURITY_CHECK_FAILURE, 3), verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x15))  # fmt: skip
declare("ke.timer-dpc-shared", "a DPC that a timer queues is queued by the driver as well", "KE-TIMER-09",
        severity=WARNING)  # fmt: skip
declare("ke.timer-freed", "the memory of a timer was freed while it is set", "KE-TIMER-10",
        stop=(KERNEL_SECURITY_CHECK_FAILURE, 3), verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x15))  # fmt: skip
declare("ke.timer-left", "a timer is set, or not deleted, as its driver is unloaded", "KE-TIMER-11", "KE-UNLOAD-03",
        stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0),
        verifier=(TIMER_OR_DPC_INVALID, 0))  # fmt: skip
declare("ke.timer-delete-wait", "ExDeleteTimer with Wait and without Cancel", "KE-TIMER-13",
        stop=(TIMER_OR_DPC_INVALID, 0))  # fmt: skip
declare("ke.timer-attributes", "a high-resolution timer with EX_TIMER_NO_WAKE, or with an absolute due time",
        "KE-TIMER-15", stop=(TIMER_OR_DPC_INVALID, 0))  # fmt: skip
