"""Lookaside lists: reuse with old contents, aliasing, and what must be given back where and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.explore import DPOR
from kemu.nt.buffer import allocation_of
from kemu.nt.bugcheck import BugCheck
from kemu.nt.kthread import current_kthread
from kemu.nt.lookaside import DEPTH, LookasideList
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_INVALID_PARAMETER_4, STATUS_INVALID_PARAMETER_5, STATUS_SUCCESS
from kemu.wdk.wdm import (
    EX_LOOKASIDE_LIST_EX_FLAGS_FAIL_NO_RAISE,
    EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL,
    KEVENT,
    LOOKASIDE_LIST_EX,
    NPAGED_LOOKASIDE_LIST,
    PAGED_LOOKASIDE_LIST,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    POOL_RAISE_IF_ALLOCATION_FAILURE,
    Bytes,
    ExAllocateFromLookasideListEx,
    ExAllocateFromNPagedLookasideList,
    ExAllocateFromPagedLookasideList,
    ExAllocatePool2,
    ExDeleteLookasideListEx,
    ExDeleteNPagedLookasideList,
    ExDeletePagedLookasideList,
    ExFreePool,
    ExFreeToLookasideListEx,
    ExFreeToNPagedLookasideList,
    ExFreeToPagedLookasideList,
    ExInitializeLookasideListEx,
    ExInitializeNPagedLookasideList,
    ExInitializePagedLookasideList,
    KeInitializeEvent,
    KeSetEvent,
    NonPagedPoolNx,
    NotificationEvent,
    PagedPool,
    Structure,
    sizeof,
)


class ENTRY(Structure):
    Number: int
    Event: KEVENT


class Kind:
    """One kind of list, and its routines."""

    def __init__(self, name: str, make: Any, initialise: Any, take: Any, give: Any, delete: Any) -> None:
        self.name = name
        self.make = make
        self._initialise = initialise
        self.take: Callable[[Any], Awaitable[Any]] = take
        self.give: Callable[[Any, Any], Awaitable[None]] = give
        self.delete: Callable[[Any], Awaitable[None]] = delete

    def __repr__(self) -> str:
        return self.name

    def initialise(
        self, size: int = sizeof(ENTRY), *, allocate: Any = None, free: Any = None, raises: bool = False
    ) -> Any:
        made = self.make("List")
        if self.make is LOOKASIDE_LIST_EX:
            flags = EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL if raises else 0
            pool = PagedPool if self.name == "ex paged" else NonPagedPoolNx
            assert self._initialise(made, allocate, free, pool, flags, size, "Look", 0) == STATUS_SUCCESS
        else:
            flags = POOL_RAISE_IF_ALLOCATION_FAILURE if raises else 0
            self._initialise(made, allocate, free, flags, size, "Look", 0)
        return made

    def again(self, made: Any) -> None:
        """Initialise it once more."""
        arguments = (NonPagedPoolNx, 0) if self.make is LOOKASIDE_LIST_EX else (0,)
        self._initialise(made, None, None, *arguments, 16, "Look", 0)


EX = (
    LOOKASIDE_LIST_EX,
    ExInitializeLookasideListEx,
    ExAllocateFromLookasideListEx,
    ExFreeToLookasideListEx,
    ExDeleteLookasideListEx,
)
NPAGED = Kind(
    "npaged",
    NPAGED_LOOKASIDE_LIST,
    ExInitializeNPagedLookasideList,
    ExAllocateFromNPagedLookasideList,
    ExFreeToNPagedLookasideList,
    ExDeleteNPagedLookasideList,
)
PAGED = Kind(
    "paged",
    PAGED_LOOKASIDE_LIST,
    ExInitializePagedLookasideList,
    ExAllocateFromPagedLookasideList,
    ExFreeToPagedLookasideList,
    ExDeletePagedLookasideList,
)
KINDS = [Kind("ex", *EX), Kind("ex paged", *EX), NPAGED, PAGED]


def stop(bug_check: BugCheck | None) -> tuple[int, tuple[int, ...]]:
    assert bug_check is not None
    return bug_check.code, bug_check.parameters


@pytest.mark.rule("KE-LOOK-02")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_entries_come_back_last_in_first_out_with_their_old_contents(kind: Kind) -> None:
    async def script(lab: Lab) -> list[int]:
        listed = kind.initialise()
        first, second = await kind.take(listed), await kind.take(listed)
        first.Number, second.Number = 1, 2
        await kind.give(listed, first)
        await kind.give(listed, second)
        again = [await kind.take(listed), await kind.take(listed)]
        found = [one.Number for one in again]
        for one in again:
            await kind.give(listed, one)
        await kind.delete(listed)
        return found

    one = run(script)
    assert (one.code, one.result) == (None, [2, 1])


@pytest.mark.rule("KE-LOOK-02")
def test_a_new_entry_has_no_contents_and_what_lies_inside_has_to_be_initialised_again() -> None:
    def script_of(reuses: bool, what: str) -> Script:
        async def script(lab: Lab) -> None:
            kind, listed = NPAGED, NPAGED.initialise()
            entry: ENTRY = await kind.take(listed)
            if reuses:
                entry.Number = 1
                KeInitializeEvent(entry.Event, NotificationEvent, False)
                await kind.give(listed, entry)
                entry = await kind.take(listed)
            if what == "number":
                _ = entry.Number
            else:
                await KeSetEvent(entry.Event)

        return script

    assert run(script_of(reuses=False, what="number")).code == "ke.uninitialised"
    assert run(script_of(reuses=True, what="number")).code is None
    assert run(script_of(reuses=True, what="event")).code == "ke.uninitialised"


@pytest.mark.rule("KE-LOOK-02")
def test_entries_of_bytes_are_reused_too() -> None:
    async def script(lab: Lab) -> list[Any]:
        listed = NPAGED.initialise(32)
        entry: Bytes = await NPAGED.take(listed)
        entry[0:32] = bytes(range(32))
        await NPAGED.give(listed, entry)
        entry = await NPAGED.take(listed)
        return [entry[0:4], len(entry)]

    assert run(script).result == [b"\0\1\2\3", 32]


@pytest.mark.rule("KE-LOOK-02")
@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_the_old_pointer_must_not_be_used_whoever_has_the_entry_now(kind: Kind, reused: bool) -> None:
    async def script(lab: Lab) -> None:
        listed = kind.initialise()
        stale: ENTRY = await kind.take(listed)
        await kind.give(listed, stale)
        if reused:
            (await kind.take(listed)).Number = 1
        stale.Number = 2

    one = run(script)
    assert one.code == "ke.lookaside-uaf"
    assert f"script writes .Number of an ENTRY of 32 bytes, tag 'Look', allocated at {__file__}:" in one.finding.detail
    assert f", freed by script at {__file__}:" in one.finding.detail


@pytest.mark.rule("KE-LOOK-02")
def test_a_full_list_frees_what_is_given_back() -> None:
    async def script(lab: Lab) -> list[int]:
        listed = NPAGED.initialise()
        entries = [await NPAGED.take(listed) for _ in range(DEPTH + 2)]
        for number, entry in enumerate(entries):
            entry.Number = number
            await NPAGED.give(listed, entry)
        found = [(await NPAGED.take(listed)).Number for _ in range(DEPTH)]
        assert isinstance(listed, LookasideList)
        assert not listed.kept
        return found

    assert run(script).result == [*reversed(range(DEPTH))]


@pytest.mark.rule("KE-LOOK-02", "KE-LOOK-03")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_drivers_own_routines_allocate_and_free(kind: Kind) -> None:
    async def script(lab: Lab) -> list[Any]:
        seen: list[Any] = []

        async def allocate(PoolType: int, NumberOfBytes: int, Tag: str, *more: Any) -> Any:
            seen.append(("allocate", PoolType, int(NumberOfBytes), Tag, *(one.label for one in more)))
            flags = POOL_FLAG_PAGED if PoolType == PagedPool else POOL_FLAG_NON_PAGED
            return await ExAllocatePool2(flags, NumberOfBytes, Tag)

        async def free(Buffer: ENTRY, *more: Any) -> None:
            # It is the driver's own from here on.
            allocation = allocation_of(Buffer)
            assert allocation is not None
            assert allocation.from_lookaside is None
            seen.append(("free", Buffer.Number, *(one.label for one in more)))
            await ExFreePool(Buffer)

        listed = kind.initialise(allocate=allocate, free=free)
        entries = [await kind.take(listed) for _ in range(DEPTH + 1)]
        for number, entry in enumerate(entries):
            entry.Number = number
            await kind.give(listed, entry)
        await kind.delete(listed)
        return seen

    one = run(script)
    more = ("List",) if kind.name.startswith("ex") else ()
    pool = PagedPool if kind.name in {"paged", "ex paged"} else NonPagedPoolNx
    assert one.code is None
    assert one.result == [
        *[("allocate", pool, 32, "Look", *more)] * (DEPTH + 1),
        ("free", DEPTH, *more),
        *[("free", number, *more) for number in reversed(range(DEPTH))],
    ]


@pytest.mark.rule("KE-LOOK-03")
@pytest.mark.parametrize(
    ("flags", "size", "tag", "right"),
    [
        (POOL_FLAG_NON_PAGED, sizeof(ENTRY), "Look", True),
        (POOL_FLAG_PAGED, sizeof(ENTRY), "Look", False),
        (POOL_FLAG_NON_PAGED, 40, "Look", False),
        (POOL_FLAG_NON_PAGED, sizeof(ENTRY), "Mine", False),
        (None, 0, "", False),
        (0, sizeof(ENTRY), "Look", True),
    ],
)
def test_a_drivers_own_routine_allocates_what_the_list_is_for(
    flags: int | None, size: int, tag: str, right: bool
) -> None:
    async def script(lab: Lab) -> None:
        async def allocate(PoolType: int, NumberOfBytes: int, Tag: str) -> Any:
            return 7 if flags is None else await ExAllocatePool2(flags, size, tag)

        await NPAGED.take(NPAGED.initialise(allocate=allocate))

    assert run(script).code == (None if right else "ke.lookaside-type")


@pytest.mark.rule("KE-LOOK-03", "KE-POOL-06")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("raises", [True, False])
def test_there_may_be_no_memory_for_a_new_entry(kind: Kind, raises: bool) -> None:
    async def script(lab: Lab) -> str:
        listed = kind.initialise(raises=raises)
        try:
            return "none" if await kind.take(listed) is None else "entry"
        except StructuredException:
            return "raised"

    found = {one.result for one in all_runs(script, low_resources=True)}
    assert found == {"entry", "raised" if raises else "none"}


@pytest.mark.rule("KE-LOOK-03")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("what", ["take", "give"])
def test_paged_entries_are_for_apc_level(kind: Kind, what: str) -> None:
    async def script(lab: Lab) -> None:
        listed = kind.initialise()
        entry = await kind.take(listed)
        current_kthread().irql = 2
        await (kind.take(listed) if what == "take" else kind.give(listed, entry))
        current_kthread().irql = 0

    one = run(script)
    is_paged = kind.name in {"paged", "ex paged"}
    assert one.code == ("ke.irql" if is_paged else None)
    if is_paged:
        assert stop(one.finding.bug_check)[1][:2] == (0x08 if what == "take" else 0x09, 2)


@pytest.mark.rule("KE-LOOK-04")
@pytest.mark.parametrize("where", ["its own", "another", "from pool", "a number", "nothing", "inside"])
def test_an_entry_goes_back_to_the_list_that_it_comes_from(where: str) -> None:
    async def script(lab: Lab) -> None:
        listed, other = NPAGED.initialise(), NPAGED.initialise()
        entry: Any = await NPAGED.take(listed)
        if where == "from pool":
            entry = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(ENTRY), "Look")
        elif where == "inside":
            entry = entry.Event
        elif where in {"a number", "nothing"}:
            entry = 7 if where == "a number" else None
        await NPAGED.give(other if where == "another" else listed, entry)

    assert run(script).code == (None if where == "its own" else "ke.lookaside-foreign")


@pytest.mark.rule("KE-LOOK-04")
def test_an_entry_goes_back_once() -> None:
    async def script(lab: Lab) -> None:
        listed = NPAGED.initialise()
        entry = await NPAGED.take(listed)
        await NPAGED.give(listed, entry)
        await NPAGED.give(listed, entry)

    assert run(script).code == "ke.double-free"


@pytest.mark.rule("KE-LOOK-04")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("left", [0, 1, 2])
def test_all_entries_are_back_before_a_list_is_deleted(kind: Kind, left: int) -> None:
    async def script(lab: Lab) -> None:
        listed = kind.initialise()
        for _ in range(left):
            await kind.take(listed)
        await kind.delete(listed)

    one = run(script)
    assert one.code == ("ke.lookaside-outstanding" if left else None)
    if left:
        assert f"{left} of whose entries {'is' if left == 1 else 'are'} not back" in one.finding.detail


@pytest.mark.rule("KE-LOOK-04")
def test_deleting_races_with_an_entry_on_its_way_back() -> None:
    async def script(lab: Lab) -> None:
        listed = NPAGED.initialise()
        entry = await NPAGED.take(listed)

        async def giver() -> None:
            await NPAGED.give(listed, entry)

        async def deleter() -> None:
            await NPAGED.delete(listed)

        await lab.together(giver(), deleter())

    assert codes(all_runs(script)) == {None, "ke.lookaside-outstanding"}
    search, found = DPOR(), set[str | None]()
    while search.begin():
        one = run(script, search, observer=search)
        search.end(one.outcome)
        found.add(one.code)
    assert found == {None, "ke.lookaside-outstanding"}


@pytest.mark.rule("KE-LOOK-02")
def test_whether_there_is_an_entry_depends_on_who_comes_first() -> None:
    async def script(lab: Lab) -> int:
        allocated: list[int] = []

        async def allocate(PoolType: int, NumberOfBytes: int, Tag: str) -> Any:
            allocated.append(1)
            return await ExAllocatePool2(POOL_FLAG_NON_PAGED, NumberOfBytes, Tag)

        listed = NPAGED.initialise(allocate=allocate)
        entry = await NPAGED.take(listed)

        async def giver() -> None:
            await NPAGED.give(listed, entry)

        async def taker() -> None:
            await NPAGED.take(listed)

        await lab.together(giver(), taker())
        return len(allocated)

    assert {one.result for one in all_runs(script)} == {1, 2}


@pytest.mark.rule("KE-LOOK-01")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_list_is_initialised_once(kind: Kind) -> None:
    def script_of(deletes: bool) -> Script:
        async def script(lab: Lab) -> None:
            listed = kind.initialise()
            if deletes:
                await kind.delete(listed)
            kind.again(listed)

        return script

    one = run(script_of(deletes=False))
    assert one.code == "ke.lookaside-reinitialised"
    assert stop(one.finding.verifier) == (0xC4, (0xCA,))
    assert run(script_of(deletes=True)).code is None


@pytest.mark.rule("KE-LOOK-01")
@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("what", ["take", "give", "delete"])
def test_a_list_is_initialised_before_it_is_used(kind: Kind, what: str) -> None:
    async def script(lab: Lab) -> None:
        listed = kind.make()
        await (kind.give(listed, None) if what == "give" else getattr(kind, what)(listed))

    one = run(script)
    assert one.code == "ke.uninitialised"
    if what == "delete":
        assert stop(one.finding.verifier) == (0xC4, (0xCB,))


class OWNER(Structure):
    List: NPAGED_LOOKASIDE_LIST


@pytest.mark.rule("KE-LOOK-01", "KE-POOL-10")
@pytest.mark.parametrize("how", ["deleted", "never", "active"])
def test_a_list_is_deleted_before_its_memory_is_freed(how: str) -> None:
    async def script(lab: Lab) -> None:
        owner: OWNER = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(OWNER), "Test")
        if how != "never":
            ExInitializeNPagedLookasideList(owner.List, None, None, 0, 16, "Look", 0)
        if how == "deleted":
            await ExDeleteNPagedLookasideList(owner.List)
        await ExFreePool(owner)

    one = run(script)
    assert one.code == ("ke.freed-active" if how == "active" else None)
    if one.code:
        assert "with OWNER.List, which was not deleted, in it" in one.finding.detail
        assert stop(one.finding.verifier) == (0xC4, (0xCC,))


@pytest.mark.rule("KE-LOOK-01")
def test_a_list_is_resident() -> None:
    async def script(lab: Lab) -> None:
        owner: OWNER = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(OWNER), "Test")
        ExInitializeNPagedLookasideList(owner.List, None, None, 0, 16, "Look", 0)

    assert run(script).code == "ke.pageable-sync"


@pytest.mark.rule("KE-LOOK-01", "KE-UNLOAD-03")
@pytest.mark.parametrize("deletes", [True, False])
def test_a_list_is_deleted_before_its_driver_is_unloaded(deletes: bool) -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: Any, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            listed = NPAGED.initialise()
            entry = await NPAGED.take(listed)
            if deletes:
                await NPAGED.give(listed, entry)
                await NPAGED.delete(listed)
            return 0

        driver = await lab.filter("Keeps", "1", {}, InstanceSetupCallback=setup)
        await driver.unload()

    one = run(script)
    assert one.code == (None if deletes else "ke.lookaside-leak")
    if not deletes:
        assert one.finding.detail == "Keeps was unloaded and left List, which was not deleted, behind"
        assert stop(one.finding.bug_check)[0] == 0xCE


@pytest.mark.rule("KE-LOOK-05")
@pytest.mark.parametrize(("size", "right"), [(7, False), (0, False), (-1, False), (8, True)])
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_an_entry_holds_a_link(kind: Kind, size: int, right: bool) -> None:
    async def script(lab: Lab) -> None:
        kind.initialise(size)

    one = run(script)
    assert one.code == (None if right else "ke.lookaside-size")
    if not right:
        assert stop(one.finding.verifier) == (0xC4, (0xCD, 0, size, 8))


@pytest.mark.rule("KE-LOOK-05")
@pytest.mark.parametrize(
    ("pool", "flags", "status"),
    [
        (NonPagedPoolNx, 0, STATUS_SUCCESS),
        (PagedPool, EX_LOOKASIDE_LIST_EX_FLAGS_FAIL_NO_RAISE, STATUS_SUCCESS),
        (2, 0, STATUS_INVALID_PARAMETER_4),
        (NonPagedPoolNx, 4, STATUS_INVALID_PARAMETER_5),
        (NonPagedPoolNx, 3, STATUS_INVALID_PARAMETER_5),
    ],
)
def test_bad_parameters_have_statuses_of_their_own(pool: int, flags: int, status: int) -> None:
    async def script(lab: Lab) -> Any:
        listed = LOOKASIDE_LIST_EX("List")
        found = ExInitializeLookasideListEx(listed, None, None, pool, flags, 16, "Look", 0)
        assert listed.initialised == (status == STATUS_SUCCESS)
        return found

    assert run(script).result == status
