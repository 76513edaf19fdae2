"""The rules about file names that are seen when a post-operation phase ends, and races of delete dispositions."""

from __future__ import annotations

from kemu.fltmgr.frame import Frame
from kemu.fltmgr.name_information import FileNames
from kemu.fltmgr.objects import Instance
from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_SET_INFORMATION
from kemu.io.file_constants import (
    FILE_CREATED,
    FILE_DISPOSITION_DELETE,
    FileDispositionInformation,
    FileDispositionInformationEx,
)
from kemu.io.filesystem.nodes import Node, Open
from kemu.io.structures import FILE_DISPOSITION_INFORMATION, FILE_DISPOSITION_INFORMATION_EX
from kemu.nt.kthread import current_kthread
from kemu.nt.status import NT_SUCCESS
from kemu.nt.system import System, report

DISPOSITIONS = frozenset({FileDispositionInformation, FileDispositionInformationEx})


class NameChecks:
    """What there is to remember between two post-operation callbacks."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.told: dict[tuple[Instance, Node], object] = {}
        """The disposition that each instance has heard of last, of each file."""

    def post_ended(self, frame: Frame) -> None:
        """The driver has given the operation back in its post-operation phase."""
        names = self.system.get(FileNames)
        if names.taken:
            self.tunnelling(frame, names)
        request = frame.operation.request
        if request.major == IRP_MJ_SET_INFORMATION and request.parameters.FileInformationClass in DISPOSITIONS:
            self.disposition(frame)

    def tunnelling(self, frame: Frame, names: FileNames) -> None:
        """Names that were kept from the pre-operation callback have to be checked by now (FLT-NAME-10)."""
        taken = names.taken.pop(frame, ())
        request = frame.operation.request
        if not NT_SUCCESS(request.status) or (request.major == IRP_MJ_CREATE and request.information != FILE_CREATED):
            return
        thread = current_kthread()
        for block in taken:
            thread.read(block)
            if (block.freed is None or block.kept) and not block.tunnel_checked:
                report(
                    "name-tunnel-unchecked",
                    f"{frame.label} keeps {block.words}, across {frame.operation.label}, and did not pass it to "
                    "FltGetTunneledName in its post-operation callback",
                )

    def disposition(self, frame: Frame) -> None:
        """Post-operation callbacks do not come in the order in which the file system has made the changes
        (FLT-RACE-47): then the last of them is not what becomes of the file.
        """
        request = frame.operation.request
        opened, given = request.file.fs_context, request.parameters.InfoBuffer
        if not NT_SUCCESS(request.status) or not isinstance(opened, Open):
            return
        current_kthread().read(opened.node)
        key = (frame.instance, opened.node)
        last = opened.node.last_disposition
        if last is not given and last is self.told.get(key) and deletes(last) != deletes(given):
            became = "deleted" if deletes(last) else "kept"
            report(
                "disposition-race",
                f"{frame.label} hears last that {opened.link.path} is to be {'deleted' if deletes(given) else 'kept'}, "
                f"and it will be {became}: the file system changed that in the other order",
            )
        self.told[key] = given


def deletes(given: object) -> bool:
    """Whether a disposition asks for a deletion."""
    if isinstance(given, FILE_DISPOSITION_INFORMATION):
        return given.DeleteFile
    return isinstance(given, FILE_DISPOSITION_INFORMATION_EX) and bool(given.Flags & FILE_DISPOSITION_DELETE)
