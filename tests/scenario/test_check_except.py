"""Handlers that would swallow the end of a run."""

import ast
import textwrap

import pytest

from kemu.scenario.check import check_source
from kemu.scenario.check_names import SourceFile


def warned(body: str) -> list[tuple[int, str]]:
    head = "from contextlib import suppress\nasync def go(x, y):\n"
    tree = ast.parse(head + textwrap.indent(body, "    "))
    return [(one.line - 2, one.text) for one in check_source(SourceFile("driver.py", "driver", tree))]


@pytest.mark.parametrize(
    ("body", "line", "written"),
    [
        ("try:\n    await x\nexcept:\n    pass", 3, "except"),
        ("try:\n    await x\nexcept BaseException:\n    y()", 3, "except BaseException"),
        (
            "try:\n    await x\nexcept (ValueError, BaseException) as e:\n    y(e)",
            3,
            "except (ValueError, BaseException)",
        ),
        ("try:\n    if y:\n        await x\nexcept ValueError:\n    y()\nexcept:\n    y()", 6, "except"),
        ("try:\n    async with x: pass\nexcept:\n    return 1", 3, "except"),
        ("try:\n    await x\nexcept:\n    if y: return 1\n    raise", 3, "except"),
        ("with suppress(BaseException):\n    await x", 1, "suppress(BaseException)"),
        ("try:\n    await x\nexcept* BaseException:\n    y()", 3, "except BaseException"),
    ],
)
def test_swallowed(body: str, line: int, written: str) -> None:
    assert warned(body) == [(line, f"{written} around an await also swallows the end of the run")]


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    await x\nexcept Exception:\n    pass",
        "try:\n    y()\nexcept:\n    pass",
        "try:\n    async def inner():\n        await x\nexcept:\n    pass",
        "try:\n    await x\nexcept BaseException:\n    y()\n    raise",
        "try:\n    await x\nfinally:\n    await y",
        "with suppress(ValueError):\n    await x",
        "with suppress(BaseException):\n    y()",
        "BaseException = ValueError\ntry:\n    await x\nexcept BaseException:\n    pass",
    ],
)
def test_not_swallowed(body: str) -> None:
    assert warned(body) == []
