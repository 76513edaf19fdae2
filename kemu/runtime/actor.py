"""Actors and messages.

An *actor* is an addressable participant with private state and a published set of messages. Nobody reads
another actor's state; they send it a message, and there are two ways to do so:

* `ask` is carried by the sending thread: the receiver's handler runs on it, and the sender has the reply when
  it goes on. That is what a callback is in Windows. Actors are re-entrant for it: two threads can be inside
  the same handler at once.
* `tell` queues the message for an actor that has threads of its own, which take messages one at a time.

A framework declares its messages as dataclasses in one file, which reads as the framework's protocol. While a
schedule is explored the handler is called with plain arguments; the message object is built only for a log.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from kemu.runtime.footprint import Cell, Waitable
from kemu.runtime.operation import BlockingOperation, Operation
from kemu.runtime.thread import Thread, current_thread

if TYPE_CHECKING:
    from kemu.runtime.core import Runtime


class Message:
    """Base of all messages. `handler` names the method of the receiving actor that takes it."""

    __slots__ = ()
    handler: ClassVar[str]


class Actor:
    """A participant. Subclasses have one ``async def`` method for each message they understand."""

    kind: ClassVar[str] = "actor"

    def __init__(self, runtime: Runtime, label: str) -> None:
        self.runtime = runtime
        self.label = label
        self.presence = Cell(current_thread(), label)
        """What a delivery reads: that the actor is there at all."""

    def __repr__(self) -> str:
        return self.label


class Deliver(Operation[None]):
    """The scheduling point before a callback is delivered. May be made once and awaited again and again."""

    __slots__ = ("cell", "message", "receiver")
    kind = "deliver"

    def __init__(self, receiver: Actor, message: type[Message], cell: Cell | None = None) -> None:
        self.receiver = receiver
        self.message = message
        self.cell = cell if cell is not None else receiver.presence

    def perform(self, thread: Thread) -> None:
        thread.read(self.cell)

    def target(self) -> Cell:
        return self.cell

    def describe(self) -> str:
        return f"deliver {self.message.__name__} to {self.receiver.label}"


async def ask(receiver: Actor, message: type[Message], *fields: Any) -> Any:
    """Have *receiver* handle *message* with *fields* on the calling thread, and return its reply."""
    thread = current_thread()
    await Deliver(receiver, message)
    log = thread.runtime.log
    if log is not None:
        log("msg.send", to=receiver.label, message=message(*fields))
    thread.actors.append(receiver)
    try:
        return await getattr(receiver, message.handler)(*fields)
    finally:
        thread.actors.pop()


class Envelope:
    """A message under way."""

    __slots__ = ("fields", "message", "sender", "sent")

    def __init__(self, message: type[Message], fields: tuple[Any, ...], sender: str, sent: int | None) -> None:
        self.message = message
        self.fields = fields
        self.sender = sender
        self.sent = sent


class Mailbox(Waitable):
    """The queue of messages for an actor with threads of its own. First in, first out."""

    __slots__ = ("queue",)

    guards = ("queue",)

    def __init__(self, creator: Thread, label: str) -> None:
        super().__init__(creator, label)
        self.queue: deque[Envelope] = deque()


class Send(Operation[None]):
    """Queue a message."""

    __slots__ = ("fields", "mailbox", "message")
    kind = "send"

    def __init__(self, mailbox: Mailbox, message: type[Message], fields: tuple[Any, ...]) -> None:
        self.mailbox = mailbox
        self.message = message
        self.fields = fields

    def perform(self, thread: Thread) -> None:
        thread.write(self.mailbox)
        log = thread.runtime.log
        sent = None
        if log is not None:
            sent = log("msg.send", to=self.mailbox.label, message=self.message(*self.fields))
        self.mailbox.queue.append(Envelope(self.message, self.fields, thread.label, sent))
        self.mailbox.changed()

    def target(self) -> Cell:
        return self.mailbox

    def describe(self) -> str:
        return f"send {self.message.__name__} to {self.mailbox.label}"


class Receive(BlockingOperation[Envelope]):
    """Take the next message; a service that waits here is at rest."""

    __slots__ = ("mailbox",)
    kind = "receive from"
    idle = True

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__(mailbox)
        self.mailbox = mailbox

    def available(self, thread: Thread) -> bool:
        return bool(self.mailbox.queue)

    def take(self, thread: Thread) -> Envelope:
        mailbox = self.mailbox
        thread.write(mailbox)
        envelope = mailbox.queue.popleft()
        mailbox.changed()
        log = thread.runtime.log
        if log is not None:
            log("msg.recv", cause=envelope.sent, message=envelope.message(*envelope.fields))
        return envelope


class ServingActor(Actor):
    """An actor with threads of its own, which take its messages one at a time."""

    def __init__(self, runtime: Runtime, label: str, *, threads: int = 1) -> None:
        super().__init__(runtime, label)
        self.mailbox = Mailbox(current_thread(), label)
        for number in range(threads):
            name = label if threads == 1 else f"{label}#{number}"
            runtime.spawn(name, self._serve(), service=True)

    async def _serve(self) -> None:
        thread = current_thread()
        thread.actors.append(self)
        while True:
            envelope = await Receive(self.mailbox)
            await getattr(self, envelope.message.handler)(*envelope.fields)


async def tell(receiver: ServingActor, message: type[Message], *fields: Any) -> None:
    """Queue *message* for *receiver*, whose own thread will handle it."""
    await Send(receiver.mailbox, message, fields)
