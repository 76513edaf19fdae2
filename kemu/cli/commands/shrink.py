"""``kemu shrink``: the simplest run that fails as a token's run does."""

from __future__ import annotations

from typing import Any

import click

from kemu.cli import options as opt
from kemu.errors import UsageError


@click.command(name="shrink")
@click.argument("target")
@click.argument("token")
@click.option("--replays", type=click.IntRange(min=1), default=None, help="Most replays to use; 70 unless given.")
@opt.variant_option
@opt.preempt_option
@opt.max_steps_option
@opt.races_option
@opt.verifier_options
@opt.directory_option
@opt.json_option
@opt.output_options
def command(
    target: str,
    token: str,
    replays: int | None,
    variant: str | None,
    preempt: str | None,
    max_steps: int | None,
    races: bool,
    verifier: str | None,
    output: str | None,
    as_json: bool,
    **printing: Any,
) -> int:
    """Find the simplest run that fails as the run of TOKEN does."""
    from kemu.cli.console import Console
    from kemu.cli.hunt import describe, output_directory
    from kemu.cli.single import report_one
    from kemu.cli.targets import choices_of, select_one
    from kemu.explore import MAX_REPLAYS, replay, shrink

    console = Console(as_json=as_json, **printing)
    directory = output_directory(output)
    program = select_one(target, variant, max_steps, preempt, races=races, verifier=verifier)
    outcome = replay(program, choices_of(token, program))
    if outcome.failure is None:
        raise UsageError(f"the run of this token passes in {program.name}", remedy="give the token of a failing run")
    shrunk = shrink(program, outcome.choices, max_replays=replays or MAX_REPLAYS)
    found = describe(program, shrunk.recording.choices, shrunk, output=directory)
    return report_one(console, "shrink", program, outcome, found)
