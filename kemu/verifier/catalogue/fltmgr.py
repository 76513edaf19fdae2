"""The Filter Manager and its minifilters."""

from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.verifier.catalogue.rule import WARNING, declare

# Registration, start, unload.
declare("reg-version", "FLT_REGISTRATION has a wrong Version", "FLT-REG-03")
declare("reg-unterminated", "the operation array does not end with IRP_MJ_OPERATION_END", "FLT-REG-04")
declare("reg-foreign", "a driver registers or unregisters another one's filter", "FLT-REG-05")
declare(
    "reg-illegal-major",
    "a callback was registered for a major function no file system receives",
    "FLT-REG-06",
)
declare("reg-shutdown-postop", "a post-operation callback was registered for IRP_MJ_SHUTDOWN", "FLT-REG-07")
declare("reg-duplicate-major", "one major function was registered twice", "FLT-REG-08")
declare("reg-order", "DriverEntry succeeded without having started to filter", "FLT-REG-01")
declare(
    "driverentry-fail-leak",
    "a failing DriverEntry left a registration or memory behind",
    "FLT-REG-22",
    "KE-UNLOAD-02",
)
declare("double-unregister", "FltUnregisterFilter was called twice", "FLT-UNLOAD-15")
declare("unload-no-unregister", "FilterUnload succeeded without FltUnregisterFilter", "FLT-UNLOAD-06")
declare("unload-refused-after-teardown", "FilterUnload refused although it has unregistered", "FLT-UNLOAD-09")
declare("unload-hang", "FltUnregisterFilter waits for a reference that nobody drops", "FLT-UNLOAD-14")
declare("unload-foreign-callback", "a work item that the filter manager does not know ran in an unloaded driver",
      "FLT-UNLOAD-17", "FLT-RACE-32")  # fmt: skip
declare("ref-underflow", "a reference was dropped that was not held", "FLT-REF-03")
declare("ref-leak", "a rundown reference was never dropped", "FLT-REF-03")
declare("relobj-write", "FltObjects was written by a callback", "FLT-STACK-11")

# Pre-operation callbacks and pending.
declare("preop-unknown-status", "a pre-operation callback returned something that is no FLT_PREOP_CALLBACK_STATUS",
      "FLT-PRE-02")  # fmt: skip
declare("preop-context-leak", "a completion context was returned that no post-operation callback will receive",
      "FLT-PRE-04", "FLT-PEND-04")  # fmt: skip
declare("preop-callback-without-postop", "a post-operation callback was asked for and none is registered",
      "FLT-PRE-07", "FLT-PEND-05", stop=(FLTMGR_FILE_SYSTEM, 0x66))  # fmt: skip
declare("complete-without-status", "FLT_PREOP_COMPLETE without a status in IoStatus", "FLT-PRE-09")
declare("complete-bad-status", "an operation was completed with a status that is not final", "FLT-PRE-10")
declare(
    "cleanup-close-failed",
    "a cleanup or close was completed with a status other than STATUS_SUCCESS",
    "FLT-PRE-11",
)
declare(
    "sync-on-create",
    "FLT_PREOP_SYNCHRONIZE for a create, which is synchronised already",
    "FLT-PRE-15",
    severity=WARNING,
)
declare("sync-async-rw", "FLT_PREOP_SYNCHRONIZE for an asynchronous read or write", "FLT-PRE-16")
declare("pend-non-irp", "FLT_PREOP_PENDING for an operation that is no IRP", "FLT-PRE-19")
declare(
    "disallow-fastio-non-fastio",
    "FLT_PREOP_DISALLOW_FASTIO for an operation that is not fast I/O",
    "FLT-PRE-20",
)
declare(
    "disallow-fastio-status",
    "IoStatus was written together with FLT_PREOP_DISALLOW_FASTIO",
    "FLT-PRE-23",
    severity=WARNING,
)
declare("disallow-fsfilter-wrong-major", "DISALLOW_FSFILTER_IO for an operation other than IRP_MJ_QUERY_OPEN",
      "FLT-PRE-24", "FLT-POST-27")  # fmt: skip
declare("params-not-dirty", "parameters were changed without FltSetCallbackDataDirty", "FLT-CBD-06")
declare("iostatus-wrong-place", "IoStatus was written although the operation goes on", "FLT-CBD-08")
declare("major-changed", "MajorFunction was changed", "FLT-CBD-11")
declare("cbd-flag-write", "Data->Flags was written", "FLT-CBD-03")
declare("cbd-readonly-write", "a read-only member of the callback data was written", "FLT-CBD-04")
declare("cbd-use-after-release", "callback data was used after control of the operation was given back",
      "FLT-CBD-18", "FLT-WORK-06", "FLT-RACE-01")  # fmt: skip
declare("hand-off-race", "something that was handed over is used, and nothing orders that before its new owner is done",
      "FLT-WORK-05", "FLT-WORK-06", "FLT-CBD-18", "FLT-RACE-01")  # fmt: skip
declare("pend-not-returned", "an operation was handed over, but the callback did not return FLT_PREOP_PENDING",
      "FLT-PEND-10", "FLT-WORK-06", "FLT-CBDQ-07", "FLT-POST-11")  # fmt: skip
declare("pend-orphan", "FLT_PREOP_PENDING was returned although the operation could not be queued",
      "FLT-PEND-11", "FLT-CBDQ-07", "FLT-WORK-04")  # fmt: skip
declare("pend-bad-status", "FltCompletePendedPreOperation with a status that cannot resume", "FLT-PEND-03")
declare("pend-complete-not-pended", "FltCompletePendedPreOperation for an operation that the instance has not pended",
      "FLT-PEND-12")  # fmt: skip
declare("pend-double-complete", "a pended operation was completed twice", "FLT-PEND-02", "FLT-RACE-04")
declare("pend-never-completed", "a pended operation was never completed", "FLT-PEND-02", "FLT-RACE-15")
declare("lock-across-io", "a lock is held while an operation is passed on, or I/O is sent",
        "FLT-PEND-20", "FLT-PRE-18", "FLT-IO-12", "FLT-RACE-61")  # fmt: skip
declare("pend-after-teardown-start", "an operation was handed over after InstanceTeardownStart had returned",
      "FLT-INST-21", "FLT-RACE-20")  # fmt: skip

# Post-operation callbacks.
declare("postop-unknown-status", "a post-operation callback returned something that is no FLT_POSTOP_CALLBACK_STATUS",
      "FLT-POST-06")  # fmt: skip
declare("postop-bad-status", "a post-operation callback set a status that is not final", "FLT-POST-25")
declare("postpend-non-irp", "FLT_POSTOP_MORE_PROCESSING_REQUIRED for an operation that is no IRP", "FLT-POST-09")
declare(
    "postpend-orphan",
    "FLT_POSTOP_MORE_PROCESSING_REQUIRED although the operation could not be queued",
    "FLT-POST-10",
)
declare("postpend-never-completed", "a pended post-operation was never completed", "FLT-POST-11")
declare("postpend-double-complete", "a pended post-operation was completed twice", "FLT-POST-11")
declare("wrong-resume-routine", "an operation was resumed with the other phase's routine", "FLT-WORK-07")
declare("drain-more-processing", "FLT_POSTOP_MORE_PROCESSING_REQUIRED for a draining operation", "FLT-POST-12")

# Work items, cancellation, queues.
declare("queue-type-reserved", "HyperCriticalWorkQueue is reserved for the system", "FLT-WORK-13")
declare("workitem-leak", "a work item was never freed", "FLT-WORK-08")
declare("workitem-double-free", "a work item was freed twice", "FLT-WORK-08")
declare("workitem-kind-mismatch", "a work item was freed with the other kind's routine", "FLT-WORK-08")
declare(
    "cancel-set-illegal",
    "FltSetCancelCompletion for an operation that is no IRP, or is paging I/O",
    "FLT-CANCEL-01",
)
declare("cancel-set-with-cbdq", "FltSetCancelCompletion for an operation in a cancel-safe queue", "FLT-CANCEL-02")
declare("cancel-double-complete", "an operation was completed both by its owner and by its cancel callback",
      "FLT-CANCEL-05", "FLT-RACE-11")  # fmt: skip
declare("cancel-not-completed", "an operation's cancel callback did not complete it, and nobody else did",
      "FLT-CANCEL-06", "FLT-CBDQ-10")  # fmt: skip
declare("cancel-lost", "an operation was cancelled before its cancel callback was set; nobody completes it",
      "FLT-CANCEL-08", "FLT-RACE-10")  # fmt: skip
declare("cbdq-non-irp", "an operation that is no IRP was inserted into a cancel-safe queue", "FLT-CBDQ-02")
declare("cbdq-wrong-instance", "an operation was inserted into the queue of another instance", "FLT-CBDQ-21")
declare("cbdq-direct-access", "an operation was taken out of a cancel-safe queue by hand", "FLT-CBDQ-04")
declare("cbdq-uninitialised", "a cancel-safe queue was used before FltCbdqInitialize", "FLT-CBDQ-01")
declare("cbdq-not-drained", "a cancel-safe queue was disabled and not emptied", "FLT-CBDQ-17", "FLT-RACE-37")
declare(
    "teardown-cbdq-enabled",
    "a cancel-safe queue was still enabled when InstanceTeardownStart returned",
    "FLT-INST-22",
)
declare(
    "teardown-pended-pre",
    "an operation stayed pended over a teardown, and nobody will complete it",
    "FLT-INST-19",
)
declare(
    "teardown-pended-post",
    "a post-operation stayed pended over a teardown, and nobody will complete it",
    "FLT-INST-20",
)
declare("teardown-hang", "a teardown waits for something that will not happen", "FLT-INST-28")
