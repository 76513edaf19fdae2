"""Run-down protection (KE-RUNDOWN): who uses an object holds it, and whoever takes it down waits for the last one.

Holding it orders nothing among the holders (KE-RUNDOWN-06). Beginning to wait is a step of its own: from then on an
acquisition fails, and does not wait.
"""

from __future__ import annotations

from typing import ClassVar, Final

from kemu.nt.bugcheck import INVALID_RUNDOWN_PROTECTION_FLAGS, BugCheck
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread
from kemu.nt.lock import apcs_are_disabled, uninitialised
from kemu.nt.routine import routine
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, current_system, refuse, report, resources_fail
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

LIVE: Final = 0
RUNNING_DOWN: Final = 1
"""Somebody waits, or has waited, for the last holder."""
COMPLETED: Final = 2
"""ExRundownCompleted was called."""

CACHE_AWARE_SIZE: Final = 64


class RundownProtection(Waitable, Storage):
    """A count of holders that can be run down."""

    __slots__ = ("count", "exposed", "holds", "initialised", "over", "refused", "state")

    guards = ("count",)

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.initialised = False
        self.reset()

    def reset(self) -> None:
        """Nobody holds it, and everybody may."""
        self.state = LIVE
        self.count = 0
        self.holds: list[KThread] = []
        """For each hold the thread that acquired it, oldest first."""
        self.exposed: dict[KThread, None] = {}
        """Of these the threads of user processes that may be suspended meanwhile."""
        self.refused: dict[KThread, None] = {}
        """The threads whose acquisition has failed."""
        self.over: KThread | None = None
        """A refused thread that has released what it does not hold."""

    def holders(self) -> tuple[Thread, ...]:
        return tuple(dict.fromkeys(self.holds))

    def still_active(self) -> Leftover | None:
        """What is wrong with its memory being freed now (KE-RUNDOWN-05): somebody is to release it yet, or waits."""
        current_thread().read(self)
        if not self.holds and not self.watchers:
            return None
        names = [thread.label for thread in self.holders()]
        who = f"{' and '.join(names)} holds" if names else f"{self.watchers[0].label} waits for"
        return Leftover("ke.freed-active", f"{self.label}, which {who}")

    def take_hold(self, thread: KThread, count: int) -> None:
        """Add *count* holds of *thread*, inside its step."""
        # Those who come and go are independent of each other as long as nobody waits for the last.
        thread.update(self)
        thread.acquire(self)
        self.count += count
        self.holds.extend([thread] * count)
        if not apcs_are_disabled(thread) and thread.process is not None and not thread.process.is_system:
            self.exposed[thread] = None

    def let_go(self, thread: KThread, count: int, name: str) -> None:
        """Drop *count* holds, inside the step of *thread*; its own if it has any, else the oldest."""
        own = self.holds.count(thread)
        if self.state == LIVE and own >= count:
            thread.update(self)
        else:
            # Others' holds are dropped, or a waiter may go on: that is not independent of anything.
            thread.write(self)
        thread.release_to_waiter(self)
        if own < count and thread in self.refused:
            self.over = thread
        if self.count < count:
            self._underflow(thread, name)
            return
        self.count -= count
        for _ in range(count):
            whose = thread if thread in self.holds else self.holds[0]
            self.holds.remove(whose)
            if whose not in self.holds:
                self.exposed.pop(whose, None)
        self.changed()

    def _underflow(self, thread: KThread, name: str) -> None:
        if self.over is not None:
            report(
                "ke.rundown-ignored",
                f"{name}: {self.over.label} has released {self.label}, whose acquisition had failed",
            )
        report("ke.rundown-underflow", f"{name}: {thread.label} releases {self.label}, which nobody holds")


class EX_RUNDOWN_REF(RundownProtection):
    """Storage for run-down protection. In paged memory it is used at APC_LEVEL or below only (KE-RUNDOWN-08)."""

    __slots__ = ()

    pageable: ClassVar[bool] = True

    def __init__(self, label: str = "run-down protection") -> None:
        super().__init__(label)


class EX_RUNDOWN_REF_CACHE_AWARE(RundownProtection):
    """Storage for cache-aware run-down protection, which behaves alike."""

    __slots__ = ("allocated", "driver")

    def __init__(self, label: str = "cache-aware run-down protection") -> None:
        super().__init__(label)
        self.allocated = False
        """Whether ExAllocateCacheAwareRundownProtection has allocated it."""
        self.driver: DriverActor | None = None


class AcquireRundown(Operation[bool]):
    """Hold it, unless it is being run down."""

    __slots__ = ("count", "rundown")
    kind = "acquire"

    def __init__(self, rundown: RundownProtection, count: int) -> None:
        self.rundown = rundown
        self.count = count

    def perform(self, thread: Thread) -> bool:
        assert isinstance(thread, KThread)
        rundown = self.rundown
        if rundown.state != LIVE:
            thread.read(rundown)
            rundown.refused[thread] = None
            return False
        rundown.take_hold(thread, self.count)
        return True

    def target(self) -> Cell:
        return self.rundown


class ReleaseRundown(Operation[None]):
    """Cease to hold it."""

    __slots__ = ("count", "name", "rundown")
    kind = "release"

    def __init__(self, rundown: RundownProtection, count: int, name: str) -> None:
        self.rundown = rundown
        self.count = count
        self.name = name

    def perform(self, thread: Thread) -> None:
        assert isinstance(thread, KThread)
        self.rundown.let_go(thread, self.count, self.name)

    def target(self) -> Cell:
        return self.rundown


class BeginRundown(Operation[bool]):
    """Refuse later acquisitions; whether somebody holds it still."""

    __slots__ = ("rundown",)
    kind = "run down"

    def __init__(self, rundown: RundownProtection) -> None:
        self.rundown = rundown

    def perform(self, thread: Thread) -> bool:
        rundown = self.rundown
        thread.write(rundown)
        if rundown.state == LIVE:
            rundown.state = RUNNING_DOWN
        if rundown.count:
            if rundown.exposed:
                report(
                    "ke.rundown-suspend",
                    f"{thread.label} waits for {rundown.label}, which {next(iter(rundown.exposed)).label} holds in no "
                    "critical region: as long as that thread is suspended, this one waits",
                )
            return True
        thread.acquire_as_waiter(rundown)
        return False

    def target(self) -> Cell:
        return self.rundown


class AwaitRundown(BlockingOperation[None]):
    """Wait until nobody holds it."""

    __slots__ = ("rundown",)
    kind = "see the last holder gone from"

    def __init__(self, rundown: RundownProtection) -> None:
        super().__init__(rundown)
        self.rundown = rundown

    def available(self, thread: Thread) -> bool:
        return not self.rundown.count

    def take(self, thread: Thread) -> None:
        thread.read(self.rundown)
        thread.acquire_as_waiter(self.rundown)


class CompleteRundown(Operation[None]):
    """Have it run down for good."""

    __slots__ = ("rundown",)
    kind = "complete the run-down of"

    def __init__(self, rundown: RundownProtection) -> None:
        self.rundown = rundown

    def perform(self, thread: Thread) -> None:
        thread.write(self.rundown)
        self.rundown.state = COMPLETED

    def target(self) -> Cell:
        return self.rundown


class ReviveRundown(Operation[None]):
    """Make it usable again after a run-down."""

    __slots__ = ("name", "rundown")
    kind = "initialise again"

    def __init__(self, rundown: RundownProtection, name: str) -> None:
        self.rundown = rundown
        self.name = name

    def perform(self, thread: Thread) -> None:
        rundown = self.rundown
        thread.write(rundown)
        if rundown.state == LIVE or rundown.count:
            how = f"which {rundown.count} hold" if rundown.count else "which is not run down"
            report("ke.rundown-reinit", f"{self.name} of {rundown.label}, {how}")
        rundown.reset()
        thread.release(rundown)

    def target(self) -> Cell:
        return self.rundown


def check_kind(rundown: RundownProtection, cache_aware: bool, name: str) -> None:
    """Findings of a routine of the other kind (KE-RUNDOWN-10), and of one that comes before the initialisation."""
    if isinstance(rundown, EX_RUNDOWN_REF_CACHE_AWARE) is not cache_aware:
        report(
            "ke.rundown-mix",
            f"{name} of {rundown.label}, which is {'not ' if cache_aware else ''}cache-aware",
            BugCheck(INVALID_RUNDOWN_PROTECTION_FLAGS),
        )
    if not rundown.initialised:
        uninitialised(rundown, name)


def initialise(rundown: RundownProtection, name: str) -> None:
    """Make *rundown* live, with nobody holding it."""
    if rundown.initialised and (rundown.count or rundown.watchers):
        report("ke.rundown-reinit", f"{name} of {rundown.label}, which {rundown.count} hold")
    thread = current_thread()
    thread.write(rundown)
    rundown.reset()
    rundown.initialised = True


def check_count(count: int, name: str) -> None:
    """End the run if *count* is no ULONG, instead of counting backwards."""
    if not 0 <= count <= 0xFFFFFFFF:
        refuse(f"{name} with Count {count}", remedy="give a number of holds, 0 or more")


async def acquire(rundown: RundownProtection, count: int, cache_aware: bool, name: str) -> bool:
    """Hold *rundown* so many times more, unless it is being run down."""
    check_kind(rundown, cache_aware, name)
    check_count(count, name)
    return await AcquireRundown(rundown, count)


async def release(rundown: RundownProtection, count: int, cache_aware: bool, name: str) -> None:
    """Undo so many holds."""
    check_kind(rundown, cache_aware, name)
    check_count(count, name)
    await ReleaseRundown(rundown, count, name)


async def wait(rundown: RundownProtection, cache_aware: bool, name: str) -> None:
    """Run *rundown* down."""
    check_kind(rundown, cache_aware, name)
    if await BeginRundown(rundown):
        await AwaitRundown(rundown)


@routine("wdm", "VOID ExInitializeRundownProtection(_Inout_ PEX_RUNDOWN_REF RunRef)", max_irql=APC_LEVEL)
def ExInitializeRundownProtection(RunRef: RundownProtection) -> None:
    """Make *RunRef* live, with nobody holding it (KE-RUNDOWN-01). IRQL: <= APC_LEVEL."""
    if isinstance(RunRef, EX_RUNDOWN_REF_CACHE_AWARE):
        check_kind(RunRef, False, "ExInitializeRundownProtection")
    initialise(RunRef, "ExInitializeRundownProtection")


@routine("wdm", "BOOLEAN ExAcquireRundownProtection(_Inout_ PEX_RUNDOWN_REF RunRef)", max_irql=DISPATCH_LEVEL)
async def ExAcquireRundownProtection(RunRef: RundownProtection) -> bool:
    """Hold *RunRef* once more, and return whether that was possible: not once its run-down has begun (KE-RUNDOWN-01).

    It never waits. Whoever gets FALSE must neither use the object nor release (KE-RUNDOWN-03).
    IRQL: <= DISPATCH_LEVEL (KE-RUNDOWN-08).
    """
    return await acquire(RunRef, 1, False, "ExAcquireRundownProtection")


@routine(
    "wdm",
    "BOOLEAN ExAcquireRundownProtectionEx(_Inout_ PEX_RUNDOWN_REF RunRef, _In_ ULONG Count)",
    max_irql=DISPATCH_LEVEL,
)
async def ExAcquireRundownProtectionEx(RunRef: RundownProtection, Count: int) -> bool:
    """Hold *RunRef* *Count* times more (KE-RUNDOWN-10). IRQL: <= DISPATCH_LEVEL."""
    return await acquire(RunRef, Count, False, "ExAcquireRundownProtectionEx")


@routine("wdm", "VOID ExReleaseRundownProtection(_Inout_ PEX_RUNDOWN_REF RunRef)", max_irql=DISPATCH_LEVEL)
async def ExReleaseRundownProtection(RunRef: RundownProtection) -> None:
    """Undo one hold; any thread may. IRQL: <= DISPATCH_LEVEL.

    More releases than holds: ``ke.rundown-underflow``, or ``ke.rundown-ignored`` if a thread has released what it was
    refused (KE-RUNDOWN-03).
    """
    await release(RunRef, 1, False, "ExReleaseRundownProtection")


@routine(
    "wdm",
    "VOID ExReleaseRundownProtectionEx(_Inout_ PEX_RUNDOWN_REF RunRef, _In_ ULONG Count)",
    max_irql=DISPATCH_LEVEL,
)
async def ExReleaseRundownProtectionEx(RunRef: RundownProtection, Count: int) -> None:
    """Undo *Count* holds (KE-RUNDOWN-10). IRQL: <= DISPATCH_LEVEL."""
    await release(RunRef, Count, False, "ExReleaseRundownProtectionEx")


@routine(
    "wdm",
    "VOID ExWaitForRundownProtectionRelease(_Inout_ PEX_RUNDOWN_REF RunRef)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExWaitForRundownProtectionRelease(RunRef: RundownProtection) -> None:
    """From now on refuse acquisitions, and wait until nobody holds *RunRef* (KE-RUNDOWN-02).

    At once if nobody does, or if it is run down already. A caller that holds it itself, or owns a lock that a holder
    needs, waits for ever: ``ke.self-deadlock``, ``ke.deadlock`` (KE-RUNDOWN-04). A holder that can be suspended:
    warning ``ke.rundown-suspend`` (KE-RUNDOWN-07). IRQL: <= APC_LEVEL.
    """
    await wait(RunRef, False, "ExWaitForRundownProtectionRelease")


@routine("wdm", "VOID ExRundownCompleted(_Inout_ PEX_RUNDOWN_REF RunRef)", max_irql=APC_LEVEL)
async def ExRundownCompleted(RunRef: RundownProtection) -> None:
    """Note that *RunRef* is run down for good: acquisitions fail, waits return at once (KE-RUNDOWN-09).

    IRQL: <= APC_LEVEL.
    """
    check_kind(RunRef, False, "ExRundownCompleted")
    await CompleteRundown(RunRef)


@routine("wdm", "VOID ExReInitializeRundownProtection(_Inout_ PEX_RUNDOWN_REF RunRef)", max_irql=APC_LEVEL)
async def ExReInitializeRundownProtection(RunRef: RundownProtection) -> None:
    """Make *RunRef*, which is run down, live again (KE-RUNDOWN-09). IRQL: <= APC_LEVEL.

    One that is not: ``ke.rundown-reinit``.
    """
    check_kind(RunRef, False, "ExReInitializeRundownProtection")
    await ReviveRundown(RunRef, "ExReInitializeRundownProtection")


# The cache-aware forms.


class CacheAwareRundowns:
    """What ExAllocateCacheAwareRundownProtection has allocated in one run and nobody has freed, oldest first."""

    def __init__(self) -> None:
        self.allocated: dict[EX_RUNDOWN_REF_CACHE_AWARE, None] = {}

    def left_by(self, driver: DriverActor) -> list[Leftover]:
        """What *driver* has allocated and not freed."""
        return [Leftover("ke.pool-leak", one.label) for one in self.allocated if one.driver is driver]


@routine(
    "wdm",
    """PEX_RUNDOWN_REF_CACHE_AWARE ExAllocateCacheAwareRundownProtection(_In_ POOL_TYPE PoolType,
       _In_ ULONG PoolTag)""",
    max_irql=APC_LEVEL,
)
async def ExAllocateCacheAwareRundownProtection(PoolType: int, PoolTag: str) -> EX_RUNDOWN_REF_CACHE_AWARE | None:
    """Allocate run-down protection that is live, or None where low resources are explored. IRQL: <= APC_LEVEL.

    To be freed with ExFreeCacheAwareRundownProtection; left behind at unload: ``ke.pool-leak``.
    """
    if resources_fail(f"ExAllocateCacheAwareRundownProtection '{PoolTag}'"):
        return None
    made = EX_RUNDOWN_REF_CACHE_AWARE(f"run-down protection '{PoolTag}'")
    made.initialised = made.allocated = True
    made.driver = current_driver()
    current_system().get(CacheAwareRundowns).allocated[made] = None
    return made


@routine(
    "wdm",
    "VOID ExFreeCacheAwareRundownProtection(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware)",
    max_irql=DISPATCH_LEVEL,
)
async def ExFreeCacheAwareRundownProtection(RunRefCacheAware: EX_RUNDOWN_REF_CACHE_AWARE) -> None:
    """Free what ExAllocateCacheAwareRundownProtection has allocated. IRQL: <= DISPATCH_LEVEL.

    Something else: ``ke.pool-wrong-address``. Used afterwards, or freed twice: ``ke.use-after-free``.
    """
    if not RunRefCacheAware.allocated:
        report(
            "ke.pool-wrong-address",
            f"ExFreeCacheAwareRundownProtection of {RunRefCacheAware.label}, which the driver has made itself",
        )
    await FreeRundown(RunRefCacheAware)


class FreeRundown(Operation[None]):
    """Free cache-aware run-down protection; others may point to it."""

    __slots__ = ("rundown",)
    kind = "free"

    def __init__(self, rundown: EX_RUNDOWN_REF_CACHE_AWARE) -> None:
        self.rundown = rundown

    def perform(self, thread: Thread) -> None:
        rundown = self.rundown
        thread.write(rundown)
        system = current_system()
        if rundown in system.freed:
            report("ke.double-free", f"{thread.label} frees {rundown.label}, {system.freed[rundown]}")
        system.freed[rundown] = f"freed by {thread.label}"
        system.get(CacheAwareRundowns).allocated.pop(rundown, None)

    def target(self) -> Cell:
        return self.rundown


@routine("wdm", "SIZE_T ExSizeOfRundownProtectionCacheAware(VOID)", max_irql=APC_LEVEL)
def ExSizeOfRundownProtectionCacheAware() -> int:
    """How many bytes ExInitializeRundownProtectionCacheAware needs. IRQL: <= APC_LEVEL."""
    return CACHE_AWARE_SIZE


@routine(
    "wdm",
    """VOID ExInitializeRundownProtectionCacheAware(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware,
       _In_ SIZE_T RunRefSize)""",
    max_irql=APC_LEVEL,
)
def ExInitializeRundownProtectionCacheAware(RunRefCacheAware: RundownProtection, RunRefSize: int) -> None:
    """Make *RunRefCacheAware*, which is that large, live. IRQL: <= APC_LEVEL."""
    if not isinstance(RunRefCacheAware, EX_RUNDOWN_REF_CACHE_AWARE):
        check_kind(RunRefCacheAware, True, "ExInitializeRundownProtectionCacheAware")
    initialise(RunRefCacheAware, "ExInitializeRundownProtectionCacheAware")


@routine(
    "wdm",
    "BOOLEAN ExAcquireRundownProtectionCacheAware(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware)",
    max_irql=DISPATCH_LEVEL,
)
async def ExAcquireRundownProtectionCacheAware(RunRefCacheAware: RundownProtection) -> bool:
    """As ExAcquireRundownProtection. IRQL: <= DISPATCH_LEVEL. Of the other kind: ``ke.rundown-mix`` (KE-RUNDOWN-10)."""
    return await acquire(RunRefCacheAware, 1, True, "ExAcquireRundownProtectionCacheAware")


@routine(
    "wdm",
    """BOOLEAN ExAcquireRundownProtectionCacheAwareEx(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware,
       _In_ ULONG Count)""",
    max_irql=DISPATCH_LEVEL,
)
async def ExAcquireRundownProtectionCacheAwareEx(RunRefCacheAware: RundownProtection, Count: int) -> bool:
    """As ExAcquireRundownProtectionEx. IRQL: <= DISPATCH_LEVEL."""
    return await acquire(RunRefCacheAware, Count, True, "ExAcquireRundownProtectionCacheAwareEx")


@routine(
    "wdm",
    "VOID ExReleaseRundownProtectionCacheAware(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware)",
    max_irql=DISPATCH_LEVEL,
)
async def ExReleaseRundownProtectionCacheAware(RunRefCacheAware: RundownProtection) -> None:
    """As ExReleaseRundownProtection. IRQL: <= DISPATCH_LEVEL."""
    await release(RunRefCacheAware, 1, True, "ExReleaseRundownProtectionCacheAware")


@routine(
    "wdm",
    """VOID ExReleaseRundownProtectionCacheAwareEx(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware,
       _In_ ULONG Count)""",
    max_irql=DISPATCH_LEVEL,
)
async def ExReleaseRundownProtectionCacheAwareEx(RunRefCacheAware: RundownProtection, Count: int) -> None:
    """As ExReleaseRundownProtectionEx. IRQL: <= DISPATCH_LEVEL."""
    await release(RunRefCacheAware, Count, True, "ExReleaseRundownProtectionCacheAwareEx")


@routine(
    "wdm",
    "VOID ExWaitForRundownProtectionReleaseCacheAware(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRef)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExWaitForRundownProtectionReleaseCacheAware(RunRef: RundownProtection) -> None:
    """As ExWaitForRundownProtectionRelease. IRQL: <= APC_LEVEL."""
    await wait(RunRef, True, "ExWaitForRundownProtectionReleaseCacheAware")


@routine(
    "wdm",
    "VOID ExRundownCompletedCacheAware(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware)",
    max_irql=APC_LEVEL,
)
async def ExRundownCompletedCacheAware(RunRefCacheAware: RundownProtection) -> None:
    """As ExRundownCompleted. IRQL: <= APC_LEVEL."""
    check_kind(RunRefCacheAware, True, "ExRundownCompletedCacheAware")
    await CompleteRundown(RunRefCacheAware)


@routine(
    "wdm",
    "VOID ExReInitializeRundownProtectionCacheAware(_Inout_ PEX_RUNDOWN_REF_CACHE_AWARE RunRefCacheAware)",
    max_irql=APC_LEVEL,
)
async def ExReInitializeRundownProtectionCacheAware(RunRefCacheAware: RundownProtection) -> None:
    """As ExReInitializeRundownProtection. IRQL: <= APC_LEVEL."""
    check_kind(RunRefCacheAware, True, "ExReInitializeRundownProtectionCacheAware")
    await ReviveRundown(RunRefCacheAware, "ExReInitializeRundownProtectionCacheAware")
