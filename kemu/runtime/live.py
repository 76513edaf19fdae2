"""The live runtime: the same operations, interpreted in tasks of an anyio task group with a real clock.

Each emulated thread is a task, on trio or on asyncio, and may also await what belongs to the event loop: every
yield that is not an operation passes through, and whatever the loop throws is thrown into the driver. The
schedule is whatever the event loop makes of it, so a live run is for trying things out with real files, sockets
and people; finding races is the controlled runtime's work.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from typing import Any, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from kemu.errors import UsageError
from kemu.runtime.clock import TICKS_PER_SECOND, Clock, Timer
from kemu.runtime.core import Runtime
from kemu.runtime.operation import BlockingOperation, Operation
from kemu.runtime.oracle import First, Oracle
from kemu.runtime.outcome import Outcome, explain_stuck
from kemu.runtime.thread import Thread, Unwind, current


class LiveClock(Clock):
    """The host's monotonic clock, counted in ticks from the start of the run."""

    def __init__(self, runtime: LiveRuntime) -> None:
        self._runtime = runtime
        self._started = time.monotonic()
        super().__init__()

    @property
    def now(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return int((time.monotonic() - self._started) * TICKS_PER_SECOND)

    @now.setter
    def now(self, value: int) -> None:
        """The base class sets its own notion of time, which a real clock does not need."""

    def insert(self, timer: Timer) -> None:
        self.armed += 1
        self._runtime.start_timer(timer, timer.generation)


class LiveRuntime(Runtime):
    """Runs a program on the event loop that is running. Open questions go to *oracle* (the plain answer)."""

    def __init__(self, oracle: Oracle | None = None, *, thread_class: type[Thread] = Thread) -> None:
        super().__init__(thread_class=thread_class)
        self.clock = LiveClock(self)
        self.oracle: Oracle = oracle if oracle is not None else First()
        self._group: TaskGroup | None = None
        self._wake: dict[Thread, anyio.Event] = {}
        self._over = anyio.Event()
        self._decides = True

    def without_decisions(self, decides: bool = False) -> None:
        """As in the controlled runtime."""
        self._decides = decides

    async def run(self, label: str, main: Coroutine[Operation[Any], Any, Any]) -> Outcome:
        """Run *main* as the first thread until everything has come to rest."""
        async with anyio.create_task_group() as group:
            self._group = group
            first = self.spawn(label, main)
            await self._over.wait()
            group.cancel_scope.cancel()
        outcome = self.outcome
        outcome.failure = self.failure
        outcome.result = first.result
        outcome.fingerprint, outcome.steps = self.fingerprint()
        if self.failure is not None:
            outcome.end = "stopped"
        elif outcome.crash is None:
            outcome.stuck = explain_stuck([thread for thread in self.threads if thread.alive])
            if outcome.stuck is not None:
                outcome.end = "stuck"
        if self.conclude is not None and self.failure is None and outcome.crash is None:
            outcome.failure = self.conclude(outcome)
        outcome.swallowed = self.dispose()
        return outcome

    def admit(self, thread: Thread) -> None:
        assert self._group is not None
        self._group.start_soon(self._carry, thread, name=thread.label)

    def reconsider(self, thread: Thread) -> None:
        event = self._wake.get(thread)
        if event is not None and cast("BlockingOperation[Any]", thread.op).ready(thread):
            event.set()

    def choose(self, n: int, label: str) -> int:
        if n < 2 or not self._decides or self.dead:
            return 0
        return self.oracle.choose(n, label)

    def wind_down(self) -> None:
        self._over.set()

    def start_timer(self, timer: Timer, generation: int) -> None:
        """Let *timer* expire when its time has come on the real clock."""
        assert self._group is not None
        self._group.start_soon(self._time, timer, generation)

    async def _time(self, timer: Timer, generation: int) -> None:
        await anyio.sleep(max(0, timer.due - self.clock.now) / TICKS_PER_SECOND)
        if timer.armed and timer.generation == generation and not self.dead:
            timer.armed = False
            self.clock.armed -= 1
            current.set(self.clock.thread(self))
            timer.expire()
            self._rest()

    async def _carry(self, thread: Thread) -> None:
        current.set(thread)
        try:
            thread.result = await _Interpreter(self, thread)
        except Unwind:
            return
        except Exception as error:
            if not self.dead:
                self.outcome.crash = explain_live(error)
                self._over.set()
            return
        thread.alive = False
        self.alive -= 1
        thread.write(thread)
        thread.changed()
        if self.log is not None:
            self.log("actor.exit", thread_name=thread.label)
        self._rest()

    async def _wait(self, thread: Thread, op: BlockingOperation[Any]) -> None:
        deadline = None if op.timeout is None else self.clock.now + op.timeout
        while not op.ready(thread):
            self._wake[thread] = event = anyio.Event()
            thread.parked = True
            self._rest()
            try:
                if deadline is None:
                    await event.wait()
                else:
                    with anyio.move_on_after((deadline - self.clock.now) / TICKS_PER_SECOND) as scope:
                        await event.wait()
                    op.expired = scope.cancelled_caught
            finally:
                thread.parked = False
                del self._wake[thread]

    def _rest(self) -> None:
        """End the run once nothing in it can happen any more."""
        if self.clock.armed:
            return
        for thread in self.threads:
            if not thread.alive:
                continue
            event = self._wake.get(thread)
            if event is None or event.is_set() or cast("BlockingOperation[Any]", thread.op).timeout is not None:
                return
        self._over.set()

    def perform(self, thread: Thread, op: Operation[Any]) -> Generator[Any, Any, Any]:
        """Perform one operation inside the thread's task."""
        thread.op = op
        if not op.blocks:
            yield from anyio.lowlevel.checkpoint().__await__()
            thread.steps += 1
            return op.perform(thread)
        blocking = cast("BlockingOperation[Any]", op)
        for source in blocking.sources:
            source.watchers.append(thread)
        try:
            yield from anyio.lowlevel.checkpoint().__await__()
            yield from self._wait(thread, blocking).__await__()
        except BaseException:
            # Cancelled while waiting: the thread does not want the object any more.
            for source in blocking.sources:
                source.watchers.remove(thread)
            raise
        thread.steps += 1
        return op.perform(thread)


class _Interpreter:
    """Runs one thread's coroutine inside its task."""

    def __init__(self, runtime: LiveRuntime, thread: Thread) -> None:
        self.runtime = runtime
        self.thread = thread

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self.thread.coroutine
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    awaited: object = coroutine.send(value)
                else:
                    thrown, error = error, None
                    awaited = coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            try:
                if isinstance(awaited, Operation):
                    value = yield from self.runtime.perform(self.thread, cast("Operation[Any]", awaited))
                else:
                    value = yield awaited
            except BaseException as caught:
                error = caught


def explain_live(error: BaseException) -> BaseException:
    """Name the cause where an event loop complains about an operation that reached it."""
    text = str(error)
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return explain_live(group.exceptions[0]) if len(group.exceptions) == 1 else error
    if "unrecognized yield message" in text or "Task got bad yield" in text:
        return UsageError(
            "a kernel routine was awaited in a task that the driver started itself",
            remedy="start a thread with PsCreateSystemThread or World.thread instead of a task group or create_task",
        )
    return error


def run_live(
    runtime_main: Coroutine[Operation[Any], Any, Any],
    label: str,
    runtime: LiveRuntime,
    backend: str = "trio",
) -> Outcome:
    """Run *runtime_main* under *runtime* on a fresh event loop of *backend* (``trio`` or ``asyncio``)."""

    async def body() -> Outcome:
        return await runtime.run(label, runtime_main)

    return anyio.run(body, backend=backend)
