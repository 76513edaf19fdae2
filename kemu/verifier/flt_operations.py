"""The rules about what a minifilter does with an operation beside passing, pending and completing it."""

from __future__ import annotations

from kemu.fltmgr.constants import (
    FLT_POSTOP_DISALLOW_FSFILTER_IO,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLTFL_POST_OPERATION_DRAINING,
    POSTOP_NAMES,
)
from kemu.fltmgr.frame import IN_POST, Frame
from kemu.fltmgr.observer import FltObserver
from kemu.io.request import CLASS_NAMES, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.nt.system import System


class OperationChecks(FltObserver):
    """Checks those rules."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.report = system.report

    def who(self, frame: Frame, *, post: bool = False) -> str:
        """The callback, in words."""
        phase = "post" if post else "pre"
        return f"the {phase}-operation callback of {frame.label} for {frame.operation.label}"

    # Completion processing at a safe IRQL.

    def processing_safely(self, frame: Frame, flags: int) -> None:
        what = f"{current_kthread().label} calls FltDoCompletionProcessingWhenSafe for {frame.operation.label}"
        if flags & FLTFL_POST_OPERATION_DRAINING:
            self.report("whensafe-draining", f"{what}, whose post-operation callback is draining")
        if frame.state != IN_POST or current_kthread() not in frame.inside:
            self.report("whensafe-misuse", f"{what}, which is {frame.state_name}")
        kind = frame.operation.request.kind
        if kind != IRP_OPERATION:
            self.report("whensafe-misuse", f"{what}, which is {CLASS_NAMES[kind]}")

    def safe_returned(self, frame: Frame, status: object) -> None:
        what = f"the safe post-operation callback of {frame.label} for {frame.operation.label}"
        if not isinstance(status, int) or isinstance(status, bool) or int(status) not in POSTOP_NAMES:
            self.report("postop-unknown-status", f"{what} returned {status!r}")
        elif status == FLT_POSTOP_DISALLOW_FSFILTER_IO:
            self.report("disallow-fsfilter-wrong-major", f"{what} disallowed it")

    def safe_ignored(self, frame: Frame, status: int) -> None:
        """What FltDoCompletionProcessingWhenSafe has returned and the callback that returns *status* does not heed."""
        remarks = frame.remarks
        assert remarks is not None
        if remarks.safe_status is not None and status != remarks.safe_status:
            given = POSTOP_NAMES.get(remarks.safe_status, str(remarks.safe_status))
            self.report(
                "whensafe-status-ignored",
                f"{self.who(frame, post=True)} returned {POSTOP_NAMES[status]} where "
                f"FltDoCompletionProcessingWhenSafe gave it {given}",
            )
        if remarks.refused_safe and not frame.handed and status == FLT_POSTOP_MORE_PROCESSING_REQUIRED:
            self.report(
                "whensafe-false-ignored",
                f"{self.who(frame, post=True)} returned FLT_POSTOP_MORE_PROCESSING_REQUIRED although "
                "FltDoCompletionProcessingWhenSafe returned FALSE: nobody will resume it",
            )

    # Waits that can be cancelled.

    def waiting_cancellably(self, name: str) -> None:
        thread = current_kthread()
        if thread.special_apc_disable:
            self.report(
                "ke.irql",
                f"{name} was called in a guarded region: {thread.label} would not see that it is to end",
            )
