"""Lock order: which locks were acquired while which others were held, and whether that may deadlock (KE-DL).

A run notes every acquisition that may have to wait while its thread holds a lock: a *nesting*. Nestings that close a
cycle - one thread holds A and asks for B, another holds B and asks for A - are a deadlock in some schedule, whether or
not this one came to it. As in Driver Verifier a cycle counts whoever made the nestings, and does not if one lock that
is held in two of them keeps these from being under way at the same time (Havelund, SPIN 2000; Bensalem and Havelund,
PADTAD 2005, who call it a gate lock).

What is noted follows from what each thread did, in its own order, and from nothing else. So all runs that differ by no
more than the order of independent steps have the same nestings, and the same cycles: the graph is no shared state of
the run, and no step is dependent on another one because of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Protocol

from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, BugCheck
from kemu.nt.kthread import HeldLock, KThread
from kemu.runtime.site import Site, here, line_of

if TYPE_CHECKING:
    from kemu.nt.system import System

HIERARCHY_VIOLATION: Final = 0x1001


class Ordered(Protocol):
    """A node of the graph: a lock, or the callbacks of a registration. Told from others by identity."""

    @property
    def label(self) -> str: ...


class SharedHold:
    """A lock as a thread remembers it that holds it shared. Each lock has one for all its threads."""

    __slots__ = ("lock", "spins")

    def __init__(self, lock: Ordered, *, spins: bool = False) -> None:
        self.lock = lock
        self.spins = spins

    @property
    def label(self) -> str:
        return self.lock.label


def lock_of(hold: HeldLock) -> Ordered:
    """The lock that *hold* is one of."""
    return hold.lock if isinstance(hold, SharedHold) else hold


@dataclass(frozen=True, slots=True, eq=False)
class Nesting:
    """An acquisition that may have to wait, made while something is held."""

    holds: tuple[HeldLock, ...]
    wants: HeldLock
    gives_way: bool
    """Whether a shared acquisition waits for an exclusive one that waits itself."""
    thread: str
    site: Site | None

    def hold_of(self, lock: Ordered) -> HeldLock | None:
        """How *lock* is held meanwhile, if it is."""
        for hold in self.holds:
            if lock_of(hold) is lock:
                return hold
        return None

    def excludes(self, other: Nesting) -> bool:
        """Whether a lock that both hold keeps them from being under way at the same time."""
        for hold in self.holds:
            there = other.hold_of(lock_of(hold))
            if there is not None and not (isinstance(hold, SharedHold) and isinstance(there, SharedHold)):
                return True
        return False

    def __str__(self) -> str:
        held = " and ".join(dict.fromkeys(hold.label for hold in self.holds))
        at = ""
        if self.site is not None:
            code = self.site[0]
            at = f" at {PurePath(code.co_filename).name}:{line_of(self.site)} ({code.co_qualname})"
        return f"{self.thread} acquires {self.wants.label}{at} while it holds {held}"


class LockOrder:
    """The nestings of one run. Asked only when a lock is acquired under another one."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._known: set[object] = set()
        self._holding: dict[Ordered, list[Nesting]] = {}
        """Of each lock the nestings that hold it, oldest first."""
        self._sharing: dict[Ordered, list[Nesting]] = {}
        """Of each lock the nestings that want it shared."""
        self._written: dict[Ordered, None] = {}
        """The locks that somebody has acquired exclusively, of those that can be shared."""

    def note(self, thread: KThread, wants: HeldLock, *, gives_way: bool = True) -> None:
        """*thread*, which holds something, acquires *wants* and might have had to wait for it.

        To be called before the thread counts as a holder. Finding ``ke.lock-order`` (KE-DL-02, KE-SPIN-09).
        """
        holds = (*thread.inside, *thread.locks)
        key = (holds, wants, gives_way)
        if key in self._known:
            return
        self._known.add(key)
        nesting = Nesting(holds, wants, gives_way, thread.label, here(thread))
        lock = lock_of(wants)
        if nesting.hold_of(lock) is not None:
            # Recursion waits for nobody that the outer acquisition has not waited for.
            return
        for held in dict.fromkeys(lock_of(hold) for hold in holds):
            self._holding.setdefault(held, []).append(nesting)
        if isinstance(wants, SharedHold):
            self._sharing.setdefault(lock, []).append(nesting)
        self._check(nesting)

    def written(self, lock: Ordered) -> None:
        """*lock*, which can be shared, is acquired exclusively for the first time."""
        self._written[lock] = None
        for nesting in self._sharing.get(lock, ()):
            self._check(nesting)

    def _check(self, nesting: Nesting) -> None:
        """Report the first cycle that *nesting* is part of."""
        path = [nesting]
        if self._leads_back(nesting) and self._close(path):
            labels = sorted(lock_of(one.wants).label for one in path)
            code = "ke.lock-order"
            for one in path:
                node = lock_of(one.wants)
                if isinstance(node, Callbacks) and node.code:
                    code = node.code
            self._system.findings.report(
                code,
                "; ".join(map(str, path)),
                verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (HIERARCHY_VIOLATION,)),
                subject=" ".join(labels),
            )

    def _leads_back(self, nesting: Nesting) -> bool:
        """Whether any way leads from the lock that *nesting* wants to one that it holds. Mostly there is none."""
        goals = {lock_of(hold) for hold in nesting.holds}
        todo = [lock_of(nesting.wants)]
        seen = set(todo)
        while todo:
            lock = todo.pop()
            if lock in goals:
                return True
            for following in self._holding.get(lock, ()):
                wanted = lock_of(following.wants)
                if wanted not in seen:
                    seen.add(wanted)
                    todo.append(wanted)
        return False

    def _close(self, path: list[Nesting]) -> bool:
        """Extend *path* to a cycle of nestings that may all be under way at the same time; whether there is one."""
        last = path[-1]
        lock = lock_of(last.wants)
        if len(path) > 1:
            hold = path[0].hold_of(lock)
            if hold is not None and self._waits(last, hold):
                return True
        for following in self._holding.get(lock, ()):
            hold = following.hold_of(lock)
            assert hold is not None
            if following in path or not self._waits(last, hold) or any(following.excludes(one) for one in path):
                continue
            path.append(following)
            if self._close(path):
                return True
            path.pop()
        return False

    def _waits(self, nesting: Nesting, hold: HeldLock) -> bool:
        """Whether what *nesting* wants may have to wait for *hold*, which is one of the same lock."""
        if isinstance(nesting.wants, SharedHold) and isinstance(hold, SharedHold):
            # Only if somebody waits for it exclusively in between.
            return nesting.gives_way and lock_of(hold) in self._written
        return True


class Callbacks:
    """The callbacks of one registration as a node of the graph.

    To be inside of one is to hold it shared; to wait until none is running any more is to want it exclusively. So a
    callback that acquires a lock under which its registration is removed is a cycle (KE-DL-01).
    """

    __slots__ = ("code", "label", "shared", "spins")

    def __init__(self, label: str, code: str = "") -> None:
        self.label = label
        self.code = code
        """The finding that a cycle through them is, if it has one of its own."""
        self.spins = False
        self.shared = SharedHold(self)

    def enter(self, thread: KThread) -> None:
        """*thread* is about to call a callback."""
        thread.inside = (*thread.inside, self.shared)

    def leave(self, thread: KThread) -> None:
        """The callback that *thread* has entered last is over."""
        thread.inside = thread.inside[:-1]

    def wait(self, thread: KThread) -> None:
        """*thread* waits until no callback is running. IRQL and the wait itself are the caller's."""
        if thread.locks or thread.inside:
            thread.runtime.system.get(LockOrder).note(thread, self)
