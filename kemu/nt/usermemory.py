"""Memory of user processes, as a driver sees it (KE-CTX-04).

It means something in its own process only, its owner may change it or take it away at any time, and every access may
raise. A driver probes it, reads it once, and does both where it handles exceptions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, Final

from kemu.nt.allocation import place
from kemu.nt.buffer import Copied, Pointer, Region
from kemu.nt.bugcheck import DRIVER_IRQL_NOT_LESS_OR_EQUAL, PAGE_FAULT_IN_NONPAGED_AREA, BugCheck
from kemu.nt.driver import DriverActor, current_driver, in_driver
from kemu.nt.exception import raise_status
from kemu.nt.kthread import APC_LEVEL, KThread, current_kthread, irql_name
from kemu.nt.process import Process
from kemu.nt.routine import routine
from kemu.nt.status import STATUS_ACCESS_VIOLATION, STATUS_DATATYPE_MISALIGNMENT
from kemu.nt.structure import READ, WRITE
from kemu.nt.system import refuse, report
from kemu.runtime import Cell, Operation, Thread
from kemu.runtime.site import Site, here

ALIGNMENTS: Final = (1, 2, 4, 8, 16)
CALLS: Final = {in_driver.__code__}
"""The functions that call into drivers on behalf of one request."""

Span = tuple[int, int]


class UserBuffer(Cell, Region):
    """Some bytes in a process. The program itself uses the awaited methods, a driver ``buffer[0:4]`` and the Rtl
    routines.
    """

    __slots__ = ("content", "fetched", "guard", "is_mapped", "is_writable", "probed", "process")

    is_user_memory: ClassVar[bool] = True

    def __init__(
        self, process: Process, content: bytes, *, is_writable: bool = True, creator: Thread | None = None
    ) -> None:
        super().__init__(creator or process.creator, f"a user buffer of {process.label}")
        self.filled(process, content, is_writable=is_writable)

    def filled(self, process: Process, content: bytes, *, is_writable: bool = True) -> None:
        """Be memory of *process* with that *content*."""
        self.process = process
        self.content = bytearray(content)
        self.is_writable = is_writable
        self.is_mapped = True
        self.probed: list[tuple[Thread, DriverActor, int, Span]] = []
        """Who has probed which part, for which access."""
        self.fetched: list[tuple[FrameType | None, DriverActor, Span, Site | None]] = []
        """In which call of which driver which part was read, and where."""
        self.guard: Callable[[KThread], None] | None = None
        """What looks at accesses of drivers, of memory that was passed to one for the time of a call only."""

    # What the program does.

    async def load(self, offset: int, length: int) -> bytes:
        """Read some of it, as the program; a place where others may come in before."""
        return await UserLoad(self, offset, length)

    async def store(self, offset: int, data: bytes) -> None:
        """Write some of it, as the program; a place where others may come in before."""
        await UserStore(self, offset, data)

    async def unmap(self) -> None:
        """Give the memory back, as VirtualFree does; a place where others may come in before."""
        await Unmap(self)

    # What a driver does.

    def region_length(self) -> int:
        return len(self.content)

    def region_label(self) -> str:
        return self.label

    def region_outside(self, offset: int, length: int, access: int, name: str) -> None:
        thread = current_kthread()
        thread.read(self)
        self._checked(thread, access)
        raise_status(STATUS_ACCESS_VIOLATION, name or "an access to user memory")

    def region_fetch(self, offset: int, length: int) -> Copied:
        thread = current_kthread()
        if thread.runtime.looking:
            return Copied(bytes(self.content[offset : offset + length]))
        thread.read(self)
        driver = self._checked(thread, READ)
        if driver is not None:
            span = (offset, offset + length)
            self._check_probe(thread, driver, READ, span)
            self._check_fetch(thread, driver, span)
        return Copied(bytes(self.content[offset : offset + length]))

    def region_put(self, offset: int, copied: Copied) -> None:
        thread = current_kthread()
        thread.write(self)
        driver = self._checked(thread, WRITE)
        if driver is not None:
            self._check_probe(thread, driver, WRITE, (offset, offset + len(copied.data)))
            if copied.unwritten():
                report("ke.uninit-leak", f"{driver} copies bytes that were never written to {self.label}")
        self.content[offset : offset + len(copied.data)] = copied.data

    def _checked(self, thread: KThread, access: int) -> DriverActor | None:
        """The driver that accesses the memory; None if it is the program itself."""
        driver = current_driver()
        if thread.process is not self.process:
            self.used_elsewhere(thread, access)
        if thread.irql > APC_LEVEL:
            verb = "writes" if access else "reads"
            report(
                "ke.paged",
                f"{thread.label} {verb} {self.label}, which may be paged out, at {irql_name(thread.irql)}",
                BugCheck(DRIVER_IRQL_NOT_LESS_OR_EQUAL, (0, thread.irql, access)),
            )
        if self.guard is not None and driver is not None:
            self.guard(thread)
        if not self.is_mapped or (access and not self.is_writable):
            raise_status(STATUS_ACCESS_VIOLATION, "an access to user memory")
        return driver

    def used_elsewhere(self, thread: KThread, access: int) -> None:
        """*thread* takes an address in another process than its own for one of its own (KE-CTX-04)."""
        owner = "no process" if thread.process is None else thread.process.label
        report(
            "ke.user-va-context",
            f"{thread.label}, in {owner}, {'writes' if access else 'reads'} {self.label}",
            BugCheck(PAGE_FAULT_IN_NONPAGED_AREA, (0, 2 * access, 0, 0xF)),
        )

    def _check_probe(self, thread: Thread, driver: DriverActor, access: int, span: Span) -> None:
        for who, what, how, (start, end) in self.probed:
            if who is thread and what is driver and how >= access and start <= span[0] and span[1] <= end:
                return
        needed = "ProbeForWrite" if access else "ProbeForRead"
        report(
            "ke.user-unprobed",
            f"{driver} accesses bytes {span[0]} to {span[1]} of {self.label}, which it has not passed to {needed}",
        )

    def _check_fetch(self, thread: Thread, driver: DriverActor, span: Span) -> None:
        call = _call_of_driver()
        site = here(thread)
        for other, who, (start, end), before in self.fetched:
            if other is call and who is driver and start < span[1] and span[0] < end:
                report(
                    "ke.double-fetch",
                    f"{thread.label} reads bytes {span[0]} to {span[1]} of {self.label} at {place(site)}, and has read "
                    f"bytes {start} to {end} at {place(before)}: the program may have changed them in between",
                )
                return
        self.fetched.append((call, driver, span, site))


def _call_of_driver() -> FrameType | None:
    """The outermost call into a driver that the running thread is in: one system call, as far as drivers are
    concerned.
    """
    found: FrameType | None = None
    frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code in CALLS:
            found = frame
        frame = frame.f_back
    return found


class UserOperation(Operation[Any]):
    """Base of what a program does to its own memory."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: UserBuffer) -> None:
        self.buffer = buffer

    def target(self) -> Cell:
        return self.buffer


class UserLoad(UserOperation):
    """Read bytes."""

    __slots__ = ("length", "offset")
    kind = "load from"

    def __init__(self, buffer: UserBuffer, offset: int, length: int) -> None:
        super().__init__(buffer)
        self.offset = offset
        self.length = length

    def perform(self, thread: Thread) -> bytes:
        thread.read(self.buffer)
        return bytes(self.buffer.content[self.offset : self.offset + self.length])


class UserStore(UserOperation):
    """Write bytes."""

    __slots__ = ("data", "offset")
    kind = "store to"

    def __init__(self, buffer: UserBuffer, offset: int, data: bytes) -> None:
        super().__init__(buffer)
        self.offset = offset
        self.data = data

    def perform(self, thread: Thread) -> None:
        thread.write(self.buffer)
        self.buffer.content[self.offset : self.offset + len(self.data)] = self.data


class Unmap(UserOperation):
    """Give the memory back."""

    __slots__ = ()
    kind = "unmap"

    def perform(self, thread: Thread) -> None:
        thread.write(self.buffer)
        self.buffer.is_mapped = False


# Probing.


def _probe(name: str, address: Any, length: int, alignment: int, access: int) -> None:
    if alignment not in ALIGNMENTS:
        refuse(f"{name} with Alignment {alignment!r}", remedy="give 1, 2, 4, 8 or 16")
    if not length:
        # Nothing is looked at, and nothing is probed.
        return
    pointer = address if isinstance(address, Pointer) else Pointer(address, 0)
    buffer, offset = pointer.region, pointer.offset
    if offset % alignment:
        raise_status(STATUS_DATATYPE_MISALIGNMENT, name)
    if address is None and not access:
        # NULL is below the end of user memory; that nothing is there shows when it is read.
        return
    if not isinstance(buffer, UserBuffer) or length < 0:
        raise_status(STATUS_ACCESS_VIOLATION, name)
    thread = current_kthread()
    if access:
        # It touches every page.
        thread.write(buffer)
        buffer._checked(thread, WRITE)  # pyright: ignore[reportPrivateUsage]
        if offset < 0 or offset + length > len(buffer.content):
            raise_status(STATUS_ACCESS_VIOLATION, name)
    driver = current_driver()
    if driver is not None:
        buffer.probed.append((thread, driver, access, (offset, offset + length)))


@routine(
    "wdm",
    "VOID ProbeForRead(_In_ const volatile VOID *Address, _In_ SIZE_T Length, _In_ ULONG Alignment)",
    max_irql=APC_LEVEL,
)
def ProbeForRead(Address: Any, Length: int, Alignment: int) -> None:
    """Make sure that *Address* is one of user memory. IRQL: <= APC_LEVEL.

    Raises STATUS_ACCESS_VIOLATION for a kernel address and STATUS_DATATYPE_MISALIGNMENT; with a *Length* of 0 nothing
    is probed. Whether the memory is there shows only when it is read (KE-CTX-04).
    """
    _probe("ProbeForRead", Address, Length, Alignment, READ)


@routine(
    "wdm",
    "VOID ProbeForWrite(_Inout_ volatile VOID *Address, _In_ SIZE_T Length, _In_ ULONG Alignment)",
    max_irql=APC_LEVEL,
)
def ProbeForWrite(Address: Any, Length: int, Alignment: int) -> None:
    """Make sure that *Address* is one of user memory that can be written now. IRQL: <= APC_LEVEL.

    Raises what ProbeForRead does, and STATUS_ACCESS_VIOLATION for memory that is not there or cannot be written. It may
    be gone the next moment (KE-CTX-04).
    """
    _probe("ProbeForWrite", Address, Length, Alignment, WRITE)
