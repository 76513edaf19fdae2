"""What all strategies promise, and what each sampler promises of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from explore.programs import (
    TestProgram,
    answered_badly,
    early_timeout,
    forever,
    lost_update,
    mixed,
    periodic,
    questions,
    spin_in_turns,
    steps_program,
    three_in_a_row,
    timed_wait,
    use_after_free,
)

from kemu.errors import UsageError
from kemu.explore import (
    DEFAULT_STRATEGY,
    PCT,
    POS,
    STRATEGIES,
    SURW,
    URW,
    Alternating,
    BoundedDFS,
    Budget,
    Portfolio,
    RandomDelay,
    RandomWalk,
    Reducing,
    Reduction,
    Sampler,
    StickyRandomWalk,
    Strategy,
    explore,
    strategy_from_name,
)
from kemu.runtime import DecisionPoint, Observer, Outcome

SAMPLERS = ("random", "sticky", "pct", "alternating", "pos", "urw", "surw", "delay")

Runs = list[tuple[int, ...]]


def runs_of(program: TestProgram, strategy: Strategy, count: int) -> Runs:
    """The choices of the first *count* runs."""
    runs: Runs = []
    for _ in range(count):
        assert strategy.begin()
        outcome = program.run(strategy)
        strategy.end(outcome)
        runs.append(tuple(outcome.choices))
    return runs


class InRange:
    """Asserts that a strategy keeps to the alternatives it is given."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.name, self.seed, self.completed = strategy.name, strategy.seed, None
        self.asked = 0

    def begin(self) -> bool:
        return self.strategy.begin()

    def pick(self, n: int, point: DecisionPoint) -> int:
        assert n >= 2
        self.asked += 1
        value = self.strategy.pick(n, point)
        assert 0 <= value < n
        return value

    def choose(self, n: int, label: str) -> int:
        assert n >= 2
        self.asked += 1
        value = self.strategy.choose(n, label)
        assert 0 <= value < n
        return value

    def end(self, outcome: Outcome) -> None:
        self.strategy.end(outcome)

    @property
    def observer(self) -> Observer | None:
        return self.strategy.observer if isinstance(self.strategy, Reducing) else None

    @property
    def reduction(self) -> Reduction:
        return Reduction(0, 0, exhausted=False, doubt="")

    def distrust(self, why: str) -> None:
        raise AssertionError(why)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_to_the_alternatives(name: str) -> None:
    for main in (questions, mixed, timed_wait, lost_update, answered_badly, periodic, early_timeout):
        oracle = InRange(strategy_from_name(name, 3))
        explore(TestProgram(main), oracle, Budget(schedules=100), keep_going=True)
        assert oracle.asked


@pytest.mark.parametrize("name", SAMPLERS)
def test_runs_follow_from_the_seed(name: str) -> None:
    program = TestProgram(lost_update)
    one = runs_of(program, strategy_from_name(name, 1), 40)
    assert one == runs_of(program, strategy_from_name(name, 1), 40)
    assert one != runs_of(program, strategy_from_name(name, 2), 40)


@pytest.mark.parametrize("name", ["random", "sticky", "pos"])
def test_a_run_can_be_had_without_those_before_it(name: str) -> None:
    program = TestProgram(answered_badly)
    runs = runs_of(program, strategy_from_name(name, 5), 30)
    assert [runs_of(program, strategy_from_name(name, 5, start=k), 1)[0] for k in range(30)] == runs


def test_a_run_of_the_default_needs_only_run_0() -> None:
    program = steps_program(5, 9, 3)
    runs = runs_of(program, Alternating(5), 30)
    for k in range(30):
        # With a start above 0, run 0 is made first.
        assert runs_of(program, Alternating(5, start=k), 2 if k else 1)[-1] == runs[k]


def test_a_run_of_the_default_does_not_depend_on_how_others_ended() -> None:
    # The program that is run in between is another one, and longer. Run 0 and run 7 are the same for it.
    program, other = steps_program(5, 9, 3), steps_program(50, 50)
    strategy = Alternating(5)
    mixed_runs = [runs_of(program if k in (0, 7) else other, strategy, 1)[0] for k in range(8)]
    assert mixed_runs[7] == runs_of(program, Alternating(5), 8)[7]


def test_streams_do_not_repeat() -> None:
    # The hash is restarted for every run and goes on in blocks: a long run has no period, and runs differ.
    sampler = RandomWalk(1)
    sampler.begin()
    first = [sampler.below(64) for _ in range(2_000)]
    sampler.begin()
    second = [sampler.below(64) for _ in range(2_000)]
    assert first != second
    assert len({tuple(first[at : at + 8]) for at in range(0, 2_000, 8)}) == 250


@pytest.mark.parametrize("n", [2, 3, 5, 64, 65, 1_000])
def test_below_is_even_and_reaches_everything(n: int) -> None:
    sampler = Sampler(7)
    sampler.begin()
    draws = 40 * n if n > 64 else 20_000
    counts = Counter(sampler.below(n) for _ in range(draws))
    assert set(counts) == set(range(n))
    if n <= 5:
        # Six standard deviations of a fair draw are below 6 * sqrt(20,000 / 4) = 424, the bias is below 2 %.
        assert all(abs(count - draws / n) < 424 + 0.02 * draws / n for count in counts.values())


@pytest.mark.usefixtures("plain_starts")
@pytest.mark.parametrize(
    "strategy", [RandomWalk(1), StickyRandomWalk(1, 1 / 2), Alternating(1), POS(1), URW(1), SURW(1)]
)
def test_walks_make_every_run(strategy: Strategy) -> None:
    # 6! / (2! 2! 2!) = 90 runs of three threads of two steps.
    assert len(set(runs_of(steps_program(1, 1, 1), strategy, 12_000))) == 90


def test_sticky_walk_makes_every_run() -> None:
    # The rarest of the 4! / (2! 2!) = 6 runs switch at both decisions but the first: 1/2 * 1/8^2 = 1 in 128.
    assert len(set(runs_of(steps_program(1, 1), StickyRandomWalk(1), 2_000))) == 6


def test_walks_make_every_answer() -> None:
    for strategy in (RandomWalk(1), StickyRandomWalk(1), PCT(1), POS(1), URW(1), SURW(1), RandomDelay(1)):
        assert len(set(runs_of(TestProgram(questions), strategy, 300))) == 6


@pytest.mark.parametrize(("switch", "expected"), [(1 / 8, 1 / 8), (1 / 2, 1 / 2)])
def test_sticky_switches_as_often_as_it_says(switch: float, expected: float) -> None:
    # While two threads of 400 loads can both go on, each decision is one between going on and switching.
    choices = [value for run in runs_of(steps_program(400, 400), StickyRandomWalk(2, switch), 40) for value in run[1:]]
    assert len(choices) > 16_000
    assert abs(sum(choices) / len(choices) - expected) < 0.02


def test_plain_answers_are_the_most_frequent() -> None:
    # The rate of others is 1/16, 1/4 or 1/2, so 65/240 on average.
    class Asking(Sampler):
        def draw(self) -> int:
            self.begin()
            return sum(self.answer(3) == 0 for _ in range(20))

    sampler = Asking(1)
    plain = sum(sampler.draw() for _ in range(2_000)) / 40_000
    assert abs(plain - (1 - 65 / 240)) < 0.02


# PCT.


@pytest.mark.usefixtures("plain_starts")
def test_pct_without_change_points_never_preempts() -> None:
    # The order of the three threads is all there is.
    assert len(set(runs_of(steps_program(1, 1, 1), PCT(1, 1), 500))) == 6


@pytest.mark.usefixtures("plain_starts")
def test_pct_change_points_come_one_by_one() -> None:
    # With one change point one thread is put behind all others once, maybe without effect: 6 runs. Otherwise its two
    # steps are not adjacent and the second comes last: X1 Y Z X2, X1 Z Y X2, Y X1 Z X2, Z X1 Y X2 for each X: 12.
    # X1 Y X2 Z cannot be.
    assert len(set(runs_of(steps_program(1, 1, 1), PCT(1, 2, horizon=6), 2_000))) == 18


def hits(program: TestProgram, strategy: Strategy, runs: int) -> int:
    exploration = explore(program, strategy, Budget(schedules=runs), keep_going=True)
    return sum(finding.count for finding in exploration.findings)


@pytest.mark.usefixtures("plain_starts")
def test_pct_guarantee_at_depth_2() -> None:
    # The user has checked after one operation; the cleaner then needs all its 41 while the user stands still. n = 2
    # threads and k = 44 decisions at most: 1 / (n k) = 1.14 % of every other run, 11 of 1,000; seven below is two
    # deviations.
    program = use_after_free(before_check=0, before_free=40)
    assert hits(program, PCT(1, 2, horizon=44), 2_000) >= 5
    # A uniform walk would have to prefer the cleaner 40 times in a row or so.
    assert hits(program, RandomWalk(1), 2_000) == 0


@pytest.mark.usefixtures("plain_starts")
def test_pct_guarantee_at_depth_3() -> None:
    # a, b and c do 2, 3 and 2 operations, the last one without a decision: n = 3, k = 6, 1 / (n k^2) = 0.93 % of every
    # other run, 37 of 4,000; twelve below is two deviations.
    assert hits(three_in_a_row(), PCT(1, 3, horizon=6), 8_000) >= 25
    # Depth 1 cannot: it never takes the processor away.
    assert hits(three_in_a_row(), PCT(1, 1), 500) == 0


def test_pct_learns_how_long_runs_are() -> None:
    strategy = PCT(1)
    program = steps_program(30, 30)
    assert strategy.horizon == 1
    longest = max(len(run) for run in runs_of(program, strategy, 20))
    strategy.begin()
    # The decisions at which the two threads start do not count.
    assert strategy.horizon == longest - 2 > 30


def test_every_other_run_of_pct_takes_the_length_of_the_one_before() -> None:
    # A single long run would otherwise put nearly all change points of the short ones behind their end.
    strategy = PCT(1, 2)
    runs_of(steps_program(100, 100), strategy, 9)
    assert strategy.run == 8
    assert strategy.horizon > 100
    program = steps_program(2, 2)
    preempted = [len(run) == 4 for run in runs_of(program, strategy, 200)]
    # A run without a change point in it has three decisions, and one with has four but for the first and the last.
    assert sum(preempted) > 20


@pytest.mark.usefixtures("plain_starts")
def test_pct_puts_a_spinner_last() -> None:
    program = TestProgram(forever, max_steps=400)
    assert hits(program, PCT(1, patience=50, fair_after=1_000), 100) == 0
    # A thread that was put last is behind one that was put last before it.
    both = TestProgram(spin_in_turns, max_steps=400)
    assert hits(both, PCT(1, patience=50, fair_after=1_000), 100) == 0


def test_pct_is_fair_in_the_end() -> None:
    # The spinner goes on until the stopper has run. Where the stopper ranks lower, only the fair tail lets it.
    program = TestProgram(forever, max_steps=400)
    assert hits(program, PCT(1, fair_after=50), 100) == 0
    assert hits(program, PCT(1, fair_after=1_000), 100) > 0


def test_pct_gives_every_deadline_a_priority_of_its_own() -> None:
    # The flag is set before the wait times out, or after it: a clock ranked last for good would never be early.
    assert 0 < hits(TestProgram(early_timeout), PCT(1), 200) < 200
    # A timer that sets itself again does not starve the thread that stops it.
    assert hits(TestProgram(periodic, max_steps=100), PCT(1), 300) == 0


# The table.


def test_default_is_in_the_table() -> None:
    assert isinstance(strategy_from_name(DEFAULT_STRATEGY, 1), Portfolio)


def test_strategies_by_name() -> None:
    assert strategy_from_name("pct", 7, depth=5).name == "pct(depth=5)"
    assert strategy_from_name("dfs", 7, bound=1).name == "dfs(bound=1)"
    assert strategy_from_name("dfs", 7).seed is None
    assert strategy_from_name("sticky", 7, switch=0.25).name == "sticky(switch=0.25)"
    assert [strategy_from_name(name, 7).seed for name in SAMPLERS] == [7] * len(SAMPLERS)
    assert BoundedDFS(None).name == "dfs"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: strategy_from_name("stick", 1),
            r"no strategy 'stick'; did you mean 'sticky'\? choose from alternating",
        ),
        (lambda: strategy_from_name("zzz", 1), "no strategy 'zzz'; choose from alternating, sticky, pct, random, pos"),
        (lambda: strategy_from_name("pct", 1, deepth=2), r"no option 'deepth'; did you mean 'depth'\?"),
        (lambda: strategy_from_name("dfs", 1, depth=2), "no option 'depth'; choose from bound"),
        (lambda: PCT(1, 0), "depth is 0; give an integer of at least 1"),
        (lambda: PCT(1, horizon=0), "horizon is 0"),
        (lambda: strategy_from_name("surw", 1, fair_after=0), "fair_after is 0"),
        (lambda: strategy_from_name("delay", 1, delays=0), "delays is 0"),
        (lambda: RandomDelay(1, horizon=0), "horizon is 0"),
        (lambda: RandomWalk(-1), "seed is -1; give an integer of at least 0"),
        (lambda: strategy_from_name("sticky", 1, switch=0), "probability of a switch is 0"),
        (lambda: StickyRandomWalk(1, 1.0), "probability of a switch is 1.0"),
        (lambda: Alternating(1, start=-1), "start is -1"),
        (lambda: strategy_from_name("random", 1, start=True), "start is True"),
    ],
)
def test_bad_parameters(make: Callable[[], Strategy], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
