"""Semaphore objects (KE-SEM)."""

from __future__ import annotations

from kemu.nt.announce import announce_wait
from kemu.nt.dispatcher import DispatcherObject, ReadState
from kemu.nt.exception import raise_status
from kemu.nt.integer import integer
from kemu.nt.kthread import DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_SEMAPHORE_LIMIT_EXCEEDED, STATUS_SUCCESS
from kemu.nt.storage import Storage
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread, current_thread


class KSEMAPHORE(DispatcherObject, Storage):
    """Storage for a semaphore; `KeInitializeSemaphore` makes one of it."""

    __slots__ = ("count", "initialised", "limit", "taken_by")

    guards = ("count",)
    storage_size = 32

    def __init__(self, label: str = "semaphore") -> None:
        super().__init__(current_thread(), label)
        self.count = 0
        self.limit = 0
        self.initialised = False
        self.taken_by: Thread | None = None
        """Whose wait was satisfied last; findings tell of it."""

    @property
    def is_initialised(self) -> bool:
        return self.initialised

    def is_signalled(self, thread: Thread) -> bool:
        return self.count > 0

    def state(self, thread: Thread) -> int:
        return self.count

    def satisfy(self, thread: Thread) -> NTSTATUS:
        thread.write(self)
        # Which of several releases has let the thread in is open, so that it is ordered behind all of them.
        thread.acquire_as_waiter(self)
        self.count -= 1
        self.taken_by = thread
        self.changed()
        return STATUS_SUCCESS


class ReleaseSemaphore(Operation[tuple[int, bool]]):
    """Add to a semaphore's count; evaluates to the previous count, and whether it was possible."""

    __slots__ = ("adjustment", "semaphore")
    kind = "release"

    def __init__(self, semaphore: KSEMAPHORE, adjustment: int) -> None:
        self.semaphore = semaphore
        self.adjustment = adjustment

    def perform(self, thread: Thread) -> tuple[int, bool]:
        semaphore = self.semaphore
        previous = semaphore.count
        if self.adjustment < 0 or previous + self.adjustment > semaphore.limit:
            thread.read(semaphore)
            return previous, False
        thread.write(semaphore)
        thread.release_to_waiter(semaphore)
        log = thread.runtime.log
        if log is not None:
            log("sync.signal", obj=semaphore)
        semaphore.count += self.adjustment
        semaphore.changed()
        return previous, True

    def target(self) -> Cell:
        return self.semaphore


def checked_semaphore(semaphore: KSEMAPHORE, where: str) -> KSEMAPHORE:
    """Return *semaphore* if it was initialised; finding ``ke.uninitialised`` otherwise (KE-WAIT-02)."""
    if not semaphore.initialised:
        report("ke.uninitialised", f"{where} on {semaphore.label}, which KeInitializeSemaphore has not initialised")
    return semaphore


@routine(
    "wdm",
    "VOID KeInitializeSemaphore(_Inout_ PRKSEMAPHORE Semaphore, _In_ LONG Count, _In_ LONG Limit)",
    max_irql=DISPATCH_LEVEL,
)
def KeInitializeSemaphore(Semaphore: KSEMAPHORE, Count: int, Limit: int) -> None:
    """Make a semaphore that *Count* waits may pass, and never more than *Limit* (KE-SEM-01).

    IRQL: <= DISPATCH_LEVEL; above PASSIVE_LEVEL, which its page asks for, remark ``ke.init-irql``. A negative count, a
    limit that is not positive, or a count above it: finding ``ke.semaphore-range``.
    """
    integer(Count, "KeInitializeSemaphore with Count", 32)
    integer(Limit, "KeInitializeSemaphore with Limit", 32)
    thread = current_kthread()
    if thread.irql > PASSIVE_LEVEL:
        report("ke.init-irql", f"KeInitializeSemaphore of {Semaphore.label} at IRQL {thread.irql}")
    if not 0 <= Count <= Limit or Limit < 1:
        report("ke.semaphore-range", f"KeInitializeSemaphore of {Semaphore.label} with count {Count} and limit {Limit}")
    if Semaphore.initialised and Semaphore.watchers:
        report("ke.event-reinitialised", f"{Semaphore.label} was initialised again while a thread waits for it")
    thread.write(Semaphore)
    thread.release_to_waiter(Semaphore)
    Semaphore.count = Count
    Semaphore.limit = Limit
    Semaphore.initialised = True


def release_semaphore_ceiling(Semaphore: KSEMAPHORE, Increment: int, Adjustment: int, Wait: bool = False) -> int:
    """<= DISPATCH_LEVEL; = PASSIVE_LEVEL with Wait = TRUE."""
    return PASSIVE_LEVEL if Wait else DISPATCH_LEVEL


@routine(
    "wdm",
    """LONG KeReleaseSemaphore(_Inout_ PRKSEMAPHORE Semaphore, _In_ KPRIORITY Increment, _In_ LONG Adjustment,
       _In_ BOOLEAN Wait)""",
    max_irql=release_semaphore_ceiling,
)
async def KeReleaseSemaphore(Semaphore: KSEMAPHORE, Increment: int, Adjustment: int, Wait: bool = False) -> int:
    """Let *Adjustment* more waits pass, and return the previous count: 0 if it was not signalled (KE-SEM-03).

    IRQL: <= DISPATCH_LEVEL; PASSIVE_LEVEL with *Wait*, which a wait must follow (KE-SEM-04, KE-WAIT-17). Beyond the
    limit it changes nothing and raises STATUS_SEMAPHORE_LIMIT_EXCEEDED (KE-SEM-02), as it does for less than 0.
    """
    name = "KeReleaseSemaphore"
    checked_semaphore(Semaphore, name)
    integer(Adjustment, f"{name} with Adjustment", 32)
    previous, possible = await ReleaseSemaphore(Semaphore, Adjustment)
    if not possible:
        raise_status(STATUS_SEMAPHORE_LIMIT_EXCEEDED, name)
    announce_wait(name, Wait)
    return previous


@routine("wdm", "LONG KeReadStateSemaphore(_In_ PRKSEMAPHORE Semaphore)")
async def KeReadStateSemaphore(Semaphore: KSEMAPHORE) -> int:
    """How many waits *Semaphore* would let pass. IRQL: any."""
    return await ReadState(checked_semaphore(Semaphore, "KeReadStateSemaphore"))
