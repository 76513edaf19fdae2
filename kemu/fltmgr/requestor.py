"""Who has asked for an operation: its thread's process, whatever thread the callback runs in (FLT-CBD-23)."""

from __future__ import annotations

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.nt.kthread import DISPATCH_LEVEL, KThread
from kemu.nt.process import Process
from kemu.nt.psapi import process_id, process_of
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS, STATUS_UNSUCCESSFUL

SERVICES_SESSION = 0
"""The session of the System process, and of what services begin."""
USER_SESSION = 1
"""The session of all other processes: one user is logged on."""


def _requestor(data: FLT_CALLBACK_DATA) -> Process | None:
    thread = owned_frame(data).operation.request.thread
    return process_of(thread) if isinstance(thread, KThread) else None


@routine(
    "fltkernel",
    "PEPROCESS FltGetRequestorProcess(_In_ PFLT_CALLBACK_DATA CallbackData)",
    max_irql=DISPATCH_LEVEL,
)
def FltGetRequestorProcess(CallbackData: FLT_CALLBACK_DATA) -> Process | None:
    """The process of the thread that has issued the operation; None if none has. IRQL: <= DISPATCH_LEVEL.

    The current process is another one wherever a worker or an arbitrary thread carries the operation on.
    """
    return _requestor(CallbackData)


@routine(
    "fltkernel",
    "ULONG FltGetRequestorProcessId(_In_ PFLT_CALLBACK_DATA CallbackData)",
    max_irql=DISPATCH_LEVEL,
)
def FltGetRequestorProcessId(CallbackData: FLT_CALLBACK_DATA) -> int:
    """The identifier of that process; 0 if there is none. IRQL: <= DISPATCH_LEVEL."""
    process = _requestor(CallbackData)
    return 0 if process is None else process_id(process)


@routine(
    "fltkernel",
    "NTSTATUS FltGetRequestorSessionId(_In_ PFLT_CALLBACK_DATA CallbackData, _Out_ PULONG SessionId)",
    max_irql=DISPATCH_LEVEL,
)
def FltGetRequestorSessionId(CallbackData: FLT_CALLBACK_DATA) -> tuple[NTSTATUS, int]:
    """The session of that process: 0 for the System process, 1 for any other. STATUS_UNSUCCESSFUL if there is none.

    IRQL: <= DISPATCH_LEVEL.
    """
    process = _requestor(CallbackData)
    if process is None:
        return STATUS_UNSUCCESSFUL, 0
    return STATUS_SUCCESS, SERVICES_SESSION if process.is_system else USER_SESSION


@routine("ntifs", "PEPROCESS IoThreadToProcess(_In_ PETHREAD Thread)", max_irql=DISPATCH_LEVEL)
def IoThreadToProcess(Thread: KThread) -> Process:
    """The process of *Thread*. IRQL: <= DISPATCH_LEVEL."""
    return process_of(Thread)
