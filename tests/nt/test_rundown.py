"""Run-down protection: who is let in, who waits for whom, and how it is misused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run, sample
from locking import reduced
from racing import Field

from kemu.errors import UsageError
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.rundown import LIVE
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeEnterGuardedRegion, KeLeaveCriticalRegion
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    EX_RUNDOWN_REF,
    EX_RUNDOWN_REF_CACHE_AWARE,
    FAST_MUTEX,
    Driver,
    ExAcquireFastMutex,
    ExAcquireRundownProtection,
    ExAcquireRundownProtectionCacheAware,
    ExAcquireRundownProtectionCacheAwareEx,
    ExAcquireRundownProtectionEx,
    ExAllocateCacheAwareRundownProtection,
    ExFreeCacheAwareRundownProtection,
    ExInitializeFastMutex,
    ExInitializeRundownProtection,
    ExInitializeRundownProtectionCacheAware,
    ExReInitializeRundownProtection,
    ExReInitializeRundownProtectionCacheAware,
    ExReleaseFastMutex,
    ExReleaseRundownProtection,
    ExReleaseRundownProtectionCacheAware,
    ExReleaseRundownProtectionCacheAwareEx,
    ExReleaseRundownProtectionEx,
    ExRundownCompleted,
    ExRundownCompletedCacheAware,
    ExSizeOfRundownProtectionCacheAware,
    ExWaitForRundownProtectionRelease,
    ExWaitForRundownProtectionReleaseCacheAware,
)

Many = Callable[[Any, int], Awaitable[Any]]
One = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Family:
    """The routines of one kind."""

    make: Callable[[], Any]
    acquire: One
    acquire_many: Many
    release: One
    release_many: Many
    wait: One
    complete: One
    revive: One


def plain_ref() -> EX_RUNDOWN_REF:
    rundown = EX_RUNDOWN_REF("R")
    ExInitializeRundownProtection(rundown)
    return rundown


def cache_aware_ref() -> EX_RUNDOWN_REF_CACHE_AWARE:
    rundown = EX_RUNDOWN_REF_CACHE_AWARE("R")
    ExInitializeRundownProtectionCacheAware(rundown, ExSizeOfRundownProtectionCacheAware())
    return rundown


PLAIN = Family(
    plain_ref,
    ExAcquireRundownProtection,
    ExAcquireRundownProtectionEx,
    ExReleaseRundownProtection,
    ExReleaseRundownProtectionEx,
    ExWaitForRundownProtectionRelease,
    ExRundownCompleted,
    ExReInitializeRundownProtection,
)
CACHE_AWARE = Family(
    cache_aware_ref,
    ExAcquireRundownProtectionCacheAware,
    ExAcquireRundownProtectionCacheAwareEx,
    ExReleaseRundownProtectionCacheAware,
    ExReleaseRundownProtectionCacheAwareEx,
    ExWaitForRundownProtectionReleaseCacheAware,
    ExRundownCompletedCacheAware,
    ExReInitializeRundownProtectionCacheAware,
)
families = pytest.mark.parametrize("family", [PLAIN, CACHE_AWARE], ids=["plain", "cache-aware"])


# Who is let in.


@families
@pytest.mark.rule("KE-RUNDOWN-01", "KE-RUNDOWN-02", "KE-RUNDOWN-09", "KE-RUNDOWN-10")
def test_it_is_held_until_its_run_down_has_begun(family: Family) -> None:
    async def script(lab: Lab) -> list[Any]:
        rundown = family.make()
        came = [await family.acquire(rundown), await family.acquire_many(rundown, 2), rundown.count]
        await family.release(rundown)
        await family.release_many(rundown, 2)
        came.append(rundown.count)
        await family.wait(rundown)
        came += [await family.acquire(rundown), await family.acquire_many(rundown, 2), rundown.count]
        # On one that is run down a wait returns at once.
        await family.wait(rundown)
        await family.complete(rundown)
        came.append(await family.acquire(rundown))
        await family.wait(rundown)
        await family.revive(rundown)
        came.append(await family.acquire(rundown))
        await family.release(rundown)
        return came

    one = run(script)
    assert (one.code, one.result) == (None, [True, True, 3, 0, False, False, 0, False, True])


def users_and_owner(count: int, *, checks: bool = True) -> Script:
    """Threads that use an object as long as they hold it, and one that takes it down."""

    async def script(lab: Lab) -> None:
        rundown = plain_ref()
        gone: list[str] = []

        async def user() -> None:
            if await ExAcquireRundownProtection(rundown):
                lab.check(not (checks and gone), "the object is gone")
                lab.note("used")
                await ExReleaseRundownProtection(rundown)
            else:
                lab.note("refused")

        async def owner() -> None:
            await ExWaitForRundownProtectionRelease(rundown)
            gone.append("gone")
            lab.note("taken down")

        await lab.together(*(user() for _ in range(count)), owner())

    return script


@pytest.mark.rule("KE-RUNDOWN-01", "KE-RUNDOWN-02", "KE-RACE-08")
def test_an_acquisition_that_loses_fails_cleanly() -> None:
    runs = all_runs(users_and_owner(1))
    assert codes(runs) == {None}
    assert {tuple(sorted(one.order)) for one in runs} == {("taken down", "used"), ("refused", "taken down")}
    assert all(one.before("used", "taken down") for one in runs if "used" in one.order)


@pytest.mark.rule("KE-RUNDOWN-02", "KE-RACE-08")
def test_the_reduced_search_comes_to_the_same_with_two_users() -> None:
    runs = all_runs(users_and_owner(2))
    assert codes(runs) == {None}
    assert {one.order.count("used") for one in runs} == {0, 1, 2}


@pytest.mark.rule("KE-RUNDOWN-06")
def test_holders_do_not_depend_on_each_other() -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()

        async def user() -> None:
            assert await ExAcquireRundownProtection(rundown)
            await ExReleaseRundownProtection(rundown)

        await lab.together(user(), user(), user())

    assert len(reduced(script)) == 1


@pytest.mark.rule("KE-RUNDOWN-06", "KE-INTLK-05")
def test_holding_it_protects_nothing_among_the_holders() -> None:
    async def script(lab: Lab) -> None:
        rundown, field = plain_ref(), Field()

        async def user() -> None:
            assert await ExAcquireRundownProtection(rundown)
            field.store()
            await ExReleaseRundownProtection(rundown)

        await lab.together(user(), user())

    assert codes(all_runs(script, races=True)) == {"ke.data-race"}


@pytest.mark.rule("KE-ORD-04", "KE-RUNDOWN-05")
@pytest.mark.parametrize("waits", [True, False])
def test_what_the_holders_did_is_ordered_before_the_return_of_the_wait(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        rundown, fields = plain_ref(), [Field("first"), Field("second")]

        async def user(field: Field) -> None:
            if await ExAcquireRundownProtection(rundown):
                field.store()
                await ExReleaseRundownProtection(rundown)

        async def owner() -> None:
            if waits:
                await ExWaitForRundownProtectionRelease(rundown)
            else:
                await lab.step()
            for field in fields:
                field.store()

        await lab.together(*map(user, fields), owner())

    assert run(script, races=True).code == (None if waits else "ke.data-race")
    if waits:
        assert codes(all_runs(script, races=True)) == {None}


@pytest.mark.rule("KE-RUNDOWN-09")
@pytest.mark.parametrize("whole", [True, False])
def test_who_acquires_it_again_comes_after_its_revival(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        rundown, field = plain_ref(), Field()
        await ExWaitForRundownProtectionRelease(rundown)

        async def owner() -> None:
            if whole:
                field.store()
            await ExReInitializeRundownProtection(rundown)
            if not whole:
                field.store()

        async def user() -> None:
            if await ExAcquireRundownProtection(rundown):
                field.load()
                await ExReleaseRundownProtection(rundown)

        await lab.together(owner(), user())

    found = codes(all_runs(script, races=True))
    assert found == ({None} if whole else {None, "ke.data-race"})


# Who may release.


@pytest.mark.rule("KE-RUNDOWN-01")
def test_another_thread_may_release() -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()

        async def hands_over() -> None:
            assert await ExAcquireRundownProtection(rundown)

        async def takes_over() -> None:
            await ExReleaseRundownProtection(rundown)

        await lab.together(hands_over())
        await lab.together(takes_over())
        await ExWaitForRundownProtectionRelease(rundown)

    assert codes(all_runs(script)) == {None}


@families
@pytest.mark.rule("KE-RUNDOWN-03")
def test_there_are_as_many_releases_as_acquisitions(family: Family) -> None:
    async def script(lab: Lab) -> None:
        rundown = family.make()
        assert await family.acquire(rundown)
        await family.release_many(rundown, 2)

    one = run(script)
    assert one.code == "ke.rundown-underflow"
    assert one.finding.detail.endswith("script releases R, which nobody holds")


@pytest.mark.rule("KE-RUNDOWN-03", "KE-RACE-08")
def test_who_was_refused_must_not_release() -> None:
    def script_of(looks: bool) -> Script:
        async def script(lab: Lab) -> None:
            rundown = plain_ref()

            async def user() -> None:
                if await ExAcquireRundownProtection(rundown) or not looks:
                    await ExReleaseRundownProtection(rundown)

            async def owner() -> None:
                await ExWaitForRundownProtectionRelease(rundown)

            await lab.together(user(), owner())

        return script

    runs = all_runs(script_of(looks=False))
    assert codes(runs) == {None, "ke.rundown-ignored"}
    failed = next(one for one in runs if one.code)
    assert failed.finding.detail == ("ExReleaseRundownProtection: user has released R, whose acquisition had failed")
    assert codes(all_runs(script_of(looks=True))) == {None}


@pytest.mark.rule("KE-RUNDOWN-03")
def test_whose_hold_was_taken_by_one_who_was_refused_is_not_blamed() -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()
        assert await ExAcquireRundownProtection(rundown)

        async def owner() -> None:
            await ExWaitForRundownProtectionRelease(rundown)

        async def thief() -> None:
            await ExAcquireRundownProtection(rundown)
            await ExReleaseRundownProtection(rundown)

        taken_down = lab.start("owner", owner())
        while rundown.state == LIVE:
            await lab.step()
        await lab.together(thief())
        await taken_down.join()
        await ExReleaseRundownProtection(rundown)

    runs = sample(script, 20)
    assert codes(runs) == {"ke.rundown-ignored"}
    assert all("thief has released R" in one.finding.detail for one in runs)


# Who waits for whom.


@pytest.mark.rule("KE-RUNDOWN-04")
def test_who_holds_it_cannot_wait_for_all_holders() -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()
        assert await ExAcquireRundownProtection(rundown)
        await ExWaitForRundownProtectionRelease(rundown)

    one = run(script)
    assert one.code == "ke.self-deadlock"
    assert "cycle script -> script" in one.finding.detail


@pytest.mark.rule("KE-RUNDOWN-04")
def test_a_hold_that_another_thread_will_release_is_waited_for() -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()
        assert await ExAcquireRundownProtection(rundown)

        async def worker() -> None:
            await ExReleaseRundownProtection(rundown)

        started = lab.start("worker", worker())
        await ExWaitForRundownProtectionRelease(rundown)
        await started.join()

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-RUNDOWN-04", "KE-RACE-05")
def test_who_waits_must_not_own_a_lock_that_a_holder_needs() -> None:
    def script_of(under: bool) -> Script:
        async def script(lab: Lab) -> None:
            rundown, mutex = plain_ref(), FAST_MUTEX("X")
            ExInitializeFastMutex(mutex)

            async def user() -> None:
                if await ExAcquireRundownProtection(rundown):
                    await ExAcquireFastMutex(mutex)
                    await ExReleaseFastMutex(mutex)
                    await ExReleaseRundownProtection(rundown)

            async def owner() -> None:
                if under:
                    await ExAcquireFastMutex(mutex)
                await ExWaitForRundownProtectionRelease(rundown)
                if under:
                    await ExReleaseFastMutex(mutex)

            await lab.together(user(), owner())

        return script

    runs = all_runs(script_of(under=True))
    assert codes(runs) == {None, "ke.deadlock"}
    failed = next(one for one in runs if one.code)
    assert "owner waits to see the last holder gone from R, held by user" in failed.finding.detail
    assert codes(all_runs(script_of(under=False))) == {None}


# Suspension, levels, storage.


@pytest.mark.rule("KE-RUNDOWN-07", "KE-RACE-07")
@pytest.mark.parametrize("how", ["nothing", "critical", "guarded", "APC_LEVEL", "system"])
def test_a_holder_that_may_be_suspended_is_worth_a_warning(how: str) -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()

        async def user() -> None:
            if how == "critical":
                KeEnterCriticalRegion()
            elif how == "guarded":
                KeEnterGuardedRegion()
            elif how == "APC_LEVEL":
                current_kthread().irql = APC_LEVEL
            if await ExAcquireRundownProtection(rundown):
                await lab.step()
                await ExReleaseRundownProtection(rundown)
            current_kthread().irql = PASSIVE_LEVEL

        async def owner() -> None:
            await ExWaitForRundownProtectionRelease(rundown)

        started = [lab.start("user", user(), lab.app if how != "system" else None), lab.start("owner", owner())]
        for one in started:
            await one.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    # Only where the wait meets the holder.
    warned = {one.warnings for one in runs}
    assert warned == ({(), ("ke.rundown-suspend",)} if how == "nothing" else {()})


@families
@pytest.mark.rule("KE-RUNDOWN-08")
@pytest.mark.parametrize("level", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL])
def test_it_is_held_at_any_level_up_to_dispatch_and_waited_for_below(family: Family, level: int) -> None:
    async def script(lab: Lab) -> None:
        rundown = family.make()
        current_kthread().irql = level
        assert await family.acquire(rundown)
        await family.release(rundown)
        await family.wait(rundown)

    assert run(script).code == ("ke.irql" if level == DISPATCH_LEVEL else None)


@families
@pytest.mark.rule("KE-RUNDOWN-09")
@pytest.mark.parametrize("how", ["live", "held", "run down"])
def test_it_is_revived_after_its_run_down_only(family: Family, how: str) -> None:
    async def script(lab: Lab) -> None:
        rundown = family.make()
        if how == "held":
            assert await family.acquire(rundown)
        elif how == "run down":
            await family.wait(rundown)
        await family.revive(rundown)

    one = run(script)
    assert one.code == (None if how == "run down" else "ke.rundown-reinit")


@pytest.mark.rule("KE-RUNDOWN-09")
@pytest.mark.parametrize("held", [True, False])
def test_it_is_not_initialised_under_its_holders(held: bool) -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()
        if held:
            assert await ExAcquireRundownProtection(rundown)
        ExInitializeRundownProtection(rundown)

    assert run(script).code == ("ke.rundown-reinit" if held else None)


@pytest.mark.rule("KE-RUNDOWN-10")
@pytest.mark.parametrize("own", [PLAIN, CACHE_AWARE], ids=["plain", "cache-aware"])
@pytest.mark.parametrize("name", ["acquire", "release", "wait", "complete", "revive"])
def test_the_two_kinds_do_not_mix(own: Family, name: str) -> None:
    other = CACHE_AWARE if own is PLAIN else PLAIN

    async def script(lab: Lab) -> None:
        await getattr(other, name)(own.make())

    one = run(script)
    assert one.code == "ke.rundown-mix"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x16C


@pytest.mark.rule("KE-RUNDOWN-10")
def test_the_two_kinds_are_initialised_by_their_own_routines() -> None:
    async def plain(lab: Lab) -> None:
        ExInitializeRundownProtection(EX_RUNDOWN_REF_CACHE_AWARE())

    async def cache_aware(lab: Lab) -> None:
        ExInitializeRundownProtectionCacheAware(EX_RUNDOWN_REF(), 64)

    assert run(plain).code == run(cache_aware).code == "ke.rundown-mix"


@pytest.mark.rule("KE-RUNDOWN-10")
@pytest.mark.parametrize("count", [-1, 1 << 32])
@pytest.mark.parametrize("call", [ExAcquireRundownProtectionEx, ExReleaseRundownProtectionEx])
def test_a_count_is_a_ulong(call: Many, count: int) -> None:
    async def script(lab: Lab) -> None:
        await call(plain_ref(), count)

    with pytest.raises(UsageError, match=rf"with Count {count}"):
        run(script)


def test_it_is_used_after_initialisation_only() -> None:
    async def script(lab: Lab) -> None:
        await ExAcquireRundownProtection(EX_RUNDOWN_REF("raw"))

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert "ExAcquireRundownProtection on raw" in one.finding.detail


# What is allocated.


@pytest.mark.rule("KE-RUNDOWN-10")
def test_cache_aware_protection_is_allocated_and_freed() -> None:
    async def script(lab: Lab) -> None:
        rundown = await ExAllocateCacheAwareRundownProtection(0, "Test")
        assert rundown is not None
        assert await ExAcquireRundownProtectionCacheAware(rundown)
        await ExReleaseRundownProtectionCacheAware(rundown)
        await ExFreeCacheAwareRundownProtection(rundown)

    assert run(script).code is None


@pytest.mark.parametrize(("then", "code"), [("use", "ke.use-after-free"), ("free", "ke.use-after-free")])
def test_it_is_not_used_after_it_was_freed(then: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        rundown = await ExAllocateCacheAwareRundownProtection(0, "Test")
        assert rundown is not None
        await ExFreeCacheAwareRundownProtection(rundown)
        await (ExAcquireRundownProtectionCacheAware if then == "use" else ExFreeCacheAwareRundownProtection)(rundown)

    one = run(script)
    assert one.code == code
    assert "freed by script" in one.finding.detail


def test_two_that_free_it_at_the_same_time_are_found() -> None:
    async def script(lab: Lab) -> None:
        rundown = await ExAllocateCacheAwareRundownProtection(0, "Test")
        assert rundown is not None

        async def frees() -> None:
            await ExFreeCacheAwareRundownProtection(rundown)

        await lab.together(frees(), frees())

    assert codes(all_runs(script)) == {"ke.use-after-free", "ke.double-free"}


def test_only_what_was_allocated_is_freed() -> None:
    async def script(lab: Lab) -> None:
        await ExFreeCacheAwareRundownProtection(cache_aware_ref())

    assert run(script).code == "ke.pool-wrong-address"


def test_allocation_may_fail() -> None:
    async def script(lab: Lab) -> bool:
        return await ExAllocateCacheAwareRundownProtection(0, "Test") is None

    assert {one.result for one in all_runs(script, low_resources=True)} == {True, False}


class Allocator(Driver):
    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.Rundown = await ExAllocateCacheAwareRundownProtection(0, "Test")
        return STATUS_SUCCESS


def test_what_a_driver_leaves_behind_is_reported() -> None:
    async def script(lab: Lab) -> None:
        loaded = await lab.load(Allocator, "100000")
        lab.system.report_leftovers("Allocator", loaded.driver_object.actor)

    one = run(script)
    assert one.code == "ke.pool-leak"
    assert "left run-down protection 'Test' behind" in one.finding.detail


def test_regions_and_holds_are_independent() -> None:
    async def script(lab: Lab) -> None:
        rundown = plain_ref()
        KeEnterCriticalRegion()
        assert await ExAcquireRundownProtection(rundown)
        KeLeaveCriticalRegion()
        await ExReleaseRundownProtection(rundown)

    assert run(script).code is None
