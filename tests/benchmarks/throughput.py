"""How many schedules kemu runs in a second, beside a bare coroutine loop and the package detangle.

    python tests/benchmarks/throughput.py            a small table
    python tests/benchmarks/throughput.py --json     the same as one JSON object
    python tests/benchmarks/throughput.py --memory   and the memory before, in and after 200,000 schedules

Three threads take k steps each; a step reads and writes one shared cell and its result is used. The first
thread starts the other two. All three sides draw the schedule at random; then every other strategy of kemu's is
measured beside the bare loop. They are measured in turns, a short
round each, and the ratios are medians over the rounds: on a busy machine nothing else means anything. Times
are processor times; garbage is collected between rounds, as an exploration does between batches.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from random import Random
from statistics import median
from time import process_time
from typing import Any, cast

from kemu.explore.strategies import STRATEGIES, RandomWalk, Reducing, Strategy, strategy_from_name
from kemu.runtime import (
    BlockingOperation,
    Cell,
    ControlledRuntime,
    Operation,
    Outcome,
    Thread,
    Waitable,
    current_thread,
)

SEED = 20_240
THREADS = 3

Batch = Callable[[int], int]
"""Runs so many schedules and returns how many steps they took."""


# kemu's side.


class Counter(Cell):
    """The shared cell."""

    __slots__ = ("value",)

    def __init__(self, creator: Thread) -> None:
        Cell.__init__(self, creator, "counter")
        self.value = 0


class Add(Operation[int]):
    """Read, modify, write; evaluates to the new value."""

    __slots__ = ("cell",)
    kind = "add"

    def __init__(self, cell: Counter) -> None:
        self.cell = cell

    def perform(self, thread: Thread) -> int:
        cell = self.cell
        thread.write(cell)
        cell.value = value = cell.value + 1
        return value

    def target(self) -> Cell:
        return self.cell


class Lock(Waitable):
    """A lock without recursion."""

    __slots__ = ("owner",)

    def __init__(self, creator: Thread) -> None:
        super().__init__(creator, "lock")
        self.owner: Thread | None = None


class Acquire(BlockingOperation[None]):
    """Take the lock."""

    __slots__ = ("lock",)

    def __init__(self, lock: Lock) -> None:
        super().__init__(lock)
        self.lock = lock

    def available(self, thread: Thread) -> bool:
        return self.lock.owner is None

    def take(self, thread: Thread) -> None:
        thread.write(self.lock)
        self.lock.owner = thread
        self.lock.changed()


class Release(Operation[None]):
    """Give the lock back."""

    __slots__ = ("lock",)

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> None:
        thread.write(self.lock)
        self.lock.owner = None
        self.lock.changed()


async def adds(cell: Counter, steps: int) -> int:
    value = 0
    # An operation without state of its own is made once and awaited again and again, here and in the bare loop.
    add = Add(cell)
    for _ in range(steps):
        value = await add
    return value


async def rw_main(steps: int) -> int:
    thread = current_thread()
    cell = Counter(thread)
    for _ in range(1, THREADS):
        thread.runtime.spawn("worker", adds(cell, steps))
    return await adds(cell, steps)


async def locked_adds(lock: Lock, cell: Counter, times: int) -> None:
    runtime = current_thread().runtime
    for _ in range(times):
        await Acquire(lock)
        await Add(cell)
        runtime.choose(2, "a question that the system leaves open")
        await Release(lock)


async def locks_main(times: int) -> int:
    thread = current_thread()
    lock, cell = Lock(thread), Counter(thread)
    for _ in range(1, THREADS):
        thread.runtime.spawn("worker", locked_adds(lock, cell, times))
    await locked_adds(lock, cell, times)
    return cell.value


def kemu_batch(main: Callable[[int], Coroutine[Operation[Any], Any, Any]], size: int) -> Batch:
    oracle = RandomWalk(SEED)

    def run(schedules: int) -> int:
        steps = 0
        for _ in range(schedules):
            oracle.begin()
            outcome = ControlledRuntime(oracle).run("main", main(size))
            check(outcome)
            steps += outcome.steps
        return steps

    return run


def strategy_batch(strategy: Strategy, size: int) -> Batch:
    """As `kemu_batch`, with `end`, which a strategy may learn in. An exhaustive one starts again when it is done."""
    made = strategy
    reducing = isinstance(strategy, Reducing)

    def run(schedules: int) -> int:
        nonlocal made
        steps = 0
        for _ in range(schedules):
            if not made.begin():
                made = strategy_from_name(strategy.name.partition("(")[0], SEED)
                made.begin()
            outcome = ControlledRuntime(made, observer=cast("Reducing", made).observer if reducing else None).run(
                "main", rw_main(size)
            )
            check(outcome)
            made.end(outcome)
            steps += outcome.steps
        return steps

    return run


def check(outcome: Outcome) -> None:
    """A run that ended early would look fast."""
    if outcome.end != "finished" or outcome.crash is not None or not outcome.fingerprint:
        raise AssertionError(f"the benchmark's program broke: {outcome}")


# The bare loop: the least that running coroutines in random order costs in Python.


class BareAdd:
    """The same step as an awaitable of its own."""

    __slots__ = ("box",)

    def __init__(self, box: list[int]) -> None:
        self.box = box

    def __await__(self) -> Generator[BareAdd, None, int]:
        yield self
        box = self.box
        box[0] = value = box[0] + 1
        return value


async def bare_adds(box: list[int], steps: int) -> int:
    value = 0
    add = BareAdd(box)
    for _ in range(steps):
        value = await add
    return value


async def bare_main(steps: int, box: list[int], ready: list[Coroutine[BareAdd, None, int]]) -> int:
    ready.extend(bare_adds(box, steps) for _ in range(1, THREADS))
    return await bare_adds(box, steps)


def bare_batch(size: int) -> Batch:
    choice = Random(SEED).choice

    def run(schedules: int) -> int:
        steps = 0
        for _ in range(schedules):
            box = [0]
            ready: list[Coroutine[BareAdd, None, int]] = []
            ready.append(bare_main(size, box, ready))
            while ready:
                coroutine = choice(ready)
                steps += 1
                try:
                    coroutine.send(None)
                except StopIteration:
                    ready.remove(coroutine)
            if box[0] != THREADS * size:
                raise AssertionError("the bare loop lost a step")
        return steps

    return run


# detangle's side: the quickest comparable Python package, which schedules asyncio tasks.


def detangle_batch(size: int) -> Batch | None:
    try:
        detangle: Any = importlib.import_module("detangle")
    except ImportError:
        return None

    async def worker(box: list[int]) -> int:
        value = 0
        for _ in range(size):
            await asyncio.sleep(0)
            box[0] = value = box[0] + 1
        return value

    async def main() -> int:
        box = [0]
        tasks = [asyncio.create_task(worker(box)) for _ in range(1, THREADS)]
        value = await worker(box)
        for task in tasks:
            await task
        if box[0] != THREADS * size:
            raise AssertionError("detangle lost a step")
        return value

    def run(schedules: int) -> int:
        # As its users run it, but without its database of earlier failures, which is a folder on disk.
        detangle.explore(main, runs=schedules, strategy="random", seed=SEED, database=False)
        return 0

    return run


# Measuring.


def rate(batch: Batch, schedules: int) -> tuple[float, float]:
    """Schedules and steps in a second of processor time."""
    gc.collect()
    gc.disable()
    try:
        started = process_time()
        steps = batch(schedules)
        elapsed = process_time() - started
    finally:
        gc.enable()
    return schedules / elapsed, steps / elapsed


def compare(size: int, rounds: int, schedules: int) -> dict[str, float | None]:
    """Measure the three sides in turns; the figures are medians, the ratios medians of each round's ratio."""
    kemu, bare, detangle = kemu_batch(rw_main, size), bare_batch(size), detangle_batch(size)
    for batch in (kemu, bare, detangle):
        if batch is not None:
            batch(10)
    figures: dict[str, list[float]] = {
        name: [] for name in ("kemu", "kemu_steps", "bare", "bare_steps", "ratio_bare", "detangle", "ratio_detangle")
    }
    for _ in range(rounds):
        ours, our_steps = rate(kemu, schedules)
        theirs, their_steps = rate(bare, schedules)
        figures["kemu"].append(ours)
        figures["kemu_steps"].append(our_steps)
        figures["bare"].append(theirs)
        figures["bare_steps"].append(their_steps)
        figures["ratio_bare"].append(theirs / ours)
        if detangle is not None:
            other, _ = rate(detangle, schedules // 4)
            figures["detangle"].append(other)
            figures["ratio_detangle"].append(ours / other)
    return {name: round(median(values), 2) if values else None for name, values in figures.items()}


def strategies(size: int, rounds: int, schedules: int) -> dict[str, dict[str, float]]:
    """Every strategy beside the bare loop in the same round: schedules a second, and how many times fewer than its."""
    batches = {name: strategy_batch(strategy_from_name(name, SEED), size) for name in STRATEGIES}
    bare = bare_batch(size)
    for batch in (*batches.values(), bare):
        batch(20)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in batches}
    for _ in range(rounds):
        theirs, _ = rate(bare, schedules)
        for name, batch in batches.items():
            ours, _ = rate(batch, schedules)
            figures[name].append((ours, theirs / ours))
    return {
        name: {
            "schedules": round(median(ours for ours, _ in values)),
            "ratio_bare": round(median(ratio for _, ratio in values), 2),
        }
        for name, values in figures.items()
    }


def locks(size: int, rounds: int, schedules: int) -> dict[str, float | None]:
    """Three threads that take one lock in turns, with an open question inside; no bar."""
    batch = kemu_batch(locks_main, size)
    batch(10)
    rates = [rate(batch, schedules) for _ in range(rounds)]
    return {
        "kemu": round(median(schedules for schedules, _ in rates), 2),
        "kemu_steps": round(median(steps for _, steps in rates), 2),
    }


def resident_mb() -> float:
    """Memory of this process that is in use now, in MB."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return round(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    resource = importlib.import_module("resource")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def memory(schedules: int = 200_000, batch_size: int = 1_000) -> dict[str, Any]:
    """Resident memory at the start, in the middle and at the end of many schedules."""
    batch = kemu_batch(rw_main, 4)
    batch(batch_size)
    figures: list[float] = []
    batches = schedules // batch_size
    for number in range(batches + 1):
        gc.collect()
        if number in (0, batches // 2, batches):
            figures.append(resident_mb())
        if number < batches:
            gc.disable()
            batch(batch_size)
            gc.enable()
    return {"schedules": batches * batch_size, "memory_mb": figures}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--memory", action="store_true", help="measure memory over 200,000 schedules as well")
    parser.add_argument("--rounds", type=int, default=25, help="rounds of each comparison")
    options = parser.parse_args(arguments)
    result: dict[str, dict[str, Any]] = {
        "rw_3x4": compare(4, options.rounds, 1_600),
        "rw_3x100": compare(100, options.rounds, 160),
        "locks_3x20": locks(20, options.rounds, 40),
        "strategies_3x4": strategies(4, options.rounds, 400),
    }
    if options.memory:
        result["memory"] = memory()
    if options.json:
        print(json.dumps(result))
        return 0
    for name, figures in result.items():
        print(name)
        for figure, value in figures.items():
            print(f"  {figure:<16} {value if isinstance(value, (list, dict)) or value is None else format(value, ',')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
