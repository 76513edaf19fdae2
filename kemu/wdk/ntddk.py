"""ntddk.h: critical regions."""

from kemu.nt.region import (
    KeAreApcsDisabled,
    KeEnterCriticalRegion,
    KeLeaveCriticalRegion,
)

__all__ = [
    "KeAreApcsDisabled",
    "KeEnterCriticalRegion",
    "KeLeaveCriticalRegion",
]
