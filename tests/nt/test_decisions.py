"""Where the documentation contradicts itself: what kemu has decided (KE-DOC).

Decisions that follow from a rule's own tests are marked there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, run
from io_kit import complete, device

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.kthread import current_kthread
from kemu.verifier.settings import parse_settings
from kemu.wdk.ntddk import (
    KeAreApcsDisabled,
    KeEnterCriticalRegion,
    KeEnterGuardedRegion,
    KeLeaveCriticalRegion,
    KeLeaveGuardedRegion,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_TIMEOUT, STATUS_USER_APC
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    EX_PUSH_LOCK,
    EX_SPIN_LOCK,
    FAST_MUTEX,
    HIGH_LEVEL,
    IO_REMOVE_LOCK,
    IRP_MJ_READ,
    KEVENT,
    KGUARDED_MUTEX,
    KMUTEX,
    KSEMAPHORE,
    KSPIN_LOCK,
    PASSIVE_LEVEL,
    ExAcquireFastMutexUnsafe,
    ExAcquirePushLockExclusive,
    ExAcquirePushLockShared,
    ExAcquireSpinLockExclusive,
    ExAcquireSpinLockShared,
    Executive,
    ExInitializeFastMutex,
    ExInitializePushLock,
    ExReleaseFastMutexUnsafe,
    ExReleaseSpinLockExclusive,
    ExReleaseSpinLockShared,
    IoAcquireRemoveLock,
    IoInitializeRemoveLock,
    IoReleaseRemoveLock,
    IoReleaseRemoveLockAndWait,
    IoSetCancelRoutine,
    KeAcquireGuardedMutexUnsafe,
    KeAcquireSpinLockAtDpcLevel,
    KeInitializeEvent,
    KeInitializeGuardedMutex,
    KeInitializeMutex,
    KeInitializeSemaphore,
    KeInitializeSpinLock,
    KeReleaseGuardedMutexUnsafe,
    KeReleaseMutex,
    KeReleaseSemaphore,
    KeReleaseSpinLockFromDpcLevel,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    UserMode,
)

SECOND = 10_000_000
LEVELS = (PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL, DISPATCH_LEVEL + 1, HIGH_LEVEL)


def at(irql: int, call: Callable[[], Awaitable[Any]]) -> Run:
    """The plain run of a script that calls at that level."""

    async def script(lab: Lab) -> Any:
        thread = current_kthread()
        thread.irql = irql
        result = await call()
        thread.irql = PASSIVE_LEVEL
        return result

    return run(script)


def allowed(call: Callable[[], Awaitable[Any]]) -> set[int]:
    """The levels at which the call is no finding. At all others it is that of the level."""
    found = {irql: at(irql, call).code for irql in LEVELS}
    assert set(found.values()) <= {None, "ke.irql"}
    return {irql for irql, code in found.items() if code is None}


def made() -> KSPIN_LOCK:
    lock = KSPIN_LOCK("Lock")
    KeInitializeSpinLock(lock)
    return lock


@pytest.mark.rule("KE-DOC-01")
def test_a_spin_lock_that_leaves_the_level_is_acquired_at_dispatch_level_exactly() -> None:
    async def call() -> None:
        lock = made()
        await KeAcquireSpinLockAtDpcLevel(lock)
        await KeReleaseSpinLockFromDpcLevel(lock)

    assert allowed(call) == {DISPATCH_LEVEL}


@pytest.mark.rule("KE-DOC-03")
def test_a_poll_is_allowed_up_to_dispatch_level() -> None:
    async def call() -> Any:
        event = KEVENT("Event")
        KeInitializeEvent(event, NotificationEvent, False)
        return await KeWaitForSingleObject(event, Executive, KernelMode, False, 0)

    assert allowed(call) == {PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL}
    assert {at(irql, call).result for irql in (PASSIVE_LEVEL, DISPATCH_LEVEL)} == {STATUS_TIMEOUT}


@pytest.mark.rule("KE-DOC-04")
def test_whether_apcs_are_disabled_may_be_asked_up_to_dispatch_level() -> None:
    async def call() -> bool:
        return KeAreApcsDisabled()

    assert allowed(call) == {PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL}


@pytest.mark.rule("KE-DOC-07")
@pytest.mark.parametrize("settings", [None, "deadlock", "security", "none"])
@pytest.mark.parametrize("region", ["critical", "guarded"])
@pytest.mark.parametrize("at_release", [True, False])
def test_unsafe_fast_mutexes_in_a_region_are_wrong_for_driver_verifier_only(
    settings: str | None, region: str, at_release: bool
) -> None:
    async def script(lab: Lab) -> None:
        lab.verifier.settings = parse_settings(settings)
        mutex, thread = FAST_MUTEX("Mutex"), current_kthread()
        ExInitializeFastMutex(mutex)
        (KeEnterCriticalRegion if region == "critical" else KeEnterGuardedRegion)()
        thread.irql = APC_LEVEL if at_release else PASSIVE_LEVEL
        await ExAcquireFastMutexUnsafe(mutex)
        thread.irql = PASSIVE_LEVEL if at_release else APC_LEVEL
        await ExReleaseFastMutexUnsafe(mutex)
        thread.irql = PASSIVE_LEVEL
        assert lab.verifier.went_on is None

    one = run(script)
    assert one.code == ("ke.fmutex-unsafe-level" if settings == "deadlock" else None)
    if one.code:
        # Where its class is on, the stop is Driver Verifier's.
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.parameters == (0x3A if at_release else 0x39, PASSIVE_LEVEL)


@pytest.mark.rule("KE-DOC-07")
def test_an_unsafe_guarded_mutex_belongs_in_a_guarded_region() -> None:
    async def script(lab: Lab) -> None:
        lab.verifier.settings = parse_settings("standard")
        mutex = KGUARDED_MUTEX("Mutex")
        KeInitializeGuardedMutex(mutex)
        KeEnterGuardedRegion()
        await KeAcquireGuardedMutexUnsafe(mutex)
        await KeReleaseGuardedMutexUnsafe(mutex)
        KeLeaveGuardedRegion()

    assert run(script).code is None


@pytest.mark.rule("KE-DOC-09")
@pytest.mark.parametrize("kind", ["user", "special user"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_critical_region_keeps_user_apcs_out_as_well(kind: str, inside: bool) -> None:
    async def script(lab: Lab) -> int:
        event, go = lab.event("never"), lab.event("go")

        async def apc() -> None:
            lab.note("apc")

        async def call() -> int:
            await KeWaitForSingleObject(go)
            if inside:
                KeEnterCriticalRegion()
            status = await KeWaitForSingleObject(event, Executive, UserMode, True, -SECOND)
            lab.note("waited")
            if inside:
                KeLeaveCriticalRegion()
            return int(status)

        async def program() -> int:
            return await lab.system_call(call())

        started = lab.start("program", program(), lab.app, apcs=True)
        await lab.queue_apc(started, apc, kind=kind)
        await KeSetEvent(go)
        return await started.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    # Inside, the wait is not interrupted; a special one still comes when the thread returns to user mode.
    assert {one.result for one in runs} == {STATUS_TIMEOUT if inside else STATUS_USER_APC}
    assert {"apc" in one.order for one in runs} == {not inside or kind == "special user"}


@pytest.mark.rule("KE-DOC-11")
def test_a_cancel_routine_is_set_up_to_dispatch_level_without_the_cancel_spin_lock() -> None:
    async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
        raise AssertionError

    def setting(irql: int) -> Run:
        async def script(lab: Lab) -> None:
            async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
                thread = current_kthread()
                thread.irql = irql
                lab.note("old", [await IoSetCancelRoutine(irp, cancel), await IoSetCancelRoutine(irp, None)])
                thread.irql = PASSIVE_LEVEL
                return await complete(irp)

            await device(lab, "D", {IRP_MJ_READ: read})
            await (await lab.app.open(r"\\.\D")).read(4)

        return run(script)

    found = {irql: setting(irql) for irql in LEVELS}
    assert {irql for irql, one in found.items() if one.code is None} == {PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL}
    assert {one.code for one in found.values()} == {None, "ke.irql"}
    assert found[DISPATCH_LEVEL].note("old").value == [None, cancel]


@pytest.mark.rule("KE-DOC-11")
def test_of_two_that_clear_a_cancel_routine_one_gets_it() -> None:
    async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
        raise AssertionError

    async def script(lab: Lab) -> Any:
        got: list[Any] = []

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoSetCancelRoutine(irp, cancel)

            async def clears() -> None:
                got.append(await IoSetCancelRoutine(irp, None))

            await lab.together(clears(), clears())
            return await complete(irp)

        await device(lab, "D", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\D")).read(4)
        return [one for one in got if one is not None] == [cancel]

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {True}


@pytest.mark.rule("KE-DOC-13")
@pytest.mark.parametrize("irql", [PASSIVE_LEVEL, DISPATCH_LEVEL])
@pytest.mark.parametrize("when", ["before it completes", "after it has completed", "in another thread"])
def test_a_remove_lock_is_released_anywhere_after_the_last_use(when: str, irql: int) -> None:
    async def script(lab: Lab) -> Any:
        lock = IO_REMOVE_LOCK("Lock")
        IoInitializeRemoveLock(lock, "Test", 0, 0)

        async def release(irp: IRP) -> None:
            thread = current_kthread()
            thread.irql = irql
            await IoReleaseRemoveLock(lock, irp)
            thread.irql = PASSIVE_LEVEL

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            assert await IoAcquireRemoveLock(lock, irp) == STATUS_SUCCESS
            if when == "before it completes":
                await release(irp)
            elif when == "in another thread":
                lab.start("other", release(irp))
            status = await complete(irp)
            if when == "after it has completed":
                await release(irp)
            return status

        await device(lab, "D", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\D")).read(4)
        await IoAcquireRemoveLock(lock, 1)
        await IoReleaseRemoveLockAndWait(lock, 1)

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-DOC-19")
def test_a_semaphore_is_initialised_up_to_dispatch_level_with_a_count_of_zero() -> None:
    async def call() -> None:
        KeInitializeSemaphore(KSEMAPHORE("Semaphore"), 0, 1)

    assert allowed(call) == {PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL}
    assert at(PASSIVE_LEVEL, call).warnings == ()
    assert at(DISPATCH_LEVEL, call).warnings == ("ke.init-irql",)


@pytest.mark.rule("KE-DOC-20")
@pytest.mark.parametrize(
    ("what", "levels"),
    [
        ("event", {PASSIVE_LEVEL, APC_LEVEL}),
        ("mutex", {PASSIVE_LEVEL, APC_LEVEL}),
        ("semaphore", {PASSIVE_LEVEL}),
    ],
)
def test_how_high_a_wait_may_be_announced(what: str, levels: set[int]) -> None:
    def announcing(irql: int) -> Run:
        async def script(lab: Lab) -> None:
            event, mutex, semaphore = KEVENT("Event"), KMUTEX("Mutex"), KSEMAPHORE("Semaphore")
            KeInitializeEvent(event, NotificationEvent, True)
            KeInitializeMutex(mutex, 0)
            KeInitializeSemaphore(semaphore, 0, 1)
            await KeWaitForSingleObject(mutex)
            thread = current_kthread()
            thread.irql = irql
            if what == "event":
                await KeSetEvent(event, 0, True)
            elif what == "mutex":
                await KeReleaseMutex(mutex, True)
            else:
                await KeReleaseSemaphore(semaphore, 0, 1, True)
            await KeWaitForSingleObject(event)
            thread.irql = PASSIVE_LEVEL
            if what != "mutex":
                await KeReleaseMutex(mutex, False)

        return run(script)

    found = {irql: announcing(irql) for irql in LEVELS}
    assert {irql for irql, one in found.items() if one.code is None} == levels
    # It is the announcement that is wrong, and not the wait after it.
    name = {"event": "KeSetEvent", "mutex": "KeReleaseMutex", "semaphore": "KeReleaseSemaphore"}[what]
    wrong = [one.finding for one in found.values() if one.code]
    assert {one.code for one in wrong} == {"ke.irql"}
    assert all(one.detail.startswith(f"{name} was called at ") for one in wrong)


@pytest.mark.rule("KE-DOC-22")
@pytest.mark.parametrize(("writes", "second"), [(True, 2), (False, 0)])
def test_what_a_page_fault_was_about(writes: bool, second: int) -> None:
    async def script(lab: Lab) -> None:
        buffer = lab.app.memory(b"abcd")
        # Another process has something else there.
        if writes:
            buffer[0] = 1
        else:
            _ = buffer[0]

    found = run(script).finding
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters[1]) == (0x50, second)


@pytest.mark.rule("KE-DOC-24")
def test_reader_writer_spin_locks_are_acquired_up_to_dispatch_level_in_either_mode() -> None:
    async def shared() -> None:
        lock = EX_SPIN_LOCK("Lock")
        await ExReleaseSpinLockShared(lock, await ExAcquireSpinLockShared(lock))

    async def exclusive() -> None:
        lock = EX_SPIN_LOCK("Lock")
        await ExReleaseSpinLockExclusive(lock, await ExAcquireSpinLockExclusive(lock))

    assert allowed(shared) == allowed(exclusive) == {PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL}


@pytest.mark.rule("KE-DOC-24")
@pytest.mark.parametrize("acquire", [ExAcquirePushLockShared, ExAcquirePushLockExclusive])
def test_push_locks_are_acquired_below_dispatch_level(acquire: Callable[[EX_PUSH_LOCK], Awaitable[None]]) -> None:
    async def call() -> None:
        lock, thread = EX_PUSH_LOCK("Lock"), current_kthread()
        before, thread.irql = thread.irql, PASSIVE_LEVEL
        ExInitializePushLock(lock)
        thread.irql = before
        thread.kernel_apc_disable += 1
        await acquire(lock)
        # The run ends here: a lock that is held is no matter of this test.
        thread.locks.clear()
        thread.kernel_apc_disable -= 1

    assert allowed(call) == {PASSIVE_LEVEL, APC_LEVEL}
