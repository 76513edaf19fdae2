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

from kemu.cli.report import Cost, EventLine, OrderLine, Report, SwitchLine
from kemu.cli.targets import Program, corpus_key, replay_command, short_path, source_warnings
from kemu.cli.verdict import COST, Verdict, how
from kemu.errors import KemuError, NonDeterminism, UsageError
from kemu.explore import (
    DEFAULT_STRATEGY,
    Budget,
    Corpus,
    Event,
    Explanation,
    Exploration,
    Finding,
    Memory,
    Order,
    Place,
    Progress,
    Recording,
    Reducing,
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
    tracked,
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
    engine: Callable[..., Exploration] | None = None
    """What explores, called as `kemu.explore.explore` is; None for that itself."""
    corpus: Corpus | None = None

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
    interrupted: bool = False
    """Whether the user ended the explanation early."""


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
    memory: Memory | None = None
    """What the corpus knew of the program."""


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
    memory = Memory(plan.corpus, corpus_key(program)) if plan.corpus is not None else None
    exploration = _explore(program, plan, strategy, memory, progress, stop)
    result = Hunt(
        program=program.name,
        verdict=verdict_of(program, strategy, exploration),
        found=[],
        warnings=(*source_warnings([program]), *warnings_of(plain.advisories)),
        interrupted=exploration.interrupted,
        error=exploration.error,
        memory=memory,
    )
    for finding in exploration.findings:
        if note is not None:
            note(f"{finding.failure.code}: shrinking and explaining")
        result.found.append(_work_out(program, plan, exploration, finding, result, stop))
    return result


def _explore(
    program: Program,
    plan: Plan,
    strategy: Strategy,
    memory: Memory | None,
    progress: Callable[[Progress], None] | None,
    stop: Callable[[], bool] | None,
) -> Exploration:
    """What is known first, then what is new, unless something known still fails and that is enough."""
    if memory is not None and ((memory.recall(program, stop) and not plan.keep_going) or memory.interrupted):
        return memory.nothing_more(program, strategy)
    try:
        engine = plan.engine or explore
        exploration = engine(program, strategy, plan.budget, keep_going=plan.keep_going, progress=progress, stop=stop)
    except KemuError as error:
        if memory is None or not memory.findings:
            raise
        exploration = memory.nothing_more(program, strategy)
        return replace(exploration, findings=tuple(memory.findings), error=error)
    return exploration if memory is None else memory.together_with(exploration)


def _coarse(program: Program) -> str:
    """What of *program*'s files cannot be followed: the first place, and how many more there are."""
    reasons: tuple[Any, ...] = getattr(getattr(program, "loaded", None), "coarse", ())
    if not reasons:
        return ""
    first = reasons[0]
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{Path(first.path).name}:{first.line}: {first.text}{more}"


def verdict_of(program: Program, strategy: Strategy, exploration: Exploration) -> Verdict:
    """What *exploration* comes to if it has found nothing."""
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
        cost=getattr(strategy, "cost", COST),
        expected=program.expected or "",
        traces=reduction.traces if reduction is not None else None,
        blocked=reduction.blocked if reduction is not None else 0,
        doubt=doubt,
        coarse=_coarse(program) if reduction is not None else "",
        estimates=exploration.estimates,
        mixed=isinstance(strategy, Reducing),
        shard=exploration.shard,
        races=program.races,
    )


def _work_out(
    program: Program,
    plan: Plan,
    exploration: Exploration,
    finding: Finding,
    result: Hunt,
    stop: Callable[[], bool] | None,
) -> Found:
    """Shrink, explain and trace *finding*; on an interrupt or an error, with what there is."""
    # With shards, or after an interrupt, it may have a larger number than there were runs.
    out_of = f" of {exploration.schedules:,}" if finding.run < exploration.schedules else ""
    known = result.memory.origin(finding) if result.memory is not None else ""
    origin = known or (
        f"schedule {finding.run + 1:,}{out_of}"
        f" ({how(exploration.strategy, exploration.seed)}, {exploration.seconds:.1f} s)"
    )
    about = {"strategy": exploration.strategy, "seed": exploration.seed}
    if stop is not None and stop():
        # Who has had enough of the exploration still wants to know what it found.
        stop = None
    cost = None
    is_lasting = True
    try:
        shrunk = shrink(program, finding.choices, signature=finding.signature, second=finding.second)
        found = describe(program, shrunk.recording.choices, shrunk, about=about, output=plan.output, stop=stop)
        result.interrupted = result.interrupted or found.interrupted
        report = found.report
        cost = shrunk.recording.cost
    except KeyboardInterrupt:
        result.interrupted = True
        found = bare(program, finding, "not shrunk: interrupted")
        report = found.report
    except KemuError as error:
        result.error = result.error or error
        is_lasting = not isinstance(error, NonDeterminism)
        found = bare(program, finding, f"not shrunk: {error}")
        report = found.report
    found.report = replace(report, found=origin, count=finding.count)
    found.run = finding.run if not known else None
    if result.memory is not None and is_lasting:
        result.memory.keep(finding, found.token, cost, exploration)
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
    stop: Callable[[], bool] | None = None,
) -> Found:
    """Explain and trace the failing run of *choices*. Raises `UsageError` if it does not fail."""
    explanation = explain(tracked(program), choices, stop=stop)
    if explanation is None:
        raise UsageError(f"this run of {program.name} does not fail", remedy="give the token of a failing run")
    full = explanation.recording.choices
    token = encode(full, program.identity)
    trace, recorder = trace_of(program, full, {**(about or {}), "token": token})
    events, orderings, cost = explanation.conflict, explanation.orderings, explanation.recording.cost
    report = Report(
        **failure_fields(program, explanation.failure),
        events=None
        if events is None
        else (_event(program, events.first, recorder), _event(program, events.second, recorder)),
        cell=events.cell if events is not None else "",
        reversed=events is not None and events.reversed,
        orders=None if orderings is None else tuple(_order(program, one, recorder) for one in orderings.orders),
        checked=0 if orderings is None else orderings.checked,
        settled=orderings is None or orderings.settled,
        why_no_orders=explanation.why,
        preemptions=cost.preemptions,
        answers=cost.answers,
        fewest=shrunk is not None and shrunk.fewest,
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
    return Found(report, token, explanation.failure.signature, trace=trace, interrupted=explanation.interrupted)


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


def corpus_of(directory: str | None, *, without: bool = False) -> Corpus | None:
    """The corpus in *directory*, or the one of the working directory; none if it is to be done *without*."""
    if without and directory is not None:
        raise UsageError("--corpus and --no-corpus contradict each other", remedy="give one of them")
    if without:
        return None
    if directory is None:
        return Corpus.beside(Path())
    if Path(directory).exists() and not Path(directory).is_dir():
        raise UsageError(f"the corpus {directory} is not a directory", remedy="give a directory; it is made if need be")
    return Corpus(Path(directory))


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


def memory_lines(result: Hunt, *, is_over: bool) -> list[str]:
    """What has become of the runs in the corpus; *is_over* if one that still fails ends the exploration."""
    if result.memory is None:
        return []
    lines = result.memory.lines(found.signature for found in result.found)
    if is_over and result.memory.findings and not result.interrupted:
        lines.append(
            "corpus: a known failure comes before anything new: --keep-going explores as well, --no-corpus instead"
        )
    return lines


def warnings_of(advisories: Sequence[Any]) -> tuple[str, ...]:
    """Findings that are no failures, in words."""
    return tuple(f"{one.code}: {one.detail or one.title}" for one in advisories)


def failure_fields(program: Program, failure: Any) -> dict[str, Any]:
    """What a failure says of itself; one that is no `kemu.verifier` finding says less."""
    bug_check = getattr(failure, "bug_check", None)
    verifier = getattr(failure, "verifier", None)
    return {
        "program": program.name,
        "code": failure.code,
        "title": getattr(failure, "title", failure.summary),
        "detail": getattr(failure, "detail", ""),
        "rules": tuple(getattr(failure, "rules", ())),
        "bug_check": _bug_check(bug_check) if bug_check is not None else "",
        "verifier": _bug_check(verifier) if verifier is not None else "",
        "expected": program.expected == failure.code,
    }


def _bug_check(bug_check: Any) -> str:
    """The line without its words: the report has them as the title."""
    text = str(bug_check)
    return text.removesuffix(f": {bug_check.text}")


def place_text(program: Program, place: Place | None) -> str:
    """The line as ``file:line``; of the scenario's own file, which the report begins with, the name is enough."""
    if place is None:
        return ""
    path = short_path(place.file)
    own = program.name.rpartition("::")[0]
    return f"{Path(path).name if path == short_path(own) else path}:{place.line}"


def _event(program: Program, event: Event, recorder: Recorder) -> EventLine:
    actors = recorder.actors_of_steps
    actor = actors[event.step] if event.taken and event.step < len(actors) else ""
    return EventLine(event.step, event.thread, actor, event.what, place_text(program, event.place), event.taken)


def _order(program: Program, order: Order, recorder: Recorder) -> OrderLine:
    first, second = _event(program, order.first, recorder), _event(program, order.second, recorder)
    return OrderLine(first, second, order.cell, order.reversal)


def _switches(program: Program, explanation: Explanation) -> tuple[SwitchLine, ...]:
    lines: list[SwitchLine] = []
    for switch in explanation.switches:
        verb = "is preempted by" if switch.preemption else "gives way to"
        why = " before:" if switch.preemption else ", waiting to"
        before = f"{why} {switch.before}" if switch.before else ""
        what = f"{switch.leaves} {verb} {switch.enters}{before}"
        lines.append(SwitchLine(switch.step, what, place_text(program, switch.place) if before else ""))
    for decision in explanation.recording.decisions:
        if decision.kind == "data" and decision.value:
            what = f"{decision.label!r} is answered {decision.value} (of 0 to {decision.n - 1})"
            lines.append(SwitchLine(decision.step, what))
    return tuple(sorted(lines, key=lambda line: line.step))


def _cost(recording: Recording) -> Cost:
    cost = recording.cost
    return Cost(cost.length, cost.preemptions, cost.switches)
