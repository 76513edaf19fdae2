"""Traces as values, and their files: JSON lines, a header first, compressed if the name ends in ``.gz``.

The same run gives the same bytes, in every process: fields come in a fixed order, nothing tells the time of
day unless the caller puts ``wall`` into the header, and the compressed form carries neither time nor name. A
reader takes what it knows and leaves the rest alone, so that a newer kemu may add fields and events within
``/1``.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from kemu.errors import UsageError
from kemu.log.manifest import COMMON, fields_of

SCHEMA: Final = "kemu.trace/1"

_GZIP: Final = b"\x1f\x8b"
_AGAIN: Final = "record it again with kemu replay ... -o DIR"


@dataclass(slots=True)
class Trace:
    """One run: what it was, and its events as dictionaries."""

    header: dict[str, Any]
    events: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list[str])
    """What a reader had to leave out, in words."""

    def lines(self) -> Iterable[str]:
        """The lines of the file, without their ends."""
        yield _dump(self.header)
        for event in self.events:
            yield _dump(ordered(event))


def ordered(event: dict[str, Any]) -> dict[str, Any]:
    """*event* with its fields in the order of the schema; what that does not know comes last, sorted."""
    known = (*COMMON, *fields_of(event.get("ev", "")))
    row = {key: event[key] for key in known if event.get(key) is not None}
    row.update((key, event[key]) for key in sorted(event) if key not in row and event[key] is not None)
    return row


def _dump(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_trace(trace: Trace, path: Path) -> None:
    """Write *trace* to *path*, whole or not at all. Raises `UsageError` if the place cannot be written."""
    data = "".join(f"{line}\n" for line in trace.lines()).encode("utf-8", "backslashreplace")
    if path.suffix == ".gz":
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
            file.write(data)
        data = packed.getvalue()
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise UsageError(
            f"the trace cannot be written to {path}: {error.strerror or error}",
            remedy="name a directory that exists and may be written",
        ) from None


def read_trace(path: Path) -> Trace:
    """Read a trace. A last line that was cut off is left out, with a warning in the result.

    Raises `UsageError` for a file that is not there, is not a trace, is of another schema, or is damaged.
    """
    warnings: list[str] = []
    text = _text(path, warnings)
    lines = text.split("\n")
    complete = lines.pop() == ""
    if not complete:
        # Whether the last line is whole shows in whether it can be read.
        lines = text.split("\n")
    if not lines or lines == [""]:
        raise UsageError(f"{path} is empty", remedy=_AGAIN)
    header = _header(path, lines[0])
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines[1:], 2):
        is_last_and_cut = number == len(lines) and not complete
        event = _object(line)
        if event is None and is_last_and_cut:
            warnings.append(f"line {number} of {path} is cut off; the {len(events)} events before it are here")
            break
        events.append(_checked(path, number, event, len(events)))
    return Trace(header, events, warnings)


def _text(path: Path, warnings: list[str]) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the trace {path} cannot be read: {error.strerror or error}",
            remedy="give the path of a file that kemu wrote with -o",
        ) from None
    if data.startswith(_GZIP):
        data = _unpack(path, data, warnings)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        whole = data[: error.start]
        if error.end == len(data) and error.reason == "unexpected end of data":
            return whole.decode("utf-8")
        line = whole.count(b"\n") + 1
        raise UsageError(f"line {line} of {path} is not UTF-8 text", remedy=_AGAIN) from None


def _unpack(path: Path, data: bytes, warnings: list[str]) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data)
    except zlib.error as error:
        raise UsageError(f"{path} is damaged: {error}", remedy=_AGAIN) from None
    if not unpacker.eof:
        warnings.append(f"{path} ends too early; what could be unpacked is here")
    return text


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _header(path: Path, line: str) -> dict[str, Any]:
    header = _object(line)
    schema = header.get("schema") if header is not None else None
    if header is None or not isinstance(schema, str):
        raise UsageError(
            f"line 1 of {path} is not the header of a {SCHEMA} trace",
            remedy="give a file that kemu wrote with -o",
        )
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is of the schema {schema!r}, and this kemu reads {SCHEMA}",
            remedy="read it with the kemu that wrote it, or record it again",
        )
    return header


def _checked(path: Path, line: int, event: dict[str, Any] | None, seq: int) -> dict[str, Any]:
    if event is None:
        raise UsageError(f"line {line} of {path} is not a JSON object", remedy=_AGAIN)
    for name, kind in (("seq", int), ("step", int), ("vt", int), ("ev", str)):
        value = event.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"line {line} of {path} has {name} = {value!r}", remedy=_AGAIN)
    if event["seq"] != seq:
        raise UsageError(
            f"line {line} of {path} is event {event['seq']}, and event {seq} was to follow: lines are missing"
            " or out of order",
            remedy=_AGAIN,
        )
    return event
