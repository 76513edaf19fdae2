"""Push locks, the kernel's and the filter manager's: who gets in, recursion, critical regions, and their misuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Script, all_runs, codes, run, sample
from locking import S, X, nest, push, reduced

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.sharedlock import AcquireShared
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PUSH_LOCK_DISABLE_AUTO_BOOST,
    FLT_PUSH_LOCK_ENABLE_AUTO_BOOST,
    FLT_RELATED_OBJECTS,
    FltAcquirePushLockExclusive,
    FltAcquirePushLockExclusiveEx,
    FltAcquirePushLockShared,
    FltAcquirePushLockSharedEx,
    FltDeletePushLock,
    FltInitializePushLock,
    FltReleasePushLock,
    FltReleasePushLockEx,
)
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeEnterGuardedRegion, KeLeaveCriticalRegion
from kemu.wdk.wdm import (
    EX_DEFAULT_PUSH_LOCK_FLAGS,
    EX_PUSH_LOCK,
    EX_PUSH_LOCK_DISABLE_AUTO_BOOST,
    EX_PUSH_LOCK_ENABLE_AUTO_BOOST,
    IRP_MJ_READ,
    ExAcquirePushLockExclusive,
    ExAcquirePushLockExclusiveEx,
    ExAcquirePushLockShared,
    ExAcquirePushLockSharedEx,
    ExInitializePushLock,
    ExReleasePushLockExclusive,
    ExReleasePushLockExclusiveEx,
    ExReleasePushLockShared,
    ExReleasePushLockSharedEx,
)

Call = Callable[[EX_PUSH_LOCK], Awaitable[None]]

EX: dict[str, tuple[Call, Call]] = {
    X: (ExAcquirePushLockExclusive, ExReleasePushLockExclusive),
    S: (ExAcquirePushLockShared, ExReleasePushLockShared),
}
FLT: dict[str, tuple[Call, Call]] = {
    X: (FltAcquirePushLockExclusive, FltReleasePushLock),
    S: (FltAcquirePushLockShared, FltReleasePushLock),
}
families = pytest.mark.parametrize("family", [EX, FLT], ids=["Ex", "Flt"])
modes = pytest.mark.parametrize("mode", [X, S])


def made(label: str = "lock") -> EX_PUSH_LOCK:
    lock = EX_PUSH_LOCK(label)
    ExInitializePushLock(lock)
    return lock


def in_region(script: Script) -> Script:
    async def inside(lab: Lab) -> Any:
        KeEnterCriticalRegion()
        return await script(lab)

    return inside


@families
@pytest.mark.rule("KE-PUSH-01", "KE-PUSH-04")
def test_a_writer_is_alone_and_readers_are_not(family: dict[str, tuple[Call, Call]]) -> None:
    def script_of(*modes: str) -> Script:
        async def script(lab: Lab) -> int:
            lock = made()
            inside = {X: 0, S: 0}
            most = 0

            async def worker(mode: str) -> None:
                nonlocal most
                acquire, release = family[mode]
                KeEnterCriticalRegion()
                await acquire(lock)
                inside[mode] += 1
                most = max(most, inside[S])
                lab.check(not inside[X] or sum(inside.values()) == 1, "a writer is not alone")
                await lab.step("inside")
                inside[mode] -= 1
                await release(lock)

            await lab.together(*map(worker, modes))
            return most

        return script

    assert codes(all_runs(script_of(X, S), unseen=True)) == {None}
    assert codes(all_runs(script_of(X, X), unseen=True)) == {None}
    assert {one.result for one in all_runs(script_of(S, S), unseen=True)} == {1, 2}


@pytest.mark.rule("KE-PUSH-04")
@pytest.mark.parametrize("modes", [(X, X), (X, S), (S, S), (X, S, S)])
def test_the_reduced_search_comes_to_the_same(modes: tuple[str, ...]) -> None:
    script = nest({"L": push}, [[[("L", mode)]] for mode in modes])
    assert codes(all_runs(script)) == {None}


def test_readers_do_not_depend_on_each_other() -> None:
    assert len(reduced(nest({"L": push}, [[[("L", S)]]] * 3))) == 1


def test_zeroed_memory_is_a_free_lock() -> None:
    async def script(lab: Lab) -> None:
        lock = EX_PUSH_LOCK()
        await ExAcquirePushLockExclusive(lock)
        await ExReleasePushLockExclusive(lock)

    assert run(in_region(script)).code is None


@pytest.mark.rule("KE-PUSH-01")
def test_any_writer_that_waits_may_be_next() -> None:
    async def script(lab: Lab) -> list[str]:
        lock = made()
        order: list[str] = []
        await ExAcquirePushLockExclusive(lock)

        async def writer(name: str) -> None:
            KeEnterCriticalRegion()
            await ExAcquirePushLockExclusive(lock)
            order.append(name)
            await ExReleasePushLockExclusive(lock)

        started = [lab.start(name, writer(name)) for name in "ab"]
        while len(lock.waiting) < 2:
            await lab.step()
        first = lock.waiting[0].label
        await ExReleasePushLockExclusive(lock)
        for one in started:
            await one.join()
        return [first, *order]

    orders = {tuple(one.result) for one in sample(in_region(script), 200)}
    assert {("a", "b", "a"), ("a", "a", "b"), ("b", "a", "b"), ("b", "b", "a")} == orders


# Recursion.


@families
@pytest.mark.rule("KE-PUSH-03", "KE-RACE-17", "KE-DOC-05", "KE-DOC-25")
@pytest.mark.parametrize(
    ("held", "again", "code"),
    [
        (X, X, "ke.self-deadlock"),
        (X, S, "ke.self-deadlock"),
        (S, X, "ke.self-deadlock"),
        (S, S, "ke.push-shared-recursion"),
    ],
)
def test_there_is_no_recursion(family: dict[str, tuple[Call, Call]], held: str, again: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await family[held][0](lock)
        await family[again][0](lock)

    one = run(in_region(script))
    assert one.code == code
    assert one.finding.bug_check is None


@pytest.mark.rule("KE-PUSH-03", "KE-RACE-17")
def test_recursion_of_a_reader_would_deadlock_behind_a_writer() -> None:
    """What the finding is about, without it: the reader waits for the writer that waits for the reader."""

    async def script(lab: Lab) -> None:
        lock = made()

        async def reader() -> None:
            KeEnterCriticalRegion()
            await ExAcquirePushLockShared(lock)
            await AcquireShared(lock)
            current_kthread().locks.clear()

        async def writer() -> None:
            KeEnterCriticalRegion()
            await ExAcquirePushLockExclusive(lock)
            await ExReleasePushLockExclusive(lock)

        await lab.together(reader(), writer())

    stuck = next(one for one in all_runs(script) if one.code == "ke.deadlock")
    assert "reader waits to acquire shared lock, held by writer" in stuck.finding.detail
    assert "writer waits to acquire lock, held by reader" in stuck.finding.detail


# Regions and levels.


@modes
@pytest.mark.rule("KE-PUSH-02", "KE-APC-11")
@pytest.mark.parametrize("how", ["nothing", "critical", "guarded", "APC_LEVEL"])
def test_apcs_are_disabled_for_the_kernels_push_locks(mode: str, how: str) -> None:
    async def script(lab: Lab) -> None:
        if how == "critical":
            KeEnterCriticalRegion()
        elif how == "guarded":
            KeEnterGuardedRegion()
        elif how == "APC_LEVEL":
            current_kthread().irql = APC_LEVEL
        lock = made()
        await EX[mode][0](lock)
        await EX[mode][1](lock)

    one = run(script)
    assert one.code == ("ke.pushlock-apc" if how == "nothing" else None)
    if one.code:
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0xEA,)


@modes
@pytest.mark.rule("KE-PUSH-02")
def test_apcs_are_still_disabled_at_the_release(mode: str) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        KeEnterCriticalRegion()
        await EX[mode][0](lock)
        KeLeaveCriticalRegion()
        await EX[mode][1](lock)

    one = run(script)
    assert one.code == "ke.pushlock-apc"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0xEB,)


@modes
@pytest.mark.rule("KE-PUSH-02")
def test_the_filter_managers_bring_their_own_region(mode: str) -> None:
    async def script(lab: Lab) -> list[int]:
        lock = made()
        counts = [current_kthread().kernel_apc_disable]
        await FLT[mode][0](lock)
        counts.append(current_kthread().kernel_apc_disable)
        await FLT[mode][1](lock)
        return [*counts, current_kthread().kernel_apc_disable]

    assert run(script).result == [0, 1, 0]


@families
@modes
@pytest.mark.rule("KE-PUSH-02")
def test_above_apc_level_windows_stops(family: dict[str, tuple[Call, Call]], mode: str) -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = DISPATCH_LEVEL
        await family[mode][0](EX_PUSH_LOCK())

    one = run(script)
    assert one.code == "ke.irql"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x192


# Releases.


@modes
@pytest.mark.rule("KE-PUSH-05")
def test_the_kernels_release_names_the_mode(mode: str) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await EX[mode][0](lock)
        await EX[S if mode == X else X][1](lock)

    one = run(in_region(script))
    assert one.code == "ke.lock-mode"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x162


@families
@modes
@pytest.mark.rule("KE-PUSH-05")
@pytest.mark.parametrize("held", [True, False])
def test_only_a_holder_releases(family: dict[str, tuple[Call, Call]], mode: str, held: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = made()

        async def holder() -> None:
            KeEnterCriticalRegion()
            await family[mode][0](lock)

        if held:
            await lab.together(holder())
        await family[mode][1](lock)

    one = run(in_region(script))
    assert one.code == "ke.lock-not-owned"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x162
    assert f"which {'holder' if held else 'nobody'} owns" in one.finding.detail


@modes
@pytest.mark.rule("KE-PUSH-06")
@pytest.mark.parametrize("flt_first", [True, False])
def test_the_two_families_do_not_mix(mode: str, flt_first: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await (FLT if flt_first else EX)[mode][0](lock)
        await (EX if flt_first else FLT)[mode][1](lock)

    one = run(in_region(script))
    assert one.code == "ke.push-mix"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x1


@pytest.mark.rule("KE-PUSH-02", "KE-APC-06")
def test_the_region_is_left_by_the_release_and_not_before() -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await FltAcquirePushLockExclusive(lock)
        KeLeaveCriticalRegion()
        await FltReleasePushLock(lock)

    assert run(script).code == "ke.region-balance"


@pytest.mark.rule("KE-PUSH-05")
def test_a_callback_does_not_return_with_a_push_lock() -> None:
    async def script(lab: Lab) -> None:
        lock = made("Lock")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltAcquirePushLockShared(lock)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.open()
        await file.read(1)

    one = run(script)
    assert one.code == "callback-dirty-exit"
    assert "holding Lock" in one.finding.detail


# Flags, storage.


@pytest.mark.rule("KE-PUSH-05")
@pytest.mark.parametrize("flags", [0, 1, 2, 3, 4, 0x80])
@pytest.mark.parametrize(
    ("acquire", "release"),
    [
        (ExAcquirePushLockExclusiveEx, ExReleasePushLockExclusiveEx),
        (ExAcquirePushLockSharedEx, ExReleasePushLockSharedEx),
        (FltAcquirePushLockExclusiveEx, FltReleasePushLockEx),
        (FltAcquirePushLockSharedEx, FltReleasePushLockEx),
    ],
)
def test_there_are_two_flags(acquire: Any, release: Any, flags: int) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await acquire(lock, flags)
        await release(lock, flags)

    one = run(in_region(script))
    assert one.code == ("ke.push-flags" if flags > 3 else None)
    if one.code:
        assert one.finding.bug_check is not None
        assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (0x152, (flags,))


def test_the_flags_have_their_values() -> None:
    assert (EX_PUSH_LOCK_ENABLE_AUTO_BOOST, EX_PUSH_LOCK_DISABLE_AUTO_BOOST, EX_DEFAULT_PUSH_LOCK_FLAGS) == (1, 2, 1)
    assert (FLT_PUSH_LOCK_ENABLE_AUTO_BOOST, FLT_PUSH_LOCK_DISABLE_AUTO_BOOST) == (1, 2)


@pytest.mark.rule("KE-PUSH-01", "KE-DL-03")
def test_a_lock_is_deleted_and_made_anew_while_nobody_holds_it() -> None:
    def outcome(*calls: Callable[[EX_PUSH_LOCK], object], held: bool = False) -> str | None:
        async def script(lab: Lab) -> None:
            lock = made()
            if held:
                await FltAcquirePushLockShared(lock)
            for call in calls:
                result = call(lock)
                if isinstance(result, Awaitable):
                    await result

        return run(script).code

    assert outcome(FltDeletePushLock) is None
    assert outcome(FltDeletePushLock, held=True) == "ke.lock-freed"
    assert outcome(FltDeletePushLock, FltDeletePushLock) == "ke.uninitialised"
    assert outcome(FltDeletePushLock, FltAcquirePushLockShared) == "ke.uninitialised"
    assert outcome(FltDeletePushLock, FltInitializePushLock, FltAcquirePushLockShared, FltReleasePushLock) is None
    assert outcome(FltInitializePushLock) is None
    assert outcome(FltInitializePushLock, held=True) == "ke.lock-reinitialised"
    assert outcome(ExInitializePushLock, held=True) == "ke.lock-reinitialised"
