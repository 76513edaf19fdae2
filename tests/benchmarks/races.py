"""What race detection costs, on a whole minifilter scenario.

The scenario is that of ``minifilter.py``, run with race detection and without it in turn. In a second measurement the
driver has state: each of its callbacks loads a field thirty times and stores another ten times, as a callback of some
forty lines might. ``python tests/benchmarks/races.py --json`` prints one JSON object; a ratio is the time of a run with
detection to the time of one without.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

from kemu.explore.collection import BatchedCollection
from kemu.explore.strategies.random_walk import RandomWalk
from kemu.runtime import Cell, current_thread
from kemu.wdk.fltkernel import FLT_CALLBACK_DATA, FLT_DEFERRED_IO_WORKITEM, FLT_RELATED_OBJECTS
from kemu.wdk.wdm import DRIVER_OBJECT, Driver

sys.path.insert(0, str(Path(__file__).parent))
from minifilter import Pender, run

LOADS = 30
STORES = 10


class Stateful(Pender):
    """Looks at what is shared, and changes what belongs to one operation, in every callback."""

    def __init__(self) -> None:
        self.settings: list[Cell] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        thread = current_thread()
        self.settings = [Cell(thread, f"Stateful.Setting{number}") for number in range(5)]
        for cell in self.settings:
            thread.store(cell)
        return await super().DriverEntry(DriverObject, RegistryPath)

    def work(self) -> None:
        """What a callback does to the driver's state."""
        thread = current_thread()
        for number in range(LOADS):
            thread.load(self.settings[number % 5])
        own = Cell(thread, "CONTEXT.Field")
        for _ in range(STORES):
            thread.store(own)

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        self.work()
        _ = (Data.Iopb.MajorFunction, Data.Flags, FltObjects.Instance)
        return await super().PreCreate(Data, FltObjects)

    async def Worker(self, WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: object) -> None:
        self.work()
        await super().Worker(WorkItem, Data, Context)


def seconds_a_run(driver: type[Driver], *, races: bool, seconds: float) -> float:
    """How long one schedule takes, in processor time."""
    strategy = RandomWalk(1)
    runs = 0
    with BatchedCollection() as collection:
        started = time.process_time()
        while time.process_time() - started < seconds:
            collection.after_run(run(strategy, driver, races=races).steps)
            runs += 1
        return (time.process_time() - started) / runs


def measure(rounds: int, seconds: float) -> dict[str, float]:
    """For both drivers the medians of the rounds."""
    result: dict[str, float] = {}
    for name, driver in (("plain", Pender), ("stateful", Stateful)):
        ratios: list[float] = []
        without: list[float] = []
        for _ in range(rounds):
            off = seconds_a_run(driver, races=False, seconds=seconds)
            ratios.append(seconds_a_run(driver, races=True, seconds=seconds) / off)
            without.append(1 / off)
        result[f"{name}_schedules_per_s"] = round(median(without))
        result[f"{name}_ratio"] = round(median(ratios), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds for each half of a round")
    options = parser.parse_args()
    result = measure(options.rounds, options.seconds)
    print(json.dumps(result) if options.json else "\n".join(f"{name:28} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
