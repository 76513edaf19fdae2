"""Counted strings of UTF-16, as drivers use them.

``Buffer`` is a text of Python's for what C has as a literal, or memory: a block of bytes from pool, a pointer into one,
a ``bytearray``. What is in memory has the bounds of memory, and ``Length`` and ``MaximumLength`` are bytes, as in C.
"""

from __future__ import annotations

from typing import Any

from kemu.nt.allocation import Allocation
from kemu.nt.buffer import READ, Copied, allocation_of, check_bounds, span_of
from kemu.nt.bugcheck import PAGE_FAULT_IN_NONPAGED_AREA, BugCheck
from kemu.nt.kthread import PASSIVE_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_BUFFER_TOO_SMALL, STATUS_SUCCESS
from kemu.nt.structure import WRITE, Structure, field_cell
from kemu.nt.system import report
from kemu.runtime.data import created, recorder

LONGEST = 0xFFFE
"""The most bytes that a string has: its lengths are numbers of 16 bits."""


class UNICODE_STRING(Structure):
    """A counted string; empty until something is put in."""

    Length: int
    MaximumLength: int
    Buffer: Any

    def __init__(self) -> None:
        created(self, "UNICODE_STRING")
        self.Length = 0
        self.MaximumLength = 0
        self.Buffer = None

    def __str__(self) -> str:
        return _text(self, "str")


def _get(string: UNICODE_STRING, name: str) -> Any:
    """A field, as a routine of kemu's reads it: recorded as if the driver did."""
    found = recorder()
    if found is not None:
        data, thread = found
        data.load(thread, field_cell(data, string, name))
    return getattr(string, name)


def _set(string: UNICODE_STRING, **values: Any) -> None:
    """Assign fields, likewise."""
    found = recorder()
    for name, value in values.items():
        if found is not None:
            data, thread = found
            allocation: Allocation | None = allocation_of(string)
            if allocation is not None:
                thread.write(allocation)
            data.store(thread, field_cell(data, string, name))
        setattr(string, name, value)


def _is_string(value: object, name: str, parameter: str) -> bool:
    """Whether *value* is a string, which may have been freed; finding ``ke.bad-pointer`` if not."""
    if isinstance(value, Structure):
        # Also one whose class says that it was freed: reading it says the rest.
        return True
    what = "NULL" if value is None else f"a {type(value).__name__}"
    detail = f"{name} was given {what}, as {parameter}, which takes a UNICODE_STRING"
    report("ke.bad-pointer", detail, BugCheck(PAGE_FAULT_IN_NONPAGED_AREA))
    return False


def _text(string: UNICODE_STRING, name: str) -> str:
    """What *string* says."""
    length, buffer = _get(string, "Length"), _get(string, "Buffer")
    if not length:
        return ""
    if isinstance(buffer, str):
        return buffer[: length // 2]
    region, offset = span_of(buffer, name, "Buffer", READ)
    if not check_bounds(region, offset, length, READ, name):
        return ""
    copied = region.region_fetch(offset, length)
    if copied.unwritten():
        report("ke.uninitialised", f"{name} reads bytes of a string that were never written")
    return copied.data.decode("utf-16-le", "surrogatepass")


def text_of(string: UNICODE_STRING, name: str) -> str:
    """What *string* says, which the routine called *name* was given."""
    return _text(string, name)


def _put(string: UNICODE_STRING, at: int, text: str, name: str) -> None:
    """Write *text* behind the first *at* bytes, and end the string there."""
    data = text.encode("utf-16-le", "surrogatepass")
    if data:
        region, offset = span_of(_get(string, "Buffer"), name, "Buffer", WRITE)
        if check_bounds(region, offset + at, len(data), WRITE, name):
            region.region_put(offset + at, Copied(data))
    _set(string, Length=at + len(data))


@routine("wdm", "VOID RtlInitUnicodeString(_Inout_ PUNICODE_STRING DestinationString, _In_opt_ PCWSTR SourceString)")
def RtlInitUnicodeString(DestinationString: UNICODE_STRING, SourceString: str | None) -> None:
    """Let *DestinationString* be the literal *SourceString*, or empty. IRQL: any."""
    if _is_string(DestinationString, "RtlInitUnicodeString", "DestinationString"):
        length = min(2 * len(SourceString or ""), LONGEST - 2)
        maximum = 0 if SourceString is None else length + 2
        _set(DestinationString, Length=length, MaximumLength=maximum, Buffer=SourceString)


def RtlInitEmptyUnicodeString(Destination: UNICODE_STRING, Buffer: Any, BufferSize: int) -> None:
    """Let *Destination* be an empty string with room in *Buffer*. IRQL: any."""
    if _is_string(Destination, "RtlInitEmptyUnicodeString", "Destination"):
        _set(Destination, Length=0, MaximumLength=BufferSize, Buffer=Buffer)


@routine(
    "wdm",
    "VOID RtlCopyUnicodeString(_Inout_ PUNICODE_STRING DestinationString, _In_opt_ PCUNICODE_STRING SourceString)",
)
def RtlCopyUnicodeString(DestinationString: UNICODE_STRING, SourceString: UNICODE_STRING | None) -> None:
    """Copy as much of *SourceString* as there is room for, into the destination's own buffer. IRQL: any."""
    name = "RtlCopyUnicodeString"
    if _is_string(DestinationString, name, "DestinationString"):
        text = "" if SourceString is None else _text(SourceString, name)
        _put(DestinationString, 0, text[: _get(DestinationString, "MaximumLength") // 2], name)


def _append(name: str, destination: UNICODE_STRING, text: str) -> NTSTATUS:
    if not _is_string(destination, name, "Destination"):
        return STATUS_BUFFER_TOO_SMALL
    length = _get(destination, "Length")
    if length + 2 * len(text) > _get(destination, "MaximumLength"):
        return STATUS_BUFFER_TOO_SMALL
    _put(destination, length, text, name)
    return STATUS_SUCCESS


@routine(
    "wdm",
    "NTSTATUS RtlAppendUnicodeToString(_Inout_ PUNICODE_STRING Destination, _In_opt_ PCWSTR Source)",
    max_irql=PASSIVE_LEVEL,
)
def RtlAppendUnicodeToString(Destination: UNICODE_STRING, Source: str | None) -> NTSTATUS:
    """Append the literal *Source*; STATUS_BUFFER_TOO_SMALL, and nothing appended, without room. IRQL: PASSIVE_LEVEL."""
    return _append("RtlAppendUnicodeToString", Destination, Source or "")


@routine(
    "wdm",
    "NTSTATUS RtlAppendUnicodeStringToString(_Inout_ PUNICODE_STRING Destination, _In_ PCUNICODE_STRING Source)",
    max_irql=PASSIVE_LEVEL,
)
def RtlAppendUnicodeStringToString(Destination: UNICODE_STRING, Source: UNICODE_STRING) -> NTSTATUS:
    """Append *Source*; STATUS_BUFFER_TOO_SMALL, and nothing appended, without room. IRQL: PASSIVE_LEVEL."""
    name = "RtlAppendUnicodeStringToString"
    return _append(name, Destination, _text(Source, name) if _is_string(Source, name, "Source") else "")


def _pair(name: str, first: UNICODE_STRING, second: UNICODE_STRING, ignores_case: bool) -> tuple[str, str]:
    texts = [
        _text(one, name) if _is_string(one, name, f"String{number}") else ""
        for number, one in enumerate((first, second), 1)
    ]
    return (_upper(texts[0]), _upper(texts[1])) if ignores_case else (texts[0], texts[1])


def _upper(text: str) -> str:
    # The system's table has one character for each, where Unicode may have two.
    return "".join(upper if len(upper := one.upper()) == 1 else one for one in text)


@routine(
    "wdm",
    """LONG RtlCompareUnicodeString(_In_ PCUNICODE_STRING String1, _In_ PCUNICODE_STRING String2,
       _In_ BOOLEAN CaseInSensitive)""",
    max_irql=PASSIVE_LEVEL,
)
def RtlCompareUnicodeString(String1: UNICODE_STRING, String2: UNICODE_STRING, CaseInSensitive: bool) -> int:
    """Less than zero, zero, or more, as *String1* comes before *String2*. IRQL: PASSIVE_LEVEL."""
    one, other = _pair("RtlCompareUnicodeString", String1, String2, CaseInSensitive)
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            return ord(mine) - ord(yours)
    return len(one) - len(other)


@routine(
    "wdm",
    """BOOLEAN RtlEqualUnicodeString(_In_ PCUNICODE_STRING String1, _In_ PCUNICODE_STRING String2,
       _In_ BOOLEAN CaseInSensitive)""",
    max_irql=PASSIVE_LEVEL,
)
def RtlEqualUnicodeString(String1: UNICODE_STRING, String2: UNICODE_STRING, CaseInSensitive: bool) -> bool:
    """Whether the two say the same. IRQL: PASSIVE_LEVEL."""
    one, other = _pair("RtlEqualUnicodeString", String1, String2, CaseInSensitive)
    return one == other


@routine(
    "wdm",
    """BOOLEAN RtlPrefixUnicodeString(_In_ PCUNICODE_STRING String1, _In_ PCUNICODE_STRING String2,
       _In_ BOOLEAN CaseInSensitive)""",
    max_irql=PASSIVE_LEVEL,
)
def RtlPrefixUnicodeString(String1: UNICODE_STRING, String2: UNICODE_STRING, CaseInSensitive: bool) -> bool:
    """Whether *String2* begins with *String1*. IRQL: PASSIVE_LEVEL."""
    one, other = _pair("RtlPrefixUnicodeString", String1, String2, CaseInSensitive)
    return other.startswith(one)
