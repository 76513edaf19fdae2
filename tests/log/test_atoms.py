"""Values become atoms that are the same in every process."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kemu.log.atoms import atom, words
from kemu.nt.status import STATUS_SUCCESS
from kemu.runtime import Cell, ControlledRuntime, Point, current_thread


@dataclass
class Pair:
    first: object
    second: object


class Plain:
    pass


class Talkative:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ("text", "text"),
        (STATUS_SUCCESS, "STATUS_SUCCESS"),
        (b"\x00a", "b'\\x00a'"),
        ([1, "a"], "[1, a]"),
        ((1, None), "(1, None)"),
        ({3, 1, 2}, "{1, 2, 3}"),
        ({"k": [1]}, "{k: [1]}"),
        (Pair(1, "x"), "Pair(1, x)"),
        (Plain(), "Plain"),
        (Plain, "Plain"),
        (Talkative("<thing at 0x7F3A> end"), "<thing> end"),
        (Broken(), "Broken"),
    ],
)
def test_atom(value: object, expected: object) -> None:
    result = atom(value)
    assert (result, type(result)) == (expected, type(expected))


def test_what_contains_itself_comes_to_an_end() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert words(endless) == "[[[[[[...]]]]]]"


def test_a_set_has_one_order() -> None:
    names = {f"name{number}" for number in range(50)}
    assert atom(names) == "{" + ", ".join(sorted(names)) + "}"


def test_a_cell_is_its_label() -> None:
    found: list[object] = []

    async def main() -> None:
        found.append(atom([Cell(current_thread(), "ScanLock")]))
        await Point("end")

    ControlledRuntime().run("main", main())
    assert found == ["[ScanLock]"]
