"""Races as findings: what the detector of the runtime reports, in the words of drivers and frameworks."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from kemu.fltmgr.frame import Frame
from kemu.io.irp import IRP
from kemu.nt.allocation import Allocation
from kemu.nt.work import WorkItem
from kemu.runtime import Access, Cell, Race, RaceDetector
from kemu.runtime.races import ATOMIC, END
from kemu.verifier.verifier import Verifier

ENDS: Final = (
    (Frame, "gives {} back"),
    (IRP, "ends {}"),
    (WorkItem, "frees {}"),
    (Allocation, "frees {}"),
)
"""What the end of an object is to a driver."""


def detect_races(verifier: Verifier) -> None:
    """Look for races in the run of *verifier* from here on."""

    def report(race: Race) -> None:
        # What a driver is handed, or hands over, has one owner at a time. Everything else is plain memory.
        code = "hand-off-race" if isinstance(race.cell, Frame | WorkItem | IRP) else "ke.data-race"
        whats = {race.first.what, race.second.what}
        if ATOMIC in whats and END not in whats:
            code = "ke.mixed-atomic"
        verifier.report(code, describe(race), subject=subject(race))

    runtime = verifier.runtime
    runtime.races = RaceDetector(runtime, report)


def describe(race: Race) -> str:
    """Both accesses, and what is missing between them."""
    what = name_of(race.cell)
    first, second = words(race.first, race.cell, what), words(race.second, race.cell, "it")
    return f"{first}, then {second}; {race.missing}"


def words(access: Access, cell: Cell, what: str) -> str:
    """``writer stores Count at x.py:12 (Scanner.PreRead)``."""
    phrase = "changes {} with an interlocked operation" if access.what == ATOMIC else f"{access.what} {{}}"
    if access.what == END:
        phrase = next((words for kind, words in ENDS if isinstance(cell, kind)), phrase)
    at = f" at {access.place} ({access.function})" if access.place else ""
    return f"{access.thread} {phrase.format(what)}{at}"


def name_of(cell: Cell) -> str:
    """What a driver author calls what *cell* stands for."""
    if isinstance(cell, Frame):
        return f"the callback data of {cell.operation.label}"
    return f"the {cell.label}" if isinstance(cell, WorkItem | Allocation | IRP) else cell.label


def subject(race: Race) -> str:
    """What tells one race from another: the kind of the cell, and the two places whatever their order.

    Of a path only the file's name, so that it is the same wherever the driver lies.
    """
    places = sorted(
        f"{PurePath(one.file).name}:{one.line} {one.what}" if one.file else one.what
        for one in (race.first, race.second)
    )
    return " ".join((race.cell.label, *places))
