"""The explanation names the two events, the switches and the change that a reader would name."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from explore.programs import (
    Load,
    Store,
    TestProgram,
    Variable,
    abba,
    answered_badly,
    early_timeout,
    fail,
    forever,
    lost_update,
    spawn,
    steps_program,
    three_in_a_row,
    use_after_free,
)

from kemu.explore import Explanation, RandomWalk, explain, record, watch
from kemu.explore.watch import Event
from kemu.runtime import Observer, Oracle, Outcome

PROGRAMS = Path(__file__).with_name("programs.py")


def explained(program: TestProgram, choices: list[int], max_replays: int = 150) -> Explanation:
    explanation = explain(program, choices, max_replays=max_replays)
    assert explanation is not None
    return explanation


def source(event: Event) -> str:
    """The line of source at which an event happens."""
    assert event.place is not None
    assert event.place.file == str(PROGRAMS)
    return PROGRAMS.read_text().splitlines()[event.place.line - 1].strip()


def test_use_after_free() -> None:
    # Main; the user starts and checks; the cleaner starts and stores; the user goes on.
    explanation = explained(use_after_free(), [0, 0, 1])
    conflict = explanation.conflict
    assert conflict is not None
    assert (conflict.cell, conflict.reversed) == ("buffer", True)
    assert (conflict.first.thread, conflict.first.what, source(conflict.first)) == (
        "cleaner",
        "store buffer",
        "await Store(buffer, 0)",
    )
    assert (conflict.second.thread, conflict.second.what, source(conflict.second)) == (
        "user",
        "load buffer",
        "if not await Load(buffer):",
    )
    assert conflict.second.step == explanation.events[-1].step
    # Main ends, the user is preempted, the cleaner ends.
    assert [(s.leaves, s.enters, s.preemption) for s in explanation.switches] == [
        ("main", "user", False),
        ("user", "cleaner", True),
        ("cleaner", "user", False),
    ]
    preemption = explanation.switches[1]
    assert preemption.before == "load pause"
    assert str(preemption).startswith("step 3: user is preempted by cleaner before it could load pause (")
    assert str(explanation.switches[0]) == "step 1: main gives way to user"
    # The latest change: not to let the cleaner store (step 4), but the user go on.
    assert str(explanation.flip) == "passes if step 4 is taken by user instead of cleaner"
    assert str(conflict.second).startswith("user: load buffer at ")


def test_flipped_run_passes_and_differs_in_one_decision() -> None:
    for program, choices in (
        (use_after_free(), [0, 0, 1]),
        (TestProgram(lost_update), [0, 0, 1]),
        (three_in_a_row(), [0, 0, 1, 0, 0, 1]),
        (TestProgram(abba), [0, 0, 1]),
    ):
        explanation = explained(program, choices)
        flip = explanation.flip
        assert flip is not None
        failing = explanation.recording.choices
        at = flip.decision
        assert failing[:at] == (*flip.choices, *[0] * at)[:at]
        assert flip.taken.value == failing[at] != flip.instead.value
        assert not explain(program, flip.choices)


def test_deadlock() -> None:
    explanation = explained(TestProgram(abba), [0, 0, 1])
    conflict = explanation.conflict
    assert conflict is not None
    assert conflict.reversed
    # t0 cannot take B, which t1 has; the latest change is that t0 goes on to take it where t1 did.
    assert str(explanation.flip) == "passes if step 4 is taken by t0 instead of t1"
    assert (conflict.first.thread, conflict.first.what, conflict.cell) == ("t1", "acquire B", "B")
    assert (conflict.second.thread, conflict.second.what, conflict.second.taken) == ("t0", "acquire B", False)
    assert source(conflict.first) == "await Acquire(first)"
    assert source(conflict.second) == "await Acquire(second)"
    stuck = [event for event in explanation.events if not event.taken]
    assert [(event.thread, event.what) for event in stuck] == [("t0", "acquire B"), ("t1", "acquire A")]


def test_question() -> None:
    explanation = explained(TestProgram(answered_badly), [0, 0, 0, 1])
    flip = explanation.flip
    assert flip is not None
    assert flip.taken.kind == "data"
    assert str(flip) == f"passes if in step {flip.step} 'question 1' is answered 0 instead of 1"


def test_early_timeout() -> None:
    # Main; the waiter waits; the clock fires; the waiter gives up.
    explanation = explained(TestProgram(early_timeout), [0, 1])
    assert str(explanation.flip) == "passes if step 2 is taken by setter instead of clock"
    assert [str(switch) for switch in explanation.switches][2] == "step 3: clock gives way to waiter"
    conflict = explanation.conflict
    assert conflict is not None
    assert (conflict.first.thread, conflict.second.thread) == ("waiter", "setter")
    # The setter comes too late: in the failing run, not at all.
    assert (conflict.first.what, conflict.second.what, conflict.second.taken) == ("wait for done", "set done", False)


def test_without_a_passing_run() -> None:
    # Whatever the order, both store and main's look comes last.
    async def hopeless() -> None:
        x = Variable("x")

        async def store(value: int) -> None:
            await Store(x, value)
            await Load(x)
            fail("always")

        spawn("t0", store(1))
        spawn("t1", store(2))

    explanation = explained(TestProgram(hopeless), [])
    assert explanation.flip is None
    assert explanation.conflict is None
    explanation = explained(TestProgram(hopeless), [0, 0, 1])
    assert explanation.flip is None
    assert explanation.conflict is not None
    assert not explanation.conflict.reversed


def test_replays_are_limited() -> None:
    program = TestProgram(forever, max_steps=50)
    for allowed in (0, 1, 10, 60):
        before = program.runs
        explanation = explained(program, [], max_replays=allowed)
        # And the run itself.
        assert program.runs - before == explanation.replays <= allowed + 1


def test_the_conflict_is_what_tells_the_failing_run_from_its_nearest_neighbour() -> None:
    explanation = explained(three_in_a_row(), [0, 0, 1, 0, 0, 1])
    conflict, orderings = explanation.conflict, explanation.orderings
    assert conflict is not None
    assert conflict.choices is not None
    assert not explain(three_in_a_row(), conflict.choices)
    assert conflict.others == 0
    assert orderings is not None
    assert (len(orderings.orders), explanation.why, explanation.interrupted) == (4, "", False)


def test_who_has_had_enough_gets_what_there_is() -> None:
    program = use_after_free()
    whole = explained(program, [0, 0, 1])
    seen: set[tuple[bool, bool, bool]] = set()
    for allowed in [0, 3, whole.replays - 4, whole.replays - 2, whole.replays - 1, whole.replays]:
        asked = count()
        explanation = explain(program, [0, 0, 1], stop=lambda allowed=allowed, asked=asked: next(asked) >= allowed)
        assert explanation is not None
        # The last question is asked before the last run.
        assert explanation.interrupted == (allowed < whole.replays - 1)
        seen.add((explanation.interrupted, explanation.orderings is not None, explanation.flip is not None))
    assert {(True, False, False), (True, True, False), (False, True, True)} <= seen


class Impatient(TestProgram):
    """A program whose user presses Ctrl-C in a certain run."""

    def __init__(self, last: int) -> None:
        super().__init__(use_after_free().main)
        self.last = last

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        if self.runs >= self.last:
            raise KeyboardInterrupt
        return super().run(oracle, observer)


def test_an_interrupt_keeps_what_there_is() -> None:
    whole = explained(use_after_free(), [0, 0, 1])
    in_reasons = explained(Impatient(5), [0, 0, 1])
    assert (in_reasons.interrupted, in_reasons.orderings, in_reasons.flip) == (True, None, None)
    assert in_reasons.why == "interrupted"
    assert in_reasons.conflict is not None
    in_flips = explained(Impatient(whole.replays - 1), [0, 0, 1])
    assert in_flips.interrupted
    assert in_flips.orderings is not None
    assert whole.orderings is not None
    assert (in_flips.orderings.checked, in_flips.orderings.settled) == (whole.orderings.checked, True)


def test_a_run_that_passes() -> None:
    assert explain(steps_program(1, 1), [1]) is None


@pytest.mark.parametrize("program", [TestProgram(lost_update), TestProgram(early_timeout), three_in_a_row()])
def test_watching_changes_nothing_and_misses_nothing(program: TestProgram) -> None:
    for seed in range(20):
        recording, events = watch(program, RandomWalk(seed))
        plain = record(program, RandomWalk(seed))
        assert recording.choices == plain.choices
        assert recording.outcome.fingerprint == plain.outcome.fingerprint
        taken = [event for event in events if event.taken]
        assert [event.path for event in taken] == list(recording.parties)
        assert [event.step for event in taken] == list(range(recording.outcome.steps))
        ordinals: dict[tuple[int, ...], int] = {}
        for event in taken:
            ordinals[event.path] = ordinals.get(event.path, 0) + 1
            assert event.ordinal == ordinals[event.path]
