"""Doubly linked lists, and the check that a corrupted one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run
from hypothesis import given
from hypothesis import strategies as st
from racing import Field

from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    KSPIN_LOCK,
    LIST_ENTRY,
    SINGLE_LIST_ENTRY,
    AppendTailList,
    ExInterlockedInsertHeadList,
    ExInterlockedInsertTailList,
    ExInterlockedPopEntryList,
    ExInterlockedPushEntryList,
    ExInterlockedRemoveHeadList,
    InitializeListHead,
    InsertHeadList,
    InsertTailList,
    IsListEmpty,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    PushEntryList,
    RemoveEntryList,
    RemoveHeadList,
    RemoveTailList,
    Structure,
)


def head() -> LIST_ENTRY:
    made = LIST_ENTRY()
    InitializeListHead(made)
    return made


def forward(of: LIST_ENTRY) -> list[object]:
    found: list[object] = []
    at = of.Flink
    while at is not None and at is not of:
        found.append(CONTAINING_RECORD(at))
        at = at.Flink
    return found


def backward(of: LIST_ENTRY) -> list[object]:
    found: list[object] = []
    at = of.Blink
    while at is not None and at is not of:
        found.append(CONTAINING_RECORD(at))
        at = at.Blink
    return found


@pytest.mark.rule("KE-LIST-02")
@given(st.lists(st.one_of(st.just("head"), st.just("tail"), st.just("pop"), st.integers(0, 5)), max_size=20))
def test_a_list_is_a_list(actions: list[str | int]) -> None:
    list_head, model = head(), list[LIST_ENTRY]()
    for action in actions:
        if action == "head":
            model.insert(0, LIST_ENTRY(len(model)))
            InsertHeadList(list_head, model[0])
        elif action == "tail":
            model.append(LIST_ENTRY(len(model)))
            InsertTailList(list_head, model[-1])
        elif action == "pop":
            expected = model.pop(0) if model else list_head
            assert RemoveHeadList(list_head) is expected
        elif isinstance(action, int) and action < len(model):
            assert RemoveEntryList(model.pop(action)) == (not model)
        assert forward(list_head) == [entry.record for entry in model]
        assert backward(list_head) == [entry.record for entry in reversed(model)]
        assert IsListEmpty(list_head) == (not model)


def double_insert() -> None:
    list_head, entry = head(), LIST_ENTRY("x")
    InsertTailList(list_head, entry)
    InsertTailList(list_head, LIST_ENTRY("y"))
    InsertTailList(list_head, entry)


def double_insert_at_the_head() -> None:
    list_head, entry = head(), LIST_ENTRY("x")
    InsertHeadList(list_head, entry)
    InsertHeadList(head(), entry)


def double_remove() -> None:
    list_head, entry = head(), LIST_ENTRY("x")
    InsertTailList(list_head, entry)
    InsertTailList(list_head, LIST_ENTRY("y"))
    RemoveEntryList(entry)
    RemoveEntryList(entry)


def remove_unlinked() -> None:
    RemoveEntryList(LIST_ENTRY("x"))


def insert_tail_of_nothing() -> None:
    InsertTailList(LIST_ENTRY(), LIST_ENTRY("x"))


def insert_head_of_nothing() -> None:
    InsertHeadList(LIST_ENTRY(), LIST_ENTRY("x"))


def take_from_nothing() -> None:
    RemoveHeadList(LIST_ENTRY())


@pytest.mark.rule("KE-LIST-03")
@pytest.mark.parametrize(
    "wrong",
    [
        double_insert,
        double_insert_at_the_head,
        double_remove,
        remove_unlinked,
        insert_tail_of_nothing,
        insert_head_of_nothing,
        take_from_nothing,
    ],
)
def test_a_corrupted_list_stops_the_system(wrong: Callable[[], None]) -> None:
    async def script(lab: Lab) -> None:
        wrong()

    one = run(script)
    assert one.code == "ke.list-corruption"
    assert one.finding.bug_check is not None
    assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (0x139, (3,))


@pytest.mark.rule("KE-LIST-03")
def test_what_was_removed_may_be_inserted_again() -> None:
    async def script(lab: Lab) -> list[object]:
        list_head, entry = head(), LIST_ENTRY("x")
        InitializeListHead(entry)
        for _ in range(2):
            InsertTailList(list_head, entry)
            RemoveEntryList(entry)
        InsertHeadList(list_head, entry)
        return forward(list_head)

    one = run(script)
    assert (one.code, one.result) == (None, ["x"])


# Bad input, mixing, empty lists.


def named_routines() -> list[tuple[str, Callable[..., Any], int]]:
    return [
        ("InitializeListHead", InitializeListHead, 1),
        ("IsListEmpty", IsListEmpty, 1),
        ("InsertTailList", InsertTailList, 2),
        ("InsertHeadList", InsertHeadList, 2),
        ("AppendTailList", AppendTailList, 2),
        ("RemoveEntryList", RemoveEntryList, 1),
        ("RemoveHeadList", RemoveHeadList, 1),
        ("RemoveTailList", RemoveTailList, 1),
    ]


@pytest.mark.rule("KE-POOL-06")
@pytest.mark.parametrize(("name", "function", "count"), named_routines())
@pytest.mark.parametrize("thing", [None, 7])
def test_what_is_no_entry_is_a_bad_pointer(name: str, function: Callable[..., Any], count: int, thing: Any) -> None:
    for position in range(count):

        async def script(lab: Lab, position: int = position) -> None:
            arguments: list[Any] = [head() for _ in range(count)]
            arguments[position] = thing
            function(*arguments)

        one = run(script)
        assert one.code == "ke.bad-pointer"
        assert one.finding.detail.startswith(f"{name} was given ")


@pytest.mark.rule("KE-LIST-02")
def test_the_last_entry_can_be_taken_too() -> None:
    async def script(lab: Lab) -> list[object]:
        list_head = head()
        for name in "abc":
            InsertTailList(list_head, LIST_ENTRY(name))
        taken = [CONTAINING_RECORD(RemoveTailList(list_head)), CONTAINING_RECORD(RemoveHeadList(list_head))]
        RemoveTailList(list_head)
        return [*taken, RemoveTailList(list_head) is list_head]

    assert run(script).result == ["c", "a", True]


@pytest.mark.rule("KE-LIST-03")
def test_a_list_without_a_head_is_appended_as_a_whole() -> None:
    async def script(lab: Lab) -> list[object]:
        first, second = head(), head()
        for name in "ab":
            InsertTailList(first, LIST_ENTRY(name))
        for name in "cd":
            InsertTailList(second, LIST_ENTRY(name))
        entry = second.Flink
        assert entry is not None
        RemoveEntryList(second)
        AppendTailList(first, entry)
        return [*forward(first), *backward(first)]

    assert run(script).result == [*"abcddcba"]


@pytest.mark.rule("KE-LIST-03")
def test_appending_what_is_no_list_stops_the_system() -> None:
    async def script(lab: Lab) -> None:
        AppendTailList(head(), LIST_ENTRY("x"))

    assert run(script).code == "ke.list-corruption"


@pytest.mark.rule("KE-LIST-02")
@pytest.mark.parametrize("take", [RemoveHeadList, RemoveTailList])
@pytest.mark.parametrize("how", ["empty", "checked", "filled", "initialised"])
def test_the_head_of_an_empty_list_is_no_entry(take: Callable[[LIST_ENTRY], LIST_ENTRY], how: str) -> None:
    async def script(lab: Lab) -> None:
        list_head = head()
        taken = take(list_head)
        if how == "checked" and taken is list_head:
            return
        if how == "filled":
            InsertHeadList(list_head, LIST_ENTRY("x"))
        if how == "initialised":
            InitializeListHead(list_head)
        CONTAINING_RECORD(taken)

    assert run(script).code == ("ke.list-head-as-entry" if how == "empty" else None)


class OUTER(Structure):
    Number: int
    Links: LIST_ENTRY


@pytest.mark.rule("KE-POOL-06")
def test_a_record_is_of_the_type_that_it_is_taken_for() -> None:
    async def script(lab: Lab) -> None:
        outer = OUTER()
        assert CONTAINING_RECORD(outer.Links, OUTER, "Links") is outer
        CONTAINING_RECORD(LIST_ENTRY(7), OUTER, "Links")

    one = run(script)
    assert one.code == "ke.bad-pointer"
    assert one.finding.detail == "CONTAINING_RECORD of an entry in a int, as if it were OUTER.Links"


@pytest.mark.rule("KE-POOL-06")
def test_nothing_is_in_no_record() -> None:
    async def script(lab: Lab) -> None:
        CONTAINING_RECORD(None)

    assert run(script).code == "ke.bad-pointer"


# Interlocked.


def a_lock(label: str = "Lock") -> KSPIN_LOCK:
    lock = KSPIN_LOCK(label)
    KeInitializeSpinLock(lock)
    return lock


@pytest.mark.rule("KE-LIST-02")
def test_the_interlocked_routines_return_the_former_neighbour_or_nothing() -> None:
    async def script(lab: Lab) -> list[object]:
        list_head, lock = head(), a_lock()
        found: list[object] = []
        for insert, name in (
            (ExInterlockedInsertHeadList, "b"),
            (ExInterlockedInsertHeadList, "a"),
            (ExInterlockedInsertTailList, "c"),
        ):
            neighbour = await insert(list_head, LIST_ENTRY(name), lock)
            found.append(None if neighbour is None else neighbour.record)
        while (taken := await ExInterlockedRemoveHeadList(list_head, lock)) is not None:
            found.append(taken.record)
        return found

    assert run(script).result == [None, "b", "b", "a", "b", "c"]


@pytest.mark.rule("KE-LIST-02")
def test_every_entry_is_taken_by_one_thread() -> None:
    async def script(lab: Lab) -> list[str]:
        list_head, lock = head(), a_lock()

        async def producer(name: str) -> None:
            await ExInterlockedInsertTailList(list_head, LIST_ENTRY(name), lock)

        async def consumer() -> object:
            taken = await ExInterlockedRemoveHeadList(list_head, lock)
            return None if taken is None else taken.record

        first = await lab.together(producer("a"), consumer(), consumer())
        rest = await ExInterlockedRemoveHeadList(list_head, lock)
        return sorted(str(one) for one in [*first, None if rest is None else rest.record])

    assert {tuple(one.result) for one in all_runs(script)} == {("None", "None", "None", "a")}


@pytest.mark.rule("KE-LIST-01")
@pytest.mark.parametrize("first", ["plain", "Lock", "Other"])
@pytest.mark.parametrize("second", ["plain", "entry", "Lock", "singly"])
def test_a_list_is_used_in_one_way_only(first: str, second: str) -> None:
    async def script(lab: Lab) -> None:
        locks = {name: a_lock(name) for name in ("Lock", "Other")}
        list_head, entry, single = head(), LIST_ENTRY("x"), SINGLE_LIST_ENTRY()
        if first == "plain":
            InsertTailList(list_head, entry)
            PushEntryList(single, SINGLE_LIST_ENTRY("x"))
        else:
            await ExInterlockedInsertTailList(list_head, entry, locks[first])
            await ExInterlockedPushEntryList(single, SINGLE_LIST_ENTRY("x"), locks[first])
        if second == "plain":
            RemoveHeadList(list_head)
        elif second == "entry":
            RemoveEntryList(entry)
        elif second == "singly":
            await ExInterlockedPopEntryList(single, locks["Lock"])
        else:
            await ExInterlockedRemoveHeadList(list_head, locks[second])

    same = {"plain": {"plain", "entry"}, "Lock": {"Lock", "singly"}, "Other": set[str]()}
    one = run(script)
    assert one.code == (None if second in same[first] else "ke.list-mix")


@pytest.mark.rule("KE-LIST-01")
def test_a_list_that_is_initialised_again_may_be_used_in_another_way() -> None:
    async def script(lab: Lab) -> None:
        list_head, entry, lock = head(), LIST_ENTRY("x"), a_lock()
        InsertTailList(list_head, entry)
        RemoveEntryList(entry)
        InitializeListHead(list_head)
        await ExInterlockedInsertTailList(list_head, entry, lock)

    assert run(script).code is None


@pytest.mark.rule("KE-SPIN-18")
@pytest.mark.parametrize("how", ["held", "uninitialised", "free", "elsewhere"])
def test_the_lock_of_a_list_is_not_held_by_the_caller(how: str) -> None:
    async def script(lab: Lab) -> None:
        list_head, lock = head(), KSPIN_LOCK("Lock") if how == "uninitialised" else a_lock()

        async def holder() -> None:
            irql = await KeAcquireSpinLock(lock)
            before = IsListEmpty(list_head)
            await lab.step()
            assert IsListEmpty(list_head) == before
            await KeReleaseSpinLock(lock, irql)

        if how == "held":
            await KeAcquireSpinLock(lock)
        if how == "elsewhere":
            await lab.together(holder(), ExInterlockedInsertTailList(list_head, LIST_ENTRY(), lock))
        else:
            await ExInterlockedInsertTailList(list_head, LIST_ENTRY(), lock)

    expected = {"held": "ke.self-deadlock", "uninitialised": "ke.uninitialised"}
    assert {one.code for one in all_runs(script)} == {expected.get(how)}


@pytest.mark.rule("KE-INTLK-05")
def test_interlocked_routines_on_one_list_are_ordered() -> None:
    async def script(lab: Lab) -> None:
        list_head, lock, data = head(), a_lock(), Field()

        async def producer() -> None:
            data.store()
            await ExInterlockedInsertTailList(list_head, LIST_ENTRY("x"), lock)

        async def consumer() -> None:
            if await ExInterlockedRemoveHeadList(list_head, lock) is not None:
                data.load()

        await lab.together(producer(), consumer())

    assert {one.code for one in all_runs(script, races=True)} == {None}
