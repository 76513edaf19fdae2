"""IRPs, devices, cancellation, cancel-safe queues, remove locks, unload."""

from kemu.nt.bugcheck import (
    CANCEL_STATE_IN_COMPLETED_IRP,
    DRIVER_RETURNED_HOLDING_CANCEL_LOCK,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    MULTIPLE_IRP_COMPLETE_REQUESTS,
    NO_MORE_IRP_STACK_LOCATIONS,
    PAGE_FAULT_IN_FREED_SPECIAL_POOL,
    PAGE_FAULT_IN_NONPAGED_AREA,
)
from kemu.verifier.catalogue.rule import declare

IO = DRIVER_VERIFIER_IOMANAGER_VIOLATION

# Completion.
declare("ke.irp-double-complete", "two parties complete one IRP", "KE-IRP-01", "KE-CANCEL-06", "KE-RACE-12",
        stop=(MULTIPLE_IRP_COMPLETE_REQUESTS, 0))  # fmt: skip
declare("ke.irp-after-completion", "an IRP is used by a driver that has completed it, or has no part in it",
        "KE-IRP-01", stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0), verifier=(PAGE_FAULT_IN_FREED_SPECIAL_POOL, 0))  # fmt: skip
declare("ke.irp-after-call", "an IRP is used after it was passed on, and no completion routine has kept it",
        "KE-IRP-08", "KE-RACE-14",
        stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0), verifier=(PAGE_FAULT_IN_FREED_SPECIAL_POOL, 0))  # fmt: skip
declare("ke.irp-complete-pending", "an IRP is completed with STATUS_PENDING or -1", "KE-IRP-07", verifier=(IO, 0x06))
declare("ke.complete-with-cancel-routine", "an IRP is completed while its cancel routine is set", "KE-IRP-07",
        stop=(CANCEL_STATE_IN_COMPLETED_IRP, 0), verifier=(IO, 0x07))  # fmt: skip
declare("ke.irp-information", "an IRP is completed with more bytes than its buffer has", "KE-IRP-07",
        verifier=(IO, 0x312))  # fmt: skip
declare("ke.irp-orphan", "a completion routine has stopped a completion, and nobody goes on with it", "KE-IRP-06")
declare("ke.own-irp-completed", "no completion routine has kept an IRP that the driver frees itself", "KE-IRP-10")

# What a dispatch or completion routine owes.
declare("ke.irp-not-handled", "a dispatch routine has neither completed nor passed on nor pended its IRP", "KE-IRP-02",
        verifier=(IO, 0x226))  # fmt: skip
declare("ke.irp-status-mismatch", "a dispatch routine returned another status than it completed its IRP with",
        "KE-IRP-02", verifier=(IO, 0x224))  # fmt: skip
declare("ke.irp-bad-status", "a dispatch routine returned -1", "KE-IRP-02", verifier=(IO, 0x225))
declare("ke.pending-not-marked", "STATUS_PENDING was returned without IoMarkIrpPending", "KE-IRP-03",
        verifier=(IO, 0x23D))  # fmt: skip
declare("ke.pending-not-returned", "an IRP was marked pending, and another status returned", "KE-IRP-03",
        verifier=(IO, 0x23E))  # fmt: skip
declare("ke.mark-after-queue", "an IRP is marked pending when somebody else may have completed it already",
        "KE-IRP-04", "KE-RACE-14", stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0),
        verifier=(PAGE_FAULT_IN_FREED_SPECIAL_POOL, 0))  # fmt: skip
declare("ke.pending-not-propagated", "a completion routine saw PendingReturned and did not mark the IRP pending",
        "KE-IRP-05", verifier=(IO, 0x228))  # fmt: skip
declare("ke.mark-own-irp", "a driver marks an IRP pending that it has made: that corrupts memory behind it",
        "KE-IRP-05")  # fmt: skip

# Passing IRPs on; making and freeing them.
declare("ke.irp-no-location", "an IRP has no stack location left", "KE-IRP-09", stop=(NO_MORE_IRP_STACK_LOCATIONS, 0))
declare("ke.irp-stack-not-copied", "an IRP is passed on and nobody has filled in the next stack location", "KE-IRP-09",
        verifier=(IO, 0x206))  # fmt: skip
declare("ke.irp-stack-copied-routine", "a stack location was copied with the completion routine of the driver above",
        "KE-IRP-09", verifier=(IO, 0x207))  # fmt: skip
declare("ke.completion-ex-unchecked", "an IRP is passed on although IoSetCompletionRoutineEx has failed", "KE-IRP-11",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x0004100F))  # fmt: skip
declare("ke.irp-freed-in-use", "an IRP is freed that is not the caller's to free", "KE-IRP-10", verifier=(IO, 0x20A))
declare("ke.irp-reused-in-use", "an IRP is initialised again that is not the caller's to use", "KE-IRP-10",
        verifier=(IO, 0x310))  # fmt: skip
declare("ke.irp-leak", "an IRP was not freed when its driver was unloaded", "KE-IRP-10", "KE-UNLOAD-03")

# Cancellation.
declare("ke.cancel-lock-held", "a cancel routine returned with the cancel spin lock held", "KE-CANCEL-02",
        stop=(DRIVER_RETURNED_HOLDING_CANCEL_LOCK, 0))  # fmt: skip
declare("ke.cancel-lost", "an IRP was cancelled before its cancel routine was set, and nobody completes it",
        "KE-CANCEL-05", "KE-RACE-12")  # fmt: skip
declare("ke.cancel-not-completed", "the cancel routine of an IRP has run, and nobody completes the IRP",
        "KE-CANCEL-06")  # fmt: skip
declare("ke.cancel-flag-decision", "a driver took its cancel routine back and left the IRP to the cancellation",
        "KE-CANCEL-07")  # fmt: skip
declare("ke.forward-with-cancel-routine", "an IRP is passed on while its cancel routine is set", "KE-CANCEL-08",
        verifier=(IO, 0x203))  # fmt: skip
declare("ke.cancel-routine-overwritten", "a cancel routine is set over that of another driver", "KE-CANCEL-08",
        verifier=(IO, 0x229))  # fmt: skip
declare("ke.cancel-foreign", "a driver cancels an IRP that it has not made", "KE-CANCEL-09")
declare("ke.irp-not-cancelable", "a driver holds an IRP, which cannot be cancelled and is not completed",
        "KE-CANCEL-10", verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x135))  # fmt: skip

# Cancel-safe queues.
declare("ke.csq-after-insert", "an IRP is used after it was put into a cancel-safe queue", "KE-CSQ-02", "KE-RACE-13",
        stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0), verifier=(PAGE_FAULT_IN_FREED_SPECIAL_POOL, 0))  # fmt: skip
declare("ke.csq-null", "NULL is completed, which a cancel-safe queue has returned for an IRP that was cancelled",
        "KE-CSQ-03", stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0))  # fmt: skip
declare("ke.csq-context", "what a cancel-safe queue keeps of an IRP was changed", "KE-CSQ-04")
declare("ke.csq-bypass", "an IRP was taken out of a cancel-safe queue by hand", "KE-CSQ-05")
declare("ke.csq-lock-irql", "an IRP is cancelled at an IRQL at which its queue's lock cannot be taken", "KE-CSQ-06")

# Devices and unload.
declare("ke.device-attached", "a device is deleted that is part of a stack", "KE-REF-05", verifier=(IO, 0x201))
declare("ke.device-double-detach", "a device is detached from one to which nothing is attached", "KE-REF-05",
        verifier=(IO, 0x202))  # fmt: skip
declare("ke.device-double-delete", "a device is deleted twice", "KE-REF-05", verifier=(IO, 0x240))
declare("ke.unload-leftover", "a device, a name or a registration was left behind by a driver that was unloaded",
        "KE-UNLOAD-03")  # fmt: skip
