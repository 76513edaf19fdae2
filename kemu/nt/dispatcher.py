"""Dispatcher objects: what a thread can wait for (KE-WAIT-01), and the wait for one of them."""

from __future__ import annotations

from kemu.nt.bugcheck import KERNEL_SECURITY_CHECK_FAILURE, BugCheck
from kemu.nt.status import NTSTATUS, STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.nt.system import Leftover
from kemu.runtime import BlockingOperation, Thread, Waitable


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
        waiting = [thread.label for thread in self.watchers if isinstance(thread.op, BlockingOperation)]
        if not waiting:
            return None
        stop = BugCheck(KERNEL_SECURITY_CHECK_FAILURE, (3,))
        return Leftover("ke.freed-active", f"{self.label}, which {' and '.join(waiting)} waits for", stop)

    def satisfy(self, thread: Thread) -> NTSTATUS:
        """Satisfy a wait by *thread*, inside its step: the side effects (KE-WAIT-13), and what the wait returns.

        Records what it touches and what orders the thread behind whoever signalled the object.
        """
        raise NotImplementedError


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


def signalled(waited: DispatcherObject, thread: Thread) -> NTSTATUS:
    """What satisfying a wait for *waited* amounts to when that changes nothing of it."""
    thread.read(waited)
    thread.acquire(waited)
    return STATUS_SUCCESS
