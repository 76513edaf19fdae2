"""Options and kinds of values that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from kemu.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


NO_BOUND: Final = -1
"""What ``--bound none`` gives: None would be an option that was not given."""


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
    name, colon, rest = value.partition(":")
    options: dict[str, int | float | None] = {}
    for part in rest.split(",") if colon else ():
        key, equals, number = part.partition("=")
        if not equals or not re.fullmatch(r"\d+(\.\d+)?|none", number):
            raise UsageError(f"{part!r} in {value!r} is not option=number", remedy="write for example pct:depth=3")
        options[key] = None if number == "none" else float(number) if "." in number else int(number)
    return name, options


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value and ctx.obj is not None:
        ctx.obj.debug = True
    return value


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


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there."
)
directory_option = click.option(
    "-o", "--output", metavar="DIR", help="Write the trace of each run that is reported into this directory."
)
max_steps_option = click.option(
    "--max-steps", type=click.IntRange(min=1), help="End a run after this many steps; a finding if it does."
)
preempt_option = click.option(
    "--preempt",
    type=click.Choice(["call", "statement", "access"]),
    help="Where other threads may come in between: at WDK calls, also before statements, or before every access to"
    " shared state. As the scenario says unless given.",
)
variant_option = click.option("--variant", help="The variant to run where the target names none; all for each of them.")
