"""What becomes of a thread's IRPs when it exits: they are cancelled (KE-CANCEL-10, KE-IRP-10)."""

from __future__ import annotations

from kemu.io.cancel import cancel_irp
from kemu.io.irp import IRP
from kemu.io.irp_made import Irps
from kemu.io.manager import IoManager
from kemu.nt.system import System
from kemu.runtime import Cell, Operation, Thread


class ListIrpsOf(Operation[list[IRP]]):
    """The synchronous IRPs that a thread has made in a driver's code and that are not complete."""

    __slots__ = ("irps", "thread")
    kind = "list the requests of"

    def __init__(self, irps: Irps, thread: Thread) -> None:
        self.irps = irps
        self.thread = thread

    def perform(self, thread: Thread) -> list[IRP]:
        found = [irp for irp in self.irps.made if irp.issuer is self.thread and irp.kind == "synchronous"]
        for irp in found:
            thread.read(irp)
        return [irp for irp in found if not irp.ended]

    def target(self) -> Cell:
        return self.thread


async def cancel_irps_of(thread: Thread) -> None:
    """Cancel what *thread*, which is about to exit, has issued.

    Called by the thread itself, at PASSIVE_LEVEL. What cannot be cancelled is left alone: Windows waits five minutes
    for it and then lets the thread go.
    """
    system = thread.runtime.system
    await system.get(IoManager).cancel_thread(thread)
    for irp in await ListIrpsOf(system.get(Irps), thread):
        await cancel_irp(irp)


def watch_thread_ends(system: System) -> None:
    """Have `cancel_irps_of` called at the end of each thread that has issued something without waiting for it."""
    system.thread_ends = cancel_irps_of
