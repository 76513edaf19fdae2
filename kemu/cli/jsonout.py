"""The objects that ``--json`` prints. Keys may be added; those that are here keep their meaning.

``kemu explore``::

    kemu, command, seed, exit_code, interrupted
    programs: [
        program      path.py::name[variant]
        verdict      finding | proof | bound | budget | interrupted | shard
        expected     the finding that the scenario says this variant has, or null
        races        whether data races were looked for
        strategy, seed, schedules, distinct, distinct_is_exact, seconds
        exhausted    whether the strategy had nothing left
        bound        the largest bound within which every schedule was made, or null
        failing_share_below   with 95 % confidence (rule of three), of what the sampler with the most runs draws if
                     they are several, or null
        estimates    [{sampler, runs, distinct, once, twice, exact, unseen, least}], of samplers with full support
        findings     [FINDING]
        warnings     [text]
        corpus       runs of earlier explorations: [{code, token, state, clean}], state being failing | other
                     (fails otherwise) | clean | fixed (and removed), clean the replays in a row without a failure
        error        what went wrong after something was found, or null
    ]
    error        what ended the command early, or null

``kemu explore --outcomes``::

    kemu, command, seed, exit_code, interrupted, subset_of, error
    programs: [
        program, strategy, seed, schedules, seconds, interrupted
        complete     whether it is proved that there are no other outcomes
        outcomes: [{value: [text], count, run (the first, from 0), token, replay, in_reference (or null)}]
    ]

``kemu replay`` and ``kemu shrink``: kemu, command, program, exit_code, finding (FINDING or null), warnings.
``kemu run``: the same, and token, end, steps, vt (ticks of 100 ns), result (as text), trace.
``kemu corpus ls``: kemu, command, entries: [ENTRY]; ``kemu corpus show``: kemu, command, entry (ENTRY).
``kemu list``: kemu, command, scenarios: [{target, path, line, name, variants: [{name, expects}], doc}].

``kemu campaign show``::

    kemu, command, directory, python, strategy, seed
    shard        such as 1/4
    budget       schedules of each program, of all shards together, or null
    programs: [{program, identity, batches, schedules, distinct, distinct_is_exact, seconds, done,
                findings: [{code, signature, summary, run, count, token}]}]

``kemu campaign merge``: kemu, command, exit_code, missing (shards), programs (as for ``kemu explore``), error.
ENTRY::

    id, file, program, options, tool (kemu or pytest), code, signature, token, replay
    cost         [preemptions, answers, switches, length], or null if the run was not shrunk
    strategy, seed, schedule (from 0)   of the exploration that found it first
    clean

FINDING::

    code, title, detail, rules, bug_check, verifier (the stop with Driver Verifier), signature, expected
    token, replay        the run as a token, and the command that replays it
    run, count           the first schedule that showed it (from 0), and how many did
    events               the two that conflict: {step, thread, actor, what, place, taken}, or null
    cell, reversed       what they touch; whether a run passes in which they come the other way round
    orders               the orders that make it fail: {first, second (as in events), cell, reversal}, or null
    checked, settled     how many runs kept them and all failed; whether that were as many as are made
    why_no_orders        why orders is null
    depth                the number of orders, or null
    preemptions, answers how many there are in the run, of the latter those that are not plain
    fewest               whether every run with fewer of both was made, and none fails in the same way
    passes_if            the change of one decision with which the run passes
    switches             [{step, what, place}]
    before, after        {decisions, preemptions, switches} of the run as found and as shrunk, or null
    replays, notes, trace
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from kemu import __version__
from kemu.cli.console import Console
from kemu.cli.hunt import Found, Hunt
from kemu.cli.targets import entry_command
from kemu.errors import EXIT_INTERRUPTED, KemuError
from kemu.explore import Entry, Replayed
from kemu.explore.corpus import as_object


def dump(command: str, fields: dict[str, Any]) -> str:
    """The one object of *command*, on one line."""
    return json.dumps({"kemu": __version__, "command": command, **fields}, ensure_ascii=True)


def conclude(
    console: Console, command: str, fields: dict[str, Any], code: int, *, error: KemuError | None, interrupted: bool
) -> int:
    """The end of a *command* that has printed what it found: its one object, if that is asked for, and the exit code.

    An *error* that came up after something was found is raised, and so is an interrupt, whatever *code* is.
    """
    if error is not None:
        code = error.exit_code
    elif interrupted:
        code = EXIT_INTERRUPTED
    console.clear()
    if console.as_json:
        ending = {"exit_code": code, "interrupted": interrupted, "error": None if error is None else str(error)}
        console.json(dump(command, {**fields, **ending}))
    if error is not None:
        raise error
    if interrupted:
        raise KeyboardInterrupt
    return code


def hunt_object(hunt: Hunt) -> dict[str, Any]:
    """What came of one program."""
    verdict = hunt.verdict
    drawn = None if hunt.found else verdict.drawn
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
        "failing_share_below": min(1.0, 3 / drawn[0]) if drawn is not None else None,
        "estimates": [{**asdict(one), "unseen": one.unseen, "least": one.least} for one in verdict.estimates],
        "findings": [found_object(found) for found in hunt.found],
        "warnings": list(hunt.warnings),
        "corpus": [replayed_object(one) for one in hunt.memory.replayed] if hunt.memory is not None else [],
        "error": str(hunt.error) if hunt.error is not None else None,
    }


def replayed_object(one: Replayed) -> dict[str, Any]:
    """A run of the corpus, and what has become of it."""
    return {"code": one.entry.code, "token": one.entry.token, "state": one.state, "clean": one.entry.clean}


def entry_object(entry: Entry) -> dict[str, Any]:
    """A run of the corpus, as it is kept."""
    replay = entry_command(entry)
    return {"id": entry.id, "file": str(entry.path), **as_object(entry), "replay": replay}


def found_object(found: Found) -> dict[str, Any]:
    """One finding."""
    fields = asdict(found.report)
    del fields["program"], fields["found"]
    return {
        **fields,
        "signature": list(found.signature),
        "depth": None if found.report.orders is None else len(found.report.orders),
        "token": found.token,
        "run": found.run,
        "trace": found.report.trace or None,
    }
