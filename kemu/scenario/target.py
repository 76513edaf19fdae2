"""Targets: how a user names scenarios on a command line.

``path.py``, ``path.py::name``, ``path.py::name[variant]``; a directory stands for every scenario file beneath it.
The command line and the pytest plugin call `select`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kemu.errors import NothingMatched, ScenarioError
from kemu.scenario.declare import EVERY_VARIANT, Scenario, nearest
from kemu.scenario.loader import LoadedFile, has_scenarios, load_file

if TYPE_CHECKING:
    from kemu.scenario.declare import Preemption
    from kemu.scenario.program import ScenarioProgram

SYNTAX = "write path.py, path.py::name or path.py::name[variant]"


@dataclass(frozen=True, slots=True)
class Target:
    """Which scenarios are meant. No name stands for all of a file, no variant for each scenario's default."""

    path: str
    name: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        variant = "" if self.variant is None else f"[{self.variant}]"
        return self.path if self.name is None else f"{self.path}::{self.name}{variant}"


def parse_target(text: str) -> Target:
    """Take a target apart. Raises `ScenarioError` for text that is none."""
    path, separator, rest = text.partition("::")
    if not path.strip():
        raise ScenarioError(f"{text!r} names no file", remedy=SYNTAX)
    if not separator:
        return Target(path)
    name, bracket, variant = rest.partition("[")
    if not name.isidentifier():
        raise ScenarioError(f"{text!r} names no scenario after the ::", remedy=SYNTAX)
    if not bracket:
        return Target(path, name)
    if not variant.endswith("]") or not variant[:-1] or "]" in variant[:-1] or "[" in variant:
        raise ScenarioError(f"{text!r} names no variant between brackets", remedy=SYNTAX)
    return Target(path, name, variant[:-1])


def select(
    text: str,
    *,
    variant: str | None = None,
    preempt: Preemption | None = None,
    races: bool = False,
    verifier: str | None = None,
) -> list[ScenarioProgram]:
    """What the target *text* stands for, in the order of paths and declarations.

    Each scenario comes with the variant that the target names, else with *variant*, else with its default;
    *variant* may be ``"all"``. Of several scenarios those are left out that do not have *variant*. *preempt* replaces
    what the scenarios say of preemption; with *races*, data races are findings; *verifier* is settings of it.

    Raises `NothingMatched` if there is no such scenario or variant, and the errors of `load_file`.
    """
    from kemu.scenario.program import ScenarioProgram

    target = parse_target(text)
    if target.variant is not None:
        if variant not in {None, target.variant}:
            raise ScenarioError(
                f"{text!r} names the variant {target.variant!r}, and {variant!r} is asked for besides",
                remedy="name the variant once",
            )
        variant = target.variant
    files = [load_file(path) for path in _files(target.path)]
    found = [
        (loaded, scenario) for loaded in files for scenario in loaded.scenarios if target.name in {None, scenario.name}
    ]
    if not found:
        raise _no_scenario(target, files)
    programs = [
        ScenarioProgram(loaded, scenario, one, preempt=preempt, races=races, verifier=verifier)
        for loaded, scenario in found
        for one in _variants(scenario, variant)
    ]
    if not programs:
        raise _no_variant(target, variant or "", [scenario for _, scenario in found])
    return programs


def _files(path: str) -> list[str]:
    """The scenario files that *path* stands for."""
    if not Path(path).is_dir():
        return [path]
    found = [file for file in _python_files(Path(path)) if has_scenarios(file)]
    if not found:
        raise NothingMatched(
            f"there is no scenario file in {path}", remedy="name a file, or a directory that has one beneath it"
        )
    return found


def _python_files(folder: Path) -> Iterator[str]:
    """The Python files beneath *folder*, those of a folder before those of the folders in it."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("."):
                yield str(Path(where) / name)


def _variants(scenario: Scenario, wanted: str | None) -> list[str]:
    if wanted == EVERY_VARIANT:
        return list(scenario.variants)
    if wanted is None:
        return [scenario.default_variant]
    return [wanted] if wanted in scenario.variants else []


def _no_scenario(target: Target, files: list[LoadedFile]) -> NothingMatched:
    names = list(dict.fromkeys(scenario.name for loaded in files for scenario in loaded.scenarios))
    return NothingMatched(
        f"{target.path} has no scenario {target.name!r}", remedy=nearest(target.name or "", names, "it has")
    )


def _no_variant(target: Target, wanted: str, scenarios: list[Scenario]) -> NothingMatched:
    names = list(dict.fromkeys(name for scenario in scenarios for name in scenario.variants))
    if len(scenarios) == 1:
        message = f"scenario {scenarios[0].name} has no variant {wanted!r}"
    else:
        message = f"no scenario in {target.path} has a variant {wanted!r}"
    return NothingMatched(message, remedy=nearest(wanted, names, "the variants are"))
