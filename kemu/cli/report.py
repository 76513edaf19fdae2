"""What a person reads of a failure: data to lines, and nothing else.

Lines are ASCII but for what the user's own code says.
"""

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
class OrderLine:
    """One of the orders of two events that make the run fail."""

    first: EventLine
    second: EventLine
    cell: str
    reversal: str = "passes"
    """What comes of the other way round, as `kemu.explore.Order` says it."""


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
    verifier: str = ""
    expected: bool = False
    """Whether the scenario says that this variant has this finding."""
    events: tuple[EventLine, EventLine] | None = None
    cell: str = ""
    reversed: bool = False
    """Whether a run passes in which the two events come the other way round."""
    orders: tuple[OrderLine, ...] | None = None
    """The orders that make the run fail, as they come in it; None if they are not known."""
    checked: int = 0
    """How many runs kept these orders, with the rest at random. All of them failed."""
    settled: bool = True
    """Whether these were as many as were to be made."""
    why_no_orders: str = ""
    preemptions: int | None = None
    """How many there are in the run."""
    answers: int = 0
    """How many of its answers are not plain."""
    fewest: bool = False
    """Whether no run with fewer of both fails in the same way."""
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
    head += wrap(report.title, most=2)
    if report.rules or report.bug_check or report.verifier:
        rules = f"rules {', '.join(report.rules)}" if report.rules else ""
        verified = f"with Driver Verifier {report.verifier}" if report.verifier else ""
        head += wrap("; ".join(part for part in (rules, report.bug_check, verified) if part), most=3)
    if report.detail:
        head += wrap(report.detail, most=4)
    tail = _tail(report)
    flip = wrap(report.passes_if, most=2) if report.passes_if else []
    head += _reasons(report, limit - len(head) - len(flip) - len(tail))
    head += flip
    room = limit - len(head) - len(tail)
    return head + _switch_lines(report.switches, room) + tail


def _reasons(report: Report, room: int) -> list[str]:
    """Which events came in which order, and what that has to do with the failure; at most *room* lines."""
    orders = report.orders
    if orders is not None and len(orders) > 1:
        return _order_lines(report, orders, room)
    kept = f"{report.checked} of {report.checked} runs that kept this order failed, with the rest at random"
    if orders:
        (only,) = orders
        lines = _event_lines((only.first, only.second), only.cell, passes=only.reversal.startswith("passes"))
        note = _reversals(orders)
        needed = "is" if report.settled else "seems to be"
        notes = [_cut(f"  {note}")] if note else []
        return ["", *lines, *notes, f"  nothing more {needed} needed: {kept}{_unsettled(report)}"]
    if orders is not None:
        made = f"{report.checked} of {report.checked} runs failed"
        given = ", given the answers below" if report.answers else ""
        return ["", f"  it fails in whatever order{given}: {made}{_unsettled(report)}"]
    lines = [] if report.events is None else ["", *_event_lines(report.events, report.cell, passes=report.reversed)]
    if report.why_no_orders:
        lines.append(f"  which orders of events make it fail is not known: {report.why_no_orders}")
    return lines


def _order_lines(report: Report, orders: tuple[OrderLine, ...], room: int) -> list[str]:
    number = len(orders)
    passes = all(order.reversal.startswith("passes") for order in orders)
    end = f", and passes if {'either' if number == 2 else 'any of them'} is reversed" if passes else ""
    runs = f"{report.checked} of {report.checked} runs{_unsettled(report)}"
    note = _reversals(orders)
    notes = [_cut(f"  {note}")] if note else []
    lines = ["", f"  it fails whenever these {number} orders are kept ({runs}){end}:"]
    room -= len(lines) + len(notes)
    whole = [line for place, order in enumerate(orders, 1) for line in _order_pair(place, order, whole=True)]
    if len(whole) + len(report.switches) + 2 <= room:
        return lines + whole + notes
    shown = orders[: max(1, room // 2)]
    if len(shown) < number:
        shown = orders[: max(1, (room - 1) // 2)]
    lines += [line for place, order in enumerate(shown, 1) for line in _order_pair(place, order, whole=False)]
    if len(shown) < number:
        lines.append(f"    ... and {number - len(shown)} more")
    return lines + notes


def _order_pair(place: int, order: OrderLine, *, whole: bool) -> list[str]:
    """The two events of an order; what does not fit on a line goes to the next one if it is to be *whole*."""
    lines: list[str] = []
    for head, event in ((f"    {place}. ", order.first), ("       before ", order.second)):
        step = f"step {event.step}" if event.taken else ""
        lines += _placed(f"{head + step:<22} {_event(event)}", " " * 23 if whole else None)
    return lines


def _placed(line: str, indent: str | None) -> list[str]:
    """*line*, which may end with a place, on one line, or if that is too long and there is an *indent*, on two."""
    line = " ".join(line.splitlines())
    body, at, place = line.rpartition("  at ")
    if len(line) <= WIDTH or not at or indent is None:
        return [_cut(line)]
    return [_cut(body), _cut(f"{indent}at {place}")]


def _reversals(orders: tuple[OrderLine, ...]) -> str:
    """What there is to say about orders that cannot simply be reversed."""
    words = {
        "passes with others": "passes, but reverses another one as well",
        "fails otherwise": "fails in another way",
        "impossible": "could not be tested: no run was found that can do so",
        "untested": "was not tested",
    }
    which = ("it", *(f"order {place}" for place in range(1, len(orders) + 1)))[1 if len(orders) > 1 else 0 :]
    parts = [
        f"reversing {name} {words[order.reversal]}"
        for name, order in zip(which, orders, strict=False)
        if order.reversal in words
    ]
    return "; ".join(parts)


def _unsettled(report: Report) -> str:
    return "" if report.settled else ", then the search was ended"


def _event(event: EventLine) -> str:
    inside = f" in {event.actor}" if event.actor and event.actor != event.thread else ""
    at = f"  at {event.place}" if event.place else ""
    return f"{event.thread}{inside}: {event.what}{at}"


def _event_lines(events: tuple[EventLine, EventLine], cell: str, *, passes: bool) -> list[str]:
    order = "; it passes the other way round" if passes else ""
    heading = f"  two events that touch {cell or 'the same state'}, in this order{order}:"
    lines: list[str] = []
    for event in events:
        step = f"step {event.step}" if event.taken else "never"
        # What happens and where are what a reader looks for: rather two lines than a shorter one.
        lines += _placed(f"    {step:<9} {_event(event)}", " " * 14)
    return [_cut(heading), *lines]


def _switch_lines(switches: tuple[SwitchLine, ...], room: int) -> list[str]:
    if not switches or room < 3:
        return []
    shown = switches[: room - 2]
    if len(shown) < len(switches):
        shown = switches[: room - 3]
    if not shown:
        return []
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
    if report.orders is not None and report.preemptions is not None:
        verb = "is" if report.answers == 1 else "are"
        answers = f" and {plural(report.answers, 'answer')} that {verb} not plain" if report.answers else ""
        depth = plural(len(report.orders), "order")
        there = f"{plural(report.preemptions, 'preemption')}{answers} in this run"
        fewest = ", and none with fewer fails" if report.fewest and report.preemptions + report.answers else ""
        tail.append(f"  bug depth: {depth} of events; {there}{fewest}")
    tail += [_cut(f"  {note}") for note in report.notes[:2]]
    if report.replay:
        tail.append(f"  replay: {report.replay}")
    if report.trace:
        tail.append(f"  trace:  {report.trace}")
    return tail


def wrap(text: str, *, most: int) -> list[str]:
    """*text* as at most so many indented lines."""
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


def plural(number: int, what: str) -> str:
    """``1 schedule``, ``2 schedules``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
