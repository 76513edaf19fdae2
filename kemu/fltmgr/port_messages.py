"""What stands in front of a message, and of its answer, in a program's memory (fltuserstructures.h).

They are structures of `ctypes`, so that a program declares its own messages as in C, sizes and padding included:

    class SCAN_REPLY(Structure):
        _fields_ = [("Header", FILTER_REPLY_HEADER), ("SafeToOpen", c_uint8)]

``bytes(header)`` are its bytes, and ``FILTER_MESSAGE_HEADER.from_buffer_copy(buffer)`` reads them.
"""

from __future__ import annotations

from ctypes import LittleEndianStructure, c_int32, c_uint32, c_uint64
from typing import TYPE_CHECKING, ClassVar, Final

FLT_PORT_FLAG_SYNC_HANDLE: Final = 0x1
"""FilterConnectCommunicationPort makes a handle for synchronous I/O: its calls come one after another."""


class FILTER_MESSAGE_HEADER(LittleEndianStructure):
    """In front of a message: how long the reply is to be with its header, 0 if none is expected, and an identifier."""

    _fields_: ClassVar = [("ReplyLength", c_uint32), ("MessageId", c_uint64)]

    if TYPE_CHECKING:
        ReplyLength: int
        MessageId: int


class FILTER_REPLY_HEADER(LittleEndianStructure):
    """In front of a reply: the status that FltSendMessage is to return, and the identifier of the message."""

    _fields_: ClassVar = [("Status", c_int32), ("MessageId", c_uint64)]

    if TYPE_CHECKING:
        Status: int
        MessageId: int
