"""Every finding kemu can report: its code, what rule is broken, and what Windows would do about it.

An error ends the run; a warning is noted, and the run goes on. The rules are listed in docs/reference/rules.md.
Where a condition of the filter manager is one of the kernel's as well, the kernel's code is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from kemu.nt.bugcheck import (
    BAD_POOL_CALLER,
    FLTMGR_FILE_SYSTEM,
    KERNEL_SECURITY_CHECK_FAILURE,
    SPIN_LOCK_ALREADY_OWNED,
    SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
    WORKER_INVALID,
    BugCheck,
    BugCheckCode,
)

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding."""

    code: str
    title: str
    rules: tuple[str, ...]
    severity: str = ERROR
    bug_check: BugCheck | None = None


CATALOGUE: dict[str, Rule] = {}


def _rule(
    code: str, title: str, *rules: str, warning: bool = False, stop: tuple[BugCheckCode, int] | None = None
) -> None:
    bug_check = BugCheck(stop[0], (stop[1],), title) if stop is not None else None
    CATALOGUE[code] = Rule(code, title, rules, WARNING if warning else ERROR, bug_check)


# The kernel.
_rule("ke.irql", "a routine was called outside its IRQL range", "KE-IRQL-11", "FLT-IRQL-06")
_rule("ke.uninitialised", "something was used before it was initialised", "KE-WAIT-02", "KE-SPIN-10")
_rule("ke.event-reinitialised", "an event was initialised again while threads wait for it", "KE-EVENT-06",
      stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
_rule("ke.self-deadlock", "a thread acquires a lock that it owns and that is not recursive",
      "KE-FMUTEX-03", "KE-SPIN-05", stop=(SPIN_LOCK_ALREADY_OWNED, 0))  # fmt: skip
_rule("ke.lock-not-owned", "a lock is released by a thread that does not own it", "KE-FMUTEX-02", "KE-SPIN-06")
_rule(
    "ke.irql-nesting",
    "IRQL is restored to another value than the acquisition saved",
    "KE-SPIN-02",
    "KE-IRQL-05",
)
_rule("ke.region-balance", "a critical region is left that was not entered", "KE-APC-06")
_rule("ke.spin-forbidden-call", "a thread waits while it holds a spin lock", "KE-SPIN-08")
_rule("ke.use-after-free", "memory was used after it was freed", "KE-POOL-08")
_rule("ke.data-race", "two threads access the same data, one of them changes it, and nothing orders them",
      "KE-INTLK-05", "KE-WORK-06", "KE-WORK-15", "FLT-STACK-09")  # fmt: skip
_rule("ke.double-free", "a block was freed twice", "KE-POOL-07", stop=(BAD_POOL_CALLER, 7))
_rule("ke.pool-wrong-tag", "a block was freed with another tag", "KE-POOL-07", stop=(BAD_POOL_CALLER, 0xA))
_rule("ke.pool-wrong-address", "something was freed that pool did not hand out", "KE-POOL-07",
      stop=(BAD_POOL_CALLER, 0x99))  # fmt: skip
_rule("ke.pool-zero-bytes", "zero bytes were allocated", "KE-POOL-04", stop=(BAD_POOL_CALLER, 0))
_rule("ke.pool-leak", "pool was not freed when its driver was unloaded", "KE-POOL-11")
_rule("ke.list-corruption", "a list entry's neighbours do not point at it", "KE-LIST-03",
      stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
_rule("ke.work-requeued", "a work item was queued while it is queued", "KE-WORK-04", "FLT-WORK-09",
      stop=(WORKER_INVALID, 1))  # fmt: skip
_rule("ke.work-freed-queued", "a work item was freed while it is queued", "KE-WORK-05", stop=(WORKER_INVALID, 2))
_rule("ke.unhandled-exception", "an exception left a driver's routine", "FLT-PRE-27",
      stop=(SYSTEM_THREAD_EXCEPTION_NOT_HANDLED, 0))  # fmt: skip
_rule("ke.deadlock", "threads wait for each other in a cycle", "KE-RACE-05")
_rule("ke.hang", "a thread waits for something that nobody will bring about", "KE-EVENT-05")
_rule("ke.worker-starvation", "all workers wait for work that is queued behind them", "KE-WORK-12")
_rule("ke.step-limit", "the run did not come to rest within the step limit", "KE-WORK-13")
_rule(
    "callback-dirty-exit",
    "a callback returned with another IRQL or with a lock held",
    "FLT-PRE-27",
    "FLT-IRQL-10",
)

# Registration, start, unload.
_rule("reg-version", "FLT_REGISTRATION has a wrong Version", "FLT-REG-03")
_rule("reg-unterminated", "the operation array does not end with IRP_MJ_OPERATION_END", "FLT-REG-04")
_rule("reg-foreign", "a driver registers or unregisters another one's filter", "FLT-REG-05")
_rule(
    "reg-illegal-major",
    "a callback was registered for a major function no file system receives",
    "FLT-REG-06",
)
_rule("reg-shutdown-postop", "a post-operation callback was registered for IRP_MJ_SHUTDOWN", "FLT-REG-07")
_rule("reg-duplicate-major", "one major function was registered twice", "FLT-REG-08")
_rule("reg-order", "DriverEntry succeeded without having started to filter", "FLT-REG-01")
_rule(
    "driverentry-fail-leak",
    "a failing DriverEntry left a registration or memory behind",
    "FLT-REG-22",
    "KE-UNLOAD-02",
)
_rule("double-unregister", "FltUnregisterFilter was called twice", "FLT-UNLOAD-15")
_rule("unload-no-unregister", "FilterUnload succeeded without FltUnregisterFilter", "FLT-UNLOAD-06")
_rule("unload-refused-after-teardown", "FilterUnload refused although it has unregistered", "FLT-UNLOAD-09")
_rule("unload-hang", "FltUnregisterFilter waits for a reference that nobody drops", "FLT-UNLOAD-14")
_rule("unload-foreign-callback", "a work item that the filter manager does not know ran in an unloaded driver",
      "FLT-UNLOAD-17", "FLT-RACE-32")  # fmt: skip
_rule("ref-underflow", "a reference was dropped that was not held", "FLT-REF-03")
_rule("ref-leak", "a rundown reference was never dropped", "FLT-REF-03")
_rule("relobj-write", "FltObjects was written by a callback", "FLT-STACK-11")

# Pre-operation callbacks and pending.
_rule("preop-unknown-status", "a pre-operation callback returned something that is no FLT_PREOP_CALLBACK_STATUS",
      "FLT-PRE-02")  # fmt: skip
_rule("preop-context-leak", "a completion context was returned that no post-operation callback will receive",
      "FLT-PRE-04", "FLT-PEND-04")  # fmt: skip
_rule("preop-callback-without-postop", "a post-operation callback was asked for and none is registered",
      "FLT-PRE-07", "FLT-PEND-05", stop=(FLTMGR_FILE_SYSTEM, 0x66))  # fmt: skip
_rule("complete-without-status", "FLT_PREOP_COMPLETE without a status in IoStatus", "FLT-PRE-09")
_rule("complete-bad-status", "an operation was completed with a status that is not final", "FLT-PRE-10")
_rule(
    "cleanup-close-failed",
    "a cleanup or close was completed with a status other than STATUS_SUCCESS",
    "FLT-PRE-11",
)
_rule(
    "sync-on-create",
    "FLT_PREOP_SYNCHRONIZE for a create, which is synchronised already",
    "FLT-PRE-15",
    warning=True,
)
_rule("sync-async-rw", "FLT_PREOP_SYNCHRONIZE for an asynchronous read or write", "FLT-PRE-16")
_rule("pend-non-irp", "FLT_PREOP_PENDING for an operation that is no IRP", "FLT-PRE-19")
_rule(
    "disallow-fastio-non-fastio",
    "FLT_PREOP_DISALLOW_FASTIO for an operation that is not fast I/O",
    "FLT-PRE-20",
)
_rule(
    "disallow-fastio-status",
    "IoStatus was written together with FLT_PREOP_DISALLOW_FASTIO",
    "FLT-PRE-23",
    warning=True,
)
_rule("disallow-fsfilter-wrong-major", "DISALLOW_FSFILTER_IO for an operation other than IRP_MJ_QUERY_OPEN",
      "FLT-PRE-24", "FLT-POST-27")  # fmt: skip
_rule("params-not-dirty", "parameters were changed without FltSetCallbackDataDirty", "FLT-CBD-06")
_rule("iostatus-wrong-place", "IoStatus was written although the operation goes on", "FLT-CBD-08")
_rule("major-changed", "MajorFunction was changed", "FLT-CBD-11")
_rule("cbd-flag-write", "Data->Flags was written", "FLT-CBD-03")
_rule("cbd-readonly-write", "a read-only member of the callback data was written", "FLT-CBD-04")
_rule("cbd-use-after-release", "callback data was used after control of the operation was given back",
      "FLT-CBD-18", "FLT-WORK-06", "FLT-RACE-01")  # fmt: skip
_rule("hand-off-race", "something that was handed over is used, and nothing orders that before its new owner is done",
      "FLT-WORK-05", "FLT-WORK-06", "FLT-CBD-18", "FLT-RACE-01")  # fmt: skip
_rule("pend-not-returned", "an operation was handed over, but the callback did not return FLT_PREOP_PENDING",
      "FLT-PEND-10", "FLT-WORK-06", "FLT-CBDQ-07", "FLT-POST-11")  # fmt: skip
_rule("pend-orphan", "FLT_PREOP_PENDING was returned although the operation could not be queued",
      "FLT-PEND-11", "FLT-CBDQ-07", "FLT-WORK-04")  # fmt: skip
_rule("pend-bad-status", "FltCompletePendedPreOperation with a status that cannot resume", "FLT-PEND-03")
_rule("pend-complete-not-pended", "FltCompletePendedPreOperation for an operation that the instance has not pended",
      "FLT-PEND-12")  # fmt: skip
_rule("pend-double-complete", "a pended operation was completed twice", "FLT-PEND-02", "FLT-RACE-04")
_rule("pend-never-completed", "a pended operation was never completed", "FLT-PEND-02", "FLT-RACE-15")
_rule("lock-across-io", "a lock is held while an operation is passed on", "FLT-PEND-20", "FLT-PRE-18")
_rule("pend-after-teardown-start", "an operation was handed over after InstanceTeardownStart had returned",
      "FLT-INST-21", "FLT-RACE-20")  # fmt: skip

# Post-operation callbacks.
_rule("postop-unknown-status", "a post-operation callback returned something that is no FLT_POSTOP_CALLBACK_STATUS",
      "FLT-POST-06")  # fmt: skip
_rule("postop-bad-status", "a post-operation callback set a status that is not final", "FLT-POST-25")
_rule("postpend-non-irp", "FLT_POSTOP_MORE_PROCESSING_REQUIRED for an operation that is no IRP", "FLT-POST-09")
_rule(
    "postpend-orphan",
    "FLT_POSTOP_MORE_PROCESSING_REQUIRED although the operation could not be queued",
    "FLT-POST-10",
)
_rule("postpend-never-completed", "a pended post-operation was never completed", "FLT-POST-11")
_rule("postpend-double-complete", "a pended post-operation was completed twice", "FLT-POST-11")
_rule("wrong-resume-routine", "an operation was resumed with the other phase's routine", "FLT-WORK-07")
_rule("drain-more-processing", "FLT_POSTOP_MORE_PROCESSING_REQUIRED for a draining operation", "FLT-POST-12")

# Work items, cancellation, queues.
_rule("queue-type-reserved", "HyperCriticalWorkQueue is reserved for the system", "FLT-WORK-13", "KE-WORK-02")
_rule("workitem-leak", "a work item was never freed", "FLT-WORK-08")
_rule("workitem-double-free", "a work item was freed twice", "FLT-WORK-08")
_rule("workitem-kind-mismatch", "a work item was freed with the other kind's routine", "FLT-WORK-08")
_rule(
    "cancel-set-illegal",
    "FltSetCancelCompletion for an operation that is no IRP, or is paging I/O",
    "FLT-CANCEL-01",
)
_rule("cancel-set-with-cbdq", "FltSetCancelCompletion for an operation in a cancel-safe queue", "FLT-CANCEL-02")
_rule("cancel-double-complete", "an operation was completed both by its owner and by its cancel callback",
      "FLT-CANCEL-05", "FLT-RACE-11")  # fmt: skip
_rule("cancel-not-completed", "an operation's cancel callback did not complete it, and nobody else did",
      "FLT-CANCEL-06", "FLT-CBDQ-10")  # fmt: skip
_rule("cancel-lost", "an operation was cancelled before its cancel callback was set; nobody completes it",
      "FLT-CANCEL-08", "FLT-RACE-10")  # fmt: skip
_rule("cbdq-non-irp", "an operation that is no IRP was inserted into a cancel-safe queue", "FLT-CBDQ-02")
_rule("cbdq-wrong-instance", "an operation was inserted into the queue of another instance", "FLT-CBDQ-21")
_rule("cbdq-direct-access", "an operation was taken out of a cancel-safe queue by hand", "FLT-CBDQ-04")
_rule("cbdq-uninitialised", "a cancel-safe queue was used before FltCbdqInitialize", "FLT-CBDQ-01")
_rule("cbdq-not-drained", "a cancel-safe queue was disabled and not emptied", "FLT-CBDQ-17", "FLT-RACE-37")
_rule(
    "teardown-cbdq-enabled",
    "a cancel-safe queue was still enabled when InstanceTeardownStart returned",
    "FLT-INST-22",
)
_rule(
    "teardown-pended-pre",
    "an operation stayed pended over a teardown, and nobody will complete it",
    "FLT-INST-19",
)
_rule(
    "teardown-pended-post",
    "a post-operation stayed pended over a teardown, and nobody will complete it",
    "FLT-INST-20",
)
_rule("teardown-hang", "a teardown waits for something that will not happen", "FLT-INST-28")

# Scenarios.
_rule("invariant", "an invariant of the scenario does not hold")
_rule("expectation", "an expectation of the scenario was not met")
