"""Mutex objects (KE-MUTEX): recursive, owned by a thread, which is in a critical region meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kemu.nt.announce import announce_wait, announcing_ceiling
from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, THREAD_TERMINATE_HELD_MUTEX, BugCheck
from kemu.nt.dispatcher import DispatcherObject, ReadState, WaitForObject
from kemu.nt.exception import raise_status
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, OwnerAware, current_kthread
from kemu.nt.lockorder import LockOrder
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ABANDONED,
    STATUS_MUTANT_LIMIT_EXCEEDED,
    STATUS_MUTANT_NOT_OWNED,
    STATUS_SUCCESS,
)
from kemu.nt.storage import Storage
from kemu.nt.system import report
from kemu.nt.waitstatus import WaitStatus
from kemu.runtime import Cell, Operation, Thread, current_thread

MINLONG: Final = 2**31
"""How often a mutex may be acquired before it is released (KE-MUTEX-01)."""


class KMUTEX(DispatcherObject, OwnerAware, Storage):
    """Storage for a mutex; `KeInitializeMutex` makes one of it."""

    __slots__ = ("abandoned", "acquired_at", "count", "initialised", "is_kernels", "owned_by", "owner", "status")

    guards = ("owned_by",)
    spins: bool = False
    storage_size = 56

    def __init__(self, label: str = "mutex") -> None:
        super().__init__(current_thread(), label)
        self.owner: KThread | None = None
        self.owned_by: tuple[int, ...] | None = None
        """The path of the owner: a value, by which a search tells owners apart."""
        self.count = 0
        """How often the owner has acquired it and not released."""
        self.abandoned = False
        self.acquired_at = 0
        """The owner's IRQL when it became the owner."""
        self.initialised = False
        self.is_kernels = True
        """Whether it disables APCs, as a driver's does; a user program's mutant does not."""
        self.status: WaitStatus | None = None
        """What the owner was told if the mutex was abandoned."""

    @property
    def is_initialised(self) -> bool:
        return self.initialised

    def is_signalled(self, thread: Thread) -> bool:
        return self.owned_by is None or self.owned_by == thread.path

    def state(self, thread: Thread) -> int:
        return 1 - self.count

    def satisfy(self, thread: Thread) -> NTSTATUS:
        assert isinstance(thread, KThread)
        thread.write(self)
        self.count += 1
        if self.count > 1:
            return STATUS_SUCCESS
        thread.acquire(self)
        wait = thread.op
        if (thread.locks or thread.inside) and isinstance(wait, WaitForObject) and wait.timeout != 0:
            # A poll waits for nobody, and a wait for any of several objects not for this one.
            thread.runtime.system.get(LockOrder).note(thread, self)
        self.owner = thread
        self.owned_by = thread.path
        self.acquired_at = thread.irql
        thread.locks.append(self)
        if self.is_kernels:
            thread.kernel_apc_disable += 1
        self.changed()
        if self.abandoned:
            self.abandoned = False
            return STATUS_ABANDONED
        return STATUS_SUCCESS

    def let_go(self, thread: KThread) -> None:
        """End the ownership, inside the owner's step."""
        thread.write(self)
        thread.release(self)
        self.count = 0
        self.owner = self.owned_by = self.status = None
        thread.locks.remove(self)
        if self.is_kernels:
            thread.kernel_apc_disable -= 1
        self.changed()

    def owner_ends(self, thread: KThread) -> None:
        if self.is_kernels:
            report(
                "ke.mutex-held-at-exit",
                f"{thread.label} ends and owns the mutex {self.label}",
                BugCheck(THREAD_TERMINATE_HELD_MUTEX),
                verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x100A,)),
            )
        self.let_go(thread)
        self.abandoned = True

    def holders(self) -> tuple[Thread, ...]:
        return () if self.owner is None else (self.owner,)


def initialise(mutex: KMUTEX, name: str) -> None:
    """Make *mutex* free, on behalf of the routine called *name*."""
    if mutex.initialised and (mutex.watchers or mutex.owner is not None):
        report(
            "ke.event-reinitialised",
            f"{name}: {mutex.label} was initialised again while a thread owns it or waits for it",
        )
    thread = current_thread()
    thread.write(mutex)
    thread.release(mutex)
    mutex.initialised = True


def initialise_mutant(mutex: KMUTEX) -> None:
    """Make *mutex* what NtCreateMutant makes for a user program: one that can be abandoned, and that disables no
    APCs.
    """
    mutex.is_kernels = False
    initialise(mutex, "NtCreateMutant")


def check_recursion(objects: Sequence[DispatcherObject], thread: KThread, name: str) -> None:
    """Raise STATUS_MUTANT_LIMIT_EXCEEDED if *thread* cannot acquire one of *objects* again (KE-MUTEX-01)."""
    for one in objects:
        if isinstance(one, KMUTEX) and one.owner is thread and one.count >= MINLONG:
            raise_status(STATUS_MUTANT_LIMIT_EXCEEDED, name)


def note_status(objects: Sequence[DispatcherObject], status: NTSTATUS) -> NTSTATUS:
    """Remember what the new owner of an abandoned mutex is told, to see whether it looks (KE-MUTEX-06)."""
    if isinstance(status, WaitStatus) and int(status) & ~0x3F == STATUS_ABANDONED:
        thread = current_thread()
        for one in objects:
            if isinstance(one, KMUTEX) and one.owner is thread and one.status is None:
                one.status = status
    return status


class ReleaseMutex(Operation[int]):
    """Release a mutex once, as its owner; evaluates to its previous state, 0 when it becomes free."""

    __slots__ = ("mutex",)
    kind = "release"

    def __init__(self, mutex: KMUTEX) -> None:
        self.mutex = mutex

    def perform(self, thread: Thread) -> int:
        assert isinstance(thread, KThread)
        mutex = self.mutex
        previous = 1 - mutex.count
        if mutex.count > 1:
            thread.write(mutex)
            mutex.count -= 1
        else:
            mutex.let_go(thread)
            log = thread.runtime.log
            if log is not None:
                log("sync.release", obj=mutex)
        return previous

    def target(self) -> Cell:
        return self.mutex


@routine("wdm", "VOID KeInitializeMutex(_Inout_ PRKMUTEX Mutex, _In_ ULONG Level)")
def KeInitializeMutex(Mutex: KMUTEX, Level: int = 0) -> None:
    """Make *Mutex* free (KE-MUTEX-01). *Level* is reserved and has no effect. IRQL: any."""
    initialise(Mutex, "KeInitializeMutex")


def release_mutex_ceiling(Mutex: KMUTEX, Wait: bool) -> int:
    """<= DISPATCH_LEVEL; <= APC_LEVEL with Wait = TRUE."""
    return announcing_ceiling(Wait)


@routine("wdm", "LONG KeReleaseMutex(_Inout_ PRKMUTEX Mutex, _In_ BOOLEAN Wait)", max_irql=release_mutex_ceiling)
async def KeReleaseMutex(Mutex: KMUTEX, Wait: bool) -> int:
    """Release *Mutex* once and return its previous state: 0 if it was acquired once and is free now (KE-MUTEX-03).

    IRQL: <= DISPATCH_LEVEL, on the same side of DISPATCH_LEVEL as it was acquired; <= APC_LEVEL if *Wait* is True,
    which a wait must follow (KE-WAIT-17). Raises STATUS_MUTANT_NOT_OWNED unless the caller owns it, STATUS_ABANDONED if
    its last owner has ended (KE-MUTEX-02).
    """
    name = "KeReleaseMutex"
    thread = current_kthread()
    if not Mutex.initialised:
        report("ke.uninitialised", f"{name} on {Mutex.label}, which KeInitializeMutex has not initialised")
    if Mutex.owner is not thread:
        # Also that it is somebody else's has decided what happens.
        await ReadState(Mutex)
        raise_status(STATUS_ABANDONED if Mutex.abandoned else STATUS_MUTANT_NOT_OWNED, name)
    if (thread.irql >= DISPATCH_LEVEL) != (Mutex.acquired_at >= DISPATCH_LEVEL):
        report(
            "ke.irql",
            f"{name} at IRQL {thread.irql} of {Mutex.label}, which was acquired at {Mutex.acquired_at}: that has to be "
            "on the same side of DISPATCH_LEVEL",
        )
    status = Mutex.status
    if status is not None and Mutex.count == 1 and not status.looked_at:
        report("ke.abandoned", f"{thread.label} never looked at the wait that said that {Mutex.label} was abandoned")
    previous = await ReleaseMutex(Mutex)
    announce_wait(name, Wait)
    return previous


@routine("wdm", "LONG KeReadStateMutex(_In_ PRKMUTEX Mutex)", max_irql=DISPATCH_LEVEL)
async def KeReadStateMutex(Mutex: KMUTEX) -> int:
    """1 if *Mutex* is free, otherwise 1 less how often its owner has acquired it. IRQL: <= DISPATCH_LEVEL."""
    if not Mutex.initialised:
        report("ke.uninitialised", f"KeReadStateMutex on {Mutex.label}, which was not initialised")
    return await ReadState(Mutex)
