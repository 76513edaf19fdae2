"""``kemu explore --outcomes``: what each program can come to, and whether one variant does only what another may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kemu.cli.console import Console
from kemu.cli.hunt import Plan
from kemu.cli.interrupt import gentle_interrupts, say
from kemu.cli.jsonout import conclude
from kemu.cli.targets import Program, replay_command
from kemu.cli.verdict import how
from kemu.errors import EXIT_FINDING, EXIT_OK, KemuError, UsageError
from kemu.explore import OutcomeSet, Progress, Reached, collect_outcomes, encode


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of one program, and those that it should not have."""

    program: Program
    set: OutcomeSet
    reference: OutcomeSet | None = None
    """The outcomes of the variant that it is held against."""

    @property
    def beyond(self) -> tuple[Reached, ...]:
        """Those that the reference does not have."""
        return () if self.reference is None else self.set.beyond(self.reference)

    def token(self, one: Reached) -> str:
        """The run that came to *one*."""
        return encode(one.choices, self.program.identity)


def outcomes_of(
    programs: Sequence[Program],
    plan: Plan,
    subset_of: str | None,
    *,
    progress: Callable[[str, Progress], None],
    stop: Callable[[], bool],
    done: Callable[[Outcomes], None],
) -> list[Outcomes]:
    """Collect what each of *programs* comes to, and tell *done* of one after the other.

    With *subset_of*, the variant of that name is explored first, for each scenario, and the others are held against it.
    """
    if subset_of is not None:
        check_reference(programs, subset_of)
        programs = sorted(programs, key=lambda one: (base(one), not is_variant(one, subset_of)))
    references: dict[str, OutcomeSet] = {}
    found: list[Outcomes] = []
    for program in programs:
        name = program.name

        def show(one: Progress, name: str = name) -> None:
            progress(name, one)

        reached = collect_outcomes(program, plan.make_strategy(), plan.budget, progress=show, stop=stop)
        if subset_of is not None and is_variant(program, subset_of):
            references[base(program)] = reached
        result = Outcomes(program, reached, references.get(base(program)))
        found.append(result)
        done(result)
        if reached.exploration.interrupted or reached.exploration.error is not None:
            break
    return found


def check_reference(programs: Sequence[Program], variant: str) -> None:
    """Refuse a *variant* to compare with that a scenario among *programs* does not have, or that is all it has."""
    for scenario in dict.fromkeys(base(program) for program in programs):
        own = [program for program in programs if base(program) == scenario]
        if not any(is_variant(program, variant) for program in own):
            names = ", ".join(program.name.rpartition("[")[2][:-1] for program in own)
            raise UsageError(
                f"{scenario} has no variant {variant!r} among those to explore, which are {names}",
                remedy="give --variant all, and one of them to --subset-of",
            )
        if len(own) == 1:
            raise UsageError(
                f"there is nothing of {scenario} to compare with {variant!r}", remedy="give --variant all as well"
            )


def base(program: Program) -> str:
    """The program's name without its variant."""
    return program.name.rpartition("[")[0]


def is_variant(program: Program, variant: str) -> bool:
    """Whether *program* is that *variant* of its scenario."""
    return program.name.endswith(f"[{variant}]")


def outcome_lines(found: Outcomes) -> list[str]:
    """The report of one program."""
    exploration = found.set.exploration
    number = len(found.set.reached)
    extent = "all there are" if found.set.is_complete else "there may be more"
    lines = [f"{found.program.name}: {number} outcome{'' if number == 1 else 's'}; {extent}"]
    lines.append(
        f"  {exploration.schedules:,} schedules of {how(exploration.strategy, exploration.seed)}"
        f" in {exploration.seconds:.1f} s"
    )
    beyond = {one.value for one in found.beyond}
    for one in found.set.reached:
        mark = "  (not in the reference)" if one.value in beyond else ""
        lines.append(f"  {one}{mark}")
        lines.append(f"    {replay_command(found.program, found.token(one))}")
    if found.reference is not None and found.reference is not found.set:
        lines.append(f"  {comparison(found)}")
    if exploration.interrupted:
        lines.append("  interrupted: these are the outcomes until then")
    return lines


def comparison(found: Outcomes) -> str:
    """What the comparison with the reference comes to."""
    assert found.reference is not None
    beyond = len(found.beyond)
    if beyond:
        unsure = "" if found.reference.is_complete else ", of which there may be more than were seen"
        return f"{beyond} outcome{'' if beyond == 1 else 's'} that the reference does not have{unsure}"
    if found.set.is_complete:
        return "a subset of the reference's outcomes: proved"
    return "a subset of the reference's outcomes, as far as was explored"


def outcome_object(found: Outcomes) -> dict[str, Any]:
    """One program, for ``--json``."""
    exploration = found.set.exploration
    beyond = {one.value for one in found.beyond}
    return {
        "program": found.program.name,
        "complete": found.set.is_complete,
        "strategy": exploration.strategy,
        "seed": exploration.seed,
        "schedules": exploration.schedules,
        "seconds": round(exploration.seconds, 3),
        "interrupted": exploration.interrupted,
        "outcomes": [
            {
                "value": list(one.value),
                "count": one.count,
                "run": one.run,
                "token": found.token(one),
                "replay": replay_command(found.program, found.token(one)),
                "in_reference": None if found.reference is None else one.value not in beyond,
            }
            for one in found.set.reached
        ],
    }


def report_outcomes(console: Console, programs: Sequence[Program], plan: Plan, subset_of: str | None) -> int:
    """Collect and print; the exit code. It is that of a finding if an outcome is not among the reference's."""
    found: list[Outcomes] = []

    def show(name: str, progress: Progress) -> None:
        console.progress(f"{name}: {progress.schedules:,} schedules, {progress.seconds:.0f} s")

    def done(one: Outcomes) -> None:
        if found and not console.quiet:
            console.print([""])
        found.append(one)
        lines = outcome_lines(one)
        console.print(lines[:1] if console.quiet else lines)

    error: KemuError | None = None
    interrupted = False
    try:
        with gentle_interrupts(say) as stop:
            outcomes_of(programs, plan, subset_of, progress=show, stop=stop, done=done)
    except KeyboardInterrupt:
        interrupted = True
    except KemuError as raised:
        if not found:
            raise
        error = raised
    error = error or next((one.set.exploration.error for one in found if one.set.exploration.error is not None), None)
    interrupted = interrupted or any(one.set.exploration.interrupted for one in found)
    fields = {"seed": plan.seed, "subset_of": subset_of, "programs": [outcome_object(one) for one in found]}
    code = EXIT_FINDING if any(one.beyond for one in found) else EXIT_OK
    return conclude(console, "explore", fields, code, error=error, interrupted=interrupted)
