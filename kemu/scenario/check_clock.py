"""What differs from run to run and is not kemu's to decide: the wall clock, chance, real threads.

Only what is evident from the source is found here; the explorer runs every scenario twice for the rest.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from kemu.scenario.check_names import Names, Problem, SourceFile

TIME: Final = frozenset(
    {
        *(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time")),
        *(f"time.{name}_ns" for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time")),
        "time.clock_gettime",
        "time.clock_gettime_ns",
        *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
        "datetime.date.today",
        "time.sleep",
    }
)
CHANCE: Final = frozenset({"uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom", "random.SystemRandom"})
THREADS: Final = ("threading", "_thread", "multiprocessing", "concurrent.futures", "subprocess")
SEEDED: Final = "random.Random"


def check_clock(source: SourceFile) -> Iterator[Problem]:
    """Uses of the wall clock, of chance and of real threads."""
    names = source.names
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            origin = names.origin(node)
            remedy = None if origin is None else _remedy(origin, node, names)
            if remedy is not None:
                yield Problem(node.lineno, f"{origin} differs from run to run", remedy)


def _remedy(origin: str, node: ast.AST, names: Names) -> str | None:
    module, _, name = origin.rpartition(".")
    if origin in TIME:
        return "use virtual time: world.now() and world.sleep() in a script, a wait with a time-out in a driver"
    if origin == SEEDED:
        call = names.parents.get(node)
        is_seeded = isinstance(call, ast.Call) and call.func is node and bool(call.args or call.keywords)
        return None if is_seeded else "give it a seed"
    if origin in CHANCE or module == "secrets" or (module == "random" and name):
        return "use world.choose(), or random.Random with a fixed seed inside the script"
    if module in THREADS:
        return "start threads with world.start() or world.together()"
    return None
