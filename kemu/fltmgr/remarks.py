"""What is remembered of one instance's part in an operation that few operations have.

A frame is made for each instance and operation, and most pass it by: what they do not need is not kept there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame, Input
    from kemu.fltmgr.structures import FilterContext


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """A request to be told what the layer below has returned for an operation (FLT-POST-29)."""

    frame: Frame
    callback: Callable[..., Awaitable[None]]
    context: Any
    snapshot: Input
    """The parameters as they were when it was made."""


class Remarks:
    """What a driver has done with an operation besides letting it pass, pending or completing it."""

    __slots__ = (
        "cancellable_wait",
        "changed",
        "dequeued",
        "filter_context",
        "refused_safe",
        "safe_status",
        "status_requests",
        "vetted",
    )

    def __init__(self) -> None:
        self.safe_status: int | None = None
        """What FltDoCompletionProcessingWhenSafe has given the post-operation callback to return, with TRUE."""
        self.refused_safe = False
        """Whether the last FltDoCompletionProcessingWhenSafe returned FALSE."""
        self.status_requests: list[StatusRequest] = []
        """The status callbacks that the driver has requested in its pre-operation callback."""
        self.changed: frozenset[str] = frozenset()
        """The members of the parameters that the instance has changed, which its post-operation callback does not see
        changed (FLT-CBD-10).
        """
        self.filter_context: FilterContext | None = None
        """Data->FilterContext, once it was used."""
        self.cancellable_wait = False
        """Whether a thread waits in FltCancellableWaitForSingleObject with the operation."""
        self.dequeued: int | None = None
        """When the driver has removed the operation from a cancel-safe queue, unless it has asked since whether the
        operation is cancelled.
        """
        self.vetted = False
        """Whether the driver has asked if the operation may be redirected."""
