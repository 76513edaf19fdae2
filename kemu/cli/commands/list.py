"""``kemu list``: what there is to run."""

from __future__ import annotations

from typing import Any

import click

from kemu.cli import options as opt

DEFAULT_PLACE = "scenarios"


@click.command(name="list")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--atomic", is_flag=True, help="Show instead what touches shared state and is never interrupted.")
@opt.json_option
@opt.output_options
def command(targets: tuple[str, ...], atomic: bool, as_json: bool, **printing: Any) -> int:
    """Show scenarios, their variants, what is expected of them, and what they are about.

    Without TARGET, those below the folder scenarios.
    """
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump
    from kemu.cli.listing import atomic_lines, atomic_parts, listed, listing_lines

    console = Console(as_json=as_json, **printing)
    if atomic:
        parts = atomic_parts(targets or (DEFAULT_PLACE,))
        console.print(atomic_lines(parts, short=console.quiet))
        if as_json:
            console.json(dump("list", {"atomic": [part.as_object() for part in parts]}))
        return 0
    entries = listed(targets or (DEFAULT_PLACE,))
    console.print(listing_lines(entries, short=console.quiet))
    if as_json:
        console.json(dump("list", {"scenarios": [entry.as_object() for entry in entries]}))
    return 0
