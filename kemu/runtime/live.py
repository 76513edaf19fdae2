"""The live runtime: the same operations, interpreted in tasks of an anyio task group with a real clock.

Each emulated thread is a task, on trio or on asyncio, and may also await what belongs to the event loop:
every yield that is not an operation passes through, and whatever the loop throws is thrown into the driver.
The schedule is whatever the event loop makes of it, so a live run is for trying things out with real files,
sockets and people; finding races is the controlled runtime's work.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator
from contextvars import ContextVar, copy_context
from math import inf
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
from kemu.runtime.thread import Thread, Unwind, host

_carried: ContextVar[Thread] = ContextVar("kemu_live_thread")
"""The emulated thread that the current task carries; tasks that a driver starts inherit it."""

REFUSALS = 3
"""How often a thread may go on with an operation after the end of the run before it is left behind."""


class LiveClock(Clock):
    """The event loop's clock, counted in ticks from the start of the run."""

    __slots__ = ("_runtime", "_started")

    def __init__(self, runtime: LiveRuntime) -> None:
        self._runtime = runtime
        self._started: float | None = None
        super().__init__()

    def start(self) -> None:
        """Count from now."""
        self._started = anyio.current_time()

    @property
    def now(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._started is None:
            return 0
        return int((anyio.current_time() - self._started) * TICKS_PER_SECOND)

    @now.setter
    def now(self, value: int) -> None:
        """The base class sets its own notion of time, which a real clock does not need."""

    def insert(self, timer: Timer) -> None:
        # The event loop's clock goes on by itself, whoever waits for it.
        timer.lazy = False
        self.armed += 1
        self._runtime.start_timer(timer, timer.generation)


class LiveRuntime(Runtime):
    """Runs a program on the event loop that is running. Open questions go to *oracle* (the plain answer)."""

    def __init__(self, oracle: Oracle | None = None, *, thread_class: type[Thread] = Thread) -> None:
        super().__init__(thread_class=thread_class)
        self.clock = self._clock = LiveClock(self)
        self.oracle: Oracle = oracle if oracle is not None else First()
        self._group: TaskGroup | None = None
        self._over: anyio.Event | None = None
        self._wake: dict[Thread, anyio.Event] = {}
        self._limited: set[Thread] = set()
        self._deadline = inf
        self._decides = True

    @property
    def running(self) -> Thread | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _carried.get(None)

    def without_decisions(self, decides: bool = False) -> None:
        """As in the controlled runtime."""
        self._decides = decides

    async def run(self, label: str, main: Coroutine[Operation[Any], Any, Any]) -> Outcome:
        """Run *main* as the first thread until everything has come to rest."""
        outcome = self.outcome
        token = host.set(self)
        self._over = anyio.Event()
        self._clock.start()
        self._deadline = anyio.current_effective_deadline()
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self.spawn(label, main)
                await self._over.wait()
                group.cancel_scope.cancel()
            outcome.result = self.threads[0].result
            outcome.failure = self.failure
            if self.failure is not None:
                outcome.end = "stopped"
            elif outcome.stuck is not None:
                outcome.end = "stuck"
            if self.conclude is not None and self.failure is None and outcome.crash is None:
                outcome.failure = self.conclude(outcome)
        finally:
            outcome.swallowed = self.dispose()
            host.reset(token)
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
        try:
            value = self.oracle.choose(n, label)
        except Exception as error:
            self.abort(error)
        self.choices.append(value)
        return value

    def wind_down(self) -> None:
        # Before the tasks are cancelled: what they do while they end does not belong to the run.
        self.outcome.fingerprint, self.outcome.steps = self.fingerprint()
        assert self._over is not None
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
            _carried.set(self.clock.thread(self))
            try:
                timer.expire()
            except Unwind:
                return
            except Exception as error:
                self._crash(error)
                return
            self._rest()

    async def _carry(self, thread: Thread) -> None:
        if self.dead:
            return
        _carried.set(thread)
        thread.context = copy_context()
        try:
            thread.result = await _Interpreter(self, thread)
            rest = thread.epilogue(thread.result)
            if rest is not None:
                thread.coroutine = rest
                await _Interpreter(self, thread)
            if not self.dead:
                thread.finish()
        except Unwind:
            return
        except Exception as error:
            self._crash(error)
            return
        if self.dead:
            return
        thread.alive = False
        self.alive -= 1
        thread.write(thread)
        thread.changed()
        if self.log is not None:
            self.log("actor.exit", thread_name=thread.label)
        self._rest()

    def _crash(self, error: Exception) -> None:
        if not self.dead:
            self.outcome.crash = explain_live(error)
            self.kill()

    async def _wait(self, thread: Thread, op: BlockingOperation[Any]) -> None:
        deadline = None if op.timeout is None else self.clock.now + op.timeout
        while not op.ready(thread):
            self._wake[thread] = event = anyio.Event()
            thread.parked = True
            if anyio.current_effective_deadline() < self._deadline:
                # The driver has set the event loop a deadline: this wait is going to end.
                self._limited.add(thread)
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
                self._limited.discard(thread)
                del self._wake[thread]

    def _rest(self) -> None:
        """End the run once nothing in it can happen any more."""
        if self.dead or self.clock.armed:
            return
        alive = [thread for thread in self.threads if thread.alive]
        for thread in alive:
            event = self._wake.get(thread)
            if event is None or event.is_set() or thread in self._limited:
                return
            if cast("BlockingOperation[Any]", thread.op).timeout is not None:
                return
        self.outcome.stuck = explain_stuck(alive)
        self.kill()

    def perform(self, thread: Thread, op: Operation[Any]) -> Generator[Any, Any, Any]:
        """Perform one operation inside the thread's task."""
        thread.op = op
        if not op.blocks:
            yield from anyio.lowlevel.checkpoint().__await__()
        else:
            blocking = cast("BlockingOperation[Any]", op)
            blocking.expired = False
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
        if self.dead:
            raise Unwind
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
        refusals = 0
        while True:
            try:
                if error is None:
                    awaited: object = cast("object", coroutine.send(value))
                else:
                    thrown, error = error, None
                    awaited = cast("object", coroutine.throw(thrown))
            except StopIteration as stop:
                return stop.value
            if not self.runtime.dead:
                for invariant in self.runtime.invariants:
                    invariant()
            try:
                if not isinstance(awaited, Operation):
                    value = yield awaited
                elif not self.runtime.dead:
                    value = yield from self.runtime.perform(self.thread, cast("Operation[Any]", awaited))
                elif refusals < REFUSALS:
                    refusals += 1
                    error = Unwind()
                else:
                    # The code swallows its end. Waiting for it would hang the event loop; `dispose` names it.
                    return None
            except BaseException as caught:
                error = caught


def explain_live(error: BaseException) -> BaseException:
    """Name the cause where an event loop complains about an operation that reached it."""
    for leaf in leaves(error):
        text = str(leaf)
        if "unrecognized yield message" in text or "Task got bad yield" in text:
            return UsageError(
                "a kernel routine was awaited in a task that the driver started itself",
                remedy="start a thread with World.start instead of a task",
            )
    return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in *error*, which may be a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(inner)
    else:
        yield error


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
