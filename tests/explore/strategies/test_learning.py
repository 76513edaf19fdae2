"""The laws of the samplers that look at pending operations, or learn from earlier runs: POS, URW, SURW, delays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from explore.programs import (
    Flag,
    Load,
    Set,
    Store,
    TestProgram,
    Variable,
    Wait,
    early_timeout,
    fail,
    forever,
    periodic,
    spawn,
    steps_program,
    use_after_free,
)

from kemu.explore import POS, SURW, URW, Budget, RandomDelay, RandomWalk, Strategy, explore, replay
from kemu.explore.token import trim


def runs_of(program: TestProgram, strategy: Strategy, count: int) -> list[tuple[int, ...]]:
    runs: list[tuple[int, ...]] = []
    for _ in range(count):
        strategy.begin()
        outcome = program.run(strategy)
        strategy.end(outcome)
        runs.append(tuple(outcome.choices))
    return runs


def hits(program: TestProgram, strategy: Strategy, runs: int) -> int:
    exploration = explore(program, strategy, Budget(schedules=runs), keep_going=True)
    return sum(finding.count for finding in exploration.findings)


def last_of(length: int, *, shared: bool) -> TestProgram:
    """Fails if a thread stores once after another has stored *length* times, to the same variable or to another."""

    async def last() -> None:
        x = Variable("x")
        y = x if shared else Variable("y")
        stored: list[int] = []

        async def many() -> None:
            for number in range(length):
                await Store(x, number)
                stored.append(number)

        async def one() -> None:
            await Store(y, 0)
            if len(stored) == length:
                fail("last")

        spawn("many", many())
        spawn("one", one())

    return TestProgram(last)


@pytest.mark.parametrize("make", [POS, URW, SURW, RandomDelay])
def test_the_clock_is_a_party(make: Callable[[int], Strategy]) -> None:
    assert 0 < hits(TestProgram(early_timeout), make(1), 200) < 200
    # A timer that sets itself again starves nobody.
    assert hits(TestProgram(periodic, max_steps=100), make(1), 300) == 0


@pytest.mark.parametrize(
    "strategy", [POS(1, fair_after=50), URW(1), SURW(1, fair_after=50), RandomDelay(1, fair_after=50)]
)
def test_a_spinner_starves_nobody(strategy: Strategy) -> None:
    assert hits(TestProgram(forever, max_steps=400), strategy, 100) == 0


@pytest.mark.usefixtures("plain_starts")
@pytest.mark.parametrize("make", [POS, SURW, RandomDelay])
def test_without_a_fair_end_a_spinner_starves_the_others(make: Callable[..., Strategy]) -> None:
    # POS has to draw a lower priority for the start of the stopper than for 400 loads: once in 400 runs.
    assert hits(TestProgram(forever, max_steps=400), make(1, fair_after=1_000), 3_000) > 0


# POS.


@pytest.mark.usefixtures("plain_starts")
def test_pos_draws_again_what_depends() -> None:
    # Where the single store is pending from the start, it comes behind k independent ones if its priority is the
    # least of k + 1. Against dependent ones it draws anew each time: 1 in 2^k. What is left is due to the start of its
    # thread, which comes behind all 13 other steps in 1 of 14 runs, and behind most of them in a few more.
    runs = 4_000
    independent, dependent = (hits(last_of(12, shared=shared), POS(1), runs) for shared in (False, True))
    # The start alone is last in runs / 14 = 286, with a deviation of 16; otherwise, exactly m of the stores are behind
    # the start in 1 of 14 * 13 or so, and all before the single one in 1 of 2^m: 1 / 91 at most in the sum: 44 more.
    assert 286 - 64 < dependent < 286 + 2 * 44 + 64
    assert independent > dependent + 200


# URW.


@pytest.mark.usefixtures("plain_starts")
def test_urw_makes_all_interleavings_equally_often() -> None:
    # Start and three operations beside start and one: 6! / (4! 2!) = 15, each in 200 of 3,000 runs; the deviation
    # is sqrt(200 * 14 / 15) = 13.7, and six of them are 82.
    strategy = URW(3)
    program = steps_program(3, 1)
    runs_of(program, strategy, 40)
    counts = Counter(runs_of(program, strategy, 3_000))
    assert len(counts) == 15
    assert all(abs(count - 200) < 82 for count in counts.values())
    # The uniform walk makes the one in which the short thread comes last in 1 of 16 * 2 only.
    uniform = Counter(runs_of(program, RandomWalk(3), 3_000))
    assert min(uniform.values()) < 118


@pytest.mark.usefixtures("plain_starts")
def test_urw_counts_children_that_are_to_come() -> None:
    # The parent takes two steps and its child eleven, in a row: 13 beside the other's two. All of them come before
    # the other's first in 1 of 15! / (13! 2!) = 105 interleavings: 38 of 4,000, the deviation is 6. Without the child
    # the parent's two would come before the other's two in 1 of 6, and the child's eleven then in 1 of 78: 9 of 4,000.
    async def late_child() -> None:
        x, done = Variable("x"), list[int]()

        async def child() -> None:
            for number in range(10):
                await Load(x)
                done.append(number)

        async def parent() -> None:
            await Load(x)
            spawn("child", child())

        async def other() -> None:
            if len(done) == 10:
                fail("came last")
            await Load(x)

        spawn("parent", parent())
        spawn("other", other())

    strategy = URW(1)
    program = TestProgram(late_child)
    runs_of(program, strategy, 300)
    assert abs(hits(program, strategy, 4_000) - 38) < 25


# SURW.


def far_behind(steps: int) -> TestProgram:
    """Fails if a thread that has *steps* to do elsewhere stores before one that has nothing else to do."""

    async def far_behind() -> None:
        x = Variable("x")

        async def slow() -> None:
            own = Variable("own")
            for _ in range(steps):
                await Load(own)
            if not await Load(x):
                fail("the slow one came first")

        async def fast() -> None:
            await Store(x, 1)

        spawn("slow", slow())
        spawn("fast", fast())

    return TestProgram(far_behind)


@pytest.mark.usefixtures("plain_starts")
def test_surw_draws_the_order_on_one_cell_evenly() -> None:
    # Two operations on the shared variable: half of 1,000 runs, within six deviations of sqrt(1,000) / 2 = 16.
    program = far_behind(30)
    strategy = SURW(1)
    runs_of(program, strategy, 12)
    assert abs(hits(program, strategy, 1_000) - 500) < 96
    assert hits(program, RandomWalk(1), 1_000) == 0


@pytest.mark.usefixtures("plain_starts")
def test_surw_finds_a_long_way_between_two_steps() -> None:
    # Of the three operations on the buffer the cleaner's comes second in 1 of 3, and nothing holds its loads before.
    # Runs in which it comes first have one operation less, as the user then stops; the counts stay at their largest.
    program = use_after_free(before_check=0, before_free=40)
    strategy = SURW(1)
    runs_of(program, strategy, 12)
    assert abs(hits(program, strategy, 1_000) - 333) < 6 * 15


@pytest.mark.usefixtures("plain_starts")
def test_surw_does_not_wait_for_a_thread_that_has_had_its_turn() -> None:
    # The spinner goes on until the second thread has stored, which must not be held back for a first that is over.
    async def relay() -> None:
        x, flag = Variable("x"), Flag("go")
        over = list[int]()

        async def first() -> None:
            await Set(flag)
            await Store(x, 1)

        async def second() -> None:
            await Store(x, 2)
            over.append(1)

        async def spinner() -> None:
            own = Variable("own")
            await Wait(flag)
            while not over:
                await Load(own)

        spawn("first", first())
        spawn("second", second())
        spawn("spinner", spinner())

    strategy = SURW(1, fair_after=1_000)
    program = TestProgram(relay, max_steps=400)
    # Two of the first twelve runs let one thread go on for as long as it can.
    runs_of(program, strategy, 12)
    # A low priority can still put the second thread off for long, in one run of several hundred.
    assert hits(program, strategy, 300) < 5


# Delays.


def test_one_delay() -> None:
    program = steps_program(1, 1, 1)
    found = {trim(run) for run in runs_of(program, RandomDelay(1, 1), 500)}
    # The plain run, and those that differ from it by one turn put off.
    length = len(replay(program, ()).choices)
    expected = {trim(replay(program, (*(0,) * at, 1)).choices) for at in range(length)}
    assert found == {(), *expected}


def test_delays_keep_to_their_number() -> None:
    runs = runs_of(steps_program(5, 5, 5), RandomDelay(1, 3), 500)
    assert {sum(run) for run in runs} == {0, 1, 2, 3}
    # Two may fall on one decision.
    assert {max(run) for run in runs} == {0, 1, 2}


def test_delays_learn_how_long_runs_are() -> None:
    strategy = RandomDelay(1)
    longest = max(len(run) for run in runs_of(steps_program(30, 30), strategy, 20))
    strategy.begin()
    assert strategy.horizon == longest > 30
