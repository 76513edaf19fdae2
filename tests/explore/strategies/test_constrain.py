"""Orders are kept while somebody else can go on, and where nobody can the run is given up."""

from __future__ import annotations

import pytest
from explore.programs import (
    Load,
    Store,
    TestProgram,
    Variable,
    abba,
    early_timeout,
    fail,
    forever,
    lost_update,
    spawn,
)

from kemu.explore import RandomWalk, Replay, watch
from kemu.explore.strategies import Before, Constrain, Moment
from kemu.explore.strategies.base import CLOCK
from kemu.explore.strategies.constrain import CLOCKS, DEAD_END, TOO_LONG
from kemu.explore.watch import Event
from kemu.runtime import current_thread


async def two() -> None:
    """Two threads load and store beside each other."""
    x, y = Variable("x"), Variable("y")

    async def a() -> None:
        await Load(x)
        await Store(x, 1)

    async def b() -> None:
        await Load(y)
        await Store(y, 1)
        await Store(y, 2)

    spawn("a", a())
    spawn("b", b())


def plain(program: TestProgram) -> list[Event]:
    return watch(program, Replay(()))[1]


def moment(events: list[Event], thread: str, what: str, number: int = 1) -> Moment:
    """The how many-th event of that thread that does that."""
    return [event.moment for event in events if (event.thread, event.what) == (thread, what)][number - 1]


def constrained(program: TestProgram, oracle: Constrain) -> tuple[object, list[tuple[str, str]]]:
    """The failure, and who did what."""
    recording, events = watch(program, oracle, oracle)
    return recording.outcome.failure, [(event.thread, event.what) for event in events if event.taken]


def test_a_thread_is_put_off_until_the_other_has_come() -> None:
    program = TestProgram(two)
    events = plain(program)
    order = Before(moment(events, "b", "store y", 2), moment(events, "a", "store x"))
    for seed in range(30):
        failure, done = constrained(program, Constrain(RandomWalk(seed), [order]))
        assert failure is None
        assert len(done) == 1 + 3 + 4
        last_of_b = max(at for at, event in enumerate(done) if event == ("b", "store y"))
        assert last_of_b < done.index(("a", "store x"))
        # What the order does not speak of is left to the base.
    assert len({tuple(constrained(program, Constrain(RandomWalk(seed), [order]))[1]) for seed in range(30)}) > 3


def test_without_orders_the_base_decides_alone() -> None:
    program = TestProgram(two)
    for seed in range(5):
        _, done = constrained(program, Constrain(RandomWalk(seed), []))
        assert done == [(event.thread, event.what) for event in watch(program, RandomWalk(seed))[1]]


def test_orders_that_contradict_each_other_lead_nowhere() -> None:
    program = TestProgram(two)
    events = plain(program)
    a, b = moment(events, "a", "load x"), moment(events, "b", "load y")
    failure, done = constrained(program, Constrain(Replay(()), [Before(a, b), Before(b, a)]))
    assert failure is DEAD_END
    assert DEAD_END.signature == ("dead-end",)
    # Both have started, and neither has loaded.
    assert done == [("main", "start"), ("a", "start"), ("b", "start")]


def test_a_step_that_nobody_is_asked_about_is_put_off_as_well() -> None:
    # Main's last step is forced: when it joins, nobody else is left.
    program = TestProgram(lost_update)
    events = plain(program)
    never = Moment((0, 7), "store counter", "", 1)
    order = Before(never, moment(events, "main", "load counter"))
    failure, done = constrained(program, Constrain(Replay(()), [order]))
    assert failure is DEAD_END
    assert done[-1] == ("main", "join t1")


def test_the_clock_is_put_off_like_anybody() -> None:
    program = TestProgram(early_timeout)
    events = plain(program)
    order = Before(moment(events, "setter", "set done"), Moment(CLOCK, CLOCKS, "", 1))
    # Left to itself, this is the run in which the clock comes first and the wait times out.
    choices = [0, 1]
    assert watch(program, Replay(choices))[0].failure is not None
    failure, done = constrained(program, Constrain(Replay(choices), [order]))
    assert failure is None
    assert ("clock", CLOCKS) not in done
    # And the clock can be waited for.
    first = Before(Moment(CLOCK, CLOCKS, "", 1), moment(events, "setter", "set done"))
    failure, done = constrained(program, Constrain(Replay(()), [first]))
    assert done.index(("clock", CLOCKS)) < done.index(("waiter", "wait for done"))
    assert failure is not None
    assert failure is not DEAD_END


def test_occurrences_are_told_apart() -> None:
    # The spinner loads until the stopper has stored: the third load has to come first.
    program = TestProgram(forever, max_steps=50)
    events = watch(program, Replay(()))[1]
    third = moment(events, "spinner", "load stop", 3)
    assert third.nth == 3
    store = watch(program, RandomWalk(1))[1]
    order = Before(third, moment(store, "stopper", "store stop"))
    for seed in range(20):
        _, done = constrained(program, Constrain(RandomWalk(seed), [order]))
        assert done[: done.index(("stopper", "store stop"))].count(("spinner", "load stop")) >= 3


def test_a_run_that_takes_too_long_is_given_up() -> None:
    program = TestProgram(forever, max_steps=50)
    failure, done = constrained(program, Constrain(Replay(()), [], max_steps=20))
    assert failure is TOO_LONG
    assert len(done) == 20
    failure, _ = constrained(TestProgram(abba), Constrain(Replay(()), [], max_steps=20))
    assert failure is None


def test_answers_follow_who_asks_what() -> None:
    async def asking() -> None:
        runtime = current_thread().runtime

        async def ask(what: str) -> None:
            for _ in range(2):
                await Load(x)
                answers.append((what, runtime.choose(3, what)))
            answers.append((what, runtime.choose(2, "other")))

        x = Variable("x")
        spawn("a", ask("a?"))
        spawn("b", ask("b?"))

    program = TestProgram(asking)
    a, b = (0, 0), (0, 1)
    given = {(a, "a?"): (2, 1), (b, "b?"): (0, 2), (b, "other"): (7,)}
    for seed in range(10):
        answers: list[tuple[str, int]] = []
        constrained(program, Constrain(RandomWalk(seed), [], answers=given))
        # An answer that is not possible is brought down to one that is; where there is none it is plain.
        assert [value for who, value in answers if who == "a?"] == [2, 1, 0]
        assert [value for who, value in answers if who == "b?"] == [0, 2, 1]


def test_a_failure_of_the_program_comes_through() -> None:
    async def fails() -> None:
        await Store(Variable("x"), 1)
        fail("always")

    failure, _ = constrained(TestProgram(fails), Constrain(Replay(()), []))
    assert str(getattr(failure, "what", "")) == "always"


@pytest.mark.parametrize("seed", range(3))
def test_the_same_base_gives_the_same_run(seed: int) -> None:
    program = TestProgram(abba)
    events = watch(program, Replay([0, 0, 1]))[1]
    order = Before(moment(events, "t0", "acquire A"), moment(events, "t1", "acquire A"))
    assert constrained(program, Constrain(RandomWalk(seed), [order])) == constrained(
        program, Constrain(RandomWalk(seed), [order])
    )
