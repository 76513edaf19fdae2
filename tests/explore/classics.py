"""Small programs with known bugs, on which the samplers are measured.

They are re-expressed from the benchmark programs that the literature on controlled concurrency testing shares
(SCTBench: Thomson, Donaldson, Betts, "Concurrency testing using controlled schedulers", TOPC 2016). Main creates the
threads in one step, before the first decision; with *staggered* every creation is a step of its own, beside which
the threads that are already there can go on.
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


class Leave(Operation[None]):
    """Count a user out; the last one sets the flag."""

    __slots__ = ("drained", "users")
    kind = "leave"

    def __init__(self, users: Variable, drained: Flag) -> None:
        self.users = users
        self.drained = drained

    def perform(self, thread: Thread) -> None:
        thread.write(self.users)
        self.users.value -= 1
        if self.users.value == 0:
            thread.write(self.drained)
            self.drained.is_set = True
            self.drained.changed()

    def target(self) -> Cell:
        return self.users


def bluetooth_driver() -> TestProgram:
    """A request checks that the device is not stopping and then counts itself in; a stop can come between."""

    def bodies() -> list[Body]:
        stopping, stopped = Variable("stopping"), Variable("stopped")
        users, drained = Variable("users", 1), Flag("drained")

        async def request() -> None:
            if await Load(stopping):
                return
            await Add(users, 1)
            if await Load(stopped):
                fail("I/O after the stop")
            await Leave(users, drained)

        async def stop() -> None:
            await Store(stopping, 1)
            await Leave(users, drained)
            await Wait(drained)
            await Store(stopped, 1)

        return [request(), stop()]

    return program("bluetooth_driver", bodies)


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


def twostage() -> TestProgram:
    """A two-phase update, each phase under a lock of its own, and a reader that comes between the phases."""

    def bodies() -> list[Body]:
        lock1, lock2 = Mutex("lock 1"), Mutex("lock 2")
        # Only touched by who holds the lock, in the step in which it is taken: nothing to declare.
        data = [0, 0]

        async def update() -> None:
            await Acquire(lock1)
            data[0] = 1
            await Release(lock1)
            await Acquire(lock2)
            data[1] = data[0] + 1
            await Release(lock2)

        async def read() -> None:
            await Acquire(lock1)
            first = data[0]
            await Release(lock1)
            if first == 0:
                return
            await Acquire(lock2)
            second = data[1]
            await Release(lock2)
            if second != first + 1:
                fail("between the phases")

        return [update(), read()]

    return program("twostage", bodies)


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
