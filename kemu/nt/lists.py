"""Doubly linked lists, with the check that a corrupted one fails (KE-LIST).

The functions are what C has as inline code: they do not schedule, and protecting a list is the driver's task. The
links of an entry are driver state: where that is tracked, each function records which entries it looks at and changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.nt.bugcheck import KERNEL_SECURITY_CHECK_FAILURE, BugCheck
from kemu.nt.system import report
from kemu.runtime.data import created, load_field, store_field

if TYPE_CHECKING:
    from kemu.runtime import Cell

LINKS: Final = "links"
"""The field of an entry that Flink and Blink are to footprints."""


class LIST_ENTRY:
    """A list head or the entry of a record. `record` is what CONTAINING_RECORD finds."""

    __slots__ = ("Blink", "Flink", "record")

    def __init__(self, record: Any = None, *, part_of: Cell | None = None) -> None:
        self.Flink: LIST_ENTRY | None = None
        self.Blink: LIST_ENTRY | None = None
        self.record = record
        # An entry that is part of something of kemu's is made when somebody first asks for it, whoever that is.
        created(self, "LIST_ENTRY", part_of, "QueueLinks")


def _corrupt(what: str) -> None:
    report("ke.list-corruption", what, BugCheck(KERNEL_SECURITY_CHECK_FAILURE, (3,)))


def InitializeListHead(ListHead: LIST_ENTRY) -> None:
    """Make an empty list."""
    store_field(ListHead, LINKS)
    ListHead.Flink = ListHead.Blink = ListHead


def IsListEmpty(ListHead: LIST_ENTRY) -> bool:
    """Whether the list has no entries."""
    load_field(ListHead, LINKS)
    return ListHead.Flink is ListHead


def _check_unlinked(entry: LIST_ENTRY) -> None:
    """An entry is linked if its neighbours point at it; one that points at itself was merely initialised."""
    store_field(entry, LINKS)
    following = entry.Flink
    if following is not None and following is not entry:
        load_field(following, LINKS)
        if following.Blink is entry:
            _corrupt("an entry is inserted that is linked already")


def InsertTailList(ListHead: LIST_ENTRY, Entry: LIST_ENTRY) -> None:
    """Append *Entry*. An entry that is linked, or a list that is not one, is finding ``ke.list-corruption``."""
    store_field(ListHead, LINKS)
    last = ListHead.Blink
    if last is None or last.Flink is not ListHead:
        _corrupt("InsertTailList into a list whose head and last entry disagree")
        return
    _check_unlinked(Entry)
    Entry.Flink = ListHead
    Entry.Blink = last
    store_field(last, LINKS)
    last.Flink = Entry
    ListHead.Blink = Entry


def InsertHeadList(ListHead: LIST_ENTRY, Entry: LIST_ENTRY) -> None:
    """Put *Entry* first."""
    store_field(ListHead, LINKS)
    first = ListHead.Flink
    if first is None or first.Blink is not ListHead:
        _corrupt("InsertHeadList into a list whose head and first entry disagree")
        return
    _check_unlinked(Entry)
    Entry.Flink = first
    Entry.Blink = ListHead
    store_field(first, LINKS)
    first.Blink = Entry
    ListHead.Flink = Entry


def RemoveEntryList(Entry: LIST_ENTRY) -> bool:
    """Unlink *Entry*; return whether the list is empty now.

    An entry whose neighbours do not point at it (unlinked already, or never linked) is finding
    ``ke.list-corruption``, bug check 0x139 with parameter 3 (KE-LIST-03).
    """
    load_field(Entry, LINKS)
    following, previous = Entry.Flink, Entry.Blink
    for neighbour in (following, previous):
        if neighbour is not None:
            store_field(neighbour, LINKS)
    if following is None or previous is None or following.Blink is not Entry or previous.Flink is not Entry:
        _corrupt("RemoveEntryList of an entry that is not linked: its neighbours do not point at it")
        return True
    previous.Flink = following
    following.Blink = previous
    return following is previous


def RemoveHeadList(ListHead: LIST_ENTRY) -> LIST_ENTRY:
    """Unlink and return the first entry; the head itself if the list is empty (KE-LIST-02)."""
    load_field(ListHead, LINKS)
    first = ListHead.Flink
    if first is None:
        _corrupt("RemoveHeadList from a list that was never initialised")
        return ListHead
    if first is not ListHead:
        RemoveEntryList(first)
    return first


def CONTAINING_RECORD(address: LIST_ENTRY) -> Any:
    """The record that *address* is the list entry of."""
    return address.record
