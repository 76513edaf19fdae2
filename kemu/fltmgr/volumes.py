"""Kinds of volumes, what a filter is told of them, and what happens to their instances at mount and dismount.

A volume that is mounted while filters are there is offered to them with its first operation (FLT-INST-02): the thread
of that operation calls every InstanceSetupCallback, and whoever comes meanwhile waits for it. After a dismount the
instances stay until the last file object of the volume is closed (FLT-INST-36).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kemu.fltmgr.constants import FILE_DEVICE_DISK_FILE_SYSTEM
from kemu.fltmgr.instance_constants import (
    FILE_DEVICE_CD_ROM_FILE_SYSTEM,
    FILE_DEVICE_NETWORK_FILE_SYSTEM,
    FLT_FSTYPE_CDFS,
    FLT_FSTYPE_EXFAT,
    FLT_FSTYPE_FAT,
    FLT_FSTYPE_LANMAN,
    FLT_FSTYPE_NPFS,
    FLT_FSTYPE_NTFS,
    FLT_FSTYPE_REFS,
    FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT,
    FLTFL_REGISTRATION_SUPPORT_DAX_VOLUME,
    FLTFL_REGISTRATION_SUPPORT_NPFS_MSFS,
)
from kemu.fltmgr.objects import ASKED, ASKING, FltVolume, WaitGone, WaitRundown
from kemu.fltmgr.teardown import BeginTeardown, teardown
from kemu.runtime import BlockingOperation, Cell, Operation, Thread, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.manager import FilterManager


@dataclass(frozen=True, slots=True)
class VolumeKind:
    """What a volume is: its file system, as numbers and in words, and the names of its devices."""

    filesystem: str
    filesystem_type: int
    device_type: int = FILE_DEVICE_DISK_FILE_SYSTEM
    device_name: str = r"\Device\HarddiskVolume{}"
    needs: int = 0
    """What a filter has to register that it supports, or it is not asked (FLT-REG-15)."""
    writable: bool = True
    has_disk: bool = True


NTFS: Final = VolumeKind("NTFS", FLT_FSTYPE_NTFS)
KINDS: Final[Mapping[str, VolumeKind]] = MappingProxyType(
    {
        "NTFS": NTFS,
        "ReFS": VolumeKind("ReFS", FLT_FSTYPE_REFS),
        "FAT": VolumeKind("FAT", FLT_FSTYPE_FAT),
        "exFAT": VolumeKind("exFAT", FLT_FSTYPE_EXFAT),
        "DAX": VolumeKind("NTFS", FLT_FSTYPE_NTFS, needs=FLTFL_REGISTRATION_SUPPORT_DAX_VOLUME),
        "CDFS": VolumeKind("CDFS", FLT_FSTYPE_CDFS, FILE_DEVICE_CD_ROM_FILE_SYSTEM, r"\Device\CdRom{}", writable=False),
        "SMB": VolumeKind(
            "LanmanRedirector", FLT_FSTYPE_LANMAN, FILE_DEVICE_NETWORK_FILE_SYSTEM, r"\Device\Mup", has_disk=False
        ),
        "NPFS": VolumeKind(
            "Npfs",
            FLT_FSTYPE_NPFS,
            FILE_DEVICE_DISK_FILE_SYSTEM,
            r"\Device\NamedPipe",
            needs=FLTFL_REGISTRATION_SUPPORT_NPFS_MSFS,
            has_disk=False,
        ),
    }
)
"""What `World.add_volume` takes as a file system. What it does with files is that of NTFS for all of them."""


class ComeFirst(BlockingOperation[bool]):
    """An operation comes to a volume whose filters have not been asked: true if its thread has to ask them.

    Whoever comes later waits until they have.
    """

    __slots__ = ("volume",)
    kind = "see the instances set up on"

    def __init__(self, volume: FltVolume) -> None:
        super().__init__(volume)
        self.volume = volume

    def available(self, thread: Thread) -> bool:
        return self.volume.stage != ASKING

    def take(self, thread: Thread) -> bool:
        volume = self.volume
        thread.read(volume)
        thread.acquire(volume)
        if volume.stage == ASKED:
            return False
        thread.write(volume)
        volume.stage, volume.setting_up = ASKING, thread
        volume.changed()
        return True


class AllAsked(Operation[None]):
    """The filters of a new volume have been asked: operations may go on."""

    __slots__ = ("volume",)
    kind = "open for operations"

    def __init__(self, volume: FltVolume) -> None:
        self.volume = volume

    def perform(self, thread: Thread) -> None:
        volume = self.volume
        thread.write(volume)
        thread.release(volume)
        volume.stage, volume.setting_up, volume.newcomers = ASKED, None, ()
        volume.changed()

    def target(self) -> Cell:
        return self.volume


async def first_operation(manager: FilterManager, volume: FltVolume) -> None:
    """Have the filters that were there at the mount of *volume* asked, unless somebody has done so."""
    thread = current_thread()
    if volume.setting_up is thread:
        # What InstanceSetup itself does with the volume does not wait for its own end.
        return
    if not await ComeFirst(volume):
        return
    for filter_ in volume.newcomers:
        await manager.attach_all(filter_, volume, newly_mounted=True)
    await AllAsked(volume)


class BeginDismount(Operation[None]):
    """Mark a volume as going away: nothing new is attached from here on, and nobody gets a reference."""

    __slots__ = ("volume",)
    kind = "begin to delete"

    def __init__(self, volume: FltVolume) -> None:
        self.volume = volume

    def perform(self, thread: Thread) -> None:
        thread.write(self.volume)
        self.volume.deleting = True

    def target(self) -> Cell:
        return self.volume


class EndDismount(Operation[None]):
    """A volume is gone."""

    __slots__ = ("manager", "volume")
    kind = "free"

    def __init__(self, manager: FilterManager, volume: FltVolume) -> None:
        self.manager = manager
        self.volume = volume

    def perform(self, thread: Thread) -> None:
        thread.write(self.manager.presence)
        thread.write(self.volume)
        self.manager.volumes.remove(self.volume)
        self.volume.free(thread, "which was deleted after its dismount")

    def target(self) -> Cell:
        return self.volume


async def dismount(manager: FilterManager, volume: FltVolume) -> None:
    """Take down what is attached to *volume*, whose last file object was closed after a dismount (FLT-INST-15)."""
    await BeginDismount(volume)
    while True:
        for instance in list(volume.instances):
            if await BeginTeardown(instance):
                await teardown(manager, instance, FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT)
            else:
                await WaitGone(instance)
        # Ends also the attachments that had begun before.
        await WaitRundown(volume)
        if not volume.instances:
            break
    await EndDismount(manager, volume)
