"""ntddk.h: regions, raising exceptions, forwarding IRPs, pulsing events, targets of DPCs, identifiers."""

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
from kemu.nt.irql import (
    KeRaiseIrqlToDpcLevel,
)
from kemu.nt.psapi import (
    PsGetCurrentProcessId,
    PsGetCurrentThreadId,
    PsGetProcessId,
    PsGetThreadId,
    ZwOpenProcess,
)
from kemu.nt.pulse import (
    KePulseEvent,
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
    "KePulseEvent",
    "KeRaiseIrqlToDpcLevel",
    "KeSetTargetProcessorDpc",
    "PsGetCurrentProcessId",
    "PsGetCurrentThreadId",
    "PsGetProcessId",
    "PsGetThreadId",
    "StructuredException",
    "ZwOpenProcess",
]
