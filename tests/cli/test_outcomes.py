"""``kemu explore --outcomes``: what a scenario can come to, and whether one variant does only what another may."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cli import kit

ADDS = """
from kemu.scenario import World, scenario

@scenario(variants={"racy": True, "safe": False})
async def adds(world: World, racy: bool) -> None:
    count = [0]

    async def add() -> None:
        value = count[0]
        if racy:
            await world.step("between load and store")
        count[0] = value + 1

    await world.together(add(), add())
    world.outcome(sum=count[0], odd=count[0] % 2 == 1)
"""

FAILS = """
from kemu.scenario import World, scenario

@scenario
async def fails(world: World) -> None:
    answer = world.choose(3, "which")
    world.check(answer != 1, "it is not one")
    if answer:
        world.outcome(answer=answer)
"""

FREE = "odd=False, sum=2"
LOST = "odd=True, sum=1"


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r" in \d+\.\d s$", "", line) for line in lines]


def replays(result: kit.Result) -> list[list[str]]:
    """What to type after ``kemu``, for each outcome."""
    return [shlex.split(line)[1:] for line in result.lines if line.startswith("    kemu replay ")]


def test_one_outcome_and_that_there_is_no_other(here: Path) -> None:
    scene = kit.write(here, ADDS)
    result = kit.kemu("explore", scene, "--variant", "safe", "--outcomes")
    (command,) = replays(result)
    assert result.code == 0
    assert without_times(result.lines) == [
        "scene.py::adds[safe]: 1 outcome; all there are",
        "  2 schedules of portfolio, seed 0",
        f"  {FREE}",
        f"    kemu {shlex.join(command)}",
    ]


def test_each_outcome_comes_with_a_command_that_reaches_it(here: Path) -> None:
    scene = kit.write(here, ADDS)
    result = kit.kemu("explore", scene, "--variant", "racy", "--outcomes")
    assert result.code == 0
    assert result.lines[0] == "scene.py::adds[racy]: 2 outcomes; all there are"
    assert [line.strip() for line in result.lines[2::2]] == [FREE, LOST]
    # A scenario that checks what this one only names tells the runs apart.
    for command, lost in zip(replays(result), (False, True), strict=True):
        assert command[:2] == ["replay", "scene.py::adds[racy]"]
        assert kit.kemu(*command).code == 0
        kit.write(here, ADDS + '    world.check(count[0] == 2, "both additions count")\n')
        assert kit.kemu("run", *command[1:-1], "--token", stamped(scene, command[-1])).code == int(lost)
        kit.write(here, ADDS)


def stamped(scene: str, token: str) -> str:
    """The choices of *token*, as a token of what is in the file now."""
    now = kit.kemu("run", f"{scene}::adds[racy]", "--json").json["token"]
    return ".".join((*now.split(".")[:2], token.split(".")[2]))


def test_a_finding_is_an_outcome(here: Path) -> None:
    result = kit.kemu("explore", kit.write(here, FAILS), "--outcomes", "--strategy", "dfs:bound=none")
    assert result.code == 0
    assert without_times(result.lines)[:2] == [
        "scene.py::fails[default]: 3 outcomes; all there are",
        "  3 schedules of dfs",
    ]
    assert [line.strip() for line in result.lines[2::2]] == ["(nothing named)", "answer=2", "finding expectation"]
    assert [kit.kemu(*command).code for command in replays(result)] == [0, 0, 1]


def test_a_sampler_proves_nothing(here: Path) -> None:
    scene = kit.write(here, ADDS)
    words = ("explore", scene, "--variant", "all", "--outcomes", "--strategy", "sticky", "-n", "60")
    result = kit.kemu(*words)
    assert result.lines[0] == "scene.py::adds[racy]: 2 outcomes; there may be more"
    assert "scene.py::adds[safe]: 1 outcome; there may be more" in result.lines
    compared = kit.kemu(*words, "--subset-of", "racy")
    assert compared.code == 0
    assert compared.lines[-1] == "  a subset of the reference's outcomes, as far as was explored"
    other = kit.kemu(*words, "--subset-of", "safe")
    assert other.code == 1
    assert other.lines[-1] == (
        "  1 outcome that the reference does not have, of which there may be more than were seen"
    )


def test_a_variant_that_does_what_another_may(here: Path) -> None:
    scene = kit.write(here, ADDS)
    result = kit.kemu("explore", scene, "--variant", "all", "--outcomes", "--subset-of", "racy")
    assert result.code == 0
    assert result.lines[-1] == "  a subset of the reference's outcomes: proved"
    assert [line for line in result.lines if "not in the reference" in line] == []


def test_a_variant_that_does_more(here: Path) -> None:
    scene = kit.write(here, ADDS)
    result = kit.kemu("explore", scene, "--variant", "all", "--outcomes", "--subset-of", "safe")
    assert result.code == 1
    # What it is held against comes first.
    assert [line for line in result.lines if "::" in line and not line.startswith(" ")] == [
        "scene.py::adds[safe]: 1 outcome; all there are",
        "scene.py::adds[racy]: 2 outcomes; all there are",
    ]
    assert [line for line in result.lines if "reference" in line] == [
        f"  {LOST}  (not in the reference)",
        "  1 outcome that the reference does not have",
    ]


def test_each_scenario_is_held_against_its_own_variant(here: Path) -> None:
    kit.write(here, ADDS, "one.py")
    kit.write(here, ADDS.replace("sum=", "total="), "two.py")
    result = kit.kemu("explore", "two.py", "one.py", "--variant", "all", "--outcomes", "--subset-of", "racy", "-q")
    assert result.code == 0
    assert [line.partition(":")[0] for line in result.lines] == ["one.py", "one.py", "two.py", "two.py"]


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (
            ["--outcomes", "--variant", "all", "--subset-of", "rasy"],
            "scene.py::adds has no variant 'rasy' among those to explore, which are racy, safe",
            "give --variant all, and one of them to --subset-of",
        ),
        (
            ["--outcomes", "--variant", "safe", "--subset-of", "racy"],
            "has no variant 'racy' among those to explore, which are safe",
            "give --variant all",
        ),
        (
            ["--outcomes", "--variant", "safe", "--subset-of", "safe"],
            "there is nothing of scene.py::adds to compare with 'safe'",
            "give --variant all as well",
        ),
        (["--subset-of", "racy"], "--subset-of compares outcomes", "give --outcomes as well"),
        (["--outcomes", "-j", "2"], "outcomes are collected by one process", "leave out -j"),
        (["--outcomes", "--campaign", "kept"], "outcomes are collected by one process", "leave out -j"),
        (["--outcomes", "-o", "traces"], "outcomes come without traces", "leave out -o and --corpus"),
        (["--outcomes", "--corpus", "kept"], "nothing is kept of them", "leave out -o and --corpus"),
    ],
)
def test_what_is_asked_for_wrongly(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str, remedy: str
) -> None:
    def explored(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing may be explored")

    for module in ("hunt", "outcomes"):
        monkeypatch.setattr(f"kemu.cli.{module}." + ("explore" if module == "hunt" else "collect_outcomes"), explored)
    result = kit.kemu("explore", kit.write(here, ADDS), *words)
    assert (result.code, result.out) == (2, "")
    first, second = result.err.splitlines()[1:]
    assert message in first
    assert remedy in second


def test_json_has_the_documented_keys(here: Path) -> None:
    from kemu.cli import jsonout

    scene = kit.write(here, ADDS)
    words = ("explore", scene, "--variant", "all", "--outcomes", "--json", "--seed", "3")
    result = kit.kemu(*words, "--subset-of", "safe")
    answer = result.json
    assert result.code == answer["exit_code"] == 1
    assert (answer["command"], answer["seed"], answer["subset_of"]) == ("explore", 3, "safe")
    assert (answer["interrupted"], answer["error"]) == (False, None)
    safe, racy = answer["programs"]
    documented = set(re.findall(r"\b[a-z_]+\b", jsonout.__doc__ or ""))
    assert (set(answer) | set(racy) | set(racy["outcomes"][0])) - documented == set()
    assert (safe["program"], safe["complete"], safe["strategy"]) == ("scene.py::adds[safe]", True, "portfolio")
    assert [(one["value"], one["in_reference"]) for one in safe["outcomes"]] == [(["odd=False", "sum=2"], True)]
    assert [(one["value"], one["in_reference"]) for one in racy["outcomes"]] == [
        (["odd=False", "sum=2"], True),
        (["odd=True", "sum=1"], False),
    ]
    assert sum(one["count"] for one in racy["outcomes"]) <= racy["schedules"]
    assert all(one["run"] < racy["schedules"] and one["replay"].endswith(one["token"]) for one in racy["outcomes"])
    alone = kit.kemu(*words).json["programs"][0]["outcomes"]
    assert {one["in_reference"] for one in alone} == {None}


def test_quiet(here: Path) -> None:
    scene = kit.write(here, ADDS)
    result = kit.kemu("explore", scene, "--variant", "all", "--outcomes", "-q")
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        "scene.py::adds[racy]: 2 outcomes; all there are",
        "scene.py::adds[safe]: 1 outcome; all there are",
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_keeps_what_was_found(here: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    asked = count(1)

    @contextmanager
    def impatient(warn: object) -> Generator[Callable[[], bool]]:
        yield lambda: next(asked) >= 7

    monkeypatch.setattr("kemu.cli.outcomes.gentle_interrupts", impatient)
    scene = kit.write(here, ADDS)
    words = ["--variant", "all", "--outcomes", "--strategy", "sticky", *(["--json"] if as_json else [])]
    result = kit.kemu("explore", scene, *words)
    assert result.code == 130
    assert "kemu: interrupted" in result.err
    if as_json:
        # What comes after it is not begun.
        (program,) = result.json["programs"]
        assert (program["schedules"], program["interrupted"], program["complete"]) == (7, True, False)
        assert result.json["interrupted"]
        assert program["outcomes"] != []
    else:
        assert re.match(r"scene.py::adds\[racy\]: \d outcomes?; there may be more$", result.lines[0])
        assert result.lines[1].startswith("  7 schedules of sticky, seed 0")
        assert replays(result) != []
        assert result.lines[-1] == "  interrupted: these are the outcomes until then"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 2, "the outcome 'x' is given twice in one run"),
        (KeyboardInterrupt(), 130, "kemu: interrupted"),
    ],
)
def test_what_came_before_an_error_is_not_lost(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, code: int, message: str
) -> None:
    from kemu.cli import outcomes

    real: Any = outcomes.collect_outcomes

    def collect(program: Any, *rest: Any, **options: Any) -> Any:
        if error is not None and "two.py" in program.name:
            raise error
        return real(program, *rest, **options)

    monkeypatch.setattr(outcomes, "collect_outcomes", collect)
    kit.write(here, ADDS, "one.py")
    kit.write(here, TWICE, "two.py")
    plain = kit.kemu("explore", "one.py", "two.py", "--outcomes")
    assert plain.code == code
    assert message in plain.err
    assert plain.lines[0].startswith("one.py::adds[racy]: 2 outcomes")
    answer = kit.kemu("explore", "one.py", "two.py", "--outcomes", "--json").json
    assert (answer["exit_code"], answer["interrupted"]) == (code, code == 130)
    assert [program["program"] for program in answer["programs"]] == ["one.py::adds[racy]"]
    assert message in (answer["error"] or message)


TWICE = """
from kemu.scenario import World, scenario

@scenario
async def twice(world: World) -> None:
    world.outcome(x=1)
    if world.choose(2, "whether to say so again"):
        world.outcome(x=1)
"""

OBJECT = """
from kemu.scenario import World, scenario

class Thing:
    pass

@scenario
async def thing(world: World) -> None:
    world.outcome(x=Thing())
"""


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (TWICE, "the outcome 'x' is given twice in one run", "give each thread a name of its own"),
        (OBJECT, "the outcome 'x' is a Thing, whose text differs from run to run", "give a status, a number or a text"),
    ],
)
def test_an_outcome_that_cannot_be_meant(here: Path, text: str, message: str, remedy: str) -> None:
    result = kit.kemu("explore", kit.write(here, text), "--outcomes")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert f"remedy: {remedy}" in result.err


def test_an_error_after_a_finding_comes_with_the_outcomes(here: Path) -> None:
    result = kit.kemu(
        "explore", kit.write(here, FAILS + "    if answer == 2:\n        world.outcome(answer=3)\n"), "--outcomes"
    )
    assert result.code == 2
    assert "the outcome 'answer' is given twice in one run" in result.err
    assert "  finding expectation" in result.lines
    assert result.lines[0].endswith("; there may be more")
