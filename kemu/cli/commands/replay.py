"""``kemu replay``: one run again, from its token."""

from __future__ import annotations

from typing import Any

import click

from kemu.cli import options as opt


@click.command(name="replay")
@click.argument("target")
@click.argument("token")
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
    variant: str | None,
    preempt: str | None,
    max_steps: int | None,
    races: bool,
    verifier: str | None,
    output: str | None,
    as_json: bool,
    **printing: Any,
) -> int:
    """Run TARGET as TOKEN says, and report what happens.

    A token is of one scenario, one variant and one state of the code; with other code it is refused.
    """
    from kemu.cli.console import Console
    from kemu.cli.hunt import output_directory
    from kemu.cli.single import replayed, report_one
    from kemu.cli.targets import select_one

    console = Console(as_json=as_json, **printing)
    directory = output_directory(output)
    program = select_one(target, variant, max_steps, preempt, races=races, verifier=verifier)
    return report_one(console, "replay", program, *replayed(program, token, directory))
