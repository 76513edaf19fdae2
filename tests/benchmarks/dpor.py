"""The reduced search on small programs: how many classes of schedules there are, and how fast they are explored.

``python tests/benchmarks/dpor.py --json`` prints one JSON object: for each program the classes of equivalent schedules
(Mazurkiewicz traces), as the reduced search and as brute force find them (null where that would take too long),
executions, those that were given up, and seconds of processor time. Without ``--json``, a table.

Figures of other implementations for the same programs stand beside: the traces that an independent prototype counted,
and, for three threads of three read-modify-writes, that Loom 0.7.2 had not ended after 620,000 executions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from explore import classics
from explore.catalogue import CLASSICS
from explore.programs import TestProgram
from explore.searching import brute_force
from explore.strategies.test_dpor import three_threads
from runtime.kit import Bump, Increment

from kemu.explore.collection import BatchedCollection
from kemu.explore.strategies import DPOR

BRUTE_FORCE_LIMIT: Final = 60_000

ORACLES: Final = (
    "account",
    "bluetooth_driver",
    "carter01",
    "deadlock01",
    "din_phil3",
    "lazy01",
    "stringbuffer",
    "sync01",
    "token_ring",
    "twostage",
)

REFERENCE: Final = {
    "account": 6,
    "bluetooth_driver": 10,
    "carter01": 4,
    "deadlock01": 3,
    "din_phil3": 7,
    "lazy01": 6,
    "reorder_3": 56,
    "reorder_4": 1_248,
    "stringbuffer": 3,
    "token_ring": 24,
    "twostage": 3,
    "wronglock_3": 360,
    "rmw_3x3": 1_680,
    "add_3x3": 1,
}
"""Traces, as counted elsewhere or by hand. The condition variable of sync01 has another form there."""

PROGRAMS: Final[dict[str, Callable[[], TestProgram]]] = {
    **{name: CLASSICS[name].make for name in ORACLES},
    "reorder_3": partial(classics.reorder, 3),
    "reorder_4": partial(classics.reorder, 4),
    "wronglock_3": partial(classics.wronglock, 3),
    "rmw_3x3": partial(three_threads, Increment),
    "add_3x3": partial(three_threads, Bump),
}


def measure(make: Callable[[], TestProgram], *, repeat: float = 0.5) -> dict[str, Any]:
    """Explore everything, again and again for at least *repeat* seconds."""
    program = make()
    program.stops = False
    searches: list[DPOR] = []
    with BatchedCollection() as collection:
        started = time.process_time()
        while time.process_time() - started < repeat or not searches:
            search = DPOR()
            while search.begin():
                outcome = program.run(search, search.observer)
                search.end(outcome)
                collection.after_run(outcome.steps)
            searches.append(search)
        seconds = (time.process_time() - started) / len(searches)
    executions = searches[0].traces + searches[0].blocked
    everything = brute_force(program, limit=BRUTE_FORCE_LIMIT)
    return {
        "traces": searches[0].traces,
        "brute_force": None if everything is None else len(everything.distinct),
        "executions": executions,
        "blocked": searches[0].blocked,
        "seconds": round(seconds, 6),
        "executions_per_second": round(executions / seconds),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description="Classes of schedules, and how fast they are explored.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for name, make in PROGRAMS.items():
        results[name] = {**measure(make), "reference": REFERENCE.get(name)}
        if not arguments.json:
            one = results[name]
            if len(results) == 1:
                print(f"{'program':38} traces  brute force  reference  blocked  executions/s")
            print(
                f"{name:38} {one['traces']:6,}  {one['brute_force'] or '-':>11}  {one['reference'] or '-':>9}"
                f"  {one['blocked']:7,}  {one['executions_per_second']:12,}"
            )
    if arguments.json:
        print(json.dumps({"programs": results}))


if __name__ == "__main__":
    main()
