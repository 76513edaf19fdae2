"""Singly linked lists, plain and sequenced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from fltmgr.kit import Lab, all_runs, run
from hypothesis import given
from hypothesis import strategies as st
from racing import Field

from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    KSPIN_LOCK,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_UNINITIALIZED,
    SINGLE_LIST_ENTRY,
    SLIST_ENTRY,
    SLIST_HEADER,
    ExAllocatePool2,
    ExInterlockedPopEntryList,
    ExInterlockedPopEntrySList,
    ExInterlockedPushEntryList,
    ExInterlockedPushEntrySList,
    ExQueryDepthSList,
    InitializeSListHead,
    InterlockedFlushSList,
    InterlockedPopEntrySList,
    InterlockedPushEntrySList,
    KeInitializeSpinLock,
    PopEntryList,
    PushEntryList,
    Structure,
    sizeof,
)


def header() -> SLIST_HEADER:
    made = SLIST_HEADER("List")
    InitializeSListHead(made)
    return made


def record(entry: SINGLE_LIST_ENTRY | None) -> object:
    return None if entry is None else CONTAINING_RECORD(entry)


@pytest.mark.rule("KE-LIST-04")
@given(st.lists(st.sampled_from(["push", "pop", "flush"]), max_size=20), st.booleans())
def test_a_sequenced_list_is_last_in_first_out(actions: list[str], older: bool) -> None:
    push: Any = ExInterlockedPushEntrySList if older else InterlockedPushEntrySList
    pop: Any = ExInterlockedPopEntrySList if older else InterlockedPopEntrySList

    async def script(lab: Lab) -> None:
        listed, model, count = header(), list[int](), 0
        more = [None] if older else []
        for action in actions:
            if action == "push":
                count += 1
                before = model[-1] if model else None
                assert record(await push(listed, SLIST_ENTRY(count), *more)) == before
                model.append(count)
            elif action == "pop":
                assert record(await pop(listed, *more)) == (model.pop() if model else None)
            else:
                entry, found = await InterlockedFlushSList(listed), list[object]()
                at: SINGLE_LIST_ENTRY | None = entry
                while at is not None:
                    found.append(record(at))
                    at = at.Next
                assert found == model[::-1]
                model.clear()
            assert await ExQueryDepthSList(listed) == len(model)

    assert run(script).code is None


@pytest.mark.rule("KE-LIST-04")
def test_every_entry_is_popped_once_whatever_comes_in_between() -> None:
    async def script(lab: Lab) -> list[str]:
        listed = header()
        for name in "ab":
            await InterlockedPushEntrySList(listed, SLIST_ENTRY(name))

        async def popper() -> object:
            return record(await InterlockedPopEntrySList(listed))

        async def again() -> object:
            entry = await InterlockedPopEntrySList(listed)
            assert entry is not None
            await InterlockedPushEntrySList(listed, entry)
            return None

        first = await lab.together(popper(), again())
        rest = [record(await InterlockedPopEntrySList(listed)) for _ in range(2)]
        return sorted(str(one) for one in [*first, *rest])

    runs = all_runs(script, unseen=True)
    assert {tuple(one.result) for one in runs} == {("None", "None", "a", "b")}


@pytest.mark.rule("KE-LIST-04", "KE-INTLK-05")
def test_a_push_is_ordered_before_the_pop_that_gets_it() -> None:
    async def script(lab: Lab) -> None:
        listed, data = header(), Field()

        async def producer() -> None:
            data.store()
            await InterlockedPushEntrySList(listed, SLIST_ENTRY("x"))

        async def consumer(blind: bool) -> None:
            if await InterlockedPopEntrySList(listed) is not None:
                data.load()

        await lab.together(producer(), consumer(False))

    assert {one.code for one in all_runs(script, races=True)} == {None}


@pytest.mark.rule("KE-LIST-04")
@pytest.mark.parametrize("again", [True, False])
def test_an_entry_is_in_one_list_at_a_time(again: bool) -> None:
    async def script(lab: Lab) -> None:
        listed, entry = header(), SLIST_ENTRY("x")
        await InterlockedPushEntrySList(listed, entry)
        if not again:
            await InterlockedPopEntrySList(listed)
        await InterlockedPushEntrySList(header(), entry)

    assert run(script).code == ("ke.slist-corruption" if again else None)


class BLOCK(Structure):
    List: SLIST_HEADER
    Entry: SLIST_ENTRY


USES: list[Callable[[BLOCK], Awaitable[Any]]] = [
    lambda block: InterlockedPushEntrySList(block.List, block.Entry),
    lambda block: InterlockedPopEntrySList(block.List),
    lambda block: InterlockedFlushSList(block.List),
    lambda block: ExQueryDepthSList(block.List),
    lambda block: ExInterlockedPushEntrySList(block.List, block.Entry, None),
    lambda block: ExInterlockedPopEntrySList(block.List, None),
]


@pytest.mark.rule("KE-LIST-04")
@pytest.mark.parametrize("zeroed", [True, False])
@pytest.mark.parametrize("use", USES)
def test_a_header_is_initialised_or_zero(use: Callable[[BLOCK], Awaitable[Any]], zeroed: bool) -> None:
    async def script(lab: Lab) -> None:
        flags = POOL_FLAG_NON_PAGED | (0 if zeroed else POOL_FLAG_UNINITIALIZED)
        await use(await ExAllocatePool2(flags, sizeof(BLOCK), "Test"))

    assert run(script).code == (None if zeroed else "ke.uninitialised")


NOTHING: Any = None
BAD: list[Callable[[], Awaitable[Any]]] = [
    lambda: InterlockedPushEntrySList(header(), NOTHING),
    lambda: InterlockedPushEntrySList(header(), cast("Any", SINGLE_LIST_ENTRY())),
    lambda: ExInterlockedPushEntrySList(header(), NOTHING, None),
    lambda: InterlockedPopEntrySList(NOTHING),
]


@pytest.mark.rule("KE-POOL-06")
@pytest.mark.parametrize("use", BAD)
def test_what_is_no_entry_is_a_bad_pointer(use: Callable[[], Awaitable[Any]]) -> None:
    async def script(lab: Lab) -> None:
        await use()

    assert run(script).code == "ke.bad-pointer"


def test_a_plain_list_is_last_in_first_out() -> None:
    async def script(lab: Lab) -> list[object]:
        head, lock = SINGLE_LIST_ENTRY(), KSPIN_LOCK()
        KeInitializeSpinLock(lock)
        for name in "ab":
            PushEntryList(head, SINGLE_LIST_ENTRY(name))
        found = [record(PopEntryList(head)) for _ in range(3)]
        locked = SINGLE_LIST_ENTRY()
        found += [
            record(await ExInterlockedPushEntryList(locked, SINGLE_LIST_ENTRY(name), lock)) for name in ("c", "d")
        ]
        return [*found, *[record(await ExInterlockedPopEntryList(locked, lock)) for _ in range(3)]]

    assert run(script).result == ["b", "a", None, None, "c", "d", "c", None]


BAD_PLAIN: list[Callable[[], Any]] = [
    lambda: PushEntryList(NOTHING, SINGLE_LIST_ENTRY()),
    lambda: PushEntryList(SINGLE_LIST_ENTRY(), NOTHING),
    lambda: PopEntryList(NOTHING),
]


@pytest.mark.rule("KE-POOL-06")
@pytest.mark.parametrize("use", BAD_PLAIN)
def test_what_is_no_plain_entry_is_a_bad_pointer(use: Callable[[], Any]) -> None:
    async def script(lab: Lab) -> None:
        use()

    assert run(script).code == "ke.bad-pointer"
