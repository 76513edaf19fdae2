"""DPCs: when they run and where, in what order, what they may not do, and waiting for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, orders, run

from kemu.errors import UsageError
from kemu.nt.bugcheck import ATTEMPTED_SWITCH_FROM_DPC, TIMER_OR_DPC_INVALID, BugCheck
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeSetTargetProcessorDpc
from kemu.wdk.ntstatus import STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.wdk.wdm import (
    ALL_PROCESSOR_GROUPS,
    KDPC,
    KSPIN_LOCK,
    PROCESSOR_NUMBER,
    HighImportance,
    KeAcquireSpinLock,
    KeFlushQueuedDpcs,
    KeInitializeDpc,
    KeInitializeSpinLock,
    KeInitializeThreadedDpc,
    KeInsertQueueDpc,
    KeQueryActiveProcessorCountEx,
    KeReleaseSpinLock,
    KeRemoveQueueDpc,
    KeSetEvent,
    KeSetImportanceDpc,
    KeSetTargetProcessorDpcEx,
    KeWaitForSingleObject,
    LowImportance,
    MediumImportance,
)


def dpc(routine: Callable[..., Awaitable[None]], context: Any = None, label: str = "Dpc") -> KDPC:
    """An initialised DPC."""
    made = KDPC(label)
    KeInitializeDpc(made, routine, context)
    return made


def noting(lab: Lab, what: str = "dpc") -> Callable[..., Awaitable[None]]:
    """A DPC routine that notes *what* and its arguments."""

    async def routine(Dpc: KDPC, Context: Any, Argument1: Any, Argument2: Any) -> None:
        lab.note(what, (Context, Argument1, Argument2))

    return routine


@pytest.mark.rule("KE-DPC-05", "KE-IRQL-15")
def test_a_dpc_runs_at_dispatch_level_in_a_thread_of_its_own_with_its_arguments() -> None:
    async def script(lab: Lab) -> bool:
        one = dpc(noting(lab), "context")
        return await KeInsertQueueDpc(one, 1, 2)

    made = run(script)
    assert made.result is True
    (note,) = made.notes
    assert (note.what, note.thread, note.irql, note.value) == ("dpc", "dpc:routine", DISPATCH_LEVEL, ("context", 1, 2))


def test_it_may_run_before_the_insertion_returns_but_not_before_it_began() -> None:
    async def script(lab: Lab) -> None:
        one = dpc(noting(lab))
        lab.note("before")
        await KeInsertQueueDpc(one, None, None)
        lab.note("after")

    assert orders(all_runs(script)) == {("before", "dpc", "after"), ("before", "after", "dpc")}


@pytest.mark.rule("KE-DPC-02")
def test_inserting_what_is_queued_does_nothing_and_loses_its_arguments() -> None:
    async def script(lab: Lab) -> tuple[bool, bool]:
        one = dpc(noting(lab))
        return await KeInsertQueueDpc(one, "first", None), await KeInsertQueueDpc(one, "second", None)

    runs = all_runs(script)
    seen = {(one.result, tuple(note.value[1] for note in one.notes)) for one in runs}
    # The routine starts before the second insertion, or after it.
    assert seen == {((True, True), ("first", "second")), ((True, False), ("first",))}


@pytest.mark.rule("KE-DPC-03", "KE-RACE-03")
def test_a_dpc_that_runs_may_be_queued_again_and_run_at_the_same_time() -> None:
    async def script(lab: Lab) -> None:
        async def routine(*arguments: Any) -> None:
            lab.note("in")
            await lab.step()
            lab.note("out")

        one = dpc(routine)
        await KeInsertQueueDpc(one, None, None)
        await KeInsertQueueDpc(one, None, None)

    assert ("in", "in", "out", "out") in orders(all_runs(script))


@pytest.mark.rule("KE-DPC-01")
def test_what_a_dpc_queues_to_its_own_processor_runs_after_it() -> None:
    async def script(lab: Lab) -> None:
        second, third = dpc(noting(lab, "second")), dpc(noting(lab, "third"))
        KeSetImportanceDpc(third, HighImportance)

        async def routine(Dpc: KDPC, Context: Any, again: bool, Argument2: Any) -> None:
            lab.note("first")
            if again:
                await KeInsertQueueDpc(Dpc, False, None)
                await KeInsertQueueDpc(second, None, None)
                await KeInsertQueueDpc(third, None, None)
                lab.note("over")

        await KeInsertQueueDpc(dpc(routine), True, None)

    # High importance goes to the front.
    assert orders(all_runs(script)) == {("first", "over", "third", "first", "second")}


@pytest.mark.rule("KE-DPC-01")
def test_two_dpcs_run_in_any_order_and_at_the_same_time() -> None:
    async def script(lab: Lab) -> None:
        async def one(Dpc: KDPC, name: str, *arguments: Any) -> None:
            lab.note(f"{name} in")
            await lab.step()
            lab.note(f"{name} out")

        a, b = dpc(one, "a"), dpc(one, "b")
        await KeInsertQueueDpc(a, None, None)
        await KeInsertQueueDpc(b, None, None)

    # Both threads have one label, by which the notes are compared.
    found = orders(all_runs(script, unseen=True))
    assert ("a in", "b in", "a out", "b out") in found
    assert ("b in", "b out", "a in", "a out") in found


@pytest.mark.rule("KE-DPC-01")
@pytest.mark.parametrize(
    ("targets", "important", "expected"),
    [
        ((1, 1), False, {("a", "a'", "b", "b'")}),
        ((1, 1), True, {("a", "a'", "b", "b'"), ("b", "b'", "a", "a'")}),
    ],
)
def test_dpcs_of_one_target_run_one_after_the_other_in_order(
    targets: tuple[int, int], important: bool, expected: set[tuple[str, ...]]
) -> None:
    async def script(lab: Lab) -> None:
        async def one(Dpc: KDPC, name: str, *arguments: Any) -> None:
            lab.note(name)
            await lab.step()
            lab.note(f"{name}'")

        a, b = dpc(one, "a"), dpc(one, "b")
        KeSetTargetProcessorDpc(a, targets[0])
        KeSetTargetProcessorDpc(b, targets[1])
        if important:
            KeSetImportanceDpc(b, HighImportance)
        await KeInsertQueueDpc(a, None, None)
        await KeInsertQueueDpc(b, None, None)
        # After it is queued a new target has no effect.
        KeSetTargetProcessorDpc(b, 2)

    assert orders(all_runs(script, unseen=True)) == expected


def test_dpcs_of_two_targets_are_not_ordered() -> None:
    async def script(lab: Lab) -> None:
        a, b = dpc(noting(lab, "a")), dpc(noting(lab, "b"))
        KeSetTargetProcessorDpc(a, 0)
        assert KeSetTargetProcessorDpcEx(b, PROCESSOR_NUMBER(0, 1)) == STATUS_SUCCESS
        await KeInsertQueueDpc(a, None, None)
        await KeInsertQueueDpc(b, None, None)

    assert orders(all_runs(script)) == {("a", "b"), ("b", "a")}


@pytest.mark.rule("KE-DPC-01")
def test_a_target_that_does_not_exist() -> None:
    async def script(lab: Lab, number: int) -> Any:
        one = dpc(noting(lab))
        counts = [KeQueryActiveProcessorCountEx(group) for group in (0, ALL_PROCESSOR_GROUPS, 1)]
        wrong = [PROCESSOR_NUMBER(1, 0), PROCESSOR_NUMBER(0, 4), PROCESSOR_NUMBER(0, -1), PROCESSOR_NUMBER(0, 0, 1)]
        assert [KeSetTargetProcessorDpcEx(one, which) for which in wrong] == [STATUS_INVALID_PARAMETER] * 4
        KeSetTargetProcessorDpc(one, number)
        return counts

    assert run(lambda lab: script(lab, 3)).result == [4, 4, 0]
    for number in (4, -1):
        made = run(lambda lab, number=number: script(lab, number))
        assert made.code == "ke.dpc-processor"
        assert made.finding.bug_check == BugCheck(TIMER_OR_DPC_INVALID, (3,), made.finding.title)


@pytest.mark.rule("KE-DPC-06")
@pytest.mark.parametrize("target", [None, 1])
def test_removing_keeps_the_routine_from_running_and_says_whether_it_did(target: int | None) -> None:
    async def script(lab: Lab) -> tuple[bool, bool]:
        one = dpc(noting(lab))
        if target is not None:
            KeSetTargetProcessorDpc(one, target)
        never = await KeRemoveQueueDpc(one)
        await KeInsertQueueDpc(one, None, None)
        return never, await KeRemoveQueueDpc(one)

    seen = {(one.result, len(one.notes)) for one in all_runs(script)}
    assert seen == {((False, True), 0), ((False, False), 1)}


def test_what_was_removed_may_be_queued_again() -> None:
    async def script(lab: Lab) -> None:
        one = dpc(noting(lab))
        KeSetTargetProcessorDpc(one, 0)
        await KeInsertQueueDpc(one, "first", None)
        if await KeRemoveQueueDpc(one):
            await KeInsertQueueDpc(one, "second", None)

    assert {tuple(note.value[1] for note in one.notes) for one in all_runs(script)} == {("first",), ("second",)}


@pytest.mark.rule("KE-DPC-07", "KE-ORD-06")
def test_a_flush_returns_after_what_was_queued_before_it() -> None:
    async def script(lab: Lab) -> None:
        async def slow(*arguments: Any) -> None:
            await lab.step()
            lab.note("dpc")

        await KeFlushQueuedDpcs()
        one, two = dpc(slow), dpc(slow)
        KeSetTargetProcessorDpc(two, 1)
        await KeInsertQueueDpc(one, None, None)
        await KeInsertQueueDpc(two, None, None)
        await KeFlushQueuedDpcs()
        lab.note("flushed")

    assert orders(all_runs(script)) == {("dpc", "dpc", "flushed")}


@pytest.mark.rule("KE-DPC-07")
def test_a_flush_does_not_wait_for_a_dpc_that_queues_itself_again() -> None:
    async def script(lab: Lab) -> None:
        async def again(Dpc: KDPC, Context: Any, first: bool, Argument2: Any) -> None:
            if first:
                await KeInsertQueueDpc(Dpc, False, None)
            lab.note("first" if first else "second")

        await KeInsertQueueDpc(dpc(again), True, None)
        await KeFlushQueuedDpcs()
        lab.note("flushed")

    assert orders(all_runs(script)) == {("first", "second", "flushed"), ("first", "flushed", "second")}


@pytest.mark.rule("KE-DPC-07")
def test_a_dpc_that_was_removed_is_not_waited_for() -> None:
    async def script(lab: Lab) -> None:
        one = dpc(noting(lab))
        await KeInsertQueueDpc(one, None, None)
        await KeRemoveQueueDpc(one)
        await KeFlushQueuedDpcs()
        lab.note("flushed")

    assert orders(all_runs(script)) == {("flushed",), ("dpc", "flushed")}


@pytest.mark.rule("KE-DPC-07")
def test_flushing_in_a_dpc_or_under_a_spin_lock_is_a_finding_and_above_passive_level_as_well() -> None:
    async def in_dpc(lab: Lab) -> None:
        async def flushes(*arguments: Any) -> None:
            await KeFlushQueuedDpcs()

        await KeInsertQueueDpc(dpc(flushes), None, None)

    async def under_lock(lab: Lab) -> None:
        lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(lock)
        await KeAcquireSpinLock(lock)
        await KeFlushQueuedDpcs()

    async def plain(lab: Lab) -> None:
        lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(lock)
        await KeReleaseSpinLock(lock, await KeAcquireSpinLock(lock))
        await KeFlushQueuedDpcs()

    assert run(in_dpc).code == "ke.flush-dpc"
    one = run(under_lock)
    assert (one.code, "holds Lock" in one.finding.detail) == ("ke.flush-dpc", True)
    assert run(plain).code is None

    async def at_apc(lab: Lab) -> None:
        current_kthread().irql = 1
        await KeFlushQueuedDpcs()

    assert run(at_apc).code == "ke.irql"


@pytest.mark.rule("KE-DPC-09", "KE-DOC-21")
def test_a_threaded_dpc_runs_at_either_level() -> None:
    async def script(lab: Lab) -> None:
        one = KDPC("Threaded")
        KeInitializeThreadedDpc(one, noting(lab), None)
        await KeInsertQueueDpc(one, None, None)

    assert {one.note("dpc").irql for one in all_runs(script)} == {0, 2}
    assert run(script).note("dpc").irql == 0


@pytest.mark.rule("KE-DPC-09")
def test_a_threaded_dpc_that_waits_is_caught_at_dispatch_level() -> None:
    async def script(lab: Lab) -> None:
        event = lab.event("Go")
        await KeSetEvent(event)

        async def waits(*arguments: Any) -> None:
            await KeWaitForSingleObject(event)

        one = KDPC("Threaded")
        KeInitializeThreadedDpc(one, waits, None)
        await KeInsertQueueDpc(one, None, None)

    assert "ke.irql" in codes(all_runs(script))


@pytest.mark.rule("KE-DPC-04")
@pytest.mark.parametrize("from_object", [True, False])
def test_what_the_object_says_of_a_run_may_be_that_of_the_next(from_object: bool) -> None:
    async def script(lab: Lab) -> None:
        async def routine(Dpc: KDPC, Context: Any, Argument1: Any, Argument2: Any) -> None:
            await lab.step("before it looks")
            lab.note("saw", (Dpc.SystemArgument1, Dpc.SystemArgument2) if from_object else (Argument1, Argument2))

        one = dpc(routine)
        await KeInsertQueueDpc(one, 1, 10)
        await KeInsertQueueDpc(one, 2, 20)

    runs = all_runs(script)
    assert codes(runs) == ({None, "ke.dpc-context-race"} if from_object else {None})
    for one in runs:
        assert {note.value for note in one.notes} <= {(1, 10), (2, 20)}


@pytest.mark.rule("KE-DPC-05", "KE-APC-08")
def test_a_dpc_that_returns_with_its_thread_changed() -> None:
    def script_of(left: Callable[[], object]) -> Script:
        async def script(lab: Lab) -> None:
            async def routine(*arguments: Any) -> None:
                left()

            await KeInsertQueueDpc(dpc(routine), None, None)

        return script

    def lower() -> None:
        current_kthread().irql = 0

    def critical() -> None:
        thread = current_kthread()
        thread.irql = 0
        KeEnterCriticalRegion()
        thread.irql = DISPATCH_LEVEL

    one = run(script_of(critical))
    assert one.code == "callback-dirty-exit"
    assert one.finding.verifier is not None
    assert (one.finding.verifier.code, one.finding.verifier.parameters) == (
        TIMER_OR_DPC_INVALID,
        (4, 0, 0xFFFF, 0),
    )
    two = run(script_of(lower))
    assert two.finding.bug_check is not None
    assert two.finding.bug_check.parameters == (2 << 8 | 2,)
    assert run(script_of(lambda: None)).code is None


@pytest.mark.rule("KE-DPC-05", "KE-WAIT-04")
def test_a_dpc_that_waits_stops_the_system() -> None:
    async def script(lab: Lab, timeout: int | None) -> None:
        event = lab.event("Event")

        async def waits(*arguments: Any) -> None:
            await KeWaitForSingleObject(event, Timeout=timeout)

        await KeInsertQueueDpc(dpc(waits), None, None)

    found = run(lambda lab: script(lab, None)).finding
    assert found.code == "ke.irql"
    assert found.bug_check is not None
    assert found.bug_check.code == ATTEMPTED_SWITCH_FROM_DPC
    # Polling is no waiting.
    assert run(lambda lab: script(lab, 0)).code is None


@pytest.mark.rule("KE-DPC-08")
def test_a_dpc_that_is_initialised_again_while_it_is_queued() -> None:
    async def script(lab: Lab, waits: bool) -> None:
        one = dpc(noting(lab))
        await KeInsertQueueDpc(one, None, None)
        if waits:
            await KeFlushQueuedDpcs()
        KeInitializeDpc(one, noting(lab), None)

    assert run(lambda lab: script(lab, False)).code == "ke.dpc-reinitialised"
    assert codes(all_runs(lambda lab: script(lab, True))) == {None}


@pytest.mark.rule("KE-DPC-08")
def test_a_dpc_in_memory_that_was_freed_is_found_at_the_latest_when_it_is_to_run() -> None:
    async def script(lab: Lab) -> None:
        one = dpc(noting(lab))
        await KeInsertQueueDpc(one, None, None)
        left = one.still_active()
        assert left is not None
        assert (left.code, left.verifier) == ("ke.dpc-freed", BugCheck(TIMER_OR_DPC_INVALID, (1,)))
        lab.system.freed[one] = "which is gone"

    assert run(script).code == "ke.dpc-freed"

    async def idle(lab: Lab) -> None:
        one = dpc(noting(lab))
        assert one.still_active() is None
        await KeInsertQueueDpc(one, None, None)
        await KeFlushQueuedDpcs()
        assert one.still_active() is None

    assert run(idle).code is None


@pytest.mark.rule("KE-DPC-08", "KE-UNLOAD-03")
@pytest.mark.parametrize("waits", [True, False])
def test_an_unload_with_a_dpc_queued(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        async def unload(Flags: int) -> int:
            await KeInsertQueueDpc(driver.driver.Dpc, None, None)  # type: ignore[attr-defined]
            if waits:
                await KeFlushQueuedDpcs()
            return await type(driver.driver).Unload(driver.driver, Flags)  # type: ignore[attr-defined]

        driver = await lab.filter("D", "1", {}, FilterUnloadCallback=unload)
        current_kthread().actors.append(driver.driver_object.actor)
        driver.driver.Dpc = dpc(noting(lab))  # type: ignore[attr-defined]
        current_kthread().actors.pop()
        await driver.unload()

    runs = all_runs(script, bound=1)
    assert codes(runs) == ({None} if waits else {None, "ke.dpc-left"})


def test_a_dpc_keeps_to_a_thread_of_the_system_process() -> None:
    async def script(lab: Lab) -> Any:
        seen: list[KThread] = []

        async def routine(*arguments: Any) -> None:
            seen.append(current_kthread())

        await KeInsertQueueDpc(dpc(routine), None, None)
        await KeFlushQueuedDpcs()
        return seen[0].in_dpc, seen[0].process is lab.system_process, current_kthread().in_dpc

    assert run(script).result == (True, True, False)


def test_an_uninitialised_dpc_and_a_wrong_importance() -> None:
    async def script(lab: Lab, call: Callable[[KDPC], Any]) -> None:
        result = call(KDPC("Raw"))
        if result is not None:
            await result

    calls: list[Callable[[KDPC], Any]] = [
        lambda one: KeInsertQueueDpc(one, None, None),
        KeRemoveQueueDpc,
        lambda one: KeSetImportanceDpc(one, LowImportance),
        lambda one: KeSetTargetProcessorDpc(one, 0),
        lambda one: KeSetTargetProcessorDpcEx(one, PROCESSOR_NUMBER()),
    ]
    for call in calls:
        assert run(lambda lab, call=call: script(lab, call)).code == "ke.uninitialised"

    async def wrong(lab: Lab) -> None:
        KeSetImportanceDpc(dpc(noting(lab)), 9)

    with pytest.raises(UsageError, match="importance 9"):
        run(wrong)

    async def right(lab: Lab) -> int:
        one = dpc(noting(lab))
        KeSetImportanceDpc(one, LowImportance)
        KeSetImportanceDpc(one, MediumImportance)
        return one.importance

    assert run(right).result == MediumImportance
