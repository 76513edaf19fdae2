"""Reparse data: what comes with STATUS_REPARSE out of a create (FLT-CBD-21, FLT-CBD-22)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.io.constants import IRP_MJ_CREATE
from kemu.nt.allocation import Allocation
from kemu.nt.buffer import allocation_of
from kemu.nt.freeing import release
from kemu.nt.kthread import current_kthread
from kemu.nt.memory import Pool
from kemu.nt.status import STATUS_REPARSE
from kemu.nt.system import report
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame, IrpCtrl


POST_STATES: Final = frozenset((6, 7, 8, 11))
"""IN_POST, POST_PENDED, POST_RESUMED_EARLY and DRAINING_POST of `kemu.fltmgr.frame`."""


def _allocation(data: Any) -> Allocation | None:
    """The block of pool that *data* is, unless it is free."""
    allocation = allocation_of(data) if data is not None else None
    return allocation if allocation is not None and allocation.freed is None else None


def check_access(frame: Frame, what: str) -> None:
    """Finding ``tagdata-misuse`` outside of a post-create callback."""
    is_post = frame.state in POST_STATES
    if frame.operation.request.major != IRP_MJ_CREATE or not is_post:
        phase = "post" if is_post else "pre"
        report(
            "tagdata-misuse",
            f"{current_kthread().label} {what} Data->TagData in the {phase}-operation phase of "
            f"{frame.operation.label}: only post-create callbacks have it",
        )


def replace(frame: Frame, data: Any) -> None:
    """The driver puts *data* into Data->TagData: the old buffer is its own to free, before."""
    operation = frame.operation
    old = operation.tag_data
    if data is not old and _allocation(old) is not None:
        report(
            "tagdata-misuse",
            f"{current_kthread().label} replaces Data->TagData of {operation.label} without having freed the old one",
        )
    operation.tag_data = data


def take_tag_data(thread: Thread, operation: IrpCtrl) -> None:
    """The create is over: the I/O manager goes by the reparse data, and frees them. Without STATUS_REPARSE nobody
    looks at them, and whoever has allocated them has leaked them.
    """
    data, operation.tag_data = operation.tag_data, None
    if operation.request.status == STATUS_REPARSE:
        free(thread, data)


def free(thread: Thread, data: Any) -> None:
    """Free reparse data, inside the step of *thread*."""
    allocation = _allocation(data)
    if allocation is not None:
        thread.write(allocation)
        thread.end(allocation)
        release(thread, allocation, None)
        del thread.runtime.system.get(Pool).allocations[allocation]
