"""Schedules written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli import kit

from kemu.cli.order import Entry, Order, parse_order
from kemu.errors import UsageError
from kemu.runtime import BlockingOperation, ControlledRuntime, Point, Waitable, current_thread


def test_reading_an_order() -> None:
    assert parse_order("writer*3, wk:delayed#0 ,clock,a b * 2") == (
        Entry("writer", 3),
        Entry("wk:delayed#0", None),
        Entry("clock", 1),
        Entry("a b", 2),
    )
    assert [str(entry) for entry in parse_order("a*3,b")] == ["a*3", "b"]


@pytest.mark.parametrize("text", ["", " ", "a,,b", "a*", "a*0", "a*x", "*3", "a*1*2"])
def test_what_is_no_order(text: str) -> None:
    with pytest.raises(UsageError, match="is no thread") as caught:
        parse_order(text)
    assert "separated by commas" in caught.value.remedy


class Sleep(BlockingOperation[None]):
    kind = "sleep"

    def available(self, thread: object) -> bool:
        return False

    def timed_out(self, thread: object) -> None:
        return None


def run(order: str) -> list[str]:
    """Who took each step of two threads of three steps each, and what the clock did."""
    steps: list[str] = []

    async def thread(label: str) -> None:
        for _ in range(3):
            await Point("step")
            steps.append(label)

    async def sleeper() -> None:
        await Sleep(Waitable(current_thread(), "alarm"), timeout=10)
        steps.append("woken")

    async def main() -> None:
        runtime = current_thread().runtime
        for label in ("a", "b"):
            runtime.spawn(label, thread(label))
        runtime.spawn("sleeper", sleeper())

    oracle = Order(parse_order(order))
    assert oracle.begin()
    outcome = ControlledRuntime(oracle).run("main", main())
    if outcome.crash is not None:
        raise outcome.crash
    oracle.end(outcome)
    assert not oracle.begin()
    return steps


# A thread's first step takes it to its first point: it appends one step later.
@pytest.mark.parametrize(
    ("order", "steps"),
    [
        ("a", "a a a b b b woken"),
        ("main, a", "a a a b b b woken"),
        ("b", "b b b a a a woken"),
        ("main, b, a", "b b b a a a woken"),
        ("a*2, b*3, a", "a b b a a b woken"),
        ("b*4, a*2, sleeper, clock, sleeper", "b b b a woken a a"),
        ("sleeper, clock, sleeper, b", "woken b b b a a a"),
        ("a*1, b*1, a*1, b*1, a*1, b*1", "a b a b b a woken"),
    ],
)
def test_the_order_is_followed(order: str, steps: str) -> None:
    taken = run(order)
    assert sorted(taken) == sorted(["a", "a", "a", "b", "b", "b", "woken"])
    assert " ".join(taken) == steps


@pytest.mark.parametrize(
    ("order", "message", "remedy"),
    [
        ("c", "entry 1 of the order, c, is not possible: there is no 'c' at that point", "these can go on: "),
        ("slepper", "there is no 'slepper'", "did you mean 'sleeper'? these can go on: "),
        ("a, a", "entry 2 of the order, a, is not possible: a cannot go on there", "these can go on: "),
        ("a*9", "entry 1 of the order, a*9, is not possible: a cannot go on there", "these can go on: b"),
        ("clock", "clock cannot go on there", "these can go on: a, b, sleeper"),
        ("a, b, sleeper, d", "the order names 'd', and there was no such thread", "there were: "),
    ],
)
def test_an_entry_that_is_not_possible(order: str, message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(order)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_name_that_never_had_a_turn() -> None:
    oracle = Order(parse_order("mian"))

    async def main() -> None:
        await Point("alone")

    outcome = ControlledRuntime(oracle).run("main", main())
    with pytest.raises(UsageError, match="the order names 'mian'") as caught:
        oracle.end(outcome)
    assert caught.value.remedy == "there were: no decisions at all"


def test_questions_are_answered_plainly() -> None:
    assert Order(()).choose(5, "what") == 0


def test_at_the_command_line(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    # The first adds after it has loaded, and the second has loaded and stored in between: an update is lost.
    lost = kit.kemu("run", scene, "--order", "script, add*1, add#2, add")
    assert (lost.code, lost.lines[-1].split()[0]) == (1, "replay:")
    kept = kit.kemu("run", scene, "--order", "script, add#2, add", "-q")
    assert (kept.code, kept.out) == (0, "ok scene.py::lost_update[racy]: this run finds nothing\n")
    wrong = kit.kemu("run", scene, "--order", "script, ad")
    assert (wrong.code, wrong.out) == (2, "")
    assert "did you mean 'add'?" in wrong.err
