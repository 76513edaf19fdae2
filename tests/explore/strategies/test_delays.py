"""The search by number of delays makes every run within the bound, and none twice. The counts are derived by hand."""

from __future__ import annotations

import pytest
from explore.catalogue import CLASSICS
from explore.programs import TestProgram, abba, mixed, questions, steps_program

from kemu.explore import BoundedDelays, BoundedDFS, Budget, explore, strategy_from_name
from kemu.runtime import current_thread


def runs_within(program: TestProgram, bound: int | None) -> list[tuple[int, ...]]:
    strategy = BoundedDelays(bound)
    runs: list[tuple[int, ...]] = []
    while strategy.begin():
        outcome = program.run(strategy)
        strategy.end(outcome)
        runs.append(tuple(outcome.choices))
    assert strategy.completed == (max(sum(run) for run in runs) if strategy.exhausted else bound)
    return runs


def test_two_threads_of_two_steps() -> None:
    # The plain run is AABB. A delay before A1 gives BBAA, one before A2 ABBA: while both can go on, going on is plain.
    # Two: ABAB, and BABA is B A (1 + 1) and then B A; B's delay again makes BAAB. By sums of choices: 1, 2, 2, 1.
    assert [sum(run) for run in runs_within(steps_program(1, 1), None)] == [0, 1, 1, 2, 2, 3]
    assert [len(runs_within(steps_program(1, 1), bound)) for bound in (0, 1, 2, 3, 4)] == [1, 3, 5, 6, 6]


def test_a_bound_that_leaves_nothing_out_is_no_bound() -> None:
    for bound, exhausted in ((2, False), (3, True), (7, True)):
        strategy = BoundedDelays(bound)
        exploration = explore(steps_program(1, 1), strategy, Budget())
        assert (exploration.exhausted, strategy.exhausted, exploration.bound) == (True, exhausted, min(bound, 3))


def test_a_delay_passes_one_turn() -> None:
    # Three threads of two steps: four decisions of three parties or two before the end of the plain run, each of
    # which can be delayed once: 1 + 4.
    runs = runs_within(steps_program(1, 1, 1), 1)
    assert [sum(run) for run in runs] == [0, 1, 1, 1, 1]
    # With two delays, 2 is an alternative as well.
    assert max(max(run) for run in runs_within(steps_program(1, 1, 1), 2)) == 2


@pytest.mark.parametrize("program", [TestProgram(abba), TestProgram(mixed), steps_program(2, 1, 1)])
def test_without_a_bound_it_makes_what_the_other_search_makes(program: TestProgram) -> None:
    runs = runs_within(program, None)
    assert len(set(runs)) == len(runs)
    assert [sum(run) for run in runs] == sorted(sum(run) for run in runs)
    assert len(runs) == explore(program, BoundedDFS(None), Budget(), keep_going=True).schedules


def test_answers_cost_what_they_are() -> None:
    # Answers 0 to 2 and 0 to 1: sums 0, 1, 1, 2, 2, 3.
    assert [sum(run) for run in runs_within(TestProgram(questions), None)] == [0, 1, 1, 2, 2, 3]


def test_the_answers_beyond_the_bound_are_left_out_and_that_is_known() -> None:
    # One question of three answers: the last costs two, and nothing else is put off.
    async def one_question() -> None:
        current_thread().runtime.choose(3, "which")

    program = TestProgram(one_question)
    for bound, runs, exhausted in ((0, 1, False), (1, 2, False), (2, 3, True)):
        strategy = BoundedDelays(bound)
        assert explore(program, strategy, Budget()).schedules == runs
        assert (strategy.completed, strategy.exhausted) == (bound, exhausted)


def test_few_delays_reach_what_many_preemptions_do_not_leave_out() -> None:
    # The bug of wronglock is one delay away from the plain run, in whatever number of threads.
    exploration = explore(CLASSICS["wronglock"].make(), BoundedDelays(2), Budget(schedules=200))
    assert exploration.findings
    assert sum(exploration.findings[0].choices) == 1


def test_names() -> None:
    assert BoundedDelays(None).name == "idb"
    assert strategy_from_name("idb", 1, bound=1).name == "idb(bound=1)"
    # The field's name of the search by preemptions.
    assert strategy_from_name("ipb", 1, bound=1).name == "dfs(bound=1)"
