"""Virtual time.

Time is counted in units of 100 ns, as in Windows. It stands still while threads run and jumps when the clock is
scheduled: the clock is a party of the schedule like a thread, ranked last, and firing always takes the earliest
deadline. So a timeout may expire early, before threads that could still run, but never out of order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from kemu.runtime.footprint import Cell

if TYPE_CHECKING:
    from kemu.runtime.core import Runtime
    from kemu.runtime.thread import Thread

TICKS_PER_SECOND = 10_000_000


class Timer(Cell):
    """One deadline. `expire` is called by the clock, in the clock's own thread of the schedule."""

    __slots__ = ("armed", "clock", "due", "expire", "generation")

    def __init__(self, clock: Clock, creator: Thread, label: str, expire: Callable[[], None]) -> None:
        super().__init__(creator, label)
        self.clock = clock
        self.expire = expire
        self.due = 0
        self.generation = 0
        self.armed = False

    def arm(self, due: int) -> None:
        """Set the deadline, in ticks of virtual time; a deadline set before is forgotten."""
        if self.armed:
            self.cancel()
        self.due = due
        self.generation += 1
        self.armed = True
        self.clock.insert(self)

    def cancel(self) -> bool:
        """Forget the deadline; return whether there was one."""
        if not self.armed:
            return False
        self.armed = False
        self.clock.forget()
        return True


class Clock:
    """The virtual clock of one run."""

    __slots__ = ("_heap", "_thread", "armed", "now")

    def __init__(self) -> None:
        self.now = 0
        self.armed = 0
        self._heap: list[tuple[int, tuple[int, ...], int, Timer]] = []
        self._thread: Thread | None = None

    def insert(self, timer: Timer) -> None:
        """Add an armed timer."""
        self.armed += 1
        heappush(self._heap, (timer.due, timer.name, timer.generation, timer))

    def forget(self) -> None:
        """Note that an armed timer was cancelled; its entry is dropped when it comes up."""
        self.armed -= 1

    def next_due(self) -> int | None:
        """The earliest deadline, or None."""
        heap = self._heap
        # Entries of timers that were cancelled or set anew stay behind until they come up.
        while heap and not (heap[0][3].armed and heap[0][3].generation == heap[0][2]):
            heappop(heap)
        return heap[0][0] if heap else None

    def thread(self, runtime: Runtime) -> Thread:
        """The pseudo-thread in whose name time passes. It sorts after all threads and is never scheduled itself."""
        if self._thread is None:
            from kemu.runtime.thread import Thread, current

            clock = Thread(runtime, None, "clock", _nothing())
            clock.coroutine.close()
            clock.path = (1,)
            clock.context = copy_context()
            clock.context.run(current.set, clock)
            self._thread = clock
        return self._thread

    def fire(self, runtime: Runtime) -> None:
        """Advance to the earliest deadline and expire its timer."""
        if self.next_due() is None:
            return
        due, _, _, timer = heappop(self._heap)
        timer.armed = False
        self.armed -= 1
        self.now = max(self.now, due)
        clock = self.thread(runtime)
        clock.steps += 1
        clock.write(clock)
        clock.write(timer)
        clock.context.run(timer.expire)


async def _nothing() -> None:
    pass
