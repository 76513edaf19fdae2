"""Doubly linked lists, and the check that a corrupted one fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fltmgr.kit import Lab, run
from hypothesis import given
from hypothesis import strategies as st

from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    LIST_ENTRY,
    InitializeListHead,
    InsertHeadList,
    InsertTailList,
    IsListEmpty,
    RemoveEntryList,
    RemoveHeadList,
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
