"""Who wins: command line, decorator, profile, defaults. And what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from testing import kit
from testing.conftest import Run

from kemu.errors import UsageError
from kemu.testing.settings import Options, Profile, Wanted, load_profile

pytest_plugins = ["pytester"]


PLANS: list[tuple[Wanted, Options, tuple[Any, ...]]] = [
    (Wanted(), Options(), ("portfolio", {}, 0, 500)),
    (Wanted(7, "pct:depth=2", 3), Options(), ("pct", {"depth": 2}, 3, 7)),
    (Wanted(), Options(profile=Profile("p", 9, "pos", 4)), ("pos", {}, 4, 9)),
    (Wanted(7, "pct", 3), Options(profile=Profile("p", 9, "pos", 4)), ("pct", {}, 3, 7)),
    (Wanted(7, "pct", 3), Options(5, 0, profile=Profile("p", 9, "pos", 4)), ("pct", {}, 0, 5)),
    # What is exhaustive ends by itself.
    (Wanted(bound=2), Options(profile=Profile("p", 9, "pos", 4)), ("dfs", {"bound": 2}, 4, None)),
    (Wanted(bound="none"), Options(), ("dfs", {"bound": None}, 0, None)),
    (Wanted(bound=1, strategy="dfs", schedules=3), Options(), ("dfs", {"bound": 1}, 0, 3)),
    (Wanted(strategy="dfs:bound=1"), Options(schedules=5), ("dfs", {"bound": 1}, 0, 5)),
]


@pytest.mark.parametrize(("wanted", "options", "plan"), PLANS)
def test_who_wins(wanted: Wanted, options: Options, plan: tuple[Any, ...]) -> None:
    made = wanted.plan(options)
    assert (made.name, made.values, made.seed, made.schedules) == plan
    assert made.strategy().seed in {made.seed, None}
    assert made.budget().schedules == made.schedules


@pytest.mark.parametrize(
    ("wanted", "message", "remedy"),
    [
        (Wanted(schedules=0), "test_it: schedules is 0", "1 or more"),
        (Wanted(seed=-1), "test_it: seed is -1", "0 or more"),
        (Wanted(seed=True), "test_it: seed is True", "0 or more"),
        (Wanted(bound=-1), "test_it: bound is -1", "0 or more"),
        (Wanted(bound="all"), "test_it: bound is 'all'", "0 or more"),
        (Wanted(bound=1, strategy="pct"), "the strategy 'pct' has no option 'bound'", "choose from depth"),
        (Wanted(strategy="ptc"), "there is no strategy 'ptc'", "did you mean 'pct'?"),
        (Wanted(strategy="pct:dept=3"), "the strategy 'pct' has no option 'dept'", "did you mean 'depth'?"),
        (Wanted(strategy="pct:depth"), "'depth' in 'pct:depth' is not option=number", "pct:depth=3"),
    ],
)
def test_what_a_decorator_may_not_say(wanted: Wanted, message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as raised:
        wanted.check("test_it")
    assert message in raised.value.message
    assert remedy in raised.value.remedy


PROFILES = """
[tool.other]
x = 1

[tool.kemu.profile.ci]
schedules = 2000
seed = 7

[tool.kemu.profile.deep]
strategy = "pct:depth=5"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROFILES)
    return tmp_path


def test_a_profile_is_named_or_that_of_ci(project: Path) -> None:
    ci, deep = Profile("ci", 2000, None, 7), Profile("deep", None, "pct:depth=5", None)
    assert load_profile(project, "ci", is_ci=False) == ci
    assert load_profile(project, "deep", is_ci=True) == deep
    assert load_profile(project, None, is_ci=True) == ci
    assert load_profile(project, None, is_ci=False) == Profile()


def test_a_project_without_profiles(tmp_path: Path) -> None:
    assert load_profile(tmp_path, None, is_ci=True) == Profile()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert load_profile(tmp_path, None, is_ci=True) == Profile()
    with pytest.raises(UsageError, match="has no profile 'ci'") as raised:
        load_profile(tmp_path, "ci", is_ci=True)
    assert raised.value.remedy == "write a table [tool.kemu.profile.ci] in pyproject.toml"


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (PROFILES, "has no profile 'depe'", "did you mean 'deep'?"),
        ("[tool.kemu.profile.x]\nschedule = 5\n", "profile 'x': there is no 'schedule'", "did you mean 'schedules'?"),
        ("[tool.kemu.profile.x]\nq = 5\n", "there is no 'q'", "a profile has schedules, strategy, seed"),
        ("[tool.kemu.profile.x]\nschedules = '5'\n", "profile 'x': schedules is '5'", "1 or more"),
        ("[tool.kemu.profile.x]\nseed = 1.5\n", "profile 'x': seed is 1.5", "0 or more"),
        ("[tool.kemu.profile.x]\nstrategy = 5\n", "profile 'x': strategy is 5", "pct:depth=3"),
        ("[tool.kemu.profile.x]\nstrategy = 'ptc'\n", "profile 'x': there is no strategy 'ptc'", "did you mean 'pct'"),
        ("[tool.kemu]\nprofile = 5\n", "profile is 5", "write a table"),
        ("[tool.kemu.profile]\nx = 5\n", "profile.x is 5", "write a table"),
        ("[tool", "cannot be read", "correct it"),
    ],
)
def test_a_profile_that_is_wrong_is_told(tmp_path: Path, text: str, message: str, remedy: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError) as raised:
        load_profile(tmp_path, "depe", is_ci=False)
    assert message in raised.value.message
    assert str(tmp_path / "pyproject.toml") in raised.value.message
    assert remedy in raised.value.remedy


def test_the_profile_of_a_session(pytests: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyprojecttoml(PROFILES.replace("2000", "15"))
    text = kit.SAFE.replace(kit.FEW, "@explore")
    monkeypatch.setenv("CI", "true")
    (line,) = pytests(text, "--kemu-stats").section("kemu")
    assert line.endswith("of portfolio, seed 7: nothing found (budget)")
    assert ": 15 schedules" in line
    (line,) = pytests(None, "--kemu-stats", "--kemu-profile", "deep", "--kemu-schedules", "5").section("kemu")
    assert "of pct(depth=5), seed 0: nothing found (budget)" in line
    wrong = pytests(None, "--kemu-profile", "depe")
    assert wrong.code == pytest.ExitCode.USAGE_ERROR
    assert "has no profile 'depe'; did you mean 'deep'?" in wrong.err
    # A session without a test of kemu's has no use for it.
    assert pytests("def test_it(): pass", "--kemu-profile", "depe", name="test_it.py").outcomes == {"passed": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kemu-schedules", "0"), "'0' is not a number of schedules: give 1 or more"),
        (("--kemu-schedules", "many"), "'many' is not a number of schedules"),
        (("--kemu-seed", "-1"), "'-1' is not a seed: give a number, such as 7 or 0x5eed, or random"),
        (("--kemu-seed", "x"), "'x' is not a seed"),
        (("--kemu-trace", "some"), "invalid choice: 'some'"),
    ],
)
def test_options_that_are_wrong_are_told(pytests: Run, words: tuple[str, ...], message: str) -> None:
    session = pytests(kit.SAFE, *words)
    assert session.code == pytest.ExitCode.USAGE_ERROR
    assert message in session.err


def test_a_random_seed_is_drawn_once_and_told(pytests: Run) -> None:
    session = pytests(kit.SAFE, "--kemu-seed", "random", "--kemu-stats")
    (header,) = [line for line in session.lines if line.startswith("kemu: seed=")]
    drawn = header.removeprefix("kemu: seed=").partition(",")[0]
    assert session.section("kemu")[0].endswith(f", seed {drawn}: nothing found (budget)")


def test_the_header_says_what_was_asked_for(pytests: Run) -> None:
    assert not any(line.startswith("kemu:") for line in pytests(kit.SAFE).lines)
    assert "kemu: no options" in pytests(None, "-v").lines
    assert (
        "kemu: schedules=3, trace=fail, no-corpus=True"
        in pytests(None, "--kemu-no-corpus", "--kemu-schedules", "3", "--kemu-trace", "fail").lines
    )


def test_a_token_is_of_one_test(pytests: Run) -> None:
    two = kit.SAFE + "\n@explore\ndef test_two(world): pass\n\ndef test_other(): pass\n"
    session = pytests(two, "--kemu-token", kit.TOKEN_OF_ANOTHER)
    assert session.code == pytest.ExitCode.USAGE_ERROR
    assert "--kemu-token is of one test, and 2 of kemu's are selected: name one" in session.err
    none = pytests(two, "--kemu-token", kit.TOKEN_OF_ANOTHER, "-k", "other")
    assert "--kemu-token is of one test, and 0 of kemu's are selected" in none.err


def test_kemus_tests_are_marked(pytests: Run) -> None:
    session = pytests(kit.SAFE + "\ndef test_other(): pass\n", "-m", "kemu", "--strict-markers")
    assert session.outcomes == {"passed": 1, "deselected": 1}
    assert "@pytest.mark.kemu(live=False): a test that kemu runs" in pytests(None, "--markers").out
