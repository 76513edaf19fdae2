"""The group of commands, and what becomes of exceptions: one message, one exit code, no traceback of ours."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, NoReturn

import click

from kemu import __version__
from kemu.errors import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    DriverSourceError,
    InternalError,
    KemuError,
    UsageError,
)

COMMANDS: Final = {
    "list": "Show scenarios, their variants and what is expected of them.",
    "run": "Run a scenario once: plainly, by seed, by hand-written order, or live.",
    "explore": "Run scenarios under many schedules, and report what breaks them.",
    "campaign": "Show or merge what explorations have left in their directories.",
    "replay": "Run a scenario as a token says, and report what happens.",
    "shrink": "Find the simplest run that fails as a token's run does.",
    "blame": "Find the decision after which a token's run was likely to fail.",
    "trace": "Show recorded runs.",
    "fltmc": "List filters, instances or volumes after a step of a run, as Windows does.",
    "kd": "Look at a run after any of its steps, with WinDbg's commands.",
    "explain": "Explain a finding: cause, example, rules, and what Windows would do.",
    "verifier": "Show Driver Verifier's rule classes, which --verifier takes.",
    "corpus": "Show, remove and merge the failing runs that explorations have kept.",
}
"""Every command and its line of help; the module of the same name is loaded when the command runs."""


@dataclass(slots=True)
class Settings:
    """What the handling of errors has to know from a command's options."""

    debug: bool = False


class LazyGroup(click.Group):
    """The commands, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"kemu.cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise UsageError(f"there is no command {name!r}", remedy=possibilities(name, COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run a command and exit with its code, or with that of what it raised."""
        settings = Settings()
        try:
            extra |= {"windows_expand_args": windows_expand_args, "obj": settings}
            code = super().main(args, "kemu", complete_var, standalone_mode=False, **extra)
        except (KeyboardInterrupt, click.Abort):
            click.echo("kemu: interrupted", err=True)
            code = EXIT_INTERRUPTED
        except click.ClickException as error:
            code = tell(from_click(error), debug=settings.debug)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one message
            code = tell(error, debug=settings.debug)
        sys.exit(code if isinstance(code, int) else 0)


def possibilities(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    """The remedy for an unknown *word*: the nearest one known, and all of them."""
    nearest = get_close_matches(word, known, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}choose from {', '.join(known)}"


def from_click(error: click.ClickException) -> UsageError:
    """The same error in kemu's words: a message in lower case and a remedy."""
    context = getattr(error, "ctx", None)
    help_command = f"see {context.command_path} --help" if context is not None else "see kemu --help"
    if isinstance(error, click.NoSuchOption):
        known = [name for name in _options_of(context) if name.startswith("--")]
        nearest = get_close_matches(error.option_name, known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        return UsageError(f"there is no option {error.option_name}", remedy=f"{hint}{help_command}")
    message = error.format_message().strip().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], remedy=help_command)


def _options_of(context: click.Context | None) -> list[str]:
    if context is None:
        return []
    return [name for parameter in context.command.get_params(context) for name in parameter.opts]


def tell(error: Exception, *, debug: bool) -> int:
    """Print one message for *error* on stderr and return its exit code."""
    if not isinstance(error, KemuError):
        unexpected = InternalError(f"{type(error).__name__}: {error}")
        unexpected.__cause__ = error
        error = unexpected
    for line in error_lines(error):
        click.echo(line, err=True)
    if debug:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    elif error.exit_code == EXIT_INTERNAL:
        click.echo("  --debug shows the traceback", err=True)
    return error.exit_code


def error_lines(error: KemuError) -> list[str]:
    """The lines that tell of *error*: what is wrong, and what to do about it."""
    remedy = ""
    text = str(error)
    if isinstance(error, UsageError):
        remedy = error.remedy
        text = error.message
        if isinstance(error, DriverSourceError):
            text = f"{error.path}:{error.line}: {text}"
    lines = [f"kemu: error: {text}"]
    lines += [f"  {note}" for note in getattr(error, "__notes__", ())]
    if remedy:
        lines.append(f"  remedy: {remedy}")
    return lines


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kemu", message="%(prog)s %(version)s")
def cli() -> None:
    """Find, shrink and explain races in Windows kernel callbacks.

    A TARGET is a scenario file, a scenario in it (file.py::name), or a variant of that
    (file.py::name[variant]).

    Exit codes: 0 nothing found, 1 a finding, 2 usage, 3 a bug of kemu, 4 a replay that diverged or a scenario
    that is not deterministic, 5 no scenario matched, 130 interrupted.
    """


def run() -> NoReturn:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        # A file name or a driver's line may hold what the terminal cannot show.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    cli.main()
