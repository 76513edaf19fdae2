"""``kemu campaign``: what explorations with ``--campaign`` have left in their directories, one or several together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_FINDING, EXIT_OK


@click.group(name="campaign")
def command() -> None:
    """Show or merge what kemu explore --campaign has written."""


@command.command(name="show")
@click.argument("directory", metavar="DIR")
@opt.json_option
@opt.output_options
def show(directory: str, as_json: bool, **printing: Any) -> int:
    """Print what is in DIR: what is explored and how, what is done, and what was found.

    Needs no scenario files, and runs nothing.
    """
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump
    from kemu.cli.merging import campaign_lines, campaign_object
    from kemu.explore.campaign import read_campaign

    console = Console(as_json=as_json, **printing)
    campaign = read_campaign(Path(directory))
    console.print(campaign_lines(campaign, short=console.quiet))
    if as_json:
        console.json(dump("campaign show", campaign_object(campaign)))
    return EXIT_OK


@command.command(name="merge")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True)
@opt.directory_option
@opt.json_option
@opt.output_options
def merge(directories: tuple[str, ...], output: str | None, as_json: bool, **printing: Any) -> int:
    """Report what the campaigns in DIR... come to together: the shards of one exploration.

    The scenario files have to be there as they were: what was found is run again, shrunk and explained.
    """
    from kemu.cli.console import Console
    from kemu.cli.hunt import output_directory
    from kemu.cli.jsonout import dump, hunt_object
    from kemu.cli.merging import Merging
    from kemu.cli.report import failure_lines
    from kemu.cli.verdict import clean_lines, warning_lines

    console = Console(as_json=as_json, **printing)
    traces = output_directory(output)
    merging = Merging([Path(directory) for directory in directories], traces)
    for line in merging.notes:
        console.note(f"kemu: {line}")
    for one in merging.hunts(console.progress):
        for found in one.found:
            lines = failure_lines(found.report)
            console.print(lines[:1] if console.quiet else lines)
        lines = warning_lines(one.warnings) if one.found else clean_lines(one.verdict, one.warnings)
        console.print(lines[: int(not one.found)] if console.quiet else lines)
    code = EXIT_FINDING if any(one.found for one in merging.done) else EXIT_OK
    console.clear()
    if merging.error is not None:
        code = merging.error.exit_code
    if as_json:
        fields = {
            "exit_code": code,
            "missing": list(merging.missing),
            "programs": [hunt_object(one) for one in merging.done],
            "error": str(merging.error) if merging.error is not None else None,
        }
        console.json(dump("campaign merge", fields))
    if merging.error is not None:
        raise merging.error
    return code
