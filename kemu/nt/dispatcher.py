"""Dispatcher objects: what a thread can wait for (KE-WAIT-01), and the waits for them.

A wait is one operation: that somebody has begun to wait shows nowhere, only that he goes on. What else than the objects
may end it - an alert, an APC, the thread's own termination - is a change of the waiting thread, so that a wait that
can be interrupted has the thread among its sources; any other wait does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kemu.nt.bugcheck import KERNEL_SECURITY_CHECK_FAILURE, BugCheck
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ABANDONED_WAIT_0,
    STATUS_ALERTED,
    STATUS_SUCCESS,
    STATUS_TIMEOUT,
    STATUS_USER_APC,
)
from kemu.nt.system import Leftover
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable

if TYPE_CHECKING:
    from kemu.nt.kthread import KThread

KERNEL_ALERT: Final = 1
"""In KThread.alerts: an alert for waits in KernelMode and UserMode."""
USER_ALERT: Final = 2
"""An alert for waits in UserMode only."""
TERMINATING: Final = 4
"""The thread was asked to end; waits in UserMode do not outlast that."""

# Kinds of APCs, as in KThread.pending.
SPECIAL_KERNEL: Final = 0
NORMAL_KERNEL: Final = 1
USER: Final = 2
SPECIAL_USER: Final = 3

# Which kernel APCs a thread takes at the moment.
TAKES_NONE: Final = 0
TAKES_SPECIAL: Final = 1
TAKES_ALL: Final = 2


class DispatcherObject(Waitable):
    """An object with a signal state.

    Subclasses name in `guards` what `is_signalled` looks at.
    """

    __slots__ = ()

    @property
    def is_initialised(self) -> bool:
        """Whether it may be waited for yet."""
        return True

    def is_signalled(self, thread: Thread) -> bool:
        """Whether a wait by *thread* would be satisfied now."""
        raise NotImplementedError

    def still_active(self) -> Leftover | None:
        """Who waits for it while its memory is freed (KE-EVENT-06)."""
        # A thread whose wait is satisfied is in no wait list any more.
        waiting = [
            thread.label
            for thread in self.watchers
            if isinstance(thread.op, BlockingOperation) and not thread.op.available(thread)
        ]
        if not waiting:
            return None
        stop = BugCheck(KERNEL_SECURITY_CHECK_FAILURE, (3,))
        who = " and ".join(waiting)
        return Leftover("ke.freed-active", f"{self.label}, which {who} {'wait' if waiting[1:] else 'waits'} for", stop)

    def satisfy(self, thread: Thread) -> NTSTATUS:
        """Satisfy a wait by *thread*, inside its step: the side effects (KE-WAIT-13), and what the wait returns.

        Records what it touches and what orders the thread behind whoever signalled the object.
        """
        raise NotImplementedError

    def state(self, thread: Thread) -> int:
        """What the routine that reads its state returns to *thread*."""
        return int(self.is_signalled(thread))


class WaitForObject(BlockingOperation[NTSTATUS]):
    """Wait until one dispatcher object is signalled."""

    __slots__ = ("object",)
    kind = "see the signal of"

    def __init__(self, waited: DispatcherObject, timeout: int | None = None) -> None:
        super().__init__(waited, timeout=timeout)
        self.object = waited

    def available(self, thread: Thread) -> bool:
        return self.object.is_signalled(thread)

    def take(self, thread: Thread) -> NTSTATUS:
        status = self.object.satisfy(thread)
        log = thread.runtime.log
        if log is not None:
            log("sync.wait", obj=self.object, status=status)
        return status

    def timed_out(self, thread: Thread) -> NTSTATUS:
        thread.read(self.object)
        log = thread.runtime.log
        if log is not None:
            log("sync.wait", obj=self.object, status=STATUS_TIMEOUT)
        return STATUS_TIMEOUT


class Interruptions:
    """What but its objects may end a wait of one thread: fixed as it begins, because only the thread could change
    it.
    """

    __slots__ = ("alertable", "ends", "thread", "user_mode")

    def __init__(self, thread: KThread, takes: int, *, user_mode: bool, alertable: bool) -> None:
        self.thread = thread
        self.user_mode = user_mode
        self.alertable = alertable
        self.ends = takes
        """Which kernel APCs the thread takes meanwhile."""

    def status(self) -> NTSTATUS | None:
        """What the wait returns if it is interrupted now, or None (KE-WAIT-06)."""
        thread = self.thread
        alerts = thread.alerts
        if self.alertable:
            if alerts & (KERNEL_ALERT | USER_ALERT if self.user_mode else KERNEL_ALERT):
                return STATUS_ALERTED
            # Where normal kernel APCs are held back, user APCs are as well (KE-APC-03, KE-DOC-09).
            if self.ends == TAKES_ALL and (USER in thread.pending or SPECIAL_USER in thread.pending):
                return STATUS_USER_APC
        if self.user_mode and alerts & TERMINATING and self.ends == TAKES_ALL:
            # Termination comes as a kernel APC: with those disabled it waits as they do (KE-APC-12).
            return STATUS_USER_APC
        return None

    def kernel_apc(self) -> bool:
        """Whether there is a kernel APC for the thread to run before it goes on waiting (KE-WAIT-15)."""
        if self.thread.apcs is None or self.ends == TAKES_NONE:
            return False
        pending = self.thread.pending
        return SPECIAL_KERNEL in pending or (self.ends == TAKES_ALL and NORMAL_KERNEL in pending)

    def take(self) -> NTSTATUS | None:
        """Interrupt the wait, inside the thread's step; None for a kernel APC."""
        thread = self.thread
        status = self.status()
        # For a kernel APC there is nothing to do here: taking it from the queue is a change of the thread.
        if status == STATUS_ALERTED:
            thread.write(thread)
            # The one of the wait's own mode first.
            mine = USER_ALERT if self.user_mode and thread.alerts & USER_ALERT else KERNEL_ALERT
            thread.alerts &= ~mine
        elif status is not None:
            thread.read(thread)
            if self.user_mode and thread.apcs is not None:
                thread.apcs.deliver_on_return = True
        return status


class WaitForObjects(BlockingOperation["NTSTATUS | None"]):
    """Wait until one of several objects is signalled, or all are, or the wait is interrupted.

    Evaluates to None if there is a kernel APC to run; the thread is to wait again after that.
    """

    __slots__ = ("all", "interruptions", "objects")
    kind = "see the signal of"

    def __init__(
        self,
        objects: Sequence[DispatcherObject],
        *,
        all_of_them: bool,
        timeout: int | None,
        interruptions: Interruptions | None,
    ) -> None:
        mine: tuple[Waitable, ...] = () if interruptions is None else (interruptions.thread,)
        super().__init__(*dict.fromkeys((*objects, *mine)), timeout=timeout)
        self.objects = tuple(objects)
        self.all = all_of_them
        self.interruptions = interruptions

    def satisfied_by(self, thread: Thread) -> int | None:
        """The index of the first object that satisfies the wait now (0 if all do together), or None."""
        if self.all:
            return 0 if all(one.is_signalled(thread) for one in self.objects) else None
        for index, one in enumerate(self.objects):
            if one.is_signalled(thread):
                return index
        return None

    def available(self, thread: Thread) -> bool:
        if self.satisfied_by(thread) is not None:
            return True
        interruptions = self.interruptions
        return interruptions is not None and (interruptions.status() is not None or interruptions.kernel_apc())

    def take(self, thread: Thread) -> NTSTATUS | None:
        # Which of them it is, and whether one that wakes the thread is still missing, each of them has a say in.
        for source in self.sources:
            thread.read(source)
        index = self.satisfied_by(thread)
        if index is not None:
            return self._satisfy(thread, index)
        assert self.interruptions is not None
        status = self.interruptions.take()
        if status is not None:
            self._log(thread, status)
        return status

    def _satisfy(self, thread: Thread, index: int) -> NTSTATUS:
        if self.all:
            abandoned = False
            for one in self.objects:
                abandoned |= one.satisfy(thread) != STATUS_SUCCESS
            status = STATUS_ABANDONED_WAIT_0 if abandoned else STATUS_SUCCESS
        else:
            status = NTSTATUS(self.objects[index].satisfy(thread) + index)
        self._log(thread, status)
        return status

    def timed_out(self, thread: Thread) -> NTSTATUS | None:
        for source in self.sources:
            thread.read(source)
        self._log(thread, STATUS_TIMEOUT)
        return STATUS_TIMEOUT

    def _log(self, thread: Thread, status: NTSTATUS) -> None:
        log = thread.runtime.log
        if log is not None:
            for one in self.objects:
                log("sync.wait", obj=one, status=status)

    def target(self) -> Cell | None:
        return self.objects[0] if self.objects else None

    def describe(self) -> str:
        between = " and " if self.all else " or "
        return f"{self.kind} {between.join(one.label for one in self.objects)}"

    def holders(self) -> tuple[Thread, ...]:
        each = [one.holders() for one in self.objects]
        if not self.all and not all(each):
            # Somebody whom nobody knows may signal one of the others.
            return ()
        return tuple(dict.fromkeys(holder for holders in each for holder in holders))


class Delay(WaitForObjects):
    """Wait for time to pass and for nothing else, unless the wait is interrupted."""

    __slots__ = ()
    kind = "go on after a delay"

    def __init__(self, timeout: int, interruptions: Interruptions | None) -> None:
        super().__init__((), all_of_them=False, timeout=timeout, interruptions=interruptions)

    def timed_out(self, thread: Thread) -> NTSTATUS | None:
        for source in self.sources:
            thread.read(source)
        return STATUS_SUCCESS

    def describe(self) -> str:
        return self.kind


class ReadState(Operation[int]):
    """Look at the state of an object without waiting for it."""

    __slots__ = ("object",)
    kind = "read the state of"

    def __init__(self, looked_at: DispatcherObject) -> None:
        self.object = looked_at

    def perform(self, thread: Thread) -> int:
        thread.read(self.object)
        return self.object.state(thread)

    def target(self) -> Cell:
        return self.object


def signalled(waited: DispatcherObject, thread: Thread) -> NTSTATUS:
    """What satisfying a wait for *waited* amounts to when that changes nothing of it."""
    thread.read(waited)
    thread.acquire(waited)
    return STATUS_SUCCESS
