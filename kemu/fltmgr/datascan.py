"""Sections for data scans (FLT-SCAN): a minifilter maps a file to look at it, and is told when that is in the way.

A section keeps others from making its file shorter or from purging its cache. The filter manager notices such an
operation before the file system gets it, tells every minifilter whose section is in the way, in the thread of the
operation, and lets the operation wait until these sections are closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.context_end import destroy, unlinked
from kemu.fltmgr.context_record import Context, context_of
from kemu.fltmgr.context_rules import the_context, used_after_release
from kemu.fltmgr.context_types import FLT_SECTION_CONTEXT
from kemu.fltmgr.frame import Frame, IrpCtrl
from kemu.fltmgr.messages import SectionConflict
from kemu.fltmgr.objects import Instance, Node, hold, let_go
from kemu.fltmgr.structures import FLT_OPERATION_REGISTRATION
from kemu.io.constants import (
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
    FILE_SUPERSEDE,
    IRP_MJ_CREATE,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
)
from kemu.io.file_constants import FO_NO_INTERMEDIATE_BUFFERING, FSCTL_SET_ZERO_DATA
from kemu.io.filesystem.fastio import walk_to
from kemu.io.filesystem.names import parse
from kemu.io.filesystem.nodes import Open, Stream
from kemu.io.manager import IoManager
from kemu.io.request import FileObject, Request
from kemu.io.section import CloseSection, MapView, Section, SizeOf, UnmapView, View, create_section
from kemu.io.structures import FILE_ALLOCATION_INFORMATION, FILE_END_OF_FILE_INFORMATION
from kemu.nt.driver import DriverActor, in_driver, status_of
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_END_OF_FILE,
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INVALID_FILE_FOR_SECTION,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.nt.system import Leftover, current_system, refuse, report
from kemu.runtime import BlockingOperation, Cell, Deliver, Operation, Point, Thread, Waitable, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.structures import FLT_CALLBACK_DATA

OPENING: Final = 0
"""FltCreateSectionForDataScan has begun: from here on the section may be in the way."""
OPEN: Final = 1
CLOSED: Final = 2
REPLACES: Final = frozenset({FILE_SUPERSEDE, FILE_OVERWRITE, FILE_OVERWRITE_IF})


class ScanSection(Waitable):
    """One instance's section of one stream, which goes by the section context; the cell of its state.

    Until it is closed it has a reference of its own on that context.
    """

    __slots__ = ("context", "instance", "section", "state", "stream")

    guards = ("state",)

    def __init__(self, instance: Instance, stream: Stream, context: Context) -> None:
        super().__init__(current_thread(), f"section of {stream.label} of {instance.label}")
        self.instance = instance
        self.stream = stream
        self.context = context
        self.section: Section | None = None
        self.state = OPENING


class DataScans(Cell):
    """The instances of a run that scan, and their sections; the cell of which sections there are."""

    def __init__(self) -> None:
        super().__init__(current_thread(), "sections for data scans")
        self.registered: list[Instance] = []
        self.sections: list[ScanSection] = []
        """Those that are open."""
        self.closed: list[ScanSection] = []

    def of_context(self, context: Context) -> ScanSection | None:
        """The section that goes by *context*, open or not."""
        return next((one for one in (*self.sections, *self.closed) if one.context is context), None)

    def of_stream(self, stream: Stream) -> list[ScanSection]:
        """The open sections of *stream*."""
        return [one for one in self.sections if one.stream is stream]

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The sections that *driver* has not closed."""
        for one in self.sections:
            if one.instance.filter.driver is driver:
                yield Leftover("section-leak", f"a {one.label}")

    async def make_room(self, operation: IrpCtrl) -> None:
        """Have the sections closed that *operation*, which is about to reach the file system, conflicts with."""
        thread = current_thread()
        stream = conflicting_stream(thread, operation.request)
        if stream is None:
            return
        thread.read(self)
        if not self.registered:
            return
        for section in await InTheWay(self, stream):
            if section.instance.filter.registration.SectionNotificationCallback is not None:
                await notify(section, operation)
                await AwaitClosed(section)


def conflicting_stream(thread: Thread, request: Request) -> Stream | None:
    """The stream that *request* is about to purge from the cache or to make shorter, or None."""
    major, parameters = request.major, request.parameters
    if major == IRP_MJ_CREATE:
        if parameters.Disposition not in REPLACES:
            return None
        path = parse(request.file.FileName)
        if isinstance(path, NTSTATUS):
            return None
        node = walk_to(request.volume.filesystem, thread, path.components)
        return None if node is None or node.is_directory else node.stream
    opened = request.file.fs_context
    if not isinstance(opened, Open):
        return None
    given = parameters.InfoBuffer
    if major == IRP_MJ_SET_INFORMATION:
        thread.read(opened.stream.size)
        length = len(opened.stream.bytes)
        shorter = (isinstance(given, FILE_END_OF_FILE_INFORMATION) and given.EndOfFile < length) or (
            isinstance(given, FILE_ALLOCATION_INFORMATION) and given.AllocationSize < length
        )
        return opened.stream if shorter else None
    if major == IRP_MJ_WRITE:
        direct = bool(request.flags & IRP_NOCACHE or request.file.Flags & FO_NO_INTERMEDIATE_BUFFERING)
        return opened.stream if direct and not request.flags & IRP_PAGING_IO else None
    zeroes = major == IRP_MJ_FILE_SYSTEM_CONTROL and parameters.FsControlCode == FSCTL_SET_ZERO_DATA
    return opened.stream if zeroes else None


class InTheWay(Operation[list[ScanSection]]):
    """See which sections of a stream are open."""

    __slots__ = ("scans", "stream")
    kind = "look for sections in the way of an operation among"

    def __init__(self, scans: DataScans, stream: Stream) -> None:
        self.scans = scans
        self.stream = stream

    def perform(self, thread: Thread) -> list[ScanSection]:
        thread.read(self.scans)
        return self.scans.of_stream(self.stream)

    def target(self) -> Cell:
        return self.scans


class BeginConflict(Operation[bool]):
    """A conflict is about to be told; false if the section is closed, or its instance is going away.

    While it is told the section's context stays, though the section may be closed and the driver let go of it.
    """

    __slots__ = ("operation", "section")
    kind = "begin to tell of a conflict with"

    def __init__(self, section: ScanSection, operation: IrpCtrl) -> None:
        self.section = section
        self.operation = operation

    def perform(self, thread: Thread) -> bool:
        section = self.section
        thread.read(section)
        thread.read(section.instance)
        if section.state == CLOSED or section.instance.deleting:
            return False
        hold(thread, section.instance, thread.label)
        section.context.bind(thread, self.operation)
        thread.acquire(section.instance)
        thread.acquire(section)
        return True

    def target(self) -> Cell:
        return self.section


class AwaitClosed(BlockingOperation[None]):
    """An operation waits until a section that is in its way is closed."""

    __slots__ = ("section",)
    kind = "see closed the"

    def __init__(self, section: ScanSection) -> None:
        super().__init__(section)
        self.section = section

    def available(self, thread: Thread) -> bool:
        return self.section.state == CLOSED

    def take(self, thread: Thread) -> None:
        thread.read(self.section)
        thread.acquire(self.section)


async def notify(section: ScanSection, operation: IrpCtrl) -> None:
    """Call SectionNotificationCallback on the calling thread: *section* is in the way of *operation*."""
    instance = section.instance
    filter_ = instance.filter
    callback = filter_.registration.SectionNotificationCallback
    assert callback is not None
    if not await BeginConflict(section, operation):
        return
    thread = current_thread()
    await Deliver(filter_.driver, SectionConflict, instance)
    # The instance may take no part in the operation: what it is shown is no frame of the operation's.
    node = Node(instance, FLT_OPERATION_REGISTRATION(operation.request.major))
    frame = Frame(operation, node, len(operation.frames))
    data: FLT_CALLBACK_DATA = frame.open()
    name = "SectionNotification"
    returned = await in_driver(filter_.driver, name, callback, instance, section.context.block, data)
    status_of(filter_.driver, name, callback, returned)
    frame.release(thread)
    context = section.context
    context.bound.remove(operation)
    last = unlinked(thread, context)
    if last is not None:
        await destroy(last)
    let_go(thread, instance, thread.label)


@routine("fltkernel", "NTSTATUS FltRegisterForDataScan(_In_ PFLT_INSTANCE Instance)", max_irql=APC_LEVEL)
async def FltRegisterForDataScan(Instance: Instance) -> NTSTATUS:
    """Let the instance make sections for data scans (FLT-SCAN-01). IRQL: <= APC_LEVEL.

    Raises `UsageError` in a scenario without ``cached_io=True``: there is nothing that could be mapped.
    """
    if not Instance.volume.volume.has_cache:
        refuse("a section needs a cache", remedy="declare the scenario with cached_io=True")
    scans = current_system().get(DataScans)
    thread = current_thread()
    thread.write(scans)
    thread.read(Instance)
    if Instance.deleting:
        return STATUS_FLT_DELETING_OBJECT
    if Instance not in scans.registered:
        scans.registered.append(Instance)
    return STATUS_SUCCESS


class LinkSection(Operation["ScanSection | NTSTATUS"]):
    """A section for a data scan is about to be made: from here on it may be in the way of operations."""

    __slots__ = ("context", "instance", "scans", "stream")
    kind = "begin to make one of the"

    def __init__(self, scans: DataScans, instance: Instance, stream: Stream, context: Context) -> None:
        self.scans = scans
        self.instance = instance
        self.stream = stream
        self.context = context

    def perform(self, thread: Thread) -> ScanSection | NTSTATUS:
        scans, instance, context = self.scans, self.instance, self.context
        thread.write(scans)
        thread.read(instance)
        thread.read(context)
        if not context.keeps(thread):
            thread.write(context.counts)
        if context.is_over:
            used_after_release(thread, context, "FltCreateSectionForDataScan")
            return STATUS_INVALID_PARAMETER
        if instance.deleting:
            return STATUS_FLT_DELETING_OBJECT
        if instance not in scans.registered:
            return STATUS_INVALID_PARAMETER
        if any(one.instance is instance for one in scans.of_stream(self.stream)):
            return STATUS_FLT_CONTEXT_ALREADY_DEFINED
        section = ScanSection(instance, self.stream, self.context)
        context.bind(thread, section)
        # What the driver has prepared is there for its notification.
        thread.release(section)
        scans.sections.append(section)
        return section

    def target(self) -> Cell:
        return self.scans


class UnlinkSection(Operation["bool | Context"]):
    """A section for a data scan is closed, or was never made; false if it was closed before.

    Evaluates to its context, which the caller is to destroy, if nobody else holds that.
    """

    __slots__ = ("scans", "section")
    kind = "close"

    def __init__(self, scans: DataScans, section: ScanSection) -> None:
        self.scans = scans
        self.section = section

    def perform(self, thread: Thread) -> bool | Context:
        scans, section = self.scans, self.section
        thread.write(scans)
        thread.write(section)
        if section.state == CLOSED:
            return False
        thread.release(section)
        section.state = CLOSED
        scans.sections.remove(section)
        scans.closed.append(section)
        section.changed()
        section.context.bound.remove(section)
        return unlinked(thread, section.context) or True

    def target(self) -> Cell:
        return self.section


@routine(
    "fltkernel",
    """NTSTATUS FltCreateSectionForDataScan(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ PFLT_CONTEXT SectionContext, _In_ ACCESS_MASK DesiredAccess, _In_opt_ POBJECT_ATTRIBUTES ObjectAttributes,
       _In_opt_ PLARGE_INTEGER MaximumSize, _In_ ULONG SectionPageProtection, _In_ ULONG AllocationAttributes,
       _In_ ULONG Flags, _Outptr_ PHANDLE SectionHandle, _Outptr_ PVOID *SectionObject,
       _Out_opt_ PLARGE_INTEGER SectionFileSize)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltCreateSectionForDataScan(
    Instance: Instance,
    FileObject: FileObject,
    SectionContext: Any,
    DesiredAccess: int,
    ObjectAttributes: Any,
    MaximumSize: int | None,
    SectionPageProtection: int,
    AllocationAttributes: int,
    Flags: int,
) -> tuple[NTSTATUS, Section | None, Section | None, int]:
    """Make a section of a file for *SectionContext*: the status, handle, object and size of the file (FLT-SCAN-01).

    Handle and object are the same here, and FltCloseSectionForDataScan gives both back. STATUS_INVALID_PARAMETER before
    FltRegisterForDataScan, STATUS_FLT_CONTEXT_ALREADY_DEFINED if the instance has a section of the stream already,
    STATUS_END_OF_FILE if the file is empty, STATUS_FLT_DELETING_OBJECT if the instance is going away. The section may
    be found to be in the way, and SectionNotificationCallback called, before this returns (FLT-SCAN-02). Until it is
    closed the section has a reference of its own on the context, which has to be one of FLT_SECTION_CONTEXT of the same
    filter: another kind is STATUS_INVALID_PARAMETER, as for setting a context.
    IRQL: <= APC_LEVEL. Findings: ``ctx-use-after-release``.
    """
    context = the_context(SectionContext, "FltCreateSectionForDataScan", "SectionContext")
    if context.kind != FLT_SECTION_CONTEXT or context.filter is not Instance.filter:
        return STATUS_INVALID_PARAMETER, None, None, 0
    opened = FileObject.fs_context
    if not isinstance(opened, Open) or opened.node.is_directory:
        return STATUS_INVALID_FILE_FOR_SECTION, None, None, 0
    system = current_system()
    scans = system.get(DataScans)
    linked = await LinkSection(scans, Instance, opened.stream, context)
    if isinstance(linked, NTSTATUS):
        return linked, None, None, 0
    size = await SizeOf(opened)
    status: NTSTATUS = STATUS_END_OF_FILE
    section = None
    if size:
        status, section = await create_section(system.get(IoManager), FileObject, 0, SectionPageProtection)
    thread = current_thread()
    thread.write(linked)
    if not NT_SUCCESS(status) or section is None:
        last = await UnlinkSection(scans, linked)
        scans.closed.remove(linked)
        if isinstance(last, Context):
            await destroy(last)
        return status, None, None, 0
    linked.section = section
    if linked.state == CLOSED:
        # The notification has closed it meanwhile.
        await CloseSection(section)
    else:
        linked.state = OPEN
    await Point("return from FltCreateSectionForDataScan", linked)
    return STATUS_SUCCESS, section, section, size


@routine(
    "fltkernel",
    "NTSTATUS FltCloseSectionForDataScan(_In_ PFLT_CONTEXT SectionContext)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltCloseSectionForDataScan(SectionContext: Any) -> NTSTATUS:
    """Close the section of *SectionContext*: operations that it was in the way of go on (FLT-SCAN-03).

    The section's reference on the context is dropped; the caller's own is still to be released (FltReleaseContext).
    STATUS_INVALID_PARAMETER if none was made for it, STATUS_NOT_FOUND if it is closed already, which is finding
    ``section-double-close``. IRQL: <= APC_LEVEL.
    """
    scans = current_system().get(DataScans)
    current_thread().read(scans)
    context = context_of(SectionContext)
    section = None if context is None else scans.of_context(context)
    if section is None:
        return STATUS_INVALID_PARAMETER
    last = await UnlinkSection(scans, section)
    if not last:
        report("section-double-close", f"{current_kthread().label} closes the {section.label}, which is closed already")
        return STATUS_NOT_FOUND
    if section.section is not None:
        await CloseSection(section.section)
    if isinstance(last, Context):
        await destroy(last)
    return STATUS_SUCCESS


@routine(
    "ntifs",
    """NTSTATUS MmMapViewInSystemSpace(_In_ PVOID Section, _Outptr_ PVOID *MappedBase, _Inout_ PSIZE_T ViewSize)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def MmMapViewInSystemSpace(Section: Section, ViewSize: int) -> tuple[NTSTATUS, View | None]:
    """Map *ViewSize* bytes of a section, or all of it if that is 0: the status and the view. IRQL: <= APC_LEVEL."""
    view = await MapView(Section, 0, ViewSize)
    return (view, None) if isinstance(view, NTSTATUS) else (STATUS_SUCCESS, view)


@routine("ntifs", "NTSTATUS MmUnmapViewInSystemSpace(_In_ PVOID MappedBase)", max_irql=APC_LEVEL, under_spin_lock=False)
async def MmUnmapViewInSystemSpace(MappedBase: View) -> NTSTATUS:
    """Give a view back; STATUS_INVALID_PARAMETER if it was given back already. IRQL: <= APC_LEVEL."""
    return STATUS_SUCCESS if await UnmapView(MappedBase) else STATUS_INVALID_PARAMETER
