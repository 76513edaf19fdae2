"""What is wrong with how spin locks are used: level, pairing, mixing, nesting, calls that must not be made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Run, Script, all_runs, codes, run

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.lock import check_interlocked, check_lowered
from kemu.wdk.fltkernel import FLT_CALLBACK_DATA, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_RELATED_OBJECTS
from kemu.wdk.ntddk import ExRaiseStatus, KeRaiseIrqlToDpcLevel
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED
from kemu.wdk.wdm import (
    EX_RUNDOWN_REF,
    FAST_MUTEX,
    IRP_MJ_READ,
    KLOCK_QUEUE_HANDLE,
    KSPIN_LOCK,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePool,
    ExInitializeFastMutex,
    ExInitializeRundownProtection,
    ExWaitForRundownProtectionRelease,
    IoAcquireCancelSpinLock,
    IoReleaseCancelSpinLock,
    KeAcquireInStackQueuedSpinLock,
    KeAcquireInStackQueuedSpinLockAtDpcLevel,
    KeAcquireSpinLock,
    KeAcquireSpinLockAtDpcLevel,
    KeAcquireSpinLockForDpc,
    KeAcquireSpinLockRaiseToDpc,
    KeGetCurrentIrql,
    KeInitializeSpinLock,
    KeLowerIrql,
    KeReleaseInStackQueuedSpinLock,
    KeReleaseInStackQueuedSpinLockFromDpcLevel,
    KeReleaseSpinLock,
    KeReleaseSpinLockForDpc,
    KeReleaseSpinLockFromDpcLevel,
    KeTestSpinLock,
    KeTryToAcquireSpinLockAtDpcLevel,
    KeWaitForSingleObject,
)


def made(label: str = "lock") -> KSPIN_LOCK:
    lock = KSPIN_LOCK(label)
    KeInitializeSpinLock(lock)
    return lock


def verifier_of(one: Run) -> int:
    """The first parameter of Driver Verifier's stop."""
    assert one.finding.verifier is not None
    assert one.finding.verifier.code == 0xC4
    return one.finding.verifier.parameters[0]


def at_dispatch() -> None:
    current_kthread().irql = DISPATCH_LEVEL


# Levels.


@pytest.mark.rule("KE-SPIN-03", "KE-SPIN-19", "KE-RACE-04")
@pytest.mark.parametrize("release", [False, True])
def test_a_lock_that_leaves_the_irql_is_taken_at_dispatch_level_only(release: bool) -> None:
    async def script(lab: Lab, level: int) -> list[int]:
        lock = made()
        current_kthread().irql = level
        if release:
            at_dispatch()
        await KeAcquireSpinLockAtDpcLevel(lock)
        levels = [KeGetCurrentIrql()]
        current_kthread().irql = level
        await KeReleaseSpinLockFromDpcLevel(lock)
        return [*levels, KeGetCurrentIrql()]

    assert run(lambda lab: script(lab, DISPATCH_LEVEL)).result == [DISPATCH_LEVEL, DISPATCH_LEVEL]
    one = run(lambda lab: script(lab, PASSIVE_LEVEL))
    assert one.code == "ke.irql"
    assert verifier_of(one) == (0x41 if release else 0x40)


@pytest.mark.rule("KE-SPIN-01")
@pytest.mark.parametrize(("call", "level", "what"), [("acquire", 3, 0x42), ("release", APC_LEVEL, 0x32)])
def test_the_verifier_names_what_is_off_its_level(call: str, level: int, what: int) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        if call == "acquire":
            current_kthread().irql = level
        irql = await KeAcquireSpinLock(lock)
        current_kthread().irql = level
        await KeReleaseSpinLock(lock, irql)

    one = run(script)
    assert one.code == "ke.irql"
    assert verifier_of(one) == what


@pytest.mark.rule("KE-SPIN-07")
def test_the_irql_stays_as_long_as_another_spin_lock_is_held() -> None:
    def script_of(release: Callable[[], Awaitable[None]] | None) -> Script:
        async def script(lab: Lab) -> None:
            first, second = made("first"), made("second")
            irql = await KeAcquireSpinLock(first)
            old = await KeAcquireSpinLock(second)
            if release is None:
                await KeReleaseSpinLock(second, old)
            await KeReleaseSpinLock(first, irql)

        return script

    async def nothing() -> None: ...

    one = run(script_of(nothing))
    assert one.code == "ke.spin-lowered"
    assert "lowers script to PASSIVE_LEVEL while it holds second" in one.finding.detail
    assert run(script_of(None)).code is None


@pytest.mark.rule("KE-SPIN-07")
@pytest.mark.parametrize(("level", "found"), [(DISPATCH_LEVEL, False), (APC_LEVEL, True)])
@pytest.mark.parametrize("spins", [True, False])
def test_whoever_lowers_the_irql_may_ask(level: int, found: bool, spins: bool) -> None:
    async def script(lab: Lab) -> None:
        if spins:
            await KeAcquireSpinLock(made())
        else:
            mutex = FAST_MUTEX()
            ExInitializeFastMutex(mutex)
            await ExAcquireFastMutex(mutex)
        check_lowered(current_kthread(), level, "KeLowerIrql")
        current_kthread().locks.clear()

    assert run(script).code == ("ke.spin-lowered" if found and spins else None)


@pytest.mark.rule("KE-SPIN-07")
@pytest.mark.parametrize("held", [True, False])
def test_lowering_the_irql_under_a_spin_lock(held: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        irql = KeRaiseIrqlToDpcLevel()
        await KeAcquireSpinLockAtDpcLevel(lock)
        if not held:
            await KeReleaseSpinLockFromDpcLevel(lock)
        KeLowerIrql(irql)

    one = run(script)
    assert one.code == ("ke.spin-lowered" if held else None)
    if held:
        assert "KeLowerIrql lowers script to PASSIVE_LEVEL while it holds lock" in one.finding.detail


@pytest.mark.rule("KE-SPIN-07")
@pytest.mark.parametrize("inner", ["queued", "cancel"])
def test_every_release_that_lowers_is_looked_at(inner: str) -> None:
    async def script(lab: Lab) -> None:
        outer, handle = made("outer"), KLOCK_QUEUE_HANDLE()
        irql = 0
        if inner == "queued":
            await KeAcquireInStackQueuedSpinLock(made("inner"), handle)
        else:
            irql = await IoAcquireCancelSpinLock()
        await KeAcquireSpinLock(outer)
        if inner == "queued":
            await KeReleaseInStackQueuedSpinLock(handle)
        else:
            await IoReleaseCancelSpinLock(irql)

    assert run(script).code == "ke.spin-lowered"


# What goes with what.


@pytest.mark.rule("KE-SPIN-02")
@pytest.mark.parametrize("share", [True, False])
def test_a_variable_for_the_old_irql_serves_one_lock(share: bool) -> None:
    async def script(lab: Lab) -> None:
        first, second = made("first"), made("second")
        irql = await KeAcquireSpinLock(first)
        inner = await KeAcquireSpinLock(second)
        await KeReleaseSpinLock(second, inner)
        await KeReleaseSpinLock(first, inner if share else irql)

    one = run(script)
    assert one.code == ("ke.oldirql-shared" if share else None)
    if share:
        assert one.finding.detail == (
            "KeReleaseSpinLock on first restores the IRQL that the acquisition of second has saved"
        )


@pytest.mark.rule("KE-SPIN-02")
def test_a_variable_that_two_threads_share_is_found_also_where_the_values_agree() -> None:
    class Global:
        irql = 0

    async def script(lab: Lab) -> None:
        shared = Global()

        async def worker(label: str) -> None:
            lock = made(label)
            shared.irql = await KeAcquireSpinLock(lock)
            await lab.step("inside")
            await KeReleaseSpinLock(lock, shared.irql)

        await lab.together(worker("first"), worker("second"))

    assert codes(all_runs(script, unseen=True)) == {None, "ke.oldirql-shared"}


@pytest.mark.rule("KE-SPIN-02", "KE-IRQL-05")
@pytest.mark.parametrize(("level", "stops"), [(APC_LEVEL, False), (3, True)])
def test_a_level_from_elsewhere_is_wrong_and_fatal_if_it_is_above(level: int, stops: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await KeAcquireSpinLock(lock)
        await KeReleaseSpinLock(lock, level)

    one = run(script)
    assert one.code == "ke.irql-nesting"
    if stops:
        assert one.finding.bug_check is not None
        assert (one.finding.bug_check.code, verifier_of(one)) == (0xA, 0x31)
    else:
        assert one.finding.bug_check is None


Take = Callable[[KSPIN_LOCK, KLOCK_QUEUE_HANDLE], Awaitable[Any]]
Give = Callable[[KSPIN_LOCK, KLOCK_QUEUE_HANDLE, Any], Awaitable[None]]

PAIRS: dict[str, tuple[Take, Give, str | None]] = {
    "raise, raise": (lambda lock, _: KeAcquireSpinLock(lock), lambda lock, _, old: KeReleaseSpinLock(lock, old), None),
    "raise, leave": (
        lambda lock, _: KeAcquireSpinLock(lock),
        lambda lock, _, __: KeReleaseSpinLockFromDpcLevel(lock),
        "ke.spin-release-mismatch",
    ),
    "leave, leave": (
        lambda lock, _: KeAcquireSpinLockAtDpcLevel(lock),
        lambda lock, _, __: KeReleaseSpinLockFromDpcLevel(lock),
        None,
    ),
    "leave, raise": (
        lambda lock, _: KeAcquireSpinLockAtDpcLevel(lock),
        lambda lock, _, __: KeReleaseSpinLock(lock, PASSIVE_LEVEL),
        "ke.spin-release-mismatch",
    ),
    "try, leave": (
        lambda lock, _: KeTryToAcquireSpinLockAtDpcLevel(lock),
        lambda lock, _, __: KeReleaseSpinLockFromDpcLevel(lock),
        None,
    ),
    "macro, raise": (
        lambda lock, _: KeAcquireSpinLockRaiseToDpc(lock),
        lambda lock, _, old: KeReleaseSpinLock(lock, old),
        None,
    ),
    "for DPC": (
        lambda lock, _: KeAcquireSpinLockForDpc(lock),
        lambda lock, _, old: KeReleaseSpinLockForDpc(lock, old),
        None,
    ),
    "queued raise, raise": (
        KeAcquireInStackQueuedSpinLock,
        lambda _, handle, __: KeReleaseInStackQueuedSpinLock(handle),
        None,
    ),
    "queued raise, leave": (
        KeAcquireInStackQueuedSpinLock,
        lambda _, handle, __: KeReleaseInStackQueuedSpinLockFromDpcLevel(handle),
        "ke.spin-release-mismatch",
    ),
    "queued leave, leave": (
        KeAcquireInStackQueuedSpinLockAtDpcLevel,
        lambda _, handle, __: KeReleaseInStackQueuedSpinLockFromDpcLevel(handle),
        None,
    ),
    "queued leave, raise": (
        KeAcquireInStackQueuedSpinLockAtDpcLevel,
        lambda _, handle, __: KeReleaseInStackQueuedSpinLock(handle),
        "ke.spin-release-mismatch",
    ),
    "queued, ordinary": (
        KeAcquireInStackQueuedSpinLock,
        lambda lock, _, __: KeReleaseSpinLock(lock, PASSIVE_LEVEL),
        "ke.spin-mixed",
    ),
}


@pytest.mark.rule("KE-SPIN-04", "KE-SPIN-11", "KE-SPIN-16")
@pytest.mark.parametrize("pair", PAIRS)
def test_a_release_goes_with_its_acquisition(pair: str) -> None:
    acquire, release, code = PAIRS[pair]
    leaves = "leave" in pair.split(",", maxsplit=1)[0] or pair.startswith("try")

    async def script(lab: Lab) -> tuple[int, int]:
        lock, handle = made(), KLOCK_QUEUE_HANDLE()
        if leaves:
            at_dispatch()
        old = await acquire(lock, handle)
        inside = KeGetCurrentIrql()
        await release(lock, handle, old)
        return inside, KeGetCurrentIrql()

    one = run(script)
    assert one.code == code
    if code is None:
        assert one.result == (DISPATCH_LEVEL, DISPATCH_LEVEL if leaves else PASSIVE_LEVEL)


@pytest.mark.rule("KE-SPIN-12")
@pytest.mark.parametrize(("queued_first", "what"), [(True, 0x1008), (False, 0x1009)])
def test_a_lock_is_always_queued_or_never(queued_first: bool, what: int) -> None:
    async def script(lab: Lab) -> None:
        lock, handle = made(), KLOCK_QUEUE_HANDLE()
        for queued in (queued_first, not queued_first):
            if queued:
                await KeAcquireInStackQueuedSpinLock(lock, handle)
                await KeReleaseInStackQueuedSpinLock(handle)
            else:
                await KeReleaseSpinLock(lock, await KeAcquireSpinLock(lock))

    one = run(script)
    assert one.code == "ke.spin-mixed"
    assert verifier_of(one) == what


@pytest.mark.rule("KE-SPIN-11")
def test_those_who_wait_with_a_handle_are_served_in_the_order_in_which_they_asked() -> None:
    async def script(lab: Lab) -> None:
        lock, mine = made(), KLOCK_QUEUE_HANDLE()
        await KeAcquireInStackQueuedSpinLock(lock, mine)

        async def contender(number: int) -> None:
            handle = KLOCK_QUEUE_HANDLE()
            # The step that asks is the next one: nothing comes in between.
            lab.note(f"asks {number}")
            await KeAcquireInStackQueuedSpinLock(lock, handle)
            lab.note(f"has {number}")
            await KeReleaseInStackQueuedSpinLock(handle)

        started = [lab.start(f"contender{number}", contender(number)) for number in range(2)]
        await lab.step()
        await KeReleaseInStackQueuedSpinLock(mine)
        for one in started:
            await one.join()
        lab.note(f"tickets {lock.next_ticket}")

    runs = all_runs(script)
    assert codes(runs) == {None}
    # Of two that wait neither overtakes: whoever has it first has drawn the earlier ticket. Both orders come up.
    assert {tuple(w for w in one.order if w.startswith("has")) for one in runs} == {
        ("has 0", "has 1"),
        ("has 1", "has 0"),
    }
    assert {one.order[-1] for one in runs} == {"tickets 3"}


@pytest.mark.rule("KE-SPIN-11")
@pytest.mark.parametrize("shared", [True, False])
def test_a_handle_belongs_to_one_acquisition(shared: bool) -> None:
    async def script(lab: Lab) -> None:
        one, other = KLOCK_QUEUE_HANDLE("handle"), KLOCK_QUEUE_HANDLE()
        await KeAcquireInStackQueuedSpinLock(made("first"), one)
        await KeAcquireInStackQueuedSpinLockAtDpcLevel(made("second"), one if shared else other)
        await KeReleaseInStackQueuedSpinLockFromDpcLevel(one if shared else other)
        await KeReleaseInStackQueuedSpinLock(one)

    one = run(script)
    assert one.code == ("ke.lockhandle-reuse" if shared else None)
    if shared:
        assert "on second with handle, which first is acquired with" in one.finding.detail


@pytest.mark.rule("KE-SPIN-05", "KE-SPIN-06")
def test_queued_locks_have_one_owner_too() -> None:
    async def again(lab: Lab) -> None:
        lock = made()
        await KeAcquireInStackQueuedSpinLock(lock, KLOCK_QUEUE_HANDLE())
        await KeAcquireInStackQueuedSpinLock(lock, KLOCK_QUEUE_HANDLE())

    async def unowned(lab: Lab) -> None:
        at_dispatch()
        await KeReleaseInStackQueuedSpinLock(KLOCK_QUEUE_HANDLE("handle"))

    async def others(lab: Lab) -> None:
        handle = KLOCK_QUEUE_HANDLE()

        async def owner() -> None:
            await KeAcquireInStackQueuedSpinLock(made(), handle)

        await lab.together(owner())
        at_dispatch()
        await KeReleaseInStackQueuedSpinLock(handle)

    assert run(again).code == "ke.self-deadlock"
    one = run(unowned)
    assert one.code == "ke.lock-not-owned"
    assert one.finding.bug_check is not None
    assert (one.finding.bug_check.code, verifier_of(one)) == (0x10, 0x1007)
    two = run(others)
    assert (two.code, verifier_of(two), two.finding.bug_check) == ("ke.lock-not-owned", 0x1004, None)


# Trying and testing.


@pytest.mark.rule("KE-SPIN-16")
def test_trying_takes_the_lock_or_returns_at_once() -> None:
    async def script(lab: Lab) -> list[bool]:
        lock = made()
        got: list[bool] = []

        async def worker() -> None:
            at_dispatch()
            acquired = await KeTryToAcquireSpinLockAtDpcLevel(lock)
            got.append(acquired)
            if acquired:
                # The owner is refused as anybody is.
                lab.check(not await KeTryToAcquireSpinLockAtDpcLevel(lock), "it is owned")
                await KeReleaseSpinLockFromDpcLevel(lock)

        await lab.together(worker(), worker())
        return got

    runs = all_runs(script, unseen=True)
    assert codes(runs) == {None}
    assert {tuple(one.result) for one in runs} == {(True, True), (True, False)}


@pytest.mark.rule("KE-SPIN-16")
def test_testing_says_what_is_now_and_warns() -> None:
    async def script(lab: Lab) -> tuple[bool, bool]:
        lock = made()
        before = await KeTestSpinLock(lock)
        irql = await KeAcquireSpinLock(lock)
        inside = await KeTestSpinLock(lock)
        await KeReleaseSpinLock(lock, irql)
        return before, inside

    one = run(script)
    assert (one.code, one.result, one.warnings) == (None, (True, False), ("ke.test-spin",))


# Storage.


@pytest.mark.rule("KE-SPIN-10", "KE-DL-03")
def test_a_lock_is_initialised_once_before_it_is_used() -> None:
    async def twice(lab: Lab) -> None:
        KeInitializeSpinLock(made())

    async def never(lab: Lab) -> None:
        at_dispatch()
        await KeTryToAcquireSpinLockAtDpcLevel(KSPIN_LOCK("raw"))

    one = run(twice)
    assert (one.code, verifier_of(one)) == ("ke.lock-reinitialised", 0x1005)
    two = run(never)
    assert (two.code, verifier_of(two)) == ("ke.uninitialised", 0x1002)


@pytest.mark.rule("KE-SPIN-10", "KE-DL-03")
def test_a_lock_is_not_freed_while_somebody_owns_it_or_waits() -> None:
    async def script(lab: Lab) -> list[Any]:
        lock = made()
        left = [lock.still_active()]
        irql = await KeAcquireSpinLock(lock)
        left.append(lock.still_active())

        async def waiter() -> None:
            await KeReleaseSpinLock(lock, await KeAcquireSpinLock(lock))

        started = lab.start("waiter", waiter())
        await lab.sleep(1)
        await KeReleaseSpinLock(lock, irql)
        left.append(lock.still_active())
        await started.join()
        return left

    first, second, third = run(script).result
    assert first is None
    assert (second.code, second.what) == ("ke.lock-freed", "lock, which script owns")
    assert second.verifier.parameters == (0x100B,)
    assert third.what == "lock, which waiter waits for"


@pytest.mark.rule("KE-SPIN-18")
@pytest.mark.parametrize("held", [True, False])
def test_a_lock_that_an_interlocked_routine_takes_must_not_be_held(held: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        if held:
            await KeAcquireSpinLock(lock)
        check_interlocked(lock, "ExInterlockedInsertHeadList")

    one = run(script)
    assert one.code == ("ke.self-deadlock" if held else None)
    if held:
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.code == 0xF


@pytest.mark.rule("KE-SPIN-17")
def test_a_callback_does_not_return_with_a_lock_held() -> None:
    async def script(lab: Lab) -> None:
        lock = made("Lock")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await KeAcquireSpinLock(lock)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.open()
        await file.read(1)

    one = run(script)
    assert one.code == "callback-dirty-exit"
    assert "holding Lock" in one.finding.detail


# Calls that must not be made.


async def waits(lab: Lab) -> None:
    await KeWaitForSingleObject(lab.event("E"), Timeout=-1)


async def takes_a_mutex(lab: Lab) -> None:
    mutex = FAST_MUTEX()
    ExInitializeFastMutex(mutex)
    await ExAcquireFastMutex(mutex)


async def allocates_paged(lab: Lab) -> None:
    await ExAllocatePool2(POOL_FLAG_PAGED, 8, "Test")


async def raises(lab: Lab) -> None:
    ExRaiseStatus(STATUS_ACCESS_DENIED)


async def runs_down(lab: Lab) -> None:
    rundown = EX_RUNDOWN_REF()
    rundown.initialised = True
    await ExWaitForRundownProtectionRelease(rundown)


async def polls(lab: Lab) -> None:
    await KeWaitForSingleObject(lab.event("E"), Timeout=0)


async def allocates_nonpaged(lab: Lab) -> None:
    await ExFreePool(await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Test"))


@pytest.mark.rule("KE-SPIN-08")
@pytest.mark.parametrize("lock", ["spin", "cancel", "queued"])
@pytest.mark.parametrize(
    ("call", "forbidden"),
    [
        (waits, True),
        (takes_a_mutex, True),
        (allocates_paged, True),
        (raises, True),
        (runs_down, True),
        (polls, False),
        (allocates_nonpaged, False),
    ],
)
def test_some_calls_must_not_be_made_under_a_spin_lock(
    lock: str, call: Callable[[Lab], Awaitable[None]], forbidden: bool
) -> None:
    async def script(lab: Lab) -> None:
        handle, spin, irql = KLOCK_QUEUE_HANDLE(), made("Lock"), 0
        if lock == "queued":
            await KeAcquireInStackQueuedSpinLock(spin, handle)
        else:
            irql = await (KeAcquireSpinLock(spin) if lock == "spin" else IoAcquireCancelSpinLock())
        await call(lab)
        if lock == "queued":
            await KeReleaseInStackQueuedSpinLock(handle)
        elif lock == "spin":
            await KeReleaseSpinLock(spin, irql)
        else:
            await IoReleaseCancelSpinLock(irql)

    one = run(script)
    assert one.code == ("ke.spin-forbidden-call" if forbidden else None)
    if forbidden:
        label = "cancel spin lock" if lock == "cancel" else "Lock"
        assert f"was called while script holds spin lock {label}" in one.finding.detail


@pytest.mark.rule("KE-SPIN-08")
def test_freeing_paged_pool_is_forbidden_as_well() -> None:
    async def script(lab: Lab) -> None:
        block = await ExAllocatePool2(POOL_FLAG_PAGED, 8, "Test")
        await KeAcquireSpinLock(made())
        await ExFreePool(block)

    assert run(script).code == "ke.spin-forbidden-call"


def test_a_mutex_is_no_spin_lock() -> None:
    async def script(lab: Lab) -> None:
        rundown, mutex = EX_RUNDOWN_REF(), FAST_MUTEX()
        ExInitializeRundownProtection(rundown)
        ExInitializeFastMutex(mutex)
        await ExAcquireFastMutex(mutex)
        await ExWaitForRundownProtectionRelease(rundown)
        current_kthread().locks.clear()

    assert run(script).code is None
