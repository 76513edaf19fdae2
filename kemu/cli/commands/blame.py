"""``kemu blame``: the decision after which a failing run was likely to fail."""

from __future__ import annotations

from typing import Any

import click

from kemu.cli import options as opt
from kemu.cli.console import Console
from kemu.cli.interrupt import gentle_interrupts, say
from kemu.errors import EXIT_FINDING, UsageError


@click.command(name="blame")
@click.argument("target")
@click.argument("token")
@click.option("--runs", type=click.IntRange(min=1), default=None, help="Runs for each point; 32 unless given.")
@click.option("--seed", type=opt.seed, default="0", metavar="SEED", help="A number, in hexadecimal too, or random.")
@click.option("--full", is_flag=True, help="Measure after every decision, not only where the chances change most.")
@opt.variant_option
@opt.preempt_option
@opt.max_steps_option
@opt.races_option
@opt.verifier_options
@opt.json_option
@opt.output_options
def command(
    target: str,
    token: str,
    runs: int | None,
    seed: int,
    full: bool,
    variant: str | None,
    preempt: str | None,
    max_steps: int | None,
    races: bool,
    verifier: str | None,
    as_json: bool,
    **printing: Any,
) -> int:
    """Find the decision after which the run of TOKEN was likely to fail.

    The run is followed for some of its decisions and then goes on at random, many times over; where the share of
    runs that fail jumps, the failure was decided.
    """
    from kemu.cli.blaming import blame_lines, blame_object
    from kemu.cli.hunt import trace_of
    from kemu.cli.jsonout import dump
    from kemu.cli.targets import choices_of, select_one
    from kemu.explore.blame import RUNS, blame
    from kemu.explore.strategies.replay import replay
    from kemu.log.render import render

    console = Console(as_json=as_json, **printing)
    program = select_one(target, variant, max_steps, preempt, races=races, verifier=verifier)
    choices = replay(program, choices_of(token, program)).choices
    console.note(f"kemu: {runs or RUNS} runs for each point, seed {seed}")

    def show(done: int, total: int) -> None:
        console.progress(f"{program.name}: {done} of about {total} points")

    with gentle_interrupts(say) as stop:
        found = blame(program, choices, runs=runs or RUNS, seed=seed, full=full, stop=stop, progress=show)
    if found is None:
        raise UsageError(f"the run of this token passes in {program.name}", remedy="give the token of a failing run")
    lines = blame_lines(program, found)
    console.print(lines[:2] if console.quiet else lines)
    if console.verbose:
        console.print(render(trace_of(program, choices, {"token": token})[0], colour=console.colour))
    if as_json:
        fields = {"program": program.name, "exit_code": EXIT_FINDING, "runs": runs or RUNS, "seed": seed}
        console.json(dump("blame", {**fields, **blame_object(program, found)}))
    if found.interrupted:
        raise KeyboardInterrupt
    return EXIT_FINDING
