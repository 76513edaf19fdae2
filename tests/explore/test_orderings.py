"""The orders that make a run fail are those that a reader would name, they suffice, and each is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, count
from random import Random

import pytest
from explore.classics import Add, account, bluetooth_driver, deadlock01, lazy01, reorder, twostage, wronglock
from explore.programs import (
    Acquire,
    Flag,
    Load,
    Mutex,
    Release,
    Set,
    Store,
    TestProgram,
    Variable,
    Wait,
    abba,
    answered_badly,
    early_timeout,
    fail,
    forever,
    lost_update,
    spawn,
    three_in_a_row,
    use_after_free,
)

from kemu.errors import ScenarioError
from kemu.explore import (
    Budget,
    Order,
    RandomWalk,
    Recording,
    Replay,
    StickyRandomWalk,
    explore,
    hitting,
    orderings,
    shrink,
    watch,
)
from kemu.explore.hitting import Clause, smallest_set
from kemu.explore.orderings import CHECKS, Orderings, Reasons, find_reasons
from kemu.explore.strategies import Before, Constrain
from kemu.explore.strategies.alternate import Alternating
from kemu.runtime import Join, Observer, Oracle, Outcome, Point, current_thread

Pair = tuple[str, str]

EXPECTED: list[tuple[TestProgram, set[Pair]]] = [
    # Each has one lock when the other wants it: both have the first before the other is there.
    (TestProgram(abba), {("t0: acquire A", "t1: acquire A"), ("t1: acquire B", "t0: acquire B")}),
    (deadlock01(), {("t0: acquire A", "t1: acquire A"), ("t1: acquire B", "t0: acquire B")}),
    # Both load before either has stored.
    (
        TestProgram(lost_update),
        {("t0: load counter", "t1: store counter"), ("t1: load counter", "t0: store counter")},
    ),
    # Checked, freed, used.
    (
        use_after_free(5, 5),
        {("user: load buffer", "cleaner: store buffer"), ("cleaner: store buffer", "user: load buffer")},
    ),
    # b must see a's first store, c b's first and not b's second, and a's first and not a's second. That c sees a's
    # first follows: it comes after b, which comes after a.
    (
        three_in_a_row(noise=3),
        {
            ("a: store x", "b: load x"),
            ("b: store y", "c: load y"),
            ("c: load y", "b: store y"),
            ("c: load x", "a: store x"),
        },
    ),
    # The wait must be over before the flag is set.
    (TestProgram(early_timeout), {("waiter: wait for done", "setter: set done")}),
    # Whatever the order: the answer alone decides.
    (TestProgram(answered_badly), set()),
    # The check comes after both transfers; the two may come in either order.
    (account(), {("t0: acquire lock", "t2: acquire lock"), ("t1: acquire lock", "t2: acquire lock")}),
    (lazy01(), {("t0: acquire lock", "t2: acquire lock"), ("t1: acquire lock", "t2: acquire lock")}),
    # The request checks before the stop begins; the stop is the last one out, because it counts itself out before the
    # request counts itself in, and so goes on to its end; and it is over before the request looks.
    (
        bluetooth_driver(),
        {
            ("t0: load stopping", "t1: store stopping"),
            ("t1: add users", "t0: add users"),
            ("t1: store stopped", "t0: load stopped"),
        },
    ),
    # One has set the first cell when the check begins, and none the second when it ends.
    (reorder(2), {("t0: store a", "t1: load a"), ("t1: load b", "t0: store b")}),
    (
        reorder(3),
        {("t0: store a", "t2: load a"), ("t2: load b", "t0: store b"), ("t2: load b", "t1: store b")},
    ),
    # The reader comes after the first phase and before the second one.
    (twostage(), {("t0: acquire lock 1", "t1: acquire lock 1"), ("t1: acquire lock 2", "t0: acquire lock 2")}),
    # The other writes after the first load and before the second one, which is the one that is added to.
    (wronglock(1), {("t0: load data", "t1: store data"), ("t1: store data", "t0: load data")}),
]


def names(value: object) -> str:
    return value.name if isinstance(value, TestProgram) else ""


def failing(program: TestProgram, seed: int = 0) -> Recording:
    """The shrunk run of the first failure that there is."""
    for number in range(seed, seed + 40):
        exploration = explore(program, Alternating(number), Budget(schedules=500))
        for finding in exploration.findings:
            return shrink(program, finding.choices).recording
    raise AssertionError("nothing fails")


def reasons(program: TestProgram, recording: Recording, max_replays: int = 100, **more: Callable[[], bool]) -> Reasons:
    again, events = watch(program, Replay(recording.choices))
    return find_reasons(program, again, events, max_replays=max_replays, **more)


def found(program: TestProgram, recording: Recording, max_replays: int = 100) -> Orderings:
    result = reasons(program, recording, max_replays).orderings
    assert result is not None
    return result


def words(order: Order) -> Pair:
    return (f"{order.first.thread}: {order.first.what}", f"{order.second.thread}: {order.second.what}")


def ends(program: TestProgram, recording: Recording, orders: list[Order]) -> Iterator[str]:
    """How 60 runs of other seeds end in which *orders* are enforced: the code of their failure, or "" for none."""
    answers: dict[tuple[tuple[int, ...], str], tuple[int, ...]] = {}
    for decision in recording.decisions:
        if decision.kind == "data":
            key = (recording.parties[decision.step], decision.label)
            answers[key] = (*answers.get(key, ()), decision.value)
    kept = [Before(order.first.moment, order.second.moment) for order in orders]
    for seed in range(1000, 1060):
        base = (RandomWalk if seed % 2 else StickyRandomWalk)(seed)
        oracle = Constrain(base, kept, answers=answers, max_steps=2_000)
        again, _ = watch(program, oracle, oracle)
        yield again.failure.code if again.failure is not None else ""


@pytest.mark.parametrize(("program", "expected"), EXPECTED, ids=names)
def test_the_orders_are_those_that_one_would_name(program: TestProgram, expected: set[Pair]) -> None:
    recording = failing(program)
    result = found(program, recording)
    # Among threads that are alike any may be the one that it is.
    if program.name == "reorder_3":
        assert len(result.orders) == len(expected)
        assert sorted(order.cell for order in result.orders) == ["a", "b", "b"]
    else:
        assert {words(order) for order in result.orders} == expected
    assert (result.checked, result.settled) == (CHECKS, True)
    assert all(order.reversal in ("passes", "passes with others") for order in result.orders)


@pytest.mark.parametrize(("program", "expected"), EXPECTED, ids=names)
def test_they_suffice_and_each_is_needed(program: TestProgram, expected: set[Pair]) -> None:
    recording = failing(program)
    failure = recording.failure
    assert failure is not None
    orders = list(found(program, recording).orders)
    assert set(ends(program, recording, orders)) == {failure.code}
    for order in orders:
        others = [other for other in orders if other is not order]
        assert set(ends(program, recording, others)) != {failure.code}, f"{words(order)} is not needed"


def test_whatever_run_one_starts_from() -> None:
    program = use_after_free(3, 3)
    for seed in range(5):
        exploration = explore(program, RandomWalk(seed), Budget(schedules=200))
        recording, _ = watch(program, Replay(exploration.findings[0].choices))
        assert {words(order) for order in found(program, recording).orders} == EXPECTED[3][1]


def test_an_order_whose_reversal_takes_another_one_along() -> None:
    # The stop waits until nobody is in there any more. If the request counts itself in first the stop has to wait for
    # it, so that it cannot be over before the request looks. (The stop of `bluetooth_driver` gives up then.)
    async def patient_stop() -> None:
        stopping, stopped = Variable("stopping"), Variable("stopped")
        users, drained = Variable("users", 1), Flag("drained")

        async def request() -> None:
            if await Load(stopping):
                return
            await Add(users, 1)
            if await Load(stopped):
                fail("I/O after the stop")
            if await Add(users, -1) == 0:
                await Set(drained)

        async def stop() -> None:
            await Store(stopping, 1)
            if await Add(users, -1) == 0:
                await Set(drained)
            await Wait(drained)
            await Store(stopped, 1)

        spawn("t0", request())
        spawn("t1", stop())

    program = TestProgram(patient_stop)
    result = found(program, failing(program))
    assert {words(order): order.reversal for order in result.orders} == {
        ("t0: load stopping", "t1: store stopping"): "passes",
        ("t1: add users", "t0: add users"): "passes with others",
        ("t1: store stopped", "t0: load stopped"): "passes",
    }


def test_an_order_whose_reversal_leaves_another_one_open() -> None:
    # If the request counts itself in first the stop finds it there and gives up: nothing is stored to come before or
    # after what the request loads.
    program = bluetooth_driver()
    result = found(program, failing(program))
    assert {words(order): order.reversal for order in result.orders} == {
        ("t0: load stopping", "t1: store stopping"): "passes",
        ("t1: add users", "t0: add users"): "passes",
        ("t1: store stopped", "t0: load stopped"): "passes",
    }


def two_bugs() -> TestProgram:
    """Fails one way or the other, depending on which of two stores is first; it never passes."""

    async def two_bugs() -> None:
        x = Variable("x")

        async def store(value: int) -> None:
            if await Load(x) == 0:
                await Store(x, value)

        async def look() -> None:
            seen = await Load(x)
            fail("nobody" if seen == 0 else "somebody")

        spawn("storer", store(1))
        spawn("looker", look())

    return TestProgram(two_bugs)


def test_the_other_way_round_fails_in_another_way() -> None:
    program = two_bugs()
    recording = shrink(program, [0, 1]).recording
    result = reasons(program, recording)
    assert result.nearest is None
    assert result.orderings is not None
    assert [(words(order), order.reversal) for order in result.orderings.orders] == [
        (("looker: load x", "storer: store x"), "fails otherwise")
    ]


def test_of_two_critical_sections_the_order_is_that_of_taking_the_lock() -> None:
    async def sections() -> None:
        lock, x = Mutex("lock"), Variable("x")

        async def first() -> None:
            await Acquire(lock)
            await Store(x, 1)
            await Release(lock)

        async def second() -> None:
            await Acquire(lock)
            seen = await Load(x)
            await Release(lock)
            if seen:
                fail("seen")

        spawn("first", first())
        spawn("second", second())

    program = TestProgram(sections)
    result = found(program, failing(program))
    assert [(words(order), order.reversal) for order in result.orders] == [
        (("first: acquire lock", "second: acquire lock"), "passes")
    ]


@pytest.mark.parametrize(("program", "expected"), EXPECTED, ids=names)
def test_the_nearest_run_that_passes(program: TestProgram, expected: set[Pair]) -> None:
    recording = failing(program)
    nearest = reasons(program, recording).nearest
    if not expected:
        assert nearest is None
        return
    assert nearest is not None
    passing, events = watch(program, Replay(nearest.choices, strict=False))
    assert passing.failure is None
    places = {event.moment: at for at, event in enumerate(events)}
    first, second = nearest.first.moment, nearest.second.moment
    assert places[second] < places.get(first, len(places))
    # In these programs a single exchange is enough, but where time has to pass or the clock has nothing to do then.
    assert nearest.others == (1 if program.name == "early_timeout" else 0)


def test_more_orders_than_anybody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    # One has to have set the first cell, and none of three the second one: four orders.
    program = reorder(4)
    recording = failing(program)
    assert len(found(program, recording).orders) == 4
    monkeypatch.setattr(orderings, "MOST_ORDERS", 3)
    result = reasons(program, recording)
    assert result.orderings is None
    assert result.why == "it takes more than 3 orders of two events"
    assert result.nearest is not None


def test_replays_are_limited_and_what_is_known_is_kept() -> None:
    program = bluetooth_driver()
    recording = failing(program)
    enough = reasons(program, recording).replays
    settled: list[bool] = []
    # The first two of the runs that check are the last that leave it at the search.
    for allowed in [*range(0, enough - CHECKS + 2, 5), enough - CHECKS + 1, enough - CHECKS + 2, enough - 1, enough]:
        before = program.runs
        result = reasons(program, recording, max_replays=allowed)
        # One run is the one that is explained.
        assert program.runs - before - 1 == result.replays <= allowed
        if result.orderings is None:
            assert result.why == "the replays were used up"
        else:
            settled.append(result.orderings.settled)
            assert result.orderings.settled == (result.orderings.checked == CHECKS)
    assert settled[-3:] == [False, False, True]


def test_who_has_had_enough_is_heeded() -> None:
    program = bluetooth_driver()
    recording = failing(program)
    asked = count()
    result = reasons(program, recording, stop=lambda: next(asked) >= 10)
    assert (result.replays, result.interrupted, result.why) == (10, True, "interrupted")
    assert result.nearest is not None


class Interrupted(TestProgram):
    """A program whose user presses Ctrl-C in a certain run."""

    def __init__(self, program: TestProgram, run: int) -> None:
        super().__init__(program.main)
        self.last = run

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        if self.runs >= self.last:
            raise KeyboardInterrupt
        return super().run(oracle, observer)


def test_an_interrupt_keeps_what_there_is() -> None:
    recording = failing(bluetooth_driver())
    enough = reasons(bluetooth_driver(), recording).replays
    early = reasons(Interrupted(bluetooth_driver(), 8), recording)
    assert (early.replays, early.interrupted, early.why, early.orderings) == (8, True, "interrupted", None)
    late = reasons(Interrupted(bluetooth_driver(), enough - 3), recording)
    assert late.interrupted
    assert late.orderings is not None
    assert not late.orderings.settled
    assert 0 < late.orderings.checked < CHECKS


def test_very_long_runs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = TestProgram(forever, max_steps=50)
    recording, _ = watch(program, Replay(()))
    assert {words(order) for order in found(program, recording).orders} == {
        ("spinner: load stop", "stopper: store stop")
    }
    monkeypatch.setattr(orderings, "MOST_STEPS", 100)
    result = reasons(program, recording)
    assert result.orderings is None
    # Each has at most 50 steps.
    assert 2 <= result.replays < 20
    assert result.why == "the runs are too long to make enough of them"
    monkeypatch.setattr(orderings, "MOST_EVENTS", 40)
    result = reasons(program, recording)
    assert (result.orderings, result.replays) == (None, 0)
    assert result.why == "the run has more than 40 steps"


def test_a_run_that_misuses_kemu_says_nothing() -> None:
    async def misuses() -> None:
        x = Variable("x")

        async def storer() -> None:
            await Store(x, 1)
            await Store(x, 2)

        async def looker() -> None:
            seen = await Load(x)
            if seen == 2:
                current_thread().runtime.abort(ScenarioError("misused", remedy="do not"))
            if seen == 1:
                fail("halfway")

        spawn("storer", storer())
        spawn("looker", looker())

    program = TestProgram(misuses)
    # Main, both start, the first store, the look.
    recording, _ = watch(program, Replay([0, 0, 1], strict=False))
    assert recording.failure is not None
    result = reasons(program, recording)
    assert result.orderings is not None
    # Only half of the runs that leave one of them out can tell: the other half ends in the misuse.
    assert {words(order) for order in result.orderings.orders} <= {
        ("storer: store x", "looker: load x"),
        ("looker: load x", "storer: store x"),
    }
    assert result.replays < 100


def test_state_that_kemu_does_not_see() -> None:
    # The counter is a variable of the script: nothing conflicts, but whoever runs code of the script might touch it.
    async def unseen() -> None:
        counter = [0]

        async def add() -> None:
            value = counter[0]
            await Point("between")
            counter[0] = value + 1

        threads = [spawn(f"t{number}", add()) for number in range(2)]
        for thread in threads:
            await Join(thread)
        if counter[0] != 2:
            fail("an update was lost")

    program = TestProgram(unseen)
    recording = failing(program)
    result = found(program, recording)
    # A start runs up to the point, and so loads; what comes after the point stores.
    assert {words(order) for order in result.orders} == {("t0: start", "t1: between"), ("t1: start", "t0: between")}
    assert {order.cell for order in result.orders} == {"state that kemu does not see"}
    assert all(order.reversal == "passes" for order in result.orders)


def test_what_no_order_decides() -> None:
    # Chance of its own: nothing that kemu decides makes it fail.
    state = [0]

    async def fickle() -> None:
        await Load(Variable("x"))
        state[0] += 1
        if state[0] == 1:
            fail("the first time")

    program = TestProgram(fickle)
    recording, events = watch(program, Replay(()))
    result = find_reasons(program, recording, events)
    assert (result.orderings, result.why) == (None, "the order of events alone does not decide it")


# The search for a smallest set.


def brute_force(clauses: list[Clause], most: int) -> int | None:
    elements = sorted({element for clause in clauses for element in (*clause.elements, *clause.given)})
    for size in range(min(most, len(elements)) + 1):
        for chosen in combinations(elements, size):
            if all(not clause.given <= set(chosen) or clause.elements & set(chosen) for clause in clauses):
                return size
    return None


def test_the_smallest_set_is_as_small_as_can_be() -> None:
    random = Random(7)
    sizes: set[int | None] = set()
    for _ in range(400):
        clauses = [
            Clause(
                frozenset(random.sample(range(8), random.randint(1, 4))),
                frozenset(random.sample(range(8), random.choice([0, 0, 1, 2]))),
            )
            for _ in range(random.randint(0, 9))
        ]
        best = smallest_set(clauses, 4)
        expected = brute_force(clauses, 4)
        assert (None if best is None else len(best)) == expected
        sizes.add(expected)
        if best is not None:
            assert all(not one.given <= set(best) or one.elements & set(best) for one in clauses)
    assert {0, 1, 2, 3, 4} <= sizes


def test_costs_and_numbers_decide_between_sets_of_one_size() -> None:
    clauses = [Clause(frozenset({0, 1, 2}))]
    assert smallest_set(clauses, 3) == (0,)
    assert smallest_set(clauses, 3, [5, 0, 0]) == (1,)


def test_nothing_can_be_done_about_an_empty_clause() -> None:
    assert smallest_set([Clause(frozenset())], 3) is None
    assert smallest_set([Clause(frozenset(), frozenset({1})), Clause(frozenset({1, 2}))], 3) == (2,)


def test_where_the_smallest_set_takes_too_long_a_small_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hitting, "MOST_NODES", 3)
    clauses = [Clause(frozenset({at, at + 10, 99})) for at in range(6)] + [Clause(frozenset({50, 51}))]
    assert smallest_set(clauses, 4, [0] * 100) == (50, 99)
    assert smallest_set(clauses, 1, [0] * 100) is None
    assert smallest_set([*clauses, Clause(frozenset())], 8) is None
