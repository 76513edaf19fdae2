"""A plan names who runs; following the plan of a run makes that run."""

from __future__ import annotations

import pytest
from explore.programs import TestProgram, abba, answered_badly, lost_update, mixed, periodic, questions, timed_wait

from kemu.explore import Budget, RandomWalk, explore, record
from kemu.explore.strategies import Follow, Plan, Replay, Slice


@pytest.mark.parametrize("main", [abba, lost_update, timed_wait, questions, answered_badly, mixed, periodic])
def test_the_plan_of_a_run_makes_the_run(main: object) -> None:
    program = TestProgram(main)  # type: ignore[arg-type]
    strategy = RandomWalk(3)
    for _ in range(50):
        recording = record(program, strategy)
        again = record(program, Follow(recording.plan()))
        assert again.choices == recording.choices
        assert again.outcome.fingerprint == recording.outcome.fingerprint


def test_a_piece_that_cannot_go_on_is_made_up_for() -> None:
    # t0 is to take all its five steps, but is to start after t1 has both locks: it waits, and goes on at once
    # when t1 has released them, where t1 would have ended first.
    main, t0, t1 = (0,), (0, 0), (0, 1)
    recording = record(TestProgram(abba), Follow(Plan((Slice(main, 1), Slice(t1, 3), Slice(t0, 5), Slice(t1, 5)))))
    assert recording.parties == (main, t1, t1, t1, t0, t1, t1, t0, t0, t0, t0)


def test_follow_is_for_one_run() -> None:
    assert explore(TestProgram(abba), Follow(Plan(())), Budget()).schedules == 1


def test_keys() -> None:
    plan = record(TestProgram(questions), Replay([2, 1])).plan()
    assert plan.answers == {(0, 0): (2, 1)}
    assert plan.key() == record(TestProgram(questions), Replay([2, 1])).plan().key()
    assert plan.key() != record(TestProgram(questions), Replay([2])).plan().key()
