"""Views of an operation that tell of every access, for runs in which races are looked for.

Whoever has control of an operation may use its callback data, and nobody else. A use that nothing orders before the
operation is given back is a race, even where it came in time; to see that, uses have to be known. The views are those
of `kemu.fltmgr.structures` with another class, so that a run without race detection pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.fltmgr.structures import (
    FLT_CALLBACK_DATA,
    FLT_IO_PARAMETER_BLOCK,
    FLT_PARAMETERS,
    FLT_RELATED_OBJECTS,
    IO_STATUS_BLOCK,
)
from kemu.runtime import current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame

_get = object.__getattribute__


def _used(view: object, name: str) -> None:
    """The running thread looks at, or changes, *name* of *view*."""
    if not name.startswith("_"):
        frame: Frame = _get(view, "_frame")
        current_thread().use(frame)


class _Telling:
    """Tells of every access, before it is made."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        _used(self, name)
        return _get(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        _used(self, name)
        super().__setattr__(name, value)


class WatchedCallbackData(FLT_CALLBACK_DATA):
    """Callback data that the driver has control of."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        _used(self, name)
        value = _get(self, name)
        # These two come into being when they are first asked for.
        if name == "Iopb" and type(value) is FLT_IO_PARAMETER_BLOCK:
            value.__class__ = WatchedParameterBlock
            _get(value, "_parameters").__class__ = WatchedParameters
        elif name == "IoStatus" and type(value) is IO_STATUS_BLOCK:
            value.__class__ = WatchedStatusBlock
        return value

    def __setattr__(self, name: str, value: object) -> None:
        _used(self, name)
        super().__setattr__(name, value)


class WatchedRelatedObjects(_Telling, FLT_RELATED_OBJECTS):
    """FltObjects of such an operation."""

    __slots__ = ()


class WatchedParameterBlock(_Telling, FLT_IO_PARAMETER_BLOCK):
    """A parameter block of such an operation."""

    __slots__ = ()


class WatchedParameters(_Telling, FLT_PARAMETERS):
    """The parameters of such an operation."""

    __slots__ = ()


class WatchedStatusBlock(_Telling, IO_STATUS_BLOCK):
    """The result of such an operation."""

    __slots__ = ()


def watch(data: FLT_CALLBACK_DATA, objects: FLT_RELATED_OBJECTS | None) -> None:
    """Have *data* and *objects*, which are valid, tell of every access from here on."""
    data.__class__ = WatchedCallbackData
    objects.__class__ = WatchedRelatedObjects  # type: ignore[union-attr]
