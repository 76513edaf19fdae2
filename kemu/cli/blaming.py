"""What ``kemu blame`` says: the curve of a bug's chances, and the decision after which they were others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kemu.cli.hunt import place_text
from kemu.cli.report import WIDTH
from kemu.cli.targets import Program
from kemu.explore.blame import Blame, Point, Rise

BAR: Final = 40
MOST_POINTS: Final = 18
"""The most lines of a curve."""


def blame_lines(program: Program, blame: Blame) -> list[str]:
    """The report: what failed, the decision, the curve."""
    lines = [f"FAIL {program.name}: {blame.failure.code}"]
    lines += rise_lines(program, blame)
    lines += ["", "  decisions followed, and how many of the runs that then go on at random fail in the same way:"]
    lines += curve_lines(blame)
    if blame.interrupted:
        lines.append("  interrupted: this is what was measured until then")
    return lines


def rise_lines(program: Program, blame: Blame) -> list[str]:
    """The decision that is to blame, and what it led to."""
    rise = blame.rise
    if rise is None:
        if blame.interrupted:
            return ["  no single decision was singled out"]
        return ["  no decision makes the failure any likelier: it fails as often without them"]
    words = f"decision {rise.number} of {blame.decisions}: {_percent(rise.before)} -> {_percent(rise.after)}"
    if not rise.stands_out:
        words = f"no decision stands out from chance; the largest rise is {words}"
    return [f"  {words}", *(f"    {line}"[:WIDTH] for line in _what(program, rise))]


def _what(program: Program, rise: Rise) -> list[str]:
    decision, event = rise.decision, rise.event
    if decision.kind == "data":
        answer = f"{decision.label!r} is answered {decision.value} (of 0 to {decision.n - 1})"
        who = "" if event is None else f" by {event.thread}"
        return [f"step {decision.step}{who}: {answer}"]
    if event is None or not event.taken:
        return [f"step {decision.step}: {decision.label} goes on"]
    if decision.preemption:
        how = "preempts who was running"
    else:
        how = "goes on" if decision.continues and not decision.value else "is picked"
    at = place_text(program, event.place)
    return [f"step {event.step}: {event.thread} {how}: {event.what}", *([f"  at {at}"] if at else [])]


def curve_lines(blame: Blame) -> list[str]:
    """The curve, one line a point; of many points those are shown around which it changes most."""
    shown = _telling(blame.curve, MOST_POINTS)
    width = len(str(blame.decisions))
    lines: list[str] = []
    for at, number in enumerate(shown):
        point = blame.curve[number]
        if at and number > shown[at - 1] + 1:
            lines.append(f"    {'...':>{width}}")
        bar = "#" * round(point.share * BAR)
        count = "the run itself" if point.certain else f"{point.failed} of {point.runs}"
        mark = "  <" if blame.rise is not None and point.decisions == blame.rise.number else ""
        lines.append(f"    {point.decisions:>{width}}  |{bar:<{BAR}}| {_percent(point):>5}  {count}{mark}")
    return lines


def _telling(curve: Sequence[Point], most: int) -> list[int]:
    """The places of at most *most* points of the curve: both ends, and both sides of the largest changes."""
    chosen = {0, len(curve) - 1}
    changes = sorted(range(1, len(curve)), key=lambda at: -abs(curve[at].share - curve[at - 1].share))
    for at in changes:
        if len(chosen | {at - 1, at}) > most:
            break
        chosen |= {at - 1, at}
    return sorted(chosen)


def _percent(point: Point) -> str:
    return f"{100 * point.share:.0f} %"


def blame_object(program: Program, blame: Blame) -> dict[str, Any]:
    """The same for machines."""
    rise = blame.rise
    return {
        "code": blame.failure.code,
        "signature": list(blame.failure.signature),
        "decisions": blame.decisions,
        "made": blame.runs,
        "interrupted": blame.interrupted,
        "curve": [[point.decisions, point.failed, point.runs] for point in blame.curve],
        "rise": None if rise is None else _rise_object(program, rise),
    }


def _rise_object(program: Program, rise: Rise) -> dict[str, Any]:
    event = rise.event
    return {
        "decision": rise.number,
        "before": [rise.before.failed, rise.before.runs],
        "after": [rise.after.failed, rise.after.runs],
        "stands_out": rise.stands_out,
        "kind": rise.decision.kind,
        "step": rise.decision.step,
        "label": rise.decision.label,
        "value": rise.decision.value,
        "thread": None if event is None else event.thread,
        "what": None if event is None else event.what,
        "place": None if event is None else place_text(program, event.place),
    }
