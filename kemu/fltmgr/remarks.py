"""What is remembered of one instance's part in an operation that few operations have.

A frame is made for each instance and operation, and most pass it by: what they do not need is not kept there.
"""

from __future__ import annotations

from typing import Any, Final

UNUSED: Final = object()
"""In the place of something that was not used yet."""


class Remarks:
    """What a driver has done with an operation besides letting it pass, pending or completing it."""

    __slots__ = (
        "cancellable_wait",
        "changed",
        "filter_context",
        "links_used",
        "refused_safe",
        "safe_status",
        "snapshot",
        "vetted",
    )

    def __init__(self) -> None:
        self.safe_status: int | None = None
        """What FltDoCompletionProcessingWhenSafe has given the post-operation callback to return, with TRUE."""
        self.refused_safe = False
        """Whether the last FltDoCompletionProcessingWhenSafe returned FALSE."""
        self.snapshot: Any = None
        """The parameters as they were when FltRequestOperationStatusCallback was called."""
        self.changed: frozenset[str] = frozenset()
        """The members of the parameters that the instance has changed, which its post-operation callback does not see
        changed (FLT-CBD-10).
        """
        self.filter_context: list[Any] | None = None
        """Data->FilterContext, once it was used."""
        self.links_used = False
        """Whether Data->QueueLinks or Data->QueueContext was used."""
        self.cancellable_wait = False
        """Whether a thread waits in FltCancellableWaitForSingleObject with the operation."""
        self.vetted = False
        """Whether the driver has asked if the operation may be redirected."""
