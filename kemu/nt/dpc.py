"""Deferred procedure calls (KE-DPC).

Windows has a queue of DPCs for each processor and drains it at DISPATCH_LEVEL. kemu gives every thread a processor of
its own, so that a DPC that is queued from a thread may start at once on "another" processor, and any two DPCs may run
at the same time. What a driver can rely on is kept: a DPC whose routine queues another runs that on its own processor,
after itself; DPCs that were given one target processor run there one after the other; the object has left the queue
before its routine starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from kemu.nt.bugcheck import TIMER_OR_DPC_INVALID, BugCheck
from kemu.nt.callout import DPC_ROUTINE, TIMER_DPC_ROUTINE
from kemu.nt.deferred import Deferred, run_deferred
from kemu.nt.driver import DriverActor, current_driver, routine_name
from kemu.nt.kthread import DISPATCH_LEVEL, HIGH_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.process import Process
from kemu.nt.routine import routine
from kemu.nt.spinlock import KSPIN_LOCK
from kemu.nt.stall import dpc_begins
from kemu.nt.status import NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.nt.storage import Storage
from kemu.nt.system import Leftover, System, current_system, refuse, report
from kemu.runtime import BlockingOperation, Cell, Operation, Point, Thread, Waitable, current_thread

LowImportance: Final = 0
MediumImportance: Final = 1
HighImportance: Final = 2
MediumHighImportance: Final = 3

PROCESSORS: Final = 4
"""How many processors a driver may name as a target. Threads do not share them."""
ALL_PROCESSOR_GROUPS: Final = 0xFFFF

TIMER_DPC: Final = "timer DPC"

DpcRoutine = Callable[..., Awaitable[None]]


class KDPC(Cell, Storage):
    """Storage for a DPC; `KeInitializeDpc` or `KeInitializeThreadedDpc` makes one of it.

    `DeferredContext`, `SystemArgument1` and `SystemArgument2` are what the next run will be given: the last two change
    with every insertion.
    """

    __slots__ = (
        "DeferredContext",
        "DeferredRoutine",
        "_arguments",
        "driver",
        "importance",
        "initialised",
        "inserted",
        "queued",
        "runs",
        "target",
        "threaded",
        "timer",
    )

    storage_size = 64

    def __init__(self, label: str = "DPC") -> None:
        super().__init__(current_thread(), label)
        self.initialised = False
        self.DeferredRoutine: DpcRoutine | None = None
        self.DeferredContext: Any = None
        self.driver: DriverActor | None = None
        self.threaded = False
        self.importance = MediumImportance
        self.target: int | None = None
        self.queued: DpcRun | None = None
        """The run that is to come, until its routine starts."""
        self.runs: list[DpcRun] = []
        """All runs there were, and the one that is to come."""
        self.inserted = 0
        self.timer: Cell | None = None
        """The timer that the DPC was given to."""
        self._arguments: tuple[Any, Any] = (None, None)

    @property
    def SystemArgument1(self) -> Any:
        """The first argument of the last insertion."""
        return self._argument(0)

    @property
    def SystemArgument2(self) -> Any:
        """The second argument of the last insertion."""
        return self._argument(1)

    def _argument(self, number: int) -> Any:
        thread = current_kthread()
        thread.read(self)
        for run in self.runs:
            if run.carrier is thread and run.started and not run.ended and run.number != self.inserted:
                report(
                    "ke.dpc-context-race",
                    f"{thread.label} reads SystemArgument{number + 1} in {self.label}, which was queued again since",
                )
        return self._arguments[number]

    def busy(self, thread: Thread) -> list[DpcRun]:
        """The runs that another thread than *thread*, which looks, is still to begin or to end."""
        thread.read(self)
        for run in self.runs:
            thread.read(run)
            if run.ended:
                thread.acquire(run)
        return [run for run in self.runs if not run.ended and run.carrier is not thread]

    def still_active(self) -> Leftover | None:
        """What is wrong if the memory of the DPC is freed now (KE-DPC-08)."""
        current_thread().read(self)
        if self.queued is None:
            return None
        stop = BugCheck(TIMER_OR_DPC_INVALID, (1,))
        return Leftover("ke.dpc-freed", f"{self.label}, which is queued", verifier=stop)


class DpcRun(Waitable):
    """One insertion of a DPC, which can be waited for."""

    __slots__ = (
        "arguments",
        "by_timer",
        "carrier",
        "context",
        "dpc",
        "ended",
        "number",
        "processor",
        "removed",
        "routine",
        "started",
    )

    guards = ("ended",)

    def __init__(self, creator: Thread, dpc: KDPC, arguments: tuple[Any, ...], *, by_timer: bool) -> None:
        super().__init__(creator, f"the run of {dpc.label}")
        assert dpc.DeferredRoutine is not None
        self.dpc = dpc
        self.routine = dpc.DeferredRoutine
        self.arguments = arguments
        self.context = dpc.DeferredContext
        self.number = dpc.inserted
        self.by_timer = by_timer
        self.processor = dpc.target
        self.carrier: KThread | None = None
        self.started = False
        self.removed = False
        self.ended = False

    def holders(self) -> tuple[Thread, ...]:
        return () if self.carrier is None or self.ended else (self.carrier,)

    def end(self, thread: Thread) -> None:
        """Note that the run is over, or will not be."""
        thread.write(self)
        thread.release(self)
        self.ended = True
        self.changed()


class Dpcs(Cell):
    """All runs of DPCs. Insertions commute; whoever flushes the queues sees them all."""

    __slots__ = ("runs", "system_process")

    def __init__(self, system_process: Process) -> None:
        super().__init__(current_thread(), "the DPC queues")
        self.system_process = system_process
        self.runs: list[DpcRun] = []

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The DPCs of *driver* that are queued (KE-DPC-08)."""
        thread = current_thread()
        thread.read(self)
        # By name: which of two insertions came first is nobody's business, because they commute.
        for run in sorted(self.runs, key=lambda run: run.name):
            if run.dpc.driver is driver:
                thread.read(run)
                thread.read(run.dpc)
                if not run.started and not run.ended:
                    stop = BugCheck(TIMER_OR_DPC_INVALID, (2,))
                    yield Leftover("ke.dpc-left", f"{run.dpc.label} in a DPC queue", verifier=stop)


class TargetQueues(Waitable):
    """The queues of DPCs that were given a target processor."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        super().__init__(current_thread(), "the targeted DPC queues")
        self.waiting: list[DpcRun] = []
        self.busy: list[int] = []

    def next_of(self, target: int | None) -> DpcRun | None:
        """The next run for processor *target*, if that is free."""
        if target in self.busy:
            return None
        return next((run for run in self.waiting if run.processor == target), None)


class OwnProcessor:
    """The processor that a DPC's thread stands for: the runs that it has still to carry out, in order."""

    __slots__ = ("runs",)

    def __init__(self, first: DpcRun) -> None:
        self.runs = [first]


class TakeProcessor(BlockingOperation[None]):
    """Begin a DPC on the processor that it was given."""

    __slots__ = ("queues", "run")
    kind = "run a DPC from"
    opaque = True

    def __init__(self, queues: TargetQueues, run: DpcRun) -> None:
        super().__init__(queues)
        self.queues = queues
        self.run = run

    def available(self, thread: Thread) -> bool:
        return self.run.removed or self.queues.next_of(self.run.processor) is self.run

    def take(self, thread: Thread) -> None:
        queues, run = self.queues, self.run
        thread.write(queues)
        if not run.removed:
            assert run.processor is not None
            queues.waiting.remove(run)
            queues.busy.append(run.processor)
            queues.changed()


def insert_dpc(thread: Thread, dpc: KDPC, arguments: tuple[Any, ...], *, by_timer: bool = False) -> bool:
    """Queue *dpc* inside the step of *thread*, which may be the clock; False if it is queued (KE-DPC-02)."""
    thread.write(dpc)
    if dpc.queued is not None:
        return False
    dpc.inserted += 1
    run = dpc.queued = DpcRun(thread, dpc, arguments, by_timer=by_timer)
    dpc.runs.append(run)
    system: System = thread.runtime.system
    dpcs = system.get(Dpcs)
    thread.update(dpcs)
    dpcs.runs.append(run)
    log = thread.runtime.log
    if log is not None:
        log("dpc.queue", obj=dpc)
    front = dpc.importance == HighImportance
    own = thread.dpcs if isinstance(thread, KThread) else None
    if own is not None and run.processor is None:
        # The caller is a DPC itself, and keeps its processor until its routine has returned.
        run.carrier = cast("KThread", thread)
        own.insert(1 if front else len(own), run)
        return True
    queues = system.get(TargetQueues)
    number = f"#{dpc.inserted}" if dpc.inserted > 1 else ""
    carrier = thread.runtime.spawn(f"dpc:{routine_name(run.routine)}{number}", _carry(run, queues))
    assert isinstance(carrier, KThread)
    carrier.irql = DISPATCH_LEVEL
    carrier.process = dpcs.system_process
    carrier.dpcs = [run]
    run.carrier = carrier
    if run.processor is not None:
        thread.write(queues)
        queues.waiting.insert(0 if front else len(queues.waiting), run)
        queues.changed()
    return True


async def _carry(first: DpcRun, queues: TargetQueues) -> None:
    """What the thread of a DPC does: its routine, then those that were queued to its processor meanwhile."""
    thread = current_kthread()
    own = thread.dpcs
    assert own is not None
    if first.processor is not None:
        await TakeProcessor(queues, first)
    await _run(thread, first)
    own.pop(0)
    while own:
        await Point(f"run {own[0].dpc.label}", own[0].dpc)
        await _run(thread, own[0])
        own.pop(0)
    if first.processor is not None and not first.removed:
        thread.write(queues)
        queues.busy.remove(first.processor)
        queues.changed()


async def _run(thread: KThread, run: DpcRun) -> None:
    """Call the routine of one run, unless it was removed from the queue."""
    dpc = run.dpc
    thread.read(run)
    if run.removed:
        return
    # The object leaves the queue before its routine starts, so that it may be queued again meanwhile (KE-DPC-03).
    thread.write(dpc)
    dpc.queued = None
    run.started = True
    freed = current_system().freed.get(dpc)
    if freed is not None:
        report("ke.dpc-freed", f"{dpc.label} is to run, {freed}", BugCheck(TIMER_OR_DPC_INVALID, (1,)))
    log = thread.runtime.log
    if log is not None:
        log("dpc.run", obj=dpc)
    name = routine_name(run.routine)
    # Either level is possible whenever a threaded DPC runs (KE-DPC-09).
    raised = not dpc.threaded or thread.runtime.choose(2, f"{name} runs at DISPATCH_LEVEL") != 0
    thread.irql = DISPATCH_LEVEL if raised else PASSIVE_LEVEL
    deferred = Deferred(
        TIMER_DPC if run.by_timer else "DPC",
        dpc,
        run.context,
        "ke.timer-dpc-race" if run.by_timer else "ke.use-after-free",
    )
    # The watchdog counts each DPC by itself.
    thread.dpc_ticks = 0
    dpc_begins(thread)
    kind = TIMER_DPC_ROUTINE if run.by_timer else DPC_ROUTINE
    await run_deferred(dpc.driver, name, run.routine, run.arguments, deferred, kind)
    run.end(thread)


class InsertDpc(Operation[bool]):
    """Queue a DPC."""

    __slots__ = ("arguments", "dpc")
    kind = "queue"

    def __init__(self, dpc: KDPC, arguments: tuple[Any, Any]) -> None:
        self.dpc = dpc
        self.arguments = arguments

    def perform(self, thread: Thread) -> bool:
        dpc = self.dpc
        if dpc.timer is not None:
            report("ke.timer-dpc-shared", f"KeInsertQueueDpc of {dpc.label}, which belongs to {dpc.timer.label}")
        if not insert_dpc(thread, dpc, (dpc, dpc.DeferredContext, *self.arguments)):
            return False
        dpc._arguments = self.arguments  # pyright: ignore[reportPrivateUsage]
        return True

    def target(self) -> Cell:
        return self.dpc


class RemoveDpc(Operation[bool]):
    """Take a DPC off its queue; whether it was there."""

    __slots__ = ("dpc",)
    kind = "remove"

    def __init__(self, dpc: KDPC) -> None:
        self.dpc = dpc

    def perform(self, thread: Thread) -> bool:
        dpc = self.dpc
        thread.write(dpc)
        run = dpc.queued
        if run is None:
            return False
        dpc.queued = None
        run.removed = True
        run.end(thread)
        if run.processor is not None:
            queues = current_system().get(TargetQueues)
            thread.write(queues)
            queues.waiting.remove(run)
            queues.changed()
        return True

    def target(self) -> Cell:
        return self.dpc


class ListDpcs(Operation[list[DpcRun]]):
    """Find out which DPCs are queued or running."""

    __slots__ = ("dpcs",)
    kind = "flush"

    def __init__(self, dpcs: Dpcs) -> None:
        self.dpcs = dpcs

    def perform(self, thread: Thread) -> list[DpcRun]:
        thread.read(self.dpcs)
        left: list[DpcRun] = []
        for run in self.dpcs.runs:
            thread.read(run)
            if run.ended:
                thread.acquire(run)
            else:
                left.append(run)
        return left

    def target(self) -> Cell:
        return self.dpcs


class WaitForDpcs(BlockingOperation[None]):
    """Wait until runs of DPCs are over."""

    __slots__ = ("runs",)
    kind = "wait for"

    def __init__(self, runs: Iterable[DpcRun]) -> None:
        self.runs = tuple(runs)
        super().__init__(*self.runs)

    def available(self, thread: Thread) -> bool:
        return all(run.ended for run in self.runs)

    def take(self, thread: Thread) -> None:
        for run in self.runs:
            thread.read(run)
            thread.acquire(run)


async def flush_for(driver: DriverActor, name: str) -> None:
    """Let the DPCs that are queued run before the image of *driver*, called *name*, is freed (KE-TIMER-17).

    Findings: ``ke.dpc-left`` for those of the driver's own that are still queued (KE-DPC-08).
    """
    system = current_system()
    dpcs = system.get(Dpcs)
    current_thread().read(dpcs)
    if not dpcs.runs:
        return
    for left in dpcs.left_by(driver):
        system.report(left.code, f"{name} is unloaded and leaves {left.what} behind", verifier=left.verifier)
    runs = await ListDpcs(dpcs)
    if runs:
        await WaitForDpcs(runs)


def initialise_dpc(dpc: KDPC, routine_: DpcRoutine, context: Any, *, threaded: bool) -> None:
    """Make *dpc* one that will call *routine_*."""
    if dpc.queued is not None:
        report("ke.dpc-reinitialised", f"{dpc.label} was initialised again while it is queued")
    current_thread().write(dpc)
    dpc.DeferredRoutine = routine_
    dpc.DeferredContext = context
    dpc.driver = current_driver()
    dpc.threaded = threaded
    dpc.importance = MediumImportance
    dpc.target = None
    dpc.timer = None
    dpc.initialised = True


def checked_dpc(dpc: KDPC, where: str) -> KDPC:
    """Return *dpc* if it was initialised; finding ``ke.uninitialised`` otherwise."""
    if not dpc.initialised:
        report("ke.uninitialised", f"{where} on {dpc.label}, which KeInitializeDpc has not initialised")
    return dpc


@routine(
    "wdm",
    "VOID KeInitializeDpc(_Inout_ PRKDPC Dpc, _In_ PKDEFERRED_ROUTINE DeferredRoutine, _In_opt_ PVOID DeferredContext)",
)
def KeInitializeDpc(Dpc: KDPC, DeferredRoutine: DpcRoutine, DeferredContext: Any) -> None:
    """Make a DPC that calls ``DeferredRoutine(Dpc, DeferredContext, SystemArgument1, SystemArgument2)``.

    The routine runs at DISPATCH_LEVEL in an arbitrary thread: it may not wait, nor touch paged memory (KE-DPC-05).
    IRQL: any. Findings: ``ke.dpc-reinitialised`` while it is queued.
    """
    initialise_dpc(Dpc, DeferredRoutine, DeferredContext, threaded=False)


@routine(
    "wdm",
    """VOID KeInitializeThreadedDpc(_Inout_ PRKDPC Dpc, _In_ PKDEFERRED_ROUTINE DeferredRoutine,
       _In_opt_ PVOID DeferredContext)""",
)
def KeInitializeThreadedDpc(Dpc: KDPC, DeferredRoutine: DpcRoutine, DeferredContext: Any) -> None:
    """As KeInitializeDpc, for a DPC that runs at PASSIVE_LEVEL or at DISPATCH_LEVEL, which is a choice (KE-DPC-09).

    IRQL: any.
    """
    initialise_dpc(Dpc, DeferredRoutine, DeferredContext, threaded=True)


@routine(
    "wdm",
    """BOOLEAN KeInsertQueueDpc(_Inout_ PRKDPC Dpc, _In_opt_ PVOID SystemArgument1, _In_opt_ PVOID SystemArgument2)""",
)
async def KeInsertQueueDpc(Dpc: KDPC, SystemArgument1: Any, SystemArgument2: Any) -> bool:
    """Queue *Dpc*; False, and the arguments are lost, if it is queued already (KE-DPC-02).

    Its routine may run, and end, before this returns. IRQL: any. Findings: ``ke.uninitialised``,
    ``ke.timer-dpc-shared`` for one that a timer queues.
    """
    checked_dpc(Dpc, "KeInsertQueueDpc")
    if not await InsertDpc(Dpc, (SystemArgument1, SystemArgument2)):
        return False
    await Point(f"return from queueing {Dpc.label}", Dpc)
    return True


@routine("wdm", "BOOLEAN KeRemoveQueueDpc(_Inout_ PRKDPC Dpc)")
async def KeRemoveQueueDpc(Dpc: KDPC) -> bool:
    """Take *Dpc* off its queue (KE-DPC-06).

    True if its routine will not run for that insertion; False if it was not queued: it never was, or it is running, or
    has run. IRQL: any.
    """
    return await RemoveDpc(checked_dpc(Dpc, "KeRemoveQueueDpc"))


def flush_ceiling() -> int:
    """= PASSIVE_LEVEL"""
    # A caller that the routine itself turns away gets its words, which say more.
    return HIGH_LEVEL if forbidden_flush() else PASSIVE_LEVEL


def forbidden_flush() -> str | None:
    """Why the calling thread may not wait for DPCs, apart from its IRQL."""
    thread = current_kthread()
    if thread.in_dpc:
        return "is a DPC itself"
    for lock in thread.locks:
        if isinstance(lock, KSPIN_LOCK):
            return f"holds {lock.label}, which a DPC may spin for"
    return None


@routine("wdm", "VOID KeFlushQueuedDpcs(VOID)", max_irql=flush_ceiling)
async def KeFlushQueuedDpcs() -> None:
    """Wait until all DPCs that are queued or running now have run, on every processor (KE-DPC-07).

    Nothing is said of those that are queued later. IRQL: PASSIVE_LEVEL. Findings: ``ke.flush-dpc`` in a DPC and under a
    spin lock.
    """
    why = forbidden_flush()
    if why is not None:
        report("ke.flush-dpc", f"KeFlushQueuedDpcs: {current_kthread().label} {why}")
        return
    runs = await ListDpcs(current_system().get(Dpcs))
    if runs:
        await WaitForDpcs(runs)


@routine("wdm", "VOID KeSetImportanceDpc(_Inout_ PRKDPC Dpc, _In_ KDPC_IMPORTANCE Importance)")
def KeSetImportanceDpc(Dpc: KDPC, Importance: int) -> None:
    """Have *Dpc* queued at the front (HighImportance) or at the end, from the next time on (KE-DPC-01). IRQL: any."""
    current_thread().write(checked_dpc(Dpc, "KeSetImportanceDpc"))
    if Importance not in {LowImportance, MediumImportance, MediumHighImportance, HighImportance}:
        refuse(f"KeSetImportanceDpc with importance {Importance!r}", remedy="use HighImportance, or another one's name")
    Dpc.importance = Importance


@routine("ntddk", "VOID KeSetTargetProcessorDpc(_Inout_ PRKDPC Dpc, _In_ CCHAR Number)")
def KeSetTargetProcessorDpc(Dpc: KDPC, Number: int) -> None:
    """Have *Dpc* run on processor *Number* from the next time it is queued (KE-DPC-01). IRQL: any.

    DPCs of one target run one after the other, in order. Findings: ``ke.dpc-processor``, bug check 0xC7.
    """
    current_thread().write(checked_dpc(Dpc, "KeSetTargetProcessorDpc"))
    if not 0 <= Number < PROCESSORS:
        report("ke.dpc-processor", f"KeSetTargetProcessorDpc of {Dpc.label} to {Number}: there are {PROCESSORS}")
    Dpc.target = Number


@dataclass(slots=True)
class PROCESSOR_NUMBER:
    """A processor, by its group and its number in that."""

    Group: int = 0
    Number: int = 0
    Reserved: int = 0


@routine("wdm", "NTSTATUS KeSetTargetProcessorDpcEx(_Inout_ PKDPC Dpc, _In_ PPROCESSOR_NUMBER ProcNumber)")
def KeSetTargetProcessorDpcEx(Dpc: KDPC, ProcNumber: PROCESSOR_NUMBER) -> NTSTATUS:
    """As KeSetTargetProcessorDpc; STATUS_INVALID_PARAMETER if there is no such processor. IRQL: any."""
    current_thread().write(checked_dpc(Dpc, "KeSetTargetProcessorDpcEx"))
    if ProcNumber.Group != 0 or ProcNumber.Reserved != 0 or not 0 <= ProcNumber.Number < PROCESSORS:
        return STATUS_INVALID_PARAMETER
    Dpc.target = ProcNumber.Number
    return STATUS_SUCCESS


@routine("wdm", "ULONG KeQueryActiveProcessorCountEx(_In_ USHORT GroupNumber)")
def KeQueryActiveProcessorCountEx(GroupNumber: int) -> int:
    """How many processors there are to be named as targets; 0 for a group that does not exist. IRQL: any."""
    return PROCESSORS if GroupNumber in {0, ALL_PROCESSOR_GROUPS} else 0
