"""The in-memory file system: what each request does, and when it is completed."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.io.constants import (
    FILE_CREATE,
    FILE_OPEN,
    FILE_OPEN_IF,
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
    FILE_SUPERSEDE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_READ,
)
from kemu.io.request import FAST_IO_OPERATION
from kemu.scenario.world import File
from kemu.wdk.ntstatus import (
    STATUS_CANCELLED,
    STATUS_END_OF_FILE,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)


@pytest.mark.parametrize(
    ("path", "disposition", "status", "content"),
    [
        (r"\a", FILE_OPEN, STATUS_SUCCESS, b"0123456789"),
        (r"\a", FILE_OPEN_IF, STATUS_SUCCESS, b"0123456789"),
        (r"\a", FILE_CREATE, STATUS_OBJECT_NAME_COLLISION, None),
        (r"\a", FILE_OVERWRITE, STATUS_SUCCESS, b""),
        (r"\a", FILE_OVERWRITE_IF, STATUS_SUCCESS, b""),
        (r"\a", FILE_SUPERSEDE, STATUS_SUCCESS, b""),
        (r"\A", FILE_OPEN, STATUS_SUCCESS, b"0123456789"),
        (r"\new", FILE_OPEN, STATUS_OBJECT_NAME_NOT_FOUND, None),
        (r"\new", FILE_OVERWRITE, STATUS_OBJECT_NAME_NOT_FOUND, None),
        (r"\new", FILE_OPEN_IF, STATUS_SUCCESS, b""),
        (r"\new", FILE_CREATE, STATUS_SUCCESS, b""),
        (r"\new", FILE_OVERWRITE_IF, STATUS_SUCCESS, b""),
        (r"\new", FILE_SUPERSEDE, STATUS_SUCCESS, b""),
    ],
)
def test_a_create_disposition_opens_creates_or_refuses(
    path: str, disposition: int, status: int, content: bytes | None
) -> None:
    async def script(lab: Lab) -> tuple[int, bytes | None]:
        opened, file = await lab.app.create(path, disposition)
        return opened, None if file is None else (await file.read(100))[1]

    assert run(script).result == (status, content)


@pytest.mark.parametrize(
    ("length", "offset", "status", "data"),
    [
        (4, 0, STATUS_SUCCESS, b"0123"),
        (4, 8, STATUS_SUCCESS, b"89"),
        (0, 3, STATUS_SUCCESS, b""),
        (1, 10, STATUS_END_OF_FILE, b""),
        (1, 99, STATUS_END_OF_FILE, b""),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_reading(length: int, offset: int, status: int, data: bytes, fast: bool) -> None:
    async def script(lab: Lab) -> tuple[int, bytes]:
        return await (await lab.open()).read(length, offset, fast=fast)

    assert run(script).result == (status, data)


@pytest.mark.parametrize(
    ("data", "offset", "content"),
    [
        (b"ab", 0, b"ab23456789"),
        (b"ab", 9, b"012345678ab"),
        (b"ab", 12, b"0123456789\0\0ab"),
        (b"", 0, b"0123456789"),
    ],
)
def test_writing(data: bytes, offset: int, content: bytes) -> None:
    async def script(lab: Lab) -> list[object]:
        file = await lab.open()
        written = await file.write(data, offset)
        return [written, (await file.read(100))[1], await file.size()]

    assert run(script).result == [(STATUS_SUCCESS, len(data)), content, (STATUS_SUCCESS, len(content))]


def test_two_opens_of_one_file_see_each_others_writes() -> None:
    async def script(lab: Lab) -> bytes:
        one, other = await lab.open(), await lab.open(r"\A")
        await one.write(b"new")
        return (await other.read(3))[1]

    assert run(script).result == b"new"


def test_a_file_counts_its_opens() -> None:
    async def script(lab: Lab) -> list[int]:
        node = lab.volume.filesystem.find(r"\A")
        assert node is not None
        counts = [len(node.all_opened())]
        one, other = await lab.open(), await lab.open()
        counts.append(len(node.all_opened()))
        for file in (one, other):
            assert await file.close() == STATUS_SUCCESS
            counts.append(len(node.all_opened()))
        return counts

    assert run(script).result == [0, 2, 1, 0]


def test_what_it_does_not_know_it_refuses() -> None:
    async def script(lab: Lab) -> int:
        request = lab.request(await lab.open(), IRP_MJ_DEVICE_CONTROL)
        return (await lab.send(request)).status

    assert run(script).result == STATUS_INVALID_DEVICE_REQUEST


async def where_completed(lab: Lab, **kind: Any) -> tuple[str, int]:
    """The thread and level in which a read's post-operation callback runs."""
    await lab.recorder("D", "1", IRP_MJ_READ)
    file = await lab.quiet_open()
    await lab.send(lab.request(file, IRP_MJ_READ, Length=1, **kind))
    note = next(note for note in lab.notes if note.what == "D.post")
    return note.thread.partition(":")[0], note.irql


@pytest.mark.rule("FLT-RACE-08", "FLT-IRQL-08")
def test_an_irp_is_completed_inline_or_later_at_passive_or_dispatch_level() -> None:
    async def script(lab: Lab) -> tuple[str, int]:
        return await where_completed(lab)

    runs = all_runs(script, completion="explore")
    assert {one.result for one in runs} == {("script", 0), ("io", 0), ("dpc", 2)}
    assert run(script, completion="inline").result == ("script", 0)
    assert run(script, completion="later").result == ("io", 0)


def test_fast_io_is_completed_inline_always() -> None:
    async def script(lab: Lab) -> tuple[str, int]:
        return await where_completed(lab, kind=FAST_IO_OPERATION)

    for completion in ("explore", "later"):
        assert {one.result for one in all_runs(script, completion=completion)} == {("script", 0)}


def test_a_request_that_is_cancelled_before_it_takes_effect_has_none() -> None:
    async def script(lab: Lab) -> tuple[int, bytes]:
        file = await lab.quiet_open(overlapped=True)
        write = await file.begin_write(b"ab")
        await write.cancel()
        status = await write.wait()
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        return status, bytes(node.data[:2])

    assert {one.result for one in all_runs(script, completion="later")} == {
        (STATUS_SUCCESS, b"ab"),
        (STATUS_CANCELLED, b"01"),
    }


def test_a_later_completion_does_not_wait_for_a_filter_that_is_not_there() -> None:
    async def script(lab: Lab) -> bytes:
        file: File = await lab.open()
        return (await file.read(2))[1]

    assert {one.result for one in all_runs(script, bound=1, completion="explore")} == {b"01"}


def test_two_writers_leave_one_of_their_results() -> None:
    async def script(lab: Lab) -> bytes:
        file = await lab.quiet_open()

        async def write(data: bytes) -> None:
            await file.write(data)

        await lab.together(write(b"aa"), write(b"bb"))
        return (await file.read(2))[1]

    assert {one.result for one in all_runs(script, bound=1)} == {b"aa", b"bb"}
