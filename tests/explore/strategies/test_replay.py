"""Replay makes the recorded run, or says at which step it cannot."""

from __future__ import annotations

import pytest
from explore.programs import TestProgram, abba, answered_badly, lost_update, questions, steps_program, timed_wait

from kemu.errors import ReplayDiverged, UsageError
from kemu.explore import Budget, RandomWalk, Replay, explore, replay
from kemu.explore.token import trim
from kemu.runtime import Outcome


def what(outcome: Outcome) -> tuple[object, ...]:
    return (outcome.end, outcome.choices, outcome.fingerprint, outcome.steps, outcome.failure)


@pytest.mark.parametrize("main", [abba, lost_update, timed_wait, questions, answered_badly])
def test_a_run_is_made_again(main: object) -> None:
    program = TestProgram(main)  # type: ignore[arg-type]
    strategy = RandomWalk(3)
    for _ in range(50):
        strategy.begin()
        outcome = program.run(strategy)
        assert what(replay(program, outcome.choices, complete=True)) == what(outcome)
        # Trailing zeros are the same run.
        assert what(replay(program, trim(outcome.choices))) == what(outcome)


def test_impossible_choice() -> None:
    # Main's step, then three steps that could be decided; the fourth decision has two alternatives.
    with pytest.raises(ReplayDiverged, match="step 4: decision 3 was recorded as 7, but 2 parties can go on") as caught:
        replay(steps_program(5, 5), [0, 0, 0, 7])
    assert caught.value.step == 4


def test_impossible_answer() -> None:
    # Main, start, load; the question is asked in the third step, number 2.
    with pytest.raises(ReplayDiverged, match="step 2: decision 0 was recorded as 3, but 'completion' has 3 answers"):
        replay(TestProgram(questions), [3, 0])


def test_choices_left_over() -> None:
    program = steps_program(1, 1)
    outcome = replay(program, [])
    with pytest.raises(ReplayDiverged, match=f"step {outcome.steps}: the run is over, but 2 recorded choices are left"):
        replay(program, [*outcome.choices, 0, 0])


def test_choices_missing() -> None:
    program = steps_program(3, 3)
    choices = replay(program, []).choices
    replay(program, choices, complete=True)
    with pytest.raises(ReplayDiverged, match="step 3: the recording ends after 2 decisions, but 2 parties can go on"):
        replay(program, choices[:2], complete=True)


def test_lenient_replay_takes_the_nearest() -> None:
    program = steps_program(2, 2)
    oracle = Replay([9, 0, 9, 9, 9, 9, 9, 9, 9], strict=False)
    assert oracle.begin()
    outcome = program.run(oracle)
    oracle.end(outcome)
    assert outcome.choices[:3] == [1, 0, 1]
    assert outcome.end == "finished"


def test_replay_is_for_one_run() -> None:
    exploration = explore(steps_program(2, 2), Replay([1]), Budget())
    assert (exploration.schedules, exploration.exhausted) == (1, True)


def test_negative_choice() -> None:
    with pytest.raises(UsageError, match="choice 1 is -1; choices are counted from 0"):
        Replay([0, -1])
