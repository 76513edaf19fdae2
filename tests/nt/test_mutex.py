"""Mutexes: recursion, ownership, what a thread that ends leaves behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Minifilter, Run, all_runs, codes, run

from kemu.nt.exception import StructuredException
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.mutex import MINLONG
from kemu.wdk.fltkernel import FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.ntddk import KeAreApcsDisabled
from kemu.wdk.ntstatus import (
    STATUS_ABANDONED,
    STATUS_MUTANT_LIMIT_EXCEEDED,
    STATUS_MUTANT_NOT_OWNED,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_READ,
    KMUTEX,
    NT_SUCCESS,
    DelayedWorkQueue,
    Executive,
    IoAllocateWorkItem,
    IoQueueWorkItemEx,
    KeAreAllApcsDisabled,
    KeInitializeMutex,
    KeReadStateMutex,
    KeReleaseMutex,
    KernelMode,
    KeWaitForMultipleObjects,
    KeWaitForSingleObject,
    WaitAny,
)


def made(label: str = "Mutex") -> KMUTEX:
    mutex = KMUTEX(label)
    KeInitializeMutex(mutex, 0)
    return mutex


@pytest.mark.rule("KE-MUTEX-01", "KE-MUTEX-03")
def test_a_mutex_is_released_as_often_as_it_was_acquired() -> None:
    async def script(lab: Lab) -> list[int]:
        mutex = made()
        states = [await KeReadStateMutex(mutex)]
        for _ in range(3):
            assert await KeWaitForSingleObject(mutex) == STATUS_SUCCESS
            states.append(await KeReadStateMutex(mutex))
        states += [await KeReleaseMutex(mutex, False) for _ in range(3)]
        return [*states, await KeReadStateMutex(mutex)]

    # Signalled is 1; each release tells the state before it, and 0 says that it is free now.
    assert run(script).result == [1, 0, -1, -2, -2, -1, 0, 1]


@pytest.mark.rule("KE-MUTEX-01")
def test_one_thread_at_a_time_owns_it() -> None:
    async def script(lab: Lab) -> None:
        mutex, inside = made(), [0]

        async def worker() -> None:
            await KeWaitForSingleObject(mutex)
            inside[0] += 1
            assert inside[0] == 1
            await lab.step()
            inside[0] -= 1
            await KeReleaseMutex(mutex, False)

        await lab.together(worker(), worker())

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-MUTEX-01")
@pytest.mark.parametrize("several", [True, False])
def test_how_often_is_limited(several: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        mutex = made()
        await KeWaitForSingleObject(mutex)
        mutex.count = MINLONG
        try:
            if several:
                await KeWaitForMultipleObjects(1, [mutex], WaitAny)
            else:
                await KeWaitForSingleObject(mutex)
        except StructuredException as error:
            return [error.ExceptionCode, mutex.count]
        return []

    assert run(script).result == [STATUS_MUTANT_LIMIT_EXCEEDED, 2**31]


@pytest.mark.rule("KE-MUTEX-03")
def test_who_waits_becomes_the_owner() -> None:
    async def script(lab: Lab) -> list[int]:
        mutex = made()

        async def holder() -> int:
            await KeWaitForSingleObject(mutex)
            return await KeReleaseMutex(mutex, False)

        async def waiter() -> int:
            await KeWaitForSingleObject(mutex)
            return await KeReleaseMutex(mutex, False)

        return await lab.together(holder(), waiter())

    assert {tuple(one.result) for one in all_runs(script)} == {(0, 0)}


async def release_once(mutex: KMUTEX) -> None:
    await KeReleaseMutex(mutex, False)


def released_by(release: Callable[[Lab, KMUTEX], Awaitable[Any]]) -> Run:
    """The plain run of a driver whose pre-read callback releases a mutex that way."""

    async def script(lab: Lab) -> None:
        async def pre(Data: Any, FltObjects: Any) -> int:
            await release(lab, made())
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.load(Minifilter("D", {IRP_MJ_READ: (pre, None)}), "1")
        await (await lab.open()).read(1)

    return run(script)


@pytest.mark.rule("KE-MUTEX-02", "KE-DOC-02")
def test_releasing_what_another_thread_owns_raises() -> None:
    async def release(lab: Lab, mutex: KMUTEX) -> None:
        await KeReleaseMutex(mutex, False)

    one = released_by(release)
    assert one.code == "ke.unhandled-exception"
    assert "KeReleaseMutex raised STATUS_MUTANT_NOT_OWNED" in one.finding.detail
    assert "test_mutex.py:" in one.finding.detail
    assert one.finding.bug_check is not None
    assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (0x7E, (0xC0000046,))


@pytest.mark.rule("KE-MUTEX-02")
def test_the_exception_can_be_handled() -> None:
    async def script(lab: Lab) -> Any:
        mutex = made()

        async def other() -> Any:
            try:
                await KeReleaseMutex(mutex, False)
            except StructuredException as error:
                return error.ExceptionCode

        await KeWaitForSingleObject(mutex)
        (code,) = await lab.together(other())
        return [code, await KeReleaseMutex(mutex, False)]

    assert {tuple(one.result) for one in all_runs(script)} == {(STATUS_MUTANT_NOT_OWNED, 0)}


@pytest.mark.rule("KE-MUTEX-02")
def test_at_dispatch_level_the_exception_stops_the_system() -> None:
    async def release(lab: Lab, mutex: KMUTEX) -> None:
        await lab.at_dispatch(KeReleaseMutex(mutex, False))

    one = released_by(release)
    assert one.code == "ke.raise-at-dispatch"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x1E


@pytest.mark.rule("KE-MUTEX-02")
@pytest.mark.parametrize("acquired_high", [True, False])
@pytest.mark.parametrize("released_high", [True, False])
def test_it_is_released_on_the_side_of_dispatch_level_where_it_was_acquired(
    acquired_high: bool, released_high: bool
) -> None:
    async def script(lab: Lab) -> None:
        mutex, thread = made(), current_kthread()
        thread.irql = DISPATCH_LEVEL if acquired_high else 0
        await KeWaitForSingleObject(mutex, Executive, KernelMode, False, 0)
        thread.irql = DISPATCH_LEVEL if released_high else 0
        await KeReleaseMutex(mutex, False)

    assert run(script).code == (None if acquired_high == released_high else "ke.irql")


@pytest.mark.rule("KE-MUTEX-04", "KE-APC-03", "KE-APC-04")
def test_its_owner_is_in_a_critical_region_until_the_last_release() -> None:
    async def script(lab: Lab) -> list[Any]:
        mutex, thread = made(), current_kthread()
        seen = [KeAreApcsDisabled()]
        await KeWaitForSingleObject(mutex)
        await KeWaitForSingleObject(mutex)
        seen += [KeAreApcsDisabled(), KeAreAllApcsDisabled(), thread.combined_apc_disable]
        await KeReleaseMutex(mutex, False)
        seen.append(KeAreApcsDisabled())
        await KeReleaseMutex(mutex, False)
        return [*seen, KeAreApcsDisabled()]

    assert run(script).result == [False, True, False, 0xFFFF, True, False]


@pytest.mark.rule("KE-MUTEX-05")
def test_a_system_call_that_returns_with_a_mutex_stops_the_system() -> None:
    async def script(lab: Lab, releases: bool) -> None:
        async def call() -> None:
            mutex = made("Kept")
            await KeWaitForSingleObject(mutex)
            if releases:
                await KeReleaseMutex(mutex, False)

        await lab.system_call(call())

    assert run(lambda lab: script(lab, True)).code is None
    one = run(lambda lab: script(lab, False))
    assert one.code == "ke.dirty-return"
    assert "owning Kept" in one.finding.detail
    assert one.finding.bug_check is not None
    assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (1, (0, 0, 0xFFFF, 0))


@pytest.mark.rule("KE-MUTEX-05")
def test_a_worker_routine_that_returns_with_a_mutex_stops_the_system() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})
        item = await IoAllocateWorkItem(driver.driver_object)
        assert item is not None

        async def routine(*arguments: Any) -> None:
            await KeWaitForSingleObject(made("Kept"))

        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)

    found = run(script).finding
    assert found.code == "callback-dirty-exit"
    assert "returned holding Kept" in found.detail
    assert found.bug_check is not None
    assert found.bug_check.code == 0x39


@pytest.mark.rule("KE-MUTEX-05")
def test_a_thread_that_ends_with_a_mutex_stops_the_system() -> None:
    async def script(lab: Lab) -> None:
        async def dies() -> None:
            await KeWaitForSingleObject(made("Kept"))

        await lab.together(dies())

    for one in all_runs(script):
        assert one.code == "ke.mutex-held-at-exit"
        assert "dies ends and owns the mutex Kept" in one.finding.detail
        assert one.finding.bug_check is not None
        assert one.finding.verifier is not None
        assert one.finding.bug_check.code == 0x4000008A
        assert one.finding.verifier.parameters == (0x100A,)


@pytest.mark.rule("KE-MUTEX-06")
def test_a_mutant_whose_owner_has_ended_is_abandoned_and_its_next_owner_is_told_once() -> None:
    async def script(lab: Lab) -> list[int]:
        mutant = lab.mutant()

        async def dies() -> None:
            await KeWaitForSingleObject(mutant)

        async def lives() -> list[int]:
            statuses: list[int] = []
            for _ in range(2):
                status = await KeWaitForSingleObject(mutant)
                statuses.append(0 if status == STATUS_SUCCESS else int(status))
                await KeReleaseMutex(mutant, False)
            return statuses

        return (await lab.together(dies(), lives()))[1]

    # The mutant may die between the two as well.
    assert {tuple(one.result) for one in all_runs(script)} == {(0, 0), (STATUS_ABANDONED, 0), (0, STATUS_ABANDONED)}


@pytest.mark.rule("KE-MUTEX-06")
def test_a_mutant_disables_no_apcs() -> None:
    async def script(lab: Lab) -> bool:
        mutant = lab.mutant()
        await KeWaitForSingleObject(mutant)
        disabled = KeAreApcsDisabled()
        await KeReleaseMutex(mutant, False)
        return disabled

    assert run(script).result is False


def is_abandoned(status: int) -> bool:
    return status == STATUS_ABANDONED


@pytest.mark.rule("KE-MUTEX-06")
@pytest.mark.parametrize(("look", "warned"), [(NT_SUCCESS, True), (is_abandoned, False)])
def test_who_does_not_look_at_an_abandoned_mutex_is_warned(look: Callable[[int], bool], warned: bool) -> None:
    async def script(lab: Lab) -> None:
        mutant = lab.mutant()

        async def dies() -> None:
            await KeWaitForSingleObject(mutant)

        await lab.start("dies", dies()).join()
        look(await KeWaitForSingleObject(mutant))
        await KeReleaseMutex(mutant, False)

    assert run(script).warnings == (("ke.abandoned",) if warned else ())


@pytest.mark.rule("KE-MUTEX-02", "KE-MUTEX-06")
def test_releasing_an_abandoned_mutant_raises_that() -> None:
    async def script(lab: Lab) -> Any:
        mutant = lab.mutant()

        async def dies() -> None:
            await KeWaitForSingleObject(mutant)

        await lab.start("dies", dies()).join()
        try:
            await KeReleaseMutex(mutant, False)
        except StructuredException as error:
            return error.ExceptionCode

    assert run(script).result == STATUS_ABANDONED


@pytest.mark.rule("KE-WAIT-02")
@pytest.mark.parametrize("use", [KeWaitForSingleObject, KeReadStateMutex, release_once])
def test_a_mutex_must_be_initialised(use: Callable[[KMUTEX], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> None:
        await use(KMUTEX("raw"))

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert "raw" in one.finding.detail


@pytest.mark.rule("KE-EVENT-06")
@pytest.mark.parametrize("owned", [True, False])
def test_a_mutex_is_initialised_again_only_while_it_is_free(owned: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = made()
        if owned:
            await KeWaitForSingleObject(mutex)
        KeInitializeMutex(mutex, 0)

    assert run(script).code == ("ke.event-reinitialised" if owned else None)


def test_a_mutex_in_a_cycle_is_a_deadlock() -> None:
    async def script(lab: Lab) -> None:
        left, right = made("left"), made("right")

        async def both(first: KMUTEX, second: KMUTEX) -> None:
            await KeWaitForSingleObject(first)
            await KeWaitForSingleObject(second)
            await KeReleaseMutex(second, False)
            await KeReleaseMutex(first, False)

        await lab.together(both(left, right), both(right, left))

    runs = all_runs(script)
    # No run is clean: where the two do not meet, their orders are told to be opposite.
    assert codes(runs) == {"ke.deadlock", "ke.lock-order"}
    assert "see the signal of right" in next(one for one in runs if one.code == "ke.deadlock").finding.detail


@pytest.mark.rule("KE-MUTEX-02", "KE-MUTEX-06")
def test_who_releases_a_mutant_that_is_not_his_is_told_whether_its_owner_lives() -> None:
    async def script(lab: Lab) -> Any:
        mutant = lab.mutant()

        async def dies() -> None:
            await KeWaitForSingleObject(mutant)

        async def releases() -> Any:
            try:
                await KeReleaseMutex(mutant, False)
            except StructuredException as error:
                return error.ExceptionCode

        return (await lab.together(dies(), releases()))[1]

    assert {one.result for one in all_runs(script)} == {STATUS_MUTANT_NOT_OWNED, STATUS_ABANDONED}


@pytest.mark.rule("KE-MUTEX-01")
def test_the_state_can_be_read_at_any_time() -> None:
    async def script(lab: Lab) -> int:
        mutex = made()

        async def twice() -> None:
            for _ in range(2):
                await KeWaitForSingleObject(mutex)
            for _ in range(2):
                await KeReleaseMutex(mutex, False)

        async def reads() -> tuple[int, int]:
            return await KeReadStateMutex(mutex), await KeReadStateMutex(mutex)

        return (await lab.together(twice(), reads()))[1]

    results = {one.result for one in all_runs(script)}
    assert {state for one in results for state in one} == {1, 0, -1}
