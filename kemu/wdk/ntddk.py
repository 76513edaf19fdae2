"""ntddk.h: critical and guarded regions, raising exceptions, pulsing events."""

from kemu.nt.exception import (
    ExRaiseAccessViolation,
    ExRaiseStatus,
    StructuredException,
)
from kemu.nt.irql import (
    KeRaiseIrqlToDpcLevel,
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
    "KeAreApcsDisabled",
    "KeEnterCriticalRegion",
    "KeEnterGuardedRegion",
    "KeLeaveCriticalRegion",
    "KeLeaveGuardedRegion",
    "KePulseEvent",
    "KeRaiseIrqlToDpcLevel",
    "StructuredException",
]
