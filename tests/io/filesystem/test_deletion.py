"""Delete pending, POSIX deletion, delete on close: when a name goes, and what can be done meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from disk import Disk

from kemu.io.constants import FILE_CREATE, FILE_OPEN, FILE_OPEN_IF, FILE_SUPERSEDE
from kemu.io.file_constants import (
    FILE_ATTRIBUTE_READONLY,
    FILE_DELETE_ON_CLOSE,
    FILE_DIRECTORY_FILE,
    FILE_DISPOSITION_DELETE,
    FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    FILE_DISPOSITION_ON_CLOSE,
    FILE_DISPOSITION_POSIX_SEMANTICS,
    FILE_READ_DATA,
    FileBasicInformation,
    FileStreamInformation,
)
from kemu.io.request import FileObject
from kemu.io.structures import FILE_BASIC_INFORMATION
from kemu.nt.status import (
    STATUS_ACCESS_DENIED,
    STATUS_CANNOT_DELETE,
    STATUS_DELETE_PENDING,
    STATUS_DIRECTORY_NOT_EMPTY,
    STATUS_FILE_CLOSED,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)

OK = STATUS_SUCCESS
DELETE_FLAG, POSIX = FILE_DISPOSITION_DELETE, FILE_DISPOSITION_POSIX_SEMANTICS

# How a file comes to be deleted: with its own handle, and with what is left open beside it.


def pending(disk: Disk, file: FileObject) -> None:
    """Marked, and not closed."""
    assert disk.delete(file) == OK


def closed(disk: Disk, file: FileObject) -> None:
    """Marked and closed, while another handle is open."""
    pending(disk, file)
    disk.close(file)


def posix(disk: Disk, file: FileObject) -> None:
    """Deleted with POSIX semantics, while another handle is open."""
    assert disk.delete_ex(file, DELETE_FLAG | POSIX) == OK
    disk.close(file)


def undone(disk: Disk, file: FileObject) -> None:
    """Marked, and the mark taken back."""
    pending(disk, file)
    assert disk.delete(file, on=False) == OK


Do = Callable[[Disk, FileObject], Any]
ACTIONS: dict[str, Do] = {
    "open": lambda disk, other: disk.create(r"\a")[0],
    "open another name": lambda disk, other: disk.create(r"\second")[0],
    "create": lambda disk, other: disk.create(r"\a", FILE_CREATE)[0],
    "open or create": lambda disk, other: disk.create(r"\a", FILE_OPEN_IF)[0],
    "supersede": lambda disk, other: disk.create(r"\a", FILE_SUPERSEDE)[0],
    "read": lambda disk, other: disk.read(other, 1)[0],
    "write": lambda disk, other: disk.write(other, b"x"),
    "set the end of file": lambda disk, other: disk.set_end(other, 3),
    "rename": lambda disk, other: disk.rename(other, "n"),
    "link": lambda disk, other: disk.link(other, "n"),
    "rename another file to it": lambda disk, other: disk.rename(disk.open(r"\b"), "a", replace=True),
    "delete pending": lambda disk, other: disk.standard(other).DeletePending,
    "links": lambda disk, other: disk.standard(other).NumberOfLinks,
}
PENDING, DENIED, GONE = STATUS_DELETE_PENDING, STATUS_ACCESS_DENIED, STATUS_OBJECT_NAME_NOT_FOUND
COLLISION = 0xC0000035

# What each action comes to in each state. The file has two names; the one that is deleted is `a`.
MATRIX: dict[str, dict[Callable[[Disk, FileObject], None], object]] = {
    "open": {pending: PENDING, closed: PENDING, posix: GONE, undone: OK},
    "open another name": {pending: OK, closed: OK, posix: OK, undone: OK},
    "create": {pending: PENDING, closed: PENDING, posix: OK, undone: COLLISION},
    "open or create": {pending: PENDING, closed: PENDING, posix: OK, undone: OK},
    "supersede": {pending: PENDING, closed: PENDING, posix: OK, undone: OK},
    "read": {pending: OK, closed: OK, posix: OK, undone: OK},
    "write": {pending: OK, closed: OK, posix: OK, undone: OK},
    "set the end of file": {pending: OK, closed: OK, posix: OK, undone: OK},
    "rename": {pending: DENIED, closed: DENIED, posix: DENIED, undone: OK},
    "link": {pending: DENIED, closed: DENIED, posix: DENIED, undone: OK},
    "rename another file to it": {pending: DENIED, closed: DENIED, posix: OK, undone: DENIED},
    "delete pending": {pending: True, closed: True, posix: True, undone: False},
    "links": {pending: 1, closed: 1, posix: 1, undone: 2},
}


@pytest.mark.parametrize("action", MATRIX)
@pytest.mark.parametrize("state", [pending, closed, posix, undone])
def test_the_matrix_of_deletion(disk: Disk, action: str, state: Callable[[Disk, FileObject], None]) -> None:
    disk.fs.add(r"\b")
    file, other = disk.open(r"\a"), disk.open(r"\a")
    assert disk.link(file, "second") == OK
    state(disk, file)
    assert ACTIONS[action](disk, other) == MATRIX[action][state]


def exists(disk: Disk, path: str) -> bool:
    return disk.fs.find(path) is not None


def test_the_name_goes_with_the_last_handle(disk: Disk) -> None:
    file, other = disk.open(r"\a"), disk.open(r"\a")
    assert disk.delete(file) == OK
    disk.close(file)
    assert exists(disk, r"\a")
    disk.close(other)
    assert not exists(disk, r"\a")
    assert disk.create(r"\a", FILE_CREATE)[0] == OK


def test_with_posix_semantics_the_name_goes_with_the_handle_that_deletes(disk: Disk) -> None:
    file, other = disk.open(r"\a"), disk.open(r"\a")
    assert disk.delete_ex(file, DELETE_FLAG | POSIX) == OK
    assert exists(disk, r"\a")
    assert disk.create(r"\a")[0] == STATUS_DELETE_PENDING
    disk.close(file)
    assert not exists(disk, r"\a")
    new = disk.open(r"\a", FILE_CREATE)
    assert disk.write(new, b"new") == OK
    assert disk.read(other, 3) == (OK, b"012")
    assert disk.standard(other).NumberOfLinks == 0
    disk.close(other)
    assert disk.read(new, 9) == (OK, b"new")


@pytest.mark.parametrize("flags", [0, POSIX])
def test_without_the_delete_flag_the_mark_is_taken_back(disk: Disk, flags: int) -> None:
    file = disk.open(r"\a")
    assert disk.delete_ex(file, DELETE_FLAG | POSIX) == OK
    assert disk.delete_ex(file, flags) == OK
    disk.close(file)
    assert exists(disk, r"\a")


def test_deleting_needs_the_right_to(disk: Disk) -> None:
    file = disk.open(r"\a", access=FILE_READ_DATA)
    assert disk.delete(file) == STATUS_ACCESS_DENIED
    assert disk.delete_ex(file, DELETE_FLAG) == STATUS_ACCESS_DENIED
    assert disk.rename(file, "b") == STATUS_ACCESS_DENIED


def test_a_read_only_file_is_deleted_only_by_who_ignores_that(disk: Disk) -> None:
    file = disk.open(r"\a")
    readonly = FILE_BASIC_INFORMATION(FileAttributes=FILE_ATTRIBUTE_READONLY)
    assert disk.change(file, FileBasicInformation, readonly) == OK
    assert disk.delete(file) == STATUS_CANNOT_DELETE
    assert disk.delete_ex(file, DELETE_FLAG) == STATUS_CANNOT_DELETE
    assert disk.delete_ex(file, DELETE_FLAG | FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE) == OK


def test_a_directory_with_something_in_it_stays(disk: Disk) -> None:
    directory = disk.open(r"\d")
    inside = disk.open(r"\d\x", FILE_CREATE)
    assert disk.delete(directory) == STATUS_DIRECTORY_NOT_EMPTY
    assert disk.delete(inside) == OK
    # Pending is not gone.
    assert disk.delete(directory) == STATUS_DIRECTORY_NOT_EMPTY
    disk.close(inside)
    assert disk.delete(directory) == OK
    assert disk.create(r"\d\y", FILE_CREATE)[0] == STATUS_DELETE_PENDING
    disk.close(directory)
    assert not exists(disk, r"\d")


def test_a_directory_that_was_deleted_on_close_stays_if_something_came_into_it(disk: Disk) -> None:
    directory = disk.open(r"\d", options=FILE_DELETE_ON_CLOSE | FILE_DIRECTORY_FILE)
    disk.close(disk.open(r"\d\x", FILE_CREATE))
    disk.close(directory)
    assert exists(disk, r"\d")


def test_delete_on_close_marks_the_file_when_that_handle_is_closed(disk: Disk) -> None:
    file = disk.open(r"\a", options=FILE_DELETE_ON_CLOSE)
    other = disk.open(r"\a")
    assert disk.create(r"\a")[0] == OK
    disk.close(file)
    assert disk.create(r"\a")[0] == STATUS_DELETE_PENDING
    assert disk.standard(other).DeletePending
    assert disk.delete(other, on=False) == OK
    assert disk.create(r"\a")[0] == OK


def test_delete_on_close_can_be_taken_back(disk: Disk) -> None:
    file = disk.open(r"\a", options=FILE_DELETE_ON_CLOSE)
    assert disk.delete_ex(file, FILE_DISPOSITION_ON_CLOSE) == OK
    disk.close(file)
    assert exists(disk, r"\a")
    file = disk.open(r"\a", options=FILE_DELETE_ON_CLOSE)
    other = disk.open(r"\a")
    assert disk.delete_ex(file, FILE_DISPOSITION_ON_CLOSE | DELETE_FLAG | POSIX) == OK
    disk.close(file)
    assert not exists(disk, r"\a")
    assert disk.read(other, 1)[0] == OK
    assert disk.delete_ex(disk.open(r"\d"), FILE_DISPOSITION_ON_CLOSE) == STATUS_INVALID_PARAMETER


def test_one_of_two_names_is_deleted(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert disk.link(file, r"\d\b") == OK
    other = disk.open(r"\d\b")
    assert disk.delete(file) == OK
    assert disk.standard(file).NumberOfLinks == 1
    assert not disk.standard(other).DeletePending
    disk.close(file)
    assert not exists(disk, r"\a")
    assert disk.read(other, 2) == (OK, b"01")


def test_a_stream_is_deleted_without_its_file(disk: Disk) -> None:
    stream = disk.open(r"\a:s", FILE_CREATE)
    file = disk.open(r"\a")
    assert disk.delete(stream) == OK
    assert disk.create(r"\a:s")[0] == STATUS_DELETE_PENDING
    assert not disk.standard(file).DeletePending
    assert [one.StreamName for one in disk.query(file, FileStreamInformation).buffer] == ["::$DATA"]
    disk.close(stream)
    assert disk.create(r"\a:s")[0] == STATUS_OBJECT_NAME_NOT_FOUND
    assert disk.create(r"\a")[0] == OK
    stream = disk.open(r"\a:s", FILE_CREATE, options=FILE_DELETE_ON_CLOSE)
    assert disk.delete(stream) == OK
    assert disk.delete(stream, on=False) == OK
    disk.close(stream)
    assert disk.create(r"\a:s", FILE_OPEN)[0] == STATUS_OBJECT_NAME_NOT_FOUND


def test_after_the_cleanup_a_file_object_is_good_for_nothing(disk: Disk) -> None:
    file = disk.open(r"\a")
    disk.close(file)
    assert disk.read(file, 1)[0] == STATUS_FILE_CLOSED
    assert disk.write(file, b"x") == STATUS_FILE_CLOSED
    assert disk.delete(file) == STATUS_FILE_CLOSED


def test_the_space_of_a_deleted_file_is_given_back(disk: Disk) -> None:
    used = disk.fs.used
    file = disk.open(r"\n", FILE_CREATE, options=FILE_DELETE_ON_CLOSE)
    disk.write(file, bytes(5000))
    assert disk.fs.used == used + 8192
    disk.close(file)
    assert disk.fs.used == used
