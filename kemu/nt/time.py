"""The time, as drivers read it: virtual, and in the resolution of the clock's ticks unless it is asked for precisely.

Time stands still while threads run, and goes on when the clock fires. So a loop that polls the time while nothing is to
expire never ends. The system time counts from the start of the run, which stands for 1601-01-01.
"""

from __future__ import annotations

from typing import Final

from kemu.nt.routine import routine
from kemu.runtime import TICKS_PER_SECOND, Operation, Thread

TICK: Final = 156_250
"""One tick of the system clock, 15.625 ms, in units of 100 ns (KE-TIMER-12)."""
TICKS_PER_MILLISECOND: Final = TICKS_PER_SECOND // 1000
"""Units of 100 ns in a millisecond."""


def tick_after(time: int) -> int:
    """The first clock tick at or after *time*."""
    return -(-time // TICK) * TICK


class ReadClock(Operation[int]):
    """Read the virtual time, in units of 100 ns."""

    __slots__ = ()
    kind = "read the clock"

    def perform(self, thread: Thread) -> int:
        return thread.runtime.clock.read(thread)


_READ: Final = ReadClock()


@routine("wdm", "VOID KeQuerySystemTime(_Out_ PLARGE_INTEGER CurrentTime)")
async def KeQuerySystemTime() -> int:
    """The system time at the last clock tick, in units of 100 ns. IRQL: any."""
    return await _READ // TICK * TICK


@routine("wdm", "VOID KeQuerySystemTimePrecise(_Out_ PLARGE_INTEGER CurrentTime)")
async def KeQuerySystemTimePrecise() -> int:
    """The system time, in units of 100 ns. IRQL: any."""
    return await _READ


@routine("wdm", "ULONGLONG KeQueryInterruptTime(VOID)")
async def KeQueryInterruptTime() -> int:
    """The time since the system started, at the last clock tick, in units of 100 ns. IRQL: any."""
    return await _READ // TICK * TICK


@routine("wdm", "ULONGLONG KeQueryInterruptTimePrecise(_Out_ PULONG64 QpcTimeStamp)")
async def KeQueryInterruptTimePrecise() -> tuple[int, int]:
    """The time since the system started, in units of 100 ns, and the performance counter then. IRQL: any."""
    now = await _READ
    return now, now


@routine("wdm", "ULONGLONG KeQueryUnbiasedInterruptTime(VOID)")
async def KeQueryUnbiasedInterruptTime() -> int:
    """As KeQueryInterruptTime: the emulated machine never sleeps. IRQL: any."""
    return await _READ // TICK * TICK


@routine("wdm", "VOID KeQueryTickCount(_Out_ PLARGE_INTEGER CurrentCount)")
async def KeQueryTickCount() -> int:
    """How many clock ticks there were; each is `KeQueryTimeIncrement` long. IRQL: any."""
    return await _READ // TICK


@routine("wdm", "ULONG KeQueryTimeIncrement(VOID)")
def KeQueryTimeIncrement() -> int:
    """The length of a clock tick in units of 100 ns: 156250. IRQL: any."""
    return TICK


@routine("wdm", "LARGE_INTEGER KeQueryPerformanceCounter(_Out_ PLARGE_INTEGER PerformanceFrequency)")
async def KeQueryPerformanceCounter() -> tuple[int, int]:
    """The performance counter, and how often it counts in a second: 10,000,000 times. IRQL: any."""
    return await _READ, TICKS_PER_SECOND
