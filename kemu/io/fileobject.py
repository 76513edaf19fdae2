"""File objects as objects of the object manager: handles that drivers have, references, the end."""

from __future__ import annotations

from typing import Final

from kemu.io.file_constants import (
    FILE_ALL_ACCESS,
    FILE_GENERIC_EXECUTE,
    FILE_GENERIC_READ,
    FILE_GENERIC_WRITE,
    FO_HANDLE_CREATED,
)
from kemu.io.manager import IoManager
from kemu.io.request import FileObject
from kemu.nt.access import Rights
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.object import ObjectType, ObjectTypeVariable, register_type
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.nt.system import current_system
from kemu.runtime import Thread


def _is_held(file: FileObject, thread: Thread) -> bool:
    """Whether handles, requests or sections keep the file object, or its cleanup has not been seen yet."""
    # Who asks may be about to send the close: the I/O manager, which reads the file before it does, must see that.
    thread.write(file)
    return not file.ended and (file.handles > 0 or file.pending > 0 or not file.left)


def _opened(file: FileObject, thread: Thread) -> None:
    """A handle was made."""
    thread.write(file)
    file.handles += 1
    file.Flags |= FO_HANDLE_CREATED


async def _closed(file: FileObject) -> None:
    """A handle is closed: that of a driver counts as one of a program does."""
    await current_system().get(IoManager).close(file)


async def _delete(file: FileObject) -> None:
    """The last reference is gone: send the close, from another thread if this one must not wait."""
    manager = current_system().get(IoManager)
    # Those who see the close may use it yet.
    words = manager.system.freed.pop(file)
    if file.ended:
        return
    if current_kthread().irql > PASSIVE_LEVEL:
        manager.close_later(file)
    else:
        await manager.send_close(file)
        manager.system.freed[file] = words


FILE_TYPE: Final = ObjectType(
    "File",
    Rights(FILE_ALL_ACCESS, FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_GENERIC_EXECUTE),
    is_held=_is_held,
    delete=_delete,
    opened=_opened,
    closed=_closed,
)
IoFileObjectType: Final = ObjectTypeVariable("IoFileObjectType", FILE_TYPE)

register_type(FileObject, FILE_TYPE)


@routine(
    "ntifs",
    """NTSTATUS IoReplaceFileObjectName(_In_ PFILE_OBJECT FileObject, _In_ PWSTR NewFileName,
       _In_ USHORT FileNameLength)""",
    max_irql=APC_LEVEL,
)
async def IoReplaceFileObjectName(FileObject: FileObject, NewFileName: str, FileNameLength: int) -> NTSTATUS:
    r"""Give a file object that is being opened another name, *FileNameLength* bytes of UTF-16.

    A filter that then completes the create with STATUS_REPARSE has it sent again, for that name (FLT-IO-24), which is a
    path with or without a drive. IRQL: <= APC_LEVEL.
    """
    if FileNameLength % 2 or FileNameLength > 2 * len(NewFileName):
        return STATUS_INVALID_PARAMETER
    current_kthread().write(FileObject)
    FileObject.FileName = NewFileName[: FileNameLength // 2]
    return STATUS_SUCCESS
