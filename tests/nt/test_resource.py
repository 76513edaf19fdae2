"""Executive resources: who gets in and who waits, recursion, conversion, transfer, and how they are misused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run, sample
from locking import S, X, nest, reduced, resource

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeEnterGuardedRegion, KeLeaveCriticalRegion
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    ERESOURCE,
    FLAG_OWNER_POINTER_IS_THREAD,
    Driver,
    ExAcquireResourceExclusiveLite,
    ExAcquireResourceSharedLite,
    ExAcquireSharedStarveExclusive,
    ExAcquireSharedWaitForExclusive,
    ExConvertExclusiveToSharedLite,
    ExDeleteResourceLite,
    ExEnterCriticalRegionAndAcquireResourceExclusive,
    ExEnterCriticalRegionAndAcquireResourceShared,
    ExEnterCriticalRegionAndAcquireSharedWaitForExclusive,
    ExGetCurrentResourceThread,
    ExGetExclusiveWaiterCount,
    ExGetSharedWaiterCount,
    ExInitializeResourceLite,
    ExIsResourceAcquiredExclusiveLite,
    ExIsResourceAcquiredLite,
    ExIsResourceAcquiredSharedLite,
    ExReinitializeResourceLite,
    ExReleaseResourceAndLeaveCriticalRegion,
    ExReleaseResourceForThreadLite,
    ExReleaseResourceLite,
    ExSetResourceOwnerPointer,
    ExSetResourceOwnerPointerEx,
    KeSetEvent,
    KeWaitForSingleObject,
)

Ask = Callable[[ERESOURCE, bool], Awaitable[bool]]

OWN = ExAcquireResourceExclusiveLite
SHARE = ExAcquireResourceSharedLite
STARVE = ExAcquireSharedStarveExclusive
YIELD = ExAcquireSharedWaitForExclusive


def made(label: str = "R") -> ERESOURCE:
    one = ERESOURCE(label)
    assert ExInitializeResourceLite(one) == STATUS_SUCCESS
    return one


def in_region(script: Script) -> Script:
    async def inside(lab: Lab) -> Any:
        KeEnterCriticalRegion()
        return await script(lab)

    return inside


async def hold(one: ERESOURCE, ask: Ask) -> None:
    """Acquire, and never release; nobody minds."""
    KeEnterCriticalRegion()
    assert await ask(one, True)
    current_kthread().locks.clear()


# Who gets in.


@pytest.mark.rule("KE-RES-03", "KE-RES-05", "KE-RES-06", "KE-RES-07")
@pytest.mark.parametrize(
    ("held", "asked", "granted"),
    [
        (None, OWN, True),
        (None, SHARE, True),
        (None, STARVE, True),
        (None, YIELD, True),
        (OWN, OWN, False),
        (OWN, SHARE, False),
        (OWN, STARVE, False),
        (OWN, YIELD, False),
        (SHARE, OWN, False),
        (SHARE, SHARE, True),
        (SHARE, STARVE, True),
        (SHARE, YIELD, True),
    ],
)
def test_who_gets_in_beside_another_thread(held: Ask | None, asked: Ask, granted: bool) -> None:
    async def script(lab: Lab) -> bool:
        one = made()
        if held is not None:
            await lab.together(hold(one, held))
        got = await asked(one, False)
        current_kthread().locks.clear()
        return got

    assert run(in_region(script)).result is granted


@pytest.mark.rule("KE-RES-03", "KE-RES-05", "KE-RES-12")
@pytest.mark.parametrize(
    ("mine", "asked", "exclusive", "count"),
    [
        (OWN, OWN, True, 2),
        (OWN, SHARE, True, 2),
        (OWN, STARVE, True, 2),
        (OWN, YIELD, True, 2),
        (SHARE, SHARE, False, 2),
        (SHARE, STARVE, False, 2),
        (SHARE, YIELD, False, 2),
    ],
)
def test_a_thread_may_acquire_it_again(mine: Ask, asked: Ask, exclusive: bool, count: int) -> None:
    async def script(lab: Lab) -> tuple[bool, int, int]:
        one = made()
        assert await mine(one, True)
        assert await asked(one, True)
        result = (
            ExIsResourceAcquiredExclusiveLite(one),
            ExIsResourceAcquiredSharedLite(one),
            ExIsResourceAcquiredLite(one),
        )
        await ExReleaseResourceLite(one)
        assert ExIsResourceAcquiredSharedLite(one) == 1
        await ExReleaseResourceLite(one)
        assert ExIsResourceAcquiredSharedLite(one) == 0
        # Now everybody may have it.
        await lab.together(hold(one, OWN))
        return result

    assert run(in_region(script)).result == (exclusive, count, count)


def behind_a_writer(again: Ask, *, first: bool) -> Script:
    """A thread shares the resource, another one waits to own it; then a thread asks, the *first* or a third.

    What it is told is in the notes, with how many waited to own it.
    """

    async def script(lab: Lab) -> None:
        one = made()
        KeEnterCriticalRegion()
        assert await SHARE(one, True)

        async def writer() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            await ExReleaseResourceLite(one)

        async def asks() -> None:
            KeEnterCriticalRegion()
            waiting = await ExGetExclusiveWaiterCount(one)
            got = await again(one, False)
            # A writer that came in between would make the count a lie.
            if waiting == await ExGetExclusiveWaiterCount(one):
                lab.note(f"{waiting} {got}")
            if got:
                await ExReleaseResourceLite(one)

        started = [lab.start("writer", writer())]
        if first:
            await asks()
        else:
            other = lab.start("asks", asks())
            await other.join()
        await ExReleaseResourceLite(one)
        await started[0].join()

    return script


@pytest.mark.rule("KE-RES-05", "KE-RES-06", "KE-RACE-17")
@pytest.mark.parametrize(
    ("again", "first", "behind"),
    [
        (SHARE, True, True),
        (SHARE, False, False),
        (STARVE, True, True),
        (STARVE, False, True),
        (YIELD, True, False),
        (YIELD, False, False),
    ],
)
def test_who_goes_before_a_writer_that_waits(again: Ask, first: bool, behind: bool) -> None:
    runs = all_runs(behind_a_writer(again, first=first))
    assert codes(runs) == {None}
    assert {note.what for one in runs for note in one.notes} == {"0 True", f"1 {behind}"}


@pytest.mark.rule("KE-RES-12")
def test_the_writer_goes_first_when_the_last_reader_leaves_and_readers_when_the_writer_does() -> None:
    async def script(lab: Lab) -> None:
        one = made()
        KeEnterCriticalRegion()
        assert await SHARE(one, True)

        async def thread(ask: Ask, name: str) -> None:
            KeEnterCriticalRegion()
            assert await ask(one, True)
            lab.note(name)
            await ExReleaseResourceLite(one)

        started = [lab.start(name, thread(OWN, name)) for name in ("w1", "w2")]
        while await ExGetExclusiveWaiterCount(one) < 2:
            await lab.step()
        started += [lab.start(name, thread(SHARE, name)) for name in ("r1", "r2")]
        while await ExGetSharedWaiterCount(one) < 2:
            await lab.step()
        await ExReleaseResourceLite(one)
        for one_of_them in started:
            await one_of_them.join()

    runs = sample(script, 100)
    assert codes(runs) == {None}
    orders = {tuple(one.order) for one in runs}
    # A writer, then both readers, then the other writer: neither overtakes.
    assert {order[0] for order in orders} == {"w1", "w2"}
    assert {order[3] for order in orders} == {"w1", "w2"}
    assert all({*order[1:3]} == {"r1", "r2"} for order in orders)


@pytest.mark.rule("KE-RES-03", "KE-RES-05")
@pytest.mark.parametrize("modes", [(X, X), (X, S), (S, S), (X, X, S)])
def test_the_reduced_search_comes_to_the_same(modes: tuple[str, ...]) -> None:
    script = nest({"R": resource}, [[[("R", mode)]] for mode in modes])
    assert codes(all_runs(script)) == {None}


def test_readers_do_not_depend_on_each_other() -> None:
    script = nest({"R": resource}, [[[("R", S)]], [[("R", S)]], [[("R", S)]]])
    assert len(reduced(script)) == 1


# Waiting for oneself.


@pytest.mark.rule("KE-RES-04", "KE-RACE-17", "KE-DL-03", "KE-DOC-06")
@pytest.mark.parametrize("wait", [True, False])
def test_who_shares_it_cannot_wait_to_own_it(wait: bool) -> None:
    async def script(lab: Lab) -> bool:
        one = made()
        assert await SHARE(one, True)
        got = await OWN(one, wait)
        await ExReleaseResourceLite(one)
        return got

    one = run(in_region(script))
    if wait:
        assert one.code == "ke.self-deadlock"
        assert one.finding.bug_check is None
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0x1000,)
    else:
        assert (one.code, one.result) == (None, False)


@pytest.mark.rule("KE-RES-04", "KE-RACE-17")
def test_two_that_share_it_cannot_both_wait_to_own_it() -> None:
    async def script(lab: Lab) -> None:
        one = made()

        async def upgrades() -> None:
            KeEnterCriticalRegion()
            assert await SHARE(one, True)
            assert await OWN(one, True)

        await lab.together(upgrades(), upgrades())

    assert codes(all_runs(script)) == {"ke.self-deadlock"}


@pytest.mark.rule("KE-RES-06", "KE-RACE-17")
@pytest.mark.parametrize(("again", "found"), [(YIELD, {None, "ke.self-deadlock"}), (SHARE, {None}), (STARVE, {None})])
def test_who_shares_it_and_gives_way_waits_for_itself(again: Ask, found: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        one = made()

        async def recursive() -> None:
            KeEnterCriticalRegion()
            assert await SHARE(one, True)
            assert await again(one, True)
            await ExReleaseResourceLite(one)
            await ExReleaseResourceLite(one)

        async def writer() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            await ExReleaseResourceLite(one)

        await lab.together(recursive(), writer())

    runs = all_runs(script)
    assert codes(runs) == found
    if len(found) == 2:
        failed = next(one for one in runs if one.code)
        assert "writer waits for it" in failed.finding.detail


# Conversion.


@pytest.mark.rule("KE-RES-08")
def test_an_owner_may_let_the_readers_in() -> None:
    async def script(lab: Lab) -> None:
        one = made()

        async def owner() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            assert await OWN(one, True)
            await ExConvertExclusiveToSharedLite(one)
            lab.check(not ExIsResourceAcquiredExclusiveLite(one), "it is shared")
            lab.check(ExIsResourceAcquiredSharedLite(one) == 2, "as often as it was owned")
            lab.note("converted")
            await lab.step()
            await ExReleaseResourceLite(one)
            await ExReleaseResourceLite(one)
            lab.note("released")

        async def reader() -> None:
            KeEnterCriticalRegion()
            assert await SHARE(one, True)
            lab.note("read")
            await ExReleaseResourceLite(one)

        await lab.together(owner(), reader())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.index("read") for one in runs} == {0, 1, 2}


@pytest.mark.rule("KE-RES-08")
def test_a_writer_that_waits_goes_on_waiting_when_the_owner_shares() -> None:
    async def script(lab: Lab) -> None:
        one = made()

        async def owner() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            await ExConvertExclusiveToSharedLite(one)
            lab.note("shares")
            await ExReleaseResourceLite(one)

        async def writer() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            lab.check(one.sharers == {}, "nobody shares it")
            lab.note("owns")
            await ExReleaseResourceLite(one)

        await lab.together(owner(), writer())

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-RES-08", "KE-RES-09")
def test_only_the_owner_converts() -> None:
    async def script(lab: Lab) -> None:
        one = made()
        await SHARE(one, True)
        await ExConvertExclusiveToSharedLite(one)

    one = run(in_region(script))
    assert one.code == "ke.lock-not-owned"


# APCs, owners, storage.


@pytest.mark.rule("KE-RES-02", "KE-APC-11")
@pytest.mark.parametrize("ask", [OWN, SHARE, STARVE, YIELD])
@pytest.mark.parametrize("how", ["nothing", "critical", "guarded", "APC_LEVEL"])
def test_apcs_are_disabled_while_it_is_acquired(ask: Ask, how: str) -> None:
    async def script(lab: Lab) -> None:
        one = made()
        if how == "critical":
            KeEnterCriticalRegion()
        elif how == "guarded":
            KeEnterGuardedRegion()
        elif how == "APC_LEVEL":
            current_kthread().irql = APC_LEVEL
        assert await ask(one, True)
        await ExReleaseResourceLite(one)

    one = run(script)
    assert one.code == ("ke.eresource-apc" if how == "nothing" else None)
    if one.code:
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0x37,)


@pytest.mark.rule("KE-RES-02")
def test_apcs_are_still_disabled_when_it_is_released() -> None:
    async def script(lab: Lab, early: bool) -> None:
        one = made()
        KeEnterCriticalRegion()
        assert await OWN(one, True)
        if early:
            KeLeaveCriticalRegion()
        else:
            current_kthread().irql = DISPATCH_LEVEL
        await ExReleaseResourceLite(one)

    assert run(lambda lab: script(lab, False)).code is None
    one = run(lambda lab: script(lab, True))
    assert one.code == "ke.eresource-apc"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x38,)


@pytest.mark.rule("KE-RES-09")
@pytest.mark.parametrize("owned", [None, OWN, SHARE])
def test_only_an_owner_releases(owned: Ask | None) -> None:
    async def script(lab: Lab) -> None:
        one = made()
        if owned is not None:
            await lab.together(hold(one, owned))
        await ExReleaseResourceLite(one)

    one = run(in_region(script))
    assert one.code == "ke.lock-not-owned"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0xE3
    assert f"which {'nobody' if owned is None else 'hold'} owns" in one.finding.detail


@pytest.mark.rule("KE-RES-01")
def test_it_is_initialised_once_and_deleted_before_it_goes_away() -> None:
    def outcome(action: Callable[[ERESOURCE], object], *, ask: Ask | None = None) -> tuple[str | None, int | None]:
        async def script(lab: Lab) -> None:
            one = made()
            if ask is not None:
                assert await ask(one, True)
            action(one)

        one = run(in_region(script))
        verifier = one.finding.verifier if one.code else None
        return one.code, verifier.parameters[0] if verifier is not None else None

    def deleted(then: Callable[[ERESOURCE], object]) -> Callable[[ERESOURCE], object]:
        def both(one: ERESOURCE) -> object:
            assert ExDeleteResourceLite(one) == STATUS_SUCCESS
            return then(one)

        return both

    assert outcome(ExInitializeResourceLite) == ("ke.lock-reinitialised", 0xD0)
    assert outcome(deleted(ExInitializeResourceLite)) == (None, None)
    assert outcome(deleted(ExDeleteResourceLite)) == ("ke.uninitialised", 0xD1)
    assert outcome(deleted(ExIsResourceAcquiredSharedLite)) == ("ke.uninitialised", None)
    assert outcome(ExDeleteResourceLite, ask=SHARE) == ("ke.lock-freed", 0x100B)
    assert outcome(ExReinitializeResourceLite, ask=OWN) == ("ke.lock-freed", 0x100B)
    assert outcome(ExReinitializeResourceLite) == (None, None)


@pytest.mark.rule("KE-RES-01")
def test_what_is_wrong_with_its_memory_going_away() -> None:
    async def script(lab: Lab) -> list[Any]:
        one = made()
        assert await OWN(one, True)
        left = [one.still_active()]
        await ExReleaseResourceLite(one)
        left.append(one.still_active())
        ExDeleteResourceLite(one)
        return [*left, one.still_active()]

    owned, free, deleted = run(in_region(script)).result
    assert (owned.code, owned.verifier.parameters) == ("ke.lock-freed", (0xD2,))
    assert (free.code, free.verifier.parameters) == ("ke.resource-not-deleted", (0xD2,))
    assert deleted is None


class Keeper(Driver):
    """Initialises a resource, and deletes it, or not."""

    def __init__(self, deletes: bool) -> None:
        self.Resource: ERESOURCE | None = None
        self.deletes = deletes

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.Resource = ERESOURCE("Keeper.Resource")
        ExInitializeResourceLite(self.Resource)
        if self.deletes:
            ExDeleteResourceLite(self.Resource)
        return STATUS_SUCCESS


@pytest.mark.rule("KE-RES-01")
@pytest.mark.parametrize("deletes", [True, False])
def test_a_driver_deletes_its_resources_before_it_is_unloaded(deletes: bool) -> None:
    async def script(lab: Lab) -> None:
        loaded = await lab.load(Keeper(deletes), "100000")
        lab.system.report_leftovers("Keeper", loaded.driver_object.actor)

    one = run(script)
    assert one.code == (None if deletes else "ke.resource-not-deleted")
    if not deletes:
        assert one.finding.detail == "Keeper was unloaded and left Keeper.Resource behind"


# Giving ownership away.

POINTER = 0xFFFF_8000_0000_1003


@pytest.mark.rule("KE-RES-10")
@pytest.mark.parametrize("ask", [OWN, SHARE])
def test_another_thread_releases_what_was_given_away(ask: Ask) -> None:
    async def script(lab: Lab) -> None:
        one = made()

        async def manager() -> None:
            KeEnterCriticalRegion()
            assert await ask(one, True)
            assert await ask(one, True)
            ExSetResourceOwnerPointer(one, POINTER)
            lab.check(not current_kthread().locks, "it is the thread's no more")
            KeLeaveCriticalRegion()

        async def user() -> None:
            await ExReleaseResourceForThreadLite(one, POINTER)
            await ExReleaseResourceForThreadLite(one, POINTER)

        async def writer() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            await ExReleaseResourceLite(one)

        await lab.together(manager())
        await lab.together(user(), writer())
        lab.check(one.owner is None and not one.sharers, "it is free")

    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("KE-RES-10")
@pytest.mark.parametrize(
    ("pointer", "code", "stop"),
    [(0x1000, "ke.eresource-owner-pointer", 0x132), (0x1001, "ke.eresource-owner-pointer", 0x132), (POINTER, None, 0)],
)
def test_an_owner_pointer_is_marked_as_one(pointer: int, code: str | None, stop: int) -> None:
    async def script(lab: Lab) -> None:
        one = made()
        await OWN(one, True)
        ExSetResourceOwnerPointer(one, pointer)

    one = run(in_region(script))
    assert one.code == code
    if code is not None:
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.code == stop


THEN: list[Callable[[ERESOURCE], Awaitable[Any]]] = [
    lambda one: OWN(one, True),
    lambda one: SHARE(one, False),
    ExReleaseResourceLite,
    lambda one: ExReleaseResourceForThreadLite(one, ExGetCurrentResourceThread()),
    ExConvertExclusiveToSharedLite,
]


@pytest.mark.rule("KE-RES-10")
@pytest.mark.parametrize("then", THEN)
def test_whoever_gave_it_away_has_done_with_it(then: Callable[[ERESOURCE], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> None:
        one = made()
        await OWN(one, True)
        ExSetResourceOwnerPointer(one, POINTER)
        await then(one)

    assert run(in_region(script)).code == "ke.eresource-transferred"


@pytest.mark.rule("KE-RES-10")
@pytest.mark.parametrize(("who", "stop"), [("another thread", 0x16E), ("nobody", 0xE3), ("nonsense", 0xE3)])
def test_nobody_releases_for_a_thread_that_has_not_said_so(who: str, stop: int) -> None:
    async def script(lab: Lab) -> None:
        one = made()
        name: Any = POINTER if who == "nobody" else {}

        async def owner() -> None:
            nonlocal name
            if who == "another thread":
                name = ExGetCurrentResourceThread()
            await hold(one, OWN)

        await lab.together(owner())
        await ExReleaseResourceForThreadLite(one, name)

    one = run(in_region(script))
    assert one.code == "ke.lock-not-owned"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == stop


@pytest.mark.rule("KE-RES-10")
def test_a_thread_may_name_itself() -> None:
    async def script(lab: Lab) -> None:
        one = made()
        await OWN(one, True)
        await ExReleaseResourceForThreadLite(one, ExGetCurrentResourceThread())
        lab.check(one.owner is None, "it is free")

    assert run(in_region(script)).code is None


@pytest.mark.rule("KE-RES-10")
@pytest.mark.parametrize("ask", [OWN, SHARE])
def test_a_thread_may_be_put_in_ones_place(ask: Ask) -> None:
    async def script(lab: Lab) -> None:
        one, ready = made(), lab.event("Ready")
        names: list[Any] = []

        async def user() -> None:
            KeEnterCriticalRegion()
            names.append(ExGetCurrentResourceThread())
            await KeWaitForSingleObject(ready)
            lab.check(ExIsResourceAcquiredSharedLite(one) == 1, "it is this thread's")
            await ExReleaseResourceLite(one)

        started = lab.start("user", user())
        while not names:
            await lab.step()
        assert await ask(one, True)
        ExSetResourceOwnerPointerEx(one, names[0], FLAG_OWNER_POINTER_IS_THREAD)
        await KeSetEvent(ready)
        await started.join()

    assert codes(sample(in_region(script), 30)) == {None}


@pytest.mark.rule("KE-RES-10")
def test_what_can_be_wrong_with_a_transfer() -> None:
    async def not_owned(lab: Lab) -> None:
        ExSetResourceOwnerPointer(made(), POINTER)

    async def no_thread(lab: Lab) -> None:
        one = made()
        await OWN(one, True)
        ExSetResourceOwnerPointerEx(one, POINTER, FLAG_OWNER_POINTER_IS_THREAD)

    async def marked(lab: Lab) -> None:
        one = made()
        await OWN(one, True)
        ExSetResourceOwnerPointerEx(one, POINTER, 0)
        await ExReleaseResourceForThreadLite(one, POINTER)

    assert run(in_region(not_owned)).code == "ke.lock-not-owned"
    assert run(in_region(no_thread)).code == "ke.eresource-owner-pointer"
    assert run(in_region(marked)).code is None


# With the critical region.


@pytest.mark.parametrize(
    ("enter", "exclusive"),
    [
        (ExEnterCriticalRegionAndAcquireResourceExclusive, True),
        (ExEnterCriticalRegionAndAcquireResourceShared, False),
        (ExEnterCriticalRegionAndAcquireSharedWaitForExclusive, False),
    ],
)
@pytest.mark.rule("KE-RES-02")
def test_the_critical_region_comes_with_it(enter: Callable[[ERESOURCE], Awaitable[Any]], exclusive: bool) -> None:
    async def script(lab: Lab) -> tuple[int, bool, int]:
        one = made()
        await enter(one)
        inside = current_kthread().kernel_apc_disable
        owned = ExIsResourceAcquiredExclusiveLite(one)
        await ExReleaseResourceAndLeaveCriticalRegion(one)
        return inside, owned, current_kthread().kernel_apc_disable

    assert run(script).result == (1, exclusive, 0)


@pytest.mark.rule("KE-RES-01")
def test_it_is_used_after_initialisation_only() -> None:
    async def script(lab: Lab) -> None:
        await OWN(ERESOURCE("raw"), True)

    one = run(in_region(script))
    assert one.code == "ke.uninitialised"
    assert "ExAcquireResourceExclusiveLite on raw" in one.finding.detail


@pytest.mark.rule("KE-RES-01")
def test_deleting_it_while_another_thread_is_about_to_use_it_is_found() -> None:
    async def script(lab: Lab) -> None:
        one = made()

        async def user() -> None:
            KeEnterCriticalRegion()
            assert await OWN(one, True)
            await ExReleaseResourceLite(one)

        async def deleter() -> None:
            await lab.step()
            ExDeleteResourceLite(one)

        await lab.together(user(), deleter())

    assert codes(all_runs(script)) == {None, "ke.uninitialised", "ke.lock-freed"}
