"""An ERESOURCE's state: who owns it in which mode and how often, and who waits (KE-RES).

A resource is handed over: who releases it makes the next ones its owners, in the order in which they asked. So it is
never free while somebody waits, and nobody overtakes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kemu.nt.bugcheck import ERESOURCE_INVALID_RELEASE, RESOURCE_NOT_OWNED, BugCheck
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.kthread import KThread
from kemu.nt.lock import SELF_DEADLOCK, active, not_owned, violation
from kemu.nt.lockorder import LockOrder, SharedHold
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

EXCLUSIVE: Final = 0
SHARED: Final = 1
"""Waits for those who wait to own it, unless the thread has it already."""
STARVE_EXCLUSIVE: Final = 2
"""Waits for the owner only."""
WAIT_FOR_EXCLUSIVE: Final = 3
"""Waits for those who wait to own it, always."""

FREED_ACTIVE: Final = 0xD2

Owner = KThread | int
"""A thread, or the number that a thread has put in its place (KE-RES-10)."""


class Waiter(Waitable):
    """A thread that waits for a resource."""

    __slots__ = ("granted", "mode", "thread")

    guards = ("granted",)

    def __init__(self, thread: KThread, label: str, mode: int) -> None:
        super().__init__(thread, label)
        self.thread = thread
        self.mode = mode
        self.granted = False


class ERESOURCE(Waitable, Storage):
    """Storage for an executive resource."""

    __slots__ = (
        "depth",
        "driver",
        "initialised",
        "moved",
        "owner",
        "shared",
        "sharers",
        "waiting_exclusive",
        "waiting_shared",
        "was_owned",
    )

    guards = ()
    spins: bool = False
    storage_size = 104

    def __init__(self, label: str = "resource") -> None:
        super().__init__(current_thread(), label)
        self.initialised = False
        self.driver: DriverActor | None = None
        self.shared = SharedHold(self)
        self.was_owned = False
        self.reset()

    def reset(self) -> None:
        """Make it free."""
        self.owner: Owner | None = None
        self.depth = 0
        """How often the owner has it."""
        self.sharers: dict[Owner, int] = {}
        """Who shares it, and how often."""
        self.waiting_exclusive: deque[Waiter] = deque()
        self.waiting_shared: deque[Waiter] = deque()
        self.moved: dict[KThread, int] = {}
        """What the threads that have given their ownership away have put in their place."""

    def holders(self) -> tuple[Thread, ...]:
        owners = self.sharers if self.owner is None else (self.owner,)
        return tuple(owner for owner in owners if isinstance(owner, KThread))

    def waiters(self) -> tuple[Thread, ...]:
        """The threads that wait to own it."""
        return tuple(waiter.thread for waiter in self.waiting_exclusive)

    def still_active(self) -> Leftover | None:
        """What is wrong with its memory being freed now (KE-RES-01): it has to be deleted first."""
        left = active(self, self.holders(), FREED_ACTIVE)
        if left is None and self.initialised:
            left = Leftover("ke.resource-not-deleted", self.label, verifier=violation(FREED_ACTIVE))
        return left

    @property
    def is_contended(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self.waiting_exclusive or self.waiting_shared)

    def count_of(self, owner: Owner) -> int:
        """How often *owner* has it, in whichever mode."""
        return self.depth if self.owner == owner else self.sharers.get(owner, 0)

    def admits(self, thread: KThread, mode: int) -> bool:
        """Whether *thread* can have it now (KE-RES-03, KE-RES-05, KE-RES-06)."""
        if self.owner is not None:
            return self.owner is thread
        if not self.sharers:
            return True
        if mode == EXCLUSIVE:
            return False
        if mode == STARVE_EXCLUSIVE or not self.waiting_exclusive:
            return True
        return mode == SHARED and thread in self.sharers

    def touch_shared(self, thread: Thread) -> None:
        """Record, in the step of *thread*, that somebody came to share it or left off."""
        # Those who share it are independent of each other as long as nobody waits: none can tell.
        if self.is_contended or self.owner is not None:
            thread.write(self)
        else:
            thread.update(self)

    def give(self, thread: KThread, mode: int) -> None:
        """Make *thread* an owner. Whoever does this has recorded it."""
        if self.owner is thread:
            self.depth += 1
        elif mode == EXCLUSIVE:
            self.owner = thread
            self.depth = 1
            if not self.was_owned:
                self.was_owned = True
                thread.runtime.system.get(LockOrder).written(self)
        else:
            self.sharers[thread] = self.sharers.get(thread, 0) + 1

    def received(self, thread: KThread, mode: int) -> None:
        """*thread*, in its own step, has become an owner."""
        thread.acquire(self)
        if self.owner is thread:
            thread.acquire_as_waiter(self)
            thread.locks.append(self)
        else:
            thread.locks.append(self.shared)
        log = thread.runtime.log
        if log is not None:
            log("sync.acquire", obj=self)

    def forget(self, thread: KThread, hold: ERESOURCE | SharedHold) -> None:
        """*thread* remembers *hold* once less, unless it never did because another one has made it an owner."""
        if hold in thread.locks:
            thread.locks.remove(hold)

    def hand_over(self, thread: Thread, *, sharers_first: bool) -> None:
        """In the step of *thread*, give it to those who are next (KE-RES-12)."""
        if self.waiting_exclusive and not (sharers_first and self.waiting_shared):
            if not self.sharers:
                self._grant(thread, self.waiting_exclusive.popleft())
            return
        while self.waiting_shared:
            self._grant(thread, self.waiting_shared.popleft())

    def _grant(self, thread: Thread, waiter: Waiter) -> None:
        thread.write(waiter)
        waiter.granted = True
        self.give(waiter.thread, waiter.mode)
        waiter.changed()


MODE_NAMES: Final = {
    EXCLUSIVE: "acquire",
    SHARED: "acquire shared",
    STARVE_EXCLUSIVE: "acquire shared",
    WAIT_FOR_EXCLUSIVE: "acquire shared",
}


def note_order(resource: ERESOURCE, thread: KThread, mode: int) -> None:
    """Tell the lock order of an acquisition that may have to wait."""
    if thread.locks or thread.inside:
        wants = resource if mode == EXCLUSIVE else resource.shared
        thread.runtime.system.get(LockOrder).note(thread, wants, gives_way=mode != STARVE_EXCLUSIVE)


class AskForResource(Operation[Waiter | bool]):
    """Become an owner at once (true), wait from now on (who waits), or, if that is not wanted, give up (false)."""

    __slots__ = ("mode", "name", "resource", "waits")

    def __init__(self, resource: ERESOURCE, mode: int, waits: bool, name: str) -> None:
        self.resource = resource
        self.mode = mode
        self.waits = waits
        self.name = name

    def perform(self, thread: Thread) -> Waiter | bool:
        assert isinstance(thread, KThread)
        resource, mode = self.resource, self.mode
        if resource.admits(thread, mode):
            if mode == EXCLUSIVE:
                thread.write(resource)
            else:
                resource.touch_shared(thread)
            if self.waits:
                note_order(resource, thread, mode)
            resource.give(thread, mode)
            resource.received(thread, mode)
            return True
        if not self.waits:
            thread.read(resource)
            return False
        thread.write(resource)
        if thread in resource.sharers:
            # Shared to exclusive, or shared once more behind a writer that waits for this thread.
            why = "owns it shared" if mode == EXCLUSIVE else f"{resource.waiters()[0].label} waits for it"
            report(
                "ke.self-deadlock",
                f"{self.name}: {thread.label} has {resource.label} shared and waits for itself: {why}",
                verifier=violation(SELF_DEADLOCK),
            )
        waiter = Waiter(thread, f"wait of {thread.label} for {resource.label}", mode)
        (resource.waiting_exclusive if mode == EXCLUSIVE else resource.waiting_shared).append(waiter)
        return waiter

    def target(self) -> Cell:
        return self.resource

    def describe(self) -> str:
        return f"{MODE_NAMES[self.mode]} {self.resource.label}"


class AwaitResource(BlockingOperation[bool]):
    """Having waited, become an owner."""

    __slots__ = ("resource", "waiter")

    def __init__(self, resource: ERESOURCE, waiter: Waiter) -> None:
        super().__init__(waiter)
        self.resource = resource
        self.waiter = waiter

    def available(self, thread: Thread) -> bool:
        return self.waiter.granted

    def take(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        thread.read(self.waiter)
        note_order(self.resource, thread, self.waiter.mode)
        self.resource.received(thread, self.waiter.mode)
        return True

    def target(self) -> Cell:
        return self.resource

    def describe(self) -> str:
        return f"{MODE_NAMES[self.waiter.mode]} {self.resource.label}"

    def holders(self) -> tuple[Thread, ...]:
        resource = self.resource
        if self.waiter.mode == EXCLUSIVE or resource.owner is not None:
            return resource.holders()
        # If it is not the owner that keeps a reader out, it is one who waits.
        return resource.waiters()


class ReleaseResource(Operation[None]):
    """Undo one acquisition of an owner."""

    __slots__ = ("name", "owner", "resource")
    kind = "release"

    def __init__(self, resource: ERESOURCE, owner: Owner, name: str) -> None:
        self.resource = resource
        self.owner = owner
        self.name = name

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        resource, owner = self.resource, self.owner
        if not resource.count_of(owner):
            thread.read(resource)
            not_owned(resource, thread, self.name, resource.holders(), BugCheck(RESOURCE_NOT_OWNED))
            return
        if isinstance(owner, KThread) and owner is not thread:
            report(
                "ke.lock-not-owned",
                f"{self.name}: {thread.label} releases {resource.label} for {owner.label}, which has not put a pointer "
                "in its place",
                BugCheck(ERESOURCE_INVALID_RELEASE),
            )
        log = thread.runtime.log
        if resource.owner == owner:
            thread.write(resource)
            thread.release(resource)
            resource.forget(thread, resource)
            resource.depth -= 1
            if not resource.depth:
                resource.owner = None
                resource.hand_over(thread, sharers_first=True)
        else:
            # A pointer's release is ordered with everybody's: nothing tells whose turn it is.
            if owner is thread:
                resource.touch_shared(thread)
                resource.forget(thread, resource.shared)
            else:
                thread.write(resource)
            thread.release_to_waiter(resource)
            resource.sharers[owner] -= 1
            if not resource.sharers[owner]:
                del resource.sharers[owner]
            if not resource.sharers:
                resource.hand_over(thread, sharers_first=False)
        if log is not None:
            log("sync.release", obj=resource)

    def target(self) -> Cell:
        return self.resource


class ConvertToShared(Operation[None]):
    """From the owner become one who shares, and let those in who wait to (KE-RES-08)."""

    __slots__ = ("resource",)
    kind = "convert"

    def __init__(self, resource: ERESOURCE) -> None:
        self.resource = resource

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        resource = self.resource
        thread.write(resource)
        thread.release(resource)
        resource.owner = None
        resource.sharers[thread] = resource.depth
        thread.locks[:] = [resource.shared if lock is resource else lock for lock in thread.locks]
        resource.hand_over(thread, sharers_first=True)

    def target(self) -> Cell:
        return self.resource


class CountWaiters(Operation[int]):
    """See how many threads wait."""

    __slots__ = ("exclusive", "resource")
    kind = "count the waiters of"

    def __init__(self, resource: ERESOURCE, exclusive: bool) -> None:
        self.resource = resource
        self.exclusive = exclusive

    def perform(self, thread: Thread) -> int:
        thread.read(self.resource)
        return len(self.resource.waiting_exclusive if self.exclusive else self.resource.waiting_shared)

    def target(self) -> Cell:
        return self.resource


class Resources:
    """All resources of one run that are initialised and not deleted, oldest first."""

    def __init__(self) -> None:
        self.active: dict[ERESOURCE, None] = {}

    def added(self, resource: ERESOURCE) -> None:
        """*resource* was initialised by the driver that is running."""
        resource.driver = current_driver()
        self.active[resource] = None

    def left_by(self, driver: DriverActor) -> list[Leftover]:
        """The resources that *driver* has initialised and not deleted: they lie in its memory (KE-RES-01)."""
        return [
            Leftover("ke.resource-not-deleted", resource.label, verifier=violation(FREED_ACTIVE))
            for resource in self.active
            if resource.driver is driver
        ]
