"""Options and kinds of values that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

import click

from kemu.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


NO_BOUND: Final = -1
"""What ``--bound none`` gives: None would be an option that was not given."""


MOST_JOBS: Final = 512


def seed(value: object) -> int:
    """A number in decimal or hexadecimal, or a random one."""
    if value == "random":
        import secrets

        return secrets.randbelow(1 << 32)
    try:
        number = int(str(value), 0)
    except ValueError:
        number = -1
    if number < 0:
        raise UsageError(f"{value!r} is not a seed", remedy="give a number, such as 7 or 0x5eed, or random")
    return number


def duration(value: object) -> float:
    """Seconds, or a number with a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(value))
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{value!r} is not a duration", remedy="give seconds, or 500ms, 30s, 2m, 1h")
    return seconds


def bound(value: object) -> int:
    """A number from 0, or none."""
    if value == "none":
        return NO_BOUND
    if not re.fullmatch(r"\d+", str(value)):
        raise UsageError(f"{value!r} is not a bound", remedy="give a number, such as 2, or none")
    return int(str(value))


def strategy(value: str) -> tuple[str, dict[str, int | float | None]]:
    """A name, or ``name:option=number,...``; which there are is for the strategies to know."""
    from kemu.explore.strategies import parse_strategy

    return parse_strategy(value)


def jobs(value: object) -> int:
    """A number of worker processes, or auto for one on each core."""
    if value == "auto":
        from kemu.cli.parallel import cores

        return cores()
    if not re.fullmatch(r"\d+", str(value)) or not 1 <= int(str(value)) <= MOST_JOBS:
        raise UsageError(f"{value!r} workers", remedy=f"give a number from 1 to {MOST_JOBS}, or auto")
    return int(str(value))


def shard(value: object) -> tuple[int, int]:
    """``i/n``: which part, and of how many."""
    match = re.fullmatch(r"(\d+)/(\d+)", str(value))
    if match is None:
        raise UsageError(f"{value!r} is not a shard", remedy="give i/n with i from 1 to n, such as 1/4")
    return int(match[1]), int(match[2])


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value and ctx.obj is not None:
        ctx.obj.debug = True
    return value


def quiet_option(text: str) -> Callable[[F], F]:
    """``-q`` of a command that prints no run: *text* says what is left. The command takes ``quiet``."""

    def put(function: F) -> F:
        function = click.option("--debug", is_flag=True, expose_value=False, callback=_debug, hidden=True)(function)
        return click.option("-q", "--quiet", is_flag=True, help=text)(function)

    return put


def output_options(function: F) -> F:
    """How much is printed, and how. The command takes the values as keywords and makes a `Console` of them."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, callback=_debug, hidden=True),
        click.option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            help="Colours: if on a terminal (auto), always or never. NO_COLOR and FORCE_COLOR are heeded.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Also print every event of the run."),
        click.option("-q", "--quiet", is_flag=True, help="Print verdicts only."),
    ):
        function = option(function)
    return function


def corpus_options(function: F) -> F:
    """Whether failing runs are kept, and where. The command takes ``corpus`` and ``no_corpus``."""
    for option in (
        click.option("--no-corpus", is_flag=True, help="Neither replay failures of earlier explorations nor keep any."),
        corpus_option,
    ):
        function = option(function)
    return function


corpus_option = click.option(
    "--corpus", metavar="DIR", help="The directory that failing runs are kept in; .kemu/corpus unless given."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there."
)
directory_option = click.option(
    "-o", "--output", metavar="DIR", help="Write the trace of each run that is reported into this directory."
)
max_steps_option = click.option(
    "--max-steps", type=click.IntRange(min=1), help="End a run after this many steps; a finding if it does."
)
races_option = click.option(
    "--races", is_flag=True, help="Also look for data races: accesses that nothing orders are findings."
)
preempt_option = click.option(
    "--preempt",
    type=click.Choice(["call", "statement", "access"]),
    help="Where other threads may come in between: at WDK calls, also before statements, or before every access to"
    " shared state. As the scenario says unless given.",
)


def verifier_options(function: F) -> F:
    """Which rules are watched, and what becomes of violations. The command takes ``verifier``, settings or None."""

    @wraps(function)
    def with_settings(*args: Any, verifier: str | None, on_violation: tuple[str, ...], **others: Any) -> Any:
        settings = None
        if verifier is not None or on_violation:
            from kemu.verifier.settings import parse_settings

            settings = parse_settings(verifier, on_violation).text
        return function(*args, verifier=settings, **others)

    command = click.option(
        "--on-violation",
        multiple=True,
        metavar="CODE=ACTION",
        help="What becomes of a violation: break, ignore (note it and go on), zap (only in the trace) or remove.",
    )(with_settings)
    return cast(
        "F",
        click.option(
            "--verifier",
            metavar="CLASSES",
            help="Watch what Driver Verifier would with these rule classes: standard, none, or numbers and names"
            " as kemu verifier lists them. Every rule unless given.",
        )(command),
    )


variant_option = click.option("--variant", help="The variant to run where the target names none; all for each of them.")
