"""Work items, worker threads, system threads, and their running in code that is gone."""

from kemu.nt.bugcheck import (
    ACTIVE_EX_WORKER_THREAD_TERMINATION,
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    PAGE_FAULT_IN_NONPAGED_AREA,
    WORKER_INVALID,
)
from kemu.verifier.catalogue.rule import WARNING, declare

declare("ke.work-requeued", "a work item was queued while it is queued", "KE-WORK-04", "FLT-WORK-09",
      stop=(WORKER_INVALID, 1))  # fmt: skip
declare("ke.work-freed-queued", "a work item was freed while it is queued", "KE-WORK-05", stop=(WORKER_INVALID, 2))
declare("ke.work-object", "IoQueueWorkItem with an item that was allocated with a driver object", "KE-WORK-08")
declare("ke.work-queue-invalid", "a work item was queued to a queue that does not exist", "KE-WORK-02",
        stop=(WORKER_INVALID, 6))  # fmt: skip
declare("ke.work-queue-type", "a work item was queued to a queue that is not for drivers", "KE-WORK-01", "KE-WORK-02",
        severity=WARNING)  # fmt: skip
declare("ke.work-leak", "a work item was not freed when its driver was unloaded", "KE-WORK-09", severity=WARNING)
declare("ke.work-left", "a work item that nothing keeps the driver for is queued or running as it is unloaded",
        "KE-WORK-07", "KE-UNLOAD-07",
        stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0))  # fmt: skip
declare("ke.work-lifetime", "a worker routine uses a context that was freed", "KE-WORK-16", "KE-REMLOCK-05",
        stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0))  # fmt: skip
declare("ke.work-long", "a worker routine kept its worker for longer than the budget", "KE-WORK-13", severity=WARNING)
declare("ke.worker-starvation", "all workers wait for work that is queued behind them", "KE-WORK-12")
declare("ke.worker-terminated", "a worker routine ends the system's worker thread", "KE-WORK-10",
        stop=(ACTIVE_EX_WORKER_THREAD_TERMINATION, 0))  # fmt: skip
declare("ke.thread-handle", "a system thread is created with attributes that a thread cannot have", "KE-THREAD-02")
declare("ke.thread-stop", "the handle of a thread was closed, and the thread goes on", "KE-THREAD-03", severity=WARNING)
declare("ke.thread-left", "a thread runs in the code of a driver that is unloaded", "KE-THREAD-04", "KE-UNLOAD-03",
        "KE-UNLOAD-07", stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0))  # fmt: skip
declare("ke.thread-unload-race", "a driver is unloaded while one of its threads, which has said that it is done, is at "
        "its last instructions", "KE-THREAD-04", "KE-RACE-16",
        stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0))  # fmt: skip
declare("ke.unload-running", "a routine or thread of a driver runs after the driver was unloaded",
        "KE-UNLOAD-03", "KE-WORK-07", "KE-TIMER-11", "KE-DPC-08", "KE-IRP-11", "KE-RACE-16",
        stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0))  # fmt: skip
