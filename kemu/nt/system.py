"""The emulated kernel of one run: what its parts share.

Every layer keeps its run-wide state in one object and registers it here under its class; whoever needs it asks
for it by that class (`System.get`). Layers report what goes wrong through `System.report` and never learn who
listens.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar

from kemu.errors import UsageError
from kemu.nt.bugcheck import BugCheck
from kemu.runtime import Cell, Runtime, Thread, current_thread
from kemu.runtime.foreign import is_library_file

if TYPE_CHECKING:
    from kemu.nt.driver import DriverActor
    from kemu.nt.kthread import KThread

T = TypeVar("T")
LowResources = bool | Literal["once"]


class FindingSink(Protocol):
    """Takes note of a broken rule. Does not return if the finding ends the run."""

    def report(
        self,
        code: str,
        detail: str,
        bug_check: BugCheck | None = None,
        subject: str = "",
        *,
        verifier: BugCheck | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the emulated system leaves open, and how it is answered. Part of a scenario's identity."""

    completion: str = "explore"
    """How the file system completes requests: ``explore`` (inline, or later at PASSIVE_LEVEL or DISPATCH_LEVEL, a
    choice for each request), ``inline`` or ``later``."""
    low_resources: LowResources = False
    """Whether every allocation may fail, each a choice, or ``once`` at most one of them, whichever (a choice)."""
    worker_threads: int = 3
    """Most threads of the system worker pool for each queue (KE-WORK-11)."""
    io_faults: bool = False
    """Whether every transfer may fail, with STATUS_IO_DEVICE_ERROR or for want of space (a choice)."""
    file_times: bool = False
    """Whether files are stamped with virtual time; otherwise their times stay 0 until somebody sets them."""
    cached_io: bool = False
    """Whether reads and writes without IRP_NOCACHE go through a cache, which is filled and written back by paging I/O
    that goes down the volume's stack; otherwise they reach the file at once."""
    timer_jitter: bool = False
    """Whether a timer may expire a clock tick early or late (a choice each time that one is set, KE-TIMER-12)."""
    work_budget: int = 0
    """How long a work item may take, in seconds of virtual time (KE-WORK-13); 0 for as long as it likes."""
    force_pending: bool = False
    """Whether each IRP that is completed inside a dispatch routine may be completed later, in a thread of its own,
    after IoCallDriver has returned STATUS_PENDING (a choice)."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that a driver has not given back by the time it is unloaded, and the finding that this is."""

    code: str
    what: str
    bug_check: BugCheck | None = None
    verifier: BugCheck | None = None


LeftBy = Callable[["DriverActor"], Iterable[Leftover]]
"""The method ``left_by`` of a part that knows what drivers have taken of it: what one has not given back, oldest
first."""


class System:
    """The kernel of one run."""

    def __init__(self, runtime: Runtime, findings: FindingSink, options: Options) -> None:
        self.runtime = runtime
        self.findings = findings
        self.options = options
        self._parts: dict[type[Any], Any] = {}
        self._ledgers: list[LeftBy] = []
        self.freed: dict[object, str] = {}
        """Kernel objects whose storage was freed, with words for what happened to it. Asked, never listed."""
        self.paged: dict[Any, str] = {}
        """Kernel objects that lie in paged memory, with words for that memory. Asked, never listed."""
        self.shortage = Cell(current_thread(), "shortage") if options.low_resources == "once" else None
        """Whether the one allocation that may fail has failed, where it is one."""
        self.had_shortage = False
        self.thread_ends: Callable[[KThread], Awaitable[None]] | None = None
        """What the I/O manager does at the end of a thread, in that thread; nothing where there is none."""
        runtime.system = self

    def add(self, part: object) -> None:
        """Register *part* as the one object of its class. Its method ``left_by``, if it has one, is a `LeftBy`."""
        self._parts[type(part)] = part
        left_by: LeftBy | None = getattr(part, "left_by", None)
        if left_by is not None:
            self._ledgers.append(left_by)

    def get(self, part: type[T]) -> T:
        """Return the registered object of class *part*."""
        return self._parts[part]

    def left_by(self, driver: DriverActor) -> list[Leftover]:
        """What *driver* has not given back, by the parts' order of registration."""
        return [left for left_by in self._ledgers for left in left_by(driver)]

    def report_leftovers(self, name: str, driver: DriverActor) -> None:
        """Report what *driver*, known as *name*, leaves behind as it is unloaded (KE-UNLOAD-03)."""
        for left in self.left_by(driver):
            self.report(
                left.code, f"{name} was unloaded and left {left.what} behind", left.bug_check, verifier=left.verifier
            )

    def report(
        self, code: str, detail: str, bug_check: BugCheck | None = None, *, verifier: BugCheck | None = None
    ) -> None:
        """Report that the rule behind finding *code* was broken.

        *bug_check* is the stop of an unverified system and *verifier* that of one with Driver Verifier, where they say
        more than the catalogue does.
        """
        if not self.runtime.dead:
            self.findings.report(code, detail, bug_check, verifier=verifier)


def current_system() -> System:
    """The kernel that the calling thread runs in."""
    return current_thread().runtime.system


def report(code: str, detail: str, bug_check: BugCheck | None = None, *, verifier: BugCheck | None = None) -> None:
    """Report a broken rule to the kernel of the calling thread. Does not return if the finding ends the run."""
    current_system().report(code, detail, bug_check, verifier=verifier)


def resources_fail(what: str) -> bool:
    """Whether *what*, which needs memory or another resource, fails now: a choice where low resources are explored."""
    system = current_system()
    if not system.options.low_resources:
        return False
    if system.had_shortage and system.shortage is not None:
        current_thread().read(system.shortage)
        return False
    fails = system.runtime.choose(2, f"{what} fails") != 0
    if system.shortage is not None:
        thread = current_thread()
        (thread.write if fails else thread.read)(system.shortage)
        system.had_shortage = fails
    return fails


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
