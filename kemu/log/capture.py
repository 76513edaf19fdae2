"""The second phase of two-phase logging: a run that matters is made once more and written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kemu import __version__
from kemu.log.recorder import Recorder
from kemu.log.trace import SCHEMA, Trace
from kemu.runtime import Actor, LogSink, Observer, Oracle, Outcome, Runtime, Thread

LogFactory = Callable[[Runtime], LogSink]


class Loggable(Protocol):
    """A program whose runs can be logged."""

    @property
    def name(self) -> str:
        """What a user calls it."""
        ...

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that name the program and its code."""
        ...

    def run(self, oracle: Oracle, observer: Observer | None = None, log: LogFactory | None = None) -> Outcome:
        """Run it once under *oracle*."""
        ...


def capture(
    program: Loggable, oracle: Oracle, about: Mapping[str, Any] | None = None
) -> tuple[Outcome, Trace, Recorder]:
    """Run *program* once under *oracle*, which is begun here, and return outcome, trace and recorder.

    *about* goes into the trace's header: strategy, seed, token, and what else says where the run comes from.
    """
    recorder = Recorder()
    oracle.begin()
    outcome = program.run(oracle, recorder, recorder.attach)
    return outcome, finish(recorder, program, outcome, about or {}), recorder


def finish(recorder: Recorder, program: Loggable, outcome: Outcome, about: Mapping[str, Any]) -> Trace:
    """The trace of the run that *recorder* has recorded and that ended with *outcome*."""
    failure = outcome.failure
    rows = recorder.rows()
    if failure is not None and not any(row.get("check") == failure.code for row in rows):
        # Found when everything had come to rest: no thread was there to log it.
        row = {"seq": len(rows), "step": recorder.step, "vt": rows[-1]["vt"] if rows else 0}
        rows.append(row | {"ev": "check.violation", "check": failure.code, "sev": "error", "detail": failure.summary})
    header: dict[str, Any] = {
        "ev": "trace.header",
        "schema": SCHEMA,
        "kemu": __version__,
        "scenario": program.name,
        "src": program.identity,
        **about,
        "outcome": "finding" if failure is not None else "clean",
        "end": outcome.end,
        "steps": outcome.steps,
        "decisions": len(outcome.choices),
        "digest": f"{outcome.fingerprint:016x}",
        "unit": "100ns",
    }
    if failure is not None:
        header["failure"] = {
            "check": failure.code,
            "summary": failure.summary,
            "sig": list(failure.signature),
        }
    header["threads"] = [{"id": one["id"], "name": one["name"]} for one in recorder.named(Thread)]
    header["actors"] = recorder.named(Actor)
    header["objects"] = [
        {"id": number, "name": name, **({"kind": kind} if kind else {})}
        for number, (name, kind) in enumerate(recorder.objects.items(), 1)
    ]
    return Trace(header, rows)
