"""``kemu trace show``: a recorded run as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_OK


@click.group(name="trace")
def command() -> None:
    """Show recorded runs."""


@command.command(name="show")
@click.argument("file")
@click.option(
    "--style",
    type=click.Choice(["console", "minispy"]),
    default="console",
    help="One line for each event, or one for each request as minispy prints them.",
)
@opt.output_options
def show(file: str, style: str, **printing: Any) -> int:
    """Print the events of the run in FILE, which kemu wrote with -o."""
    from kemu.cli.console import Console
    from kemu.log import read_trace
    from kemu.log.render import render

    console = Console(**printing)
    trace = read_trace(Path(file))
    for warning in trace.warnings:
        console.note(f"kemu: warning: {warning}")
    if not console.quiet:
        console.print(trace_head(trace.header))
    console.print(render(trace, style, colour=console.colour))
    return EXIT_OK


def trace_head(header: dict[str, Any]) -> list[str]:
    """A few lines on where a trace comes from."""
    # Any JSON may be in a header; what is not as kemu writes it is shown as it is.
    end: object = header.get("failure", header.get("outcome", "unknown"))
    if isinstance(end, dict):
        end = cast("dict[str, object]", end).get("summary", "a finding")
    lines = [f"{header.get('scenario', 'unknown scenario')}: {end}"]
    if header.get("token"):
        lines.append(f"token {header['token']}")
    return lines
