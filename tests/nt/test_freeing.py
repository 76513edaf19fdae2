"""Freeing: wrong addresses, and what is still in use inside of a block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.errors import UsageError
from kemu.explore import DPOR
from kemu.nt.bugcheck import BugCheck
from kemu.nt.kthread import current_kthread
from kemu.wdk.wdm import (
    KEVENT,
    KSPIN_LOCK,
    LIST_ENTRY,
    LONG,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    SINGLE_LIST_ENTRY,
    SLIST_ENTRY,
    SLIST_HEADER,
    Bytes,
    ExAllocatePool2,
    ExFreePool,
    ExFreePool2,
    ExFreePoolWithTag,
    InitializeListHead,
    InitializeSListHead,
    InsertTailList,
    InterlockedIncrement,
    InterlockedPopEntrySList,
    InterlockedPushEntrySList,
    KeAcquireSpinLock,
    KeClearEvent,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    KeTestSpinLock,
    KeWaitForSingleObject,
    NotificationEvent,
    PopEntryList,
    PushEntryList,
    RemoveHeadList,
    Structure,
    sizeof,
)


class INNER(Structure):
    Kind: int
    Sequence: SLIST_ENTRY


class BLOCK(Structure):
    Number: int
    Event: KEVENT
    Lock: KSPIN_LOCK
    Links: LIST_ENTRY
    Single: SINGLE_LIST_ENTRY
    Count: LONG
    Inner: INNER


async def block_of(flags: int = POOL_FLAG_NON_PAGED) -> BLOCK:
    block: BLOCK = await ExAllocatePool2(flags, sizeof(BLOCK), "Blck")
    if flags == POOL_FLAG_NON_PAGED:
        KeInitializeEvent(block.Event, NotificationEvent, False)
        KeInitializeSpinLock(block.Lock)
    return block


def stop(bug_check: BugCheck | None) -> tuple[int, tuple[int, ...]]:
    assert bug_check is not None
    return bug_check.code, bug_check.parameters


# What is freed.

FREES: list[Callable[[Any], Awaitable[None]]] = [
    ExFreePool,
    lambda block: ExFreePoolWithTag(block, "Blck"),
    lambda block: ExFreePoolWithTag(block, 0),
    lambda block: ExFreePoolWithTag(block, 0x6B636C42),
    lambda block: ExFreePool2(block, "Blck", None, 0),
]


@pytest.mark.rule("KE-POOL-07")
@pytest.mark.parametrize("free", FREES)
def test_a_block_is_freed_by_any_of_the_routines(free: Callable[[Any], Awaitable[None]]) -> None:
    async def script(lab: Lab) -> None:
        await free(await block_of())

    assert run(script).code is None


def test_extended_parameters_are_not_emulated() -> None:
    async def script(lab: Lab) -> None:
        await ExFreePool2(await block_of(), "Blck", None, 1)

    with pytest.raises(UsageError, match="extended parameters"):
        run(script)


INSIDE: list[Callable[[BLOCK], Any]] = [
    lambda block: block.Inner,
    lambda block: block.Inner.Sequence,
    lambda block: block.Links,
    lambda block: block.Event,
]


@pytest.mark.rule("KE-POOL-07")
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize(("flags", "first"), [(POOL_FLAG_NON_PAGED, 0x46), (POOL_FLAG_PAGED, 0x41286)])
def test_an_address_inside_of_a_block_is_not_the_block(inside: Callable[[BLOCK], Any], flags: int, first: int) -> None:
    async def script(lab: Lab) -> None:
        await ExFreePool(inside(await block_of(flags)))

    one = run(script)
    assert one.code == "ke.pool-wrong-address"
    assert "an address inside of a BLOCK of 96 bytes, tag 'Blck'" in one.finding.detail
    assert stop(one.finding.bug_check) == (0xC2, (first,))
    assert stop(one.finding.verifier) == (0xC4, (0x10,))


@pytest.mark.rule("KE-POOL-07")
def test_a_pointer_into_bytes_is_not_the_block() -> None:
    async def script(lab: Lab) -> None:
        block: Bytes = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Test")
        await ExFreePool(block + 4)

    assert run(script).code == "ke.pool-wrong-address"


@pytest.mark.rule("KE-POOL-07")
def test_what_lies_in_a_freed_block_is_freed_already() -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()
        inner = block.Inner
        await ExFreePool(block)
        await ExFreePool(inner)

    assert run(script).code == "ke.double-free"


@pytest.mark.rule("KE-POOL-15")
@pytest.mark.parametrize("own", [True, False])
def test_what_has_a_routine_of_its_own_is_not_freed_as_pool(own: bool) -> None:
    class Packet:
        free_routine: ClassVar[str] = "IoFreeIrp" if own else ""

        def __str__(self) -> str:
            return "irp#1"

    async def script(lab: Lab) -> None:
        await ExFreePool(Packet())

    one = run(script)
    assert one.code == ("ke.freed-elsewhere" if own else "ke.pool-wrong-address")
    if own:
        assert one.finding.detail == "ExFreePool of irp#1, a Packet, which IoFreeIrp frees"
        assert stop(one.finding.verifier) == (0xC4, (0x105,))


@pytest.mark.rule("KE-POOL-01")
@pytest.mark.parametrize(("flags", "irql", "first"), [(POOL_FLAG_PAGED, 2, 0x11), (POOL_FLAG_NON_PAGED, 3, 0x12)])
@pytest.mark.parametrize("free", FREES)
def test_freeing_too_high_has_bug_checks_of_its_own(
    free: Callable[[Any], Awaitable[None]], flags: int, irql: int, first: int
) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of(flags)
        current_kthread().irql = irql
        await free(block)

    one = run(script)
    assert one.code == "ke.irql"
    assert stop(one.finding.bug_check)[1][:3] == (0x09, irql, flags == POOL_FLAG_PAGED)
    assert stop(one.finding.verifier)[1][:2] == (first, irql)


@pytest.mark.rule("KE-POOL-01")
def test_freeing_nothing_too_high_is_a_matter_of_irql() -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = 3
        await ExFreePool(None)

    one = run(script)
    assert one.code == "ke.irql"
    assert stop(one.finding.bug_check) == (0xC2, (0x09, 3, False, 0))


# What is used afterwards.


UsesOf = Callable[[BLOCK], Callable[[], Awaitable[Any] | Any]]
USES: list[UsesOf] = [
    lambda block: lambda event=block.Event: KeSetEvent(event),
    lambda block: lambda event=block.Event: KeInitializeEvent(event, NotificationEvent, False),
    lambda block: lambda event=block.Event: KeWaitForSingleObject(event, Timeout=0),
    lambda block: lambda lock=block.Lock: KeAcquireSpinLock(lock),
    lambda block: lambda lock=block.Lock: KeTestSpinLock(lock),
    lambda block: lambda count=block.Count: InterlockedIncrement(count),
    lambda block: lambda count=block.Count: count.value,
    lambda block: lambda entry=block.Links: InitializeListHead(entry),
    lambda block: lambda entry=block.Inner.Sequence: setattr(entry, "Next", None),
    lambda block: lambda entry=block.Single: PushEntryList(SINGLE_LIST_ENTRY(), entry),
    lambda block: lambda: block.Event,
    lambda block: lambda inner=block.Inner: inner.Kind,
]


@pytest.mark.rule("KE-POOL-08")
@pytest.mark.parametrize("number", range(len(USES)))
@pytest.mark.parametrize("early", [True, False])
def test_nothing_inside_of_a_block_is_used_after_it_was_freed(number: int, early: bool) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()
        use = USES[number](block)
        if not early:
            await ExFreePool(block)
        result = use()
        if hasattr(result, "__await__"):
            await result
        if early:
            for lock in list(current_kthread().locks):
                assert isinstance(lock, KSPIN_LOCK)
                await KeReleaseSpinLock(lock, 0)
            await ExFreePool(block)

    one = run(script)
    assert one.code == (None if early else "ke.use-after-free")
    if not early:
        assert "BLOCK of 96 bytes, tag 'Blck', allocated at" in one.finding.detail
        assert f"freed by script at {__file__}:" in one.finding.detail


@pytest.mark.rule("KE-POOL-08")
def test_a_list_that_a_freed_block_is_still_in_is_found_by_the_next_use() -> None:
    def script_of(kind: str, frees: bool) -> Script:
        async def script(lab: Lab) -> None:
            block = await block_of()
            doubly, singly, sequenced = LIST_ENTRY(), SINGLE_LIST_ENTRY(), SLIST_HEADER()
            InitializeListHead(doubly)
            InitializeSListHead(sequenced)
            InsertTailList(doubly, block.Links)
            PushEntryList(singly, block.Single)
            await InterlockedPushEntrySList(sequenced, block.Inner.Sequence)
            if frees:
                await ExFreePool(block)
            if kind == "doubly":
                RemoveHeadList(doubly)
            elif kind == "singly":
                PopEntryList(singly)
            else:
                await InterlockedPopEntrySList(sequenced)

        return script

    for kind in ("doubly", "singly", "sequenced"):
        assert run(script_of(kind, frees=True)).code == "ke.use-after-free"
        assert run(script_of(kind, frees=False)).code is None


@pytest.mark.rule("KE-POOL-08")
@pytest.mark.parametrize("waits", [True, False])
def test_freeing_under_a_thread_that_is_about_to_touch_what_is_inside(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()
        event, done = block.Event, lab.event("done")

        async def setter() -> None:
            await KeSetEvent(event)
            await KeSetEvent(done)

        async def freer() -> None:
            if waits:
                await KeWaitForSingleObject(done)
            await ExFreePool(block)

        await lab.together(setter(), freer())

    runs = all_runs(script)
    assert codes(runs) == ({None} if waits else {None, "ke.use-after-free"})
    early = {
        one.finding.detail.partition(", tag")[0] for one in runs if one.code and " about to " in one.finding.detail
    }
    assert early == (set() if waits else {"setter is about to set BLOCK.Event, in a BLOCK of 96 bytes"})


# What is in use.


@pytest.mark.rule("KE-POOL-10", "KE-EVENT-06")
@pytest.mark.parametrize("waits", [True, False])
def test_an_event_that_somebody_waits_for_is_not_freed(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()

        async def waiter(event: KEVENT) -> None:
            await KeWaitForSingleObject(event)

        async def freer() -> None:
            await KeClearEvent(block.Event)
            await ExFreePool(block)

        if waits:
            lab.start("waiter", waiter(block.Event))
            await lab.step()
        await freer()

    found = {one.code for one in all_runs(script)}
    assert found == ({"ke.freed-active", "ke.use-after-free"} if waits else {None})
    if waits:
        one = next(one for one in all_runs(script) if one.code == "ke.freed-active")
        assert "with BLOCK.Event, which waiter waits for, in it" in one.finding.detail
        assert stop(one.finding.bug_check) == (0x139, (3,))


@pytest.mark.rule("KE-POOL-10", "KE-EVENT-06")
def test_a_wait_that_is_satisfied_is_no_longer_in_the_event() -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()
        await KeClearEvent(block.Event)

        async def waiter(event: KEVENT) -> None:
            await KeWaitForSingleObject(event)

        lab.start("waiter", waiter(block.Event))
        await lab.step()
        await KeSetEvent(block.Event)
        await ExFreePool(block)

    # It may not have come to the wait yet, or have it behind it; but nobody's list is damaged.
    assert codes(all_runs(script)) == {None, "ke.use-after-free"}


@pytest.mark.rule("KE-POOL-10", "KE-SPIN-10")
@pytest.mark.parametrize("held", [True, False])
def test_a_lock_that_is_held_is_not_freed(held: bool) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()
        lock = block.Lock
        irql = await KeAcquireSpinLock(lock)
        if not held:
            await KeReleaseSpinLock(lock, irql)
        await ExFreePool(block)

    one = run(script)
    assert one.code == ("ke.lock-freed" if held else None)
    if held:
        assert "with BLOCK.Lock, which script owns, in it" in one.finding.detail
        assert stop(one.finding.verifier) == (0xC4, (0x100B,))


@pytest.mark.rule("KE-POOL-08")
def test_the_reduced_search_frees_before_and_after_whatever_others_do_inside() -> None:
    async def script(lab: Lab) -> None:
        block = await block_of()
        event = block.Event

        async def setter() -> None:
            await KeSetEvent(event)

        async def freer() -> None:
            await ExFreePool(block)

        await lab.together(setter(), freer())

    search, found = DPOR(), set[str | None]()
    while search.begin():
        one = run(script, search, observer=search)
        search.end(one.outcome)
        found.add(one.code)
    assert found == {None, "ke.use-after-free"}
