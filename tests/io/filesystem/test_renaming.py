"""Renaming and linking."""

from __future__ import annotations

from typing import Any

import pytest
from disk import Disk

from kemu.io.constants import FILE_CREATE
from kemu.io.file_constants import (
    FILE_ATTRIBUTE_READONLY,
    FILE_RENAME_IGNORE_READONLY_ATTRIBUTE,
    FILE_RENAME_POSIX_SEMANTICS,
    FILE_RENAME_REPLACE_IF_EXISTS,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    FileBasicInformation,
    FileHardLinkInformation,
    FileLinkInformation,
    FileLinkInformationEx,
    FileNameInformation,
    FileRenameInformation,
    FileRenameInformationEx,
)
from kemu.io.structures import FILE_BASIC_INFORMATION, FILE_LINK_INFORMATION, FILE_RENAME_INFORMATION
from kemu.nt.status import (
    STATUS_ACCESS_DENIED,
    STATUS_FILE_IS_A_DIRECTORY,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_SHARING_VIOLATION,
    STATUS_SUCCESS,
    STATUS_TOO_MANY_LINKS,
)

OK = STATUS_SUCCESS
REPLACE, POSIX = FILE_RENAME_REPLACE_IF_EXISTS, FILE_RENAME_POSIX_SEMANTICS
RENAMES = {"rename": FileRenameInformation, "link": FileLinkInformation}


def name(disk: Disk, file: Any) -> str:
    return disk.query(file, FileNameInformation).buffer.FileName


def test_a_file_gets_a_new_name(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.rename(file, "b") == OK
    assert name(disk, file) == r"\b"
    assert disk.create(r"\a")[0] == STATUS_OBJECT_NAME_NOT_FOUND
    assert disk.read(disk.open(r"\b"), 2) == (OK, b"01")


def test_a_file_moves_to_another_directory(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.rename(file, r"\d\x") == OK
    assert name(disk, file) == r"\d\x"
    assert disk.rename(file, "y") == OK
    assert name(disk, file) == r"\d\y"


def test_a_name_is_relative_to_a_directory_that_is_given(disk: Disk) -> None:
    disk.fs.add_directory(r"\d\e")
    file, directory = disk.open(r"\a"), disk.open(r"\d")

    def move(to: str, root: Any = directory) -> int:
        return disk.change(file, FileRenameInformation, FILE_RENAME_INFORMATION(to, RootDirectory=root))

    assert move(r"e\x") == OK
    assert name(disk, file) == r"\d\e\x"
    assert move(r"f\x") == STATUS_OBJECT_PATH_NOT_FOUND
    assert move(r"\x") == STATUS_INVALID_PARAMETER
    assert move("x", file) == STATUS_INVALID_PARAMETER


def test_the_case_of_a_name_can_be_changed(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.rename(file, "A") == OK
    assert name(disk, file) == r"\A"
    assert disk.rename(file, "A") == OK


@pytest.mark.parametrize("how", RENAMES)
@pytest.mark.parametrize(
    ("to", "status"),
    [
        ("", STATUS_INVALID_PARAMETER),
        ("a*", STATUS_OBJECT_NAME_INVALID),
        (r"\x\y", STATUS_OBJECT_PATH_NOT_FOUND),
        (r"x\y", STATUS_OBJECT_NAME_INVALID),
        ("\\", STATUS_OBJECT_NAME_INVALID),
        (r"\x:s", STATUS_OBJECT_NAME_INVALID),
        ("d", STATUS_OBJECT_NAME_COLLISION),
    ],
)
def test_names_that_cannot_be(disk: Disk, how: str, to: str, status: int) -> None:
    kind = FILE_RENAME_INFORMATION if how == "rename" else FILE_LINK_INFORMATION
    assert disk.change(disk.open(r"\a"), RENAMES[how], kind(to)) == status


def other_file(disk: Disk, **state: Any) -> None:
    """Another file ``b``, in some state."""
    file = disk.open(r"\b", FILE_CREATE, share=state.get("share", 7))
    if state.get("readonly"):
        disk.change(file, FileBasicInformation, FILE_BASIC_INFORMATION(FileAttributes=FILE_ATTRIBUTE_READONLY))
    if not state.get("open"):
        disk.close(file)


@pytest.mark.parametrize("how", RENAMES)
@pytest.mark.parametrize(
    ("state", "flags", "status"),
    [
        ({}, 0, STATUS_OBJECT_NAME_COLLISION),
        ({}, POSIX, STATUS_OBJECT_NAME_COLLISION),
        ({}, REPLACE, OK),
        ({"readonly": True}, REPLACE, STATUS_ACCESS_DENIED),
        ({"readonly": True}, REPLACE | FILE_RENAME_IGNORE_READONLY_ATTRIBUTE, OK),
        ({"open": True}, REPLACE, STATUS_ACCESS_DENIED),
        ({"open": True}, REPLACE | POSIX, OK),
        ({"open": True, "share": FILE_SHARE_READ | FILE_SHARE_WRITE}, REPLACE | POSIX, STATUS_SHARING_VIOLATION),
    ],
)
def test_a_name_that_is_taken(disk: Disk, how: str, state: dict[str, Any], flags: int, status: int) -> None:
    other_file(disk, **state)
    file = disk.open(r"\a")
    which = {"rename": FileRenameInformationEx, "link": FileLinkInformationEx}[how]
    kind = FILE_RENAME_INFORMATION if how == "rename" else FILE_LINK_INFORMATION
    assert disk.change(file, which, kind("b", Flags=flags)) == status
    found = disk.fs.find(r"\b")
    assert found is not None
    assert bytes(found.data) == (b"0123456789" if status == OK else b"")


def test_a_directory_is_never_replaced(disk: Disk) -> None:
    assert disk.rename(disk.open(r"\a"), "d", replace=True) == STATUS_ACCESS_DENIED
    assert disk.link(disk.open(r"\a"), "d", replace=True) == STATUS_ACCESS_DENIED


def test_a_directory_in_which_something_is_open_stays_where_it_is(disk: Disk) -> None:
    disk.fs.add(r"\d\e\x")
    directory, inside = disk.open(r"\d"), disk.open(r"\d\e\x")
    assert disk.rename(directory, "f") == STATUS_ACCESS_DENIED
    disk.close(inside)
    assert disk.rename(directory, "f") == OK
    assert disk.create(r"\f\e\x")[0] == OK
    assert disk.create(r"\d\e\x")[0] == STATUS_OBJECT_PATH_NOT_FOUND


def test_a_directory_does_not_go_into_itself(disk: Disk) -> None:
    disk.fs.add_directory(r"\d\e")
    directory = disk.open(r"\d")
    assert disk.rename(directory, r"\d\x") == STATUS_INVALID_PARAMETER
    assert disk.rename(directory, r"\d\e\x") == STATUS_INVALID_PARAMETER
    assert disk.rename(disk.open("\\"), "x") == STATUS_INVALID_PARAMETER


def test_nothing_comes_into_a_directory_that_is_being_deleted(disk: Disk) -> None:
    directory = disk.open(r"\d")
    assert disk.delete(directory) == OK
    file = disk.open(r"\a")
    assert disk.rename(file, r"\d\x") == STATUS_ACCESS_DENIED
    assert disk.link(file, r"\d\x") == STATUS_ACCESS_DENIED


def test_a_link_is_one_more_name_of_the_same_file(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.link(file, r"\d\b") == OK
    other = disk.open(r"\d\b")
    assert disk.write(other, b"X") == OK
    assert disk.read(file, 2) == (OK, b"X1")
    assert disk.standard(file).NumberOfLinks == 2
    assert name(disk, other) == r"\d\b"
    links = disk.query(file, FileHardLinkInformation).buffer
    assert [one.FileName for one in links] == ["a", "b"]
    # The name is the file's own already.
    assert disk.link(file, r"\d\b") == STATUS_OBJECT_NAME_COLLISION
    assert disk.link(file, r"\d\b", replace=True) == OK


def test_what_cannot_have_another_name(disk: Disk) -> None:
    assert disk.link(disk.open(r"\d"), "e") == STATUS_FILE_IS_A_DIRECTORY
    stream = disk.open(r"\a:s", FILE_CREATE)
    assert disk.link(stream, "e") == STATUS_INVALID_PARAMETER
    assert disk.rename(stream, "e") == STATUS_INVALID_PARAMETER
    file = disk.open(r"\a")
    assert [disk.link(file, f"link{number}") for number in range(1023)] == [OK] * 1023
    assert disk.link(file, "one more") == STATUS_TOO_MANY_LINKS


def test_renaming_one_of_two_names_leaves_the_other(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.link(file, "b") == OK
    assert disk.rename(disk.open(r"\b"), "c") == OK
    assert {disk.create(rf"\{one}")[0] for one in "ac"} == {OK}
    assert disk.create(r"\b")[0] == STATUS_OBJECT_NAME_NOT_FOUND
