"""One program: checked for determinism, explored, and what was found shrunk, explained and traced.

Data in, data out: nothing is printed here. Whatever goes wrong once something was found is kept beside it, so
that a finding is never lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kemu.cli.report import Cost, EventLine, Report, SwitchLine, Verdict, how
from kemu.cli.targets import Program, replay_command, short_path, source_warnings
from kemu.errors import KemuError, UsageError
from kemu.explore import (
    DEFAULT_STRATEGY,
    Budget,
    Event,
    Explanation,
    Exploration,
    Finding,
    Place,
    Progress,
    Recording,
    Replay,
    Shrunk,
    StickyRandomWalk,
    Strategy,
    check_determinism,
    encode,
    explain,
    explore,
    shrink,
    strategy_from_name,
)
from kemu.log import Recorder, Trace, capture, write_trace

DEFAULT_SCHEDULES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How to explore."""

    strategy: str = DEFAULT_STRATEGY
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    keep_going: bool = False
    output: Path | None = None

    def make_strategy(self) -> Strategy:
        """A new strategy. Raises `UsageError` for a name or an option that there is not."""
        return strategy_from_name(self.strategy, self.seed, **self.options)


@dataclass(slots=True)
class Found:
    """A finding, as far as it could be worked out."""

    report: Report
    token: str
    signature: tuple[str, ...]
    run: int | None = None
    trace: Trace | None = None


@dataclass(slots=True)
class Hunt:
    """What came of one program."""

    program: str
    verdict: Verdict
    found: list[Found]
    warnings: tuple[str, ...]
    interrupted: bool
    error: KemuError | None = None
    """What went wrong after something had been found, or while it was worked out."""


def hunt(
    program: Program,
    plan: Plan,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    note: Callable[[str], None] | None = None,
) -> Hunt:
    """Explore *program* as *plan* says. Exceptions of `kemu.errors` are raised if nothing was found before."""
    plain = check_determinism(program)
    check_determinism(program, StickyRandomWalk(plan.seed))
    strategy = plan.make_strategy()
    exploration = explore(program, strategy, plan.budget, keep_going=plan.keep_going, progress=progress, stop=stop)
    result = Hunt(
        program=program.name,
        verdict=_verdict(program, strategy, exploration),
        found=[],
        warnings=(*source_warnings([program]), *warnings_of(plain.advisories)),
        interrupted=exploration.interrupted,
        error=exploration.error,
    )
    for finding in exploration.findings:
        if note is not None:
            note(f"{finding.failure.code}: shrinking and explaining")
        result.found.append(_work_out(program, plan, exploration, finding, result))
    return result


def _verdict(program: Program, strategy: Strategy, exploration: Exploration) -> Verdict:
    reduction = exploration.reduction
    doubt = reduction.doubt if reduction is not None else ""
    return Verdict(
        program=program.name,
        strategy=exploration.strategy,
        seed=exploration.seed,
        schedules=exploration.schedules,
        distinct=exploration.distinct,
        distinct_is_exact=exploration.distinct_is_exact,
        seconds=exploration.seconds,
        exhausted=exploration.exhausted,
        complete=bool(getattr(strategy, "exhausted", False)) and not doubt,
        bound=exploration.bound,
        interrupted=exploration.interrupted,
        expected=program.expected or "",
        traces=reduction.traces if reduction is not None else None,
        blocked=reduction.blocked if reduction is not None else 0,
        doubt=doubt,
        races=program.races,
    )


def _work_out(program: Program, plan: Plan, exploration: Exploration, finding: Finding, result: Hunt) -> Found:
    """Shrink, explain and trace *finding*; on an interrupt or an error, with what there is."""
    origin = (
        f"schedule {finding.run + 1:,} of {exploration.schedules:,}"
        f" ({how(exploration.strategy, exploration.seed)}, {exploration.seconds:.1f} s)"
    )
    about = {"strategy": exploration.strategy, "seed": exploration.seed}
    try:
        shrunk = shrink(program, finding.choices, signature=finding.signature, second=finding.second)
        found = describe(program, shrunk.recording.choices, shrunk, about=about, output=plan.output)
        report = found.report
    except KeyboardInterrupt:
        result.interrupted = True
        found = bare(program, finding, "not shrunk: interrupted")
        report = found.report
    except KemuError as error:
        result.error = result.error or error
        found = bare(program, finding, f"not shrunk: {error}")
        report = found.report
    found.report = replace(report, found=origin, count=finding.count)
    found.run = finding.run
    return found


def bare(program: Program, finding: Finding, why: str) -> Found:
    """*finding* as it was found."""
    token = encode(finding.choices, program.identity)
    report = Report(**failure_fields(program, finding.failure), notes=(why,))
    return Found(replace(report, replay=replay_command(program, token)), token, finding.signature)


def describe(
    program: Program,
    choices: Sequence[int],
    shrunk: Shrunk | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    output: Path | None = None,
) -> Found:
    """Explain and trace the failing run of *choices*. Raises `UsageError` if it does not fail."""
    explanation = explain(program, choices)
    if explanation is None:
        raise UsageError(f"this run of {program.name} does not fail", remedy="give the token of a failing run")
    full = explanation.recording.choices
    token = encode(full, program.identity)
    trace, recorder = trace_of(program, full, {**(about or {}), "token": token})
    events = explanation.conflict
    report = Report(
        **failure_fields(program, explanation.failure),
        events=None
        if events is None
        else (_event(program, events.first, recorder), _event(program, events.second, recorder)),
        cell=events.cell if events is not None else "",
        reversed=events is not None and events.reversed,
        passes_if=str(explanation.flip) if explanation.flip is not None else "",
        switches=_switches(program, explanation),
        before=_cost(shrunk.original) if shrunk is not None else None,
        after=_cost(shrunk.recording) if shrunk is not None else None,
        replays=shrunk.replays if shrunk is not None else 0,
        notes=() if shrunk is None or shrunk.settled else ("there may be a simpler run: the replays were used up",),
        replay=replay_command(program, token),
    )
    if output is not None:
        path = trace_path(output, program, explanation.failure.code)
        write_trace(trace, path)
        report = replace(report, trace=short_path(str(path)))
    return Found(report, token, explanation.failure.signature, trace=trace)


def trace_of(program: Program, choices: Sequence[int], about: Mapping[str, Any]) -> tuple[Trace, Recorder]:
    """The trace of the run of *choices*. Raises `ReplayDiverged` if it is not possible any more."""
    oracle = Replay(choices, complete=True)
    outcome, trace, recorder = capture(program, oracle, about)
    oracle.end(outcome)
    return trace, recorder


def trace_path(directory: Path, program: Program, what: str) -> Path:
    """A file name in *directory* that says what the trace is of, and that is not taken."""
    stem = f"{program.name.rpartition('::')[2]}-{what}".replace("[", "-").replace("]", "")
    stem = re.sub(r"[^\w.-]+", "_", stem)
    path = directory / f"{stem}.trace.jsonl"
    number = 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}.trace.jsonl"
    return path


def output_directory(text: str | None) -> Path | None:
    """The directory that traces go to, made and tried out. Raises `UsageError` if it cannot be written."""
    if text is None:
        return None
    directory = Path(text)
    probe = directory / ".kemu-probe"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the output directory {text} cannot be written: {error.strerror or error}",
            remedy="give a directory in which you may create files",
        ) from None
    return directory


def warnings_of(advisories: Sequence[Any]) -> tuple[str, ...]:
    """Findings that are no failures, in words."""
    return tuple(f"{one.code}: {one.detail or one.title}" for one in advisories)


def failure_fields(program: Program, failure: Any) -> dict[str, Any]:
    """What a failure says of itself; one that is no `kemu.verifier` finding says less."""
    bug_check = getattr(failure, "bug_check", None)
    return {
        "program": program.name,
        "code": failure.code,
        "title": getattr(failure, "title", failure.summary),
        "detail": getattr(failure, "detail", ""),
        "rules": tuple(getattr(failure, "rules", ())),
        "bug_check": _bug_check(bug_check) if bug_check is not None else "",
        "expected": program.expected == failure.code,
    }


def _bug_check(bug_check: Any) -> str:
    """The line without its words: the report has them as the title."""
    text = str(bug_check)
    return text.removesuffix(f": {bug_check.text}")


def _place(program: Program, place: Place | None) -> str:
    """The line as ``file:line``; of the scenario's own file, which the report begins with, the name is enough."""
    if place is None:
        return ""
    path = short_path(place.file)
    own = program.name.rpartition("::")[0]
    return f"{Path(path).name if path == short_path(own) else path}:{place.line}"


def _event(program: Program, event: Event, recorder: Recorder) -> EventLine:
    actors = recorder.actors_of_steps
    actor = actors[event.step] if event.taken and event.step < len(actors) else ""
    return EventLine(event.step, event.thread, actor, event.what, _place(program, event.place), event.taken)


def _switches(program: Program, explanation: Explanation) -> tuple[SwitchLine, ...]:
    lines: list[SwitchLine] = []
    for switch in explanation.switches:
        verb = "is preempted by" if switch.preemption else "gives way to"
        why = " before:" if switch.preemption else ", waiting to"
        before = f"{why} {switch.before}" if switch.before else ""
        what = f"{switch.leaves} {verb} {switch.enters}{before}"
        lines.append(SwitchLine(switch.step, what, _place(program, switch.place) if before else ""))
    for decision in explanation.recording.decisions:
        if decision.kind == "data" and decision.value:
            what = f"{decision.label!r} is answered {decision.value} (of 0 to {decision.n - 1})"
            lines.append(SwitchLine(decision.step, what))
    return tuple(sorted(lines, key=lambda line: line.step))


def _cost(recording: Recording) -> Cost:
    cost = recording.cost
    return Cost(cost.length, cost.preemptions, cost.switches)
