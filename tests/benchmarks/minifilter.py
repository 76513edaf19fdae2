"""Throughput and memory of a whole minifilter scenario.

Two user threads each create, read, write and close a file on a volume with two minifilters, one of which pends
creates to a work item. ``python tests/benchmarks/minifilter.py --json`` prints one JSON object: schedules and
steps a second beside those of a bare coroutine loop in the same process, and the resident memory at the start, in
the middle and at the end. ``--profile`` shows where the time goes instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from kemu.explore.collection import BatchedCollection
from kemu.explore.strategies.random_walk import RandomWalk
from kemu.nt.kthread import KThread
from kemu.nt.system import Options
from kemu.runtime import ControlledRuntime, Outcome, Runtime
from kemu.scenario.bystander import PassThrough
from kemu.scenario.world import World
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FltAllocateDeferredIoWorkItem,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltQueueDeferredIoWorkItem,
    FltRegisterFilter,
    FltStartFiltering,
)
from kemu.wdk.wdm import DRIVER_OBJECT, IRP_MJ_CREATE, NT_SUCCESS, DelayedWorkQueue, Driver

sys.path.insert(0, str(Path(__file__).parent))
from throughput import bare_batch, resident_mb

STEPS = 100


class Pender(Driver):
    """Pends creates and resumes them from a work item."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        registration = FLT_REGISTRATION(
            [FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate), FLT_OPERATION_REGISTRATION()]
        )
        status, filter_ = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or filter_ is None:
            return status
        return await FltStartFiltering(filter_)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueDeferredIoWorkItem(item, Data, self.Worker, DelayedWorkQueue, None)
        if not NT_SUCCESS(status):
            await FltFreeDeferredIoWorkItem(item)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        return FLT_PREOP_PENDING

    async def Worker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


OPTIONS = Options(worker_threads=1)


async def script(runtime: Runtime, driver: type[Driver] = Pender, *, races: bool = False) -> None:
    """The scenario."""
    world = World(runtime, OPTIONS, races=races)
    await world.load(driver, "328010")
    await world.load(PassThrough(1), "140000")
    app = world.process("app")

    async def user(path: str) -> None:
        file = await app.open(path)
        await file.write(b"0123456789")
        await file.read(4)
        await file.close()

    await world.together(user(r"\a"), user(r"\b"), process=app)


def run(strategy: RandomWalk, driver: type[Driver] = Pender, *, races: bool = False) -> Outcome:
    """One schedule."""
    strategy.begin()
    runtime = ControlledRuntime(strategy, thread_class=KThread)
    outcome = runtime.run("script", script(runtime, driver, races=races))
    if outcome.crash is not None:
        raise outcome.crash
    assert outcome.end == "finished", outcome.end
    return outcome


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Interleave kemu and the bare loop; medians of the rounds."""
    strategy = RandomWalk(1)
    loop = bare_batch(STEPS)
    kemu: list[float] = []
    steps: list[float] = []
    bare: list[float] = []
    for _ in range(rounds):
        with BatchedCollection() as collection:
            started = time.process_time()
            runs = total = 0
            while time.process_time() - started < seconds:
                outcome = run(strategy)
                runs += 1
                total += outcome.steps
                collection.after_run(outcome.steps)
            spent = time.process_time() - started
        kemu.append(runs / spent)
        steps.append(total / spent)
        started = time.process_time()
        done = loop(200)
        bare.append(done / (time.process_time() - started))
    return {
        "schedules_per_s": round(median(kemu)),
        "steps_per_s": round(median(steps)),
        "bare_steps_per_s": round(median(bare)),
        "ratio_bare_steps": round(median(b / s for b, s in zip(bare, steps, strict=True)), 2),
    }


def memory(schedules: int) -> list[float]:
    """Resident megabytes at the start, in the middle and at the end of *schedules* schedules."""
    strategy = RandomWalk(1)
    figures: list[float] = []
    with BatchedCollection() as collection:
        for number in range(schedules + 1):
            if number in {min(100, schedules // 4), schedules // 2, schedules}:
                figures.append(resident_mb())
            collection.after_run(run(strategy).steps)
    return figures


def profile(schedules: int) -> None:
    """Print where the time goes."""
    strategy = RandomWalk(1)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(schedules):
        run(strategy)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds for each round")
    parser.add_argument("--schedules", type=int, default=20_000, help="schedules for the memory figures")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    options = parser.parse_args()
    if options.profile:
        profile(1000)
        return
    result = measure(options.rounds, options.seconds)
    result["memory_mb"] = memory(options.schedules)
    print(json.dumps(result) if options.json else "\n".join(f"{name:20} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
