"""The command line as a whole: help, errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import pytest
from cli import kit

from kemu import __version__
from kemu.cli import app, main
from kemu.errors import DriverSourceError, InternalError, ScenarioNotDeterministic, UsageError


def printed(*words: str) -> str:
    result = kit.kemu(*words)
    assert (result.code, result.err) == (0, "")
    return result.out


def test_version_and_help() -> None:
    assert printed("--version") == f"kemu {__version__}\n"
    text = printed("--help")
    assert [name for name in app.COMMANDS if f"  {name} " not in text] == []
    assert "130 interrupted" in text
    assert printed("-h") == text


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help(name: str) -> None:
    text = printed(name, "--help")
    assert f"Usage: kemu {name}" in text
    assert "\b" not in text


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from kemu.cli.app import cli\n"
        "try:\n"
        "    cli.main([{!r}])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {{'structlog', 'trio', 'anyio', 'asyncio', 'kemu.runtime', 'kemu.explore', 'kemu.log'}}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    for word in ("--help", "--version"):
        subprocess.run([sys.executable, "-c", code.format(word)], check=True, stdout=subprocess.DEVNULL)


def test_the_package_loads_nothing_at_all() -> None:
    code = "import sys, kemu.cli; assert 'click' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["exlore"], "there is no command 'exlore'", "did you mean 'explore'? choose from list, run,"),
        (["zzz"], "there is no command 'zzz'", "choose from list, run, explore, campaign, replay, shrink, blame"),
        (["explore", "--shedules", "3"], "there is no option --shedules", "did you mean --schedules? see kemu explore"),
        (["list", "--zzz"], "there is no option --zzz", "see kemu list --help"),
        (["--zzz"], "there is no option --zzz", "see kemu --help"),
        (["explore"], "missing argument 'TARGET...'", "see kemu explore --help"),
        (["explore", "-n", "0", "x"], "invalid value for '-n'", "see kemu explore --help"),
        (["explore", "-t", "0", "x"], "'0' is not a duration", "give seconds, or 500ms, 30s, 2m, 1h"),
        (["explore", "--seed", "-3", "x"], "'-3' is not a seed", "give a number, such as 7 or 0x5eed, or random"),
        (["explore", "--seed", "x", "x"], "'x' is not a seed", "give a number, such as 7 or 0x5eed, or random"),
        (["explore", "--bound", "x", "x"], "'x' is not a bound", "give a number, such as 2, or none"),
        (["explore", "--strategy", "pxt", "x"], "there is no strategy 'pxt'", "did you mean 'pct'?"),
        (["explore", "--strategy", "pct:k=v", "x"], "'k=v' in 'pct:k=v' is not option=number", "pct:depth=3"),
        (["explore", "--strategy", "pct:k=1", "x"], "the strategy 'pct' has no option 'k'", "choose from depth"),
        (["explore", "--strategy", "random", "--bound", "1", "x"], "has no option 'bound'", "choose from"),
        (["trace", "shw"], "no such command 'shw'", "see kemu trace --help"),
    ],
)
def test_what_is_typed_wrongly(words: list[str], message: str, remedy: str) -> None:
    result = kit.kemu(*words)
    assert (result.code, result.out) == (2, "")
    first, second, *rest = result.err.splitlines()
    assert first.startswith("kemu: error: ")
    assert message in first
    assert second.startswith("  remedy: ")
    assert remedy in second
    assert rest == []


def returning(error: BaseException) -> Callable[..., click.Command]:
    """In the place of `LazyGroup.get_command`."""

    def get_command(self: app.LazyGroup, ctx: click.Context, cmd_name: str) -> click.Command:
        return raising(error)

    return get_command


def raising(error: BaseException) -> click.Command:
    @click.command(name="list")
    @click.option("--debug", is_flag=True)
    @click.pass_obj
    def command(settings: app.Settings, debug: bool) -> NoReturn:
        settings.debug = debug
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (UsageError("it is 3", remedy="say 4"), 2, ["kemu: error: it is 3", "  remedy: say 4"]),
        (
            DriverSourceError("no await", "d.py", 7, remedy="write await"),
            2,
            ["kemu: error: d.py:7: no await", "  remedy: write await"],
        ),
        (ScenarioNotDeterministic("one, then two", 5), 4, ["kemu: error: step 5: one, then two"]),
        (
            InternalError("it broke", "KS1.x"),
            3,
            [
                "kemu: error: it broke; this is a bug in kemu: please report it with the replay token KS1.x",
                "  --debug shows the traceback",
            ],
        ),
        (
            ZeroDivisionError("division by zero"),
            3,
            [
                (
                    "kemu: error: ZeroDivisionError: division by zero; this is a bug in kemu:"
                    " please report it with the command that led here"
                ),
                "  --debug shows the traceback",
            ],
        ),
        (KeyboardInterrupt(), 130, ["kemu: interrupted"]),
        (click.Abort(), 130, ["kemu: interrupted"]),
        (click.ClickException("Odd thing."), 2, ["kemu: error: odd thing", "  remedy: see kemu --help"]),
    ],
)
def test_what_a_command_raises(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, lines: list[str]
) -> None:
    monkeypatch.setattr(app.LazyGroup, "get_command", returning(error))
    result = kit.kemu("list")
    # Click ends the line on which the terminal has shown ^C.
    assert (result.code, result.out, result.err.lstrip("\n").splitlines()) == (code, "", lines)


def test_notes_of_an_error_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    error = UsageError("it is 3", remedy="say 4")
    error.add_note("in run 17")
    monkeypatch.setattr(app.LazyGroup, "get_command", returning(error))
    assert kit.kemu("list").err.splitlines() == ["kemu: error: it is 3", "  in run 17", "  remedy: say 4"]


def test_the_traceback_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.LazyGroup, "get_command", returning(ZeroDivisionError("division by zero")))
    result = kit.kemu("list", "--debug")
    assert result.code == 3
    assert "Traceback (most recent call last)" in result.err
    assert "--debug shows" not in result.err


def test_debug_is_an_option_of_every_command(here: Path) -> None:
    result = kit.kemu("list", "--debug", kit.write(here, "1 +"))
    assert result.code == 2
    assert "not Python" in result.err
    assert "Traceback" in result.err


def test_an_interrupt_while_kemu_is_still_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_main_runs_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kemu", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kemu {__version__}\n"
