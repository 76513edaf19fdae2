"""Doubly linked lists, with the check that a corrupted one fails (KE-LIST).

The plain functions are what C has as inline code: they do not schedule, and protecting a list is the driver's task. The
links of an entry are driver state: where that is tracked, each function records which entries it looks at and changes.
The interlocked ones take a spin lock for the time of one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from kemu.nt.bugcheck import (
    KERNEL_SECURITY_CHECK_FAILURE,
    PAGE_FAULT_IN_NONPAGED_AREA,
    SPIN_LOCK_ALREADY_OWNED,
    BugCheck,
)
from kemu.nt.kthread import current_kthread
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK
from kemu.nt.storage import Storage
from kemu.nt.system import report
from kemu.runtime import BlockingOperation, Thread
from kemu.runtime.data import created, load_field, store_field

if TYPE_CHECKING:
    from kemu.runtime import Cell

R = TypeVar("R")

LINKS: Final = "links"
"""The field of an entry that Flink and Blink are to footprints."""
PLAIN: Final = "plain"
"""How a list is used: without a lock that the list routines know of."""


class LIST_ENTRY(Storage):
    """A list head or the entry of a record. `record` is what CONTAINING_RECORD finds."""

    __slots__ = ("Blink", "Flink", "guard", "is_empty_head", "record", "words")

    storage_size: ClassVar[int] = 16
    pageable: ClassVar[bool] = True

    def __init__(self, record: Any = None, *, part_of: Cell | None = None, field: str = "QueueLinks") -> None:
        self.Flink: LIST_ENTRY | None = None
        self.Blink: LIST_ENTRY | None = None
        self.record = record
        self.guard: object = None
        """What the list is used with: a spin lock, `PLAIN`, or nothing yet."""
        self.is_empty_head = False
        """Whether it was handed out as the first entry of an empty list."""
        # An entry that is part of something of kemu's is made when somebody first asks for it, whoever that is.
        created(self, "LIST_ENTRY", part_of, field)

    @classmethod
    def embedded(cls, label: str, whole: Any) -> LIST_ENTRY:
        fields = whole.__dict__
        name = fields.get("_prefix", "") + label.rpartition(".")[2]
        return cls(whole, part_of=fields.get("_allocation"), field=name)

    def storage_freed(self, words: str) -> None:
        self.words = words
        self.__class__ = FreedEntry  # pyright: ignore[reportAttributeAccessIssue]


class FreedEntry(LIST_ENTRY):
    """What an entry becomes when the memory that it lies in is freed."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in {"Flink", "Blink"}:
            _touch_freed(self, f"reads .{name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"Flink", "Blink"}:
            _touch_freed(self, f"writes .{name}")
        object.__setattr__(self, name, value)


def _touch_freed(entry: FreedEntry, what: str) -> None:
    words: str = object.__getattribute__(entry, "words")
    report("ke.use-after-free", f"{current_kthread().label} {what} of a list entry, {words}")


def _corrupt(what: str) -> None:
    report("ke.list-corruption", what, BugCheck(KERNEL_SECURITY_CHECK_FAILURE, (3,)))


def is_entry(value: object, name: str, parameter: str, kind: type = LIST_ENTRY) -> bool:
    """Whether *value* is an entry; finding ``ke.bad-pointer`` if not."""
    if isinstance(value, kind):
        return True
    what = "NULL" if value is None else f"a {type(value).__name__}"
    detail = f"{name} was given {what}, as {parameter}, which takes a {kind.__name__}"
    report("ke.bad-pointer", detail, BugCheck(PAGE_FAULT_IN_NONPAGED_AREA))
    return False


def check_guard(entry: Any, guard: object, name: str) -> None:
    """Finding ``ke.list-mix`` if the list was used with something else than *guard* before (KE-LIST-01)."""
    before = entry.guard
    if before is None:
        entry.guard = guard
    elif before is not guard:
        first = "the plain routines" if before is PLAIN else f"the interlocked ones and {before}"
        now = "a plain routine" if guard is PLAIN else f"an interlocked one, with {guard}"
        report("ke.list-mix", f"{name} is {now}, and the list was used with {first}")


def InitializeListHead(ListHead: LIST_ENTRY) -> None:
    """Make an empty list."""
    if is_entry(ListHead, "InitializeListHead", "ListHead"):
        store_field(ListHead, LINKS)
        ListHead.Flink = ListHead.Blink = ListHead
        ListHead.guard = None
        ListHead.is_empty_head = False


def IsListEmpty(ListHead: LIST_ENTRY) -> bool:
    """Whether the list has no entries."""
    if not is_entry(ListHead, "IsListEmpty", "ListHead"):
        return True
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


def _insert(name: str, head: LIST_ENTRY, entry: LIST_ENTRY, guard: object, *, first: bool) -> LIST_ENTRY | None:
    """Link *entry* behind (*first*) or before *head*; what stood there, None for the head itself."""
    if not is_entry(head, name, "ListHead") or not is_entry(entry, name, "ListEntry"):
        return None
    check_guard(head, guard, name)
    store_field(head, LINKS)
    neighbour = head.Flink if first else head.Blink
    if neighbour is None or (neighbour.Blink if first else neighbour.Flink) is not head:
        _corrupt(f"{name} into a list whose head and {'first' if first else 'last'} entry disagree")
        return None
    _check_unlinked(entry)
    entry.guard = guard
    head.is_empty_head = False
    store_field(neighbour, LINKS)
    if first:
        entry.Flink, entry.Blink = neighbour, head
        neighbour.Blink = head.Flink = entry
    else:
        entry.Flink, entry.Blink = head, neighbour
        neighbour.Flink = head.Blink = entry
    return None if neighbour is head else neighbour


def InsertTailList(ListHead: LIST_ENTRY, Entry: LIST_ENTRY) -> None:
    """Append *Entry*. An entry that is linked, or a list that is not one, is finding ``ke.list-corruption``."""
    _insert("InsertTailList", ListHead, Entry, PLAIN, first=False)


def InsertHeadList(ListHead: LIST_ENTRY, Entry: LIST_ENTRY) -> None:
    """Put *Entry* first."""
    _insert("InsertHeadList", ListHead, Entry, PLAIN, first=True)


def AppendTailList(ListHead: LIST_ENTRY, ListToAppend: LIST_ENTRY) -> None:
    """Append a whole list without a head of its own: *ListToAppend* is an entry of it, and becomes the first."""
    name = "AppendTailList"
    if not is_entry(ListHead, name, "ListHead") or not is_entry(ListToAppend, name, "ListToAppend"):
        return
    check_guard(ListHead, PLAIN, name)
    for entry in (ListHead, ListToAppend):
        store_field(entry, LINKS)
    last, appended = ListHead.Blink, ListToAppend.Blink
    if last is None or last.Flink is not ListHead or appended is None or appended.Flink is not ListToAppend:
        _corrupt("AppendTailList of two lists one of which is none")
        return
    for entry in (last, appended):
        store_field(entry, LINKS)
    ListHead.is_empty_head = False
    last.Flink, ListToAppend.Blink = ListToAppend, last
    appended.Flink, ListHead.Blink = ListHead, appended


def RemoveEntryList(Entry: LIST_ENTRY) -> bool:
    """Unlink *Entry*; return whether the list is empty now.

    An entry whose neighbours do not point at it (unlinked already, or never linked) is finding
    ``ke.list-corruption``, bug check 0x139 with parameter 3 (KE-LIST-03).
    """
    if not is_entry(Entry, "RemoveEntryList", "Entry"):
        return True
    check_guard(Entry, PLAIN, "RemoveEntryList")
    return _unlink(Entry)


def _unlink(entry: LIST_ENTRY) -> bool:
    load_field(entry, LINKS)
    following, previous = entry.Flink, entry.Blink
    for neighbour in (following, previous):
        if neighbour is not None:
            store_field(neighbour, LINKS)
    if following is None or previous is None or following.Blink is not entry or previous.Flink is not entry:
        _corrupt("RemoveEntryList of an entry that is not linked: its neighbours do not point at it")
        return True
    entry.guard = None
    previous.Flink = following
    following.Blink = previous
    return following is previous


def _take(name: str, head: LIST_ENTRY, guard: object, *, first: bool) -> LIST_ENTRY:
    """Unlink and return the first or last entry; the head itself if the list is empty."""
    if not is_entry(head, name, "ListHead"):
        return LIST_ENTRY()
    check_guard(head, guard, name)
    load_field(head, LINKS)
    taken = head.Flink if first else head.Blink
    if taken is None:
        _corrupt(f"{name} from a list that was never initialised")
        return head
    if taken is not head:
        _unlink(taken)
    return taken


def RemoveHeadList(ListHead: LIST_ENTRY) -> LIST_ENTRY:
    """Unlink and return the first entry; the head itself if the list is empty (KE-LIST-02)."""
    return _handed_out(_take("RemoveHeadList", ListHead, PLAIN, first=True), ListHead)


def RemoveTailList(ListHead: LIST_ENTRY) -> LIST_ENTRY:
    """Unlink and return the last entry; the head itself if the list is empty (KE-LIST-02)."""
    return _handed_out(_take("RemoveTailList", ListHead, PLAIN, first=False), ListHead)


def _handed_out(entry: LIST_ENTRY, head: LIST_ENTRY) -> LIST_ENTRY:
    if entry is head:
        head.is_empty_head = True
    return entry


def CONTAINING_RECORD(address: Any, type: Any = None, field: str = "") -> Any:  # noqa: A002
    """The record that *address* is the list entry of.

    With a *type*, the structure of that type around it, and *field* is the entry's name there, as C's macro has it.
    The head that RemoveHeadList returns for an empty list is in no record: finding ``ke.list-head-as-entry``.
    """
    if getattr(address, "is_empty_head", False):
        report("ke.list-head-as-entry", "CONTAINING_RECORD of the head, which was taken off an empty list")
    record = getattr(address, "record", None)
    if record is None and address is None:
        is_entry(address, "CONTAINING_RECORD", "address")
    if type is not None and not isinstance(record, type):
        wanted = f"{type.__name__}.{field}" if field else type.__name__
        found = "nothing" if record is None else f"a {record.__class__.__name__}"
        report("ke.bad-pointer", f"CONTAINING_RECORD of an entry in {found}, as if it were {wanted}")
    return record


# The interlocked ones.


class UnderLock(BlockingOperation[R]):
    """Do something to a list while nobody has its spin lock."""

    __slots__ = ("action", "lock", "name")
    kind = "take"

    def __init__(self, name: str, lock: KSPIN_LOCK, action: Callable[[], R]) -> None:
        super().__init__(lock)
        self.name = name
        self.lock = lock
        self.action = action

    def available(self, thread: Thread) -> bool:
        return self.lock.owner is None

    def take(self, thread: Thread) -> R:
        lock = self.lock
        thread.write(lock)
        thread.acquire(lock)
        result = self.action()
        thread.release(lock)
        return result

    def describe(self) -> str:
        return f"{self.name} with {self.lock.label}"


def checked_lock(lock: KSPIN_LOCK, name: str) -> KSPIN_LOCK:
    """Return *lock*; a finding if it was not initialised, or is held by the caller (KE-SPIN-18)."""
    if not lock.initialised:
        report("ke.uninitialised", f"{name} with {lock.label}, which was never initialised")
    thread = current_kthread()
    if lock.owner is thread:
        detail = f"{name}: {thread.label} already owns {lock.label}, which is not recursive"
        report("ke.self-deadlock", detail, BugCheck(SPIN_LOCK_ALREADY_OWNED))
    return lock


_INSERT: Final = "(_Inout_ PLIST_ENTRY ListHead, _Inout_ PLIST_ENTRY ListEntry, _Inout_ PKSPIN_LOCK Lock)"
_REMOVE: Final = "(_Inout_ PLIST_ENTRY ListHead, _Inout_ PKSPIN_LOCK Lock)"


@routine("wdm", f"PLIST_ENTRY ExInterlockedInsertHeadList{_INSERT}")
async def ExInterlockedInsertHeadList(
    ListHead: LIST_ENTRY, ListEntry: LIST_ENTRY, Lock: KSPIN_LOCK
) -> LIST_ENTRY | None:
    """Put *ListEntry* first, under *Lock*; the former first entry, None if there was none (KE-LIST-02).

    IRQL: any. *Lock* must not be held by the caller (KE-SPIN-18). A list that is also used by the plain routines, or
    with another lock, is finding ``ke.list-mix`` (KE-LIST-01).
    """
    name = "ExInterlockedInsertHeadList"
    checked_lock(Lock, name)
    return await UnderLock(name, Lock, lambda: _insert(name, ListHead, ListEntry, Lock, first=True))


@routine("wdm", f"PLIST_ENTRY ExInterlockedInsertTailList{_INSERT}")
async def ExInterlockedInsertTailList(
    ListHead: LIST_ENTRY, ListEntry: LIST_ENTRY, Lock: KSPIN_LOCK
) -> LIST_ENTRY | None:
    """As ExInterlockedInsertHeadList, at the end; the former last entry, None if there was none. IRQL: any."""
    name = "ExInterlockedInsertTailList"
    checked_lock(Lock, name)
    return await UnderLock(name, Lock, lambda: _insert(name, ListHead, ListEntry, Lock, first=False))


@routine("wdm", f"PLIST_ENTRY ExInterlockedRemoveHeadList{_REMOVE}")
async def ExInterlockedRemoveHeadList(ListHead: LIST_ENTRY, Lock: KSPIN_LOCK) -> LIST_ENTRY | None:
    """Unlink and return the first entry, under *Lock*; None if there is none (KE-LIST-02). IRQL: any."""
    name = "ExInterlockedRemoveHeadList"
    checked_lock(Lock, name)

    def remove() -> LIST_ENTRY | None:
        taken = _take(name, ListHead, Lock, first=True)
        return None if taken is ListHead else taken

    return await UnderLock(name, Lock, remove)
