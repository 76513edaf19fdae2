"""What is recorded of a run, and the order of simpler."""

from __future__ import annotations

from itertools import pairwise

from explore.programs import TestProgram, abba, early_timeout, lost_update, questions, steps_program, timed_wait

from kemu.explore import BoundedDFS, Cost, RandomWalk, Recorder, Replay, record
from kemu.explore.strategies.base import CLOCK

MAIN, T0, T1 = (0,), (0, 0), (0, 1)


def test_plain_run() -> None:
    # Main; then t0's start, load and end, with t1 beside it; t1 alone needs no decision.
    recording = record(steps_program(2, 2), Replay([]))
    assert recording.parties == (MAIN, T0, T0, T0, T1, T1, T1)
    assert recording.choices == (0, 0, 0)
    assert recording.cost == Cost(preemptions=0, answers=0, switches=2, length=0, choices=())
    first, second, _ = recording.decisions
    # Main has ended: nobody goes on with alternative 0.
    assert (first.kind, first.n, first.step, first.label, first.continues) == ("thread", 2, 1, "t0", False)
    assert (second.step, second.label, second.continues) == (2, "t0", True)


def test_preemption_and_free_switch() -> None:
    # The first choice is free; the third takes the processor from t1, which could go on.
    recording = record(steps_program(1, 1), Replay([1, 1, 0]))
    assert recording.parties == (MAIN, T1, T0, T0, T1)
    assert [decision.preemption for decision in recording.decisions] == [False, True, False]
    assert recording.cost == Cost(1, 0, 3, 2, (1, 1))


def test_blocking_is_no_preemption() -> None:
    # t0 takes A; preempted; t1 takes B and then cannot go on, nor can t0: one preemption, no more decisions.
    recording = record(TestProgram(abba), Replay([0, 0, 1]))
    assert recording.failure is not None
    assert recording.failure.code == "DEADLOCK"
    assert recording.cost == Cost(1, 0, 2, 3, (0, 0, 1))


def test_clock_is_no_preemption_but_a_switch() -> None:
    recording = record(TestProgram(early_timeout), Replay([0, 1]))
    assert recording.parties == (MAIN, T0, CLOCK, T0)
    clock = recording.decisions[1]
    assert (clock.clock, clock.label, clock.preemption) == (True, "clock", False)
    assert recording.cost == Cost(0, 0, 3, 2, (0, 1))


def test_answers() -> None:
    recording = record(TestProgram(questions), Replay([2, 0]))
    # Main, start, load (asks), load (asks).
    assert [(d.kind, d.n, d.value, d.label, d.step) for d in recording.decisions] == [
        ("data", 3, 2, "completion", 2),
        ("data", 2, 0, "allocation", 3),
    ]
    assert recording.cost == Cost(0, 1, 1, 1, (2,))
    assert recording.answers == {T0: (2, 0)}


def test_plan_has_a_piece_for_each_turn() -> None:
    plan = record(steps_program(1, 1), Replay([1, 1, 0])).plan()
    assert [(piece.path, piece.upto) for piece in plan.slices] == [(MAIN, 1), (T1, 1), (T0, 2), (T1, 2)]


def test_recording_changes_nothing() -> None:
    for main in (lost_update, timed_wait):
        program = TestProgram(main)
        for seed in range(20):
            bare, recorded = RandomWalk(seed), RandomWalk(seed)
            bare.begin()
            outcome = program.run(bare)
            recording = record(program, recorded)
            assert list(recording.choices) == outcome.choices
            assert recording.outcome.fingerprint == outcome.fingerprint


def test_cost_agrees_with_the_bound_of_exhaustive_search() -> None:
    for main in (lost_update, timed_wait, questions, abba):
        program = TestProgram(main)
        search = BoundedDFS(None)
        while True:
            recorder = Recorder(search)
            if not recorder.begin():
                break
            outcome = program.run(recorder, recorder)
            search.end(outcome)
            cost = recorder.recording(outcome).cost
            assert cost.preemptions + cost.answers == search.level


def test_simpler_is_one_written_order() -> None:
    simplest_first: list[Cost] = [
        Cost(0, 0, 1, 0, ()),
        Cost(0, 0, 9, 9, (1, 1)),
        Cost(0, 1, 0, 0, ()),
        Cost(1, 0, 0, 0, ()),
        Cost(1, 0, 1, 2, (0, 1)),
        Cost(1, 0, 1, 2, (0, 2)),
        Cost(1, 0, 1, 3, (0, 0, 1)),
    ]
    assert all(one < other for one, other in pairwise(simplest_first))
