"""Creates: sharing, dispositions, options, names. The tables are those of NTFS."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from disk import Disk

from kemu.io.constants import (
    FILE_CREATE,
    FILE_OPEN,
    FILE_OPEN_IF,
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
    FILE_SUPERSEDE,
)
from kemu.io.file_constants import (
    FILE_APPEND_DATA,
    FILE_ATTRIBUTE_ARCHIVE,
    FILE_ATTRIBUTE_HIDDEN,
    FILE_ATTRIBUTE_READONLY,
    FILE_DELETE_ON_CLOSE,
    FILE_DIRECTORY_FILE,
    FILE_EXECUTE,
    FILE_NO_INTERMEDIATE_BUFFERING,
    FILE_NON_DIRECTORY_FILE,
    FILE_OPEN_BY_FILE_ID,
    FILE_READ_ATTRIBUTES,
    FILE_READ_DATA,
    FILE_SHARE_DELETE,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    FILE_SYNCHRONOUS_IO_ALERT,
    FILE_SYNCHRONOUS_IO_NONALERT,
    FILE_WRITE_DATA,
    GENERIC_READ,
    MAXIMUM_ALLOWED,
    FileBasicInformation,
    FileInternalInformation,
    map_generic,
)
from kemu.io.structures import FILE_BASIC_INFORMATION
from kemu.nt.access import DELETE, SYNCHRONIZE
from kemu.nt.status import (
    STATUS_ACCESS_DENIED,
    STATUS_CANNOT_DELETE,
    STATUS_FILE_IS_A_DIRECTORY,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_A_DIRECTORY,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_SHARING_VIOLATION,
    STATUS_SUCCESS,
)

RIGHTS = ((FILE_READ_DATA, FILE_SHARE_READ), (FILE_WRITE_DATA, FILE_SHARE_WRITE), (DELETE, FILE_SHARE_DELETE))
USED = FILE_READ_DATA | FILE_WRITE_DATA | DELETE
ACCESSES = [read | write | delete for read in (0, 1) for write in (0, 2) for delete in (0, DELETE)]


def agree(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two opens, each of (access, share), may be there at once: each shares what the other uses.

    One that uses nothing is no party.
    """
    if not one[0] & USED or not other[0] & USED:
        return True
    pairs = ((one[0], other[1]), (other[0], one[1]))
    return all(not access & right or share & shared for right, shared in RIGHTS for access, share in pairs)


@pytest.mark.parametrize("first", list(product(ACCESSES, range(8))))
def test_the_matrix_of_access_and_sharing(first: tuple[int, int]) -> None:
    access, share = first
    with Disk() as disk:
        disk.fs.add(r"\a")
        disk.open(r"\a", access=access | FILE_READ_ATTRIBUTES, share=share)
        for second in product(ACCESSES, range(8)):
            status, file = disk.create(r"\a", access=second[0] | FILE_READ_ATTRIBUTES, share=second[1])
            assert status == (STATUS_SUCCESS if agree(first, second) else STATUS_SHARING_VIOLATION), second
            if file is not None:
                disk.close(file)


def test_executing_counts_as_reading_and_appending_as_writing(disk: Disk) -> None:
    disk.open(r"\a", access=FILE_EXECUTE, share=FILE_SHARE_WRITE)
    assert disk.create(r"\a", access=FILE_READ_DATA, share=FILE_SHARE_READ)[0] == STATUS_SHARING_VIOLATION
    assert disk.create(r"\a", access=FILE_APPEND_DATA, share=FILE_SHARE_READ)[0] == STATUS_SUCCESS
    assert disk.create(r"\a", access=FILE_APPEND_DATA, share=0)[0] == STATUS_SHARING_VIOLATION


def test_a_closed_handle_excludes_nobody(disk: Disk) -> None:
    file = disk.open(r"\a", share=0)
    assert disk.create(r"\a")[0] == STATUS_SHARING_VIOLATION
    disk.close(file)
    assert disk.create(r"\a")[0] == STATUS_SUCCESS


def test_what_overwrites_needs_to_be_let_write(disk: Disk) -> None:
    disk.open(r"\a", access=FILE_READ_DATA, share=FILE_SHARE_READ)
    for disposition in (FILE_OVERWRITE, FILE_SUPERSEDE):
        assert disk.create(r"\a", disposition, access=FILE_READ_DATA)[0] == STATUS_SHARING_VIOLATION
    assert disk.create(r"\a", access=FILE_READ_DATA)[0] == STATUS_SUCCESS


DIR, NON = FILE_DIRECTORY_FILE, FILE_NON_DIRECTORY_FILE
OK, NOT_FOUND, COLLISION = STATUS_SUCCESS, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_NAME_COLLISION
IS_DIR, NOT_DIR, BAD = STATUS_FILE_IS_A_DIRECTORY, STATUS_NOT_A_DIRECTORY, STATUS_INVALID_PARAMETER

# Path, options: what each disposition comes to, in the order of their numbers:
# supersede, open, create, open if, overwrite, overwrite if.
DISPOSITIONS: dict[tuple[str, int], tuple[int, ...]] = {
    (r"\a", 0): (OK, OK, COLLISION, OK, OK, OK),
    (r"\a", NON): (OK, OK, COLLISION, OK, OK, OK),
    (r"\a", DIR): (BAD, NOT_DIR, COLLISION, NOT_DIR, BAD, BAD),
    (r"\d", 0): (COLLISION, OK, COLLISION, OK, COLLISION, COLLISION),
    (r"\d", NON): (IS_DIR, IS_DIR, IS_DIR, IS_DIR, IS_DIR, IS_DIR),
    (r"\d", DIR): (BAD, OK, COLLISION, OK, BAD, BAD),
    (r"\n", 0): (OK, NOT_FOUND, OK, OK, NOT_FOUND, OK),
    (r"\n", NON): (OK, NOT_FOUND, OK, OK, NOT_FOUND, OK),
    (r"\n", DIR): (BAD, NOT_FOUND, OK, OK, BAD, BAD),
    ("\\", 0): (COLLISION, OK, COLLISION, OK, COLLISION, COLLISION),
    ("\\", NON): (IS_DIR, IS_DIR, IS_DIR, IS_DIR, IS_DIR, IS_DIR),
}


@pytest.mark.parametrize(("path", "options"), DISPOSITIONS)
@pytest.mark.parametrize("disposition", range(6))
def test_dispositions_and_options(disk: Disk, path: str, options: int, disposition: int) -> None:
    before = disk.fs.find(path)
    status, file = disk.create(path, disposition, options=options)
    assert status == DISPOSITIONS[path, options][disposition]
    node = disk.fs.find(path)
    if status != STATUS_SUCCESS:
        assert node is before
        return
    assert file is not None
    assert node is not None
    assert node.is_directory == (path in {r"\d", "\\"} or options == DIR)
    if path == r"\a":
        kept = disposition in {FILE_OPEN, FILE_OPEN_IF}
        assert bytes(node.data) == (b"0123456789" if kept else b"")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"disposition": 6}, STATUS_INVALID_PARAMETER),
        ({"options": DIR | NON}, STATUS_INVALID_PARAMETER),
        ({"options": FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT}, STATUS_INVALID_PARAMETER),
        ({"options": FILE_SYNCHRONOUS_IO_ALERT, "access": FILE_READ_DATA}, STATUS_INVALID_PARAMETER),
        ({"options": FILE_SYNCHRONOUS_IO_ALERT, "access": FILE_READ_DATA | SYNCHRONIZE}, STATUS_SUCCESS),
        ({"options": FILE_DELETE_ON_CLOSE, "access": FILE_READ_DATA}, STATUS_INVALID_PARAMETER),
        ({"options": FILE_NO_INTERMEDIATE_BUFFERING, "access": FILE_APPEND_DATA}, STATUS_INVALID_PARAMETER),
        ({"options": FILE_NO_INTERMEDIATE_BUFFERING, "access": FILE_READ_DATA}, STATUS_SUCCESS),
        ({"access": 0}, STATUS_ACCESS_DENIED),
    ],
)
def test_what_makes_no_sense_is_refused(disk: Disk, wrong: dict[str, Any], status: int) -> None:
    assert disk.create(r"\a", **wrong)[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("a", STATUS_OBJECT_NAME_INVALID),
        # That is the volume itself.
        ("", STATUS_SUCCESS),
        ("\\\\", STATUS_OBJECT_NAME_INVALID),
        (r"\d\\x", STATUS_OBJECT_NAME_INVALID),
        (r"\a*", STATUS_OBJECT_NAME_INVALID),
        ("\\a\x01", STATUS_OBJECT_NAME_INVALID),
        ("\\" + "x" * 255, STATUS_OBJECT_NAME_NOT_FOUND),
        ("\\" + "x" * 256, STATUS_OBJECT_NAME_INVALID),
        (r"\no\x", STATUS_OBJECT_PATH_NOT_FOUND),
        (r"\a\x", STATUS_OBJECT_PATH_NOT_FOUND),
        (r"\D\X", STATUS_OBJECT_NAME_NOT_FOUND),
        ("\\d\\", STATUS_SUCCESS),
        ("\\a\\", STATUS_NOT_A_DIRECTORY),
        (r"\a::$DATA", STATUS_SUCCESS),
        (r"\a::$data", STATUS_SUCCESS),
        (r"\a::$INDEX", STATUS_OBJECT_NAME_INVALID),
        (r"\a:", STATUS_OBJECT_NAME_INVALID),
        (r"\a:s:t:u", STATUS_OBJECT_NAME_INVALID),
        ("\\a:s\\", STATUS_OBJECT_NAME_INVALID),
        (r"\a:s", STATUS_OBJECT_NAME_NOT_FOUND),
        (r"\d::$DATA", STATUS_FILE_IS_A_DIRECTORY),
    ],
)
def test_paths(disk: Disk, path: str, status: int) -> None:
    assert disk.create(path)[0] == status


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("\\n\\", 0, STATUS_OBJECT_NAME_INVALID),
        ("\\n\\", FILE_DIRECTORY_FILE, STATUS_SUCCESS),
        ("\\d\\", FILE_NON_DIRECTORY_FILE, STATUS_OBJECT_NAME_INVALID),
        (r"\n:s", FILE_DIRECTORY_FILE, STATUS_NOT_A_DIRECTORY),
        (r"\n:s", 0, STATUS_SUCCESS),
        (r"\d:s", 0, STATUS_SUCCESS),
    ],
)
def test_creating_by_an_odd_path(disk: Disk, path: str, options: int, status: int) -> None:
    assert disk.create(path, FILE_CREATE, options=options)[0] == status


def test_a_new_stream_brings_its_file_with_it(disk: Disk) -> None:
    file = disk.open(r"\n:s", FILE_CREATE)
    assert disk.write(file, b"stream") == STATUS_SUCCESS
    assert disk.read(disk.open(r"\N:S:$DATA"), 99) == (STATUS_SUCCESS, b"stream")
    assert disk.standard(disk.open(r"\n")).EndOfFile == 0


def test_streams_share_apart_from_each_other(disk: Disk) -> None:
    disk.open(r"\a:s", FILE_CREATE, share=0)
    assert disk.create(r"\a:s")[0] == STATUS_SHARING_VIOLATION
    assert disk.create(r"\a", share=0)[0] == STATUS_SUCCESS
    assert disk.create(r"\a:s", FILE_CREATE)[0] == STATUS_OBJECT_NAME_COLLISION


def attribute(disk: Disk, path: str, attributes: int) -> None:
    file = disk.open(path)
    assert disk.change(file, FileBasicInformation, FILE_BASIC_INFORMATION(FileAttributes=attributes)) == STATUS_SUCCESS
    disk.close(file)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"access": FILE_READ_DATA}, STATUS_SUCCESS),
        ({"access": FILE_WRITE_DATA}, STATUS_ACCESS_DENIED),
        ({"access": FILE_APPEND_DATA}, STATUS_ACCESS_DENIED),
        ({"access": DELETE}, STATUS_SUCCESS),
        ({"access": DELETE, "options": FILE_DELETE_ON_CLOSE}, STATUS_CANNOT_DELETE),
        ({"access": FILE_READ_DATA, "disposition": FILE_OVERWRITE}, STATUS_ACCESS_DENIED),
    ],
)
def test_a_read_only_file(disk: Disk, how: dict[str, Any], status: int) -> None:
    attribute(disk, r"\a", FILE_ATTRIBUTE_READONLY)
    assert disk.create(r"\a", **how)[0] == status


def test_a_read_only_file_is_created_for_writing_and_not_for_deletion(disk: Disk) -> None:
    how: Any = {"disposition": FILE_CREATE, "FileAttributes": FILE_ATTRIBUTE_READONLY}
    assert disk.create(r"\n", options=FILE_DELETE_ON_CLOSE, **how)[0] == STATUS_CANNOT_DELETE
    file = disk.open(r"\n", access=FILE_WRITE_DATA, **how)
    assert disk.write(file, b"x") == STATUS_SUCCESS


def test_a_hidden_file_is_overwritten_only_as_a_hidden_one(disk: Disk) -> None:
    attribute(disk, r"\a", FILE_ATTRIBUTE_HIDDEN)
    assert disk.create(r"\a", FILE_OVERWRITE)[0] == STATUS_ACCESS_DENIED
    file = disk.open(r"\a", FILE_OVERWRITE, FileAttributes=FILE_ATTRIBUTE_HIDDEN)
    attributes = disk.query(file, FileBasicInformation).buffer.FileAttributes
    assert attributes == FILE_ATTRIBUTE_HIDDEN | FILE_ATTRIBUTE_ARCHIVE


def test_overwriting_a_file_ends_its_other_streams(disk: Disk) -> None:
    kept = disk.open(r"\a:kept", FILE_CREATE)
    disk.close(disk.open(r"\a:gone", FILE_CREATE))
    disk.close(disk.open(r"\a", FILE_SUPERSEDE))
    assert disk.create(r"\a:gone")[0] == STATUS_OBJECT_NAME_NOT_FOUND
    disk.close(kept)
    assert disk.create(r"\a:kept")[0] == STATUS_OBJECT_NAME_NOT_FOUND


def test_a_file_is_opened_by_its_number(disk: Disk) -> None:
    file = disk.open(r"\a")
    number = str(disk.query(file, FileInternalInformation).buffer.IndexNumber)
    status, same = disk.create(number, options=FILE_OPEN_BY_FILE_ID)
    assert status == STATUS_SUCCESS
    assert same is not None
    assert disk.read(same, 2) == (STATUS_SUCCESS, b"01")
    for name, disposition in ((number, FILE_OPEN_IF), ("7", FILE_OPEN), ("x", FILE_OPEN)):
        assert disk.create(name, disposition, options=FILE_OPEN_BY_FILE_ID)[0] == STATUS_INVALID_PARAMETER
    disk.close(same)
    assert disk.delete(file) == STATUS_SUCCESS
    disk.close(file)
    assert disk.create(number, options=FILE_OPEN_BY_FILE_ID)[0] == STATUS_INVALID_PARAMETER


def test_the_root_cannot_be_deleted(disk: Disk) -> None:
    assert disk.create("\\", options=FILE_DELETE_ON_CLOSE)[0] == STATUS_CANNOT_DELETE
    assert disk.delete(disk.open("\\")) == STATUS_CANNOT_DELETE


def test_generic_rights_stand_for_those_of_files() -> None:
    assert map_generic(GENERIC_READ) == 0x120089
    assert map_generic(MAXIMUM_ALLOWED) == 0x1F01FF


def test_the_numbers_of_files_do_not_depend_on_what_was_made_in_between() -> None:
    def numbers(directories: int) -> set[int]:
        with Disk() as disk:
            for name in range(directories):
                disk.fs.root.entry(f"looked for {name}")
            disk.fs.add(r"\a")
            return {node.number for node in disk.fs.nodes}

    assert numbers(0) == numbers(5)
    assert len(numbers(0)) == 2


@pytest.mark.parametrize("disposition", [FILE_OVERWRITE_IF, FILE_OPEN_IF])
def test_a_directory_that_leads_there_must_exist(disk: Disk, disposition: int) -> None:
    assert disk.create(r"\x\y", disposition)[0] == STATUS_OBJECT_PATH_NOT_FOUND
