"""What the tests of the runtime share: a variable, a lock, a flag; scripted and exhaustive runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from kemu.runtime import (
    BlockingOperation,
    Cell,
    ControlledRuntime,
    DecisionPoint,
    Operation,
    Outcome,
    Thread,
    Waitable,
    current_thread,
)

Main = Callable[[], Coroutine[Any, Any, Any]]


class Variable(Cell):
    __slots__ = ("value",)

    def __init__(self, label: str, value: int = 0) -> None:
        super().__init__(current_thread(), label)
        self.value = value


class Access(Operation[int]):
    """Access a variable in one of the modes; evaluates to the value afterwards."""

    __slots__ = ("value", "variable")

    def __init__(self, variable: Variable, value: int = 0) -> None:
        self.variable = variable
        self.value = value

    def target(self) -> Cell:
        return self.variable


class Load(Access):
    __slots__ = ()
    kind = "load"

    def perform(self, thread: Thread) -> int:
        thread.read(self.variable)
        return self.variable.value


class Store(Access):
    __slots__ = ()
    kind = "store"

    def perform(self, thread: Thread) -> int:
        thread.write(self.variable)
        self.variable.value = self.value
        return self.value


class Increment(Access):
    """Read, modify and write."""

    __slots__ = ()
    kind = "increment"

    def perform(self, thread: Thread) -> int:
        thread.write(self.variable)
        self.variable.value += 1
        return self.variable.value


class Bump(Access):
    """An increment whose result nobody sees."""

    __slots__ = ()
    kind = "bump"

    def perform(self, thread: Thread) -> int:
        thread.update(self.variable)
        self.variable.value += 1
        return 0


class Do(Operation[Any]):
    """Do anything."""

    __slots__ = ("action",)
    kind = "do"

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def perform(self, thread: Thread) -> Any:
        return self.action()


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
    __slots__ = ("is_set",)

    guards = ("is_set",)

    def __init__(self, label: str = "flag") -> None:
        super().__init__(current_thread(), label)
        self.is_set = False


class Put(Operation[None]):
    """Set or clear a flag."""

    __slots__ = ("flag", "is_set")
    kind = "set"

    def __init__(self, flag: Flag, is_set: bool = True) -> None:
        self.flag = flag
        self.is_set = is_set

    def perform(self, thread: Thread) -> None:
        thread.write(self.flag)
        self.flag.is_set = self.is_set
        self.flag.changed()

    def target(self) -> Cell:
        return self.flag


class Wait(BlockingOperation[bool]):
    """Wait for a flag; evaluates to whether it was set before the time was up."""

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


def spawn(label: str, coroutine: Coroutine[Any, Any, Any], *, service: bool = False) -> Thread:
    return current_thread().runtime.spawn(label, coroutine, service=service)


class Script:
    """Decides as a list of numbers says, then always 0. Notes how many alternatives each decision had."""

    def __init__(self, *choices: int) -> None:
        self.choices = list(choices)
        self.sizes: list[int] = []
        self.labels: list[str] = []

    def begin(self) -> bool:
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        assert n == len(point.ready) + point.clock_is_enabled
        assert [thread.path for thread in point.ready] == sorted(thread.path for thread in point.ready)
        return self._next(n, "")

    def choose(self, n: int, label: str) -> int:
        return self._next(n, label)

    def _next(self, n: int, label: str) -> int:
        at = len(self.sizes)
        self.sizes.append(n)
        self.labels.append(label)
        return self.choices[at] if at < len(self.choices) else 0


class Order:
    """Lets the threads go on in the order of their labels in a list; ``clock`` is the clock."""

    def __init__(self, *labels: str) -> None:
        self.labels = list(labels)

    def begin(self) -> bool:
        return True

    def pick(self, n: int, point: DecisionPoint) -> int:
        """Forced steps are not asked for, so leave out of the list what cannot be otherwise."""
        if not self.labels:
            return 0
        label = self.labels.pop(0)
        if label == "clock":
            assert point.clock_is_enabled
            return len(point.ready)
        at = [thread.label for thread in point.ready].index(label)
        return (at - point.index) % len(point.ready)

    def choose(self, n: int, label: str) -> int:
        return 0


def run(main: Main, *choices: int, **options: Any) -> Outcome:
    """Run under a list of choices."""
    return ControlledRuntime(Script(*choices), **options).run("main", main())


def ordered(main: Main, order: str, **options: Any) -> Outcome:
    """Run with the threads in the order of their labels in a string."""
    return ControlledRuntime(Order(*order.split()), **options).run("main", main())


def every_run(main: Main, limit: int = 5_000, **options: Any) -> Iterator[Outcome]:
    """All runs of a program, by counting through the choices."""
    choices: list[int] | None = []
    for _ in range(limit):
        assert choices is not None
        script = Script(*choices)
        outcome = ControlledRuntime(script, **options).run("main", main())
        assert outcome.crash is None, outcome.crash
        yield outcome
        taken = outcome.choices
        assert len(taken) == len(script.sizes)
        while taken and taken[-1] + 1 == script.sizes[len(taken) - 1]:
            taken = taken[:-1]
        if not taken:
            return
        choices = [*taken[:-1], taken[-1] + 1]
    raise AssertionError("too many runs")
