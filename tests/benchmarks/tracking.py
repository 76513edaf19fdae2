"""The cost of recording driver state.

Every shipped minifilter scenario is run plainly and with accesses recorded, in turn and in one process, on the same
schedules. ``python tests/benchmarks/tracking.py --json`` prints one JSON object: for each scenario schedules a second
of both and the ratio of the times, and the largest ratio, which has to stay at or below 2.5. The last figure is the
cost of one access, in nanoseconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from kemu.explore.collection import BatchedCollection
from kemu.explore.strategies.random_walk import RandomWalk
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios" / "minifilter"
BAR = 2.5

ACCESSES = """
from kemu.scenario import World, scenario

class Counter:
    def __init__(self):
        self.n = 0

@scenario
async def accesses(world: World) -> None:
    c = Counter()
    for _ in range(20_000):
        c.n = c.n
"""


def batch(program: ScenarioProgram, seed: int, schedules: int) -> float:
    """Seconds for so many random schedules of *program*."""
    strategy = RandomWalk(seed)
    with BatchedCollection() as collection:
        started = time.process_time()
        for _ in range(schedules):
            strategy.begin()
            collection.after_run(program.run(strategy).steps)
        return time.process_time() - started


def measure(rounds: int, schedules: int) -> dict[str, Any]:
    """Interleave plain and tracked batches; medians of the rounds."""
    scenarios: dict[str, Any] = {}
    for plain in select(str(FOLDER), variant="fixed"):
        tracked = plain.instrumented()
        batch(tracked, 0, 1)
        times = [(batch(plain, seed, schedules), batch(tracked, seed, schedules)) for seed in range(rounds)]
        scenarios[plain.scenario.name] = {
            "plain_schedules_per_s": round(schedules / median(time for time, _ in times)),
            "tracked_schedules_per_s": round(schedules / median(time for _, time in times)),
            "ratio": round(median(tracked / plain for plain, tracked in times), 2),
        }
    return {
        "scenarios": scenarios,
        "largest_ratio": max(one["ratio"] for one in scenarios.values()),
        "bar": BAR,
        "ns_per_access": access_cost(rounds),
    }


def access_cost(rounds: int) -> int:
    """What recording adds to one load or store of an attribute, in nanoseconds."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "accesses.py"
        path.write_text(ACCESSES, encoding="utf-8")
        (plain,) = select(str(path))
        tracked = plain.instrumented()
        batch(tracked, 0, 1)
        extra = [batch(tracked, 0, 1) - batch(plain, 0, 1) for _ in range(rounds)]
    return round(median(extra) / 40_000 * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--schedules", type=int, default=150, help="schedules for each batch")
    options = parser.parse_args()
    result = measure(options.rounds, options.schedules)
    if options.json:
        print(json.dumps(result))
        return
    for name, figures in result.pop("scenarios").items():
        print(f"{name:28} {figures}")
    print("\n".join(f"{name:28} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
