"""What there is to say about each finding beyond its title: cause, example, where the WDK tells of it.

The files beside this one hold the entries, one file for each module of `kemu.verifier.catalogue`. ``page`` is the WDK's
page, where the family of the finding's rules does not name it already.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from kemu.verifier.catalogue import CATALOGUE, Rule

PAGES: Final = {
    "KE-IRQL": "Managing Hardware Priorities", "KE-CTX": "Driver Thread Context", "KE-APC": "Waits and APCs",
    "KE-WAIT": "Introduction to Kernel Dispatcher Objects", "KE-EVENT": "Defining and Using an Event Object",
    "KE-MUTEX": "Introduction to Mutex Objects", "KE-FMUTEX": "Fast Mutexes and Guarded Mutexes",
    "KE-SEM": "Semaphore Objects", "KE-TIMER": "Timer Objects and DPCs",
    "KE-DPC": "Guidelines for Writing DPC Routines", "KE-SPIN": "Introduction to Spin Locks",
    "KE-RES": "Introduction to ERESOURCE Routines", "KE-PUSH": "ExInitializePushLock",
    "KE-RUNDOWN": "Run-Down Protection", "KE-WORK": "System Worker Threads", "KE-THREAD": "PsCreateSystemThread",
    "KE-POOL": "Allocating System-Space Memory", "KE-LOOK": "Using Lookaside Lists", "KE-IRP": "Handling IRPs",
    "KE-CANCEL": "Canceling IRPs", "KE-CSQ": "Cancel-Safe IRP Queues", "KE-REMLOCK": "Using Remove Locks",
    "KE-REF": "Life Cycle of an Object", "KE-UNLOAD": "Writing an Unload Routine",
    "KE-INTLK": "Acquire and Release Semantics", "KE-LIST": "Singly and Doubly Linked Lists",
    "KE-DL": "Deadlock Detection", "KE-VER": "Driver Verifier Options", "KE-EXCB": "Callback Objects",
    "KE-RACE": "Introduction to Spin Locks", "OB-HT": "Object Handles", "OB-OBJ": "Life Cycle of an Object",
    "FLT-STACK": "Load Order Groups and Altitudes for Minifilter Drivers",
    "FLT-REG": "Registering the Minifilter Driver", "FLT-INST": "PFLT_INSTANCE_TEARDOWN_CALLBACK",
    "FLT-UNLOAD": "Writing a FilterUnloadCallback Routine", "FLT-CBD": "Modifying the Parameters for an I/O Operation",
    "FLT-PRE": "Writing Preoperation Callback Routines",
    "FLT-PEND": "Pending an I/O Operation in a Preoperation Callback Routine",
    "FLT-POST": "Writing Postoperation Callback Routines",
    "FLT-FAST": "Disallowing a Fast I/O Operation in a Preoperation Callback Routine",
    "FLT-WORK": "FltQueueDeferredIoWorkItem", "FLT-CANCEL": "FltSetCancelCompletion",
    "FLT-CBDQ": "FltCbdqInitialize", "FLT-REF": "FltObjectReference",
    "FLT-IRQL": "Ensuring that Completion Processing is Performed at Safe IRQL",
    "FLT-CTX": "Managing Contexts in a Minifilter Driver", "FLT-NAME": "FltGetFileNameInformation",
    "FLT-IO": "Initiating Asynchronous and Synchronous I/O Requests",
    "FLT-BUF": "Accessing User Buffers in a Preoperation Callback Routine",
    "FLT-PORT": "Communication Between User Mode and Kernel Mode", "FLT-OPL": "Opportunistic Locks",
    "FLT-TXN": "FltEnlistInTransaction", "FLT-SCAN": "FltCreateSectionForDataScan",
    "FLT-ORD": "Filter Manager Concepts", "FLT-RACE": "Filter Manager Concepts",
}  # fmt: skip
"""The page of the WDK about each family of rules, by its title."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a rule comes to be broken, code that breaks it, and the page of the WDK to read."""

    cause: str
    example: str
    page: str


@cache
def explanations() -> dict[str, Explanation]:
    """The explanation of every finding, by its code."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        code: Explanation(
            entry["cause"].strip(), entry.get("example", "").strip("\n"), entry.get("page") or page_of(CATALOGUE[code])
        )
        for code, entry in found.items()
    }


def page_of(rule: Rule) -> str:
    """The WDK's page about the first of a finding's rules that has one; "" for what is kemu's own."""
    families = (one.rpartition("-")[0] for one in rule.rules)
    return next((PAGES[family] for family in families if family in PAGES), "")
