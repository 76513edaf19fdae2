"""Recorded runs of the scenarios that kemu ships: real events of every layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import Replay, StickyRandomWalk
from kemu.log import Trace, capture
from kemu.log.manifest import COMMON, MANIFEST
from kemu.log.render import console, minispy
from kemu.scenario.target import select

CORPUS = Path(__file__).resolve().parents[2] / "scenarios"
PROGRAMS = select(str(CORPUS), variant="all")
SEEDS = range(5)


def traces() -> list[Trace]:
    return [capture(program, StickyRandomWalk(seed))[1] for program in PROGRAMS for seed in SEEDS]


def test_there_is_a_corpus() -> None:
    assert len(PROGRAMS) >= 14


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name.rpartition("::")[2])
def test_logging_changes_no_run_of_the_corpus(program: object) -> None:
    (same,) = [one for one in PROGRAMS if one is program]
    for seed in SEEDS:
        walk = StickyRandomWalk(seed)
        walk.begin()
        plain = same.run(walk)
        logged, trace, _ = capture(same, Replay(plain.choices, complete=True))
        assert (logged.choices, logged.fingerprint, logged.steps, logged.end) == (
            plain.choices,
            plain.fingerprint,
            plain.steps,
            plain.end,
        )
        assert (logged.failure is None) == (plain.failure is None)
        assert list(trace.lines()) == list(capture(same, Replay(plain.choices, complete=True))[1].lines())


def test_every_event_has_the_fields_of_the_manifest_and_no_others() -> None:
    seen: dict[str, set[str]] = {}
    for trace in traces():
        for row in trace.events:
            seen.setdefault(row["ev"], set()).update(row)
    unknown = {name: fields - set(COMMON) - set(MANIFEST[name].fields) for name, fields in seen.items()}
    assert {name: fields for name, fields in unknown.items() if fields} == {}
    for name in ("flt.pre.enter", "flt.pre.return", "flt.complete_pended", "irp.create", "irp.complete", "fs.call"):
        assert set(MANIFEST[name].fields) <= seen[name]


def test_every_event_of_an_operation_says_which() -> None:
    for trace in traces():
        for row in trace.events:
            if row["ev"].startswith(("irp.", "fs.", "flt.pre.", "flt.post.", "flt.queue", "flt.complete_pended")):
                assert "irp" in row


def test_causes_come_before_and_are_what_they_should_be() -> None:
    expected = {
        "flt.pre.return": {"flt.pre.enter"},
        "flt.complete_pended": {
            *("flt.pre.return", "flt.post.return"),
            *("flt.queue", "flt.pre.enter", "sched.wake", "actor.spawn"),
        },
        "flt.post.enter": {"flt.pre.return", "flt.complete_pended", "sched.wake", "actor.spawn"},
        "work.run": {"work.queue", "actor.spawn", "sched.wake"},
    }
    seen: set[str] = set()
    for trace in traces():
        for row in trace.events:
            cause = row.get("cause")
            if cause is not None:
                assert cause < row["seq"]
            if row["ev"] in expected and cause is not None:
                seen.add(row["ev"])
                # What woke the thread may come later than what made the event possible.
                assert trace.events[cause]["ev"] in expected[row["ev"]] | {"sched.wake"}
    assert {"flt.pre.return", "flt.complete_pended", "work.run"} <= seen


def test_every_run_can_be_shown() -> None:
    for trace in traces():
        assert len(list(console(trace.events))) == len(trace.events) + 1
        created = sum(row["ev"] == "irp.create" for row in trace.events)
        assert len(list(minispy(trace.events))) == created + 1
