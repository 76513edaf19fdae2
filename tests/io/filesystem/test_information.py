"""Information classes, of files and of the volume; dismounting; faults."""

from __future__ import annotations

from typing import Any

import pytest
from disk import Disk
from fltmgr.kit import Lab, all_runs, run

from kemu.io.constants import (
    FILE_CREATE,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SET_VOLUME_INFORMATION,
)
from kemu.io.file_constants import (
    FILE_ATTRIBUTE_ARCHIVE,
    FILE_ATTRIBUTE_DIRECTORY,
    FILE_ATTRIBUTE_HIDDEN,
    FILE_ATTRIBUTE_NORMAL,
    FILE_READ_DATA,
    FILE_SEQUENTIAL_ONLY,
    FSCTL_DISMOUNT_VOLUME,
    FSCTL_IS_VOLUME_MOUNTED,
    FileAccessInformation,
    FileAlignmentInformation,
    FileAllInformation,
    FileAttributeTagInformation,
    FileBasicInformation,
    FileEaInformation,
    FileEndOfFileInformation,
    FileFsAttributeInformation,
    FileFsDeviceInformation,
    FileFsFullSizeInformation,
    FileFsLabelInformation,
    FileFsSizeInformation,
    FileFsVolumeInformation,
    FileHardLinkInformation,
    FileInternalInformation,
    FileModeInformation,
    FileNameInformation,
    FileNetworkOpenInformation,
    FileNormalizedNameInformation,
    FileRenameInformation,
    FileStandardInformation,
    FileStreamInformation,
)
from kemu.io.structures import (
    FILE_BASIC_INFORMATION,
    FILE_END_OF_FILE_INFORMATION,
    FILE_FS_LABEL_INFORMATION,
    FILE_STANDARD_INFORMATION,
)
from kemu.nt.status import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_DISK_FULL,
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_INFO_CLASS,
    STATUS_INVALID_PARAMETER,
    STATUS_IO_DEVICE_ERROR,
    STATUS_SUCCESS,
    STATUS_VOLUME_DISMOUNTED,
)

OK = STATUS_SUCCESS

# Class, what a buffer must at least have, and what the answer takes for the file `\a`.
SIZES = [
    (FileBasicInformation, 40, 40),
    (FileStandardInformation, 24, 24),
    (FileInternalInformation, 8, 8),
    (FileEaInformation, 4, 4),
    (FileAccessInformation, 4, 4),
    (FileModeInformation, 4, 4),
    (FileAlignmentInformation, 4, 4),
    (FileNameInformation, 8, 8),
    (FileNormalizedNameInformation, 8, 8),
    (FileAllInformation, 104, 104),
    (FileNetworkOpenInformation, 56, 56),
    (FileAttributeTagInformation, 8, 8),
]


@pytest.mark.parametrize(("which", "least", "size"), SIZES)
def test_the_size_of_an_answer(disk: Disk, which: int, least: int, size: int) -> None:
    file = disk.open(r"\a")
    assert disk.query(file, which, least - 1).status == STATUS_INFO_LENGTH_MISMATCH
    request = disk.query(file, which, least)
    assert (request.status, request.information) == (OK, size)


def test_a_name_that_does_not_fit(disk: Disk) -> None:
    disk.fs.add(r"\d\file", b"")
    file = disk.open(r"\d\file")
    request = disk.query(file, FileNameInformation, 8)
    assert (request.status, request.information) == (STATUS_BUFFER_OVERFLOW, 8)
    request = disk.query(file, FileNameInformation, 18)
    assert (request.status, request.information, request.buffer.FileName) == (OK, 18, r"\d\file")


def test_an_answer_goes_into_the_buffer_that_is_given(disk: Disk) -> None:
    into = FILE_STANDARD_INFORMATION()
    assert disk.query(disk.open(r"\a"), FileStandardInformation, InfoBuffer=into).buffer is into
    assert into == FILE_STANDARD_INFORMATION(4096, 10, 1, DeletePending=False, Directory=False)
    streams: list[Any] = []
    disk.query(disk.open(r"\a"), FileStreamInformation, InfoBuffer=streams)
    assert [one.StreamName for one in streams] == ["::$DATA"]


def test_all_information_is_the_others_together(disk: Disk) -> None:
    file = disk.open(r"\a", access=FILE_READ_DATA, options=FILE_SEQUENTIAL_ONLY)
    disk.read(file, 3)
    everything = disk.query(file, FileAllInformation).buffer
    assert everything.StandardInformation.EndOfFile == 10
    assert everything.AccessInformation.AccessFlags == FILE_READ_DATA
    assert everything.ModeInformation.Mode == FILE_SEQUENTIAL_ONLY
    assert everything.PositionInformation.CurrentByteOffset == 3
    assert everything.NameInformation.FileName == r"\a"
    assert everything.BasicInformation.FileAttributes == FILE_ATTRIBUTE_ARCHIVE


def test_a_directory(disk: Disk) -> None:
    directory = disk.open(r"\d")
    assert disk.standard(directory) == FILE_STANDARD_INFORMATION(0, 0, 1, DeletePending=False, Directory=True)
    assert disk.query(directory, FileAttributeTagInformation).buffer.FileAttributes == FILE_ATTRIBUTE_DIRECTORY
    assert disk.query(directory, FileNetworkOpenInformation).buffer.EndOfFile == 0
    assert disk.query(directory, FileStreamInformation).buffer == []
    assert disk.query(disk.open("\\"), FileNameInformation).buffer.FileName == "\\"


def test_streams_are_told_by_name(disk: Disk) -> None:
    for name in ("y", "X"):
        disk.write(disk.open(rf"\a:{name}", FILE_CREATE), b"ab")
    file = disk.open(r"\a")
    streams = disk.query(file, FileStreamInformation)
    assert [(one.StreamName, one.StreamSize) for one in streams.buffer] == [
        ("::$DATA", 10),
        (":X:$DATA", 2),
        (":y:$DATA", 2),
    ]
    assert disk.query(disk.open(r"\a:x"), FileNameInformation).buffer.FileName == r"\a:X"
    # One entry takes 24 bytes and 14 of name; the next begins at a multiple of eight.
    request = disk.query(file, FileStreamInformation, 40 + 24 + 15)
    assert (request.status, len(request.buffer), request.information) == (STATUS_BUFFER_OVERFLOW, 1, 38)
    assert len(disk.query(file, FileHardLinkInformation).buffer) == 1


def test_attributes_and_times(disk: Disk) -> None:
    file = disk.open(r"\a")

    def change(**members: int) -> int:
        return disk.change(file, FileBasicInformation, FILE_BASIC_INFORMATION(**members))

    def basic() -> Any:
        return disk.query(file, FileBasicInformation).buffer

    assert change(FileAttributes=FILE_ATTRIBUTE_NORMAL) == OK
    assert basic().FileAttributes == FILE_ATTRIBUTE_NORMAL
    assert change(FileAttributes=FILE_ATTRIBUTE_HIDDEN, CreationTime=7, LastAccessTime=8) == OK
    assert change(LastWriteTime=9, ChangeTime=10, CreationTime=-1, LastAccessTime=-2) == OK
    assert basic() == FILE_BASIC_INFORMATION(7, 8, 9, 10, FILE_ATTRIBUTE_HIDDEN)
    assert change(CreationTime=-3) == STATUS_INVALID_PARAMETER
    assert change(FileAttributes=FILE_ATTRIBUTE_DIRECTORY) == STATUS_INVALID_PARAMETER


def test_times_stand_still_unless_they_are_asked_for() -> None:
    async def script(lab: Lab) -> list[int]:
        file = await lab.open()
        await lab.sleep(1)
        await file.write(b"x")
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        return [node.creation_time, node.last_write_time]

    assert run(script).result == [0, 0]
    assert run(script, file_times=True).result == [0, 10_000_000]


def test_classes_that_there_are_not(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.query(file, 999).status == STATUS_INVALID_PARAMETER
    assert disk.change(file, 999, FILE_BASIC_INFORMATION()) == STATUS_INVALID_PARAMETER
    # The structure of another class.
    assert disk.change(file, FileRenameInformation, FILE_BASIC_INFORMATION()) == STATUS_INVALID_PARAMETER
    request = disk.send(
        file,
        IRP_MJ_SET_INFORMATION,
        FileInformationClass=FileEndOfFileInformation,
        InfoBuffer=FILE_END_OF_FILE_INFORMATION(),
        Length=7,
    )
    assert request.status == STATUS_INFO_LENGTH_MISMATCH


# Volumes.


def volume(disk: Disk, which: int, length: int = 512, **members: Any) -> Any:
    return disk.send(
        disk.open("\\"), IRP_MJ_QUERY_VOLUME_INFORMATION, FsInformationClass=which, Length=length, **members
    )


@pytest.mark.parametrize(
    ("which", "size"),
    [
        (FileFsVolumeInformation, 18),
        (FileFsSizeInformation, 24),
        (FileFsFullSizeInformation, 32),
        (FileFsDeviceInformation, 8),
        (FileFsAttributeInformation, 20),
    ],
)
def test_what_a_volume_tells(disk: Disk, which: int, size: int) -> None:
    assert (volume(disk, which).status, volume(disk, which).information) == (OK, size)
    assert volume(disk, which, 7).status == STATUS_INFO_LENGTH_MISMATCH


def test_the_name_of_the_file_system(disk: Disk) -> None:
    assert volume(disk, FileFsAttributeInformation).buffer.FileSystemName == "NTFS"
    assert volume(disk, FileFsAttributeInformation, 12).status == STATUS_BUFFER_OVERFLOW
    assert volume(disk, 99).status == STATUS_INVALID_INFO_CLASS


def test_free_space(disk: Disk) -> None:
    disk.fs.limit = 10
    sizes = volume(disk, FileFsSizeInformation).buffer
    assert (sizes.TotalAllocationUnits, sizes.AvailableAllocationUnits) == (10, 9)
    assert sizes.SectorsPerAllocationUnit * sizes.BytesPerSector == 4096
    full = volume(disk, FileFsFullSizeInformation).buffer
    assert full.ActualAvailableAllocationUnits == 9


def test_a_label(disk: Disk) -> None:
    def label(text: str, which: int = FileFsLabelInformation) -> int:
        given = FILE_FS_LABEL_INFORMATION(text)
        how: Any = {"FsInformationClass": which, "VolumeBuffer": given}
        return disk.send(disk.open("\\"), IRP_MJ_SET_VOLUME_INFORMATION, **how).status

    assert [label("disk"), label("x" * 33), label("x", 99)] == [OK, STATUS_INVALID_PARAMETER, STATUS_INVALID_INFO_CLASS]
    assert volume(disk, FileFsVolumeInformation).buffer.VolumeLabel == "disk"


def test_a_dismounted_volume(disk: Disk) -> None:
    file, root, directory = disk.open(r"\a"), disk.open("\\"), disk.open(r"\d")
    assert disk.control(root, FSCTL_IS_VOLUME_MOUNTED).status == OK
    assert disk.control(root, FSCTL_DISMOUNT_VOLUME).status == OK
    gone = STATUS_VOLUME_DISMOUNTED
    assert disk.create(r"\a")[0] == gone
    assert disk.read(file, 1)[0] == gone
    assert disk.write(file, b"x") == gone
    assert disk.query(file, FileBasicInformation).status == gone
    assert disk.delete(file) == gone
    assert disk.list(directory).status == gone
    assert disk.send(file, IRP_MJ_FLUSH_BUFFERS).status == gone
    assert disk.control(root, FSCTL_DISMOUNT_VOLUME).status == gone
    assert disk.send(file, IRP_MJ_QUERY_VOLUME_INFORMATION).status == gone
    assert disk.send(file, IRP_MJ_SET_VOLUME_INFORMATION).status == gone
    disk.close(file)


def test_control_codes_that_there_are_not(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.control(file, 0x12345).status == STATUS_INVALID_DEVICE_REQUEST
    assert disk.send(file, IRP_MJ_FILE_SYSTEM_CONTROL, minor=7).status == STATUS_INVALID_DEVICE_REQUEST
    assert disk.send(file, IRP_MJ_QUERY_INFORMATION, FileInformationClass=1).status == STATUS_INVALID_PARAMETER


def test_transfers_fail_where_that_is_explored() -> None:
    async def script(lab: Lab) -> Any:
        file = await lab.quiet_open()
        written, _ = await file.write(b"X")
        read, data = await file.read(1)
        return written, read, data

    assert {one.result for one in all_runs(script)} == {(OK, OK, b"X")}
    error, full = STATUS_IO_DEVICE_ERROR, STATUS_DISK_FULL
    assert {one.result for one in all_runs(script, io_faults=True)} == {
        (OK, OK, b"X"),
        (OK, error, b""),
        (error, OK, b"0"),
        (error, error, b""),
        (full, OK, b"0"),
        (full, error, b""),
    }
