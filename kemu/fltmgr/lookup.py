"""Finding filters, volumes and instances, and listing them; whatever is found is referenced (FLT-REF-02).

What is going away is not found: STATUS_FLT_DELETING_OBJECT, and lists leave it out (FLT-INST-31, FLT-INST-35).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from kemu.fltmgr.attaching import Name
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import Filter, FltVolume, Instance, RundownObject
from kemu.io.device import DEVICE_OBJECT
from kemu.io.request import FileObject
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_FLT_INSTANCE_NOT_FOUND,
    STATUS_FLT_VOLUME_NOT_FOUND,
    STATUS_NO_MORE_ENTRIES,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system
from kemu.runtime import Cell, Operation, Thread

T = TypeVar("T", bound=RundownObject)
Found = tuple[NTSTATUS, T | None]


class LookUp(Operation[Any]):
    """One of the routines that look objects up and reference them: what it finds is the state of one moment."""

    __slots__ = ("about", "look", "name", "used")
    kind = "look up"

    def __init__(self, name: str, about: Cell, look: Callable[[Thread], Any], *used: RundownObject | None) -> None:
        self.name = name
        self.about = about
        self.look = look
        self.used = used

    def perform(self, thread: Thread) -> Any:
        for one in self.used:
            if one is not None:
                one.check_alive(thread, self.name)
        thread.read(self.about)
        return self.look(thread)

    def target(self) -> Cell:
        return self.about

    def describe(self) -> str:
        return f"{self.name} of {self.about.label}"


def _referenced(thread: Thread, found: T | None, missing: NTSTATUS) -> Found[T]:
    """*found* with a reference, or the status of why there is none."""
    if found is None:
        return missing, None
    if not found.add_reference(thread, thread.label):
        return STATUS_FLT_DELETING_OBJECT, None
    return STATUS_SUCCESS, found


def _manager() -> FilterManager:
    return current_system().get(FilterManager)


# Filters.


@routine(
    "fltkernel",
    "NTSTATUS FltGetFilterFromName(_In_ PCUNICODE_STRING FilterName, _Outptr_ PFLT_FILTER *RetFilter)",
    max_irql=APC_LEVEL,
)
async def FltGetFilterFromName(FilterName: Name) -> tuple[NTSTATUS, Filter | None]:
    """The filter of that name, referenced. STATUS_FLT_FILTER_NOT_FOUND, STATUS_FLT_DELETING_OBJECT.

    IRQL: <= APC_LEVEL.
    """
    manager = _manager()
    name = str(FilterName).upper()

    def look(thread: Thread) -> Found[Filter]:
        found = next((one for one in manager.filters if one.filter_name.upper() == name), None)
        return _referenced(thread, found, STATUS_FLT_FILTER_NOT_FOUND)

    return await LookUp("FltGetFilterFromName", manager.presence, look)


@routine(
    "fltkernel",
    "NTSTATUS FltGetFilterFromInstance(_In_ PFLT_INSTANCE Instance, _Outptr_ PFLT_FILTER *RetFilter)",
    max_irql=APC_LEVEL,
)
async def FltGetFilterFromInstance(Instance: Instance) -> tuple[NTSTATUS, Filter | None]:
    """The filter of an instance, referenced. STATUS_FLT_DELETING_OBJECT. IRQL: <= APC_LEVEL."""
    filter_ = Instance.filter

    def look(thread: Thread) -> Found[Filter]:
        return _referenced(thread, filter_, STATUS_FLT_FILTER_NOT_FOUND)

    return await LookUp("FltGetFilterFromInstance", filter_, look, Instance)


@routine(
    "fltkernel",
    """NTSTATUS FltEnumerateFilters(_Out_ PFLT_FILTER *FilterList, _In_ ULONG FilterListSize,
       _Out_ PULONG NumberFiltersReturned)""",
    max_irql=APC_LEVEL,
)
async def FltEnumerateFilters(FilterListSize: int) -> tuple[NTSTATUS, list[Filter], int]:
    """All filters, each referenced, with how many there are.

    STATUS_BUFFER_TOO_SMALL, and none, if that is more than *FilterListSize*. IRQL: <= APC_LEVEL.
    """
    manager = _manager()

    def look(thread: Thread) -> tuple[NTSTATUS, list[Filter], int]:
        return _listed(thread, manager.filters, FilterListSize)

    return await LookUp("FltEnumerateFilters", manager.presence, look)


def _listed(thread: Thread, all_: Iterable[T], size: int) -> tuple[NTSTATUS, list[T], int]:
    """References on *all_*, as far as they are not going away; none if they are more than *size*."""
    found: list[T] = []
    for one in all_:
        thread.read(one)
        if not one.deleting:
            found.append(one)
    if len(found) > size:
        return STATUS_BUFFER_TOO_SMALL, [], len(found)
    for one in found:
        one.add_reference(thread, thread.label)
    return STATUS_SUCCESS, found, len(found)


# Volumes.


@routine(
    "fltkernel",
    "NTSTATUS FltGetVolumeFromInstance(_In_ PFLT_INSTANCE Instance, _Outptr_ PFLT_VOLUME *RetVolume)",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeFromInstance(Instance: Instance) -> tuple[NTSTATUS, FltVolume | None]:
    """The volume of an instance, referenced. STATUS_FLT_DELETING_OBJECT. IRQL: <= APC_LEVEL."""
    volume = Instance.volume

    def look(thread: Thread) -> Found[FltVolume]:
        return _referenced(thread, volume, STATUS_FLT_VOLUME_NOT_FOUND)

    return await LookUp("FltGetVolumeFromInstance", volume, look, Instance)


def _volume_that(name: str, filter_: Filter, is_it: Callable[[Thread, FltVolume], bool]) -> Operation[Found[FltVolume]]:
    manager = _manager()

    def look(thread: Thread) -> Found[FltVolume]:
        # A name may be that of a volume which was dismounted as well; the later one is mounted (FLT-INST-35).
        found = next((one for one in reversed(manager.volumes) if is_it(thread, one)), None)
        return _referenced(thread, found, STATUS_FLT_VOLUME_NOT_FOUND)

    return LookUp(name, manager.presence, look, filter_)


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeFromFileObject(_In_ PFLT_FILTER Filter, _In_ PFILE_OBJECT FileObject,
       _Outptr_ PFLT_VOLUME *RetVolume)""",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeFromFileObject(Filter: Filter, FileObject: FileObject) -> tuple[NTSTATUS, FltVolume | None]:
    """The volume that a file is on, referenced. STATUS_FLT_VOLUME_NOT_FOUND, STATUS_FLT_DELETING_OBJECT.

    IRQL: <= APC_LEVEL.
    """
    volume = FileObject.volume
    return await _volume_that("FltGetVolumeFromFileObject", Filter, lambda thread, one: one.volume is volume)


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeFromDeviceObject(_In_ PFLT_FILTER Filter, _In_ PDEVICE_OBJECT DeviceObject,
       _Outptr_ PFLT_VOLUME *RetVolume)""",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeFromDeviceObject(
    Filter: Filter, DeviceObject: DEVICE_OBJECT
) -> tuple[NTSTATUS, FltVolume | None]:
    """The volume of a device that FltGetDeviceObject or FltGetDiskDeviceObject gave, referenced.

    STATUS_FLT_VOLUME_NOT_FOUND, STATUS_FLT_DELETING_OBJECT. IRQL: <= APC_LEVEL.
    """
    return await _volume_that(
        "FltGetVolumeFromDeviceObject", Filter, lambda thread, one: DeviceObject in {one.device, one.disk}
    )


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeFromName(_In_ PFLT_FILTER Filter, _In_ PCUNICODE_STRING VolumeName,
       _Outptr_ PFLT_VOLUME *RetVolume)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltGetVolumeFromName(Filter: Filter, VolumeName: Name) -> tuple[NTSTATUS, FltVolume | None]:
    r"""The volume of that name, referenced.

    Names are ``\Device\HarddiskVolume1``, ``\??\C:``, ``\DosDevices\C:``, ``C:`` and ``\??\Volume{...}``, with or
    without a backslash at the end.

    STATUS_FLT_VOLUME_NOT_FOUND, STATUS_FLT_DELETING_OBJECT. IRQL: PASSIVE_LEVEL.
    """
    name = str(VolumeName).rstrip("\\").upper().replace("\\DOSDEVICES\\", "\\??\\")
    return await _volume_that(
        "FltGetVolumeFromName",
        Filter,
        lambda thread, one: (
            name in {one.device_name.upper(), one.guid_name.upper(), one.label.upper(), f"\\??\\{one.label}".upper()}
        ),
    )


@routine(
    "fltkernel",
    """NTSTATUS FltEnumerateVolumes(_In_ PFLT_FILTER Filter, _Out_ PFLT_VOLUME *VolumeList, _In_ ULONG VolumeListSize,
       _Out_ PULONG NumberVolumesReturned)""",
    max_irql=APC_LEVEL,
)
async def FltEnumerateVolumes(Filter: Filter, VolumeListSize: int) -> tuple[NTSTATUS, list[FltVolume], int]:
    """All volumes, each referenced, also those that were dismounted and have open files (FLT-INST-35).

    STATUS_BUFFER_TOO_SMALL, and none, if they are more than *VolumeListSize*. IRQL: <= APC_LEVEL.
    """
    manager = _manager()

    def look(thread: Thread) -> tuple[NTSTATUS, list[FltVolume], int]:
        return _listed(thread, manager.volumes, VolumeListSize)

    return await LookUp("FltEnumerateVolumes", manager.presence, look, Filter)


# Instances.


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeInstanceFromName(_In_opt_ PFLT_FILTER Filter, _In_ PFLT_VOLUME Volume,
       _In_opt_ PCUNICODE_STRING InstanceName, _Outptr_ PFLT_INSTANCE *RetInstance)""",
    max_irql=APC_LEVEL,
)
async def FltGetVolumeInstanceFromName(
    Filter: Filter | None, Volume: FltVolume, InstanceName: Name | None
) -> tuple[NTSTATUS, Instance | None]:
    """The highest instance on *Volume* of that filter, or of any, that is called so, or anyhow; referenced.

    STATUS_FLT_INSTANCE_NOT_FOUND, STATUS_FLT_DELETING_OBJECT. IRQL: <= APC_LEVEL.
    """
    name = None if InstanceName is None else str(InstanceName)

    def look(thread: Thread) -> Found[Instance]:
        found = next(
            (
                one
                for one in Volume.instances
                if Filter in {None, one.filter} and (name is None or one.instance_name.upper() == name.upper())
            ),
            None,
        )
        return _referenced(thread, found, STATUS_FLT_INSTANCE_NOT_FOUND)

    return await LookUp("FltGetVolumeInstanceFromName", Volume, look, Filter, Volume)


def _first(name: str, volume: FltVolume, candidates: Callable[[], Sequence[Instance]], *used: RundownObject) -> Any:
    def look(thread: Thread) -> Found[Instance]:
        for one in candidates():
            thread.read(one)
            if not one.deleting:
                return _referenced(thread, one, STATUS_NO_MORE_ENTRIES)
        return STATUS_NO_MORE_ENTRIES, None

    return LookUp(name, volume, look, *used)


@routine(
    "fltkernel",
    "NTSTATUS FltGetTopInstance(_In_ PFLT_VOLUME Volume, _Outptr_ PFLT_INSTANCE *Instance)",
    max_irql=APC_LEVEL,
)
async def FltGetTopInstance(Volume: FltVolume) -> tuple[NTSTATUS, Instance | None]:
    """The highest instance on a volume, referenced, or STATUS_NO_MORE_ENTRIES (FLT-REF-05). IRQL: <= APC_LEVEL."""
    return await _first("FltGetTopInstance", Volume, lambda: Volume.instances, Volume)


@routine(
    "fltkernel",
    "NTSTATUS FltGetBottomInstance(_In_ PFLT_VOLUME Volume, _Outptr_ PFLT_INSTANCE *Instance)",
    max_irql=APC_LEVEL,
)
async def FltGetBottomInstance(Volume: FltVolume) -> tuple[NTSTATUS, Instance | None]:
    """The lowest instance on a volume, referenced, or STATUS_NO_MORE_ENTRIES (FLT-REF-05). IRQL: <= APC_LEVEL."""
    return await _first("FltGetBottomInstance", Volume, lambda: Volume.instances[::-1], Volume)


@routine(
    "fltkernel",
    "NTSTATUS FltGetUpperInstance(_In_ PFLT_INSTANCE CurrentInstance, _Outptr_ PFLT_INSTANCE *UpperInstance)",
    max_irql=APC_LEVEL,
)
async def FltGetUpperInstance(CurrentInstance: Instance) -> tuple[NTSTATUS, Instance | None]:
    """The next higher instance on the same volume, referenced, or STATUS_NO_MORE_ENTRIES (FLT-REF-05).

    IRQL: <= APC_LEVEL.
    """
    volume, key = CurrentInstance.volume, CurrentInstance.key
    return await _first(
        "FltGetUpperInstance",
        volume,
        lambda: [one for one in reversed(volume.instances) if one.key > key],
        CurrentInstance,
    )


@routine(
    "fltkernel",
    "NTSTATUS FltGetLowerInstance(_In_ PFLT_INSTANCE CurrentInstance, _Outptr_ PFLT_INSTANCE *LowerInstance)",
    max_irql=APC_LEVEL,
)
async def FltGetLowerInstance(CurrentInstance: Instance) -> tuple[NTSTATUS, Instance | None]:
    """The next lower instance on the same volume, referenced, or STATUS_NO_MORE_ENTRIES (FLT-REF-05).

    IRQL: <= APC_LEVEL.
    """
    volume, key = CurrentInstance.volume, CurrentInstance.key
    return await _first(
        "FltGetLowerInstance", volume, lambda: [one for one in volume.instances if one.key < key], CurrentInstance
    )


@routine(
    "fltkernel",
    """NTSTATUS FltEnumerateInstances(_In_opt_ PFLT_VOLUME Volume, _In_opt_ PFLT_FILTER Filter,
       _Out_ PFLT_INSTANCE *InstanceList, _In_ ULONG InstanceListSize, _Out_ PULONG NumberInstancesReturned)""",
    max_irql=APC_LEVEL,
)
async def FltEnumerateInstances(
    Volume: FltVolume | None, Filter: Filter | None, InstanceListSize: int
) -> tuple[NTSTATUS, list[Instance], int]:
    """The instances on *Volume*, of *Filter*, or both, each referenced, with how many there are.

    STATUS_BUFFER_TOO_SMALL, and none, if they are more than *InstanceListSize*. IRQL: <= APC_LEVEL.
    """
    manager = _manager()

    def look(thread: Thread) -> tuple[NTSTATUS, list[Instance], int]:
        found: list[Instance] = []
        for volume in manager.volumes if Volume is None else [Volume]:
            thread.read(volume)
            found += [one for one in volume.instances if Filter in {None, one.filter}]
        return _listed(thread, found, InstanceListSize)

    about: Cell = Volume if Volume is not None else manager.presence
    return await LookUp("FltEnumerateInstances", about, look, Volume, Filter)


@routine(
    "fltkernel",
    "LONG FltCompareInstanceAltitudes(_In_ PFLT_INSTANCE Instance1, _In_ PFLT_INSTANCE Instance2)",
    max_irql=DISPATCH_LEVEL,
)
def FltCompareInstanceAltitudes(Instance1: Instance, Instance2: Instance) -> int:
    """Below 0 if *Instance1* is the lower one, above 0 if it is the higher one, 0 for one altitude (FLT-STACK-06).

    It means something for instances on one volume. IRQL: <= DISPATCH_LEVEL.
    """
    return (Instance1.key > Instance2.key) - (Instance1.key < Instance2.key)
