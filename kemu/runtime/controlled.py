"""The controlled runtime: drives the coroutines itself, one step at a time.

This is the hot path of every exploration. Its inner loop does no logging, allocates nothing, looks no name up
through the world and takes no notice of threads that cannot go on: `ready` holds those that can, sorted by path,
and is kept up to date by whoever changes something (`Waitable.changed`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Coroutine
from operator import attrgetter
from typing import Any, NoReturn, cast

from kemu.errors import ForeignAwaitable
from kemu.runtime.core import Observer, Runtime, arm_timeout, foreign_at, foreign_call
from kemu.runtime.footprint import mix
from kemu.runtime.operation import BlockingOperation, Operation
from kemu.runtime.oracle import First, Oracle
from kemu.runtime.outcome import Outcome, explain_stuck
from kemu.runtime.thread import Thread, Unwind, current

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
        self.choices: list[int] = []
        self._changed = False
        self._decides = True

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
        if cast("BlockingOperation[Any]", thread.op).ready(thread):
            if thread.parked:
                thread.parked = False
                insort(self.ready, thread, key=path_of)
                self._changed = True
        elif not thread.parked:
            self._park(thread)

    def choose(self, n: int, label: str) -> int:
        if n < 2 or not self._decides or self.dead:
            return 0
        value = self.oracle.choose(n, label)
        self.choices.append(value)
        thread = current.get()
        thread.hash = mix(thread.hash, value)
        if self.observer is not None:
            self.observer.chose(value, n, label)
        return value

    def without_decisions(self, decides: bool = False) -> None:
        """Switch decisions off (or on again with True): meanwhile the plain alternative is always taken.

        Used for set-up, which is the same in every run unless the user asks to explore it.
        """
        self._decides = decides

    def wind_down(self) -> None:
        self.ready.clear()
        self.clock.armed = 0
        self._changed = True

    # The run.

    def run(self, label: str, main: Coroutine[Operation[Any], Any, Any]) -> Outcome:
        """Run *main* as the first thread until everything has come to rest."""
        outcome = self.outcome
        self._run(label, main)
        outcome.choices = self.choices
        outcome.failure = self.failure
        outcome.fingerprint, outcome.steps = self.fingerprint()
        if self.failure is not None:
            outcome.end = "stopped"
        elif outcome.end == "finished" and outcome.crash is None and self.alive:
            outcome.stuck = explain_stuck([thread for thread in self.threads if thread.alive])
            if outcome.stuck is not None:
                outcome.end = "stuck"
        if self.conclude is not None and self.failure is None and outcome.crash is None:
            outcome.failure = self.conclude(outcome)
        outcome.swallowed = self.dispose()
        return outcome

    def _run(self, label: str, main: Coroutine[Operation[Any], Any, Any]) -> None:
        thread = self.spawn(label, main)
        try:
            self._loop()
        except Unwind:
            pass
        except ForeignAwaitable as error:
            self.outcome.crash = error
        except Exception as error:
            self.outcome.crash = foreign_call(error) or error
        self.outcome.result = thread.result

    def _loop(self) -> None:
        ready = self.ready
        oracle_pick = self.oracle.pick
        record = self.choices.append
        observer = self.observer
        clock = self.clock
        invariants = self.invariants
        budget = self.max_steps
        i = 0
        c = 0
        while True:
            m = len(ready)
            n = m + 1 if clock.armed else m
            if n > 1:
                if self._decides:
                    self.index = i
                    c = oracle_pick(n, self)
                    record(c)
                else:
                    c = 0
                if c:
                    i += c
                    if c == m:
                        i = self._fire(i - c, c, n)
                        continue
                    if i >= m:
                        i -= m
            elif m == 0:
                if n == 0:
                    return
                i = self._fire(0, 0, 1)
                continue
            thread = ready[i]
            self.running = thread
            budget -= 1
            if budget < 0:
                self.outcome.end = "step-limit"
                return
            thread.steps += 1
            if observer is not None:
                observer.before_step(thread, c if n > 1 else 0, n)
            try:
                thread.op = op = thread.resume(thread.op.perform(thread))
            except StopIteration as stop:
                self._end(thread, stop.value)
                op = None
            if observer is not None:
                observer.after_step(thread)
            if invariants:
                for invariant in invariants:
                    invariant()
            if op is not None:
                try:
                    blocks = op.blocks
                except AttributeError:
                    # Not an operation: something that belongs to an event loop was awaited.
                    self._refuse_foreign(thread, op)
                if blocks:
                    self._declare(thread, cast("BlockingOperation[Any]", op))
            if self._changed:
                self._changed = False
                i = self._position()

    def _position(self) -> int:
        """Where in `ready` the running thread stands, or the next one in the ring if it cannot go on."""
        if self.running is None:
            return 0
        i = bisect_left(self.ready, self.running.path, key=path_of)
        return i if i < len(self.ready) else 0

    def _declare(self, thread: Thread, op: BlockingOperation[Any]) -> None:
        if self.dead:
            return
        for source in op.sources:
            source.watchers.append(thread)
        if op.timeout is not None:
            op.deadline = self.clock.now + op.timeout
        if not op.ready(thread):
            self._park(thread)

    def _park(self, thread: Thread) -> None:
        thread.parked = True
        self.ready.remove(thread)
        self._changed = True
        op = cast("BlockingOperation[Any]", thread.op)
        if op.timeout and op.timer is None:
            arm_timeout(thread, op)

    def _fire(self, i: int, c: int, n: int) -> int:
        """Let the clock take the step. Returns where the ring stands afterwards."""
        if self.observer is not None:
            self.observer.before_step(None, c, n)
        self.clock.fire(self)
        if self.observer is not None:
            self.observer.after_step(None)
        if self._changed:
            self._changed = False
            return self._position()
        return i

    def _end(self, thread: Thread, result: Any) -> None:
        thread.result = result
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

    def _refuse_foreign(self, thread: Thread, awaited: object) -> NoReturn:
        what = "a bare yield, as in asyncio.sleep(0)" if awaited is None else type(awaited).__name__
        try:
            thread.coroutine.throw(Unwind())
        except BaseException as error:
            raise foreign_at(error, what) from None
        raise foreign_at(None, what)
