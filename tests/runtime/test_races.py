"""Happens-before and FastTrack: what is reported, with what words, and which of the runtime's own things make edges."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import pytest
from racing import Count, Do, Field, Lock, Main, Wait, races_of_all_runs, run, spawn, together, watch

from kemu.errors import UsageError
from kemu.explore import RandomWalk, Replay
from kemu.runtime import (
    Cell,
    Join,
    Message,
    Operation,
    Point,
    ServingActor,
    Thread,
    Timer,
    Waitable,
    ask,
    benign,
    current_thread,
    is_benign,
    operation,
    tell,
)
from kemu.runtime.actor import Actor
from kemu.runtime.races import Access

Program = Callable[[bool], Coroutine[Any, Any, None]]
"""A program that is synchronised, or with False one that misses a piece of it."""


async def with_lock(whole: bool) -> None:
    lock, field = Lock(), Field()

    async def worker(locks: bool) -> None:
        if locks:
            await lock.acquire()
        field.load()
        field.store()
        if locks:
            await lock.release()

    await together(worker(True), worker(whole))


async def with_shared_lock(whole: bool) -> None:
    lock, field = Lock(), Field()

    async def writer() -> None:
        await lock.acquire()
        field.store()
        await lock.release()

    async def reader(writes: bool = False) -> None:
        await lock.acquire_shared()
        (field.store if writes else field.load)()
        await lock.release_shared()

    await together(reader(), reader(writes=not whole), writer())


async def with_flag(whole: bool) -> None:
    """An event: what is before the set is ordered before what is after the wait."""
    flag, field = Waitable(current_thread(), "Ready"), Field()
    is_set: list[bool] = []

    async def setter() -> None:
        if whole:
            field.store()

        def put(thread: Thread) -> None:
            thread.write(flag)
            thread.release(flag)
            is_set.append(True)
            flag.changed()

        await Do(put)
        if not whole:
            # The same step, but after the release: the clock advances at the operation.
            field.store()

    async def waiter() -> None:
        await Wait(flag, lambda: bool(is_set), lambda thread: thread.acquire(flag))
        field.load()

    await together(setter(), waiter())


async def with_interlocked_flag(whole: bool) -> None:
    flag, field = Count("Flag"), Field()

    async def publisher() -> None:
        if whole:
            field.store()
        await flag.add(1)
        if not whole:
            field.store()

    async def reader() -> None:
        if await flag.add(0):
            field.load()

    await together(publisher(), reader())


async def with_rundown(whole: bool) -> None:
    """Users of an object order nothing among each other; who waits for all of them comes after all of them."""
    users, field, own = Waitable(current_thread(), "Rundown"), Field("Object.State"), [Field("own 0"), Field("own 1")]
    count = [2]

    async def user(number: int) -> None:
        (own[number] if whole else field).store()

        def leave(thread: Thread) -> None:
            thread.write(users)
            thread.release_to_waiter(users)
            count[0] -= 1
            users.changed()

        await Do(leave)

    async def closer() -> None:
        await Wait(users, lambda: not count[0], lambda thread: thread.acquire_as_waiter(users))
        field.store()
        for one in own:
            one.store()

    await together(user(0), user(1), closer())


async def with_references(whole: bool) -> None:
    """Whoever drops the last reference cleans up, and comes after all others that have dropped one."""
    count, field = Count("References", 2), [Field("part 0"), Field("part 1")]

    async def holder(number: int) -> None:
        field[number].store()
        left: list[int] = []

        def drop(thread: Thread) -> None:
            thread.write(count)
            thread.release_to_waiter(count)
            count.value -= 1
            left.append(count.value)
            if not count.value and whole:
                thread.acquire_as_waiter(count)

        await Do(drop)
        if not left[0]:
            field[0].store()
            field[1].store()

    await together(holder(0), holder(1))


async def with_join(whole: bool) -> None:
    field = Field()
    field.store()

    async def child() -> None:
        field.store()

    thread = spawn("child", child())
    if whole:
        await Join(thread)
    field.load()


PROGRAMS: dict[str, Program] = {
    "lock": with_lock,
    "shared lock": with_shared_lock,
    "event": with_flag,
    "interlocked flag": with_interlocked_flag,
    "rundown": with_rundown,
    "references": with_references,
    "join": with_join,
}


def program(name: str, whole: bool) -> Main:
    return lambda: PROGRAMS[name](whole)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_synchronised_program_is_silent_in_every_run_there_is(name: str) -> None:
    found = races_of_all_runs(program(name, True), limit=20_000)
    assert not any(found)
    assert len(found) > 1 or name == "join"


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_piece_of_it_the_race_is_seen_in_the_plain_run(name: str) -> None:
    assert watch(program(name, False)) is not None


# What is a race.


def two(first: Callable[[Field], None], second: Callable[[Field], None], **options: Any) -> Main:
    """Two threads that access a field without any synchronisation, in this order in the plain run."""

    async def main() -> None:
        field = Field(**options)

        async def one() -> None:
            first(field)

        async def other() -> None:
            second(field)

        await together(one(), other())

    return main


@pytest.mark.parametrize(
    ("first", "second", "races"),
    [
        (Field.load, Field.load, False),
        (Field.load, Field.store, True),
        (Field.store, Field.load, True),
        (Field.store, Field.store, True),
    ],
)
def test_two_accesses_race_unless_both_only_look(
    first: Callable[[Field], None], second: Callable[[Field], None], races: bool
) -> None:
    race = watch(two(first, second))
    assert (race is not None) == races
    if race is not None:
        assert (race.first.thread, race.second.thread) == ("t0", "t1")
        assert (race.first.what, race.second.what) == (f"{first.__name__}s", f"{second.__name__}s")


def test_accesses_of_one_thread_never_race() -> None:
    async def main() -> None:
        field = Field()
        for _ in range(2):
            field.load()
            field.store()
            await Point("step")

    assert watch(main) is None


def test_different_fields_do_not_race() -> None:
    async def main() -> None:
        async def worker(number: int) -> None:
            Field(f"field {number}").store()

        await together(worker(0), worker(1))

    assert watch(main) is None


@pytest.mark.parametrize("loads_in_order", [False, True])
def test_a_store_races_with_any_of_the_loads_that_nothing_orders(loads_in_order: bool) -> None:
    """The loads of t0 and t1 are unordered (a load of each has to be kept) or not (the last one stands for both)."""

    async def main() -> None:
        field, lock = Field(), Lock()

        async def reader(last: bool) -> None:
            await lock.acquire()
            field.load()
            field.load()
            if last or loads_in_order:
                await lock.release()
            else:
                lock.owner = None
                lock.changed()
            await Point("go on")

        async def writer() -> None:
            await lock.acquire()
            await lock.release()
            field.store()

        await together(reader(False), reader(True), writer())

    race = watch(main)
    if loads_in_order:
        # t0 -> t1 -> t2 by the lock.
        assert race is None
    else:
        # t1 is ordered before t2, t0 is not.
        assert race is not None
        assert (race.first.thread, race.first.what, race.second.thread) == ("t0", "loads", "t2")


def test_a_load_in_each_epoch_counts_once_there_are_several_readers() -> None:
    async def main() -> None:
        field, lock = Field(), Lock()

        async def reader() -> None:
            field.load()
            await Point("others load")
            field.load()
            await lock.acquire()
            await lock.release()
            # Not covered by the release.
            field.load()
            field.load()

        async def writer() -> None:
            await lock.acquire()
            await lock.release()
            field.store()

        threads = [spawn("a", reader()), spawn("b", reader())]
        for thread in threads:
            await Join(thread)
        await Join(spawn("c", writer()))

    # The joins order everything before the writer.
    assert watch(main) is None


def test_the_first_race_is_seen_whatever_the_schedule() -> None:
    found = races_of_all_runs(two(Field.store, Field.store))
    # t0, t1; t0, main that joins it, t1; t1, t0.
    assert len(found) == 3
    assert all(found)


def test_a_service_comes_into_being_without_an_order() -> None:
    async def main() -> None:
        field = Field()
        field.store()

        async def service() -> None:
            field.load()

        current_thread().runtime.spawn("service", service(), service=True)

    race = watch(main)
    assert race is not None
    assert (race.first.thread, race.second.thread) == ("main", "service")


@pytest.mark.parametrize("whole", [True, False])
def test_queueing_orders_the_routine_that_a_service_begins(whole: bool) -> None:
    async def main() -> None:
        field, item, bell = Field(), Cell(current_thread(), "item"), Waitable(current_thread(), "bell")
        items: list[Cell] = []

        async def serve() -> None:
            await Wait(bell, lambda: bool(items), lambda thread: thread.begin(items.pop()))
            field.load()

        current_thread().runtime.spawn("worker", serve(), service=True)
        if whole:
            field.store()
        current_thread().release(item)
        items.append(item)
        bell.changed()
        if not whole:
            field.store()

    assert (watch(main) is None) == whole


def test_one_thread_that_takes_up_two_things_does_not_order_them() -> None:
    async def main() -> None:
        field = Field()
        items = [Cell(current_thread(), f"item {number}") for number in range(2)]

        async def serve() -> None:
            for item in items:
                await Do(lambda thread, item=item: thread.begin(item))
                field.store()

        current_thread().release(items[0])
        current_thread().release(items[1])
        current_thread().runtime.spawn("worker", serve(), service=True)

    race = watch(main)
    assert race is not None
    assert (race.first.thread, race.second.thread) == ("worker", "worker")


def test_what_nobody_released_can_be_acquired_and_taken_up() -> None:
    async def main() -> None:
        cell = Cell(current_thread(), "cell")
        thread = current_thread()
        thread.acquire(cell)
        thread.acquire_as_waiter(cell)
        thread.begin(cell)

    assert watch(main) is None


def test_a_release_takes_the_place_of_the_one_before() -> None:
    """Who acquires is ordered behind the release that it saw, and that is the last one."""

    async def main() -> None:
        first, second, cell = Field("first"), Field("second"), Cell(current_thread(), "cell")

        async def releases(field: Field) -> None:
            field.store()
            await Do(lambda thread: thread.release(cell))

        async def acquires() -> None:
            await Do(lambda thread: thread.acquire(cell))
            second.load()
            first.load()

        threads = [spawn("a", releases(first)), spawn("b", releases(second)), spawn("c", acquires())]
        for thread in threads:
            await Join(thread)

    race = watch(main)
    assert race is not None
    assert (race.cell.label, race.first.thread, race.second.thread) == ("first", "a", "c")


# What makes no edge.


@dataclass(frozen=True)
class Visit(Message):
    handler: ClassVar[str] = "visit"
    field: Field


class Visited(Actor):
    async def visit(self, field: Field) -> None:
        field.store()


class Served(ServingActor):
    async def visit(self, field: Field) -> None:
        field.load()


def test_being_asked_after_each_other_orders_nothing() -> None:
    async def main() -> None:
        actor, field = Visited(current_thread().runtime, "visited"), Field()
        await together(ask(actor, Visit, field), ask(actor, Visit, field))

    assert watch(main) is not None


def test_a_mailbox_of_the_emulator_orders_nothing() -> None:
    async def main() -> None:
        actor, field = Served(current_thread().runtime, "served"), Field()
        field.store()
        await tell(actor, Visit, field)

    assert watch(main) is not None


def test_a_question_and_a_shared_cell_of_the_emulator_order_nothing() -> None:
    async def main() -> None:
        field, cell = Field(), Cell(current_thread(), "emulator's own")

        async def worker() -> None:
            await Do(lambda thread: thread.write(cell))
            current_thread().runtime.choose(2, "which")
            field.store()
            await Do(lambda thread: thread.write(cell))

        await together(worker(), worker())

    assert watch(main) is not None


# Time.


@pytest.mark.parametrize("whole", [True, False])
def test_setting_a_timer_is_ordered_before_its_expiry(whole: bool) -> None:
    async def main() -> None:
        thread, field = current_thread(), Field()
        clock = thread.runtime.clock
        timer = Timer(clock, thread, "timer", lambda: clock.thread(thread.runtime).load(field.cell))
        if whole:
            field.store()
        timer.arm(10)
        if not whole:
            field.store()

    assert (watch(main) is None) == whole


def test_one_timer_is_not_ordered_before_the_next() -> None:
    async def main() -> None:
        thread, field = current_thread(), Field()
        clock = thread.runtime.clock
        for due in (10, 20):
            Timer(clock, thread, f"timer {due}", lambda: clock.thread(thread.runtime).store(field.cell)).arm(due)

    race = watch(main)
    assert race is not None
    assert (race.first.thread, race.second.thread) == ("clock", "clock")


# Fields and objects that say more about themselves.


def test_a_benign_field_is_silent_and_its_neighbour_is_not() -> None:
    assert watch(two(Field.store, Field.store, benign=True)) is None
    assert watch(two(Field.load, Field.store, benign=True)) is None
    assert watch(two(Field.store, Field.store, benign=False)) is not None


class Base:
    pass


class Derived(Base):
    pass


def test_benign_holds_for_the_named_fields_of_a_class_and_of_those_derived_from_it() -> None:
    benign(Base, "Stopping")
    benign(Derived, "Count")
    benign(Derived, "Total", "Last")
    assert is_benign(Base, "Stopping")
    assert is_benign(Derived, "Stopping")
    assert all(is_benign(Derived, name) for name in ("Count", "Total", "Last"))
    assert not is_benign(Derived, "Other")
    assert not is_benign(Base, "Count")
    assert not is_benign(Base, "Other")


def test_benign_holds_for_globals_of_a_module() -> None:
    module = ModuleType("driver")
    benign(module, "Stopping")
    assert is_benign(module, "Stopping")
    assert not is_benign(module, "Other")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((Base(), "Stopping"), "neither a class nor a module"),
        ((Base,), "names no field of Base"),
        ((Base, "Base.Stopping"), "'Base.Stopping' is not the name of a field"),
        ((Base, 7), "7 is not the name of a field"),
    ],
)
def test_benign_is_particular(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        benign(*arguments)


@pytest.mark.parametrize("access", [Field.load, Field.store])
@pytest.mark.parametrize("ends_first", [False, True])
def test_freeing_an_object_changes_all_its_fields(access: Callable[[Field], None], ends_first: bool) -> None:
    async def main() -> None:
        block = Cell(current_thread(), "block")
        field = Field(lifetime=block)

        async def uses() -> None:
            access(field)

        async def frees() -> None:
            current_thread().end(block)

        await together(*((frees(), uses()) if ends_first else (uses(), frees())))

    race = watch(main)
    assert race is not None
    assert race.cell.label == "block"
    assert {race.first.what, race.second.what} == {f"{access.__name__}s", "ends"}


def test_a_benign_field_goes_with_the_object_that_it_is_part_of() -> None:
    async def main() -> None:
        block = Cell(current_thread(), "block")
        field = Field(benign=True, lifetime=block)

        async def uses() -> None:
            field.store()

        async def frees() -> None:
            current_thread().end(block)

        await together(uses(), frees())

    race = watch(main)
    assert race is not None
    assert race.cell.label == "block"


def test_two_uses_do_not_race_and_a_use_races_with_the_end() -> None:
    async def main(ends: bool) -> None:
        block = Cell(current_thread(), "block")

        async def uses() -> None:
            current_thread().use(block)

        async def frees() -> None:
            (current_thread().end if ends else current_thread().use)(block)

        await together(uses(), frees())

    assert watch(lambda: main(False)) is None
    race = watch(lambda: main(True))
    assert race is not None
    assert (race.first.what, race.second.what) == ("uses", "ends")


# Words and places.


def line_of(text: str) -> int:
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123
        (found,) = [number for number, line in enumerate(file, 1) if line.rstrip().endswith(f"# {text}")]
    return found


def test_both_accesses_have_their_line() -> None:
    async def main() -> None:
        field = Field()

        async def writer() -> None:
            field.store()  # the store

        async def reader() -> None:
            thread = current_thread()
            await Point("step")
            thread.load(field.cell)  # the load

        await together(writer(), reader())

    race = watch(main)
    assert race is not None
    # Of the first the innermost line is that of `Field.store`, which is no library's either.
    assert race.first.file.endswith("racing.py")
    assert race.second.place == f"{__file__}:{line_of('the load')}"
    assert race.second.function.endswith("main.<locals>.reader")


def test_while_an_operation_is_performed_the_line_is_the_one_that_awaits() -> None:
    async def main() -> None:
        field = Field()

        async def writer() -> None:
            await Point("go")
            await Store(field.cell)  # the await

        await together(writer(), writer())

    race = watch(main)
    assert race is not None
    assert race.first.line == race.second.line == line_of("the await")


class Store(Operation[None]):
    """As a kernel routine stores: in its operation, where no line of the driver's runs."""

    __slots__ = ("cell",)
    kind = "store"

    def __init__(self, cell: Cell) -> None:
        self.cell = cell


def as_kemus_own(source: str) -> Any:
    """A function as if it were defined in a file of kemu's: the frame of one that is defined here is the user's."""
    names: dict[str, Any] = {}
    exec(compile(source, operation.__file__, "exec"), names)
    return names["perform"]


Store.perform = as_kemus_own("def perform(self, thread): thread.store(self.cell)")


def test_without_a_line_of_the_users_there_is_no_place() -> None:
    assert Access("t", "loads", "", 0, "").place == ""


def test_what_is_missing_is_said() -> None:
    async def main() -> None:
        field, lock = Field(), Lock("GateLock")

        async def one() -> None:
            field.store()
            await lock.acquire()
            await lock.release()

        async def other() -> None:
            field.load()

        await together(one(), other())

    race = watch(main)
    assert race is not None
    assert race.missing == (
        "no lock, event or hand-off orders the first before the second: t0 next released GateLock,"
        " t1 last acquired its start by main"
    )
    race = watch(two(Field.store, Field.load))
    assert race is not None
    assert race.missing.endswith("t0 has released nothing since, t1 last acquired its start by main")


def test_who_never_acquired_anything_is_said_to() -> None:
    async def main() -> None:
        field = Field()

        async def child() -> None:
            field.store()

        spawn("child", child())
        await Point("the child runs")
        field.load()

    # In the plain run main goes on as long as it can; here the child comes first.
    race = watch(main, Replay([1]))
    assert race is not None
    assert race.missing.endswith("child has released nothing since, main has acquired nothing")


# The mode.


@pytest.mark.parametrize("name", PROGRAMS)
def test_detection_changes_neither_decisions_nor_fingerprint(name: str) -> None:
    walk, again = RandomWalk(3), RandomWalk(3)
    for _ in range(20):
        assert walk.begin()
        assert again.begin()
        with_races, without = run(program(name, True), walk), run(program(name, True), again, races=False)
        assert (with_races.choices, with_races.fingerprint, with_races.steps) == (
            without.choices,
            without.fingerprint,
            without.steps,
        )


def test_what_happens_while_a_run_is_taken_apart_is_no_race() -> None:
    async def main() -> None:
        field = Field()

        async def one() -> None:
            field.store()

        async def other() -> None:
            try:
                field.store()
            finally:
                field.store()

        await together(one(), other())

    race = watch(main)
    assert race is not None
