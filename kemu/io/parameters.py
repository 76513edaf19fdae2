"""The parameters of a request: the members of FLT_PARAMETERS, by their WDK names.

In C they are a union of one structure for each major function. Here they are one flat object, of which
``Parameters.Read``, ``Parameters.Create`` and so on are other names, so that ``Data.Iopb.Parameters.Read.Length`` and
``Data.Iopb.Parameters.Length`` are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack, overload

from kemu.io.file_constants import FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_SHARE_VALID_FLAGS
from kemu.nt.access import DELETE

V = TypeVar("V")

USUAL_ACCESS: Final = FILE_GENERIC_READ | FILE_GENERIC_WRITE | DELETE
"""What a create asks for that says nothing else."""


class Members(TypedDict, total=False):
    """The members beside those that reads and writes use."""

    CreateOptions: int
    FileAttributes: int
    ShareAccess: int
    DesiredAccess: int
    AllocationSize: int
    OperationFlags: int
    IgnoreShareAccess: bool
    Key: int
    InfoBuffer: Any
    ParentOfTarget: Any
    FileName: str | None
    CompletionFilter: int
    DirectoryBuffer: Any
    FsInformationClass: int
    VolumeBuffer: Any
    FsControlCode: int
    InputBuffer: Any
    OutputBuffer: Any
    ProcessId: Any
    FailImmediately: bool
    ExclusiveLock: bool
    SyncType: int
    PageProtection: int
    EndingOffset: int
    ResourceToRelease: Any
    CheckForReadOperation: bool
    MdlChain: Any
    DeviceType: int
    EaBuffer: Any
    EaLength: int
    QuotaBuffer: Any
    SecurityBuffer: Any
    IoControlCode: int


NOTHING_MORE: Final[Mapping[str, Any]] = {}


class _Member(Generic[V]):
    """A member that few requests have. It is kept in a mapping that is replaced, never changed, so that the copies of
    one request's parameters share it until one of them is written to.
    """

    def __init__(self, default: V) -> None:
        self.default = default
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, parameters: None, owner: type) -> _Member[V]: ...
    @overload
    def __get__(self, parameters: Parameters, owner: type) -> V: ...
    def __get__(self, parameters: Parameters | None, owner: type) -> V | _Member[V]:
        if parameters is None:
            return self
        return parameters.more.get(self.name, self.default)

    def __set__(self, parameters: Parameters, value: V) -> None:
        parameters.more = {**parameters.more, self.name: value}


Member = _Member


class Parameters:
    """The parameters of one request."""

    __slots__ = ("Buffer", "ByteOffset", "Disposition", "FileInformationClass", "Length", "more")

    def __init__(
        self,
        *,
        Disposition: int = 0,
        Length: int = 0,
        ByteOffset: int = 0,
        Buffer: Any = b"",
        FileInformationClass: int = 0,
        **more: Unpack[Members],
    ) -> None:
        self.Disposition = Disposition
        self.Length = Length
        self.ByteOffset = ByteOffset
        self.Buffer: Any = Buffer
        """What is written, as bytes or as memory of the program; of a read, the program's memory, if it has passed one.
        """
        self.FileInformationClass = FileInformationClass
        self.more: Mapping[str, Any] = more or NOTHING_MORE

    # IRP_MJ_CREATE. `Disposition` is the high byte of `Options`, `CreateOptions` the rest.
    CreateOptions = _Member(0)
    FileAttributes = _Member(0)
    ShareAccess = _Member(FILE_SHARE_VALID_FLAGS)
    DesiredAccess = _Member(USUAL_ACCESS)
    """``SecurityContext->DesiredAccess``."""
    AllocationSize = _Member(0)
    OperationFlags = _Member(0)
    """``Iopb->OperationFlags``: the SL_ flags of the request."""
    IgnoreShareAccess = _Member(False)
    """Whether the create was issued with IO_IGNORE_SHARE_ACCESS_CHECK."""

    # IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_LOCK_CONTROL.
    Key = _Member(0)
    ProcessId: _Member[Any] = _Member(None)
    FailImmediately = _Member(False)
    ExclusiveLock = _Member(False)

    # IRP_MJ_QUERY_INFORMATION, IRP_MJ_SET_INFORMATION.
    InfoBuffer: _Member[Any] = _Member(None)
    ParentOfTarget: _Member[Any] = _Member(None)

    # IRP_MJ_DIRECTORY_CONTROL.
    FileName: _Member[str | None] = _Member(None)
    CompletionFilter = _Member(0)
    DirectoryBuffer: _Member[Any] = _Member(None)

    # IRP_MJ_QUERY_VOLUME_INFORMATION.
    FsInformationClass = _Member(0)
    VolumeBuffer: _Member[Any] = _Member(None)

    # IRP_MJ_FILE_SYSTEM_CONTROL.
    FsControlCode = _Member(0)
    InputBuffer: _Member[Any] = _Member(None)
    OutputBuffer: _Member[Any] = _Member(None)

    # IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL: `Buffer` goes in, and there is room for `Length` bytes.
    IoControlCode = _Member(0)

    # Extended attributes, quotas, security descriptors.
    EaBuffer: _Member[Any] = _Member(None)
    EaLength = _Member(0)
    QuotaBuffer: _Member[Any] = _Member(None)
    SecurityBuffer: _Member[Any] = _Member(None)

    # FSFilter operations.
    SyncType = _Member(0)
    PageProtection = _Member(0)
    EndingOffset = _Member(0)
    ResourceToRelease: _Member[Any] = _Member(None)
    """What the mapped page writer gives back when it has written; whoever answers ACQUIRE_FOR_MOD_WRITE sets it."""

    # Fast I/O.
    CheckForReadOperation = _Member(False)
    MdlChain: _Member[Any] = _Member(None)
    DeviceType = _Member(0)

    @property
    def FileOffset(self) -> int:
        """The offset of a fast I/O operation on cached data."""
        return self.ByteOffset

    @property
    def LockKey(self) -> int:
        """``FastIoCheckIfPossible.LockKey``."""
        return self.Key

    @property
    def Options(self) -> int:
        """``Create.Options``: the disposition in the high byte, the create options below it."""
        return self.Disposition << 24 | self.CreateOptions

    @Options.setter
    def Options(self, value: int) -> None:
        self.Disposition = value >> 24
        self.CreateOptions = value & 0xFFFFFF

    @property
    def WriteBuffer(self) -> Any:
        """``Write.WriteBuffer``."""
        return self.Buffer

    @WriteBuffer.setter
    def WriteBuffer(self, value: Any) -> None:
        self.Buffer = value

    @property
    def Create(self) -> Parameters:
        """The same object: in C, the structure of the union that belongs to the major function."""
        return self

    Read = Write = QueryFileInformation = SetFileInformation = Create
    DirectoryControl = QueryDirectory = NotifyDirectory = LockControl = Create
    QueryVolumeInformation = SetVolumeInformation = FileSystemControl = DeviceIoControl = Common = Create
    Buffered = Direct = Neither = FastIo = Create
    QueryEa = SetEa = QueryQuota = SetQuota = QuerySecurity = Create
    AcquireForSectionSynchronization = AcquireForModifiedPageWriter = ReleaseForModifiedPageWriter = Create
    FastIoCheckIfPossible = NetworkQueryOpen = QueryOpen = MountVolume = Create
    MdlRead = MdlReadComplete = PrepareMdlWrite = MdlWriteComplete = Create

    def copy(self) -> Parameters:
        """A copy that can be changed without changing this one."""
        twin = Parameters.__new__(Parameters)
        for name in Parameters.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parameters) and all(
            getattr(self, name) == getattr(other, name) for name in Parameters.__slots__
        )

    __hash__ = None  # type: ignore[assignment]
