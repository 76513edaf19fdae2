"""Events and waiting for them: states, timeouts in virtual time, who is released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    FAST_MUTEX,
    KEVENT,
    KSPIN_LOCK,
    NT_SUCCESS,
    Executive,
    KeAcquireSpinLock,
    KeClearEvent,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeResetEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    SynchronizationEvent,
)

SECOND = 10_000_000


def made(kind: int = NotificationEvent, state: bool = False) -> KEVENT:
    event = KEVENT("event")
    KeInitializeEvent(event, kind, state)
    return event


@pytest.mark.rule("KE-EVENT-01", "KE-WAIT-13")
@pytest.mark.parametrize(("kind", "released"), [(NotificationEvent, 3), (SynchronizationEvent, 1)])
def test_setting_releases_all_waiters_of_a_notification_event_and_one_of_a_synchronization_event(
    kind: int, released: int
) -> None:
    async def script(lab: Lab) -> None:
        event = made(kind)

        async def waiter() -> None:
            await KeWaitForSingleObject(event)
            lab.note("released")

        async def setter() -> None:
            await KeSetEvent(event)

        await lab.together(waiter(), waiter(), waiter(), setter())

    for one in all_runs(script, bound=1):
        assert len(one.order) == released
        assert one.code == (None if released == 3 else "ke.hang")


@pytest.mark.rule("KE-WAIT-14")
def test_which_waiter_is_released_is_left_open() -> None:
    async def script(lab: Lab) -> None:
        event = made(SynchronizationEvent)
        asleep = made()

        async def waiter(number: int) -> None:
            if number == 1:
                await KeSetEvent(asleep)
            await KeWaitForSingleObject(event)
            lab.note(f"waiter {number}")
            await KeSetEvent(event)

        async def setter() -> None:
            await KeWaitForSingleObject(asleep)
            await KeSetEvent(event)

        await lab.together(waiter(0), waiter(1), setter())

    assert {tuple(one.order) for one in all_runs(script, bound=1)} == {
        ("waiter 0", "waiter 1"),
        ("waiter 1", "waiter 0"),
    }


@pytest.mark.rule("KE-EVENT-01")
@pytest.mark.parametrize(("kind", "statuses"), [
    (NotificationEvent, [STATUS_SUCCESS, STATUS_SUCCESS]),
    (SynchronizationEvent, [STATUS_SUCCESS, STATUS_TIMEOUT]),
])  # fmt: skip
def test_a_set_without_waiters_stays_and_sets_do_not_add_up(kind: int, statuses: list[int]) -> None:
    async def script(lab: Lab) -> list[int]:
        event = made(kind)
        await KeSetEvent(event)
        await KeSetEvent(event)
        return [await KeWaitForSingleObject(event, Executive, KernelMode, False, 0) for _ in range(2)]

    assert run(script).result == statuses


@pytest.mark.rule("KE-EVENT-02")
def test_setting_and_resetting_return_the_previous_state_and_clearing_nothing() -> None:
    async def script(lab: Lab) -> list[object]:
        event = made(state=True)
        return [
            await KeResetEvent(event),
            await KeResetEvent(event),
            await KeSetEvent(event),
            await KeSetEvent(event),
            await KeClearEvent(event),  # type: ignore[func-returns-value]
            await KeSetEvent(event),
        ]

    assert run(script).result == [1, 0, 0, 1, None, 0]


@pytest.mark.rule("KE-WAIT-02")
def test_an_event_must_be_initialised_before_any_use() -> None:
    for use in (KeSetEvent, KeClearEvent, KeResetEvent, KeWaitForSingleObject):

        async def script(lab: Lab) -> None:
            await use(KEVENT("raw"))  # noqa: B023

        one = run(script)
        assert one.code == "ke.uninitialised"
        assert use.__name__ in one.finding.detail
        assert "raw" in one.finding.detail


@pytest.mark.rule("KE-EVENT-06")
def test_an_event_may_be_initialised_again_only_while_nobody_waits_for_it() -> None:
    async def script(lab: Lab) -> None:
        event = made()

        async def waiter() -> None:
            await KeWaitForSingleObject(event, Executive, KernelMode, False, -SECOND)

        async def careless() -> None:
            await lab.step()
            KeInitializeEvent(event, NotificationEvent, True)

        await lab.together(waiter(), careless())

    runs = all_runs(script)
    assert codes(runs) == {None, "ke.event-reinitialised"}
    failed = next(one for one in runs if one.code)
    assert failed.finding.bug_check is not None
    assert (failed.finding.bug_check.code, failed.finding.bug_check.parameters) == (0x139, (3,))


@pytest.mark.rule("KE-WAIT-03")
@pytest.mark.parametrize(
    ("timeout", "waited"),
    [(0, 0), (-1, 1), (-3 * SECOND, 3 * SECOND), (7 * SECOND, 5 * SECOND), (SECOND, 0)],
    ids=["poll", "one tick", "relative", "absolute", "absolute and past"],
)
def test_a_timeout_is_relative_or_absolute_and_counts_ticks_of_virtual_time(timeout: int, waited: int) -> None:
    async def script(lab: Lab) -> tuple[int, int]:
        await lab.sleep(2)
        event = made()
        before = lab.now()
        status = await KeWaitForSingleObject(event, Executive, KernelMode, False, timeout)
        return status, lab.now() - before

    assert run(script).result == (STATUS_TIMEOUT, waited)


@pytest.mark.rule("KE-WAIT-03")
def test_a_wait_without_timeout_lasts_for_ever() -> None:
    async def script(lab: Lab) -> None:
        await KeWaitForSingleObject(made())

    one = run(script)
    assert one.code == "ke.hang"
    assert one.outcome.end == "stuck"


@pytest.mark.rule("KE-WAIT-05")
def test_a_timeout_is_a_success_code() -> None:
    assert NT_SUCCESS(STATUS_TIMEOUT)
    assert STATUS_TIMEOUT == 0x102


@pytest.mark.rule("KE-WAIT-05")
def test_a_signal_and_a_timeout_race() -> None:
    async def script(lab: Lab) -> int:
        event = made()

        async def waiter() -> int:
            return await KeWaitForSingleObject(event, Executive, KernelMode, False, -SECOND)

        async def setter() -> None:
            await KeSetEvent(event)

        return (await lab.together(waiter(), setter()))[0]

    assert {one.result for one in all_runs(script)} == {STATUS_SUCCESS, STATUS_TIMEOUT}


@pytest.mark.rule("KE-EVENT-05", "KE-RACE-01")
def test_checking_before_clearing_loses_a_set() -> None:
    def script_of(clear_first: bool) -> Script:
        async def script(lab: Lab) -> None:
            event = made()
            work: list[int] = []

            async def producer() -> None:
                await lab.step("produce")
                work.append(1)
                await KeSetEvent(event)

            async def consumer() -> None:
                if clear_first:
                    await KeClearEvent(event)
                while not work:
                    if not clear_first:
                        await KeClearEvent(event)
                    await KeWaitForSingleObject(event)
                    if clear_first and not work:
                        await KeClearEvent(event)

            await lab.together(producer(), consumer())

        return script

    # The list is no driver's state: what the threads do to it is not seen.
    assert codes(all_runs(script_of(clear_first=True), unseen=True)) == {None}
    assert codes(all_runs(script_of(clear_first=False))) == {None, "ke.lost-wakeup"}


@pytest.mark.rule("KE-SPIN-08")
def test_a_wait_under_a_spin_lock_is_named_after_the_lock_and_not_after_its_level() -> None:
    async def script(lab: Lab) -> None:
        lock = KSPIN_LOCK("lock")
        KeInitializeSpinLock(lock)
        await KeAcquireSpinLock(lock)
        await KeWaitForSingleObject(made(state=True), Executive, KernelMode, False, -1)

    assert run(script).code == "ke.spin-forbidden-call"


@pytest.mark.rule("KE-WAIT-04")
def test_polling_is_allowed_at_dispatch_level() -> None:
    async def script(lab: Lab) -> int:
        current_kthread().irql = DISPATCH_LEVEL
        return await KeWaitForSingleObject(made(), Executive, KernelMode, False, 0)

    assert run(script).result == STATUS_TIMEOUT


@pytest.mark.rule("KE-WAIT-01", "KE-WAIT-02")
@pytest.mark.parametrize(
    ("pointer", "words"), [(lambda: FAST_MUTEX("mutex"), "mutex, a FAST_MUTEX, as Object"), (lambda: None, "NULL")]
)
def test_what_cannot_be_waited_for_is_a_bad_pointer(pointer: Callable[[], Any], words: str) -> None:
    async def script(lab: Lab) -> None:
        await KeWaitForSingleObject(pointer())

    one = run(script)
    assert one.code == "ke.bad-pointer"
    assert words in one.finding.detail
