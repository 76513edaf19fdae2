"""Debug output: DbgPrint and its kin. A line becomes a ``user.log`` event of a run that is logged.

Whether a run is logged may not change it, so the arguments are counted against the format in every run, and
formatting itself never fails: an argument of the wrong type is shown as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.nt.system import refuse
from kemu.runtime import Actor, Cell, current_thread

DPFLTR_ERROR_LEVEL: Final = 0
DPFLTR_WARNING_LEVEL: Final = 1
DPFLTR_TRACE_LEVEL: Final = 2
DPFLTR_INFO_LEVEL: Final = 3

DPFLTR_DEFAULT_ID: Final = 101
DPFLTR_IHVDRIVER_ID: Final = 77
DPFLTR_FLTMGR_ID: Final = 71

LEVEL_NAMES: Final = {
    DPFLTR_ERROR_LEVEL: "error",
    DPFLTR_WARNING_LEVEL: "warning",
    DPFLTR_TRACE_LEVEL: "debug",
    DPFLTR_INFO_LEVEL: "info",
}


class Piece(NamedTuple):
    """A part of a format: literal text, or one conversion."""

    text: str
    flags: str = ""
    width: str = ""
    precision: str = ""
    size: str = ""
    conversion: str = ""

    @property
    def arguments(self) -> int:
        """How many arguments it takes."""
        return (self.conversion != "") + (self.width == "*") + (self.precision == ".*")


_CONVERSION: Final = re.compile(
    r"%(?:(?P<percent>%)|(?P<flags>[-+ #0]*)(?P<width>\*|\d*)(?P<precision>\.\*|\.\d*|)"
    r"(?P<size>I64|I32|ll|hh|[hlwzjtI]?)(?P<conversion>[diouxXpcCsSZeEfgG]))"
)


@lru_cache(maxsize=256)
def parse_format(text: str) -> tuple[Piece, ...]:
    """Split a format of the C runtime's printf, with ``%wZ``, into its pieces."""
    pieces: list[Piece] = []
    at = 0
    for match in _CONVERSION.finditer(text):
        if match.start() > at:
            pieces.append(Piece(text[at : match.start()]))
        at = match.end()
        if match["percent"]:
            pieces.append(Piece("%"))
        else:
            given = match["flags"], match["width"], match["precision"], match["size"], match["conversion"]
            pieces.append(Piece(match[0], *given))
    if at < len(text):
        pieces.append(Piece(text[at:]))
    return tuple(pieces)


def format_message(text: str, arguments: tuple[Any, ...]) -> str:
    """Put *arguments*, of which there are as many as *text* wants, into *text*."""
    left = list(reversed(arguments))
    out: list[str] = []
    for piece in parse_format(text):
        if not piece.conversion:
            out.append(piece.text)
            continue
        width = str(left.pop()) if piece.width == "*" else piece.width
        precision = f".{left.pop()}" if piece.precision == ".*" else piece.precision
        out.append(_convert(piece, width, precision, left.pop()))
    return "".join(out)


def _convert(piece: Piece, width: str, precision: str, value: Any) -> str:
    spec = f"%{piece.flags}{width}{precision}"
    try:
        if piece.conversion in "diouxX":
            return (spec + piece.conversion) % _integer(piece, int(value))
        if piece.conversion == "p":
            return f"{value & 0xFFFFFFFFFFFFFFFF:016X}" if isinstance(value, int) else _name(value)
        if piece.conversion in "eEfgG":
            return (spec + piece.conversion) % float(value)
        if piece.conversion in "cC":
            return (spec + "s") % (chr(value) if isinstance(value, int) else value)
        return (spec + "s") % _string(value)
    except (TypeError, ValueError, OverflowError):
        return _name(value)


def _integer(piece: Piece, value: int) -> int:
    """What C prints for *value*: of its lowest 32 bits, or 64 where the size says so."""
    bits = 64 if piece.size in {"I64", "ll", "I", "z", "j", "t"} else 32
    value &= (1 << bits) - 1
    return value - (1 << bits) if piece.conversion in "di" and value >> (bits - 1) else value


def _string(value: Any) -> str:
    if value is None:
        return "(null)"
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("latin-1")
    return value if isinstance(value, str) else str(getattr(value, "Buffer", None) or _name(value))


def _name(value: Any) -> str:
    """What stands for a thing that has no number or text: never an address, which differs between runs."""
    if value is None:
        return "0" * 16
    if isinstance(value, str | int | float):
        return str(value)
    # Not of whatever has such an attribute: looking at a driver's own objects may mean something.
    return value.label if isinstance(value, Actor | Cell) else type(value).__name__


def _print(routine_name: str, level: str, text: str, arguments: tuple[Any, ...]) -> NTSTATUS:
    wanted = sum(piece.arguments for piece in parse_format(text))
    if wanted != len(arguments):
        refuse(
            f"{routine_name}({text!r}) takes {wanted} arguments and got {len(arguments)}",
            remedy="give one argument for each conversion of the format, and write %% for a percent sign",
        )
    log = current_thread().runtime.log
    if log is not None:
        log("user.log", level=level, text=format_message(text, arguments).rstrip("\r\n"))
    return STATUS_SUCCESS


@routine("wdm", "ULONG DbgPrint(_In_ PCSTR Format, ...)")
def DbgPrint(Format: str, *Arguments: Any) -> NTSTATUS:
    """Print to the debugger: here, a ``user.log`` event of level info.

    *Format* is C's, with ``%ws`` and ``%wZ``; ``%p`` shows a number or an object's name, never an address of
    the host. Returns STATUS_SUCCESS. IRQL: any.
    Raises `UsageError` if the format wants more or fewer arguments.
    """
    return _print("DbgPrint", "info", Format, Arguments)


@routine("wdm", "ULONG DbgPrintEx(_In_ ULONG ComponentId, _In_ ULONG Level, _In_ PCSTR Format, ...)")
def DbgPrintEx(ComponentId: int, Level: int, Format: str, *Arguments: Any) -> NTSTATUS:
    """Print to the debugger with a component and a level (``DPFLTR_ERROR_LEVEL`` and so on).

    Every level is shown: filtering is left to whoever reads the log. As DbgPrint otherwise.
    """
    return _print("DbgPrintEx", LEVEL_NAMES.get(Level, "info"), Format, Arguments)


@routine("wdm", "VOID KdPrint(_In_ PCSTR Format, ...)")
def KdPrint(Format: str | tuple[Any, ...], *Arguments: Any) -> None:
    r"""DbgPrint in a checked build, which a driver under test is.

    C's double parentheses work as well: ``KdPrint(("depth %d\n", depth))``.
    """
    text, arguments = (Format[0], Format[1:]) if isinstance(Format, tuple) else (Format, Arguments)
    _print("KdPrint", "info", text, arguments)
