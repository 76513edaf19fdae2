"""ntddk.h: forwarding IRPs, critical and guarded regions, raising exceptions, targets of DPCs."""

from kemu.io.call import (
    IoForwardIrpSynchronously,
)
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
    "IoForwardIrpSynchronously",
    "KeAreApcsDisabled",
    "KeEnterCriticalRegion",
    "KeEnterGuardedRegion",
    "KeLeaveCriticalRegion",
    "KeLeaveGuardedRegion",
    "KeSetTargetProcessorDpc",
    "PsGetCurrentProcessId",
    "PsGetCurrentThreadId",
    "PsGetProcessId",
    "PsGetThreadId",
    "StructuredException",
    "ZwOpenProcess",
]
