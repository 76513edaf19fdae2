"""``kemu explore``: many schedules of each program; what breaks is shrunk, explained and reported."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import click

from kemu.cli import options as opt
from kemu.cli.console import Console
from kemu.cli.interrupt import gentle_interrupts, say
from kemu.errors import EXIT_FINDING, EXIT_OK, KemuError, UsageError


@click.command(name="explore")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("-n", "--schedules", type=click.IntRange(min=1), help="Stop after this many schedules of each program.")
@click.option("-t", "--time", "seconds", type=opt.duration, metavar="TIME", help="Stop after this long: 30s, 2m, 1h.")
@click.option("--seed", type=opt.seed, default="0", metavar="SEED", help="A number, in hexadecimal too, or random.")
@click.option(
    "--strategy",
    type=opt.strategy,
    metavar="NAME[:K=V,...]",
    help="portfolio, dpor, alternating, sticky, pct, random, pos, urw, surw, delay, dfs (ipb), idb.",
)
@click.option("--bound", type=opt.bound, metavar="N", help="Most preemptions and answers that are not plain, or none.")
@click.option("--keep-going", is_flag=True, help="Go on after a finding, and report each kind once.")
@click.option("-j", "--jobs", type=opt.jobs, metavar="N", help="Worker processes, or auto: one on each core.")
@click.option(
    "--shard", type=opt.shard, metavar="I/N", help="Make only this part, such as 1/4; see kemu campaign merge."
)
@click.option("--campaign", metavar="DIR", help="Keep what is done in DIR, and go on from what is there.")
@click.option("--cluster", metavar="ADDRESS", help="Use the workers of this dask scheduler, such as tcp://host:8786.")
@click.option("--outcomes", is_flag=True, help="Show what the scenario can come to, with a run for each outcome.")
@click.option("--subset-of", metavar="VARIANT", help="With --outcomes: the others may only come to what VARIANT does.")
@opt.corpus_options
@opt.variant_option
@opt.preempt_option
@opt.max_steps_option
@opt.races_option
@opt.verifier_options
@opt.directory_option
@opt.json_option
@opt.output_options
def command(
    targets: tuple[str, ...],
    schedules: int | None,
    seconds: float | None,
    seed: int,
    strategy: tuple[str, dict[str, int | float | None]] | None,
    bound: int | None,
    keep_going: bool,
    jobs: int | None,
    shard: tuple[int, int] | None,
    campaign: str | None,
    cluster: str | None,
    outcomes: bool,
    subset_of: str | None,
    corpus: str | None,
    no_corpus: bool,
    variant: str | None,
    preempt: str | None,
    max_steps: int | None,
    races: bool,
    verifier: str | None,
    output: str | None,
    as_json: bool,
    **printing: Any,
) -> int:
    """Run scenarios under many schedules, and report what breaks them.

    What failed in earlier explorations is tried first. Each program stops at its first finding unless told
    otherwise. Without -n or -t it gets 10,000 schedules; the exhaustive strategies, dfs, which --bound asks for
    too, idb and dpor, end by themselves. With --shard, -n counts for all shards together; with --campaign, for all
    calls together, while -t counts for this one.
    """
    from kemu.cli.hunt import DEFAULT_SCHEDULES, Hunt, Plan, corpus_of, hunt, memory_lines, output_directory
    from kemu.cli.jsonout import conclude, hunt_object
    from kemu.cli.report import failure_lines
    from kemu.cli.targets import select
    from kemu.cli.verdict import clean_lines, warning_lines
    from kemu.explore import DEFAULT_STRATEGY, EXHAUSTIVE, Budget, Progress

    console = Console(as_json=as_json, **printing)
    division = None
    if any(given is not None for given in (jobs, shard, campaign, cluster)):
        # Not always: it takes longer to load than everything else.
        from kemu.cli.parallel import divided

        division = divided(jobs, shard, campaign, cluster)
    name, values = strategy or (DEFAULT_STRATEGY if bound is None else "dfs", {})
    if bound is not None:
        values = {**values, "bound": None if bound == opt.NO_BOUND else bound}
    if schedules is None and seconds is None and name not in EXHAUSTIVE:
        schedules = DEFAULT_SCHEDULES
    kept = corpus_of(corpus, without=no_corpus)
    plan = Plan(name, values, seed, Budget(schedules, seconds), keep_going, output_directory(output), corpus=kept)
    # Whatever is wrong with what was typed has to come out before anything is explored.
    made = plan.make_strategy()
    programs = select(targets, variant, max_steps, preempt, races=races, verifier=verifier)
    drawn = "" if made.seed is None else f", seed {made.seed}"
    console.note(
        f"kemu: {len(programs)} program{'s' * (len(programs) != 1)}, strategy {made.name}{drawn}{division or ''}"
    )
    if outcomes or subset_of is not None:
        from kemu.cli.outcomes import report_outcomes

        if not outcomes:
            raise UsageError("--subset-of compares outcomes", remedy="give --outcomes as well")
        if division is not None:
            raise UsageError(
                "outcomes are collected by one process", remedy="leave out -j, --shard, --campaign and --cluster"
            )
        if output is not None or corpus is not None:
            raise UsageError(
                "outcomes come without traces, and nothing is kept of them",
                remedy="leave out -o and --corpus; kemu replay -o writes the trace of an outcome's run",
            )
        return report_outcomes(console, programs, plan, subset_of)
    hunts: list[Hunt] = []
    error: KemuError | None = None
    interrupted = False
    stack = ExitStack()
    try:
        if division is not None:
            plan = replace(plan, engine=stack.enter_context(division.engine(plan, programs)))
        for program in programs:
            label = program.name

            def show(progress: Progress, label: str = label) -> None:
                console.progress(
                    f"{label}: {progress.schedules:,} schedules, {progress.distinct:,} distinct,"
                    f" {progress.findings} found, {progress.seconds:.0f} s"
                )

            with gentle_interrupts(say) as stop:
                one = hunt(program, plan, progress=show, stop=stop, note=console.progress)
            if hunts and not console.quiet:
                console.print([""])
            hunts.append(one)
            for found in one.found:
                lines = failure_lines(found.report)
                console.print(lines[:1] if console.quiet else lines)
                if console.verbose and found.trace is not None:
                    from kemu.log.render import render

                    console.print(render(found.trace, colour=console.colour))
            if not one.found:
                lines = clean_lines(one.verdict, one.warnings)
                console.print(lines[:1] if console.quiet else lines)
            elif not console.quiet:
                console.print(warning_lines(one.warnings))
            if not console.quiet:
                console.print(memory_lines(one, is_over=not keep_going))
            for problem in kept.take_problems() if kept is not None else ():
                console.note(f"kemu: warning: {problem}")
            interrupted = interrupted or one.interrupted
            error = error or one.error
            if interrupted or error is not None:
                break
    except KeyboardInterrupt:
        interrupted = True
    except KemuError as raised:
        error = raised
    finally:
        stack.close()
    fields = {"seed": seed, "programs": [hunt_object(one) for one in hunts]}
    code = EXIT_FINDING if any(one.found for one in hunts) else EXIT_OK
    return conclude(console, "explore", fields, code, error=error, interrupted=interrupted)
