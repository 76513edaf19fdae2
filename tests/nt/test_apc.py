"""APCs: where they come, what holds them back, what becomes of threads that wait for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.errors import ForeignAwaitable, ScenarioError, UsageError
from kemu.nt.apc import KAPC, check_completion_wait, complete_to_thread, queue_apc, takes_apcs
from kemu.nt.dispatcher import NORMAL_KERNEL
from kemu.nt.kthread import current_kthread
from kemu.wdk.ntddk import (
    KeAreApcsDisabled,
    KeEnterCriticalRegion,
    KeEnterGuardedRegion,
    KeLeaveCriticalRegion,
    KeLeaveGuardedRegion,
)
from kemu.wdk.ntifs import KeStackAttachProcess, KeUnstackDetachProcess
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT, STATUS_USER_APC
from kemu.wdk.wdm import (
    APC_LEVEL,
    FAST_MUTEX,
    KEVENT,
    KMUTEX,
    KSEMAPHORE,
    ExAcquireFastMutex,
    Executive,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeAreAllApcsDisabled,
    KeDelayExecutionThread,
    KeGetCurrentIrql,
    KeInitializeEvent,
    KeInitializeMutex,
    KeInitializeSemaphore,
    KeLowerIrql,
    KeRaiseIrql,
    KeReadStateEvent,
    KeReleaseMutex,
    KeReleaseSemaphore,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    SynchronizationEvent,
    UserMode,
)

SECOND = 10_000_000


def made(kind: int = NotificationEvent, state: bool = False, label: str = "event") -> KEVENT:
    event = KEVENT(label)
    KeInitializeEvent(event, kind, state)
    return event


async def something(lab: Lab) -> None:
    """A WDK routine that is awaited, before which APCs come."""
    await KeReadStateEvent(made())


# Delivery.


@pytest.mark.rule("KE-APC-01", "KE-APC-02")
@pytest.mark.parametrize(("kind", "irql"), [("special", APC_LEVEL), ("normal", 0)])
def test_a_kernel_apc_runs_in_its_thread_at_the_level_of_its_kind(kind: str, irql: int) -> None:
    async def script(lab: Lab) -> None:
        async def apc(what: str) -> None:
            lab.note(what)

        async def target() -> None:
            await something(lab)
            await something(lab)

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc, "apc", kind=kind)
        await started.join()

    for one in all_runs(script):
        if one.order:
            assert (one.note("apc").thread, one.note("apc").irql) == ("target", irql)


@pytest.mark.rule("KE-APC-02")
def test_an_apc_comes_before_or_between_calls_or_at_the_end_and_never_in_a_thread_that_has_ended() -> None:
    async def script(lab: Lab) -> bool:
        async def apc() -> None:
            lab.note("apc")

        async def target() -> None:
            await something(lab)
            lab.note("first")
            await something(lab)
            lab.note("second")

        started = lab.start("target", target(), apcs=True)
        queued = await lab.queue_apc(started, apc)
        await started.join()
        return queued

    runs = all_runs(script)
    assert {(*one.order, one.result) for one in runs} == {
        ("apc", "first", "second", True),
        ("first", "apc", "second", True),
        ("first", "second", "apc", True),
        ("first", "second", False),
    }


@pytest.mark.rule("KE-APC-01", "KE-APC-02")
def test_special_ones_come_first_interrupt_normal_ones_and_normal_ones_do_not_nest() -> None:
    async def script(lab: Lab) -> None:
        go = made()

        async def special() -> None:
            lab.note("special")

        async def normal(name: str) -> None:
            lab.note(f"{name} begins")
            if name == "A":
                await lab.queue_apc(started, special, kind="special")
                await lab.queue_apc(started, normal, "B")
                await something(lab)
            lab.note(f"{name} ends")

        async def target() -> None:
            await KeWaitForSingleObject(go)
            await something(lab)

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, normal, "A")
        await KeSetEvent(go)
        await started.join()

    for one in all_runs(script, bound=1):
        assert [what for what in one.order if "special" not in what] == ["A begins", "A ends", "B begins", "B ends"]
        assert one.before("A begins", "special")
        assert one.before("special", "A ends")


@pytest.mark.rule("KE-APC-02")
def test_of_two_in_the_queue_the_special_one_comes_first() -> None:
    async def script(lab: Lab) -> None:
        async def apc(name: str) -> None:
            lab.note(name)

        async def target() -> None:
            KeEnterGuardedRegion()
            await KeWaitForSingleObject(go)
            KeLeaveGuardedRegion()
            await something(lab)

        go = made()
        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc, "normal")
        await lab.queue_apc(started, apc, "special", kind="special")
        await KeSetEvent(go)
        await started.join()

    assert run(script).order == ["special", "normal"]


Hold = tuple[Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]]


def critical() -> Hold:
    async def enter() -> None:
        KeEnterCriticalRegion()

    async def leave(_: Any) -> None:
        KeLeaveCriticalRegion()

    return enter, leave


def twice() -> Hold:
    async def enter() -> None:
        KeEnterCriticalRegion()
        KeEnterCriticalRegion()
        KeLeaveCriticalRegion()

    async def leave(_: Any) -> None:
        KeLeaveCriticalRegion()

    return enter, leave


def guarded() -> Hold:
    async def enter() -> None:
        KeEnterGuardedRegion()

    async def leave(_: Any) -> None:
        KeLeaveGuardedRegion()

    return enter, leave


def raised() -> Hold:
    async def enter() -> int:
        return KeRaiseIrql(APC_LEVEL)

    async def leave(old: int) -> None:
        KeLowerIrql(old)

    return enter, leave


def fast_mutex() -> Hold:
    mutex = FAST_MUTEX("Fast")
    ExInitializeFastMutex(mutex)
    return (lambda: ExAcquireFastMutex(mutex)), (lambda _: ExReleaseFastMutex(mutex))


def mutex_object() -> Hold:
    mutex = KMUTEX("Mutex")
    KeInitializeMutex(mutex, 0)

    async def release(_: Any) -> None:
        await KeReleaseMutex(mutex, False)

    return (lambda: KeWaitForSingleObject(mutex)), release


def attached() -> Hold:
    async def enter() -> Any:
        process = current_kthread().process
        assert process is not None
        return KeStackAttachProcess(process)

    async def leave(state: Any) -> None:
        KeUnstackDetachProcess(state)

    return enter, leave


HOLDS = [
    (critical, True, False),
    (twice, True, False),
    (mutex_object, True, False),
    (guarded, True, True),
    (raised, True, True),
    (fast_mutex, True, True),
    (attached, True, True),
]
"""What holds back normal ones, and whether special ones as well."""


@pytest.mark.rule("KE-APC-03", "KE-APC-05", "KE-WAIT-16", "KE-MUTEX-04")
@pytest.mark.parametrize("kind", ["normal", "special"])
@pytest.mark.parametrize(("hold", "normal", "special"), HOLDS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_holds_apcs_back(hold: Callable[[], Hold], normal: bool, special: bool, kind: str) -> None:
    async def script(lab: Lab) -> None:
        enter, leave = hold()
        queued = made(label="queued")

        async def apc() -> None:
            lab.note("apc")

        async def target() -> None:
            old = await enter()
            lab.note("held")
            await KeWaitForSingleObject(queued)
            await something(lab)
            lab.note("let go")
            await leave(old)
            await something(lab)
            lab.note("end")

        started = lab.start("target", target(), apcs=True)
        await lab.step("until it holds it")
        await lab.queue_apc(started, apc, kind=kind)
        await KeSetEvent(queued)
        await started.join()

    held_back = normal if kind == "normal" else special
    runs = all_runs(script)
    assert codes(runs) == {None}
    # It may come before everything; if not, it comes inside, or when it is let in again.
    late = {one.index("apc") for one in runs if not one.before("apc", "held")}
    assert late == ({2} if held_back else {1})


@pytest.mark.rule("KE-APC-10")
def test_what_the_two_questions_look_at() -> None:
    async def script(lab: Lab) -> list[bool]:
        seen: list[bool] = []
        for enter, leave in (
            (KeEnterCriticalRegion, KeLeaveCriticalRegion),
            (KeEnterGuardedRegion, KeLeaveGuardedRegion),
        ):
            enter()
            seen += [KeAreApcsDisabled(), KeAreAllApcsDisabled()]
            leave()
        old = KeRaiseIrql(APC_LEVEL)
        seen += [KeAreApcsDisabled(), KeAreAllApcsDisabled()]
        KeLowerIrql(old)
        return [*seen, KeAreApcsDisabled(), KeAreAllApcsDisabled()]

    assert run(script).result == [True, False, True, True, False, True, False, False]


@pytest.mark.rule("KE-APC-03")
def test_a_region_concerns_the_thread_that_is_in_it() -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None:
            lab.note("apc")

        async def other() -> None:
            KeEnterGuardedRegion()
            await lab.step()
            KeLeaveGuardedRegion()

        async def target() -> None:
            await KeWaitForSingleObject(go)

        go = made()
        started = lab.start("target", target(), apcs=True)
        between = lab.start("other", other())
        await lab.queue_apc(started, apc)
        await KeSetEvent(go)
        await started.join()
        await between.join()

    assert all(one.order == ["apc"] for one in all_runs(script))


# Waits.


@pytest.mark.rule("KE-WAIT-15", "KE-APC-02")
@pytest.mark.parametrize("alertable", [True, False])
def test_a_kernel_apc_interrupts_a_wait_and_the_wait_goes_on(alertable: bool) -> None:
    async def script(lab: Lab) -> int:
        event = made()

        async def apc() -> None:
            lab.note("apc")
            await KeSetEvent(event)

        async def target() -> int:
            status = await KeWaitForSingleObject(event, Executive, KernelMode, alertable, None)
            lab.note("woken")
            return status

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc, kind="special")
        return await started.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {(*one.order, one.result) for one in runs} == {("apc", "woken", STATUS_SUCCESS)}


@pytest.mark.rule("KE-WAIT-15")
def test_what_an_apc_takes_is_part_of_the_time_of_the_wait() -> None:
    async def script(lab: Lab) -> tuple[int, int]:
        async def apc() -> None:
            await KeDelayExecutionThread(KernelMode, False, -SECOND)

        async def target() -> tuple[int, int]:
            before = lab.now()
            await KeSetEvent(waits)
            status = await KeWaitForSingleObject(made(), Executive, KernelMode, False, -2 * SECOND)
            return int(status), lab.now() - before

        waits = made()
        started = lab.start("target", target(), apcs=True)
        await KeWaitForSingleObject(waits)
        await lab.queue_apc(started, apc)
        return await started.join()

    assert run(script).result == (STATUS_TIMEOUT, 2 * SECOND)


@pytest.mark.rule("KE-WAIT-15")
def test_a_wait_that_has_expired_while_an_apc_ran_ends() -> None:
    async def script(lab: Lab) -> int:
        async def apc() -> None:
            await KeDelayExecutionThread(KernelMode, False, -3 * SECOND)

        async def target() -> int:
            return await KeWaitForSingleObject(made(), Executive, KernelMode, False, -2 * SECOND)

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc)
        return await started.join()

    assert run(script).result == STATUS_TIMEOUT


@pytest.mark.rule("KE-WAIT-15", "KE-WAIT-18")
def test_a_delay_is_interrupted_as_well() -> None:
    async def script(lab: Lab) -> int:
        async def apc() -> None:
            lab.note("apc", lab.now())

        async def target() -> int:
            return await KeDelayExecutionThread(KernelMode, False, -SECOND)

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc)
        return await started.join()

    one = run(script)
    assert (one.result, one.note("apc").value) == (STATUS_SUCCESS, 0)


@pytest.mark.rule("KE-WAIT-16")
def test_a_wait_for_a_mutex_lets_no_normal_apc_in_once_it_is_over() -> None:
    async def script(lab: Lab) -> None:
        mutex = KMUTEX("Mutex")
        KeInitializeMutex(mutex, 0)

        async def apc() -> None:
            assert mutex.owner is not current_kthread()

        async def target() -> None:
            await KeWaitForSingleObject(mutex)
            await something(lab)
            await KeReleaseMutex(mutex, False)

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc)
        await started.join()

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-APC-02")
def test_an_apc_comes_when_a_wait_is_over_before_the_code_after_it() -> None:
    async def script(lab: Lab) -> None:
        ready, go = made(), made()

        async def apc() -> None:
            lab.note("apc")

        async def target() -> None:
            await KeSetEvent(ready)
            await KeWaitForSingleObject(go)
            lab.note("after")

        started = lab.start("target", target(), apcs=True)
        # The thread stands at its wait now; the signal, which comes first, satisfies it.
        await KeWaitForSingleObject(ready)
        await KeSetEvent(go)
        await lab.queue_apc(started, apc)
        await started.join()

    runs = all_runs(script)
    assert {tuple(one.order) for one in runs} == {("apc", "after"), ("after",)}


# User APCs.


@pytest.mark.rule("KE-WAIT-06", "KE-APC-01")
@pytest.mark.parametrize(
    ("mode", "alertable", "interrupted", "delivered"),
    [
        (UserMode, True, True, True),
        (KernelMode, True, True, False),
        (UserMode, False, False, False),
        (KernelMode, False, False, False),
    ],
)
@pytest.mark.parametrize("kind", ["user", "special user"])
def test_a_user_apc_and_the_modes_of_a_wait(
    mode: int, alertable: bool, interrupted: bool, delivered: bool, kind: str
) -> None:
    async def script(lab: Lab) -> int:
        go = made()

        async def apc() -> None:
            lab.note("apc")

        async def call() -> int:
            await KeWaitForSingleObject(go)
            return await KeWaitForSingleObject(made(), Executive, mode, alertable, -SECOND)

        async def program() -> int:
            status = await lab.system_call(call())
            lab.note("in user mode")
            return int(status)

        started = lab.start("program", program(), lab.app, apcs=True)
        await lab.queue_apc(started, apc, kind=kind)
        await KeSetEvent(go)
        return await started.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_USER_APC if interrupted else STATUS_TIMEOUT}
    # A special one is delivered whenever its thread returns to user mode, alertable or not.
    comes = delivered or kind == "special user"
    assert {tuple(one.order) for one in runs} == {("apc", "in user mode") if comes else ("in user mode",)}


@pytest.mark.rule("KE-WAIT-06", "KE-APC-01")
def test_one_alertable_wait_lets_user_apcs_in_once() -> None:
    async def script(lab: Lab) -> None:
        async def apc(name: str) -> None:
            lab.note(name)

        async def alertable() -> None:
            await KeWaitForSingleObject(made(), Executive, UserMode, True, None)

        async def plain() -> None:
            await KeReadStateEvent(made())

        async def program() -> None:
            await lab.system_call(alertable())
            await lab.queue_apc(started, apc, "second", kind="user")
            await lab.system_call(plain())
            lab.note("end")

        started = lab.start("program", program(), lab.app, apcs=True)
        await lab.queue_apc(started, apc, "first", kind="user")
        await started.join()

    assert {tuple(one.order) for one in all_runs(script)} == {("first", "end")}


@pytest.mark.rule("KE-APC-01", "KE-APC-12")
def test_a_kernel_apc_comes_before_a_user_apc_on_the_way_to_user_mode() -> None:
    async def script(lab: Lab) -> None:
        go = made()

        async def apc(name: str) -> None:
            lab.note(name)

        async def call() -> None:
            KeEnterCriticalRegion()
            await KeWaitForSingleObject(go)
            KeLeaveCriticalRegion()

        async def program() -> None:
            await lab.system_call(call())

        started = lab.start("program", program(), lab.app, apcs=True)
        await lab.queue_apc(started, apc, "user", kind="special user")
        await lab.queue_apc(started, apc, "kernel")
        await KeSetEvent(go)
        await started.join()

    assert run(script).order == ["kernel", "user"]


# What APCs leave behind.


@pytest.mark.rule("KE-IRQL-10", "KE-APC-06")
@pytest.mark.parametrize("of_a_driver", [True, False])
@pytest.mark.parametrize(
    ("leaves", "code", "parameter"),
    [(lambda: KeRaiseIrql(2), 0xC8, 2 << 16 | 0 << 8 | 1), (KeEnterCriticalRegion, 0x1, 0)],
    ids=["irql", "region"],
)
def test_an_apc_routine_leaves_its_thread_as_it_was(
    leaves: Callable[[], Any], code: int, parameter: int, of_a_driver: bool
) -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None:
            leaves()

        async def target() -> None:
            await KeWaitForSingleObject(made())

        driver = (await lab.filter("D", "1", {})).driver_object if of_a_driver else None
        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc, driver=driver)
        await started.join()

    found = run(script).finding
    assert found.code == "callback-dirty-exit"
    assert "apc" in found.detail
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters[0]) == (code, parameter)


@pytest.mark.rule("KE-APC-09")
@pytest.mark.parametrize(
    ("enter", "disable"), [(KeEnterCriticalRegion, 0x0000FFFF), (KeEnterGuardedRegion, 0xFFFF0000)]
)
def test_a_thread_that_ends_and_lets_a_kernel_apc_not_in_stops_the_system(
    enter: Callable[[], None], disable: int
) -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None: ...

        async def target() -> None:
            enter()
            await KeWaitForSingleObject(go)

        go = made()
        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc)
        await KeSetEvent(go)
        await started.join()

    runs = all_runs(script)
    assert codes(runs) == {"ke.apc-pending-exit"}
    found = next(one for one in runs if one.code).finding
    assert "target ends with normal kernel APC apc" in found.detail
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters) == (0x20, (0, disable, 0))


@pytest.mark.rule("KE-APC-09")
def test_what_is_let_in_comes_before_the_thread_ends() -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None:
            lab.note("apc")

        async def target() -> None:
            KeEnterCriticalRegion()
            await KeWaitForSingleObject(go)
            KeLeaveCriticalRegion()

        go = made()
        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc)
        await KeSetEvent(go)
        await started.join()

    assert all(one.order == ["apc"] for one in all_runs(script))


# I/O completion.


@pytest.mark.rule("KE-APC-13", "KE-APC-11", "KE-RACE-22")
@pytest.mark.parametrize(("hold", "normal", "special"), HOLDS, ids=lambda one: getattr(one, "__name__", ""))
def test_io_of_a_thread_that_lets_no_special_apc_in_never_completes(
    hold: Callable[[], Hold], normal: bool, special: bool
) -> None:
    async def script(lab: Lab) -> None:
        done = made(label="done")
        enter, leave = hold()

        async def issuer() -> None:
            old = await enter()
            await KeSetEvent(begun)
            await KeWaitForSingleObject(done)
            await leave(old)

        def finish() -> None:
            done.signalled = True
            current_kthread().write(done)
            done.changed()
            lab.note("completed")

        begun = made(label="begun")
        started = lab.start("issuer", issuer(), apcs=True)
        await KeWaitForSingleObject(begun)
        await complete_to_thread(started.thread, finish, "ZwReadFile")
        await started.join()

    runs = all_runs(script)
    assert codes(runs) == {"ke.apc-io-deadlock" if special else None}
    for one in runs:
        if special:
            assert "the completion of ZwReadFile is a special kernel APC to issuer, which is" in one.finding.detail
            assert one.finding.verifier is not None
            assert (one.finding.verifier.code, one.finding.verifier.parameters) == (0xC9, (0x302,))
        else:
            assert one.note("completed").thread == "issuer"
            assert one.note("completed").irql == APC_LEVEL


@pytest.mark.rule("KE-APC-13")
def test_a_thread_without_a_queue_is_told_in_the_completing_thread() -> None:
    async def script(lab: Lab) -> None:
        async def issuer() -> None:
            await KeWaitForSingleObject(done)

        def finish() -> None:
            done.signalled = True
            current_kthread().write(done)
            done.changed()
            lab.note("completed")

        done = made(label="done")
        started = lab.start("issuer", issuer())
        await complete_to_thread(started.thread, finish, "ZwReadFile")
        await started.join()

    assert all(one.note("completed").thread == "script" for one in all_runs(script))


@pytest.mark.rule("KE-APC-13", "KE-APC-11")
@pytest.mark.parametrize(("hold", "normal", "special"), HOLDS, ids=lambda one: getattr(one, "__name__", ""))
def test_who_is_about_to_wait_for_io_is_looked_at(hold: Callable[[], Hold], normal: bool, special: bool) -> None:
    async def script(lab: Lab) -> None:
        enter, leave = hold()
        old = await enter()
        check_completion_wait("ZwReadFile")
        await leave(old)

    assert run(script).code == ("ke.apc-io-deadlock" if special else None)


# Re-entry.


def lock_of_an_event() -> Hold:
    lock = made(SynchronizationEvent, True, "Lock")

    async def release(_: Any) -> None:
        await KeSetEvent(lock)

    return (lambda: KeWaitForSingleObject(lock)), release


def lock_of_a_semaphore() -> Hold:
    lock = KSEMAPHORE("Lock")
    KeInitializeSemaphore(lock, 1, 1)

    async def release(_: Any) -> None:
        await KeReleaseSemaphore(lock, 0, 1)

    return (lambda: KeWaitForSingleObject(lock)), release


@pytest.mark.rule("KE-APC-14", "KE-RACE-06")
@pytest.mark.parametrize("hold", [lock_of_an_event, lock_of_a_semaphore])
@pytest.mark.parametrize("protected", [True, False])
@pytest.mark.parametrize("offered", [True, False])
def test_an_apc_that_asks_for_what_its_thread_holds(hold: Callable[[], Hold], protected: bool, offered: bool) -> None:
    async def script(lab: Lab) -> None:
        acquire, release = hold()

        async def locked() -> None:
            await release(await acquire())

        async def target() -> None:
            if protected:
                KeEnterCriticalRegion()
            await locked()
            if protected:
                KeLeaveCriticalRegion()

        started = lab.start("target", target(), apcs=True)
        if offered:
            lab.offer_apc(started, locked)
        else:
            await lab.queue_apc(started, locked)
        await started.join()

    runs = all_runs(script)
    assert codes(runs) == ({None} if protected else {None, "ke.apc-reentry"})
    if not protected:
        found = next(one for one in runs if one.code).finding
        assert "normal kernel APC locked waits for Lock, which target has taken" in found.detail


@pytest.mark.rule("KE-APC-14")
def test_a_lock_with_an_owner_says_so_at_once() -> None:
    """A fast mutex held below its level, as a wrong KeLowerIrql leaves it."""

    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Fast")
        ExInitializeFastMutex(mutex)

        async def apc() -> None:
            await ExAcquireFastMutex(mutex)

        async def target() -> None:
            await ExAcquireFastMutex(mutex)
            current_kthread().irql = 0
            await KeSetEvent(holds)
            await KeWaitForSingleObject(made())

        holds = made()
        started = lab.start("target", target(), apcs=True)
        await KeWaitForSingleObject(holds)
        await lab.queue_apc(started, apc)
        await started.join()

    found = run(script).finding
    assert found.code == "ke.apc-reentry"
    assert "normal kernel APC apc asks for Fast, which target holds" in found.detail


def test_taking_a_lock_twice_in_one_apc_is_what_it_always_is() -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Fast")
        ExInitializeFastMutex(mutex)

        async def apc() -> None:
            await ExAcquireFastMutex(mutex)
            await ExAcquireFastMutex(mutex)

        async def target() -> None:
            await KeWaitForSingleObject(made())

        started = lab.start("target", target(), apcs=True)
        await lab.queue_apc(started, apc)
        await started.join()

    assert run(script).code == "ke.self-deadlock"


@pytest.mark.rule("KE-APC-14")
def test_an_offered_apc_comes_once_or_never_and_only_by_choice() -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None:
            lab.note("apc")

        async def target() -> None:
            await something(lab)
            lab.note("first")
            KeEnterGuardedRegion()
            await something(lab)
            KeLeaveGuardedRegion()
            lab.note("second")

        started = lab.start("target", target(), apcs=True)
        lab.offer_apc(started, apc, kind="special")
        await started.join()

    assert run(script).order == ["first", "second"]
    assert {tuple(one.order) for one in all_runs(script)} == {
        ("first", "second"),
        ("apc", "first", "second"),
        ("first", "second", "apc"),
    }


@pytest.mark.rule("KE-APC-14")
def test_a_normal_apc_is_not_offered_where_it_could_not_come() -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None:
            lab.note("apc")

        async def target() -> None:
            KeEnterCriticalRegion()
            await something(lab)
            lab.note("inside")
            KeLeaveCriticalRegion()

        started = lab.start("target", target(), apcs=True)
        lab.offer_apc(started, apc)
        await started.join()

    assert {tuple(one.order) for one in all_runs(script)} == {("inside",), ("inside", "apc")}


# Without APCs.


def test_a_run_without_apcs_takes_no_decision_about_them_and_makes_no_step_for_them() -> None:
    def script_of(apcs: bool) -> Script:
        async def script(lab: Lab) -> None:
            async def target() -> None:
                await something(lab)

            await lab.start("target", target(), apcs=apcs).join()

        return script

    plain, ready = run(script_of(False)).outcome, run(script_of(True)).outcome
    assert (plain.choices, plain.steps) == (ready.choices, ready.steps)


@pytest.mark.parametrize("how", ["queue", "offer", "low"])
def test_an_apc_for_a_thread_that_takes_none_is_refused(how: str) -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None: ...

        async def target() -> None: ...

        started = lab.start("target", target())
        if how == "queue":
            await lab.queue_apc(started, apc)
        elif how == "offer":
            lab.offer_apc(started, apc)
        else:
            await started.join()
            takes_apcs(started.thread)

    with pytest.raises(UsageError, match="target") as caught:
        run(script)
    assert "apcs=True" in str(caught.value.remedy)


@pytest.mark.parametrize(("kind", "how"), [("odd", "queue"), ("user", "offer")])
def test_kinds_that_there_are_not_are_refused(kind: str, how: str) -> None:
    async def script(lab: Lab) -> None:
        async def apc() -> None: ...

        async def target() -> None: ...

        started = lab.start("target", target(), apcs=True)
        if how == "queue":
            await lab.queue_apc(started, apc, kind=kind)
        else:
            lab.offer_apc(started, apc, kind=kind)

    with pytest.raises(ScenarioError, match=repr(kind)):
        run(script)


def test_an_apc_object_is_queued_once_at_a_time() -> None:
    async def script(lab: Lab) -> list[bool]:
        async def apc() -> None: ...

        async def target() -> None:
            await KeWaitForSingleObject(go)

        go = made()
        started = lab.start("target", target(), apcs=True)
        one = KAPC(started.thread, NORMAL_KERNEL, apc)
        lab._decide(False)
        queued = [await queue_apc(one), await queue_apc(one)]
        lab._decide(True)
        await KeSetEvent(go)
        await started.join()
        return queued

    assert run(script).result == [True, False]


@pytest.mark.rule("KE-APC-06")
def test_leaving_a_guarded_region_that_was_not_entered() -> None:
    async def script(lab: Lab) -> None:
        KeEnterGuardedRegion()
        KeLeaveGuardedRegion()
        assert KeGetCurrentIrql() == 0
        KeLeaveGuardedRegion()

    one = run(script)
    assert one.code == "ke.region-balance"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x3E,)


def test_the_line_of_a_thread_that_takes_apcs_is_known() -> None:
    import anyio

    async def script(lab: Lab) -> None:
        async def target() -> None:
            await anyio.sleep(1)

        await lab.start("target", target(), apcs=True).join()

    with pytest.raises(ForeignAwaitable, match=r"test_apc\.py") as caught:
        run(script)
    assert "await anyio.sleep(1)" in str(caught.value)


def test_a_thread_that_takes_apcs_ends_with_its_run_also_if_it_swallows_that() -> None:
    async def script(lab: Lab) -> None:
        async def stubborn() -> None:
            with suppress(BaseException):
                await KeWaitForSingleObject(made(label="Never"))

        lab.start("stubborn", stubborn(), apcs=True)

    one = run(script)
    assert one.code == "ke.hang"
    assert one.outcome.swallowed == ()
