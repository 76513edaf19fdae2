"""A small world to record: threads, an event, a mailbox and time, on the runtime and the kernel core alone."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

from kemu.log import capture
from kemu.log.recorder import Recorder
from kemu.log.trace import Trace
from kemu.nt.kthread import KThread
from kemu.runtime import ControlledRuntime, First, LogSink, Message, Observer, Oracle, Outcome, Runtime

Main = Callable[[], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Failed:
    code: str = "test-failure"
    signature: tuple[str, ...] = ("test-failure",)
    summary: str = "it failed"


class Small:
    """A program that runs *main* in a thread called ``main``."""

    name = "small.py::small[default]"
    identity = "0123456789abcdef"

    def __init__(self, main: Main) -> None:
        self.main = main
        self.failure: Failed | None = None

    def run(
        self,
        oracle: Oracle,
        observer: Observer | None = None,
        log: Callable[[Runtime], LogSink] | None = None,
    ) -> Outcome:
        runtime = ControlledRuntime(oracle, thread_class=KThread, observer=observer)
        if log is not None:
            runtime.log = log(runtime)
        runtime.conclude = lambda _: self.failure
        outcome = runtime.run("main", self.main())
        if outcome.crash is not None:
            raise outcome.crash
        return outcome


class Choices:
    """An oracle that takes these decisions and then the plain ones."""

    def __init__(self, *choices: int) -> None:
        self.left = list(reversed(choices))

    def begin(self) -> bool:
        return True

    def pick(self, n: int, point: object) -> int:
        return self.left.pop() if self.left else 0

    def choose(self, n: int, label: str) -> int:
        return self.left.pop() if self.left else 0


@dataclass(frozen=True, slots=True)
class Ping(Message):
    handler: ClassVar[str] = "ping"
    number: int


@dataclass
class Recorded:
    outcome: Outcome
    trace: Trace
    recorder: Recorder

    def of(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The events of that name that have these fields."""
        return [row for row in self.trace.events if row["ev"] == event and fields.items() <= row.items()]

    def one(self, event: str, **fields: object) -> dict[str, Any]:
        (row,) = self.of(event, **fields)
        return row

    def cause_of(self, row: dict[str, Any]) -> dict[str, Any]:
        cause: int = row["cause"]
        return self.trace.events[cause]


def record(main: Main, *choices: int) -> Recorded:
    """Record the run of *main* with these decisions, and plain ones after them."""
    oracle = Choices(*choices) if choices else First()
    return Recorded(*capture(Small(main), oracle))
