"""Accessors of callback data: they look at or mark the caller's own view and do not schedule (FLT-CBD)."""

from __future__ import annotations

from kemu.fltmgr.constants import FLTFL_CALLBACK_DATA_DIRTY
from kemu.fltmgr.frame import Frame
from kemu.fltmgr.structures import FLT_CALLBACK_DATA, frame_of
from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.routine import routine
from kemu.runtime.data import observe


def owned_frame(data: FLT_CALLBACK_DATA) -> Frame:
    """The filter manager's record behind *data*; finding ``cbd-use-after-release`` if the driver gave it back."""
    _ = data.Flags
    frame = frame_of(data)
    observe(frame)
    return frame


@routine("fltkernel", "VOID FltSetCallbackDataDirty(_Inout_ PFLT_CALLBACK_DATA Data)")
def FltSetCallbackDataDirty(Data: FLT_CALLBACK_DATA) -> None:
    """Declare the changes of ``Data->Iopb``, without which they are discarded (FLT-CBD-05). IRQL: any."""
    owned_frame(Data).flags |= FLTFL_CALLBACK_DATA_DIRTY


@routine("fltkernel", "VOID FltClearCallbackDataDirty(_Inout_ PFLT_CALLBACK_DATA Data)")
def FltClearCallbackDataDirty(Data: FLT_CALLBACK_DATA) -> None:
    """Take the declaration back (FLT-CBD-24). IRQL: any."""
    owned_frame(Data).flags &= ~FLTFL_CALLBACK_DATA_DIRTY


@routine("fltkernel", "BOOLEAN FltIsCallbackDataDirty(_In_ PFLT_CALLBACK_DATA Data)")
def FltIsCallbackDataDirty(Data: FLT_CALLBACK_DATA) -> bool:
    """Whether changes are declared (FLT-CBD-24). IRQL: any."""
    return bool(owned_frame(Data).flags & FLTFL_CALLBACK_DATA_DIRTY)


@routine("fltkernel", "BOOLEAN FltIsOperationSynchronous(_In_ PFLT_CALLBACK_DATA CallbackData)")
def FltIsOperationSynchronous(CallbackData: FLT_CALLBACK_DATA) -> bool:
    """Whether the originator waits for the operation (FLT-CBD-19). IRQL: any."""
    return owned_frame(CallbackData).operation.request.is_synchronous


def FLT_IS_IRP_OPERATION(Data: FLT_CALLBACK_DATA) -> bool:
    """Whether the operation is an IRP."""
    return bool(owned_frame(Data).flags & IRP_OPERATION)


def FLT_IS_FASTIO_OPERATION(Data: FLT_CALLBACK_DATA) -> bool:
    """Whether the operation is fast I/O."""
    return bool(owned_frame(Data).flags & FAST_IO_OPERATION)


def FLT_IS_FS_FILTER_OPERATION(Data: FLT_CALLBACK_DATA) -> bool:
    """Whether the operation is an FSFilter callback."""
    return bool(owned_frame(Data).flags & FS_FILTER_OPERATION)
