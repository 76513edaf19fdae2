"""The structures of information classes (ntddk.h, ntifs.h): what queries fill in and set requests bring.

Sizes are those of 64-bit Windows, so that a buffer that is too small for a structure there is too small here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


class Information:
    """Base of the structures. `SIZE` is what the fixed part takes."""

    SIZE: ClassVar[int] = 0

    @property
    def size(self) -> int:
        """The size in bytes, with names."""
        return self.SIZE


def name_size(name: str) -> int:
    """How many bytes *name* takes, in UTF-16."""
    return len(name.encode("utf-16-le"))


@dataclass(slots=True)
class FILE_BASIC_INFORMATION(Information):
    """Times in units of 100 ns, and attributes. In a set request 0 leaves a time or the attributes as they are."""

    SIZE: ClassVar[int] = 40
    CreationTime: int = 0
    LastAccessTime: int = 0
    LastWriteTime: int = 0
    ChangeTime: int = 0
    FileAttributes: int = 0


@dataclass(slots=True)
class FILE_STANDARD_INFORMATION(Information):
    """Sizes, links, whether the file is going to be deleted."""

    SIZE: ClassVar[int] = 24
    AllocationSize: int = 0
    EndOfFile: int = 0
    NumberOfLinks: int = 0
    DeletePending: bool = False
    Directory: bool = False


@dataclass(slots=True)
class FILE_INTERNAL_INFORMATION(Information):
    """The file's number on its volume, which FILE_OPEN_BY_FILE_ID takes."""

    SIZE: ClassVar[int] = 8
    IndexNumber: int = 0


@dataclass(slots=True)
class FILE_EA_INFORMATION(Information):
    """How large the extended attributes are; kemu has none."""

    SIZE: ClassVar[int] = 4
    EaSize: int = 0


@dataclass(slots=True)
class FILE_ACCESS_INFORMATION(Information):
    """The rights that the open was granted."""

    SIZE: ClassVar[int] = 4
    AccessFlags: int = 0


@dataclass(slots=True)
class FILE_POSITION_INFORMATION(Information):
    """The position of a file object for synchronous I/O."""

    SIZE: ClassVar[int] = 8
    CurrentByteOffset: int = 0


@dataclass(slots=True)
class FILE_MODE_INFORMATION(Information):
    """How the file was opened, in words of the create options."""

    SIZE: ClassVar[int] = 4
    Mode: int = 0


@dataclass(slots=True)
class FILE_ALIGNMENT_INFORMATION(Information):
    """The alignment that buffers of non-cached I/O need."""

    SIZE: ClassVar[int] = 4
    AlignmentRequirement: int = 0


@dataclass(slots=True)
class FILE_NAME_INFORMATION(Information):
    """The name from the root of the volume on."""

    SIZE: ClassVar[int] = 8
    FileName: str = ""

    @property
    def size(self) -> int:
        return 4 + name_size(self.FileName)


@dataclass(slots=True)
class FILE_ALL_INFORMATION(Information):
    """Most of the others together."""

    SIZE: ClassVar[int] = 104
    BasicInformation: FILE_BASIC_INFORMATION = field(default_factory=FILE_BASIC_INFORMATION)
    StandardInformation: FILE_STANDARD_INFORMATION = field(default_factory=FILE_STANDARD_INFORMATION)
    InternalInformation: FILE_INTERNAL_INFORMATION = field(default_factory=FILE_INTERNAL_INFORMATION)
    EaInformation: FILE_EA_INFORMATION = field(default_factory=FILE_EA_INFORMATION)
    AccessInformation: FILE_ACCESS_INFORMATION = field(default_factory=FILE_ACCESS_INFORMATION)
    PositionInformation: FILE_POSITION_INFORMATION = field(default_factory=FILE_POSITION_INFORMATION)
    ModeInformation: FILE_MODE_INFORMATION = field(default_factory=FILE_MODE_INFORMATION)
    AlignmentInformation: FILE_ALIGNMENT_INFORMATION = field(default_factory=FILE_ALIGNMENT_INFORMATION)
    NameInformation: FILE_NAME_INFORMATION = field(default_factory=FILE_NAME_INFORMATION)

    @property
    def size(self) -> int:
        return self.SIZE - FILE_NAME_INFORMATION.SIZE + self.NameInformation.size


@dataclass(slots=True)
class FILE_NETWORK_OPEN_INFORMATION(Information):
    """Times, sizes and attributes."""

    SIZE: ClassVar[int] = 56
    CreationTime: int = 0
    LastAccessTime: int = 0
    LastWriteTime: int = 0
    ChangeTime: int = 0
    AllocationSize: int = 0
    EndOfFile: int = 0
    FileAttributes: int = 0


@dataclass(slots=True)
class FILE_STAT_INFORMATION(Information):
    """What stat() wants to know of a file, without opening it."""

    SIZE: ClassVar[int] = 72
    FileId: int = 0
    CreationTime: int = 0
    LastAccessTime: int = 0
    LastWriteTime: int = 0
    ChangeTime: int = 0
    AllocationSize: int = 0
    EndOfFile: int = 0
    FileAttributes: int = 0
    ReparseTag: int = 0
    NumberOfLinks: int = 0
    EffectiveAccess: int = 0


@dataclass(slots=True)
class FILE_STAT_LX_INFORMATION(FILE_STAT_INFORMATION):
    """The same for the Linux subsystem; kemu has no more to say."""

    SIZE: ClassVar[int] = 96


@dataclass(slots=True)
class FILE_STAT_BASIC_INFORMATION(FILE_STAT_INFORMATION):
    """The same, with the volume's number."""

    SIZE: ClassVar[int] = 104


@dataclass(slots=True)
class FILE_CASE_SENSITIVE_INFORMATION(Information):
    """Whether names in a directory differ in case; they never do here."""

    SIZE: ClassVar[int] = 4
    Flags: int = 0


@dataclass(slots=True)
class FILE_ATTRIBUTE_TAG_INFORMATION(Information):
    """Attributes and reparse tag; kemu has no reparse points."""

    SIZE: ClassVar[int] = 8
    FileAttributes: int = 0
    ReparseTag: int = 0


@dataclass(slots=True)
class FILE_STREAM_INFORMATION(Information):
    """One stream of a file."""

    SIZE: ClassVar[int] = 24
    StreamName: str = ""
    StreamSize: int = 0
    StreamAllocationSize: int = 0

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.StreamName)


@dataclass(slots=True)
class FILE_LINK_ENTRY_INFORMATION(Information):
    """One name of a file."""

    SIZE: ClassVar[int] = 16
    ParentFileId: int = 0
    FileName: str = ""

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FileName)


@dataclass(slots=True)
class FILE_ALLOCATION_INFORMATION(Information):
    """The space to reserve; less than the file has truncates it."""

    SIZE: ClassVar[int] = 8
    AllocationSize: int = 0


@dataclass(slots=True)
class FILE_END_OF_FILE_INFORMATION(Information):
    """The end of file."""

    SIZE: ClassVar[int] = 8
    EndOfFile: int = 0


@dataclass(slots=True)
class FILE_VALID_DATA_LENGTH_INFORMATION(Information):
    """How far the file has been written; beyond it, up to the end of file, it reads as zeroes."""

    SIZE: ClassVar[int] = 8
    ValidDataLength: int = 0


@dataclass(slots=True)
class FILE_DISPOSITION_INFORMATION(Information):
    """Whether the file is to be deleted when its last handle is closed."""

    SIZE: ClassVar[int] = 1
    DeleteFile: bool = False


@dataclass(slots=True)
class FILE_DISPOSITION_INFORMATION_EX(Information):
    """The same, by FILE_DISPOSITION_ flags."""

    SIZE: ClassVar[int] = 4
    Flags: int = 0


@dataclass(slots=True)
class FILE_RENAME_INFORMATION(Information):
    """A new name: from the root of the volume on, or in the same directory if it holds no backslash.

    *RootDirectory* is the file object of a directory that *FileName* is relative to. *Flags* are for the class Ex.
    """

    SIZE: ClassVar[int] = 24
    FileName: str = ""
    ReplaceIfExists: bool = False
    Flags: int = 0
    RootDirectory: object = None


class FILE_LINK_INFORMATION(FILE_RENAME_INFORMATION):
    """An additional name, likewise."""


@dataclass(slots=True)
class FILE_NOTIFY_INFORMATION(Information):
    """One change in a directory."""

    SIZE: ClassVar[int] = 12
    Action: int = 0
    FileName: str = ""

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FileName)


@dataclass(slots=True)
class FILE_DIRECTORY_INFORMATION(Information):
    """One entry of a directory. The classes Full, Both and Id have the same members here, and their own sizes."""

    SIZE: ClassVar[int] = 64
    FileName: str = ""
    FileIndex: int = 0
    CreationTime: int = 0
    LastAccessTime: int = 0
    LastWriteTime: int = 0
    ChangeTime: int = 0
    EndOfFile: int = 0
    AllocationSize: int = 0
    FileAttributes: int = 0
    EaSize: int = 0
    ShortName: str = ""
    FileId: int = 0

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FileName)


class FILE_FULL_DIR_INFORMATION(FILE_DIRECTORY_INFORMATION):
    """One entry, with the size of the extended attributes."""

    SIZE: ClassVar[int] = 68


class FILE_BOTH_DIR_INFORMATION(FILE_DIRECTORY_INFORMATION):
    """One entry, with the short name too."""

    SIZE: ClassVar[int] = 94


class FILE_ID_FULL_DIR_INFORMATION(FILE_DIRECTORY_INFORMATION):
    """One entry, with the file's number."""

    SIZE: ClassVar[int] = 80


class FILE_ID_BOTH_DIR_INFORMATION(FILE_DIRECTORY_INFORMATION):
    """One entry, with the short name and the file's number."""

    SIZE: ClassVar[int] = 104


class FILE_NAMES_INFORMATION(FILE_DIRECTORY_INFORMATION):
    """One entry, of which only the name is told."""

    SIZE: ClassVar[int] = 12


@dataclass(slots=True)
class FILE_FS_VOLUME_INFORMATION(Information):
    """Label and serial number of a volume."""

    SIZE: ClassVar[int] = 18
    VolumeCreationTime: int = 0
    VolumeSerialNumber: int = 0
    SupportsObjects: bool = True
    VolumeLabel: str = ""

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.VolumeLabel)


@dataclass(slots=True)
class FILE_FS_LABEL_INFORMATION(Information):
    """A new label."""

    SIZE: ClassVar[int] = 4
    VolumeLabel: str = ""


@dataclass(slots=True)
class FILE_FS_SIZE_INFORMATION(Information):
    """Total and free space, in clusters."""

    SIZE: ClassVar[int] = 24
    TotalAllocationUnits: int = 0
    AvailableAllocationUnits: int = 0
    SectorsPerAllocationUnit: int = 0
    BytesPerSector: int = 0


@dataclass(slots=True)
class FILE_FS_FULL_SIZE_INFORMATION(Information):
    """Total and free space, in clusters, for the caller and in all."""

    SIZE: ClassVar[int] = 32
    TotalAllocationUnits: int = 0
    CallerAvailableAllocationUnits: int = 0
    ActualAvailableAllocationUnits: int = 0
    SectorsPerAllocationUnit: int = 0
    BytesPerSector: int = 0


@dataclass(slots=True)
class FILE_FS_DEVICE_INFORMATION(Information):
    """The kind of device below the volume."""

    SIZE: ClassVar[int] = 8
    DeviceType: int = 0
    Characteristics: int = 0


@dataclass(slots=True)
class FILE_FS_ATTRIBUTE_INFORMATION(Information):
    """What the file system can do, and its name."""

    SIZE: ClassVar[int] = 12
    FileSystemAttributes: int = 0
    MaximumComponentNameLength: int = 0
    FileSystemName: str = ""

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FileSystemName)


@dataclass(slots=True)
class FILE_ZERO_DATA_INFORMATION(Information):
    """The range that FSCTL_SET_ZERO_DATA fills with zeroes."""

    SIZE: ClassVar[int] = 16
    FileOffset: int = 0
    BeyondFinalZero: int = 0


@dataclass(slots=True)
class REQUEST_OPLOCK_INPUT_BUFFER(Information):
    """What FSCTL_REQUEST_OPLOCK is given."""

    SIZE: ClassVar[int] = 12
    RequestedOplockLevel: int = 0
    Flags: int = 0


@dataclass(slots=True)
class REQUEST_OPLOCK_OUTPUT_BUFFER(Information):
    """What a broken oplock tells its owner."""

    SIZE: ClassVar[int] = 24
    OriginalOplockLevel: int = 0
    NewOplockLevel: int = 0
    Flags: int = 0
    AccessMode: int = 0
    ShareMode: int = 0
