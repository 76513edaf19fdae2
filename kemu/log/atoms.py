"""Values of events as atoms: what JSON can hold, the same in every process.

Nothing here may show an address or depend on the order of a set: two recordings of one run have to be equal
byte by byte.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any, Final, cast

from kemu.runtime import Actor, Cell

Atom = str | int | float | bool | None

_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")
_DEEPEST: Final = 4


def atom(value: object) -> Atom:
    """*value* itself if it is an atom; otherwise words for it.

    A number that prints as a name (a status, a callback's result) becomes the name.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if type(value).__str__ in _PLAIN else str(value)
    if isinstance(value, float):
        # NaN and infinity are not JSON.
        return value if value - value == 0 else repr(value)
    if isinstance(value, str):
        return str(value)
    return words(value)


_PLAIN: Final = {int.__str__, int.__repr__}


def words(value: object, depth: int = 0) -> str:
    """Words for *value* that are the same in every process."""
    if isinstance(value, Actor | Cell):
        return value.label
    if isinstance(value, str | int | float) or value is None:
        return str(atom(value))
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value))
    if depth < _DEEPEST:
        if isinstance(value, list | tuple):
            parts = ", ".join(words(part, depth + 1) for part in cast("list[object]", value))
            return f"[{parts}]" if isinstance(value, list) else f"({parts})"
        if isinstance(value, set | frozenset):
            return "{" + ", ".join(sorted(words(part, depth + 1) for part in cast("set[object]", value))) + "}"
        if isinstance(value, dict):
            pairs = cast("dict[object, object]", value).items()
            return "{" + ", ".join(f"{words(k, depth + 1)}: {words(v, depth + 1)}" for k, v in pairs) + "}"
        if is_dataclass(value) and not isinstance(value, type):
            parts = ", ".join(words(getattr(value, field.name), depth + 1) for field in fields(value))
            return f"{type(value).__name__}({parts})"
    name: Any = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return name
    if type(value).__repr__ is object.__repr__:
        return type(value).__name__
    try:
        return _ADDRESS.sub("", repr(value))
    except Exception:  # noqa: BLE001 - a driver's own __repr__ may not end a run only because it is logged
        return type(value).__name__
