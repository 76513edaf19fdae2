"""What both runtimes share: threads, decisions, ending a run.

The runtime is the world that is passed down: it owns the threads, the clock and the answers to open
questions. `system` is a slot for the layer above (the emulated kernel), which the runtime never looks into.
"""

from __future__ import annotations

import gc
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from kemu.runtime.clock import Clock
from kemu.runtime.footprint import MASK, Cell, Waitable
from kemu.runtime.foreign import foreign_call, is_library_file
from kemu.runtime.happens_before import Labelled
from kemu.runtime.operation import BlockingOperation, Operation
from kemu.runtime.outcome import Outcome
from kemu.runtime.thread import EMPTY, STARTING, Thread, Unwind

if TYPE_CHECKING:
    from kemu.runtime.data import DriverData

__all__ = ["KEMU_PACKAGE", "LogSink", "Observer", "Runtime", "foreign_call", "is_library_file"]

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
        """The step is over, the thread has declared its next operation, and its footprint is complete."""
        ...


class DataAccesses(Protocol):
    """Is told of every access to state of a driver, which nothing synchronises but the driver itself."""

    def load(self, thread: Thread, cell: Cell) -> None:
        """*thread* observes *cell*."""
        ...

    def store(self, thread: Thread, cell: Cell) -> None:
        """*thread* changes *cell*."""
        ...


class Races(DataAccesses, Protocol):
    """Is also told what orders threads, in the words of `Thread`'s methods of the same names."""

    def fork(self, parent: Thread, child: Thread) -> None:
        """*parent* starts *child*."""
        ...

    def join(self, thread: Thread, child: Thread) -> None:
        """*thread* has seen the end of *child*."""
        ...

    def begin(self, thread: Thread, cell: Cell) -> None: ...

    def release(self, thread: Thread, cell: Labelled) -> None: ...

    def acquire(self, thread: Thread, cell: Labelled) -> None: ...

    def exchange(self, thread: Thread, cell: Labelled) -> None: ...

    def release_to_waiter(self, thread: Thread, cell: Labelled) -> None: ...

    def acquire_as_waiter(self, thread: Thread, cell: Labelled) -> None: ...

    def use(self, thread: Thread, cell: Cell) -> None: ...

    def atomic(self, thread: Thread, cell: Cell) -> None:
        """*thread* carries out an interlocked operation on *cell*."""
        ...

    def end(self, thread: Thread, cell: Cell) -> None: ...


class Runtime(ABC):
    """One run of one program."""

    running: Thread | None
    """The thread on whose behalf code runs at the moment; while a timer expires that is the clock."""

    def __init__(self, *, thread_class: type[Thread] = Thread) -> None:
        self.clock = Clock()
        self.threads: list[Thread] = []
        self.alive = 0
        self.thread_class = thread_class
        self.log: LogSink | None = None
        self.system: Any = None
        self.dead = False
        self.failure: Any = None
        self.choices: list[int] = []
        # The lists are given: a field's factory takes longer than all the rest of the outcome.
        self.outcome = Outcome(choices=self.choices, advisories=[], named={})
        self.observer: Observer | None = None
        self.races: Races | None = None
        self.born: list[Waitable] | None = None
        """Collects the objects that threads can wait for, as they are made, for an observer that asks for it."""
        self.data: DriverData | None = None
        """The state of drivers, if their code was loaded so that accesses to it are recorded."""
        self.looking = False
        """Whether an invariant looks at the state just now: nobody's code, which is part of no step."""
        self.invariants: list[Callable[[], None]] = []
        """Called after every step; one that does not hold calls `stop`."""
        self.conclude: Callable[[Outcome], Any] | None = None
        """Judges a run that came to its end without a failure: the failure, or None."""

    def spawn(self, label: str, coroutine: Coroutine[Operation[Any], Any, Any], *, service: bool = False) -> Thread:
        """Create a thread that will run *coroutine*. A *service* may be left waiting when the run ends."""
        parent = self.running
        thread = self.thread_class(self, parent, label, coroutine)
        if service:
            # Not an argument: a call with keywords is slow, and hardly any thread of a run needs this one.
            thread.service = True
        if parent is None:
            thread.context = copy_context()
        else:
            parent.write(thread)
            thread.context = parent.context.copy()
            if self.races is not None and not service:
                # A service is the emulator's own: when it comes into being has nothing to do with who needs it first.
                self.races.fork(parent, thread)
        if self.observer is not None:
            thread.footprint = []
        self.threads.append(thread)
        self.alive += 1
        if not self.dead:
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

    def stop(self, failure: Any) -> NoReturn:
        """End the run because of *failure*; the first one counts. Does not return.

        From here on nothing that the threads do has an effect: what a driver does with the exception that
        unwinds it (swallow it, await in `finally`) cannot change the verdict.
        """
        if not self.dead:
            self.failure = failure
            self.kill()
        raise Unwind

    def abort(self, error: BaseException) -> NoReturn:
        """End the run because kemu was misused or is broken. Does not return; the run's `crash` is *error*.

        As with `stop`, the code that is running cannot swallow this.
        """
        if not self.dead:
            self.outcome.crash = error
            self.kill()
        raise Unwind

    def kill(self) -> None:
        """From here on, let nothing that threads do have an effect."""
        self.dead = True
        self.log = None
        self.data = None
        self.wind_down()

    def fingerprint(self) -> tuple[int, int]:
        """The fingerprint of the run so far, and the number of its steps.

        Fingerprints are equal for runs that differ only in the order of independent events.
        """
        total = steps = 0
        # Squares, because the hash of a tuple is nearly linear in its parts: in a plain sum, two threads that have seen
        # one thing each could not be told from the same two with what they have seen exchanged, in one case of four.
        for thread in self.threads:
            value = thread.hash
            total += value * value
            steps += thread.steps
        ticker = self.clock.ticker
        if ticker is not None:
            total += ticker.hash * ticker.hash
            steps += ticker.steps
        return total & MASK, steps

    def dispose(self) -> tuple[str, ...]:
        """Take the run apart; return the labels of threads whose code refuses to end.

        Unfinished coroutines are unwound, and reference cycles cut, so that most of the run is freed at once.
        """
        self.dead = True
        self.log = None
        self.data = None
        refused: list[Thread] = []
        for thread in self.threads:
            if thread.alive:
                thread.alive = False
                if isinstance(thread.op, BlockingOperation):
                    thread.op.timer = None
                if not unwind(thread):
                    refused.append(thread)
            thread.context = EMPTY
            thread.op = STARTING
            thread.creator = None  # type: ignore[assignment]
        self.threads.clear()
        if self.clock.ticker is not None:
            self.clock.clear()
        if not refused:
            return ()
        abandon(refused)
        return tuple(thread.label for thread in refused)


def unwind(thread: Thread) -> bool:
    """End an unfinished coroutine; return whether it ended."""
    coroutine = thread.coroutine
    if thread.op is STARTING:
        coroutine.close()
        return True
    # Three tries: a driver may await in `finally`, and may even swallow everything there.
    for _ in range(3):
        try:
            thread.context.run(coroutine.throw, Unwind())
        except KeyboardInterrupt:
            raise
        except BaseException:
            # What a driver raises while its world ends has no meaning any more.
            return True
    return False


def abandon(threads: list[Thread]) -> None:
    """Let go of coroutines that swallow their end.

    Being freed runs their code a last time, and that has to happen here: not inside a later run, and not when the
    interpreter shuts down, where code that swallows the errors of a world without globals would never end.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        for thread in threads:
            thread.coroutine = thread.send = None  # type: ignore[assignment]
        gc.collect()
    finally:
        sys.unraisablehook = hook
