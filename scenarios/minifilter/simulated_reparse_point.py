r"""What a filter does that gives files another place: it answers opens with STATUS_REPARSE.

Creates of what is below ``\x\y`` are sent to ``\a\b``: the filter replaces the name of the file object and completes
the create, which the I/O manager then begins again, from the top of the stack, with the new name. The second create is
not for the filter any more. Other filters see two creates for one open, as they would with a reparse point on the disk.
"""

from _plain_filter import PlainFilter

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.ntifs import IoReplaceFileObjectName
from kemu.wdk.ntstatus import STATUS_OBJECT_NAME_NOT_FOUND, STATUS_REPARSE, STATUS_SUCCESS
from kemu.wdk.wdm import FILE_OPEN, IRP_MJ_CREATE, NT_SUCCESS, Driver

IO_REPARSE = 0
OLD, NEW = "\\x\\y", "\\a\\b"


class SimulatedReparsePoint(PlainFilter):
    """Sends opens of what is below one directory to another."""

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate)]

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        File = FltObjects.FileObject
        if File is None or not self.is_below(File.FileName):
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        name = NEW + File.FileName[len(OLD) :]
        status = await IoReplaceFileObjectName(File, name, 2 * len(name))
        Data.IoStatus.Status = STATUS_REPARSE if NT_SUCCESS(status) else status
        Data.IoStatus.Information = IO_REPARSE
        return FLT_PREOP_COMPLETE

    def is_below(self, name: str) -> bool:
        """Whether *name* is in the directory that is somewhere else; ``\\x\\yes`` is not."""
        return name[: len(OLD)].lower() == OLD and name[len(OLD) : len(OLD) + 1] in {"", "\\"}


@scenario(variants={"fixed": SimulatedReparsePoint}, completion="inline")
async def simulated_reparse_point(world: World, driver: type[Driver]) -> None:
    """Two programs open files by old and by new names, and by one that only looks like an old one."""
    for directory in ("\\x", "\\a", "\\a\\b"):
        world.directory(directory)
    world.file("\\a\\b\\f", b"moved")
    world.file("\\x\\yes", b"stays")
    await world.load(driver, altitude="371000")
    app = world.process("app")

    async def old() -> None:
        file = await app.open("\\x\\y\\f")
        status, data = await file.read(5)
        world.check((status, data) == (STATUS_SUCCESS, b"moved"), f"the file is at its new place: {status}, {data!r}")
        status, _ = await app.create("\\X\\Y\\missing", FILE_OPEN)
        world.check(status == STATUS_OBJECT_NAME_NOT_FOUND, f"there is no such file there: {status}")

    async def others() -> None:
        file = await app.open("\\x\\yes")
        status, data = await file.read(5)
        world.check((status, data) == (STATUS_SUCCESS, b"stays"), f"the file has not moved: {status}, {data!r}")

    await world.together(old(), others(), process=app)
