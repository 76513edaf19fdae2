"""The objects that ``--json`` prints. Keys may be added; those that are here keep their meaning.

``kemu explore``::

    kemu, command, seed, exit_code, interrupted
    programs: [
        program      path.py::name[variant]
        verdict      finding | proof | bound | budget | interrupted
        expected     the finding that the scenario says this variant has, or null
        races        whether data races were looked for
        strategy, seed, schedules, distinct, distinct_is_exact, seconds
        exhausted    whether the strategy had nothing left
        bound        the largest bound within which every schedule was made, or null
        failing_share_below   with 95 % confidence (rule of three), or null
        findings     [FINDING]
        warnings     [text]
        error        what went wrong after something was found, or null
    ]
    error        what ended the command early, or null

``kemu replay`` and ``kemu shrink``: kemu, command, program, exit_code, finding (FINDING or null), warnings.
``kemu run``: the same, and token, end, steps, vt (ticks of 100 ns), result (as text), trace.
``kemu list``: kemu, command, scenarios: [{target, path, line, name, variants: [{name, expects}], doc}].

FINDING::

    code, title, detail, rules, bug_check, signature, expected
    token, replay        the run as a token, and the command that replays it
    run, count           the first schedule that showed it (from 0), and how many did
    events               the two that conflict: {step, thread, actor, what, place, taken}, or null
    cell, passes_if      what they touch; the change with which the run passes
    switches             [{step, what, place}]
    before, after        {decisions, preemptions, switches} of the run as found and as shrunk, or null
    replays, notes, trace
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from kemu import __version__
from kemu.cli.hunt import Found, Hunt


def dump(command: str, fields: dict[str, Any]) -> str:
    """The one object of *command*, on one line."""
    return json.dumps({"kemu": __version__, "command": command, **fields}, ensure_ascii=True)


def hunt_object(hunt: Hunt) -> dict[str, Any]:
    """What came of one program."""
    verdict = hunt.verdict
    drawn = verdict.bound is None and verdict.kind != "proof" and not hunt.found and verdict.schedules > 0
    return {
        "program": hunt.program,
        "verdict": "finding" if hunt.found else verdict.kind,
        "expected": verdict.expected or None,
        "races": verdict.races,
        "strategy": verdict.strategy,
        "seed": verdict.seed,
        "schedules": verdict.schedules,
        "distinct": verdict.distinct,
        "distinct_is_exact": verdict.distinct_is_exact,
        "seconds": round(verdict.seconds, 3),
        "exhausted": verdict.exhausted,
        "bound": verdict.bound,
        "failing_share_below": min(1.0, 3 / verdict.schedules) if drawn else None,
        "findings": [found_object(found) for found in hunt.found],
        "warnings": list(hunt.warnings),
        "error": str(hunt.error) if hunt.error is not None else None,
    }


def found_object(found: Found) -> dict[str, Any]:
    """One finding."""
    fields = asdict(found.report)
    del fields["program"], fields["found"], fields["reversed"]
    return {
        **fields,
        "signature": list(found.signature),
        "token": found.token,
        "run": found.run,
        "trace": found.report.trace or None,
    }
