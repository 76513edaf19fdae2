"""Scenario files to type at the command line, and the command line itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from kemu.cli.app import cli

LOST_UPDATE = '''
from kemu.scenario import World, scenario

@scenario(variants={"racy": True, "safe": False}, expects={"racy": "expectation"})
async def lost_update(world: World, racy: bool) -> None:
    """Two threads add one each.

    More words.
    """
    count = [0]

    async def add() -> None:
        value = count[0]
        if racy:
            await world.step("between load and store")
        count[0] = value + 1

    await world.together(add(), add())
    world.check(count[0] == 2, "both additions count")
'''

TWO = '''
from kemu.scenario import World, scenario

@scenario()
async def first(world: World) -> None:
    await world.step("one")

@scenario()
async def second(world: World) -> None:
    """It asks a question."""
    world.check(world.choose(2, "is it bad") == 0, "it is good")
'''

SPINS = """
from kemu.scenario import World, scenario

@scenario()
async def spins(world: World) -> None:
    while True:
        await world.step("again")
"""

MISUSES = '''
from kemu.scenario import World, scenario

@scenario()
async def misuses(world: World) -> None:
    """Fails in some runs, and misuses kemu in others."""
    if world.choose(2, "whether to misuse"):
        world.choose(0, "nothing to choose from")
    world.check(world.choose(2, "whether to fail") == 0, "it passes")
'''

CHANGES = '''
import gc
from kemu.scenario import World, scenario

@scenario()
async def changes(world: World) -> None:
    """What it does depends on the interpreter's collector."""
    await world.step(f"number {gc.get_stats()[2]['collections']}")
    gc.collect()
'''


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.lines
        value: dict[str, Any] = json.loads(line)
        return value


def kemu(*words: object, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
    """Run a command in this process, with *stdin* as what is typed."""
    arguments: Sequence[str] = [str(word) for word in words]
    result = CliRunner(env=env).invoke(cli, arguments, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def write(folder: Path, text: str, name: str = "scene.py") -> str:
    """A scenario file in *folder*; its name, as seen from there."""
    (folder / name).write_text(text, "utf-8")
    return name
