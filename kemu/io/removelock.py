"""Remove locks (KE-REMLOCK): run-down protection of a device, with a tag for each acquisition."""

from __future__ import annotations

from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, KThread
from kemu.nt.lock import uninitialised, violation
from kemu.nt.routine import routine
from kemu.nt.rundown import LIVE, RUNNING_DOWN, AwaitRundown, RundownProtection
from kemu.nt.status import NTSTATUS, STATUS_DELETE_PENDING, STATUS_SUCCESS
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread, current_thread

RELEASE_TAG = 0xD5
WAIT_TAG = 0xD6
REINITIALISED = 0xD7


class IO_REMOVE_LOCK(RundownProtection):
    """Storage for a remove lock; lives in the device extension."""

    __slots__ = ("tags",)

    storage_size = 32

    def __init__(self, label: str = "remove lock") -> None:
        super().__init__(label)
        self.tags: list[tuple[object, KThread]] = []
        """The tag of each acquisition that is not released, and the thread that made it, oldest first."""

    def find(self, tag: object, thread: KThread) -> tuple[object, KThread] | None:
        """The acquisition that a release with *tag* undoes: one of *thread* if there is one, else the oldest."""
        matching = [one for one in self.tags if _same(one[0], tag)]
        return next((one for one in matching if one[1] is thread), matching[0] if matching else None)

    def drop(self, thread: KThread, tag: object, name: str, what: int) -> None:
        """Undo the acquisition with *tag*, inside the step of *thread*."""
        found = self.find(tag, thread)
        if found is None:
            thread.write(self)
            what_is_wrong(self, thread, tag, name, what)
            return
        if found[1] is thread and self.state == LIVE:
            thread.update(self)
        else:
            thread.write(self)
        thread.release_to_waiter(self)
        at = next(number for number, one in enumerate(self.tags) if one is found)
        del self.tags[at]
        self.holds.remove(found[1])
        self.count -= 1
        self.changed()


def what_is_wrong(lock: IO_REMOVE_LOCK, thread: KThread, tag: object, name: str, what: int) -> None:
    """Report a release by *thread* with a tag that *lock* is not acquired with."""
    release = f"{name}: {thread.label} releases {lock.label}"
    if thread in lock.refused:
        detail = f"{release} with tag {_shown(tag)}, whose acquisition failed"
        report("ke.remlock-ignored", detail, verifier=violation(what))
    elif not lock.tags:
        report("ke.remlock-underflow", f"{release}, which nobody has acquired", verifier=violation(what))
    else:
        held = ", ".join(_shown(one[0]) for one in lock.tags)
        detail = f"{release} with tag {_shown(tag)}; it is acquired with {held}"
        report("ke.remlock-tag", detail, verifier=violation(what))


def _same(one: object, other: object) -> bool:
    """Whether two tags are one: numbers and texts by value, everything else is a pointer."""
    return one is other or (isinstance(one, int | str) and type(one) is type(other) and one == other)


def _shown(tag: object) -> str:
    """*tag* in words: never an address."""
    if tag is None:
        return "NULL"
    if isinstance(tag, int | str):
        return repr(tag)
    return tag.label if isinstance(tag, Cell) else f"a {type(tag).__name__}"


class AcquireRemoveLock(Operation[NTSTATUS]):
    """Acquire it, unless the device is being removed."""

    __slots__ = ("lock", "tag")
    kind = "acquire"

    def __init__(self, lock: IO_REMOVE_LOCK, tag: object) -> None:
        self.lock = lock
        self.tag = tag

    def perform(self, thread: Thread) -> NTSTATUS:
        assert isinstance(thread, KThread)
        lock = self.lock
        if lock.state != LIVE:
            thread.read(lock)
            lock.refused[thread] = None
            return STATUS_DELETE_PENDING
        thread.update(lock)
        thread.acquire(lock)
        lock.count += 1
        lock.holds.append(thread)
        lock.tags.append((self.tag, thread))
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.lock


class ReleaseRemoveLock(Operation[None]):
    """Undo an acquisition."""

    __slots__ = ("lock", "tag")
    kind = "release"

    def __init__(self, lock: IO_REMOVE_LOCK, tag: object) -> None:
        self.lock = lock
        self.tag = tag

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        self.lock.drop(thread, self.tag, "IoReleaseRemoveLock", RELEASE_TAG)

    def target(self) -> Cell:
        return self.lock


class BeginRemoval(Operation[bool]):
    """Undo the caller's acquisition and refuse later ones; whether there are others."""

    __slots__ = ("lock", "tag")
    kind = "run down"

    def __init__(self, lock: IO_REMOVE_LOCK, tag: object) -> None:
        self.lock = lock
        self.tag = tag

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock = self.lock
        thread.write(lock)
        lock.state = RUNNING_DOWN
        lock.drop(thread, self.tag, "IoReleaseRemoveLockAndWait", WAIT_TAG)
        if lock.count:
            return True
        thread.acquire_as_waiter(lock)
        return False

    def target(self) -> Cell:
        return self.lock


def check_usable(lock: IO_REMOVE_LOCK, name: str) -> None:
    """Finding of a lock that was never initialised."""
    if not lock.initialised:
        uninitialised(lock, name)


@routine(
    "wdm",
    """VOID IoInitializeRemoveLock(_Inout_ PIO_REMOVE_LOCK Lock, _In_ ULONG AllocateTag, _In_ ULONG MaxLockedMinutes,
       _In_ ULONG HighWatermark)""",
    max_irql=PASSIVE_LEVEL,
)
def IoInitializeRemoveLock(
    Lock: IO_REMOVE_LOCK, AllocateTag: int | str, MaxLockedMinutes: int, HighWatermark: int
) -> None:
    """Make *Lock* live, with nobody holding it. IRQL: PASSIVE_LEVEL.

    A second time: ``ke.lock-reinitialised`` (KE-REMLOCK-04). *AllocateTag*, *MaxLockedMinutes* and *HighWatermark* have
    a meaning in checked builds of Windows only.
    """
    if Lock.initialised:
        report(
            "ke.lock-reinitialised",
            f"IoInitializeRemoveLock on {Lock.label}, which is initialised already",
            verifier=violation(REINITIALISED),
        )
    current_thread().write(Lock)
    Lock.initialised = True


@routine(
    "wdm",
    "NTSTATUS IoAcquireRemoveLock(_Inout_ PIO_REMOVE_LOCK RemoveLock, _In_opt_ PVOID Tag)",
    max_irql=DISPATCH_LEVEL,
)
async def IoAcquireRemoveLock(RemoveLock: IO_REMOVE_LOCK, Tag: object = None) -> NTSTATUS:
    """Keep the device from being removed: STATUS_SUCCESS, or STATUS_DELETE_PENDING once it is (KE-REMLOCK-01).

    After a failure nothing may be started or released: ``ke.remlock-ignored``. *Tag* is anything; a release has to give
    the same. IRQL: <= DISPATCH_LEVEL.
    """
    check_usable(RemoveLock, "IoAcquireRemoveLock")
    return await AcquireRemoveLock(RemoveLock, Tag)


@routine(
    "wdm", "VOID IoReleaseRemoveLock(_Inout_ PIO_REMOVE_LOCK RemoveLock, _In_opt_ PVOID Tag)", max_irql=DISPATCH_LEVEL
)
async def IoReleaseRemoveLock(RemoveLock: IO_REMOVE_LOCK, Tag: object = None) -> None:
    """Undo an acquisition with *Tag*; any thread may. IRQL: <= DISPATCH_LEVEL.

    With another tag: ``ke.remlock-tag`` (KE-REMLOCK-02). More releases than acquisitions: ``ke.remlock-underflow``.
    """
    check_usable(RemoveLock, "IoReleaseRemoveLock")
    await ReleaseRemoveLock(RemoveLock, Tag)


@routine(
    "wdm",
    "VOID IoReleaseRemoveLockAndWait(_Inout_ PIO_REMOVE_LOCK RemoveLock, _In_opt_ PVOID Tag)",
    max_irql=PASSIVE_LEVEL,
    under_spin_lock=False,
)
async def IoReleaseRemoveLockAndWait(RemoveLock: IO_REMOVE_LOCK, Tag: object = None) -> None:
    """Undo the caller's acquisition with *Tag*, refuse later ones, and wait until all others are undone.

    Called while removing the device, by whoever has acquired it for that (KE-REMLOCK-03); a second acquisition of the
    caller's own is waited for in vain: ``ke.self-deadlock``. IRQL: PASSIVE_LEVEL.
    """
    check_usable(RemoveLock, "IoReleaseRemoveLockAndWait")
    if await BeginRemoval(RemoveLock, Tag):
        await AwaitRundown(RemoveLock)
