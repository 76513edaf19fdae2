"""Calling a driver's routines for the I/O manager: what is checked before and after each call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from kemu.nt.bugcheck import (
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    BugCheck,
)
from kemu.nt.driver import DriverActor, crashed
from kemu.nt.kthread import HeldLock, KThread, current_kthread
from kemu.nt.lock import OwnedLock
from kemu.nt.spinlock import KSPIN_LOCK
from kemu.nt.system import report

DISPATCH: Final = "dispatch routine"
COMPLETION: Final = "completion routine"
CANCEL: Final = "cancel routine"


def check_loaded(actor: DriverActor, what: str) -> None:
    """Finding ``ke.unload-running`` if *what* of *actor* is about to run in an image that is gone (KE-UNLOAD-03)."""
    if not actor.is_loaded:
        report(
            "ke.unload-running",
            f"{what} of {actor.driver} is called, which was unloaded",
            BugCheck(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS),
        )


async def call_routine(
    actor: DriverActor, kind: str, name: str, routine: Callable[..., Awaitable[Any]], *arguments: Any
) -> Any:
    """Run *routine* of a driver on the calling thread and return its result.

    As `in_driver`, with the codes that Driver Verifier has for dispatch and completion routines (KE-IRQL-09). A cancel
    routine leaves with another IRQL and another lock than it came with: its caller looks at that.
    """
    thread = current_kthread()
    thread.read(actor.presence)
    check_loaded(actor, name)
    irql, locks = thread.irql, len(thread.locks)
    apc = thread.kernel_apc_disable, thread.special_apc_disable
    arbitrary = thread.arbitrary
    if kind != DISPATCH:
        # A dispatch routine runs where its caller does: in the requestor's thread, as far as nobody has pended the IRP.
        thread.arbitrary = True
    thread.actors.append(actor)
    try:
        result = await routine(*arguments)
    except Exception as error:
        crashed(actor, name, error)
        raise
    if kind != CANCEL:
        check_exit(thread, actor, kind, name, irql, locks, apc)
    thread.arbitrary = arbitrary
    thread.actors.pop()
    # An unload that comes before this finds the thread in the driver's code.
    thread.read(actor.presence)
    return result


def check_exit(
    thread: KThread, actor: DriverActor, kind: str, name: str, irql: int, locks: int, apc: tuple[int, int]
) -> None:
    """Finding ``callback-dirty-exit`` for a routine that has changed its thread."""
    now = thread.kernel_apc_disable, thread.special_apc_disable
    stop: BugCheck | None = None
    if thread.irql != irql:
        what = f"at IRQL {thread.irql} where it was called at {irql}"
        if kind == DISPATCH:
            stop = BugCheck(DRIVER_VERIFIER_IOMANAGER_VIOLATION, (0x05, 0, irql, thread.irql))
        else:
            stop = BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0xFA, 0, irql, thread.irql))
    elif now != apc:
        what = "in another critical or guarded region than it was called in"
        code = 0xC5 if kind == DISPATCH else 0xFB
        stop = BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (code, 0, sum(now), sum(apc)))
    elif len(thread.locks) != locks:
        what = f"holding {' and '.join(lock.label for lock in thread.locks[locks:]) or 'fewer locks'}"
    else:
        return
    report("callback-dirty-exit", f"{name} of {actor.driver} returned {what}", verifier=stop)


def spin_lock_held(thread: KThread, cancel_lock: OwnedLock) -> HeldLock | None:
    """A spin lock that *thread* holds, the cancel spin lock included."""
    for lock in thread.locks:
        if isinstance(lock, KSPIN_LOCK) or lock is cancel_lock:
            return lock
    return None
