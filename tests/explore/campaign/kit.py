"""Programs that other processes can load, and a crew that finishes in whatever order it is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from explore import programs
from runtime import kit as objects

from kemu.errors import UsageError
from kemu.explore import Budget, Exploration, Strategy, explore
from kemu.explore.campaign import BatchResult, Journal, Recipe, Shard, Task, explore_in_batches
from kemu.explore.campaign.batch import Key, perform
from kemu.explore.campaign.crew import Stop
from kemu.runtime import current_thread


@dataclass(frozen=True)
class Load:
    """Loads the program of that name: one of `explore.programs`, or of this file."""

    name: str
    numbers: tuple[int, ...] = ()
    text: str = ""

    def __call__(self) -> programs.TestProgram:
        make: Any = globals().get(self.name)
        if make is not None:
            return make(*self.numbers, *([self.text] if self.text else []))
        make = getattr(programs, self.name)
        return make(*self.numbers) if self.numbers else programs.TestProgram(make)


def many_bugs() -> programs.TestProgram:
    """Some of its runs show one of two bugs, and few show both ways of one."""

    async def main() -> None:
        variable = programs.Variable("x")

        async def worker(own: int) -> None:
            await programs.Store(variable, own)
            await programs.Load(variable)
            if variable.value != own and current_thread().runtime.choose(3, "how bad"):
                programs.fail(f"bug of {own}")

        for number in range(3):
            programs.spawn(f"t{number}", worker(number))

    return named("many_bugs", main)


def increments(threads: int, each: int) -> programs.TestProgram:
    """Every order of the increments is a class of its own."""

    async def main() -> None:
        counter = objects.Variable("counter")

        async def count() -> None:
            for _ in range(each):
                await objects.Increment(counter)

        for number in range(threads):
            programs.spawn(f"t{number}", count())

    return named("increments", main)


def rare() -> programs.TestProgram:
    """One run of 4,096 fails, if answers are drawn evenly; here it takes some more."""

    async def main() -> None:
        choose = current_thread().runtime.choose
        answers = [choose(4, f"question {number}") for number in range(4)]
        if answers == [3, 3, 3, 3]:
            programs.fail("all threes")

    return named("rare", main)


def misuses(after: int) -> programs.TestProgram:
    """Misuses kemu where the answers add up to *after*, and fails where they add up to 5."""

    async def main() -> None:
        choose = current_thread().runtime.choose
        total = sum(choose(3, f"question {number}") for number in range(4))
        if total == after:
            raise UsageError("misused", remedy="do not")
        if total == 5:
            programs.fail("five")

    return named(f"misuses {after}", main)


def dies(once: str) -> programs.TestProgram:
    """Ends a worker process that runs it: the first one, or with the text "always" each."""

    async def main() -> None:
        if current_thread().runtime.choose(2, "fails"):
            programs.fail("chosen")
        end(once)

    return named("dies", main)


def end(once: str) -> None:
    if parent_process() is not None and (once == "always" or not Path(once).exists()):
        if once != "always":
            Path(once).touch()
        os._exit(7)


def changes() -> programs.TestProgram:
    """Fails in workers alone."""

    async def main() -> None:
        if current_thread().runtime.choose(2, "which") and parent_process() is not None:
            programs.fail("only there")

    return named("changes", main)


def other() -> programs.TestProgram:
    """Is another program in each process."""
    program = named("other", programs.abba)
    program.identity = f"{os.getpid():016x}"
    return program


def named(name: str, main: programs.Main) -> programs.TestProgram:
    program = programs.TestProgram(main)
    program.name = name
    return program


class Disorderly:
    """Holds so many tasks; *choose* says which of them is done next."""

    def __init__(self, size: int, choose: Callable[[int], int] = lambda n: n - 1) -> None:
        self.size = size
        self.choose = choose
        self.tasks: list[Task] = []
        self.done: list[Task] = []
        self.closed = 0
        self.given = 0

    @property
    def idle(self) -> int:
        return self.size - len(self.tasks)

    @property
    def busy(self) -> int:
        return len(self.tasks)

    def submit(self, task: Task) -> None:
        assert self.idle
        self.given += 1
        self.tasks.append(task)

    def wait(self, stop: Stop) -> list[tuple[Task, BatchResult]]:
        task = self.tasks.pop(self.choose(len(self.tasks)))
        self.done.append(task)
        return [(task, perform(task, stop))]

    def made(self) -> int:
        return 0

    def stop_all(self, after: Key | None = None) -> None:
        self.tasks = [task for task in self.tasks if after is not None and task.batch.key <= after]

    def close(self, *, at_once: bool = False) -> None:
        self.closed += 1


def both(
    load: Load,
    name: str,
    budget: Budget,
    crew: Any,
    *,
    seed: int = 1,
    keep_going: bool = True,
    size: int | None = 16,
    shard: Shard | None = None,
    journal: Journal | None = None,
    **options: Any,
) -> tuple[Exploration, Exploration, Strategy, Strategy]:
    """The exploration made run by run and in batches, without their times; and the strategies."""
    program = load()
    recipe = Recipe(name, options, seed)
    plain, divided = recipe.make(), recipe.make()
    one = explore(program, plain, budget, keep_going=keep_going)
    other = explore_in_batches(
        program,
        load,
        recipe,
        divided,
        budget,
        crew,
        size=size,
        shard=shard or Shard(),
        journal=journal,
        keep_going=keep_going,
    )
    return replace(one, seconds=0), replace(other, seconds=0), plain, divided
