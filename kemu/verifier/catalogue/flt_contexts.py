"""Contexts of minifilters."""

from kemu.nt.bugcheck import DRIVER_IRQL_NOT_LESS_OR_EQUAL, FLTMGR_FILE_SYSTEM
from kemu.verifier.catalogue.rule import WARNING, declare

# Counts.
declare("ctx-leak", "a reference on a context was never dropped", "FLT-CTX-09", "FLT-CTX-11", "FLT-CTX-15",
        "FLT-CTX-32", "FLT-RACE-27", "FLT-RACE-40")  # fmt: skip
declare("ctx-over-release", "a context was released more often than it was referenced", "FLT-CTX-11", "FLT-RACE-40",
        "FLT-RACE-42", stop=(FLTMGR_FILE_SYSTEM, 0x6D))  # fmt: skip
declare("ctx-ref-after-free", "a context was referenced after its last reference was gone", "FLT-CTX-12",
        stop=(FLTMGR_FILE_SYSTEM, 0x6E))  # fmt: skip
declare("ctx-use-after-release", "a context was used after it was released and freed", "FLT-CTX-12", "FLT-RACE-09",
        "FLT-RACE-42", "FLT-RACE-48")  # fmt: skip
declare("postop-context-leak", "what a pre-operation callback handed to its post-operation callback was never freed",
        "FLT-POST-14", "FLT-RACE-22", "FLT-RACE-45")  # fmt: skip
declare("ctx-unreferenced-pointer", "a context keeps a pointer to another one, without a reference", "FLT-CTX-33")
declare("ctx-delete-invalid", "FltDeleteContext on a context that is not linked, or without a reference", "FLT-CTX-21")
declare("section-ctx-delete", "FltDeleteContext on a section context", "FLT-CTX-31")
declare("ctx-lost-update", "a context was replaced while others relied on it", "FLT-RACE-41", severity=WARNING)

# Where and when.
declare("volume-ctx-paged", "a volume context was allocated from paged pool", "FLT-CTX-05")
declare("ctx-release-irql", "a context in paged pool was released above APC_LEVEL", "FLT-CTX-25",
        stop=(DRIVER_IRQL_NOT_LESS_OR_EQUAL, 0))  # fmt: skip
declare("ctx-get-at-dispatch", "a post-operation callback got, set or deleted a context at DISPATCH_LEVEL",
        "FLT-POST-05", "FLT-RACE-45")  # fmt: skip
declare("ctx-in-precreate", "a context of a file was asked for before the file was open", "FLT-PRE-25")
declare("ctx-in-postclose", "a context of a file was asked for after the file was closed", "FLT-POST-26")
declare("ctx-unopened-fileobject", "a context was set on a file object that is not open", "FLT-CTX-28")
declare("ctx-on-failed-create", "a context was set on a file whose create has failed", "FLT-CTX-29", "FLT-RACE-64")
declare("ctx-assumed-present", "a context was used that was not found", "FLT-RACE-36")
declare("cleanup-lock-inversion", "the cleanup of a context asks for a lock that the releasing thread holds",
        "FLT-RACE-43")  # fmt: skip
