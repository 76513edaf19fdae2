"""Locks that several readers or one writer hold, without recursion: what push locks and reader/writer spin locks share.

A writer that has to wait is visible: it keeps readers out that come later. So its waiting is a step of its own.
"""

from __future__ import annotations

from typing import Any

from kemu.nt.kthread import KThread
from kemu.nt.lock import active
from kemu.nt.lockorder import LockOrder, SharedHold
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread


class SharedLock(Waitable, Storage):
    """A lock with one owner, or any number of sharers. Zeroed memory is a free one."""

    __slots__ = ("initialised", "owner", "shared", "sharers", "waiting", "was_owned")

    guards = ("owner", "sharers", "waiting")
    spins: bool = False

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.owner: KThread | None = None
        self.sharers: list[KThread] = []
        self.waiting: list[KThread] = []
        """Who waits to be the owner, longest first."""
        self.shared = SharedHold(self, spins=self.spins)
        """What the threads that share it remember of it."""
        self.was_owned = False
        """Whether it was ever held exclusively, as the lock order knows."""
        self.initialised = True
        """Whether its memory was zeroed, or initialised otherwise, and not deleted since."""

    @classmethod
    def embedded(cls, label: str, whole: Any) -> Any:
        made = super().embedded(label, whole)
        # A structure that does not come from pool is a driver's global, which is zeroed.
        made.initialised = whole.__dict__.get("_allocation") is None
        return made

    def zeroed(self) -> None:
        self.initialised = True

    def assign(self, name: str, value: object) -> None:
        """``Lock = 0`` is how C makes a free one where there is no routine for it."""
        if not isinstance(value, int) or value:
            super().assign(name, value)
        self.make_free(f"{name} = 0")

    def make_free(self, how: str) -> None:
        """Make it free, as *how* tells. One that is in use is finding ``ke.lock-reinitialised``."""
        if self.owner is not None or self.sharers or self.watchers:
            report("ke.lock-reinitialised", f"{how} on {self.label}, which is in use")
        current_thread().write(self)
        self.initialised = True

    @property
    def is_free(self) -> bool:
        """Whether a writer can have it."""
        return self.owner is None and not self.sharers

    @property
    def admits_readers(self) -> bool:
        """Whether one more reader can have it."""
        raise NotImplementedError

    def holders(self) -> tuple[Thread, ...]:
        return tuple(self.sharers) if self.owner is None else (self.owner,)

    def still_active(self) -> Leftover | None:
        """What is wrong with its memory being freed now; None if nobody uses it."""
        return active(self, self.holders())

    def share(self, thread: KThread) -> None:
        """Add *thread* to the sharers, inside its step."""
        # Readers that come and go without a writer waiting are independent of each other: none can tell.
        if self.waiting:
            thread.write(self)
        else:
            thread.update(self)
        thread.acquire(self)
        self.sharers.append(thread)
        thread.locks.append(self.shared)
        log = thread.runtime.log
        if log is not None:
            log("sync.acquire", obj=self)
        self.changed()

    def own(self, thread: KThread) -> None:
        """Make *thread* the owner, inside its step, which writes the lock."""
        if not self.was_owned:
            self.was_owned = True
            thread.runtime.system.get(LockOrder).written(self)
        thread.acquire(self)
        thread.acquire_as_waiter(self)
        self.owner = thread
        thread.locks.append(self)
        log = thread.runtime.log
        if log is not None:
            log("sync.acquire", obj=self)
        self.changed()


class AcquireShared(BlockingOperation[None]):
    """Become one of the sharers."""

    __slots__ = ("lock",)
    kind = "acquire shared"

    def __init__(self, lock: SharedLock) -> None:
        super().__init__(lock)
        self.lock = lock

    def available(self, thread: Thread) -> bool:
        return self.lock.admits_readers

    def take(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        lock = self.lock
        if thread.locks or thread.inside:
            thread.runtime.system.get(LockOrder).note(thread, lock.shared)
        lock.share(thread)

    def holders(self) -> tuple[Thread, ...]:
        # If it is not a writer that keeps a reader out, it is one that waits.
        lock = self.lock
        return tuple(lock.waiting) if lock.owner is None else lock.holders()


class AskExclusive(Operation[bool]):
    """Become the owner at once, or wait from now on; whether it was at once."""

    __slots__ = ("lock",)
    kind = "acquire"

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock = self.lock
        thread.write(lock)
        if not lock.is_free:
            lock.waiting.append(thread)
            lock.changed()
            return False
        if thread.locks or thread.inside:
            thread.runtime.system.get(LockOrder).note(thread, lock)
        lock.own(thread)
        return True

    def target(self) -> Cell:
        return self.lock


class AwaitExclusive(BlockingOperation[None]):
    """Having waited, become the owner."""

    __slots__ = ("lock",)
    kind = "acquire"

    def __init__(self, lock: SharedLock) -> None:
        super().__init__(lock)
        self.lock = lock

    def available(self, thread: Thread) -> bool:
        return self.lock.is_free

    def take(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        lock = self.lock
        thread.write(lock)
        if thread.locks or thread.inside:
            thread.runtime.system.get(LockOrder).note(thread, lock)
        lock.waiting.remove(thread)
        lock.own(thread)


class TryShared(Operation[bool]):
    """Become one of the sharers if that is possible at once; whether it was."""

    __slots__ = ("lock",)
    kind = "try to acquire shared"

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock = self.lock
        if not lock.admits_readers:
            thread.read(lock)
            return False
        lock.share(thread)
        return True

    def target(self) -> Cell:
        return self.lock


class TryExclusive(Operation[bool]):
    """Become the owner if that is possible at once; whether it was."""

    __slots__ = ("lock",)
    kind = "try to acquire"

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock = self.lock
        if not lock.is_free:
            thread.read(lock)
            return False
        thread.write(lock)
        lock.own(thread)
        return True

    def target(self) -> Cell:
        return self.lock


class Upgrade(Operation[bool]):
    """From the only sharer become the owner, unless a writer waits; whether that was possible."""

    __slots__ = ("lock",)
    kind = "convert"

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        lock = self.lock
        if lock.waiting or lock.sharers != [thread]:
            thread.read(lock)
            return False
        thread.write(lock)
        lock.sharers.clear()
        thread.locks.remove(lock.shared)
        lock.own(thread)
        return True

    def target(self) -> Cell:
        return self.lock


class ReleaseShared(Operation[None]):
    """Cease to share it."""

    __slots__ = ("lock",)
    kind = "release"

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        lock = self.lock
        if lock.waiting:
            thread.write(lock)
        else:
            thread.update(lock)
        thread.release_to_waiter(lock)
        # Not if it does not share it, which settings of the verifier may let pass.
        if thread in lock.sharers:
            lock.sharers.remove(thread)
            thread.locks.remove(lock.shared)
        log = thread.runtime.log
        if log is not None:
            log("sync.release", obj=lock)
        lock.changed()

    def target(self) -> Cell:
        return self.lock


class ReleaseExclusive(Operation[None]):
    """Cease to own it."""

    __slots__ = ("lock",)
    kind = "release"

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        lock = self.lock
        thread.write(lock)
        thread.release(lock)
        lock.owner = None
        if lock in thread.locks:
            thread.locks.remove(lock)
        log = thread.runtime.log
        if log is not None:
            log("sync.release", obj=lock)
        lock.changed()

    def target(self) -> Cell:
        return self.lock


async def acquire_exclusive(lock: SharedLock) -> None:
    """Become the owner, however long that takes."""
    if not await AskExclusive(lock):
        await AwaitExclusive(lock)
