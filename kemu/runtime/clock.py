"""Virtual time.

Time is counted in units of 100 ns, as in Windows. It stands still while threads run and jumps when the clock
is scheduled: the clock is a party of the schedule like a thread, ranked last, and firing always takes the
earliest deadline. So a timeout may expire early, before threads that could still run, but never out of order.

In footprints the clock is one cell: firing writes it; reading the time, setting and cancelling a deadline
read it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from kemu.runtime.footprint import Cell
from kemu.runtime.thread import Thread

if TYPE_CHECKING:
    from kemu.runtime.core import Runtime

TICKS_PER_SECOND = 10_000_000


class Timer(Cell):
    """One deadline. `expire` is called by the clock, in the clock's own thread of the schedule.

    One that is *lazy* expires only when no thread can go on, and does not keep a run from coming to its end. A timer
    that sets itself again and again would otherwise make every run endless: at each step it might expire once more.
    """

    __slots__ = ("armed", "clock", "due", "expire", "generation", "lazy")

    def __init__(self, clock: Clock, creator: Thread, label: str, expire: Callable[[], None]) -> None:
        super().__init__(creator, label)
        self.clock = clock
        self.expire = expire
        self.due = 0
        self.generation = 0
        self.armed = False
        self.lazy = False

    def arm(self, due: int, *, lazy: bool = False) -> None:
        """Set the deadline, in ticks of virtual time; a deadline set before is forgotten."""
        if self.armed:
            self.cancel()
        thread = self._touch()
        if thread is not None:
            thread.release(self)
        self.due = due
        self.generation += 1
        self.lazy = lazy
        self.armed = True
        self.clock.insert(self)

    def cancel(self) -> bool:
        """Forget the deadline; return whether there was one."""
        self._touch()
        if not self.armed:
            return False
        self.armed = False
        self.clock.forget(self)
        return True

    def _touch(self) -> Thread | None:
        """Record that the running thread, which is returned, sets or cancels the deadline."""
        runtime = self.creator.runtime
        thread = runtime.running
        if thread is None or runtime.dead:
            return None
        thread.read(self.clock.thread(runtime))
        thread.write(self)
        return thread


Entry = tuple[int, tuple[int, ...], int, Timer]
"""A deadline in a heap: when, and what decides between two at the same time; the timer itself is never compared."""


class Clock:
    """The virtual clock of one run."""

    __slots__ = ("_heap", "_lazy", "armed", "now", "ticker")

    def __init__(self) -> None:
        self.armed = 0
        """How many deadlines are set that are not lazy; the clock can be scheduled while there is one."""
        self.ticker: Thread | None = None
        """The pseudo-thread in whose name time passes, once somebody looked at the clock."""
        self.now = 0
        """The time, for those who are no part of the run, such as logs. See `read`."""
        self._heap: list[Entry] = []
        self._lazy: list[Entry] = []

    def read(self, thread: Thread) -> int:
        """The time, as *thread* observes it: to be used for everything that a driver can see."""
        thread.read(self.thread(thread.runtime))
        return self.now

    def insert(self, timer: Timer) -> None:
        """Add an armed timer."""
        if not timer.lazy:
            self.armed += 1
        heappush(self._lazy if timer.lazy else self._heap, (timer.due, timer.name, timer.generation, timer))

    def forget(self, timer: Timer) -> None:
        """Note that an armed timer was cancelled; its entry is dropped when it comes up."""
        if not timer.lazy:
            self.armed -= 1

    def next_due(self) -> int | None:
        """The earliest deadline that is not lazy, or None."""
        return _first_due(self._heap)

    @property
    def dormant(self) -> bool:
        """Whether there is a lazy deadline."""
        return _first_due(self._lazy) is not None

    def thread(self, runtime: Runtime) -> Thread:
        """The pseudo-thread and clock's cell. It sorts after all threads and is never scheduled itself."""
        if self.ticker is None:
            coroutine = _nothing()
            self.ticker = ticker = Thread(runtime, None, "clock", coroutine)
            coroutine.close()
            ticker.path = (1,)
            ticker.hash = 2
            if runtime.threads:
                # For the threads that are started when something expires.
                ticker.context = runtime.threads[0].context
            if runtime.observer is not None:
                ticker.footprint = []
        return self.ticker

    def fire(self, runtime: Runtime, *, idle: bool = False) -> None:
        """Advance to the earliest deadline and expire its timer; when the run is *idle*, it may be a lazy one."""
        heap = self._heap
        first = self.next_due()
        if idle and self.dormant and (first is None or self._lazy[0] < heap[0]):
            heap = self._lazy
        elif first is None:
            return
        due, _, _, timer = heappop(heap)
        timer.armed = False
        if not timer.lazy:
            self.armed -= 1
        self.now = max(self.now, due)
        clock = self.thread(runtime)
        clock.steps += 1
        clock.write(clock)
        clock.write(timer)
        clock.begin(timer)
        timer.expire()

    def clear(self) -> None:
        """Forget everything about time, at the end of a run."""
        self.armed = 0
        self._heap.clear()
        self._lazy.clear()
        if self.ticker is not None:
            self.ticker.creator = None  # type: ignore[assignment]
            self.ticker = None


def _first_due(heap: list[Entry]) -> int | None:
    # Entries of timers that were cancelled or set anew stay behind until they come up.
    while heap and not (heap[0][3].armed and heap[0][3].generation == heap[0][2]):
        heappop(heap)
    return heap[0][0] if heap else None


async def _nothing() -> None:
    """The code of a thread that is never scheduled."""
