"""What a script does to threads from outside: APCs, alerts, system calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from kemu.errors import ScenarioError
from kemu.nt.apc import KAPC, alert_thread, offer_apc, queue_apc, terminate_thread
from kemu.nt.context import system_call
from kemu.nt.dispatcher import NORMAL_KERNEL, SPECIAL_KERNEL, SPECIAL_USER, USER
from kemu.nt.kthread import KThread
from kemu.nt.mutex import KMUTEX, initialise_mutant
from kemu.nt.process import KernelMode
from kemu.nt.stall import Watchdog
from kemu.runtime import TICKS_PER_SECOND, Join

if TYPE_CHECKING:
    from kemu.nt.driver import DRIVER_OBJECT
    from kemu.nt.system import System

T = TypeVar("T")

KINDS: Final = {
    "special": SPECIAL_KERNEL,
    "normal": NORMAL_KERNEL,
    "user": USER,
    "special user": SPECIAL_USER,
}


class Started(Generic[T]):
    """A thread that a script has started."""

    def __init__(self, thread: KThread) -> None:
        self.thread = thread

    async def join(self) -> T:
        """Wait until it has ended; its coroutine's result."""
        return await Join(self.thread)


class Threads:
    """The part of a `World` that acts on threads."""

    system: System

    async def queue_apc(
        self,
        thread: Started[Any],
        routine: Callable[..., Awaitable[Any]],
        *arguments: Any,
        kind: str = "normal",
        driver: DRIVER_OBJECT | None = None,
    ) -> bool:
        """Queue an APC to *thread*, which was started with ``apcs=True``; whether it had not ended yet.

        *kind* is ``"special"`` or ``"normal"`` for a kernel APC, ``"user"`` or ``"special user"``. Give the *driver*
        whose routine it is, so that it runs as the driver's code.
        """
        return await queue_apc(_apc(thread, routine, arguments, kind, driver))

    def offer_apc(
        self,
        thread: Started[Any],
        routine: Callable[..., Awaitable[Any]],
        *arguments: Any,
        kind: str = "normal",
        driver: DRIVER_OBJECT | None = None,
    ) -> None:
        """Let an APC interrupt *thread* once, or never: at each place where it could come that is a choice (KE-APC-14).

        The thread was started with ``apcs=True``, and *kind* is ``"special"`` or ``"normal"``.
        """
        if kind not in {"special", "normal"}:
            raise ScenarioError(f"an APC of kind {kind!r} is offered", remedy='offer a "special" or a "normal" one')
        offer_apc(_apc(thread, routine, arguments, kind, driver))

    async def alert(self, thread: Started[Any], mode: int = KernelMode) -> None:
        """End the alertable wait of *thread*, or its next one, with STATUS_ALERTED: any, or with *mode* UserMode only
        one in UserMode (KE-WAIT-06).
        """
        await alert_thread(thread.thread, mode)

    async def terminate(self, thread: Started[Any]) -> None:
        """Ask *thread* to end: its waits in UserMode return STATUS_USER_APC (KE-WAIT-06). Ending is up to its code."""
        await terminate_thread(thread.thread)

    async def system_call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* as what the kernel does for a user program: the previous mode is UserMode, what must not be
        left when it returns is looked for, and user APCs that are due are delivered then.
        """
        return await system_call(getattr(coroutine, "__name__", "system call"), coroutine)

    def mutant(self, label: str = "mutant") -> KMUTEX:
        """A mutex as a user program creates one: it disables no APCs, and is abandoned by a thread that ends."""
        mutex = KMUTEX(label)
        initialise_mutant(mutex)
        return mutex

    def dpc_watchdog(self, *, one_dpc: float | None = None, cumulative: float | None = None) -> None:
        """Stop the system when one DPC, or a processor in all, spends more than so many seconds at DISPATCH_LEVEL or
        above (KE-IRQL-18). Only `KeStallExecutionProcessor` takes time there.
        """
        watchdog = self.system.get(Watchdog)
        watchdog.one_dpc = _ticks(one_dpc)
        watchdog.cumulative = _ticks(cumulative)


def _ticks(seconds: float | None) -> int | None:
    if seconds is not None and seconds <= 0:
        raise ScenarioError(f"a DPC watchdog of {seconds} seconds", remedy="give more than 0 seconds")
    return None if seconds is None else round(seconds * TICKS_PER_SECOND)


def _apc(
    thread: Started[Any],
    routine: Callable[..., Awaitable[Any]],
    arguments: tuple[Any, ...],
    kind: str,
    driver: DRIVER_OBJECT | None,
) -> KAPC:
    if kind not in KINDS:
        raise ScenarioError(f"an APC of kind {kind!r}", remedy=f"write one of {', '.join(map(repr, KINDS))}")
    actor = None if driver is None else driver.actor
    return KAPC(thread.thread, KINDS[kind], routine, arguments, driver=actor)
