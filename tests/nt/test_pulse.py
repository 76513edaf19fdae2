"""Pulses: who sees them, and who misses them."""

from __future__ import annotations

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.wdk.ntddk import KePulseEvent
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    KEVENT,
    KWAIT_BLOCK,
    Executive,
    KeInitializeEvent,
    KeReadStateEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForMultipleObjects,
    KeWaitForSingleObject,
    NotificationEvent,
    SynchronizationEvent,
    WaitAll,
    WaitAny,
)


def made(kind: int, state: bool = False, label: str = "Pulsed") -> KEVENT:
    event = KEVENT(label)
    KeInitializeEvent(event, kind, state)
    return event


@pytest.mark.rule("KE-EVENT-04")
@pytest.mark.parametrize("state", [True, False])
def test_a_pulse_leaves_the_event_cleared_and_returns_its_state_before(state: bool) -> None:
    async def script(lab: Lab) -> tuple[int, int]:
        event = made(NotificationEvent, state)
        return await KePulseEvent(event, 0, False), await KeReadStateEvent(event)

    runs = all_runs(script)
    assert {one.result for one in runs} == {(int(state), 0)}
    assert {one.warnings for one in runs} == {("ke.pulse",)}


@pytest.mark.rule("KE-EVENT-04")
@pytest.mark.parametrize(("kind", "most"), [(NotificationEvent, 2), (SynchronizationEvent, 1)])
def test_a_pulse_releases_who_waits_unless_an_apc_keeps_it_busy(kind: int, most: int) -> None:
    async def script(lab: Lab) -> list[int]:
        event = made(kind)

        async def waiter() -> int:
            return await KeWaitForSingleObject(event, Executive, KernelMode, False, -10)

        async def pulser() -> None:
            await KePulseEvent(event, 0, False)

        return (await lab.together(waiter(), waiter(), pulser()))[:2]

    # In the plain run both wait when the pulse comes; in others one comes late, or misses it although it waits.
    assert [int(one) for one in run(script).result].count(STATUS_SUCCESS) == most
    results = {tuple(map(int, one.result)) for one in all_runs(script, bound=1)}
    assert (STATUS_TIMEOUT, STATUS_TIMEOUT) in results
    assert max(one.count(STATUS_SUCCESS) for one in results) == most


def missed(waits_before: bool) -> Script:
    async def script(lab: Lab) -> None:
        event, ready = made(NotificationEvent), made(NotificationEvent, label="ready")

        async def waiter() -> None:
            await KeSetEvent(ready)
            await KeWaitForSingleObject(event)

        async def pulser() -> None:
            if waits_before:
                # The waiter stands at its wait as soon as it has set this.
                await KeWaitForSingleObject(ready)
            await KePulseEvent(event, 0, False)

        await lab.together(waiter(), pulser())

    return script


@pytest.mark.rule("KE-EVENT-04", "KE-WAIT-15", "KE-RACE-01")
@pytest.mark.parametrize("waits_before", [True, False])
def test_a_waiter_that_is_in_a_kernel_apc_misses_the_pulse(waits_before: bool) -> None:
    runs = all_runs(missed(waits_before))
    assert codes(runs) == {None, "ke.lost-wakeup"}
    lost = next(one for one in runs if one.code)
    assert "Pulsed: pulser pulsed it, and nobody's wait saw that" in lost.finding.detail
    assert run(missed(waits_before)).code is None


@pytest.mark.rule("KE-EVENT-04")
def test_a_pulse_does_not_satisfy_a_wait_for_something_else_as_well() -> None:
    async def script(lab: Lab) -> int:
        event, never = made(NotificationEvent), made(NotificationEvent)

        async def waiter() -> int:
            return await KeWaitForMultipleObjects(
                2, [event, never], WaitAll, Executive, KernelMode, False, -10, KWAIT_BLOCK(2)
            )

        async def pulser() -> None:
            await KePulseEvent(event, 0, False)

        return (await lab.together(waiter(), pulser()))[0]

    assert {one.result for one in all_runs(script, bound=1)} == {STATUS_TIMEOUT}


@pytest.mark.rule("KE-WAIT-17")
def test_a_pulse_announces_a_wait_as_well() -> None:
    async def script(lab: Lab) -> int:
        event, ready = made(NotificationEvent), made(NotificationEvent, True)
        await KePulseEvent(event, 0, True)
        return await KeWaitForSingleObject(ready)

    assert run(script).result == STATUS_SUCCESS


@pytest.mark.rule("KE-WAIT-02")
def test_an_event_must_be_initialised() -> None:
    async def script(lab: Lab) -> None:
        await KePulseEvent(KEVENT("raw"))

    assert run(script).code == "ke.uninitialised"


@pytest.mark.rule("KE-EVENT-04")
@pytest.mark.parametrize("kind", [NotificationEvent, SynchronizationEvent])
@pytest.mark.parametrize("first", [True, False])
def test_who_waits_for_something_else_as_well_sees_the_pulse_or_that(kind: int, first: bool) -> None:
    async def script(lab: Lab) -> int:
        event, other = made(kind), made(NotificationEvent, label="other")

        async def waiter() -> int:
            return await KeWaitForMultipleObjects(2, [event, other] if first else [other, event], WaitAny)

        async def pulser() -> None:
            await KePulseEvent(event, 0, False)

        async def setter() -> None:
            await KeSetEvent(other)

        return (await lab.together(waiter(), pulser(), setter()))[0]

    assert {one.result for one in all_runs(script)} == {0, 1}
