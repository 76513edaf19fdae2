"""What tests of races share: a field of a driver's, and programs on the bare runtime that are watched for races.

A program here is an ``async def main()``. `watch` makes its plain run and returns the race that ended it, if any.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from kemu.explore import BoundedDFS
from kemu.runtime import (
    BlockingOperation,
    Cell,
    ControlledRuntime,
    Join,
    Operation,
    Oracle,
    Outcome,
    Race,
    RaceDetector,
    Thread,
    Waitable,
    current_thread,
)
from kemu.runtime.oracle import First

Main = Callable[[], Coroutine[Any, Any, Any]]


class FieldCell(Cell):
    """The cell of a field, which says more about itself than others do."""

    __slots__ = ("benign", "lifetime")

    def __init__(self, label: str, benign: bool, lifetime: Cell | None) -> None:
        super().__init__(current_thread(), label)
        self.benign = benign
        self.lifetime = lifetime


class Field:
    """A field of a driver's own."""

    def __init__(self, label: str = "Driver.Field", *, benign: bool = False, lifetime: Cell | None = None) -> None:
        self.cell = FieldCell(label, benign, lifetime)

    def load(self) -> None:
        current_thread().load(self.cell)

    def store(self) -> None:
        current_thread().store(self.cell)


@dataclass(frozen=True)
class Found:
    """A race, as what a run ends with."""

    race: Race

    @property
    def code(self) -> str:
        return "race"

    @property
    def signature(self) -> tuple[str, ...]:
        return ("race", self.race.cell.label)

    @property
    def summary(self) -> str:
        return f"{self.race.first} {self.race.second}"


def run(main: Main, oracle: Oracle | None = None, *, races: bool = True) -> Outcome:
    """Run *main* once; with *races* under a detector, whose first race ends the run."""
    runtime = ControlledRuntime(oracle if oracle is not None else First())
    if races:
        runtime.races = RaceDetector(runtime, lambda race: runtime.stop(Found(race)))
    outcome = runtime.run("main", main())
    if outcome.crash is not None:
        raise outcome.crash
    return outcome


def watch(main: Main, oracle: Oracle | None = None) -> Race | None:
    """The race of one run of *main*, the plain one unless there is an oracle."""
    outcome = run(main, oracle)
    assert outcome.end in {"finished", "stopped"}
    return None if outcome.failure is None else outcome.failure.race


def races_of_all_runs(main: Main, limit: int = 5_000) -> list[bool]:
    """For every run there is whether it has a race."""
    search = BoundedDFS(None)
    found: list[bool] = []
    while search.begin():
        outcome = run(main, search)
        search.end(outcome)
        found.append(outcome.failure is not None)
        assert len(found) <= limit
    assert search.exhausted
    return found


def spawn(label: str, coroutine: Coroutine[Any, Any, Any]) -> Thread:
    return current_thread().runtime.spawn(label, coroutine)


async def together(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run each in a thread of its own, called t0, t1, ..., and wait for all."""
    threads = [spawn(f"t{number}", one) for number, one in enumerate(coroutines)]
    for thread in threads:
        await Join(thread)


class Do(Operation[None]):
    """Do anything, as an operation."""

    __slots__ = ("action",)
    kind = "do"

    def __init__(self, action: Callable[[Thread], object]) -> None:
        self.action = action

    def perform(self, thread: Thread) -> None:
        self.action(thread)


class Wait(BlockingOperation[None]):
    """Wait until something holds, then do something."""

    __slots__ = ("action", "holds")
    kind = "wait for"

    def __init__(self, source: Waitable, holds: Callable[[], bool], action: Callable[[Thread], object]) -> None:
        super().__init__(source)
        self.holds = holds
        self.action = action

    def available(self, thread: Thread) -> bool:
        return self.holds()

    def take(self, thread: Thread) -> None:
        self.action(thread)


class Lock(Waitable):
    """A lock with one owner, or with any number of those that share it."""

    __slots__ = ("owner", "sharers")

    def __init__(self, label: str = "L") -> None:
        super().__init__(current_thread(), label)
        self.owner: Thread | None = None
        self.sharers = 0

    async def acquire(self) -> None:
        def take(thread: Thread) -> None:
            thread.write(self)
            thread.acquire(self)
            thread.acquire_as_waiter(self)
            self.owner = thread
            self.changed()

        await Wait(self, lambda: self.owner is None and not self.sharers, take)

    async def release(self) -> None:
        def give(thread: Thread) -> None:
            thread.write(self)
            thread.release(self)
            self.owner = None
            self.changed()

        await Do(give)

    async def acquire_shared(self) -> None:
        def take(thread: Thread) -> None:
            thread.write(self)
            thread.acquire(self)
            self.sharers += 1
            self.changed()

        await Wait(self, lambda: self.owner is None, take)

    async def release_shared(self) -> None:
        def give(thread: Thread) -> None:
            thread.write(self)
            thread.release_to_waiter(self)
            self.sharers -= 1
            self.changed()

        await Do(give)


class Count(Cell):
    """A number that is changed by interlocked operations."""

    __slots__ = ("value",)

    def __init__(self, label: str, value: int = 0) -> None:
        super().__init__(current_thread(), label)
        self.value = value

    async def add(self, number: int) -> int:
        """Add *number* and return the sum."""
        sums: list[int] = []

        def add(thread: Thread) -> None:
            thread.write(self)
            thread.exchange(self)
            self.value += number
            sums.append(self.value)

        await Do(add)
        return sums[0]
