"""ntddk.h: critical and guarded regions, raising exceptions, targets of DPCs."""

from kemu.nt.dpc import (
    KeSetTargetProcessorDpc,
)
from kemu.nt.exception import (
    ExRaiseAccessViolation,
    ExRaiseStatus,
    StructuredException,
)
from kemu.nt.psapi import (
    PsGetCurrentProcessId,
    PsGetCurrentThreadId,
    PsGetProcessId,
    PsGetThreadId,
    ZwOpenProcess,
)
from kemu.nt.region import (
    KeAreApcsDisabled,
    KeEnterCriticalRegion,
    KeEnterGuardedRegion,
    KeLeaveCriticalRegion,
    KeLeaveGuardedRegion,
)

__all__ = [
    "ExRaiseAccessViolation",
    "ExRaiseStatus",
    "KeAreApcsDisabled",
    "KeEnterCriticalRegion",
    "KeEnterGuardedRegion",
    "KeLeaveCriticalRegion",
    "KeLeaveGuardedRegion",
    "StructuredException",
    "PsGetCurrentProcessId",
    "PsGetCurrentThreadId",
    "PsGetProcessId",
    "PsGetThreadId",
    "ZwOpenProcess",
    "KeSetTargetProcessorDpc",
]
