"""Small programs written directly on the runtime, and how their runs are counted.

Counting. Main is a thread: its first step (operation *start*) runs it up to its first await, and so on; a thread's
first step is its start, too. Where main only spawns threads and returns, it takes one step, alone, and the threads
all exist when the first decision is taken. A thread that awaits k operations takes k + 1 steps: start, then each
operation together with the code after it. The start touches nothing, but it is a step and it is scheduled.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from kemu.runtime import (
    BlockingOperation,
    Cell,
    ControlledRuntime,
    Join,
    Observer,
    Operation,
    Oracle,
    Outcome,
    Thread,
    Timer,
    Waitable,
    current_thread,
)

Main = Callable[[], Coroutine[Operation[Any], Any, Any]]


@dataclass(frozen=True)
class Broken:
    """A failure of a test program."""

    code: str
    what: str

    @property
    def signature(self) -> tuple[str, ...]:
        return (self.code, self.what)

    @property
    def summary(self) -> str:
        return f"{self.code}: {self.what}"


class TestProgram:
    """A program: a main routine. It fails by calling `fail`, by getting stuck, or by running too long."""

    __test__ = False

    def __init__(self, main: Main, *, max_steps: int = 2_000, stops: bool = True) -> None:
        self.main = main
        self.max_steps = max_steps
        self.stops = stops
        """Whether `fail` ends the run. Otherwise it goes on, so that all runs are whole and can be counted."""
        self.name = main.__name__
        self.identity = sha256(self.name.encode()).hexdigest()[:16]
        self.runs = 0

    def run(self, oracle: Oracle, observer: Observer | None = None) -> Outcome:
        self.runs += 1
        runtime = ControlledRuntime(oracle, max_steps=self.max_steps, observer=observer)
        failures: list[Broken] = []
        runtime.system = None if self.stops else failures
        outcome = runtime.run("main", self.main())
        if outcome.crash is not None:
            raise outcome.crash
        if failures:
            outcome.failure = failures[0]
        if outcome.end == "stuck":
            assert outcome.stuck is not None
            outcome.failure = Broken("DEADLOCK" if outcome.stuck.is_deadlock else "HANG", "")
        elif outcome.end == "step-limit":
            outcome.failure = Broken("STEPS", "")
        return outcome


def fail(what: str) -> None:
    runtime = current_thread().runtime
    if runtime.system is None:
        runtime.stop(Broken("WRONG", what))
    runtime.system.append(Broken("WRONG", what))


def spawn(label: str, coroutine: Coroutine[Operation[Any], Any, Any]) -> Thread:
    return current_thread().runtime.spawn(label, coroutine)


# Objects.


class Variable(Cell):
    """A shared variable."""

    __slots__ = ("value",)

    def __init__(self, label: str, value: int = 0) -> None:
        super().__init__(current_thread(), label)
        self.value = value


class Load(Operation[int]):
    __slots__ = ("variable",)
    kind = "load"

    def __init__(self, variable: Variable) -> None:
        self.variable = variable

    def perform(self, thread: Thread) -> int:
        thread.read(self.variable)
        return self.variable.value

    def target(self) -> Cell:
        return self.variable


class Store(Operation[None]):
    __slots__ = ("value", "variable")
    kind = "store"

    def __init__(self, variable: Variable, value: int) -> None:
        self.variable = variable
        self.value = value

    def perform(self, thread: Thread) -> None:
        thread.write(self.variable)
        self.variable.value = self.value

    def target(self) -> Cell:
        return self.variable


class Mutex(Waitable):
    """A lock that is not recursive."""

    __slots__ = ("owner",)

    guards = ("owner",)

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.owner: Thread | None = None

    def holders(self) -> tuple[Thread, ...]:
        return () if self.owner is None else (self.owner,)


class Acquire(BlockingOperation[bool]):
    """Evaluates to whether the lock was had before the time was up."""

    __slots__ = ("mutex",)
    kind = "acquire"

    def __init__(self, mutex: Mutex, timeout: int | None = None) -> None:
        super().__init__(mutex, timeout=timeout)
        self.mutex = mutex

    def available(self, thread: Thread) -> bool:
        return self.mutex.owner is None

    def take(self, thread: Thread) -> bool:
        thread.write(self.mutex)
        self.mutex.owner = thread
        self.mutex.changed()
        return True

    def timed_out(self, thread: Thread) -> bool:
        thread.read(self.mutex)
        return False


class Release(Operation[None]):
    __slots__ = ("mutex",)
    kind = "release"

    def __init__(self, mutex: Mutex) -> None:
        self.mutex = mutex

    def perform(self, thread: Thread) -> None:
        thread.write(self.mutex)
        self.mutex.owner = None
        self.mutex.changed()

    def target(self) -> Cell:
        return self.mutex


class Flag(Waitable):
    """An event that stays set."""

    __slots__ = ("is_set",)

    guards = ("is_set",)

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.is_set = False


class Set(Operation[None]):
    __slots__ = ("flag",)
    kind = "set"

    def __init__(self, flag: Flag) -> None:
        self.flag = flag

    def perform(self, thread: Thread) -> None:
        thread.write(self.flag)
        self.flag.is_set = True
        self.flag.changed()

    def target(self) -> Cell:
        return self.flag


class Wait(BlockingOperation[bool]):
    """Evaluates to whether the flag was set before the time was up."""

    __slots__ = ("flag",)
    kind = "wait for"

    def __init__(self, flag: Flag, timeout: int | None = None) -> None:
        super().__init__(flag, timeout=timeout)
        self.flag = flag

    def available(self, thread: Thread) -> bool:
        return self.flag.is_set

    def take(self, thread: Thread) -> bool:
        thread.read(self.flag)
        return True

    def timed_out(self, thread: Thread) -> bool:
        thread.read(self.flag)
        return False


# Programs.


def steps_program(*counts: int) -> TestProgram:
    """One thread for each count c, which loads and stores a shared variable in turn, c operations in all."""

    async def worker(variable: Variable, count: int) -> None:
        for number in range(count):
            await (Store(variable, number) if number % 2 else Load(variable))

    async def steps() -> None:
        variable = Variable("x")
        for number, count in enumerate(counts):
            spawn(f"t{number}", worker(variable, count))

    return TestProgram(steps)


async def abba() -> None:
    """Two threads take two locks in opposite order."""
    a, b = Mutex("A"), Mutex("B")

    async def worker(first: Mutex, second: Mutex) -> None:
        await Acquire(first)
        await Acquire(second)
        await Release(second)
        await Release(first)

    spawn("t0", worker(a, b))
    spawn("t1", worker(b, a))


async def lost_update() -> None:
    """Two threads increment a counter, each with a load and a store; main joins both and looks."""
    counter = Variable("counter")

    async def increment() -> None:
        value = await Load(counter)
        await Store(counter, value + 1)

    threads = [spawn(f"t{number}", increment()) for number in range(2)]
    for thread in threads:
        await Join(thread)
    if await Load(counter) != 2:
        fail("an update was lost")


async def timed_wait() -> None:
    """One thread waits for a flag for some time, another sets it."""
    flag = Flag("done")

    async def waiter() -> None:
        await Wait(flag, timeout=10)

    async def setter() -> None:
        await Set(flag)

    spawn("waiter", waiter())
    spawn("setter", setter())


async def questions() -> None:
    """One thread asks two questions, of three answers and of two, between operations."""
    variable = Variable("x")

    async def asker() -> None:
        await Load(variable)
        current_thread().runtime.choose(3, "completion")
        await Load(variable)
        current_thread().runtime.choose(2, "allocation")

    spawn("asker", asker())


async def mixed() -> None:
    """A question in a thread beside another thread of the same length."""
    variable = Variable("x")

    async def asker() -> None:
        if current_thread().runtime.choose(2, "later"):
            await Load(variable)

    async def other() -> None:
        await Load(variable)

    spawn("asker", asker())
    spawn("other", other())


def use_after_free(before_check: int = 0, before_free: int = 0) -> TestProgram:
    """A user checks and then uses what a cleaner frees; before that each loads so often from its own variable."""

    async def warm_up(passes: int) -> None:
        variable = Variable("own")
        for _ in range(passes):
            await Load(variable)

    async def user(buffer: Variable, pause: Variable) -> None:
        await warm_up(before_check)
        if await Load(buffer):
            await Load(pause)
            if not await Load(buffer):
                fail("used after free")

    async def cleaner(buffer: Variable) -> None:
        await warm_up(before_free)
        await Store(buffer, 0)

    async def use_after_free() -> None:
        buffer, pause = Variable("buffer", 1), Variable("pause")
        spawn("user", user(buffer, pause))
        spawn("cleaner", cleaner(buffer))

    return TestProgram(use_after_free)


def three_in_a_row(noise: int = 0) -> TestProgram:
    """Fails if c runs between two stores of b's, and b between two of a's; two more threads load *noise* times."""

    async def three() -> None:
        x, y = Variable("x"), Variable("y")

        async def a() -> None:
            await Store(x, 1)
            await Store(x, 0)

        async def b() -> None:
            if await Load(x):
                await Store(y, 1)
                await Store(y, 0)

        async def c() -> None:
            if await Load(y) and await Load(x):
                fail("saw both")

        async def d() -> None:
            z = Variable("z")
            for _ in range(noise):
                await Load(z)

        for label, body in (("a", a), ("b", b), ("c", c)):
            spawn(label, body())
        for number in range(2 if noise else 0):
            spawn(f"d{number}", d())

    return TestProgram(three)


async def answered_badly() -> None:
    """Fails if the second of five questions is answered with 1 or 2, whatever the others are."""
    variable = Variable("x")
    runtime = current_thread().runtime

    async def other() -> None:
        for _ in range(4):
            await Load(variable)

    spawn("other", other())
    for number in range(5):
        await Load(variable)
        if runtime.choose(3, f"question {number}") and number == 1:
            fail("bad answer")


async def early_timeout() -> None:
    """Fails if the wait times out although the flag is set in the end: only the clock can do that."""
    flag = Flag("done")

    async def waiter() -> None:
        if not await Wait(flag, timeout=10):
            fail("timed out")

    async def setter() -> None:
        await Set(flag)

    spawn("waiter", waiter())
    spawn("setter", setter())


async def forever() -> None:
    """A thread that spins until another one has run."""
    stop = Variable("stop")

    async def spinner() -> None:
        while not await Load(stop):
            pass

    async def stopper() -> None:
        await Store(stop, 1)

    spawn("spinner", spinner())
    spawn("stopper", stopper())


async def periodic() -> None:
    """A timer that sets itself again, beside a thread with something to do."""
    thread = current_thread()
    clock = thread.runtime.clock
    variable = Variable("x")

    def expire() -> None:
        if variable.value < 3:
            timer.arm(clock.now + 10)

    timer = Timer(clock, thread, "timer", expire)
    timer.arm(10)
    for number in range(4):
        await Store(variable, number)
