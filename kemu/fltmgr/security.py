"""Security descriptors of communication ports (FLT-PORT-02): who may connect."""

from __future__ import annotations

from typing import Final

from kemu.fltmgr.ports import Ports, ports
from kemu.nt.access import STANDARD_RIGHTS_ALL
from kemu.nt.driver import current_driver
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.nt.system import current_system, resources_fail
from kemu.runtime import Cell, Operation, Thread, current_thread

FLT_PORT_CONNECT: Final = 0x0001
FLT_PORT_ALL_ACCESS: Final = FLT_PORT_CONNECT | STANDARD_RIGHTS_ALL


class SECURITY_DESCRIPTOR(Cell):
    """Who may do what: system and administrators what `granted` says, and everybody everything without a DACL."""

    __slots__ = ("granted", "has_dacl")

    def __init__(self, granted: int) -> None:
        super().__init__(current_thread(), "a security descriptor of FltBuildDefaultSecurityDescriptor")
        self.granted = granted
        self.has_dacl = True

    def copy(self) -> SECURITY_DESCRIPTOR:
        """One of a port's own: the driver frees the other."""
        twin = SECURITY_DESCRIPTOR(self.granted)
        twin.has_dacl = self.has_dacl
        return twin

    def admits(self, is_administrator: bool, access: int) -> bool:
        """Whether it lets a program open an object for *access*."""
        return not self.has_dacl or (is_administrator and not access & ~self.granted)


@routine(
    "fltkernel",
    """NTSTATUS FltBuildDefaultSecurityDescriptor(_Outptr_ PSECURITY_DESCRIPTOR *SecurityDescriptor,
       _In_ ACCESS_MASK DesiredAccess)""",
    max_irql=APC_LEVEL,
)
async def FltBuildDefaultSecurityDescriptor(DesiredAccess: int) -> tuple[NTSTATUS, SECURITY_DESCRIPTOR | None]:
    """A descriptor that grants *DesiredAccess* to the system and to administrators, and nothing to others.

    Status and descriptor, to be freed with FltFreeSecurityDescriptor; left behind at unload: ``ke.pool-leak``.
    STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: <= APC_LEVEL.
    """
    if resources_fail("FltBuildDefaultSecurityDescriptor"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    made = SECURITY_DESCRIPTOR(DesiredAccess)
    ports().descriptors[made] = current_driver()
    return STATUS_SUCCESS, made


class FreeDescriptor(Operation[None]):
    """Free a security descriptor."""

    __slots__ = ("descriptor",)
    kind = "free"

    def __init__(self, descriptor: SECURITY_DESCRIPTOR) -> None:
        self.descriptor = descriptor

    def perform(self, thread: Thread) -> None:
        thread.write(self.descriptor)
        system = current_system()
        system.freed[self.descriptor] = f"freed by {thread.label}"
        system.get(Ports).descriptors.pop(self.descriptor, None)

    def target(self) -> Cell:
        return self.descriptor


@routine(
    "fltkernel",
    "VOID FltFreeSecurityDescriptor(_In_ PSECURITY_DESCRIPTOR SecurityDescriptor)",
    max_irql=APC_LEVEL,
)
async def FltFreeSecurityDescriptor(SecurityDescriptor: SECURITY_DESCRIPTOR) -> None:
    """Free what FltBuildDefaultSecurityDescriptor has made; the port has a copy. IRQL: <= APC_LEVEL.

    Freed twice: ``ke.use-after-free``.
    """
    await FreeDescriptor(SecurityDescriptor)


@routine(
    "ntifs",
    """NTSTATUS RtlSetDaclSecurityDescriptor(_Inout_ PSECURITY_DESCRIPTOR SecurityDescriptor, _In_ BOOLEAN DaclPresent,
       _In_opt_ PACL Dacl, _In_ BOOLEAN DaclDefaulted)""",
    max_irql=PASSIVE_LEVEL,
)
def RtlSetDaclSecurityDescriptor(
    SecurityDescriptor: SECURITY_DESCRIPTOR, DaclPresent: bool, Dacl: None, DaclDefaulted: bool
) -> NTSTATUS:
    """Let everybody in, with *DaclPresent* and no *Dacl*, which is what minifilters do for services of users.

    Without *DaclPresent* there is no list either. IRQL: PASSIVE_LEVEL.
    """
    SecurityDescriptor.has_dacl = False
    return STATUS_SUCCESS
