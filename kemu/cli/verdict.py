"""What a person reads of an exploration that has found nothing: what that is worth, and what it is not."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kemu.cli.report import WIDTH, plural, wrap

if TYPE_CHECKING:
    from kemu.explore import Estimate

COST: Final = "preemptions plus answers that are not plain"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exploration without a finding comes to."""

    program: str
    strategy: str
    seed: int | None
    schedules: int
    distinct: int
    distinct_is_exact: bool
    seconds: float
    exhausted: bool
    """Whether the strategy had nothing left."""
    complete: bool
    """Whether it had no bound, or none that left anything out: together with `exhausted`, a proof."""
    bound: int | None
    """The largest bound within which everything was made."""
    interrupted: bool = False
    cost: str = COST
    """What the bound counts."""
    expected: str = ""
    """The finding that the scenario says this variant has."""
    traces: int | None = None
    """How many classes of equivalent schedules were explored, if the strategy goes by them."""
    blocked: int = 0
    """How many schedules were given up because they were going to repeat a class."""
    doubt: str = ""
    """Why having explored all classes is no proof."""
    coarse: str = ""
    """Why all steps of the drivers' code count as dependent; "" if their state was told apart field by field."""
    estimates: tuple[Estimate, ...] = ()
    """What samplers that can make every schedule are likely not to have seen."""
    mixed: bool = False
    """Whether not all runs were drawn, or not in the same way throughout."""
    shard: str = ""
    """Which part of the exploration it is about; empty for all of it."""
    races: bool = False
    """Whether data races were looked for."""

    @property
    def kind(self) -> str:
        """``proof``, ``bound``, ``budget``, ``interrupted`` or ``shard``."""
        if self.shard:
            return "interrupted" if self.interrupted else "shard"
        if self.exhausted and self.complete:
            return "proof"
        if self.interrupted:
            return "interrupted"
        return "bound" if self.bound is not None else "budget"

    @property
    def drawn(self) -> tuple[int, str] | None:
        """How many runs were drawn alike, and by whom; None if nothing follows from it.

        Of a mixture only the runs of one sampler are drawn alike.
        """
        if self.bound is not None or self.kind == "proof" or not self.schedules or self.seed is None:
            return None
        if not self.mixed:
            return self.schedules, "this strategy"
        return (self.estimates[0].runs, self.estimates[0].sampler) if self.estimates else None


def clean_lines(verdict: Verdict, warnings: tuple[str, ...] = ()) -> list[str]:
    """The report of an exploration that found nothing: what that means, and what it does not."""
    about = "" if verdict.distinct_is_exact else "about "
    distinct = f"{about}{verdict.distinct:,} distinct"
    lines = [f"ok {verdict.program}: nothing found"]
    made = f"{plural(verdict.schedules, 'schedule')} ({distinct}) of {how(verdict.strategy, verdict.seed)}"
    made = f"{made} in {verdict.seconds:.1f} s"
    if verdict.shard:
        lines.append(f"  shard {verdict.shard}: a part of the exploration, which proves nothing by itself: {made}")
    elif verdict.kind == "proof":
        if verdict.traces is None:
            lines.append(f"  proof: every schedule there is was made, without a bound: {made}")
        else:
            lines += wrap(f"proof: all {_classes(verdict)} were explored:", most=2)
            lines.append(f"  {made}")
            if verdict.coarse:
                lines += wrap(f"all steps of the drivers' code count as dependent: {verdict.coarse}", most=2)
    elif verdict.bound is not None:
        lines.append(f"  bound: every schedule with at most {verdict.bound} {verdict.cost} was")
        lines.append(f"  made, which proves nothing beyond that bound: {made}")
    else:
        lines.append(f"  budget: no proof: {made}")
        lines += wrap(_reduced(verdict), most=2)
    if verdict.drawn is not None:
        lines.append(f"  {chance(*verdict.drawn)}")
        lines += [f"  {unseen(estimate)}" for estimate in verdict.estimates[:1]]
    if verdict.races:
        lines.append("  races: none in these schedules")
    if verdict.interrupted:
        lines.append("  interrupted: this is what there was until then")
    if verdict.expected:
        lines.append(f"  the scenario expects {verdict.expected}, which did not come up")
    return lines + warning_lines(warnings)


def warning_lines(warnings: tuple[str, ...]) -> list[str]:
    """Lines for what is wrong without being a failure."""
    lines: list[str] = []
    for text in warnings[:5]:
        lines += textwrap.wrap(f"warning: {text}", WIDTH, subsequent_indent="  ", max_lines=3, placeholder=" ...")
    if len(warnings) > 5:
        lines.append(f"warning: ... and {len(warnings) - 5} more")
    return lines


def chance(schedules: int, sampler: str = "this strategy") -> str:
    """What *schedules* drawn without a failure say about the share that fails: the rule of three."""
    share = min(1.0, 3 / schedules)
    return f"with 95 % confidence less than {share:.2g} (3/{schedules:,}) of the schedules that {sampler} draws fail"


def unseen(estimate: Estimate) -> str:
    """How much a sampler has not seen, as far as its own runs tell."""
    about = f"{estimate.runs:,} runs of {estimate.sampler}"
    if estimate.once:
        share = f"about {100 * estimate.unseen:.2g} % of this sampler's mass is unseen"
    else:
        share = f"less than about {100 * estimate.failing_below:.2g} % of this sampler's mass is unseen"
    return f"{share} ({about}); not a bound on bugs"


def how(strategy: str, seed: int | None) -> str:
    """The strategy and its seed, if it has one."""
    return strategy if seed is None else f"{strategy}, seed {seed}"


def _reduced(verdict: Verdict) -> str:
    """How far a reduced search has come that has proved nothing."""
    if verdict.traces is None:
        return ""
    if not verdict.traces and verdict.doubt:
        return f"the reduced search was left out: {verdict.doubt}"
    why = "there are more"
    if verdict.doubt:
        why = f"all there are, but {verdict.doubt}" if verdict.exhausted else f"it was given up: {verdict.doubt}"
    return f"the reduced search has explored {_classes(verdict)}; {why}"


def _classes(verdict: Verdict) -> str:
    assert verdict.traces is not None
    many = "class" if verdict.traces == 1 else "classes"
    given_up = f" ({verdict.blocked:,} schedules given up as repetitions)" if verdict.blocked else ""
    return f"{verdict.traces:,} {many} of schedules that differ by more than the order of independent steps{given_up}"
