"""Files that are run plainly and with accesses recorded."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from kemu.explore import Replay
from kemu.explore.watch import Event, watch
from kemu.runtime import First, Outcome
from kemu.runtime.data import DataCell
from kemu.scenario.check import SourceWarning
from kemu.scenario.check_names import SourceFile
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

HEADER = """
from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import *
from kemu.wdk.ntstatus import *
from kemu.wdk.wdm import *
"""

BOX = """
class Box:
    def __init__(self, value=0):
        self.value = value
"""

MODES = ("R", "W", "U")


class Files:
    """Writes scenario files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, text: str, **options: Any) -> ScenarioProgram:
        """The program of a file with *text*, in which there is one scenario."""
        (program,) = self.all(textwrap.dedent(text))
        return ScenarioProgram(program.loaded, program.scenario, program.variant, **options)

    def all(self, text: str) -> list[ScenarioProgram]:
        """The programs of a file with *text*."""
        self.count += 1
        path = self.folder / f"scenario{self.count}.py"
        path.write_text(HEADER + text, encoding="utf-8")
        return select(str(path))

    def beside(self, name: str, text: str) -> None:
        """Write a file that scenario files may import."""
        (self.folder / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def script(self, body: str, before: str = "", **options: Any) -> ScenarioProgram:
        """The program whose script is *body*."""
        text = textwrap.dedent(before) + "\n@scenario\nasync def script(world):\n"
        return self(text + textwrap.indent(textwrap.dedent(body), "    "), **options)

    def line(self, text: str) -> int:
        """The number of the only line of the last file in which *text* is."""
        path = self.folder / f"scenario{self.count}.py"
        lines = path.read_text(encoding="utf-8").splitlines()
        (number,) = [at for at, line in enumerate(lines, 1) if text in line]
        return number


def once(program: ScenarioProgram) -> Outcome:
    """The plain run."""
    return program.run(First())


def events_of(program: ScenarioProgram, *choices: int) -> list[Event]:
    """The events of the run of *choices*."""
    _, events = watch(program, Replay(choices))
    return events


def data_of(event: Event) -> list[str]:
    """What a step did to driver state, as ``R Class.field``, repeated accesses once."""
    found = [f"{MODES[mode]} {cell.label}" for cell, mode in event.footprint if isinstance(cell, DataCell)]
    return list(dict.fromkeys(found))


def recorded(program: ScenarioProgram, *choices: int) -> list[str]:
    """What all steps of a run did to driver state, in order."""
    return list(dict.fromkeys(line for event in events_of(program, *choices) for line in data_of(event)))


def names_of(program: ScenarioProgram, *choices: int) -> dict[tuple[int, ...], str]:
    """The names of all driver state that a run touched, with its labels."""
    return {
        cell.name: cell.label
        for event in events_of(program, *choices)
        for cell, _ in event.footprint
        if isinstance(cell, DataCell)
    }


def accept_everything(patch: pytest.MonkeyPatch) -> None:
    """Switch the loader's checks off, which refuse some of what is rewritten nevertheless, such as changed globals."""

    def accept(source: SourceFile) -> list[SourceWarning]:
        return []

    patch.setattr("kemu.scenario.loader.check_source", accept)
