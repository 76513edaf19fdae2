"""The disk that drivers stand above: what it carries out, and when."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run
from io_kit import CODE

from kemu.wdk.ntstatus import (
    STATUS_CANCELLED,
    STATUS_END_OF_FILE,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import IoCreateSymbolicLink


async def disk(lab: Lab, *, overlapped: bool = False) -> Any:
    """An open disk of ten bytes."""
    made = lab.disk(r"\Device\Disk0", b"0123456789")
    _ = await IoCreateSymbolicLink(r"\DosDevices\Disk", made.device.label)
    return await lab.app.open(r"\\.\Disk", overlapped=overlapped)


@pytest.mark.parametrize("completion", ["inline", "later", "explore"])
def test_what_is_written_is_read_back(completion: str) -> None:
    async def script(lab: Lab) -> Any:
        file = await disk(lab)
        results = [await file.read(3, 4), await file.write(b"xyz", 8), await file.read(9, 6), await file.read(1, 20)]
        results += [await file.write(b"!", 12), await file.read(4, 10), await file.control(CODE, b"", 4)]
        return [*results, await file.close()]

    expected = [
        (STATUS_SUCCESS, b"456"),
        (STATUS_SUCCESS, 3),
        (STATUS_SUCCESS, b"67xyz"),
        (STATUS_END_OF_FILE, b""),
        (STATUS_SUCCESS, 1),
        (STATUS_SUCCESS, b"z\0!"),
        (STATUS_INVALID_DEVICE_REQUEST, b""),
        STATUS_SUCCESS,
    ]
    one = run(script, completion=completion)
    assert (one.code, one.result) == (None, expected)


def test_a_request_that_was_cancelled_before_is_not_carried_out() -> None:
    async def script(lab: Lab) -> Any:
        file = await disk(lab, overlapped=True)
        read = await file.begin_read(4)
        await read.cancel()
        return await read.wait()

    runs = all_runs(script, bound=1, completion="later")
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS, STATUS_CANCELLED}
