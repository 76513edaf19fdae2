"""fltuserstructures.h: the headers of messages between minifilters and user programs."""

from kemu.fltmgr.port_messages import (
    FILTER_MESSAGE_HEADER,
    FILTER_REPLY_HEADER,
    FLT_PORT_FLAG_SYNC_HANDLE,
)

__all__ = [
    "FILTER_MESSAGE_HEADER",
    "FILTER_REPLY_HEADER",
    "FLT_PORT_FLAG_SYNC_HANDLE",
]
