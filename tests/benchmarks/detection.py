"""How soon each shipped race is found: ``python tests/benchmarks/detection.py [--json]``.

For each buggy scenario, alone and with five pass-through filters on the volume: in how many of 20 seeds the default
strategy finds it within 500 schedules, and the mean and largest number of schedules that takes; beside it the same for
the plain random walk. Then the repaired twins: 5,000 schedules of the default strategy, and every schedule of at most
two preemptions or answers that are not plain.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kemu.explore import Budget, explore
from kemu.explore.strategies import strategy_from_name
from kemu.explore.strategies.dfs import BoundedDFS
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios"
LIMIT = 500


def detection(program: ScenarioProgram, strategy: str, seeds: int) -> dict[str, Any]:
    """Schedules to the first finding."""
    took: list[int] = []
    for seed in range(seeds):
        found = explore(program, strategy_from_name(strategy, seed), Budget(schedules=LIMIT))
        if found.findings:
            took.append(found.schedules)
    return {
        "found": f"{len(took)}/{seeds}",
        "mean": round(sum(took) / len(took)) if took else None,
        "max": max(took, default=None),
    }


def clean(program: ScenarioProgram, schedules: int) -> dict[str, Any]:
    """What exploring a repaired twin comes to."""
    sampled = explore(program, strategy_from_name("alternating", 1), Budget(schedules=schedules))
    searched = explore(program, BoundedDFS(2), Budget())
    return {
        "sampled": sampled.schedules,
        "distinct": sampled.distinct,
        "bound_2": searched.schedules,
        "exhausted": searched.exhausted,
        "findings": [one.failure.code for one in (*sampled.findings, *searched.findings)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--schedules", type=int, default=5000, help="schedules for the repaired twins")
    options = parser.parse_args()
    result: dict[str, Any] = {"buggy": {}, "fixed": {}}
    for one in select(str(FOLDER), variant="buggy"):
        for bystanders in (0, 5):
            program = ScenarioProgram(one.loaded, one.scenario, one.variant, bystanders=bystanders)
            row = {name: detection(program, name, options.seeds) for name in ("alternating", "random")}
            result["buggy"][f"{one.scenario.name}+{bystanders}"] = row
            if not options.json:
                print(f"{one.scenario.name:28} +{bystanders} filters  {row}", flush=True)
    for one in select(str(FOLDER), variant="fixed"):
        row = clean(one, options.schedules)
        result["fixed"][one.scenario.name] = row
        if not options.json:
            print(f"{one.scenario.name:28} repaired    {row}", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
