"""File names as minifilters ask for them."""

from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.verifier.catalogue.rule import WARNING, declare

declare("name-leak", "a file name was never released", "FLT-NAME-08")
declare("name-over-release", "a file name was released more often than it was referenced", "FLT-NAME-08",
        stop=(FLTMGR_FILE_SYSTEM, 0x68))  # fmt: skip
declare("name-modified", "a driver wrote to a file name that it shares with others", "FLT-NAME-09")
declare(
    "name-tunnel-unchecked",
    "a name that tunnelling may have changed was kept without a look at the tunnelled one",
    "FLT-NAME-10",
    "FLT-RACE-46",
    severity=WARNING,
)
declare("tunneledname-misplaced", "FltGetTunneledName was called where nothing can have been tunnelled", "FLT-NAME-11")
declare("name-unsafe-context", "a file name was asked for where that may deadlock", "FLT-NAME-13")
declare("namectrl-buffer-replaced", "a name provider replaced the filter manager's buffer", "FLT-NAME-17")
declare("name-stale", "a name from before an operation is used after it, and the file is called otherwise by now",
        "FLT-RACE-46", severity=WARNING)  # fmt: skip
declare(
    "disposition-race",
    "the delete disposition that a filter heard of last is not the one that counts",
    "FLT-RACE-47",
    severity=WARNING,
)
