"""Semaphores: counts, limits, who is let in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.nt.exception import StructuredException
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.wdk.ntstatus import STATUS_SEMAPHORE_LIMIT_EXCEEDED, STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    KSEMAPHORE,
    Executive,
    KeInitializeSemaphore,
    KeReadStateSemaphore,
    KeReleaseSemaphore,
    KernelMode,
    KeWaitForSingleObject,
)


def made(count: int = 0, limit: int = 10) -> KSEMAPHORE:
    semaphore = KSEMAPHORE("Semaphore")
    KeInitializeSemaphore(semaphore, count, limit)
    return semaphore


async def release_once(semaphore: KSEMAPHORE) -> None:
    await KeReleaseSemaphore(semaphore, 0, 1)


@pytest.mark.rule("KE-SEM-01", "KE-WAIT-13")
def test_each_wait_takes_one() -> None:
    async def script(lab: Lab) -> list[int]:
        semaphore = made(2)
        statuses = [await KeWaitForSingleObject(semaphore, Executive, KernelMode, False, 0) for _ in range(3)]
        return [*statuses, await KeReadStateSemaphore(semaphore)]

    assert run(script).result == [STATUS_SUCCESS, STATUS_SUCCESS, STATUS_TIMEOUT, 0]


@pytest.mark.rule("KE-SEM-01")
@pytest.mark.parametrize(
    ("count", "limit", "fine"),
    [(0, 1, True), (3, 3, True), (-1, 1, False), (2, 1, False), (0, 0, False), (0, -1, False)],
)
def test_count_and_limit_are_in_range(count: int, limit: int, fine: bool) -> None:
    async def script(lab: Lab) -> None:
        made(count, limit)

    assert run(script).code == (None if fine else "ke.semaphore-range")


@pytest.mark.rule("KE-SEM-02", "KE-SEM-03")
@pytest.mark.parametrize(
    ("adjustment", "result"),
    [
        (0, (3, 3)),
        (1, (3, 4)),
        (2, (3, 5)),
        (3, STATUS_SEMAPHORE_LIMIT_EXCEEDED),
        (-1, STATUS_SEMAPHORE_LIMIT_EXCEEDED),
    ],
)
def test_a_release_returns_the_count_before_and_respects_the_limit(adjustment: int, result: Any) -> None:
    async def script(lab: Lab) -> Any:
        semaphore = made(3, 5)
        try:
            previous = await KeReleaseSemaphore(semaphore, 0, adjustment)
        except StructuredException as error:
            assert await KeReadStateSemaphore(semaphore) == 3
            return error.ExceptionCode
        return previous, await KeReadStateSemaphore(semaphore)

    assert run(script).result == result


@pytest.mark.rule("KE-SEM-02")
def test_beyond_the_limit_at_dispatch_level_stops_the_system() -> None:
    async def script(lab: Lab) -> None:
        await lab.at_dispatch(KeReleaseSemaphore(made(1, 1), 0, 1))

    one = run(script)
    assert one.code == "ke.raise-at-dispatch"
    assert one.finding.bug_check is not None
    assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (0x1E, (0xC0000047,))


@pytest.mark.rule("KE-SEM-03")
@pytest.mark.parametrize("adjustment", [1, 2, 3])
def test_a_release_lets_as_many_in(adjustment: int) -> None:
    async def script(lab: Lab) -> None:
        semaphore = made()

        async def waiter() -> None:
            await KeWaitForSingleObject(semaphore)
            lab.note("in")

        async def releaser() -> None:
            await KeReleaseSemaphore(semaphore, 0, adjustment)

        await lab.together(waiter(), waiter(), waiter(), releaser())

    for one in all_runs(script, bound=1):
        assert len(one.order) == adjustment
        assert one.code == (None if adjustment == 3 else "ke.hang")


def test_producers_and_consumers_lose_nothing() -> None:
    async def script(lab: Lab) -> int:
        semaphore = made()

        async def producer() -> None:
            await KeReleaseSemaphore(semaphore, 0, 1)

        async def consumer() -> None:
            await KeWaitForSingleObject(semaphore)

        await lab.together(producer(), producer(), consumer(), consumer())
        return await KeReadStateSemaphore(semaphore)

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {0}


@pytest.mark.rule("KE-SEM-01", "KE-DOC-19")
@pytest.mark.parametrize(("irql", "noted"), [(0, False), (DISPATCH_LEVEL, True)])
def test_initialising_at_a_raised_level_is_worth_a_remark(irql: int, noted: bool) -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = irql
        made()

    one = run(script)
    assert one.code is None
    assert one.warnings == (("ke.init-irql",) if noted else ())


@pytest.mark.rule("KE-SEM-04", "KE-WAIT-17")
def test_announcing_a_wait_needs_passive_level() -> None:
    async def script(lab: Lab, irql: int) -> None:
        semaphore = made()
        current_kthread().irql = irql
        await KeReleaseSemaphore(semaphore, 0, 1, True)
        await KeWaitForSingleObject(semaphore)

    assert run(lambda lab: script(lab, 0)).code is None
    assert run(lambda lab: script(lab, 1)).code == "ke.irql"


@pytest.mark.rule("KE-WAIT-02")
@pytest.mark.parametrize("use", [KeWaitForSingleObject, KeReadStateSemaphore, release_once])
def test_a_semaphore_must_be_initialised(use: Callable[[KSEMAPHORE], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> None:
        await use(KSEMAPHORE("raw"))

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert "raw" in one.finding.detail


@pytest.mark.rule("KE-EVENT-06")
def test_a_semaphore_may_be_initialised_again_only_while_nobody_waits_for_it() -> None:
    async def script(lab: Lab) -> None:
        semaphore = made()

        async def waiter() -> None:
            await KeWaitForSingleObject(semaphore, Executive, KernelMode, False, -1)

        async def careless() -> None:
            await lab.step()
            KeInitializeSemaphore(semaphore, 1, 1)

        await lab.together(waiter(), careless())

    assert codes(all_runs(script)) == {None, "ke.event-reinitialised"}


@pytest.mark.rule("KE-SEM-02")
def test_whether_a_release_exceeds_the_limit_is_a_matter_of_order() -> None:
    async def script(lab: Lab) -> bool:
        semaphore = made(1, 1)

        async def waits() -> None:
            await KeWaitForSingleObject(semaphore)

        async def releases() -> bool:
            try:
                await KeReleaseSemaphore(semaphore, 0, 1)
            except StructuredException:
                return False
            return True

        return (await lab.together(waits(), releases()))[1]

    assert {one.result for one in all_runs(script)} == {True, False}
