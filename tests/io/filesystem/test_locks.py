"""Byte-range locks."""

from __future__ import annotations

from typing import Any

import pytest
from disk import Disk

from kemu.io.constants import IRP_MJ_LOCK_CONTROL
from kemu.io.file_constants import IRP_MN_LOCK, IRP_MN_UNLOCK_ALL, IRP_MN_UNLOCK_ALL_BY_KEY, IRP_MN_UNLOCK_SINGLE
from kemu.nt.status import (
    STATUS_CANCELLED,
    STATUS_FILE_CLOSED,
    STATUS_FILE_LOCK_CONFLICT,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_LOCK_RANGE,
    STATUS_INVALID_PARAMETER,
    STATUS_LOCK_NOT_GRANTED,
    STATUS_RANGE_NOT_LOCKED,
    STATUS_SUCCESS,
)

OK, CONFLICT = STATUS_SUCCESS, STATUS_FILE_LOCK_CONFLICT


def lock(disk: Disk, file: Any, start: int, length: int, *, exclusive: bool = False, **members: Any) -> Any:
    return disk.lock(file, IRP_MN_LOCK, start, length, ExclusiveLock=exclusive, **members)


def unlock(disk: Disk, file: Any, start: int, length: int, **members: Any) -> int:
    return disk.lock(file, IRP_MN_UNLOCK_SINGLE, start, length, **members).status


# Whether somebody else, and the owner, may read and write a byte inside and outside of the range.
TRANSFERS = [
    ("exclusive", "other", "read", CONFLICT),
    ("exclusive", "other", "write", CONFLICT),
    ("exclusive", "owner", "read", OK),
    ("exclusive", "owner", "write", OK),
    ("exclusive", "owner, another key", "write", CONFLICT),
    ("shared", "other", "read", OK),
    ("shared", "other", "write", CONFLICT),
    ("shared", "owner", "read", OK),
    ("shared", "owner", "write", CONFLICT),
]


@pytest.mark.parametrize(("kind", "who", "what", "status"), TRANSFERS)
def test_locks_are_mandatory(disk: Disk, kind: str, who: str, what: str, status: int) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    assert lock(disk, mine, 4, 2, exclusive=kind == "exclusive").status == OK
    file = other if who == "other" else mine
    how = {"Key": 7} if "key" in who else {}

    def transfer(start: int, length: int) -> int:
        if what == "read":
            return disk.read(file, length, start, **how)[0]
        return disk.write(file, bytes(length), start, **how)

    assert [transfer(3, 1), transfer(3, 2), transfer(4, 1), transfer(5, 9), transfer(6, 1), transfer(4, 0)] == [
        OK, status, status, status, OK, OK,
    ]  # fmt: skip


def test_two_locks_of_one_range(disk: Disk) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    now = {"FailImmediately": True}
    assert lock(disk, mine, 0, 5).status == OK
    assert lock(disk, other, 4, 2, **now).status == OK
    assert lock(disk, other, 3, 1, exclusive=True, **now).status == STATUS_LOCK_NOT_GRANTED
    assert lock(disk, other, 6, 1, exclusive=True, **now).status == OK
    assert lock(disk, mine, 6, 1, **now).status == STATUS_LOCK_NOT_GRANTED
    # Not even to its owner.
    assert lock(disk, other, 6, 1, exclusive=True, **now).status == STATUS_LOCK_NOT_GRANTED


def test_a_range_is_unlocked_as_it_was_locked(disk: Disk) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    lock(disk, mine, 0, 5, Key=3)
    assert unlock(disk, mine, 0, 4, Key=3) == STATUS_RANGE_NOT_LOCKED
    assert unlock(disk, mine, 0, 5) == STATUS_RANGE_NOT_LOCKED
    assert unlock(disk, other, 0, 5, Key=3) == STATUS_RANGE_NOT_LOCKED
    assert unlock(disk, mine, 0, 5, Key=3) == OK
    assert unlock(disk, mine, 0, 5, Key=3) == STATUS_RANGE_NOT_LOCKED


def test_unlocking_all(disk: Disk) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    for start, key in ((0, 1), (1, 1), (2, 2)):
        lock(disk, mine, start, 1, Key=key)
    lock(disk, other, 3, 1)
    assert disk.lock(mine, IRP_MN_UNLOCK_ALL_BY_KEY, Key=1).status == OK
    assert [one.start for one in mine.fs_context.stream.locks] == [2, 3]
    assert disk.lock(mine, IRP_MN_UNLOCK_ALL).status == OK
    assert [one.start for one in mine.fs_context.stream.locks] == [3]


def test_locks_are_given_in_the_order_in_which_they_were_asked_for(disk: Disk) -> None:
    files = [disk.open(r"\a") for _ in range(4)]
    first = lock(disk, files[0], 0, 1, exclusive=True)
    waiting = [lock(disk, file, 0, 1, exclusive=which == 2) for which, file in enumerate(files[1:], 1)]
    assert first.done
    assert not any(one.done for one in waiting)
    unlock(disk, files[0], 0, 1)
    # The shared ones at once; the exclusive one in between has to wait for both.
    assert [one.done for one in waiting] == [True, False, True]
    unlock(disk, files[1], 0, 1)
    assert not waiting[1].done
    disk.lock(files[3], IRP_MN_UNLOCK_ALL)
    assert waiting[1].status == OK


def test_closing_a_handle_gives_its_locks_back(disk: Disk) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    lock(disk, mine, 0, 1, exclusive=True)
    waiting = lock(disk, other, 0, 1)
    disk.close(mine)
    assert waiting.status == OK
    assert disk.read(other, 1)[0] == OK


def test_closing_a_handle_ends_what_waits_on_it(disk: Disk) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    lock(disk, mine, 0, 1, exclusive=True)
    waiting = lock(disk, other, 0, 1)
    disk.close(other)
    assert waiting.status == STATUS_RANGE_NOT_LOCKED
    unlock(disk, mine, 0, 1)
    assert mine.fs_context.stream.locks == []


def test_a_wait_is_cancelled(disk: Disk) -> None:
    mine, other = disk.open(r"\a"), disk.open(r"\a")
    lock(disk, mine, 0, 1, exclusive=True)
    waiting = lock(disk, other, 0, 1)
    disk.cancel(waiting)
    assert waiting.status == STATUS_CANCELLED
    unlock(disk, mine, 0, 1)
    assert mine.fs_context.stream.locks == []


def test_what_cannot_be_locked(disk: Disk) -> None:
    file = disk.open(r"\a")
    assert lock(disk, file, -1, 1).status == STATUS_INVALID_LOCK_RANGE
    assert lock(disk, file, 2**64 - 1, 2).status == STATUS_INVALID_LOCK_RANGE
    assert lock(disk, file, 2**64 - 1, 1).status == OK
    assert lock(disk, disk.open(r"\d"), 0, 1).status == STATUS_INVALID_PARAMETER
    assert disk.send(file, IRP_MJ_LOCK_CONTROL, minor=9).status == STATUS_INVALID_DEVICE_REQUEST
    disk.close(file)
    assert lock(disk, file, 0, 1).status == STATUS_FILE_CLOSED


def test_streams_are_locked_apart_from_each_other(disk: Disk) -> None:
    lock(disk, disk.open(r"\a"), 0, 9, exclusive=True)
    stream = disk.open(r"\a:s", 2)
    assert disk.write(stream, b"x") == OK
