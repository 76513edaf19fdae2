"""What filters, instances and volumes tell of themselves: to drivers, and to whoever lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from kemu.fltmgr.attaching import Use
from kemu.fltmgr.instance_constants import FLTFL_VSI_DETACHED_VOLUME
from kemu.fltmgr.objects import Filter, FltVolume, Instance, RundownObject
from kemu.io.device import DEVICE_OBJECT
from kemu.io.filesystem.nodes import SECTOR
from kemu.io.structures import Information, name_size
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL
from kemu.nt.object import Reference
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_FLT_NO_DEVICE_OBJECT,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.strings import UNICODE_STRING, RtlCopyUnicodeString, RtlInitUnicodeString
from kemu.runtime import current_thread

FilterFullInformation: Final = 0
FilterAggregateBasicInformation: Final = 1
InstanceBasicInformation: Final = 0
InstancePartialInformation: Final = 1
InstanceFullInformation: Final = 2
FilterVolumeBasicInformation: Final = 0
FilterVolumeStandardInformation: Final = 1


@dataclass(slots=True)
class FILTER_FULL_INFORMATION(Information):
    """A filter: its frame, its name and how many instances it has."""

    SIZE: ClassVar[int] = 14
    FrameID: int
    NumberOfInstances: int
    FilterName: str

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FilterName)


@dataclass(slots=True)
class FILTER_AGGREGATE_BASIC_INFORMATION(Information):
    """The same with the altitude of the default instance."""

    SIZE: ClassVar[int] = 24
    FrameID: int
    NumberOfInstances: int
    FilterName: str
    FilterAltitude: str

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FilterName) + name_size(self.FilterAltitude)


@dataclass(slots=True)
class INSTANCE_BASIC_INFORMATION(Information):
    """The name of an instance."""

    SIZE: ClassVar[int] = 8
    InstanceName: str

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.InstanceName)


@dataclass(slots=True)
class INSTANCE_PARTIAL_INFORMATION(Information):
    """The name of an instance and its altitude."""

    SIZE: ClassVar[int] = 12
    InstanceName: str
    Altitude: str

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.InstanceName) + name_size(self.Altitude)


@dataclass(slots=True)
class INSTANCE_FULL_INFORMATION(Information):
    """An instance with its volume and its filter."""

    SIZE: ClassVar[int] = 20
    InstanceName: str
    Altitude: str
    VolumeName: str
    FilterName: str

    @property
    def size(self) -> int:
        names = (self.InstanceName, self.Altitude, self.VolumeName, self.FilterName)
        return self.SIZE + sum(map(name_size, names))


@dataclass(slots=True)
class FILTER_VOLUME_BASIC_INFORMATION(Information):
    """The name of a volume."""

    SIZE: ClassVar[int] = 2
    FilterVolumeName: str

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FilterVolumeName)


@dataclass(slots=True)
class FILTER_VOLUME_STANDARD_INFORMATION(Information):
    """A volume; *Flags* has FLTFL_VSI_DETACHED_VOLUME for one that was dismounted (FLT-INST-35)."""

    SIZE: ClassVar[int] = 18
    Flags: int
    FrameID: int
    FileSystemType: int
    FilterVolumeName: str

    @property
    def size(self) -> int:
        return self.SIZE + name_size(self.FilterVolumeName)


@dataclass(slots=True)
class FLT_VOLUME_PROPERTIES(Information):
    """What can be said of a volume without asking it (FLT-INST-08)."""

    SIZE: ClassVar[int] = 72
    DeviceType: int
    DeviceCharacteristics: int
    DeviceObjectFlags: int
    AlignmentRequirement: int
    SectorSize: int
    Flags: int
    FileSystemDriverName: str
    FileSystemDeviceName: str
    RealDeviceName: str

    @property
    def size(self) -> int:
        names = (self.FileSystemDriverName, self.FileSystemDeviceName, self.RealDeviceName)
        return self.SIZE + sum(map(name_size, names))


def _within(information: Information | None, size: int) -> tuple[NTSTATUS, Information | None, int]:
    """*information* for a caller with room for *size* bytes, and how many are needed."""
    if information is None:
        return STATUS_INVALID_PARAMETER, None, 0
    if information.size > size:
        return STATUS_BUFFER_TOO_SMALL, None, information.size
    return STATUS_SUCCESS, information, information.size


@routine(
    "fltkernel",
    """NTSTATUS FltGetFilterInformation(_In_ PFLT_FILTER Filter, _In_ FILTER_INFORMATION_CLASS InformationClass,
       _Out_ PVOID Buffer, _In_ ULONG BufferSize, _Out_ PULONG BytesReturned)""",
    max_irql=APC_LEVEL,
)
async def FltGetFilterInformation(
    Filter: Filter, InformationClass: int, BufferSize: int
) -> tuple[NTSTATUS, Information | None, int]:
    """FILTER_FULL_INFORMATION or FILTER_AGGREGATE_BASIC_INFORMATION, by the class, with how many bytes it takes.

    STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_PARAMETER for another class. IRQL: <= APC_LEVEL.
    """
    await Use("FltGetFilterInformation", Filter)
    number = len(Filter.instances)
    information: Information | None = None
    if InformationClass == FilterFullInformation:
        information = FILTER_FULL_INFORMATION(0, number, Filter.filter_name)
    elif InformationClass == FilterAggregateBasicInformation:
        information = FILTER_AGGREGATE_BASIC_INFORMATION(0, number, Filter.filter_name, Filter.altitude)
    return _within(information, BufferSize)


@routine(
    "fltkernel",
    """NTSTATUS FltGetInstanceInformation(_In_ PFLT_INSTANCE Instance,
       _In_ INSTANCE_INFORMATION_CLASS InformationClass, _Out_ PVOID Buffer, _In_ ULONG BufferSize,
       _Out_ PULONG BytesReturned)""",
    max_irql=APC_LEVEL,
)
async def FltGetInstanceInformation(
    Instance: Instance, InformationClass: int, BufferSize: int
) -> tuple[NTSTATUS, Information | None, int]:
    """INSTANCE_BASIC_INFORMATION, the partial or the full one, by the class, with how many bytes it takes.

    STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_PARAMETER for another class. IRQL: <= APC_LEVEL.
    """
    await Use("FltGetInstanceInformation", Instance)
    name, altitude = Instance.instance_name, Instance.altitude
    information: Information | None = None
    if InformationClass == InstanceBasicInformation:
        information = INSTANCE_BASIC_INFORMATION(name)
    elif InformationClass == InstancePartialInformation:
        information = INSTANCE_PARTIAL_INFORMATION(name, altitude)
    elif InformationClass == InstanceFullInformation:
        information = INSTANCE_FULL_INFORMATION(
            name, altitude, Instance.volume.device_name, Instance.filter.filter_name
        )
    return _within(information, BufferSize)


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeInformation(_In_ PFLT_VOLUME Volume, _In_ FILTER_VOLUME_INFORMATION_CLASS InformationClass,
       _Out_ PVOID Buffer, _In_ ULONG BufferSize, _Out_ PULONG BytesReturned)""",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeInformation(
    Volume: FltVolume, InformationClass: int, BufferSize: int
) -> tuple[NTSTATUS, Information | None, int]:
    """FILTER_VOLUME_BASIC_INFORMATION or the standard one, by the class, with how many bytes it takes.

    STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_PARAMETER for another class. IRQL: <= APC_LEVEL.
    """
    await Use("FltGetVolumeInformation", Volume)
    information: Information | None = None
    if InformationClass == FilterVolumeBasicInformation:
        information = FILTER_VOLUME_BASIC_INFORMATION(Volume.device_name)
    elif InformationClass == FilterVolumeStandardInformation:
        flags = FLTFL_VSI_DETACHED_VOLUME if Volume.is_detached(current_thread()) else 0
        kind = Volume.kind.filesystem_type
        information = FILTER_VOLUME_STANDARD_INFORMATION(flags, 0, kind, Volume.device_name)
    return _within(information, BufferSize)


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeProperties(_In_ PFLT_VOLUME Volume, _Out_ PFLT_VOLUME_PROPERTIES VolumeProperties,
       _In_ ULONG VolumePropertiesLength, _Out_ PULONG LengthReturned)""",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeProperties(
    Volume: FltVolume, VolumePropertiesLength: int
) -> tuple[NTSTATUS, FLT_VOLUME_PROPERTIES | None, int]:
    """The properties of a volume, with how many bytes they take with their names.

    No request is sent for them, so that they may be asked for in InstanceSetup (FLT-INST-08). STATUS_BUFFER_TOO_SMALL.
    IRQL: <= APC_LEVEL.
    """
    await Use("FltGetVolumeProperties", Volume)
    kind = Volume.kind
    properties = FLT_VOLUME_PROPERTIES(
        DeviceType=kind.device_type,
        DeviceCharacteristics=Volume.device.Characteristics,
        DeviceObjectFlags=0,
        AlignmentRequirement=0,
        SectorSize=SECTOR,
        Flags=0,
        FileSystemDriverName=rf"\FileSystem\{kind.filesystem}",
        FileSystemDeviceName=rf"\{kind.filesystem}",
        RealDeviceName=Volume.device_name,
    )
    if properties.size > VolumePropertiesLength:
        return STATUS_BUFFER_TOO_SMALL, None, properties.size
    return STATUS_SUCCESS, properties, properties.size


def _name(text: str, into: UNICODE_STRING | None) -> tuple[NTSTATUS, int]:
    """Put *text* into a string of the caller's; how many bytes it takes."""
    needed = name_size(text)
    if into is None or into.MaximumLength < needed:
        return STATUS_BUFFER_TOO_SMALL, needed
    source = UNICODE_STRING()
    RtlInitUnicodeString(source, text)
    RtlCopyUnicodeString(into, source)
    return STATUS_SUCCESS, needed


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeName(_In_ PFLT_VOLUME Volume, _Inout_opt_ PUNICODE_STRING VolumeName,
       _Out_opt_ PULONG BufferSizeNeeded)""",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeName(Volume: FltVolume, VolumeName: UNICODE_STRING | None) -> tuple[NTSTATUS, int]:
    r"""Put the name of the volume's device, ``\Device\HarddiskVolume1``, into *VolumeName*; how many bytes it takes.

    STATUS_BUFFER_TOO_SMALL without a string or without room in it. IRQL: <= APC_LEVEL.
    """
    await Use("FltGetVolumeName", Volume)
    return _name(Volume.device_name, VolumeName)


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeGuidName(_In_ PFLT_VOLUME Volume, _Inout_opt_ PUNICODE_STRING VolumeGuidName,
       _Out_opt_ PULONG BufferSizeNeeded)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltGetVolumeGuidName(Volume: FltVolume, VolumeGuidName: UNICODE_STRING | None) -> tuple[NTSTATUS, int]:
    r"""Put the mount manager's name of the volume, ``\??\Volume{...}``, into *VolumeGuidName*; how many bytes it takes.

    STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_DEVICE_REQUEST for a volume that is on no disk. IRQL: PASSIVE_LEVEL.
    """
    await Use("FltGetVolumeGuidName", Volume)
    if not Volume.kind.has_disk:
        return STATUS_INVALID_DEVICE_REQUEST, 0
    return _name(Volume.guid_name, VolumeGuidName)


def _volume_of(name: str, FltObject: RundownObject) -> FltVolume:
    if isinstance(FltObject, Instance):
        return FltObject.volume
    if not isinstance(FltObject, FltVolume):
        bad_pointer(name, "FltObject", FltVolume, FltObject)
        raise AssertionError(name)
    return FltObject


@routine(
    "fltkernel",
    "NTSTATUS FltGetFileSystemType(_In_ PVOID FltObject, _Out_ PFLT_FILESYSTEM_TYPE FileSystemType)",
    max_irql=APC_LEVEL,
)
async def FltGetFileSystemType(FltObject: RundownObject) -> tuple[NTSTATUS, int]:
    """The file system of a volume, or of an instance's: FLT_FSTYPE_NTFS and so on. IRQL: <= APC_LEVEL."""
    await Use("FltGetFileSystemType", FltObject)
    return STATUS_SUCCESS, _volume_of("FltGetFileSystemType", FltObject).kind.filesystem_type


@routine(
    "fltkernel",
    "NTSTATUS FltIsVolumeWritable(_In_ PVOID FltObject, _Out_ PBOOLEAN IsWritable)",
    max_irql=PASSIVE_LEVEL,
)
async def FltIsVolumeWritable(FltObject: RundownObject) -> tuple[NTSTATUS, bool]:
    """Whether the disk of a volume, or of an instance's, can be written to. IRQL: PASSIVE_LEVEL."""
    await Use("FltIsVolumeWritable", FltObject)
    return STATUS_SUCCESS, _volume_of("FltIsVolumeWritable", FltObject).kind.writable


async def _device(device: DEVICE_OBJECT | None) -> tuple[NTSTATUS, DEVICE_OBJECT | None]:
    """*device*, with a reference that the caller owes to ObDereferenceObject."""
    if device is None:
        return STATUS_FLT_NO_DEVICE_OBJECT, None
    await Reference(device)
    return STATUS_SUCCESS, device


@routine(
    "fltkernel",
    "NTSTATUS FltGetDeviceObject(_In_ PFLT_VOLUME Volume, _Outptr_ PDEVICE_OBJECT *DeviceObject)",
    max_irql=DISPATCH_LEVEL,
)
async def FltGetDeviceObject(Volume: FltVolume) -> tuple[NTSTATUS, DEVICE_OBJECT | None]:
    """The filter manager's device object of a volume, referenced. IRQL: <= DISPATCH_LEVEL."""
    await Use("FltGetDeviceObject", Volume)
    return await _device(Volume.device)


@routine(
    "fltkernel",
    "NTSTATUS FltGetDiskDeviceObject(_In_ PFLT_VOLUME Volume, _Outptr_ PDEVICE_OBJECT *DiskDeviceObject)",
    max_irql=DISPATCH_LEVEL,
)
async def FltGetDiskDeviceObject(Volume: FltVolume) -> tuple[NTSTATUS, DEVICE_OBJECT | None]:
    """The device object of the disk that a volume is on, referenced; STATUS_FLT_NO_DEVICE_OBJECT without one.

    IRQL: <= DISPATCH_LEVEL.
    """
    await Use("FltGetDiskDeviceObject", Volume)
    return await _device(Volume.disk)
