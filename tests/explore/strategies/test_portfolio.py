"""The portfolio: who gets the runs, what it proves, and that it all follows from the seed."""

from __future__ import annotations

import pytest
from explore import classics
from explore.programs import TestProgram, abba, answered_badly, lost_update, steps_program
from explore.searching import reduced

from kemu.errors import UsageError
from kemu.explore import Budget, Exploration, explore
from kemu.explore.strategies import DPOR, Portfolio
from kemu.explore.strategies.portfolio import WARM, WINDOW, Member
from kemu.explore.strategies.random_walk import RandomWalk
from kemu.runtime import Outcome


def explored(program: TestProgram, portfolio: Portfolio, runs: int) -> Exploration:
    return explore(program, portfolio, Budget(schedules=runs), keep_going=True)


def test_some_of_the_runs_are_the_reduced_search_s() -> None:
    portfolio = Portfolio(1)
    watched: list[bool] = []
    program = steps_program(9, 9, 9)
    for _ in range(24):
        assert portfolio.begin()
        watched.append(portfolio.observer is not None)
        portfolio.end(program.run(portfolio, portfolio.observer))
    assert [run for run, is_watched in enumerate(watched) if is_watched] == [0, 1, 16, 20]
    assert portfolio.reduction.traces == 4


def test_it_proves_what_the_reduced_search_does() -> None:
    program = TestProgram(abba)
    program.stops = False
    portfolio = Portfolio(1)
    found = explored(program, portfolio, 1_000)
    assert found.exhausted
    assert portfolio.exhausted
    assert found.reduction is not None
    assert found.reduction.traces == reduced(program).made == 3
    # Two classes, the samplers' runs, and the third class, with which it ends.
    assert found.schedules == WARM + 1


def test_the_search_is_given_up_after_so_many_runs() -> None:
    portfolio = Portfolio(1, reduced=3)
    program = steps_program(9, 9, 9)
    found = explored(program, portfolio, 40)
    assert not found.exhausted
    assert found.reduction is not None
    assert found.reduction.traces == 3


def test_without_the_search_it_only_samples() -> None:
    found = explored(TestProgram(abba), Portfolio(1, reduced=0), 40)
    assert not found.exhausted
    assert found.schedules == 40


def test_all_follows_from_the_seed() -> None:
    def runs(seed: int) -> list[tuple[int, ...]]:
        portfolio = Portfolio(seed)
        program = TestProgram(answered_badly, stops=False)
        made: list[tuple[int, ...]] = []
        for _ in range(60):
            portfolio.begin()
            outcome = program.run(portfolio, portfolio.observer)
            portfolio.end(outcome)
            made.append(tuple(outcome.choices))
        return made

    assert runs(1) == runs(1)
    assert runs(1) != runs(2)


def test_who_finds_new_runs_gets_more_turns() -> None:
    busy, idle = Member(RandomWalk(1)), Member(RandomWalk(2))
    turns = {busy: 0, idle: 0}
    for _ in range(200):
        member = min((busy, idle), key=lambda one: one.turns)
        turns[member] += 1
        member.note(new=member is busy)
    assert turns[busy] > 5 * turns[idle]
    assert turns[idle] >= WINDOW


def test_surw_learns_from_the_first_runs_of_the_search() -> None:
    """Otherwise its first run would be a plain random walk, for want of anything to go by."""
    program = classics.reorder(5)
    program.stops = False
    deaf, portfolio = Portfolio(1, reduced=0), Portfolio(1)
    for one, runs in ((deaf, 1), (portfolio, 3)):
        explored(program, one, runs)
    # Both have made the first run of SURW, and only one knew what cells there are.
    known = [one._learner._cell for one in (deaf, portfolio)]
    assert known[0] is None
    assert known[1] is not None


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_each_part_alone_would_find(seed: int) -> None:
    for program, most in (
        (classics.bluetooth_driver(), 100),
        (classics.reorder(10), 500),
        (classics.twostage(), 100),
        (TestProgram(lost_update), 20),
    ):
        found = explore(program, Portfolio(seed), Budget(schedules=most))
        assert found.findings, program.name


def test_bad_parameters() -> None:
    with pytest.raises(UsageError, match="reduced is -1"):
        Portfolio(1, reduced=-1)
    with pytest.raises(UsageError, match="seed is -1"):
        Portfolio(-1)


def test_the_search_of_a_portfolio_is_not_shared() -> None:
    one, other = Portfolio(1), Portfolio(1)
    explored(TestProgram(abba), one, 100)
    assert one.exhausted
    assert not other.exhausted
    assert isinstance(other.observer, DPOR)


def test_its_samplers_do_not_draw_alike() -> None:
    """Otherwise four runs in a row would answer the same question in the same way."""
    portfolio = Portfolio(1, reduced=0)
    drawn: dict[int, list[tuple[int, ...]]] = {}
    for run in range(8):
        portfolio.begin()
        drawn.setdefault(run // 4, []).append(tuple(portfolio.choose(1_000, "which") for _ in range(20)))
        portfolio.end(Outcome(fingerprint=run))
    assert [len(set(round_)) for round_ in drawn.values()] == [4, 4]
    other = Portfolio(2, reduced=0)
    other.begin()
    assert tuple(other.choose(1_000, "which") for _ in range(20)) not in drawn[0]


def test_a_run_0_that_is_made_once_more_is_no_sample() -> None:
    """Each batch begins with it, where a batch is made without those before it."""
    portfolio = Portfolio(1, start=16)
    samplers: list[str | None] = []
    for run in range(100):
        portfolio.begin()
        samplers.append(portfolio.sampler)
        portfolio.end(Outcome(fingerprint=run))
    # Without the reduced search each takes its turn: POS, SURW and URW count, and of the walks and PCT the walks,
    # but not the first, which is run 0 once more.
    walks = [sampler for sampler in samplers if sampler not in {"pos", "surw", "urw"}]
    assert walks[0] is None
    assert any(walk is not None for walk in walks[1:])
