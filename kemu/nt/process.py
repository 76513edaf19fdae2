"""Processes: the owner of threads and of handles."""

from __future__ import annotations

from typing import Final

from kemu.runtime import Cell, current_thread

UserMode: Final = 1
KernelMode: Final = 0


class Process(Cell):
    """A user process, or the System process."""

    __slots__ = ("handles", "is_system")

    def __init__(self, label: str, *, is_system: bool = False) -> None:
        super().__init__(current_thread(), label)
        self.is_system = is_system
        self.handles: list[object] = []
        """Open handles, oldest first."""
