"""The rules about fast I/O and FSFilter operations that are not those of every operation (FLT-FAST)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.manager import FilterManager
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
)
from kemu.io.file_constants import SyncTypeOther
from kemu.nt.driver import DRIVER_OBJECT
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FSFILTER_OP_COMPLETED_SUCCESSFULLY,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, refuse, report

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame

ACQUISITIONS: Final = frozenset({IRP_MJ_ACQUIRE_FOR_MOD_WRITE, IRP_MJ_ACQUIRE_FOR_CC_FLUSH})


def check_result(frame: Frame, what: str, status: NTSTATUS) -> None:
    """Findings of a driver that fails an FSFilter operation with *status*; *what* says who does that, and where."""
    request = frame.operation.request
    if NT_SUCCESS(status) or status == STATUS_FSFILTER_OP_COMPLETED_SUCCESSFULLY:
        return
    if request.major == IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION:
        if request.parameters.SyncType == SyncTypeOther:
            report("acquire-section-failed", f"{what} with {status}: with SyncTypeOther it may not be failed")
        elif status != STATUS_INSUFFICIENT_RESOURCES:
            report(
                "acquire-section-failed",
                f"{what} with {status}: the creation of a section may be failed for want of memory only, with "
                "STATUS_INSUFFICIENT_RESOURCES",
            )
    elif request.major in ACQUISITIONS:
        report("fsfilter-acquire-failed", f"{what} with {status}")


@dataclass(slots=True)
class FS_FILTER_CALLBACKS:
    """What FsRtlRegisterFileSystemFilterCallbacks takes: routines for before and after FSFilter operations."""

    PreAcquireForSectionSynchronization: Any = None
    PostAcquireForSectionSynchronization: Any = None
    PreReleaseForSectionSynchronization: Any = None
    PostReleaseForSectionSynchronization: Any = None
    PreAcquireForCcFlush: Any = None
    PostAcquireForCcFlush: Any = None
    PreReleaseForCcFlush: Any = None
    PostReleaseForCcFlush: Any = None
    PreAcquireForModifiedPageWriter: Any = None
    PostAcquireForModifiedPageWriter: Any = None
    PreReleaseForModifiedPageWriter: Any = None
    PostReleaseForModifiedPageWriter: Any = None
    PreQueryOpen: Any = None
    PostQueryOpen: Any = None


@routine(
    "ntifs",
    """NTSTATUS FsRtlRegisterFileSystemFilterCallbacks(_In_ PDRIVER_OBJECT FilterDriverObject,
       _In_ PFS_FILTER_CALLBACKS Callbacks)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FsRtlRegisterFileSystemFilterCallbacks(
    FilterDriverObject: DRIVER_OBJECT, Callbacks: FS_FILTER_CALLBACKS
) -> NTSTATUS:
    """Register the FSFilter callbacks of a legacy filter; kemu calls those of minifilters only.

    A minifilter registers them with FltRegisterFilter: finding ``legacy-fsfilter-registration`` (FLT-FAST-12).
    IRQL: <= APC_LEVEL. Raises `UsageError` for a driver that is no minifilter.
    """
    manager = current_system().get(FilterManager)
    if FilterDriverObject not in manager.by_driver and not FilterDriverObject.altitude:
        refuse(
            f"{FilterDriverObject.name} registers FSFilter callbacks, which kemu calls of minifilters only",
            remedy="write it as a minifilter, and register IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION and so on",
        )
    report(
        "legacy-fsfilter-registration",
        f"{current_kthread().label} registers FSFilter callbacks for {FilterDriverObject.name}, which is a minifilter",
    )
    return STATUS_SUCCESS
