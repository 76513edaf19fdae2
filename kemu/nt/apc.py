"""Asynchronous procedure calls (KE-APC): code that Windows makes a thread run in between.

Only a thread that has an `ApcQueue` takes APCs; of all others no step looks at a queue. Where kernel APCs are delivered
(KE-APC-02) is kemu's choice: before each WDK routine that is awaited, when a wait begins, while it lasts, and when it
is over - each time if the IRQL and the regions that the thread is in allow it. Anything that happens to a thread can
come before one of its steps, so an APC that is queued in time is delivered at any of these places, under some schedule.
Leaving a region or lowering the IRQL delivers nothing by itself: what was held back comes at the next of the places.

User APCs are delivered when a system call returns (`kemu.nt.context`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from kemu.errors import UsageError
from kemu.nt.bugcheck import KERNEL_APC_PENDING_DURING_EXIT, BugCheck
from kemu.nt.callout import APC_ROUTINE
from kemu.nt.dispatcher import (
    KERNEL_ALERT,
    NORMAL_KERNEL,
    SPECIAL_KERNEL,
    SPECIAL_USER,
    TAKES_ALL,
    TAKES_NONE,
    TAKES_SPECIAL,
    TERMINATING,
    USER,
    USER_ALERT,
)
from kemu.nt.driver import DriverActor, in_driver, left_dirty
from kemu.nt.kthread import APC_LEVEL, KThread, current_kthread
from kemu.nt.system import report
from kemu.runtime import Cell, Operation, Thread, current_thread

T = TypeVar("T")

KIND_NAMES: Final = {
    SPECIAL_KERNEL: "special kernel APC",
    NORMAL_KERNEL: "normal kernel APC",
    USER: "user APC",
    SPECIAL_USER: "special user APC",
}


class KAPC(Cell):
    """An APC: *routine*, to be run by *target*."""

    __slots__ = ("arguments", "completes_io", "driver", "kind", "queued", "releases_pages", "routine", "target")

    def __init__(
        self,
        target: KThread,
        kind: int,
        routine: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...] = (),
        *,
        label: str = "",
        driver: DriverActor | None = None,
        completes_io: bool = False,
    ) -> None:
        super().__init__(current_thread(), label or getattr(routine, "__name__", "APC"))
        self.target = target
        self.kind = kind
        self.routine = routine
        self.arguments = arguments
        self.driver = driver
        """The driver whose routine it is, or None for one of kemu's or of a script's."""
        self.completes_io = completes_io
        self.releases_pages = False
        """Whether it is the release after a mapped write (FLT-FAST-10)."""
        self.queued = False

    def describe(self) -> str:
        """Words for a finding."""
        return f"{KIND_NAMES[self.kind]} {self.label}"


def takes(thread: KThread) -> int:
    """Which kernel APCs *thread* takes now, by its IRQL and the regions that it is in (KE-APC-03)."""
    if thread.irql >= APC_LEVEL or thread.special_apc_disable or thread.attached:
        # A thread that is attached to another process keeps the APCs of its own for later (KE-CTX-06).
        return TAKES_NONE
    if thread.kernel_apc_disable or (thread.apcs is not None and thread.apcs.in_normal):
        return TAKES_SPECIAL
    return TAKES_ALL


class ApcQueue:
    """The APCs of one thread. The queue is state of the thread: whoever changes it has changed the thread."""

    __slots__ = ("deliver_on_return", "items", "offers", "running", "thread")

    def __init__(self, thread: KThread) -> None:
        self.thread = thread
        self.items: list[KAPC] = []
        self.offers: list[KAPC] = []
        """APCs that come at some place, or not at all: at each it is a choice."""
        self.running: list[tuple[KAPC, int]] = []
        """The APCs that the thread is in, innermost last, with the number of locks that it held when each began."""
        self.deliver_on_return = False
        """Whether an alertable wait in UserMode was interrupted, so that user APCs are due."""

    @property
    def in_normal(self) -> bool:
        """Whether the thread carries out a normal kernel APC; another one does not interrupt that."""
        return any(apc.kind == NORMAL_KERNEL for apc, _ in self.running)

    def insert(self, apc: KAPC) -> None:
        """Queue *apc*."""
        apc.queued = True
        self.items.append(apc)
        self._note()

    def _note(self) -> None:
        self.thread.pending = tuple([apc.kind for apc in self.items])
        self.thread.changed()

    def _remove(self, kinds: tuple[int, ...]) -> KAPC | None:
        """Take the oldest APC of the first of *kinds* that there is one of."""
        for kind in kinds:
            for apc in self.items:
                if apc.kind == kind:
                    self.thread.write(self.thread)
                    self.items.remove(apc)
                    apc.queued = False
                    self._note()
                    return apc
        return None

    async def deliver(self) -> None:
        """Run the kernel APCs that the thread takes now: special ones first."""
        thread = self.thread
        while True:
            level = takes(thread)
            if level == TAKES_NONE:
                return
            # Also that there is none has decided how the thread goes on.
            thread.read(thread)
            apc = self._remove((SPECIAL_KERNEL, NORMAL_KERNEL) if level == TAKES_ALL else (SPECIAL_KERNEL,))
            if apc is None:
                apc = self._offered(level)
                if apc is None:
                    return
            await self.run(apc)

    def _offered(self, level: int) -> KAPC | None:
        for apc in self.offers:
            possible = apc.kind == SPECIAL_KERNEL or level == TAKES_ALL
            if possible and self.thread.runtime.choose(2, f"{apc.describe()} interrupts {self.thread.label}"):
                self.offers.remove(apc)
                return apc
        return None

    async def run(self, apc: KAPC) -> None:
        """Carry *apc* out, at the level of its kind."""
        thread = self.thread
        irql, locks, disabled = thread.irql, len(thread.locks), thread.combined_apc_disable
        arbitrary, thread.arbitrary = thread.arbitrary, True
        thread.acquire(apc)
        if apc.kind == SPECIAL_KERNEL:
            thread.irql = APC_LEVEL
        inside = thread.irql
        self.running.append((apc, locks))
        log = thread.runtime.log
        if log is not None:
            log("apc.enter", obj=apc, kind=KIND_NAMES[apc.kind])
        if apc.driver is not None:
            await in_driver(apc.driver, apc.label, apc.routine, *apc.arguments, kind=APC_ROUTINE)
        else:
            await apc.routine(*apc.arguments)
            if thread.irql != inside or len(thread.locks) != locks or thread.combined_apc_disable != disabled:
                left_dirty(apc.describe(), inside, locks, disabled, APC_ROUTINE)
        if log is not None:
            log("apc.return", obj=apc)
        self.running.pop()
        thread.irql = irql
        thread.arbitrary = arbitrary

    async def return_to_user_mode(self) -> None:
        """Run what is due when the thread goes back to user mode: kernel APCs, then user APCs (KE-APC-01)."""
        await self.deliver()
        while True:
            self.thread.read(self.thread)
            apc = self._remove((SPECIAL_USER, USER) if self.deliver_on_return else (SPECIAL_USER,))
            if apc is None:
                break
            await self.run(apc)
        self.deliver_on_return = False

    async def run_offered(self, apc: KAPC) -> None:
        """Carry *apc*, which was offered, out now if it has not come yet. It is the thread itself that calls this."""
        if apc in self.offers:
            self.thread.write(self.thread)
            self.offers.remove(apc)
            await self.run(apc)

    def thread_ends(self) -> None:
        """The thread takes its last step (KE-APC-09)."""
        thread = self.thread
        thread.read(thread)
        held_back = [apc for apc in self.items if apc.kind in {SPECIAL_KERNEL, NORMAL_KERNEL}]
        if held_back and takes(thread) != TAKES_ALL:
            report(
                "ke.apc-pending-exit",
                f"{thread.label} ends with {held_back[0].describe()} in its queue, which it does not let in",
                BugCheck(KERNEL_APC_PENDING_DURING_EXIT, (0, thread.combined_apc_disable, thread.irql)),
            )


class LastApcs(Coroutine[Any, Any, T]):
    """Runs a thread's coroutine, and then the APCs that are still in the queue.

    Not a coroutine that awaits the other: if the run is over before the thread has begun, nobody would ever await that.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._current: Coroutine[Any, Any, Any] = coroutine
        self._result: T | None = None
        self._is_over = False

    # Where the thread stands, as whoever looks for the user's line asks a coroutine.

    @property
    def cr_frame(self) -> Any:
        return self._current.cr_frame  # type: ignore[attr-defined]

    @property
    def cr_await(self) -> Any:
        return self._current.cr_await  # type: ignore[attr-defined]

    def send(self, value: Any, /) -> Any:
        try:
            return self._current.send(value)
        except StopIteration as stop:
            return self._go_on(stop)

    def throw(self, *error: Any) -> Any:
        try:
            return self._current.throw(*error)
        except StopIteration as stop:
            return self._go_on(stop)

    def _go_on(self, stop: StopIteration) -> Any:
        if self._is_over:
            raise StopIteration(self._result)
        self._result = stop.value
        self._is_over = True
        apcs = current_kthread().apcs
        assert apcs is not None
        self._current = apcs.deliver()
        return self.send(None)

    def close(self) -> None:
        self._current.close()

    def __await__(self) -> Any:
        return self


def takes_apcs(thread: KThread) -> None:
    """Give *thread*, which has not run yet, a queue: from now on APCs may be queued to it."""
    if thread.steps:
        raise UsageError(
            f"{thread.label} is to take APCs, but it runs already",
            remedy="say so when it is started: world.start(name, coroutine, apcs=True)",
        )
    thread.apcs = ApcQueue(thread)


def queue_of(thread: KThread) -> ApcQueue:
    """The APC queue of *thread*."""
    if thread.apcs is None:
        raise UsageError(
            f"an APC for {thread.label}, which takes none",
            remedy="start the thread with world.start(name, coroutine, apcs=True)",
        )
    return thread.apcs


class InsertApc(Operation[bool]):
    """Queue an APC to its thread; evaluates to whether that was possible."""

    __slots__ = ("apc",)
    kind = "queue"

    def __init__(self, apc: KAPC) -> None:
        self.apc = apc

    def perform(self, thread: Thread) -> bool:
        apc = self.apc
        target = apc.target
        thread.write(target)
        if not target.alive or apc.queued:
            return False
        log = thread.runtime.log
        if log is not None:
            log("apc.insert", obj=apc, kind=KIND_NAMES[apc.kind], to=target.label)
        thread.release(apc)
        queue_of(target).insert(apc)
        return True

    def target(self) -> Cell:
        return self.apc.target

    def describe(self) -> str:
        return f"queue {self.apc.describe()} to {self.apc.target.label}"


async def queue_apc(apc: KAPC) -> bool:
    """Queue *apc*: False if it is queued already or its thread has ended. IRQL: <= DISPATCH_LEVEL."""
    queue_of(apc.target)
    return await InsertApc(apc)


def offer_apc(apc: KAPC) -> None:
    """Let *apc* come at any place where its thread takes it, or not at all: a choice at each (KE-APC-14)."""
    current_thread().write(apc.target)
    queue_of(apc.target).offers.append(apc)


class AlertThread(Operation[None]):
    """Alert a thread, or ask it to end: changes *bits* of its alerts."""

    __slots__ = ("bits", "thread")
    kind = "alert"

    def __init__(self, thread: KThread, bits: int) -> None:
        self.thread = thread
        self.bits = bits

    def perform(self, thread: Thread) -> None:
        thread.write(self.thread)
        self.thread.alerts |= self.bits
        self.thread.changed()

    def target(self) -> Cell:
        return self.thread


async def alert_thread(thread: KThread, mode: int) -> None:
    """End the alertable wait of *thread*, or its next one: any if *mode* is KernelMode, else only one in UserMode."""
    await AlertThread(thread, USER_ALERT if mode else KERNEL_ALERT)


async def terminate_thread(thread: KThread) -> None:
    """Ask *thread* to end: from now on its waits in UserMode return STATUS_USER_APC at once (KE-WAIT-06).

    What the thread does about it is up to its code; kemu does not end it.
    """
    await AlertThread(thread, TERMINATING)


async def complete_to_thread(target: KThread, finish: Callable[[], None], what: str) -> None:
    """Complete I/O towards the thread that has issued it (KE-APC-13): for the I/O manager.

    *finish*, which writes the status block and sets events, runs in *target* as a special kernel APC, so that it waits
    as long as that thread takes none. A *target* that takes no APCs at all does not run it: it runs here and now.
    """
    if target.apcs is None:
        await AlertThread(target, 0)
        finish()
        return

    async def completion() -> None:
        finish()

    await InsertApc(KAPC(target, SPECIAL_KERNEL, completion, label=f"completion of {what}", completes_io=True))


def check_completion_wait(what: str) -> None:
    """Finding ``ke.apc-io-deadlock`` for a thread that is about to wait for *what*, whose completion it cannot take.

    For whoever waits for I/O of a thread without an APC queue; where there is one, the completion is simply not
    delivered.
    """
    thread = current_kthread()
    if takes(thread) == TAKES_NONE:
        report_io_deadlock(thread, what)


def report_io_deadlock(thread: KThread, what: str) -> None:
    """Report that *thread* waits for *what* in vain."""
    report("ke.apc-io-deadlock", f"{thread.label} waits for {what}, which is completed by {why_not(thread)}")


def why_not(thread: KThread) -> str:
    """Why *thread* takes no special kernel APC, in words."""
    if thread.irql >= APC_LEVEL:
        why = f"is at IRQL {thread.irql}"
    elif thread.special_apc_disable:
        why = "is in a guarded region"
    else:
        why = "is attached to another process"
    return f"a special kernel APC to {thread.label}, which {why}"


def reenters(thread: KThread, lock: object) -> KAPC | None:
    """The APC that *thread* is in and before which it had acquired *lock* (KE-APC-14)."""
    if thread.apcs is not None and lock in thread.locks:
        for apc, locks in thread.apcs.running:
            if thread.locks.index(lock) < locks:  # type: ignore[arg-type]
                return apc
    return None
