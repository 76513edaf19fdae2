"""File names: taking paths apart, folding case, matching expressions."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from kemu.nt.status import NTSTATUS, STATUS_OBJECT_NAME_INVALID

MAXIMUM_COMPONENT = 255

_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?|\\]')
_FORBIDDEN_IN_STREAM = re.compile(r"[\x00/:\\]")


def fold(name: str) -> str:
    """File names are looked up without regard to case."""
    return name.upper()


class Path(NamedTuple):
    """A path from the root of the volume on."""

    components: tuple[str, ...]
    stream: str
    """The name of a named stream, or nothing."""
    has_stream_type: bool
    """Whether the path says ``:$DATA``, so that it names a stream and no directory."""
    trailing: bool
    """Whether it ends in a backslash, as that of a directory may."""

    @property
    def name(self) -> str:
        """The last component; nothing for the root."""
        return self.components[-1] if self.components else ""


@lru_cache(maxsize=4096)
def parse(text: str) -> Path | NTSTATUS:
    r"""Take ``\directory\file:stream:$DATA`` apart; the status that refuses a path that cannot be one."""
    if not text.startswith("\\"):
        return STATUS_OBJECT_NAME_INVALID
    body = text[1:]
    trailing = body.endswith("\\")
    if trailing:
        body = body[:-1]
    if not body:
        return STATUS_OBJECT_NAME_INVALID if trailing else Path((), "", False, False)
    parts = body.split("\\")
    last, *stream_parts = parts[-1].split(":")
    parts[-1] = last
    stream, typed = "", False
    if stream_parts:
        if trailing or len(stream_parts) > 2:
            return STATUS_OBJECT_NAME_INVALID
        stream = stream_parts[0]
        if len(stream_parts) == 2:
            if fold(stream_parts[1]) != "$DATA":
                return STATUS_OBJECT_NAME_INVALID
            typed = True
        elif not stream:
            return STATUS_OBJECT_NAME_INVALID
        if len(stream) > MAXIMUM_COMPONENT or _FORBIDDEN_IN_STREAM.search(stream):
            return STATUS_OBJECT_NAME_INVALID
    if not all(is_component(part) for part in parts):
        return STATUS_OBJECT_NAME_INVALID
    return Path(tuple(parts), stream, typed, trailing)


def is_component(name: str) -> bool:
    """Whether *name* may be that of a file or a directory."""
    return 0 < len(name) <= MAXIMUM_COMPONENT and not _FORBIDDEN.search(name)


def join(directory: str, name: str) -> str:
    r"""The path of *name* in *directory*, which is ``\`` for the root."""
    return f"{directory}{name}" if directory.endswith("\\") else f"{directory}\\{name}"


def dos_path(text: str) -> str:
    r"""The path from the root of a volume on that a program means: ``C:/a`` and ``a`` are ``\a``."""
    if len(text) > 1 and text[1] == ":" and text[0].isalpha():
        text = text[2:]
    text = text.replace("/", "\\")
    return text if text.startswith("\\") else f"\\{text}"


def is_volume(text: str) -> bool:
    r"""Whether a program that opens *text* means a volume itself: ``\\.\C:``."""
    return len(text) == 6 and text[:4] in {"\\\\.\\", "\\\\?\\"} and text[5] == ":"


def split(text: str) -> tuple[str, str]:
    r"""The directory of a path and the name in it: ``\a\b`` is ``\a`` and ``b``."""
    directory, _, name = text.rpartition("\\")
    return directory or "\\", name


@lru_cache(maxsize=512)
def expression_of(pattern: str) -> re.Pattern[str]:
    """An expression as a directory is enumerated with (FsRtlIsNameInExpression)."""
    out: list[str] = []
    for place, char in enumerate(pattern):
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "<":  # DOS_STAR: everything up to the last dot
            out.append(r"(?:.*(?=\.[^.]*$)|[^.]*)")
        elif char == ">":  # DOS_QM: one character, or none at a dot or at the end
            out.append(r"(?:[^.]|(?=\.|$))")
        elif char == '"':  # DOS_DOT: a dot, or the end
            out.append(r"\." if pattern[place + 1 :].strip('*<>"') else r"(?:\.|$)")
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """Whether *name* matches *pattern*, which may hold ``*``, ``?`` and their DOS forms ``<``, ``>`` and ``"``."""
    return expression_of(fold(pattern)).fullmatch(fold(name)) is not None
