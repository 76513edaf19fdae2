"""Oplocks: who gets one, what breaks it, who waits."""

from __future__ import annotations

from typing import Any

import pytest
from disk import Disk

from kemu.io.constants import FILE_OPEN, FILE_OVERWRITE
from kemu.io.file_constants import (
    FILE_COMPLETE_IF_OPLOCKED,
    FILE_READ_ATTRIBUTES,
    FILE_READ_DATA,
    FILE_WRITE_DATA,
    FSCTL_OPBATCH_ACK_CLOSE_PENDING,
    FSCTL_OPLOCK_BREAK_ACK_NO_2,
    FSCTL_OPLOCK_BREAK_ACKNOWLEDGE,
    FSCTL_OPLOCK_BREAK_NOTIFY,
    FSCTL_REQUEST_BATCH_OPLOCK,
    FSCTL_REQUEST_FILTER_OPLOCK,
    FSCTL_REQUEST_OPLOCK,
    FSCTL_REQUEST_OPLOCK_LEVEL_1,
    FSCTL_REQUEST_OPLOCK_LEVEL_2,
    IRP_MN_LOCK,
    REQUEST_OPLOCK_INPUT_FLAG_ACK,
    REQUEST_OPLOCK_INPUT_FLAG_REQUEST,
)
from kemu.io.filesystem.oplocks import FILE_OPLOCK_BROKEN_TO_LEVEL_2, FILE_OPLOCK_BROKEN_TO_NONE, H, R, W
from kemu.io.structures import REQUEST_OPLOCK_INPUT_BUFFER
from kemu.nt.access import DELETE
from kemu.nt.status import (
    STATUS_CANCELLED,
    STATUS_FILE_CLOSED,
    STATUS_INVALID_OPLOCK_PROTOCOL,
    STATUS_INVALID_PARAMETER,
    STATUS_OPLOCK_BREAK_IN_PROGRESS,
    STATUS_OPLOCK_HANDLE_CLOSED,
    STATUS_OPLOCK_NOT_GRANTED,
    STATUS_SHARING_VIOLATION,
    STATUS_SUCCESS,
)

OK = STATUS_SUCCESS
LEVEL_1, LEVEL_2 = FSCTL_REQUEST_OPLOCK_LEVEL_1, FSCTL_REQUEST_OPLOCK_LEVEL_2
BATCH, FILTER = FSCTL_REQUEST_BATCH_OPLOCK, FSCTL_REQUEST_FILTER_OPLOCK
TO_2, TO_NONE = FILE_OPLOCK_BROKEN_TO_LEVEL_2, FILE_OPLOCK_BROKEN_TO_NONE


def overlapped(disk: Disk, path: str = r"\a", **how: Any) -> Any:
    return disk.open(path, synchronous=False, **how)


def request(disk: Disk, file: Any, what: int) -> Any:
    """Ask for an oplock: by a legacy code, or by what it may cache."""
    if what > 7:
        return disk.control(file, what)
    wanted = REQUEST_OPLOCK_INPUT_BUFFER(what, REQUEST_OPLOCK_INPUT_FLAG_REQUEST)
    return disk.control(file, FSCTL_REQUEST_OPLOCK, InputBuffer=wanted)


def acknowledge(disk: Disk, file: Any, what: int) -> Any:
    if what > 7:
        return disk.control(file, what)
    answer = REQUEST_OPLOCK_INPUT_BUFFER(what, REQUEST_OPLOCK_INPUT_FLAG_ACK)
    return disk.control(file, FSCTL_REQUEST_OPLOCK, InputBuffer=answer)


ALL = [LEVEL_1, LEVEL_2, BATCH, FILTER, R, R | H, R | W, R | W | H]


@pytest.mark.rule("FLT-OPL-06")
@pytest.mark.parametrize("what", ALL)
def test_an_oplock_is_a_request_that_stays_pending(disk: Disk, what: int) -> None:
    oplock = request(disk, overlapped(disk), what)
    assert not oplock.done


@pytest.mark.rule("FLT-OPL-06")
@pytest.mark.parametrize("what", ALL)
def test_none_is_granted_on_a_synchronous_handle(disk: Disk, what: int) -> None:
    assert request(disk, disk.open(r"\a"), what).status == STATUS_OPLOCK_NOT_GRANTED


@pytest.mark.parametrize("what", ALL)
def test_one_that_excludes_others_needs_to_be_alone(disk: Disk, what: int) -> None:
    file = overlapped(disk)
    other = overlapped(disk)
    assert request(disk, file, what).done == bool(what in {LEVEL_1, BATCH, FILTER} or (what & W and what < 8))
    shared = request(disk, other, LEVEL_2)
    assert not shared.done


def test_who_gets_none(disk: Disk) -> None:
    file, other = overlapped(disk), overlapped(disk)
    assert not request(disk, other, R).done
    disk.lock(file, IRP_MN_LOCK)
    assert request(disk, file, R).status == STATUS_OPLOCK_NOT_GRANTED
    assert request(disk, overlapped(disk, r"\d"), LEVEL_2).status == STATUS_INVALID_PARAMETER
    assert request(disk, file, 2).status == STATUS_INVALID_PARAMETER
    assert disk.control(file, FSCTL_REQUEST_OPLOCK).status == STATUS_INVALID_PARAMETER
    disk.close(file)
    assert request(disk, file, R).status == STATUS_FILE_CLOSED


# What an open of somebody else does to an oplock: whether it waits, and what the owner is told.
OPENS: list[tuple[int, dict[str, Any], bool, int | tuple[int, int] | None]] = [
    (LEVEL_1, {"access": FILE_READ_DATA}, True, TO_2),
    (LEVEL_1, {"access": FILE_READ_ATTRIBUTES}, False, None),
    (LEVEL_1, {"disposition": FILE_OVERWRITE}, True, TO_NONE),
    (BATCH, {"access": FILE_READ_DATA}, True, TO_2),
    (LEVEL_2, {"access": FILE_WRITE_DATA}, False, None),
    (LEVEL_2, {"disposition": FILE_OVERWRITE}, False, TO_NONE),
    (FILTER, {"access": FILE_READ_DATA}, False, None),
    (FILTER, {"access": FILE_WRITE_DATA}, True, TO_NONE),
    (R, {"access": FILE_WRITE_DATA}, False, None),
    (R, {"disposition": FILE_OVERWRITE}, False, (0, 0)),
    (R | H, {"access": FILE_WRITE_DATA}, False, None),
    (R | H, {"disposition": FILE_OVERWRITE}, False, (0, 1)),
    (R | W, {"access": FILE_READ_DATA}, True, (R, 1)),
    (R | W | H, {"access": FILE_READ_DATA}, True, (R | H, 1)),
    (R | W | H, {"disposition": FILE_OVERWRITE}, True, (0, 1)),
]


def told(oplock: Any) -> int | tuple[int, int] | None:
    """What the owner of an oplock learns: the level, or the level and whether an acknowledgement is expected."""
    if not oplock.done:
        return None
    assert oplock.status == OK
    if isinstance(oplock.buffer, bytes):
        return oplock.information
    return oplock.buffer.NewOplockLevel, oplock.buffer.Flags


@pytest.mark.parametrize(("what", "how", "waits", "broken_to"), OPENS)
def test_what_another_open_does(
    disk: Disk, what: int, how: dict[str, Any], waits: bool, broken_to: int | tuple[int, int] | None
) -> None:
    file = overlapped(disk)
    oplock = request(disk, file, what)
    members = {"DesiredAccess": how.get("access", FILE_WRITE_DATA)}
    create = disk.begin_create(r"\a", how.get("disposition", FILE_OPEN), **members)
    assert (not create.done, told(oplock)) == (waits, broken_to)
    if waits:
        level = broken_to[0] if isinstance(broken_to, tuple) else FSCTL_OPLOCK_BREAK_ACKNOWLEDGE
        accepted = acknowledge(disk, file, level)
        assert create.status == OK
        # What is left of the oplock is pending again.
        assert accepted.done == (broken_to in {TO_NONE, (0, 1)})


TRANSFERS: list[tuple[int, str, bool, int | tuple[int, int] | None]] = [
    (LEVEL_2, "read", False, None),
    (LEVEL_2, "write", False, TO_NONE),
    (LEVEL_2, "set end", False, TO_NONE),
    (R, "write", False, (0, 0)),
    (R | H, "read", False, None),
    (R | H, "write", False, (0, 1)),
]


@pytest.mark.parametrize(("what", "how", "waits", "broken_to"), TRANSFERS)
def test_what_a_transfer_does(
    disk: Disk, what: int, how: str, waits: bool, broken_to: int | tuple[int, int] | None
) -> None:
    file, other = overlapped(disk), disk.open(r"\a")
    oplock = request(disk, file, what)
    if how == "read":
        disk.read(other, 1)
    elif how == "write":
        disk.write(other, b"x")
    else:
        disk.set_end(other, 3)
    assert told(oplock) == broken_to


def test_a_break_holds_up_transfers_too(disk: Disk) -> None:
    file = overlapped(disk)
    oplock = request(disk, file, R | W)
    other = disk.open(r"\a", access=FILE_READ_ATTRIBUTES)
    read = disk.begin(other, 3, Length=2)
    assert (read.done, told(oplock)) == (False, (R, 1))
    second = disk.begin(other, 3, Length=3)
    assert not second.done
    acknowledge(disk, file, 0)
    assert (read.buffer, second.buffer) == (b"01", b"012")


def test_the_owners_own_transfers_break_nothing(disk: Disk) -> None:
    file = overlapped(disk)
    for what in (LEVEL_1, R | W | H):
        oplock = request(disk, file, what)
        assert disk.write(file, b"x") == OK
        assert disk.read(file, 1)[0] == OK
        assert not oplock.done
        disk.cancel(oplock)


def test_a_write_of_its_owner_breaks_level_2(disk: Disk) -> None:
    file = overlapped(disk)
    oplock = request(disk, file, LEVEL_2)
    disk.write(file, b"x")
    assert told(oplock) == TO_NONE


def test_closing_the_handle_answers_a_break(disk: Disk) -> None:
    file = overlapped(disk, share=0)
    oplock = request(disk, file, BATCH)
    create = disk.begin_create(r"\a")
    # The sharing modes do not agree, but the owner may be keeping the file open for nothing.
    assert (create.done, told(oplock)) == (False, TO_2)
    assert acknowledge(disk, file, FSCTL_OPBATCH_ACK_CLOSE_PENDING).status == OK
    assert not create.done
    disk.close(file)
    assert create.status == OK


def test_an_owner_that_keeps_the_file_open(disk: Disk) -> None:
    file = overlapped(disk, share=0)
    oplock = request(disk, file, R | W | H)
    create = disk.begin_create(r"\a")
    assert (create.done, told(oplock)) == (False, (R | W, 1))
    assert not acknowledge(disk, file, R | W).done
    assert create.status == STATUS_SHARING_VIOLATION
    level_1 = overlapped(disk, r"\d:s", disposition=2, share=0)
    request(disk, level_1, LEVEL_1)
    assert disk.begin_create(r"\d:s").status == STATUS_SHARING_VIOLATION


def test_closing_the_handle_ends_the_oplock(disk: Disk) -> None:
    file, other = overlapped(disk), overlapped(disk)
    old, new = request(disk, file, LEVEL_2), request(disk, other, R)
    disk.close(file)
    disk.close(other)
    assert (old.status, old.information) == (OK, TO_NONE)
    assert new.status == STATUS_OPLOCK_HANDLE_CLOSED


def test_an_open_need_not_wait(disk: Disk) -> None:
    file = overlapped(disk)
    oplock = request(disk, file, LEVEL_1)
    create = disk.begin_create(r"\a", CreateOptions=FILE_COMPLETE_IF_OPLOCKED, DesiredAccess=FILE_READ_DATA)
    assert create.status == STATUS_OPLOCK_BREAK_IN_PROGRESS
    assert told(oplock) == TO_2
    notify = disk.control(create.file, FSCTL_OPLOCK_BREAK_NOTIFY)
    assert not notify.done
    acknowledge(disk, file, FSCTL_OPLOCK_BREAK_ACK_NO_2)
    assert notify.status == OK
    assert disk.control(create.file, FSCTL_OPLOCK_BREAK_NOTIFY).status == OK


def test_an_answer_that_nobody_asked_for(disk: Disk) -> None:
    file = overlapped(disk)
    for answer in (FSCTL_OPLOCK_BREAK_ACKNOWLEDGE, FSCTL_OPLOCK_BREAK_ACK_NO_2, 0):
        assert acknowledge(disk, file, answer).status == STATUS_INVALID_OPLOCK_PROTOCOL
    request(disk, file, R | W)
    disk.begin_create(r"\a", DesiredAccess=FILE_READ_DATA)
    assert acknowledge(disk, file, R | W).status == STATUS_INVALID_OPLOCK_PROTOCOL
    assert not acknowledge(disk, file, R).done


@pytest.mark.rule("FLT-OPL-06")
def test_who_waits_for_a_break_can_be_cancelled(disk: Disk) -> None:
    file = overlapped(disk)
    request(disk, file, LEVEL_1)
    create = disk.begin_create(r"\a", DesiredAccess=DELETE)
    disk.cancel(create)
    assert create.status == STATUS_CANCELLED
    assert acknowledge(disk, file, FSCTL_OPLOCK_BREAK_ACK_NO_2).status == OK


def test_an_oplock_that_is_cancelled_is_gone(disk: Disk) -> None:
    file = overlapped(disk)
    oplock = request(disk, file, LEVEL_1)
    disk.cancel(oplock)
    assert oplock.status == STATUS_CANCELLED
    assert disk.create(r"\a")[0] == OK


def test_a_second_request_takes_the_place_of_the_first(disk: Disk) -> None:
    file = overlapped(disk)
    first = request(disk, file, R)
    second = request(disk, file, R | H)
    assert (first.done, second.done) == (True, False)
