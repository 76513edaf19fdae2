"""The controlled runtime: drives the coroutines itself, one step at a time.

This is the hot path of every exploration. Its inner loop does no logging, allocates nothing, looks no name up
through the world and takes no notice of threads that cannot go on: `ready` holds those that can, sorted by
path, and is kept up to date by whoever changes something (`Waitable.changed`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Coroutine
from operator import attrgetter
from typing import Any, NoReturn, cast

from kemu.runtime.clock import Timer
from kemu.runtime.core import Observer, Runtime
from kemu.runtime.footprint import mix
from kemu.runtime.foreign import foreign_await, foreign_call
from kemu.runtime.operation import BlockingOperation, Operation
from kemu.runtime.oracle import First, Oracle
from kemu.runtime.outcome import Outcome, explain_stuck
from kemu.runtime.thread import Thread, Unwind, host

DEFAULT_MAX_STEPS = 20_000

path_of = attrgetter("path")


class ControlledRuntime(Runtime):
    """Runs a program under an oracle that takes every decision. Also the oracle's `DecisionPoint`."""

    def __init__(
        self,
        oracle: Oracle | None = None,
        *,
        max_steps: int = DEFAULT_MAX_STEPS,
        thread_class: type[Thread] = Thread,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(thread_class=thread_class)
        self.oracle: Oracle = oracle if oracle is not None else First()
        self.max_steps = max_steps
        self.observer = observer
        self.ready: list[Thread] = []
        self.index = 0
        self.running: Thread | None = None
        self._changed = False
        self._decides = True

    @property
    def decides(self) -> bool:
        """Whether there are decisions at the moment; in set-up that is not explored, there are none."""
        return self._decides

    @property
    def clock_is_enabled(self) -> bool:
        return self.clock.armed > 0

    # What threads and objects call.

    def admit(self, thread: Thread) -> None:
        ready = self.ready
        if not ready or ready[-1].path < thread.path:
            ready.append(thread)
        else:
            insort(ready, thread, key=path_of)
        self._changed = True

    def reconsider(self, thread: Thread) -> None:
        if self.dead:
            return
        op = cast("BlockingOperation[Any]", thread.op)
        if op.timer is not None and len(op.sources) > 1:
            # Whether the clock may be scheduled depends on all of them, and not only on the one that has changed.
            running = self.running
            assert running is not None
            for source in op.sources:
                running.read(source)
        if op.ready(thread):
            if thread.parked:
                thread.parked = False
                insort(self.ready, thread, key=path_of)
                self._changed = True
                if op.timer is not None and op.timer.armed:
                    op.timer.cancel()
        elif not thread.parked:
            self._park(thread)

    def choose(self, n: int, label: str) -> int:
        if n < 2 or not self._decides or self.dead:
            return 0
        try:
            value = self.oracle.choose(n, label)
        except Exception as error:
            # The driver's code is on the stack: it could swallow what says that a replay diverged.
            self.abort(error)
        self.choices.append(value)
        thread = self.running
        assert thread is not None
        thread.hash = mix(thread.hash, value)
        if self.observer is not None:
            self.observer.chose(value, n, label)
        return value

    def without_decisions(self, decides: bool = False) -> None:
        """Switch decisions off (or on again with True): meanwhile the plain alternative is always taken.

        Used for set-up, which is the same in every run unless the user asks to explore it.
        """
        self._decides = decides
        if self.data is not None:
            self.data.recording = decides

    def wind_down(self) -> None:
        self.ready.clear()
        self.clock.armed = 0
        self._changed = True

    def abandon(self) -> NoReturn:
        """End the run here, because whoever decides has no use for the rest of it. Does not return.

        To be called by an oracle or an observer, between steps.
        """
        self.outcome.end = "abandoned"
        self.kill()
        raise Unwind

    # The run.

    def run(self, label: str, main: Coroutine[Operation[Any], Any, Any]) -> Outcome:
        """Run *main* as the first thread until everything has come to rest."""
        outcome = self.outcome
        token = host.set(self)
        try:
            first = self.spawn(label, main)
            self._run()
            outcome.result = first.result
            outcome.failure = self.failure
            outcome.fingerprint, outcome.steps = self.fingerprint()
            if self.failure is not None:
                outcome.end = "stopped"
            elif outcome.end == "finished" and outcome.crash is None and self.alive:
                outcome.stuck = explain_stuck([thread for thread in self.threads if thread.alive])
                if outcome.stuck is not None:
                    outcome.end = "stuck"
            judged = outcome.end != "abandoned" and outcome.crash is None
            if self.conclude is not None and self.failure is None and judged:
                outcome.failure = self.conclude(outcome)
        finally:
            # Also when the user interrupts: what is suspended must not end in the middle of a later run.
            outcome.swallowed = self.dispose()
            host.reset(token)
        return outcome

    def _run(self) -> None:
        try:
            self._loop()
        except (KeyboardInterrupt, Unwind):
            if not self.dead:
                raise
        except BaseException as error:
            # Also SystemExit and what cancels an event loop's task: here they are a driver's mistake.
            if not self.dead:
                self.outcome.crash = foreign_call(error) or error

    def _loop(self) -> None:
        ready = self.ready
        oracle_pick = self.oracle.pick
        record = self.choices.append
        observer = self.observer
        clock = self.clock
        invariants = self.invariants
        i = 0
        c = 0
        for _ in range(self.max_steps):
            m = len(ready)
            n = m + 1 if clock.armed else m
            if n > 1:
                if self._decides:
                    self.index = i
                    c = oracle_pick(n, self)
                    record(c)
                    if c:
                        if c == m:
                            i = self._fire(i, c, n)
                            continue
                        i += c
                        if i >= m:
                            i -= m
                else:
                    # Not an alternative as far as anybody is concerned, or an observer would count it as one.
                    c = 0
                    n = 1
            elif m == 0:
                if n == 0 and not self._awaits_time():
                    return
                i = self._fire(0, 0, 1)
                continue
            else:
                c = 0
            thread = ready[i]
            self.running = thread
            thread.steps += 1
            if observer is not None:
                observer.before_step(thread, c, n)
            value = thread.op.perform(thread)
            try:
                thread.op = op = thread.context.run(thread.send, value)
            except StopIteration as stop:
                self._end(thread, stop.value)
            else:
                try:
                    blocks = op.blocks
                except AttributeError:
                    # Not an operation: something that belongs to an event loop was awaited.
                    raise foreign_await(thread.coroutine, op) from None
                if blocks:
                    self._declare(thread, cast("BlockingOperation[Any]", op))
            if observer is not None:
                observer.after_step(thread)
            if invariants:
                for invariant in invariants:
                    invariant()
            if self._changed:
                if self.dead:
                    return
                self._changed = False
                i = self._position()
        if ready or clock.armed or self._awaits_time():
            self.outcome.end = "step-limit"

    def _awaits_time(self) -> bool:
        """Whether a thread waits, nobody can go on, and a lazy deadline might change that."""
        if not self.clock.dormant:
            return False
        return any(
            thread.alive and not (thread.service and getattr(thread.op, "idle", False)) for thread in self.threads
        )

    def _position(self) -> int:
        """Where in `ready` the running thread stands, or the next one in the ring if it cannot go on."""
        running = self.running
        assert running is not None
        ready = self.ready
        if running.alive and not running.parked:
            return ready.index(running)
        i = bisect_left(ready, running.path, key=path_of)
        return i if i < len(ready) else 0

    def _declare(self, thread: Thread, op: BlockingOperation[Any]) -> None:
        if self.dead:
            return
        for source in op.sources:
            source.watchers.append(thread)
        if op.timeout:
            self._limit(thread, op)
        if not op.ready(thread):
            self._park(thread)

    def _limit(self, thread: Thread, op: BlockingOperation[Any]) -> None:
        """Give *op*, which *thread* declares, its deadline.

        The timer is made even if the thread need not wait: whether it does depends on the schedule, and the
        thread's next names may not. For the same reason the step has seen the objects: they decide whether
        the clock may be scheduled next.
        """
        assert op.timeout is not None

        def expire() -> None:
            clock = self.clock.thread(self)
            for source in op.sources:
                clock.read(source)
            op.expired = True
            self.reconsider(thread)

        for source in op.sources:
            thread.read(source)
        op.deadline = self.clock.read(thread) + op.timeout
        op.expired = False
        op.timer = Timer(self.clock, thread, f"timeout of {thread.label}", expire)

    def _park(self, thread: Thread) -> None:
        thread.parked = True
        self.ready.remove(thread)
        self._changed = True
        op = cast("BlockingOperation[Any]", thread.op)
        if op.timer is not None:
            op.timer.arm(op.deadline)

    def _fire(self, i: int, c: int, n: int) -> int:
        """Let the clock take the step. Returns where the ring stands afterwards."""
        before = self.running
        if self.observer is not None:
            self.observer.before_step(None, c, n)
        self.running = self.clock.thread(self)
        self.clock.fire(self, idle=n == 1)
        self.running = before
        if self.observer is not None:
            self.observer.after_step(None)
        if self._changed and not self.dead:
            self._changed = False
            return self._position()
        return i

    def _end(self, thread: Thread, result: Any) -> None:
        rest = thread.epilogue(result)
        if rest is not None:
            thread.coroutine, thread.send = rest, rest.send
            try:
                thread.op = op = thread.context.run(rest.send, None)
            except StopIteration:
                pass
            else:
                if op.blocks:
                    self._declare(thread, cast("BlockingOperation[Any]", op))
                return
        thread.result = result
        thread.finish()
        thread.alive = False
        self.alive -= 1
        thread.write(thread)
        if self.dead:
            return
        self.ready.remove(thread)
        self._changed = True
        if thread.watchers:
            thread.changed()
        if self.log is not None:
            self.log("actor.exit", thread_name=thread.label)

    def dispose(self) -> tuple[str, ...]:
        swallowed = super().dispose()
        self.ready.clear()
        self.running = None
        return swallowed
