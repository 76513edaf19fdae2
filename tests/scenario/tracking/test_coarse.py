"""What cannot be followed is found in the source, and makes every step of the file conflict with every other."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenario.tracking.kit import Files, accept_everything, events_of

from kemu.runtime.data import COARSE, DataCell
from kemu.scenario.target import select

REASONS = {
    # what stands in the script -> the words of the reason
    "vars(world)": "vars reaches state past its names",
    "world.__dict__": "__dict__ reaches state past the names of its fields",
    "exec('1')": "exec reaches state past its names",
    "eval('1')": "eval reaches state past its names",
    "globals()": "globals reaches state past its names",
    "locals()": "locals reaches state past its names",
    "dir(world)": "dir reaches state past its names",
    "memoryview(b'')": "memoryview reaches state past its names",
    "object.__setattr__(world, 'x', 1)": "__setattr__ reaches state past the names of its fields",
    "world.it = iter([1])": "an iterator is kept, whose position is not recorded",
    "world.it = (x for x in [1])": "an iterator is kept, whose position is not recorded",
    "import itertools; world.it = itertools.chain([1])": "an iterator is kept, whose position is not recorded",
    "it = iter([1]); next(it)": "next() moves an iterator, whose position is not recorded",
    "f = next": "next() moves an iterator, whose position is not recorded",
    "import json; json.loads('[]')": "json.loads keeps or returns state that is not recorded",
    "from types import SimpleNamespace; SimpleNamespace()": "types.SimpleNamespace keeps or returns state that is not",
    "import functools; functools.lru_cache": "functools.lru_cache keeps or returns state that is not recorded",
    "import ctypes; ctypes.c_int(1)": "ctypes.c_int may keep state that is not recorded",
    "from random import Random; Random(1)": "random.Random may keep state that is not recorded",
    "import pytest": "pytest is not beside this file, so that what it keeps is not recorded",
    "from hypothesis import given": "hypothesis is not beside this file, so that what it keeps is not recorded",
    "a, *world.rest = 1, 2": "*world.rest gets a new list",
    "for a, *b in [(1, 2)]: pass": "a starred loop variable is a new list in each round",
    "with world as (a, *b): pass": "a starred target of with is a new list",
    "f = lambda **kw: kw": "**kw of a lambda is a new dictionary",
    "f = lambda x: (lambda: x, (x := 1))": "x of a lambda is shared with a function in it",
    "fs = [lambda: x for x in [await wait()]]": "x of a comprehension is shared with a function in it",
    "g = (lambda: x for x in [1])": "x of a comprehension is shared with a function in it",
    "import math\ndef f(): return math\nimport cmath as math": "math is shared with a function inside and",
    "def f():\n    global X\n    import math as X": "X is no variable of this function and bound by",
    "class A:\n    def __del__(self): pass": "__del__ runs when Python frees the object",
    "match world:\n    case [World(x=1)]: pass": "a class pattern inside another pattern reads fields",
}

FOLLOWED = [
    "getattr(world, 'na' + 'me', None)",
    "setattr(world, 'na' + 'me', None)",
    "next(x for x in [1])",
    "next(iter([1]), None)",
    "a, *b = 1, 2",
    "import math, re, itertools; list(itertools.chain([1])); re.findall('a', 'a')",
    "from collections import deque; q = deque()",
    "from dataclasses import dataclass, field",
    "from enum import Enum; from typing import Any",
    "n = 1\ndef f():\n    nonlocal n\n    n += 1",
    "match world:\n    case World(x=1): pass",
    "import json; json.dumps([])",
    "fs = [lambda: x for x in [1]]",
]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    accept_everything(monkeypatch)


@pytest.mark.parametrize("code", REASONS)
def test_why_a_file_is_coarse(files: Files, code: str) -> None:
    loaded = files.script(code + "\n", "async def wait(): pass").loaded
    reason = loaded.coarse[0]
    assert reason.text.startswith(REASONS[code])
    first = files.line(code.splitlines()[0])
    assert first <= reason.line < first + len(code.splitlines())
    assert str(reason) == f"{loaded.path}:{reason.line}: {reason.text}"


@pytest.mark.parametrize("code", FOLLOWED)
def test_what_is_followed(files: Files, code: str) -> None:
    assert files.script(code + "\n").loaded.coarse == ()


def test_a_file_is_coarse_if_one_beside_it_is(files: Files) -> None:
    files.beside("near.py", "def look(x):\n    return vars(x)\n")
    loaded = files.script("pass\n", "import near").loaded
    (reason,) = loaded.coarse
    assert reason.path.endswith("near.py")
    assert reason.line == 2


BODY = """
class Error(Exception): pass
class Guard:
    async def __aenter__(self): await world.step("enter")
    async def __aexit__(self, *error): await world.step("leave")
class Rounds:
    def __init__(self): self.left = 2
    def __aiter__(self): return self
    async def __anext__(self):
        await world.step("round")
        self.left -= 1
        if self.left < 0: raise StopAsyncIteration
async def fails():
    await world.step("fails")
    raise Error
await world.step("plain")
async with Guard():
    pass
async for _ in Rounds():
    pass
else:
    pass
try:
    await fails()
except Error:
    pass
finally:
    pass
def one():
    got = yield 1
    yield got
list(one())
(lambda: 1)()
sum(x for x in [1])
{coarse}
"""


def test_every_step_that_runs_coarse_code_stores_one_cell(files: Files) -> None:
    program = files.script(BODY.format(coarse="vars()"), tracked=True)
    events = events_of(program)
    assert len(events) == 8
    for event in events:
        assert ((COARSE,), 1) in {(cell.name, mode) for cell, mode in event.footprint if isinstance(cell, DataCell)}, (
            event.what
        )


def test_code_that_is_followed_does_not(files: Files) -> None:
    program = files.script(BODY.format(coarse=""), tracked=True)
    touched = {cell.name for event in events_of(program) for cell, _ in event.footprint if isinstance(cell, DataCell)}
    assert touched
    assert (COARSE,) not in touched


def test_steps_of_kemu_alone_are_free_of_it(files: Files) -> None:
    body = """
    file = await world.process("app").open("/a")
    await file.close()
    vars()
    """
    events = events_of(files.script(body, tracked=True))
    coarse = [
        event
        for event in events
        if COARSE in {cell.name[0] for cell, _ in event.footprint if isinstance(cell, DataCell)}
    ]
    assert 0 < len(coarse) < len(events)


def test_shipped_scenarios_are_followed(files: Files) -> None:
    folder = Path(__file__).parents[3] / "scenarios"
    assert [program.loaded.coarse for program in select(str(folder))] == [()] * len(select(str(folder)))
