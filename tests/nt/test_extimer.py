"""Timers that the system allocates: expiring, cancelling, and above all deleting them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, orders, run

from kemu.errors import UsageError
from kemu.nt.kthread import current_kthread
from kemu.nt.time import TICK
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    EX_TIMER,
    EX_TIMER_HIGH_RESOLUTION,
    EX_TIMER_NO_WAKE,
    EX_TIMER_NOTIFICATION,
    EXT_DELETE_PARAMETERS,
    EXT_SET_PARAMETERS,
    ExAllocateTimer,
    ExCancelTimer,
    ExDeleteTimer,
    ExInitializeDeleteTimerParameters,
    ExInitializeSetTimerParameters,
    ExSetTimer,
    KeWaitForSingleObject,
)

SECOND = 10_000_000


async def allocate(
    callback: Callable[..., Awaitable[None]] | None, context: Any = None, attributes: int = 0
) -> EX_TIMER:
    timer = await ExAllocateTimer(callback, context, attributes)
    assert timer is not None
    return timer


def noting(lab: Lab, what: str = "callback") -> Callable[..., Awaitable[None]]:
    async def callback(Timer: EX_TIMER, Context: Any) -> None:
        lab.note(what, (Timer, Context, lab.now()))

    return callback


def deletion(lab: Lab) -> EXT_DELETE_PARAMETERS:
    """Parameters with a delete callback that notes its context."""
    parameters = EXT_DELETE_PARAMETERS()
    ExInitializeDeleteTimerParameters(parameters)

    async def deleted(Context: Any) -> None:
        lab.note("deleted", Context)

    parameters.DeleteCallback, parameters.DeleteContext = deleted, "context"
    return parameters


def test_a_callback_gets_timer_and_context_at_dispatch_level() -> None:
    async def script(lab: Lab) -> EX_TIMER:
        timer = await allocate(noting(lab), "context")
        assert not await ExSetTimer(timer, -SECOND, 0, None)
        await KeWaitForSingleObject(timer)
        await ExDeleteTimer(timer, True, True, None)
        return timer

    made = run(script)
    note = made.note("callback")
    assert (note.irql, note.thread, note.value) == (2, "dpc:callback", (made.result, "context", SECOND))


@pytest.mark.rule("KE-TIMER-01", "KE-WAIT-01")
@pytest.mark.parametrize(
    ("attributes", "again"),
    [(0, STATUS_TIMEOUT), (EX_TIMER_NOTIFICATION, STATUS_SUCCESS), (EX_TIMER_NO_WAKE, STATUS_TIMEOUT)],
)
def test_it_is_a_synchronization_timer_unless_it_is_allocated_as_a_notification_timer(
    attributes: int, again: int
) -> None:
    async def script(lab: Lab) -> Any:
        timer = await allocate(None, None, attributes)
        await ExSetTimer(timer, -SECOND, 0, None)
        await KeWaitForSingleObject(timer)
        return await KeWaitForSingleObject(timer, Timeout=0)

    assert run(script).result == again


@pytest.mark.rule("KE-TIMER-03")
@pytest.mark.parametrize(("period", "warns"), [(1000, True), (TICK, False), (SECOND, False), (864_000_000_001, True)])
def test_the_period_is_in_units_of_100_ns(period: int, warns: bool) -> None:
    async def script(lab: Lab) -> int:
        timer = await allocate(None)
        await ExSetTimer(timer, -SECOND, period, None)
        for _ in range(2):
            await KeWaitForSingleObject(timer)
        cancelled = await ExCancelTimer(timer, None), await ExCancelTimer(timer, None)
        assert cancelled == (True, False)
        return lab.now()

    made = run(script)
    assert made.warnings == (("ke.timer-units",) if warns else ())
    assert made.result == SECOND + max(period + -period % TICK, TICK)


@pytest.mark.rule("KE-TIMER-13")
def test_deleting_says_whether_it_cancelled_and_then_nothing_has_an_effect() -> None:
    async def script(lab: Lab, sets: bool, cancels: bool) -> Any:
        timer = await allocate(noting(lab))
        if sets:
            await ExSetTimer(timer, -SECOND, 0, None)
        first = await ExDeleteTimer(timer, cancels, False, None)
        again = await ExDeleteTimer(timer, cancels, False, None)
        after = await ExSetTimer(timer, -SECOND, 0, None), await ExCancelTimer(timer, None)
        return first, again, after

    def seen(sets: bool, cancels: bool) -> Any:
        one = run(lambda lab: script(lab, sets, cancels))
        return one.result, len(one.notes)

    nothing = (False, (False, False))
    assert seen(sets=True, cancels=True) == ((True, *nothing), 0)
    assert seen(sets=False, cancels=True) == ((False, *nothing), 0)
    # A timer that is not cancelled still expires.
    assert seen(sets=True, cancels=False) == ((False, *nothing), 1)


@pytest.mark.rule("KE-TIMER-13")
def test_a_periodic_timer_that_is_deleted_expires_at_most_once_more() -> None:
    async def script(lab: Lab) -> int:
        timer = await allocate(None)
        await ExSetTimer(timer, -SECOND, SECOND, None)
        await KeWaitForSingleObject(timer)
        await ExDeleteTimer(timer, False, False, None)
        before = timer.expiries
        await lab.sleep(10)
        return timer.expiries - before

    assert {one.result for one in all_runs(script)} == {1}


@pytest.mark.rule("KE-TIMER-13", "KE-TIMER-14", "KE-ORD-06")
@pytest.mark.parametrize("waits", [True, False])
def test_with_wait_a_running_callback_is_over_when_it_returns(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        async def callback(Timer: EX_TIMER, Context: Any) -> None:
            lab.note("in")
            await lab.step()
            # The pointer is good even when deletion has begun.
            await ExCancelTimer(Timer, None)
            lab.note("out")

        timer = await allocate(callback)
        await ExSetTimer(timer, -SECOND, 0, None)
        await KeWaitForSingleObject(timer)
        await ExDeleteTimer(timer, True, waits, deletion(lab))
        lab.note("returned")

    found = orders(all_runs(script))
    if waits:
        assert found == {("in", "out", "deleted", "returned")}
    else:
        assert found == {
            ("in", "out", "deleted", "returned"),
            ("returned", "in", "out", "deleted"),
            ("in", "returned", "out", "deleted"),
        }


@pytest.mark.rule("KE-TIMER-14")
@pytest.mark.parametrize("callback", [True, False])
@pytest.mark.parametrize("cancels", [True, False])
def test_the_delete_callback_is_called_once_when_nothing_is_left(callback: bool, cancels: bool) -> None:
    async def script(lab: Lab) -> None:
        timer = await allocate(noting(lab) if callback else None)
        await ExSetTimer(timer, -SECOND, 0, None)
        await ExDeleteTimer(timer, cancels, False, deletion(lab))
        lab.note("returned")

    plain = ("deleted", "returned") if cancels else ("returned", *(["callback"] if callback else []), "deleted")
    runs = all_runs(script)
    assert run(script).order == list(plain)
    assert {one.order.count("deleted") for one in runs} == {1}
    assert {one.order[-1] for one in runs} == ({"returned"} if cancels and not callback else {"deleted", "returned"})
    assert all(one.note("deleted").value == "context" for one in runs)


@pytest.mark.rule("KE-TIMER-13")
def test_waiting_needs_cancelling_and_is_impossible_in_the_callback() -> None:
    async def no_cancel(lab: Lab) -> None:
        await ExDeleteTimer(await allocate(None), False, True, None)

    assert run(no_cancel).code == "ke.timer-delete-wait"

    async def from_callback(lab: Lab, waits: bool) -> None:
        async def callback(Timer: EX_TIMER, Context: Any) -> None:
            await ExDeleteTimer(Timer, True, waits, None)

        await ExSetTimer(await allocate(callback), -SECOND, 0, None)

    assert run(lambda lab: from_callback(lab, True)).code == "ke.self-deadlock"
    assert run(lambda lab: from_callback(lab, False)).code is None


@pytest.mark.rule("KE-TIMER-15")
def test_attributes_that_exclude_each_other() -> None:
    async def both(lab: Lab) -> None:
        await allocate(None, None, EX_TIMER_HIGH_RESOLUTION | EX_TIMER_NO_WAKE)

    async def absolute(lab: Lab, due: int) -> None:
        await ExSetTimer(await allocate(None, None, EX_TIMER_HIGH_RESOLUTION), due, 0, None)

    async def unknown(lab: Lab) -> None:
        await allocate(None, None, 0x100)

    assert run(both).code == run(lambda lab: absolute(lab, SECOND)).code == "ke.timer-attributes"
    assert run(lambda lab: absolute(lab, -SECOND)).code is None
    with pytest.raises(UsageError, match="attributes 0x100"):
        run(unknown)


def test_parameters_have_to_be_initialised_and_a_period_cannot_be_negative() -> None:
    async def sets(lab: Lab, initialises: bool) -> None:
        parameters = EXT_SET_PARAMETERS()
        if initialises:
            ExInitializeSetTimerParameters(parameters)
        await ExSetTimer(await allocate(None), -1, 0, parameters)

    async def deletes(lab: Lab) -> None:
        await ExDeleteTimer(await allocate(None), True, False, EXT_DELETE_PARAMETERS())

    async def negative(lab: Lab) -> None:
        await ExSetTimer(await allocate(None), -1, -1, None)

    assert run(lambda lab: sets(lab, False)).code == run(deletes).code == "ke.uninitialised"
    assert run(lambda lab: sets(lab, True)).code is None
    with pytest.raises(UsageError, match="negative period"):
        run(negative)


@pytest.mark.rule("KE-TIMER-11")
@pytest.mark.parametrize("deletes", [True, False])
def test_an_unload_without_deleting_the_timer(deletes: bool) -> None:
    async def script(lab: Lab) -> None:
        async def unload(Flags: int) -> int:
            if deletes:
                await ExDeleteTimer(timer, True, True, None)
            return await type(driver.driver).Unload(driver.driver, Flags)  # type: ignore[attr-defined]

        driver = await lab.filter("D", "1", {}, FilterUnloadCallback=unload)
        current_kthread().actors.append(driver.driver_object.actor)
        timer = await allocate(None)
        current_kthread().actors.pop()
        await driver.unload()

    made = run(script)
    assert made.code == (None if deletes else "ke.timer-left")
    assert deletes or "EX_TIMER not deleted" in made.finding.detail


def test_an_allocation_may_fail() -> None:
    async def script(lab: Lab) -> bool:
        return await ExAllocateTimer(None, None, 0) is None

    assert {one.result for one in all_runs(script, low_resources=True)} == {True, False}


def test_the_callback_of_another_timer_may_wait_for_this_one() -> None:
    """It may not, because of its IRQL; but it is not told that it waits for itself."""

    async def script(lab: Lab) -> None:
        async def callback(Timer: EX_TIMER, Context: EX_TIMER) -> None:
            await ExDeleteTimer(Context, True, True, None)

        await ExSetTimer(await allocate(callback, await allocate(None)), -SECOND, 0, None)

    assert codes([run(script)]) == {"ke.irql"}


def test_a_timer_that_is_due_at_once_may_expire_before_the_call_returns() -> None:
    async def script(lab: Lab) -> None:
        timer = await allocate(noting(lab))
        await ExSetTimer(timer, -1, 0, None)
        lab.note("returned")

    assert ("callback", "returned") in orders(all_runs(script))
