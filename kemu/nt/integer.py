"""Numbers that a driver passes: C's types hold integers of so many bits, and Python's hold anything."""

from __future__ import annotations

from typing import Any

from kemu.nt.system import refuse


def integer(value: int, what: str, bits: int, *, signed: bool = True, remedy: str = "") -> int:
    """Return *value* if a C integer of so many *bits* can be it; anything else ends the run with a `UsageError`.

    *what* says in words what is wrong with another one: ``KeLowerIrql with NewIrql``.
    """
    given: Any = value
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if not isinstance(given, int) or isinstance(given, bool) or not lowest <= given < highest:
        refuse(f"{what} {given!r}", remedy=remedy or f"give an int of {bits} bits{'' if signed else ', not negative'}")
    return value
