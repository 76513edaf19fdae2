"""The life of ports: listening, connecting, disconnecting, and what an unload does to all of that (FLT-PORT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from kemu.fltmgr.messaging import check_usable
from kemu.fltmgr.objects import Filter, WaitRundown
from kemu.fltmgr.ports import (
    OPEN,
    PFLT_PORT,
    REFUSED,
    ClientPort,
    Ports,
    ServerPort,
    keep_filter,
    leave_filter,
    ports,
)
from kemu.fltmgr.security import FLT_PORT_CONNECT
from kemu.nt.driver import in_driver, status_of
from kemu.nt.process import Process
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_CONNECTION_COUNT_LIMIT,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, current_thread


class Listen(Operation[NTSTATUS]):
    """Make a server port known by its name."""

    __slots__ = ("ports", "server")
    kind = "listen at"

    def __init__(self, server: ServerPort) -> None:
        self.ports = ports()
        self.server = server

    def perform(self, thread: Thread) -> NTSTATUS:
        server, table = self.server, self.ports
        thread.read(server.filter)
        if server.filter.deleting:
            return STATUS_FLT_DELETING_OBJECT
        if server.port_name.upper() in table.by_name:
            thread.read(table)
            return STATUS_OBJECT_NAME_COLLISION
        thread.write(table)
        thread.release(server)
        table.by_name[server.port_name.upper()] = server
        table.servers.append(server)
        keep_filter(thread, server, server)
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.ports

    def describe(self) -> str:
        return f"listen at {self.server.port_name}"


class StopListening(Operation[None]):
    """Close a server port: connections live on (FLT-PORT-11)."""

    __slots__ = ("ports", "server")
    kind = "close"

    def __init__(self, server: ServerPort) -> None:
        self.ports = ports()
        self.server = server

    def perform(self, thread: Thread) -> None:
        server = self.server
        thread.write(self.ports)
        thread.write(server)
        del self.ports.by_name[server.port_name.upper()]
        server.closed_by = thread.label
        current_system().freed[server] = f"which {thread.label} has closed"
        leave_filter(thread, server, server)

    def target(self) -> Cell:
        return self.server


class Connect(Operation["ClientPort | NTSTATUS"]):
    """Find a server port by its name and take a slot of it; evaluates to the port that the driver will be given."""

    __slots__ = ("is_administrator", "name", "ports", "process")
    kind = "connect to"

    def __init__(self, name: str, process: Process, is_administrator: bool) -> None:
        self.ports = ports()
        self.name = name
        self.process = process
        self.is_administrator = is_administrator

    def perform(self, thread: Thread) -> ClientPort | NTSTATUS:
        thread.read(self.ports)
        server = self.ports.by_name.get(self.name.upper())
        if server is None:
            return STATUS_OBJECT_NAME_NOT_FOUND
        if not server.admits(self.is_administrator, FLT_PORT_CONNECT):
            return STATUS_ACCESS_DENIED
        thread.read(server.filter)
        if server.filter.deleting:
            return STATUS_FLT_DELETING_OBJECT
        if server.taken >= server.limit:
            thread.read(server)
            return STATUS_CONNECTION_COUNT_LIMIT
        thread.write(server)
        thread.acquire(server)
        port = ClientPort(server, self.process)
        server.taken += 1
        server.connections.append(port)
        keep_filter(thread, server, port)
        return port

    def target(self) -> Cell:
        return self.ports

    def describe(self) -> str:
        return f"connect to {self.name}"


class Establish(Operation[None]):
    """The connect routine has agreed: the program gets its handle."""

    __slots__ = ("add_handle", "cookie", "port")
    kind = "establish"

    def __init__(self, port: ClientPort, cookie: Any, add_handle: Callable[[ClientPort], None]) -> None:
        self.port = port
        self.cookie = cookie
        self.add_handle = add_handle

    def perform(self, thread: Thread) -> None:
        port = self.port
        thread.write(port)
        thread.release(port)
        port.state = OPEN
        port.cookie = self.cookie
        port.handles = 1
        self.add_handle(port)
        leave_filter(thread, port.server, port)

    def target(self) -> Cell:
        return self.port


class Refuse(Operation[None]):
    """The connect routine has failed: there is no connection, and its slot is free."""

    __slots__ = ("port",)
    kind = "refuse"

    def __init__(self, port: ClientPort) -> None:
        self.port = port

    def perform(self, thread: Thread) -> None:
        port = self.port
        port.end(thread)
        thread.write(port.server)
        port.state = REFUSED
        port.server.taken -= 1
        port.server.connections.remove(port)
        leave_filter(thread, port.server, port)

    def target(self) -> Cell:
        return self.port


def status_and(returned: Any, otherwise: Any) -> tuple[Any, Any]:
    """What a routine has returned, apart: its status, and what it may give out with that, or *otherwise*."""
    both = cast("tuple[Any, ...]", returned)
    is_pair = bool(isinstance(returned, tuple)) and len(both) == 2
    return (both[0], both[1]) if is_pair else (returned, otherwise)


async def connect(
    name: str,
    process: Process,
    is_administrator: bool,
    context: bytes,
    add_handle: Callable[[ClientPort], None],
) -> NTSTATUS:
    """Connect a program to a server port, on its own thread (FLT-PORT-03).

    *add_handle* makes the program's handle, in the step in which the connection is there.
    """
    port = await Connect(name, process, is_administrator)
    if isinstance(port, NTSTATUS):
        return port
    server = port.server
    arguments = (port, server.cookie, context or None, len(context))
    returned = await in_driver(server.driver, "ConnectNotify", server.connect, *arguments)
    returned, cookie = status_and(returned, None)
    status = status_of(server.driver, "ConnectNotify", server.connect, returned)
    if NT_SUCCESS(status):
        await Establish(port, cookie, add_handle)
        status = STATUS_SUCCESS
    else:
        await Refuse(port)
    log = current_thread().runtime.log
    if log is not None:
        log("flt.port.connect", flt=server.driver.label, port=port, status=status)
    return status


class Disconnect(Operation[bool]):
    """Take one handle of a program away, or all of them in an unload; whether the driver has to be told now."""

    __slots__ = ("by_unload", "port")
    kind = "disconnect"

    def __init__(self, port: ClientPort, *, by_unload: bool = False) -> None:
        self.port = port
        self.by_unload = by_unload

    def perform(self, thread: Thread) -> bool:
        port = self.port
        thread.write(port)
        if not self.by_unload:
            port.handles -= 1
            if port.handles:
                return False
        port.end(thread)
        if port.notified:
            return False
        port.notified = True
        keep_filter(thread, port.server, port)
        return True

    def target(self) -> Cell:
        return self.port


class AwaitCalls(BlockingOperation[None]):
    """Wait until no message routine is running for a connection."""

    __slots__ = ("port",)
    kind = "see the last message routine return for"

    def __init__(self, port: ClientPort) -> None:
        super().__init__(port)
        self.port = port

    def available(self, thread: Thread) -> bool:
        return not self.port.running

    def take(self, thread: Thread) -> None:
        thread.read(self.port)
        thread.acquire(self.port)
        thread.acquire_as_waiter(self.port)


class FreeSlot(Operation[None]):
    """The disconnect routine has returned: another program may connect (FLT-PORT-04)."""

    __slots__ = ("port",)
    kind = "free the slot of"

    def __init__(self, port: ClientPort) -> None:
        self.port = port

    def perform(self, thread: Thread) -> None:
        port, server = self.port, self.port.server
        thread.write(server)
        if server.taken == server.limit:
            # The next one to connect has had to wait for this; others have not.
            thread.release(server)
        server.taken -= 1
        if port.closed_by:
            server.connections.remove(port)
        leave_filter(thread, server, port)

    def target(self) -> Cell:
        return self.port


async def handle_closed(port: ClientPort) -> None:
    """A handle of a program is closed, on the thread that does it; the last one disconnects (FLT-PORT-06)."""
    if await Disconnect(port):
        await _tell(port)


async def _tell(port: ClientPort) -> None:
    """Call the disconnect routine, after all message routines (FLT-ORD-09)."""
    await AwaitCalls(port)
    server = port.server
    log = current_thread().runtime.log
    if log is not None:
        log("flt.port.disconnect", flt=server.driver.label, port=port)
    await in_driver(server.driver, "DisconnectNotify", server.disconnect, port.cookie)
    await FreeSlot(port)


class CloseClient(Operation[None]):
    """Clear the driver's variable, and end the connection that it held (FLT-PORT-08)."""

    __slots__ = ("variable",)
    kind = "close the port in"

    def __init__(self, variable: PFLT_PORT) -> None:
        self.variable = variable

    def perform(self, thread: Thread) -> None:
        variable = self.variable
        variable.touch("FltCloseClientPort")
        thread.write(variable)
        thread.acquire_as_waiter(variable)
        thread.acquire(variable)
        thread.release(variable)
        port = variable.current("FltCloseClientPort")
        if not isinstance(port, ClientPort):
            return
        check_usable(port, variable, "FltCloseClientPort")
        thread.write(port)
        port.closed_by = thread.label
        variable.put(None)
        port.end(thread)

    def target(self) -> Cell:
        return self.variable


class ListConnections(Operation[list[ClientPort]]):
    """The connections of a filter that is being unregistered."""

    __slots__ = ("filter", "ports")
    kind = "list the connections of"

    def __init__(self, filter_: Filter) -> None:
        self.ports = current_system().get(Ports)
        self.filter = filter_

    def perform(self, thread: Thread) -> list[ClientPort]:
        found: list[ClientPort] = []
        for server in self.ports.of(self.filter):
            thread.read(server)
            found += server.connections
        return found

    def target(self) -> Cell:
        return self.filter


def check_listening(filter_: Filter) -> None:
    """Finding ``unload-port-open`` for a filter that is unregistered and still listens (FLT-UNLOAD-07)."""
    table = ports()
    for server in table.of(filter_):
        current_thread().read(server)
        if not server.closed_by:
            report(
                "unload-port-open",
                f"{current_thread().label} unregisters {filter_.label}, whose {server.label} is open: the unload waits "
                "for it to be closed",
            )


async def close_connections(filter_: Filter) -> None:
    """Close what connections *filter_*, which is being unregistered, still has, and tell the driver (FLT-UNLOAD-18)."""
    if not ports().of(filter_):
        return
    for port in await ListConnections(filter_):
        if await Disconnect(port, by_unload=True):
            await _tell(port)
    # A program may be closing its handle just now: its thread is in the driver.
    await WaitRundown(filter_)
