"""ntifs.h: attaching to processes."""

from kemu.nt.context import (
    KAPC_STATE,
    KeStackAttachProcess,
    KeUnstackDetachProcess,
)

__all__ = [
    "KAPC_STATE",
    "KeStackAttachProcess",
    "KeUnstackDetachProcess",
]
