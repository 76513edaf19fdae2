"""ntifs.h: objects by pointer, processes and threads as file systems see them, attaching to processes."""

from kemu.nt.context import (
    KAPC_STATE,
    KeStackAttachProcess,
    KeUnstackDetachProcess,
)
from kemu.nt.handle import (
    DUPLICATE_CLOSE_SOURCE,
    DUPLICATE_SAME_ACCESS,
    DUPLICATE_SAME_ATTRIBUTES,
    ObCloseHandle,
    ObOpenObjectByPointer,
    ZwDuplicateObject,
)
from kemu.nt.psapi import (
    PsGetProcessCreateTimeQuadPart,
    PsGetProcessExitStatus,
    PsGetThreadProcessId,
    PsIsThreadTerminating,
    PsLookupProcessByProcessId,
    PsLookupThreadByThreadId,
)

__all__ = [
    "DUPLICATE_CLOSE_SOURCE",
    "DUPLICATE_SAME_ACCESS",
    "DUPLICATE_SAME_ATTRIBUTES",
    "KAPC_STATE",
    "KeStackAttachProcess",
    "KeUnstackDetachProcess",
    "ObCloseHandle",
    "ObOpenObjectByPointer",
    "PsGetProcessCreateTimeQuadPart",
    "PsGetProcessExitStatus",
    "PsGetThreadProcessId",
    "PsIsThreadTerminating",
    "PsLookupProcessByProcessId",
    "PsLookupThreadByThreadId",
    "ZwDuplicateObject",
]
