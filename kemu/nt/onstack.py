"""Where an object lies. In Python every object lies in the same place; C's author chooses, and may choose wrongly.

A port marks the objects that are local variables in C:

    done = on_stack(KEVENT("done"))

A kernel stack may be paged out while its thread waits in UserMode, and whoever then sets the event corrupts memory
(KE-WAIT-09, KE-CTX-08).
"""

from __future__ import annotations

from typing import TypeVar

from kemu.nt.system import current_system
from kemu.runtime import Cell

C = TypeVar("C", bound=Cell)


class StackObjects:
    """The objects of a run that lie on some thread's kernel stack."""

    def __init__(self) -> None:
        self.objects: set[Cell] = set()
        """Asked, never listed."""


def on_stack(object_: C) -> C:
    """Say that *object_* is a local variable of the routine that makes it, and return it."""
    current_system().get(StackObjects).objects.add(object_)
    return object_


def is_on_stack(object_: Cell) -> bool:
    """Whether *object_* was said to be a local variable."""
    return object_ in current_system().get(StackObjects).objects
