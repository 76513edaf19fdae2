"""What workers are worth: schedules a second of one process, of two, and of two on a dask scheduler.

Run by hand, on a machine with nothing else to do: ``python tests/benchmarks/parallel.py [--json] [--rounds N]``. The
sides take turns, and ratios are medians of the rounds'. *busy* is the share of the time for which workers made runs:
that hardly depends on what else the machine does. Without dask.distributed its figures are missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kemu.cli.parallel import loader_of
from kemu.cli.targets import Program, select_one
from kemu.explore import Budget
from kemu.explore.campaign import Crew, Processes, Recipe
from kemu.explore.campaign.cluster import Cluster
from kemu.explore.campaign.conductor import Conductor, source_of

SCENARIO = Path(__file__).resolve().parents[2] / "scenarios" / "minifilter" / "drain_then_disable.py"
SEED = 1


@dataclass
class Side:
    """One way to make the runs."""

    name: str
    crew: Crew
    workers: int


def measure(program: Program, side: Side, size: int, seconds: float) -> tuple[float, float]:
    """Schedules a second, and the share of the time for which the workers made runs."""
    recipe = Recipe("alternating", {}, SEED)
    load = loader_of(program)
    source = source_of(recipe, recipe.make(), size, None)
    conductor = Conductor(program, load, recipe, source, side.crew, None, keep_going=True)
    conductor.conduct(Budget(seconds=seconds).seconds, lambda _: None, lambda: False)
    if not conductor.total.schedules:
        raise AssertionError(f"{side.name} made nothing")
    return conductor.total.schedules / conductor.seconds, conductor.total.seconds / conductor.seconds / side.workers


def batch_of_a_second(program: Program, side: Side) -> int:
    """How many runs a worker makes in a second."""
    measure(program, side, 50, 0.5)
    rate, _ = measure(program, side, 100, 1.0)
    return max(16, int(rate))


def dask(stack: ExitStack, program: Program) -> Side | None:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        return None
    cluster: Any = stack.enter_context(
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    )
    crew = Cluster(cluster.scheduler_address, [(loader_of(program), program.identity)])
    stack.callback(crew.close)
    return Side("dask", crew, 2)


def processes(stack: ExitStack, name: str, number: int) -> Side:
    crew = Processes(number)
    stack.callback(crew.close)
    return Side(name, crew, number)


def compare(rounds: int, seconds: float) -> dict[str, Any]:
    """The figures."""
    program = select_one(str(SCENARIO), "fixed")
    with ExitStack() as stack:
        one, two = processes(stack, "one", 1), processes(stack, "two", 2)
        size = batch_of_a_second(program, one)
        sides = [one, two]
        third = dask(stack, program)
        if third is not None:
            sides.append(third)
        for side in sides:
            # Starts the workers and loads the program there.
            measure(program, side, 50, 0.5)
        rates: dict[str, list[float]] = {side.name: [] for side in sides}
        busy: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                rate, share = measure(program, side, size, seconds)
                rates[side.name].append(rate)
                busy[side.name].append(share)

    figures: dict[str, Any] = {
        "runs_a_batch": size,
        "schedules_per_second": {name: round(median(values), 1) for name, values in rates.items()},
        "busy": {name: round(median(values), 3) for name, values in busy.items()},
        "two_over_one": ratio(rates["two"], rates["one"]),
    }
    if third is not None:
        figures["dask_over_two"] = ratio(rates["dask"], rates["two"])
    return figures


def ratio(over: list[float], under: list[float]) -> float:
    return round(median(a / b for a, b in zip(over, under, strict=True)), 3)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--seconds", type=float, default=6.0, help="for how long each time")
    options = parser.parse_args(arguments)
    figures = compare(options.rounds, options.seconds)
    if options.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        print(f"{name:<22} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
