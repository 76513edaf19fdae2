"""Messages between a minifilter and its service, both ways: the steps that they consist of (FLT-PORT).

A sender waits for its message to be fetched, or answered, and the wait can be ended by the time, by the end of the
connection, and by the end of the sender's thread. Whoever fetches a message gets the oldest; if there is none, others
can see that he waits, because the next message is delivered to him at once (FLT-PORT-14).
"""

from __future__ import annotations

from collections.abc import Callable

from kemu.fltmgr.ports import (
    ABANDONED,
    DELIVERED,
    DISCONNECTED,
    HEADER_SIZE,
    OPEN,
    PFLT_PORT,
    QUEUED,
    REFUSED,
    REPLIED,
    ClientPort,
    Getter,
    PortMessage,
    Ports,
)
from kemu.nt.apc import takes
from kemu.nt.dispatcher import TAKES_ALL, TERMINATING
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.status import (
    NTSTATUS,
    STATUS_BUFFER_OVERFLOW,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_CANCELLED,
    STATUS_FLT_NO_WAITER_FOR_REPLY,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_FOUND,
    STATUS_PENDING,
    STATUS_PORT_DISCONNECTED,
    STATUS_SUCCESS,
    STATUS_THREAD_IS_TERMINATING,
    STATUS_TIMEOUT,
)
from kemu.nt.system import System, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread

FindPort = Callable[[Thread], "ClientPort | NTSTATUS"]
"""Looks a program's handle up, inside the calling step: the port, or the status that refuses the call."""


class SendMessage(Operation["PortMessage | NTSTATUS"]):
    """Read the driver's variable and put a message to that port: the message, or why there is none."""

    __slots__ = ("data", "reply_length", "variable")
    kind = "send a message through"

    def __init__(self, variable: PFLT_PORT, data: bytes, reply_length: int | None) -> None:
        self.variable = variable
        self.data = data
        self.reply_length = reply_length

    def perform(self, thread: Thread) -> PortMessage | NTSTATUS:
        variable = self.variable
        variable.touch("FltSendMessage")
        thread.read(variable)
        thread.acquire(variable)
        thread.release_to_waiter(variable)
        port = variable.current("FltSendMessage")
        if not isinstance(port, ClientPort):
            return STATUS_PORT_DISCONNECTED
        thread.write(port)
        check_usable(port, variable, "FltSendMessage")
        if not port.connected:
            return STATUS_PORT_DISCONNECTED
        message = PortMessage(port, self.data, self.reply_length)
        port.last_id += 1
        message.id = port.last_id
        thread.release(message)
        log = thread.runtime.log
        if log is not None:
            log("flt.message.send", port=port, id=message.id, size=len(message.data))
        while port.getters:
            getter = port.getters.popleft()
            if getter.takes(message):
                thread.release(getter)
                message.deliver(thread, getter)
                return message
            getter.finish(thread, STATUS_BUFFER_TOO_SMALL)
        port.queue.append(message)
        return message

    def target(self) -> Cell:
        return self.variable


def check_usable(port: ClientPort, variable: PFLT_PORT, name: str) -> None:
    """Findings of a call with a *port* that is gone, which *variable* still holds."""
    if port.closed_by:
        report(
            "port-copy-race",
            f"{name} uses the {port.label} through {variable.label}, which still holds it: {port.closed_by} has closed "
            "it through another variable",
        )
    if port.state == REFUSED:
        report(
            "port-state-race",
            f"{name} uses the {port.label}, which {variable.label} holds, and the connect routine has refused that "
            "connection",
        )


class AwaitMessage(BlockingOperation[NTSTATUS]):
    """Wait until a message is fetched, or answered if its sender expects that."""

    __slots__ = ("interrupted_at_all", "message", "sender")
    kind = "see the end of"

    def __init__(self, message: PortMessage, timeout: int | None) -> None:
        self.sender = sender = current_kthread()
        super().__init__(message, sender, timeout=timeout)
        self.message = message
        self.interrupted_at_all = takes(sender) == TAKES_ALL
        """Whether the end of its thread ends the wait: it comes as an APC, which the thread may hold back."""

    def available(self, thread: Thread) -> bool:
        return self.message.is_over or self._is_terminating()

    def _is_terminating(self) -> bool:
        return self.interrupted_at_all and bool(self.sender.alerts & TERMINATING)

    def take(self, thread: Thread) -> NTSTATUS:
        return self._result(thread, STATUS_THREAD_IS_TERMINATING)

    def timed_out(self, thread: Thread) -> NTSTATUS:
        # A message that was answered after the time was up, and before its sender ran again, is answered.
        return self._result(thread, STATUS_TIMEOUT)

    def _result(self, thread: Thread, otherwise: NTSTATUS) -> NTSTATUS:
        message, port = self.message, self.message.port
        thread.read(message)
        thread.read(self.sender)
        if message.is_over:
            thread.acquire(message)
            status = self._answer()
        else:
            thread.write(port)
            if message.state == QUEUED:
                port.queue.remove(message)
            else:
                del port.waiting[message.id]
            message.become(thread, ABANDONED)
            status = otherwise
        log = thread.runtime.log
        if log is not None:
            log("flt.message.end", port=port, id=message.id, status=status)
        return status

    def _answer(self) -> NTSTATUS:
        message = self.message
        if message.state == DISCONNECTED:
            return STATUS_PORT_DISCONNECTED
        if message.state == DELIVERED:
            return STATUS_SUCCESS
        assert message.reply_length is not None
        return STATUS_BUFFER_OVERFLOW if len(message.reply) > message.reply_length else message.reply_status

    def holders(self) -> tuple[Thread, ...]:
        # Not itself, although its own end might end the wait.
        return self.message.holders()

    def describe(self) -> str:
        what = "an answer to" if self.message.state == DELIVERED else "somebody fetch"
        return f"see {what} the {self.message.label}"


class GetMessage(Operation["Getter | NTSTATUS"]):
    """Fetch the oldest message, or wait for one where others can see it; a status if that is not possible."""

    __slots__ = ("find", "on_end", "size")
    kind = "get a message"

    def __init__(self, find: FindPort, size: int, on_end: Callable[[Getter, Thread], None] | None) -> None:
        self.find = find
        self.size = size
        self.on_end = on_end

    def perform(self, thread: Thread) -> Getter | NTSTATUS:
        port = self.find(thread)
        if isinstance(port, NTSTATUS):
            return port
        if not port.connected:
            thread.read(port)
            return STATUS_PORT_DISCONNECTED
        thread.write(port)
        getter = Getter(port, self.size, self.on_end)
        if not port.queue:
            port.getters.append(getter)
            return getter
        message = port.queue[0]
        if not getter.takes(message):
            return STATUS_BUFFER_TOO_SMALL
        port.queue.popleft()
        thread.read(message)
        thread.acquire(message)
        message.deliver(thread, getter)
        return getter


class AwaitGetter(BlockingOperation[NTSTATUS]):
    """Wait until a call of FilterGetMessage has its message."""

    __slots__ = ("getter", "reader")
    kind = "get"
    idle = True

    def __init__(self, getter: Getter) -> None:
        self.reader: KThread = current_kthread()
        super().__init__(getter, self.reader)
        self.getter = getter

    def available(self, thread: Thread) -> bool:
        return self.getter.status != STATUS_PENDING or bool(self.reader.alerts & TERMINATING)

    def take(self, thread: Thread) -> NTSTATUS:
        getter = self.getter
        thread.read(getter)
        thread.read(self.reader)
        if getter.status == STATUS_PENDING:
            withdraw(getter, thread)
        else:
            thread.acquire(getter)
        return getter.status

    def holders(self) -> tuple[Thread, ...]:
        return ()


def withdraw(getter: Getter, thread: Thread) -> None:
    """Cancel a call of FilterGetMessage that waits, inside the calling step."""
    thread.write(getter.port)
    getter.port.getters.remove(getter)
    getter.finish(thread, STATUS_CANCELLED)


class CancelGetters(Operation[NTSTATUS]):
    """Cancel one call of FilterGetMessage, or all of a port."""

    __slots__ = ("find", "getter")
    kind = "cancel the waiting for messages"

    def __init__(self, find: FindPort, getter: Getter | None) -> None:
        self.find = find
        self.getter = getter

    def perform(self, thread: Thread) -> NTSTATUS:
        port = self.find(thread)
        if isinstance(port, NTSTATUS):
            return port
        thread.read(port)
        found = [one for one in port.getters if self.getter is None or one is self.getter]
        for one in found:
            withdraw(one, thread)
        return STATUS_SUCCESS if found else STATUS_NOT_FOUND


class EndGetters(Operation[None]):
    """A thread ends: what it has asked for in the background is cancelled (KE-CANCEL-10)."""

    __slots__ = ("getters",)
    kind = "cancel the waiting of"

    def __init__(self, getters: list[Getter]) -> None:
        self.getters = getters

    def perform(self, thread: Thread) -> None:
        for getter in self.getters:
            thread.read(getter)
            if getter.status == STATUS_PENDING:
                withdraw(getter, thread)

    def target(self) -> Cell:
        return self.getters[0]


def watch_thread_ends(system: System) -> None:
    """Have `EndGetters` done at the end of each thread that has left such calls behind."""
    before = system.thread_ends
    table = system.get(Ports)

    async def ends(thread: KThread) -> None:
        if before is not None:
            await before(thread)
        left = table.background.pop(thread, None)
        if left:
            await EndGetters(left)

    system.thread_ends = ends


class ReplyToMessage(Operation[NTSTATUS]):
    """Answer a message whose sender still waits (FLT-PORT-20)."""

    __slots__ = ("data", "find")
    kind = "answer a message"

    def __init__(self, find: FindPort, data: bytes) -> None:
        self.find = find
        self.data = data

    def perform(self, thread: Thread) -> NTSTATUS:
        port = self.find(thread)
        if isinstance(port, NTSTATUS):
            return port
        if not port.connected:
            thread.read(port)
            return STATUS_PORT_DISCONNECTED
        if len(self.data) < HEADER_SIZE:
            return STATUS_INVALID_PARAMETER
        thread.write(port)
        message = port.waiting.pop(int.from_bytes(self.data[8:HEADER_SIZE], "little"), None)
        if message is None:
            return STATUS_FLT_NO_WAITER_FOR_REPLY
        message.reply = self.data[HEADER_SIZE:]
        message.reply_status = NTSTATUS(int.from_bytes(self.data[:4], "little"))
        message.become(thread, REPLIED)
        _check_size(message)
        log = thread.runtime.log
        if log is not None:
            log("flt.message.reply", port=port, id=message.id, size=len(message.reply))
        return STATUS_SUCCESS


def _check_size(message: PortMessage) -> None:
    """Warning ``port-reply-size`` for an answer that is too long by what a compiler pads a structure with."""
    assert message.reply_length is not None
    excess = len(message.reply) - message.reply_length
    if 0 < excess < 8 and not len(message.reply) % 8:
        report(
            "port-reply-size",
            f"an answer of {HEADER_SIZE} + {len(message.reply)} bytes to a sender that expects {HEADER_SIZE} + "
            f"{message.reply_length}: the size of the structure of both has {excess} bytes of padding at its end",
        )


class BeginMessage(Operation["ClientPort | NTSTATUS"]):
    """A program's message comes to the driver: the disconnect routine waits from here on."""

    __slots__ = ("find",)
    kind = "deliver a message to the driver"

    def __init__(self, find: FindPort) -> None:
        self.find = find

    def perform(self, thread: Thread) -> ClientPort | NTSTATUS:
        port = self.find(thread)
        if isinstance(port, NTSTATUS):
            return port
        # Calls that are under way commute as long as nobody waits for the last of them.
        thread.read(port)
        if not port.connected or port.state != OPEN:
            return STATUS_PORT_DISCONNECTED
        if port.server.message is None:
            return STATUS_INVALID_DEVICE_REQUEST
        thread.acquire(port)
        port.running.append(thread)
        return port


def end_message(port: ClientPort, thread: Thread) -> None:
    """The message routine has returned, inside the calling step."""
    if port.connected:
        thread.read(port)
    else:
        thread.write(port)
    thread.release_to_waiter(port)
    port.running.remove(thread)
    port.changed()
