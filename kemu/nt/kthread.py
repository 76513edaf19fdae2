"""Kernel threads: what Windows keeps for a thread beyond being scheduled.

IRQL belongs to a processor in Windows (KE-IRQL-02). kemu gives every thread a processor of its own, so that any
two threads may run at the same time whatever their IRQL, and the level travels with the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from kemu.nt.dispatcher import DispatcherObject
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.runtime import Operation, Runtime, Thread, current_thread

if TYPE_CHECKING:
    from kemu.nt.apc import ApcQueue
    from kemu.nt.deferred import Deferred
    from kemu.nt.dpc import DpcRun
    from kemu.nt.driver import Driver
    from kemu.nt.process import Process

PASSIVE_LEVEL: Final = 0
APC_LEVEL: Final = 1
DISPATCH_LEVEL: Final = 2
CLOCK_LEVEL: Final = 13
IPI_LEVEL: Final = 14
HIGH_LEVEL: Final = 15

NORMAL_PRIORITY: Final = 8
"""The priority that a thread starts with."""

IRQL_NAMES: Final = {
    PASSIVE_LEVEL: "PASSIVE_LEVEL",
    APC_LEVEL: "APC_LEVEL",
    DISPATCH_LEVEL: "DISPATCH_LEVEL",
    CLOCK_LEVEL: "CLOCK_LEVEL",
    IPI_LEVEL: "IPI_LEVEL",
    HIGH_LEVEL: "HIGH_LEVEL",
}


def irql_name(irql: int) -> str:
    """``DISPATCH_LEVEL`` for 2, and so on; a device level prints as its number."""
    return IRQL_NAMES.get(irql, f"IRQL {irql}")


class HeldLock(Protocol):
    """A lock as the thread that holds it remembers it."""

    @property
    def label(self) -> str: ...

    @property
    def spins(self) -> bool:
        """Whether its waiters spin, so that its holder must not wait, nor be interrupted."""
        ...


class OwnerAware:
    """A lock that has to know when the thread that holds it ends."""

    __slots__ = ()

    def owner_ends(self, thread: KThread) -> None:
        """*thread*, which holds it, takes its last step."""
        raise NotImplementedError


class KThread(Thread, DispatcherObject):
    """A kernel thread; as a dispatcher object it is signalled when it has ended.

    `locks` holds what the thread has acquired and not released, in order, and `inside` the callbacks that it is in, of
    those whose order with locks is watched. `kernel_apc_disable` counts critical regions and owned mutexes,
    `special_apc_disable` guarded regions; they grow where Windows' counters go down (KE-APC-04).

    What others do to the thread - queue an APC, alert it, ask it to end - changes `pending` and `alerts`, and is
    recorded as a change of the thread itself. Everything else belongs to the thread, and only its own code looks at it.
    """

    __slots__ = (
        "alerts",
        "announced",
        "apcs",
        "arbitrary",
        "attached",
        "deferred",
        "dpc_ticks",
        "dpcs",
        "exits",
        "in_dpc",
        "inside",
        "irql",
        "issued",
        "kernel_apc_disable",
        "locks",
        "pending",
        "previous_mode",
        "priority",
        "process",
        "raised",
        "special_apc_disable",
        "stalled",
        "told_of_user_apc",
        "top_level_irp",
        "unloading",
    )

    guards = ("alive", "alerts", "pending")

    def __init__(
        self,
        runtime: Runtime,
        parent: Thread | None,
        label: str,
        coroutine: Coroutine[Operation[Any], Any, Any],
    ) -> None:
        super().__init__(runtime, parent, label, coroutine)
        self.irql = PASSIVE_LEVEL
        self.kernel_apc_disable = 0
        self.special_apc_disable = 0
        self.locks: list[HeldLock] = []
        self.inside: tuple[HeldLock, ...] = ()
        self.process: Process | None = None
        self.top_level_irp: object = None
        self.issued = False
        """Whether it has issued requests that it did not wait for."""
        self.exits = False
        """Whether it is a program's or a driver's thread, whose end cancels them (KE-CANCEL-10)."""
        self.unloading: Driver | None = None
        """The driver whose unload the thread carries out."""
        self.deferred: Deferred | None = None
        """The DPC or work item whose routine the thread runs."""
        self.dpcs: list[DpcRun] | None = None
        """If the thread is there to run DPCs, those that its processor has still to run; the first is running."""
        self.in_dpc = False
        """Whether the thread carries out a DPC, and so may not wait whatever its IRQL (KE-DPC-05)."""
        self.priority = NORMAL_PRIORITY
        self.apcs: ApcQueue | None = None
        """The thread's APCs; None for a thread that none is ever queued to."""
        self.pending: tuple[int, ...] = ()
        """The kinds of the APCs in the queue, oldest first."""
        self.alerts = 0
        """Alerts that no wait has taken yet, and whether the thread was asked to end (``kemu.nt.dispatcher``)."""
        self.announced: tuple[str, int] | None = None
        """Which routine was called with Wait = TRUE, and the IRQL before, until the wait that it announces."""
        self.raised: tuple[tuple[int, int], ...] = ()
        """The raises of the IRQL that are not undone: from which level, to which level, innermost last."""
        self.previous_mode = 0
        """KernelMode, or UserMode while the thread carries out a system call of a user program."""
        self.attached: tuple[object, ...] = ()
        """The states of KeStackAttachProcess that are not undone, innermost last."""
        self.arbitrary = False
        """Whether the thread happens to be current in a routine that runs in an arbitrary context (KE-CTX-01)."""
        self.dpc_ticks = 0
        """How long the current DPC has stalled its processor."""
        self.stalled = 0
        """How long the thread has stalled its processor at DISPATCH_LEVEL or above."""
        self.told_of_user_apc = False
        """Whether a wait has ended with STATUS_USER_APC since the thread was in user mode last."""

    def is_signalled(self, thread: Thread) -> bool:
        return not self.alive

    def satisfy(self, thread: Thread) -> NTSTATUS:
        thread.read(self)
        races = thread.runtime.races
        if races is not None:
            races.join(thread, self)
        return STATUS_SUCCESS

    def epilogue(self, result: Any) -> Coroutine[Operation[Any], Any, Any] | None:
        if not (self.issued and self.exits):
            return None
        self.issued = False
        return self._exit(result)

    async def _exit(self, result: Any) -> Any:
        thread_ends = self.runtime.system.thread_ends
        if thread_ends is not None:
            await thread_ends(self)
        return result

    def finish(self) -> None:
        if self.locks:
            for lock in tuple(self.locks):
                if isinstance(lock, OwnerAware):
                    lock.owner_ends(self)
        if self.apcs is not None:
            self.apcs.thread_ends()

    @property
    def combined_apc_disable(self) -> int:
        """CombinedApcDisable as Windows has it: two counters of 16 bits, which go down (KE-APC-04)."""
        return (-self.special_apc_disable & 0xFFFF) << 16 | (-self.kernel_apc_disable & 0xFFFF)


# Every routine asks: the same function under another name, and not a call more.
current_kthread = cast("Callable[[], KThread]", current_thread)
"""The running kernel thread."""
