"""Memory descriptor lists: the pages of a buffer, and a way to them in any process and at any IRQL (KE-CTX-04).

An MDL over user memory is filled by locking the pages: from then on they stay, whatever the program does, and a system
address for them may be used where the program's own address may not. One over nonpaged pool only has to be built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kemu.nt.allocation import Allocation, place
from kemu.nt.buffer import Copied, Pointer, Region, allocation_of, check_bounds, span_of
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.exception import raise_status
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.process import KernelMode
from kemu.nt.routine import KernelObject, routine
from kemu.nt.status import STATUS_ACCESS_VIOLATION
from kemu.nt.structure import READ, WRITE
from kemu.nt.system import Leftover, current_system, refuse, report, resources_fail
from kemu.nt.usermemory import UserBuffer
from kemu.runtime import Cell, Operation, Thread
from kemu.runtime.site import Site, here

NormalPagePriority: Final = 16
HighPagePriority: Final = 32
MdlMappingNoExecute: Final = 0x40000000

IoReadAccess: Final = 0
IoWriteAccess: Final = 1
IoModifyAccess: Final = 2

ALLOCATED: Final = 0
"""It describes no pages yet."""
BUILT: Final = 1
LOCKED: Final = 2


class MDL(KernelObject):
    """A memory descriptor list. What a driver may use of it are the routines; the I/O manager makes its own."""

    __slots__ = (
        "buffer",
        "cell",
        "driver",
        "freed",
        "keeper",
        "length",
        "offset",
        "region",
        "site",
        "state",
    )

    def __init__(
        self,
        buffer: bytearray | None = None,
        *,
        region: Region | None = None,
        offset: int = 0,
        length: int = 0,
        cell: Cell | None = None,
        keeper: str = "",
        state: int = LOCKED,
    ) -> None:
        self.buffer: Any = buffer
        """The bytes of a buffer that is none of a region's."""
        self.region = region
        self.offset = offset
        self.length = length if buffer is None else len(buffer)
        self.cell = cell
        """What a footprint has of it; None for that of an IRP, which goes with the IRP."""
        self.keeper = keeper
        """Who frees it, if that is not the driver which has it."""
        self.state = state
        self.freed = ""
        """Who has freed it, and where."""
        self.driver: DriverActor | None = None
        """The driver that has allocated it."""
        self.site: Site | None = None

    def describe(self) -> str:
        """Words for a finding."""
        region = self.region
        allocation = allocation_of(region)
        # The buffer itself may be gone.
        what = "a buffer" if region is None else region.region_label() if allocation is None else allocation.describe()
        return f"the MDL of {what}" + (f", allocated at {place(self.site)}" if self.site is not None else "")

    def covers(self, value: Any) -> bool:
        """Whether it describes the memory that *value*, a buffer or a pointer into one, begins with."""
        region, offset = region_of(value)
        return region is not None and region is self.region and offset == self.offset

    def used(self, what: str) -> None:
        """The calling thread uses it."""
        if self.cell is not None:
            current_kthread().read(self.cell)
        if self.freed:
            report("ke.use-after-free", f"{current_kthread().label} {what} {self.describe()}, freed by {self.freed}")


class Mdls:
    """The MDLs that drivers have allocated and not freed, oldest first."""

    def __init__(self) -> None:
        self.alive: dict[MDL, None] = {}

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """Those that *driver* has not freed, and that nobody frees for it (FLT-BUF-10)."""
        for mdl in self.alive:
            if mdl.driver is driver:
                yield Leftover("mdl-leak", mdl.describe())


class Mapped(Region):
    """System addresses for the pages of an MDL: good in every process and up to DISPATCH_LEVEL."""

    __slots__ = ("mdl",)

    def __init__(self, mdl: MDL) -> None:
        self.mdl = mdl

    def region_length(self) -> int:
        return self.mdl.length

    def region_label(self) -> str:
        region = self.mdl.region
        assert region is not None
        return f"the locked pages of {region.region_label()}"

    def region_fetch(self, offset: int, length: int) -> Copied:
        start = self.mdl.offset + offset
        content = self._memory(READ)
        return Copied(bytes(content[start : start + length]))

    def region_put(self, offset: int, copied: Copied) -> None:
        start = self.mdl.offset + offset
        self._memory(WRITE)[start : start + len(copied.data)] = copied.data

    def _memory(self, access: int) -> bytearray:
        mdl = self.mdl
        region = mdl.region
        assert isinstance(region, UserBuffer)
        thread = current_kthread()
        if thread.runtime.looking:
            return region.content
        mdl.used("accesses the pages of")
        (thread.write if access else thread.read)(region)
        return region.content


def region_of(value: Any) -> tuple[Region | None, int]:
    """The region that *value*, a buffer or a pointer, is or points into, and where; None if it is neither."""
    if isinstance(value, Pointer):
        return value.region, value.offset
    return (value, 0) if isinstance(value, Region) else (None, 0)


def is_pageable(region: Region) -> bool:
    """Whether *region* may be paged out."""
    if isinstance(region, UserBuffer):
        return True
    allocation: Allocation | None = allocation_of(region)
    return allocation is not None and allocation.is_paged


def map_mdl(mdl: MDL) -> Any:
    """A system address for the pages of *mdl*."""
    region = mdl.region
    if region is None:
        return mdl.buffer
    if isinstance(region, UserBuffer):
        return Mapped(mdl)
    return Pointer(region, mdl.offset) if mdl.offset else region


@routine(
    "wdm",
    "PVOID MmGetSystemAddressForMdlSafe(_In_ PMDL Mdl, _In_ ULONG Priority)",
    max_irql=DISPATCH_LEVEL,
)
def MmGetSystemAddressForMdlSafe(Mdl: MDL, Priority: int) -> Any:
    """An address for the pages of an MDL that is good everywhere, or None where low resources are explored.

    IRQL: <= DISPATCH_LEVEL. A driver that follows the None: finding ``mdl-map-null-unchecked`` (FLT-BUF-16).
    """
    Mdl.used("maps the pages of")
    if Mdl.state == ALLOCATED:
        report("ke.uninitialised", f"MmGetSystemAddressForMdlSafe of {Mdl.describe()}, which describes no pages yet")
    if resources_fail("MmGetSystemAddressForMdlSafe"):
        thread = current_kthread()
        thread.unmapped = f"{Mdl.describe()}, at {place(here(thread))}"
        return None
    return map_mdl(Mdl)


@routine("wdm", "ULONG MmGetMdlByteCount(_In_ PMDL Mdl)")
def MmGetMdlByteCount(Mdl: MDL) -> int:
    """How many bytes an MDL describes. IRQL: any."""
    Mdl.used("looks at")
    return Mdl.length


@routine(
    "wdm",
    """PMDL IoAllocateMdl(_In_opt_ PVOID VirtualAddress, _In_ ULONG Length, _In_ BOOLEAN SecondaryBuffer,
       _In_ BOOLEAN ChargeQuota, _Inout_opt_ PIRP Irp)""",
    max_irql=DISPATCH_LEVEL,
)
async def IoAllocateMdl(
    VirtualAddress: Any, Length: int, SecondaryBuffer: bool, ChargeQuota: bool, Irp: None
) -> MDL | None:
    """Allocate an MDL for a buffer, or None where low resources are explored; it has to be filled before it is used.

    IRQL: <= DISPATCH_LEVEL. *Irp* must be None: a minifilter has no IRP to put it into.
    """
    if Irp is not None or SecondaryBuffer:
        refuse("IoAllocateMdl for an IRP", remedy="pass None, and put the MDL where it is needed")
    if resources_fail("IoAllocateMdl"):
        return None
    region, offset = span_of(VirtualAddress, "IoAllocateMdl", "VirtualAddress", READ)
    thread = current_kthread()
    mdl = MDL(region=region, offset=offset, length=Length, cell=Cell(thread, f"MDL of {thread.label}"), state=ALLOCATED)
    mdl.driver, mdl.site = current_driver(), here(thread)
    current_system().get(Mdls).alive[mdl] = None
    return mdl


@routine("wdm", "VOID MmBuildMdlForNonPagedPool(_Inout_ PMDL MemoryDescriptorList)", max_irql=DISPATCH_LEVEL)
def MmBuildMdlForNonPagedPool(MemoryDescriptorList: MDL) -> None:
    """Fill in an MDL of nonpaged pool. IRQL: <= DISPATCH_LEVEL. Of other memory: finding ``ke.paged``."""
    mdl = MemoryDescriptorList
    mdl.used("builds")
    region = mdl.region
    if region is not None and is_pageable(region):
        report("ke.paged", f"MmBuildMdlForNonPagedPool of {mdl.describe()}, which may be paged out")
    elif region is not None:
        check_bounds(region, mdl.offset, mdl.length, READ, "MmBuildMdlForNonPagedPool")
    mdl.state = BUILT


def lock_ceiling(MemoryDescriptorList: MDL, AccessMode: int, Operation: int) -> int:
    """<= APC_LEVEL; <= DISPATCH_LEVEL for nonpaged memory."""
    region = getattr(MemoryDescriptorList, "region", None)
    return APC_LEVEL if region is None or is_pageable(region) else DISPATCH_LEVEL


class LockPages(Operation[bool]):
    """Lock the pages of a buffer; false if they are not there."""

    __slots__ = ("mdl", "region", "writes")
    kind = "lock the pages of"

    def __init__(self, mdl: MDL, region: Cell, *, writes: bool) -> None:
        self.mdl = mdl
        self.region = region
        self.writes = writes

    def perform(self, thread: Thread) -> bool:
        if self.mdl.cell is not None:
            thread.write(self.mdl.cell)
        mdl = self.mdl
        region = mdl.region
        if not lockable(thread, region, writes=self.writes):
            return False
        if region is None or mdl.offset < 0 or not 0 <= mdl.length <= region.region_length() - mdl.offset:
            return False
        self.mdl.state = LOCKED
        return True

    def target(self) -> Cell:
        return self.region


def lockable(thread: Thread, region: Region | None, *, writes: bool) -> bool:
    """Whether the pages of *region* can be locked now, inside the calling step."""
    if not isinstance(region, UserBuffer):
        return True
    thread.read(region)
    return region.is_mapped and (region.is_writable or not writes)


@routine(
    "wdm",
    """VOID MmProbeAndLockPages(_Inout_ PMDL MemoryDescriptorList, _In_ KPROCESSOR_MODE AccessMode,
       _In_ LOCK_OPERATION Operation)""",
    max_irql=lock_ceiling,
)
async def MmProbeAndLockPages(MemoryDescriptorList: MDL, AccessMode: int, Operation: int) -> None:
    """Lock the pages that an MDL is for: they stay until MmUnlockPages.

    Raises STATUS_ACCESS_VIOLATION if they are not there, cannot be accessed as *Operation* says, or are the kernel's
    and *AccessMode* is UserMode. User memory must be that of the caller's process. IRQL: <= APC_LEVEL; <=
    DISPATCH_LEVEL for nonpaged memory.
    """
    mdl = MemoryDescriptorList
    mdl.used("locks the pages of")
    region = mdl.region
    name = "MmProbeAndLockPages"
    if not isinstance(region, UserBuffer):
        if AccessMode != KernelMode:
            raise_status(STATUS_ACCESS_VIOLATION, name)
        _pages_locked(mdl, 1)
        return
    thread = current_kthread()
    if thread.process is not region.process:
        region.used_elsewhere(thread, READ)
    if not await LockPages(mdl, region, writes=Operation != IoReadAccess):
        raise_status(STATUS_ACCESS_VIOLATION, name)


@routine("wdm", "VOID MmUnlockPages(_Inout_ PMDL MemoryDescriptorList)", max_irql=DISPATCH_LEVEL)
def MmUnlockPages(MemoryDescriptorList: MDL) -> None:
    """Undo MmProbeAndLockPages. IRQL: <= DISPATCH_LEVEL."""
    MemoryDescriptorList.used("unlocks the pages of")
    _pages_locked(MemoryDescriptorList, -1)


def _pages_locked(mdl: MDL, count: int) -> None:
    """Have the pages of *mdl* locked once more, or once less."""
    mdl.state = LOCKED if count > 0 else ALLOCATED
    allocation = allocation_of(mdl.region)
    if allocation is not None:
        current_kthread().write(allocation)
        allocation.locked += count


class FreeMdl(Operation[None]):
    """Free an MDL; a point of the schedule, because others may hold it."""

    __slots__ = ("mdl", "where")
    kind = "IoFreeMdl"

    def __init__(self, mdl: MDL) -> None:
        self.mdl = mdl
        self.where = here(current_kthread())

    def perform(self, thread: Thread) -> None:
        mdl = self.mdl
        cell = mdl.cell
        if cell is not None:
            thread.write(cell)
        who = f"{thread.label} at {place(self.where)}"
        if mdl.freed:
            report("mdl-double-free", f"{thread.label} frees {mdl.describe()}, freed by {mdl.freed}")
        if mdl.driver is not None and mdl.keeper:
            report(
                "mdl-double-free",
                f"{thread.label} frees {mdl.describe()}, which {mdl.keeper} frees as well unless it is retained",
            )
        elif mdl.keeper or mdl.cell is None:
            keeper = mdl.keeper or "the I/O manager"
            report("mdl-foreign-free", f"{thread.label} frees {mdl.describe()}, which is for {keeper} to free")
        free_mdl(thread, mdl, who)

    def target(self) -> Cell:
        cell = self.mdl.cell
        return current_kthread() if cell is None else cell


def free_mdl(thread: Thread, mdl: MDL, who: str) -> None:
    """*mdl* is gone, freed by *who*, inside the calling step."""
    if mdl.cell is not None:
        thread.write(mdl.cell)
    if mdl.state == LOCKED and mdl.driver is not None:
        _pages_locked(mdl, -1)
    mdl.freed = who
    current_system().get(Mdls).alive.pop(mdl, None)


@routine("wdm", "VOID IoFreeMdl(_In_ PMDL Mdl)", max_irql=DISPATCH_LEVEL)
async def IoFreeMdl(Mdl: MDL) -> None:
    """Free an MDL that this driver has allocated. IRQL: <= DISPATCH_LEVEL.

    Findings: ``mdl-double-free``; ``mdl-foreign-free`` for one of the I/O manager's or of the filter manager's
    (FLT-BUF-06, FLT-BUF-10).
    """
    await FreeMdl(Mdl)
