"""Targets: what they stand for, and what is said about one that stands for nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kemu.errors import EXIT_NOTHING_MATCHED, NothingMatched, ScenarioError, UsageError
from kemu.scenario.target import Target, parse_target, select

CODE = """
from kemu.scenario import World, scenario

@scenario(variants={{"buggy": 1, "fixed": 2}})
async def {0}_race(world: World, which: int) -> None:
    pass

@scenario
async def {0}_plain(world: World) -> None:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a", "deep/c", ".hidden/d", "__pycache__/e"):
        path = tmp_path / "all" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CODE.format(path.stem))
    (tmp_path / "all" / "helper.py").write_text("raise RuntimeError\n")
    (tmp_path / "all" / "notes.txt").write_text("from kemu.scenario import scenario")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(text: str, variant: str | None = None) -> list[str]:
    return [program.name for program in select(text, variant=variant)]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("x.py", Target("x.py")),
        ("a/x.py::one", Target("a/x.py", "one")),
        ("a/x.py::one[two words]", Target("a/x.py", "one", "two words")),
        (r"C:\a\x.py::one", Target(r"C:\a\x.py", "one")),
        ("a[1]/x.py::one", Target("a[1]/x.py", "one")),
    ],
)
def test_parse(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "names no file"),
        ("  ", "names no file"),
        ("::one", "names no file"),
        ("x.py::", "names no scenario"),
        ("x.py::[buggy]", "names no scenario"),
        ("x.py::a::b", "names no scenario"),
        ("x.py::one[", "names no variant"),
        ("x.py::one[]", "names no variant"),
        ("x.py::one[a", "names no variant"),
        ("x.py::one[a]b", "names no variant"),
        ("x.py::one[a]]", "names no variant"),
        ("x.py::one[[a]", "names no variant"),
    ],
)
def test_text_that_is_no_target(text: str, what: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_target(text)
    assert caught.value.message.startswith(f"{text!r} {what}")
    assert "path.py::name[variant]" in caught.value.remedy


@pytest.mark.usefixtures("folder")
def test_a_file_stands_for_its_scenarios_with_their_defaults() -> None:
    assert names("all/a.py") == ["all/a.py::a_race[buggy]", "all/a.py::a_plain[default]"]
    assert names("all/a.py::a_race") == ["all/a.py::a_race[buggy]"]
    assert names("all/a.py::a_race[fixed]") == ["all/a.py::a_race[fixed]"]


@pytest.mark.usefixtures("folder")
def test_a_variant_may_be_asked_for_beside_the_target() -> None:
    assert names("all/a.py", "fixed") == ["all/a.py::a_race[fixed]"]
    assert names("all/a.py::a_race[fixed]", "fixed") == ["all/a.py::a_race[fixed]"]
    assert names("all/a.py", "all") == [
        "all/a.py::a_race[buggy]",
        "all/a.py::a_race[fixed]",
        "all/a.py::a_plain[default]",
    ]
    with pytest.raises(ScenarioError) as caught:
        select("all/a.py::a_race[fixed]", variant="buggy")
    assert "names the variant 'fixed', and 'buggy' is asked for besides" in caught.value.message


@pytest.mark.usefixtures("folder")
def test_a_directory_stands_for_all_beneath_it() -> None:
    assert names("all", "fixed") == [
        "all/a.py::a_race[fixed]",
        "all/b.py::b_race[fixed]",
        "all/deep/c.py::c_race[fixed]",
    ]
    assert names("all::c_plain") == ["all/deep/c.py::c_plain[default]"]


Missing = Callable[[], object]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "variant", "message", "remedy"),
    [
        ("all/a.py::a_rase", None, "all/a.py has no scenario 'a_rase'", "did you mean 'a_race'?"),
        ("all/a.py::zzz", None, "all/a.py has no scenario 'zzz'", "it has a_race, a_plain"),
        ("all/a.py::a_race[fixd]", None, "scenario a_race has no variant 'fixd'", "did you mean 'fixed'?"),
        ("all/a.py::a_race", "zz", "scenario a_race has no variant 'zz'", "the variants are buggy, fixed"),
        ("all/a.py::a_plain[x]", None, "scenario a_plain has no variant 'x'", "the variants are default"),
        ("all", "bugy", "no scenario in all has a variant 'bugy'", "did you mean 'buggy'?"),
        ("all::b_rase", None, "all has no scenario 'b_rase'", "did you mean 'b_race'?"),
        ("empty", None, "there is no scenario file in empty", "name a file, or a directory"),
    ],
)
def test_nothing_matches(text: str, variant: str | None, message: str, remedy: str) -> None:
    with pytest.raises(NothingMatched) as caught:
        select(text, variant=variant)
    assert caught.value.exit_code == EXIT_NOTHING_MATCHED
    assert caught.value.message == message
    assert remedy in caught.value.remedy


@pytest.mark.usefixtures("folder")
def test_errors_of_loading_come_through() -> None:
    with pytest.raises(UsageError, match=r"there is no file all/aa\.py; did you mean all/a\.py\?"):
        select("all/aa.py::a_race")


def test_a_broken_scenario_file_in_a_directory_is_not_skipped(folder: Path) -> None:
    (folder / "all" / "z.py").write_text("from kemu.scenario import scenario\nif broken\n")
    with pytest.raises(ScenarioError, match=r"all/z\.py:2: not Python"):
        select("all")
