"""Small programs with known bugs, on which the samplers are measured: what several threads do to cells and locks.

They are re-expressed from the benchmark programs that the literature on controlled concurrency testing shares
(SCTBench: Thomson, Donaldson, Betts, "Concurrency testing using controlled schedulers", TOPC 2016). Main creates the
threads in one step, before the first decision; with *staggered* every creation is a step of its own, beside which
the threads that are already there can go on. `catalogue` lists them all, with what is known of each.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from explore.programs import Acquire, Flag, Load, Mutex, Release, Store, TestProgram, Variable, Wait, fail, spawn

from kemu.runtime import Cell, Operation, Point, Thread

Body = Coroutine[Operation[Any], Any, Any]


def program(name: str, bodies: Callable[[], list[Body]], *, staggered: bool = False) -> TestProgram:
    """The program of that name, which runs *bodies*, each in a thread of its own."""

    async def main() -> None:
        for number, body in enumerate(bodies()):
            spawn(f"t{number}", body)
            if staggered:
                await Point("create a thread")

    main.__name__ = name
    return TestProgram(main)


class Add(Operation[int]):
    """Add in one step; evaluates to the sum."""

    __slots__ = ("amount", "variable")
    kind = "add"

    def __init__(self, variable: Variable, amount: int) -> None:
        self.variable = variable
        self.amount = amount

    def perform(self, thread: Thread) -> int:
        thread.write(self.variable)
        self.variable.value += self.amount
        return self.variable.value

    def target(self) -> Cell:
        return self.variable


def account() -> TestProgram:
    """A deposit, a withdrawal and a check under one lock; the check has the wrong sign once both are done."""

    def bodies() -> list[Body]:
        lock, balance = Mutex("lock"), Variable("balance", 10)
        deposited, withdrawn = Variable("deposited"), Variable("withdrawn")

        async def transfer(amount: int, done: Variable) -> None:
            await Acquire(lock)
            before = await Load(balance)
            await Store(balance, before + amount)
            await Store(done, 1)
            await Release(lock)

        async def check() -> None:
            await Acquire(lock)
            if await Load(deposited) and await Load(withdrawn) and await Load(balance) != 10 - 2 - 5:
                fail("wrong total")
            await Release(lock)

        return [transfer(2, deposited), transfer(-5, withdrawn), check()]

    return program("account", bodies)


def bluetooth_driver(*, staggered: bool = False) -> TestProgram:
    """A request checks that the device is not stopping and then counts itself in; a stop can come between."""

    def bodies() -> list[Body]:
        stopping, stopped = Variable("stopping"), Variable("stopped")
        users, drained = Variable("users", 1), Variable("drained")

        async def leave() -> None:
            if await Add(users, -1) == 0:
                await Store(drained, 1)

        async def request() -> None:
            if not await Load(stopping):
                await Add(users, 1)
                if await Load(stopped):
                    fail("I/O after the stop")
            await leave()

        async def stop() -> None:
            await Store(stopping, 1)
            await leave()
            if await Load(drained):
                await Store(stopped, 1)

        return [request(), stop()]

    return program("bluetooth_driver", bodies, staggered=staggered)


def carter01() -> TestProgram:
    """Two threads hand a lock over in the wrong order of nesting; two more have nothing to do with it."""

    def bodies() -> list[Body]:
        inner, outer = Mutex("inner"), Mutex("outer")
        users = [Variable("users of A"), Variable("users of B")]

        async def work(number: int) -> None:
            await Acquire(outer)
            if await Add(users[number], 1) == 1:
                await Acquire(inner)
            await Release(outer)
            await Acquire(outer)
            if await Add(users[number], -1) == 0:
                await Release(inner)
            await Release(outer)

        async def idle() -> None:
            await Load(Variable("own"))

        return [work(0), work(1), idle(), idle()]

    return program("carter01", bodies)


def din_phil(philosophers: int) -> TestProgram:
    """Philosophers around a table, who all take the left fork first: two of them are ``deadlock01``."""

    def bodies() -> list[Body]:
        forks = [Mutex(f"fork {number}") for number in range(philosophers)]
        meals = [Variable(f"meal {number}") for number in range(philosophers)]

        async def eat(number: int) -> None:
            left, right = forks[number], forks[(number + 1) % philosophers]
            await Acquire(left)
            await Acquire(right)
            await Add(meals[number], 1)
            await Release(right)
            await Release(left)

        return [eat(number) for number in range(philosophers)]

    return program(f"din_phil{philosophers}", bodies)


def deadlock01() -> TestProgram:
    """Two threads take two locks in opposite order to count."""

    def bodies() -> list[Body]:
        a, b, counter = Mutex("A"), Mutex("B"), Variable("counter")

        async def count(first: Mutex, second: Mutex, amount: int) -> None:
            await Acquire(first)
            await Acquire(second)
            await Add(counter, amount)
            await Release(second)
            await Release(first)

        return [count(a, b, 1), count(b, a, -1)]

    return program("deadlock01", bodies)


def lazy01() -> TestProgram:
    """Two threads add under a lock; the third fails if it comes after both."""

    def bodies() -> list[Body]:
        lock, data = Mutex("lock"), Variable("data")

        async def add(amount: int) -> None:
            await Acquire(lock)
            await Add(data, amount)
            await Release(lock)

        async def check() -> None:
            await Acquire(lock)
            if await Load(data) >= 3:
                fail("both have added")
            await Release(lock)

        return [add(1), add(2), check()]

    return program("lazy01", bodies)


def phase01() -> TestProgram:
    """Two threads go through one lock and take another, which nobody gives back."""

    def bodies() -> list[Body]:
        first, second, phase = Mutex("first"), Mutex("second"), Variable("phase")

        async def go() -> None:
            await Acquire(first)
            await Add(phase, 1)
            await Release(first)
            await Acquire(second)

        return [go(), go()]

    return program("phase01", bodies)


def sync01() -> TestProgram:
    """A producer finds the store full and waits for a signal that is never sent."""

    def bodies() -> list[Body]:
        lock, stored, empty = Mutex("lock"), Variable("stored", 1), Flag("empty")

        async def produce() -> None:
            await Acquire(lock)
            await Wait(empty)
            await Add(stored, 1)
            await Release(lock)

        async def consume() -> None:
            await Acquire(lock)
            await Add(stored, -1)
            await Release(lock)

        return [produce(), consume()]

    return program("sync01", bodies)


class Pass(Operation[None]):
    """Copy one place of the ring to the next, in one step."""

    __slots__ = ("add", "ring", "way")
    kind = "pass"

    def __init__(self, ring: Variable, places: list[int], source: int, to: int, add: int = 0) -> None:
        self.ring = ring
        self.way = (places, source, to)
        self.add = add

    def perform(self, thread: Thread) -> None:
        thread.write(self.ring)
        places, source, to = self.way
        places[to] = (places[source] + self.add) % 4
        self.ring.value += 1

    def target(self) -> Cell:
        return self.ring


def token_ring() -> TestProgram:
    """Three threads pass a number on around a ring; the fourth, once all have, expects it to be everywhere."""

    def bodies() -> list[Body]:
        ring, places = Variable("ring"), [1, 2, 1]

        async def pass_on(source: int, to: int, add: int = 0) -> None:
            await Pass(ring, places, source, to, add)

        async def check() -> None:
            if await Load(ring) == 3 and len(set(places)) > 1:
                fail("not the same everywhere")

        return [pass_on(2, 0, 1), pass_on(0, 1), pass_on(1, 2), check()]

    return program("token_ring", bodies)


def reorder(threads: int, *, staggered: bool = False) -> TestProgram:
    """All threads but the last set two cells; the last fails if it sees the one set and the other not."""

    def bodies() -> list[Body]:
        a, b = Variable("a"), Variable("b")

        async def set_both() -> None:
            await Store(a, 1)
            await Store(b, -1)

        async def check() -> None:
            if await Load(a) == 0 and await Load(b) == 0:
                return
            if await Load(a) == 1 and await Load(b) == -1:
                return
            fail("half of the update")

        return [*(set_both() for _ in range(threads - 1)), check()]

    return program(f"reorder_{threads}", bodies, staggered=staggered)


def stack() -> TestProgram:
    """A push raises the top before it has written the entry; a pop can come between."""

    def bodies() -> list[Body]:
        top, entries = Variable("top"), [Variable(f"entry {number}") for number in range(3)]

        async def push() -> None:
            for number in range(1, 3):
                at = await Add(top, 1) - 1
                await Store(entries[at], number)

        async def pop() -> None:
            for _ in range(2):
                at = await Load(top)
                if at == 0:
                    return
                if await Load(entries[at - 1]) == 0:
                    fail("popped what was not pushed")
                await Add(top, -1)

        return [push(), pop()]

    return program("stack", bodies)


def twostage(updaters: int = 1, *, staggered: bool = False) -> TestProgram:
    """A two-phase update, each phase under a lock of its own, and a reader that comes between the phases."""

    def bodies() -> list[Body]:
        lock1, lock2 = Mutex("lock 1"), Mutex("lock 2")
        data1, data2 = Variable("data 1"), Variable("data 2")

        async def update() -> None:
            await Acquire(lock1)
            await Store(data1, 1)
            await Release(lock1)
            await Acquire(lock2)
            await Store(data2, await Load(data1) + 1)
            await Release(lock2)

        async def read() -> None:
            await Acquire(lock1)
            first = await Load(data1)
            await Release(lock1)
            if first == 0:
                return
            await Acquire(lock2)
            second = await Load(data2)
            await Release(lock2)
            if second != first + 1:
                fail("between the phases")

        return [*(update() for _ in range(updaters)), read()]

    return program("twostage" if updaters == 1 else f"twostage_{updaters + 1}", bodies, staggered=staggered)


def wronglock(writers: int = 3) -> TestProgram:
    """One thread increments under a lock and looks whether it did; others increment under another lock."""

    def bodies() -> list[Body]:
        lock, other, data = Mutex("lock"), Mutex("other lock"), Variable("data")

        async def checked() -> None:
            await Acquire(lock)
            before = await Load(data)
            await Store(data, await Load(data) + 1)
            if await Load(data) != before + 1:
                fail("somebody else has written")
            await Release(lock)

        async def unchecked() -> None:
            await Acquire(other)
            await Store(data, await Load(data) + 1)
            await Release(other)

        return [checked(), *(unchecked() for _ in range(writers))]

    return program(f"wronglock_{writers}", bodies)
