"""Timers: setting, expiring, cancelling, their DPCs, and what must not be done to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, orders, run

from kemu.errors import UsageError
from kemu.nt.bugcheck import (
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    KERNEL_SECURITY_CHECK_FAILURE,
    TIMER_OR_DPC_INVALID,
    BugCheck,
)
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.system import Options
from kemu.nt.time import TICK
from kemu.runtime.live import LiveRuntime
from kemu.scenario.world import World
from kemu.wdk.ntddk import KeEnterCriticalRegion
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    KDPC,
    KTIMER,
    KeCancelTimer,
    KeFlushQueuedDpcs,
    KeInitializeDpc,
    KeInitializeTimer,
    KeInitializeTimerEx,
    KeInsertQueueDpc,
    KeQuerySystemTimePrecise,
    KeReadStateTimer,
    KeSetCoalescableTimer,
    KeSetEvent,
    KeSetTimer,
    KeSetTimerEx,
    KeWaitForSingleObject,
    NotificationTimer,
    SynchronizationTimer,
)

SECOND = 10_000_000


def timer(kind: int = NotificationTimer, label: str = "Timer") -> KTIMER:
    """An initialised timer."""
    made = KTIMER(label)
    KeInitializeTimerEx(made, kind)
    return made


def dpc(routine: Callable[..., Awaitable[None]], context: Any = None) -> KDPC:
    """An initialised DPC."""
    made = KDPC("Dpc")
    KeInitializeDpc(made, routine, context)
    return made


def noting(lab: Lab, what: str = "dpc") -> Callable[..., Awaitable[None]]:
    """A DPC routine that notes *what* and the time."""

    async def routine(*arguments: Any) -> None:
        lab.note(what, lab.now())

    return routine


@pytest.mark.rule("KE-TIMER-01")
def test_a_new_timer_is_not_signalled_and_not_set() -> None:
    async def script(lab: Lab) -> Any:
        one = KTIMER("Timer")
        KeInitializeTimer(one)
        assert (NotificationTimer, SynchronizationTimer) == (0, 1)
        return await KeReadStateTimer(one), await KeCancelTimer(one), one.synchronization

    assert run(script).result == (False, False, False)


@pytest.mark.rule("KE-TIMER-01", "KE-WAIT-13")
@pytest.mark.parametrize(("kind", "stays"), [(NotificationTimer, True), (SynchronizationTimer, False)])
def test_a_notification_timer_stays_signalled_and_a_synchronization_timer_releases_one_wait(
    kind: int, stays: bool
) -> None:
    async def script(lab: Lab) -> Any:
        one = timer(kind)
        await KeSetTimer(one, -SECOND, None)
        first = await KeWaitForSingleObject(one)
        return first, await KeReadStateTimer(one), await KeWaitForSingleObject(one, Timeout=0)

    again = STATUS_SUCCESS if stays else STATUS_TIMEOUT
    assert {one.result for one in all_runs(script)} == {(STATUS_SUCCESS, stays, again)}


@pytest.mark.rule("KE-TIMER-02", "KE-TIMER-12")
@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (-SECOND, SECOND),  # a second is 64 ticks
        (-SECOND - 1, SECOND + TICK),
        (-1, TICK),
        (2 * SECOND, 2 * SECOND),
        (2 * SECOND + 1, 2 * SECOND + TICK),
        (0, 0),
    ],
)
def test_a_timer_expires_at_the_first_tick_at_or_after_its_due_time(due: int, expected: int) -> None:
    async def script(lab: Lab) -> int:
        one = timer()
        await KeSetTimer(one, due, None)
        await KeWaitForSingleObject(one)
        return await KeQuerySystemTimePrecise()

    assert run(script).result == expected


@pytest.mark.rule("KE-TIMER-02")
def test_an_absolute_time_that_is_over_expires_at_once() -> None:
    async def script(lab: Lab) -> int:
        await lab.sleep(3)
        one = timer()
        await KeSetTimer(one, SECOND, None)
        await KeWaitForSingleObject(one)
        return lab.now()

    assert run(script).result == 3 * SECOND


@pytest.mark.rule("KE-TIMER-02")
def test_setting_again_forgets_the_earlier_setting_and_its_dpc_and_clears_the_signal() -> None:
    async def script(lab: Lab) -> Any:
        one = timer()
        first = await KeSetTimer(one, -SECOND, dpc(noting(lab, "first")))
        second = await KeSetTimer(one, -2 * SECOND, dpc(noting(lab, "second")))
        await KeWaitForSingleObject(one)
        third = await KeSetTimer(one, -SECOND, None)
        return first, second, third, await KeReadStateTimer(one)

    plain = run(script)
    assert plain.result == (False, True, False, False)
    assert [(note.what, note.value) for note in plain.notes] == [("second", 2 * SECOND)]
    # Where the first one expires before it is set again, its DPC runs.
    assert {"first" in one.order for one in all_runs(script)} == {True, False}


@pytest.mark.rule("KE-TIMER-04")
def test_expiry_signals_first_and_queues_the_dpc_then() -> None:
    async def script(lab: Lab) -> None:
        one = timer()

        async def routine(Dpc: KDPC, Context: Any, *arguments: Any) -> None:
            lab.note("dpc", (Context, await KeReadStateTimer(one), one.in_queue))

        await KeSetTimer(one, -SECOND, dpc(routine, "context"))
        await KeWaitForSingleObject(one)
        lab.note("waited")

    runs = all_runs(script)
    assert orders(runs) == {("dpc", "waited"), ("waited", "dpc")}
    assert {one.note("dpc").value for one in runs} == {("context", True, False)}
    assert {one.note("dpc").irql for one in runs} == {2}


@pytest.mark.rule("KE-TIMER-04", "KE-TIMER-05")
def test_a_periodic_timer_expires_again_and_again_until_it_is_cancelled() -> None:
    async def script(lab: Lab) -> Any:
        one = timer(SynchronizationTimer)
        await KeSetTimerEx(one, -SECOND, 500, dpc(noting(lab)))
        times: list[int] = []
        for _ in range(5):
            await KeWaitForSingleObject(one)
            times.append(lab.now())
        cancelled = [await KeCancelTimer(one), await KeCancelTimer(one)]
        await KeFlushQueuedDpcs()
        return times, cancelled

    plain = run(script)
    assert plain.result == ([SECOND, SECOND * 3 // 2, 2 * SECOND, SECOND * 5 // 2, 3 * SECOND], [True, False])
    assert len(plain.notes) == 5
    # A thread that is slow misses expiries, and the timer is in the queue all the time.
    runs = all_runs(script, bound=1)
    assert {tuple(one.result[1]) for one in runs} == {(True, False)}
    assert codes(runs) == {None}


@pytest.mark.rule("KE-TIMER-07")
def test_the_dpc_of_a_periodic_timer_can_run_twice_at_once() -> None:
    async def script(lab: Lab) -> None:
        one = timer()

        async def routine(*arguments: Any) -> None:
            lab.note("in")
            await lab.step()
            lab.note("out")

        await KeSetTimerEx(one, -SECOND, 1000, dpc(routine))
        await lab.sleep(2)
        await KeCancelTimer(one)

    assert any(one.order[:4] == ["in", "in", "out", "out"] for one in all_runs(script, unseen=True))


@pytest.mark.rule("KE-TIMER-05", "KE-RACE-02")
def test_what_cancelling_says() -> None:
    async def script(lab: Lab) -> bool:
        one = timer()
        await KeSetTimer(one, -SECOND, dpc(noting(lab)))
        lab.note("cancelled") if await KeCancelTimer(one) else lab.note("too late")
        return await KeReadStateTimer(one)

    assert {(tuple(sorted(one.order)), one.result) for one in all_runs(script)} == {
        (("cancelled",), False),
        (("dpc", "too late"), True),
    }
    assert ("too late", "dpc") in orders(all_runs(script))


@pytest.mark.rule("KE-TIMER-03")
@pytest.mark.parametrize(
    ("period", "warns"), [(1, True), (15, True), (16, False), (86_400_000, False), (86_400_001, True)]
)
def test_a_period_that_is_hardly_meant_in_milliseconds(period: int, warns: bool) -> None:
    async def script(lab: Lab) -> None:
        one = timer()
        await KeSetTimerEx(one, -SECOND, period, None)
        await KeCancelTimer(one)

    made = run(script)
    assert (made.code, made.warnings) == (None, ("ke.timer-units",) if warns else ())


def test_negative_periods_and_delays_are_refused() -> None:
    async def script(lab: Lab, period: int, delay: int) -> None:
        await KeSetCoalescableTimer(timer(), -SECOND, period, delay, None)

    for period, delay in ((-1, 0), (0, -1)):
        with pytest.raises(UsageError, match="negative period or delay"):
            run(lambda lab, period=period, delay=delay: script(lab, period, delay))

    async def wrong(lab: Lab) -> None:
        timer(2)

    with pytest.raises(UsageError, match="KeInitializeTimerEx with type 2"):
        run(wrong)


@pytest.mark.rule("KE-TIMER-12")
@pytest.mark.parametrize(
    ("due", "expected"),
    [
        # Relative: a tick early, on time, or late; absolute: never early; what is shorter than a tick: perhaps at once.
        (-SECOND, {SECOND - TICK, SECOND, SECOND + TICK}),
        (SECOND, {SECOND, SECOND + TICK}),
        (-10, {0, TICK, 2 * TICK}),
    ],
)
def test_where_the_accuracy_is_explored_a_timer_may_be_a_tick_off(due: int, expected: set[int]) -> None:
    async def script(lab: Lab) -> int:
        one = timer()
        await KeSetTimer(one, due, None)
        await KeWaitForSingleObject(one)
        return lab.now()

    assert {one.result for one in all_runs(script, timer_jitter=True)} == expected
    assert len({one.result for one in all_runs(script)}) == 1


def test_a_coalescable_timer_may_be_late_by_its_tolerance() -> None:
    async def script(lab: Lab) -> int:
        one = timer()
        await KeSetCoalescableTimer(one, -SECOND, 0, 500, None)
        await KeWaitForSingleObject(one)
        return lab.now()

    assert {one.result for one in all_runs(script, timer_jitter=True)} == {SECOND - TICK, SECOND, SECOND * 3 // 2}
    assert run(script).result == SECOND


@pytest.mark.rule("KE-TIMER-12", "KE-WORK-15")
def test_a_timer_that_is_due_within_a_tick_may_expire_before_the_call_returns() -> None:
    async def script(lab: Lab, due: int) -> None:
        one = timer()
        await KeSetTimer(one, due, dpc(noting(lab)))
        lab.note("returned")

    assert ("dpc", "returned") in orders(all_runs(lambda lab: script(lab, -10)))
    assert orders(all_runs(lambda lab: script(lab, -SECOND))) == {("returned", "dpc")}


@pytest.mark.rule("KE-TIMER-09")
def test_the_dpc_of_a_timer_is_not_queued_by_the_driver_as_well() -> None:
    async def script(lab: Lab, shared: bool) -> None:
        one, two = dpc(noting(lab)), dpc(noting(lab))
        alarm = timer()
        await KeSetTimer(alarm, -SECOND, one)
        await KeInsertQueueDpc(one if shared else two, None, None)
        await KeCancelTimer(alarm)

    assert run(lambda lab: script(lab, True)).warnings == ("ke.timer-dpc-shared",)
    assert run(lambda lab: script(lab, False)).warnings == ()


@pytest.mark.rule("KE-APC-08")
def test_a_timer_dpc_that_changes_the_apc_count() -> None:
    async def script(lab: Lab) -> None:
        async def routine(*arguments: Any) -> None:
            thread = current_kthread()
            thread.irql = 0
            KeEnterCriticalRegion()
            thread.irql = 2

        await KeSetTimer(timer(), -SECOND, dpc(routine))

    found = run(script).finding
    assert found.verifier is not None
    assert (found.verifier.code, found.verifier.parameters[0]) == (TIMER_OR_DPC_INVALID, 5)


@pytest.mark.rule("KE-TIMER-10")
def test_memory_that_is_freed_with_an_active_timer_in_it() -> None:
    async def script(lab: Lab, cancels: bool) -> Any:
        one = timer()
        await KeSetTimer(one, -SECOND, None)
        if cancels:
            await KeCancelTimer(one)
        return one.still_active()

    left = run(lambda lab: script(lab, False)).result
    assert (left.code, left.verifier) == ("ke.timer-freed", BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x15,)))
    assert run(lambda lab: script(lab, True)).result is None


@pytest.mark.rule("KE-TIMER-10")
def test_a_timer_that_expires_in_freed_memory() -> None:
    async def script(lab: Lab) -> None:
        one = timer()
        await KeSetTimer(one, -SECOND, None)
        lab.system.freed[one] = "which is gone"

    found = run(script).finding
    assert found.code == "ke.timer-freed"
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters) == (KERNEL_SECURITY_CHECK_FAILURE, (3,))


@pytest.mark.rule("KE-TIMER-06")
def test_memory_that_is_freed_while_the_timers_dpc_is_queued_or_running() -> None:
    async def script(lab: Lab, flushes: bool) -> Any:
        one = timer()

        async def routine(*arguments: Any) -> None:
            await lab.step()

        await KeSetTimer(one, -SECOND, dpc(routine))
        await KeWaitForSingleObject(one)
        if flushes:
            await KeFlushQueuedDpcs()
        left = one.still_active()
        return None if left is None else left.code

    assert {one.result for one in all_runs(lambda lab: script(lab, False))} == {None, "ke.timer-dpc-race"}
    assert {one.result for one in all_runs(lambda lab: script(lab, True))} == {None}


@pytest.mark.rule("KE-TIMER-08")
@pytest.mark.parametrize(("period", "code"), [(0, None), (1000, "ke.timer-free-periodic")])
def test_its_own_dpc_may_free_a_timer_that_expires_once_but_not_a_periodic_one(period: int, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        one = timer()

        async def routine(*arguments: Any) -> None:
            left = one.still_active()
            lab.note("free", None if left is None else left.code)

        await KeSetTimerEx(one, -SECOND, period, dpc(routine))
        await KeWaitForSingleObject(one)
        await KeCancelTimer(one)

    assert {note.value for one in all_runs(script) for note in one.notes} >= {code}
    assert run(script).notes[0].value in {code, None}


@pytest.mark.rule("KE-TIMER-11", "KE-UNLOAD-03")
@pytest.mark.parametrize("cancels", [True, False])
def test_an_unload_with_a_timer_set(cancels: bool) -> None:
    async def script(lab: Lab) -> None:
        one = timer()

        async def unload(Flags: int) -> int:
            if cancels:
                await KeCancelTimer(one)
            return await type(driver.driver).Unload(driver.driver, Flags)  # type: ignore[attr-defined]

        driver = await lab.filter("D", "1", {}, FilterUnloadCallback=unload)
        current_kthread().actors.append(driver.driver_object.actor)
        await KeSetTimerEx(one, -SECOND, 1000, None)
        current_kthread().actors.pop()
        await driver.unload()

    made = run(script)
    assert made.code == (None if cancels else "ke.timer-left")
    if not cancels:
        assert made.finding.detail == "D was unloaded and left Timer set behind"
        assert made.finding.verifier is not None
        assert made.finding.verifier.parameters == (0,)


@pytest.mark.rule("KE-TIMER-11", "KE-TIMER-17")
def test_a_dpc_of_a_driver_that_is_gone() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        current_kthread().actors.append(driver.driver_object.actor)
        one = dpc(noting(lab))
        current_kthread().actors.pop()
        await KeSetTimer(timer(), -SECOND, one)
        driver.driver_object.loaded = False

    found = run(script).finding
    assert (found.code, found.bug_check is not None and found.bug_check.code) == ("ke.unload-running", 0xD4)


def test_a_timer_that_was_not_initialised_and_one_that_is_initialised_while_it_is_set() -> None:
    async def raw(lab: Lab, call: Callable[[KTIMER], Awaitable[Any]]) -> None:
        await call(KTIMER("Raw"))

    calls: list[Callable[[KTIMER], Awaitable[Any]]] = [
        lambda one: KeSetTimer(one, -1, None),
        KeCancelTimer,
        KeReadStateTimer,
        KeWaitForSingleObject,
    ]
    for call in calls:
        assert run(lambda lab, call=call: raw(lab, call)).code == "ke.uninitialised"

    async def again(lab: Lab, cancels: bool) -> None:
        one = timer()
        await KeSetTimer(one, -SECOND, None)
        if cancels:
            await KeCancelTimer(one)
        KeInitializeTimer(one)

    assert run(lambda lab: again(lab, False)).code == "ke.timer-reinitialised"
    assert run(lambda lab: again(lab, True)).code is None

    async def raw_dpc(lab: Lab) -> None:
        await KeSetTimer(timer(), -SECOND, KDPC("Raw"))

    assert run(raw_dpc).code == "ke.uninitialised"


# Time that goes on although nobody waits for it.


def test_a_periodic_timer_that_is_never_cancelled_does_not_make_a_run_endless() -> None:
    def script_of(waits: bool) -> Script:
        async def script(lab: Lab) -> None:
            await KeSetTimerEx(timer(), -SECOND, 1000, dpc(noting(lab)))
            if waits:
                await KeWaitForSingleObject(lab.event("Never"))

        return script

    # Two expiries while anything could go on; a hundred more for somebody who waits.
    assert len(run(script_of(False)).notes) == 2
    stuck = run(script_of(True))
    assert (stuck.code, len(stuck.notes)) == ("ke.hang", 102)


def test_a_periodic_timer_and_a_time_out_expire_in_the_order_of_time() -> None:
    async def script(lab: Lab) -> int:
        one, never = timer(), lab.event("Never")
        await KeSetTimerEx(one, -SECOND, 1000, dpc(noting(lab)))
        assert await KeWaitForSingleObject(never, Timeout=-6 * SECOND - 1) == STATUS_TIMEOUT
        await KeCancelTimer(one)
        return len(lab.notes)

    assert run(script).result == 6


def test_a_service_thread_that_waits_counts_as_somebody_who_waits() -> None:
    async def script(lab: Lab) -> None:
        one = timer()
        count = 0

        async def routine(*arguments: Any) -> None:
            nonlocal count
            count += 1
            if count == 6:
                await KeSetEvent(event)

        event = lab.event("Six")

        async def serves() -> None:
            await KeWaitForSingleObject(event)
            lab.note("served")
            await KeCancelTimer(one)

        lab.runtime.spawn("service", serves(), service=True)
        await KeSetTimerEx(one, -SECOND, 1000, dpc(routine))

    assert run(script).order == ["served"]


def test_a_limit_of_steps_that_is_reached_while_only_time_can_go_on() -> None:
    async def script(lab: Lab) -> None:
        await KeSetTimerEx(timer(), -SECOND, 1000, None)
        await KeWaitForSingleObject(lab.event("Never"))

    assert run(script, max_steps=50).code == "ke.step-limit"


@pytest.mark.trio
async def test_a_periodic_timer_live(autojump_clock: object) -> None:
    """On an event loop's clock it goes on by itself, and after so many expiries it lets the run end."""
    seen: list[int] = []
    runtime = LiveRuntime(thread_class=KThread)

    async def main() -> None:
        World(runtime, Options())
        one = timer()

        async def routine(*arguments: Any) -> None:
            seen.append(1)

        await KeSetTimerEx(one, -SECOND, 1000, dpc(routine))
        await KeWaitForSingleObject(one)

    outcome = await runtime.run("script", main())
    assert (outcome.crash, outcome.end, len(seen)) == (None, "finished", 102)
