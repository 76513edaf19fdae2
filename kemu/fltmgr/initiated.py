"""What minifilters have initiated, allocated and opened, and not given back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kemu.io.request import FileObject
from kemu.nt.driver import DriverActor
from kemu.nt.system import Leftover
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.fltmgr.generated import GeneratedRequest
    from kemu.fltmgr.objects import Instance
    from kemu.fltmgr.ownframe import OwnFrame


@dataclass(slots=True)
class OpenedFile:
    """A handle that a minifilter has opened, and by which instance; None if from the top of the stack."""

    handle: int
    file: FileObject
    driver: DriverActor | None
    instance: Instance | None


class GeneratedIo:
    """What minifilters have initiated and allocated, in one run. Each list is oldest first."""

    def __init__(self) -> None:
        self.outstanding: list[GeneratedRequest] = []
        """What was initiated and is not over."""
        self.allocated: dict[OwnFrame, None] = {}
        """The callback data that drivers have allocated and not freed."""
        self.opened: dict[FileObject, OpenedFile] = {}
        """What drivers have opened by FltCreateFile and FltOpenVolume."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The callback data and the handles that *driver* has not given back (FLT-IO-11, FLT-IO-13)."""
        for frame in self.allocated:
            if frame.node.filter.driver is driver:
                yield Leftover("cbd-leak", f"callback data of {frame.instance.label}")
        for one in self.opened.values():
            if one.driver is driver and one.file.handles:
                yield Leftover("handle-leak", f"handle 0x{one.handle:X} to {one.file.label}")

    def still_open(self, thread: Thread, instance: Instance) -> OpenedFile | None:
        """A file that was opened through *instance* and is open yet, as *thread* sees it."""
        for one in self.opened.values():
            if one.instance is instance:
                thread.read(one.file)
                if one.file.handles:
                    return one
        return None
