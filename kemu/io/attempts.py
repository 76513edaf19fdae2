"""Requests that are tried as fast I/O and come again as IRPs: what drivers count of the two attempts (FLT-RACE-63).

A filter that counts requests where they come in counts such a one twice. That shows in its interlocked counters: one
that has grown by as much in both attempts, and was not taken back in between, has counted the request and not the
attempts.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.system import System, report
from kemu.runtime import Cell, Thread


class Attempt:
    """One request of a program: how far counters of drivers have moved in each attempt."""

    def __init__(self) -> None:
        self.is_second = False
        self.moved: tuple[dict[Cell, int], dict[Cell, int]] = ({}, {})
        self.drivers: dict[Cell, DriverActor] = {}

    def again(self) -> None:
        """Fast I/O was refused: the request comes as an IRP now."""
        self.is_second = True

    def judge(self) -> None:
        """The request is over: report what was counted twice."""
        first, second = self.moved
        for counter, by in first.items():
            if by and second.get(counter) == by:
                who = self.drivers[counter].driver
                report(
                    "double-count",
                    f"{who} has changed {counter.label} by {by} for a request that came as fast I/O, and by {by} again "
                    "for the IRP that it came back as",
                )


class Attempts:
    """The requests of all threads that are tried as fast I/O first."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._current: dict[Thread, Attempt] = {}

    @contextmanager
    def of_one_request(self, thread: Thread) -> Generator[Attempt]:
        """Watch the counters while *thread* tries a request, which it may have to try again."""
        outer = self._current.get(thread)
        attempt = self._current[thread] = Attempt()
        self._system.attempts = self
        try:
            yield attempt
        finally:
            if outer is None:
                del self._current[thread]
            else:
                self._current[thread] = outer
        if attempt.is_second:
            attempt.judge()

    def counted(self, thread: Thread, counter: Cell, old: object, new: object) -> None:
        """*thread* has changed *counter*, inside its step."""
        attempt = self._current.get(thread)
        driver = current_driver()
        if attempt is not None and driver is not None and isinstance(old, int) and isinstance(new, int):
            moved = attempt.moved[attempt.is_second]
            moved[counter] = moved.get(counter, 0) + new - old
            attempt.drivers[counter] = driver
