"""FsRtlIsNameInExpression: what matches, with and without regard to case."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, run

from kemu.wdk.ntifs import FsRtlIsNameInExpression
from kemu.wdk.wdm import UNICODE_STRING, RtlInitUnicodeString


def string(text: str) -> UNICODE_STRING:
    made = UNICODE_STRING()
    RtlInitUnicodeString(made, text)
    return made


@pytest.mark.parametrize(
    ("expression", "name", "ignores_case", "matches"),
    [
        ("*.TXT", "report.txt", True, True),
        ("*.TXT", "report.txt", False, False),
        ("*.txt", "report.txt", False, True),
        # The expression has to be in capitals already.
        ("*.txt", "report.txt", True, False),
        ("R?PORT.*", "report.txt", True, True),
        ("R?PORT", "rport", True, False),
        ("<.TXT", "a.b.txt", True, True),
        ("A>>>", "ab", True, True),
        ('A"B', "a.b", True, True),
        ("", "a", True, False),
        ("*", "", True, True),
    ],
)
def test_names_match_expressions(expression: str, name: str, ignores_case: bool, matches: bool) -> None:
    async def script(lab: Lab) -> Any:
        return FsRtlIsNameInExpression(string(expression), string(name), ignores_case, None)

    assert run(script).result is matches


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("wrong", [None, "text"])
def test_both_are_strings(which: int, wrong: Any) -> None:
    async def script(lab: Lab) -> None:
        given: list[Any] = [string("A"), string("A")]
        given[which] = wrong
        FsRtlIsNameInExpression(given[0], given[1], True)

    assert run(script).code == "ke.bad-pointer"
