"""The file object of a query by name: it lies on the stack of the I/O manager, and is gone with the call (FLT-FAST-06).

A filter sees it in the callbacks of IRP_MJ_NETWORK_QUERY_OPEN, where it has a name and nothing else. What a driver
keeps of it points to whatever the stack holds later.
"""

from __future__ import annotations

from typing import Any

from kemu.io.request import FileObject
from kemu.io.volume import Volume
from kemu.nt.driver import current_driver
from kemu.nt.kthread import current_kthread
from kemu.nt.system import report


class StackFileObject(FileObject):
    """A file object that nobody opened. It can be neither referenced nor kept."""

    __slots__ = ()

    def __init__(self, volume: Volume, name: str) -> None:
        super().__init__(volume, name, 0)

    def refuse(self, what: str) -> None:
        """Finding ``nqo-fileobject-escape``: a driver does *what* with it."""
        report("nqo-fileobject-escape", f"{current_kthread().label} {what}: it lies on the stack of its query")

    def gone(self) -> None:
        """The query is over."""
        self.__class__ = _EscapedFileObject  # type: ignore[assignment]


class _EscapedFileObject(StackFileObject):
    """What is left of it afterwards, for who has kept a pointer."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        # What a driver knows of a file object begins with a capital letter; the rest is kemu's.
        if name[:1].isupper() and current_driver() is not None:
            self.refuse(f"reads {name} of the file object of a query by name that is over")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name[:1].isupper() and current_driver() is not None:
            self.refuse(f"writes {name} of the file object of a query by name that is over")
        object.__setattr__(self, name, value)
