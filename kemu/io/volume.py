"""Volumes: a device stack with a file system at the bottom and, at the top, whoever filters it."""

from __future__ import annotations

from kemu.io.filesystem import FileSystem
from kemu.io.request import IoTarget, Request
from kemu.nt.system import System
from kemu.runtime import Cell, current_thread


class Volume(Cell):
    """A mounted volume."""

    __slots__ = ("bottom", "device_flags", "dos_name", "filesystem", "top")

    def __init__(self, system: System, name: str) -> None:
        super().__init__(current_thread(), name)
        self.dos_name = name
        """The DOS name, such as ``C:``."""
        self.device_flags = 0
        """DO_BUFFERED_IO or DO_DIRECT_IO, if that is how its device wants buffers (FLT-BUF-01); 0 as NTFS has it."""
        self.filesystem = FileSystem(system.runtime, system, name)
        self.filesystem.completer = self
        self.top: IoTarget = self.filesystem
        self.bottom: IoTarget = self.filesystem
        """What is below whoever filters it."""

    @property
    def has_cache(self) -> bool:
        """Whether files can be mapped here."""
        return self.filesystem.cache is not None

    async def completed(self, request: Request) -> None:
        """Without a filter above, what the file system completed later is done."""
        request.finish(current_thread())
