"""``kemu blame`` from the outside."""

from __future__ import annotations

import re
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cli import kit

from kemu.cli.blaming import BAR, MOST_POINTS, blame_lines, curve_lines, rise_lines
from kemu.cli.targets import select_one
from kemu.explore import Blame, Decision, Event, blame
from kemu.explore.blame import Point, Rise
from kemu.explore.where import Place

TARGET = "scene.py::lost_update[racy]"

HALF_WAY = """
from kemu.scenario import World, scenario

@scenario
async def half_way(world: World) -> None:
    state = [0]

    async def writer() -> None:
        for _ in range(6):
            await world.step("prepare")
        state[0] = 1
        await world.step("half way")
        state[0] = 2

    async def reader() -> None:
        await world.step("look")
        world.check(state[0] != 1, "it is never half done")

    await world.together(writer(), reader())
"""


@pytest.fixture
def token(here: Path) -> str:
    """A token of a failing run."""
    kit.write(here, kit.LOST_UPDATE)
    found = kit.kemu("run", TARGET, "--order", "script, add*2, add#2*2, add, add#2", "--json")
    if found.code != 1:
        found = kit.kemu("explore", TARGET, "--json")
        text: str = found.json["programs"][0]["findings"][0]["token"]
        return text
    return str(found.json["token"])


def test_a_decision_is_named(here: Path) -> None:
    target = kit.write(here, HALF_WAY)
    (finding,) = kit.kemu("explore", target, "--json").json["programs"][0]["findings"]
    token = finding["token"]
    result = kit.kemu("blame", target, token)
    assert result.code == 1
    assert result.err == "kemu: 32 runs for each point, seed 0\n"
    assert result.lines[0] == "FAIL scene.py::half_way[default]: expectation"
    # The writer is between its two stores; what matters is that the reader goes on just then.
    rise = re.fullmatch(r"  decision (\d+) of \1: +(\d+) % -> 100 %", result.lines[1])
    assert rise is not None
    assert int(rise[2]) < 80
    assert result.lines[2] == "    step 9: reader goes on: look"
    assert result.lines[3] == "      at scene.py:16"
    assert result.lines[4:6] == [
        "",
        "  decisions followed, and how many of the runs that then go on at random fail in the same way:",
    ]
    assert result.lines[-1].endswith("the run itself") or result.lines[-1].endswith("the run itself  <")
    assert kit.kemu("blame", target, token).out == result.out
    assert kit.kemu("blame", target, token, "--seed", "1").out != result.out


def test_json_says_the_same(token: str) -> None:
    result = kit.kemu("blame", TARGET, token, "--json", "--runs", "9", "--seed", "0x2", "--full")
    answer: dict[str, Any] = result.json
    assert (result.code, answer["exit_code"], answer["command"]) == (1, 1, "blame")
    assert (answer["runs"], answer["seed"], answer["program"], answer["interrupted"]) == (9, 2, TARGET, False)
    decisions = answer["decisions"]
    assert [number for number, _, _ in answer["curve"]] == list(range(decisions + 1))
    assert {runs for _, _, runs in answer["curve"][:-1]} == {9}
    assert answer["curve"][-1] == [decisions, 1, 1]
    assert answer["made"] == 9 * decisions + 1
    rise = answer["rise"]
    assert rise["before"] == answer["curve"][rise["decision"] - 1][1:]
    assert rise["after"] == answer["curve"][rise["decision"]][1:]
    assert rise["place"].startswith("scene.py:")
    assert answer["code"] == "expectation"


def test_how_much_is_printed(token: str) -> None:
    assert len(kit.kemu("blame", TARGET, token, "-q").lines) == 2
    verbose = kit.kemu("blame", TARGET, token, "-v").out
    brief = kit.kemu("blame", TARGET, token).out
    assert verbose.startswith(brief)
    assert "check.violation" in verbose.removeprefix(brief)


def test_a_token_of_a_run_that_passes(token: str) -> None:
    passing = kit.kemu("run", TARGET, "--json").json["token"]
    result = kit.kemu("blame", TARGET, passing)
    assert result.code == 2
    assert f"kemu: error: the run of this token passes in {TARGET}" in result.err
    assert "remedy: give the token of a failing run" in result.err


def test_a_token_of_something_else(token: str) -> None:
    assert kit.kemu("blame", "scene.py::lost_update[safe]", token).code == 2


def test_an_interrupt_keeps_the_curve(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(*words: Any, **options: Any) -> Blame | None:
        asked = count()
        return blame(*words, **{**options, "stop": lambda: next(asked) >= 40})

    # The package has a function of the same name as the module.
    monkeypatch.setattr(sys.modules["kemu.explore.blame"], "blame", impatient)
    result = kit.kemu("blame", TARGET, token)
    assert result.code == 130
    assert result.lines[-1] == "  interrupted: this is what was measured until then"
    assert sum("of 32" in line for line in result.lines) >= 1
    answer = kit.kemu("blame", TARGET, token, "--json")
    assert (answer.code, answer.json["interrupted"]) == (130, True)


class Broken:
    """A failure."""

    code = "odd"
    signature = ("odd",)
    summary = "odd"


def blamed(curve: tuple[Point, ...], rise: Rise | None = None, *, interrupted: bool = False) -> Blame:
    return Blame(Broken(), curve[-1].decisions, curve, rise, sum(one.runs for one in curve), interrupted)


THREAD = Decision("thread", 3, 1, 7, "worker")


def risen(before: Point, after: Point, decision: Decision = THREAD, *, taken: bool = True) -> Rise:
    event = Event(7, "worker", (0, 1), 2, "store x", Place("scene.py", 3, "work"), (), taken=taken)
    return Rise(after.decisions, before, after, decision, event)


def test_what_a_decision_did(here: Path) -> None:
    program = select_one(kit.write(here, kit.LOST_UPDATE), None)
    low, high = Point(0, 1, 32), Point(1, 30, 32)

    def said(decision: Decision, *, taken: bool = True) -> list[str]:
        return rise_lines(program, blamed((low, high), risen(low, high, decision, taken=taken)))[1:]

    assert rise_lines(program, blamed((low, high), risen(low, high)))[0] == "  decision 1 of 1: 3 % -> 94 %"
    assert said(THREAD) == ["    step 7: worker is picked: store x", "      at scene.py:3"]
    preempts = Decision("thread", 3, 1, 7, "worker", continues=True, preemption=True)
    assert said(preempts)[0] == "    step 7: worker preempts who was running: store x"
    stays = Decision("thread", 3, 0, 7, "worker", continues=True)
    assert said(stays)[0] == "    step 7: worker goes on: store x"
    answer = Decision("data", 3, 2, 7, "allocation")
    assert said(answer) == ["    step 7 by worker: 'allocation' is answered 2 (of 0 to 2)"]
    assert said(THREAD, taken=False) == ["    step 7: worker goes on"]


def test_what_is_not_told_from_chance(here: Path) -> None:
    program = select_one(kit.write(here, kit.LOST_UPDATE), None)
    low, high = Point(0, 14, 32), Point(1, 17, 32)
    (first, *_) = rise_lines(program, blamed((low, high), risen(low, high)))
    assert first == "  no decision stands out from chance; the largest rise is decision 1 of 1: 44 % -> 53 %"
    assert rise_lines(program, blamed((high,))) == [
        "  no decision makes the failure any likelier: it fails as often without them"
    ]
    assert rise_lines(program, blamed((high,), interrupted=True)) == ["  no single decision was singled out"]


def test_of_a_long_curve_the_telling_part_is_shown(here: Path) -> None:
    # Flat, a jump at 57 of 214, flat, and a small one at 150.
    curve = tuple(Point(at, 1 if at < 57 else 24 if at < 150 else 32, 32, certain=at == 214) for at in range(215))
    rise = risen(curve[56], curve[57])
    lines = curve_lines(blamed(curve, rise))
    shown = [line.split()[0] for line in lines]
    assert len([one for one in shown if one != "..."]) <= MOST_POINTS
    assert {"0", "56", "57", "149", "150", "214"} <= set(shown)
    assert shown.count("...") >= 3
    assert lines[0] == f"      0  |#{' ' * (BAR - 1)}|   3 %  1 of 32"
    (jump,) = [line for line in lines if line.endswith("  <")]
    assert jump.split()[0] == "57"
    assert lines[-1] == f"    214  |{'#' * BAR}| 100 %  the run itself"
    program = select_one(kit.write(here, kit.LOST_UPDATE), None)
    assert blame_lines(program, blamed(curve, rise))[1] == "  decision 57 of 214: 3 % -> 75 %"
