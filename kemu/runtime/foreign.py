"""What was awaited that is not kemu's: finding the call and the user's line.

Used by both runtimes and by whoever runs a driver's code and has to tell its exceptions apart.
"""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from kemu.errors import ForeignAwaitable

FOREIGN_HINTS = (
    "must be called from async context",
    "no running event loop",
    "no current event loop",
    "not currently running on any asynchronous event loop",
)

REMEDY = "await kernel routines only, or run the scenario with --live to await anyio, trio or asyncio calls"


def foreign_call(error: BaseException) -> ForeignAwaitable | None:
    """Turn an event loop library's complaint about its missing loop into the one error that explains it."""
    message = str(error).lower()
    names = {cls.__name__ for cls in type(error).__mro__}
    if not (names & {"NoEventLoopError", "AsyncLibraryNotFoundError"}) and not any(
        hint in message for hint in FOREIGN_HINTS
    ):
        return None
    calls = [
        (frame.f_code, frame.f_globals.get("__name__", ""), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return explain(calls, type(error).__name__)


def foreign_await(coroutine: object, awaited: object) -> ForeignAwaitable:
    """The error for *awaited*, which *coroutine* gave to the scheduler instead of an operation."""
    what = "a bare yield" if awaited is None else type(awaited).__name__
    return explain(list(suspended_calls(coroutine)), what)


def explain(calls: list[tuple[CodeType, str, int]], what: str) -> ForeignAwaitable:
    """The error, given code, module and line of each call, outermost first, and what came out of the last."""
    where = ""
    for number, (code, _, line) in reversed(list(enumerate(calls))):
        if not is_library_file(code.co_filename):
            source = linecache.getline(code.co_filename, line).strip()
            where = f" at {code.co_filename}:{line}" + (f" ({source})" if source else "")
            if number + 1 < len(calls):
                inner, module, _ = calls[number + 1]
                what = f"{module}.{inner.co_qualname}"
            break
    return ForeignAwaitable(f"an await that is not kemu's ({what}){where}", remedy=REMEDY)


def suspended_calls(coroutine: object) -> Iterator[tuple[CodeType, str, int]]:
    """The calls in which *coroutine* is suspended, outermost first, without running any of its code."""
    inner: Any = coroutine
    while inner is not None:
        for prefix, awaits in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(inner, f"{prefix}_frame", None)
            if frame is not None:
                yield frame.f_code, frame.f_globals.get("__name__", ""), frame.f_lineno
                inner = getattr(inner, awaits)
                break
        else:
            return


def is_kemu_file(filename: str) -> bool:
    """Whether *filename* belongs to kemu."""
    return os.path.normcase(filename).startswith(KEMU)


def is_library_file(filename: str) -> bool:
    """Whether *filename* belongs to kemu, the standard library or an installed package."""
    return filename.startswith("<") or os.path.normcase(filename).startswith(LIBRARIES)


KEMU = os.path.normcase(str(Path(__file__).parents[1]) + os.sep)

LIBRARIES = tuple(
    os.path.normcase(folder + os.sep)
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(__file__).parents[1]),
    }
)
