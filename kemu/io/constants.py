"""Major function codes, and the create parameters that scenarios use (wdm.h, ntifs.h, fltkernel.h)."""

from __future__ import annotations

from typing import Final

IRP_MJ_CREATE: Final = 0x00
IRP_MJ_CREATE_NAMED_PIPE: Final = 0x01
IRP_MJ_CLOSE: Final = 0x02
IRP_MJ_READ: Final = 0x03
IRP_MJ_WRITE: Final = 0x04
IRP_MJ_QUERY_INFORMATION: Final = 0x05
IRP_MJ_SET_INFORMATION: Final = 0x06
IRP_MJ_QUERY_EA: Final = 0x07
IRP_MJ_SET_EA: Final = 0x08
IRP_MJ_FLUSH_BUFFERS: Final = 0x09
IRP_MJ_QUERY_VOLUME_INFORMATION: Final = 0x0A
IRP_MJ_SET_VOLUME_INFORMATION: Final = 0x0B
IRP_MJ_DIRECTORY_CONTROL: Final = 0x0C
IRP_MJ_FILE_SYSTEM_CONTROL: Final = 0x0D
IRP_MJ_DEVICE_CONTROL: Final = 0x0E
IRP_MJ_INTERNAL_DEVICE_CONTROL: Final = 0x0F
IRP_MJ_SHUTDOWN: Final = 0x10
IRP_MJ_LOCK_CONTROL: Final = 0x11
IRP_MJ_CLEANUP: Final = 0x12
IRP_MJ_CREATE_MAILSLOT: Final = 0x13
IRP_MJ_QUERY_SECURITY: Final = 0x14
IRP_MJ_SET_SECURITY: Final = 0x15
IRP_MJ_POWER: Final = 0x16
IRP_MJ_SYSTEM_CONTROL: Final = 0x17
IRP_MJ_DEVICE_CHANGE: Final = 0x18
IRP_MJ_QUERY_QUOTA: Final = 0x19
IRP_MJ_SET_QUOTA: Final = 0x1A
IRP_MJ_PNP: Final = 0x1B
IRP_MJ_OPERATION_END: Final = 0x80
IRP_MJ_VOLUME_DISMOUNT: Final = 0xEC
IRP_MJ_VOLUME_MOUNT: Final = 0xED
IRP_MJ_NETWORK_QUERY_OPEN: Final = 0xF2
IRP_MJ_FAST_IO_CHECK_IF_POSSIBLE: Final = 0xF3
IRP_MJ_QUERY_OPEN: Final = 0xF9
IRP_MJ_RELEASE_FOR_CC_FLUSH: Final = 0xFA
IRP_MJ_ACQUIRE_FOR_CC_FLUSH: Final = 0xFB
IRP_MJ_RELEASE_FOR_MOD_WRITE: Final = 0xFC
IRP_MJ_ACQUIRE_FOR_MOD_WRITE: Final = 0xFD
IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION: Final = 0xFE
IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION: Final = 0xFF

MAJOR_NAMES: Final[dict[int, str]] = {
    value: name for name, value in list(globals().items()) if name.startswith("IRP_MJ_")
}

FILE_SUPERSEDE: Final = 0
FILE_OPEN: Final = 1
FILE_CREATE: Final = 2
FILE_OPEN_IF: Final = 3
FILE_OVERWRITE: Final = 4
FILE_OVERWRITE_IF: Final = 5

IRP_NOCACHE: Final = 0x1
IRP_PAGING_IO: Final = 0x2
IRP_SYNCHRONOUS_API: Final = 0x4
IRP_SYNCHRONOUS_PAGING_IO: Final = 0x40

FO_SYNCHRONOUS_IO: Final = 0x2

FileBasicInformation: Final = 4
FileStandardInformation: Final = 5


def major_name(major: int) -> str:
    """``IRP_MJ_READ`` for 3, and so on."""
    return MAJOR_NAMES.get(major, f"IRP_MJ 0x{major:02X}")
