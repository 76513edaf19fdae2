"""Kernel threads: what Windows keeps for a thread beyond being scheduled.

IRQL belongs to a processor in Windows (KE-IRQL-02). kemu gives every thread a processor of its own, so that any
two threads may run at the same time whatever their IRQL, and the level travels with the thread.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from kemu.nt.dispatcher import DispatcherObject
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS
from kemu.runtime import Operation, Runtime, Thread, current_thread

if TYPE_CHECKING:
    from kemu.nt.deferred import Deferred
    from kemu.nt.dpc import DpcRun
    from kemu.nt.process import Process

PASSIVE_LEVEL: Final = 0
APC_LEVEL: Final = 1
DISPATCH_LEVEL: Final = 2
HIGH_LEVEL: Final = 15

NORMAL_PRIORITY: Final = 8
"""The priority that a thread starts with."""

IRQL_NAMES: Final = {
    PASSIVE_LEVEL: "PASSIVE_LEVEL",
    APC_LEVEL: "APC_LEVEL",
    DISPATCH_LEVEL: "DISPATCH_LEVEL",
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


class KThread(Thread, DispatcherObject):
    """A kernel thread; as a dispatcher object it is signalled when it has ended.

    `locks` holds what the thread has acquired and not released, in order, and `inside` the callbacks that it is in, of
    those whose order with locks is watched. `kernel_apc_disable` counts critical regions and owned mutexes,
    `special_apc_disable` guarded regions; they grow where Windows' counters go down (KE-APC-04).
    """

    __slots__ = (
        "deferred",
        "dpcs",
        "in_dpc",
        "inside",
        "irql",
        "kernel_apc_disable",
        "locks",
        "priority",
        "process",
        "special_apc_disable",
        "top_level_irp",
    )

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
        self.deferred: Deferred | None = None
        """The DPC or work item whose routine the thread runs."""
        self.dpcs: list[DpcRun] | None = None
        """If the thread is there to run DPCs, those that its processor has still to run; the first is running."""
        self.in_dpc = False
        """Whether the thread carries out a DPC, and so may not wait whatever its IRQL (KE-DPC-05)."""
        self.priority = NORMAL_PRIORITY

    def is_signalled(self, thread: Thread) -> bool:
        return not self.alive

    def satisfy(self, thread: Thread) -> NTSTATUS:
        thread.read(self)
        races = thread.runtime.races
        if races is not None:
            races.join(thread, self)
        return STATUS_SUCCESS


def current_kthread() -> KThread:
    """The running kernel thread."""
    return cast("KThread", current_thread())
