"""What both runtimes share: threads, decisions, ending a run.

The runtime is the world that is passed down: it owns the threads, the clock and the answers to open questions.
`system` is a slot for the layer above (the emulated kernel), which the runtime never looks into.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, Protocol

from kemu.errors import ForeignAwaitable, InternalError
from kemu.runtime.clock import Clock, Timer
from kemu.runtime.footprint import MASK
from kemu.runtime.operation import BlockingOperation, Operation
from kemu.runtime.outcome import Outcome
from kemu.runtime.thread import EMPTY, STARTING, Thread, Unwind, current

KEMU_PACKAGE = __name__.partition(".")[0]


class LogSink(Protocol):
    """Receives events of a run that is logged. Returns the event's sequence number, for use as a cause."""

    def __call__(self, event: str, /, *, cause: int | None = None, **fields: Any) -> int: ...


class Observer(Protocol):
    """Watches steps of a run; may not influence it."""

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        """*thread* (None: the clock) is about to take a step; *pick* of *alternatives* led to it."""
        ...

    def chose(self, value: int, alternatives: int, label: str) -> None:
        """An open question of the emulated system was answered inside the current step."""
        ...

    def after_step(self, thread: Thread | None) -> None:
        """The step is over; the thread's footprint is complete."""
        ...


class Runtime(ABC):
    """One run of one program."""

    def __init__(self, *, thread_class: type[Thread] = Thread) -> None:
        self.clock = Clock()
        self.threads: list[Thread] = []
        self.alive = 0
        self.thread_class = thread_class
        self.log: LogSink | None = None
        self.system: Any = None
        self.dead = False
        self.failure: Any = None
        self.outcome = Outcome()
        self.observer: Observer | None = None
        self.invariants: list[Callable[[], None]] = []
        """Called after every step; one that does not hold calls `stop`."""
        self.conclude: Callable[[Outcome], Any] | None = None
        """Judges a run that came to its end without a failure: the failure, or None."""

    def spawn(
        self, label: str, coroutine: Coroutine[Operation[Any], Any, Any], *, service: bool = False
    ) -> Thread:
        """Create a thread that will run *coroutine*. A *service* may be waiting for work when the run ends."""
        parent = current.get(None)
        thread = self.thread_class(self, parent, label, coroutine, service=service)
        if parent is not None:
            parent.write(thread)
        self.threads.append(thread)
        self.alive += 1
        thread.context = context = copy_context()
        context.run(current.set, thread)
        thread.resume = partial(context.run, coroutine.send)
        if self.observer is not None:
            thread.footprint = []
        self.admit(thread)
        if self.log is not None:
            self.log("actor.spawn", thread_name=label, service=service)
        return thread

    @abstractmethod
    def admit(self, thread: Thread) -> None:
        """Make a new thread a party of the schedule."""

    @abstractmethod
    def reconsider(self, thread: Thread) -> None:
        """An object that *thread*'s next operation depends on has changed."""

    @abstractmethod
    def choose(self, n: int, label: str) -> int:
        """Answer an open question of the emulated system with a number from 0 (the plain answer) to n - 1."""

    @abstractmethod
    def wind_down(self) -> None:
        """Let no thread take another step."""

    def stop(self, failure: Any) -> None:
        """End the run because of *failure*; the first one counts. Does not return when called in a thread.

        From here on nothing that the threads do has an effect: what a driver does with the exception that
        unwinds it (swallow it, await in `finally`) cannot change the verdict.
        """
        if not self.dead:
            self.failure = failure
            self.dead = True
            self.log = None
            self.wind_down()
        raise Unwind

    def fingerprint(self) -> tuple[int, int]:
        """The fingerprint of the run so far, and the number of its steps.

        Fingerprints are equal for runs that differ only in the order of independent events.
        """
        total = steps = 0
        for thread in self.threads:
            total += thread.hash
            steps += thread.steps
        return total & MASK, steps

    def dispose(self) -> tuple[str, ...]:
        """Take the run apart; return the labels of threads whose code refuses to end.

        Unfinished coroutines are unwound, and reference cycles cut, so that most of the run is freed at once.
        """
        self.dead = True
        self.log = None
        refused: list[str] = []
        for thread in self.threads:
            if thread.alive:
                thread.alive = False
                if not unwind(thread):
                    refused.append(thread.label)
                    _abandoned.append(thread.coroutine)
            thread.context = EMPTY
            thread.resume = no_more_steps
            thread.coroutine = None  # type: ignore[assignment]
            thread.op = STARTING
            thread.creator = None  # type: ignore[assignment]
        self.threads.clear()
        return tuple(refused)


def unwind(thread: Thread) -> bool:
    """End an unfinished coroutine; return whether it ended."""
    coroutine = thread.coroutine
    if thread.steps == 0:
        coroutine.close()
        return True
    # Three tries: a driver may await in `finally`, and may even swallow everything there.
    for _ in range(3):
        try:
            thread.context.run(coroutine.throw, Unwind())
        except BaseException:
            # What a driver raises while its world ends has no meaning any more.
            return True
    return False


def no_more_steps(_: object) -> NoReturn:
    """What resuming a thread of a finished run comes to."""
    raise InternalError("a thread of a finished run was resumed")


def arm_timeout(thread: Thread, op: BlockingOperation[Any]) -> None:
    """Let *op*, which *thread* is waiting in, expire at its deadline."""

    def expire() -> None:
        op.expired = True
        op.timer = None
        thread.runtime.reconsider(thread)

    op.timer = Timer(thread.runtime.clock, thread, f"timeout of {thread.label}", expire)
    op.timer.arm(op.deadline)


_abandoned: list[Coroutine[Any, Any, Any]] = []
"""Coroutines that swallow their end. Kept, because collecting them would run driver code inside another run."""


FOREIGN_HINTS = (
    "must be called from async context",
    "no running event loop",
    "no current event loop",
    "not currently running on any asynchronous event loop",
    "Not currently running on any asynchronous",
)


def foreign_call(error: BaseException) -> ForeignAwaitable | None:
    """Turn an event loop library's complaint about its missing loop into the one error that explains it."""
    message = str(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    if not (names & {"NoEventLoopError", "AsyncLibraryNotFoundError"}) and not any(
        hint in message for hint in FOREIGN_HINTS
    ):
        return None
    return foreign_at(error, type(error).__name__)


def foreign_at(error: BaseException | None, what: str) -> ForeignAwaitable:
    """The error for an await that belongs to an event loop, naming the user's line if *error* tells it."""
    where = ""
    if error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if not is_library_file(frame.filename):
                where = f" at {frame.filename}:{frame.lineno} ({frame.line})"
                break
    return ForeignAwaitable(
        f"an await that is not kemu's ({what}){where}",
        remedy="await kernel routines only, or run the scenario with --live to await anyio, trio or asyncio calls",
    )


def is_library_file(filename: str) -> bool:
    """Whether *filename* belongs to kemu, the standard library or an installed package."""
    normal = filename.replace("\\", "/")
    return (
        "/site-packages/" in normal
        or "/lib/python" in normal.lower()
        or normal.startswith("<")
        or "/kemu/runtime/" in normal
    )
