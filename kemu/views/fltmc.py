"""The tables of ``fltmc``: filters, instances and volumes, in its columns and widths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import FltVolume, Instance

FILTERS_HEAD: Final = (
    "Filter Name                     Num Instances    Altitude    Frame",
    "------------------------------  -------------  ------------  -----",
)
INSTANCES_HEAD: Final = (
    f"{'Filter':<22}{'Volume Name':<41}Altitude{'':8}Instance Name{'':7}Frame   SprtFtrs  VlStatus",
    f"{'-' * 20}  {'-' * 37}  {'-' * 12}  {'-' * 22}  {'-' * 5}   {'-' * 8}  {'-' * 8}",
)
VOLUMES_HEAD: Final = (
    "Dos Name                        Volume Name                              FileSystem   Status",
    "------------------------------  ---------------------------------------  ----------  --------",
)


@dataclass(frozen=True, slots=True)
class FilterRow:
    """A minifilter."""

    name: str
    instances: int
    altitude: str
    frame: int = 0


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance of a minifilter on a volume."""

    filter: str
    volume: str
    altitude: str
    instance: str
    frame: int = 0
    supported_features: int = 0
    """SUPPORTED_FS_FEATURES_ flags of the filter's service key; emulated drivers have none."""
    status: str = ""


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume that the filter manager is on."""

    dos_name: str
    device: str
    file_system: str
    status: str = ""


def filters(manager: FilterManager) -> list[FilterRow]:
    """The registered minifilters, highest altitude first."""
    rows = [FilterRow(one.filter_name, len(one.instances), one.altitude) for one in manager.filters]
    return sorted(rows, key=lambda row: altitude_key(row.altitude) or (), reverse=True)


def instances(
    manager: FilterManager, *, filter_name: str | None = None, volume: str | None = None
) -> list[InstanceRow]:
    """The instances that are attached, by the names of their filters as ASCII orders them, then by altitude."""
    found = [
        _instance_row(one, on)
        for on in manager.volumes
        if volume is None or on.volume.dos_name.casefold() == volume.casefold()
        for one in on.instances
        if filter_name is None or one.filter.filter_name.casefold() == filter_name.casefold()
    ]
    # By altitude as the volume's stack has it, which sorting by name keeps.
    return sorted(found, key=lambda row: row.filter)


def _instance_row(instance: Instance, volume: FltVolume) -> InstanceRow:
    name = instance.filter.filter_name
    return InstanceRow(name, volume.volume.dos_name, instance.altitude, instance.instance_name, status=_status(volume))


def volumes(manager: FilterManager) -> list[VolumeRow]:
    """The volumes, oldest first."""
    return [
        VolumeRow(one.volume.dos_name, one.device_name, one.kind.filesystem, _status(one)) for one in manager.volumes
    ]


def _status(volume: FltVolume) -> str:
    # Not `is_detached`, which is for threads of a run: here nobody looks who could race.
    return "" if volume.volume.filesystem.is_mounted else "Detached"


def filters_table(rows: Iterable[FilterRow]) -> list[str]:
    """The table of ``fltmc filters``."""
    return [
        *FILTERS_HEAD,
        *(f"{row.name:<30}{row.instances:>11}       {_altitude(row.altitude):<15}{row.frame}" for row in rows),
    ]


def instances_table(rows: Iterable[InstanceRow]) -> list[str]:
    """The table of ``fltmc instances``."""
    return [
        *INSTANCES_HEAD,
        *(
            f"{row.filter:<20}  {row.volume:<37}     {_altitude(row.altitude):<11}{row.instance:<26}{row.frame}     "
            f"{row.supported_features:08x}  {row.status}".rstrip()
            for row in rows
        ),
    ]


def volumes_table(rows: Iterable[VolumeRow]) -> list[str]:
    """The table of ``fltmc volumes``."""
    return [
        *VOLUMES_HEAD,
        *(f"{row.dos_name:<30}  {row.device:<39}  {row.file_system:<10}  {row.status}".rstrip() for row in rows),
    ]


def _altitude(altitude: str) -> str:
    """*altitude* with its point where those of six digits have theirs."""
    whole, point, fraction = altitude.partition(".")
    return f"{whole:>6}{point}{fraction}"
