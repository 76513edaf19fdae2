"""Messages to a service that nobody will fetch or answer, because the service waits itself (FLT-IO-28, FLT-PORT-23)."""

from __future__ import annotations

from collections.abc import Iterable

from kemu.fltmgr.messaging import AwaitMessage
from kemu.fltmgr.ports import serves
from kemu.nt.driver import DriverActor
from kemu.nt.kthread import KThread
from kemu.runtime import BlockingOperation, Thread
from kemu.verifier.finding import Finding
from kemu.verifier.verifier import Verifier


def endless_message(verifier: Verifier, threads: Iterable[Thread], detail: str) -> Finding | None:
    """The finding that senders among *threads*, none of which can go on, amount to; None if there is another reason."""
    stuck = [thread for thread in threads if isinstance(thread, KThread)]
    senders = [thread for thread in stuck if isinstance(thread.op, AwaitMessage)]
    for sender in senders:
        assert isinstance(sender.op, AwaitMessage)
        port = sender.op.message.port
        inside = [thread for thread in senders if serves(thread, port) and _driver_of(thread) is port.server.driver]
        if inside:
            # The thread that would have to fetch the message, or answer it, is in the driver and waits for the service.
            names = " and ".join(dict.fromkeys(thread.label for thread in inside))
            waits = "waits" if len(inside) == 1 else "wait"
            what = f"{names} of the service at {port.server.port_name} {waits} for that service"
            return verifier.finding("reentrant-deadlock", f"{what}: {detail}", subject=port.server.driver.label)
        needed = [thread for thread in stuck if serves(thread, port) and _waits_for(thread, senders)]
        if needed:
            lock = sender.locks[0].label if sender.locks else "what another sender holds"
            what = f"{needed[0].label}, which would have to answer, needs {lock}"
            return verifier.finding("lock-across-message", f"{what}: {detail}", subject=port.server.driver.label)
    for sender in senders:
        if sender.unloading is not None:
            return verifier.finding("unload-hang", detail, subject=str(sender.unloading))
    return None


def _driver_of(sender: KThread) -> DriverActor:
    assert isinstance(sender.op, AwaitMessage)
    return sender.op.message.port.server.driver


def _waits_for(thread: KThread, senders: list[KThread]) -> bool:
    """Whether *thread* waits for something that a sender holds."""
    op = thread.op
    return isinstance(op, BlockingOperation) and any(holder in senders for holder in op.holders())
