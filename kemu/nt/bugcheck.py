"""Bug checks: the codes that kemu raises, and the value that says which one stopped a run, and why.

Everybody above ``kemu.runtime`` may use this module. A bug check is a value, never an exception: a driver
would catch that (see ``kemu.errors``). The names are bugcodes.h's; what the parameters mean is on the page of
each code in the driver documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_names: dict[int, str] = {}


class BugCheckCode(int):
    """A bug check code; prints as ``0xF5 FLTMGR_FILE_SYSTEM``, or as the number when it has no name.

    A driver may stop the system with a code of its own, so any 32-bit value is a code.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name in bugcodes.h; empty when kemu knows none."""
        return _names.get(self, "")

    def __repr__(self) -> str:
        return f"0x{int(self):02X} {self.name}".rstrip()

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class BugCheck:
    """One stop of the system: its code, up to four parameters as documented for that code, and why in words.

    Missing parameters are 0, as on the real system.
    """

    code: BugCheckCode
    parameters: tuple[int, ...] = ()
    text: str = ""

    def __post_init__(self) -> None:
        if len(self.parameters) > 4:
            raise ValueError(f"a bug check has at most four parameters, not {len(self.parameters)}")

    def __str__(self) -> str:
        """One line that begins as a debugger's: ``BugCheck F5, {6e, 1000, 0, 0} FLTMGR_FILE_SYSTEM: why``."""
        padded = (*self.parameters, 0, 0, 0, 0)[:4]
        # A parameter is a pointer-sized unsigned number there; -1 prints as its bits.
        shown = ", ".join(f"{value & 0xFFFFFFFFFFFFFFFF:x}" for value in padded)
        line = f"BugCheck {int(self.code):X}, {{{shown}}}"
        if self.code.name:
            line += f" {self.code.name}"
        return f"{line}: {self.text}" if self.text else line


APC_INDEX_MISMATCH: Final = BugCheckCode(0x01)
INVALID_PROCESS_ATTACH_ATTEMPT: Final = BugCheckCode(0x05)
INVALID_PROCESS_DETACH_ATTEMPT: Final = BugCheckCode(0x06)
IRQL_NOT_GREATER_OR_EQUAL: Final = BugCheckCode(0x09)
IRQL_NOT_LESS_OR_EQUAL: Final = BugCheckCode(0x0A)
MAXIMUM_WAIT_OBJECTS_EXCEEDED: Final = BugCheckCode(0x0C)
SPIN_LOCK_ALREADY_OWNED: Final = BugCheckCode(0x0F)
SPIN_LOCK_NOT_OWNED: Final = BugCheckCode(0x10)
THREAD_NOT_MUTEX_OWNER: Final = BugCheckCode(0x11)
REFERENCE_BY_POINTER: Final = BugCheckCode(0x18)
BAD_POOL_HEADER: Final = BugCheckCode(0x19)
KMODE_EXCEPTION_NOT_HANDLED: Final = BugCheckCode(0x1E)
KERNEL_APC_PENDING_DURING_EXIT: Final = BugCheckCode(0x20)
NO_MORE_IRP_STACK_LOCATIONS: Final = BugCheckCode(0x35)
DEVICE_REFERENCE_COUNT_NOT_ZERO: Final = BugCheckCode(0x36)
SYSTEM_EXIT_OWNED_MUTEX: Final = BugCheckCode(0x39)
SYSTEM_SERVICE_EXCEPTION: Final = BugCheckCode(0x3B)
MULTIPLE_IRP_COMPLETE_REQUESTS: Final = BugCheckCode(0x44)
CANCEL_STATE_IN_COMPLETED_IRP: Final = BugCheckCode(0x48)
IRQL_GT_ZERO_AT_SYSTEM_SERVICE: Final = BugCheckCode(0x4A)
PAGE_FAULT_IN_NONPAGED_AREA: Final = BugCheckCode(0x50)
SYSTEM_THREAD_EXCEPTION_NOT_HANDLED: Final = BugCheckCode(0x7E)
UNEXPECTED_KERNEL_MODE_TRAP: Final = BugCheckCode(0x7F)
KERNEL_MODE_EXCEPTION_NOT_HANDLED: Final = BugCheckCode(0x8E)
INVALID_KERNEL_HANDLE: Final = BugCheckCode(0x93)
INVALID_WORK_QUEUE_ITEM: Final = BugCheckCode(0x96)
ATTEMPTED_SWITCH_FROM_DPC: Final = BugCheckCode(0xB8)
MUTEX_ALREADY_OWNED: Final = BugCheckCode(0xBF)
SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION: Final = BugCheckCode(0xC1)
BAD_POOL_CALLER: Final = BugCheckCode(0xC2)
DRIVER_VERIFIER_DETECTED_VIOLATION: Final = BugCheckCode(0xC4)
DRIVER_CORRUPTED_EXPOOL: Final = BugCheckCode(0xC5)
DRIVER_CAUGHT_MODIFYING_FREED_POOL: Final = BugCheckCode(0xC6)
TIMER_OR_DPC_INVALID: Final = BugCheckCode(0xC7)
IRQL_UNEXPECTED_VALUE: Final = BugCheckCode(0xC8)
DRIVER_VERIFIER_IOMANAGER_VIOLATION: Final = BugCheckCode(0xC9)
DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS: Final = BugCheckCode(0xCB)
PAGE_FAULT_IN_FREED_SPECIAL_POOL: Final = BugCheckCode(0xCC)
PAGE_FAULT_BEYOND_END_OF_ALLOCATION: Final = BugCheckCode(0xCD)
DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS: Final = BugCheckCode(0xCE)
DRIVER_CORRUPTED_MMPOOL: Final = BugCheckCode(0xD0)
DRIVER_IRQL_NOT_LESS_OR_EQUAL: Final = BugCheckCode(0xD1)
DRIVER_PORTION_MUST_BE_NONPAGED: Final = BugCheckCode(0xD3)
SYSTEM_SCAN_AT_RAISED_IRQL_CAUGHT_IMPROPER_DRIVER_UNLOAD: Final = BugCheckCode(0xD4)
DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL: Final = BugCheckCode(0xD5)
DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION: Final = BugCheckCode(0xD6)
IMPERSONATING_WORKER_THREAD: Final = BugCheckCode(0xDF)
WORKER_THREAD_RETURNED_AT_BAD_IRQL: Final = BugCheckCode(0xE1)
RESOURCE_NOT_OWNED: Final = BugCheckCode(0xE3)
WORKER_INVALID: Final = BugCheckCode(0xE4)
ACTIVE_EX_WORKER_THREAD_TERMINATION: Final = BugCheckCode(0xE9)
FLTMGR_FILE_SYSTEM: Final = BugCheckCode(0xF5)
ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY: Final = BugCheckCode(0xFC)
DRIVER_RETURNED_HOLDING_CANCEL_LOCK: Final = BugCheckCode(0x11B)
DRIVER_VIOLATION: Final = BugCheckCode(0x121)
RESOURCE_OWNER_POINTER_INVALID: Final = BugCheckCode(0x132)
DPC_WATCHDOG_VIOLATION: Final = BugCheckCode(0x133)
REGISTRY_FILTER_DRIVER_EXCEPTION: Final = BugCheckCode(0x135)
KERNEL_SECURITY_CHECK_FAILURE: Final = BugCheckCode(0x139)
INVALID_PUSH_LOCK_FLAGS: Final = BugCheckCode(0x152)
KERNEL_LOCK_ENTRY_LEAKED_ON_THREAD_TERMINATION: Final = BugCheckCode(0x153)
KERNEL_AUTO_BOOST_INVALID_LOCK_RELEASE: Final = BugCheckCode(0x162)
INVALID_RUNDOWN_PROTECTION_FLAGS: Final = BugCheckCode(0x16C)
ERESOURCE_INVALID_RELEASE: Final = BugCheckCode(0x16E)
KERNEL_AUTO_BOOST_LOCK_ACQUISITION_WITH_RAISED_IRQL: Final = BugCheckCode(0x192)
WFP_INVALID_OPERATION: Final = BugCheckCode(0x1D3)
THREAD_TERMINATE_HELD_MUTEX: Final = BugCheckCode(0x4000008A)

_names.update((value, name) for name, value in list(globals().items()) if isinstance(value, BugCheckCode))
