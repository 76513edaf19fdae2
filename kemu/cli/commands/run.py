"""``kemu run``: one run, with its events."""

from __future__ import annotations

from typing import Any

import click

from kemu.cli import options as opt
from kemu.errors import UsageError


@click.command(name="run")
@click.argument("target")
@click.option("--seed", type=opt.seed, metavar="SEED", help="Let a random walk with this seed decide.")
@click.option("--order", metavar="ORDER", help="Who runs, in turn: writer*3, wk:delayed#0, clock.")
@click.option("--token", metavar="TOKEN", help="Decide as this token says.")
@click.option("--live", is_flag=True, help="Run on an event loop with a real clock, not under kemu's control.")
@click.option("--backend", type=click.Choice(["trio", "asyncio"]), help="The event loop of --live; trio unless given.")
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
    seed: int | None,
    order: str | None,
    token: str | None,
    live: bool,
    backend: str | None,
    variant: str | None,
    preempt: str | None,
    max_steps: int | None,
    races: bool,
    verifier: str | None,
    output: str | None,
    as_json: bool,
    **printing: Any,
) -> int:
    """Run TARGET once, and print its events and how it ends.

    Nothing given, the plain schedule is run: every thread goes on as long as it can, and nothing fails.
    """
    from kemu.cli.console import Console
    from kemu.cli.hunt import output_directory
    from kemu.cli.single import Single, report_run
    from kemu.cli.targets import select_one

    given = [f"--{name}" for name, value in (("seed", seed), ("order", order), ("token", token)) if value is not None]
    if live:
        given.append("--live")
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each say how to run", remedy="give one of them")
    if backend is not None and not live:
        raise UsageError("--backend is for live runs", remedy="give --live too, or leave it out")
    if live and max_steps is not None:
        raise UsageError("--max-steps is for controlled runs: a live one counts no steps", remedy="leave it out")
    if live and races:
        raise UsageError(
            "--races is for controlled runs: what locks of the event loop order is not known",
            remedy="leave out --live, or --races",
        )
    if live and preempt is not None:
        raise UsageError(
            "--preempt is for controlled runs: in a live one the event loop decides", remedy="leave it out"
        )
    console = Console(as_json=as_json, **printing)
    directory = output_directory(output)
    program = select_one(target, variant, max_steps, preempt, races=races, verifier=verifier)
    single = Single(program)
    if live:
        single.live(backend or "trio")
    else:
        single.controlled(seed=seed, order=order, token=token)
    return report_run(console, single, directory)
