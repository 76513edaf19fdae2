"""The bytes of lists of structures: directory entries and changes, as a buffer has them."""

from __future__ import annotations

import struct
from typing import Any, Final

from kemu.io.file_constants import (
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    FileBothDirectoryInformation,
    FileDirectoryInformation,
    FileFullDirectoryInformation,
    FileIdBothDirectoryInformation,
    FileIdFullDirectoryInformation,
    FileNamesInformation,
)
from kemu.io.structures import (
    FILE_BOTH_DIR_INFORMATION,
    FILE_DIRECTORY_INFORMATION,
    FILE_FULL_DIR_INFORMATION,
    FILE_ID_BOTH_DIR_INFORMATION,
    FILE_ID_FULL_DIR_INFORMATION,
    FILE_NAMES_INFORMATION,
    FILE_NOTIFY_INFORMATION,
)

_TIMES: Final = ("CreationTime", "LastAccessTime", "LastWriteTime", "ChangeTime", "EndOfFile", "AllocationSize")
_COMMON: Final = struct.Struct("<II6qII")
"""Next entry, index, times and sizes, attributes, length of the name."""
_SHORT: Final = struct.Struct("<IBx24s")
"""Extended attributes, and the short name with its length."""
_NAMES: Final = struct.Struct("<III")

KINDS: Final[dict[int, type[FILE_DIRECTORY_INFORMATION]]] = {
    FileDirectoryInformation: FILE_DIRECTORY_INFORMATION,
    FileFullDirectoryInformation: FILE_FULL_DIR_INFORMATION,
    FileBothDirectoryInformation: FILE_BOTH_DIR_INFORMATION,
    FileIdBothDirectoryInformation: FILE_ID_BOTH_DIR_INFORMATION,
    FileIdFullDirectoryInformation: FILE_ID_FULL_DIR_INFORMATION,
    FileNamesInformation: FILE_NAMES_INFORMATION,
}
WITH_SHORT_NAME: Final = (FILE_BOTH_DIR_INFORMATION, FILE_ID_BOTH_DIR_INFORMATION)
WITH_ID: Final = (FILE_ID_FULL_DIR_INFORMATION, FILE_ID_BOTH_DIR_INFORMATION)


def encode(entries: list[Any]) -> bytes:
    """The bytes of a list of directory entries or changes, each linked to the next one."""
    result = bytearray()
    for number, entry in enumerate(entries):
        data = _encoded(entry)
        if number + 1 < len(entries):
            data += bytes(-len(data) % (4 if isinstance(entry, FILE_NOTIFY_INFORMATION) else 8))
            data[0:4] = struct.pack("<I", len(data))
        result += data
    return bytes(result)


def decode(data: bytes, minor: int, information_class: int) -> list[Any]:
    """The list that *data*, the answer to such a request, consists of."""
    entries: list[Any] = []
    start = 0
    while start + 12 <= len(data):
        (following,) = struct.unpack_from("<I", data, start)
        if minor == IRP_MN_NOTIFY_CHANGE_DIRECTORY:
            _, action, size = _NAMES.unpack_from(data, start)
            entries.append(FILE_NOTIFY_INFORMATION(action, _name(data, start + 12, size)))
        else:
            entries.append(_decoded(KINDS[information_class], data, start))
        if not following:
            break
        start += following
    return entries


def _name(data: bytes, start: int, size: int) -> str:
    return data[start : start + size].decode("utf-16-le", "replace")


def _encoded(entry: Any) -> bytearray:
    name = entry.FileName.encode("utf-16-le")
    if isinstance(entry, FILE_NOTIFY_INFORMATION):
        return bytearray(_NAMES.pack(0, entry.Action, len(name)) + name)
    if isinstance(entry, FILE_NAMES_INFORMATION):
        return bytearray(_NAMES.pack(0, entry.FileIndex, len(name)) + name)
    times = [getattr(entry, member) for member in _TIMES]
    data = bytearray(_COMMON.pack(0, entry.FileIndex, *times, entry.FileAttributes, len(name)))
    if entry.SIZE > FILE_DIRECTORY_INFORMATION.SIZE:
        short = entry.ShortName.encode("utf-16-le")
        rest = _SHORT.pack(entry.EaSize, len(short), short)
        data += rest if isinstance(entry, WITH_SHORT_NAME) else rest[:4]
    if isinstance(entry, WITH_ID):
        data += bytes(entry.SIZE - 8 - len(data)) + struct.pack("<Q", entry.FileId)
    return data + name


def _decoded(kind: type[FILE_DIRECTORY_INFORMATION], data: bytes, start: int) -> FILE_DIRECTORY_INFORMATION:
    if kind is FILE_NAMES_INFORMATION:
        _, index, size = _NAMES.unpack_from(data, start)
        return kind(_name(data, start + kind.SIZE, size), FileIndex=index)
    _, index, *times, attributes, size = _COMMON.unpack_from(data, start)
    entry = kind(_name(data, start + kind.SIZE, size), index, *times, FileAttributes=attributes)
    after = start + _COMMON.size
    if kind.SIZE > FILE_DIRECTORY_INFORMATION.SIZE:
        (entry.EaSize,) = struct.unpack_from("<I", data, after)
    if kind in WITH_SHORT_NAME:
        _, length, short = _SHORT.unpack_from(data, after)
        entry.ShortName = short[:length].decode("utf-16-le")
    if kind in WITH_ID:
        (entry.FileId,) = struct.unpack_from("<Q", data, start + kind.SIZE - 8)
    return entry
