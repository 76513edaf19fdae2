"""Communication ports (FLT-PORT): what a minifilter listens at, the connections, and the table of both.

A server port has a name, three routines of the driver's and a limit of connections. Each connection is a client port
with a message queue of its own (FLT-PORT-05): messages that nobody has fetched yet, calls of FilterGetMessage that
wait for one, and messages that wait for their reply. What ends a connection ends all of these.

A driver keeps a client port in a variable of type PFLT_PORT, whose address FltSendMessage and FltCloseClientPort take:
that the one reads it and the other clears it is what keeps them apart (FLT-PORT-08).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.objects import Filter, hold, let_go
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.kthread import KThread
from kemu.nt.lockorder import Callbacks
from kemu.nt.shared import Shared
from kemu.nt.status import NTSTATUS, STATUS_PENDING, STATUS_PORT_DISCONNECTED
from kemu.nt.system import Leftover, current_system, refuse, report
from kemu.runtime import Cell, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.security import SECURITY_DESCRIPTOR
    from kemu.nt.process import Process

ConnectNotify = Callable[["ClientPort", Any, Any, int], Awaitable[Any]]
"""``async def Connect(self, ClientPort, ServerPortCookie, ConnectionContext, SizeOfContext)``: a status, or a tuple of
it and the cookie of the connection."""
DisconnectNotify = Callable[[Any], Awaitable[None]]
"""``async def Disconnect(self, ConnectionCookie)``."""
MessageNotify = Callable[[Any, Any, int, Any, int], Awaitable[Any]]
"""``async def Message(self, PortCookie, InputBuffer, InputBufferLength, OutputBuffer, OutputBufferLength)``: a status,
or a tuple of it and the number of bytes in the output buffer."""

# A connection.
CONNECTING: Final = 0
"""The connect routine of the driver is running, or about to."""
OPEN: Final = 1
REFUSED: Final = 2
"""The connect routine has failed: there is no such port any more."""

# A message.
QUEUED: Final = 0
"""Nobody has fetched it."""
DELIVERED: Final = 1
REPLIED: Final = 2
DISCONNECTED: Final = 3
"""The connection has ended before."""
ABANDONED: Final = 4
"""Its sender does not wait any more."""

NAME: Final = -(2**33)
"""The ordinal of the table of ports."""

HEADER_SIZE: Final = 16
"""Of FILTER_MESSAGE_HEADER and FILTER_REPLY_HEADER, with the padding between their members."""


class FLT_PORT(Waitable):
    """What a PFLT_PORT points to."""

    __slots__ = ()


class ServerPort(FLT_PORT):
    """What a driver listens at."""

    __slots__ = (
        "closed_by",
        "connect",
        "connections",
        "cookie",
        "disconnect",
        "driver",
        "filter",
        "limit",
        "message",
        "port_name",
        "security",
        "taken",
    )

    guards = ()

    def __init__(
        self,
        filter_: Filter,
        name: str,
        security: SECURITY_DESCRIPTOR | None,
        cookie: Any,
        connect: ConnectNotify,
        disconnect: DisconnectNotify,
        message: MessageNotify | None,
        limit: int,
    ) -> None:
        super().__init__(current_thread(), f"server port {name}")
        self.filter = filter_
        self.driver: DriverActor = filter_.driver
        self.port_name = name
        self.security = security
        self.cookie = cookie
        self.connect = connect
        self.disconnect = disconnect
        self.message = message
        self.limit = limit
        self.connections: list[ClientPort] = []
        """Those that were not refused, until both ends are closed; oldest first."""
        self.taken = 0
        """How many slots are taken: each until its disconnect routine has returned (FLT-PORT-04)."""
        self.closed_by = ""
        """Who has closed it."""

    def admits(self, is_administrator: bool, access: int) -> bool:
        """Whether a program may open it for *access* (FLT-PORT-02)."""
        if self.security is None:
            # The default of whoever creates objects in the kernel lets the same in as the default descriptor.
            return is_administrator
        return self.security.admits(is_administrator, access)


class ClientPort(FLT_PORT):
    """One connection, as the driver and the program have it."""

    __slots__ = (
        "closed_by",
        "connected",
        "cookie",
        "getters",
        "handles",
        "last_id",
        "notified",
        "process",
        "queue",
        "round_trip",
        "running",
        "server",
        "state",
        "waiting",
    )

    guards = ("running",)

    def __init__(self, server: ServerPort, process: Process) -> None:
        super().__init__(current_thread(), f"client port of {process.label} at {server.port_name}")
        self.server = server
        self.process = process
        self.state = CONNECTING
        self.cookie: Any = None
        self.connected = True
        """Whether it carries messages: until either end is closed."""
        self.handles = 0
        self.queue: deque[PortMessage] = deque()
        """Messages that nobody has fetched, oldest first."""
        self.getters: deque[Getter] = deque()
        """Calls of FilterGetMessage that wait, oldest first; one of the two queues is empty."""
        self.waiting: dict[int, PortMessage] = {}
        """The messages that were fetched and whose senders wait for a reply, by their identifiers."""
        self.last_id = 0
        self.running: list[Thread] = []
        """The threads inside the message routine for this connection; the disconnect routine waits for them."""
        self.notified = False
        """Whether somebody has taken it upon him to call the disconnect routine."""
        self.closed_by = ""
        """Who has closed it with FltCloseClientPort."""
        self.round_trip = Callbacks(f"what {process.label} does before it answers", code="lock-across-message")
        """What the service does with a message as a part of the lock order: a sender waits for it (FLT-PORT-23)."""

    def holders(self) -> tuple[Thread, ...]:
        return tuple(self.running)

    def end(self, thread: Thread) -> None:
        """Let it carry no messages any more, inside the calling step: whoever waits goes on (FLT-PORT-18)."""
        thread.write(self)
        if not self.connected:
            return
        self.connected = False
        for message in (*self.queue, *self.waiting.values()):
            message.become(thread, DISCONNECTED)
        self.queue.clear()
        self.waiting.clear()
        while self.getters:
            self.getters.popleft().finish(thread, STATUS_PORT_DISCONNECTED)

    @property
    def is_live_for_driver(self) -> bool:
        """Whether the driver has yet to close it."""
        return not self.closed_by and self.state != REFUSED


class PortMessage(Waitable):
    """A message on its way, and its sender's wait."""

    __slots__ = ("data", "id", "port", "reader", "reply", "reply_length", "reply_status", "sender", "state")

    guards = ("state",)

    def __init__(self, port: ClientPort, data: bytes, reply_length: int | None) -> None:
        sender = current_thread()
        super().__init__(sender, f"message to {port.process.label}")
        self.port = port
        self.sender = sender
        self.data = data
        self.reply_length = reply_length
        """How long a reply may be; None if none is expected."""
        self.id = 0
        self.state = QUEUED
        self.reader: Thread | None = None
        """Who has fetched it."""
        self.reply = b""
        self.reply_status = NTSTATUS(0)

    @property
    def is_over(self) -> bool:
        """Whether its sender has nothing to wait for any more."""
        return self.state > DELIVERED or (self.state == DELIVERED and self.reply_length is None)

    @property
    def is_answered(self) -> bool:
        """Whether a reply has come."""
        return self.state == REPLIED

    def become(self, thread: Thread, state: int) -> None:
        """Change its state, inside the step of *thread*."""
        thread.write(self)
        thread.release(self)
        self.state = state
        self.changed()

    def deliver(self, thread: Thread, getter: Getter) -> None:
        """Give it to *getter*, inside the step of *thread*, which is the sender or the reader."""
        expected = 0 if self.reply_length is None else HEADER_SIZE + self.reply_length
        header = expected.to_bytes(8, "little") + self.id.to_bytes(8, "little")
        self.reader = getter.thread
        if self.reply_length is not None:
            self.port.waiting[self.id] = self
        self.become(thread, DELIVERED)
        log = thread.runtime.log
        if log is not None:
            log("flt.message.get", port=self.port, id=self.id)
        getter.expects_reply = self.reply_length is not None
        getter.finish(thread, NTSTATUS(0), header + self.data)

    def holders(self) -> tuple[Thread, ...]:
        reader = self.reader
        return (reader,) if self.state == DELIVERED and reader is not None and reader.alive else ()


class Getter(Waitable):
    """One call of FilterGetMessage that waits. *on_end* is called inside the step that ends it."""

    __slots__ = ("data", "expects_reply", "on_end", "port", "size", "status", "thread")

    guards = ("status",)

    def __init__(self, port: ClientPort, size: int, on_end: Callable[[Getter, Thread], None] | None = None) -> None:
        thread = current_thread()
        super().__init__(thread, f"message from {port.server.driver.label}")
        self.port = port
        self.thread = thread
        self.size = size
        self.on_end = on_end
        self.status: NTSTATUS = STATUS_PENDING
        self.data = b""
        self.expects_reply = False

    def takes(self, message: PortMessage) -> bool:
        """Whether its buffer is large enough."""
        return HEADER_SIZE + len(message.data) <= self.size

    def finish(self, thread: Thread, status: NTSTATUS, data: bytes = b"") -> None:
        """End it, inside the step of *thread*."""
        thread.write(self)
        thread.release(self)
        self.status = status
        self.data = data
        if self.on_end is not None:
            self.on_end(self, thread)
        self.changed()


class PFLT_PORT(Shared):
    """A variable for a pointer to a port, which has an address: ``self.ClientPort = PFLT_PORT()``, or a field
    ``ClientPort: PFLT_PORT`` of a structure.

    Its name stands for its address, which FltSendMessage and FltCloseClientPort take; ``self.ClientPort.value`` is what
    a plain read or assignment reaches. Plain accesses are no data race: the pointer is stored in one piece, and the two
    routines look at it by themselves.
    """

    __slots__ = ()

    def __init__(self, value: Any = None, label: str = "") -> None:
        super().__init__(value, label)
        self.benign = True

    @classmethod
    def embedded(cls, label: str, whole: Any) -> Shared:
        made = super().embedded(label, whole)
        made.benign = True
        return made

    def wrapped(self, value: Any) -> Any:
        if value is None or isinstance(value, FLT_PORT):
            return value
        return _no_port(self, value)

    def put(self, value: Any) -> Any:
        old = self._value
        if isinstance(old, ClientPort) and old is not value and old.is_live_for_driver and current_driver() is not None:
            report(
                "port-overwritten",
                f"{current_thread().label} stores {'another port' if value is not None else 'NULL'} in {self.label}, "
                f"which holds the {old.label}, and that is not closed yet",
            )
        return super().put(value)


def _no_port(variable: PFLT_PORT, value: Any) -> None:
    if value == 0:
        return
    refuse(
        f"{value!r} is assigned to {variable.label}",
        remedy="assign the port that the connect routine is given, or None",
    )


class Ports(Cell):
    """The server ports of a run, by name, and the security descriptors that were made for them."""

    __slots__ = ("background", "by_name", "descriptors", "servers")

    def __init__(self) -> None:
        # A name of its own beside those that are counted, so that other objects are called what they were.
        self.creator, self.ordinal, self.label = current_thread(), NAME, "communication ports"
        self.version = self.written = 0
        self.by_name: dict[str, ServerPort] = {}
        """Those that are listened at. Names are the same whatever their case."""
        self.servers: list[ServerPort] = []
        """All that there ever were, oldest first: connections may outlive a server port."""
        self.descriptors: dict[SECURITY_DESCRIPTOR, DriverActor | None] = {}
        """The descriptors that are not freed, and who has made them."""
        self.background: dict[Thread, list[Getter]] = {}
        """The calls of FilterGetMessage that each thread has made without waiting. Only the thread itself looks."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The ports and the descriptors that *driver* has not closed and freed (FLT-PORT-07)."""
        for server in self.servers:
            if server.driver is driver:
                if not server.closed_by:
                    yield Leftover("unload-port-open", f"the {server.label}")
                for port in server.connections:
                    if port.is_live_for_driver:
                        yield Leftover("client-port-leak", f"the {port.label}")
        for descriptor, owner in self.descriptors.items():
            if owner is driver:
                yield Leftover("ke.pool-leak", descriptor.label)

    def of(self, filter_: Filter) -> list[ServerPort]:
        """The server ports of *filter_*, oldest first."""
        return [server for server in self.servers if server.filter is filter_]


def ports() -> Ports:
    """The ports of the calling thread's run."""
    return current_system().get(Ports)


def keep_filter(thread: Thread, server: ServerPort, who: Cell) -> None:
    """Keep the filter of *server* registered as long as *who* needs it, inside the calling step."""
    hold(thread, server.filter, who.label)
    if server.filter.deleting:
        # A connection may end while its filter is being unregistered, which then waits for that.
        server.filter.changed()


def leave_filter(thread: Thread, server: ServerPort, who: Cell) -> None:
    """The reverse."""
    let_go(thread, server.filter, who.label)


def serves(thread: KThread, port: ClientPort) -> bool:
    """Whether *thread* is one of the program's at the other end of *port*."""
    return thread.process is port.process
