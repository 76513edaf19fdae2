"""Fast I/O and FSFilter operations, oplocks, transactions, sections for data scans."""

from kemu.verifier.catalogue.rule import WARNING, declare

# Fast I/O and FSFilter operations.
declare("nqo-fileobject-escape", "the file object of a query by name was kept, which lies on a stack", "FLT-FAST-06")
declare(
    "acquire-section-failed",
    "the acquisition for a section was failed where that is not possible",
    "FLT-FAST-09",
)
declare(
    "fsfilter-acquire-failed",
    "the acquisition for a mapped write or a flush was failed",
    "FLT-FAST-16",
    severity=WARNING,
)
declare("modwrite-apc-deadlock", "the release after a mapped write waits for what the thread it interrupts holds",
        "FLT-FAST-11", "FLT-RACE-62")  # fmt: skip
declare(
    "legacy-fsfilter-registration",
    "a minifilter registers FSFilter callbacks with the file system runtime library",
    "FLT-FAST-12",
)
declare(
    "lock-fastio-fields",
    "members of a lock request were used that only fast I/O fills in",
    "FLT-FAST-13",
    severity=WARNING,
)
declare(
    "double-count",
    "a request was counted as fast I/O and once more as the IRP that it came back as",
    "FLT-RACE-63",
    severity=WARNING,
)

# Oplocks.
declare("oplock-recheck-deadlock", "an oplock is checked from inside the completion of its own check",
        "FLT-OPL-03", "FLT-RACE-66")  # fmt: skip
declare(
    "oplock-unchecked",
    "an operation was passed on without a look at the oplock that it may break",
    "FLT-OPL-04",
    severity=WARNING,
)
declare(
    "oplock-unsynchronized",
    "an oplock was requested and checked at the same time",
    "FLT-OPL-05",
)
declare("oplock-status-dropped", "a callback did not return what the oplock package told it to", "FLT-OPL-07")

# Transactions.
declare("txn-not-completed", "a transaction notification was answered STATUS_PENDING and never completed",
        "FLT-TXN-02")  # fmt: skip
declare("txn-double-complete", "a transaction notification was completed that was not open", "FLT-TXN-02")

# Sections for data scans.
declare("section-leak", "a section for a data scan was never closed", "FLT-SCAN-03")
declare("section-double-close", "a section for a data scan was closed twice", "FLT-SCAN-03", "FLT-RACE-65")
declare(
    "toctou-state",
    "a state was asked for and acted on after somebody had changed it",
    "FLT-RACE-70",
    severity=WARNING,
)
