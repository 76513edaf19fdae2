"""Singly linked lists: the plain ones, those under a spin lock, and the lock-free sequenced ones (KE-LIST-04)."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from kemu.nt.kthread import current_kthread
from kemu.nt.lists import PLAIN, UnderLock, check_guard, checked_lock, is_entry
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK
from kemu.nt.storage import Storage
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread, current_thread
from kemu.runtime.data import created, store_field

NEXT: Final = "links"


class SINGLE_LIST_ENTRY(Storage):
    """A list head or the entry of a record. `record` is what CONTAINING_RECORD finds."""

    __slots__ = ("Next", "guard", "record", "words")

    pageable: ClassVar[bool] = True

    def __init__(self, record: Any = None, *, part_of: Cell | None = None, field: str = NEXT) -> None:
        self.Next: SINGLE_LIST_ENTRY | None = None
        self.record = record
        self.guard: object = None
        created(self, type(self).__name__, part_of, field)

    @classmethod
    def embedded(cls, label: str, whole: Any) -> SINGLE_LIST_ENTRY:
        fields = whole.__dict__
        name = fields.get("_prefix", "") + label.rpartition(".")[2]
        return cls(whole, part_of=fields.get("_allocation"), field=name)

    def storage_freed(self, words: str) -> None:
        self.words = words
        self.__class__ = _FREED[type(self)]  # pyright: ignore[reportAttributeAccessIssue]


class SLIST_ENTRY(SINGLE_LIST_ENTRY):
    """The entry of a record in a sequenced list."""

    __slots__ = ()

    storage_size: ClassVar[int] = 16
    pageable: ClassVar[bool] = False


class _Freed(SINGLE_LIST_ENTRY):
    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "Next":
            _touch_freed(self, "reads .Next")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "Next":
            _touch_freed(self, "writes .Next")
        object.__setattr__(self, name, value)


class _FreedSequenced(_Freed, SLIST_ENTRY):
    __slots__ = ()


_FREED: Final[dict[type, type[SINGLE_LIST_ENTRY]]] = {SINGLE_LIST_ENTRY: _Freed, SLIST_ENTRY: _FreedSequenced}


def _touch_freed(entry: SINGLE_LIST_ENTRY, what: str) -> None:
    words: str = object.__getattribute__(entry, "words")
    report("ke.use-after-free", f"{current_kthread().label} {what} of a list entry, {words}")


# Without a lock.


def _push(name: str, head: SINGLE_LIST_ENTRY, entry: SINGLE_LIST_ENTRY, guard: object) -> SINGLE_LIST_ENTRY | None:
    if not is_entry(head, name, "ListHead", SINGLE_LIST_ENTRY) or not is_entry(entry, name, "Entry", SINGLE_LIST_ENTRY):
        return None
    check_guard(head, guard, name)
    store_field(head, NEXT)
    store_field(entry, NEXT)
    before = head.Next
    entry.Next = before
    head.Next = entry
    return before


def _pop(name: str, head: SINGLE_LIST_ENTRY, guard: object) -> SINGLE_LIST_ENTRY | None:
    if not is_entry(head, name, "ListHead", SINGLE_LIST_ENTRY):
        return None
    check_guard(head, guard, name)
    store_field(head, NEXT)
    first = head.Next
    if first is not None:
        store_field(first, NEXT)
        head.Next = first.Next
    return first


def PushEntryList(ListHead: SINGLE_LIST_ENTRY, Entry: SINGLE_LIST_ENTRY) -> None:
    """Put *Entry* first. Nothing checks whether it is in a list."""
    _push("PushEntryList", ListHead, Entry, PLAIN)


def PopEntryList(ListHead: SINGLE_LIST_ENTRY) -> SINGLE_LIST_ENTRY | None:
    """Unlink and return the first entry; None if there is none."""
    return _pop("PopEntryList", ListHead, PLAIN)


# Under a spin lock.


@routine(
    "wdm",
    """PSINGLE_LIST_ENTRY ExInterlockedPushEntryList(_Inout_ PSINGLE_LIST_ENTRY ListHead,
       _Inout_ PSINGLE_LIST_ENTRY ListEntry, _Inout_ PKSPIN_LOCK Lock)""",
)
async def ExInterlockedPushEntryList(
    ListHead: SINGLE_LIST_ENTRY, ListEntry: SINGLE_LIST_ENTRY, Lock: KSPIN_LOCK
) -> SINGLE_LIST_ENTRY | None:
    """Put *ListEntry* first, under *Lock*; the former first entry, or None. IRQL: any."""
    name = "ExInterlockedPushEntryList"
    checked_lock(Lock, name)
    return await UnderLock(name, Lock, lambda: _push(name, ListHead, ListEntry, Lock))


@routine(
    "wdm",
    """PSINGLE_LIST_ENTRY ExInterlockedPopEntryList(_Inout_ PSINGLE_LIST_ENTRY ListHead,
       _Inout_ PKSPIN_LOCK Lock)""",
)
async def ExInterlockedPopEntryList(ListHead: SINGLE_LIST_ENTRY, Lock: KSPIN_LOCK) -> SINGLE_LIST_ENTRY | None:
    """Unlink and return the first entry, under *Lock*; None if there is none. IRQL: any."""
    name = "ExInterlockedPopEntryList"
    checked_lock(Lock, name)
    return await UnderLock(name, Lock, lambda: _pop(name, ListHead, Lock))


# Sequenced.


class SLIST_HEADER(Cell, Storage):
    """The head of a sequenced list, which needs no lock."""

    __slots__ = ("depth", "first", "initialised")

    storage_size: ClassVar[int] = 16

    def __init__(self, label: str = "sequenced list") -> None:
        super().__init__(current_thread(), label)
        self.first: SLIST_ENTRY | None = None
        self.depth = 0
        self.initialised = False

    def zeroed(self) -> None:
        # InitializeSListHead does no more.
        self.initialised = True


class SequencedOperation(Operation[SLIST_ENTRY | None]):
    """Base of what is done to a sequenced list, in one step that is ordered with all others on it."""

    __slots__ = ("head",)

    def __init__(self, head: SLIST_HEADER) -> None:
        self.head = head

    def perform(self, thread: Thread) -> SLIST_ENTRY | None:
        thread.write(self.head)
        thread.exchange(self.head)
        return self.change()

    def change(self) -> SLIST_ENTRY | None:
        """Do it."""
        raise NotImplementedError

    def target(self) -> Cell:
        return self.head


class Push(SequencedOperation):
    """Put an entry first; evaluates to the former first one."""

    __slots__ = ("entry",)
    kind = "push onto"

    def __init__(self, head: SLIST_HEADER, entry: SLIST_ENTRY) -> None:
        super().__init__(head)
        self.entry = entry

    def change(self) -> SLIST_ENTRY | None:
        head, entry, before = self.head, self.entry, self.head.first
        if entry.guard is not None:
            report("ke.slist-corruption", f"an entry is pushed onto {head.label} that is in a sequenced list already")
        entry.guard = head
        entry.Next = before
        head.first = entry
        head.depth += 1
        return before


class Pop(SequencedOperation):
    """Unlink the first entry; evaluates to it."""

    __slots__ = ()
    kind = "pop from"

    def change(self) -> SLIST_ENTRY | None:
        head, first = self.head, self.head.first
        if first is not None:
            following = first.Next
            assert following is None or isinstance(following, SLIST_ENTRY)
            head.first = following
            head.depth -= 1
            first.guard = None
        return first


class Flush(SequencedOperation):
    """Take all entries; evaluates to the first, from which the others follow."""

    __slots__ = ()
    kind = "flush"

    def change(self) -> SLIST_ENTRY | None:
        head, first = self.head, self.head.first
        entry: SINGLE_LIST_ENTRY | None = first
        while entry is not None:
            entry.guard = None
            entry = entry.Next
        head.first = None
        head.depth = 0
        return first


class Depth(Operation[int]):
    """Count the entries."""

    __slots__ = ("head",)
    kind = "count the entries of"

    def __init__(self, head: SLIST_HEADER) -> None:
        self.head = head

    def perform(self, thread: Thread) -> int:
        thread.read(self.head)
        return self.head.depth

    def target(self) -> Cell:
        return self.head


def _checked(head: SLIST_HEADER, name: str) -> SLIST_HEADER:
    if not head.initialised:
        report("ke.uninitialised", f"{name} on {head.label}, which InitializeSListHead has not initialised")
    return head


@routine("wdm", "VOID InitializeSListHead(_Inout_ PSLIST_HEADER SListHead)")
def InitializeSListHead(SListHead: SLIST_HEADER) -> None:
    """Make an empty list. IRQL: any."""
    current_thread().write(SListHead)
    SListHead.first = None
    SListHead.depth = 0
    SListHead.initialised = True


ExInitializeSListHead = InitializeSListHead


@routine(
    "wdm", "PSLIST_ENTRY InterlockedPushEntrySList(_Inout_ PSLIST_HEADER ListHead, _Inout_ PSLIST_ENTRY ListEntry)"
)
async def InterlockedPushEntrySList(ListHead: SLIST_HEADER, ListEntry: SLIST_ENTRY) -> SLIST_ENTRY | None:
    """Put *ListEntry* first; the former first entry, or None. IRQL: any, if both are resident (KE-LIST-04)."""
    name = "InterlockedPushEntrySList"
    _checked(ListHead, name)
    if not is_entry(ListEntry, name, "ListEntry", SLIST_ENTRY):
        return None
    return await Push(ListHead, ListEntry)


@routine("wdm", "PSLIST_ENTRY InterlockedPopEntrySList(_Inout_ PSLIST_HEADER ListHead)")
async def InterlockedPopEntrySList(ListHead: SLIST_HEADER) -> SLIST_ENTRY | None:
    """Unlink and return the entry that was pushed last; None if there is none. IRQL: any (KE-LIST-04)."""
    return await Pop(_checked(ListHead, "InterlockedPopEntrySList"))


@routine("wdm", "PSLIST_ENTRY InterlockedFlushSList(_Inout_ PSLIST_HEADER ListHead)")
async def InterlockedFlushSList(ListHead: SLIST_HEADER) -> SLIST_ENTRY | None:
    """Take all entries off; the first of them, which leads to the others by ``Next``. IRQL: any."""
    return await Flush(_checked(ListHead, "InterlockedFlushSList"))


@routine(
    "wdm",
    """PSLIST_ENTRY ExInterlockedPushEntrySList(_Inout_ PSLIST_HEADER SListHead, _Inout_ PSLIST_ENTRY SListEntry,
       _Inout_opt_ PKSPIN_LOCK Lock)""",
)
async def ExInterlockedPushEntrySList(
    SListHead: SLIST_HEADER, SListEntry: SLIST_ENTRY, Lock: KSPIN_LOCK | None = None
) -> SLIST_ENTRY | None:
    """As InterlockedPushEntrySList; *Lock* is not used. IRQL: any."""
    name = "ExInterlockedPushEntrySList"
    _checked(SListHead, name)
    if not is_entry(SListEntry, name, "SListEntry", SLIST_ENTRY):
        return None
    return await Push(SListHead, SListEntry)


@routine(
    "wdm",
    "PSLIST_ENTRY ExInterlockedPopEntrySList(_Inout_ PSLIST_HEADER SListHead, _Inout_opt_ PKSPIN_LOCK Lock)",
)
async def ExInterlockedPopEntrySList(SListHead: SLIST_HEADER, Lock: KSPIN_LOCK | None = None) -> SLIST_ENTRY | None:
    """As InterlockedPopEntrySList; *Lock* is not used. IRQL: any."""
    return await Pop(_checked(SListHead, "ExInterlockedPopEntrySList"))


@routine("wdm", "USHORT ExQueryDepthSList(_In_ PSLIST_HEADER SListHead)")
async def ExQueryDepthSList(SListHead: SLIST_HEADER) -> int:
    """How many entries the list has now. IRQL: any."""
    return await Depth(_checked(SListHead, "ExQueryDepthSList"))
