"""The time, as drivers read it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.nt.time import TICK, tick_after
from kemu.wdk.wdm import (
    KeQueryInterruptTime,
    KeQueryInterruptTimePrecise,
    KeQueryPerformanceCounter,
    KeQuerySystemTime,
    KeQuerySystemTimePrecise,
    KeQueryTickCount,
    KeQueryTimeIncrement,
    KeQueryUnbiasedInterruptTime,
    KeWaitForSingleObject,
)

LATE = 10 * TICK + 1


@pytest.mark.rule("KE-TIMER-12")
def test_time_is_virtual_and_in_ticks_unless_it_is_asked_for_precisely() -> None:
    async def script(lab: Lab) -> list[Any]:
        await KeWaitForSingleObject(lab.event("Never"), Timeout=-LATE)
        return [
            await KeQuerySystemTime(),
            await KeQueryInterruptTime(),
            await KeQueryUnbiasedInterruptTime(),
            await KeQueryTickCount(),
            await KeQuerySystemTimePrecise(),
            await KeQueryInterruptTimePrecise(),
            await KeQueryPerformanceCounter(),
            KeQueryTimeIncrement(),
        ]

    ticks = 10 * TICK
    assert run(script).result == [ticks, ticks, ticks, 10, LATE, (LATE, LATE), (LATE, 10_000_000), 156_250]


@pytest.mark.parametrize(("time", "tick"), [(0, 0), (1, 1), (TICK, 1), (TICK + 1, 2)])
def test_the_tick_at_or_after_a_time(time: int, tick: int) -> None:
    assert tick_after(time) == tick * TICK


def test_time_may_pass_between_two_readings() -> None:
    async def script(lab: Lab) -> None:
        async def sleeps() -> None:
            await lab.sleep(1)

        async def reads() -> None:
            lab.note("read", [await KeQuerySystemTimePrecise(), await KeQuerySystemTimePrecise()])

        await lab.together(sleeps(), reads())

    seen = {tuple(one.note("read").value) for one in all_runs(script)}
    assert seen == {(0, 0), (0, 10_000_000), (10_000_000, 10_000_000)}


def test_a_loop_that_polls_the_time_ends_when_something_expires_and_is_a_finding_when_nothing_can() -> None:
    async def script(lab: Lab, sleeper: bool) -> None:
        async def polls() -> None:
            while await KeQuerySystemTime() < TICK:
                pass

        async def sleeps() -> None:
            await lab.sleep(1)

        await lab.together(*([sleeps(), polls()] if sleeper else [polls()]))

    assert run(lambda lab: script(lab, False), max_steps=200).code == "ke.step-limit"
