"""Races are the pairs that nothing else puts in order."""

from __future__ import annotations

from explore.classics import Add, twostage
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
    lost_update,
    spawn,
)

from kemu.explore import Replay, watch
from kemu.explore.races import Race, conflicting, conflicts, merged, races
from kemu.explore.watch import Event
from kemu.runtime import READ, UPDATE, WRITE, Operation, Thread

Pair = tuple[str, str]


def words(events: list[Event], found: list[Race]) -> list[Pair]:
    def one(event: Event) -> str:
        return f"{event.thread}: {event.what}"

    return [(one(events[race.first]), one(events[race.second])) for race in found]


def of(program: TestProgram, choices: list[int]) -> list[Event]:
    return watch(program, Replay(choices, strict=False))[1]


def test_what_conflicts() -> None:
    pairs = [(one, other) for one in (READ, WRITE, UPDATE) for other in (READ, WRITE, UPDATE)]
    assert [pair for pair in pairs if not conflicting(*pair)] == [(READ, READ), (UPDATE, UPDATE)]


def test_both_ways_of_touching_a_cell_are_a_write() -> None:
    events = of(TestProgram(lost_update), [])
    cell = next(cell for event in events for cell, _ in event.footprint if cell.label == "counter")
    assert merged([(cell, READ), (cell, READ)]) == {cell: READ}
    assert merged([(cell, READ), (cell, UPDATE)]) == {cell: WRITE}
    assert merged([(cell, UPDATE), (cell, WRITE)]) == {cell: WRITE}


def test_the_races_of_a_lost_update() -> None:
    # Main, both start, t0 loads, t1 loads and stores, t0 stores.
    events = of(TestProgram(lost_update), [0, 0, 1])
    done = [f"{event.thread}: {event.what}" for event in events if event.what.endswith("counter")]
    assert done == [
        "t0: load counter",
        "t1: load counter",
        "t1: store counter",
        "t0: store counter",
        "main: load counter",
    ]
    # That t1's load comes before t0's store follows from t1's store doing so. Main's joins order the rest.
    found = [pair for pair in words(events, races(events)) if pair[1].endswith("counter")]
    assert found == [("t1: store counter", "t0: store counter"), ("t0: load counter", "t1: store counter")]
    # That main creates a thread and that the thread ends is no more than another pair.
    every = words(events, [pair for pair in conflicts(events, 100) if pair.cell.label == "counter"])
    assert every == [
        ("t0: store counter", "main: load counter"),
        ("t1: store counter", "main: load counter"),
        ("t1: store counter", "t0: store counter"),
        ("t1: load counter", "t0: store counter"),
        ("t0: load counter", "t1: store counter"),
    ]
    assert conflicts(events, 4) == []


def test_a_threads_creation_is_no_race() -> None:
    async def nested() -> None:
        x = Variable("x")

        async def child() -> None:
            await Store(x, 2)

        await Store(x, 1)
        spawn("child", child())
        await Load(x)

    events = of(TestProgram(nested), [])
    # The first store comes before the child is there; the load does not.
    assert [pair for pair in words(events, races(events)) if "x" in pair[0]] == [("main: load x", "child: store x")]


def test_sections() -> None:
    # The update's first phase (start, take, store, give back), then the reader, which finds it half done and ends the
    # run. So neither thread comes to its end, which would be a pair of its own with main's creating the thread.
    events = of(twostage(), [0, 0, 0, 0, 1])
    assert [f"{event.thread}: {event.what}" for event in events][-1] == "t1: release lock 2"
    assert words(events, races(events))[-1:] == [("t0: acquire lock 1", "t1: acquire lock 1")]
    assert words(events, races(events, whole_sections=False))[-1:] == [("t0: release lock 1", "t1: acquire lock 1")]
    pairs = words(events, conflicts(events, 100))
    assert ("t0: acquire lock 1", "t1: acquire lock 1") in pairs
    assert not any("release" in word for pair in pairs for word in pair)


def test_a_deadlock_races_with_what_its_threads_wait_for() -> None:
    events = of(TestProgram(abba), [0, 0, 1])
    assert words(events, races(events)) == [
        ("t1: acquire B", "t0: acquire B"),
        ("t0: acquire A", "t1: acquire A"),
    ]
    # The two that nobody comes to are the last.
    assert [event.taken for event in events[-2:]] == [False, False]


class Count(Operation[None]):
    """Add one, whoever else does."""

    kind = "count"

    def __init__(self, variable: Variable) -> None:
        self.variable = variable

    def perform(self, thread: Thread) -> None:
        thread.update(self.variable)


def test_updates_commute() -> None:
    async def counting() -> None:
        x = Variable("x")

        async def count() -> None:
            await Count(x)

        async def add() -> None:
            await Add(x, 1)

        spawn("a", count())
        spawn("b", count())
        spawn("c", add())

    events = of(TestProgram(counting), [])
    assert sorted(words(events, races(events))) == [("a: count", "c: add x"), ("b: count", "c: add x")]


def test_a_section_whose_order_follows_is_no_race_of_its_own() -> None:
    async def handed() -> None:
        lock, flag = Mutex("lock"), Flag("flag")

        async def a() -> None:
            await Acquire(lock)
            await Set(flag)
            await Release(lock)

        async def b() -> None:
            await Wait(flag)
            await Acquire(lock)
            await Release(lock)

        spawn("a", a())
        spawn("b", b())

    events = of(TestProgram(handed), [])
    # b waits until a holds the lock; that a had it first is not up to the lock.
    assert words(events, races(events)) == [("a: set flag", "b: wait for flag")]
    assert ("a: release lock", "b: acquire lock") in words(events, races(events, whole_sections=False))
