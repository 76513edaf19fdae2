"""Generated programs: everything the runtime offers, in random small pieces.

A program is a value, so that it can be printed, and shrunk by whoever generates it. What a run of it comes to is all
that its threads have seen and all that its objects are left with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from explore.programs import TestProgram
from runtime.kit import Acquire, Bump, Flag, Increment, Load, Mutex, Put, Release, Store, Variable, Wait

from kemu.runtime import (
    BlockingOperation,
    Cell,
    Join,
    Observer,
    Operation,
    Oracle,
    Outcome,
    Thread,
    Waitable,
    current_thread,
)

Draw = Callable[[int], int]
"""Draws a number below the one given."""


class Box(Waitable):
    """A mailbox."""

    __slots__ = ("items",)

    guards = ("items",)

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.items: deque[Any] = deque()


class Post(Operation[None]):
    __slots__ = ("box", "item")
    kind = "post"

    def __init__(self, box: Box, item: object) -> None:
        self.box = box
        self.item = item

    def perform(self, thread: Thread) -> None:
        thread.write(self.box)
        self.box.items.append(self.item)
        self.box.changed()

    def target(self) -> Cell:
        return self.box


class Fetch(BlockingOperation[Any]):
    """Take the next item; None if the time is up."""

    __slots__ = ("box",)
    kind = "fetch"

    def __init__(self, box: Box, timeout: int | None = None) -> None:
        super().__init__(box, timeout=timeout)
        self.box = box

    def available(self, thread: Thread) -> bool:
        return bool(self.box.items)

    def take(self, thread: Thread) -> Any:
        thread.write(self.box)
        item = self.box.items.popleft()
        self.box.changed()
        return item

    def timed_out(self, thread: Thread) -> None:
        thread.read(self.box)


class Consume(Wait):
    """Wait for a flag and clear it."""

    __slots__ = ()
    kind = "consume"

    def take(self, thread: Thread) -> bool:
        thread.write(self.flag)
        self.flag.is_set = False
        self.flag.changed()
        return True


class Several(BlockingOperation[Any]):
    """Wait for one of several flags, or for all, and clear what was waited for. Evaluates to which."""

    __slots__ = ("every", "flags")
    kind = "wait for several"

    def __init__(self, flags: list[Flag], *, every: bool, timeout: int | None = None) -> None:
        super().__init__(*flags, timeout=timeout)
        self.flags = flags
        self.every = every

    def available(self, thread: Thread) -> bool:
        return (all if self.every else any)(flag.is_set for flag in self.flags)

    def take(self, thread: Thread) -> tuple[int, ...]:
        taken: list[int] = []
        for number, flag in enumerate(self.flags):
            if flag.is_set and (self.every or not taken):
                thread.write(flag)
                taken.append(number)
                flag.is_set = False
                flag.changed()
            else:
                thread.read(flag)
        return tuple(taken)

    def timed_out(self, thread: Thread) -> tuple[int, ...]:
        for flag in self.flags:
            thread.read(flag)
        return ()


class Blindly(Acquire):
    """Acquire a lock, without saying on what that depends."""

    __slots__ = ()
    kind = "acquire blindly"
    opaque = True


class WaitBlindly(Wait):
    """Wait for a flag likewise."""

    __slots__ = ()
    kind = "wait blindly"
    opaque = True


class ReadClock(Operation[int]):
    __slots__ = ()
    kind = "read the time"

    def perform(self, thread: Thread) -> int:
        return thread.runtime.clock.read(thread)


@dataclass(frozen=True)
class Line:
    """One operation, and the local code after it: accesses to variables in the same step."""

    what: str
    number: int = 0
    local: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        local = "".join(f" + {mode} {number}" for mode, number in self.local)
        return f"{self.what} {self.number}{local}"


Code = tuple[tuple[Line, ...], ...]
"""The lines of each thread. The first thread that has `spawn k` starts the k-th; all others exist from the start."""

KINDS = {
    "cells": ("load", "store", "increment", "bump"),
    "locks": ("acquire", "release"),
    "tries": ("try",),
    "events": ("set", "reset", "wait", "consume"),
    "timed": ("timed wait",),
    "several": ("either", "both", "timed either", "timed both"),
    "blind": ("blind acquire", "blind wait"),
    "boxes": ("post", "fetch", "poll"),
    "joins": ("join",),
    "spawns": ("spawn",),
    "choices": ("choose",),
    "clock": ("sleep", "time"),
}
"""The families of operations. `local` stands for local code."""

EVERYTHING = (*KINDS, "local")


def generate(draw: Draw, families: tuple[str, ...] = EVERYTHING, *, most: int = 3) -> Code:
    """A program of two or three threads with up to *most* lines each, of the *families*."""
    kinds = [kind for family in families if family != "local" for kind in KINDS[family]]
    threads = 2 + draw(2)
    return tuple(
        tuple(_line(draw, kinds, threads, me, local="local" in families) for _ in range(1 + draw(most)))
        for me in range(threads)
    )


def _line(draw: Draw, kinds: list[str], threads: int, me: int, *, local: bool) -> Line:
    what = kinds[draw(len(kinds))]
    number = draw(2)
    if what in {"join", "spawn"}:
        number = (me + 1 + draw(threads - 1)) % threads
    accesses: tuple[tuple[str, int], ...] = ()
    if local and draw(3) == 0:
        accesses = tuple((("load", "store", "bump")[draw(3)], draw(2)) for _ in range(1 + draw(2)))
    return Line(what, number, accesses)


class GeneratedProgram(TestProgram):
    """A generated program, of whose last run `state` is what it came to."""

    def __init__(self, code: Code) -> None:
        super().__init__(self._generated, max_steps=400)
        self.code = code
        self.state: object = None

    def __str__(self) -> str:
        return "; ".join(f"T{me}: {', '.join(map(str, lines))}" for me, lines in enumerate(self.code))

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        outcome = super().run(oracle, observer)
        stuck = outcome.stuck
        waiting = () if stuck is None else tuple((one.thread, one.waits_for) for one in stuck.blocked)
        values = tuple(variable.value for variable in self._variables)
        flags = tuple(flag.is_set for flag in self._flags)
        boxes = tuple(tuple(box.items) for box in self._boxes)
        self.state = (tuple(tuple(seen) for seen in self._seen), values, flags, boxes, waiting)
        return outcome

    async def _generated(self) -> None:
        self._variables = [Variable(f"x{number}") for number in range(2)]
        self._locks = [Mutex(f"L{number}") for number in range(2)]
        self._flags = [Flag(f"E{number}") for number in range(2)]
        self._boxes = [Box(f"m{number}") for number in range(2)]
        self._seen: list[list[object]] = [[] for _ in self.code]
        self._spawned: list[Thread | None] = [None for _ in self.code]
        self._starters: dict[int, int] = {}
        for me, lines in enumerate(self.code):
            for line in lines:
                if line.what == "spawn":
                    self._starters.setdefault(line.number, me)
        for me in range(len(self.code)):
            if me not in self._starters:
                self._spawn(me)

    def _spawn(self, me: int) -> None:
        self._spawned[me] = current_thread().runtime.spawn(f"T{me}", self._thread(me))

    async def _thread(self, me: int) -> None:
        seen = self._seen[me]
        for at, line in enumerate(self.code[me]):
            value = 10 * me + at + 1
            seen.append(await self._do(line, me, value))
            for mode, number in line.local:
                self._local(mode, self._variables[number], seen, value)

    def _local(self, mode: str, variable: Variable, seen: list[object], value: int) -> None:
        thread = current_thread()
        if mode == "load":
            thread.read(variable)
            seen.append(variable.value)
        elif mode == "store":
            thread.write(variable)
            variable.value = 100 * value
        else:
            thread.update(variable)
            variable.value += 1000

    async def _do(self, line: Line, me: int, value: int) -> object:
        number = line.number
        thread = current_thread()
        match line.what:
            case "load":
                return await Load(self._variables[number])
            case "store":
                return await Store(self._variables[number], value)
            case "increment":
                return await Increment(self._variables[number])
            case "bump":
                return await Bump(self._variables[number])
            case "acquire":
                return await Acquire(self._locks[number])
            case "try":
                return await Acquire(self._locks[number], timeout=0)
            case "release":
                if self._locks[number].owner is thread:
                    await Release(self._locks[number])
                return None
            case "set":
                return await Put(self._flags[number])
            case "reset":
                return await Put(self._flags[number], False)
            case "wait":
                return await Wait(self._flags[number])
            case "consume":
                return await Consume(self._flags[number])
            case "timed wait":
                return await Wait(self._flags[number], timeout=10)
            case "either" | "both" | "timed either" | "timed both":
                flags = self._flags[::-1] if number else self._flags
                timeout = 10 if line.what.startswith("timed") else None
                return await Several(flags, every=line.what.endswith("both"), timeout=timeout)
            case "blind acquire":
                return await Blindly(self._locks[number])
            case "blind wait":
                return await WaitBlindly(self._flags[number])
            case "post":
                return await Post(self._boxes[number], value)
            case "fetch":
                return await Fetch(self._boxes[number])
            case "poll":
                return await Fetch(self._boxes[number], timeout=0)
            case "join":
                other = self._spawned[number]
                # Whether another thread has started it is a matter of the schedule, at which nobody looks unseen.
                return await Join(other) if other is not None and self._starters.get(number, me) == me else None
            case "spawn":
                if self._starters[number] == me and self._spawned[number] is None:
                    self._spawn(number)
                return None
            case "choose":
                return thread.runtime.choose(2 + number, "answer")
            case "sleep":
                return await Wait(Flag("sleep"), timeout=5 + 5 * number)
            case "time":
                return await ReadClock()
            case _:
                raise AssertionError(line.what)
