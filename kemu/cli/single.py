"""One run: made plainly, by seed, by order, from a token, or live; and how it is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kemu.cli.console import Console
from kemu.cli.hunt import Found, describe, trace_path, warnings_of
from kemu.cli.jsonout import dump, found_object
from kemu.cli.order import Order, parse_order
from kemu.cli.report import failure_lines
from kemu.cli.targets import Program, choices_of, replay_command, short_path, source_warnings
from kemu.cli.verdict import warning_lines
from kemu.errors import EXIT_FINDING, EXIT_OK
from kemu.explore import Replay, StickyRandomWalk, encode, replay
from kemu.log import Recorder, Trace, capture, write_trace
from kemu.log.capture import finish
from kemu.log.render import render
from kemu.runtime import Outcome


class Single:
    """One program and the one run of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.outcome = Outcome()
        self.trace = Trace({}, [])
        self.token = ""
        """Empty for a live run, which cannot be had again."""

    def live(self, backend: str) -> None:
        """Run it on an event loop."""
        recorder = Recorder()
        self.outcome = self.program.run_live(backend, recorder.attach)
        self.trace = finish(recorder, self.program, self.outcome, {"strategy": f"live({backend})"})

    def controlled(self, *, seed: int | None, order: str | None, token: str | None) -> None:
        """Run it as one of the three says, or plainly. Raises `ReplayDiverged`, or `UsageError` for the order."""
        oracle: Replay | StickyRandomWalk | Order = Replay(())
        if seed is not None:
            oracle = StickyRandomWalk(seed)
        elif order is not None:
            oracle = Order(parse_order(order))
        elif token is not None:
            oracle = Replay(choices_of(token, self.program))
        about = {"strategy": "plain" if seed is None and order is None and token is None else oracle.name}
        self.outcome, self.trace, _ = capture(self.program, oracle, {**about, "seed": seed})
        oracle.end(self.outcome)
        self.token = encode(self.outcome.choices, self.program.identity)
        self.trace.header["token"] = self.token


def replayed(program: Program, token: str, output: Path | None) -> tuple[Outcome, Found | None]:
    """The run of *token*, and what it finds. Raises `TokenError` and `ReplayDiverged`."""
    outcome = replay(program, choices_of(token, program))
    if outcome.failure is None:
        return outcome, None
    return outcome, describe(program, outcome.choices, about={"strategy": "replay"}, output=output)


def report_one(console: Console, command: str, program: Program, outcome: Outcome, found: Found | None) -> int:
    """Print what a replayed run comes to; return the exit code."""
    code = EXIT_OK if found is None else EXIT_FINDING
    warnings = (*source_warnings([program]), *warnings_of(outcome.advisories))
    lines = _passed(program, outcome) if found is None else failure_lines(found.report)
    console.print(lines[:1] if console.quiet else lines)
    if not console.quiet:
        console.print(warning_lines(warnings))
    if console.verbose and found is not None and found.trace is not None:
        console.print(render(found.trace, colour=console.colour))
    if console.as_json:
        fields = {
            "program": program.name,
            "exit_code": code,
            "finding": found_object(found) if found is not None else None,
            "warnings": list(warnings),
        }
        console.json(dump(command, fields))
    if found is not None and found.interrupted:
        raise KeyboardInterrupt
    return code


def report_run(console: Console, single: Single, output: Path | None) -> int:
    """Print events and end of a run; return the exit code."""
    program, outcome, failure = single.program, single.outcome, single.outcome.failure
    path = None
    if output is not None:
        path = trace_path(output, program, "run" if failure is None else failure.code)
        write_trace(single.trace, path)
    found = describe(program, outcome.choices) if failure is not None and single.token else None
    warnings = (*source_warnings([program]), *warnings_of(outcome.advisories))
    if not console.quiet:
        console.print(render(single.trace, colour=console.colour))
    if found is not None:
        lines = failure_lines(found.report)
    elif failure is not None:
        lines = [f"FAIL {program.name}: {failure.summary}"]
    else:
        lines = _passed(program, outcome)
        if single.token:
            lines.append(f"  replay: {replay_command(program, single.token)}")
    if path is not None:
        lines.append(f"  trace:  {short_path(str(path))}")
    console.print(lines[:1] if console.quiet else [*lines, *warning_lines(warnings)])
    code = EXIT_OK if failure is None else EXIT_FINDING
    if console.as_json:
        fields: dict[str, Any] = {
            "program": program.name,
            "exit_code": code,
            "end": outcome.end,
            "steps": outcome.steps,
            "vt": single.trace.events[-1]["vt"] if single.trace.events else 0,
            "result": None if outcome.result is None else str(outcome.result),
            "token": single.token or None,
            "trace": short_path(str(path)) if path is not None else None,
            "finding": found_object(found) if found is not None else None,
            "warnings": list(warnings),
        }
        console.json(dump("run", fields))
    if found is not None and found.interrupted:
        raise KeyboardInterrupt
    return code


def _passed(program: Program, outcome: Outcome) -> list[str]:
    return [
        f"ok {program.name}: this run finds nothing",
        f"  {outcome.steps} steps, {len(outcome.choices)} decisions; one run is no proof: kemu explore makes many",
    ]
