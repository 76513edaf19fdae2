"""The top-level IRP of a thread: which component above the file system it is in (FLT-WORK-15)."""

from __future__ import annotations

from typing import Any, Final

from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine

FSRTL_FSP_TOP_LEVEL_IRP: Final = 1
"""A file system's own worker."""
FSRTL_CACHE_TOP_LEVEL_IRP: Final = 2
"""The cache manager."""
FSRTL_MOD_WRITE_TOP_LEVEL_IRP: Final = 3
"""The modified page writer."""
FSRTL_FAST_IO_TOP_LEVEL_IRP: Final = 4
"""The cache manager, in a fast I/O routine."""


@routine("wdm", "PIRP IoGetTopLevelIrp(VOID)", max_irql=DISPATCH_LEVEL)
def IoGetTopLevelIrp() -> Any:
    """The calling thread's top-level IRP: None, something of the file system's, or one of the FSRTL flags.

    IRQL: <= DISPATCH_LEVEL.
    """
    return current_kthread().top_level_irp


@routine("wdm", "VOID IoSetTopLevelIrp(_In_opt_ PIRP Irp)", max_irql=DISPATCH_LEVEL)
def IoSetTopLevelIrp(Irp: Any) -> None:
    """Set the calling thread's top-level IRP. Only a file system may: a filter risks deadlocks with it.

    IRQL: <= DISPATCH_LEVEL.
    """
    current_kthread().top_level_irp = Irp
