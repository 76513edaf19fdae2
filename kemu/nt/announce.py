"""Wait = TRUE: a routine that says that its caller is going to wait (KE-WAIT-17).

It returns with the IRQL still raised, for the wait to lower again. That is all that there is to it: another thread may
come between the two calls, so that the pair is not atomic (KE-RACE-24).
"""

from __future__ import annotations

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread


def announce_wait(routine: str, announces: bool) -> None:
    """Leave the thread at DISPATCH_LEVEL until the wait that *routine* was told of, if it *announces* one."""
    if announces:
        thread = current_kthread()
        thread.announced = (routine, thread.irql)
        thread.irql = max(thread.irql, DISPATCH_LEVEL)


def announcing_ceiling(announces: bool) -> int:
    """The highest IRQL for a routine that *announces* a wait, or does not."""
    return APC_LEVEL if announces else DISPATCH_LEVEL
