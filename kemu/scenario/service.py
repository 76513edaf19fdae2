"""A user-mode service of a minifilter, as scripts write it: listener threads that answer messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kemu.fltmgr.port_messages import FILTER_MESSAGE_HEADER, FILTER_REPLY_HEADER
from kemu.fltmgr.ports import HEADER_SIZE
from kemu.nt.kthread import KThread
from kemu.runtime import current_thread
from kemu.user.filter import S_OK

if TYPE_CHECKING:
    from kemu.scenario.threads import Started
    from kemu.scenario.world import UserProcess, World
    from kemu.user import Win32
    from kemu.user.handles import Handle

Answer = Callable[[bytes], Awaitable[bytes | None]]
"""``async def scan(message)``: takes what the driver has sent, and returns the answer, or None to give none."""

MESSAGE_SIZE = 4096
"""The size of a listener's buffer, header included."""


class Service:
    """A program with a connection to a minifilter, and threads that listen at it."""

    def __init__(self, world: World, process: UserProcess, port: Handle) -> None:
        self._world = world
        self.process = process
        self.port = port
        self.listeners: list[Started[None]] = []

    @property
    def win32(self) -> Win32:
        """What the service's threads call."""
        return self.process.win32

    def listen(self, answer: Answer, threads: int) -> None:
        """Start *threads* listeners. They may be left waiting for messages when the run ends."""
        for number in range(threads):
            name = f"{self.process.process.label}.listener" + (f"#{number + 1}" if threads > 1 else "")
            started = self._world.start(name, self._serve(answer), self.process)
            started.thread.service = True
            self.listeners.append(started)

    async def _serve(self, answer: Answer) -> None:
        api = self.win32
        while True:
            hr, message = await api.FilterGetMessage(self.port, MESSAGE_SIZE)
            if hr != S_OK:
                # The connection is over.
                return
            header = FILTER_MESSAGE_HEADER.from_buffer_copy(message)
            reply = await answer(message[HEADER_SIZE:])
            if header.ReplyLength and reply is not None:
                await api.FilterReplyMessage(self.port, bytes(FILTER_REPLY_HEADER(0, header.MessageId)) + reply)

    async def send(self, message: bytes = b"", room: int = 0) -> tuple[int, bytes]:
        """Send a message to the driver (FilterSendMessage) with room for *room* bytes: an HRESULT, and the answer."""
        output = self.process.memory(bytes(room)) if room else None
        hr, length = await self.win32.FilterSendMessage(self.port, message, len(message), output, room)
        return hr, bytes(output.content[:length]) if output is not None else b""

    async def disconnect(self) -> None:
        """Close the connection; the listeners end."""
        await self.win32.CloseHandle(self.port)

    async def stop(self) -> None:
        """Close the connection, and wait for the listeners to end."""
        await self.disconnect()
        for listener in self.listeners:
            await listener.join()

    async def kill(self) -> None:
        """End the process on the calling thread, which takes its place: handles are closed, the driver is told."""
        thread = current_thread()
        assert isinstance(thread, KThread)
        before: Any = thread.process
        thread.process = self.process.process
        await self.process.exit()
        thread.process = before


async def serve(
    world: World, process: UserProcess, port_name: str, answer: Answer, *, threads: int, context: bytes
) -> tuple[int, Service | None]:
    """Connect *process* to a minifilter on the calling thread and start listeners: an HRESULT, and the service."""
    thread = current_thread()
    assert isinstance(thread, KThread)
    before, thread.process = thread.process, process.process
    hr, port = await process.win32.FilterConnectCommunicationPort(port_name, 0, context)
    thread.process = before
    if port is None:
        return hr, None
    service = Service(world, process, port)
    service.listen(answer, threads)
    return hr, service
