"""Small programs that a strategy is tried on, each with what strategies have got wrong: `check_strategy` runs them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from kemu.runtime import (
    BlockingOperation,
    Cell,
    ControlledRuntime,
    Observer,
    Operation,
    Oracle,
    Outcome,
    Thread,
    Waitable,
    current_thread,
)

Main = Callable[[], Coroutine[Operation[Any], Any, Any]]

MAX_STEPS: Final = 10_000


@dataclass(frozen=True)
class TooLong:
    """The failure of a run that does not end."""

    code: str = "step-limit"

    @property
    def signature(self) -> tuple[str, ...]:
        return (self.code,)

    @property
    def summary(self) -> str:
        return f"the run has not ended after {MAX_STEPS:,} steps"


class Exercise:
    """A program made of a main routine. Only a run that does not end fails."""

    def __init__(self, name: str, main: Main) -> None:
        self.name = name
        self.identity = f"{len(name):016x}"
        self._main = main

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        runtime = ControlledRuntime(oracle, max_steps=MAX_STEPS, observer=observer)
        outcome = runtime.run("main", self._main())
        if outcome.crash is not None:
            raise outcome.crash
        if outcome.end == "step-limit":
            outcome.failure = TooLong()
        return outcome


class Shared(Waitable):
    """A cell with a number in it."""

    __slots__ = ("value",)

    guards = ("value",)

    def __init__(self, label: str, value: int = 0) -> None:
        super().__init__(current_thread(), label)
        self.value = value


class Put(Operation[None]):
    """Put a number into a cell."""

    __slots__ = ("shared", "value")
    kind = "put"

    def __init__(self, shared: Shared, value: int) -> None:
        self.shared = shared
        self.value = value

    def perform(self, thread: Thread) -> None:
        thread.write(self.shared)
        self.shared.value = self.value
        self.shared.changed()

    def target(self) -> Cell:
        return self.shared


class Get(Operation[int]):
    """Get the number that is in a cell."""

    __slots__ = ("shared",)
    kind = "get"

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def perform(self, thread: Thread) -> int:
        thread.read(self.shared)
        return self.shared.value

    def target(self) -> Cell:
        return self.shared


class Await(BlockingOperation[bool]):
    """Wait for the number to be 0, and make it 1; evaluates to whether it was in time."""

    __slots__ = ("shared",)
    kind = "await"

    def __init__(self, shared: Shared, timeout: int | None = None) -> None:
        super().__init__(shared, timeout=timeout)
        self.shared = shared

    def available(self, thread: Thread) -> bool:
        return self.shared.value == 0

    def take(self, thread: Thread) -> bool:
        thread.write(self.shared)
        self.shared.value = 1
        self.shared.changed()
        return True

    def timed_out(self, thread: Thread) -> bool:
        thread.read(self.shared)
        return False


def _spawn(label: str, body: Coroutine[Operation[Any], Any, Any]) -> None:
    current_thread().runtime.spawn(label, body)


def counters(first: int = 0) -> Exercise:
    """Three threads that get and put one number, which begins with *first*."""

    async def main() -> None:
        shared = Shared("number", first)

        async def count() -> None:
            await Put(shared, await Get(shared) + 1)

        for number in range(3):
            _spawn(f"thread {number}", count())

    return Exercise("three threads that count", main)


def deadlock() -> Exercise:
    """Two threads that take two locks in opposite order, beside one that waits only for some time."""

    async def main() -> None:
        one, other = Shared("one"), Shared("other")

        async def both(first: Shared, second: Shared) -> None:
            await Await(first)
            await Await(second)
            await Put(second, 0)
            await Put(first, 0)

        async def impatient() -> None:
            if await Await(one, timeout=10):
                await Put(one, 0)

        _spawn("forwards", both(one, other))
        _spawn("backwards", both(other, one))
        _spawn("impatient", impatient())

    return Exercise("locks, a deadlock and a timeout", main)


def questions() -> Exercise:
    """Open questions, before there is anything to schedule and beside it."""

    async def main() -> None:
        runtime = current_thread().runtime
        shared = Shared("number", runtime.choose(3, "first"))

        async def ask() -> None:
            await Get(shared)
            runtime.choose(300, "many")
            await Put(shared, runtime.choose(2, "second"))

        _spawn("asker", ask())
        _spawn("another", ask())

    return Exercise("open questions", main)


def family() -> Exercise:
    """Threads that start threads, and more of them in one run than in another."""

    async def main() -> None:
        shared = Shared("number")

        async def child() -> None:
            await Put(shared, 1)

        async def parent() -> None:
            if not await Get(shared):
                _spawn("early child", child())
            _spawn("child", child())
            await Get(shared)

        _spawn("one", parent())
        _spawn("other", parent())

    return Exercise("threads that start threads", main)


def alone() -> Exercise:
    """Nothing to decide."""

    async def main() -> None:
        await Put(Shared("number"), 1)

    return Exercise("a single thread", main)


def spinner() -> Exercise:
    """A thread that goes round until another one has run."""

    async def main() -> None:
        stop = Shared("stop")

        async def spin() -> None:
            while not await Get(stop):
                pass

        _spawn("spinner", spin())
        _spawn("stopper", _store(stop))

    async def _store(stop: Shared) -> None:
        await Put(stop, 1)

    return Exercise("a thread that spins", main)
