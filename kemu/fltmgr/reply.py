"""The buffer that a message's answer goes to, and what is in it when there is none (FLT-PORT-16).

STATUS_TIMEOUT is a success code, and the buffer then holds what it held before. A structure or a block from pool that
was given to FltSendMessage is watched from that moment: reading it before it is written is a finding. As with freed
memory its class changes, so that nothing is asked of a buffer that is as it should be. Bytes of Python's own cannot be
watched.
"""

from __future__ import annotations

from typing import Any

from kemu.nt.buffer import Bytes, Copied, Fields, Pointer, Region, check_bounds, span_of
from kemu.nt.structure import WRITE, Structure, fields_of
from kemu.nt.system import report
from kemu.runtime import current_thread

_INTERNAL = "_unanswered"


class Unanswered(Structure):
    """Base of the classes that watched buffers are of: `_unanswered` is which of their fields, or which bytes."""

    def __getattribute__(self, name: str) -> Any:
        if name[:1] != "_":
            fields = object.__getattribute__(self, "__dict__").get(_INTERNAL, ())
            if name in fields:
                _used(f"reads .{name}")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: object) -> None:
        fields = self.__dict__.get(_INTERNAL, ())
        if name in fields:
            fields.discard(name)
        super().__setattr__(name, value)

    def region_fetch(self, offset: int, length: int) -> Copied:
        """As a block of bytes; a structure is read by its fields."""
        start, end = self.__dict__[_INTERNAL]
        if offset < end and start < offset + length:
            _used(f"reads [{offset}:{offset + length}]")
        return super().region_fetch(offset, length)  # type: ignore[misc]

    def region_put(self, offset: int, copied: Copied) -> None:
        """Likewise. What is written anew is the driver's own again, and the rest as well: nobody fills it in halves."""
        answered(self)
        self.region_put(offset, copied)


def _used(what: str) -> None:
    report(
        "port-timeout-as-success",
        f"{current_thread().label} {what} of the reply buffer after FltSendMessage returned STATUS_TIMEOUT: no reply "
        "has come, and STATUS_TIMEOUT is a success code",
    )


def unanswered(buffer: Any, length: int) -> None:
    """*buffer*, which was to receive *length* bytes, has received none."""
    region, offset = span_of(buffer, "FltSendMessage", "ReplyBuffer", WRITE)
    if isinstance(region, Bytes):
        block: Structure = region
        what: Any = (offset, offset + length)
    elif isinstance(region, Fields):
        block = region.structure
        what = {
            slot.name for slot in region.slots if slot.offset < offset + length and offset < slot.offset + slot.size
        }
        what &= set(fields_of(type(block)))
    else:
        return
    kind = type(block)
    block.__dict__[_INTERNAL] = what
    object.__setattr__(block, "__class__", _watched_class(kind))


def _watched_class(kind: type[Structure]) -> type[Structure]:
    """The class of a buffer of class *kind* while it is watched."""
    twin: type[Structure] | None = kind.__dict__.get("_watched_twin")
    if twin is None:
        more = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_watched": kind}
        twin = type(kind.__name__, (Unanswered, kind), more)
        type.__setattr__(kind, "_watched_twin", twin)
    return twin


def answered(buffer: Any) -> None:
    """Watch *buffer* no longer, if it is watched."""
    block: Any = buffer.region if isinstance(buffer, Pointer) else buffer
    if isinstance(block, Unanswered):
        del block.__dict__[_INTERNAL]
        block.__class__ = type(block).__dict__["_watched"]


def put(buffer: Any, data: bytes) -> None:
    """Write an answer to *buffer*, as the thread that has waited for it."""
    if data:
        region, offset = span_of(buffer, "FltSendMessage", "ReplyBuffer", WRITE)
        if check_bounds(region, offset, len(data), WRITE, "FltSendMessage"):
            region.region_put(offset, Copied(data))


def fetch(buffer: Any, length: int) -> bytes:
    """The bytes of a message, as the calling thread reads them."""
    region: Region
    region, offset = span_of(buffer, "FltSendMessage", "SenderBuffer", 0)
    if not length or not check_bounds(region, offset, length, 0, "FltSendMessage"):
        return b""
    copied = region.region_fetch(offset, length)
    if copied.unwritten():
        report("ke.uninit-leak", f"{current_thread().label} sends bytes that were never written to a program")
    return copied.data
