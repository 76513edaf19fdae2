"""Running something in a plain thread when an event loop is running in this one.

A controlled run does without an event loop. Under pytest-trio or in a notebook one is running all the same,
and a driver that awaits one of its calls by mistake would arm the host's timers unnoticed. In a thread of its
own the same mistake is found at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def inside_event_loop() -> bool:
    """Whether trio or asyncio runs in this thread. Imports neither: what is not loaded is not running."""
    asyncio: Any = sys.modules.get("asyncio.events")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return True
    trio: Any = sys.modules.get("trio.lowlevel")
    return trio is not None and bool(trio.in_trio_run())


def outside_event_loop(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call *function* where no event loop is running: here if there is none, in a thread of its own
    otherwise.

    The calling thread, and with it its event loop, stands still meanwhile. What the function returns or
    raises comes back; an interrupt by the user ends the waiting, and the thread is left to end by itself.
    """
    if not inside_event_loop():
        return function(*args, **kwargs)
    results: list[R] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function(*args, **kwargs))
        except BaseException as error:
            errors.append(error)

    # A daemon, so that a run without end does not keep the process from exiting after an interrupt.
    thread = Thread(target=body, name="kemu", daemon=True)
    thread.start()
    thread.join()
    if errors:
        # Without this the exception, its traceback and this frame would be a cycle.
        error = errors.pop()
        try:
            raise error
        finally:
            del error
    return results[0]
