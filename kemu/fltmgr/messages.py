"""The filter manager's protocol: what it asks minifilters, and what others ask it.

A driver's callbacks take these messages as plain arguments; the dataclasses are what a log shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kemu.runtime import Message


@dataclass(frozen=True, slots=True)
class PreOperation(Message):
    """Filter manager -> minifilter: an operation is on its way down."""

    handler: ClassVar[str] = "PreOperation"
    operation: str


@dataclass(frozen=True, slots=True)
class PostOperation(Message):
    """Filter manager -> minifilter: an operation is on its way back up, or drained."""

    handler: ClassVar[str] = "PostOperation"
    operation: str
    draining: bool


@dataclass(frozen=True, slots=True)
class InstanceSetup(Message):
    """Filter manager -> minifilter: may I attach?"""

    handler: ClassVar[str] = "InstanceSetup"
    instance: str


@dataclass(frozen=True, slots=True)
class InstanceTeardown(Message):
    """Filter manager -> minifilter: query, start or complete of a teardown."""

    handler: ClassVar[str] = "InstanceTeardown"
    instance: str
    phase: str


@dataclass(frozen=True, slots=True)
class FilterUnload(Message):
    """Filter manager -> minifilter: unload."""

    handler: ClassVar[str] = "FilterUnload"
    flags: int


@dataclass(frozen=True, slots=True)
class TransactionNotification(Message):
    """Filter manager -> minifilter: a phase of a transaction has come."""

    handler: ClassVar[str] = "TransactionNotification"
    instance: str


@dataclass(frozen=True, slots=True)
class SectionConflict(Message):
    """Filter manager -> minifilter: a section for a data scan is in the way of an operation."""

    handler: ClassVar[str] = "SectionConflict"
    instance: str


@dataclass(frozen=True, slots=True)
class CancelOperation(Message):
    """Canceller -> minifilter: an operation that it has pended was cancelled."""

    handler: ClassVar[str] = "CancelOperation"
    operation: str


@dataclass(frozen=True, slots=True)
class OperationStatus(Message):
    """Filter manager -> minifilter: what the layer below has returned for an operation."""

    handler: ClassVar[str] = "OperationStatus"
    operation: str


@dataclass(frozen=True, slots=True)
class IoCompleted(Message):
    """Filter manager -> minifilter: asynchronous I/O that it has initiated is complete."""

    handler: ClassVar[str] = "IoCompleted"
    operation: str


@dataclass(frozen=True, slots=True)
class QueueCallback(Message):
    """Filter manager -> minifilter: one of the routines of a cancel-safe queue."""

    handler: ClassVar[str] = "QueueCallback"
    routine: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class GenerateFileName(Message):
    """Filter manager -> name provider: what is this file called?"""

    handler: ClassVar[str] = "GenerateFileName"
    file: str


@dataclass(frozen=True, slots=True)
class NormalizeNameComponent(Message):
    """Filter manager -> name provider: what is this part of a name in full?"""

    handler: ClassVar[str] = "NormalizeNameComponent"
    component: str
