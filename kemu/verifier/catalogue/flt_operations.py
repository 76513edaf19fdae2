"""Operations in the hands of a minifilter: post-operation work, cancellation, waits, queues."""

from kemu.verifier.catalogue.rule import declare

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
