"""What a person reads: data to lines, and nothing else. Lines are ASCII but for what the user's own code says."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 118
LIMIT: Final = 25
"""The most lines of a report of a failure."""


@dataclass(frozen=True, slots=True)
class EventLine:
    """One of the two events that conflict."""

    step: int
    thread: str
    actor: str
    what: str
    place: str
    """``file:line`` of the user's code, or "" if there is none."""
    taken: bool = True
    """False for a step that its thread was stuck before."""


@dataclass(frozen=True, slots=True)
class SwitchLine:
    """A context switch, or an answer that was not plain, that is left in the run."""

    step: int
    what: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """How complicated a run is."""

    decisions: int
    preemptions: int
    switches: int


@dataclass(frozen=True, slots=True)
class Report:
    """A failure, as it is shown."""

    program: str
    code: str
    title: str
    detail: str = ""
    rules: tuple[str, ...] = ()
    bug_check: str = ""
    expected: bool = False
    """Whether the scenario says that this variant has this finding."""
    events: tuple[EventLine, EventLine] | None = None
    cell: str = ""
    reversed: bool = False
    """Whether a run passes in which the two events come the other way round."""
    passes_if: str = ""
    switches: tuple[SwitchLine, ...] = ()
    found: str = ""
    """Where the run comes from, such as ``schedule 37 of 37 (alternating, seed 0)``."""
    count: int = 1
    """How many schedules showed this finding."""
    before: Cost | None = None
    after: Cost | None = None
    replays: int = 0
    notes: tuple[str, ...] = ()
    replay: str = ""
    trace: str = ""


def failure_lines(report: Report, *, limit: int = LIMIT) -> list[str]:
    """The report of a failure: at most *limit* lines, the switches in the middle being what is cut."""
    head = [f"FAIL {report.program}: {report.code}{' (as expected)' if report.expected else ''}"]
    head += _wrap(report.title, most=2)
    if report.rules or report.bug_check:
        rules = f"rules {', '.join(report.rules)}" if report.rules else ""
        head += _wrap("; ".join(part for part in (rules, report.bug_check) if part), most=2)
    if report.detail:
        head += _wrap(report.detail, most=4)
    if report.events is not None:
        head += ["", *_event_lines(report)]
    if report.passes_if:
        head += _wrap(report.passes_if, most=2)
    tail = _tail(report)
    room = limit - len(head) - len(tail)
    return head + _switch_lines(report.switches, room) + tail


def _event_lines(report: Report) -> list[str]:
    assert report.events is not None
    order = "; it passes the other way round" if report.reversed else ""
    heading = f"  two events that touch {report.cell or 'the same state'}, in this order{order}:"
    lines: list[str] = []
    for event in report.events:
        inside = f" in {event.actor}" if event.actor and event.actor != event.thread else ""
        step = f"step {event.step}" if event.taken else "never"
        at = f"  at {event.place}" if event.place else ""
        line = f"    {step:<9} {event.thread}{inside}: {event.what}"
        # What happens and where are what a reader looks for: rather two lines than a shorter one.
        lines += [line + at] if len(line + at) <= WIDTH else [line, f"              {at.strip()}"]
    return [_cut(line) for line in (heading, *lines)]


def _switch_lines(switches: tuple[SwitchLine, ...], room: int) -> list[str]:
    if not switches or room < 3:
        return []
    shown = switches[: room - 2]
    if len(shown) < len(switches):
        shown = switches[: room - 3]
    lines = ["", f"  context switches and answers left ({len(switches)}):"]
    for switch in shown:
        at = f"  at {switch.place}" if switch.place else ""
        lines.append(_cut(f"    step {switch.step:<4} {switch.what}{at}"))
    if len(shown) < len(switches):
        lines.append(f"    ... and {len(switches) - len(shown)} more")
    return lines


def _tail(report: Report) -> list[str]:
    tail = [""]
    if report.found:
        seen = f"; {report.count:,} schedules show it" if report.count > 1 else ""
        tail.append(f"  found in {report.found}{seen}")
    if report.before is not None and report.after is not None:
        before, after = report.before, report.after
        tail.append(
            f"  shrunk in {report.replays} replays: decisions {before.decisions} -> {after.decisions},"
            f" preemptions {before.preemptions} -> {after.preemptions},"
            f" switches {before.switches} -> {after.switches}"
        )
    tail += [_cut(f"  {note}") for note in report.notes[:2]]
    if report.replay:
        tail.append(f"  replay: {report.replay}")
    if report.trace:
        tail.append(f"  trace:  {report.trace}")
    return tail


def _wrap(text: str, *, most: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", max_lines=most, placeholder=" ...")


def _cut(line: str) -> str:
    """*line* on one line: what does not fit any more is left out in the middle, the place at the end stays."""
    line = " ".join(line.splitlines())
    if len(line) <= WIDTH:
        return line
    body, at, place = line.rpartition("  at ")
    if not at:
        return f"{line[: WIDTH - 4]} ..."
    room = WIDTH - len(at) - len(place) - 4
    return f"{body[:room]} ...{at}{place}" if room > 20 else line


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
    expected: str = ""
    """The finding that the scenario says this variant has."""
    traces: int | None = None
    """How many classes of equivalent schedules were explored, if the strategy goes by them."""
    blocked: int = 0
    """How many schedules were given up because they were going to repeat a class."""
    doubt: str = ""
    """Why having explored all classes is no proof."""
    races: bool = False
    """Whether data races were looked for."""

    @property
    def kind(self) -> str:
        """``proof``, ``bound``, ``budget`` or ``interrupted``."""
        if self.exhausted and self.complete:
            return "proof"
        if self.interrupted:
            return "interrupted"
        return "bound" if self.bound is not None else "budget"


def clean_lines(verdict: Verdict, warnings: tuple[str, ...] = ()) -> list[str]:
    """The report of an exploration that found nothing: what that means, and what it does not."""
    about = "" if verdict.distinct_is_exact else "about "
    distinct = f"{about}{verdict.distinct:,} distinct"
    lines = [f"ok {verdict.program}: nothing found"]
    made = f"{_schedules(verdict.schedules)} ({distinct}) of {how(verdict.strategy, verdict.seed)}"
    made = f"{made} in {verdict.seconds:.1f} s"
    if verdict.kind == "proof":
        if verdict.traces is None:
            lines.append(f"  proof: every schedule there is was made, without a bound: {made}")
        else:
            lines.append(f"  proof: all {_classes(verdict)} were explored:")
            lines.append(f"  {made}")
    elif verdict.bound is not None:
        lines.append(
            f"  bound: every schedule with at most {verdict.bound} preemptions plus answers that are not plain was"
        )
        lines.append(f"  made, which proves nothing beyond that bound: {made}")
    else:
        lines.append(f"  budget: no proof: {made}")
        if verdict.traces is not None:
            why = f"all there are, but {verdict.doubt}" if verdict.doubt and verdict.exhausted else "there are more"
            lines.append(f"  the reduced search has explored {_classes(verdict)}; {why}")
    if verdict.bound is None and verdict.kind != "proof" and verdict.schedules and verdict.seed is not None:
        lines.append(f"  {chance(verdict.schedules)}")
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


def chance(schedules: int) -> str:
    """What *schedules* drawn without a failure say about the share that fails: the rule of three."""
    share = min(1.0, 3 / schedules)
    return (
        f"with 95 % confidence less than {share:.2g} (3/{schedules:,}) of the schedules that this strategy draws fail"
    )


def how(strategy: str, seed: int | None) -> str:
    """The strategy and its seed, if it has one."""
    return strategy if seed is None else f"{strategy}, seed {seed}"


def _classes(verdict: Verdict) -> str:
    assert verdict.traces is not None
    many = "class" if verdict.traces == 1 else "classes"
    given_up = f" ({verdict.blocked:,} schedules given up as repetitions)" if verdict.blocked else ""
    return f"{verdict.traces:,} {many} of schedules that differ by more than the order of independent steps{given_up}"


def _schedules(number: int) -> str:
    return f"{number:,} schedule{'' if number == 1 else 's'}"
