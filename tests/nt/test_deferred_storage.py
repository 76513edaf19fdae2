"""Timers, DPCs and work items inside of a driver's structures: what freeing or paging the memory does."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, TIMER_OR_DPC_INVALID, WORKER_INVALID
from kemu.wdk.wdm import (
    IO_WORKITEM,
    KDPC,
    KTIMER,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    WORK_QUEUE_ITEM,
    DelayedWorkQueue,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeWorkItem,
    ExQueueWorkItem,
    IoSizeofWorkItem,
    KeCancelTimer,
    KeFlushQueuedDpcs,
    KeInitializeDpc,
    KeInitializeTimer,
    KeInsertQueueDpc,
    KeSetEvent,
    KeSetTimerEx,
    KeWaitForSingleObject,
    Structure,
    sizeof,
)

SECOND = 10_000_000


class WATCH(Structure):
    Timer: KTIMER
    Dpc: KDPC
    Item: WORK_QUEUE_ITEM
    Value: int


class WITH_IO_ITEM(Structure):
    Item: IO_WORKITEM


async def allocate(flags: int = POOL_FLAG_NON_PAGED) -> Any:
    return await ExAllocatePool2(flags, sizeof(WATCH), "Wtch")


async def free(watch: Any) -> None:
    await ExFreePoolWithTag(watch, "Wtch")


def test_their_sizes() -> None:
    assert sizeof(WATCH) == 64 + 64 + 32 + 8
    assert sizeof(WITH_IO_ITEM) == 0x58

    async def script(lab: Lab) -> int:
        return IoSizeofWorkItem()

    assert run(script).result == 0x58


@pytest.mark.rule("KE-TIMER-10")
@pytest.mark.parametrize("cancels", [True, False])
def test_freeing_memory_with_a_timer_that_is_set(cancels: bool) -> None:
    async def script(lab: Lab) -> None:
        watch = await allocate()
        KeInitializeTimer(watch.Timer)
        await KeSetTimerEx(watch.Timer, -SECOND, 0, None)
        if not cancels or await KeCancelTimer(watch.Timer):
            await free(watch)

    made = run(script)
    assert made.code == (None if cancels else "ke.timer-freed")
    if not cancels:
        assert made.finding.verifier is not None
        assert (made.finding.verifier.code, made.finding.verifier.parameters) == (
            DRIVER_VERIFIER_DETECTED_VIOLATION,
            (0x15,),
        )


@pytest.mark.rule("KE-TIMER-06", "KE-RACE-02", "KE-ORD-06")
@pytest.mark.parametrize("flushes", [True, False])
@pytest.mark.parametrize("period", [0, 1000])
def test_freeing_memory_after_a_timer_was_cancelled(flushes: bool, period: int) -> None:
    async def script(lab: Lab) -> None:
        watch = await allocate()
        KeInitializeTimer(watch.Timer)

        async def expire(Dpc: KDPC, Watch: Any, *arguments: Any) -> None:
            await lab.step()
            Watch.Value = 1

        KeInitializeDpc(watch.Dpc, expire, watch)
        await KeSetTimerEx(watch.Timer, -SECOND, period, watch.Dpc)
        await lab.sleep(2)
        await KeCancelTimer(watch.Timer)
        if flushes:
            await KeFlushQueuedDpcs()
        await free(watch)

    found = codes(all_runs(script, unseen=True, bound=None if flushes else 2))
    assert found == {None} if flushes else found >= {"ke.timer-dpc-race"}


@pytest.mark.rule("KE-TIMER-08")
@pytest.mark.parametrize(("period", "code"), [(0, None), (1000, "ke.timer-free-periodic")])
def test_a_dpc_that_frees_its_timer(period: int, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        watch = await allocate()
        KeInitializeTimer(watch.Timer)

        async def expire(Dpc: KDPC, Watch: Any, *arguments: Any) -> None:
            await free(Watch)

        KeInitializeDpc(watch.Dpc, expire, watch)
        await KeSetTimerEx(watch.Timer, -1, period, watch.Dpc)

    assert codes(all_runs(script)) == {code}


@pytest.mark.rule("KE-DPC-08")
def test_freeing_memory_with_a_dpc_that_is_queued() -> None:
    async def script(lab: Lab) -> None:
        watch = await allocate()

        async def routine(*arguments: Any) -> None:
            pass

        KeInitializeDpc(watch.Dpc, routine, None)
        await KeInsertQueueDpc(watch.Dpc, None, None)
        await free(watch)

    runs = all_runs(script)
    assert codes(runs) == {None, "ke.dpc-freed"}
    found = next(one.finding for one in runs if one.code)
    assert found.verifier is not None
    assert (found.verifier.code, found.verifier.parameters) == (TIMER_OR_DPC_INVALID, (1,))


def test_a_dpc_may_free_its_own_memory_before_the_insertion_returns() -> None:
    async def script(lab: Lab) -> None:
        watch = await allocate()

        async def routine(Dpc: KDPC, Watch: Any, *arguments: Any) -> None:
            await free(Watch)

        KeInitializeDpc(watch.Dpc, routine, watch)
        await KeInsertQueueDpc(watch.Dpc, None, None)

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-WORK-04", "KE-WORK-05")
@pytest.mark.parametrize("by", ["routine", "waiter", "queuer"])
def test_who_may_free_memory_with_a_work_item(by: str) -> None:
    async def script(lab: Lab) -> None:
        watch, started = await allocate(), lab.event("Started")

        async def routine(Watch: Any) -> None:
            if by == "routine":
                await free(Watch)
            await KeSetEvent(started)

        ExInitializeWorkItem(watch.Item, routine, watch)
        await ExQueueWorkItem(watch.Item, DelayedWorkQueue)
        if by == "waiter":
            await KeWaitForSingleObject(started)
        if by != "routine":
            await free(watch)

    runs = all_runs(script)
    assert codes(runs) == ({None, "ke.work-freed-queued"} if by == "queuer" else {None})
    for one in runs:
        if one.code:
            assert one.finding.bug_check is not None
            assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (WORKER_INVALID, (0,))


@pytest.mark.rule("KE-TIMER-16", "KE-WORK-09")
@pytest.mark.parametrize("flags", [POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED])
@pytest.mark.parametrize("which", ["timer", "dpc", "item"])
def test_they_lie_in_nonpaged_memory(flags: int, which: str) -> None:
    async def script(lab: Lab) -> None:
        watch = await allocate(flags)

        async def routine(*arguments: Any) -> None:
            pass

        if which == "timer":
            KeInitializeTimer(watch.Timer)
        elif which == "dpc":
            KeInitializeDpc(watch.Dpc, routine, None)
        else:
            ExInitializeWorkItem(watch.Item, routine, None)
        await free(watch)

    assert run(script).code == ("ke.pageable-sync" if flags == POOL_FLAG_PAGED else None)
