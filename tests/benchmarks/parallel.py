"""What workers are worth: schedules a second of one process, of two, and of two on a dask scheduler; and how long it
takes to prove a scenario of some thousand classes in this process, and in pieces for one worker and for two.

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
from kemu.explore import Budget, explore
from kemu.explore.campaign import Crew, Processes, Recipe
from kemu.explore.campaign.cluster import Cluster
from kemu.explore.campaign.conductor import Conductor, batch_size, source_of

SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios" / "minifilter"
SCENARIO = SCENARIOS / "drain_then_disable.py"
PROVED = SCENARIOS / "queue_failure_pended.py"
"""Has 2,889 classes of schedules."""
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


def prove(program: Program, crew: Crew | None) -> tuple[float, float, int]:
    """How many seconds a proof takes, for how many of them workers made runs, and how many classes there are."""
    recipe = Recipe("dpor", {}, SEED)
    if crew is None:
        done = explore(program, recipe.make(), Budget())
        assert done.exhausted
        assert done.reduction is not None
        return done.seconds, done.seconds, done.reduction.traces
    source = source_of(recipe, recipe.make(), batch_size(program, None), None)
    conductor = Conductor(program, loader_of(program), recipe, source, crew, None, keep_going=False)
    conductor.conduct(None, lambda _: None, lambda: False)
    reduction = conductor.total.reduction
    assert source.finished
    assert reduction is not None
    return conductor.seconds, conductor.total.seconds, reduction.traces


def compare_proofs(rounds: int) -> dict[str, Any]:
    """The figures of the reduced search."""
    program = select_one(str(PROVED), "fixed")
    with ExitStack() as stack:
        crews = {"here": None, "one": processes(stack, "one", 1).crew, "two": processes(stack, "two", 2).crew}
        classes = {name: prove(program, crew)[2] for name, crew in crews.items()}
        assert len(set(classes.values())) == 1
        seconds: dict[str, list[float]] = {name: [] for name in crews}
        busy: list[float] = []
        for _ in range(rounds):
            for name, crew in crews.items():
                took, made, _ = prove(program, crew)
                seconds[name].append(took)
                if name == "two":
                    busy.append(made / took / 2)
    return {
        "classes": classes["here"],
        "seconds_of_a_proof": {name: round(median(values), 2) for name, values in seconds.items()},
        "proof_busy": round(median(busy), 3),
        "proof_here_over_one": ratio(seconds["here"], seconds["one"]),
        "proof_one_over_two": ratio(seconds["one"], seconds["two"]),
        "proof_here_over_two": ratio(seconds["here"], seconds["two"]),
    }


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
    parser.add_argument("--proofs", action="store_true", help="measure the proofs alone")
    options = parser.parse_args(arguments)
    figures = {**compare_proofs(options.rounds), **({} if options.proofs else compare(options.rounds, options.seconds))}
    if options.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        print(f"{name:<22} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
