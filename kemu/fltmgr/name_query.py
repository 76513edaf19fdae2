"""Asking for the name of a file: when that is safe, the cache, the file system and name providers (FLT-NAME)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.frame import IN_PREOP, PENDED, RESUMED_EARLY, Frame
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.name_cache import NameCache
from kemu.fltmgr.name_information import (
    FLT_FILE_NAME_INFORMATION,
    POST_STATES,
    FileNames,
    NameBlock,
    block_of,
    hand_out,
)
from kemu.fltmgr.name_options import (
    FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE,
    FLT_FILE_NAME_DO_NOT_CACHE,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_QUERY_CACHE_ONLY,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY,
    FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER,
    FLT_FILE_NAME_SHORT,
    FLTFL_NORMALIZE_NAME_DESTINATION_FILE_NAME,
    FORMATS,
    FltGetFileNameFormat,
    FltGetFileNameQueryMethod,
    are_valid,
)
from kemu.fltmgr.name_paths import create_name, destination_name, open_name
from kemu.fltmgr.name_provider import generate, normalise_name, provider_below
from kemu.fltmgr.objects import FltVolume, Instance
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_SET_INFORMATION,
    IRP_PAGING_IO,
)
from kemu.io.file_constants import (
    FO_CLEANUP_COMPLETE,
    FileLinkInformation,
    FileLinkInformationEx,
    FileRenameInformation,
    FileRenameInformationEx,
)
from kemu.io.filesystem.nodes import Open
from kemu.io.request import FileObject
from kemu.io.structures import FILE_RENAME_INFORMATION
from kemu.nt.kthread import APC_LEVEL, KThread, current_kthread
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_INVALID_NAME_REQUEST,
    STATUS_FLT_NAME_CACHE_MISS,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report, resources_fail
from kemu.runtime import Cell, Operation, Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem

Named = tuple[NTSTATUS, FLT_FILE_NAME_INFORMATION | None]
"""What a query returns."""

RENAMES = frozenset({FileRenameInformation, FileRenameInformationEx, FileLinkInformation, FileLinkInformationEx})
_UNSAFE = frozenset(
    {
        IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
        IRP_MJ_RELEASE_FOR_CC_FLUSH,
        IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
        IRP_MJ_RELEASE_FOR_MOD_WRITE,
        IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
        IRP_MJ_CLOSE,
    }
)
_UNSAFE_AFTERWARDS = frozenset({IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION, IRP_MJ_CLEANUP})


def changes_names(frame: Frame) -> bool:
    """Whether the operation gives a file a name, so that tunnelling may give it another than the one asked for."""
    request = frame.operation.request
    return request.major == IRP_MJ_CREATE or (
        request.major == IRP_MJ_SET_INFORMATION and request.parameters.FileInformationClass in RENAMES
    )


def unsafe_thread(thread: KThread) -> str | None:
    """Why no name may be asked for on *thread*, whatever it does, or None (FLT-NAME-03)."""
    if thread.top_level_irp is not None:
        return "its TopLevelIrp is set"
    if thread.special_apc_disable or thread.irql >= APC_LEVEL:
        return "all its APCs are disabled"
    return None


def unsafe_operation(frame: Frame) -> str | None:
    """Why no name may be asked for in a callback for this operation, or None (FLT-NAME-03)."""
    request = frame.operation.request
    major = request.major
    if major in _UNSAFE or (major in _UNSAFE_AFTERWARDS and frame.state in POST_STATES):
        when = "post-operation" if frame.state in POST_STATES else "pre-operation"
        return f"it is in a {when} callback for {frame.operation.label}"
    if request.flags & IRP_PAGING_IO:
        return f"it is in the paging I/O path, in a callback for {frame.operation.label}"
    return None


class QueryName(Operation[Named]):
    """Find out what a file is called, in the cache or in the file system, and hand the name out."""

    __slots__ = ("file", "frame", "instance", "names", "options", "provided", "provider", "safe")
    kind = "query the name of"

    def __init__(
        self,
        instance: Instance,
        file: FileObject,
        frame: Frame | None,
        options: int,
        *,
        safe: bool,
        provider: Instance | None = None,
        provided: tuple[str, bool] | None = None,
    ) -> None:
        self.instance = instance
        self.file = file
        self.frame = frame
        self.options = options
        self.safe = safe
        self.provider = provider
        self.provided = provided
        """The name that the provider has told, and whether it may be cached; None if it was not asked yet."""
        self.names = current_system().get(FileNames)

    def perform(self, thread: Thread) -> Named:
        options, frame, volume = self.options, self.frame, self.instance.volume
        method, format_ = FltGetFileNameQueryMethod(options), FltGetFileNameFormat(options)
        truth = self.truth(thread, format_)
        if isinstance(truth, NTSTATUS):
            return truth, None
        whole = volume.device_name + truth if format_ != FLT_FILE_NAME_SHORT else truth
        opened = self.file.fs_context
        is_open = isinstance(opened, Open)
        owner: Cell = opened if is_open else frame.operation.request if frame is not None else self.file
        links = len(opened.node.links) if is_open else 1
        cache = thread.runtime.system.get(NameCache)
        cell = cache.cell(owner, format_, self.provider)
        # Without a provider only this may miss: any other query comes to the same, whether the name is cached or not.
        cached: str | None = None
        may_miss = method == FLT_FILE_NAME_QUERY_CACHE_ONLY or not self.safe or self.provider is not None
        if may_miss and method != FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY:
            cached = cache.look(thread, cell, volume, truth, links)
        if cached is not None and self.provided is None:
            return STATUS_SUCCESS, self.give(thread, cached, format_)
        if method == FLT_FILE_NAME_QUERY_CACHE_ONLY or not self.safe:
            return STATUS_FLT_NAME_CACHE_MISS, None
        if self.provider is not None:
            if self.provided is None:
                return STATUS_FLT_NAME_CACHE_MISS, None
            whole, cacheable = self.provided
        else:
            cacheable = True
        if cacheable and method != FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY and not options & FLT_FILE_NAME_DO_NOT_CACHE:
            cache.put(thread, cell, volume, whole, truth, links, seen=self.provider is not None)
        return STATUS_SUCCESS, self.give(thread, whole, format_)

    def truth(self, thread: Thread, format_: int) -> str | NTSTATUS:
        """The name as the file system has it, without the volume's."""
        opened = self.file.fs_context
        if isinstance(opened, Open):
            return open_name(thread, opened, format_)
        frame = self.frame
        assert frame is not None
        fs: FileSystem = self.file.volume.filesystem
        return create_name(thread, fs, self.file, frame.input.parameters, format_)

    def give(self, thread: Thread, whole: str, format_: int) -> FLT_FILE_NAME_INFORMATION:
        """Hand *whole* out."""
        information = hand_out(thread, whole, format_, self.instance.volume.device_name, self.names)
        remember(self.names, information, self.frame, self.file, self.provider)
        return information

    def target(self) -> Cell:
        opened = self.file.fs_context
        if isinstance(opened, Open):
            return opened.node
        fs: FileSystem = self.file.volume.filesystem
        return fs.cell_of(self.file.FileName)

    def describe(self) -> str:
        return f"query the {FORMATS[FltGetFileNameFormat(self.options)]} name of {self.file.FileName}"


def remember(
    names: FileNames,
    information: FLT_FILE_NAME_INFORMATION,
    frame: Frame | None,
    file: FileObject,
    provider: Instance | None,
    *,
    destination: bool = False,
) -> None:
    """Note what a name is about that was got in a pre-operation callback, and may be out of date after it."""
    block: NameBlock = information.__dict__["_allocation"]
    block.file = file
    block.destination = destination
    if frame is None or frame.state not in {IN_PREOP, PENDED, RESUMED_EARLY}:
        return
    changes = changes_names(frame)
    is_old_name = changes and not destination and frame.operation.request.major != IRP_MJ_CREATE
    # The name that a file is opened by, or is to get, is spelt as somebody liked unless it is normalised.
    if provider is None and not is_old_name and (not changes or block.format == FLT_FILE_NAME_NORMALIZED):
        block.frame = frame
    if changes and not is_old_name and block.format == FLT_FILE_NAME_NORMALIZED:
        block.naming = frame
        names.taken.setdefault(frame, []).append(block)


async def query(
    instance: Instance,
    file: FileObject,
    data: FLT_CALLBACK_DATA | None,
    frame: Frame | None,
    options: int,
    *,
    safe: bool,
) -> Named:
    """Ask for a name on behalf of *instance*; the options are valid, and *safe* says whether I/O may be done."""
    if resources_fail("a query of a file name"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    itself = bool(options & FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER)
    provider = provider_below(instance, itself=itself)
    if provider is None:
        return await QueryName(instance, file, frame, options, safe=safe)
    status, information = await QueryName(instance, file, frame, options, safe=safe, provider=provider)
    method = FltGetFileNameQueryMethod(options)
    if status != STATUS_FLT_NAME_CACHE_MISS or method == FLT_FILE_NAME_QUERY_CACHE_ONLY or not safe:
        return status, information
    status, name, cacheable = await generate(provider, file, data, options)
    if not NT_SUCCESS(status):
        return status, None
    provided = (name, cacheable)
    return await QueryName(instance, file, frame, options, safe=safe, provider=provider, provided=provided)


@routine(
    "fltkernel",
    """NTSTATUS FltGetFileNameInformation(_In_ PFLT_CALLBACK_DATA CallbackData, _In_ FLT_FILE_NAME_OPTIONS NameOptions,
       _Outptr_ PFLT_FILE_NAME_INFORMATION *FileNameInformation)""",
    max_irql=APC_LEVEL,
)
async def FltGetFileNameInformation(CallbackData: FLT_CALLBACK_DATA, NameOptions: int) -> Named:
    """The name of the file that the operation is for: the status, and a name to be released.

    *NameOptions* are one format, one query method and flags (FLT-NAME-01); anything else is STATUS_INVALID_PARAMETER.
    Where asking the file system is unsafe this is STATUS_FLT_INVALID_NAME_REQUEST, or STATUS_FLT_NAME_CACHE_MISS with
    the methods that may look into the cache there (FLT-NAME-02, FLT-NAME-03). STATUS_FILE_DELETED for a name that was
    deleted; what the file system says about a path. IRQL: <= APC_LEVEL, where it is unsafe above PASSIVE_LEVEL.

    Findings: ``name-leak``, ``name-stale``, ``name-tunnel-unchecked``.
    """
    if CallbackData is None or not are_valid(NameOptions):  # pyright: ignore[reportUnnecessaryComparison]
        return STATUS_INVALID_PARAMETER, None
    if not isinstance(CallbackData, FLT_CALLBACK_DATA):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("FltGetFileNameInformation", "CallbackData", FLT_CALLBACK_DATA, CallbackData)
        return STATUS_INVALID_PARAMETER, None
    frame = owned_frame(CallbackData)
    iopb = CallbackData.Iopb
    file, instance, request = iopb.TargetFileObject, iopb.TargetInstance, frame.operation.request
    thread = current_kthread()
    is_create = request.major == IRP_MJ_CREATE
    opened = file.fs_context
    if not isinstance(opened, Open):
        if not is_create or FltGetFileNameFormat(NameOptions) == FLT_FILE_NAME_SHORT:
            return STATUS_FLT_INVALID_NAME_REQUEST, None
        reparsed = frame.state in POST_STATES and request.status == STATUS_REPARSE
        if reparsed and not NameOptions & FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE:
            return STATUS_FLT_INVALID_NAME_REQUEST, None
    else:
        thread.read(opened)
    safe = unsafe_thread(thread) is None and unsafe_operation(frame) is None and not file.Flags & FO_CLEANUP_COMPLETE
    method = FltGetFileNameQueryMethod(NameOptions)
    if not safe and method in {FLT_FILE_NAME_QUERY_DEFAULT, FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY}:
        return STATUS_FLT_INVALID_NAME_REQUEST, None
    return await query(instance, file, CallbackData, frame, NameOptions, safe=safe)


@routine(
    "fltkernel",
    """NTSTATUS FltGetFileNameInformationUnsafe(_In_ PFILE_OBJECT FileObject, _In_opt_ PFLT_INSTANCE Instance,
       _In_ FLT_FILE_NAME_OPTIONS NameOptions, _Outptr_ PFLT_FILE_NAME_INFORMATION *FileNameInformation)""",
    max_irql=APC_LEVEL,
)
async def FltGetFileNameInformationUnsafe(FileObject: FileObject, Instance: Instance | None, NameOptions: int) -> Named:
    """The name of a file that is open, without an operation to protect the caller.

    It asks wherever it is called: in the situations in which FltGetFileNameInformation refuses, all query methods but
    FLT_FILE_NAME_QUERY_CACHE_ONLY may deadlock, which is finding ``name-unsafe-context`` (FLT-NAME-13). A file object
    that is not open is STATUS_FLT_INVALID_NAME_REQUEST. Without an *Instance* names are the file system's own.
    IRQL: <= APC_LEVEL.
    """
    if not are_valid(NameOptions):
        return STATUS_INVALID_PARAMETER, None
    thread = current_kthread()
    opened = FileObject.fs_context
    if not isinstance(opened, Open):
        return STATUS_FLT_INVALID_NAME_REQUEST, None
    thread.read(opened)
    method = FltGetFileNameQueryMethod(NameOptions)
    if method != FLT_FILE_NAME_QUERY_CACHE_ONLY:
        why = unsafe_thread(thread) or unsafe_callback(thread, FileObject)
        if why is None and FileObject.Flags & FO_CLEANUP_COMPLETE:
            why = f"the last handle to {FileObject.FileName} is closed"
        if why is not None:
            report(
                "name-unsafe-context",
                f"{thread.label} asks for the name of {FileObject.FileName} with FltGetFileNameInformationUnsafe "
                f"while {why}",
            )
    if Instance is None:
        asker = lowest_instance(FileObject)
        if asker is None:
            return STATUS_INVALID_PARAMETER, None
        return await QueryName(asker, FileObject, None, NameOptions, safe=True)
    return await query(Instance, FileObject, None, None, NameOptions, safe=True)


def volumes() -> list[FltVolume]:
    """The volumes that the filter manager filters."""
    return current_system().get(FilterManager).volumes


def lowest_instance(file: FileObject) -> Instance | None:
    """The lowest instance on the volume of *file*: nobody provides names below it."""
    for volume in volumes():
        if volume.volume is file.volume and volume.instances:
            return volume.instances[-1]
    return None


def unsafe_callback(thread: Thread, file: FileObject) -> str | None:
    """Why *thread*, which may be in a callback, must not ask for names, or None."""
    for volume in volumes():
        for instance in volume.instances:
            for frame in instance.outstanding:
                if thread in frame.inside:
                    why = unsafe_operation(frame)
                    if why is not None:
                        return why
    return None


class QueryDestination(Operation[Named]):
    """Find out what a file will be called after a rename, or by a new link."""

    __slots__ = ("file", "frame", "given", "instance", "options")
    kind = "query the destination name of"

    def __init__(
        self, instance: Instance, file: FileObject, frame: Frame | None, given: FILE_RENAME_INFORMATION, options: int
    ) -> None:
        self.instance = instance
        self.file = file
        self.frame = frame
        self.given = given
        self.options = options

    def perform(self, thread: Thread) -> Named:
        format_ = FltGetFileNameFormat(self.options)
        name = destination_name(thread, self.file.fs_context, self.given, format_)
        if isinstance(name, NTSTATUS):
            return name, None
        names = thread.runtime.system.get(FileNames)
        device = self.instance.volume.device_name
        information = hand_out(thread, device + name, format_, device, names)
        remember(names, information, self.frame, self.file, None, destination=True)
        return STATUS_SUCCESS, information

    def target(self) -> Cell:
        return self.file.fs_context.node


@routine(
    "fltkernel",
    """NTSTATUS FltGetDestinationFileNameInformation(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_opt_ HANDLE RootDirectory, _In_ PWSTR FileName, _In_ ULONG FileNameLength,
       _In_ FLT_FILE_NAME_OPTIONS NameOptions, _Outptr_ PFLT_FILE_NAME_INFORMATION *RetFileNameInformation)""",
    max_irql=APC_LEVEL,
)
async def FltGetDestinationFileNameInformation(
    Instance: Instance,
    FileObject: FileObject,
    RootDirectory: Any,
    FileName: str,
    FileNameLength: int,
    NameOptions: int,
) -> Named:
    """What a file will be called after the rename, or by the hard link, that is on its way (FLT-NAME-14).

    *RootDirectory* is the file object of a directory, or None. STATUS_FLT_INVALID_NAME_REQUEST for the short format,
    where asking is unsafe, and for a file object that is not the operation's. IRQL: <= APC_LEVEL.
    Findings: ``name-tunnel-unchecked``, ``name-stale``, ``name-leak``.
    """
    if not are_valid(NameOptions):
        return STATUS_INVALID_PARAMETER, None
    thread = current_kthread()
    format_ = FltGetFileNameFormat(NameOptions)
    opened = FileObject.fs_context
    if format_ == FLT_FILE_NAME_SHORT or unsafe_thread(thread) is not None or not isinstance(opened, Open):
        return STATUS_FLT_INVALID_NAME_REQUEST, None
    frame = renaming_frame(Instance, FileObject, thread)
    if frame is None:
        return STATUS_FLT_INVALID_NAME_REQUEST, None
    if resources_fail("FltGetDestinationFileNameInformation"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    given = FILE_RENAME_INFORMATION(FileName[: FileNameLength // 2], RootDirectory=RootDirectory)
    status, information = await QueryDestination(Instance, FileObject, frame, given, NameOptions)
    itself = bool(NameOptions & FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER)
    provider = provider_below(Instance, itself=itself)
    if information is None or provider is None or format_ != FLT_FILE_NAME_NORMALIZED:
        return status, information
    block: NameBlock = information.__dict__["_allocation"]
    flags = FLTFL_NORMALIZE_NAME_DESTINATION_FILE_NAME
    status, name = await normalise_name(provider, FileObject, block.whole, flags)
    names = current_system().get(FileNames)
    discard(names, block)
    if not NT_SUCCESS(status):
        return status, None
    information = hand_out(thread, name, format_, Instance.volume.device_name, names)
    remember(names, information, frame, FileObject, provider, destination=True)
    return STATUS_SUCCESS, information


def renaming_frame(instance: Instance, file: FileObject, thread: Thread) -> Frame | None:
    """The rename or link operation on *file* that *instance* takes part in, that of *thread*'s callback first."""
    found = [
        one
        for one in instance.outstanding
        if one.operation.request.file is file and not one.operation.is_create and changes_names(one)
    ]
    return next((one for one in found if thread in one.inside), found[0] if found else None)


def discard(names: FileNames, block: NameBlock) -> None:
    """Take a name back that no driver has seen."""
    del names.alive[block]
    for taken in names.taken.values():
        if block in taken:
            taken.remove(block)


class QueryTunneled(Operation[Named]):
    """Find out whether the file that an operation has named is called otherwise, because of tunnelling."""

    __slots__ = ("block", "frame")
    kind = "query the tunnelled name for"

    def __init__(self, frame: Frame, block: NameBlock) -> None:
        self.frame = frame
        self.block = block

    def perform(self, thread: Thread) -> Named:
        frame, block = self.frame, self.block
        thread.read(block)
        if block.freed is not None:
            report("ke.use-after-free", f"{thread.label} passes {block.words}, {block.freed_words}")
            return STATUS_INVALID_PARAMETER, None
        block.tunnel_checked = True
        opened = frame.operation.request.file.fs_context
        if not isinstance(opened, Open) or not NT_SUCCESS(frame.operation.request.status):
            return STATUS_SUCCESS, None
        thread.read(opened.node)
        # Of a new hard link nothing is tunnelled here.
        link = opened.link
        device = frame.instance.volume.device_name
        directory, _, final = block.whole.rpartition("\\")
        asked, colon, stream = final.partition(":")
        # Only a short name can turn out to be the other half of a long one.
        if link.removed or link.short is None or asked.upper() != link.short.upper():
            return STATUS_SUCCESS, None
        whole = f"{directory}\\{link.name}{colon}{stream}"
        names = thread.runtime.system.get(FileNames)
        return STATUS_SUCCESS, hand_out(thread, whole, block.format, device, names)

    def target(self) -> Cell:
        return self.block


@routine(
    "fltkernel",
    """NTSTATUS FltGetTunneledName(_In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ PFLT_FILE_NAME_INFORMATION FileNameInformation,
       _Outptr_result_maybenull_ PFLT_FILE_NAME_INFORMATION *RetTunneledFileNameInformation)""",
    max_irql=APC_LEVEL,
)
async def FltGetTunneledName(CallbackData: FLT_CALLBACK_DATA, FileNameInformation: FLT_FILE_NAME_INFORMATION) -> Named:
    """The right name of a file whose normalised name was got in the pre-operation callback, if tunnelling changed it.

    STATUS_SUCCESS and None where it did not (FLT-NAME-11). IRQL: <= APC_LEVEL. Findings: ``tunneledname-misplaced``
    anywhere but in the post-operation callback of a create or a set-information operation.
    """
    if not isinstance(CallbackData, FLT_CALLBACK_DATA):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("FltGetTunneledName", "CallbackData", FLT_CALLBACK_DATA, CallbackData)
        return STATUS_INVALID_PARAMETER, None
    frame = owned_frame(CallbackData)
    block = block_of(FileNameInformation, "FltGetTunneledName")
    request = frame.operation.request
    if request.major not in {IRP_MJ_CREATE, IRP_MJ_SET_INFORMATION} or frame.state not in POST_STATES:
        phase = "post-operation" if frame.state in POST_STATES else "pre-operation"
        report(
            "tunneledname-misplaced",
            f"{current_kthread().label} calls FltGetTunneledName in the {phase} phase of {frame.operation.label}",
        )
    if block is None:
        return STATUS_INVALID_PARAMETER, None
    if resources_fail("FltGetTunneledName"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    return await QueryTunneled(frame, block)


class PurgeNames(Operation[None]):
    """Take names that an instance has provided out of the cache."""

    __slots__ = ("file", "instance")
    kind = "purge the names of"

    def __init__(self, instance: Instance, file: FileObject | None) -> None:
        self.instance = instance
        self.file = file

    def perform(self, thread: Thread) -> None:
        opened = self.file.fs_context if self.file is not None else None
        thread.runtime.system.get(NameCache).purge(thread, self.instance, opened)

    def target(self) -> Cell:
        return self.instance


@routine(
    "fltkernel",
    "NTSTATUS FltPurgeFileNameInformationCache(_In_ PFLT_INSTANCE Instance, _In_opt_ PFILE_OBJECT FileObject)",
    max_irql=APC_LEVEL,
)
async def FltPurgeFileNameInformationCache(Instance: Instance, FileObject: FileObject | None) -> NTSTATUS:
    """Have names forgotten that this name provider has provided: of one file, or all.

    Those that are handed out stay what they are until they are released (FLT-NAME-15). IRQL: <= APC_LEVEL.
    """
    if FileObject is not None and not isinstance(FileObject.fs_context, Open):
        return STATUS_INVALID_PARAMETER
    await PurgeNames(Instance, FileObject)
    return STATUS_SUCCESS
