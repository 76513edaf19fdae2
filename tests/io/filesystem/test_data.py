"""Reading, writing and sizes."""

from __future__ import annotations

import pytest
from disk import Disk

from kemu.io.constants import FILE_CREATE, IRP_NOCACHE, IRP_PAGING_IO
from kemu.io.file_constants import (
    FILE_APPEND_DATA,
    FILE_NO_INTERMEDIATE_BUFFERING,
    FILE_USE_FILE_POINTER_POSITION,
    FILE_WRITE_TO_END_OF_FILE,
    FO_FILE_MODIFIED,
    FO_FILE_SIZE_CHANGED,
    FSCTL_SET_SPARSE,
    FSCTL_SET_ZERO_DATA,
    FileAllocationInformation,
    FilePositionInformation,
    FileValidDataLengthInformation,
)
from kemu.io.structures import (
    FILE_ALLOCATION_INFORMATION,
    FILE_POSITION_INFORMATION,
    FILE_VALID_DATA_LENGTH_INFORMATION,
    FILE_ZERO_DATA_INFORMATION,
)
from kemu.nt.status import (
    STATUS_DISK_FULL,
    STATUS_END_OF_FILE,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)

OK = STATUS_SUCCESS


def test_what_was_never_written_reads_as_zeroes(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.write(file, b"x", 13) == OK
    assert disk.read(file, 99) == (OK, b"0123456789\0\0\0x")


def test_synchronous_io_goes_on_where_it_stopped(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.read(file, 3, FILE_USE_FILE_POINTER_POSITION) == (OK, b"012")
    assert disk.read(file, 2, FILE_USE_FILE_POINTER_POSITION) == (OK, b"34")
    assert disk.write(file, b"xy", FILE_USE_FILE_POINTER_POSITION) == OK
    assert disk.query(file, FilePositionInformation).buffer.CurrentByteOffset == 7
    assert disk.change(file, FilePositionInformation, FILE_POSITION_INFORMATION(1)) == OK
    assert disk.read(file, 2, FILE_USE_FILE_POINTER_POSITION) == (OK, b"12")
    assert disk.read(file, 1, 9) == (OK, b"9")
    assert disk.read(file, 1, FILE_USE_FILE_POINTER_POSITION)[0] == STATUS_END_OF_FILE
    assert disk.change(file, FilePositionInformation, FILE_POSITION_INFORMATION(-1)) == STATUS_INVALID_PARAMETER


def test_asynchronous_io_has_no_position(disk: Disk) -> None:
    file = disk.open(r"\a", synchronous=False)
    assert disk.read(file, 1, FILE_USE_FILE_POINTER_POSITION)[0] == STATUS_INVALID_PARAMETER
    assert disk.write(file, b"x", FILE_USE_FILE_POINTER_POSITION) == STATUS_INVALID_PARAMETER


def test_a_write_at_the_end(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.write(file, b"x", FILE_WRITE_TO_END_OF_FILE) == OK
    appending = disk.open(r"\a", access=FILE_APPEND_DATA)
    assert disk.write(appending, b"y", 0) == OK
    assert disk.read(file, 99) == (OK, b"0123456789xy")


@pytest.mark.parametrize(
    ("offset", "length", "flags", "status"),
    [(0, 512, 0, OK), (512, 512, 0, STATUS_END_OF_FILE), (1, 512, 0, STATUS_INVALID_PARAMETER),
     (0, 10, 0, STATUS_INVALID_PARAMETER), (0, 10, IRP_PAGING_IO | IRP_NOCACHE, OK)],
)  # fmt: skip
def test_without_buffering_transfers_are_of_whole_sectors(
    disk: Disk, offset: int, length: int, flags: int, status: int
) -> None:
    file = disk.open(r"\a", options=FILE_NO_INTERMEDIATE_BUFFERING)
    assert disk.read(file, length, offset, flags=flags)[0] == status
    if offset % 512 or length % 512:
        assert disk.write(file, bytes(length), offset, flags=flags) == status


def test_a_directory_has_no_data(disk: Disk) -> None:
    directory = disk.open(r"\d")
    assert disk.read(directory, 1)[0] == STATUS_INVALID_DEVICE_REQUEST
    assert disk.write(directory, b"x") == STATUS_INVALID_DEVICE_REQUEST
    assert disk.set_end(directory, 0) == STATUS_INVALID_DEVICE_REQUEST
    stream = disk.open(r"\d:s", FILE_CREATE)
    assert disk.write(stream, b"x") == OK
    assert disk.standard(stream).EndOfFile == 1


def test_the_end_of_file(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.set_end(file, 4) == OK
    assert disk.set_end(file, 6) == OK
    assert disk.read(file, 99) == (OK, b"0123\0\0")
    assert disk.set_end(file, -1) == STATUS_INVALID_PARAMETER
    assert (disk.standard(file).EndOfFile, disk.standard(file).AllocationSize) == (6, 4096)


def test_allocation_is_of_whole_clusters_and_truncates(disk: Disk) -> None:
    file = disk.open(r"\a")

    def allocate(size: int) -> int:
        return disk.change(file, FileAllocationInformation, FILE_ALLOCATION_INFORMATION(size))

    assert allocate(5000) == OK
    assert (disk.standard(file).EndOfFile, disk.standard(file).AllocationSize) == (10, 8192)
    assert allocate(3) == OK
    assert (disk.standard(file).EndOfFile, disk.standard(file).AllocationSize) == (3, 4096)
    assert allocate(-1) == STATUS_INVALID_PARAMETER
    assert allocate(0) == OK
    assert (disk.standard(file).EndOfFile, disk.standard(file).AllocationSize) == (0, 0)


def test_the_valid_data_length_grows_up_to_the_end_of_file(disk: Disk) -> None:
    file = disk.open(r"\a")
    stream = file.fs_context.stream
    assert disk.set_end(file, 20) == OK
    assert stream.valid == 10

    def validate(length: int) -> int:
        return disk.change(file, FileValidDataLengthInformation, FILE_VALID_DATA_LENGTH_INFORMATION(length))

    assert [validate(9), validate(21), validate(15)] == [STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER, OK]
    assert disk.write(file, b"x", 16) == OK
    assert stream.valid == 17
    assert disk.set_end(file, 5) == OK
    assert stream.valid == 5


def test_paging_writes_do_not_change_the_size(disk: Disk) -> None:
    file = disk.open(r"\a")
    paging = IRP_PAGING_IO | IRP_NOCACHE
    assert disk.write(file, b"abcd", 8, flags=paging) == OK
    assert disk.write(file, b"abcd", 10, flags=paging) == OK
    assert disk.read(file, 99) == (OK, b"01234567ab")


def test_zeroing_a_range(disk: Disk) -> None:
    file = disk.open(r"\a")

    def zero(start: int, beyond: int) -> int:
        return disk.control(file, FSCTL_SET_ZERO_DATA, InputBuffer=FILE_ZERO_DATA_INFORMATION(start, beyond)).status

    assert [zero(2, 4), zero(9, 99), zero(20, 30)] == [OK, OK, OK]
    assert disk.read(file, 99) == (OK, b"01\0\x0045678\0")
    assert zero(4, 2) == STATUS_INVALID_PARAMETER
    assert disk.control(file, FSCTL_SET_ZERO_DATA).status == STATUS_INVALID_PARAMETER
    assert disk.control(file, FSCTL_SET_SPARSE).status == OK
    assert disk.control(disk.open(r"\d"), FSCTL_SET_SPARSE).status == STATUS_INVALID_PARAMETER


def test_a_file_object_remembers_that_its_file_was_changed(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert not file.Flags & FO_FILE_MODIFIED
    disk.write(file, b"x")
    assert file.Flags & (FO_FILE_MODIFIED | FO_FILE_SIZE_CHANGED) == FO_FILE_MODIFIED
    disk.write(file, b"x", 10)
    assert file.Flags & FO_FILE_SIZE_CHANGED


def test_a_full_volume(disk: Disk) -> None:
    disk.fs.limit = disk.fs.used // 4096 + 1
    file = disk.open(r"\a")
    assert disk.write(file, bytes(8193)) == STATUS_DISK_FULL
    assert disk.standard(file).EndOfFile == 10
    assert disk.write(file, bytes(8192)) == OK
    assert disk.set_end(file, 8193) == STATUS_DISK_FULL
    assert disk.change(file, FileAllocationInformation, FILE_ALLOCATION_INFORMATION(9000)) == STATUS_DISK_FULL
    assert disk.create(r"\n", FILE_CREATE, AllocationSize=1)[0] == STATUS_DISK_FULL
    assert disk.fs.find(r"\n") is None
    other = disk.open(r"\n", FILE_CREATE)
    assert disk.write(other, b"x") == STATUS_DISK_FULL
    assert disk.set_end(file, 0) == OK
    assert disk.write(other, b"x") == OK
