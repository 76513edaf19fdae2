"""Resuming pended operations (FLT-PEND, FLT-POST)."""

from __future__ import annotations

from typing import Any

from kemu.fltmgr.constants import FLT_PREOP_COMPLETE
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.pipeline import resume_post, resume_pre
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, frame_of
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL
from kemu.nt.routine import routine
from kemu.nt.system import current_system


def _ceiling(CallbackData: FLT_CALLBACK_DATA, CallbackStatus: int, Context: Any = None) -> int:
    """<= APC_LEVEL; <= DISPATCH_LEVEL with FLT_PREOP_COMPLETE."""
    return DISPATCH_LEVEL if CallbackStatus == FLT_PREOP_COMPLETE else APC_LEVEL


@routine(
    "fltkernel",
    """VOID FltCompletePendedPreOperation(_In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ FLT_PREOP_CALLBACK_STATUS CallbackStatus, _In_opt_ PVOID Context)""",
    max_irql=_ceiling,
)
async def FltCompletePendedPreOperation(
    CallbackData: FLT_CALLBACK_DATA, CallbackStatus: int, Context: Any = None
) -> None:
    """Give an operation that this driver has pended back to the filter manager.

    *CallbackStatus* is FLT_PREOP_COMPLETE, FLT_PREOP_SUCCESS_NO_CALLBACK or FLT_PREOP_SUCCESS_WITH_CALLBACK
    (FLT-PEND-03); *Context* may be given with the last only (FLT-PEND-04). The operation goes on in the calling
    thread (FLT-PEND-07, FLT-PEND-19). The call may come before the callback has returned FLT_PREOP_PENDING
    (FLT-PEND-08); by the time it returns the operation may be complete and *CallbackData* is not the driver's any
    more. IRQL: <= APC_LEVEL, <= DISPATCH_LEVEL with FLT_PREOP_COMPLETE (FLT-PEND-06).

    Findings: ``pend-double-complete``, ``cancel-double-complete``, ``pend-complete-not-pended``,
    ``pend-bad-status``, ``preop-context-leak``, ``preop-callback-without-postop``, ``lock-across-io``.
    """
    manager = current_system().get(FilterManager)
    await resume_pre(manager.pipeline, frame_of(CallbackData), CallbackStatus, Context)


@routine(
    "fltkernel",
    "VOID FltCompletePendedPostOperation(_In_ PFLT_CALLBACK_DATA CallbackData)",
    max_irql=DISPATCH_LEVEL,
    under_spin_lock=False,
)
async def FltCompletePendedPostOperation(CallbackData: FLT_CALLBACK_DATA) -> None:
    """Let the completion of an operation go on that this driver's postoperation callback has pended.

    May come before the callback has returned FLT_POSTOP_MORE_PROCESSING_REQUIRED. IRQL: <= DISPATCH_LEVEL
    (FLT-POST-31). Findings: ``postpend-double-complete``, ``wrong-resume-routine``.
    """
    manager = current_system().get(FilterManager)
    await resume_post(manager.pipeline, frame_of(CallbackData))
