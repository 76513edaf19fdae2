"""Access masks: the rights of each type of object, and what a requested mask comes to (wdm.h, winnt.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DELETE: Final = 0x00010000
READ_CONTROL: Final = 0x00020000
WRITE_DAC: Final = 0x00040000
WRITE_OWNER: Final = 0x00080000
SYNCHRONIZE: Final = 0x00100000
STANDARD_RIGHTS_REQUIRED: Final = 0x000F0000
STANDARD_RIGHTS_ALL: Final = 0x001F0000
ACCESS_SYSTEM_SECURITY: Final = 0x01000000
MAXIMUM_ALLOWED: Final = 0x02000000
GENERIC_ALL: Final = 0x10000000
GENERIC_EXECUTE: Final = 0x20000000
GENERIC_WRITE: Final = 0x40000000
GENERIC_READ: Final = 0x80000000

PROCESS_TERMINATE: Final = 0x0001
PROCESS_CREATE_THREAD: Final = 0x0002
PROCESS_SET_SESSIONID: Final = 0x0004
PROCESS_VM_OPERATION: Final = 0x0008
PROCESS_VM_READ: Final = 0x0010
PROCESS_VM_WRITE: Final = 0x0020
PROCESS_DUP_HANDLE: Final = 0x0040
PROCESS_CREATE_PROCESS: Final = 0x0080
PROCESS_SET_QUOTA: Final = 0x0100
PROCESS_SET_INFORMATION: Final = 0x0200
PROCESS_QUERY_INFORMATION: Final = 0x0400
PROCESS_SUSPEND_RESUME: Final = 0x0800
PROCESS_QUERY_LIMITED_INFORMATION: Final = 0x1000
PROCESS_SET_LIMITED_INFORMATION: Final = 0x2000
PROCESS_ALL_ACCESS: Final = 0x1FFFFF

THREAD_TERMINATE: Final = 0x0001
THREAD_SUSPEND_RESUME: Final = 0x0002
THREAD_GET_CONTEXT: Final = 0x0008
THREAD_SET_CONTEXT: Final = 0x0010
THREAD_SET_INFORMATION: Final = 0x0020
THREAD_QUERY_INFORMATION: Final = 0x0040
THREAD_SET_THREAD_TOKEN: Final = 0x0080
THREAD_IMPERSONATE: Final = 0x0100
THREAD_DIRECT_IMPERSONATION: Final = 0x0200
THREAD_SET_LIMITED_INFORMATION: Final = 0x0400
THREAD_QUERY_LIMITED_INFORMATION: Final = 0x0800
THREAD_RESUME: Final = 0x1000
THREAD_ALL_ACCESS: Final = 0x1FFFFF

EVENT_QUERY_STATE: Final = 0x0001
EVENT_MODIFY_STATE: Final = 0x0002
EVENT_ALL_ACCESS: Final = 0x1F0003


@dataclass(frozen=True, slots=True)
class Rights:
    """What a mask may ask for of one type of object: all rights, what the generic ones stand for, what one right
    grants besides itself.
    """

    all: int
    read: int
    write: int
    execute: int
    implied: tuple[tuple[int, int], ...] = ()

    def mapped(self, mask: int) -> int:
        """*mask* with its generic rights replaced by what they stand for here (RtlMapGenericMask)."""
        for generic, specific in (
            (GENERIC_READ, self.read),
            (GENERIC_WRITE, self.write),
            (GENERIC_EXECUTE, self.execute),
            (GENERIC_ALL, self.all),
        ):
            if mask & generic:
                mask = mask & ~generic | specific
        return mask

    def is_valid(self, mask: int) -> bool:
        """Whether all of *mask* means something for this type."""
        return not self.mapped(mask) & ~(self.all | MAXIMUM_ALLOWED | ACCESS_SYSTEM_SECURITY)

    def granted(self, mask: int) -> int:
        """What a handle is granted that asks for *mask* and is refused nothing."""
        mask = self.mapped(mask)
        if mask & MAXIMUM_ALLOWED:
            mask = mask & ~MAXIMUM_ALLOWED | self.all
        for right, more in self.implied:
            if mask & right:
                mask |= more
        return mask


PROCESS_RIGHTS: Final = Rights(
    PROCESS_ALL_ACCESS,
    READ_CONTROL | PROCESS_VM_READ | PROCESS_QUERY_INFORMATION,
    READ_CONTROL | 0x0BEA,
    READ_CONTROL | SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_TERMINATE,
    ((PROCESS_QUERY_INFORMATION, PROCESS_QUERY_LIMITED_INFORMATION),),
)
THREAD_RIGHTS: Final = Rights(
    THREAD_ALL_ACCESS,
    READ_CONTROL | THREAD_GET_CONTEXT | THREAD_QUERY_INFORMATION,
    READ_CONTROL | THREAD_TERMINATE | THREAD_SUSPEND_RESUME | THREAD_SET_CONTEXT | THREAD_SET_INFORMATION | 0x0004,
    READ_CONTROL | SYNCHRONIZE | THREAD_RESUME | THREAD_QUERY_LIMITED_INFORMATION,
    (
        (THREAD_QUERY_INFORMATION, THREAD_QUERY_LIMITED_INFORMATION),
        (THREAD_SET_INFORMATION, THREAD_SET_LIMITED_INFORMATION),
    ),
)
EVENT_RIGHTS: Final = Rights(
    EVENT_ALL_ACCESS,
    READ_CONTROL | EVENT_QUERY_STATE,
    READ_CONTROL | EVENT_MODIFY_STATE,
    READ_CONTROL | SYNCHRONIZE,
)
PLAIN_RIGHTS: Final = Rights(STANDARD_RIGHTS_ALL | 0xFFFF, READ_CONTROL | 0xFFFF, READ_CONTROL | 0xFFFF, READ_CONTROL)
"""Of types whose own rights nothing in kemu asks for."""
