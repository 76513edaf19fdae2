"""Fields of a driver's own whose races are meant to be.

A driver's author declares them with `benign`. Whoever follows the driver's accesses asks `is_benign` when it makes the
cell of a field, and marks the cell (`Cell.benign`).
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from kemu.errors import UsageError

_BENIGN: Final = "__kemu_benign__"
"""Where a class or module keeps the names of its fields that were declared benign."""


def benign(owner: type | ModuleType, *fields: str) -> None:
    """Declare that races on *fields* of the class or module *owner* are meant to be, and no findings.

    It holds for objects of derived classes as well, and for nothing else: not for what a field refers to, and not for
    the freeing of the object. Raises `UsageError` for an *owner* that is neither, and for what is no name.
    """
    if not isinstance(owner, type | ModuleType):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"benign() was given {owner!r}, which is neither a class nor a module",
            remedy='write benign(Scanner, "Stopping") below the class',
        )
    if not fields:
        raise UsageError(
            f"benign() names no field of {owner.__name__}", remedy='write benign(Scanner, "Stopping"): one name or more'
        )
    for field in fields:
        if not isinstance(field, str) or not field.isidentifier():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"{field!r} is not the name of a field", remedy='write the name alone, such as "Stopping"')
    known: frozenset[str] = vars(owner).get(_BENIGN, frozenset())
    setattr(owner, _BENIGN, known | set(fields))


def is_benign(owner: type | ModuleType, field: str) -> bool:
    """Whether *field* of objects of the class *owner*, or of the module, was declared benign."""
    owners = owner.__mro__ if isinstance(owner, type) else (owner,)
    return any(field in vars(one).get(_BENIGN, ()) for one in owners)
