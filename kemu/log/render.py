"""A trace as text: one line for each event (``console``), or one for each request as minispy prints it.

The console columns are structlog's renderer with columns of kemu's own. Colour is the caller's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

from kemu.log.manifest import COMMON, MANIFEST, fields_of
from kemu.log.trace import Trace

RESET: Final = "\x1b[0m"
DIM: Final = "\x1b[2m"
CATEGORY_COLOURS: Final = {
    "schedule": DIM,
    "flt": "\x1b[36m",
    "io": "\x1b[34m",
    "sync": "\x1b[35m",
    "apc": "\x1b[33m",
    "work": "\x1b[33m",
    "check": "\x1b[1;31m",
    "user": "\x1b[1m",
}

IRQL_LETTERS: Final = {0: "P", 1: "A", 2: "D"}
INDENT: Final = "  "
TICKS_PER_MS: Final = 10_000
EVENT_WIDTH: Final = 28

HEADINGS: Final[dict[str, Any]] = {
    "step": "step",
    "vt": "ms",
    "irql": "q",
    "irp": "irp",
    "thread": "thread",
    "actor": "actor",
    "event": "event",
}

COLOUR_END: Final = "\0"
"""Between the colour of an event's name and the name, on the way through the renderer."""

STYLES: Final = ("console", "minispy")


def render(trace: Trace, style: str = "console", *, colour: bool = False) -> Iterator[str]:
    """The lines of *trace* in a *style* of `STYLES`."""
    if style == "minispy":
        return minispy(trace.events)
    return console(trace.events, colour=colour)


def console(events: Iterable[dict[str, Any]], *, colour: bool = False) -> Iterator[str]:
    """One line for each event, indented by how deep its thread is inside callbacks.

    The columns: step, virtual time in milliseconds, IRQL (P, A, D or a number), operation, thread, actor,
    event, its fields.
    """
    rows = list(events)
    threads = max((len(row.get("thread", "")) for row in rows), default=0)
    actors = max((len(row.get("actor", "")) for row in rows), default=0)
    renderer = _renderer(max(threads, 6), max(actors, 5), colour=colour)
    yield renderer(HEADINGS)
    depth: dict[str, int] = {}
    for row in rows:
        thread = row.get("thread", "")
        kind = MANIFEST.get(row["ev"])
        phase = kind.phase if kind is not None else "i"
        if phase == "E":
            depth[thread] = max(0, depth.get(thread, 0) - 1)
        event = INDENT * depth.get(thread, 0) + row["ev"]
        if phase == "B":
            depth[thread] = depth.get(thread, 0) + 1
        if colour and kind is not None and kind.category in CATEGORY_COLOURS:
            event = f"{CATEGORY_COLOURS[kind.category]}{COLOUR_END}{event}"
        head = {
            "step": row["step"],
            "vt": f"{row['vt'] / TICKS_PER_MS:.4f}",
            "irql": IRQL_LETTERS.get(row.get("irql", -1), row.get("irql", "")),
            "irp": row.get("irp", ""),
            "thread": thread,
            "actor": row.get("actor", ""),
            "event": event,
        }
        # A driver may call its own fields what it likes.
        own = {f"{name}_" if name in head else name: value for name, value in details(row).items()}
        yield renderer(head | own)


REPEATED: Final = ("inst", "path")
"""What is not shown for each event of an operation: where it is and which file it is on are said before."""


def details(row: dict[str, Any]) -> dict[str, Any]:
    """The event's own fields: those it is known for, or all of them if it is not known."""
    names = fields_of(row["ev"]) or tuple(sorted(set(row) - set(COMMON)))
    kind = MANIFEST.get(row["ev"])
    hidden = REPEATED if kind is not None and kind.category == "flt" and "irp" in row else ()
    shown = {name: row[name] for name in names if row.get(name) is not None and name not in hidden}
    if row["ev"] == "user.log":
        shown |= row.get("data", {})
    if row.get("cause") is not None:
        shown["cause"] = row["cause"]
    return shown


class _Cell:
    """Formats one column of fixed width."""

    def __init__(self, spec: str, before: str = "", after: str = "") -> None:
        self.spec = spec
        self.before = before
        self.after = after

    def __call__(self, key: str, value: object) -> str:
        return f"{self.before}{format(str(value), self.spec)}{self.after}"


class _EventCell:
    """Formats the event's name, in the colour that comes with it."""

    def __call__(self, key: str, value: object) -> str:
        colouring, text = str(value).rsplit(COLOUR_END, 1) if COLOUR_END in str(value) else ("", str(value))
        return f"{colouring}{text:<{EVENT_WIDTH}}{RESET if colouring else ''}"


class _Field:
    """Formats a field of the event."""

    def __init__(self, before: str, after: str) -> None:
        self.before = before
        self.after = after

    def __call__(self, key: str, value: object) -> str:
        return f"{self.before}{key}={self.after}{_shown(value)}"


def _renderer(threads: int, actors: int, *, colour: bool) -> Callable[[dict[str, Any]], str]:
    # Imported here: structlog takes longer to import than most commands to run.
    from structlog.dev import Column, ConsoleRenderer

    dim, reset = (DIM, RESET) if colour else ("", "")
    renderer = ConsoleRenderer(
        sort_keys=False,
        columns=[
            Column("step", _Cell(">4", dim, reset)),
            Column("vt", _Cell(">9", dim, reset)),
            Column("irql", _Cell("<1")),
            Column("irp", _Cell(">3")),
            Column("thread", _Cell(f"<{threads}")),
            Column("actor", _Cell(f"<{actors}")),
            Column("event", _EventCell()),
            Column("", _Field(dim, reset)),
        ],
    )
    # A copy: the renderer takes out of the row what it has shown.
    return lambda row: str(renderer(None, "", dict(row)))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(part) for part in cast('list[object]', value))}]"
    text = str(value)
    # A driver's line may hold anything; the terminal gets one line without controls.
    return text if text.isprintable() and " " not in text else repr(text)


MINISPY_KINDS: Final = {"IRP": "IRP", "fast I/O": "FIO", "FSFilter": "FSF"}

MINISPY_HEAD: Final = (
    f"{'Opr':<4}{'SeqNum':<8}{'PreOp Time':<14}{'PostOp Time':<14}{'Process.Thrd':<22}"
    f"{'Major':<36}{'Status:Inform':<40}Name"
)


def minispy(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """One line for each request, in the order in which they started: minispy's table, as far as it applies."""
    requests: dict[int, dict[str, Any]] = {}
    for row in events:
        irp = row.get("irp")
        if row["ev"] == "irp.create" and irp is not None:
            requests[irp] = {"begin": row, "end": None}
        elif row["ev"] == "irp.complete" and irp in requests:
            requests[irp]["end"] = row
    yield MINISPY_HEAD
    for irp, request in requests.items():
        begin, end = request["begin"], request["end"]
        done = f"{end['status']}:{end.get('info', 0)}" if end is not None else "(pending)"
        yield (
            f"{MINISPY_KINDS.get(begin.get('kind', ''), '?'):<4}{irp:<8}{_clock(begin['vt']):<14}"
            f"{_clock(end['vt']) if end is not None else '':<14}{begin.get('thread', ''):<22}"
            f"{begin.get('op', ''):<36}{done:<40}{begin.get('path', '')}"
        )


def _clock(vt: int) -> str:
    ms = vt // TICKS_PER_MS
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1_000 % 60:02}:{ms % 1_000:03}"
