"""What the I/O manager asks drivers about IRPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kemu.runtime import Message


@dataclass(frozen=True, slots=True)
class Dispatch(Message):
    """I/O manager -> driver: an IRP for one of your devices."""

    handler: ClassVar[str] = "Dispatch"
    irp: str


@dataclass(frozen=True, slots=True)
class Completed(Message):
    """I/O manager -> driver: the drivers below have completed an IRP."""

    handler: ClassVar[str] = "Completed"
    irp: str


@dataclass(frozen=True, slots=True)
class CancelIrpRequest(Message):
    """I/O manager -> driver: an IRP that you hold is cancelled."""

    handler: ClassVar[str] = "CancelIrpRequest"
    irp: str


@dataclass(frozen=True, slots=True)
class DriverUnload(Message):
    """I/O manager -> driver: unload."""

    handler: ClassVar[str] = "DriverUnload"
