"""The emulated kernel of one run: what its parts share.

Every layer keeps its run-wide state in one object and registers it here under its class; whoever needs it asks
for it by that class (`System.get`). Layers report what goes wrong through `System.report` and never learn who
listens.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from kemu.errors import UsageError
from kemu.nt.bugcheck import BugCheck
from kemu.runtime import Runtime, Thread, current_thread
from kemu.runtime.foreign import is_library_file

T = TypeVar("T")


class FindingSink(Protocol):
    """Takes note of a broken rule. Does not return if the finding ends the run."""

    def report(self, code: str, detail: str, bug_check: BugCheck | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the emulated system leaves open, and how it is answered. Part of a scenario's identity."""

    completion: str = "explore"
    """How the file system completes requests: ``explore`` (inline, or later at PASSIVE_LEVEL or DISPATCH_LEVEL, a
    choice for each request), ``inline`` or ``later``."""
    low_resources: bool = False
    """Whether every allocation may fail (a choice)."""
    worker_threads: int = 3
    """Most threads of the system worker pool for each queue (KE-WORK-11)."""


class System:
    """The kernel of one run."""

    def __init__(self, runtime: Runtime, findings: FindingSink, options: Options) -> None:
        self.runtime = runtime
        self.findings = findings
        self.options = options
        self._parts: dict[type[Any], Any] = {}
        runtime.system = self

    def add(self, part: object) -> None:
        """Register *part* as the one object of its class."""
        self._parts[type(part)] = part

    def get(self, part: type[T]) -> T:
        """Return the registered object of class *part*."""
        return self._parts[part]

    def report(self, code: str, detail: str, bug_check: BugCheck | None = None) -> None:
        """Report that the rule behind finding *code* was broken."""
        if not self.runtime.dead:
            self.findings.report(code, detail, bug_check)


def current_system() -> System:
    """The kernel that the calling thread runs in."""
    return current_thread().runtime.system


def report(code: str, detail: str, bug_check: BugCheck | None = None) -> None:
    """Report a broken rule to the kernel of the calling thread. Does not return if the finding ends the run."""
    current_system().report(code, detail, bug_check)


def refuse(message: str, *, remedy: str) -> NoReturn:
    """End the run with a `UsageError` that names the caller's line. A driver cannot swallow it, as it could a raise."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and is_library_file(frame.f_code.co_filename):
        frame = frame.f_back
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    current_thread().runtime.abort(UsageError(f"{message}, at {where}", remedy=remedy))


def label_of(thread: Thread | None) -> str:
    """How a finding names *thread*."""
    return "nobody" if thread is None else thread.label
