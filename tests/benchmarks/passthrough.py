"""What a minifilter that leaves every operation alone costs, and how that grows with the stack.

One thread reads an open file many times through 1 to 50 pass-through filters (pre- and postoperation callback each).
``python tests/benchmarks/passthrough.py --json`` prints one JSON object: microseconds for each operation by the number
of filters, for each visit of a filter (the slope between 1 and 10, 10 and 25, 25 and 50), and the same as a ratio to a
step of a bare coroutine loop in the same process. Linear growth is three slopes that are alike.
``--profile`` shows where the time goes with ten filters.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from kemu.explore.collection import BatchedCollection
from kemu.explore.strategies.replay import Replay
from kemu.nt.kthread import KThread
from kemu.nt.system import Options
from kemu.runtime import ControlledRuntime, Runtime
from kemu.scenario.bystander import PassThrough
from kemu.scenario.world import World

sys.path.insert(0, str(Path(__file__).parent))
from throughput import bare_batch

READS = 200
HEIGHTS = (1, 10, 25, 50)


async def script(runtime: Runtime, filters: int, spent: list[float]) -> None:
    """Reads through a stack of *filters*; the seconds of each batch of reads go to *spent*."""
    world = World(runtime, Options(completion="inline"))
    for number in range(filters):
        await world.load(PassThrough(number), str(100_000 + number))
    file = await world.process("app").open("a")
    await file.write(b"0123456789")
    started = time.process_time()
    for _ in range(READS):
        await file.read(4)
    spent.append(time.process_time() - started)


def reads(filters: int, spent: list[float]) -> None:
    """One run."""
    oracle = Replay(())
    oracle.begin()
    runtime = ControlledRuntime(oracle, thread_class=KThread, max_steps=1_000_000)
    outcome = runtime.run("script", script(runtime, filters, spent))
    if outcome.crash is not None:
        raise outcome.crash
    assert outcome.end == "finished", outcome.end


def measure(rounds: int) -> dict[str, Any]:
    """The fastest of *rounds*, heights in turn: whatever else the machine does only adds to it."""
    spent: dict[int, list[float]] = {height: [] for height in HEIGHTS}
    loop = bare_batch(100)
    bare: list[float] = []
    for _ in range(rounds):
        for height in HEIGHTS:
            with BatchedCollection() as collection:
                reads(height, spent[height])
                collection.after_run(READS * height)
        started = time.process_time()
        steps = loop(50)
        bare.append((time.process_time() - started) / steps)
    operation = {height: min(times) / READS * 1e6 for height, times in spent.items()}
    visits = {f"{low}-{high}": (operation[high] - operation[low]) / (high - low) for low, high in pairwise(HEIGHTS)}
    step = min(bare) * 1e6
    return {
        "us_per_operation": {str(height): round(value, 2) for height, value in operation.items()},
        "us_per_visit": {name: round(value, 2) for name, value in visits.items()},
        "bare_steps_per_visit": {name: round(value / step, 1) for name, value in visits.items()},
    }


def profile() -> None:
    """Print where the time goes with ten filters."""
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(10):
        reads(10, [])
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--rounds", type=int, default=15, help="how often each height is measured")
    given = parser.parse_args(arguments)
    if given.profile:
        profile()
        return 0
    figures = measure(given.rounds)
    if given.json:
        print(json.dumps(figures))
        return 0
    for name, values in figures.items():
        print(f"{name:<22}" + "  ".join(f"{key}: {value}" for key, value in values.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
