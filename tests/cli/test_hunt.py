"""The data behind the reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import kit

from kemu.cli.hunt import describe, failure_fields, trace_path
from kemu.cli.targets import select, select_one, short_path
from kemu.errors import UsageError
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM, BugCheck


@dataclass(frozen=True)
class Bare:
    """A failure that says no more than the explorer asks for."""

    code: str = "odd"
    signature: tuple[str, ...] = ("odd",)
    summary: str = "odd: it is odd"


@dataclass(frozen=True)
class Full(Bare):
    title: str = "it is odd"
    detail: str = "one is odd"
    rules: tuple[str, ...] = ("FLT-ODD-01",)
    bug_check: BugCheck | None = None


def test_what_a_failure_says(here: Path) -> None:
    program = select_one(kit.write(here, kit.LOST_UPDATE), None)
    assert failure_fields(program, Bare()) == {
        "program": "scene.py::lost_update[racy]",
        "code": "odd",
        "title": "odd: it is odd",
        "detail": "",
        "rules": (),
        "bug_check": "",
        "verifier": "",
        "expected": False,
    }
    # The bug check's words are the title; the report does not say them twice.
    stop = BugCheck(FLTMGR_FILE_SYSTEM, (0x6E,), "it is odd")
    assert failure_fields(program, Full(bug_check=stop)) == {
        "program": "scene.py::lost_update[racy]",
        "code": "odd",
        "title": "it is odd",
        "detail": "one is odd",
        "rules": ("FLT-ODD-01",),
        "bug_check": "BugCheck F5, {6e, 0, 0, 0} FLTMGR_FILE_SYSTEM",
        "expected": False,
        "verifier": "",
    }


def test_a_run_that_passes_is_not_described(here: Path) -> None:
    program = select_one(kit.write(here, kit.LOST_UPDATE), None)
    with pytest.raises(UsageError, match="does not fail"):
        describe(program, ())


def test_names_of_traces_are_names_of_files(here: Path) -> None:
    program = select_one(kit.write(here, kit.LOST_UPDATE), None)
    assert trace_path(here, program, "a:b/c").name == "lost_update-racy-a_b_c.trace.jsonl"


def test_programs_are_selected_once(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    names = [program.name for program in select([scene, f"{scene}::lost_update", f"{scene}::lost_update[safe]"], None)]
    assert names == ["scene.py::lost_update[racy]", "scene.py::lost_update[safe]"]


def test_a_program_with_a_step_limit_runs_live_as_well(here: Path) -> None:
    program = select_one(kit.write(here, kit.LOST_UPDATE), "safe", 50)
    assert program.run_live("asyncio").failure is None
    assert program.expected is None


def test_paths_are_seen_from_here(here: Path) -> None:
    assert short_path(str(here / "a" / "b.py")) == "a/b.py"
    assert short_path("/elsewhere/b.py") == "/elsewhere/b.py"
