"""I/O that minifilters begin, send again or redirect."""

from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.verifier.catalogue.rule import WARNING, declare

# What is sent.
declare("io-on-unopened-file", "I/O was begun on a file object that is not open", "FLT-IO-05")
declare("noncached-misaligned", "non-cached I/O does not begin or end at a sector", "FLT-IO-07")
declare("io-bad-params", "I/O was begun with flags or an offset that contradict each other, or the file object",
        "FLT-IO-09")  # fmt: skip
declare("io-with-toplevel-irp", "a file was opened or queried under a top-level IRP", "FLT-IO-10")
declare("io-apcs-disabled", "a file was opened or queried with all APCs disabled", "FLT-IO-10")
declare("placeholder-io", "data that is elsewhere was asked for from below the filter that would bring it",
        "FLT-IO-29", severity=WARNING)  # fmt: skip
declare("byteoffset-race", "two requests that nothing keeps apart move the position of one file object",
        "FLT-RACE-67", severity=WARNING)  # fmt: skip

# Callback data of a driver's own.
declare("cbd-leak", "callback data was never freed", "FLT-IO-13")
declare("cbd-foreign-free", "callback data was freed, reused or performed by a driver that has not allocated it",
        "FLT-IO-13")  # fmt: skip
declare("asyncio-cbd-race", "callback data was touched before its callback, or after one of its two users has freed it",
        "FLT-IO-17", "FLT-RACE-16", "FLT-RACE-60")  # fmt: skip
declare("asyncio-status-misread", "asynchronous I/O has failed, and nobody has looked at IoStatus", "FLT-IO-16")
declare("reissue-not-synchronized", "an operation was sent again that its instance has not synchronised", "FLT-IO-20")
declare("cancel-foreign-io", "FltCancelIo for an operation that the driver has not initiated", "FLT-CANCEL-11")
declare("cancel-completed-io", "FltCancelIo for I/O whose completion the driver has been told of",
        "FLT-CANCEL-11", "FLT-RACE-16")  # fmt: skip

# Files that a driver opens, or fails to open.
declare("handle-leak", "a handle of FltCreateFile was never closed", "FLT-IO-11")
declare("teardown-file-leak", "a file was still open when the instance that it was opened through was gone",
        "FLT-INST-29")  # fmt: skip
declare("cancelfileopen-misuse", "FltCancelFileOpen outside a post-create callback, for a failed create, or too late",
        "FLT-IO-22", stop=(FLTMGR_FILE_SYSTEM, 0x6A))  # fmt: skip
declare("create-failed-not-cancelled", "a create was failed after the file system had granted it: the file stays open",
        "FLT-POST-24")  # fmt: skip
declare("ecp-leak", "extra create parameters were never freed", "FLT-IO-26")
declare("ecp-double-free", "extra create parameters were freed twice, or are the I/O manager's to free", "FLT-IO-26")

# Redirection.
declare("bad-redirect", "an operation was redirected to an instance or a file that cannot take it", "FLT-CBD-12")
declare("redirect-unchecked", "an operation was redirected without FltIsIoRedirectionAllowed", "FLT-CBD-13",
        severity=WARNING)  # fmt: skip
