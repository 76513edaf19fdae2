"""Traces as text, pinned."""

from __future__ import annotations

from typing import Any

import pytest
from log.kit import record

from kemu.log import Trace
from kemu.log.render import console, minispy, render
from kemu.nt.event import KEVENT, SetEvent
from kemu.runtime import Point


def row(seq: int, ev: str, **fields: Any) -> dict[str, Any]:
    return {"seq": seq, "step": seq, "vt": 0, "thread": "app", "ev": ev, "irql": 0, **fields}


NESTED = [
    row(0, "irp.create", irp=1, op="IRP_MJ_READ", kind="IRP", path="\\a", actor="user:app"),
    row(1, "flt.pre.enter", irp=1, flt="flt:a", inst="a Instance", path="\\a", actor="user:app"),
    row(2, "user.log", irp=1, text="two words", actor="flt:a", irql=2, data={"step": 4, "n": 1}),
    row(3, "flt.pre.return", irp=1, ret="FLT_PREOP_PENDING", actor="user:app", cause=1),
    row(4, "sched.decide", thread="wk", enabled=["wk", "app"], pick=0, why="switch", vt=12_345, irql=7),
    row(5, "some.thing", thread="wk", colour="red"),
    row(6, "irp.complete", irp=1, op="IRP_MJ_READ", status="STATUS_SUCCESS", info=9, vt=36_610_010_000),
]


def test_console() -> None:
    assert list(console(NESTED)) == [
        "step        ms q irp thread actor    event",
        r"   0    0.0000 P   1 app    user:app irp.create                   op=IRP_MJ_READ path=\a kind=IRP",
        "   1    0.0000 P   1 app    user:app flt.pre.enter                flt=flt:a",
        "   2    0.0000 D   1 app    flt:a      user.log                   text='two words' step_=4 n=1",
        "   3    0.0000 P   1 app    user:app flt.pre.return               ret=FLT_PREOP_PENDING cause=1",
        "   4    1.2345 7     wk              sched.decide                 enabled=[wk, app] pick=0 why=switch",
        "   5    0.0000 P     wk              some.thing                   colour=red",
        (
            "   6 3661001.0000 P   1 app             irp.complete                 "
            "op=IRP_MJ_READ status=STATUS_SUCCESS info=9"
        ),
    ]


def test_minispy() -> None:
    events = [*NESTED, row(7, "irp.create", irp=2, op="IRP_MJ_WRITE", kind="fast I/O", path="\\b")]
    lines = [line.split() for line in minispy(events)]
    assert lines == [
        ["Opr", "SeqNum", "PreOp", "Time", "PostOp", "Time", "Process.Thrd", "Major", "Status:Inform", "Name"],
        ["IRP", "1", "00:00:00:000", "01:01:01:001", "app", "IRP_MJ_READ", "STATUS_SUCCESS:9", "\\a"],
        ["FIO", "2", "00:00:00:000", "app", "IRP_MJ_WRITE", "(pending)", "\\b"],
    ]


def test_colour_only_where_asked_for() -> None:
    plain = "\n".join(console(NESTED))
    coloured = "\n".join(console(NESTED, colour=True))
    assert "\x1b" not in plain
    assert "\x1b[36mflt.pre.enter" in coloured
    assert coloured.count("\x1b[0m") >= len(NESTED)


def test_what_a_driver_logs_cannot_control_the_terminal() -> None:
    (_, line) = console([row(0, "user.log", text="\x1b[2Jgone\nnext", data={"x": "\x07"})])
    assert "\x1b" not in line
    assert "\\x1b[2Jgone\\nnext" in line
    assert "x='\\x07'" in line


@pytest.mark.parametrize(("style", "first"), [("console", "step"), ("minispy", "Opr")])
def test_render_takes_a_recorded_run(style: str, first: str) -> None:
    async def main() -> None:
        await SetEvent(KEVENT("e"))
        await Point("end")

    lines = list(render(record(main).trace, style))
    assert lines[0].startswith(first)


def test_nothing_recorded() -> None:
    assert list(render(Trace({}, []))) == ["step        ms q irp thread actor event"]
