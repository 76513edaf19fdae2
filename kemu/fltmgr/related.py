"""The related objects of callbacks that are about an instance and no operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kemu.fltmgr.structures import FLT_RELATED_OBJECTS

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame
    from kemu.fltmgr.objects import Instance
    from kemu.nt.transaction import KTRANSACTION


class _NoOperation:
    """Stands where a frame would be in the related objects of an instance callback."""

    __slots__ = ("file", "instance", "transaction")

    def __init__(self, instance: Instance, transaction: KTRANSACTION | None) -> None:
        self.instance = instance
        self.file = None
        self.transaction = transaction


def related_objects(instance: Instance, transaction: KTRANSACTION | None = None) -> FLT_RELATED_OBJECTS:
    """The related objects of an instance callback, or of a notification, which have no operation."""
    return FLT_RELATED_OBJECTS(cast("Frame", _NoOperation(instance, transaction)))
