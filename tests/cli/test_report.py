"""The text of reports, pinned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kemu.cli.report import (
    LIMIT,
    WIDTH,
    Cost,
    EventLine,
    OrderLine,
    Report,
    SwitchLine,
    failure_lines,
)
from kemu.cli.verdict import Verdict, chance, clean_lines, warning_lines
from kemu.explore import Estimate

RACE = Report(
    program="scenarios/minifilter/touch.py::touch[buggy]",
    code="cbd-use-after-release",
    title="callback data was used after control of the operation was given back",
    detail="app reads Data->Iopb of IRP_MJ_CREATE after wk:delayed#0 gave the operation back",
    rules=("FLT-CBD-18", "FLT-WORK-06"),
    bug_check="BugCheck F5, {6e, 0, 0, 0} FLTMGR_FILE_SYSTEM",
    expected=True,
    events=(
        EventLine(8, "wk:delayed#0", "flt:scan", "complete the pended IRP_MJ_CREATE", "touch.py:62"),
        EventLine(10, "app", "app", "return from queueing IRP_MJ_CREATE", "touch.py:72"),
    ),
    cell="flt:scan",
    reversed=True,
    passes_if="passes if step 8 is taken by app instead of wk:delayed#0",
    switches=(
        SwitchLine(6, "app is preempted by wk:delayed#0 before: return from queueing", "touch.py:72"),
        SwitchLine(10, "wk:delayed#0 gives way to app"),
    ),
    found="schedule 2 of 2 (alternating, seed 0, 0.1 s)",
    count=1_234,
    before=Cost(64, 7, 20),
    after=Cost(5, 1, 3),
    replays=41,
    notes=("there may be a simpler run",),
    replay="kemu replay 'touch.py::touch[buggy]' KS1.74d168df.NgE",
    trace="out/touch.trace.jsonl",
)


def test_a_race() -> None:
    assert failure_lines(RACE) == [
        "FAIL scenarios/minifilter/touch.py::touch[buggy]: cbd-use-after-release (as expected)",
        "  callback data was used after control of the operation was given back",
        "  rules FLT-CBD-18, FLT-WORK-06; BugCheck F5, {6e, 0, 0, 0} FLTMGR_FILE_SYSTEM",
        "  app reads Data->Iopb of IRP_MJ_CREATE after wk:delayed#0 gave the operation back",
        "",
        "  two events that touch flt:scan, in this order; it passes the other way round:",
        "    step 8    wk:delayed#0 in flt:scan: complete the pended IRP_MJ_CREATE  at touch.py:62",
        "    step 10   app: return from queueing IRP_MJ_CREATE  at touch.py:72",
        "  passes if step 8 is taken by app instead of wk:delayed#0",
        "",
        "  context switches and answers left (2):",
        "    step 6    app is preempted by wk:delayed#0 before: return from queueing  at touch.py:72",
        "    step 10   wk:delayed#0 gives way to app",
        "",
        "  found in schedule 2 of 2 (alternating, seed 0, 0.1 s); 1,234 schedules show it",
        "  shrunk in 41 replays: decisions 64 -> 5, preemptions 7 -> 1, switches 20 -> 3",
        "  there may be a simpler run",
        "  replay: kemu replay 'touch.py::touch[buggy]' KS1.74d168df.NgE",
        "  trace:  out/touch.trace.jsonl",
    ]


def order(first: int, second: int | None, reversal: str = "passes", words: str = "store x") -> OrderLine:
    """An order of two events; None for one that never came."""
    late = EventLine(second or 0, "two", "flt:scan", words, "folder/b.py:2", taken=second is not None)
    return OrderLine(EventLine(first, "one", "", words, "a.py:1"), late, "x", reversal)


def reasons(report: Report) -> list[str]:
    """What the report says between what is wrong and the switches."""
    lines = failure_lines(replace(report, switches=()))
    start = lines.index("")
    return lines[start + 1 : lines.index("", start + 1)]


KNOWN = replace(RACE, orders=(order(3, 5),), checked=20, preemptions=1, passes_if="")


def test_one_order() -> None:
    assert reasons(KNOWN) == [
        "  two events that touch x, in this order; it passes the other way round:",
        "    step 3    one: store x  at a.py:1",
        "    step 5    two in flt:scan: store x  at folder/b.py:2",
        "  nothing more is needed: 20 of 20 runs that kept this order failed, with the rest at random",
    ]
    assert "  bug depth: 1 order of events; 1 preemption in this run" in failure_lines(KNOWN)


def test_an_order_that_was_not_reversed() -> None:
    report = replace(KNOWN, orders=(order(3, 5, "fails otherwise"),))
    assert reasons(report)[0] == "  two events that touch x, in this order:"
    assert reasons(report)[-2:] == [
        "  reversing it fails in another way",
        "  nothing more is needed: 20 of 20 runs that kept this order failed, with the rest at random",
    ]


def test_one_order_that_was_not_checked_to_the_end() -> None:
    assert reasons(replace(KNOWN, checked=3, settled=False))[-1] == (
        "  nothing more seems to be needed: 3 of 3 runs that kept this order failed, with the rest at random,"
        " then the search was ended"
    )


def test_several_orders() -> None:
    report = replace(KNOWN, orders=(order(3, 5), order(6, None)), preemptions=0)
    assert reasons(report) == [
        "  it fails whenever these 2 orders are kept (20 of 20 runs), and passes if either is reversed:",
        "    1. step 3          one: store x  at a.py:1",
        "       before step 5   two in flt:scan: store x  at folder/b.py:2",
        "    2. step 6          one: store x  at a.py:1",
        "       before          two in flt:scan: store x  at folder/b.py:2",
    ]
    assert "  bug depth: 2 orders of events; 0 preemptions in this run" in failure_lines(report)


def test_orders_of_which_not_all_could_be_reversed() -> None:
    three = (order(1, 2, "passes with others"), order(3, 4, "impossible"), order(5, 6, "untested"))
    report = replace(KNOWN, orders=three, checked=7, settled=False)
    lines = reasons(report)
    assert lines[0] == "  it fails whenever these 3 orders are kept (7 of 7 runs, then the search was ended):"
    assert lines[-1].startswith(
        "  reversing order 1 passes, but reverses another one as well; reversing order 2 could not be tested: no run"
    )
    three = (order(1, 2), order(3, 4, "passes with others"), order(5, 6))
    lines = reasons(replace(KNOWN, orders=three))
    assert lines[0].endswith(" (20 of 20 runs), and passes if any of them is reversed:")
    assert lines[-1] == "  reversing order 2 passes, but reverses another one as well"


def test_it_fails_in_whatever_order() -> None:
    report = replace(RACE, orders=(), checked=20, reversed=False, answers=2, preemptions=0, passes_if="")
    # No two events have anything to do with it, so none are shown.
    assert reasons(report) == ["  it fails in whatever order, given the answers below: 20 of 20 runs failed"]
    depth = "  bug depth: 0 orders of events; 0 preemptions and 2 answers that are not plain in this run"
    assert depth in failure_lines(report)
    assert reasons(replace(report, answers=0)) == ["  it fails in whatever order: 20 of 20 runs failed"]
    one = failure_lines(replace(report, answers=1))
    assert any(line.endswith("and 1 answer that is not plain in this run") for line in one)


def test_whether_fewer_preemptions_would_do() -> None:
    report = replace(KNOWN, fewest=True)
    assert "  bug depth: 1 order of events; 1 preemption in this run, and none with fewer fails" in failure_lines(
        report
    )
    report = replace(KNOWN, fewest=True, answers=1)
    there = "1 preemption and 1 answer that is not plain in this run, and none with fewer fails"
    assert f"  bug depth: 1 order of events; {there}" in failure_lines(report)
    # Nobody thinks that there could be fewer than none.
    report = replace(KNOWN, fewest=True, preemptions=0)
    assert "  bug depth: 1 order of events; 0 preemptions in this run" in failure_lines(report)


def test_orders_that_are_not_known() -> None:
    lines = reasons(replace(RACE, why_no_orders="the replays were used up"))
    assert "  which orders of events make it fail is not known: the replays were used up" in lines


@pytest.mark.parametrize("number", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("words", [1, 40])
@pytest.mark.parametrize("switches", [0, 3, 40])
def test_with_orders_too_it_never_has_more_than_25_lines(number: int, words: int, switches: int) -> None:
    long = "word " * words
    report = replace(
        RACE,
        title=long,
        detail=long,
        rules=("FLT-RULE-1",) * words,
        passes_if=long,
        orders=tuple(order(at, at + 1, "passes with others", long) for at in range(number)),
        checked=20,
        preemptions=2,
        switches=tuple(SwitchLine(at, long, "folder/file.py:62") for at in range(switches)),
    )
    lines = failure_lines(report)
    assert len(lines) <= LIMIT
    assert max(len(line) for line in lines) <= WIDTH
    shown = sum(line.endswith("a.py:1") for line in lines)
    more = [line for line in lines if line.startswith("    ... and") and line.endswith("more")]
    assert shown == number or f"    ... and {number - shown} more" in more
    assert shown >= 2
    # No heading over nothing.
    assert not any(line.startswith("    ... and") for line in lines[1:] if lines[lines.index(line) - 1].endswith("):"))
    assert lines[-2:] == failure_lines(RACE)[-2:]


def test_a_hang_without_switches() -> None:
    report = Report(
        program="a.py::a[b]",
        code="ke.hang",
        title="a thread waits for something that nobody will bring about",
        events=(
            EventLine(3, "one", "", "set E", ""),
            EventLine(9, "two", "", "see the signal of E", "a.py:7", taken=False),
        ),
        replay="kemu replay 'a.py::a[b]' KS1.00000000.AA",
    )
    assert failure_lines(report) == [
        "FAIL a.py::a[b]: ke.hang",
        "  a thread waits for something that nobody will bring about",
        "",
        "  two events that touch the same state, in this order:",
        "    step 3    one: set E",
        "    never     two: see the signal of E  at a.py:7",
        "",
        "  replay: kemu replay 'a.py::a[b]' KS1.00000000.AA",
    ]


def test_the_least() -> None:
    assert failure_lines(Report("p", "code", "title")) == ["FAIL p: code", "  title", ""]


@pytest.mark.parametrize("switches", [0, 1, 2, 5, 6, 7, 40])
@pytest.mark.parametrize("words", [1, 80])
def test_it_never_has_more_than_25_lines(switches: int, words: int) -> None:
    long = "word " * words
    events = (
        EventLine(8, "one", "flt:scan", long, "folder/file.py:62"),
        EventLine(10, "two", "flt:scan", long, "folder/file.py:72"),
    )
    report = replace(
        RACE,
        title=long,
        detail=long,
        rules=tuple(f"FLT-RULE-{number}" for number in range(words)),
        passes_if=long,
        events=events,
        switches=tuple(SwitchLine(number, long, "folder/file.py:62") for number in range(switches)),
        notes=(long,) * 5,
    )
    lines = failure_lines(report)
    assert len(lines) <= LIMIT == 25
    assert max(len(line) for line in lines) <= WIDTH
    assert sum("file.py:62" in line for line in lines) >= 1
    shown = sum(line.startswith("    step ") for line in lines) - 2
    left = [line for line in lines if line.startswith("    ... and")]
    if words == 1:
        # Counted by hand: 9 lines come before the switches and 7 after them (two notes), a blank and a heading with
        # them: 7 are left, or 6 if one has to say that there are more.
        assert shown == (switches if switches <= 7 else 6)
        assert left == ([] if switches <= 7 else [f"    ... and {switches - 6} more"])
    assert lines[-2:] == failure_lines(RACE)[-2:]


def test_what_does_not_fit_on_a_line_goes_and_the_place_stays() -> None:
    report = replace(RACE, switches=(SwitchLine(6, "x" * 200, "folder/touch.py:72"),))
    (line,) = [line for line in failure_lines(report) if "xxx" in line]
    assert len(line) == WIDTH
    assert line.endswith("x ...  at folder/touch.py:72")


def test_what_the_users_code_says_stays_on_one_line() -> None:
    report = replace(RACE, switches=(SwitchLine(6, "a\nb\rc"),), detail="a\nb")
    assert [line for line in failure_lines(report) if "\n" in line or "\r" in line] == []


CLEAN = Verdict(
    program="a.py::a[fixed]",
    strategy="alternating",
    seed=7,
    schedules=10_000,
    distinct=1_234,
    distinct_is_exact=True,
    seconds=3.25,
    exhausted=False,
    complete=False,
    bound=None,
)


def test_a_budget_is_no_proof() -> None:
    assert CLEAN.kind == "budget"
    assert clean_lines(CLEAN) == [
        "ok a.py::a[fixed]: nothing found",
        "  budget: no proof: 10,000 schedules (1,234 distinct) of alternating, seed 7 in 3.2 s",
        "  with 95 % confidence less than 0.0003 (3/10,000) of the schedules that this strategy draws fail",
    ]


def test_a_bound_is_a_proof_up_to_it() -> None:
    verdict = replace(CLEAN, strategy="dfs(bound=2)", seed=None, exhausted=True, bound=2)
    assert verdict.kind == "bound"
    assert clean_lines(verdict) == [
        "ok a.py::a[fixed]: nothing found",
        "  bound: every schedule with at most 2 preemptions plus answers that are not plain was",
        "  made, which proves nothing beyond that bound: 10,000 schedules (1,234 distinct) of dfs(bound=2) in 3.2 s",
    ]


def test_everything_is_a_proof() -> None:
    verdict = replace(CLEAN, strategy="dfs", seed=None, exhausted=True, complete=True, bound=3, schedules=1)
    assert verdict.kind == "proof"
    assert clean_lines(verdict) == [
        "ok a.py::a[fixed]: nothing found",
        "  proof: every schedule there is was made, without a bound: 1 schedule (1,234 distinct) of dfs in 3.2 s",
    ]


def test_an_interrupt_and_an_expectation() -> None:
    verdict = replace(CLEAN, interrupted=True, distinct_is_exact=False, expected="pend-orphan")
    assert verdict.kind == "interrupted"
    assert clean_lines(verdict, ("a.py:3: look here",))[1:] == [
        "  budget: no proof: 10,000 schedules (about 1,234 distinct) of alternating, seed 7 in 3.2 s",
        "  with 95 % confidence less than 0.0003 (3/10,000) of the schedules that this strategy draws fail",
        "  interrupted: this is what there was until then",
        "  the scenario expects pend-orphan, which did not come up",
        "warning: a.py:3: look here",
    ]


REDUCED = replace(CLEAN, strategy="portfolio", traces=1_234, mixed=True)
CLASSES = "classes of schedules that differ by more than the order of independent steps"


def text_of(verdict: Verdict) -> str:
    lines = clean_lines(verdict)
    assert max(len(line) for line in lines) <= WIDTH
    return " ".join(line.strip() for line in lines[1:])


def test_all_classes_are_a_proof() -> None:
    proof = replace(REDUCED, exhausted=True, complete=True)
    assert clean_lines(proof)[1:] == [
        f"  proof: all 1,234 {CLASSES} were explored:",
        "  10,000 schedules (1,234 distinct) of portfolio, seed 7 in 3.2 s",
    ]
    assert "proof: all 1 class of schedules that" in text_of(replace(proof, traces=1))
    assert f"{CLASSES} (5 schedules given up as repetitions) were" in text_of(replace(proof, blocked=5))


def test_what_cannot_be_followed_is_named_with_the_proof() -> None:
    proof = replace(REDUCED, exhausted=True, complete=True, coarse="a.py:3: vars reaches state past its names")
    assert clean_lines(proof)[-1] == (
        "  all steps of the drivers' code count as dependent: a.py:3: vars reaches state past its names"
    )


def test_a_reduced_search_that_is_not_through_proves_nothing() -> None:
    before = "budget: no proof: 10,000 schedules (1,234 distinct) of portfolio, seed 7 in 3.2 s"
    explored = f"{before} the reduced search has explored 1,234 {CLASSES};"
    assert text_of(REDUCED) == f"{explored} there are more"
    assert text_of(replace(REDUCED, doubt="it is odd")) == f"{explored} it was given up: it is odd"
    doubted = replace(REDUCED, exhausted=True, doubt="it is odd")
    assert doubted.kind == "budget"
    assert text_of(doubted) == f"{explored} all there are, but it is odd"
    left_out = replace(REDUCED, traces=0, doubt="it is odd")
    assert text_of(left_out) == f"{before} the reduced search was left out: it is odd"


def test_of_a_mixture_one_sampler_is_asked() -> None:
    some = Estimate("pos", runs=100, distinct=40, once=25, twice=10)
    other = Estimate("urw", runs=60, distinct=60, once=60, twice=0)
    verdict = replace(REDUCED, estimates=(some, other))
    assert verdict.drawn == (100, "pos")
    assert clean_lines(verdict)[-2:] == [
        "  with 95 % confidence less than 0.03 (3/100) of the schedules that pos draws fail",
        "  about 25 % of this sampler's mass is unseen (100 runs of pos); not a bound on bugs",
    ]
    # Workers have no search to tell of.
    assert replace(verdict, traces=None).drawn == (100, "pos")
    assert replace(verdict, estimates=()).drawn is None
    assert replace(verdict, mixed=False).drawn == (10_000, "this strategy")
    for nothing in (
        replace(verdict, bound=1),
        replace(verdict, exhausted=True, complete=True),
        replace(verdict, schedules=0),
        replace(verdict, seed=None),
    ):
        assert nothing.drawn is None


def test_the_rule_of_three() -> None:
    # With N runs without a failure, (1 - p)^N = 0.05 gives p = -ln(0.05) / N, about 3 / N.
    assert "less than 0.03 (3/100)" in chance(100)
    assert "less than 1 (3/2)" in chance(2)


def test_warnings() -> None:
    assert warning_lines(()) == []
    lines = warning_lines(tuple(f"{number} {'word ' * 200}" for number in range(7)))
    assert max(len(line) for line in lines) <= WIDTH
    assert lines[-1] == "warning: ... and 2 more"
    # Three lines for each of five, and the last.
    assert len(lines) == 16
