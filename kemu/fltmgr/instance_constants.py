"""Constants of fltkernel.h and ntifs.h about instances, volumes and filters."""

from __future__ import annotations

from typing import Final

FLTFL_INSTANCE_SETUP_DETACHED_VOLUME: Final = 0x8
FLTFL_INSTANCE_SETUP_DEV_VOLUME: Final = 0x10
FLTFL_INSTANCE_SETUP_TRUSTED_VOLUME: Final = 0x20

FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT: Final = 0x8
FLTFL_INSTANCE_TEARDOWN_INTERNAL_ERROR: Final = 0x10

FLTFL_REGISTRATION_SUPPORT_NPFS_MSFS: Final = 0x2
FLTFL_REGISTRATION_SUPPORT_DAX_VOLUME: Final = 0x4

FLTFL_VSI_DETACHED_VOLUME: Final = 0x1
"""In the volume information that an enumeration shows: the volume was dismounted and has open files."""

FILE_DEVICE_CD_ROM_FILE_SYSTEM: Final = 0x03
FILE_DEVICE_NETWORK_FILE_SYSTEM: Final = 0x14
FILE_DEVICE_NAMED_PIPE: Final = 0x11

FLT_FSTYPE_UNKNOWN: Final = 0
FLT_FSTYPE_RAW: Final = 1
FLT_FSTYPE_NTFS: Final = 2
FLT_FSTYPE_FAT: Final = 3
FLT_FSTYPE_CDFS: Final = 4
FLT_FSTYPE_UDFS: Final = 5
FLT_FSTYPE_LANMAN: Final = 6
FLT_FSTYPE_EXFAT: Final = 22
FLT_FSTYPE_NPFS: Final = 25
FLT_FSTYPE_REFS: Final = 28

INSTANCE_NAME_MAX_CHARS: Final = 255

INSTANCE_FLAG_NO_AUTOMATIC_ATTACHMENT: Final = 0x1
"""In the Flags of an instance of a service key: it is attached on request only."""
INSTANCE_FLAG_NO_MANUAL_ATTACHMENT: Final = 0x2
"""Likewise: it is attached automatically only."""
