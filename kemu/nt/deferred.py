"""Deferred routines: what DPCs, timer callbacks, work items and system threads have in common.

Their routines run later, on a thread that is not the caller's, and nothing but the driver's own care keeps what they
use in place until then: the memory they are given, and the driver's code itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from kemu.nt.bugcheck import (
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    SYSTEM_SCAN_AT_RAISED_IRQL_CAUGHT_IMPROPER_DRIVER_UNLOAD,
    BugCheck,
)
from kemu.nt.driver import DriverActor, Stops, in_driver
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.system import report
from kemu.runtime import Cell


@dataclass(slots=True)
class Deferred:
    """What a thread carries out: which object's routine, with which context."""

    what: str
    """``DPC``, ``timer DPC`` or ``work item``."""
    source: Cell
    """The DPC or work item."""
    context: object
    stale: str
    """The finding when the routine uses its context and that is free."""


def stale_context(block: object) -> str | None:
    """The finding that using *block*, which is free, is to the deferred routine whose context it is, or None."""
    deferred = current_kthread().deferred
    return deferred.stale if deferred is not None and deferred.context is block else None


async def run_deferred(
    driver: DriverActor | None,
    name: str,
    routine: Callable[..., Awaitable[Any]],
    arguments: tuple[Any, ...],
    deferred: Deferred | None,
    stops: Callable[[KThread, int], Stops] | None = None,
) -> None:
    """Call a deferred *routine* on the current thread; *driver* is whose it is, None for that of a script.

    Findings: ``ke.unloaded-code`` if the driver is gone before the routine is over, and those of `in_driver`.
    """
    thread = current_kthread()
    outer, thread.deferred = thread.deferred, deferred
    if driver is None:
        await routine(*arguments)
    else:
        still_loaded(driver, f"{name} of {driver.driver} is called, which was unloaded")
        await in_driver(driver, name, routine, *arguments, stops=stops)
        still_loaded(driver, f"{name} of {driver.driver} was running when it was unloaded")
    thread.deferred = outer


def still_loaded(driver: DriverActor, otherwise: str) -> None:
    """Finding ``ke.unloaded-code`` unless the code of *driver* is in memory (KE-UNLOAD-03)."""
    thread = current_kthread()
    thread.read(driver.presence)
    if not driver.is_loaded:
        raised = thread.irql >= DISPATCH_LEVEL
        code = (
            SYSTEM_SCAN_AT_RAISED_IRQL_CAUGHT_IMPROPER_DRIVER_UNLOAD
            if raised
            else DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS
        )
        report("ke.unloaded-code", otherwise, BugCheck(code))


def combined_apc_disable(thread: KThread) -> int:
    """The thread's CombinedApcDisable, as bug check parameters have it: both counters, negative when disabled."""
    return (-thread.special_apc_disable & 0xFFFF) << 16 | -thread.kernel_apc_disable & 0xFFFF
