"""Whether an operation could have gone on earlier is answered from what objects were; nothing is left changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from explore.programs import Acquire, Flag, Mutex, Release, Set, TestProgram, Wait, spawn

from kemu.explore.dependence import CellNumbers
from kemu.explore.guards import SOMETHING, Guards, declared
from kemu.explore.guards import Wait as Waiting
from kemu.explore.strategies import Replay
from kemu.runtime import READ, WRITE, BlockingOperation, Cell, Join, Point, Thread, Timer, Waitable, current_thread

NOBODY: list[Waitable] = []


def inside(check: Callable[[], None]) -> None:
    """Call *check* where objects can be made: in a thread."""

    async def main() -> None:
        check()

    oracle = Replay(())
    assert oracle.begin()
    TestProgram(main).run(oracle)


def taken(mutex: Mutex, owner: Thread | None) -> list[tuple[Cell, int]]:
    """Give *mutex* to *owner*; what that touches."""
    mutex.owner = owner
    return [(mutex, WRITE)]


def waiting(op: BlockingOperation[Any], timer: Timer | None = None) -> Waiting:
    return Waiting(current_thread(), op, timer)


def test_the_lock_was_free_before_it_was_taken_and_after_it_was_given_back() -> None:
    def check() -> None:
        guards, mutex = Guards(CellNumbers()), Mutex("lock")
        guards.after(0, [mutex], [], clock=False)
        guards.after(2, NOBODY, taken(mutex, current_thread()), clock=False)
        guards.after(5, NOBODY, taken(mutex, None), clock=False)
        mutex.owner = holder = current_thread()
        wait = waiting(Acquire(mutex))
        before = [guards.allowed(wait, event, 0) for event in range(8)]
        # Taken in event 2, given back in event 5.
        assert before == [True, True, True, False, False, False, True, True]
        # With others done as well, whatever came between them.
        assert guards.allowed(wait, 2, 1 << 2) is False
        assert guards.allowed(wait, 2, 1 << 2 | 1 << 5) is True
        assert guards.allowed(wait, 3, 1 << 5) is True
        # The object is what it was, all the same.
        assert mutex.owner is holder

    inside(check)


def test_what_was_there_before_anything_changed_it() -> None:
    def check() -> None:
        guards, mutex = Guards(CellNumbers()), Mutex("lock")
        # Made before the first event that is watched: the first state that is known stands for all before it.
        guards.after(4, NOBODY, taken(mutex, current_thread()), clock=False)
        guards.after(6, NOBODY, taken(mutex, None), clock=False)
        wait = waiting(Acquire(mutex))
        assert guards.allowed(wait, 0, 0) is False
        assert guards.allowed(wait, 7, 0) is True
        # Of an object of which nothing is known, what it is now counts.
        other = Mutex("other")
        assert guards.allowed(waiting(Acquire(other)), 0, 0) is True
        other.owner = current_thread()
        assert guards.allowed(waiting(Acquire(other)), 0, 0) is False

    inside(check)


def test_two_states_in_one_event_and_events_that_change_nothing() -> None:
    def check() -> None:
        guards, flag = Guards(CellNumbers()), Flag("flag")
        guards.after(0, [flag], [(flag, READ)], clock=False)
        flag.is_set = True
        # Made, and set at once: what counts is how it was left.
        guards.after(0, NOBODY, [(flag, WRITE)], clock=False)
        wait = waiting(Wait(flag))
        assert guards.allowed(wait, 1, 0) is True
        # Touched and not changed: going back behind that leaves what there was before it.
        guards.after(3, NOBODY, [(flag, READ)], clock=False)
        guards.truncate(3)
        flag.is_set = False
        assert guards.allowed(wait, 9, 0) is True

    inside(check)


def test_a_change_that_was_only_read_counts() -> None:
    def check() -> None:
        guards, flag = Guards(CellNumbers()), Flag("flag")
        guards.after(0, [flag], [], clock=False)
        flag.is_set = True
        guards.after(2, NOBODY, [(flag, READ)], clock=False)
        wait = waiting(Wait(flag))
        assert [guards.allowed(wait, event, 0) for event in (2, 3)] == [False, True]

    inside(check)


def test_after_truncation_only_what_is_left_counts() -> None:
    def check() -> None:
        guards, mutex = Guards(CellNumbers()), Mutex("lock")
        guards.after(0, [mutex], [], clock=False)
        guards.after(1, NOBODY, taken(mutex, current_thread()), clock=False)
        guards.after(2, NOBODY, taken(mutex, None), clock=False)
        guards.truncate(2)
        wait = waiting(Acquire(mutex))
        assert guards.allowed(wait, 9, 0) is False
        guards.truncate(1)
        assert guards.allowed(wait, 9, 0) is True

    inside(check)


def test_a_limit_of_time_lets_it_go_on_once_the_clock_has_fired() -> None:
    def check() -> None:
        thread = current_thread()
        guards, flag = Guards(CellNumbers()), Flag("flag")
        timer = Timer(thread.runtime.clock, thread, "timer", lambda: None)
        guards.after(0, [flag], [], clock=False)
        wait = waiting(Wait(flag, timeout=10), timer)
        # Who sets a timer touches it as well; that it was touched by the clock is what makes it fire.
        guards.after(1, NOBODY, [(timer, WRITE)], clock=False)
        guards.after(2, NOBODY, [(timer, READ)], clock=True)
        assert guards.allowed(wait, 9, 0) is False
        guards.after(3, NOBODY, [(timer, WRITE)], clock=True)
        assert [guards.allowed(wait, event, 0) for event in (3, 4)] == [False, True]
        assert guards.allowed(wait, 1, 1 << 3) is True
        assert guards.allowed(wait, 1, 1 << 2) is False
        # Another wait, without a limit, is none of its concern.
        assert guards.allowed(waiting(Wait(flag)), 9, 0) is False
        guards.truncate(4)
        assert guards.allowed(wait, 9, 0) is True
        guards.truncate(3)
        assert guards.allowed(wait, 9, 0) is False

    inside(check)


def test_polling_never_waits() -> None:
    def check() -> None:
        mutex = Mutex("lock")
        mutex.owner = current_thread()
        assert Guards(CellNumbers()).allowed(waiting(Acquire(mutex, timeout=0)), 0, 0) is True

    inside(check)


class Riddle(Waitable):
    """Does not say what an operation on it depends on."""


class Solve(BlockingOperation[None]):
    def available(self, thread: Thread) -> bool:
        raise AssertionError("nobody can know")


class Inscrutable(Solve):
    opaque = True


def test_what_nobody_can_know() -> None:
    def check() -> None:
        guards, riddle, flag = Guards(CellNumbers()), Riddle(current_thread(), "riddle"), Flag("flag")
        # Its states are not kept either.
        guards.after(0, [riddle, flag], [(riddle, WRITE)], clock=False)
        assert guards.allowed(waiting(Solve(riddle)), 1, 0) is None
        assert guards.allowed(waiting(Solve(flag, riddle)), 1, 0) is None
        assert guards.allowed(waiting(Inscrutable(flag)), 1, 0) is None

    inside(check)


ON_THE_SHELF = ("count", "text", "pair", "nothing", "items", "queue", "other")


class Shelf(Waitable):
    """An object with all kinds of attributes."""

    guards = ON_THE_SHELF

    def __init__(self) -> None:
        super().__init__(current_thread(), "shelf")
        self.count = 3
        self.text = "n"
        self.pair = (1, 2)
        self.nothing: object = None
        self.items: list[object] = [object(), object()]
        self.queue: deque[object] = deque([object()])
        self.other: object = object()


class Look(BlockingOperation[None]):
    """Is available if the shelf is as expected, and remembers what it was shown."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self.shelf = shelf
        self.seen: list[object] = []

    def available(self, thread: Thread) -> bool:
        shelf = self.shelf
        self.seen = [getattr(shelf, name) for name in ON_THE_SHELF]
        return len(shelf.items) > 1


def test_states_do_not_hold_on_to_anything_of_the_run() -> None:
    def check() -> None:
        guards, shelf = Guards(CellNumbers()), Shelf()
        guards.after(0, [shelf], [], clock=False)
        # Objects are told apart by their being there alone, collections by their length.
        shelf.items, shelf.other = [1, 2], object()
        guards.after(1, NOBODY, [(shelf, WRITE)], clock=False)
        look = Look(shelf)
        shelf.items.clear()
        assert guards.allowed(waiting(look), 1, 0) is True
        assert look.seen == [3, "n", (1, 2), None, range(2), range(1), SOMETHING]
        assert shelf.items == []
        # Nothing had changed in event 1: without it, there is the one state all the same.
        guards.truncate(1)
        assert guards.allowed(waiting(look), 5, 0) is True

    inside(check)


def test_an_operation_that_raises_leaves_the_objects_alone() -> None:
    class Raises(BlockingOperation[None]):
        def available(self, thread: Thread) -> bool:
            raise ZeroDivisionError

    def check() -> None:
        guards, mutex = Guards(CellNumbers()), Mutex("lock")
        guards.after(0, [mutex], [], clock=False)
        mutex.owner = holder = current_thread()
        try:
            guards.allowed(waiting(Raises(mutex)), 1, 0)
        except ZeroDivisionError:
            assert mutex.owner is holder
        else:
            raise AssertionError("it did not raise")

    inside(check)


def test_what_a_thread_has_declared() -> None:
    seen: list[tuple[str, ...]] = []

    async def main() -> None:
        mutex, flag = Mutex("lock"), Flag("flag")

        async def patient() -> None:
            await Acquire(mutex)
            await Release(mutex)

        async def hasty() -> None:
            await Acquire(mutex, timeout=1_000)

        async def busy() -> None:
            await Set(flag)

        await Acquire(mutex)
        threads = [spawn("patient", patient()), spawn("hasty", hasty())]
        # Both come to their waits while this one waits for the clock.
        await Wait(flag, timeout=10)
        waits = [declared(thread) for thread in threads]
        for wait, thread in zip(waits, threads, strict=True):
            assert wait is not None
            assert wait.thread is thread
            seen.append(tuple(sorted(cell.label for cell in wait.guards())))
        assert waits[0] is not None
        assert waits[0].timer is None
        assert waits[1] is not None
        assert waits[1].timer is not None
        other = spawn("busy", busy())
        # A start is no wait.
        assert declared(other) is None
        await Point("here")
        await Release(mutex)
        for thread in (*threads, other):
            await Join(thread)

    oracle = Replay(())
    assert oracle.begin()
    assert TestProgram(main).run(oracle).failure is None
    assert seen == [("lock",), ("lock", "timeout of hasty")]
