"""Operations in the hands of a minifilter: post-operation work, cancellation, waits, queues."""

from kemu.verifier.catalogue.rule import WARNING, declare

# Completion processing at a safe IRQL.
declare("whensafe-draining", "FltDoCompletionProcessingWhenSafe was called in a draining post-operation callback",
      "FLT-POST-15")  # fmt: skip
declare("whensafe-misuse", "FltDoCompletionProcessingWhenSafe outside of a post-operation callback, or not for an IRP",
      "FLT-POST-16")  # fmt: skip
declare("whensafe-status-ignored", "what FltDoCompletionProcessingWhenSafe gave to return was not returned",
      "FLT-POST-20", "FLT-RACE-07")  # fmt: skip
declare("whensafe-false-ignored", "an operation was pended that FltDoCompletionProcessingWhenSafe had refused to post",
      "FLT-POST-21")  # fmt: skip

# Cancellation and waits that it ends.
declare("cancelwait-with-cancel-routine", "a cancellable wait for an operation that has a cancel routine as well",
      "FLT-CANCEL-15")  # fmt: skip

# What a driver does with callback data and parameters.
declare("filtercontext-misuse", "FilterContext is used together with what lies in its place, or too late",
      "FLT-CBD-16", "FLT-CBD-15")  # fmt: skip
declare("tagdata-misuse", "TagData was touched outside of post-create, or replaced without freeing the old buffer",
      "FLT-CBD-22", "FLT-CBD-21")  # fmt: skip
declare("postop-reads-own-change", "a post-operation callback looks for what its pre-operation callback has changed",
      "FLT-CBD-10", severity=WARNING)  # fmt: skip
declare("status-snapshot-stale", "parameters were changed after FltRequestOperationStatusCallback had copied them",
      "FLT-POST-30", severity=WARNING)  # fmt: skip

# What a pre-operation callback may not return, or not for that.
declare("sync-unsyncable", "FLT_PREOP_SYNCHRONIZE for an operation that may stay below without bound", "FLT-PRE-17")
declare("disallow-fastio-forbidden-major", "FLT_PREOP_DISALLOW_FASTIO for a shutdown, a mount or a dismount",
      "FLT-PRE-21")  # fmt: skip
declare("pend-paging", "paging I/O was pended to a system worker", "FLT-PEND-16")
declare("workqueue-flood", "a driver has more operations waiting for system workers than these can take",
      "FLT-PEND-15", severity=WARNING)  # fmt: skip
declare("drain-used-as-completion", "a draining post-operation callback looks at a result that is none",
      "FLT-POST-13", "FLT-RACE-22")  # fmt: skip

# Cancel-safe queues.
declare("cbdq-context-lifetime", "the memory of a cancel-safe queue, or of an entry's context, was freed while in use",
      "FLT-CBDQ-15", "FLT-RACE-12", "FLT-RACE-13")  # fmt: skip
declare("cancel-unresponsive", "an operation was cancelled after it had left its queue, and passed on much later",
      "FLT-CBDQ-19", severity=WARNING)  # fmt: skip
