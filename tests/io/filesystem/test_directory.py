"""Enumerating directories, and being told of changes in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from disk import Disk

from kemu.io.constants import FILE_CREATE, IRP_MJ_DIRECTORY_CONTROL
from kemu.io.file_constants import (
    FILE_ACTION_ADDED,
    FILE_ACTION_MODIFIED,
    FILE_ACTION_REMOVED,
    FILE_ACTION_RENAMED_NEW_NAME,
    FILE_ACTION_RENAMED_OLD_NAME,
    FILE_ATTRIBUTE_HIDDEN,
    FILE_DIRECTORY_FILE,
    FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_NOTIFY_CHANGE_NAME,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_NOTIFY_CHANGE_STREAM_NAME,
    SL_RESTART_SCAN,
    SL_RETURN_SINGLE_ENTRY,
    SL_WATCH_TREE,
    FileBasicInformation,
    FileDirectoryInformation,
    FileIdBothDirectoryInformation,
    FileNamesInformation,
)
from kemu.io.filesystem.names import matches
from kemu.io.structures import FILE_BASIC_INFORMATION
from kemu.nt.status import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_CANCELLED,
    STATUS_DELETE_PENDING,
    STATUS_FILE_CLOSED,
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_INFO_CLASS,
    STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_FILES,
    STATUS_NO_SUCH_FILE,
    STATUS_NOTIFY_CLEANUP,
    STATUS_NOTIFY_ENUM_DIR,
    STATUS_PENDING,
    STATUS_SUCCESS,
)

OK = STATUS_SUCCESS


def names(request: Any) -> list[str]:
    return [one.FileName for one in request.buffer]


def fill(disk: Disk, *files: str) -> Any:
    for name in files:
        disk.fs.add(rf"\d\{name}", b"12345")
    return disk.open(r"\d")


def test_a_directory_is_enumerated_by_name(disk: Disk) -> None:
    directory = fill(disk, "b", "C", "a")
    assert names(disk.list(directory)) == [".", "..", "a", "b", "C"]
    assert disk.list(directory).status == STATUS_NO_MORE_FILES
    assert names(disk.list(directory, OperationFlags=SL_RESTART_SCAN)) == [".", "..", "a", "b", "C"]


def test_the_root_has_no_dots(disk: Disk) -> None:
    assert names(disk.list(disk.open("\\"))) == ["a", "d"]


def test_an_enumeration_goes_on_where_it_stopped(disk: Disk) -> None:
    directory = fill(disk, "b", "d", "f")
    one: dict[str, Any] = {"OperationFlags": SL_RETURN_SINGLE_ENTRY}
    assert [names(disk.list(directory, **one)) for _ in range(4)] == [["."], [".."], ["b"], ["d"]]
    # What is created before that place is not seen any more.
    disk.fs.add(r"\d\c")
    disk.fs.add(r"\d\e")
    assert names(disk.list(directory)) == ["e", "f"]


def test_the_first_query_fixes_the_expression(disk: Disk) -> None:
    directory = fill(disk, "a.txt", "b.txt", "a.c")
    one: dict[str, Any] = {"OperationFlags": SL_RETURN_SINGLE_ENTRY}
    assert names(disk.list(directory, "*.TXT", **one)) == ["a.txt"]
    assert names(disk.list(directory, "*.c", **one)) == ["b.txt"]
    assert disk.list(directory).status == STATUS_NO_MORE_FILES
    assert disk.list(disk.open(r"\d"), "x*").status == STATUS_NO_SUCH_FILE


def test_what_an_entry_tells(disk: Disk) -> None:
    directory = fill(disk, "a")
    (entry,) = disk.list(directory, "a").buffer
    node = disk.fs.find(r"\d\a")
    assert node is not None
    assert (entry.EndOfFile, entry.AllocationSize, entry.FileId) == (5, 4096, node.number)
    (only_name,) = disk.list(disk.open(r"\d"), "a", FileInformationClass=FileNamesInformation).buffer
    assert (only_name.FileName, only_name.EndOfFile) == ("a", 0)


@pytest.mark.parametrize(
    ("which", "length", "found", "status"),
    [
        # A name of two letters takes 4 bytes, and the next entry begins at a multiple of 8.
        (FileNamesInformation, 16, ["ax"], OK),
        (FileNamesInformation, 15, ["ax"], STATUS_BUFFER_OVERFLOW),
        (FileNamesInformation, 11, [], STATUS_INFO_LENGTH_MISMATCH),
        (FileNamesInformation, 32, ["ax", "bx"], OK),
        (FileNamesInformation, 31, ["ax"], OK),
        (FileDirectoryInformation, 68, ["ax"], OK),
        (FileIdBothDirectoryInformation, 103, [], STATUS_INFO_LENGTH_MISMATCH),
        (99, 4096, [], STATUS_INVALID_INFO_CLASS),
    ],
)
def test_the_buffer_limits_what_is_told(disk: Disk, which: int, length: int, found: list[str], status: int) -> None:
    directory = fill(disk, "ax", "bx")
    request = disk.list(directory, "?x", FileInformationClass=which, Length=length)
    assert request.status == status
    assert (names(request) if request.buffer else []) == found


def test_who_cannot_be_enumerated(disk: Disk) -> None:
    assert disk.list(disk.open(r"\a")).status == STATUS_INVALID_PARAMETER
    directory = disk.open(r"\d")
    assert disk.send(directory, IRP_MJ_DIRECTORY_CONTROL, minor=7).status == STATUS_INVALID_DEVICE_REQUEST
    disk.close(directory)
    assert disk.list(directory).status == STATUS_FILE_CLOSED
    assert disk.watch(directory, FILE_NOTIFY_CHANGE_NAME).status == STATUS_NOTIFY_CLEANUP


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ["a", "a.b", ""], []),
        ("a*", ["a", "AB.c"], ["b"]),
        ("?", ["a"], ["", "ab"]),
        ("*.*", ["a.b"], ["a"]),
        (">>", ["", "a", "ab"], ["abc", "a.b"]),
        ("a>.b", ["a.b", "ac.b"], ["acc.b"]),
        ("<", ["a", "abc"], ["a.b"]),
        ("<.b", ["a.b", "a.c.b"], ["a.b.c"]),
        ('a"', ["a", "a."], ["ab"]),
        ('a"*', ["a", "a.", "a.b"], ["ab"]),
        ('a"b', ["a.b"], ["ab"]),
        ("[a]", ["[a]"], ["a"]),
    ],
)
def test_expressions(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [name for name in matching + others if matches(pattern, name)] == matching


# Change notification.

FILES, NAMES = FILE_NOTIFY_CHANGE_FILE_NAME, FILE_NOTIFY_CHANGE_NAME
ADDED, REMOVED, MODIFIED = FILE_ACTION_ADDED, FILE_ACTION_REMOVED, FILE_ACTION_MODIFIED


def changes(request: Any) -> list[tuple[int, str]]:
    assert request.done
    assert request.status == OK
    return [(one.Action, one.FileName) for one in request.buffer]


def test_a_request_waits_for_the_first_change(disk: Disk) -> None:
    watch = disk.watch(disk.open("\\"), FILES)
    assert (watch.done, watch.status) == (False, STATUS_PENDING)
    disk.open(r"\n", FILE_CREATE)
    assert changes(watch) == [(ADDED, "n")]
    # A name of one letter behind twelve bytes.
    assert watch.information == 14


def test_what_happens_while_nobody_waits_is_kept(disk: Disk) -> None:
    directory = disk.open("\\")
    disk.watch(directory, FILES)
    for name in "mno":
        disk.open(rf"\{name}", FILE_CREATE)
    watch = disk.watch(directory, FILES)
    assert changes(watch) == [(ADDED, "n"), (ADDED, "o")]
    assert not disk.watch(directory, FILES).done


def test_too_many_changes_mean_to_look_anew(disk: Disk) -> None:
    directory = disk.open("\\")
    disk.watch(directory, FILES, 32)
    for name in "mnop":
        disk.open(rf"\{name}", FILE_CREATE)
    assert disk.watch(directory, FILES, 32).status == STATUS_NOTIFY_ENUM_DIR
    assert not disk.watch(directory, FILES, 32).done


def test_a_change_that_does_not_fit_means_to_look_anew(disk: Disk) -> None:
    watch = disk.watch(disk.open("\\"), FILES, 13)
    disk.open(r"\n", FILE_CREATE)
    assert watch.status == STATUS_NOTIFY_ENUM_DIR


CHANGES: list[tuple[int, Callable[[Disk], Any], list[int] | None]] = [
    (NAMES, lambda d: d.rename(d.open(r"\a"), "b"), [FILE_ACTION_RENAMED_OLD_NAME]),
    (FILES, lambda d: d.rename(d.open(r"\a"), r"\d\a"), [REMOVED]),
    (FILES, lambda d: d.link(d.open(r"\a"), "b"), [ADDED]),
    (FILES, lambda d: d.open(r"\n", FILE_CREATE, options=FILE_DIRECTORY_FILE), None),
    (FILE_NOTIFY_CHANGE_DIR_NAME, lambda d: d.open(r"\n", FILE_CREATE, options=FILE_DIRECTORY_FILE), [ADDED]),
    (FILE_NOTIFY_CHANGE_SIZE, lambda d: d.write(d.open(r"\a"), b"x", 99), [MODIFIED]),
    (FILE_NOTIFY_CHANGE_SIZE, lambda d: d.write(d.open(r"\a"), b"x"), None),
    (FILE_NOTIFY_CHANGE_SIZE, lambda d: d.set_end(d.open(r"\a"), 1), [MODIFIED]),
    (FILE_NOTIFY_CHANGE_SIZE, lambda d: d.open(r"\a", 4), [MODIFIED]),
    (
        FILE_NOTIFY_CHANGE_ATTRIBUTES,
        lambda d: d.change(
            d.open(r"\a"), FileBasicInformation, FILE_BASIC_INFORMATION(FileAttributes=FILE_ATTRIBUTE_HIDDEN)
        ),
        [MODIFIED],
    ),
    (FILE_NOTIFY_CHANGE_STREAM_NAME, lambda d: d.open(r"\a:s", FILE_CREATE), [ADDED]),
    (FILES, lambda d: d.open(r"\d\n", FILE_CREATE), None),
]


@pytest.mark.parametrize(("kind", "action", "expected"), CHANGES)
def test_who_is_told_of_what(disk: Disk, kind: int, action: Any, expected: list[int] | None) -> None:
    watch = disk.watch(disk.open("\\"), kind)
    action(disk)
    assert (None if not watch.done else [one for one, _ in changes(watch)]) == expected


def test_a_rename_is_two_changes(disk: Disk) -> None:
    directory = disk.open("\\")
    disk.cancel(disk.watch(directory, NAMES))
    disk.rename(disk.open(r"\a"), "b")
    expected = [(FILE_ACTION_RENAMED_OLD_NAME, "a"), (FILE_ACTION_RENAMED_NEW_NAME, "b")]
    assert changes(disk.watch(directory, NAMES)) == expected


def test_deleting_is_a_change_when_the_name_goes(disk: Disk) -> None:
    watch = disk.watch(disk.open("\\"), FILES)
    file = disk.open(r"\a")
    disk.delete(file)
    assert not watch.done
    disk.close(file)
    assert changes(watch) == [(REMOVED, "a")]


def test_a_tree_is_watched_on_request(disk: Disk) -> None:
    disk.fs.add_directory(r"\d\e")
    root = disk.watch(disk.open("\\"), FILES, OperationFlags=SL_WATCH_TREE)
    above = disk.watch(disk.open(r"\d"), FILES)
    inside = disk.watch(disk.open(r"\d\e"), FILES)
    disk.open(r"\d\e\n", FILE_CREATE)
    assert changes(root) == [(ADDED, r"d\e\n")]
    assert not above.done
    assert changes(inside) == [(ADDED, "n")]


def test_a_watch_ends_with_its_handle(disk: Disk) -> None:
    directory = disk.open(r"\d")
    watch = disk.watch(directory, FILES)
    disk.close(directory)
    assert watch.status == STATUS_NOTIFY_CLEANUP
    disk.open(r"\d\n", FILE_CREATE)


def test_a_watch_ends_when_its_directory_is_deleted(disk: Disk) -> None:
    directory, other = disk.open(r"\d"), disk.open(r"\d")
    watch = disk.watch(directory, FILES)
    assert disk.delete(other) == OK
    assert watch.status == STATUS_DELETE_PENDING
    assert disk.watch(directory, FILES).status == STATUS_DELETE_PENDING


def test_a_watch_is_cancelled(disk: Disk) -> None:
    directory = disk.open("\\")
    first, second = disk.watch(directory, FILES), disk.watch(directory, FILES)
    disk.cancel(first)
    assert first.status == STATUS_CANCELLED
    disk.open(r"\n", FILE_CREATE)
    assert changes(second) == [(ADDED, "n")]


@pytest.mark.parametrize("filter_", [0, 0x1000])
def test_a_filter_that_means_nothing(disk: Disk, filter_: int) -> None:
    assert disk.watch(disk.open("\\"), filter_).status == STATUS_INVALID_PARAMETER
    assert disk.watch(disk.open(r"\a"), FILES).status == STATUS_INVALID_PARAMETER
