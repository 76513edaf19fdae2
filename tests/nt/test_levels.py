"""Raising and lowering the IRQL, and the time that may be spent there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, run

from kemu.errors import ScenarioError, UsageError
from kemu.nt.kthread import current_kthread, irql_name
from kemu.nt.stall import dpc_begins, dpc_ends
from kemu.wdk.ntddk import ExRaiseStatus, KeRaiseIrqlToDpcLevel
from kemu.wdk.ntstatus import STATUS_UNSUCCESSFUL
from kemu.wdk.wdm import (
    APC_LEVEL,
    CLOCK_LEVEL,
    DISPATCH_LEVEL,
    HIGH_LEVEL,
    IPI_LEVEL,
    KEVENT,
    KSPIN_LOCK,
    PASSIVE_LEVEL,
    Executive,
    KeAcquireSpinLock,
    KeGetCurrentIrql,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeLowerIrql,
    KeRaiseIrql,
    KeReleaseSpinLock,
    KernelMode,
    KeStallExecutionProcessor,
    KeWaitForSingleObject,
    NotificationEvent,
)


def plain(body: Callable[[], Any], irql: int = PASSIVE_LEVEL, *, in_dpc: bool = False) -> Run:
    """The plain run of *body* at *irql*."""

    async def script(lab: Lab) -> Any:
        thread = current_kthread()
        thread.irql = irql
        thread.in_dpc = in_dpc
        return body()

    return run(script)


@pytest.mark.rule("KE-IRQL-01")
def test_the_levels_have_names_and_the_values_of_x64() -> None:
    levels = [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL, CLOCK_LEVEL, IPI_LEVEL, HIGH_LEVEL]
    assert levels == [0, 1, 2, 13, 14, 15]
    assert [irql_name(one) for one in levels] == [
        "PASSIVE_LEVEL", "APC_LEVEL", "DISPATCH_LEVEL", "CLOCK_LEVEL", "IPI_LEVEL", "HIGH_LEVEL",
    ]  # fmt: skip
    assert irql_name(5) == "IRQL 5"


@pytest.mark.rule("KE-IRQL-02")
def test_raising_concerns_the_processor_of_the_thread_and_no_other() -> None:
    async def script(lab: Lab) -> list[int]:
        async def high() -> int:
            old = KeRaiseIrql(HIGH_LEVEL)
            await lab.step()
            level = KeGetCurrentIrql()
            KeLowerIrql(old)
            return level

        async def low() -> int:
            await lab.step()
            return KeGetCurrentIrql()

        return await lab.together(high(), low())

    assert {tuple(one.result) for one in all_runs(script)} == {(HIGH_LEVEL, PASSIVE_LEVEL)}


@pytest.mark.rule("KE-IRQL-03")
def test_apc_level_is_a_thread_that_may_wait() -> None:
    async def script(lab: Lab) -> int:
        event = KEVENT()
        KeInitializeEvent(event, NotificationEvent, True)
        old = KeRaiseIrql(APC_LEVEL)
        status = await KeWaitForSingleObject(event)
        KeLowerIrql(old)
        return status

    assert run(script).result == 0


@pytest.mark.rule("KE-IRQL-04", "KE-IRQL-05")
def test_raises_nest() -> None:
    def body() -> list[int]:
        first = KeRaiseIrql(APC_LEVEL)
        second = KeRaiseIrqlToDpcLevel()
        third = KeRaiseIrql(DISPATCH_LEVEL)
        seen = [first, second, third, KeGetCurrentIrql()]
        for old in (third, second, first):
            KeLowerIrql(old)
            seen.append(KeGetCurrentIrql())
        return seen

    assert plain(body).result == [0, 1, 2, 2, 2, 1, 0]


@pytest.mark.rule("KE-IRQL-04")
@pytest.mark.parametrize(("now", "wanted"), [(2, 1), (1, 0), (15, 14), (0, 16), (0, -1)])
def test_a_raise_that_lowers_stops_the_system(now: int, wanted: int) -> None:
    one = plain(lambda: KeRaiseIrql(wanted), now)
    assert one.code == "ke.irql-raise"
    assert one.finding.bug_check is not None
    assert one.finding.verifier is not None
    assert one.finding.bug_check.code == 0x9
    assert (one.finding.verifier.code, one.finding.verifier.parameters) == (0xC4, (0x30, now, wanted))


@pytest.mark.rule("KE-IRQL-06")
@pytest.mark.parametrize(("now", "code"), [(0, None), (2, None), (3, "ke.irql-raise"), (15, "ke.irql-raise")])
def test_raising_to_dispatch_level_from_above_stops_the_system(now: int, code: str | None) -> None:
    one = plain(KeRaiseIrqlToDpcLevel, now)
    assert one.code == code
    if code is None:
        assert one.result == now
    else:
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.code == 0x9


@pytest.mark.rule("KE-IRQL-05")
@pytest.mark.parametrize("wanted", [3, 16, -1])
def test_a_lowering_that_raises_stops_the_system(wanted: int) -> None:
    def body() -> None:
        KeRaiseIrql(DISPATCH_LEVEL)
        KeLowerIrql(wanted)

    one = plain(body)
    assert one.code == "ke.irql-lower"
    assert one.finding.bug_check is not None
    assert one.finding.verifier is not None
    assert one.finding.bug_check.code == 0xA
    assert one.finding.verifier.parameters == (0x31, 2, wanted, 0)


@pytest.mark.rule("KE-IRQL-05")
def test_only_the_last_raise_is_undone() -> None:
    def wrong_order() -> None:
        first = KeRaiseIrql(APC_LEVEL)
        KeRaiseIrql(DISPATCH_LEVEL)
        KeLowerIrql(first)

    def between() -> None:
        KeRaiseIrql(DISPATCH_LEVEL)
        KeLowerIrql(APC_LEVEL)

    def never_raised() -> None:
        KeLowerIrql(PASSIVE_LEVEL)

    def twice() -> None:
        old = KeRaiseIrql(DISPATCH_LEVEL)
        KeLowerIrql(old)
        KeLowerIrql(old)

    for body in (wrong_order, between, never_raised, twice):
        one = plain(body)
        assert one.code == "ke.irql-nesting"
    assert "the last raise went from APC_LEVEL to DISPATCH_LEVEL" in plain(wrong_order).finding.detail


@pytest.mark.rule("KE-IRQL-05")
def test_a_dpc_stays_at_dispatch_level() -> None:
    def body() -> None:
        old = KeRaiseIrql(DISPATCH_LEVEL)
        KeLowerIrql(old)

    assert plain(body, DISPATCH_LEVEL, in_dpc=True).code is None
    one = plain(lambda: KeLowerIrql(PASSIVE_LEVEL), DISPATCH_LEVEL, in_dpc=True)
    assert one.code == "ke.irql-nesting"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x31, 2, 0, 1)


@pytest.mark.rule("KE-IRQL-11")
def test_a_call_above_its_level_is_told_in_the_verifiers_words_too() -> None:
    one = plain(lambda: ExRaiseStatus(STATUS_UNSUCCESSFUL), DISPATCH_LEVEL)
    assert one.code == "ke.irql"
    assert one.finding.verifier is not None
    assert (one.finding.verifier.code, one.finding.verifier.parameters) == (0xC4, (0xE5, 2))


@pytest.mark.rule("KE-IRQL-19")
def test_an_exception_under_a_spin_lock_stops_the_system() -> None:
    async def script(lab: Lab) -> None:
        lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(lock)
        await KeAcquireSpinLock(lock)
        ExRaiseStatus(STATUS_UNSUCCESSFUL)

    assert run(script).code == "ke.spin-forbidden-call"


# Time.


async def stall(microseconds: int, *, locked: bool = False) -> None:
    lock = KSPIN_LOCK("Lock")
    KeInitializeSpinLock(lock)
    if not locked:
        await KeStallExecutionProcessor(microseconds)
        return
    old = await KeAcquireSpinLock(lock)
    await KeStallExecutionProcessor(microseconds)
    await KeReleaseSpinLock(lock, old)


@pytest.mark.rule("KE-IRQL-17")
@pytest.mark.parametrize(
    ("microseconds", "in_dpc", "locked", "warned"),
    [
        (0, False, False, 0),
        (50, False, False, 0),
        (51, False, False, 1),
        (100, True, False, 0),
        (101, True, False, 1),
        (25, False, True, 0),
        (26, False, True, 1),
        (51, False, True, 2),
    ],
)
def test_a_stall_has_a_budget(microseconds: int, in_dpc: bool, locked: bool, warned: int) -> None:
    async def script(lab: Lab) -> int:
        current_kthread().in_dpc = in_dpc
        await stall(microseconds, locked=locked)
        return lab.now()

    one = run(script)
    assert one.code is None
    assert one.warnings == ("ke.budget",) * warned
    assert one.result == microseconds * 10


def test_what_is_due_during_a_stall_may_happen() -> None:
    async def script(lab: Lab) -> None:
        event = KEVENT()
        KeInitializeEvent(event, NotificationEvent, False)

        async def busy() -> None:
            await KeStallExecutionProcessor(50)
            lab.note("stalled")

        async def waiter() -> None:
            await KeWaitForSingleObject(event, Executive, KernelMode, False, -100)
            lab.note("woken")

        await lab.together(busy(), waiter())

    assert {tuple(one.order) for one in all_runs(script)} == {("woken", "stalled"), ("stalled", "woken")}


@pytest.mark.parametrize("time", [-1, 2**32, 0.5, True, None])
def test_what_is_no_number_of_microseconds_is_refused(time: Any) -> None:
    async def script(lab: Lab) -> None:
        await KeStallExecutionProcessor(time)

    with pytest.raises(UsageError, match="KeStallExecutionProcessor of"):
        run(script)


@pytest.mark.rule("KE-IRQL-18")
@pytest.mark.parametrize(("stalls", "barks"), [([40, 40], False), ([40, 40, 40], True)])
def test_the_watchdog_counts_one_dpc(stalls: list[int], barks: bool) -> None:
    async def script(lab: Lab) -> None:
        lab.dpc_watchdog(one_dpc=0.0001)
        thread = current_kthread()
        thread.irql = DISPATCH_LEVEL
        for _ in range(2):
            dpc_begins(thread)
            for time in stalls:
                await KeStallExecutionProcessor(time)
            dpc_ends(thread)

    one = run(script)
    assert one.code == ("ke.dpc-watchdog" if barks else None)
    if barks:
        assert one.finding.bug_check is not None
        assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (0x133, (0, 1200, 1000))


@pytest.mark.rule("KE-IRQL-18")
@pytest.mark.parametrize(
    ("irql", "limit", "barks"),
    [(2, 0.0001, True), (2, 0.0002, False), (1, 0.0001, False), (2, None, False)],
)
def test_the_watchdog_counts_a_processor(irql: int, limit: float | None, barks: bool) -> None:
    async def script(lab: Lab) -> None:
        lab.dpc_watchdog(cumulative=limit)
        current_kthread().irql = irql
        for _ in range(3):
            await KeStallExecutionProcessor(50)

    one = run(script)
    assert one.code == ("ke.dpc-watchdog" if barks else None)
    if barks:
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.parameters == (1, 1000)


def test_a_watchdog_without_time_is_refused() -> None:
    async def script(lab: Lab) -> None:
        lab.dpc_watchdog(one_dpc=0)

    with pytest.raises(ScenarioError, match="0 seconds"):
        run(script)
