"""Waiting for several objects, for time, and what else may end a wait."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, codes, run

from kemu.errors import UsageError
from kemu.explore.strategies.dpor import DPOR
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.status import NTSTATUS
from kemu.nt.wait import CLOCK_TICK
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.ntstatus import (
    STATUS_ABANDONED_WAIT_0,
    STATUS_ALERTED,
    STATUS_SUCCESS,
    STATUS_TIMEOUT,
    STATUS_USER_APC,
    STATUS_WAIT_0,
    STATUS_WAIT_1,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    KEVENT,
    KMUTEX,
    KSEMAPHORE,
    KSPIN_LOCK,
    KWAIT_BLOCK,
    MAXIMUM_WAIT_OBJECTS,
    NT_SUCCESS,
    THREAD_WAIT_OBJECTS,
    Executive,
    KeAcquireSpinLock,
    KeDelayExecutionThread,
    KeGetCurrentIrql,
    KeGetCurrentThread,
    KeInitializeEvent,
    KeInitializeMutex,
    KeInitializeSemaphore,
    KeInitializeSpinLock,
    KeReadStateEvent,
    KeReleaseMutex,
    KeReleaseSemaphore,
    KernelMode,
    KeSetEvent,
    KeWaitForMultipleObjects,
    KeWaitForMutexObject,
    KeWaitForSingleObject,
    NotificationEvent,
    SynchronizationEvent,
    UserMode,
    WaitAll,
    WaitAny,
    on_stack,
)

SECOND = 10_000_000


def event(kind: int = NotificationEvent, state: bool = False, label: str = "event") -> KEVENT:
    made = KEVENT(label)
    KeInitializeEvent(made, kind, state)
    return made


def mutex(label: str = "mutex") -> KMUTEX:
    made = KMUTEX(label)
    KeInitializeMutex(made, 0)
    return made


def semaphore(count: int, limit: int = 10) -> KSEMAPHORE:
    made = KSEMAPHORE("semaphore")
    KeInitializeSemaphore(made, count, limit)
    return made


async def poll(one: Any) -> bool:
    """Whether a wait for *one* would be satisfied now, with the side effects of that."""
    status = await KeWaitForSingleObject(one, Executive, KernelMode, False, 0)
    return status == STATUS_SUCCESS


async def wait_any(
    *objects: Any, timeout: int | None = None, alertable: bool = False, mode: int = KernelMode
) -> NTSTATUS:
    return await KeWaitForMultipleObjects(
        len(objects), objects, WaitAny, Executive, mode, alertable, timeout, KWAIT_BLOCK(len(objects))
    )


async def wait_all(*objects: Any, timeout: int | None = None) -> NTSTATUS:
    return await KeWaitForMultipleObjects(
        len(objects), objects, WaitAll, Executive, KernelMode, False, timeout, KWAIT_BLOCK(len(objects))
    )


def reduced_search_finds(script: Script, runs: list[Run]) -> None:
    """The reduced search comes to all that *runs* came to.

    Not to as many classes: of two steps that together end a timed wait, whichever comes second cancels the deadline, so
    that both orders count as classes of their own, although nothing that the threads do tells them apart.
    """
    search = DPOR()
    reduced: list[Run] = []
    while search.begin():
        one = run(script, search, observer=search)
        search.end(one.outcome)
        if one.outcome.end != "abandoned":
            reduced.append(one)
    assert not search.doubt
    assert {one.what_came_of_it for one in reduced} == {one.what_came_of_it for one in runs}


# One of several.


@pytest.mark.rule("KE-WAIT-11")
def test_the_lowest_index_that_is_signalled_satisfies_a_wait_for_any_and_nothing_else_is_taken() -> None:
    async def script(lab: Lab) -> list[Any]:
        first = event(SynchronizationEvent)
        second, third = event(SynchronizationEvent, True), event(SynchronizationEvent, True)
        status = await wait_any(first, second, third)
        return [status, await poll(second), await poll(third)]

    assert run(script).result == [STATUS_WAIT_1, False, True]


@pytest.mark.rule("KE-WAIT-11", "KE-WAIT-10")
def test_an_index_may_be_63() -> None:
    async def script(lab: Lab) -> int:
        objects = [event(state=number == 63) for number in range(64)]
        return await wait_any(*objects)

    assert run(script).result == 63


@pytest.mark.rule("KE-WAIT-11", "KE-MUTEX-06")
def test_an_abandoned_mutex_gives_its_index_as_well() -> None:
    async def script(lab: Lab) -> int:
        never, mutant = event(), lab.mutant()

        async def dies() -> None:
            await KeWaitForSingleObject(mutant)

        await lab.start("dies", dies()).join()
        return await wait_any(never, mutant)

    assert run(script).result == STATUS_ABANDONED_WAIT_0 + 1


@pytest.mark.rule("KE-WAIT-11")
def test_any_of_two_that_race() -> None:
    async def script(lab: Lab) -> int:
        one, other = event(SynchronizationEvent), event(SynchronizationEvent)

        async def waiter() -> int:
            return await wait_any(one, other)

        async def setter(which: KEVENT) -> None:
            await KeSetEvent(which)

        return (await lab.together(waiter(), setter(one), setter(other)))[0]

    # Both are set before the waiter goes on: the lowest index; otherwise whichever was.
    assert {one.result for one in all_runs(script)} == {STATUS_WAIT_0, STATUS_WAIT_1}


@pytest.mark.rule("KE-WAIT-11", "KE-WAIT-13")
def test_two_wait_for_any_of_the_same_and_each_signal_releases_one() -> None:
    async def script(lab: Lab) -> list[Any]:
        one, other = event(SynchronizationEvent), event(SynchronizationEvent)

        async def waiter() -> int:
            return await wait_any(one, other)

        async def setter() -> None:
            await KeSetEvent(one)
            await KeSetEvent(other)

        return (await lab.together(waiter(), waiter(), setter()))[:2]

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.result) for one in runs} == {(0, 1), (1, 0)}


# All of several.


@pytest.mark.rule("KE-WAIT-12", "KE-WAIT-13")
def test_a_wait_for_all_takes_all_together_or_nothing() -> None:
    async def script(lab: Lab) -> list[Any]:
        one, count, note = event(SynchronizationEvent, True), semaphore(1), event(state=True)
        never = event()
        failed = await wait_all(one, count, note, never, timeout=-1)
        left = [await KeReadStateEvent(one), count.count]
        passed = await wait_all(one, count, note, timeout=0)
        return [failed, *left, passed, await KeReadStateEvent(one), count.count, await KeReadStateEvent(note)]

    assert run(script).result == [STATUS_TIMEOUT, 1, 1, STATUS_SUCCESS, 0, 0, 1]


@pytest.mark.rule("KE-WAIT-12")
def test_who_waits_for_all_holds_nothing_while_he_waits() -> None:
    """Two that each wait for all of two mutexes, in different orders, never lock each other out."""

    async def script(lab: Lab) -> None:
        left, right = mutex("left"), mutex("right")

        async def eater(*both: KMUTEX) -> None:
            assert await wait_all(*both) == STATUS_SUCCESS
            for one in both:
                await KeReleaseMutex(one, False)

        await lab.together(eater(left, right), eater(right, left))

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-WAIT-12")
def test_somebody_else_may_take_one_of_them_meanwhile() -> None:
    async def script(lab: Lab) -> list[Any]:
        one, other = event(SynchronizationEvent), event(SynchronizationEvent)

        async def both() -> int:
            return await wait_all(one, other, timeout=-SECOND)

        async def only() -> int:
            return await KeWaitForSingleObject(one, Executive, KernelMode, False, -SECOND)

        async def setter() -> None:
            await KeSetEvent(one)
            await KeSetEvent(other)

        return (await lab.together(both(), only(), setter()))[:2]

    runs = all_runs(script, unseen=True)
    reduced_search_finds(script, runs)
    results = {tuple(one.result) for one in runs}
    # Both may have given up before the events are set; never both are satisfied.
    assert results == {(0, 0x102), (0x102, 0), (0x102, 0x102)}


@pytest.mark.rule("KE-WAIT-12", "KE-MUTEX-06")
def test_a_wait_for_all_tells_of_an_abandoned_mutex() -> None:
    async def script(lab: Lab) -> int:
        mutant = lab.mutant()

        async def dies() -> None:
            await KeWaitForSingleObject(mutant)

        await lab.start("dies", dies()).join()
        return await wait_all(event(state=True), mutant)

    assert run(script).result == STATUS_ABANDONED_WAIT_0


def test_what_a_deadlock_among_waits_for_several_is_made_of() -> None:
    def script_of(wait: Callable[..., Awaitable[Any]], with_event: bool) -> Script:
        async def script(lab: Lab) -> None:
            left, right, other = mutex("left"), mutex("right"), event()

            async def one(mine: KMUTEX, theirs: KMUTEX) -> None:
                await KeWaitForSingleObject(mine)
                await lab.step()
                await wait(theirs, other) if with_event else await wait(theirs, theirs)

            await lab.together(one(left, right), one(right, left))

        return script

    assert "ke.deadlock" in codes(all_runs(script_of(wait_any, False), bound=1))
    # Somebody whom nobody knows might set the event.
    assert "ke.deadlock" not in codes(all_runs(script_of(wait_any, True), bound=1))
    found = [one for one in all_runs(script_of(wait_all, True), bound=1) if one.code == "ke.deadlock"]
    assert found
    assert "see the signal of right and event" in found[0].finding.detail


# How many.


@pytest.mark.rule("KE-WAIT-10")
@pytest.mark.parametrize(
    ("count", "blocks", "fine"),
    [(3, None, True), (4, None, False), (4, 4, True), (4, 3, False), (64, 64, True), (65, 65, False), (0, None, False),
     (-1, 64, False)],
)  # fmt: skip
def test_as_many_objects_as_there_are_wait_blocks(count: int, blocks: int | None, fine: bool) -> None:
    async def script(lab: Lab) -> int:
        objects = [event(state=True) for _ in range(max(count, 1))]
        array = None if blocks is None else KWAIT_BLOCK(blocks)
        return await KeWaitForMultipleObjects(count, objects, WaitAll, Executive, KernelMode, False, None, array)

    one = run(script)
    assert one.code == (None if fine else "ke.wait-objects")
    if not fine:
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.code == 0xC
    assert (THREAD_WAIT_OBJECTS, MAXIMUM_WAIT_OBJECTS) == (3, 64)


@pytest.mark.rule("KE-WAIT-02", "KE-WAIT-01")
@pytest.mark.parametrize(
    ("array", "code", "words"),
    [
        (lambda: [event()], "ke.bad-pointer", "2 as Count, and 1 as Object"),
        (lambda: None, "ke.bad-pointer", "a NoneType instead as Object"),
        (event, "ke.bad-pointer", "a KEVENT instead"),
        (lambda: [event(), None], "ke.bad-pointer", "NULL in Object"),
        (lambda: [event(), FAST_MUTEX()], "ke.bad-pointer", "a FAST_MUTEX in Object"),
        (lambda: [event(), KEVENT("raw")], "ke.uninitialised", "raw"),
    ],
)
def test_an_array_of_other_things(array: Callable[[], Any], code: str, words: str) -> None:
    async def script(lab: Lab) -> None:
        await KeWaitForMultipleObjects(2, array(), WaitAny)

    one = run(script)
    assert one.code == code
    assert words in one.finding.detail


def test_an_object_in_freed_memory_is_not_waited_for_with_others() -> None:
    async def script(lab: Lab) -> None:
        gone = event(label="gone")
        lab.system.freed[gone] = "freed by somebody"
        await wait_any(event(), gone)

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert "gone, freed by somebody" in one.finding.detail


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: KeWaitForMultipleObjects(1, [event()], 2), "wait type 2"),
        (lambda: KeWaitForSingleObject(event(), Executive, 7), "wait mode 7"),
        (lambda: KeWaitForSingleObject(event(), Executive, KernelMode, False, 2**63), "a timeout of 92233720368"),
        (lambda: KeWaitForSingleObject(event(), Executive, KernelMode, False, -(2**63) - 1), "timeout of -92233"),
        (lambda: KeWaitForSingleObject(event(), Timeout=0.5), "a timeout of 0.5"),  # type: ignore[arg-type]
        (lambda: KeWaitForMultipleObjects(1, [event()], WaitAny, Timeout=True), "a timeout of True"),
        (lambda: KeDelayExecutionThread(KernelMode, False, None), "without an interval"),  # type: ignore[arg-type]
        (lambda: KeDelayExecutionThread(KernelMode, False, "1"), "a timeout of '1'"),  # type: ignore[arg-type]
        (lambda: KeDelayExecutionThread(9, False, -1), "wait mode 9"),
    ],
)  # fmt: skip
def test_what_c_could_not_pass_is_refused_by_name(call: Callable[[], Awaitable[Any]], words: str) -> None:
    async def script(lab: Lab) -> None:
        await call()

    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        run(script)
    assert "test_wait.py:" in str(caught.value)


@pytest.mark.rule("KE-WAIT-03")
def test_the_ends_of_the_range_of_timeouts() -> None:
    async def script(lab: Lab) -> list[int]:
        ready = event(state=True)
        return [
            await KeWaitForSingleObject(ready, Executive, KernelMode, False, timeout)
            for timeout in (-(2**63), 2**63 - 1)
        ]

    assert run(script).result == [0, 0]


@pytest.mark.rule("KE-WAIT-03")
@pytest.mark.parametrize(("timeout", "waited"), [(-3, 3), (5 * SECOND, 3 * SECOND), (SECOND, 0), (0, 0)])
def test_a_wait_for_several_is_limited_as_one_for_one(timeout: int, waited: int) -> None:
    async def script(lab: Lab) -> tuple[int, int]:
        await lab.sleep(2)
        before = lab.now()
        return await wait_any(event(), event(), timeout=timeout), lab.now() - before

    assert run(script).result == (STATUS_TIMEOUT, waited)


# Where a wait is possible.


def at_level(irql: int, call: Callable[[], Awaitable[Any]], *, in_dpc: bool = False) -> Run:
    async def script(lab: Lab) -> None:
        thread = current_kthread()
        thread.irql = irql
        thread.in_dpc = in_dpc
        await call()

    return run(script)


@pytest.mark.rule("KE-WAIT-04")
@pytest.mark.parametrize(
    ("irql", "timeout", "first"),
    [(DISPATCH_LEVEL, None, 0x121), (DISPATCH_LEVEL, -1, 0x122), (5, 0, 0x120), (5, None, 0x120)],
)
@pytest.mark.parametrize("in_dpc", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_a_wait_at_a_raised_level_stops_the_system(
    irql: int, timeout: int | None, first: int, in_dpc: bool, several: bool
) -> None:
    async def call() -> None:
        if several:
            await wait_any(event(state=True), timeout=timeout)
        else:
            await KeWaitForSingleObject(event(state=True), Executive, KernelMode, False, timeout)

    found = at_level(irql, call, in_dpc=in_dpc).finding
    assert found.code == "ke.irql"
    assert found.bug_check is not None
    assert found.verifier is not None
    assert found.bug_check.code == (0xB8 if in_dpc else 0xA)
    assert (found.verifier.code, found.verifier.parameters[0]) == (0xC4, first)


@pytest.mark.rule("KE-WAIT-18")
def test_a_delay_needs_a_thread_that_may_wait() -> None:
    found = at_level(DISPATCH_LEVEL, lambda: KeDelayExecutionThread(KernelMode, False, -1)).finding
    assert found.code == "ke.irql"
    assert found.verifier is not None
    assert found.verifier.parameters[0] == 0x122
    assert at_level(APC_LEVEL, lambda: KeDelayExecutionThread(KernelMode, False, -1)).code is None


@pytest.mark.rule("KE-SPIN-08")
@pytest.mark.parametrize("several", [True, False])
def test_no_wait_under_a_spin_lock_whose_level_was_lowered(several: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(lock)
        current_kthread().irql = await KeAcquireSpinLock(lock)
        if several:
            await wait_any(event(state=True))
        else:
            await KeDelayExecutionThread(KernelMode, False, -1)

    assert run(script).code == "ke.spin-forbidden-call"


# Delays.


@pytest.mark.rule("KE-WAIT-18")
@pytest.mark.parametrize(
    ("interval", "end"),
    [(-1, CLOCK_TICK), (-CLOCK_TICK, CLOCK_TICK), (-CLOCK_TICK - 1, 2 * CLOCK_TICK), (0, 0),
     (2 * CLOCK_TICK, 2 * CLOCK_TICK)],
)  # fmt: skip
def test_a_delay_lasts_to_the_next_tick_and_never_ends_early(interval: int, end: int) -> None:
    async def script(lab: Lab) -> tuple[int, int]:
        status = await KeDelayExecutionThread(KernelMode, False, interval)
        return status, lab.now()

    assert run(script).result == (STATUS_SUCCESS, end)


@pytest.mark.rule("KE-WAIT-18")
def test_two_delays_that_end_at_different_ticks_end_in_that_order() -> None:
    async def script(lab: Lab) -> None:
        async def sleeper(name: str, ticks: int) -> None:
            await KeDelayExecutionThread(KernelMode, False, -ticks * CLOCK_TICK)
            lab.note(name, lab.now())

        await lab.together(sleeper("long", 2), sleeper("short", 1))

    for one in all_runs(script):
        # A thread that is awake need not run at once, so that the notes may come in any order.
        assert one.note("short").value >= CLOCK_TICK
        assert one.note("long").value >= 2 * CLOCK_TICK


# Interruptions.


@pytest.mark.rule("KE-WAIT-06")
@pytest.mark.parametrize(
    ("mode", "alertable", "alert", "interrupted"),
    [
        (KernelMode, True, KernelMode, True),
        (UserMode, True, KernelMode, True),
        (UserMode, True, UserMode, True),
        (KernelMode, True, UserMode, False),
        (UserMode, False, UserMode, False),
        (UserMode, False, KernelMode, False),
        (KernelMode, False, KernelMode, False),
    ],
)
@pytest.mark.parametrize("what", ["one", "several", "delay"])
def test_an_alert_ends_alertable_waits(mode: int, alertable: bool, alert: int, interrupted: bool, what: str) -> None:
    async def script(lab: Lab) -> int:
        async def waiter() -> int:
            if what == "one":
                return await KeWaitForSingleObject(event(), Executive, mode, alertable, -SECOND)
            if what == "several":
                return await wait_any(event(), event(), mode=mode, alertable=alertable, timeout=-SECOND)
            return await KeDelayExecutionThread(mode, alertable, -SECOND)

        started = lab.start("waiter", waiter())
        await lab.alert(started, alert)
        return await started.join()

    expired = STATUS_SUCCESS if what == "delay" else STATUS_TIMEOUT
    assert {one.result for one in all_runs(script)} == ({STATUS_ALERTED, expired} if interrupted else {expired})


@pytest.mark.rule("KE-WAIT-06")
@pytest.mark.parametrize(
    ("alerts", "most"), [((KernelMode,), 1), ((KernelMode, KernelMode), 2), ((KernelMode, UserMode), 2)]
)
def test_an_alert_is_taken_once_and_waits_for_the_next_wait(alerts: tuple[int, ...], most: int) -> None:
    async def script(lab: Lab) -> list[int]:
        async def waiter() -> list[int]:
            await lab.step("not waiting yet")
            return [int(await KeWaitForSingleObject(event(), Executive, UserMode, True, 0)) for _ in range(2)]

        started = lab.start("waiter", waiter())
        for mode in alerts:
            await lab.alert(started, mode)
        return await started.join()

    results = {tuple(one.result) for one in all_runs(script)}
    # Two of one mode are one if nobody takes the first before the second comes.
    assert {one.count(STATUS_ALERTED) for one in results} == set(range(most + 1))
    assert (STATUS_ALERTED, STATUS_TIMEOUT) in results


@pytest.mark.rule("KE-WAIT-06")
def test_a_signal_that_is_there_comes_before_an_alert() -> None:
    async def script(lab: Lab) -> int:
        async def waiter() -> int:
            await lab.step()
            return await KeWaitForSingleObject(event(state=True), Executive, UserMode, True, None)

        started = lab.start("waiter", waiter())
        await lab.alert(started)
        return await started.join()

    assert {one.result for one in all_runs(script)} == {STATUS_SUCCESS}


@pytest.mark.rule("KE-WAIT-06")
def test_an_alert_and_a_signal_race() -> None:
    async def script(lab: Lab) -> list[Any]:
        ready = event(SynchronizationEvent)

        async def waiter() -> int:
            return await KeWaitForSingleObject(ready, Executive, UserMode, True, None)

        async def setter() -> None:
            await KeSetEvent(ready)

        started = lab.start("waiter", waiter())
        setting = lab.start("setter", setter())
        await lab.alert(started)
        status = await started.join()
        await setting.join()
        return [status, await KeReadStateEvent(ready)]

    results = {tuple(one.result) for one in all_runs(script)}
    # Who was alerted has not taken the signal, which is still there.
    assert results == {(STATUS_SUCCESS, 0), (STATUS_ALERTED, 1)}


@pytest.mark.rule("KE-WAIT-06", "KE-APC-12")
@pytest.mark.parametrize(
    ("mode", "region", "interrupted"),
    [(UserMode, False, True), (UserMode, True, False), (KernelMode, False, False)],
)
def test_termination_ends_waits_in_user_mode_unless_apcs_are_disabled(
    mode: int, region: bool, interrupted: bool
) -> None:
    async def script(lab: Lab) -> int:
        async def waiter() -> int:
            if region:
                KeEnterCriticalRegion()
            status = await KeWaitForSingleObject(event(), Executive, mode, False, -SECOND)
            if region:
                KeLeaveCriticalRegion()
            return status

        started = lab.start("waiter", waiter())
        await lab.terminate(started)
        return await started.join()

    expected = {STATUS_USER_APC, STATUS_TIMEOUT} if interrupted else {STATUS_TIMEOUT}
    assert {one.result for one in all_runs(script)} == expected


@pytest.mark.rule("KE-APC-12")
@pytest.mark.parametrize(
    ("timeout", "region", "mode", "code"),
    [
        (None, True, UserMode, "ke.unkillable-wait"),
        (-1, True, UserMode, None),
        (None, False, UserMode, None),
        (None, True, KernelMode, None),
    ],
)
def test_an_endless_wait_in_user_mode_in_a_critical_region_cannot_be_ended(
    timeout: int | None, region: bool, mode: int, code: str | None
) -> None:
    async def script(lab: Lab) -> None:
        ready = event(state=True)

        async def waiter() -> None:
            if region:
                KeEnterCriticalRegion()
            await KeWaitForSingleObject(ready, Executive, mode, False, timeout)
            if region:
                KeLeaveCriticalRegion()

        await lab.together(waiter(), process=lab.app)

    assert run(script).code == code


@pytest.mark.rule("KE-APC-12")
def test_nobody_ends_a_thread_of_the_system_anyway() -> None:
    async def script(lab: Lab) -> None:
        KeEnterCriticalRegion()
        await KeWaitForSingleObject(event(state=True), Executive, UserMode, False, None)
        KeLeaveCriticalRegion()

    assert run(script).code is None


@pytest.mark.rule("KE-WAIT-07")
@pytest.mark.parametrize(("returns", "warned"), [(True, False), (False, True)])
def test_after_status_user_apc_a_thread_returns_to_user_mode_before_it_waits_again(returns: bool, warned: bool) -> None:
    async def script(lab: Lab) -> None:
        async def call() -> NTSTATUS:
            status = await KeWaitForSingleObject(event(), Executive, UserMode, False, None)
            if not returns:
                await KeWaitForSingleObject(event(), Executive, UserMode, False, None)
            return status

        async def program() -> None:
            await lab.system_call(call())
            await lab.system_call(call())

        started = lab.start("program", program(), lab.app)
        await lab.terminate(started)
        await started.join()

    for one in all_runs(script):
        assert one.warnings == (("ke.user-apc-loop",) if warned else ())


@pytest.mark.rule("KE-WAIT-08")
@pytest.mark.parametrize("several", [True, False])
def test_a_wait_for_a_mutex_is_in_kernel_mode(several: bool) -> None:
    async def script(lab: Lab, mode: int) -> None:
        one = mutex("Mine")
        if several:
            await wait_any(event(), one, mode=mode)
        else:
            await KeWaitForSingleObject(one, Executive, mode, False, None)
        await KeReleaseMutex(one, False)

    one = run(lambda lab: script(lab, UserMode))
    assert one.code == "ke.mutex-usermode"
    assert "Mine" in one.finding.detail
    assert run(lambda lab: script(lab, KernelMode)).code is None


@pytest.mark.rule("KE-WAIT-09", "KE-CTX-08")
@pytest.mark.parametrize("which", ["object", "blocks"])
@pytest.mark.parametrize(("mode", "code"), [(UserMode, "ke.stack-object-usermode"), (KernelMode, None)])
@pytest.mark.parametrize("local", [True, False])
def test_what_lies_on_the_stack_is_not_waited_with_in_user_mode(
    which: str, mode: int, code: str | None, local: bool
) -> None:
    async def script(lab: Lab) -> None:
        done = event(state=True, label="done")
        blocks = KWAIT_BLOCK(1)
        if local:
            # `on_stack` returns what it is given, so that it can be written around the constructor.
            assert on_stack(done if which == "object" else blocks) in (done, blocks)
        await KeWaitForMultipleObjects(1, [done], WaitAny, Executive, mode, False, None, blocks)

    one = run(script)
    assert one.code == (code if local else None)
    if one.code:
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0x123,)


@pytest.mark.rule("KE-WAIT-19")
@pytest.mark.parametrize(
    ("mode", "alertable", "noted"),
    [(KernelMode, True, True), (KernelMode, False, False), (UserMode, False, False), (UserMode, True, False)],
)
def test_an_alertable_wait_in_kernel_mode_is_worth_a_remark(mode: int, alertable: bool, noted: bool) -> None:
    async def script(lab: Lab) -> None:
        await KeWaitForSingleObject(event(state=True), Executive, mode, alertable, None)

    assert run(script).warnings == (("ke.wait-mode",) if noted else ())


@pytest.mark.rule("KE-WAIT-14")
def test_which_of_several_that_wait_for_all_is_released_is_left_open() -> None:
    async def script(lab: Lab) -> list[int]:
        one, other = event(SynchronizationEvent), event(SynchronizationEvent)

        async def waiter() -> int:
            return await wait_all(one, other, timeout=-SECOND)

        async def setter() -> None:
            await KeSetEvent(one)
            await KeSetEvent(other)

        return (await lab.together(waiter(), waiter(), setter()))[:2]

    results = {tuple(one.result) for one in all_runs(script, bound=1)}
    assert {(0, 0x102), (0x102, 0)} <= results
    assert (0, 0) not in results


# Statuses.


def is_success(status: int) -> bool:
    return status == STATUS_SUCCESS


def not_timeout_and_success(status: int) -> bool:
    return status != STATUS_TIMEOUT and NT_SUCCESS(status)


def timeout_or_success(status: int) -> bool:
    return status == STATUS_TIMEOUT or NT_SUCCESS(status)


def one_of_these(status: int) -> bool:
    return status in {STATUS_TIMEOUT, STATUS_ALERTED}


@pytest.mark.rule("KE-WAIT-05")
@pytest.mark.parametrize(
    ("test", "warned"),
    [
        (NT_SUCCESS, True),
        (is_success, False),
        (not_timeout_and_success, False),
        (timeout_or_success, False),
        (one_of_these, False),
    ],
)
def test_a_wait_that_was_not_satisfied_passes_nt_success(test: Callable[[NTSTATUS], bool], warned: bool) -> None:
    async def script(lab: Lab, ready: bool) -> Any:
        status = await KeWaitForSingleObject(event(state=ready), Executive, KernelMode, False, -1)
        test(status)
        return repr(status), f"{status:x}", hash(status)

    one = run(lambda lab: script(lab, False))
    assert one.result == ("STATUS_TIMEOUT", "102", hash(0x102))
    assert one.warnings == (("ke.wait-status",) if warned else ())
    assert run(lambda lab: script(lab, True)).warnings == ()


@pytest.mark.rule("KE-WAIT-05")
def test_the_exact_values() -> None:
    assert (STATUS_TIMEOUT, STATUS_ALERTED, STATUS_USER_APC, STATUS_ABANDONED_WAIT_0) == (0x102, 0x101, 0xC0, 0x80)
    assert all(NT_SUCCESS(one) for one in (STATUS_TIMEOUT, STATUS_ALERTED, STATUS_USER_APC, STATUS_ABANDONED_WAIT_0))


# What can be waited for.


@pytest.mark.rule("KE-WAIT-01", "KE-WAIT-13")
def test_events_mutexes_semaphores_and_threads_can_be_waited_for_together() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def nothing() -> None:
            await lab.step()

        thread = lab.start("thread", nothing())
        note, own, count = event(state=True), mutex(), semaphore(2)
        status = await wait_all(note, own, count, thread.thread)
        seen = [status, count.count, own.owner is KeGetCurrentThread(), await poll(thread.thread), await poll(note)]
        await KeReleaseMutex(own, False)
        return seen

    assert {tuple(one.result) for one in all_runs(script)} == {(STATUS_SUCCESS, 1, True, True, True)}


def test_a_mutex_is_waited_for_under_its_own_name_as_well() -> None:
    assert KeWaitForMutexObject is KeWaitForSingleObject


# Wait = TRUE.

Announcing = Callable[[], Awaitable[Awaitable[Any]]]
"""Makes what is needed; the result is the call that announces a wait."""


async def set_event() -> Awaitable[Any]:
    return KeSetEvent(event(), 0, True)


async def release_semaphore() -> Awaitable[Any]:
    return KeReleaseSemaphore(semaphore(0), 0, 1, True)


async def release_mutex() -> Awaitable[Any]:
    one = mutex()
    await KeWaitForSingleObject(one)
    return KeReleaseMutex(one, True)


ANNOUNCING = [set_event, release_semaphore, release_mutex]
each_that_announces = pytest.mark.parametrize("announces", ANNOUNCING, ids=lambda one: one.__name__)


@each_that_announces
@pytest.mark.rule("KE-WAIT-17")
def test_a_call_that_announces_a_wait_returns_at_a_raised_level_until_the_wait(announces: Announcing) -> None:
    async def script(lab: Lab) -> list[Any]:
        ready = event(state=True)
        await (await announces())
        raised = current_kthread().irql
        status = await KeWaitForSingleObject(ready)
        return [raised, status, KeGetCurrentIrql()]

    assert run(script).result == [DISPATCH_LEVEL, STATUS_SUCCESS, 0]


@each_that_announces
@pytest.mark.rule("KE-WAIT-17")
@pytest.mark.parametrize("between", [KeReadStateEvent, KeGetCurrentIrql], ids=["awaited", "plain"])
def test_anything_else_than_the_wait_is_a_finding(announces: Announcing, between: Callable[[KEVENT], Any]) -> None:
    async def script(lab: Lab) -> None:
        ready = event(state=True)
        await (await announces())
        result = between(ready)
        if not isinstance(result, int):
            await result
        await KeWaitForSingleObject(ready)

    one = run(script)
    assert one.code == "ke.wait-true"
    assert "with Wait = TRUE" in one.finding.detail


def delay(ready: KEVENT) -> Awaitable[Any]:
    return KeDelayExecutionThread(KernelMode, False, -1)


def announced_again(ready: KEVENT) -> Awaitable[Any]:
    return KeSetEvent(ready, 0, True)


@pytest.mark.rule("KE-WAIT-17")
@pytest.mark.parametrize("wait", [wait_any, delay])
def test_every_kind_of_wait_will_do(wait: Callable[[KEVENT], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> int:
        ready = event(state=True)
        await KeSetEvent(ready, 0, True)
        await wait(ready)
        return KeGetCurrentIrql()

    assert run(script).result == 0


@pytest.mark.rule("KE-WAIT-17", "KE-RACE-24")
def test_the_pair_is_not_atomic() -> None:
    """The waiter signals the server and waits for its answer; somebody else comes in between and takes that."""

    async def script(lab: Lab) -> None:
        asked, answered = event(SynchronizationEvent), event(SynchronizationEvent)

        async def client() -> None:
            await KeSetEvent(asked, 0, True)
            await KeWaitForSingleObject(answered, Executive, KernelMode, False, None)

        async def server() -> None:
            await KeWaitForSingleObject(asked)
            await KeSetEvent(answered)

        async def thief() -> None:
            if await poll(answered):
                lab.note("stolen")

        await lab.together(client(), server(), thief())

    runs = all_runs(script)
    assert codes(runs) == {None, "ke.hang"}
    assert all(one.order == ["stolen"] for one in runs if one.code)
