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
from kemu.nt.callout import Callout
from kemu.nt.driver import DriverActor, combined, crashed, left_dirty
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
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
    kind: Callout,
    unloaded: str = "ke.unload-running",
) -> None:
    """Call a deferred *routine* on the current thread; *driver* is whose it is, None for that of a script.

    Findings: *unloaded* if the driver is gone before the routine is over, ``ke.unhandled-exception``, and
    ``callback-dirty-exit`` for a routine that returns at another IRQL, with another APC disable count or with a lock
    (KE-WORK-10, KE-DPC-05). The *kind* of routine decides which bug checks that is.
    """
    thread = current_kthread()
    irql, locks = thread.irql, len(thread.locks)
    regions = thread.kernel_apc_disable, thread.special_apc_disable
    outer, thread.deferred = thread.deferred, deferred
    arbitrary, thread.arbitrary = thread.arbitrary, kind.arbitrary
    whose = name
    if driver is None:
        await routine(*arguments)
    else:
        whose = f"{name} of {driver.driver}"
        still_loaded(driver, f"{whose} is called, which was unloaded", unloaded)
        thread.actors.append(driver)
        try:
            await routine(*arguments)
        except Exception as error:
            crashed(driver, name, error)
            raise
        thread.actors.pop()
        still_loaded(driver, f"{whose} was running when it was unloaded", unloaded)
    if (
        thread.irql != irql
        or len(thread.locks) != locks
        or (thread.kernel_apc_disable, thread.special_apc_disable) != regions
    ):
        left_dirty(whose, irql, locks, combined(*regions), kind)
    thread.arbitrary = arbitrary
    thread.deferred = outer


def still_loaded(driver: DriverActor, otherwise: str, finding: str = "ke.unload-running") -> None:
    """Report *finding* unless the code of *driver* is in memory (KE-UNLOAD-03)."""
    thread = current_kthread()
    thread.read(driver.presence)
    if not driver.is_loaded:
        raised = thread.irql >= DISPATCH_LEVEL
        stop = (
            SYSTEM_SCAN_AT_RAISED_IRQL_CAUGHT_IMPROPER_DRIVER_UNLOAD
            if raised
            else DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS
        )
        report(finding, otherwise, BugCheck(stop))
